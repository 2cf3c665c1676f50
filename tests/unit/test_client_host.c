/* SPDX-License-Identifier: Apache-2.0 */
/* Host functions of libhlclient against a hld that is played by the test: what it should never
 * send, calls that end while they are answered, and a connection that breaks meanwhile. */
#include "config.h"

#include <check.h>
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "tests/unit/fake_server.h"
#include "tests/unit/tests_run.h"

static const struct hl_call simple_call = {.image = "i", .function = "f"};

static void write_buffer(struct fake_server *server, struct buffer *buf)
{
    fake_write(server, buffer_data(buf), buf->len);
    buffer_fini(buf);
}

/* Data, too, until the client's end. */
static void drain(struct fake_server *server)
{
    char buf[512];

    while (recv(server->fd, buf, sizeof(buf), 0) > 0) {
    }
}

static void send_call(struct fake_server *server, uint32_t stream, uint64_t id, size_t nargs)
{
    Hl__V1__InvokeWithHostResponse message = HL__V1__INVOKE_WITH_HOST_RESPONSE__INIT;
    Hl__V1__HostCall call = HL__V1__HOST_CALL__INIT;
    Hl__V1__Value value = HL__V1__VALUE__INIT;
    Hl__V1__Value *args[32];
    struct buffer buf = {0};

    for (size_t i = 0; i < nargs; i++)
        args[i] = &value;
    value.kind_case = HL__V1__VALUE__KIND_U32;
    value.u32 = 7;
    call.id = id;
    call.function = (char *)"h";
    call.args = args;
    call.n_args = nargs;
    call.depth = 3;
    message.kind_case = HL__V1__INVOKE_WITH_HOST_RESPONSE__KIND_CALL;
    message.call = &call;
    ck_assert_int_eq(envelope_encode_data(&buf, stream, 0, &message.base), 0);
    write_buffer(server, &buf);
}

static void send_done(struct fake_server *server, uint32_t stream)
{
    Hl__V1__InvokeWithHostResponse message = HL__V1__INVOKE_WITH_HOST_RESPONSE__INIT;
    Hl__V1__InvokeResponse done = HL__V1__INVOKE_RESPONSE__INIT;

    message.kind_case = HL__V1__INVOKE_WITH_HOST_RESPONSE__KIND_DONE;
    message.done = &done;
    fake_answer(server, stream, &message.base);
}

/* --- what hld should never send -------------------------------------------------------------- */

static void data_script(struct fake_server *server)
{
    struct got got;

    fake_read(server, &got);
    send_call(server, got.stream, 1, 1);
    fake_read(server, &got);
}

static void garbage_script(struct fake_server *server)
{
    struct got got;

    fake_read(server, &got);
    fake_header(server, 3, got.stream, FRAME_DATA);
    fake_write(server, "\xff\xff\xff", 3);
    fake_read(server, &got);
}

static void arguments_script(struct fake_server *server)
{
    struct got got;

    fake_read(server, &got);
    send_call(server, got.stream, 1, HL_MAX_PARAMS + 1);
    fake_read(server, &got);
}

static void done_as_data_script(struct fake_server *server)
{
    Hl__V1__InvokeWithHostResponse message = HL__V1__INVOKE_WITH_HOST_RESPONSE__INIT;
    Hl__V1__InvokeResponse done = HL__V1__INVOKE_RESPONSE__INIT;
    struct buffer buf = {0};
    struct got got;

    message.kind_case = HL__V1__INVOKE_WITH_HOST_RESPONSE__KIND_DONE;
    message.done = &done;
    fake_read(server, &got);
    ck_assert_int_eq(envelope_encode_data(&buf, got.stream, 0, &message.base), 0);
    write_buffer(server, &buf);
    fake_read(server, &got);
}

static void never(void *opaque, struct hl_host_call *call)
{
    (void)opaque;
    (void)call;
    ck_abort_msg("called back");
}

START_TEST(data_without_a_stream)
{
    struct fake_server server = {0};
    struct hl_client *client;
    struct hl_result result;

    fake_start(&server, data_script, &client);
    ck_assert_int_eq(hl_client_invoke(client, &simple_call, &result, NULL), -EPROTO);
    fake_stop(&server, client);
}
END_TEST

static void (*const offences[])(struct fake_server *) = {garbage_script, arguments_script,
                                                         done_as_data_script};

START_TEST(broken_host_calls)
{
    static const struct hl_host functions[] = {{"h", NULL, never, NULL}};
    struct fake_server server = {0};
    struct hl_client *client;
    struct hl_result result;

    fake_start(&server, offences[_i], &client);
    ck_assert_int_eq(hl_client_invoke_with_host(client, &simple_call, functions, 1, &result, NULL),
                     -EPROTO);
    fake_stop(&server, client);
}
END_TEST

/* --- ends while a callback runs -------------------------------------------------------------- */

static struct {
    int order[8]; /* 1: callback begins, 2: ends, 3: the call's end */
    int n;
    int code;
} seen;

static void note(int what)
{
    seen.order[seen.n++] = what;
}

/* Waits for something else of the same connection, and reads the call's end with it. */
static void on_host_call(void *opaque, struct hl_host_call *call)
{
    struct hl_value answer = {.type = HL_TYPE_U32, .u32 = 1};
    struct hl_client_error err;
    int *ping = opaque;

    note(1);
    ck_assert_uint_eq(call->depth, 3);
    *ping = hl_client_ping(call->client, "x", 1, &err);
    (void)hl_host_return(call, &answer);
    note(2);
}

static void on_done(void *opaque, uint64_t id, int code, const struct hl_result *result,
                    const struct hl_client_error *err)
{
    (void)opaque;
    (void)id;
    ck_assert((code < 0) == (result == NULL));
    ck_assert((code < 0) == (err != NULL));
    seen.code = code;
    note(3);
}

/* The call is over before the ping is answered. */
static void over_script(struct fake_server *server)
{
    Hl__V1__PingResponse pong = HL__V1__PING_RESPONSE__INIT;
    struct got got;
    uint32_t stream;

    fake_read(server, &got);
    stream = got.stream;
    send_call(server, stream, 1, 1);
    fake_read(server, &got);
    send_call(server, stream, 2, 1); /* another call that is never served */
    send_done(server, stream);
    pong.payload = (ProtobufCBinaryData){1, (uint8_t *)"x"};
    fake_answer(server, got.stream, &pong.base);
    drain(server);
}

/* … or there is no answer at all. */
static void lost_script(struct fake_server *server)
{
    struct got got;

    fake_read(server, &got);
    send_call(server, got.stream, 1, 1);
    fake_read(server, &got);
}

static void run(struct hl_client *client)
{
    for (int i = 0; i < 500 && (seen.n == 0 || seen.order[seen.n - 1] != 3); i++) {
        struct pollfd pfd = {.fd = hl_client_fd(client), .events = POLLIN};

        poll(&pfd, 1, 20);
        hl_client_process(client, NULL);
    }
}

START_TEST(call_ends_first)
{
    static const int order[] = {1, 2, 3};
    struct fake_server server = {0};
    struct hl_client *client;
    int ping = 1;
    const struct hl_host functions[] = {{"h", NULL, on_host_call, &ping}};

    memset(&seen, 0, sizeof(seen));
    fake_start(&server, _i == 0 ? over_script : lost_script, &client);
    ck_assert_int_eq(
        hl_client_submit_with_host(client, &simple_call, functions, 1, on_done, NULL, NULL, NULL),
        0);
    run(client);
    ck_assert_int_eq(seen.n, 3);
    ck_assert_mem_eq(seen.order, order, sizeof(order));
    ck_assert_int_eq(seen.code, _i == 0 ? 0 : -ECONNRESET);
    ck_assert_int_eq(ping, _i == 0 ? 0 : -ECONNRESET);
    ck_assert_uint_eq(hl_client_pending(client), 0);
    fake_stop(&server, client);
}
END_TEST

/* Disconnected with host calls that nobody has looked at. */
static void two_calls_script(struct fake_server *server)
{
    struct got got;

    fake_read(server, &got);
    send_call(server, got.stream, 1, 1);
    drain(server);
}

START_TEST(disconnect_drops_them)
{
    static const struct hl_host functions[] = {{"h", NULL, never, NULL}};
    struct fake_server server = {0};
    struct hl_client *client;
    char byte;

    memset(&seen, 0, sizeof(seen));
    fake_start(&server, two_calls_script, &client);
    ck_assert_int_eq(
        hl_client_submit_with_host(client, &simple_call, functions, 1, on_done, NULL, NULL, NULL),
        0);
    ck_assert_int_eq(recv(hl_client_fd(client), &byte, 1, MSG_PEEK), 1);
    fake_stop(&server, client);
    ck_assert_int_eq(seen.n, 1);
    ck_assert_int_eq(seen.code, -ECANCELED);
}
END_TEST

/* --- waiting --------------------------------------------------------------------------------- */

#define SPIN_NS 20000000u

static void slow_script(struct fake_server *server)
{
    struct got got;
    char answer[64];

    fake_read(server, &got);
    send_call(server, got.stream, 1, 0);
    ck_assert_int_gt(recv(server->fd, answer, sizeof(answer), 0), 0);
    send_done(server, got.stream);
    drain(server);
}

static void on_slow_call(void *opaque, struct hl_host_call *call)
{
    const struct timespec ts = {.tv_nsec = 8L * SPIN_NS};

    (void)opaque;
    (void)call;
    nanosleep(&ts, NULL);
}

/* Whether polling pays is a matter of how long each host call is waited for, not of how long the
 * callbacks or the whole call take. */
START_TEST(callbacks_are_no_waiting)
{
    static const struct hl_host functions[] = {{"h", NULL, on_slow_call, NULL}};
    struct fake_server server = {0};
    struct hl_client *client;
    struct hl_result result;

    fake_start(&server, slow_script, &client);
    hl_client_set_spin(client, SPIN_NS);
    ck_assert_int_eq(hl_client_invoke_with_host(client, &simple_call, functions, 1, &result, NULL),
                     0);
    ck_assert_uint_gt(client->spin.average_ns, 0);
    ck_assert_uint_lt(client->spin.average_ns, SPIN_NS / 2);
    fake_stop(&server, client);
}
END_TEST

/* --- offers ---------------------------------------------------------------------------------- */

static void refused_script(struct fake_server *server)
{
    struct got got;

    fake_read(server, &got);
    fake_status(server, got.stream, HL_STATUS_UNAVAILABLE, "draining", NULL, 0);
    fake_read(server, &got);
}

static void put_offered(struct buffer *buf, uint32_t stream)
{
    Hl__V1__OfferResponse message = HL__V1__OFFER_RESPONSE__INIT;
    Hl__V1__Offered offered = HL__V1__OFFERED__INIT;

    message.kind_case = HL__V1__OFFER_RESPONSE__KIND_OFFERED;
    message.offered = &offered;
    ck_assert_int_eq(envelope_encode_data(buf, stream, 0, &message.base), 0);
}

/* Told of twice. */
static void twice_script(struct fake_server *server)
{
    struct buffer buf = {0};
    struct got got, ping;

    fake_read(server, &got);
    put_offered(&buf, got.stream);
    write_buffer(server, &buf);
    fake_read(server, &ping);
    buf = (struct buffer){0};
    put_offered(&buf, got.stream);
    write_buffer(server, &buf);
    drain(server);
}

/* In force, and over in the same moment. */
static void short_script(struct fake_server *server)
{
    struct buffer buf = {0};
    struct got got;

    fake_read(server, &got);
    put_offered(&buf, got.stream);
    ck_assert_int_eq(
        envelope_encode_status(&buf, got.stream, HL_STATUS_UNAVAILABLE, "bye", NULL, 0), 0);
    write_buffer(server, &buf);
    drain(server);
}

START_TEST(offers_that_end)
{
    static const struct hl_host functions[] = {{"h", NULL, never, NULL}};
    const struct hl_offer offer = {.functions = functions, .nfunctions = 1};
    struct fake_server server = {0};
    struct hl_client_error err;
    struct hl_client *client;

    memset(&seen, 0, sizeof(seen));
    fake_start(&server, refused_script, &client);
    ck_assert_int_lt(hl_client_offer(client, &offer, on_done, NULL, NULL, &err), 0);
    ck_assert_int_eq(err.status, HL_STATUS_UNAVAILABLE);
    fake_stop(&server, client);
    ck_assert_int_eq(seen.n, 0);
    fake_start(&server, short_script, &client);
    ck_assert_int_eq(hl_client_offer(client, &offer, on_done, NULL, NULL, &err), 0);
    run(client);
    ck_assert_int_eq(seen.n, 1);
    ck_assert_int_lt(seen.code, 0);
    fake_stop(&server, client);
    fake_start(&server, twice_script, &client);
    ck_assert_int_eq(hl_client_offer(client, &offer, on_done, NULL, NULL, &err), 0);
    ck_assert_int_lt(hl_client_ping(client, "x", 1, &err), 0);
    run(client);
    ck_assert_int_eq(seen.n, 2);
    ck_assert_int_lt(seen.code, 0);
    fake_stop(&server, client);
}
END_TEST

int main(void)
{
    TCase *tc = tcase_create("client_host");

    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, data_without_a_stream);
    tcase_add_loop_test(tc, broken_host_calls, 0, 3);
    tcase_add_loop_test(tc, call_ends_first, 0, 2);
    tcase_add_test(tc, disconnect_drops_them);
    tcase_add_test(tc, callbacks_are_no_waiting);
    tcase_add_test(tc, offers_that_end);
    return tests_run(tc, "client_host");
}
