/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Calls on the fake backend: arguments in, results out, each way a guest can end or lie, kicks and
 * deadlines, and what a reset and its audit do.
 */
#include "config.h"

#include <check.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "guest/hl_abi.h"
#include "hv/instance.h"
#include "hv/timer.h"
#include "tests/fake/elf.h"
#include "tests/fake/fake.h"
#include "tests/unit/tests_run.h"

#define MEMORY  (16ull << 20)
#define IO_SIZE (64u << 10)
#define SECOND  1000000000ull

static uint8_t *file;
static struct image *img;
static struct hv_host *host;
static struct snapshot *snap;
static struct instance *inst;
static char logged[256];
static uint8_t kept[IO_SIZE]; /* bytes of the last result */

static void on_log(void *opaque, int level, const char *text, size_t len)
{
    (void)opaque;
    (void)level;
    memcpy(logged, text, len);
    logged[len] = '\0';
}

static void bind_instance(void)
{
    struct hl_error err = HL_ERROR_INIT;
    struct shell *shell;

    instance_free(inst);
    ck_assert_int_eq(shell_new(&shell, &hv_backend_fake, host, shell_class(MEMORY), &err), 0);
    ck_assert_msg(instance_bind(&inst, shell, snap, img, &err) == 0, "%s", err.text);
    instance_set_log(inst, on_log, NULL);
}

static void setup(void)
{
    const struct hv_host_config config = {.kvm_fd = -1, .nursery_fd = -1};
    struct snapshot_options options = {.memory_size = MEMORY,
                                       .io_size = IO_SIZE,
                                       .deadline_ns = hv_now_ns() + 5 * SECOND,
                                       .name = "t"};
    size_t len;

    fake_clear();
    file = fake_elf_new(&len);
    ck_assert_int_eq(image_new(&img, file, len, NULL), 0);
    ck_assert_int_eq(hv_backend_fake.host_open(&host, &config, NULL), 0);
    ck_assert_int_eq(snapshot_build(&snap, &hv_backend_fake, host, img, &options, NULL), 0);
    bind_instance();
}

static void teardown(void)
{
    instance_free(inst);
    inst = NULL;
    ck_assert_int_eq(fake_machines(), 0);
    snapshot_unref(snap);
    hv_backend_fake.host_close(host);
    image_free(img);
    free(file);
}

static struct hl_value i32(int32_t value)
{
    return (struct hl_value){.type = HL_TYPE_I32, .i32 = value};
}

static struct hl_value u32(uint32_t value)
{
    return (struct hl_value){.type = HL_TYPE_U32, .u32 = value};
}

static struct hl_value counted(enum hl_type type, const void *data, size_t len)
{
    return (struct hl_value){.type = type, .bytes = {.data = data, .len = len}};
}

static void begin(const char *name, const struct hl_value *args, size_t nargs)
{
    struct hl_error err = HL_ERROR_INIT;
    int function = image_find_function(img, name, strlen(name));

    ck_assert_int_ge(function, 0);
    ck_assert_msg(instance_begin(inst, (size_t)function, args, nargs, &err) == 0, "%s", err.text);
}

static int try_begin(const char *name, const struct hl_value *args, size_t nargs, char *text)
{
    struct hl_error err = HL_ERROR_INIT;
    int function = image_find_function(img, name, strlen(name));
    int rc = instance_begin(inst, (size_t)function, args, nargs, &err);

    ck_assert_int_eq(instance_check_args(img, (size_t)function, snap, args, nargs, NULL), rc);
    strcpy(text, err.text);
    return rc;
}

static void reset(void)
{
    struct hl_error err = HL_ERROR_INIT;
    uint64_t pages;

    ck_assert_msg(instance_reset(inst, true, &pages, &err) == 0, "%s", err.text);
}

/* A whole call that must give a result. */
static struct instance_result call(const char *name, const struct hl_value *args, size_t nargs)
{
    struct hl_error err = HL_ERROR_INIT;
    struct instance_result result;

    begin(name, args, nargs);
    ck_assert_int_eq(instance_run(inst, UINT64_MAX), INSTANCE_DONE);
    ck_assert_msg(instance_result(inst, &result, &err) == 0, "%s", err.text);
    if (result.value.type == HL_TYPE_STRING || result.value.type == HL_TYPE_BYTES) {
        ck_assert_uint_le(result.value.bytes.len, sizeof(kept));
        memcpy(kept, result.value.bytes.data, result.value.bytes.len);
        result.value.bytes.data = kept; /* the instance's own are gone after the reset */
    }
    reset();
    return result;
}

static const struct instance_failure *failing(const char *name, const struct hl_value *args,
                                              size_t nargs)
{
    uint64_t pages, resets_before = fake_count(FAKE_RESET);

    begin(name, args, nargs);
    ck_assert_int_eq(instance_run(inst, hv_now_ns() + 5 * SECOND), INSTANCE_FAULT);
    ck_assert_int_eq(instance_reset(inst, true, &pages, NULL), 1);
    ck_assert_uint_eq(fake_count(FAKE_RESET), resets_before);
    return instance_failure(inst);
}

START_TEST(classes)
{
    ck_assert_uint_eq(shell_class(1), 16u << 20);
    ck_assert_uint_eq(shell_class(16u << 20), 16u << 20);
    ck_assert_uint_eq(shell_class((16u << 20) + 1), 32u << 20);
    ck_assert_uint_eq(shell_class(64u << 20), 64u << 20);
    ck_assert_uint_eq(shell_class(1u << 30), 1u << 30);
}
END_TEST

START_TEST(counted_values)
{
    struct hl_value args[] = {counted(HL_TYPE_BYTES, "a\0b", 3)};
    struct instance_result r = call("echo", args, 1);

    ck_assert_int_eq(r.value.type, HL_TYPE_BYTES);
    ck_assert_uint_eq(r.value.bytes.len, 3);
    ck_assert_int_eq(memcmp(r.value.bytes.data, "a\0b", 3), 0);
    args[0] = counted(HL_TYPE_BYTES, NULL, 0);
    r = call("echo", args, 1);
    ck_assert_uint_eq(r.value.bytes.len, 0);
    args[0] = counted(HL_TYPE_STRING, "h\xc3\xa4", 3);
    r = call("echo_string", args, 1);
    ck_assert_int_eq(r.value.type, HL_TYPE_STRING);
    ck_assert_int_eq(memcmp(r.value.bytes.data, "h\xc3\xa4", 3), 0);
}
END_TEST

START_TEST(scalars)
{
    const struct hl_value values[] = {
        {.type = HL_TYPE_I32, .i32 = INT32_MIN}, {.type = HL_TYPE_U32, .u32 = UINT32_MAX},
        {.type = HL_TYPE_I64, .i64 = INT64_MIN}, {.type = HL_TYPE_U64, .u64 = UINT64_MAX},
        {.type = HL_TYPE_F32, .f32 = -1.5f},     {.type = HL_TYPE_F64, .f64 = 1e300},
        {.type = HL_TYPE_BOOL, .b = true},       {.type = HL_TYPE_BOOL, .b = false},
    };
    static const char *const names[] = {"same_i32", "same_u32", "same_i64",  "same_u64",
                                        "same_f32", "same_f64", "same_bool", "same_bool"};

    for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
        struct instance_result r = call(names[i], &values[i], 1);

        ck_assert(!r.is_error);
        ck_assert_int_eq(r.value.type, values[i].type);
        if (values[i].type == HL_TYPE_F32)
            ck_assert(r.value.f32 == -1.5f);
        else if (values[i].type == HL_TYPE_BOOL)
            ck_assert_int_eq(r.value.b, values[i].b);
        else if (values[i].type == HL_TYPE_I32)
            ck_assert_int_eq(r.value.i32, values[i].i32);
        else if (values[i].type == HL_TYPE_U32)
            ck_assert_uint_eq(r.value.u32, values[i].u32);
        else
            ck_assert_uint_eq(r.value.u64, values[i].u64);
    }
    ck_assert_int_eq(call("add", (struct hl_value[]){i32(40), i32(-42)}, 2).value.i32, -2);
    ck_assert_int_eq(call("nothing", NULL, 0).value.type, HL_TYPE_VOID);
}
END_TEST

START_TEST(arguments_refused)
{
    struct hl_value args[] = {i32(1), u32(2), i32(3)};
    static uint8_t large[IO_SIZE];
    char text[HL_ERROR_TEXT_MAX];

    ck_assert_int_eq(try_begin("add", args, 1, text), -EINVAL);
    ck_assert_str_eq(text, "add(i32, i32) -> i32 takes 2 arguments, 1 given");
    ck_assert_int_eq(try_begin("add", args, 3, text), -EINVAL);
    ck_assert_int_eq(try_begin("add", args, 2, text), -EINVAL);
    ck_assert_str_eq(text, "argument 2 of add(i32, i32) -> i32 must be i32, not u32");
    args[0] = counted(HL_TYPE_STRING, "\xff", 1);
    ck_assert_int_eq(try_begin("echo_string", args, 1, text), -EINVAL);
    ck_assert_ptr_nonnull(strstr(text, "UTF-8"));
    args[0] = counted(HL_TYPE_BYTES, large, IO_SIZE - 32 - HL_ABI_RESULT_ROOM + 1);
    ck_assert_int_eq(try_begin("echo", args, 1, text), -EMSGSIZE);
    ck_assert_ptr_nonnull(strstr(text, "65536"));
    args[0].bytes.len = SIZE_MAX;
    ck_assert_int_eq(try_begin("echo", args, 1, text), -EMSGSIZE);
    args[0].bytes.len = UINT32_MAX;
    ck_assert_int_eq(try_begin("echo", args, 1, text), -EMSGSIZE);
    args[0].type = (enum hl_type)77;
    ck_assert_int_eq(try_begin("echo", args, 1, text), -EINVAL);
    ck_assert_int_eq(instance_begin(inst, image_function_count(img), NULL, 0, NULL), -EINVAL);
    /* After all that it is as it was. */
    args[0] = counted(HL_TYPE_BYTES, large, IO_SIZE - 32 - HL_ABI_RESULT_ROOM);
    call("echo", args, 1);
}
END_TEST

START_TEST(order)
{
    struct instance_result r;

    ck_assert_int_eq(instance_result(inst, &r, NULL), -EBUSY);
    begin("nothing", NULL, 0);
    ck_assert_int_eq(instance_begin(inst, 0, NULL, 0, NULL), -EBUSY);
    ck_assert_int_eq(instance_run(inst, UINT64_MAX), INSTANCE_DONE);
    ck_assert_int_eq(instance_run(inst, UINT64_MAX), INSTANCE_DONE);
    ck_assert_int_eq(instance_begin(inst, 3, NULL, 0, NULL), -EBUSY);
    reset();
    ck_assert_int_eq(instance_run(inst, UINT64_MAX), INSTANCE_FAULT);
}
END_TEST

START_TEST(guest_errors)
{
    struct instance_result r =
        call("fail", (struct hl_value[]){i32(-7), counted(HL_TYPE_STRING, "no such row", 11)}, 2);

    ck_assert(r.is_error);
    ck_assert_int_eq(r.code, -7);
    ck_assert_int_eq(r.value.type, HL_TYPE_STRING);
    ck_assert_int_eq(memcmp(r.value.bytes.data, "no such row", 11), 0);
}
END_TEST

START_TEST(log_lines)
{
    call("log", (struct hl_value[]){counted(HL_TYPE_STRING, "hello", 5)}, 1);
    ck_assert_str_eq(logged, "hello");
    /* Without a newline it is sent at the end of the call. */
    call("print", (struct hl_value[]){counted(HL_TYPE_BYTES, "out", 3)}, 1);
    ck_assert_str_eq(logged, "out");
    ck_assert_uint_eq(instance_counters(inst)->exits, 2);
    ck_assert_uint_eq(instance_counters(inst)->syscalls, 1);
    ck_assert_uint_eq(instance_counters(inst)->log_lines, 1);
}
END_TEST

START_TEST(bad_results)
{
    static const char *const reasons[] = {
        "outside the I/O window", "misaligned", "magic",       "type 2 instead of string",
        "outside the I/O window", "UTF-8",      "error field", "unknown hypercall 99",
        "READY in the middle",
    };

    for (uint32_t kind = 0; kind < sizeof(reasons) / sizeof(reasons[0]); kind++) {
        struct hl_value args[] = {u32(kind)};
        const struct instance_failure *f;

        f = failing("bad_result", args, 1);
        ck_assert_int_eq(f->end, INSTANCE_END_PROTOCOL);
        ck_assert_msg(strstr(f->text, reasons[kind]), "%u: %s", kind, f->text);
        bind_instance();
    }
}
END_TEST

START_TEST(results_are_taken_once)
{
    struct hl_value args[] = {counted(HL_TYPE_BYTES, "abc", 3)};
    struct instance_result r;

    begin("echo", args, 1);
    ck_assert_int_eq(instance_run(inst, UINT64_MAX), INSTANCE_DONE);
    ck_assert_int_eq(instance_result(inst, &r, NULL), 0);
    ck_assert_int_eq(instance_result(inst, &r, NULL), -ENODATA);
    reset();
    /* Not taken, it goes with the reset. */
    begin("echo", args, 1);
    ck_assert_int_eq(instance_run(inst, UINT64_MAX), INSTANCE_DONE);
    reset();
    begin("echo", args, 1);
    ck_assert_int_eq(instance_run(inst, UINT64_MAX), INSTANCE_DONE);
}
END_TEST

/* A stream of calls uses one piece of memory for their results. */
START_TEST(results_need_no_memory)
{
    struct hl_value args[] = {counted(HL_TYPE_BYTES, "abc", 3)};
    const void *data = NULL;
    struct instance_result r;

    for (int i = 0; i < 5; i++) {
        begin("echo", args, 1);
        ck_assert_int_eq(instance_run(inst, UINT64_MAX), INSTANCE_DONE);
        ck_assert_int_eq(instance_result(inst, &r, NULL), 0);
        ck_assert_int_eq(memcmp(r.value.bytes.data, "abc", 3), 0);
        if (data)
            ck_assert_ptr_eq(r.value.bytes.data, data);
        data = r.value.bytes.data;
        reset();
    }
}
END_TEST

/* Back to a shell, and bound again; not in the middle of a call, nor after a failure. */
START_TEST(unbinding)
{
    struct hl_value args[] = {counted(HL_TYPE_BYTES, "abc", 3), u32(5)};
    struct hl_error err = HL_ERROR_INIT;

    for (int i = 0; i < 4; i++) {
        struct shell *shell;

        if (i % 2)
            call("dirty", &args[1], 1);
        begin("echo", args, 1);
        ck_assert_int_eq(instance_run(inst, UINT64_MAX), INSTANCE_DONE);
        if (i / 2)
            reset();
        shell = instance_unbind(inst);
        inst = NULL;
        ck_assert_ptr_nonnull(shell);
        ck_assert_int_eq(fake_machines(), 1);
        ck_assert_int_eq(instance_bind(&inst, shell, snap, img, &err), 0);
        ck_assert_uint_eq(call("echo", args, 1).value.bytes.len, 3);
    }
    begin("echo", args, 1);
    ck_assert_ptr_null(instance_unbind(inst));
    inst = NULL;
    ck_assert_int_eq(fake_machines(), 0);
    bind_instance();
    failing("fault", NULL, 0);
    ck_assert_ptr_null(instance_unbind(inst));
    inst = NULL;
    bind_instance();
    fake_fail(FAKE_UNBIND, 1, -EIO);
    ck_assert_ptr_null(instance_unbind(inst));
    inst = NULL;
    ck_assert_int_eq(fake_machines(), 0);
}
END_TEST

START_TEST(huge_results)
{
    struct hl_value args[] = {u32(IO_SIZE - 4096)};
    struct instance_result r = call("big", args, 1);

    ck_assert_uint_eq(r.value.bytes.len, IO_SIZE - 4096);
    args[0] = u32(IO_SIZE - 4096 + 1);
    ck_assert_int_eq(failing("big", args, 1)->end, INSTANCE_END_PROTOCOL);
    bind_instance();
    args[0] = u32(UINT32_MAX);
    ck_assert_int_eq(failing("big", args, 1)->end, INSTANCE_END_PROTOCOL);
}
END_TEST

START_TEST(faults)
{
    const struct instance_failure *f = failing("fault", NULL, 0);

    ck_assert_int_eq(f->end, INSTANCE_END_FAULT);
    ck_assert_uint_eq(f->fault.vector, 14);
    ck_assert_str_eq(f->text, "page fault (write) at 0x0, rip 0x400000");
    bind_instance();
    f = failing("exit", (struct hl_value[]){i32(3)}, 1);
    ck_assert_int_eq(f->end, INSTANCE_END_EXIT);
    ck_assert_int_eq(f->code, 3);
    bind_instance();
    f = failing("abort", (struct hl_value[]){counted(HL_TYPE_STRING, "giving up", 9)}, 1);
    ck_assert_int_eq(f->end, INSTANCE_END_ABORT);
    ck_assert_int_eq(f->code, 3);
    ck_assert_str_eq(f->text, "aborted with code 3: giving up");
    bind_instance();
    f = failing("die", NULL, 0);
    ck_assert_int_eq(f->end, INSTANCE_END_DIED);
}
END_TEST

static int fault_with(struct hv_machine *m, uint64_t until_ns, struct hv_exit *exit, void *opaque)
{
    const struct hv_fault *fault = opaque;

    (void)m;
    (void)until_ns;
    return fake_exit_fault(exit, fault->vector, fault->error_code, fault->rip, fault->address);
}

START_TEST(fault_texts)
{
    const struct {
        struct hv_fault fault;
        const char *text;
    } cases[] = {
        {{14, 4, 0x402001, 0x10}, "page fault (read) at 0x10, rip 0x402001 start+0x1"},
        {{14, 6, 0, MEMORY - MEMORY / 8 - 8},
         "page fault (write) at 0xdffff8 (stack overflow), rip 0x0"},
        {{14, 0x15, 0x10, 0x10}, "page fault (execute) at 0x10, rip 0x10"},
        {{0, 0, 0x402000, 0}, "division error, rip 0x402000 start+0x0"},
        {{6, 0, 0x402000, 0}, "invalid instruction, rip 0x402000 start+0x0"},
        {{13, 0, UINT64_MAX, 0}, "general protection fault, rip 0xffffffffffffffff"},
        {{200, 0, 0, 0}, "exception 200, rip 0x0"},
        {{HV_VECTOR_DIED, 0, 0, 0}, "the machine ended without an exception"},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct hv_fault fault = cases[i].fault;

        fake_set_run(fault_with, &fault);
        ck_assert_str_eq(failing("nothing", NULL, 0)->text, cases[i].text);
        bind_instance();
    }
}
END_TEST

START_TEST(deadlines)
{
    uint64_t until = hv_now_ns() + SECOND / 50, pages;

    begin("spin", NULL, 0);
    ck_assert_int_eq(instance_run(inst, until), INSTANCE_KICKED);
    ck_assert_uint_ge(hv_now_ns(), until);
    /* A guest that only makes cheap system calls is stopped as well. */
    ck_assert_int_eq(instance_reset(inst, false, &pages, NULL), 1);
    bind_instance();
    begin("syscalls", NULL, 0);
    until = hv_now_ns() + SECOND / 50;
    ck_assert_int_eq(instance_run(inst, until), INSTANCE_KICKED);
    ck_assert_uint_ge(hv_now_ns(), until);
    ck_assert_uint_gt(instance_counters(inst)->syscalls, 0);
}
END_TEST

START_TEST(slices)
{
    struct hl_value args[] = {u32(30)};
    unsigned int kicks = 0;

    begin("delay", args, 1);
    while (instance_run(inst, hv_now_ns() + SECOND / 200) == INSTANCE_KICKED)
        kicks++;
    ck_assert_uint_gt(kicks, 0);
    ck_assert_int_eq(instance_run(inst, 0), INSTANCE_DONE);
    reset();
    call("nothing", NULL, 0);
}
END_TEST

static void *kick_soon(void *opaque)
{
    const struct timespec wait = {.tv_nsec = 20000000};

    (void)opaque;
    nanosleep(&wait, NULL);
    instance_kick(inst);
    return NULL;
}

START_TEST(kicks_from_another_thread)
{
    pthread_t thread;

    begin("spin", NULL, 0);
    ck_assert_int_eq(pthread_create(&thread, NULL, kick_soon, NULL), 0);
    ck_assert_int_eq(instance_run(inst, UINT64_MAX), INSTANCE_KICKED);
    pthread_join(thread, NULL);
    /* Before the run it counts for the next one. */
    instance_kick(inst);
    ck_assert_int_eq(instance_run(inst, UINT64_MAX), INSTANCE_KICKED);
}
END_TEST

START_TEST(resets)
{
    struct hl_error err = HL_ERROR_INIT;
    static uint8_t bytes[5 * 4096 - 64] = {1};
    struct hl_value args[] = {u32(5)};
    uint64_t pages;

    begin("dirty", args, 1);
    ck_assert_int_eq(instance_run(inst, UINT64_MAX), INSTANCE_DONE);
    ck_assert_int_eq(instance_reset(inst, true, &pages, &err), 0);
    ck_assert_uint_ge(pages, 6);
    /* Each part left out is found: the host writes the arguments, the guest a page behind them. */
    args[0] = counted(HL_TYPE_BYTES, bytes, sizeof(bytes));
    for (unsigned int skip = HV_SKIP_MEMORY; skip <= HV_SKIP_REGS; skip *= 2) {
        bind_instance();
        instance_set_skip(inst, skip);
        begin("echo", args, 1);
        ck_assert_int_eq(instance_run(inst, UINT64_MAX), INSTANCE_DONE);
        ck_assert_int_eq(instance_reset(inst, true, &pages, &err), -EBADMSG);
        ck_assert_ptr_nonnull(strstr(err.text, "differ"));
        ck_assert_int_eq(instance_reset(inst, true, &pages, &err), 1);
    }
    /* Without an audit nobody looks. */
    bind_instance();
    instance_set_skip(inst, HV_SKIP_MEMORY);
    begin("echo", args, 1);
    ck_assert_int_eq(instance_run(inst, UINT64_MAX), INSTANCE_DONE);
    ck_assert_int_eq(instance_reset(inst, false, &pages, &err), 0);
}
END_TEST

START_TEST(resets_that_fail)
{
    struct hl_error err = HL_ERROR_INIT;
    uint64_t pages;

    fake_fail(FAKE_RESET, 1, 1);
    begin("nothing", NULL, 0);
    ck_assert_int_eq(instance_run(inst, UINT64_MAX), INSTANCE_DONE);
    ck_assert_int_eq(instance_reset(inst, false, &pages, &err), 1);
    bind_instance();
    fake_fail(FAKE_RESET, 1, -EIO);
    begin("nothing", NULL, 0);
    ck_assert_int_eq(instance_run(inst, UINT64_MAX), INSTANCE_DONE);
    ck_assert_int_eq(instance_reset(inst, false, &pages, &err), -EIO);
    bind_instance();
    fake_fail(FAKE_AUDIT, 1, 1);
    begin("nothing", NULL, 0);
    ck_assert_int_eq(instance_run(inst, UINT64_MAX), INSTANCE_DONE);
    ck_assert_int_eq(instance_reset(inst, true, &pages, &err), -EBADMSG);
}
END_TEST

START_TEST(binding_that_fails)
{
    struct hl_error err = HL_ERROR_INIT;
    struct instance *other;
    struct shell *shell;

    ck_assert_int_eq(shell_new(&shell, &hv_backend_fake, host, MEMORY, &err), 0);
    fake_fail(FAKE_BIND, 1, -ENOMEM);
    ck_assert_int_eq(instance_bind(&other, shell, snap, img, &err), -ENOMEM);
    ck_assert_ptr_null(other);
    ck_assert_int_eq(shell_new(&shell, &hv_backend_fake, host, MEMORY / 2, &err), 0);
    ck_assert_int_eq(instance_bind(&other, shell, snap, img, &err), -EINVAL);
    fake_fail(FAKE_MACHINE_NEW, 1, -EMFILE);
    ck_assert_int_eq(shell_new(&shell, &hv_backend_fake, host, MEMORY, &err), -EMFILE);
    ck_assert_ptr_null(shell);
    ck_assert_int_eq(fake_machines(), 1);
}
END_TEST

int main(void)
{
    TCase *tc = tcase_create("instance");

    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, classes);
    tcase_add_test(tc, counted_values);
    tcase_add_test(tc, scalars);
    tcase_add_test(tc, arguments_refused);
    tcase_add_test(tc, order);
    tcase_add_test(tc, guest_errors);
    tcase_add_test(tc, log_lines);
    tcase_add_test(tc, bad_results);
    tcase_add_test(tc, results_are_taken_once);
    tcase_add_test(tc, huge_results);
    tcase_add_test(tc, results_need_no_memory);
    tcase_add_test(tc, unbinding);
    tcase_add_test(tc, faults);
    tcase_add_test(tc, fault_texts);
    tcase_add_test(tc, deadlines);
    tcase_add_test(tc, slices);
    tcase_add_test(tc, kicks_from_another_thread);
    tcase_add_test(tc, resets);
    tcase_add_test(tc, resets_that_fail);
    tcase_add_test(tc, binding_that_fails);
    return tests_run(tc, "instance");
}
