/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The built-in guest of the fake backend: what a guest library and its program would do, in C on
 * the host. Each call of run moves it one exit on.
 */
#include "config.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>

#include "guest/hl_abi.h"
#include "tests/fake/fake_internal.h"

#define SCRATCH 0x1000u /* offset in the window for texts of the guest's own */
#define ANSWER  0x4000u /* and for answers of host functions, up to the window's end */

struct call {
    struct hv_machine *m;
    uint64_t until_ns;
    struct hv_exit *exit;
    struct hl_abi_call header;
    struct hl_abi_value args[HL_ABI_MAX_PARAMS];
    unsigned int step; /* exits of this call so far */
};

static const uint8_t *window(const struct call *c)
{
    return c->m->memory + HL_ABI_IO_ADDR;
}

static void write_window(struct call *c, uint64_t offset, const void *data, size_t len)
{
    fake_write(c->m, HL_ABI_IO_ADDR + offset, data, len);
}

static int done_at(struct call *c, uint64_t offset, const struct hl_abi_result *result)
{
    write_window(c, offset, result, sizeof(*result));
    return fake_exit_hypercall(c->exit, HL_HYPERCALL_DONE, offset, 0, 0);
}

/* Behind the arguments, or over them when they fill the window. */
static int done(struct call *c, uint32_t type, uint64_t bits, uint32_t len)
{
    struct hl_abi_result result = {.magic = HL_ABI_RESULT_MAGIC,
                                   .value = {.type = type, .len = len, .bits = bits}};
    uint64_t offset = (c->header.size + 7u) & ~7ull;

    if (offset + sizeof(result) <= c->m->io_size)
        return done_at(c, offset, &result);
    memmove(c->m->memory + HL_ABI_IO_ADDR + sizeof(result), window(c) + bits, len);
    fake_write(c->m, HL_ABI_IO_ADDR + sizeof(result), window(c) + sizeof(result), len);
    result.value.bits = sizeof(result);
    return done_at(c, 0, &result);
}

static int call_nothing(struct call *c)
{
    return done(c, HL_ABI_VOID, 0, 0);
}

static int call_same(struct call *c)
{
    return done(c, c->args[0].type, c->args[0].bits, c->args[0].len);
}

static int call_add(struct call *c)
{
    int32_t sum = (int32_t)((uint32_t)c->args[0].bits + (uint32_t)c->args[1].bits);

    return done(c, HL_ABI_I32, (uint64_t)(int64_t)sum, 0);
}

static int call_at(struct call *c)
{
    hl_gpa addr = HL_ABI_IO_ADDR + c->args[0].bits;
    uint64_t i = c->args[1].bits;
    const uint8_t *data = NULL;

    if (addr < HL_ABI_BULK_ADDR)
        data = window(c) + c->args[0].bits;
    for (unsigned int n = 0; n < c->m->nfiles; n++)
        if (c->m->files[n].addr == addr)
            data = c->m->files[n].data;
    if (!data || i >= c->args[0].len)
        return fake_exit_fault(c->exit, 14, 4, 0x400000, addr + i);
    return done(c, HL_ABI_U32, data[i], 0);
}

static int call_big(struct call *c)
{
    uint64_t n = c->args[0].bits, room = c->m->io_size - SCRATCH;

    for (uint64_t i = 0; i < n && i < room; i++)
        write_window(c, SCRATCH + i, "x", 1);
    return done(c, HL_ABI_BYTES, SCRATCH, (uint32_t)n);
}

static int call_fail(struct call *c)
{
    struct hl_abi_result result = {
        .magic = HL_ABI_RESULT_MAGIC,
        .error = 1,
        .code = (int32_t)c->args[0].bits,
        .text_len = c->args[1].len,
        .text = c->args[1].bits,
    };

    return done_at(c, (c->header.size + 7u) & ~7ull, &result);
}

static int call_log(struct call *c)
{
    if (c->step == 0)
        return fake_exit_hypercall(c->exit, HL_HYPERCALL_LOG, HL_ABI_LOG_INFO,
                                   HL_ABI_IO_ADDR + c->args[0].bits, c->args[0].len);
    return call_nothing(c);
}

static int call_print(struct call *c)
{
    const uint64_t args[6] = {1, HL_ABI_IO_ADDR + c->args[0].bits, c->args[0].len};

    return c->step == 0 ? fake_exit_syscall(c->exit, SYS_write, args) : call_nothing(c);
}

static int call_dirty(struct call *c)
{
    hl_gpa heap = snapshot_linux(c->m->snap)->brk_start;

    for (uint64_t i = 0; i < c->args[0].bits; i++)
        fake_write(c->m, heap + i * HL_ABI_PAGE_SIZE, "secret", 6);
    return call_nothing(c);
}

static int call_keep(struct call *c)
{
    hl_gpa heap = snapshot_linux(c->m->snap)->brk_start;
    uint32_t value = (uint32_t)c->args[0].bits, old;

    memcpy(&old, c->m->memory + heap, sizeof(old));
    fake_write(c->m, heap, &value, sizeof(value));
    return done(c, HL_ABI_U32, old, 0);
}

static int call_delay(struct call *c)
{
    if (c->m->wake_ns == 0)
        c->m->wake_ns = fake_now_ns() + c->args[0].bits * 1000000u;
    if (!fake_sleep(c->m, c->m->wake_ns, c->until_ns))
        return fake_exit_kicked(c->exit);
    return call_nothing(c);
}

static int call_hold(struct call *c)
{
    return fake_hold_call(c->m, c->until_ns) ? call_nothing(c) : fake_exit_kicked(c->exit);
}

static int call_spin(struct call *c)
{
    fake_sleep(c->m, UINT64_MAX, c->until_ns);
    return fake_exit_kicked(c->exit);
}

static int call_syscalls(struct call *c)
{
    const uint64_t args[6] = {0};

    return fake_exit_syscall(c->exit, SYS_getpid, args);
}

static int call_fault(struct call *c)
{
    return fake_exit_fault(c->exit, 14, 6, 0x400000, 0);
}

static int call_exit(struct call *c)
{
    const uint64_t args[6] = {c->args[0].bits};

    return fake_exit_syscall(c->exit, SYS_exit_group, args);
}

static int call_abort(struct call *c)
{
    return fake_exit_hypercall(c->exit, HL_HYPERCALL_ABORT, 3, HL_ABI_IO_ADDR + c->args[0].bits,
                               c->args[0].len);
}

static int call_bad_result(struct call *c)
{
    struct hl_abi_result result = {.magic = HL_ABI_RESULT_MAGIC, .value = {.type = HL_ABI_STRING}};

    switch (c->args[0].bits) {
    case 0:
        return fake_exit_hypercall(c->exit, HL_HYPERCALL_DONE, c->m->io_size - 8, 0, 0);
    case 1:
        return fake_exit_hypercall(c->exit, HL_HYPERCALL_DONE, 4, 0, 0);
    case 2:
        result.magic = 0;
        break;
    case 3:
        result.value.type = HL_ABI_U32;
        break;
    case 4:
        result.value.bits = UINT64_MAX - 1;
        result.value.len = 16;
        break;
    case 5:
        write_window(c, SCRATCH, "\xff", 1);
        result.value.bits = SCRATCH;
        result.value.len = 1;
        break;
    case 6:
        result.error = 2;
        break;
    case 7:
        return fake_exit_hypercall(c->exit, 99, 0, 0, 0);
    default:
        return fake_exit_hypercall(c->exit, HL_HYPERCALL_READY, 0, 0, 0);
    }
    return done_at(c, 64, &result);
}

static int call_die(struct call *c)
{
    (void)c;
    return -EIO;
}

/* One argument; its bytes, if it has any, are data. */
static int host_call(struct call *c, const char *name, size_t name_len, struct hl_abi_value value,
                     const void *data)
{
    struct {
        struct hl_abi_host_call header;
        struct hl_abi_value value;
    } request = {.header = {.magic = HL_ABI_HOST_CALL_MAGIC,
                            .nargs = 1,
                            .out = HL_ABI_IO_ADDR + ANSWER,
                            .size = c->m->io_size - ANSWER},
                 .value = value};
    uint64_t len = sizeof(request) + value.len;

    memcpy(request.header.name, name, name_len < HL_ABI_NAME_SIZE ? name_len : HL_ABI_NAME_SIZE);
    if (data)
        request.value.bits = sizeof(request);
    /* One that is too large is announced and not written. */
    if (len <= c->m->io_size - SCRATCH) {
        write_window(c, SCRATCH, &request, sizeof(request));
        if (data)
            write_window(c, SCRATCH + sizeof(request), data, value.len);
    }
    return fake_exit_hypercall(c->exit, HL_HYPERCALL_HOST_CALL, HL_ABI_IO_ADDR + SCRATCH, len, 0);
}

/* What became of it. Returns: whether there is a result; otherwise the call is to end with error.
 */
static bool host_answer(struct call *c, struct hl_abi_result *answer, struct hl_abi_result *error)
{
    *error = (struct hl_abi_result){.magic = HL_ABI_RESULT_MAGIC, .error = 1};
    memcpy(answer, window(c) + ANSWER, sizeof(*answer));
    if (c->m->returned != 0) {
        error->code = (int32_t)c->m->returned;
        return false;
    }
    error->code = (int32_t)answer->error;
    error->text_len = answer->text_len;
    error->text = ANSWER + answer->text;
    return answer->error == 0;
}

static int call_several(struct call *c, unsigned int times)
{
    const struct hl_abi_value arg = {.type = HL_ABI_BYTES, .len = c->args[1].len};
    struct hl_abi_result answer, error;
    uint8_t *data;
    int rc;

    if (c->step < times) {
        data = malloc(arg.len + 1u);
        if (!data)
            return -ENOMEM;
        memcpy(data, window(c) + c->args[1].bits, arg.len);
        rc = host_call(c, (const char *)window(c) + c->args[0].bits, c->args[0].len, arg, data);
        free(data);
        return rc;
    }
    if (!host_answer(c, &answer, &error))
        return done_at(c, 64, &error);
    answer.value.bits += ANSWER;
    return done_at(c, 64, &answer);
}

static int call_host_call(struct call *c)
{
    return call_several(c, 1);
}

static int call_host_insist(struct call *c)
{
    return call_several(c, FAKE_INSIST);
}

static int call_host_calls(struct call *c)
{
    const struct hl_abi_value arg = {.type = HL_ABI_U32, .bits = c->step};
    struct hl_abi_result answer, error;

    if (c->step == 0)
        c->m->sum = 0;
    else if (!host_answer(c, &answer, &error))
        return done_at(c, 64, &error);
    else
        c->m->sum += answer.value.bits;
    return c->step < c->args[0].bits ? host_call(c, "count", 5, arg, NULL)
                                     : done(c, HL_ABI_U64, c->m->sum, 0);
}

static int call_host_raw(struct call *c)
{
    uint64_t addr = c->args[1].bits, len = c->args[0].len;

    if (c->step > 0)
        return done(c, HL_ABI_I64, c->m->returned, 0);
    if (addr < c->m->size)
        fake_write(c->m, addr, window(c) + c->args[0].bits,
                   len < c->m->size - addr ? len : c->m->size - addr);
    return fake_exit_hypercall(c->exit, HL_HYPERCALL_HOST_CALL, addr, c->args[2].bits, 0);
}

static int call_entropy(struct call *c)
{
    uint32_t len = c->header.flags & HL_ABI_CALL_ENTROPY ? HL_ABI_ENTROPY_SIZE : 0;

    write_window(c, SCRATCH, &c->header.flags, 2);
    write_window(c, SCRATCH + 2, window(c) + c->header.size - len, len);
    return done(c, HL_ABI_BYTES, SCRATCH, 2 + len);
}

static int call_time(struct call *c)
{
    const uint64_t args[6] = {0};

    return c->step == 0 ? fake_exit_syscall(c->exit, SYS_time, args)
                        : done(c, HL_ABI_I64, c->m->returned, 0);
}

static const struct {
    const char *name;
    int (*run)(struct call *c);
} behaviours[] = {
    {"echo", call_same},
    {"echo_string", call_same},
    {"add", call_add},
    {"at", call_at},
    {"nothing", call_nothing},
    {"same_i32", call_same},
    {"same_u32", call_same},
    {"same_i64", call_same},
    {"same_u64", call_same},
    {"same_f32", call_same},
    {"same_f64", call_same},
    {"same_bool", call_same},
    {"big", call_big},
    {"fail", call_fail},
    {"log", call_log},
    {"print", call_print},
    {"dirty", call_dirty},
    {"keep", call_keep},
    {"delay", call_delay},
    {"hold", call_hold},
    {"spin", call_spin},
    {"syscalls", call_syscalls},
    {"fault", call_fault},
    {"exit", call_exit},
    {"abort", call_abort},
    {"bad_result", call_bad_result},
    {"die", call_die},
    {"host_call", call_host_call},
    {"host_calls", call_host_calls},
    {"host_insist", call_host_insist},
    {"host_raw", call_host_raw},
    {"entropy", call_entropy},
    {"time", call_time},
};

int fake_guest_call(struct hv_machine *m, uint64_t until_ns, struct hv_exit *exit)
{
    struct call c = {.m = m, .until_ns = until_ns, .exit = exit, .step = m->step};
    struct hl_abi_function function;

    memcpy(&c.header, window(&c), sizeof(c.header));
    if (c.header.magic == HL_ABI_CALL_MAGIC && c.header.nargs <= HL_ABI_MAX_PARAMS)
        memcpy(c.args, window(&c) + sizeof(c.header), c.header.nargs * sizeof(c.args[0]));
    else if (m->step == 0)
        return fake_exit_hypercall(exit, HL_HYPERCALL_ABORT, 1, 0, 0);
    memcpy(&function, m->memory + FAKE_TABLE_ADDR + c.header.function * sizeof(function),
           sizeof(function));
    for (size_t i = 0; i < sizeof(behaviours) / sizeof(behaviours[0]); i++) {
        int rc;

        if (strcmp(behaviours[i].name, function.name) != 0)
            continue;
        rc = behaviours[i].run(&c);
        if (rc == 0 && exit->kind != HV_EXIT_KICKED)
            m->step++;
        return rc;
    }
    return fake_exit_hypercall(exit, HL_HYPERCALL_ABORT, 2, 0, 0);
}

int fake_run(struct hv_machine *m, uint64_t until_ns, struct hv_exit *exit)
{
    bool kicked;

    pthread_mutex_lock(&m->lock);
    kicked = m->kicked;
    m->kicked = false;
    pthread_mutex_unlock(&m->lock);
    if (kicked)
        return fake_exit_kicked(exit);
    if (m->phase == FAKE_IN_CALL)
        return fake_guest_call(m, until_ns, exit);
    m->phase = FAKE_IN_CALL;
    return fake_exit_hypercall(exit, HL_HYPERCALL_READY, 0, 0, 0);
}
