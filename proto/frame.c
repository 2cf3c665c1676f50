/* SPDX-License-Identifier: Apache-2.0 */
/* The frame header, checked before anything believes its length. */
#include "proto/frame.h"

#include <endian.h>
#include <errno.h>
#include <string.h>

void frame_encode_header(uint8_t out[FRAME_HEADER_SIZE], const struct frame_header *header)
{
    uint32_t length = htobe32(header->length);
    uint32_t stream = htobe32(header->stream);

    memcpy(out, &length, 4);
    memcpy(out + 4, &stream, 4);
    out[8] = header->type;
    out[9] = header->flags;
}

int frame_decode(const uint8_t *buf, size_t len, struct frame_header *header)
{
    uint32_t word;

    if (len < FRAME_HEADER_SIZE)
        return 0;
    memcpy(&word, buf, 4);
    header->length = be32toh(word);
    memcpy(&word, buf + 4, 4);
    header->stream = be32toh(word);
    header->type = buf[8];
    header->flags = buf[9];
    if (header->length > FRAME_PAYLOAD_MAX)
        return -EMSGSIZE;
    if (header->type < FRAME_REQUEST || header->type > FRAME_DATA || header->stream == 0)
        return -EPROTO;
    return len - FRAME_HEADER_SIZE >= header->length;
}
