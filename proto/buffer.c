/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bytes are moved to the beginning only when that makes the room asked for, and the memory doubles,
 * so a byte is copied a bounded number of times however traffic is cut into pieces.
 */
#include "proto/buffer.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define BUFFER_MIN 4096u

void buffer_fini(struct buffer *buf)
{
    free(buf->base);
    *buf = (struct buffer){0};
}

uint8_t *buffer_reserve(struct buffer *buf, size_t more)
{
    size_t need, size = buf->size ? buf->size : BUFFER_MIN;
    uint8_t *base;

    if (buf->base && more <= buffer_room(buf))
        return buf->base + buf->start + buf->len;
    if (__builtin_add_overflow(buf->len, more, &need))
        return NULL;
    /* Half of the memory at most may be live when bytes are moved rather than memory added. */
    if (buf->base && need <= buf->size && buf->len <= buf->start) {
        memmove(buf->base, buf->base + buf->start, buf->len);
        buf->start = 0;
        return buf->base + buf->len;
    }
    while (size < need || (buf->base && size == buf->size)) {
        if (__builtin_mul_overflow(size, 2u, &size))
            return NULL;
    }
    base = malloc(size);
    if (!base)
        return NULL;
    if (buf->len > 0)
        memcpy(base, buf->base + buf->start, buf->len);
    free(buf->base);
    buf->base = base;
    buf->start = 0;
    buf->size = size;
    return base + buf->len;
}

void buffer_commit(struct buffer *buf, size_t n)
{
    assert(n <= buffer_room(buf));
    buf->len += n;
}

void buffer_consume(struct buffer *buf, size_t n)
{
    assert(n <= buf->len);
    buf->len -= n;
    buf->start = buf->len > 0 ? buf->start + n : 0;
}

void buffer_trim(struct buffer *buf, size_t keep)
{
    if (buf->len == 0 && buf->size > keep)
        buffer_fini(buf);
}
