/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_PROTO_ARENA_H
#define HL_PROTO_ARENA_H

/*
 * The memory of one decoded message, handed to protobuf-c as its allocator and taken back in one
 * step. It is bounded: two bytes on the wire can decode into fifty in memory, and a peer chooses
 * how many. One thread at a time.
 */

#include <protobuf-c/protobuf-c.h>
#include <stddef.h>
#include <stdint.h>

struct arena {
    ProtobufCAllocator allocator; /* for protobuf_c_message_unpack; points back here */
    uint8_t *block;               /* first block, kept between messages */
    size_t used, size, first;     /* of block; its size at first */
    unsigned int small;           /* messages in a row that the first block would have held */
    void *overflow;               /* further allocations, one by one */
    size_t total, max;            /* bytes given since the last reset, and their bound */
};

/* Allocates nothing until it must. first: size of the block that is kept, at first: it grows to
 * what recent messages took, up to ARENA_KEPT_MAX; max: bound on what one message may take. The
 * arena must not move afterwards. */
#define ARENA_KEPT_MAX (2u << 20)
void arena_init(struct arena *arena, size_t first, size_t max);
void arena_fini(struct arena *arena);

/* size bytes aligned for anything, valid until the reset. Returns: NULL past the bound or without
 * memory. */
void *arena_alloc(struct arena *arena, size_t size);

/* Takes everything back: all messages decoded into it are gone. */
void arena_reset(struct arena *arena);

/* Decodes data into the arena. Returns: 0; -EBADMSG for what is no such message or has one field
 * over and over so that it does not fit the bound. */
int arena_unpack(struct arena *arena, const ProtobufCMessageDescriptor *type, const void *data,
                 size_t len, ProtobufCMessage **out);

#endif
