/* SPDX-License-Identifier: Apache-2.0 */
/* Bytes beside the messages: descriptors that go with the frame that names them, results that come
 * in memory of the client's, and that neither is trusted, mixed up or left open. */
#include "config.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/unit/fake_server.h"
#include "tests/unit/tests_run.h"

#define SEALS (F_SEAL_WRITE | F_SEAL_SHRINK)

static const Hl__V1__InvokeRequest *invoke_of(struct fake_server *server, const struct got *got)
{
    return fake_decode(server, got, &hl__v1__invoke_request__descriptor);
}

static void on_done(void *opaque, uint64_t id, int code, const struct hl_result *result,
                    const struct hl_client_error *err)
{
    (void)id;
    (void)result;
    (void)err;
    *(int *)opaque = code;
}

/* ---- arguments ---- */

static void arguments_script(struct fake_server *server)
{
    const Hl__V1__InvokeRequest *request;
    struct got got;

    fake_read(server, &got);
    request = invoke_of(server, &got);
    if (got.nfds != 2 || request->n_args != 3 || request->result_into ||
        request->args[0]->kind_case != HL__V1__VALUE__KIND_DESCRIPTOR ||
        request->args[0]->descriptor->index != 0 ||
        request->args[1]->kind_case != HL__V1__VALUE__KIND_DATA ||
        request->args[2]->kind_case != HL__V1__VALUE__KIND_DESCRIPTOR ||
        request->args[2]->descriptor->index != 1)
        abort();
    if (!fake_holds(got.fds[0], "first", 5) || !fake_holds(got.fds[1], "second", 6))
        abort();
    fake_close(&got);
    fake_answer_void(server, got.stream);
    /* A frame without any comes without any. */
    fake_read(server, &got);
    if (got.nfds != 0)
        abort();
    fake_answer_void(server, got.stream);
    fake_read(server, &got);
}

START_TEST(arguments)
{
    const struct hl_call plain = {.image = "i", .function = "f"};
    struct hl_value args[] = {
        fake_value("first"), {.type = HL_TYPE_BYTES, .bytes = {"-", 1}}, fake_value("second")};
    struct hl_call call = {.image = "i", .function = "f", .args = args, .nargs = 3};
    struct fake_server server = {0};
    struct hl_client *client;
    struct hl_result result;

    fake_start(&server, arguments_script, &client);
    ck_assert_int_eq(hl_client_invoke(client, &call, &result, NULL), 0);
    ck_assert_int_eq(result.fd, -1);
    /* They stay the caller's. */
    ck_assert_int_eq(close(args[0].descriptor.fd), 0);
    ck_assert_int_eq(close(args[2].descriptor.fd), 0);
    ck_assert_int_eq(hl_client_invoke(client, &plain, &result, NULL), 0);
    fake_stop(&server, client);
}
END_TEST

static const struct {
    int seals;
    size_t len;
    const char *text;
} refused[] = {
    {0, 4, "argument 1: its memfd can still change, it lacks the seals F_SEAL_WRITE F_SEAL_SHRINK"},
    {F_SEAL_SHRINK, 4, "argument 1: its memfd can still change, it lacks the seal F_SEAL_WRITE"},
    {F_SEAL_WRITE, 4, "argument 1: its memfd can still change, it lacks the seal F_SEAL_SHRINK"},
    {SEALS, 3, "argument 1: its memfd has 4 bytes, not 3, and goes as a whole"},
    {SEALS, 5, "argument 1: its memfd has 4 bytes, not 5, and goes as a whole"},
};

static void nothing_script(struct fake_server *server)
{
    struct got got;

    if (fake_read(server, &got))
        abort();
}

START_TEST(arguments_that_can_change_are_refused)
{
    int fd = fake_memfd("data", 4, refused[_i].seals);
    struct hl_value arg = {.type = HL_TYPE_DESCRIPTOR, .descriptor = {refused[_i].len, fd}};
    struct hl_call call = {.image = "i", .function = "f", .args = &arg, .nargs = 1};
    struct fake_server server = {0};
    struct hl_client_error err;
    struct hl_client *client;
    struct hl_result result;
    int code = 0;

    fake_start(&server, nothing_script, &client);
    ck_assert_int_eq(hl_client_invoke(client, &call, &result, &err), -EINVAL);
    ck_assert_str_eq(err.text, refused[_i].text);
    ck_assert_int_eq(err.status, HL_STATUS_INVALID_ARGUMENT);
    ck_assert_int_eq(hl_client_submit(client, &call, on_done, &code, NULL, &err), -EINVAL);
    ck_assert_uint_eq(hl_client_pending(client), 0);
    fake_stop(&server, client);
    close(fd);
}
END_TEST

START_TEST(arguments_that_are_no_memfd_are_refused)
{
    struct hl_value arg = {.type = HL_TYPE_DESCRIPTOR};
    struct hl_call call = {.image = "i", .function = "f", .args = &arg, .nargs = 1};
    struct fake_server server = {0};
    struct hl_client_error err;
    struct hl_client *client;
    struct hl_result result;

    fake_start(&server, nothing_script, &client);
    arg.descriptor.fd = -1;
    ck_assert_int_eq(hl_client_invoke(client, &call, &result, &err), -EINVAL);
    ck_assert_str_eq(err.text, "argument 1: its descriptor is not open");
    arg.descriptor.fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    ck_assert_int_eq(hl_client_invoke(client, &call, &result, &err), -EINVAL);
    ck_assert_str_eq(err.text, "argument 1: its descriptor is no memfd");
    close(arg.descriptor.fd);
    fake_stop(&server, client);
}
END_TEST

/* ---- results ---- */

/* What hld demands of the room: its seals, and memory that is there. */
static void check_room(int fd, size_t size)
{
    struct stat st;

    if (fstat(fd, &st) < 0 || (size_t)st.st_size != size || (size_t)st.st_blocks * 512 < size ||
        fcntl(fd, F_GET_SEALS) != (F_SEAL_SHRINK | F_SEAL_GROW))
        abort();
}

/* Answers with the first argument's bytes where the caller wants them. */
static void room_script(struct fake_server *server)
{
    struct got got;

    while (fake_read(server, &got)) {
        const Hl__V1__InvokeRequest *request = invoke_of(server, &got);
        char text[64];
        ssize_t n;

        if (got.nfds == 0) {
            fake_answer_void(server, got.stream);
            continue;
        }
        if (got.nfds != 2 || request->result_into->index != 1)
            abort();
        check_room(got.fds[1], 8192);
        n = pread(got.fds[0], text, sizeof(text) - 1, 0);
        if (n < 0)
            abort();
        text[n] = '\0';
        fake_put_result(&got, 1, text, F_SEAL_WRITE);
        fake_answer_descriptor(server, got.stream, 1, (uint64_t)n);
        fake_close(&got);
    }
}

START_TEST(results)
{
    const struct hl_call plain = {.image = "i", .function = "f"};
    struct hl_value arg = fake_value("the result");
    struct hl_call call = {
        .image = "i", .function = "f", .args = &arg, .nargs = 1, .result_room = 5000};
    struct fake_server server = {0};
    struct hl_client *client;
    struct hl_result result;
    int kept, fd;

    fake_start(&server, room_script, &client);
    ck_assert_int_eq(hl_client_invoke(client, &call, &result, NULL), 0);
    ck_assert_int_eq(result.value.type, HL_TYPE_BYTES);
    ck_assert_uint_eq(result.value.bytes.len, 10);
    ck_assert_mem_eq(result.value.bytes.data, "the result", 10);
    fd = result.fd;
    kept = dup(fd);
    ck_assert_int_ge(kept, 0);
    /* Gone with the next function, but for what was kept. */
    ck_assert_int_eq(hl_client_invoke(client, &plain, &result, NULL), 0);
    ck_assert_int_eq(result.fd, -1);
    ck_assert_int_eq(fcntl(fd, F_GETFD), -1);
    ck_assert(fcntl(kept, F_GET_SEALS) & F_SEAL_WRITE);
    close(kept);
    close(arg.descriptor.fd);
    fake_stop(&server, client);
}
END_TEST

START_TEST(empty_result)
{
    struct hl_value arg = fake_value("");
    struct hl_call call = {
        .image = "i", .function = "f", .args = &arg, .nargs = 1, .result_room = 8192};
    struct fake_server server = {0};
    struct hl_client *client;
    struct hl_result result;

    fake_start(&server, room_script, &client);
    ck_assert_int_eq(hl_client_invoke(client, &call, &result, NULL), 0);
    ck_assert_int_eq(result.value.type, HL_TYPE_BYTES);
    ck_assert_uint_eq(result.value.bytes.len, 0);
    ck_assert_int_ge(result.fd, 0);
    close(arg.descriptor.fd);
    fake_stop(&server, client);
}
END_TEST

START_TEST(more_room_than_there_is)
{
    struct hl_call call = {.image = "i", .function = "f", .result_room = SIZE_MAX};
    struct fake_server server = {0};
    struct hl_client_error err;
    struct hl_client *client;
    struct hl_result result;

    fake_start(&server, nothing_script, &client);
    ck_assert_int_eq(hl_client_invoke(client, &call, &result, &err), -EINVAL);
    ck_assert_int_eq(err.code, -EINVAL);
    fake_stop(&server, client);
}
END_TEST

/* Answers that use no room: the message's bytes, the function's error, hld's. */
static void unused_script(struct fake_server *server)
{
    Hl__V1__InvokeResponse response = HL__V1__INVOKE_RESPONSE__INIT;
    Hl__V1__GuestError error = HL__V1__GUEST_ERROR__INIT;
    struct got got;

    fake_read(server, &got);
    fake_close(&got);
    fake_result(server, got.stream, "small");
    fake_read(server, &got);
    fake_close(&got);
    error.code = 3;
    error.text = "no";
    response.outcome_case = HL__V1__INVOKE_RESPONSE__OUTCOME_ERROR;
    response.error = &error;
    fake_answer(server, got.stream, &response.base);
    fake_read(server, &got);
    fake_close(&got);
    fake_status(server, got.stream, HL_STATUS_NOT_FOUND, "no image", NULL, 0);
    fake_read(server, &got);
}

START_TEST(room_that_is_not_used)
{
    struct hl_call call = {.image = "i", .function = "f", .result_room = 1};
    unsigned int before = fake_count_fds(), between;
    struct fake_server server = {0};
    struct hl_client *client;
    struct hl_result result;

    fake_start(&server, unused_script, &client);
    between = fake_count_fds();
    ck_assert_int_eq(hl_client_invoke(client, &call, &result, NULL), 0);
    ck_assert_uint_eq(result.value.bytes.len, 5);
    ck_assert_int_eq(result.fd, -1);
    ck_assert_int_eq(hl_client_invoke(client, &call, &result, NULL), HL_GUEST_ERROR);
    ck_assert_int_eq(result.fd, -1);
    ck_assert_int_eq(hl_client_invoke(client, &call, &result, NULL), -ENOENT);
    ck_assert_uint_eq(fake_count_fds(), between);
    fake_stop(&server, client);
    ck_assert_uint_eq(fake_count_fds(), before);
}
END_TEST

/* ---- answers that no hld gives ---- */

static const struct {
    uint32_t index;
    uint64_t length;
    int seals;
    size_t room;
} lies[] = {
    {1, 4, F_SEAL_WRITE, 4096},          {UINT32_MAX, 4, F_SEAL_WRITE, 4096},
    {0, 4097, F_SEAL_WRITE, 4096},       {0, UINT64_MAX, F_SEAL_WRITE, 4096},
    {0, 1ull << 32, F_SEAL_WRITE, 4096}, {0, 4, 0, 4096},
    {0, 4, F_SEAL_FUTURE_WRITE, 4096},   {0, 4, F_SEAL_WRITE, 0},
};

static void lie_script(struct fake_server *server)
{
    unsigned int i = server->seed;
    struct got got;

    for (int twice = 0; twice < 2; twice++) {
        if (!fake_read(server, &got))
            abort();
        if (lies[i].room > 0)
            fake_put_result(&got, 0, "lies", lies[i].seals);
        fake_answer_descriptor(server, got.stream, lies[i].index, lies[i].length);
        fake_close(&got);
    }
    fake_read(server, &got);
    fake_answer_void(server, got.stream);
    fake_read(server, &got);
}

START_TEST(lies_about_results)
{
    const struct hl_call plain = {.image = "i", .function = "f"};
    struct hl_call call = {.image = "i", .function = "f", .result_room = lies[_i].room};
    unsigned int before = fake_count_fds();
    struct fake_server server = {.seed = (unsigned int)_i};
    struct hl_client_error err;
    struct hl_client *client;
    struct hl_result result;
    int code = 0;

    fake_start(&server, lie_script, &client);
    ck_assert_int_eq(hl_client_invoke(client, &call, &result, &err), -EPROTO);
    ck_assert_int_eq(err.status, HL_STATUS_INTERNAL);
    ck_assert_int_eq(hl_client_submit(client, &call, on_done, &code, NULL, NULL), 0);
    /* It costs these calls and not the connection. */
    ck_assert_int_eq(hl_client_invoke(client, &plain, &result, NULL), 0);
    ck_assert_int_eq(code, -EPROTO);
    fake_stop(&server, client);
    ck_assert_uint_eq(fake_count_fds(), before);
}
END_TEST

/* ---- calls from a host function ---- */

static void answer_wrapped(struct fake_server *server, uint32_t stream)
{
    Hl__V1__InvokeWithHostResponse outer = HL__V1__INVOKE_WITH_HOST_RESPONSE__INIT;
    Hl__V1__InvokeResponse response = HL__V1__INVOKE_RESPONSE__INIT;
    Hl__V1__Descriptor descriptor = HL__V1__DESCRIPTOR__INIT;
    Hl__V1__Value value = HL__V1__VALUE__INIT;

    descriptor.length = 5;
    value.kind_case = HL__V1__VALUE__KIND_DESCRIPTOR;
    value.descriptor = &descriptor;
    response.outcome_case = HL__V1__INVOKE_RESPONSE__OUTCOME_RESULT;
    response.result = &value;
    outer.kind_case = HL__V1__INVOKE_WITH_HOST_RESPONSE__KIND_DONE;
    outer.done = &response;
    fake_answer(server, stream, &outer.base);
}

static void nested_script(struct fake_server *server)
{
    Hl__V1__InvokeWithHostResponse ask = HL__V1__INVOKE_WITH_HOST_RESPONSE__INIT;
    Hl__V1__HostCall call = HL__V1__HOST_CALL__INIT;
    struct got outer, inner;
    struct buffer buf = {0};

    fake_read(server, &outer);
    call.id = 1;
    call.function = "ask";
    ask.kind_case = HL__V1__INVOKE_WITH_HOST_RESPONSE__KIND_CALL;
    ask.call = &call;
    if (envelope_encode_data(&buf, outer.stream, 0, &ask.base) < 0)
        abort();
    fake_write(server, buffer_data(&buf), buf.len);
    buffer_fini(&buf);
    fake_read(server, &inner);
    fake_put_result(&inner, 0, "inner", F_SEAL_WRITE);
    fake_answer_descriptor(server, inner.stream, 0, 5);
    fake_close(&inner);
    fake_put_result(&outer, 0, "outer", F_SEAL_WRITE);
    answer_wrapped(server, outer.stream);
    fake_close(&outer);
    /* The host call's answer, a data frame, is of no interest. */
    while (recv(server->fd, &inner, 1, 0) > 0)
        ;
}

static int inner_fd;

static void on_ask(void *opaque, struct hl_host_call *host)
{
    const struct hl_call call = {.image = "i", .function = "inner", .result_room = 4096};
    struct hl_result result;

    (void)opaque;
    ck_assert_int_eq(hl_client_invoke(host->client, &call, &result, NULL), 0);
    ck_assert_mem_eq(result.value.bytes.data, "inner", 5);
    inner_fd = result.fd;
}

START_TEST(calls_from_a_host_function)
{
    const struct hl_call call = {.image = "i", .function = "outer", .result_room = 4096};
    const struct hl_host functions[] = {{.name = "ask", .cb = on_ask}};
    unsigned int before = fake_count_fds();
    struct fake_server server = {0};
    struct hl_client *client;
    struct hl_result result;

    fake_start(&server, nested_script, &client);
    ck_assert_int_eq(hl_client_invoke_with_host(client, &call, functions, 1, &result, NULL), 0);
    ck_assert_mem_eq(result.value.bytes.data, "outer", 5);
    ck_assert_int_ne(inner_fd, result.fd);
    ck_assert_int_eq(fcntl(inner_fd, F_GETFD), -1);
    fake_stop(&server, client);
    ck_assert_uint_eq(fake_count_fds(), before);
}
END_TEST

#define COUNT(array) ((int)(sizeof(array) / sizeof((array)[0])))

int main(void)
{
    TCase *tc = tcase_create("client, bulk");

    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, arguments);
    tcase_add_loop_test(tc, arguments_that_can_change_are_refused, 0, COUNT(refused));
    tcase_add_test(tc, arguments_that_are_no_memfd_are_refused);
    tcase_add_test(tc, results);
    tcase_add_test(tc, empty_result);
    tcase_add_test(tc, more_room_than_there_is);
    tcase_add_test(tc, room_that_is_not_used);
    tcase_add_loop_test(tc, lies_about_results, 0, COUNT(lies));
    tcase_add_test(tc, calls_from_a_host_function);
    return tests_run(tc, "client, bulk");
}
