/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The few fields of ttrpc's envelope, written and read by hand: the generated code would want the
 * message packed into memory of its own first, and would allocate for every metadata entry that a
 * peer cares to send. The encoding is protobuf's: a tag (number << 3 | wire type), then a varint,
 * or a length and that many bytes. https://protobuf.dev/programming-guides/encoding/
 */
#include "proto/envelope.h"

#include <errno.h>
#include <string.h>

#include "base/value.h"
#include "proto/frame.h"

enum wire_type {
    WIRE_VARINT = 0,
    WIRE_I64 = 1,
    WIRE_LEN = 2,
    WIRE_I32 = 5,
};

enum {
    REQUEST_SERVICE = 1,
    REQUEST_METHOD = 2,
    REQUEST_PAYLOAD = 3,
    REQUEST_TIMEOUT = 4,
    RESPONSE_STATUS = 1,
    RESPONSE_PAYLOAD = 2,
    STATUS_CODE = 1,
    STATUS_MESSAGE = 2,
    STATUS_DETAILS = 3,
    ANY_TYPE_URL = 1,
    ANY_VALUE = 2,
};

#define VARINT_MAX 10u

bool envelope_view_equal(struct envelope_view view, const char *text)
{
    return view.len == strlen(text) && (view.len == 0 || memcmp(view.data, text, view.len) == 0);
}

/* ---- encoding ---- */

static size_t varint_size(uint64_t value)
{
    size_t n = 1;

    for (; value >= 0x80; value >>= 7)
        n++;
    return n;
}

static uint8_t *put_varint(uint8_t *p, uint64_t value)
{
    for (; value >= 0x80; value >>= 7)
        *p++ = (uint8_t)(value | 0x80);
    *p++ = (uint8_t)value;
    return p;
}

/* All field numbers here are below 16, so a tag is one byte. */
static uint8_t *put_length(uint8_t *p, unsigned int field, size_t len)
{
    *p++ = (uint8_t)(field << 3 | WIRE_LEN);
    return put_varint(p, len);
}

static size_t bytes_size(size_t len)
{
    return 1 + varint_size(len) + len;
}

static uint8_t *put_bytes(uint8_t *p, unsigned int field, const void *data, size_t len)
{
    p = put_length(p, field, len);
    memcpy(p, data, len);
    return p + len;
}

static uint8_t *put_message(uint8_t *p, unsigned int field, const ProtobufCMessage *message,
                            size_t len)
{
    p = put_length(p, field, len);
    return p + protobuf_c_message_pack(message, p);
}

/* Room for a frame of len bytes of payload, its header written. */
static int begin_frame(struct buffer *buf, uint32_t stream, enum frame_type type, uint8_t flags,
                       size_t len, uint8_t **out)
{
    struct frame_header header = {
        .length = (uint32_t)len,
        .stream = stream,
        .type = (uint8_t)type,
        .flags = flags,
    };
    uint8_t *p;

    if (len > FRAME_PAYLOAD_MAX)
        return -EMSGSIZE;
    p = buffer_reserve(buf, FRAME_HEADER_SIZE + len);
    if (!p)
        return -ENOMEM;
    frame_encode_header(p, &header);
    *out = p + FRAME_HEADER_SIZE;
    return 0;
}

static int encode_request(struct buffer *buf, uint32_t stream, uint8_t flags, const char *service,
                          const char *method, int64_t timeout_nano, const ProtobufCMessage *payload)
{
    size_t service_len = strlen(service);
    size_t method_len = strlen(method);
    size_t payload_len = protobuf_c_message_get_packed_size(payload);
    size_t len = bytes_size(service_len) + bytes_size(method_len) + bytes_size(payload_len);
    uint8_t *p;
    int r;

    if (timeout_nano > 0)
        len += 1 + varint_size((uint64_t)timeout_nano);
    r = begin_frame(buf, stream, FRAME_REQUEST, flags, len, &p);
    if (r < 0)
        return r;
    p = put_bytes(p, REQUEST_SERVICE, service, service_len);
    p = put_bytes(p, REQUEST_METHOD, method, method_len);
    p = put_message(p, REQUEST_PAYLOAD, payload, payload_len);
    if (timeout_nano > 0) {
        *p++ = REQUEST_TIMEOUT << 3 | WIRE_VARINT;
        put_varint(p, (uint64_t)timeout_nano);
    }
    buffer_commit(buf, FRAME_HEADER_SIZE + len);
    return 0;
}

int envelope_encode_request(struct buffer *buf, uint32_t stream, const char *service,
                            const char *method, int64_t timeout_nano,
                            const ProtobufCMessage *payload)
{
    return encode_request(buf, stream, 0, service, method, timeout_nano, payload);
}

int envelope_encode_open(struct buffer *buf, uint32_t stream, const char *service,
                         const char *method, int64_t timeout_nano, const ProtobufCMessage *payload)
{
    return encode_request(buf, stream, FRAME_REMOTE_OPEN, service, method, timeout_nano, payload);
}

int envelope_encode_data(struct buffer *buf, uint32_t stream, uint8_t flags,
                         const ProtobufCMessage *message)
{
    size_t len = protobuf_c_message_get_packed_size(message);
    uint8_t *p;
    int r = begin_frame(buf, stream, FRAME_DATA, flags, len, &p);

    if (r < 0)
        return r;
    protobuf_c_message_pack(message, p);
    buffer_commit(buf, FRAME_HEADER_SIZE + len);
    return 0;
}

int envelope_encode_data_packed(struct buffer *buf, uint32_t stream, uint8_t flags,
                                const void *packed, size_t len)
{
    uint8_t *p;
    int r = begin_frame(buf, stream, FRAME_DATA, flags, len, &p);

    if (r < 0)
        return r;
    if (len > 0)
        memcpy(p, packed, len);
    buffer_commit(buf, FRAME_HEADER_SIZE + len);
    return 0;
}

int envelope_encode_response(struct buffer *buf, uint32_t stream, const ProtobufCMessage *payload)
{
    size_t payload_len = protobuf_c_message_get_packed_size(payload);
    size_t len = bytes_size(payload_len);
    uint8_t *p;
    int r;

    r = begin_frame(buf, stream, FRAME_RESPONSE, 0, len, &p);
    if (r < 0)
        return r;
    put_message(p, RESPONSE_PAYLOAD, payload, payload_len);
    buffer_commit(buf, FRAME_HEADER_SIZE + len);
    return 0;
}

static size_t detail_size(const struct envelope_detail *detail)
{
    return bytes_size(strlen(detail->type_url)) +
           bytes_size(protobuf_c_message_get_packed_size(detail->message));
}

static uint8_t *put_detail(uint8_t *p, const struct envelope_detail *detail)
{
    p = put_length(p, STATUS_DETAILS, detail_size(detail));
    p = put_bytes(p, ANY_TYPE_URL, detail->type_url, strlen(detail->type_url));
    return put_message(p, ANY_VALUE, detail->message,
                       protobuf_c_message_get_packed_size(detail->message));
}

static void keep_ascii(uint8_t *text, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if (text[i] >= 0x80)
            text[i] = '?';
    }
}

int envelope_encode_status(struct buffer *buf, uint32_t stream, enum hl_status status,
                           const char *message, const struct envelope_detail *details,
                           size_t ndetails)
{
    size_t message_len = strlen(message);
    size_t status_len = 1 + varint_size(status) + bytes_size(message_len);
    uint8_t *p;
    int r;

    for (size_t i = 0; i < ndetails; i++)
        status_len += bytes_size(detail_size(&details[i]));
    r = begin_frame(buf, stream, FRAME_RESPONSE, 0, bytes_size(status_len), &p);
    if (r < 0)
        return r;
    p = put_length(p, RESPONSE_STATUS, status_len);
    *p++ = STATUS_CODE << 3 | WIRE_VARINT;
    p = put_varint(p, status);
    p = put_bytes(p, STATUS_MESSAGE, message, message_len);
    if (!hl_utf8_valid(message, message_len))
        keep_ascii(p - message_len, message_len);
    for (size_t i = 0; i < ndetails; i++)
        p = put_detail(p, &details[i]);
    buffer_commit(buf, FRAME_HEADER_SIZE + bytes_size(status_len));
    return 0;
}

/* ---- decoding ---- */

struct cursor {
    const uint8_t *p, *end;
};

struct field {
    uint32_t number;
    enum wire_type type;
    uint64_t value;            /* WIRE_VARINT */
    struct envelope_view view; /* WIRE_LEN */
};

static int get_varint(struct cursor *c, uint64_t *out)
{
    uint64_t value = 0;

    for (unsigned int i = 0; i < VARINT_MAX; i++) {
        uint8_t byte;

        if (c->p == c->end)
            return -EBADMSG;
        byte = *c->p++;
        /* The tenth byte has room for the 64th bit alone. */
        if (i == VARINT_MAX - 1 && byte > 1)
            return -EBADMSG;
        value |= (uint64_t)(byte & 0x7f) << (7 * i);
        if (!(byte & 0x80)) {
            *out = value;
            return 0;
        }
    }
    return -EBADMSG;
}

static int take(struct cursor *c, uint64_t len, struct envelope_view *out)
{
    if (len > (size_t)(c->end - c->p))
        return -EBADMSG;
    *out = (struct envelope_view){c->p, (size_t)len};
    c->p += len;
    return 0;
}

/* Returns: 1 with a field, 0 at the end, -EBADMSG. Groups, which proto3 does not have, are
 * refused. */
static int next_field(struct cursor *c, struct field *field)
{
    uint64_t tag, len;
    int r;

    if (c->p == c->end)
        return 0;
    r = get_varint(c, &tag);
    if (r < 0 || tag >> 3 == 0 || tag > UINT32_MAX)
        return -EBADMSG;
    *field = (struct field){.number = (uint32_t)(tag >> 3), .type = (enum wire_type)(tag & 7)};
    switch (field->type) {
    case WIRE_VARINT:
        r = get_varint(c, &field->value);
        break;
    case WIRE_LEN:
        r = get_varint(c, &len);
        if (r == 0)
            r = take(c, len, &field->view);
        break;
    case WIRE_I64:
        r = take(c, 8, &field->view);
        break;
    case WIRE_I32:
        r = take(c, 4, &field->view);
        break;
    default:
        r = -EBADMSG;
    }
    return r < 0 ? r : 1;
}

static bool is(const struct field *field, unsigned int number, enum wire_type type)
{
    return field->number == number && field->type == type;
}

int envelope_decode_request(struct envelope_request *out, const uint8_t *payload, size_t len)
{
    struct cursor c = {payload, payload + len};
    struct field field;
    int r;

    *out = (struct envelope_request){0};
    while ((r = next_field(&c, &field)) > 0) {
        if (is(&field, REQUEST_SERVICE, WIRE_LEN))
            out->service = field.view;
        else if (is(&field, REQUEST_METHOD, WIRE_LEN))
            out->method = field.view;
        else if (is(&field, REQUEST_PAYLOAD, WIRE_LEN))
            out->payload = field.view;
        else if (is(&field, REQUEST_TIMEOUT, WIRE_VARINT))
            out->timeout_nano = (int64_t)field.value;
    }
    if (r == 0 && out->timeout_nano < 0)
        r = -EBADMSG;
    return r;
}

static int decode_status(struct envelope_response *out)
{
    struct cursor c = {out->status.data, out->status.data + out->status.len};
    struct field field;
    int r;

    while ((r = next_field(&c, &field)) > 0) {
        if (is(&field, STATUS_CODE, WIRE_VARINT))
            out->code = (int32_t)field.value;
        else if (is(&field, STATUS_MESSAGE, WIRE_LEN))
            out->message = field.view;
    }
    return r;
}

int envelope_decode_response(struct envelope_response *out, const uint8_t *payload, size_t len)
{
    struct cursor c = {payload, payload + len};
    struct field field;
    int r;

    *out = (struct envelope_response){0};
    while ((r = next_field(&c, &field)) > 0) {
        if (is(&field, RESPONSE_STATUS, WIRE_LEN))
            out->status = field.view;
        else if (is(&field, RESPONSE_PAYLOAD, WIRE_LEN))
            out->payload = field.view;
    }
    if (r == 0 && out->status.data)
        r = decode_status(out);
    return r;
}

bool envelope_next_detail(const struct envelope_response *response, size_t *cursor,
                          struct envelope_any *out)
{
    const struct envelope_view *status = &response->status;
    struct cursor c, any;
    struct field field;

    *out = (struct envelope_any){0};
    if (!status->data)
        return false;
    c = (struct cursor){status->data + *cursor, status->data + status->len};
    while (next_field(&c, &field) > 0) {
        if (!is(&field, STATUS_DETAILS, WIRE_LEN))
            continue;
        *cursor = (size_t)(c.p - status->data);
        any = (struct cursor){field.view.data, field.view.data + field.view.len};
        while (next_field(&any, &field) > 0) {
            if (is(&field, ANY_TYPE_URL, WIRE_LEN))
                out->type_url = field.view;
            else if (is(&field, ANY_VALUE, WIRE_LEN))
                out->value = field.view;
        }
        return true;
    }
    *cursor = status->len;
    return false;
}
