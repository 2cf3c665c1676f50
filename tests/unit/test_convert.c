/* SPDX-License-Identifier: Apache-2.0 */
/* Values to messages and back, through bytes on the wire, and what is refused. */
#include <check.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "proto/arena.h"
#include "proto/convert.h"
#include "tests/unit/tests_run.h"

static struct arena arena;

static void setup(void)
{
    arena_init(&arena, 4096, 1 << 20);
}

static void teardown(void)
{
    arena_fini(&arena);
}

/* Packs and unpacks, so that what the wire would lose is lost here too. */
static struct hl_value round_trip(const struct hl_value *in)
{
    static uint8_t wire[256];
    Hl__V1__Value message;
    ProtobufCMessage *back;
    struct hl_value out;
    size_t len;

    ck_assert_int_eq(convert_to_proto(&message, in), 0);
    len = protobuf_c_message_get_packed_size(&message.base);
    ck_assert_uint_le(len, sizeof(wire));
    protobuf_c_message_pack(&message.base, wire);
    ck_assert_int_eq(arena_unpack(&arena, &hl__v1__value__descriptor, wire, len, &back), 0);
    ck_assert_int_eq(convert_from_proto(&out, (Hl__V1__Value *)back, NULL), 0);
    ck_assert_int_eq(out.type, in->type);
    return out;
}

START_TEST(scalars)
{
    struct hl_value v;

    v = round_trip(&(struct hl_value){.type = HL_TYPE_I32, .i32 = INT32_MIN});
    ck_assert_int_eq(v.i32, INT32_MIN);
    v = round_trip(&(struct hl_value){.type = HL_TYPE_U32, .u32 = UINT32_MAX});
    ck_assert_uint_eq(v.u32, UINT32_MAX);
    v = round_trip(&(struct hl_value){.type = HL_TYPE_I64, .i64 = INT64_MIN});
    ck_assert_int_eq(v.i64, INT64_MIN);
    v = round_trip(&(struct hl_value){.type = HL_TYPE_U64, .u64 = UINT64_MAX});
    ck_assert_uint_eq(v.u64, UINT64_MAX);
    v = round_trip(&(struct hl_value){.type = HL_TYPE_F32, .f32 = -0.5f});
    ck_assert_float_eq(v.f32, -0.5f);
    v = round_trip(&(struct hl_value){.type = HL_TYPE_F64, .f64 = INFINITY});
    ck_assert_double_infinite(v.f64);
    v = round_trip(&(struct hl_value){.type = HL_TYPE_BOOL, .b = true});
    ck_assert(v.b);
    v = round_trip(&(struct hl_value){.type = HL_TYPE_BOOL, .b = false});
    ck_assert(!v.b);
}
END_TEST

START_TEST(zero_is_sent)
{
    struct hl_value v = round_trip(&(struct hl_value){.type = HL_TYPE_I32, .i32 = 0});

    ck_assert_int_eq(v.i32, 0);
}
END_TEST

START_TEST(strings_keep_nul_bytes)
{
    const char text[] = "a\0b\xc3\xa4";
    struct hl_value in = {.type = HL_TYPE_STRING, .bytes = {text, 5}};
    struct hl_value v = round_trip(&in);

    ck_assert_uint_eq(v.bytes.len, 5);
    ck_assert_mem_eq(v.bytes.data, text, 5);
    in.bytes.len = 0;
    v = round_trip(&in);
    ck_assert_uint_eq(v.bytes.len, 0);
}
END_TEST

START_TEST(bytes_may_be_anything)
{
    const uint8_t data[] = {0xff, 0x00, 0xc0, 0x80};
    struct hl_value in = {.type = HL_TYPE_BYTES, .bytes = {data, sizeof(data)}};
    struct hl_value v = round_trip(&in);

    ck_assert_uint_eq(v.bytes.len, sizeof(data));
    ck_assert_mem_eq(v.bytes.data, data, sizeof(data));
    round_trip(&(struct hl_value){.type = HL_TYPE_BYTES});
}
END_TEST

START_TEST(bad_utf8_is_refused_both_ways)
{
    struct hl_value in = {.type = HL_TYPE_STRING, .bytes = {"\xc0\x80", 2}};
    struct hl_error err = HL_ERROR_INIT;
    Hl__V1__Value message = HL__V1__VALUE__INIT;
    struct hl_value out;

    ck_assert_int_eq(convert_to_proto(&message, &in), -EILSEQ);
    message.kind_case = HL__V1__VALUE__KIND_TEXT;
    message.text = (ProtobufCBinaryData){2, (uint8_t *)"\xc0\x80"};
    ck_assert_int_eq(convert_from_proto(&out, &message, &err), -EILSEQ);
    ck_assert_str_eq(err.text, "string is not valid UTF-8");
}
END_TEST

START_TEST(void_and_unknown)
{
    struct hl_value in = {.type = HL_TYPE_VOID};
    Hl__V1__Value message;
    struct hl_value out;

    ck_assert_int_eq(convert_to_proto(&message, &in), 0);
    ck_assert_int_eq(message.kind_case, HL__V1__VALUE__KIND__NOT_SET);
    ck_assert_int_eq(convert_from_proto(&out, &message, NULL), -EINVAL);
    in.type = (enum hl_type)99;
    ck_assert_int_eq(convert_to_proto(&message, &in), -EINVAL);
}
END_TEST

START_TEST(arena_bounds_what_a_message_takes)
{
    enum { VALUES = 100000 };
    uint8_t *wire = malloc(2 * VALUES);
    ProtobufCMessage *message;

    /* InvokeRequest with empty args: two bytes each on the wire. */
    ck_assert_ptr_nonnull(wire);
    for (size_t i = 0; i < VALUES; i++) {
        wire[2 * i] = 3 << 3 | 2;
        wire[2 * i + 1] = 0;
    }
    ck_assert_int_eq(
        arena_unpack(&arena, &hl__v1__invoke_request__descriptor, wire, 2 * VALUES, &message),
        -EBADMSG);
    ck_assert_uint_le(arena.total, arena.max);
    arena_reset(&arena);
    ck_assert_int_eq(
        arena_unpack(&arena, &hl__v1__invoke_request__descriptor, wire, 2 * 100, &message), 0);
    ck_assert_uint_eq(((Hl__V1__InvokeRequest *)message)->n_args, 100);
    free(wire);
}
END_TEST

START_TEST(arena_is_reused)
{
    void *first = arena_alloc(&arena, 10);
    void *large = arena_alloc(&arena, 100000);

    ck_assert_ptr_nonnull(large);
    ck_assert_uint_eq((uintptr_t)large % 16, 0);
    ck_assert_ptr_null(arena_alloc(&arena, SIZE_MAX));
    ck_assert_ptr_null(arena_alloc(&arena, 1 << 20));
    arena_reset(&arena);
    first = arena_alloc(&arena, 10);
    arena_reset(&arena);
    ck_assert_ptr_eq(arena_alloc(&arena, 10), first);
}
END_TEST

/* What one message took is kept for the next, until many small ones have come. */
START_TEST(arena_fits_its_messages)
{
    arena_alloc(&arena, 100000);
    ck_assert_ptr_nonnull(arena.overflow);
    arena_reset(&arena);
    for (int i = 0; i < 3; i++) {
        arena_alloc(&arena, 100000);
        ck_assert_ptr_null(arena.overflow);
        arena_reset(&arena);
    }
    for (int i = 0; i < 100; i++) {
        arena_alloc(&arena, 100);
        arena_reset(&arena);
    }
    ck_assert_uint_eq(arena.size, 4096);
    arena_fini(&arena);
    arena_init(&arena, 4096, 8u << 20);
    arena_alloc(&arena, ARENA_KEPT_MAX + 1); /* too large to be kept */
    arena_reset(&arena);
    ck_assert_uint_eq(arena.size, 4096);
}
END_TEST

int main(void)
{
    TCase *tc = tcase_create("convert");

    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, scalars);
    tcase_add_test(tc, zero_is_sent);
    tcase_add_test(tc, strings_keep_nul_bytes);
    tcase_add_test(tc, bytes_may_be_anything);
    tcase_add_test(tc, bad_utf8_is_refused_both_ways);
    tcase_add_test(tc, void_and_unknown);
    tcase_add_test(tc, arena_bounds_what_a_message_takes);
    tcase_add_test(tc, arena_is_reused);
    tcase_add_test(tc, arena_fits_its_messages);
    return tests_run(tc, "convert");
}
