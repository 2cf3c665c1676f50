/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The hostile guests on real machines: each behaviour ends as it should, the next call on a machine
 * of the same image is right, and nothing that one call leaves is found by the next. What is not
 * harmful may end either way, but it must end, and never as a failure of the machine's own making
 * where that would be the host's fault.
 */
#include "config.h"

#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "guest/hl_abi.h"
#include "tests/guests/secrets.h"
#include "tests/unit/program.h"

#define DE 0
#define DB 1
#define BP 3
#define UD 6
#define GP 13
#define PF 14

static struct program hostile;

/* The image still answers rightly. */
static void still_sound(void)
{
    expect_i64(CALL(&hostile, "many_pages", U32(3)), 1);
}

static void expect_vector(struct outcome o, uint8_t vector)
{
    expect_end(o, INSTANCE_END_FAULT);
    ck_assert_msg(o.failure.fault.vector == vector, "vector %u: %s", o.failure.fault.vector,
                  o.failure.text);
}

/* Did not run on, and did not end well. */
static void expect_stopped(const char *what, struct outcome o)
{
    ck_assert_msg(o.refused < 0 || o.state != INSTANCE_DONE, "%s went through", what);
    outcome_free(&o);
}

/* However it ends. */
static void any(struct outcome o)
{
    outcome_free(&o);
}

static const struct {
    const char *function;
    uint8_t vector;
} faults[] = {
    {"null_write", PF},     {"code_write", PF},     {"data_execute", PF},
    {"stack_execute", PF},  {"window_execute", PF}, {"stack_overflow", PF},
    {"divide_by_zero", DE}, {"breakpoint", BP},     {"undefined_instruction", UD},
};

START_TEST(fault_is_reported)
{
    struct outcome o;

    program_load(&hostile, "tests/guests/hostile");
    o = CALL0(&hostile, faults[_i].function);
    expect_vector(o, faults[_i].vector);
    if (strcmp(faults[_i].function, "null_write") == 0) {
        ck_assert_uint_eq(o.failure.fault.address, 0);
        ck_assert_ptr_nonnull(strstr(o.failure.symbol, "null_write"));
    }
    still_sound();
    program_free(&hostile);
}
END_TEST

static const uint64_t foreign[] = {
    0x0,         0x1000,     0x2000,     0xff000,        0x102000,       0x1ff000,
    64ull << 20, 1ull << 30, 1ull << 40, 0x7ffffffff000, 0x800000000000, 0xffff800000000000,
    UINT64_MAX,
};

START_TEST(foreign_address_is_closed)
{
    uint64_t address = foreign[_i];

    program_load(&hostile, "tests/guests/hostile");
    expect_end(CALL(&hostile, "address_read", U64(address)), INSTANCE_END_FAULT);
    expect_end(CALL(&hostile, "address_write", U64(address)), INSTANCE_END_FAULT);
    expect_end(CALL(&hostile, "address_jump", U64(address)), INSTANCE_END_FAULT);
    still_sound();
    program_free(&hostile);
}
END_TEST

START_TEST(shared_pages_are_read_only)
{
    program_load(&hostile, "tests/guests/hostile");
    expect_vector(CALL(&hostile, "address_write", U64(HL_ABI_HYPERCALL_ADDR)), PF);
    expect_vector(CALL(&hostile, "address_write", U64(HL_ABI_INFO_ADDR)), PF);
    expect_vector(CALL(&hostile, "address_jump", U64(HL_ABI_INFO_ADDR)), PF);
    still_sound();
    program_free(&hostile);
}
END_TEST

/* What ring 3 may do on Linux as well, or what some machine executes as nothing. */
static bool may_return(const char *name)
{
    static const char *const harmless[] = {"int_0x80", "mov_ds_ring0"};

    for (size_t i = 0; i < sizeof(harmless) / sizeof(harmless[0]); i++) {
        if (strcmp(name, harmless[i]) == 0)
            return true;
    }
    return false;
}

START_TEST(privileged_instructions_do_not_work)
{
    struct outcome o;
    uint32_t count;

    program_load(&hostile, "tests/guests/hostile");
    o = CALL0(&hostile, "privileged_count");
    count = o.result.value.u32;
    ck_assert_uint_gt(count, 30);
    for (uint32_t i = 0; i < count; i++) {
        char name[64] = "";

        o = CALL(&hostile, "privileged_name", U32(i));
        ck_assert_uint_lt(o.result.value.bytes.len, sizeof(name));
        memcpy(name, o.result.value.bytes.data, o.result.value.bytes.len);
        outcome_free(&o);
        o = CALL_MS(&hostile, "privileged", 200, U32(i));
        if (!may_return(name))
            expect_stopped(name, o);
        still_sound();
    }
    program_free(&hostile);
}
END_TEST

/* No port but the library's leads anywhere, and that one only where any hypercall does. */
START_TEST(ports_are_closed)
{
    static const uint64_t wild[] = {0, UINT64_MAX, 1ull << 63 | 77, 0x8000000000000002, 600};

    program_load(&hostile, "tests/guests/hostile");
    for (uint32_t n = 0; n < 96; n++) {
        uint32_t port = n < 64 ? n * 16 + (n & 15) : (n - 63) * 1985;
        uint64_t rax = wild[n % 5];

        any(CALL_MS(&hostile, "port_out", 200, U32(port), U32(1u << n % 3), U64(rax), U64(rax)));
        if (n % 4 == 0)
            any(CALL_MS(&hostile, "port_in", 200, U32(port), U32(1u << n % 3), U64(rax)));
        if (n % 4 == 1)
            any(CALL_MS(&hostile, "port_string", 200, U32(port), BOOL(n & 4), U64(UINT64_MAX),
                        U64(HL_ABI_IO_ADDR), U64(rax)));
        still_sound();
    }
    program_free(&hostile);
}
END_TEST

START_TEST(the_end_of_the_program_ends_the_call)
{
    struct outcome o;

    program_load(&hostile, "tests/guests/hostile");
    o = CALL(&hostile, "exit_now", I32(3));
    expect_end(o, INSTANCE_END_EXIT);
    ck_assert_int_eq(o.failure.code, 3);
    expect_end(CALL(&hostile, "exit_raw", I32(0)), INSTANCE_END_EXIT);
    expect_end(CALL0(&hostile, "abort_now"), INSTANCE_END_EXIT);
    o = CALL_MS(&hostile, "loop", 10, I32(0));
    ck_assert_int_eq(o.refused, -EINVAL);
    o = program_call(&hostile, "loop", 10, NULL, 0);
    ck_assert_int_eq(o.state, INSTANCE_KICKED);
    o = CALL_MS(&hostile, "spin_ms", 10, U32(60000));
    ck_assert_int_eq(o.state, INSTANCE_KICKED);
    still_sound();
    program_free(&hostile);
}
END_TEST

START_TEST(memory_runs_out_properly)
{
    struct outcome o;

    program_load(&hostile, "tests/guests/hostile");
    for (int i = 0; i < 2; i++) {
        expect_error(CALL0(&hostile, "allocate_forever"), 12, "out of memory after");
        o = CALL0(&hostile, "map_forever");
        ck_assert_int_eq(o.state, INSTANCE_DONE);
        ck_assert_uint_lt(o.result.value.u32, 64);
        ck_assert_uint_gt(o.result.value.u32, 10);
    }
    for (uint32_t n = 1; n <= 4096; n *= 8)
        expect_i64(CALL(&hostile, "many_pages", U32(n)), 1);
    program_free(&hostile);
}
END_TEST

START_TEST(results_are_checked)
{
    program_load(&hostile, "tests/guests/hostile");
    expect_end(CALL0(&hostile, "result_huge"), INSTANCE_END_PROTOCOL);
    expect_end(CALL0(&hostile, "result_outside"), INSTANCE_END_PROTOCOL);
    expect_end(CALL0(&hostile, "result_wraps"), INSTANCE_END_PROTOCOL);
    expect_error(CALL0(&hostile, "result_too_large"), -1, "room for");
    still_sound();
    program_free(&hostile);
}
END_TEST

/* A string result that is not UTF-8 is found when it is taken. */
START_TEST(text_is_checked)
{
    struct outcome o;

    program_load(&hostile, "tests/guests/hostile");
    o = CALL0(&hostile, "result_not_utf8");
    ck_assert_msg(o.state == INSTANCE_FAULT || o.refused == -EPROTO, "state %d, %d", (int)o.state,
                  o.refused);
    still_sound();
    program_free(&hostile);
}
END_TEST

/* One field wrong at a time; the result type, u32 here, is not what any of the four declares. */
static const struct {
    const char *function;
    struct hl_abi_result result;
    uint64_t offset, announced;
} lies[] = {
    {"raw_i32", {.magic = 1, .value.type = HL_ABI_I32}, 4096, 4096},
    {"raw_i32", {.magic = HL_ABI_RESULT_MAGIC, .error = 2, .value.type = HL_ABI_I32}, 4096, 4096},
    {"raw_i32", {.magic = HL_ABI_RESULT_MAGIC, .value.type = HL_ABI_U32}, 4096, 4096},
    {"raw_i32", {.magic = HL_ABI_RESULT_MAGIC, .value.type = 4000000000u}, 4096, 4096},
    {"raw_i32", {.magic = HL_ABI_RESULT_MAGIC, .value = {HL_ABI_I32, 0, 1ull << 31}}, 4096, 4096},
    {"raw_bool", {.magic = HL_ABI_RESULT_MAGIC, .value = {HL_ABI_BOOL, 0, 2}}, 4096, 4096},
    {"raw_bytes",
     {.magic = HL_ABI_RESULT_MAGIC, .value = {HL_ABI_BYTES, 1, HL_ABI_IO_SIZE}},
     4096,
     4096},
    {"raw_bytes",
     {.magic = HL_ABI_RESULT_MAGIC, .value = {HL_ABI_BYTES, 2, UINT64_MAX}},
     4096,
     4096},
    {"raw_bytes",
     {.magic = HL_ABI_RESULT_MAGIC, .value = {HL_ABI_BYTES, UINT32_MAX, HL_ABI_IO_SIZE - 1}},
     4096,
     4096},
    {"raw_bytes",
     {.magic = HL_ABI_RESULT_MAGIC, .error = 1, .text_len = HL_ABI_LOG_MAX + 1},
     4096,
     4096},
    {"raw_bytes",
     {.magic = HL_ABI_RESULT_MAGIC, .error = 1, .text_len = 2, .text = HL_ABI_IO_SIZE - 1},
     4096,
     4096},
    {"raw_bytes",
     {.magic = HL_ABI_RESULT_MAGIC, .error = 1, .text_len = 1, .text = UINT64_MAX},
     4096,
     4096},
    {"raw_i32", {.magic = HL_ABI_RESULT_MAGIC, .value.type = HL_ABI_I32}, 4100, 4100},
    {"raw_i32", {.magic = HL_ABI_RESULT_MAGIC, .value.type = HL_ABI_I32}, 0, HL_ABI_IO_SIZE},
    {"raw_i32", {.magic = HL_ABI_RESULT_MAGIC, .value.type = HL_ABI_I32}, 0, HL_ABI_IO_SIZE - 32},
    {"raw_i32", {.magic = HL_ABI_RESULT_MAGIC, .value.type = HL_ABI_I32}, 0, UINT64_MAX - 7},
    {"raw_i32", {.magic = HL_ABI_RESULT_MAGIC, .value.type = HL_ABI_I32}, 0, 1ull << 63},
};

START_TEST(lies_are_found)
{
    struct outcome o;

    program_load(&hostile, "tests/guests/hostile");
    o = CALL(&hostile, lies[_i].function, BYTES(&lies[_i].result, sizeof(lies[_i].result)),
             U64(lies[_i].offset), U64(lies[_i].announced));
    expect_end(o, INSTANCE_END_PROTOCOL);
    still_sound();
    program_free(&hostile);
}
END_TEST

START_TEST(an_honest_raw_result_is_taken)
{
    const struct hl_abi_result result = {
        .magic = HL_ABI_RESULT_MAGIC,
        .value = {HL_ABI_I32, 0, (uint64_t)-7},
    };

    program_load(&hostile, "tests/guests/hostile");
    expect_i64(CALL(&hostile, "raw_i32", BYTES(&result, sizeof(result)), U64(4096), U64(4096)), -7);
    expect_i64(CALL(&hostile, "raw_i32", BYTES(&result, sizeof(result)),
                    U64(HL_ABI_IO_SIZE - sizeof(result)), U64(HL_ABI_IO_SIZE - sizeof(result))),
               -7);
    program_free(&hostile);
}
END_TEST

START_TEST(scribbling_harms_nobody_else)
{
    struct outcome o;

    program_load(&hostile, "tests/guests/hostile");
    for (int i = 0; i < 3; i++) {
        expect_i64(CALL0(&hostile, "scribble_window"), 1);
        o = CALL0(&hostile, "scribble_runtime");
        ck_assert_int_ne(o.state, INSTANCE_KICKED);
        outcome_free(&o);
        still_sound();
    }
    program_free(&hostile);
}
END_TEST

START_TEST(hypercalls_are_checked)
{
    static const uint64_t codes[] = {0, 1, 6, 77, UINT32_MAX};
    static const uint64_t wide[] = {1ull << 32, 1ull << 62, 1ull << 63, UINT64_MAX};
    static const uint64_t wild[] = {0, 1, 0x1000, 0x200000, 1ull << 47, UINT64_MAX};
    struct outcome o;

    program_load(&hostile, "tests/guests/hostile");
    for (size_t i = 0; i < sizeof(codes) / sizeof(codes[0]); i++)
        expect_end(CALL(&hostile, "hypercall", U64(codes[i]), U64(1), U64(2), U64(3)),
                   INSTANCE_END_PROTOCOL);
    for (size_t i = 0; i < sizeof(wide) / sizeof(wide[0]); i++)
        any(CALL(&hostile, "hypercall", U64(wide[i]), U64(1), U64(2), U64(3)));
    for (size_t i = 0; i < sizeof(wild) / sizeof(wild[0]); i++) {
        o = CALL(&hostile, "hypercall", U64(HL_HYPERCALL_LOG), U64(wild[i]), U64(wild[i]),
                 U64(wild[i]));
        ck_assert_int_eq(o.state, INSTANCE_DONE);
        expect_end(CALL(&hostile, "hypercall", U64(HL_HYPERCALL_ABORT), U64(wild[i]), U64(wild[i]),
                        U64(wild[i])),
                   INSTANCE_END_ABORT);
    }
    for (uint64_t offset = 1; offset < 128; offset++)
        any(CALL_MS(&hostile, "hypercall_into", 100, U64(offset), U64(77), U64(~offset)));
    still_sound();
    program_free(&hostile);
}
END_TEST

START_TEST(logs_are_bounded)
{
    struct outcome o;

    program_load(&hostile, "tests/guests/hostile");
    o = CALL(&hostile, "log_flood", U32(2000));
    ck_assert_ptr_nonnull(strstr(hostile.log, "2 line 0\n"));
    ck_assert_int_eq(o.state, INSTANCE_DONE);
    o = CALL(&hostile, "print_flood", U32(2000));
    ck_assert_ptr_nonnull(strstr(hostile.log, "2 line 0\n"));
    ck_assert_int_eq(o.state, INSTANCE_DONE);
    program_free(&hostile);
}
END_TEST

START_TEST(system_calls_are_checked)
{
    static const uint64_t wild[] = {0, 1, 0x1000, 0x100000, 0x200000, 1ull << 47, UINT64_MAX};
    struct outcome o;

    program_load(&hostile, "tests/guests/hostile");
    for (size_t i = 0; i < sizeof(wild) / sizeof(wild[0]); i++) {
        o = CALL(&hostile, "system_call_flood", U64(wild[i]));
        ck_assert_int_ne(o.state, INSTANCE_KICKED);
        still_sound();
    }
    expect_i64(CALL0(&hostile, "system_call_wild_numbers"), 0);
    for (uint64_t nr = 0; nr < 340; nr += 3) /* pointers that are good, lengths that are not */
        any(CALL_MS(&hostile, "system_call", 2000, U64(nr), U64(0x200000), U64(0x200000),
                    U64(UINT64_MAX / 2), U64(0x22), U64(UINT64_MAX), U64(0)));
    still_sound();
    program_free(&hostile);
}
END_TEST

START_TEST(system_calls_from_odd_states)
{
    static const uint64_t stacks[] = {0, 8, 0x1000, 1ull << 47, UINT64_MAX - 7};
    struct outcome o;

    program_load(&hostile, "tests/guests/hostile");
    for (size_t i = 0; i < sizeof(stacks) / sizeof(stacks[0]); i++) {
        o = CALL(&hostile, "system_call_wild_stack", U64(stacks[i]));
        ck_assert_int_ne(o.state, INSTANCE_KICKED);
        still_sound();
    }
    program_free(&hostile);
}
END_TEST

START_TEST(memory_cannot_be_made_executable)
{
    const uint64_t page = HL_ABI_PAGE_SIZE;
    struct outcome o;

    program_load(&hostile, "tests/guests/hostile");
    o = CALL0(&hostile, "write_and_execute");
    ck_assert(o.state != INSTANCE_DONE || o.result.value.i32 != 0);
    o = CALL(&hostile, "protect", U64(HL_ABI_IO_ADDR), U64(page), I32(7));
    ck_assert(o.state != INSTANCE_DONE || o.result.value.i32 != 0);
    o = CALL(&hostile, "protect", U64(HL_ABI_HYPERCALL_ADDR), U64(page), I32(3));
    ck_assert(o.state != INSTANCE_DONE || o.result.value.i32 != 0);
    o = CALL(&hostile, "unmap", U64(HL_ABI_HYPERCALL_ADDR), U64(page));
    ck_assert(o.state != INSTANCE_DONE || o.result.value.i32 != 0);
    o = CALL(&hostile, "unmap", U64(0x400000), U64(64 * page));
    still_sound();
    o = CALL(&hostile, "protect", U64(0x400000), U64(page), I32(3)); /* its own header */
    still_sound();
    o = CALL0(&hostile, "protect_and_write");
    ck_assert_int_ne(o.state, INSTANCE_KICKED);
    still_sound();
    program_free(&hostile);
}
END_TEST

START_TEST(flags_do_not_stay)
{
    static const uint64_t bits[] = {1u << 10, 1u << 18, 1u << 14, 1u << 21, 0x44000, 3u << 12};
    struct outcome o;
    uint64_t before;

    program_load(&hostile, "tests/guests/hostile");
    o = CALL0(&hostile, "flags");
    before = o.result.value.u64;
    for (size_t i = 0; i < sizeof(bits) / sizeof(bits[0]); i++) {
        o = CALL(&hostile, "flags_leave", U64(bits[i]));
        ck_assert_int_ne(o.state, INSTANCE_KICKED);
        expect_i64(CALL0(&hostile, "flags"), (int64_t)before);
    }
    o = CALL(&hostile, "flags_leave", U64(1u << 8)); /* TF */
    ck_assert_int_ne(o.state, INSTANCE_KICKED);
    expect_i64(CALL0(&hostile, "flags"), (int64_t)before);
    program_free(&hostile);
}
END_TEST

START_TEST(segment_bases_do_not_stay)
{
    static const uint64_t bases[] = {
        0, 0x1000, 0x200000, 0x7fffffffffff, 0xffff800000000000, 1ull << 63};

    program_load(&hostile, "tests/guests/hostile");
    for (size_t i = 0; i < sizeof(bases) / sizeof(bases[0]); i++) {
        any(CALL(&hostile, "fs_base_write", U64(bases[i])));
        still_sound();
        any(CALL(&hostile, "gs_base_write", U64(bases[i])));
        still_sound();
    }
    program_free(&hostile);
}
END_TEST

/* ---- secrets ---- */

static void make_secret(uint8_t masked[64])
{
    ck_assert_int_eq(getrandom(masked, 64, 0), 64);
}

START_TEST(secrets_are_not_found)
{
    static const char *const files[] = {"tests/guests/secrets", "tests/guests/secrets_fsgsbase"};
    uint8_t masked[64];
    struct program p;
    struct outcome o;

    program_load(&hostile, "tests/guests/hostile");
    o = CALL(&hostile, "gs_base_write", U64(0));
    program_free(&hostile);
    if (_i == 1 && o.state != INSTANCE_DONE)
        return; /* no such instruction here */

    program_load(&p, files[_i]);
    for (int i = 0; i < 25; i++) {
        make_secret(masked);
        o = CALL(&p, "secret_leave", BYTES(masked, sizeof(masked)));
        ck_assert_int_eq(o.state, INSTANCE_DONE);
        ck_assert(o.result.value.u32 & FEATURE_AVX || !__builtin_cpu_supports("avx"));
        expect_i64(CALL(&p, "secret_find", BYTES(masked, sizeof(masked))), 0);
    }
    program_free(&p);
}
END_TEST

/* The search itself: with a part of the reset left out, what it missed is found. */
static uint32_t found_without(unsigned int skip)
{
    uint8_t masked[64];
    struct program p;
    struct outcome o;

    make_secret(masked);
    program_load(&p, "tests/guests/secrets");
    p.audit = false;
    p.skip = skip;
    o = CALL(&p, "secret_leave", BYTES(masked, sizeof(masked)));
    ck_assert_int_eq(o.state, INSTANCE_DONE);
    ck_assert_int_eq(p.reset, 0);
    o = CALL(&p, "secret_find", BYTES(masked, sizeof(masked)));
    ck_assert_msg(o.state == INSTANCE_DONE, "without %u: %s", skip, o.failure.text);
    program_free(&p);
    return o.result.value.u32;
}

START_TEST(secrets_are_found_where_reset_is_cut_short)
{
    if (strcmp(program_hv->name, "kvm") != 0)
        return; /* process has no reset to cut short */
    ck_assert_uint_eq(found_without(0), 0);
    ck_assert_uint_eq(found_without(HV_SKIP_VECTOR) & FOUND_VECTORS, FOUND_VECTORS);
    ck_assert_uint_ne(found_without(HV_SKIP_MEMORY) & (FOUND_PROGRAM | FOUND_STACK | FOUND_HEAP),
                      0);
}
END_TEST

/* Of two instances of one image, one misbehaves. */
START_TEST(neighbours_are_not_disturbed)
{
    struct program other;

    program_load(&hostile, "tests/guests/hostile");
    program_load(&other, "guest/examples/echo");
    for (size_t i = 0; i < sizeof(faults) / sizeof(faults[0]); i++) {
        expect_end(CALL0(&hostile, faults[i].function), INSTANCE_END_FAULT);
        expect_bytes(CALL(&other, "echo", BYTES("unharmed", 8)), "unharmed", 8);
    }
    ck_assert_int_ge(other.made, 1);
    program_free(&hostile);
    program_free(&other);
}
END_TEST

static void add_case(Suite *suite, const char *backend, void (*open)(void))
{
    TCase *tc = tcase_create(backend);

    tcase_set_timeout(tc, 300);
    tcase_add_checked_fixture(tc, open, programs_close);
    tcase_add_loop_test(tc, fault_is_reported, 0, sizeof(faults) / sizeof(faults[0]));
    tcase_add_loop_test(tc, foreign_address_is_closed, 0, sizeof(foreign) / sizeof(foreign[0]));
    tcase_add_test(tc, shared_pages_are_read_only);
    tcase_add_test(tc, privileged_instructions_do_not_work);
    tcase_add_test(tc, ports_are_closed);
    tcase_add_test(tc, the_end_of_the_program_ends_the_call);
    tcase_add_test(tc, memory_runs_out_properly);
    tcase_add_test(tc, results_are_checked);
    tcase_add_test(tc, text_is_checked);
    tcase_add_loop_test(tc, lies_are_found, 0, sizeof(lies) / sizeof(lies[0]));
    tcase_add_test(tc, an_honest_raw_result_is_taken);
    tcase_add_test(tc, scribbling_harms_nobody_else);
    tcase_add_test(tc, hypercalls_are_checked);
    tcase_add_test(tc, logs_are_bounded);
    tcase_add_test(tc, system_calls_are_checked);
    tcase_add_test(tc, system_calls_from_odd_states);
    tcase_add_test(tc, memory_cannot_be_made_executable);
    tcase_add_test(tc, flags_do_not_stay);
    tcase_add_test(tc, segment_bases_do_not_stay);
    tcase_add_loop_test(tc, secrets_are_not_found, 0, 2);
    tcase_add_test(tc, secrets_are_found_where_reset_is_cut_short);
    tcase_add_test(tc, neighbours_are_not_disturbed);
    suite_add_tcase(suite, tc);
}

int main(int argc, char **argv)
{
    return programs_main(argc, argv, "hostile", add_case);
}
