/* SPDX-License-Identifier: Apache-2.0 */
/* The hand-written envelope against the code protoc-c generates from envelope.proto, its refusal
 * of malformed bytes, and the buffer under it. */
#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "proto/envelope.h"
#include "proto/envelope.pb-c.h"
#include "proto/frame.h"
#include "proto/hl.pb-c.h"
#include "proto/service.h"
#include "tests/unit/tests_run.h"

static struct buffer buf;

static void setup(void)
{
    buf = (struct buffer){0};
}

static void teardown(void)
{
    buffer_fini(&buf);
}

static const uint8_t *frame_payload(uint8_t type, uint32_t stream, size_t *len)
{
    struct frame_header header;

    ck_assert_int_eq(frame_decode(buffer_data(&buf), buf.len, &header), 1);
    ck_assert_uint_eq(header.length + FRAME_HEADER_SIZE, buf.len);
    ck_assert_uint_eq(header.type, type);
    ck_assert_uint_eq(header.stream, stream);
    ck_assert_uint_eq(header.flags, 0);
    *len = header.length;
    return buffer_data(&buf) + FRAME_HEADER_SIZE;
}

START_TEST(request_is_what_the_proto_says)
{
    Hl__V1__CancelRequest cancel = HL__V1__CANCEL_REQUEST__INIT;
    struct envelope_request view;
    Hl__Ttrpc__Request *request;
    const uint8_t *payload;
    size_t len;

    cancel.call_id = 300;
    ck_assert_int_eq(
        envelope_encode_request(&buf, 7, SERVICE_FUNCTIONS, "Cancel", 1000000, &cancel.base), 0);
    payload = frame_payload(FRAME_REQUEST, 7, &len);
    request = hl__ttrpc__request__unpack(NULL, len, payload);
    ck_assert_ptr_nonnull(request);
    ck_assert_str_eq(request->service, "hl.v1.Functions");
    ck_assert_str_eq(request->method, "Cancel");
    ck_assert_int_eq(request->timeout_nano, 1000000);
    ck_assert_uint_eq(request->payload.len, 3);
    hl__ttrpc__request__free_unpacked(request, NULL);

    ck_assert_int_eq(envelope_decode_request(&view, payload, len), 0);
    ck_assert(envelope_view_equal(view.service, SERVICE_FUNCTIONS));
    ck_assert(envelope_view_equal(view.method, "Cancel"));
    ck_assert(!envelope_view_equal(view.method, "Cance"));
    ck_assert_int_eq(view.timeout_nano, 1000000);
    ck_assert_mem_eq(view.payload.data, "\x08\xac\x02", 3);
}
END_TEST

START_TEST(request_with_metadata_as_other_clients_send_it)
{
    Hl__Ttrpc__KeyValue pair = HL__TTRPC__KEY_VALUE__INIT;
    Hl__Ttrpc__KeyValue *pairs[] = {&pair, &pair};
    Hl__Ttrpc__Request request = HL__TTRPC__REQUEST__INIT;
    struct envelope_request view;
    uint8_t wire[256];
    size_t len;

    pair.key = "key";
    pair.value = "value";
    request.service = SERVICE_DAEMON;
    request.method = "Ping";
    request.n_metadata = 2;
    request.metadata = pairs;
    len = hl__ttrpc__request__pack(&request, wire);
    ck_assert_int_eq(envelope_decode_request(&view, wire, len), 0);
    ck_assert(envelope_view_equal(view.method, "Ping"));
    ck_assert_uint_eq(view.payload.len, 0);
    ck_assert_int_eq(view.timeout_nano, 0);
    /* No prefix makes it read past its end, whatever it takes it for. */
    for (size_t cut = 0; cut < len; cut++) {
        uint8_t *copy = malloc(cut + 1);

        ck_assert_ptr_nonnull(copy);
        memcpy(copy, wire, cut);
        envelope_decode_request(&view, copy, cut);
        free(copy);
    }
}
END_TEST

START_TEST(streams)
{
    Hl__V1__CancelRequest cancel = HL__V1__CANCEL_REQUEST__INIT;
    struct frame_header header;
    struct envelope_request view;
    struct buffer out = {0};
    const uint8_t *data;

    cancel.call_id = 300;
    ck_assert_int_eq(envelope_encode_open(&out, 7, SERVICE_FUNCTIONS, "Cancel", 5, &cancel.base),
                     0);
    ck_assert_int_eq(frame_decode(buffer_data(&out), out.len, &header), 1);
    ck_assert_int_eq(header.type, FRAME_REQUEST);
    ck_assert_int_eq(header.flags, FRAME_REMOTE_OPEN);
    ck_assert_int_eq(
        envelope_decode_request(&view, buffer_data(&out) + FRAME_HEADER_SIZE, header.length), 0);
    ck_assert_int_eq(view.timeout_nano, 5);
    buffer_consume(&out, out.len);
    /* data has no envelope */
    ck_assert_int_eq(envelope_encode_data(&out, 7, FRAME_REMOTE_CLOSED, &cancel.base), 0);
    ck_assert_int_eq(envelope_encode_data_packed(&out, 9, 0, "\x08\xac\x02", 3), 0);
    ck_assert_uint_eq(out.len, 2 * (FRAME_HEADER_SIZE + 3));
    data = buffer_data(&out);
    ck_assert_int_eq(frame_decode(data, out.len, &header), 1);
    ck_assert_uint_eq(header.stream, 7);
    ck_assert_int_eq(header.type, FRAME_DATA);
    ck_assert_int_eq(header.flags, FRAME_REMOTE_CLOSED);
    ck_assert_mem_eq(data + FRAME_HEADER_SIZE, "\x08\xac\x02", 3);
    ck_assert_mem_eq(data + 2 * FRAME_HEADER_SIZE + 3, "\x08\xac\x02", 3);
    ck_assert_int_eq(envelope_encode_data_packed(&out, 9, 0, "", FRAME_PAYLOAD_MAX + 1), -EMSGSIZE);
    ck_assert_uint_eq(out.len, 2 * (FRAME_HEADER_SIZE + 3));
    buffer_fini(&out);
}
END_TEST

START_TEST(response_without_status)
{
    Hl__V1__CancelResponse answer = HL__V1__CANCEL_RESPONSE__INIT;
    struct envelope_response view;
    Hl__Ttrpc__Response *response;
    const uint8_t *payload;
    struct envelope_any any;
    size_t len, cursor = 0;

    answer.found = 1;
    ck_assert_int_eq(envelope_encode_response(&buf, 9, &answer.base), 0);
    payload = frame_payload(FRAME_RESPONSE, 9, &len);
    response = hl__ttrpc__response__unpack(NULL, len, payload);
    ck_assert_ptr_nonnull(response);
    ck_assert_ptr_null(response->status);
    ck_assert_uint_eq(response->payload.len, 2);
    hl__ttrpc__response__free_unpacked(response, NULL);
    ck_assert_int_eq(envelope_decode_response(&view, payload, len), 0);
    ck_assert_int_eq(view.code, 0);
    ck_assert_uint_eq(view.payload.len, 2);
    ck_assert(!envelope_next_detail(&view, &cursor, &any));
}
END_TEST

START_TEST(status_with_details)
{
    Hl__V1__GuestFault fault = HL__V1__GUEST_FAULT__INIT;
    Hl__V1__Accounting accounting = HL__V1__ACCOUNTING__INIT;
    const struct envelope_detail details[] = {{DETAIL_GUEST_FAULT, &fault.base},
                                              {DETAIL_ACCOUNTING, &accounting.base}};
    struct envelope_response view;
    Hl__Ttrpc__Response *response;
    const uint8_t *payload;
    struct envelope_any any;
    size_t len, cursor = 0;

    fault.vector = 14;
    fault.symbol = "main+0x1c";
    accounting.run_ns = 1234;
    ck_assert_int_eq(envelope_encode_status(&buf, 1, HL_STATUS_ABORTED, "page fault", details, 2),
                     0);
    payload = frame_payload(FRAME_RESPONSE, 1, &len);
    response = hl__ttrpc__response__unpack(NULL, len, payload);
    ck_assert_ptr_nonnull(response);
    ck_assert_int_eq(response->status->code, HL_STATUS_ABORTED);
    ck_assert_str_eq(response->status->message, "page fault");
    ck_assert_uint_eq(response->status->n_details, 2);
    ck_assert_str_eq(response->status->details[0]->type_url, DETAIL_GUEST_FAULT);
    hl__ttrpc__response__free_unpacked(response, NULL);

    ck_assert_int_eq(envelope_decode_response(&view, payload, len), 0);
    ck_assert_int_eq(view.code, HL_STATUS_ABORTED);
    ck_assert(envelope_view_equal(view.message, "page fault"));
    ck_assert(envelope_next_detail(&view, &cursor, &any));
    ck_assert(envelope_view_equal(any.type_url, DETAIL_GUEST_FAULT));
    ck_assert_uint_eq(any.value.len, protobuf_c_message_get_packed_size(&fault.base));
    ck_assert(envelope_next_detail(&view, &cursor, &any));
    ck_assert(envelope_view_equal(any.type_url, DETAIL_ACCOUNTING));
    ck_assert(!envelope_next_detail(&view, &cursor, &any));
    ck_assert(!envelope_next_detail(&view, &cursor, &any));
}
END_TEST

START_TEST(status_message_is_made_utf8)
{
    struct envelope_response view;
    const uint8_t *payload;
    size_t len;

    ck_assert_int_eq(envelope_encode_status(&buf, 1, HL_STATUS_INTERNAL, "a\xff b", NULL, 0), 0);
    payload = frame_payload(FRAME_RESPONSE, 1, &len);
    ck_assert_int_eq(envelope_decode_response(&view, payload, len), 0);
    ck_assert(envelope_view_equal(view.message, "a? b"));
}
END_TEST

START_TEST(too_large_leaves_the_buffer_alone)
{
    Hl__V1__PingRequest ping = HL__V1__PING_REQUEST__INIT;
    uint8_t *data = calloc(1, FRAME_PAYLOAD_MAX);

    ck_assert_ptr_nonnull(data);
    ping.payload = (ProtobufCBinaryData){FRAME_PAYLOAD_MAX, data};
    ck_assert_int_eq(envelope_encode_request(&buf, 1, SERVICE_DAEMON, "Ping", 0, &ping.base),
                     -EMSGSIZE);
    ck_assert_int_eq(envelope_encode_response(&buf, 1, &ping.base), -EMSGSIZE);
    ck_assert_uint_eq(buf.len, 0);
    ping.payload.len = FRAME_PAYLOAD_MAX - 64;
    ck_assert_int_eq(envelope_encode_request(&buf, 1, SERVICE_DAEMON, "Ping", 0, &ping.base), 0);
    free(data);
}
END_TEST

static const struct {
    const char *bytes;
    size_t len;
    int request, response;
} malformed[] = {
    {"\x0a", 1, -EBADMSG, -EBADMSG}, /* no length */
    {"\x0a\x05"
     "ab",
     4, -EBADMSG, -EBADMSG}, /* length past the end */
    {"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 11, -EBADMSG, -EBADMSG}, /* 2^64 - 1 */
    {"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02", 11, -EBADMSG, -EBADMSG}, /* 65 bits */
    {"\x20\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 11, -EBADMSG, 0},        /* negative timeout */
    {"\x02\x00", 2, -EBADMSG, -EBADMSG},                                      /* field number 0 */
    {"\x0b\x0c", 2, -EBADMSG, -EBADMSG},                                      /* group */
    {"\x0f", 1, -EBADMSG, -EBADMSG},                                          /* wire type 7 */
    {"\x31\x01\x02", 3, -EBADMSG, -EBADMSG},                                  /* short fixed64 */
    {"\x35\x01\x02\x03\x04", 5, 0, 0},                                        /* unknown fixed32 */
    {"\x08\x05", 2, 0, 0},                                                    /* other wire type */
    {"\x0a\x02\x08\x80", 4, 0, -EBADMSG}, /* cut within Status */
    {"", 0, 0, 0},
};

START_TEST(malformed_bytes)
{
    const uint8_t *bytes = (const uint8_t *)malformed[_i].bytes;
    struct envelope_response response;
    struct envelope_request request;

    ck_assert_int_eq(envelope_decode_request(&request, bytes, malformed[_i].len),
                     malformed[_i].request);
    ck_assert_int_eq(envelope_decode_response(&response, bytes, malformed[_i].len),
                     malformed[_i].response);
}
END_TEST

START_TEST(malformed_detail_ends_the_list)
{
    /* Status with a detail whose type_url is cut, then a good one of no content. */
    static const uint8_t wire[] = {0x0a, 0x06, 0x1a, 0x02, 0x0a, 0x09, 0x1a, 0x00};
    struct envelope_response view;
    struct envelope_any any;
    size_t cursor = 0;

    ck_assert_int_eq(envelope_decode_response(&view, wire, sizeof(wire)), 0);
    ck_assert(envelope_next_detail(&view, &cursor, &any));
    ck_assert_uint_eq(any.type_url.len, 0);
    ck_assert(envelope_next_detail(&view, &cursor, &any));
    ck_assert(!envelope_next_detail(&view, &cursor, &any));
}
END_TEST

START_TEST(buffer_keeps_order_whatever_the_pieces)
{
    unsigned int written = 0, read = 0, seed = 1;
    uint8_t *p;

    while (read < 200000) {
        size_t n = (seed = seed * 1103515245u + 12345u) >> 16 & 0x1fff;

        p = buffer_reserve(&buf, n);
        ck_assert_ptr_nonnull(p);
        ck_assert_uint_ge(buffer_room(&buf), n);
        for (size_t i = 0; i < n; i++)
            p[i] = (uint8_t)(written++ % 251);
        buffer_commit(&buf, n);
        n = (seed = seed * 1103515245u + 12345u) >> 16 & 0x1fff;
        if (n > buf.len)
            n = buf.len;
        for (size_t i = 0; i < n; i++)
            ck_assert_uint_eq(buffer_data(&buf)[i], read++ % 251);
        buffer_consume(&buf, n);
    }
    buffer_consume(&buf, buf.len);
    ck_assert_uint_eq(buf.start, 0);
    buffer_trim(&buf, buf.size);
    ck_assert_ptr_nonnull(buf.base);
    buffer_trim(&buf, 0);
    ck_assert_ptr_null(buf.base);
    ck_assert_ptr_null(buffer_reserve(&buf, SIZE_MAX));
}
END_TEST

START_TEST(buffer_does_not_grow_under_steady_traffic)
{
    for (int i = 0; i < 100000; i++) {
        ck_assert_ptr_nonnull(buffer_reserve(&buf, 100));
        buffer_commit(&buf, 100);
        if (i % 2)
            buffer_consume(&buf, 150);
        if (i % 4 == 3)
            buffer_consume(&buf, buf.len);
    }
    ck_assert_uint_le(buf.size, 4096);
}
END_TEST

int main(void)
{
    TCase *tc = tcase_create("envelope");

    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, request_is_what_the_proto_says);
    tcase_add_test(tc, request_with_metadata_as_other_clients_send_it);
    tcase_add_test(tc, streams);
    tcase_add_test(tc, response_without_status);
    tcase_add_test(tc, status_with_details);
    tcase_add_test(tc, status_message_is_made_utf8);
    tcase_add_test(tc, too_large_leaves_the_buffer_alone);
    tcase_add_loop_test(tc, malformed_bytes, 0, sizeof(malformed) / sizeof(malformed[0]));
    tcase_add_test(tc, malformed_detail_ends_the_list);
    tcase_add_test(tc, buffer_keeps_order_whatever_the_pieces);
    tcase_add_test(tc, buffer_does_not_grow_under_steady_traffic);
    return tests_run(tc, "envelope");
}
