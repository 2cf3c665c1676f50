/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_PROTO_FRAME_H
#define HL_PROTO_FRAME_H

/*
 * ttrpc's frame: ten bytes of header, big-endian, then the payload. Pure functions on buffers, no
 * I/O. Layout and rules from containerd/ttrpc's PROTOCOL.md, version 1.2.
 */

#include <stddef.h>
#include <stdint.h>

#define FRAME_HEADER_SIZE 10u
#define FRAME_PAYLOAD_MAX (4u << 20)

enum frame_type {
    FRAME_REQUEST = 1,
    FRAME_RESPONSE = 2,
    FRAME_DATA = 3,
};

enum frame_flag {
    FRAME_REMOTE_CLOSED = 1, /* the sender has said its last on the stream */
    FRAME_REMOTE_OPEN = 2,   /* of a request: the sender will send data on the stream */
    FRAME_NO_DATA = 4,       /* of data: there is no message in it, not even an empty one */
};

struct frame_header {
    uint32_t length; /* of the payload */
    uint32_t stream;
    uint8_t type;
    uint8_t flags;
};

void frame_encode_header(uint8_t out[FRAME_HEADER_SIZE], const struct frame_header *header);

/* Reads a header. Returns: 1 when header is filled and the whole payload is in buf too; 0 when more
 * bytes are needed (header is filled as soon as ten bytes are there); -EMSGSIZE for a payload
 * over FRAME_PAYLOAD_MAX; -EPROTO for an unknown type or a zero stream id. */
int frame_decode(const uint8_t *buf, size_t len, struct frame_header *header);

#endif
