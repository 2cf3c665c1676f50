/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Host calls against the fake backend: what the policy answers, what a calling client answers, and
 * every way in which a parked call may end otherwise. rig_stop finds whatever is left behind.
 */
#include "config.h"

#include <check.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "hv/timer.h"
#include "proto/buffer.h"
#include "tests/fake/fake.h"
#include "tests/unit/engine_tests.h"
#include "tests/unit/host_rig.h"

static struct hl_host_policy bounds;
static int client;

static const char *const counting[] = {"count(u32) -> u32", "other(bytes) -> bytes", NULL};

static void start_with(const char *const *functions)
{
    rig_start(&rig, &settings, 0);
    rig_add(&rig, "test", &limits);
    rig_allow(&rig, "test", functions, &bounds);
    client = rig_connect(&rig);
}

static void prepare(void)
{
    bounds = (struct hl_host_policy){0};
}

static void finish(void)
{
    close(client);
    rig_stop(&rig);
}

static struct host_event receive(int fd)
{
    struct host_event event;

    ck_assert_msg(host_receive(fd, &event), "the connection was closed");
    return event;
}

static struct host_event receive_call(int fd)
{
    struct host_event event = receive(fd);

    ck_assert_msg(event.id != 0, "status %d %s, error %d %s", event.code, event.message,
                  event.error, event.error_text);
    return event;
}

/* The end of a call of host_calls whose host call failed. */
static void expect_error(int fd, int status)
{
    struct host_event event = receive(fd);

    ck_assert_msg(event.done && event.error == status, "status %d %s, error %d %s", event.code,
                  event.message, event.error, event.error_text);
}

static void expect_status(int fd, int status)
{
    struct host_event event = receive(fd);

    ck_assert_int_eq(event.header.type, FRAME_RESPONSE);
    ck_assert_msg(event.code == status, "status %d %s", event.code, event.message);
}

static void expect_usable(int fd, uint32_t stream)
{
    ck_assert_int_eq(rig_call(fd, stream, &nothing), 0);
}

static void wait_counter(int fd, uint32_t *stream, const char *name, uint64_t value)
{
    for (int i = 0; i < 2000; i++) {
        *stream += 2;
        if (rig_counter(fd, *stream, name) == value)
            return;
        usleep(2000);
    }
    ck_abort_msg("counter %s is %lu, not %lu", name, (unsigned long)rig_counter(fd, *stream, name),
                 (unsigned long)value);
}

/* --- answers -------------------------------------------------------------------------------- */

START_TEST(test_client_answers)
{
    struct host_event event;

    start_with(counting);
    host_invoke_counting(client, 1, 20, 0, 0);
    for (uint32_t i = 0; i < 20; i++) {
        event = receive_call(client);
        ck_assert_uint_eq(event.id, i + 1);
        ck_assert_uint_eq(event.u32, i);
        ck_assert_uint_eq(event.depth, 1);
        ck_assert_str_eq(event.function, "count");
        host_answer_u32(client, HOST_CLIENT, 1, event.id, i * 10);
    }
    event = receive(client);
    ck_assert(event.done);
    ck_assert_uint_eq(event.u64, 1900);
    ck_assert_uint_eq(rig_counter(client, 3, "host_parked"), 20);
    ck_assert_uint_eq(rig_counter(client, 5, "host_calls"), 20);
    finish();
}
END_TEST

START_TEST(test_several_at_once)
{
    struct host_event events[4];

    start_with(counting);
    for (uint32_t i = 0; i < 4; i++)
        host_invoke_counting(client, 1 + 2 * i, 1, 0, 0);
    for (uint32_t i = 0; i < 4; i++)
        events[i] = receive_call(client);
    for (uint32_t i = 4; i-- > 0;)
        host_answer_u32(client, HOST_CLIENT, events[i].header.stream, events[i].id,
                        events[i].header.stream);
    for (uint32_t i = 0; i < 4; i++) {
        events[i] = receive(client);
        ck_assert(events[i].done);
        ck_assert_uint_eq(events[i].u64, events[i].header.stream);
    }
    finish();
}
END_TEST

START_TEST(test_first_message_as_data)
{
    Hl__V1__InvokeWithHostRequest first = HL__V1__INVOKE_WITH_HOST_REQUEST__INIT;
    Hl__V1__InvokeWithHostRequest none = HL__V1__INVOKE_WITH_HOST_REQUEST__INIT;
    Hl__V1__InvokeRequest request = HL__V1__INVOKE_REQUEST__INIT;
    struct buffer buf = {0};
    struct host_event event;

    start_with(counting);
    request.image = (char *)"test";
    request.function = (char *)"nothing";
    first.kind_case = HL__V1__INVOKE_WITH_HOST_REQUEST__KIND_START;
    first.start = &request;
    envelope_encode_open(&buf, 1, "hl.v1.Functions", "InvokeWithHost", 0, &none.base);
    rig_send(client, buffer_data(&buf), buf.len);
    buffer_fini(&buf);
    usleep(10000);
    envelope_encode_data(&buf, 1, 0, &first.base);
    rig_send(client, buffer_data(&buf), buf.len);
    buffer_fini(&buf);
    event = receive(client);
    ck_assert(event.done);
    finish();
}
END_TEST

START_TEST(test_client_errors)
{
    struct host_event event;

    start_with(counting);
    host_invoke_counting(client, 1, 1, 0, 0);
    event = receive_call(client);
    host_answer_error(client, HOST_CLIENT, 1, event.id, 0, 77, "no such number");
    event = receive(client);
    ck_assert_int_eq(event.error, HL_STATUS_UNKNOWN);
    ck_assert_ptr_nonnull(strstr(event.error_text, "no such number"));
    host_invoke_counting(client, 3, 1, 0, 0);
    event = receive_call(client);
    host_answer_error(client, HOST_CLIENT, 3, event.id, HL_STATUS_NOT_FOUND, 0, "gone");
    expect_error(client, HL_STATUS_NOT_FOUND);
    finish();
}
END_TEST

/* --- policy --------------------------------------------------------------------------------- */

static const char *const kinds[] = {"typed(u32) -> bytes", "hl.random", NULL};

START_TEST(test_policy)
{
    struct rig_call call = {.function = "host_call", .kind = ARG_STRING};
    uint32_t stream = 1;
    static const struct {
        const char *name;
        int status;
    } cases[] = {{"unknown", 7}, {"hl.time", 7}, {"typed", 3}, {"hl.random", 3}};

    start_with(kinds);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++, stream += 2) {
        call.data = cases[i].name;
        call.len = strlen(cases[i].name);
        host_invoke(client, stream, &call, 0);
        expect_error(client, cases[i].status);
    }
    ck_assert_uint_eq(rig_counter(client, stream, "host_denied"), 2);
    ck_assert_uint_eq(rig_counter(client, stream + 2, "host_parked"), 0);
    finish();
}
END_TEST

START_TEST(test_no_stream)
{
    const struct rig_call call = {.function = "host_calls", .kind = ARG_U32, .u32 = 3};
    Hl__V1__InvokeResponse *response;

    start_with(counting);
    response = rig_invoke_response(client, 1, &call);
    ck_assert_ptr_nonnull(response);
    ck_assert_int_eq(response->outcome_case, HL__V1__INVOKE_RESPONSE__OUTCOME_ERROR);
    ck_assert_int_eq(response->error->code, HL_STATUS_UNAVAILABLE);
    hl__v1__invoke_response__free_unpacked(response, NULL);
    finish();
}
END_TEST

static void answer_until(int fd, uint32_t stream, uint32_t n, int status)
{
    for (uint32_t i = 0; i < n; i++)
        host_answer_u32(fd, HOST_CLIENT, stream, receive_call(fd).id, 0);
    expect_error(fd, status);
}

START_TEST(test_bounds)
{
    bounds.max_calls = 5;
    start_with(counting);
    host_invoke_counting(client, 1, 20, 0, 0);
    answer_until(client, 1, 5, HL_STATUS_RESOURCE_EXHAUSTED);
    finish();
}
END_TEST

static const char *const refused[] = {"unknown", "hl.time", "typed", "hl.random"};

static int ask(uint32_t stream, const char *function, const char *name)
{
    const struct rig_call call = {
        .function = function, .kind = ARG_STRING, .data = name, .len = strlen(name)};
    struct host_event event;

    host_invoke(client, stream, &call, 0);
    event = receive(client);
    ck_assert(event.done);
    return event.error;
}

/* What is refused counts as what is not. */
START_TEST(test_refused_calls_are_bounded)
{
    bounds.max_calls = FAKE_INSIST - 1;
    start_with(kinds);
    ck_assert_int_eq(ask(1, "host_insist", refused[_i]), HL_STATUS_RESOURCE_EXHAUSTED);
    ck_assert_int_ne(ask(3, "host_call", refused[_i]), HL_STATUS_RESOURCE_EXHAUSTED);
    finish();
}
END_TEST

START_TEST(test_refused_calls_have_a_rate)
{
    uint32_t stream = 1;

    bounds.rate = 1;
    start_with(kinds);
    ck_assert_int_ne(ask(stream, "host_call", refused[_i]), HL_STATUS_RESOURCE_EXHAUSTED);
    /* Unless the machine stands still, two are within a second. */
    while (ask(stream += 2, "host_call", refused[_i]) != HL_STATUS_RESOURCE_EXHAUSTED)
        ck_assert_uint_lt(stream, 50);
    ck_assert_uint_eq(rig_counter(client, stream + 2, "host_parked"), 0);
    finish();
}
END_TEST

/* A second's worth at once; then what the time brings. */
START_TEST(test_rate)
{
    struct host_event event;
    uint64_t before, most, n = 0;

    bounds = (struct hl_host_policy){.rate = 7};
    start_with(counting);
    before = hv_now_ns();
    host_invoke_counting(client, 1, 1000, 0, 0);
    for (event = receive(client); event.id != 0; event = receive(client), n++)
        host_answer_u32(client, HOST_CLIENT, 1, event.id, 0);
    most = 7 + 7 * (hv_now_ns() - before) / (1000 * MS) + 1;
    ck_assert(event.done && event.error == HL_STATUS_RESOURCE_EXHAUSTED);
    ck_assert_uint_ge(n, 7);
    ck_assert_uint_le(n, most);
    finish();
}
END_TEST

START_TEST(test_depth)
{
    bounds.depth = 2;
    start_with(counting);
    host_invoke(client, 1, &nothing, 2);
    ck_assert(receive(client).done);
    host_invoke(client, 3, &nothing, 3);
    expect_status(client, HL_STATUS_RESOURCE_EXHAUSTED);
    finish();
}
END_TEST

/* --- other ends ----------------------------------------------------------------------------- */

START_TEST(test_deadline)
{
    int64_t timeout_ns = 30 * MS;
    uint32_t stream = 1;
    struct host_event event;

    start_with(counting);
    expect_usable(client, stream);
    do { /* with enough time to get as far as the host call */
        host_invoke_counting(client, stream += 2, 1, timeout_ns, 0);
        event = receive(client);
        timeout_ns *= 2;
    } while (event.code == HL_STATUS_DEADLINE_EXCEEDED);
    ck_assert_uint_eq(event.id, 1);
    expect_status(client, HL_STATUS_DEADLINE_EXCEEDED);
    host_answer_u32(client, HOST_CLIENT, stream, 1, 7); /* late: nobody minds */
    expect_usable(client, stream += 2);
    while (rig_counter(client, stream += 2, "instances_destroyed") == 0) {
    }
    finish();
}
END_TEST

START_TEST(test_cancel)
{
    struct host_event event;

    start_with(counting);
    host_invoke_counting(client, 1, 1, 0, 9);
    receive_call(client);
    rig_cancel(client, 3, 9);
    for (int i = 0; i < 2; i++) {
        event = receive(client);
        ck_assert_int_eq(event.code, event.header.stream == 1 ? HL_STATUS_CANCELLED : 0);
    }
    ck_assert_uint_eq(rig_counter(client, 5, "host_calls"), 1);
    expect_usable(client, 7);
    finish();
}
END_TEST

START_TEST(test_disconnect)
{
    uint32_t stream = 1;
    int other;

    start_with(counting);
    other = rig_connect(&rig);
    for (uint32_t i = 0; i < 4; i++)
        host_invoke_counting(client, 1 + 2 * i, 1, 0, 0);
    for (uint32_t i = 0; i < 4; i++)
        receive_call(client);
    close(client);
    client = other;
    wait_counter(client, &stream, "abandoned", 4);
    ck_assert_uint_eq(rig_counter(client, stream += 2, "host_calls"), 4);
    wait_counter(client, &stream, "instances_destroyed", 4);
    finish();
}
END_TEST

START_TEST(test_drain)
{
    start_with(counting);
    host_invoke_counting(client, 1, 1, 0, 0);
    receive_call(client);
    rig_drain(&rig, 50 * MS);
    rig.drained = true;
    expect_status(client, HL_STATUS_UNAVAILABLE);
    finish();
}
END_TEST

START_TEST(test_drain_waits)
{
    struct host_event event;

    start_with(counting);
    host_invoke_counting(client, 1, 1, 0, 0);
    event = receive_call(client);
    rig_drain(&rig, 10000 * MS);
    rig.drained = true;
    usleep(20000);
    host_answer_u32(client, HOST_CLIENT, 1, event.id, 5);
    event = receive(client);
    ck_assert(event.done && event.u64 == 5);
    finish();
}
END_TEST

START_TEST(test_half_closed)
{
    start_with(counting);
    host_invoke_counting(client, 1, 1, 0, 0);
    receive_call(client);
    host_close_stream(client, 1);
    expect_error(client, HL_STATUS_UNAVAILABLE);
    host_invoke_counting(client, 3, 2, 0, 0);
    receive_call(client);
    shutdown(client, SHUT_WR);
    expect_error(client, HL_STATUS_UNAVAILABLE);
    ck_assert(rig_closed(client));
    finish();
}
END_TEST

/* --- offences ------------------------------------------------------------------------------- */

START_TEST(test_wrong_answers)
{
    struct host_event event;

    start_with(counting);
    host_invoke_counting(client, 1, 1, 0, 0);
    host_answer_u32(client, HOST_CLIENT, 1, receive_call(client).id + 1, 0);
    expect_status(client, HL_STATUS_INVALID_ARGUMENT);
    host_invoke_counting(client, 3, 1, 0, 0);
    host_answer_text(client, HOST_CLIENT, 3, receive_call(client).id, "five");
    expect_status(client, HL_STATUS_INVALID_ARGUMENT);
    host_invoke_counting(client, 5, 2, 0, 0);
    event = receive_call(client);
    host_answer_u32(client, HOST_CLIENT, 5, event.id, 0);
    receive_call(client);
    host_answer_u32(client, HOST_CLIENT, 5, event.id, 0); /* once more */
    expect_status(client, HL_STATUS_INVALID_ARGUMENT);
    expect_usable(client, 7);
    finish();
}
END_TEST

static void send_raw(int fd, uint32_t stream, uint8_t type, uint8_t flags, const void *data,
                     uint32_t len)
{
    struct frame_header header = {.length = len, .stream = stream, .type = type, .flags = flags};
    uint8_t head[FRAME_HEADER_SIZE];

    frame_encode_header(head, &header);
    rig_send(fd, head, sizeof(head));
    rig_send(fd, data, len);
}

START_TEST(test_malformed)
{
    Hl__V1__InvokeWithHostRequest none = HL__V1__INVOKE_WITH_HOST_REQUEST__INIT;
    Hl__V1__PingRequest ping = HL__V1__PING_REQUEST__INIT;
    struct buffer buf = {0};

    start_with(counting);
    host_invoke_counting(client, 1, 1, 0, 0);
    receive_call(client);
    send_raw(client, 1, FRAME_DATA, 0, "\xff\xff\xff", 3);
    expect_status(client, HL_STATUS_INVALID_ARGUMENT);
    /* a stream that ends, or says something else, before it has begun */
    envelope_encode_open(&buf, 3, "hl.v1.Functions", "InvokeWithHost", 0, &none.base);
    envelope_encode_open(&buf, 5, "hl.v1.Functions", "InvokeWithHost", 0, &none.base);
    envelope_encode_request(&buf, 7, "hl.v1.Functions", "InvokeWithHost", 0, &none.base);
    /* and one where there are none */
    envelope_encode_open(&buf, 9, "hl.v1.Daemon", "Ping", 0, &ping.base);
    rig_send(client, buffer_data(&buf), buf.len);
    buffer_fini(&buf);
    expect_status(client, HL_STATUS_INVALID_ARGUMENT);
    expect_status(client, HL_STATUS_UNIMPLEMENTED);
    host_close_stream(client, 3);
    expect_status(client, HL_STATUS_INVALID_ARGUMENT);
    host_answer_u32(client, HOST_CLIENT, 5, 1, 1);
    expect_status(client, HL_STATUS_INVALID_ARGUMENT);
    expect_usable(client, 11);
    finish();
}
END_TEST

/* --- elsewhere ------------------------------------------------------------------------------ */

/* Calls that are past their quantum at once: their host calls come from long-run threads. */
START_TEST(test_long_runs)
{
    struct host_event event;

    settings.quantum_ns = 1;
    start_with(counting);
    for (uint32_t call = 0; call < 5; call++) {
        uint32_t stream = 1 + 2 * call;

        host_invoke_counting(client, stream, 10, 0, 0);
        for (uint32_t i = 0; i < 10; i++)
            host_answer_u32(client, HOST_CLIENT, stream, receive_call(client).id, 1);
        event = receive(client);
        ck_assert(event.done && event.u64 == 10);
    }
    ck_assert_uint_gt(rig_counter(client, 99, "long_runs"), 0);
    finish();
}
END_TEST

int main(void)
{
    TCase *tc = tests_begin("host");

    tcase_add_checked_fixture(tc, prepare, NULL);
    tcase_add_test(tc, test_client_answers);
    tcase_add_test(tc, test_several_at_once);
    tcase_add_test(tc, test_first_message_as_data);
    tcase_add_test(tc, test_client_errors);
    tcase_add_test(tc, test_policy);
    tcase_add_test(tc, test_no_stream);
    tcase_add_test(tc, test_bounds);
    tcase_add_test(tc, test_rate);
    tcase_add_loop_test(tc, test_refused_calls_are_bounded, 0, 4);
    tcase_add_loop_test(tc, test_refused_calls_have_a_rate, 0, 4);
    tcase_add_test(tc, test_depth);
    tcase_add_test(tc, test_deadline);
    tcase_add_test(tc, test_cancel);
    tcase_add_test(tc, test_disconnect);
    tcase_add_test(tc, test_drain);
    tcase_add_test(tc, test_drain_waits);
    tcase_add_test(tc, test_half_closed);
    tcase_add_test(tc, test_wrong_answers);
    tcase_add_test(tc, test_malformed);
    tcase_add_test(tc, test_long_runs);
    return tests_run(tc, "host");
}
