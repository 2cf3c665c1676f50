/* SPDX-License-Identifier: Apache-2.0 */
/* The frame header: layout, bounds, and how much is asked for when bytes are missing. */
#include <check.h>
#include <errno.h>
#include <string.h>

#include "proto/frame.h"
#include "tests/unit/tests_run.h"

START_TEST(layout_is_big_endian)
{
    const struct frame_header header = {0x010203, 0x0a0b0c0d, FRAME_RESPONSE, 0x80};
    const uint8_t expected[] = {0, 1, 2, 3, 0x0a, 0x0b, 0x0c, 0x0d, 2, 0x80};
    uint8_t out[FRAME_HEADER_SIZE];

    frame_encode_header(out, &header);
    ck_assert_mem_eq(out, expected, sizeof(expected));
}
END_TEST

START_TEST(whole_only_with_the_last_byte)
{
    const struct frame_header header = {5, 3, FRAME_REQUEST, 0};
    struct frame_header got = {0};
    uint8_t buf[FRAME_HEADER_SIZE + 5] = {0};

    frame_encode_header(buf, &header);
    for (size_t len = 0; len < sizeof(buf); len++)
        ck_assert_int_eq(frame_decode(buf, len, &got), 0);
    ck_assert_int_eq(frame_decode(buf, sizeof(buf), &got), 1);
    ck_assert_uint_eq(got.length, 5);
    ck_assert_uint_eq(got.stream, 3);
    ck_assert_uint_eq(got.type, FRAME_REQUEST);
}
END_TEST

START_TEST(empty_payload)
{
    const struct frame_header header = {0, 1, FRAME_DATA, 1};
    struct frame_header got;
    uint8_t buf[FRAME_HEADER_SIZE];

    frame_encode_header(buf, &header);
    ck_assert_int_eq(frame_decode(buf, sizeof(buf), &got), 1);
    ck_assert_uint_eq(got.flags, 1);
}
END_TEST

START_TEST(length_is_bounded_before_the_payload_comes)
{
    struct frame_header header = {FRAME_PAYLOAD_MAX, 1, FRAME_REQUEST, 0};
    struct frame_header got;
    uint8_t buf[FRAME_HEADER_SIZE];

    frame_encode_header(buf, &header);
    ck_assert_int_eq(frame_decode(buf, sizeof(buf), &got), 0);
    header.length++;
    frame_encode_header(buf, &header);
    ck_assert_int_eq(frame_decode(buf, sizeof(buf), &got), -EMSGSIZE);
    header.length = UINT32_MAX;
    frame_encode_header(buf, &header);
    ck_assert_int_eq(frame_decode(buf, sizeof(buf), &got), -EMSGSIZE);
}
END_TEST

START_TEST(type_and_stream_are_checked)
{
    struct frame_header header = {0, 1, 0, 0};
    struct frame_header got;
    uint8_t buf[FRAME_HEADER_SIZE];

    for (unsigned int type = 0; type < 256; type++) {
        header.type = (uint8_t)type;
        frame_encode_header(buf, &header);
        ck_assert_int_eq(frame_decode(buf, sizeof(buf), &got),
                         type >= 1 && type <= 3 ? 1 : -EPROTO);
    }
    header.type = FRAME_REQUEST;
    header.stream = 0;
    frame_encode_header(buf, &header);
    ck_assert_int_eq(frame_decode(buf, sizeof(buf), &got), -EPROTO);
}
END_TEST

int main(void)
{
    TCase *tc = tcase_create("frame");

    tcase_add_test(tc, layout_is_big_endian);
    tcase_add_test(tc, whole_only_with_the_last_byte);
    tcase_add_test(tc, empty_payload);
    tcase_add_test(tc, length_is_bounded_before_the_payload_comes);
    tcase_add_test(tc, type_and_stream_are_checked);
    return tests_run(tc, "frame");
}
