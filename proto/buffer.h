/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_PROTO_BUFFER_H
#define HL_PROTO_BUFFER_H

/*
 * A growing run of bytes with a read position: what waits to be sent, what was received and is not
 * decoded yet. Appending and consuming in turns costs no copy and no allocation once the buffer has
 * the size its traffic needs. All zeros is an empty buffer.
 */

#include <stddef.h>
#include <stdint.h>

struct buffer {
    uint8_t *base;
    size_t start; /* of the bytes held, from base */
    size_t len;   /* bytes held */
    size_t size;  /* of the memory at base */
};

void buffer_fini(struct buffer *buf);

static inline uint8_t *buffer_data(const struct buffer *buf)
{
    return buf->base + buf->start;
}

/* Makes room for more bytes after those held; what buffer_data returned before is stale.
 * Returns: where they go (buffer_commit then adds them), NULL for no memory: nothing changed. */
uint8_t *buffer_reserve(struct buffer *buf, size_t more);

/* How many bytes fit after those held without another reserve. */
static inline size_t buffer_room(const struct buffer *buf)
{
    return buf->size - buf->start - buf->len;
}

/* n bytes were written where buffer_reserve said; n is at most what was reserved. */
void buffer_commit(struct buffer *buf, size_t n);

/* Drops the first n bytes held. An emptied buffer starts over at its beginning. */
void buffer_consume(struct buffer *buf, size_t n);

/* Gives memory over keep bytes back when the buffer is empty. */
void buffer_trim(struct buffer *buf, size_t keep);

#endif
