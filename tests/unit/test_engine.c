/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Calls through a whole engine on the fake backend: results, every way a guest can end, deadlines,
 * bounds, cancel, drain. What clients do to their sockets is in test_conn.c, what shards do to each
 * other in test_pool.c, where calls run in test_run.c, images in test_images.c.
 */
#include "config.h"

#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "daemon/call.h"
#include "daemon/pool.h"
#include "daemon/program.h"
#include "hv/timer.h"
#include "proto/service.h"
#include "tests/fake/elf.h"
#include "tests/fake/fake.h"
#include "tests/unit/engine_tests.h"

static const struct rig_call spin = {.function = "spin", .call_id = 7};

/* --- results -------------------------------------------------------------------------------- */

/* A program is charged all of its memory while it starts, then what is kept of it. */
START_TEST(test_program_budget)
{
    struct hv_host_config host_config = {-1, -1};
    struct program_load load = {
        .hv = &hv_backend_fake, .snapshot_fd = -1, .init_deadline_ns = 10000 * MS};
    struct hl_error err = HL_ERROR_INIT;
    struct program *program;
    struct budget budget;
    uint64_t used;
    size_t len;
    uint8_t *elf = fake_elf_new(&len);

    fake_clear();
    ck_assert_int_eq(hv_backend_fake.host_open(&load.host, &host_config, &err), 0);
    budget_init(&budget);
    load.budget = &budget;
    load.entry.limits = limits;
    load.entry.size = len;
    load.fd = memfd_create("test", MFD_CLOEXEC);
    ck_assert_int_eq(write(load.fd, elf, len), (ssize_t)len);
    budget_set_limit(&budget, BUDGET_PROGRAMS, limits.memory + len - 1);
    ck_assert_int_eq(program_new(&program, &load, &err), -ENOBUFS);
    ck_assert_uint_eq(budget_used(&budget, BUDGET_PROGRAMS), 0);
    budget_set_limit(&budget, BUDGET_PROGRAMS, limits.memory + len);
    ck_assert_int_eq(program_new(&program, &load, &err), 0);
    used = budget_used(&budget, BUDGET_PROGRAMS);
    ck_assert_uint_ge(used, len);
    ck_assert_uint_lt(used, limits.memory);
    program_unref(program);
    ck_assert_uint_eq(budget_used(&budget, BUDGET_PROGRAMS), 0);
    hv_backend_fake.host_close(load.host);
    close(load.fd);
    free(elf);
}
END_TEST

/* Little room: the program that has no instance left makes it, and is built again when called. */
START_TEST(test_programs_make_room)
{
    const struct rig_call calls[] = {{.image = "test", .function = "nothing"},
                                     {.image = "b", .function = "nothing"},
                                     {.image = "c", .function = "nothing"}};
    int fd;

    settings.memory_budget = settings.maxima.memory = limits.memory;
    start();
    rig_add(&rig, "b", &limits);
    rig_add(&rig, "c", &limits);
    fd = rig_connect(&rig);
    for (uint32_t i = 0; i < 4; i++)
        ck_assert_int_eq(rig_call(fd, 2 * i + 1, &calls[i % 3]), 0);
    ck_assert_uint_eq(atomic_load(&rig.resolves), 4);
    close(fd);
    rig_stop(&rig);
}
END_TEST

/* Names by the hundred that the front does not answer for, in calls that are over at once. */
START_TEST(test_many_unknown_names)
{
    enum { COUNT = 600 };
    char name[16];
    struct rig_call call = {.image = name, .function = "nothing", .timeout_ns = 1};
    int fd;

    start();
    atomic_store(&rig.silent, true);
    fd = rig_connect(&rig);
    for (uint32_t i = 0; i < COUNT; i++) {
        int code;

        snprintf(name, sizeof(name), "name%u", i);
        code = rig_call(fd, 2 * i + 1, &call);
        ck_assert_int_eq(code, i < POOLS_RESOLVING_MAX ? HL_STATUS_DEADLINE_EXCEEDED
                                                       : HL_STATUS_RESOURCE_EXHAUSTED);
    }
    close(fd);
    rig_stop(&rig);
}
END_TEST

START_TEST(test_echo)
{
    const struct rig_call echo = {.function = "echo", .kind = ARG_BYTES, .data = "hello", .len = 5};
    Hl__V1__InvokeResponse *response;
    int fd;

    start();
    fd = rig_connect(&rig);
    for (uint32_t i = 0; i < 100; i++) {
        response = rig_invoke_response(fd, 2 * i + 1, &echo);
        ck_assert_ptr_nonnull(response);
        ck_assert_int_eq(response->outcome_case, HL__V1__INVOKE_RESPONSE__OUTCOME_RESULT);
        ck_assert_int_eq(response->result->kind_case, HL__V1__VALUE__KIND_DATA);
        ck_assert_uint_eq(response->result->data.len, 5);
        ck_assert_mem_eq(response->result->data.data, "hello", 5);
        ck_assert_str_eq(response->accounting->backend, "fake");
        ck_assert_uint_eq(response->accounting->instance_calls, i);
        ck_assert_uint_ge(response->accounting->total_ns, response->accounting->run_ns);
        hl__v1__invoke_response__free_unpacked(response, NULL);
    }
    ck_assert_uint_eq(rig.resolves, 1);
    ck_assert_uint_eq(rig_counter(fd, 1001, "ok"), 100);
    ck_assert_uint_eq(rig_counter(fd, 1003, "audits"), 100);
    ck_assert_uint_eq(rig_counter(fd, 1005, "instances_made"), 1);
    close(fd);
    rig_stop(&rig);
}
END_TEST

START_TEST(test_guest_error)
{
    const struct rig_call fail = {
        .function = "fail", .kind = ARG_CODE_TEXT, .i32 = {42}, .data = "why", .len = 3};
    Hl__V1__InvokeResponse *response;
    int fd;

    start();
    fd = rig_connect(&rig);
    response = rig_invoke_response(fd, 1, &fail);
    ck_assert_ptr_nonnull(response);
    ck_assert_int_eq(response->outcome_case, HL__V1__INVOKE_RESPONSE__OUTCOME_ERROR);
    ck_assert_int_eq(response->error->code, 42);
    ck_assert_str_eq(response->error->text, "why");
    hl__v1__invoke_response__free_unpacked(response, NULL);
    ck_assert_int_eq(rig_call(fd, 3, &nothing), 0);
    ck_assert_uint_eq(rig_counter(fd, 5, "instances_made"), 1);
    close(fd);
    rig_stop(&rig);
}
END_TEST

START_TEST(test_wrong_arguments)
{
    const struct rig_call calls[] = {
        {.function = "add", .kind = ARG_BYTES, .data = "x", .len = 1},
        {.function = "echo", .kind = ARG_U32, .u32 = 3},
        {.function = "echo_string", .kind = ARG_STRING, .data = "\xff", .len = 1},
    };
    const struct rig_call unknown = {.function = "no_such"},
                          nowhere = {.image = "none", .function = "nothing"};
    const struct rig_call badly = {.image = "../none", .function = "nothing"};
    int fd;

    start();
    fd = rig_connect(&rig);
    for (uint32_t i = 0; i < 3; i++)
        ck_assert_int_eq(rig_call(fd, 2 * i + 1, &calls[i]), HL_STATUS_INVALID_ARGUMENT);
    ck_assert_int_eq(rig_call(fd, 11, &unknown), HL_STATUS_NOT_FOUND);
    ck_assert_int_eq(rig_call(fd, 13, &nowhere), HL_STATUS_NOT_FOUND);
    ck_assert_int_eq(rig_call(fd, 15, &nowhere), HL_STATUS_NOT_FOUND);
    ck_assert_int_eq(rig_call(fd, 17, &badly), HL_STATUS_INVALID_ARGUMENT);
    ck_assert_uint_eq(rig.resolves, 3); /* that a name is unknown is not remembered */
    ck_assert_uint_eq(rig_counter(fd, 19, "instances_made"), 0);
    close(fd);
    rig_stop(&rig);
}
END_TEST

/* A guest whose every result is its whole window of 5 MiB. */
static int answer_window(struct hv_machine *m, uint64_t until_ns, struct hv_exit *out, void *opaque)
{
    const uint32_t len = 5u << 20;
    const struct hl_abi_result result = {
        .magic = HL_ABI_RESULT_MAGIC,
        .value = {.type = HL_ABI_BYTES, .len = len - 4096, .bits = 4096}};

    (void)until_ns;
    (void)opaque;
    if (fake_at_start(m))
        return fake_run(m, until_ns, out);
    fake_write(m, HL_ABI_IO_ADDR, &result, sizeof(result));
    return fake_exit_hypercall(out, HL_HYPERCALL_DONE, 0, 0, 0);
}

/* A result that no frame carries. */
START_TEST(test_result_too_large)
{
    const struct hl_abi_function big = FAKE_FUNCTION("big", HL_ABI_BYTES, 0, 0);
    struct rig_response response;
    uint8_t *elf;
    size_t len;
    int fd;

    limits.io_size = 5u << 20;
    start();
    elf = fake_elf_with(&big, 1, 3 /* ET_DYN */, &len);
    rig_add_raw(&rig, "big", &limits, elf, len);
    free(elf);
    fake_set_run(answer_window, NULL);
    fd = rig_connect(&rig);
    rig_invoke(fd, 1, &(struct rig_call){.image = "big", .function = "big"});
    ck_assert(rig_receive(fd, &response));
    ck_assert_msg(response.envelope.code == HL_STATUS_RESOURCE_EXHAUSTED, "%s", response.message);
    ck_assert_ptr_nonnull(strstr(response.message, "4194304"));
    rig_response_free(&response);
    fake_set_run(NULL, NULL);
    close(fd);
    rig_stop(&rig);
}
END_TEST

/* --- every end of a guest ------------------------------------------------------------------- */

static const struct rig_call ends[] = {
    {.function = "fault"},
    {.function = "die"},
    {.function = "abort", .kind = ARG_STRING, .data = "enough", .len = 6},
    {.function = "bad_result", .kind = ARG_U32, .u32 = 0},
    {.function = "bad_result", .kind = ARG_U32, .u32 = 1},
    {.function = "bad_result", .kind = ARG_U32, .u32 = 2},
    {.function = "bad_result", .kind = ARG_U32, .u32 = 3},
    {.function = "bad_result", .kind = ARG_U32, .u32 = 4},
    {.function = "bad_result", .kind = ARG_U32, .u32 = 5},
    {.function = "bad_result", .kind = ARG_U32, .u32 = 6},
    {.function = "bad_result", .kind = ARG_U32, .u32 = 7},
    {.function = "bad_result", .kind = ARG_U32, .u32 = 8},
    {.function = "big", .kind = ARG_U32, .u32 = 64u << 20},
};

#define NENDS ((uint32_t)(sizeof(ends) / sizeof(ends[0])))

START_TEST(test_guest_ends)
{
    int fd;

    start();
    fd = rig_connect(&rig);
    for (uint32_t i = 0; i < NENDS; i++) {
        struct rig_response response;
        struct envelope_any any;
        size_t cursor = 0;

        rig_invoke(fd, 4 * i + 1, &ends[i]);
        ck_assert(rig_receive(fd, &response));
        ck_assert_msg(response.envelope.code == HL_STATUS_ABORTED, "%s %u: %d %s", ends[i].function,
                      ends[i].u32, response.envelope.code, response.message);
        ck_assert(envelope_next_detail(&response.envelope, &cursor, &any));
        ck_assert(envelope_view_equal(any.type_url, DETAIL_GUEST_FAULT));
        rig_response_free(&response);
        ck_assert_int_eq(rig_call(fd, 4 * i + 3, &nothing), 0);
    }
    ck_assert_uint_eq(rig_counter(fd, 1001, "faults"), NENDS);
    ck_assert_uint_ge(rig_counter(fd, 1003, "instances_destroyed"), NENDS);
    close(fd);
    rig_stop(&rig);
}
END_TEST

/* Each operation of the backend fails once: that call is answered, the next one works. */
START_TEST(test_backend_failures)
{
    static const enum fake_op ops[] = {FAKE_MACHINE_NEW, FAKE_BIND, FAKE_RUN};
    int fd;

    start();
    fd = rig_connect(&rig);
    ck_assert_int_eq(rig_call(fd, 1, &nothing), 0);
    for (uint32_t i = 0; i < 3; i++) {
        const struct rig_call fault = {.function = "fault"};
        int code;

        settings.shells = 0;
        fake_fail(ops[i], 1, -EIO);
        /* The machine that is there is used up, so that a new one is needed: now, or by the
         * replacement made behind the reply. */
        ck_assert_int_eq(rig_call(fd, 20 * i + 11, &fault), HL_STATUS_ABORTED);
        code = rig_call(fd, 20 * i + 13, &nothing);
        ck_assert_msg(code == 0 || code == HL_STATUS_INTERNAL || code == HL_STATUS_ABORTED,
                      "%d: %d", ops[i], code);
        fake_fail(ops[i], 1, 0);
        ck_assert_int_eq(rig_call(fd, 20 * i + 15, &nothing), 0);
    }
    close(fd);
    rig_stop(&rig);
}
END_TEST

START_TEST(test_reset_and_audit_fail)
{
    int fd;

    start();
    fd = rig_connect(&rig);
    ck_assert_int_eq(rig_call(fd, 1, &nothing), 0);
    fake_fail(FAKE_AUDIT, 1, 1);
    ck_assert_int_eq(rig_call(fd, 3, &nothing), 0); /* answered before the reset */
    ck_assert_int_eq(rig_call(fd, 5, &nothing), 0);
    ck_assert_uint_eq(rig_counter(fd, 7, "audit_failures"), 1);
    fake_fail(FAKE_RESET, 1, 1);
    ck_assert_int_eq(rig_call(fd, 9, &nothing), 0);
    ck_assert_uint_eq(rig_counter(fd, 11, "instances_destroyed"), 2); /* the reset is over */
    fake_fail(FAKE_RESET, 1, -EIO);
    ck_assert_int_eq(rig_call(fd, 13, &nothing), 0);
    ck_assert_int_eq(rig_call(fd, 15, &nothing), 0);
    ck_assert_uint_eq(rig_counter(fd, 17, "instances_destroyed"), 3);
    close(fd);
    rig_stop(&rig);
}
END_TEST

/* A reset that leaves out the memory is found by the audit. */
START_TEST(test_audit_finds)
{
    const struct rig_call dirty = {.function = "dirty", .kind = ARG_U32, .u32 = 3};
    int fd;

    rig_start(&rig, &settings, HV_SKIP_MEMORY);
    rig_add(&rig, "test", &limits);
    fd = rig_connect(&rig);
    ck_assert_int_eq(rig_call(fd, 1, &dirty), 0);
    ck_assert_int_eq(rig_call(fd, 3, &nothing), 0);
    ck_assert_uint_eq(rig_counter(fd, 5, "audit_failures"), 1);
    close(fd);
    rig_stop(&rig);
}
END_TEST

/* --- deadlines ------------------------------------------------------------------------------ */

START_TEST(test_deadline_of_request)
{
    struct rig_call call = spin;
    uint32_t stream = 1;
    uint64_t before, calls = 0;
    int fd;

    start();
    fd = rig_connect(&rig);
    ck_assert_int_eq(rig_call(fd, stream, &nothing), 0);
    /* Others have their turns: one that gets enough of the time goes to another thread. */
    for (call.timeout_ns = 20 * MS; calls == 0 || rig_counter(fd, stream += 2, "long_runs") == 0;
         call.timeout_ns *= 2) {
        ck_assert_int_lt(call.timeout_ns, 5000 * MS);
        before = hv_now_ns();
        ck_assert_int_eq(rig_call(fd, stream += 2, &call), HL_STATUS_DEADLINE_EXCEEDED);
        ck_assert_uint_ge(hv_now_ns() - before, (uint64_t)call.timeout_ns);
        ck_assert_int_eq(rig_call(fd, stream += 2, &nothing), 0);
        ck_assert_uint_eq(rig_counter(fd, stream += 2, "deadlines"), ++calls);
    }
    close(fd);
    rig_stop(&rig);
}
END_TEST

START_TEST(test_deadline_of_image_and_maximum)
{
    struct rig_call call = spin;
    int fd;

    limits.deadline_ns = 20 * MS;
    settings.max_deadline_ns = 50 * MS;
    start();
    fd = rig_connect(&rig);
    ck_assert_int_eq(rig_call(fd, 1, &call), HL_STATUS_DEADLINE_EXCEEDED);
    call.timeout_ns = 3600000 * (int64_t)MS; /* cut at the maximum, or the test would hang */
    ck_assert_int_eq(rig_call(fd, 3, &call), HL_STATUS_DEADLINE_EXCEEDED);
    close(fd);
    rig_stop(&rig);
}
END_TEST

/* Time in queue counts: the second call never runs. */
START_TEST(test_deadline_in_queue)
{
    struct rig_call call = spin;
    struct rig_response response;
    int fd;

    limits.max_instances = 1;
    start();
    fd = rig_connect(&rig);
    rig_invoke(fd, 1, &call);
    call.timeout_ns = 20 * MS;
    call.call_id = 8;
    rig_invoke(fd, 3, &call);
    ck_assert(rig_receive(fd, &response));
    ck_assert_uint_eq(response.stream, 3);
    ck_assert_int_eq(response.envelope.code, HL_STATUS_DEADLINE_EXCEEDED);
    ck_assert_ptr_nonnull(strstr(response.message, "waited"));
    rig_response_free(&response);
    close(fd);
    rig_stop(&rig);
}
END_TEST

/* Several calls that never end share the shard with one that does. */
START_TEST(test_no_call_holds_the_shard)
{
    struct rig_call call = spin;
    struct rig_response response;
    int fd, other;

    start();
    fd = rig_connect(&rig);
    other = rig_connect(&rig);
    for (uint32_t i = 0; i < 3; i++) {
        call.timeout_ns = 100 * MS;
        rig_invoke(fd, 2 * i + 1, &call);
    }
    for (uint32_t i = 0; i < 20; i++)
        ck_assert_int_eq(rig_call(other, 2 * i + 1, &nothing), 0);
    for (uint32_t i = 0; i < 3; i++) {
        ck_assert(rig_receive(fd, &response));
        ck_assert_int_eq(response.envelope.code, HL_STATUS_DEADLINE_EXCEEDED);
        rig_response_free(&response);
    }
    close(fd);
    close(other);
    rig_stop(&rig);
}
END_TEST

/* --- bounds --------------------------------------------------------------------------------- */

static void expect_refusal(int fd, const char *bound)
{
    struct rig_response response;

    ck_assert(rig_receive(fd, &response));
    ck_assert_int_eq(response.envelope.code, HL_STATUS_RESOURCE_EXHAUSTED);
    ck_assert_msg(strstr(response.message, bound) != NULL, "%s", response.message);
    rig_response_free(&response);
}

START_TEST(test_queue_of_image)
{
    int fd;

    limits.max_instances = 1;
    limits.max_queue = 2;
    start();
    fd = rig_connect(&rig);
    ck_assert_int_eq(rig_call(fd, 1, &nothing), 0);
    for (uint32_t i = 1; i < 5; i++)
        rig_invoke(fd, 2 * i + 1, &spin);
    expect_refusal(fd, "max_queue is 2");
    close(fd);
    rig_stop(&rig);
}
END_TEST

START_TEST(test_queue_of_client)
{
    int fd, other;

    limits.max_instances = 1;
    settings.max_queue_per_client = 2;
    start();
    fd = rig_connect(&rig);
    other = rig_connect(&rig);
    ck_assert_int_eq(rig_call(fd, 1, &nothing), 0);
    for (uint32_t i = 1; i < 5; i++)
        rig_invoke(fd, 2 * i + 1, &spin);
    expect_refusal(fd, "max_queue_per_client is 2");
    rig_invoke(other, 1, &spin); /* has a queue of its own */
    rig_cancel(other, 3, 7);
    ck_assert_uint_eq(rig_counter(fd, 21, "queue_refused"), 1);
    close(fd);
    close(other);
    rig_stop(&rig);
}
END_TEST

/* Calls that wait for their program count as well. */
START_TEST(test_queue_while_resolving)
{
    int fd;

    settings.max_queue_per_client = 3;
    start();
    rig.silent = true;
    fd = rig_connect(&rig);
    for (uint32_t i = 0; i < 4; i++)
        rig_invoke(fd, 2 * i + 1, &nothing);
    expect_refusal(fd, "max_queue_per_client is 3");
    close(fd);
    rig_drain(&rig, 100 * MS);
    rig.drained = true;
    rig_stop(&rig);
}
END_TEST

START_TEST(test_parked_calls_all_run)
{
    struct rig_response response;
    int fd;

    start();
    fd = rig_connect(&rig);
    for (uint32_t i = 0; i < 10; i++)
        rig_invoke(fd, 2 * i + 1, &nothing);
    for (uint32_t i = 0; i < 10; i++) {
        ck_assert(rig_receive(fd, &response));
        ck_assert_uint_eq(response.stream, 2 * i + 1); /* first come, first served */
        ck_assert_int_eq(response.envelope.code, 0);
        rig_response_free(&response);
    }
    ck_assert_uint_eq(rig.resolves, 1);
    ck_assert_uint_eq(rig_counter(fd, 101, "instances_made"), 1);
    close(fd);
    rig_stop(&rig);
}
END_TEST

START_TEST(test_memory_over_budget)
{
    int fd;

    settings.memory_budget = 8u << 20;
    start();
    fd = rig_connect(&rig);
    ck_assert_int_eq(rig_call(fd, 1, &nothing), HL_STATUS_RESOURCE_EXHAUSTED);
    close(fd);
    rig_stop(&rig);
}
END_TEST

/* --- being stopped -------------------------------------------------------------------------- */

START_TEST(test_cancel)
{
    struct rig_response response;
    Hl__V1__CancelResponse *cancelled;
    int fd;

    limits.max_instances = 1;
    start();
    fd = rig_connect(&rig);
    rig_invoke(fd, 1, &spin);                                                   /* running */
    rig_invoke(fd, 3, &(struct rig_call){.function = "nothing", .call_id = 9}); /* waiting */
    for (uint32_t stream = 3; stream + 1 > 1; stream -= 2) {
        rig_cancel(fd, stream + 10 - 2 * (stream - 1), stream == 1 ? 7 : 9);
        ck_assert(rig_receive(fd, &response));
        ck_assert_uint_eq(response.stream, stream);
        ck_assert_int_eq(response.envelope.code, HL_STATUS_CANCELLED);
        rig_response_free(&response);
        ck_assert(rig_receive(fd, &response));
        cancelled = hl__v1__cancel_response__unpack(NULL, response.envelope.payload.len,
                                                    response.envelope.payload.data);
        ck_assert(cancelled->found);
        hl__v1__cancel_response__free_unpacked(cancelled, NULL);
        rig_response_free(&response);
        if (stream == 1)
            break;
    }
    ck_assert_int_eq(rig_call(fd, 21, &nothing), 0);
    rig_cancel(fd, 23, 12345);
    ck_assert(rig_receive(fd, &response));
    ck_assert_uint_eq(response.envelope.payload.len, 0); /* found is false */
    rig_response_free(&response);
    close(fd);
    rig_stop(&rig);
}
END_TEST

START_TEST(test_disconnect)
{
    uint32_t stream = 101;
    int fd, other;

    limits.max_instances = 1;
    start();
    fd = rig_connect(&rig);
    other = rig_connect(&rig);
    ck_assert_int_eq(rig_call(fd, 1, &nothing), 0);
    rig_invoke(fd, 3, &spin);
    rig_invoke(fd, 5, &spin);
    rig_await_counter(other, &stream, "queued", 2); /* the first call waited for the program */
    close(fd);
    rig_await_counter(other, &stream, "abandoned", 2);
    ck_assert_int_eq(rig_call(other, stream + 2, &nothing), 0);
    close(other);
    rig_stop(&rig);
}
END_TEST

START_TEST(test_drain)
{
    struct rig_response response;
    uint32_t stream = 101;
    int fd, other;

    start();
    fd = rig_connect(&rig);
    other = rig_connect(&rig);
    ck_assert_int_eq(rig_call(fd, 1, &nothing), 0);
    rig_invoke(fd, 3, &(struct rig_call){.function = "hold"});
    rig_await_held(1);
    rig_drain(&rig, 10000 * MS);
    rig.drained = true;
    for (int code = 0; code != HL_STATUS_UNAVAILABLE;) /* the drain travels by another way */
        code = rig_call(other, stream += 2, &nothing);
    fake_hold(false);
    ck_assert(rig_receive(fd, &response)); /* the running one is finished and answered */
    ck_assert_int_eq(response.envelope.code, 0);
    rig_response_free(&response);
    ck_assert(rig_closed(fd));
    rig_stop(&rig);
    close(fd);
    close(other);
}
END_TEST

START_TEST(test_drain_limit)
{
    struct rig_response response;
    int fd;

    start();
    fd = rig_connect(&rig);
    ck_assert_int_eq(rig_call(fd, 1, &nothing), 0);
    rig_invoke(fd, 3, &spin);
    rig_drain(&rig, 50 * MS);
    rig.drained = true;
    ck_assert(rig_receive(fd, &response));
    ck_assert_int_eq(response.envelope.code, HL_STATUS_UNAVAILABLE);
    rig_response_free(&response);
    ck_assert(rig_closed(fd));
    rig_stop(&rig);
    close(fd);
}
END_TEST

START_TEST(test_front_gone)
{
    int fd;

    start();
    fd = rig_connect(&rig);
    ck_assert_int_eq(rig_call(fd, 1, &nothing), 0);
    rig_abandon(&rig);
    ck_assert(rig_closed(fd));
    rig_stop(&rig);
    close(fd);
}
END_TEST

/* --- states --------------------------------------------------------------------------------- */

START_TEST(test_states)
{
    int allowed = 0;

    for (int from = 0; from < CALL_STATES; from++) {
        ck_assert(!call_may(from, from));
        ck_assert(!call_may(from, CALL_NEW));
        ck_assert(!call_may(CALL_OVER, from));
        for (int to = 0; to < CALL_STATES; to++)
            allowed += call_may(from, to);
    }
    ck_assert_int_eq(allowed, 12);
}
END_TEST

int main(void)
{
    TCase *tc = tests_begin("engine");

    tcase_add_test(tc, test_program_budget);
    tcase_add_test(tc, test_programs_make_room);
    tcase_add_test(tc, test_many_unknown_names);
    tcase_add_test(tc, test_echo);
    tcase_add_test(tc, test_guest_error);
    tcase_add_test(tc, test_wrong_arguments);
    tcase_add_test(tc, test_result_too_large);
    tcase_add_test(tc, test_guest_ends);
    tcase_add_test(tc, test_backend_failures);
    tcase_add_test(tc, test_reset_and_audit_fail);
    tcase_add_test(tc, test_audit_finds);
    tcase_add_test(tc, test_deadline_of_request);
    tcase_add_test(tc, test_deadline_of_image_and_maximum);
    tcase_add_test(tc, test_deadline_in_queue);
    tcase_add_test(tc, test_no_call_holds_the_shard);
    tcase_add_test(tc, test_queue_of_image);
    tcase_add_test(tc, test_queue_of_client);
    tcase_add_test(tc, test_queue_while_resolving);
    tcase_add_test(tc, test_parked_calls_all_run);
    tcase_add_test(tc, test_memory_over_budget);
    tcase_add_test(tc, test_cancel);
    tcase_add_test(tc, test_disconnect);
    tcase_add_test(tc, test_drain);
    tcase_add_test(tc, test_drain_limit);
    tcase_add_test(tc, test_front_gone);
    tcase_add_test(tc, test_states);
    return tests_run(tc, "engine");
}
