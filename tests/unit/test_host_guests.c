/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Real guests that call out: typed calls through the library, requests made by hand against it, and
 * what of a call's randomness is its own.
 */
#include "config.h"

#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "guest/hl_abi.h"
#include "hv/timer.h"
#include "tests/unit/program.h"

#define REQUEST (HL_ABI_IO_ADDR + 0x2000u)
#define OUT     (HL_ABI_IO_ADDR + 0x8000u)

static const char *const demos[] = {
    "guest/examples/hostdemo",
#ifdef HAVE_MUSL_GCC
    "tests/guests/hostdemo_musl",
#endif
};
static const char *const restores[] = {
    "tests/guests/restore",
#ifdef HAVE_MUSL_GCC
    "tests/guests/restore_musl",
#endif
};

#define COUNT(array) (int)(sizeof(array) / sizeof((array)[0]))

static bool is(const struct instance_host_call *call, const char *name)
{
    return strcmp(call->name, name) == 0;
}

static void give(struct program *p, struct hl_value value)
{
    struct hl_error err = HL_ERROR_INIT;
    int rc = instance_host_return(p->inst, &value, &err);

    if (rc == -EMSGSIZE)
        rc = instance_host_fail(p->inst, HL_STATUS_RESOURCE_EXHAUSTED, 0, err.text,
                                strlen(err.text));
    ck_assert_msg(rc == 0, "%s", err.text);
}

/* "fail" as the only argument fails; "get" gives 77; "sixteen" counts; else the first argument. */
static void provide(struct program *p, const struct instance_host_call *call)
{
    const struct hl_value *arg = call->args;

    if (is(call, "get"))
        give(p, U64(77));
    else if (is(call, "sixteen"))
        give(p, I32((int32_t)call->nargs));
    else if (is(call, "nothing") && call->nargs == 0)
        give(p, (struct hl_value){.type = HL_TYPE_VOID});
    else if (!is(call, "take"))
        give(p, arg[0]);
    else if (arg[0].bytes.len == 4 && memcmp(arg[0].bytes.data, "fail", 4) == 0)
        instance_host_fail(p->inst, HL_STATUS_UNKNOWN, -17, "as it was told", 14);
    else
        instance_host_return(p->inst, NULL, NULL);
}

START_TEST(every_type)
{
    struct program p;

    program_load(&p, "tests/guests/host_early");
    expect_string(CALL0(&p, "start_up"), "7 0 7");
    p.answer = provide;
    for (int i = 0; i < 3; i++)
        expect_i64(CALL0(&p, "every_type"), 0);
    expect_string(CALL0(&p, "other_type"),
                  "3 5 3 not a name, not UTF-8, too many arguments, or an answer of another type");
    expect_string(CALL(&p, "quoting", U32(1)), "as it was told");
    expect_string(CALL(&p, "quoting", U32(3000)), "as it was told");
    expect_string(CALL0(&p, "error_code"), "2 -17 as it was told");
    expect_i64(CALL(&p, "fill", U32(65000)), 16);
    expect_i64(CALL(&p, "fill", U32(40000)), 26);
    program_free(&p);
}
END_TEST

static void count_up(struct program *p, const struct instance_host_call *call)
{
    if (is(call, "count") && call->nargs == 1 && call->args[0].type == HL_TYPE_U32)
        give(p, U32(call->args[0].u32 + 1));
    else if (is(call, "echo"))
        give(p, call->args[0]);
    else
        instance_host_fail(p->inst, HL_STATUS_PERMISSION_DENIED, 0, "no", 2);
}

START_TEST(the_example)
{
    struct program p;
    struct outcome o;

    program_load(&p, demos[_i]);
    p.answer = count_up;
    for (int i = 0; i < 2; i++) {
        expect_i64(CALL(&p, "sum", U32(0)), 0);
        o = CALL(&p, "sum", U32(1000));
        ck_assert_uint_eq(o.counters.host_calls, 1000);
        ck_assert_uint_eq(o.counters.exits, 1001);
        expect_i64(o, 500500);
        expect_bytes(CALL(&p, "ask", STR("echo"), BYTES("a\0b", 3)), "a\0b", 3);
        expect_error(CALL(&p, "ask", STR("other"), BYTES("", 0)), 7, "no");
        expect_error(CALL(&p, "ask", STR("count"), BYTES("", 0)), 7, "no");
        o = CALL(&p, "ask", STR("a b"), BYTES("", 0));
        expect_error(o, 3, "not a name");
        ck_assert_uint_eq(o.counters.host_calls, 1);
        expect_i64(CALL(&p, "flood", STR("other"), U32(5000)), 5000);
        expect_string(CALL(&p, "wrong_types", STR("other")), "7 no");
        expect_string(CALL(&p, "not_utf8", STR("echo")),
                      "3 not a name, not UTF-8, too many arguments, or an answer of another type");
        expect_string(CALL(&p, "huge", STR("echo"), U64(1u << 20)),
                      "8 the I/O window has no room for it");
        expect_string(CALL(&p, "huge", STR("echo"), U64(8u << 20)),
                      "8 the I/O window has no room for it");
        expect_string(CALL(&p, "huge", STR("echo"), U64(1000000)), "0 ");
    }
    for (unsigned int ms = 50;; ms *= 2) { /* until it gets as far as a call */
        o = CALL_MS(&p, "forever", ms, STR("other"));
        ck_assert_int_eq(o.state, INSTANCE_KICKED);
        if (o.counters.host_calls > 0)
            break;
        ck_assert_uint_lt(ms, 10000);
    }
    expect_i64(CALL(&p, "sum", U32(3)), 6);
    program_free(&p);
}
END_TEST

/* Each host call of a chain is answered by a call of another instance. */
static void deeper(struct program *p, const struct instance_host_call *call)
{
    struct program next = *p;
    struct outcome o;

    next.inst = NULL;
    ck_assert_str_eq(call->name, "descend");
    o = program_call(&next, "descend", 10000, call->args, call->nargs);
    ck_assert_int_eq(o.state, INSTANCE_DONE);
    give(p, o.result.value);
    instance_free(next.inst);
}

START_TEST(around_a_corner)
{
    struct program p;

    program_load(&p, demos[_i]);
    p.answer = deeper;
    expect_i64(CALL(&p, "descend", U32(0)), 1);
    expect_i64(CALL(&p, "descend", U32(5)), 6);
    program_free(&p);
}
END_TEST

/* Parked for a while, and given up. */
START_TEST(parked)
{
    struct program p;
    struct hl_value arg = U32(2), value = U32(5);
    struct instance_result r;
    uint64_t pages;

    program_load(&p, demos[_i]);
    p.answer = count_up;
    for (int i = 0; i < 2; i++) {
        expect_i64(CALL(&p, "sum", U32(1)), 1);
        if (!p.inst) /* process: used up */
            program_renew(&p);
        ck_assert_int_eq(
            instance_begin(p.inst, (size_t)image_find_function(p.img, "sum", 3), &arg, 1, NULL), 0);
        ck_assert_int_eq(instance_run(p.inst, UINT64_MAX), INSTANCE_HOST_CALL);
        if (i == 0) {
            instance_kick(p.inst);
            ck_assert_int_eq(instance_host_return(p.inst, &value, NULL), 0);
            while (instance_run(p.inst, UINT64_MAX) == INSTANCE_KICKED)
                ;
            ck_assert_int_eq(instance_host_return(p.inst, &value, NULL), 0);
            ck_assert_int_eq(instance_run(p.inst, UINT64_MAX), INSTANCE_DONE);
            ck_assert_int_eq(instance_result(p.inst, &r, NULL), 0);
            ck_assert_uint_eq(r.value.u64, 10);
        } else {
            ck_assert_int_eq(instance_reset(p.inst, true, &pages, NULL), 1);
        }
        instance_free(p.inst);
        p.inst = NULL;
    }
    program_free(&p);
}
END_TEST

/* ---- requests made by hand ---- */

static struct program hostile;

static struct outcome raw(uint64_t addr, uint64_t len, struct hl_abi_host_call header,
                          struct hl_abi_value value)
{
    uint8_t request[sizeof(header) + sizeof(value)];

    memcpy(request, &header, sizeof(header));
    memcpy(request + sizeof(header), &value, sizeof(value));
    return CALL(&hostile, "host_raw", BYTES(request, sizeof(request)), U64(addr), U64(len));
}

static struct hl_abi_host_call header_with(uint32_t nargs, uint64_t out, uint64_t size)
{
    return (struct hl_abi_host_call){
        .magic = HL_ABI_HOST_CALL_MAGIC, .nargs = nargs, .out = out, .size = size, .name = "get"};
}

START_TEST(requests_are_checked)
{
    const struct hl_abi_host_call good = header_with(1, OUT, 256);
    static const struct hl_abi_value bad[] = {
        {HL_ABI_VOID, 0, 0},
        {10, 0, 0},
        {HL_ABI_BOOL, 0, 2},
        {HL_ABI_U32, 4, 0},
        {HL_ABI_BYTES, 1, 104},
        {HL_ABI_BYTES, 2, UINT64_MAX},
        {HL_ABI_STRING, UINT32_MAX, 88},
    };
    static const uint64_t wild[] = {0,        1,          0x1000,     HL_ABI_IO_ADDR - 50,
                                    1u << 30, 1ull << 47, 1ull << 63, UINT64_MAX - 50};

    program_load(&hostile, "tests/guests/hostile");
    hostile.answer = provide;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        expect_end(raw(REQUEST, 104, good, bad[i]), INSTANCE_END_PROTOCOL);
    expect_end(raw(REQUEST, 103, good, bad[0]), INSTANCE_END_PROTOCOL);
    expect_end(raw(REQUEST, 0, good, bad[0]), INSTANCE_END_PROTOCOL);
    for (size_t i = 0; i < sizeof(wild) / sizeof(wild[0]); i++)
        expect_i64(raw(wild[i], 104, good, bad[0]), -EFAULT);
    expect_i64(raw(REQUEST, HL_ABI_IO_SIZE + 1, good, bad[0]), -EMSGSIZE);
    expect_i64(raw(REQUEST, UINT64_MAX, good, bad[0]), -EMSGSIZE);
    expect_i64(raw(REQUEST, 104, good, (struct hl_abi_value){HL_ABI_U32, 0, 7}), 0);
    program_free(&hostile);
}
END_TEST

START_TEST(buffers_are_checked)
{
    const struct hl_abi_value value = {0};
    static const uint64_t wild[] = {
        0, 0x1000, HL_ABI_HYPERCALL_ADDR, HL_ABI_INFO_ADDR, 1ull << 47, UINT64_MAX - 63,
    };

    program_load(&hostile, "tests/guests/hostile");
    hostile.answer = provide;
    for (size_t i = 0; i < sizeof(wild) / sizeof(wild[0]); i++)
        expect_i64(raw(REQUEST, 88, header_with(0, wild[i], 64), value), -EFAULT);
    expect_i64(raw(REQUEST, 88, header_with(0, (64u << 20) - 63, 64), value), -EFAULT);
    expect_i64(raw(REQUEST, 88, header_with(0, OUT, 39), value), -EMSGSIZE);
    expect_i64(raw(REQUEST, 88, header_with(0, OUT, 40), value), 0);
    expect_i64(raw(REQUEST, 88, header_with(0, (64u << 20) - 64, 64), value), 0);
    expect_i64(raw(REQUEST, 88, header_with(0, HL_ABI_IO_ADDR, UINT64_MAX), value), 0);
    program_free(&hostile);
}
END_TEST

/* ---- time and randomness ---- */

static void take(struct outcome o, void *to, size_t len)
{
    ck_assert_int_eq(o.state, INSTANCE_DONE);
    ck_assert_uint_eq(o.result.value.bytes.len, len);
    memcpy(to, o.result.value.bytes.data, len);
    outcome_free(&o);
}

static int64_t number(struct outcome o)
{
    ck_assert_int_eq(o.state, INSTANCE_DONE);
    return o.result.value.i64;
}

START_TEST(what_a_snapshot_duplicates)
{
    static uint8_t large[HL_ABI_IO_SIZE - HL_ABI_RESULT_ROOM - 32];
    uint8_t a[3000], b[3000];
    struct program p;
    struct outcome o;

    program_load(&p, restores[_i]);
    take(CALL0(&p, "from_start_up"), a, 64);
    take(CALL0(&p, "from_start_up"), b, 64);
    ck_assert_int_eq(memcmp(a, b, 64), 0);
    take(CALL(&p, "random", U32(64)), b, 64);
    ck_assert_int_ne(memcmp(a, b, 64), 0);
    ck_assert_int_eq(number(CALL0(&p, "stale_rand")), number(CALL0(&p, "stale_rand")));
    ck_assert_int_ne(number(CALL0(&p, "fresh_rand")), number(CALL0(&p, "fresh_rand")));
    take(CALL(&p, "random", U32(3000)), a, 3000);
    take(CALL(&p, "random", U32(3000)), b, 3000);
    for (size_t i = 0; i + 8 <= sizeof(a); i += 8)
        ck_assert_int_ne(memcmp(a + i, b + i, 8), 0);
    take(CALL(&p, "getrandom", U32(64)), a, 64);
    take(CALL(&p, "getrandom", U32(64)), b, 64);
    ck_assert_int_ne(memcmp(a, b, 64), 0);
    expect_i64(CALL0(&p, "hooks_run"), 1);
    expect_i64(CALL0(&p, "hooks_run"), 1);
    expect_i64(CALL0(&p, "entropy_is_wiped"), true);
    /* No exit but the one that ends the call; one more where the entropy had no room. */
    o = CALL(&p, "random", U32(16));
    ck_assert_uint_eq(o.counters.exits, 1);
    outcome_free(&o);
    o = CALL(&p, "random_beside", BYTES(large, sizeof(large)));
    ck_assert_int_eq(o.state, INSTANCE_DONE);
    ck_assert_uint_eq(o.counters.exits, 2);
    program_free(&p);
}
END_TEST

/* Two snapshots of one seed have drawn the same, and their calls do. (Their memory may differ in
 * what a C library keeps of CPUID, which names the processor it ran on.) */
START_TEST(made_up_worlds)
{
    static const uint8_t seed[HV_SEED_SIZE] = {7}, other[HV_SEED_SIZE] = {8};
    struct program p, q, r;
    uint8_t a[64], b[64], c[64];
    int64_t clock;

    program_load_seeded(&p, restores[_i], seed);
    program_load_seeded(&q, restores[_i], seed);
    program_load_seeded(&r, restores[_i], other);
    for (int i = 0; i < 2; i++) {
        take(CALL0(&p, "from_start_up"), a, 64);
        take(CALL0(&q, "from_start_up"), b, 64);
        take(CALL0(&r, "from_start_up"), c, 64);
        ck_assert(memcmp(a, b, 64) == 0 && memcmp(a, c, 64) != 0);
        take(CALL(&p, "random", U32(64)), a, 64);
        take(CALL(&q, "random", U32(64)), b, 64);
        take(CALL(&r, "random", U32(64)), c, 64);
        ck_assert(memcmp(a, b, 64) == 0 && memcmp(a, c, 64) != 0);
        take(CALL(&p, "getrandom", U32(64)), a, 64);
        take(CALL(&q, "getrandom", U32(64)), b, 64);
        take(CALL(&r, "getrandom", U32(64)), c, 64);
        ck_assert(memcmp(a, b, 64) == 0 && memcmp(a, c, 64) != 0);
        clock = number(CALL0(&p, "clock"));
        ck_assert_int_eq(clock, (WORLD_EPOCH_S + WORLD_CALLS_S) * 1000000000ll + 2000000);
        ck_assert_int_eq(clock, number(CALL0(&r, "clock")));
        ck_assert_int_eq(number(CALL0(&p, "fresh_rand")), number(CALL0(&q, "fresh_rand")));
    }
    program_free(&p);
    program_free(&q);
    program_free(&r);
}
END_TEST

static void add_case(Suite *suite, const char *backend, void (*open)(void))
{
    TCase *tc = tcase_create(backend);

    tcase_set_timeout(tc, 120);
    tcase_add_checked_fixture(tc, open, programs_close);
    tcase_add_test(tc, every_type);
    tcase_add_loop_test(tc, the_example, 0, COUNT(demos));
    tcase_add_loop_test(tc, around_a_corner, 0, COUNT(demos));
    tcase_add_loop_test(tc, parked, 0, COUNT(demos));
    tcase_add_test(tc, requests_are_checked);
    tcase_add_test(tc, buffers_are_checked);
    tcase_add_loop_test(tc, what_a_snapshot_duplicates, 0, COUNT(restores));
    tcase_add_loop_test(tc, made_up_worlds, 0, COUNT(restores));
    suite_add_tcase(suite, tc);
}

int main(int argc, char **argv)
{
    return programs_main(argc, argv, "host_guests", add_case);
}
