/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A bump allocator: messages of the usual size come out of one block that stays; what does not fit
 * there is malloc'ed, chained, and freed at the reset. The block follows the usual size: a message
 * that did not fit makes it larger for the next one, many small ones in a row make it small again.
 * free() of a single piece does nothing.
 */
#include "proto/arena.h"

#include <errno.h>
#include <stdalign.h>
#include <stdlib.h>

#define SMALL_MANY 64u

struct piece {
    struct piece *next;
    alignas(max_align_t) uint8_t data[];
};

static void *alloc_cb(void *data, size_t size)
{
    return arena_alloc(data, size);
}

static void free_cb(void *data, void *pointer)
{
    (void)data;
    (void)pointer;
}

void arena_init(struct arena *arena, size_t first, size_t max)
{
    *arena = (struct arena){
        .allocator = {.alloc = alloc_cb, .free = free_cb, .allocator_data = arena},
        .size = first,
        .first = first,
        .max = max,
    };
}

void arena_fini(struct arena *arena)
{
    arena_reset(arena);
    free(arena->block);
    arena->block = NULL;
}

void *arena_alloc(struct arena *arena, size_t size)
{
    const size_t align = alignof(max_align_t);
    struct piece *piece;
    size_t total;

    if (__builtin_add_overflow(size, align - 1, &size))
        return NULL;
    size &= ~(align - 1);
    if (__builtin_add_overflow(arena->total, size, &total) || total > arena->max)
        return NULL;
    if (!arena->block)
        arena->block = malloc(arena->size);
    if (arena->block && size <= arena->size - arena->used) {
        void *p = arena->block + arena->used;

        arena->used += size;
        arena->total = total;
        return p;
    }
    piece = malloc(sizeof(*piece) + size);
    if (!piece)
        return NULL;
    piece->next = arena->overflow;
    arena->overflow = piece;
    arena->total = total;
    return piece->data;
}

static void new_block(struct arena *arena, size_t size)
{
    free(arena->block);
    arena->block = NULL;
    arena->size = size;
    arena->small = 0;
}

/* total: what the last message took. */
static void fit_block(struct arena *arena, size_t total)
{
    size_t size = arena->size;

    if (total > arena->first)
        arena->small = 0;
    else if (size > arena->first && ++arena->small >= SMALL_MANY)
        new_block(arena, arena->first);
    if (total <= size || total > ARENA_KEPT_MAX)
        return;
    while (size < total)
        size *= 2;
    new_block(arena, size);
}

void arena_reset(struct arena *arena)
{
    struct piece *piece = arena->overflow;

    while (piece) {
        struct piece *next = piece->next;

        free(piece);
        piece = next;
    }
    arena->overflow = NULL;
    fit_block(arena, arena->total);
    arena->used = 0;
    arena->total = 0;
}

int arena_unpack(struct arena *arena, const ProtobufCMessageDescriptor *type, const void *data,
                 size_t len, ProtobufCMessage **out)
{
    *out = protobuf_c_message_unpack(type, &arena->allocator, len, data);
    return *out ? 0 : -EBADMSG;
}
