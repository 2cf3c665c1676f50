/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_PROTO_ENVELOPE_H
#define HL_PROTO_ENVELOPE_H

/*
 * ttrpc's Request and Response around a message of hl.v1. Encoding appends a whole frame (header,
 * envelope, message) to a buffer, the message packed where it stands; decoding gives views into the
 * frame's payload. Neither allocates anything but the buffer's growth. envelope.proto says what
 * is on the wire; that the two agree is tested.
 */

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "proto/buffer.h"

/* Bytes of somebody else's memory, not NUL-terminated. */
struct envelope_view {
    const uint8_t *data;
    size_t len;
};

struct envelope_request {
    struct envelope_view service;
    struct envelope_view method;
    struct envelope_view payload;
    int64_t timeout_nano; /* 0 when there is none; never negative */
};

struct envelope_response {
    int32_t code; /* of the Status, 0 without one */
    struct envelope_view message;
    struct envelope_view payload;
    struct envelope_view status; /* the Status as it came, for envelope_next_detail */
};

struct envelope_any {
    struct envelope_view type_url;
    struct envelope_view value;
};

/* A detail to send with a status: "type.googleapis.com/…" and its message. */
struct envelope_detail {
    const char *type_url;
    const ProtobufCMessage *message;
};

bool envelope_view_equal(struct envelope_view view, const char *text);

/* All of these return 0; -EMSGSIZE when the frame would exceed FRAME_PAYLOAD_MAX; -ENOMEM. On
 * failure buf is as it was. */

/* timeout_nano: 0 for none. */
int envelope_encode_request(struct buffer *buf, uint32_t stream, const char *service,
                            const char *method, int64_t timeout_nano,
                            const ProtobufCMessage *payload);
int envelope_encode_response(struct buffer *buf, uint32_t stream, const ProtobufCMessage *payload);

/* A message on an open stream, without an envelope. flags: enum frame_flag. */
int envelope_encode_data(struct buffer *buf, uint32_t stream, uint8_t flags,
                         const ProtobufCMessage *message);
int envelope_encode_data_packed(struct buffer *buf, uint32_t stream, uint8_t flags,
                                const void *packed, size_t len);

/* The request that opens a stream on which this side will send data. */
int envelope_encode_open(struct buffer *buf, uint32_t stream, const char *service,
                         const char *method, int64_t timeout_nano, const ProtobufCMessage *payload);

/* message: bytes that are not UTF-8 are sent as '?', because generated clients refuse the whole
 * frame for one. */
int envelope_encode_status(struct buffer *buf, uint32_t stream, enum hl_status status,
                           const char *message, const struct envelope_detail *details,
                           size_t ndetails);

/* payload: that of one frame. Metadata and unknown fields are skipped. Returns: 0; -EBADMSG for
 * malformed bytes, a negative timeout included. A field that comes twice: the last one stands. */
int envelope_decode_request(struct envelope_request *out, const uint8_t *payload, size_t len);
int envelope_decode_response(struct envelope_response *out, const uint8_t *payload, size_t len);

/* The details of a response's status one by one; *cursor is 0 at first.
 * Returns: true with *out filled; false after the last. */
bool envelope_next_detail(const struct envelope_response *response, size_t *cursor,
                          struct envelope_any *out);

#endif
