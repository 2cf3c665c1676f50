/* SPDX-License-Identifier: Apache-2.0 */
/* libhlclient when the connection breaks, when what comes is not the protocol, when nothing comes
 * in time, and when there is no connection to be had. */
#include "config.h"

#include <check.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "tests/unit/fake_server.h"
#include "tests/unit/tests_run.h"

static const struct hl_call simple_call = {.image = "echo", .function = "echo"};

static int invoke(struct hl_client *client, struct hl_result *result, struct hl_client_error *err)
{
    return hl_client_invoke(client, &simple_call, result, err);
}

static void on_done(void *opaque, uint64_t id, int code, const struct hl_result *result,
                    const struct hl_client_error *err)
{
    int *seen = opaque;

    (void)id;
    ck_assert_int_eq(*seen, 0);
    ck_assert_ptr_null(result);
    ck_assert_int_eq(err->code, code);
    *seen = code;
}

/* ---- a connection that breaks ---- */

static void close_script(struct fake_server *server)
{
    struct got got;

    fake_read(server, &got);
}

static void truncated_script(struct fake_server *server)
{
    struct got got;

    fake_read(server, &got);
    fake_header(server, 100, got.stream, FRAME_RESPONSE);
    fake_write(server, "short", 5);
}

static void oversized_script(struct fake_server *server)
{
    struct got got;

    fake_read(server, &got);
    fake_header(server, FRAME_PAYLOAD_MAX + 1, got.stream, FRAME_RESPONSE);
    fake_read(server, &got);
}

static void garbage_script(struct fake_server *server)
{
    struct got got;

    fake_read(server, &got);
    fake_write(server, "HTTP/1.1 400 Bad Request\r\n", 26);
    fake_read(server, &got);
}

static void unasked_script(struct fake_server *server)
{
    struct got got;

    fake_read(server, &got);
    fake_result(server, got.stream + 2, "x");
    fake_read(server, &got);
}

static void request_script(struct fake_server *server)
{
    struct got got;

    fake_read(server, &got);
    fake_header(server, 0, got.stream, FRAME_REQUEST);
    fake_read(server, &got);
}

static void envelope_script(struct fake_server *server)
{
    struct got got;

    fake_read(server, &got);
    fake_header(server, 2, got.stream, FRAME_RESPONSE);
    fake_write(server, "\x0a\x7f", 2);
    fake_read(server, &got);
}

static const struct {
    void (*script)(struct fake_server *);
    int code;
} breaks[] = {
    {close_script, -ECONNRESET}, {truncated_script, -ECONNRESET}, {oversized_script, -EMSGSIZE},
    {garbage_script, -EMSGSIZE}, {unasked_script, -EPROTO},       {request_script, -EPROTO},
    {envelope_script, -EPROTO},
};

START_TEST(broken_connections)
{
    struct fake_server server = {0};
    struct hl_client_error err;
    int seen = 0;
    struct hl_client *client;
    struct hl_result result;

    fake_start(&server, breaks[_i].script, &client);
    ck_assert_int_eq(invoke(client, &result, &err), breaks[_i].code);
    ck_assert_int_eq(err.status, HL_STATUS_UNAVAILABLE);
    ck_assert(!err.remote);
    /* And from then on everything says so at once. */
    ck_assert_int_eq(invoke(client, &result, &err), breaks[_i].code);
    ck_assert_ptr_nonnull(strstr(err.text, "connection to hld lost"));
    ck_assert_int_eq(hl_client_submit(client, &simple_call, on_done, &seen, NULL, &err),
                     breaks[_i].code);
    ck_assert_int_eq(hl_client_process(client, &err), breaks[_i].code);
    ck_assert_int_eq(hl_client_ping(client, NULL, 0, &err), breaks[_i].code);
    ck_assert_int_eq(hl_client_cancel(client, 1), breaks[_i].code);
    fake_stop(&server, client);
    ck_assert_int_eq(seen, 0);
}
END_TEST

START_TEST(broken_connection_calls_back)
{
    struct fake_server server = {0};
    int seen = 0;
    struct hl_client *client;
    int r = 0;

    fake_start(&server, breaks[_i].script, &client);
    hl_client_submit(client, &simple_call, on_done, &seen, NULL, NULL);
    while (r == 0) {
        struct pollfd pfd = {.fd = hl_client_fd(client), .events = hl_client_events(client)};

        ck_assert_int_ge(poll(&pfd, 1, 20000), 1);
        r = hl_client_process(client, NULL);
    }
    ck_assert_int_eq(r, breaks[_i].code);
    ck_assert_int_eq(seen, breaks[_i].code);
    fake_stop(&server, client);
}
END_TEST

static void noise_script(struct fake_server *server)
{
    unsigned int seed = server->seed;
    struct got got;

    fake_read(server, &got);
    for (int i = 0; i < 200; i++) {
        struct buffer buf = {0};
        Hl__V1__InvokeResponse response = HL__V1__INVOKE_RESPONSE__INIT;
        size_t at;

        envelope_encode_response(&buf, got.stream, &response.base);
        buffer_reserve(&buf, 64);
        while (buf.len < 24)
            buffer_data(&buf)[buf.len++] = (uint8_t)rand_r(&seed);
        at = (unsigned int)rand_r(&seed) % buf.len;
        buffer_data(&buf)[at] = (uint8_t)rand_r(&seed);
        fake_write(server, buffer_data(&buf), buf.len);
        buffer_fini(&buf);
    }
}

START_TEST(noise_breaks_nothing_but_the_connection)
{
    struct fake_server server = {.seed = (unsigned int)_i};
    struct hl_client *client;
    struct hl_result result;
    int r = 0;

    fake_start(&server, noise_script, &client);
    for (int i = 0; i < 3 && r >= 0; i++)
        r = invoke(client, &result, NULL);
    ck_assert_int_lt(r, 0);
    fake_stop(&server, client);
}
END_TEST

/* A good envelope around what is no InvokeResponse costs that call alone. */
static void payload_script(struct fake_server *server)
{
    struct got got;

    fake_read(server, &got);
    fake_header(server, 4, got.stream, FRAME_RESPONSE);
    fake_write(server, "\x12\x02\x0a\x7f", 4);
    fake_read(server, &got);
    fake_header(server, 6, got.stream, FRAME_RESPONSE);
    fake_write(server, "\x12\x04\x0a\x02\x42\x00", 6);
    fake_read(server, &got);
    fake_header(server, 4, got.stream, FRAME_RESPONSE);
    fake_write(server, "\x12\x02\x0a\x00", 4);
    fake_read(server, &got);
}

START_TEST(malformed_payload)
{
    struct fake_server server = {0};
    struct hl_client_error err;
    struct hl_client *client;
    struct hl_result result;

    fake_start(&server, payload_script, &client);
    ck_assert_int_eq(invoke(client, &result, &err), -EPROTO);
    ck_assert_int_eq(err.status, HL_STATUS_INTERNAL);
    /* An empty string is a result; a value without a kind is none. */
    ck_assert_int_eq(invoke(client, &result, &err), 0);
    ck_assert_int_eq(result.value.type, HL_TYPE_STRING);
    ck_assert_int_eq(invoke(client, &result, &err), -EPROTO);
    fake_stop(&server, client);
}
END_TEST

/* ---- time ---- */

static void late_script(struct fake_server *server)
{
    Hl__V1__PingResponse pong = HL__V1__PING_RESPONSE__INIT;
    struct got first, second;

    fake_read(server, &first);
    /* The client has given up when its next request comes. */
    fake_read(server, &second);
    fake_answer(server, first.stream, &pong.base);
    fake_answer(server, second.stream, &pong.base);
    fake_read(server, &first);
}

START_TEST(late_answer_is_thrown_away)
{
    struct fake_server server = {0};
    struct hl_client_error err;
    struct hl_client *client;

    fake_start(&server, late_script, &client);
    hl_client_set_timeout(client, 20000000);
    ck_assert_int_eq(hl_client_ping(client, NULL, 0, &err), -ETIMEDOUT);
    ck_assert_int_eq(err.status, HL_STATUS_DEADLINE_EXCEEDED);
    hl_client_set_timeout(client, 0);
    ck_assert_int_eq(hl_client_ping(client, NULL, 0, &err), 0);
    fake_stop(&server, client);
}
END_TEST

static void silent_script(struct fake_server *server)
{
    struct got got;

    fake_read(server, &got);
    if (got.timeout_nano != 1000000)
        abort();
    fake_read(server, &got);
    if (strcmp(got.method, "Cancel") != 0)
        abort();
    fake_read(server, &got);
}

START_TEST(call_without_answer_is_given_up_and_cancelled)
{
    struct hl_call call = simple_call;
    struct fake_server server = {0};
    struct hl_client_error err;
    struct hl_client *client;
    struct hl_result result;

    fake_start(&server, silent_script, &client);
    call.timeout_ns = 1000000;
    ck_assert_int_eq(hl_client_invoke(client, &call, &result, &err), -ETIMEDOUT);
    ck_assert(!err.remote);
    fake_stop(&server, client);
}
END_TEST

static void void_script(struct fake_server *server)
{
    Hl__V1__InvokeResponse response = HL__V1__INVOKE_RESPONSE__INIT;
    struct got got;

    while (fake_read(server, &got))
        fake_answer(server, got.stream, &response.base);
}

START_TEST(spinning)
{
    struct fake_server server = {0};
    struct hl_client *client;
    struct hl_result result;

    fake_start(&server, void_script, &client);
    hl_client_set_spin(client, _i ? 50000 : 1);
    for (int i = 0; i < 300; i++)
        ck_assert_int_eq(invoke(client, &result, NULL), 0);
    fake_stop(&server, client);
}
END_TEST

START_TEST(stream_ids_end)
{
    struct fake_server server = {0};
    struct hl_client_error err;
    struct hl_client *client;
    struct hl_result result;

    fake_start(&server, void_script, &client);
    client->next_stream = UINT32_MAX - 2;
    ck_assert_int_eq(invoke(client, &result, &err), 0);
    ck_assert_int_eq(invoke(client, &result, &err), 0);
    ck_assert_int_eq(invoke(client, &result, &err), -EOVERFLOW);
    ck_assert_int_eq(err.status, HL_STATUS_UNAVAILABLE);
    ck_assert_int_eq(hl_client_ping(client, NULL, 0, &err), -EOVERFLOW);
    fake_stop(&server, client);
}
END_TEST

/* ---- connecting ---- */

START_TEST(connecting)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    char dir[] = "/tmp/test_client.XXXXXX";
    struct hl_client_error err;
    struct hl_client *client;
    char path[200];
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);

    ck_assert_ptr_nonnull(mkdtemp(dir));
    snprintf(path, sizeof(path), "%s/socket", dir);
    ck_assert_int_eq(hl_client_connect(&client, path, &err), -ENOENT);
    ck_assert_int_eq(err.status, HL_STATUS_UNAVAILABLE);
    ck_assert_ptr_nonnull(strstr(err.text, path));
    ck_assert_ptr_null(client);
    memcpy(addr.sun_path, path, strlen(path) + 1);
    ck_assert_int_eq(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
    ck_assert_int_eq(hl_client_connect(&client, path, &err), -ECONNREFUSED);
    ck_assert_int_eq(listen(fd, 1), 0);
    ck_assert_int_eq(hl_client_connect(&client, path, &err), 0);
    hl_client_disconnect(client);
    ck_assert_int_eq(setenv("HLD_SOCKET", path, 1), 0);
    ck_assert_int_eq(hl_client_connect(&client, NULL, &err), 0);
    hl_client_disconnect(client);
    ck_assert_int_eq(setenv("HLD_SOCKET", "", 1), 0);
    ck_assert_str_eq(hl_client_default_socket(), HL_DEFAULT_SOCKET);
    memset(path, 'x', sizeof(path) - 1);
    path[sizeof(path) - 1] = '\0';
    ck_assert_int_eq(hl_client_connect(&client, path, &err), -ENAMETOOLONG);
    close(fd);
    unlink(addr.sun_path);
    rmdir(dir);
    hl_client_disconnect(NULL);
}
END_TEST

int main(void)
{
    TCase *tc = tcase_create("client, broken");

    tcase_set_timeout(tc, 60);
    tcase_add_loop_test(tc, broken_connections, 0, sizeof(breaks) / sizeof(breaks[0]));
    tcase_add_loop_test(tc, broken_connection_calls_back, 0, sizeof(breaks) / sizeof(breaks[0]));
    tcase_add_loop_test(tc, noise_breaks_nothing_but_the_connection, 0, 30);
    tcase_add_test(tc, malformed_payload);
    tcase_add_test(tc, late_answer_is_thrown_away);
    tcase_add_test(tc, call_without_answer_is_given_up_and_cancelled);
    tcase_add_loop_test(tc, spinning, 0, 2);
    tcase_add_test(tc, stream_ids_end);
    tcase_add_test(tc, connecting);
    return tests_run(tc, "client, broken");
}
