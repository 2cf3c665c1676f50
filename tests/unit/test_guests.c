/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The example guests on real machines with real input, in each kind of link; and what becomes of
 * programs whose start-up is broken or hostile. Every reset is audited.
 */
#include "config.h"

#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "guest/hl_abi.h"
#include "tests/unit/program.h"

static const char *const echo_programs[] = {
    "guest/examples/echo",
    "tests/guests/echo_pie",
#ifdef HAVE_MUSL_GCC
    "tests/guests/echo_musl",
#endif
};

#define ECHO_PROGRAMS (sizeof(echo_programs) / sizeof(echo_programs[0]))

static uint8_t *noise(size_t len)
{
    uint8_t *data = malloc(len + 1);
    uint32_t x = 12345;

    ck_assert_ptr_nonnull(data);
    for (size_t i = 0; i < len; i++) {
        x = x * 1664525 + 1013904223;
        data[i] = (uint8_t)(x >> 24);
    }
    return data;
}

START_TEST(echo_gives_back_what_it_got)
{
    static const size_t sizes[] = {0, 1, 7, 8, 64, 4095, 4096, 4097, 65536};
    size_t most = HL_ABI_IO_SIZE - HL_ABI_RESULT_ROOM - sizeof(struct hl_abi_call) -
                  sizeof(struct hl_abi_value);
    uint8_t *data = noise(most + 1);
    struct program p;
    struct outcome o;

    program_load(&p, echo_programs[_i]);
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
        expect_bytes(CALL(&p, "echo", BYTES(data, sizes[i])), data, sizes[i]);
    expect_bytes(CALL(&p, "echo", BYTES(data, most)), data, most);
    o = CALL(&p, "echo", BYTES(data, most + 1));
    ck_assert_int_eq(o.refused, -EMSGSIZE);
    expect_string(CALL(&p, "hello", STR("w\xc3\xb6rld")), "hello, w\xc3\xb6rld");
    ck_assert_uint_eq(p.reset == 0 ? p.made : 1, 1);
    program_free(&p);
    free(data);
}
END_TEST

/* The largest window there is, filled, and what small calls find in it afterwards. */
START_TEST(echo_fills_the_largest_window)
{
    size_t most = HL_ABI_IO_SIZE_MAX - HL_ABI_RESULT_ROOM - sizeof(struct hl_abi_call) -
                  sizeof(struct hl_abi_value);
    uint8_t *data = noise(most + 1);
    struct program p;
    struct outcome o;

    program_load_sized(&p, "tests/guests/echo_pie", 2 * (uint64_t)HL_ABI_IO_SIZE_MAX,
                       HL_ABI_IO_SIZE_MAX);
    for (int i = 0; i < 2; i++) {
        expect_bytes(CALL(&p, "echo", BYTES(data, most)), data, most);
        expect_bytes(CALL(&p, "echo", BYTES("small", 5)), "small", 5);
        expect_bytes(CALL(&p, "echo", BYTES(data, 5u << 20)), data, 5u << 20);
    }
    o = CALL(&p, "echo", BYTES(data, most + 1));
    ck_assert_int_eq(o.refused, -EMSGSIZE);
    ck_assert_uint_eq(p.reset == 0 ? p.made : 1, 1);
    program_free(&p);
    free(data);
}
END_TEST

START_TEST(echo_needs_one_exit_a_call)
{
    struct program p;
    struct outcome o;

    program_load(&p, echo_programs[_i]);
    for (int i = 0; i < 3; i++) {
        o = CALL(&p, "echo", BYTES("x", 1));
        ck_assert_uint_eq(o.counters.exits, 1);
        ck_assert_uint_eq(o.counters.syscalls, 0);
        expect_bytes(o, "x", 1);
    }
    program_free(&p);
}
END_TEST

START_TEST(adder_knows_every_type)
{
    struct program p;
    struct outcome o;

    program_load(&p, "guest/examples/adder");
    expect_i64(CALL(&p, "add_i32", I32(-5), I32(3)), -2);
    expect_i64(CALL(&p, "add_i32", I32(INT32_MIN), I32(0)), INT32_MIN);
    expect_error(CALL(&p, "add_i32", I32(INT32_MAX), I32(1)), 1, "2147483647 + 1");
    expect_i64(CALL(&p, "add_u32", U32(UINT32_MAX), U32(0)), UINT32_MAX);
    expect_error(CALL(&p, "add_u32", U32(UINT32_MAX), U32(1)), 1, "does not fit a u32");
    expect_i64(CALL(&p, "add_i64", I64(INT64_MIN), I64(5)), INT64_MIN + 5);
    expect_error(CALL(&p, "add_i64", I64(INT64_MIN), I64(-1)), 1, "does not fit an i64");
    expect_i64(CALL(&p, "add_u64", U64(UINT64_MAX - 1), U64(1)), -1);
    expect_error(CALL(&p, "add_u64", U64(UINT64_MAX), U64(1)), 1, "does not fit a u64");
    o = CALL(&p, "add_f32", F32(1.5f), F32(2.25f));
    ck_assert_int_eq(o.result.value.type, HL_TYPE_F32);
    ck_assert_float_eq(o.result.value.f32, 3.75f);
    o = CALL(&p, "add_f64", F64(1e300), F64(1e284));
    ck_assert_double_eq(o.result.value.f64, 1e300 + 1e284);
    expect_i64(CALL(&p, "both", BOOL(true), BOOL(true)), 1);
    expect_i64(CALL(&p, "both", BOOL(true), BOOL(false)), 0);
    expect_string(CALL(&p, "join", STR("ab"), STR("cde")), "abcde");
    expect_string(CALL(&p, "join", STR(""), STR("")), "");
    expect_bytes(CALL(&p, "xor", BYTES("\x0f\xff", 2), BYTES("\xf0\xff", 2)), "\xff\0", 2);
    expect_error(CALL(&p, "xor", BYTES("abc", 3), BYTES("ab", 2)), 2, "3 bytes against 2");
    expect_i64(CALL(&p, "divide", I32(-7), I32(2)), -3);
    expect_error(CALL(&p, "divide", I32(1), I32(0)), 3, "division by zero");
    expect_void(CALL0(&p, "nothing"));
    expect_void(CALL(&p, "log_line", I32(HL_ABI_LOG_WARNING), STR("look out")));
    ck_assert_str_eq(p.log, "1 look out\n");
    o = CALL(&p, "sum16", I32(-1), U32(2), I64(-3), U64(4), F32(0.5f), F64(0.25), BOOL(true),
             STR("four"), BYTES("123456", 6), I32(10), U32(20), I64(30), U64(40), F32(1.5f),
             F64(2.5), BOOL(false));
    ck_assert_double_eq(o.result.value.f64, 117.75);
    program_free(&p);
}
END_TEST

START_TEST(adder_refuses_wrong_arguments)
{
    struct program p;
    struct outcome o;

    program_load(&p, "guest/examples/adder");
    o = CALL(&p, "add_i32", I32(1), U32(2));
    ck_assert_int_eq(o.refused, -EINVAL);
    o = CALL(&p, "add_i32", I32(1));
    ck_assert_int_eq(o.refused, -EINVAL);
    o = CALL(&p, "join", STR("a"), STR("\xff"));
    ck_assert_int_eq(o.refused, -EINVAL);
    expect_i64(CALL(&p, "add_i32", I32(1), I32(2)), 3);
    program_free(&p);
}
END_TEST

/* What the command prints; len is set. */
static uint8_t *output_of(const char *command, size_t *len)
{
    FILE *f = popen(command, "r");
    uint8_t *data = malloc(1u << 20);

    ck_assert(f && data);
    *len = fread(data, 1, 1u << 20, f);
    ck_assert_int_eq(pclose(f), 0);
    return data;
}

START_TEST(gunzip_unpacks_a_real_file)
{
    size_t len, plain_len;
    uint8_t *plain = output_of("cat " SOURCE_DIR "/LICENSE", &plain_len);
    uint8_t *file = output_of("gzip -9c " SOURCE_DIR "/LICENSE", &len);
    uint8_t *twice = malloc(2 * len);
    struct outcome o;
    struct program p;

    ck_assert_ptr_nonnull(twice);
    program_load(&p, "guest/examples/gunzip");
    for (int i = 0; i < 3; i++)
        expect_bytes(CALL(&p, "gunzip", BYTES(file, len)), plain, plain_len);
    memcpy(twice, file, len);
    memcpy(twice + len, file, len);
    o = CALL(&p, "gunzip", BYTES(twice, 2 * len));
    ck_assert_uint_eq(o.result.value.bytes.len, 2 * plain_len);
    outcome_free(&o);
    expect_error(CALL(&p, "gunzip", BYTES(file, len / 2)), 1, "ends early");
    expect_error(CALL(&p, "gunzip", BYTES(plain, plain_len)), 1, "incorrect header check");
    file[len / 2] ^= 0x55;
    expect_error(CALL(&p, "gunzip", BYTES(file, len)), 1, "not a whole .gz file");
    file[len / 2] ^= 0x55;
    expect_bytes(CALL(&p, "gunzip", BYTES(file, len)), plain, plain_len);
    program_free(&p);
    free(plain);
    free(file);
    free(twice);
}
END_TEST

START_TEST(gunzip_refuses_what_does_not_fit)
{
    size_t len;
    uint8_t *file = output_of("head -c 5000000 /dev/zero | gzip -c", &len);
    struct program p;

    program_load(&p, "guest/examples/gunzip");
    expect_error(CALL(&p, "gunzip", BYTES(file, len)), 2, "more than 10");
    program_free(&p);
    free(file);
}
END_TEST

START_TEST(lua_evaluates)
{
    struct program p;

    program_load(&p, "guest/examples/lua");
    expect_string(CALL(&p, "eval",
                       STR("local t = {} for i = 1, 10 do t[i] = i * i end "
                           "return table.concat(t, ','), 1 / 2, nil")),
                  "1,4,9,16,25,36,49,64,81,100\t0.5\tnil");
    expect_error(CALL(&p, "eval", STR("error('boom')")), 2, "boom");
    expect_error(CALL(&p, "eval", STR("x =")), 3, "unexpected symbol");
    expect_error(CALL(&p, "eval", STR("return '\\xff'")), 2, "UTF-8");
    expect_string(CALL(&p, "eval", STR("return os, io, require, load, debug")),
                  "nil\tnil\tnil\tnil\tnil");
    expect_error(CALL(&p, "eval", STR("local s = 'x' while true do s = s .. s end")), 4,
                 "not enough memory");
    expect_error(CALL(&p, "eval",
                      STR("local t = setmetatable({}, {__index = function(t, k) "
                          "return t[k] end}) return t.x")),
                 2, "stack overflow");
    expect_string(CALL(&p, "eval", STR("print('seen', 1) return 'x'")), "x");
    ck_assert_str_eq(p.log, "2 seen\t1\n");
    program_free(&p);
}
END_TEST

START_TEST(lua_forgets)
{
    struct program p;

    program_load(&p, "guest/examples/lua");
    for (int i = 0; i < 5; i++) {
        expect_string(CALL(&p, "eval",
                           STR("local old = kept kept = 'mine' "
                               "string.upper = nil return old")),
                      "nil");
        expect_string(CALL(&p, "eval", STR("return kept, string.upper('a')")), "nil\tA");
    }
    program_free(&p);
}
END_TEST

START_TEST(lua_is_stopped)
{
    struct program p;
    struct outcome o;

    program_load(&p, "guest/examples/lua");
    o = CALL_MS(&p, "eval", 10, STR("while true do end"));
    ck_assert_int_eq(o.state, INSTANCE_KICKED);
    expect_string(CALL(&p, "eval", STR("return 1")), "1");
    program_free(&p);
}
END_TEST

START_TEST(sqlite_answers_and_forgets)
{
    struct program p;

    program_load(&p, "guest/examples/sqlite");
    for (int i = 0; i < 3; i++) {
        expect_string(CALL(&p, "query",
                           STR("select count(*) n, sum(quantity * cents) s, avg(cents)"
                               " a, x'00ff' b, null z, 'q\"' t from orders")),
                      "[{\"n\":5000,\"s\":13747500,\"a\":499.5,\"b\":\"00ff\",\"z\":null,"
                      "\"t\":\"q\\\"\"}]");
        expect_string(CALL(&p, "query",
                           STR("delete from orders where id > 2; "
                               "select id, cents from orders")),
                      "[{\"id\":1,\"cents\":37},{\"id\":2,\"cents\":74}]");
    }
    expect_string(CALL(&p, "query",
                       STR("select id from orders where customer = 'customer-7' "
                           "order by id limit 2")),
                  "[{\"id\":7},{\"id\":104}]");
    expect_string(CALL(&p, "query", STR("")), "[]");
    expect_error(CALL(&p, "query", STR("selec")), 1, "syntax error");
    expect_error(CALL(&p, "query", STR("select * from missing")), 1, "no such table");
    expect_error(CALL(&p, "query", STR("attach '/etc/passwd' as x")), 14, "unable to open");
    expect_error(CALL(&p, "query", STR("select * from orders a, orders b")), -1, "do not fit");
    program_free(&p);
}
END_TEST

START_TEST(bare_needs_no_library)
{
    struct program p;

    program_load(&p, "tests/guests/bare");
    expect_i64(CALL(&p, "checksum", BYTES("\x01\x02\xff", 3)), 258);
    expect_error(CALL(&p, "checksum", BYTES("", 0)), 22, "no bytes");
    expect_i64(CALL(&p, "add", I64(-1), I64(INT64_MIN + 1)), INT64_MIN);
    program_free(&p);
}
END_TEST

#ifdef HAVE_LIBPNG
START_TEST(png_of_a_foreign_library)
{
    size_t len;
    uint8_t *file = output_of("cat " SOURCE_DIR "/tests/data/gradient.png", &len);
    struct program p;

    program_load(&p, "tests/guests/png");
    for (int i = 0; i < 2; i++)
        expect_string(CALL(&p, "describe", BYTES(file, len)), "97x61 778e5247");
    file[len / 2] ^= 1;
    expect_error(CALL(&p, "describe", BYTES(file, len)), 1, "");
    program_free(&p);
    free(file);
}
END_TEST
#endif

static const struct {
    const char *file;
    int code;
    const char *text;
} broken[] = {
    {"tests/guests/plain", -ENOEXEC, "function"},
    {"tests/guests/returns", -EPROTO, "status 0"},
    {"tests/guests/start_abort", -EPROTO, "SIGABRT"},
    {"tests/guests/start_code", -ECANCELED, "said last: no database"},
    {"tests/guests/start_done", -EPROTO, "before READY"},
    {"tests/guests/start_exit", -EPROTO, "status 3"},
    {"tests/guests/start_fail", -ECANCELED, "no such luck: 7"},
    {"tests/guests/start_fault", -EFAULT, "start_fault"},
    {"tests/guests/start_hog", -ECANCELED, "out of memory"},
    {"tests/guests/start_hypercall", -EPROTO, "hypercall 4660"},
    {"tests/guests/start_loop", -ETIMEDOUT, ""},
    {"tests/guests/start_wild_abort", -ECANCELED, ""},
    {"guest/examples/echo", -EINVAL, "memory"},
};

START_TEST(broken_start_is_refused)
{
    struct hl_error err = HL_ERROR_INIT;
    uint64_t memory = broken[_i].code == -EINVAL ? 5u << 20 : 32u << 20;
    unsigned int ms = broken[_i].code == -ETIMEDOUT ? 50 : 10000;
    struct program p;
    int rc = program_try(&p, broken[_i].file, memory, ms, &err);

    ck_assert_msg(rc == broken[_i].code && strstr(err.text, broken[_i].text), "%s: %d (%s)",
                  broken[_i].file, rc, err.text);
    program_free(&p);
}
END_TEST

START_TEST(flood_at_start_is_bounded)
{
    struct hl_error err = HL_ERROR_INIT;
    struct program p;
    int rc = program_try(&p, "tests/guests/start_flood", 32u << 20, 60000, &err);

    ck_assert_msg(rc == 0, "%s", err.text);
    ck_assert_ptr_nonnull(strstr(p.log, "2 line 0\n"));
    expect_i64(CALL0(&p, "one"), 1);
    program_free(&p);
}
END_TEST

static void add_case(Suite *suite, const char *backend, void (*open)(void))
{
    TCase *tc = tcase_create(backend);

    tcase_set_timeout(tc, 120);
    tcase_add_checked_fixture(tc, open, programs_close);
    tcase_add_loop_test(tc, echo_gives_back_what_it_got, 0, (int)ECHO_PROGRAMS);
    tcase_add_loop_test(tc, echo_needs_one_exit_a_call, 0, (int)ECHO_PROGRAMS);
    tcase_add_test(tc, echo_fills_the_largest_window);
    tcase_add_test(tc, adder_knows_every_type);
    tcase_add_test(tc, adder_refuses_wrong_arguments);
    tcase_add_test(tc, gunzip_unpacks_a_real_file);
    tcase_add_test(tc, gunzip_refuses_what_does_not_fit);
    tcase_add_test(tc, lua_evaluates);
    tcase_add_test(tc, lua_forgets);
    tcase_add_test(tc, lua_is_stopped);
    tcase_add_test(tc, sqlite_answers_and_forgets);
    tcase_add_test(tc, bare_needs_no_library);
#ifdef HAVE_LIBPNG
    tcase_add_test(tc, png_of_a_foreign_library);
#endif
    tcase_add_loop_test(tc, broken_start_is_refused, 0, sizeof(broken) / sizeof(broken[0]));
    tcase_add_test(tc, flood_at_start_is_bounded);
    suite_add_tcase(suite, tc);
}

int main(int argc, char **argv)
{
    return programs_main(argc, argv, "guests", add_case);
}
