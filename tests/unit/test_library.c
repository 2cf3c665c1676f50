/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The guest library: its function table as the loader reads it from programs compiled and linked in
 * several ways, and what its calls do at their limits.
 */
#include "config.h"

#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "guest/hl_abi.h"
#include "tests/unit/program.h"

static const char *const programs[] = {
    "tests/guests/library",       "tests/guests/library_lto",
    "tests/guests/library_plain", "tests/guests/library_sections",
#ifdef HAVE_MUSL_GCC
    "tests/guests/library_musl",
#endif
};

#define PROGRAMS (int)(sizeof(programs) / sizeof(programs[0]))
#define LONGEST  "a_name_of_sixty_three_bytes_is_the_longest_that_fits_in_any_one"

#define SIXTEEN                                                                                    \
    ("sixteen(i32, i32, i32, i32, i32, i32, i32, i32, i32, i32, i32, i32, i32, i32, i32, bytes)"   \
     " -> string")

static const char *const signatures[] = {
    "state() -> string",
    "room(bytes) -> u64",
    "all_of_the_room() -> bytes",
    "more_than_the_room() -> bytes",
    "in_two_parts() -> bytes",
    "of_malloc(u32) -> bytes",
    "alphabet(u32) -> bytes",
    "of_literal() -> string",
    "of_variable() -> string",
    "part_of_argument(bytes, u32, u32) -> bytes",
    "null_result() -> bytes",
    "copied(string) -> string",
    "fail_in_depth() -> void",
    "fail_quoting(bytes) -> i32",
    "fail_at_length(u32) -> i32",
    "is_utf8(bytes) -> bool",
    "div(i32) -> i32",
    "abs(u32) -> u32",
    "exit(i64) -> i64",
    "u64(u64) -> u64",
    "f32(f32) -> f32",
    "f64(f64) -> f64",
    "truth(bool) -> bool",
    "string(string) -> string",
    "bytes(bytes) -> bytes",
    "int() -> void",
    (LONGEST "() -> void"),
    SIXTEEN,
};

#define SIGNATURES (sizeof(signatures) / sizeof(signatures[0]))

START_TEST(table_is_whole)
{
    struct program p;

    program_load(&p, programs[_i]);
    ck_assert_uint_eq(image_function_count(p.img), SIGNATURES);
    for (size_t i = 0; i < SIGNATURES; i++) {
        const char *name_end = strchr(signatures[i], '(');
        char text[256];
        int index = image_find_function(p.img, signatures[i], (size_t)(name_end - signatures[i]));
        const struct image_function *fn;

        ck_assert_msg(index >= 0, "no %s", signatures[i]);
        fn = image_function(p.img, (size_t)index);
        hl_signature_format(text, sizeof(text), fn->name, &fn->sig);
        ck_assert_str_eq(text, signatures[i]);
    }
    program_free(&p);
}
END_TEST

START_TEST(every_type_passes)
{
    struct program p;
    struct outcome o;

    program_load(&p, programs[_i]);
    expect_i64(CALL(&p, "div", I32(INT32_MIN)), INT32_MIN);
    expect_i64(CALL(&p, "abs", U32(UINT32_MAX)), UINT32_MAX);
    expect_i64(CALL(&p, "exit", I64(INT64_MIN)), INT64_MIN);
    expect_i64(CALL(&p, "u64", U64(UINT64_MAX)), -1);
    o = CALL(&p, "f32", F32(-0.1f));
    ck_assert_float_eq(o.result.value.f32, -0.1f);
    o = CALL(&p, "f64", F64(-1e-300));
    ck_assert_double_eq(o.result.value.f64, -1e-300);
    expect_i64(CALL(&p, "truth", BOOL(true)), 1);
    expect_i64(CALL(&p, "truth", BOOL(false)), 0);
    expect_string(CALL(&p, "string", STR("\xe2\x82\xac")), "\xe2\x82\xac");
    expect_string(CALL(&p, "string", STR("")), "");
    expect_bytes(CALL(&p, "bytes", BYTES("\0\1", 2)), "\0\1", 2);
    expect_void(CALL0(&p, "int"));
    expect_void(CALL0(&p, LONGEST));
    expect_string(CALL(&p, "sixteen", I32(1), I32(-2), I32(3), I32(4), I32(5), I32(6), I32(7),
                       I32(8), I32(9), I32(10), I32(11), I32(12), I32(13), I32(14), I32(15),
                       BYTES("abc", 3)),
                  "1 -2 3 4 5 6 7 8 9 10 11 12 13 14 15 3");
    program_free(&p);
}
END_TEST

START_TEST(start_up_runs_once)
{
    struct program p;

    program_load(&p, programs[_i]);
    ck_assert_str_eq(p.log, "2 one line\n2 and half a\n");
    for (int i = 0; i < 3; i++) {
        expect_string(CALL0(&p, "state"), "1 1");
        ck_assert_str_eq(p.log, "");
    }
    program_free(&p);
}
END_TEST

START_TEST(results_from_everywhere)
{
    struct program p;
    uint8_t *block = malloc(1u << 20);

    ck_assert_ptr_nonnull(block);
    memset(block, 'm', 1u << 20);
    program_load(&p, programs[_i]);
    for (int i = 0; i < 2; i++) {
        expect_bytes(CALL0(&p, "in_two_parts"), "abc\0\0\0\0\0\0\0\0\0\0\0\0\0def", 19);
        expect_bytes(CALL(&p, "of_malloc", U32(100000)), block, 100000);
        expect_bytes(CALL(&p, "alphabet", U32(6)), "abc...", 6);
        expect_string(CALL0(&p, "of_literal"), "from a literal");
        expect_string(CALL0(&p, "of_variable"), "From a variable");
        expect_bytes(CALL(&p, "part_of_argument", BYTES("abcdef", 6), U32(2), U32(3)), "cde", 3);
        expect_bytes(CALL0(&p, "null_result"), "", 0);
        expect_string(CALL(&p, "copied", STR("once more")), "once more");
    }
    expect_error(CALL(&p, "of_malloc", U32(1u << 20)), -1, "1048576 bytes");
    expect_error(CALL(&p, "alphabet", U32(1u << 20)), -1, "1048576 bytes");
    program_free(&p);
    free(block);
}
END_TEST

START_TEST(room_is_what_there_is)
{
    const size_t most = HL_ABI_IO_SIZE - HL_ABI_RESULT_ROOM - sizeof(struct hl_abi_call) -
                        sizeof(struct hl_abi_value);
    uint8_t *filler = calloc(1, most), *full = malloc(HL_ABI_IO_SIZE);
    struct program p;
    struct outcome o;

    ck_assert(filler && full);
    memset(full, 0xab, HL_ABI_IO_SIZE);
    program_load(&p, programs[_i]);
    expect_i64(CALL(&p, "room", BYTES("", 0)), HL_ABI_IO_SIZE - 128); /* call, entropy, result */
    for (size_t less = 0; less < 40; less++) {
        o = CALL(&p, "room", BYTES(filler, most - less));
        ck_assert_int_eq(o.state, INSTANCE_DONE);
        ck_assert_uint_le(o.result.value.u64, 64 + 40);
    }
    expect_bytes(CALL0(&p, "all_of_the_room"), full, HL_ABI_IO_SIZE - 112);
    expect_error(CALL0(&p, "more_than_the_room"), -1, "room for 1048464");
    program_free(&p);
    free(filler);
    free(full);
}
END_TEST

START_TEST(errors_from_anywhere)
{
    char longest[HL_ABI_LOG_MAX + 1];
    struct program p;

    memset(longest, ' ', HL_ABI_LOG_MAX);
    longest[HL_ABI_LOG_MAX] = '\0';
    program_load(&p, programs[_i]);
    expect_error(CALL0(&p, "fail_in_depth"), 77, "from the depth");
    expect_error(CALL(&p, "fail_quoting", BYTES("a\xff\xe2\x82z", 5)), -99, "a???z");
    expect_error(CALL(&p, "fail_quoting", BYTES("\xc3\xa4", 2)), -99, "\xc3\xa4");
    expect_error(CALL(&p, "fail_at_length", U32(20000)), 1, longest);
    program_free(&p);
}
END_TEST

/* The guest's idea of UTF-8 is the host's. */
START_TEST(utf8_is_the_same)
{
    static const char *const texts[] = {
        "",
        "a",
        "\x80",
        "\xc1\xbf",
        "\xc2\x80",
        "\xc2",
        "\xdf\xbf",
        "\xe0\x9f\xbf",
        "\xe0\xa0\x80",
        "\xed\x9f\xbf",
        "\xed\xa0\x80",
        "\xee\x80\x80",
        "\xef\xbf\xbf",
        "\xf0\x8f\xbf\xbf",
        "\xf0\x90\x80\x80",
        "\xf4\x8f\xbf\xbf",
        "\xf4\x90\x80\x80",
        "\xf5\x80\x80\x80",
        "\xe2\x82",
        "\xf0\x90\x80",
        "x\xe2\x82\xacx",
    };
    struct program p;

    program_load(&p, programs[_i]);
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
        expect_i64(CALL(&p, "is_utf8", BYTES(texts[i], strlen(texts[i]))),
                   hl_utf8_valid(texts[i], strlen(texts[i])));
    program_free(&p);
}
END_TEST

static void add_case(Suite *suite, const char *backend, void (*open)(void))
{
    TCase *tc = tcase_create(backend);

    tcase_set_timeout(tc, 120);
    tcase_add_checked_fixture(tc, open, programs_close);
    tcase_add_loop_test(tc, table_is_whole, 0, PROGRAMS);
    tcase_add_loop_test(tc, every_type_passes, 0, PROGRAMS);
    tcase_add_loop_test(tc, start_up_runs_once, 0, PROGRAMS);
    tcase_add_loop_test(tc, results_from_everywhere, 0, PROGRAMS);
    tcase_add_loop_test(tc, room_is_what_there_is, 0, PROGRAMS);
    tcase_add_loop_test(tc, errors_from_anywhere, 0, PROGRAMS);
    tcase_add_loop_test(tc, utf8_is_the_same, 0, 1);
    suite_add_tcase(suite, tc);
}

int main(int argc, char **argv)
{
    return programs_main(argc, argv, "library", add_case);
}
