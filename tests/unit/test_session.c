/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sessions through a whole engine on the fake backend: state that stays, ways to fail and to come
 * back, turns of several clients on several shards, bounds, idle time, the engine's end.
 */
#include "config.h"

#include <check.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "hv/timer.h"
#include "tests/fake/fake.h"
#include "tests/unit/engine_tests.h"

static uint32_t stream = 1;

static uint32_t next_stream(void)
{
    return __atomic_fetch_add(&stream, 2, __ATOMIC_RELAXED);
}

/* --- requests ------------------------------------------------------------------------------- */

/* Returns: the status; out (unless NULL) the decoded answer to an OK. */
static int ask(int fd, const char *method, const ProtobufCMessage *request,
               const ProtobufCMessageDescriptor *type, ProtobufCMessage **out)
{
    struct rig_response response;
    int code;

    rig_request(fd, next_stream(), "hl.v1.Sessions", method, 0, request);
    ck_assert_msg(rig_receive(fd, &response), "the connection was closed");
    code = response.envelope.code;
    if (code == 0 && out) {
        *out = protobuf_c_message_unpack(type, NULL, response.envelope.payload.len,
                                         response.envelope.payload.data);
        ck_assert_ptr_nonnull(*out);
    }
    ck_assert(code == 0 || response.message[0] != '\0');
    rig_response_free(&response);
    return code;
}

static int open_image(int fd, const char *image, char id[40])
{
    Hl__V1__OpenSessionRequest request = HL__V1__OPEN_SESSION_REQUEST__INIT;
    ProtobufCMessage *out;
    int code;

    request.image = (char *)image;
    code = ask(fd, "Open", &request.base, &hl__v1__open_session_response__descriptor, &out);
    if (code == 0) {
        snprintf(id, 40, "%s", ((Hl__V1__OpenSessionResponse *)out)->session);
        protobuf_c_message_free_unpacked(out, NULL);
    }
    return code;
}

static void open_session(int fd, char id[40])
{
    ck_assert_int_eq(open_image(fd, "test", id), 0);
    ck_assert_uint_eq(strlen(id), 34);
}

static int checkpoint(int fd, const char *id, uint64_t *number)
{
    Hl__V1__CheckpointRequest request = HL__V1__CHECKPOINT_REQUEST__INIT;
    ProtobufCMessage *out;
    int code;

    request.session = (char *)id;
    code = ask(fd, "Checkpoint", &request.base, &hl__v1__checkpoint_response__descriptor, &out);
    if (code == 0) {
        *number = ((Hl__V1__CheckpointResponse *)out)->checkpoint;
        protobuf_c_message_free_unpacked(out, NULL);
    }
    return code;
}

static int rollback(int fd, const char *id, uint64_t number)
{
    Hl__V1__RollbackRequest request = HL__V1__ROLLBACK_REQUEST__INIT;

    request.session = (char *)id;
    request.checkpoint = number;
    return ask(fd, "Rollback", &request.base, NULL, NULL);
}

static int forget(int fd, const char *id, uint64_t number)
{
    Hl__V1__ForgetRequest request = HL__V1__FORGET_REQUEST__INIT;

    request.session = (char *)id;
    request.checkpoint = number;
    return ask(fd, "Forget", &request.base, NULL, NULL);
}

static int close_session(int fd, const char *id)
{
    Hl__V1__CloseSessionRequest request = HL__V1__CLOSE_SESSION_REQUEST__INIT;

    request.session = (char *)id;
    return ask(fd, "Close", &request.base, NULL, NULL);
}

static Hl__V1__ListSessionsResponse *list(int fd)
{
    Hl__V1__ListSessionsRequest request = HL__V1__LIST_SESSIONS_REQUEST__INIT;
    ProtobufCMessage *out;

    ck_assert_int_eq(
        ask(fd, "List", &request.base, &hl__v1__list_sessions_response__descriptor, &out), 0);
    return (Hl__V1__ListSessionsResponse *)out;
}

/* A call's status. */
static int call(int fd, const char *id, const char *function)
{
    return rig_call(fd, next_stream(), &(struct rig_call){.function = function, .session = id});
}

/* Begins a call that goes on until fake_hold(false), and waits until it is the nth that has begun.
 */
static void begin_hold(int fd, const char *id, unsigned int n)
{
    fake_hold(true);
    rig_invoke(fd, next_stream(), &(struct rig_call){.function = "hold", .session = id});
    rig_await_held(n);
}

static void end_hold(int fd)
{
    struct rig_response response;

    fake_hold(false);
    ck_assert(rig_receive(fd, &response));
    ck_assert_int_eq(response.envelope.code, 0);
    rig_response_free(&response);
}

static void await_counter(int fd, const char *name, uint64_t value)
{
    uint32_t from = next_stream();

    rig_await_counter(fd, &from, name, value);
    __atomic_store_n(&stream, from + 2, __ATOMIC_RELAXED);
}

static int delay(int fd, const char *id, uint32_t ms, int64_t timeout_ns)
{
    return rig_call(fd, next_stream(),
                    &(struct rig_call){.function = "delay",
                                       .session = id,
                                       .kind = ARG_U32,
                                       .u32 = ms,
                                       .timeout_ns = timeout_ns});
}

/* Stores value. Returns: what was there, or minus the status. */
static int64_t keep(int fd, const char *id, uint32_t value)
{
    const struct rig_call keep_call = {
        .function = "keep", .session = id, .kind = ARG_U32, .u32 = value};
    struct rig_response response;
    Hl__V1__InvokeResponse *message;
    int64_t old;

    rig_invoke(fd, next_stream(), &keep_call);
    ck_assert_msg(rig_receive(fd, &response), "the connection was closed");
    old = -(int64_t)response.envelope.code;
    if (old == 0) {
        message = hl__v1__invoke_response__unpack(NULL, response.envelope.payload.len,
                                                  response.envelope.payload.data);
        ck_assert(message && message->result);
        old = message->result->u32;
        hl__v1__invoke_response__free_unpacked(message, NULL);
    }
    rig_response_free(&response);
    return old;
}

/* --- state ---------------------------------------------------------------------------------- */

START_TEST(test_state_stays)
{
    char a[40], b[40];
    int fd;

    start();
    fd = rig_connect(&rig);
    open_session(fd, a);
    open_session(fd, b);
    ck_assert_str_ne(a, b);
    ck_assert_int_eq(keep(fd, a, 1), 0);
    ck_assert_int_eq(keep(fd, b, 7), 0);
    ck_assert_int_eq(keep(fd, NULL, 9), 0);
    ck_assert_int_eq(keep(fd, NULL, 9), 0); /* calls outside keep nothing */
    ck_assert_int_eq(keep(fd, a, 2), 1);
    ck_assert_int_eq(keep(fd, b, 8), 7);
    /* An error of the guest's own, and a request that never gets there. */
    ck_assert_int_eq(
        rig_call(
            fd, next_stream(),
            &(struct rig_call){
                .function = "fail", .session = a, .kind = ARG_CODE_TEXT, .data = "no", .len = 2}),
        0);
    ck_assert_int_eq(call(fd, a, "echo"), HL_STATUS_INVALID_ARGUMENT);
    ck_assert_int_eq(call(fd, a, "unknown"), HL_STATUS_NOT_FOUND);
    ck_assert_int_eq(
        rig_call(fd, next_stream(),
                 &(struct rig_call){.function = "nothing", .session = a, .image = "other"}),
        HL_STATUS_INVALID_ARGUMENT);
    ck_assert_int_eq(keep(fd, a, 3), 2);
    ck_assert_int_eq(close_session(fd, a), 0);
    ck_assert_int_eq(keep(fd, a, 4), -HL_STATUS_NOT_FOUND);
    ck_assert_int_eq(close_session(fd, a), HL_STATUS_NOT_FOUND);
    ck_assert_int_eq(keep(fd, b, 9), 8);
    /* It survives its client, and the engine's end it does not. */
    close(fd);
    fd = rig_connect(&rig);
    ck_assert_int_eq(keep(fd, b, 10), 9);
    close(fd);
    rig_stop(&rig);
}
END_TEST

START_TEST(test_ids)
{
    static const char *const bad[] = {"", "x", "0000000000000000000000000000000000x",
                                      "ff00000000000000000000000000000000",
                                      "0g00000000000000000000000000000000"};
    char id[40];
    int fd;

    start();
    fd = rig_connect(&rig);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        ck_assert_int_eq(close_session(fd, bad[i]), HL_STATUS_INVALID_ARGUMENT);
        ck_assert_int_eq(checkpoint(fd, bad[i], NULL), HL_STATUS_INVALID_ARGUMENT);
        ck_assert_int_eq(call(fd, bad[i], "nothing"), HL_STATUS_INVALID_ARGUMENT);
    }
    ck_assert_int_eq(call(fd, "0000000000000000000000000000000000", "nothing"),
                     HL_STATUS_NOT_FOUND);
    ck_assert_int_eq(open_image(fd, "unknown", id), HL_STATUS_NOT_FOUND);
    ck_assert_int_eq(open_image(fd, "-", id), HL_STATUS_INVALID_ARGUMENT);
    close(fd);
    rig_stop(&rig);
}
END_TEST

START_TEST(test_checkpoints)
{
    uint64_t one, two, three;
    char id[40];
    int fd;

    start();
    fd = rig_connect(&rig);
    open_session(fd, id);
    keep(fd, id, 1);
    ck_assert_int_eq(checkpoint(fd, id, &one), 0);
    keep(fd, id, 2);
    ck_assert_int_eq(checkpoint(fd, id, &two), 0);
    ck_assert_uint_eq(two, one + 1);
    keep(fd, id, 3);
    ck_assert_int_eq(rollback(fd, id, one), 0);
    ck_assert_int_eq(keep(fd, id, 4), 1);
    ck_assert_int_eq(rollback(fd, id, two), 0);
    ck_assert_int_eq(keep(fd, id, 5), 2);
    ck_assert_int_eq(rollback(fd, id, 0), 0);
    ck_assert_int_eq(keep(fd, id, 6), 0);
    ck_assert_int_eq(forget(fd, id, one), 0);
    ck_assert_int_eq(forget(fd, id, one), HL_STATUS_NOT_FOUND);
    ck_assert_int_eq(rollback(fd, id, one), HL_STATUS_NOT_FOUND);
    ck_assert_int_eq(rollback(fd, id, 77), HL_STATUS_NOT_FOUND);
    ck_assert_int_eq(checkpoint(fd, id, &three), 0);
    ck_assert_uint_eq(three, two + 1);
    ck_assert_int_eq(rollback(fd, id, two), 0);
    ck_assert_int_eq(keep(fd, id, 7), 2);
    close(fd);
    rig_stop(&rig);
}
END_TEST

/* More pages than are looked at on the shard itself. */
START_TEST(test_large_checkpoints)
{
    const struct rig_call dirty = {.function = "dirty", .kind = ARG_U32, .u32 = 1500};
    struct rig_call in_session = dirty;
    uint64_t one, two;
    char id[40];
    int fd;

    start();
    fd = rig_connect(&rig);
    open_session(fd, id);
    in_session.session = id;
    ck_assert_int_eq(rig_call(fd, next_stream(), &in_session), 0);
    keep(fd, id, 1);
    ck_assert_int_eq(checkpoint(fd, id, &one), 0);
    ck_assert_int_eq(rollback(fd, id, 0), 0);
    ck_assert_int_eq(keep(fd, id, 2), 0);
    ck_assert_int_eq(checkpoint(fd, id, &two), 0);
    ck_assert_int_eq(rollback(fd, id, one), 0);
    ck_assert_int_eq(keep(fd, id, 3), 1);
    ck_assert_uint_gt(rig_counter(fd, next_stream(), "now_guest_memory"),
                      limits.memory + 1500 * 4096);
    ck_assert_int_eq(close_session(fd, id), 0);
    ck_assert_uint_le(rig_counter(fd, next_stream(), "now_guest_memory"), 4 * limits.memory);
    close(fd);
    rig_stop(&rig);
}
END_TEST

/* --- failing -------------------------------------------------------------------------------- */

static void check_failed(int fd, const char *id)
{
    Hl__V1__ListSessionsResponse *sessions;
    uint64_t number;

    ck_assert_int_eq(keep(fd, id, 1), -HL_STATUS_FAILED_PRECONDITION);
    ck_assert_int_eq(checkpoint(fd, id, &number), HL_STATUS_FAILED_PRECONDITION);
    sessions = list(fd);
    ck_assert_uint_eq(sessions->n_sessions, 1);
    ck_assert_str_ne(sessions->sessions[0]->failed, "");
    hl__v1__list_sessions_response__free_unpacked(sessions, NULL);
}

/* A call that is still running at its deadline, so that the session is lost. One that has not begun
 * by then has done nothing to the session: the next one gets more time. */
static void miss_deadline(int fd, const char *id, int64_t timeout_ns)
{
    for (;; timeout_ns *= 2) {
        ck_assert_int_eq(delay(fd, id, 60000, timeout_ns), HL_STATUS_DEADLINE_EXCEEDED);
        if (keep(fd, id, 1) < 0)
            break;
        ck_assert_int_lt(timeout_ns, 1000 * MS);
    }
    check_failed(fd, id);
}

START_TEST(test_failed_calls)
{
    static const char *const ends[] = {"fault", "die"};
    uint64_t one;
    char id[40];
    int fd, other;

    start();
    fd = rig_connect(&rig);
    open_session(fd, id);
    keep(fd, id, 5);
    ck_assert_int_eq(checkpoint(fd, id, &one), 0);
    for (size_t i = 0; i < 2; i++) {
        keep(fd, id, 6);
        ck_assert_int_eq(call(fd, id, ends[i]), HL_STATUS_ABORTED);
        check_failed(fd, id);
        ck_assert_int_eq(rollback(fd, id, 99), HL_STATUS_NOT_FOUND);
        check_failed(fd, id);
        ck_assert_int_eq(rollback(fd, id, i == 0 ? one : 0), 0);
        ck_assert_int_eq(keep(fd, id, 7), i == 0 ? 5 : 0);
    }
    /* Deadline, short and long; cancel; disconnect. */
    miss_deadline(fd, id, 100 * 1000);
    ck_assert_int_eq(rollback(fd, id, one), 0);
    miss_deadline(fd, id, 20 * MS);
    ck_assert_int_eq(rollback(fd, id, one), 0);
    other = rig_connect(&rig);
    rig_invoke(other, 1, &(struct rig_call){.function = "hold", .session = id, .call_id = 9});
    rig_await_held(1);
    rig_cancel(other, 3, 9);
    for (int i = 0; i < 2; i++) {
        struct rig_response response;

        ck_assert(rig_receive(other, &response));
        ck_assert_int_eq(response.envelope.code, response.stream == 1 ? HL_STATUS_CANCELLED : 0);
        rig_response_free(&response);
    }
    check_failed(fd, id);
    ck_assert_int_eq(rollback(fd, id, one), 0);
    rig_invoke(other, 5, &(struct rig_call){.function = "hold", .session = id});
    rig_await_held(2);
    close(other);
    check_failed(fd, id);
    ck_assert_int_eq(rollback(fd, id, one), 0);
    ck_assert_int_eq(keep(fd, id, 8), 5);
    /* Failed sessions close like others. */
    ck_assert_int_eq(call(fd, id, "fault"), HL_STATUS_ABORTED);
    ck_assert_int_eq(close_session(fd, id), 0);
    close(fd);
    rig_stop(&rig);
}
END_TEST

START_TEST(test_backend_failures)
{
    uint64_t one, two;
    char id[40];
    int fd;

    start();
    fd = rig_connect(&rig);
    open_session(fd, id);
    keep(fd, id, 5);
    ck_assert_int_eq(checkpoint(fd, id, &one), 0);
    fake_fail(FAKE_REWIND, 1, -EIO);
    ck_assert_int_eq(keep(fd, id, 6), 5); /* the answer was given already */
    check_failed(fd, id);
    ck_assert_int_eq(rollback(fd, id, one), 0);
    ck_assert_int_eq(keep(fd, id, 7), 5);
    fake_fail(FAKE_MEM_READ, 1, -EIO);
    ck_assert_int_eq(checkpoint(fd, id, &two), HL_STATUS_INTERNAL);
    check_failed(fd, id);
    fake_fail(FAKE_BIND, 1, -EIO); /* nor is there another one */
    fake_fail(FAKE_MEM_WRITE, 1, -EIO);
    ck_assert_int_ne(rollback(fd, id, one), 0);
    check_failed(fd, id);
    fake_fail(FAKE_MEM_WRITE, 0, 0);
    fake_fail(FAKE_BIND, 0, 0);
    ck_assert_int_eq(rollback(fd, id, one), 0);
    keep(fd, id, 8);
    hl__v1__list_sessions_response__free_unpacked(list(fd), NULL); /* and what follows its answer */
    fake_fail(FAKE_MEM_WRITE, 1, -EIO);
    ck_assert_int_eq(rollback(fd, id, one), HL_STATUS_INTERNAL);
    check_failed(fd, id);
    ck_assert_int_eq(rollback(fd, id, one), 0);
    fake_fail(FAKE_COLLECT, 1, -EIO);
    ck_assert_int_eq(checkpoint(fd, id, &two), HL_STATUS_INTERNAL);
    ck_assert_int_eq(rollback(fd, id, one), 0);
    ck_assert_int_eq(keep(fd, id, 9), 5);
    close(fd);
    rig_stop(&rig);
}
END_TEST

/* --- several clients ------------------------------------------------------------------------ */

/* Requests for one session from two connections, on the same shard or on two. */
START_TEST(test_two_clients)
{
    struct rig_response response;
    uint64_t queued;
    char id[40];
    int a, b, c;

    settings.shards = (uint32_t)_i;
    start();
    a = rig_connect(&rig);
    b = rig_connect(&rig);
    c = rig_connect(&rig);
    open_session(a, id);
    ck_assert_int_eq(keep(a, id, 1), 0);
    ck_assert_int_eq(keep(b, id, 2), 1);
    ck_assert_int_eq(keep(a, id, 3), 2);
    /* One at a time: the second waits for the first. */
    begin_hold(a, id, 1);
    queued = rig_counter(c, next_stream(), "queued");
    rig_invoke(b, next_stream(), &(struct rig_call){.function = "nothing", .session = id});
    await_counter(c, "queued", queued + 1);
    ck_assert_int_eq(poll(&(struct pollfd){.fd = b, .events = POLLIN}, 1, 0), 0);
    end_hold(a);
    ck_assert(rig_receive(b, &response));
    ck_assert_int_eq(response.envelope.code, 0);
    rig_response_free(&response);
    ck_assert_int_eq(keep(b, id, 4), 3);
    /* One that waits past its deadline has done nothing to the session. */
    begin_hold(a, id, 2);
    ck_assert_int_eq(delay(b, id, 0, 5 * MS), HL_STATUS_DEADLINE_EXCEEDED);
    end_hold(a);
    ck_assert_int_eq(keep(b, id, 5), 4);
    /* Nor one whose client leaves meanwhile. */
    begin_hold(a, id, 3);
    queued = rig_counter(c, next_stream(), "queued");
    rig_invoke(b, next_stream(), &(struct rig_call){.function = "fault", .session = id});
    await_counter(c, "queued", queued + 1);
    close(b);
    await_counter(c, "abandoned", 1);
    end_hold(a);
    ck_assert_int_eq(keep(a, id, 6), 5);
    close(a);
    close(c);
    rig_stop(&rig);
}
END_TEST

START_TEST(test_queue_is_bounded)
{
    struct rig_response response;
    int refused = 0;
    char id[40];
    int fd, other;

    settings.shards = (uint32_t)_i;
    start();
    fd = rig_connect(&rig);
    other = rig_connect(&rig);
    open_session(fd, id);
    begin_hold(fd, id, 1);
    for (int i = 0; i < 80; i++)
        rig_invoke(fd, next_stream(), &(struct rig_call){.function = "nothing", .session = id});
    await_counter(other, "other_errors", 80 - 64);
    fake_hold(false);
    for (int i = 0; i < 81; i++) {
        ck_assert(rig_receive(fd, &response));
        refused += response.envelope.code == HL_STATUS_RESOURCE_EXHAUSTED;
        ck_assert(response.envelope.code == 0 ||
                  response.envelope.code == HL_STATUS_RESOURCE_EXHAUSTED);
        rig_response_free(&response);
    }
    ck_assert_int_eq(refused, 80 - 64);
    ck_assert_int_eq(keep(fd, id, 1), 0);
    close(fd);
    close(other);
    rig_stop(&rig);
}
END_TEST

START_TEST(test_close_while_busy)
{
    struct rig_response response;
    uint64_t queued;
    char id[40];
    int a, b;

    settings.shards = 2;
    start();
    a = rig_connect(&rig);
    b = rig_connect(&rig);
    open_session(a, id);
    begin_hold(a, id, 1);
    queued = rig_counter(b, next_stream(), "queued");
    rig_invoke(a, next_stream(), &(struct rig_call){.function = "nothing", .session = id});
    await_counter(b, "queued", queued + 1);
    ck_assert_int_eq(close_session(b, id), 0);
    ck_assert(rig_receive(a, &response)); /* the one that waited */
    ck_assert_int_eq(response.envelope.code, HL_STATUS_NOT_FOUND);
    rig_response_free(&response);
    end_hold(a);
    ck_assert_int_eq(keep(a, id, 1), -HL_STATUS_NOT_FOUND);
    await_counter(a, "now_sessions", 0);
    close(a);
    close(b);
    rig_stop(&rig);
}
END_TEST

/* --- bounds --------------------------------------------------------------------------------- */

START_TEST(test_limit)
{
    char ids[3][40];
    int fd;

    settings.max_sessions = 2;
    limits.max_instances = 1;
    start();
    fd = rig_connect(&rig);
    open_session(fd, ids[0]);
    open_session(fd, ids[1]); /* not counted among the image's instances */
    ck_assert_int_eq(open_image(fd, "test", ids[2]), HL_STATUS_RESOURCE_EXHAUSTED);
    ck_assert_int_eq(keep(fd, NULL, 3), 0);
    ck_assert_int_eq(close_session(fd, ids[0]), 0);
    open_session(fd, ids[2]);
    ck_assert_int_eq(keep(fd, ids[2], 3), 0);
    close(fd);
    rig_stop(&rig);
}
END_TEST

START_TEST(test_budget)
{
    struct rig_call dirty = {.function = "dirty", .kind = ARG_U32, .u32 = 1000};
    uint64_t one, two;
    char id[40], other[40];
    int fd;

    settings.memory_budget = limits.memory + (5u << 20);
    settings.max_vms = 2;
    start();
    fd = rig_connect(&rig);
    open_session(fd, id);
    dirty.session = id;
    ck_assert_int_eq(rig_call(fd, next_stream(), &dirty), 0);
    ck_assert_int_eq(checkpoint(fd, id, &one), 0); /* 4 MiB of 5 */
    /* No room for a second instance, and a session is not evicted for it. */
    ck_assert_int_eq(rig_call(fd, next_stream(),
                              &(struct rig_call){.function = "nothing", .timeout_ns = 30 * MS}),
                     HL_STATUS_DEADLINE_EXCEEDED);
    ck_assert_int_eq(rollback(fd, id, 0), 0);
    keep(fd, id, 4);
    ck_assert_int_eq(checkpoint(fd, id, &two), 0);
    ck_assert_int_eq(rollback(fd, id, one), 0);
    ck_assert_int_eq(close_session(fd, id), 0);
    /* Every page another value, twice: more than there is room for. */
    open_session(fd, other);
    dirty.session = other;
    ck_assert_int_eq(rig_call(fd, next_stream(), &dirty), 0);
    ck_assert_int_eq(checkpoint(fd, other, &one), 0);
    dirty.u32 = 2000;
    ck_assert_int_eq(rig_call(fd, next_stream(), &dirty), 0);
    ck_assert_int_eq(checkpoint(fd, other, &two), HL_STATUS_RESOURCE_EXHAUSTED);
    keep(fd, other, 5);
    ck_assert_int_eq(keep(fd, other, 6), 5); /* it goes on */
    ck_assert_int_eq(rollback(fd, other, one), 0);
    close(fd);
    rig_stop(&rig);
}
END_TEST

/* --- time ----------------------------------------------------------------------------------- */

/* One session is used again and again until another one, which is not, is gone. Returns: whether no
 * pause between uses was as long as idle_ns, so that the one in use had to stay. */
static bool stays_while_used(int fd, uint64_t idle_ns)
{
    char used[40], unused[40];
    uint64_t asked = hv_now_ns(), pause = 0, closed;
    uint32_t i = 0;
    int64_t was;

    open_session(fd, used);
    open_session(fd, unused);
    closed = rig_counter(fd, next_stream(), "sessions_idle");
    do {
        uint64_t before = asked;

        asked = hv_now_ns();
        was = keep(fd, used, i + 1);
        pause = hv_now_ns() - before > pause ? hv_now_ns() - before : pause;
        usleep((useconds_t)(idle_ns / 10000));
    } while (was == i++ && rig_counter(fd, next_stream(), "sessions_idle") == closed);
    if (pause >= idle_ns)
        return false;
    ck_assert_int_eq(was, i - 1);
    ck_assert_int_eq(keep(fd, unused, 1), -HL_STATUS_NOT_FOUND);
    return true;
}

START_TEST(test_idle)
{
    uint64_t idle_ns = 100 * MS;
    bool stayed = false;
    int fd;

    for (; !stayed && idle_ns < 10000 * MS; idle_ns *= 2) {
        settings.session_idle_ns = idle_ns;
        start();
        fd = rig_connect(&rig);
        stayed = stays_while_used(fd, idle_ns);
        close(fd);
        rig_stop(&rig);
    }
    ck_assert(stayed);
}
END_TEST

/* A call that runs longer is no idle time. */
START_TEST(test_idle_and_running)
{
    char busy[40], unused[40];
    int a, b;

    settings.session_idle_ns = 50 * MS;
    start();
    a = rig_connect(&rig);
    b = rig_connect(&rig);
    open_session(a, busy);
    begin_hold(a, busy, 1);
    open_session(b, unused);
    await_counter(b, "sessions_idle", 1);
    ck_assert_uint_eq(rig_counter(b, next_stream(), "now_sessions"), 1);
    end_hold(a);
    await_counter(b, "sessions_idle", 2);
    close(a);
    close(b);
    rig_stop(&rig);
}
END_TEST

static void await_told(uint32_t sessions)
{
    bool told = false;

    for (int i = 0; i < 4000 && !told; i++) {
        usleep(5000);
        pthread_mutex_lock(&rig.lock);
        told = rig.idle_connections == 0 && rig.idle_received == 1 && rig.idle_sessions == sessions;
        pthread_mutex_unlock(&rig.lock);
    }
    ck_assert(told);
}

START_TEST(test_front_is_told)
{
    char id[40];
    int fd;

    settings.session_idle_ns = 60000 * MS;
    start();
    fd = rig_connect(&rig);
    open_session(fd, id);
    close(fd);
    await_told(1); /* one without a connection */
    settings.session_idle_ns = MS;
    rig_reload(&rig, &settings);
    await_told(0);
    rig_stop(&rig);
}
END_TEST

/* Past its quantum a call goes to another thread, and the state with it. */
START_TEST(test_long_calls)
{
    char id[40];
    int fd;

    settings.quantum_ns = MS;
    start();
    fd = rig_connect(&rig);
    open_session(fd, id);
    for (uint32_t i = 0; i < 5; i++) {
        ck_assert_int_eq(keep(fd, id, i + 1), i);
        ck_assert_int_eq(delay(fd, id, 40, 0), 0);
    }
    ck_assert_uint_ge(rig_counter(fd, next_stream(), "long_runs"), 5);
    close(fd);
    rig_stop(&rig);
}
END_TEST

START_TEST(test_new_version)
{
    char old[40], new[40];
    uint64_t one;
    int fd;

    start();
    fd = rig_connect(&rig);
    open_session(fd, old);
    keep(fd, old, 1);
    rig_add(&rig, "test", &limits);
    rig_invalidate(&rig, "test");
    while (atomic_load(&rig.resolves) < 2) {
        keep(fd, NULL, 1);
        usleep(1000);
    }
    open_session(fd, new);
    ck_assert_int_eq(keep(fd, old, 2), 1);
    ck_assert_int_eq(keep(fd, new, 1), 0);
    ck_assert_int_eq(checkpoint(fd, old, &one), 0);
    ck_assert_int_eq(call(fd, old, "fault"), HL_STATUS_ABORTED);
    ck_assert_int_eq(rollback(fd, old, one), 0); /* an instance of the old version */
    ck_assert_int_eq(keep(fd, old, 3), 2);
    ck_assert_int_eq(close_session(fd, old), 0);
    ck_assert_int_eq(keep(fd, new, 2), 1);
    close(fd);
    rig_stop(&rig);
}
END_TEST

START_TEST(test_end_with_a_call)
{
    char id[40], other[40];
    int a, b, code;

    settings.shards = 2;
    start();
    a = rig_connect(&rig);
    b = rig_connect(&rig);
    open_session(a, id);
    open_session(b, other);
    /* On the other one's shard. */
    begin_hold(b, id, 1);
    rig_drain(&rig, 10000 * MS);
    rig.drained = true;
    do { /* until it has heard of that */
        code = call(a, other, "nothing");
    } while (code == 0);
    ck_assert_int_eq(code, HL_STATUS_UNAVAILABLE);
    end_hold(b);
    ck_assert(rig_closed(a));
    close(a);
    close(b);
    rig_stop(&rig);
}
END_TEST

/* Stopped in the middle of everything. */
START_TEST(test_end_at_the_limit)
{
    char id[40];
    int fds[4];

    settings.shards = 2;
    start();
    for (int i = 0; i < 4; i++)
        fds[i] = rig_connect(&rig);
    open_session(fds[0], id);
    for (int i = 0; i < 4; i++)
        rig_invoke(fds[i], next_stream(), &(struct rig_call){.function = "spin", .session = id});
    usleep(20000);
    rig_drain(&rig, 20 * MS);
    rig.drained = true;
    for (int i = 0; i < 4; i++) {
        ck_assert(rig_closed(fds[i]));
        close(fds[i]);
    }
    rig_stop(&rig);
}
END_TEST

/* --- all at once ---------------------------------------------------------------------------- */

#define CLIENTS  4
#define SESSIONS 6
#define ROUNDS   300

static char shared[SESSIONS][40];

static void *client(void *opaque)
{
    int fd = rig_connect(&rig);
    uint64_t seed = (uintptr_t)opaque, number = 0;
    char own[40];

    open_session(fd, own);
    for (uint32_t i = 0, state = 0; i < ROUNDS; i++) {
        const char *id;
        int code = 0;

        seed = seed * 6364136223846793005ull + 1442695040888963407ull;
        id = shared[(seed >> 33) % SESSIONS];
        switch ((seed >> 40) % 12) {
        case 0:
            code = checkpoint(fd, id, &number);
            break;
        case 1:
            code = rollback(fd, id, (seed >> 20) % 4);
            break;
        case 2:
            code = (seed >> 50) % 4 == 0 ? call(fd, id, "fault") : 0;
            break;
        case 3:
            code = delay(fd, id, 2, 0);
            break;
        case 4:
            hl__v1__list_sessions_response__free_unpacked(list(fd), NULL);
            break;
        case 5:
            code = delay(fd, id, 20, MS);
            break;
        default:
            code = keep(fd, id, i) < 0 ? HL_STATUS_FAILED_PRECONDITION : 0;
        }
        ck_assert(code == 0 || code == HL_STATUS_FAILED_PRECONDITION || code == HL_STATUS_ABORTED ||
                  code == HL_STATUS_NOT_FOUND || code == HL_STATUS_DEADLINE_EXCEEDED ||
                  code == HL_STATUS_RESOURCE_EXHAUSTED);
        ck_assert_int_eq(keep(fd, own, i + 1), state);
        state = i + 1;
    }
    ck_assert_int_eq(close_session(fd, own), 0);
    close(fd);
    return NULL;
}

START_TEST(test_everything_at_once)
{
    pthread_t threads[CLIENTS];
    int fd;

    settings.shards = 3;
    limits.max_instances = 3;
    start();
    fd = rig_connect(&rig);
    for (int i = 0; i < SESSIONS; i++)
        open_session(fd, shared[i]);
    for (uintptr_t i = 0; i < CLIENTS; i++)
        pthread_create(&threads[i], NULL, client, (void *)(i + 1));
    for (int i = 0; i < CLIENTS; i++)
        pthread_join(threads[i], NULL);
    for (int i = 0; i < SESSIONS; i++)
        ck_assert_int_eq(close_session(fd, shared[i]), 0);
    await_counter(fd, "now_sessions", 0);
    close(fd);
    rig_stop(&rig);
}
END_TEST

int main(void)
{
    TCase *tc = tests_begin("session");

    tcase_add_test(tc, test_state_stays);
    tcase_add_test(tc, test_ids);
    tcase_add_test(tc, test_checkpoints);
    tcase_add_test(tc, test_large_checkpoints);
    tcase_add_test(tc, test_failed_calls);
    tcase_add_test(tc, test_backend_failures);
    tcase_add_loop_test(tc, test_two_clients, 1, 3);
    tcase_add_loop_test(tc, test_queue_is_bounded, 1, 3);
    tcase_add_test(tc, test_close_while_busy);
    tcase_add_test(tc, test_limit);
    tcase_add_test(tc, test_budget);
    tcase_add_test(tc, test_idle);
    tcase_add_test(tc, test_idle_and_running);
    tcase_add_test(tc, test_front_is_told);
    tcase_add_test(tc, test_long_calls);
    tcase_add_test(tc, test_new_version);
    tcase_add_test(tc, test_end_with_a_call);
    tcase_add_test(tc, test_end_at_the_limit);
    tcase_add_test(tc, test_everything_at_once);
    return tests_run(tc, "session");
}
