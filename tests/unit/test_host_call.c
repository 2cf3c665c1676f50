/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Calls out of a guest on the fake backend: what is passed on, each way to answer, what happens
 * while nobody does, and everything that a guest can get wrong about the call and its buffer.
 */
#include "config.h"

#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "guest/hl_abi.h"
#include "hv/instance.h"
#include "hv/timer.h"
#include "tests/fake/elf.h"
#include "tests/fake/fake.h"
#include "tests/unit/tests_run.h"

#define MEMORY   (16ull << 20)
#define IO_SIZE  (64u << 10)
#define SECOND   1000000000ull
#define REQUEST  (HL_ABI_IO_ADDR + 0x2000u)
#define OUT      (HL_ABI_IO_ADDR + 0x8000u)
#define OUT_SIZE 0x100u

static uint8_t *file;
static struct image *img;
static struct hv_host *host;
static struct snapshot *snap;
static struct instance *inst;

static void build(void)
{
    struct snapshot_options options = {.memory_size = MEMORY,
                                       .io_size = IO_SIZE,
                                       .deadline_ns = hv_now_ns() + 5 * SECOND,
                                       .name = "t"};
    struct hl_error err = HL_ERROR_INIT;

    ck_assert_msg(snapshot_build(&snap, &hv_backend_fake, host, img, &options, &err) == 0, "%s",
                  err.text);
}

static void bind_instance(void)
{
    struct shell *shell;

    instance_free(inst);
    ck_assert_int_eq(shell_new(&shell, &hv_backend_fake, host, shell_class(MEMORY), NULL), 0);
    ck_assert_int_eq(instance_bind(&inst, shell, snap, img, NULL), 0);
}

static void setup(void)
{
    const struct hv_host_config config = {.kvm_fd = -1, .nursery_fd = -1};
    size_t len;

    fake_clear();
    file = fake_elf_new(&len);
    ck_assert_int_eq(image_new(&img, file, len, NULL), 0);
    ck_assert_int_eq(hv_backend_fake.host_open(&host, &config, NULL), 0);
    build();
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

static struct hl_value counted(enum hl_type type, const void *data, size_t len)
{
    return (struct hl_value){.type = type, .bytes = {.data = data, .len = len}};
}

static struct hl_value u32(uint32_t value)
{
    return (struct hl_value){.type = HL_TYPE_U32, .u32 = value};
}

static void begin(const char *name, const struct hl_value *args, size_t nargs)
{
    struct hl_error err = HL_ERROR_INIT;
    int function = image_find_function(img, name, strlen(name));

    ck_assert_int_ge(function, 0);
    ck_assert_msg(instance_begin(inst, (size_t)function, args, nargs, &err) == 0, "%s", err.text);
}

static enum instance_state run(void)
{
    return instance_run(inst, hv_now_ns() + 5 * SECOND);
}

static struct instance_result result(void)
{
    struct instance_result r;

    ck_assert_int_eq(run(), INSTANCE_DONE);
    ck_assert_int_eq(instance_result(inst, &r, NULL), 0);
    return r;
}

static void reset(void)
{
    struct hl_error err = HL_ERROR_INIT;
    uint64_t pages;

    ck_assert_msg(instance_reset(inst, true, &pages, &err) == 0, "%s", err.text);
}

/* A call of name with these bytes, up to where it is to be answered. */
static const struct instance_host_call *ask(const char *name, const void *data, size_t len)
{
    const struct hl_value args[] = {counted(HL_TYPE_STRING, name, strlen(name)),
                                    counted(HL_TYPE_BYTES, data, len)};

    begin("host_call", args, 2);
    ck_assert_int_eq(run(), INSTANCE_HOST_CALL);
    ck_assert_ptr_nonnull(instance_host_call(inst));
    return instance_host_call(inst);
}

START_TEST(a_call_and_its_result)
{
    const struct instance_host_call *call = ask("a.b_c-D9", "x\0y", 3);
    struct hl_value value = counted(HL_TYPE_BYTES, "answer", 6);
    struct instance_result r;

    ck_assert_str_eq(call->name, "a.b_c-D9");
    ck_assert_uint_eq(call->nargs, 1);
    ck_assert_int_eq(call->args[0].type, HL_TYPE_BYTES);
    ck_assert_uint_eq(call->args[0].bytes.len, 3);
    ck_assert_int_eq(memcmp(call->args[0].bytes.data, "x\0y", 3), 0);
    ck_assert_int_eq(instance_host_return(inst, &value, NULL), 0);
    ck_assert_ptr_null(instance_host_call(inst));
    r = result();
    ck_assert(!r.is_error);
    ck_assert_uint_eq(r.value.bytes.len, 6);
    ck_assert_int_eq(memcmp(r.value.bytes.data, "answer", 6), 0);
    ck_assert_uint_eq(instance_counters(inst)->host_calls, 1);
    ck_assert_uint_eq(instance_counters(inst)->exits, 2);
    reset(); /* and the audit finds nothing */
}
END_TEST

START_TEST(errors_travel)
{
    static const struct {
        enum hl_status status;
        int32_t shown;
    } cases[] = {{HL_STATUS_PERMISSION_DENIED, 7},
                 {HL_STATUS_UNAVAILABLE, 14},
                 {HL_STATUS_UNKNOWN, 2},
                 {HL_STATUS_OK, 2},
                 {(enum hl_status)4711, 2}};

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct instance_result r;

        ask("f", "", 0);
        ck_assert_int_eq(instance_host_fail(inst, cases[i].status, -3, "n\xc3\xb6", 3), 0);
        r = result();
        ck_assert(r.is_error);
        ck_assert_int_eq(r.code, cases[i].shown);
        ck_assert_uint_eq(r.value.bytes.len, 3);
        ck_assert_int_eq(memcmp(r.value.bytes.data, "n\xc3\xb6", 3), 0);
        reset();
    }
}
END_TEST

START_TEST(texts_are_made_to_fit)
{
    char text[HL_ABI_LOG_MAX + 3];
    struct instance_result r;

    memset(text, 'e', sizeof(text));
    memcpy(text + HL_ABI_LOG_MAX - 1, "\xe2\x82\xac", 3);
    ask("f", "", 0);
    ck_assert_int_eq(instance_host_fail(inst, HL_STATUS_INTERNAL, 0, text, sizeof(text)), 0);
    r = result();
    ck_assert_uint_eq(r.value.bytes.len, HL_ABI_LOG_MAX - 1);
    reset();
    ask("f", "", 0);
    ck_assert_int_eq(instance_host_fail(inst, HL_STATUS_INTERNAL, 0, "a\xff\x80z", 4), 0);
    r = result();
    ck_assert_uint_eq(r.value.bytes.len, 4);
    ck_assert_int_eq(memcmp(r.value.bytes.data, "a??z", 4), 0);
    reset();
    ask("f", "", 0);
    ck_assert_int_eq(instance_host_fail(inst, HL_STATUS_INTERNAL, 0, NULL, 0), 0);
    ck_assert_uint_eq(result().value.bytes.len, 0);
    reset();
}
END_TEST

START_TEST(thousands_in_a_row)
{
    const uint32_t n = 5000;
    struct hl_value arg = u32(n);

    for (int round = 0; round < 2; round++) {
        const void *args = NULL;

        begin("host_calls", &arg, 1);
        for (uint32_t i = 0; i < n; i++) {
            const struct instance_host_call *call;
            struct hl_value value = u32(i + 1);

            ck_assert_int_eq(run(), INSTANCE_HOST_CALL);
            call = instance_host_call(inst);
            ck_assert_str_eq(call->name, "count");
            ck_assert_uint_eq(call->args[0].u32, i);
            ck_assert(!args || args == call->args);
            args = call->args;
            ck_assert_int_eq(instance_host_return(inst, &value, NULL), 0);
        }
        ck_assert_uint_eq(result().value.u64, (uint64_t)n * (n + 1) / 2);
        ck_assert_uint_eq(instance_counters(inst)->host_calls, n);
        reset();
    }
}
END_TEST

START_TEST(answers_that_are_none)
{
    static uint8_t large[IO_SIZE];
    struct hl_error err = HL_ERROR_INIT;
    struct hl_value value = {.type = (enum hl_type)10};

    ck_assert_int_eq(instance_host_return(inst, &value, &err), -EBUSY);
    ck_assert_int_eq(instance_host_fail(inst, HL_STATUS_INTERNAL, 0, "", 0), -EBUSY);
    ck_assert_ptr_null(instance_host_call(inst));
    ask("f", "", 0);
    ck_assert_int_eq(instance_host_return(inst, &value, &err), -EINVAL);
    value = counted(HL_TYPE_STRING, "\xc0\x80", 2);
    ck_assert_int_eq(instance_host_return(inst, &value, &err), -EINVAL);
    value = counted(HL_TYPE_BYTES, large, IO_SIZE - 0x4000 - 48 + 1);
    ck_assert_int_eq(instance_host_return(inst, &value, &err), -EMSGSIZE);
    ck_assert_ptr_nonnull(strstr(err.text, "49104"));
    value.bytes.len = SIZE_MAX;
    ck_assert_int_eq(instance_host_return(inst, &value, &err), -EMSGSIZE);
    /* Not answered yet: the largest that fits is taken. */
    value.bytes.len = IO_SIZE - 0x4000 - 48;
    ck_assert_int_eq(instance_host_return(inst, &value, &err), 0);
    ck_assert_int_eq(instance_host_return(inst, &value, &err), -EBUSY);
    ck_assert_uint_eq(result().value.bytes.len, IO_SIZE - 0x4000 - 48);
    reset();
}
END_TEST

START_TEST(parked)
{
    struct instance_result r;
    uint64_t pages;

    ask("f", "abc", 3);
    ck_assert_int_eq(run(), INSTANCE_HOST_CALL);
    ck_assert_int_eq(instance_begin(inst, 0, NULL, 0, NULL), -EBUSY);
    ck_assert_int_eq(instance_result(inst, &r, NULL), -EBUSY);
    ck_assert_ptr_nonnull(instance_host_call(inst));
    /* A kick is for the next run of the guest. */
    instance_kick(inst);
    ck_assert_int_eq(run(), INSTANCE_HOST_CALL);
    ck_assert_int_eq(instance_host_return(inst, NULL, NULL), 0);
    ck_assert_int_eq(run(), INSTANCE_KICKED);
    ck_assert_int_ne(run(), INSTANCE_KICKED);

    bind_instance();
    ask("f", "abc", 3);
    ck_assert_int_eq(instance_reset(inst, true, &pages, NULL), 1);
    ck_assert_ptr_null(instance_unbind(inst));
    inst = NULL;
}
END_TEST

/* What was checked is what is used, whatever the guest's memory holds by then. */
START_TEST(copied_once)
{
    const struct instance_host_call *call;
    uint64_t reads = fake_count(FAKE_MEM_READ), writes;

    call = ask("f", "abc", 3);
    ck_assert_uint_eq(fake_count(FAKE_MEM_READ), reads + 1);
    fake_fail(FAKE_MEM_READ, 1, -EFAULT); /* nothing is read from here on */
    writes = fake_count(FAKE_MEM_WRITE);
    ck_assert_int_eq(memcmp(call->args[0].bytes.data, "abc", 3), 0);
    ck_assert_int_eq(instance_host_fail(inst, HL_STATUS_UNAVAILABLE, 0, "gone", 4), 0);
    ck_assert_uint_eq(fake_count(FAKE_MEM_WRITE), writes + 2);
    ck_assert_int_eq(result().code, 14);
    fake_fail(FAKE_MEM_READ, 0, 0);
    reset();
}
END_TEST

START_TEST(names)
{
    char too_long[HL_NAME_MAX + 2];
    const char *const bad[] = {"", "a b", "a/b", "\xc3\xa4", "a\n", too_long};
    char longest[HL_NAME_MAX + 1];
    struct hl_value args[2] = {{0}, counted(HL_TYPE_BYTES, "", 0)};

    memset(too_long, 'n', HL_NAME_MAX + 1);
    too_long[HL_NAME_MAX + 1] = '\0';
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        args[0] = counted(HL_TYPE_STRING, bad[i], strlen(bad[i]));
        begin("host_call", args, 2);
        ck_assert_int_eq(result().code, -EINVAL);
        reset();
    }
    memset(longest, '.', HL_NAME_MAX);
    longest[HL_NAME_MAX] = '\0';
    ck_assert_str_eq(ask(longest, "", 0)->name, longest);
}
END_TEST

/* ---- requests made by hand ---- */

struct request {
    struct hl_abi_host_call header;
    struct hl_abi_value args[HL_ABI_MAX_PARAMS];
    char bytes[64];
};

static struct request good_request(uint32_t nargs)
{
    struct request request = {.header = {.magic = HL_ABI_HOST_CALL_MAGIC,
                                         .nargs = nargs,
                                         .out = OUT,
                                         .size = OUT_SIZE,
                                         .name = "f"}};

    for (uint32_t i = 0; i < nargs; i++)
        request.args[i] = (struct hl_abi_value){.type = HL_ABI_U32, .bits = i};
    return request;
}

/* The request at addr, len bytes of it announced. */
static enum instance_state send_at(const struct request *request, uint64_t addr, uint64_t len)
{
    const struct hl_value args[] = {
        counted(HL_TYPE_BYTES, request, sizeof(*request)),
        {.type = HL_TYPE_U64, .u64 = addr},
        {.type = HL_TYPE_U64, .u64 = len},
    };

    bind_instance();
    begin("host_raw", args, 3);
    return run();
}

/* What the hypercall returned. */
static int64_t refused_at(const struct request *request, uint64_t addr, uint64_t len)
{
    enum instance_state state = send_at(request, addr, len);
    struct instance_result r;

    ck_assert_msg(state == INSTANCE_DONE, "state %d", (int)state);
    ck_assert_int_eq(instance_result(inst, &r, NULL), 0);
    reset();
    return r.value.i64;
}

static void broken(const struct request *request, uint64_t len)
{
    enum instance_state state = send_at(request, REQUEST, len);

    ck_assert_msg(state == INSTANCE_FAULT, "state %d", (int)state);
    ck_assert_int_eq(instance_failure(inst)->end, INSTANCE_END_PROTOCOL);
    ck_assert_ptr_nonnull(strstr(instance_failure(inst)->text, "host function"));
}

START_TEST(requests_that_lie)
{
    static const struct hl_abi_value bad[] = {
        {.type = HL_ABI_VOID},
        {.type = 10},
        {.type = UINT32_MAX},
        {.type = HL_ABI_U32, .len = 1},
        {.type = HL_ABI_U32, .bits = 1ull << 32},
        {.type = HL_ABI_I32, .bits = 1ull << 31},
        {.type = HL_ABI_BOOL, .bits = 2},
        {.type = HL_ABI_F32, .bits = UINT64_MAX},
        {.type = HL_ABI_BYTES, .len = 1, .bits = 0},       /* the header */
        {.type = HL_ABI_BYTES, .len = 1, .bits = 88 + 15}, /* a value */
        {.type = HL_ABI_BYTES, .len = 65, .bits = 104},
        {.type = HL_ABI_BYTES, .len = 1, .bits = 168},
        {.type = HL_ABI_BYTES, .len = 2, .bits = UINT64_MAX},
        {.type = HL_ABI_BYTES, .len = UINT32_MAX, .bits = 104},
        {.type = HL_ABI_STRING, .len = 8, .bits = 1ull << 63},
    };
    struct request request = good_request(1);

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        request.args[0] = bad[i];
        broken(&request, 168);
    }
    request = good_request(1);
    for (uint64_t len = 0; len < 104; len += 13)
        broken(&request, len);
    broken(&request, 103);
    request.header.magic++;
    broken(&request, 104);
    request = good_request(0);
    request.header.nargs = HL_ABI_MAX_PARAMS + 1;
    broken(&request, sizeof(request));
    request.header.nargs = UINT32_MAX;
    broken(&request, sizeof(request));
}
END_TEST

START_TEST(requests_that_err)
{
    struct request request = good_request(1);

    ck_assert_int_eq(refused_at(&request, REQUEST, IO_SIZE + 1), -EMSGSIZE);
    ck_assert_int_eq(refused_at(&request, REQUEST, UINT64_MAX), -EMSGSIZE);
    ck_assert_int_eq(refused_at(&request, 0, 104), -EFAULT);
    ck_assert_int_eq(refused_at(&request, MEMORY - 103, 104), -EFAULT);
    ck_assert_int_eq(refused_at(&request, MEMORY, 104), -EFAULT);
    ck_assert_int_eq(refused_at(&request, UINT64_MAX - 50, 104), -EFAULT);
    ck_assert_int_eq(refused_at(&request, 1ull << 63, 104), -EFAULT);
    request.args[0] = (struct hl_abi_value){.type = HL_ABI_STRING, .len = 2, .bits = 104};
    memcpy((uint8_t *)&request + 104, "\xff\xff", 2);
    ck_assert_int_eq(refused_at(&request, REQUEST, 106), -EILSEQ);
    /* An error does not hide what is broken. */
    request.header.name[0] = '/';
    request.header.nargs = 2;
    request.args[1].type = 77;
    broken(&request, 120);
    /* Sixteen of them, at an odd address, up to the last byte of memory. */
    request = good_request(HL_ABI_MAX_PARAMS);
    ck_assert_int_eq(send_at(&request, MEMORY - 344, 344), INSTANCE_HOST_CALL);
    ck_assert_uint_eq(instance_host_call(inst)->nargs, 16);
    ck_assert_uint_eq(instance_host_call(inst)->args[15].u32, 15);
    ck_assert_int_eq(send_at(&request, REQUEST + 1, 344), INSTANCE_HOST_CALL);
}
END_TEST

START_TEST(every_type)
{
    static const struct hl_abi_value values[] = {
        {.type = HL_ABI_I32, .bits = UINT64_MAX},
        {.type = HL_ABI_U32, .bits = UINT32_MAX},
        {.type = HL_ABI_I64, .bits = 1ull << 63},
        {.type = HL_ABI_U64, .bits = UINT64_MAX},
        {.type = HL_ABI_F32, .bits = 0xbf800000},
        {.type = HL_ABI_F64, .bits = 0x3ff8000000000000},
        {.type = HL_ABI_BOOL, .bits = 1},
        {.type = HL_ABI_BYTES, .len = 0, .bits = UINT64_MAX},
        {.type = HL_ABI_STRING, .len = 0, .bits = 0},
    };
    struct request request = good_request(9);
    const struct hl_value *args;

    memcpy(request.args, values, sizeof(values));
    ck_assert_int_eq(send_at(&request, REQUEST, 88 + 9 * 16), INSTANCE_HOST_CALL);
    args = instance_host_call(inst)->args;
    for (size_t i = 0; i < 9; i++)
        ck_assert_uint_eq((uint32_t)args[i].type, values[i].type);
    ck_assert_int_eq(args[0].i32, -1);
    ck_assert_uint_eq(args[1].u32, UINT32_MAX);
    ck_assert_int_eq(args[2].i64, INT64_MIN);
    ck_assert_uint_eq(args[3].u64, UINT64_MAX);
    ck_assert(args[4].f32 == -1.0f && args[5].f64 == 1.5 && args[6].b);
    ck_assert_uint_eq(args[7].bytes.len + args[8].bytes.len, 0);
    ck_assert_int_eq(instance_host_return(inst, &args[3], NULL), 0); /* its own copy will do */
    ck_assert_int_eq(result().value.i64, 0);
}
END_TEST

/* ---- buffers for the answer ---- */

static int64_t refused_buffer(uint64_t out, uint64_t size)
{
    struct request request = good_request(0);

    request.header.out = out;
    request.header.size = size;
    return refused_at(&request, REQUEST, 88);
}

START_TEST(buffers_that_err)
{
    const struct linux_state *at = snapshot_linux(snap);

    ck_assert_int_eq(refused_buffer(OUT, 0), -EMSGSIZE);
    ck_assert_int_eq(refused_buffer(OUT, 39), -EMSGSIZE);
    ck_assert_int_eq(refused_buffer(HL_ABI_INFO_ADDR, 64), -EFAULT);
    ck_assert_int_eq(refused_buffer(HL_ABI_HYPERCALL_ADDR, 64), -EFAULT);
    ck_assert_int_eq(refused_buffer(FAKE_TABLE_ADDR, 64), -EFAULT); /* the program's constants */
    ck_assert_int_eq(refused_buffer(0, 64), -EFAULT);
    ck_assert_int_eq(refused_buffer(HL_ABI_IO_ADDR - 1, 64), -EFAULT);
    ck_assert_int_eq(refused_buffer(HL_ABI_IO_ADDR + IO_SIZE - 63, 64), -EFAULT);
    ck_assert_int_eq(refused_buffer(at->map_top - 32, 64), -EFAULT);
    ck_assert_int_eq(refused_buffer(MEMORY - 63, 64), -EFAULT);
    ck_assert_int_eq(refused_buffer(MEMORY, 64), -EFAULT);
    ck_assert_int_eq(refused_buffer(UINT64_MAX - 20, 64), -EFAULT);
    ck_assert_int_eq(refused_buffer(UINT64_MAX - 20, UINT64_MAX), -EFAULT);
    ck_assert_int_eq(refused_buffer(OUT, UINT64_MAX),
                     -EFAULT); /* as large as the window, no more */
}
END_TEST

static struct {
    uint64_t out;
    struct hl_abi_result header;
    char bytes[16];
} seen;

static int look(struct hv_machine *m, uint64_t until_ns, struct hv_exit *exit, void *opaque)
{
    (void)opaque;
    memcpy(&seen.header, fake_memory(m) + seen.out, sizeof(seen.header));
    memcpy(seen.bytes, fake_memory(m) + seen.out + 48, sizeof(seen.bytes));
    return fake_run(m, until_ns, exit);
}

/* Returns: how the guest went on. */
static enum instance_state answered_at(uint64_t out, uint64_t size)
{
    const struct hl_value value = counted(HL_TYPE_BYTES, "0123456789abcdef", 16);
    struct request request = good_request(0);
    enum instance_state state;

    request.header.out = out;
    request.header.size = size;
    ck_assert_int_eq(send_at(&request, REQUEST, 88), INSTANCE_HOST_CALL);
    ck_assert_int_eq(instance_host_return(inst, &value, NULL), 0);
    seen.out = out;
    fake_set_run(look, NULL);
    state = run();
    fake_set_run(NULL, NULL);
    ck_assert_uint_eq(seen.header.magic, HL_ABI_RESULT_MAGIC);
    ck_assert_uint_eq(seen.header.value.bits, 48);
    ck_assert_int_eq(memcmp(seen.bytes, "0123456789abcdef", 16), 0);
    if (state == INSTANCE_DONE)
        reset();
    return state;
}

START_TEST(buffers_anywhere)
{
    ck_assert_int_eq(answered_at(HL_ABI_IO_ADDR + IO_SIZE - 64, 64), INSTANCE_DONE);
    ck_assert_int_eq(answered_at(REQUEST, 64), INSTANCE_DONE); /* over the request */
    ck_assert_int_eq(answered_at(REQUEST + 40, 64), INSTANCE_DONE);
    ck_assert_int_eq(answered_at(snapshot_linux(snap)->brk_start + 1, 64), INSTANCE_DONE);
    ck_assert_int_eq(answered_at(MEMORY - 64, 64), INSTANCE_DONE);
    /* Over the call's own header: this guest does not survive that. */
    ck_assert_int_eq(answered_at(HL_ABI_IO_ADDR, UINT64_MAX), INSTANCE_FAULT);
}
END_TEST

START_TEST(the_smallest_buffer)
{
    const struct hl_value number = u32(7), empty = counted(HL_TYPE_BYTES, "", 0);
    struct hl_value value = counted(HL_TYPE_BYTES, "a", 1);
    struct request request = good_request(0);
    struct hl_error err = HL_ERROR_INIT;

    request.header.size = 40;
    ck_assert_int_eq(send_at(&request, REQUEST, 88), INSTANCE_HOST_CALL);
    ck_assert_int_eq(instance_host_return(inst, &value, &err), -EMSGSIZE);
    ck_assert_int_eq(instance_host_fail(inst, HL_STATUS_RESOURCE_EXHAUSTED, 0, "text", 4), 0);
    ck_assert_int_eq(result().value.i64, 0);
    ck_assert_int_eq(send_at(&request, REQUEST, 88), INSTANCE_HOST_CALL);
    ck_assert_int_eq(instance_host_return(inst, &number, &err), 0);
    ck_assert_int_eq(send_at(&request, REQUEST, 88), INSTANCE_HOST_CALL);
    ck_assert_int_eq(instance_host_return(inst, &empty, &err), 0);
    ck_assert_int_eq(result().value.i64, 0);
    reset();
}
END_TEST

/* ---- start-up ---- */

static int call_too_early(struct hv_machine *m, uint64_t until_ns, struct hv_exit *exit,
                          void *opaque)
{
    struct hl_abi_result *answer = opaque;
    struct request request = good_request(0);

    if (!fake_at_start(m))
        return fake_run(m, until_ns, exit);
    if (fake_step(m) == 0) {
        fake_write(m, REQUEST, &request, sizeof(request));
        return fake_exit_hypercall(exit, HL_HYPERCALL_HOST_CALL, REQUEST, 88, 0);
    }
    ck_assert_uint_eq(fake_returned(m), 0);
    memcpy(answer, fake_memory(m) + OUT, sizeof(*answer));
    return fake_run(m, until_ns, exit);
}

START_TEST(denied_in_start_up)
{
    struct hl_abi_result answer = {0};

    snapshot_unref(snap);
    fake_set_run(call_too_early, &answer);
    build();
    ck_assert_uint_eq(answer.magic, HL_ABI_RESULT_MAGIC);
    ck_assert_uint_eq(answer.error, HL_STATUS_PERMISSION_DENIED);
    ck_assert_uint_gt(answer.text_len, 0);
    fake_set_run(NULL, NULL);
    bind_instance();
    ask("f", "", 0);
}
END_TEST

int main(void)
{
    TCase *tc = tcase_create("host_call");

    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, a_call_and_its_result);
    tcase_add_test(tc, errors_travel);
    tcase_add_test(tc, texts_are_made_to_fit);
    tcase_add_test(tc, thousands_in_a_row);
    tcase_add_test(tc, answers_that_are_none);
    tcase_add_test(tc, parked);
    tcase_add_test(tc, copied_once);
    tcase_add_test(tc, names);
    tcase_add_test(tc, requests_that_lie);
    tcase_add_test(tc, requests_that_err);
    tcase_add_test(tc, every_type);
    tcase_add_test(tc, buffers_that_err);
    tcase_add_test(tc, buffers_anywhere);
    tcase_add_test(tc, the_smallest_buffer);
    tcase_add_test(tc, denied_in_start_up);
    return tests_run(tc, "host_call");
}
