/* SPDX-License-Identifier: Apache-2.0 */
/* Descriptors beside many requests: each goes with its own frame however they are cut up on the
 * way, and none stays open whatever becomes of the connection. */
#include "config.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/unit/fake_server.h"
#include "tests/unit/tests_run.h"

#define SEALS (F_SEAL_WRITE | F_SEAL_SHRINK)

static void on_done(void *opaque, uint64_t id, int code, const struct hl_result *result,
                    const struct hl_client_error *err)
{
    (void)id;
    (void)result;
    (void)err;
    *(int *)opaque = code;
}

/* ---- many on their way ---- */

#define CALLS 100

struct tally {
    unsigned int count;
    bool seen[CALLS];
};

/* The result is the number that the argument's file begins with. */
static void count_done(void *opaque, uint64_t id, int code, const struct hl_result *result,
                       const struct hl_client_error *err)
{
    struct tally *tally = opaque;
    uint32_t i = (uint32_t)(id / 2) % CALLS;

    (void)err;
    ck_assert_int_eq(code, 0);
    ck_assert_uint_eq(result->value.bytes.len, sizeof(i));
    ck_assert_mem_eq(result->value.bytes.data, &i, sizeof(i));
    ck_assert(!tally->seen[i]);
    tally->seen[i] = true;
    tally->count++;
    ck_assert_int_eq(result->fd >= 0, i % 3 == 0);
}

/* Every third call has a room, every third inline bytes that fill sockets, the others a file. */
static void mixed_script(struct fake_server *server)
{
    for (uint32_t i = 0; i < CALLS; i++) {
        Hl__V1__InvokeResponse response = HL__V1__INVOKE_RESPONSE__INIT;
        Hl__V1__Value value = HL__V1__VALUE__INIT;
        struct got got;
        uint32_t n = i;

        if (!fake_read(server, &got) || got.nfds != (i % 3 == 0 ? 2 : i % 3 == 1 ? 0 : 1))
            abort();
        if (got.nfds > 0 && !fake_holds(got.fds[0], &n, sizeof(n)))
            abort();
        if (i % 3 == 0) {
            if (pwrite(got.fds[1], &n, sizeof(n), 0) != sizeof(n) ||
                fcntl(got.fds[1], F_ADD_SEALS, F_SEAL_WRITE) < 0)
                abort();
            fake_answer_descriptor(server, got.stream, 1, sizeof(n));
        } else {
            value.kind_case = HL__V1__VALUE__KIND_DATA;
            value.data = (ProtobufCBinaryData){.len = sizeof(n), .data = (uint8_t *)&n};
            response.outcome_case = HL__V1__INVOKE_RESPONSE__OUTCOME_RESULT;
            response.result = &value;
            fake_answer(server, got.stream, &response.base);
        }
        fake_close(&got);
    }
    fake_read(server, &(struct got){0});
}

static void submit_one(struct hl_client *client, uint32_t i, const uint8_t *bulk, size_t size,
                       struct tally *tally)
{
    struct hl_value arg = {.type = HL_TYPE_BYTES, .bytes = {bulk, size}};
    struct hl_call call = {.image = "i", .function = "f", .args = &arg, .nargs = 1};
    int fd = -1;

    if (i % 3 != 1) {
        fd = fake_memfd(&i, sizeof(i), SEALS);
        arg = (struct hl_value){.type = HL_TYPE_DESCRIPTOR, .descriptor = {sizeof(i), fd}};
    }
    if (i % 3 == 0)
        call.result_room = 4096;
    ck_assert_int_eq(hl_client_submit(client, &call, count_done, tally, NULL, NULL), 0);
    /* What is still to be sent is the library's. */
    if (fd >= 0)
        close(fd);
}

START_TEST(each_with_its_own_frame)
{
    const size_t size = 300000;
    uint8_t *bulk = calloc(1, size);
    unsigned int before = fake_count_fds();
    struct fake_server server = {0};
    struct tally tally = {0};
    struct hl_client *client;

    ck_assert_ptr_nonnull(bulk);
    fake_start(&server, mixed_script, &client);
    for (uint32_t i = 0; i < CALLS; i++)
        submit_one(client, i, bulk, size, &tally);
    while (tally.count < CALLS) {
        struct pollfd pfd = {.fd = hl_client_fd(client), .events = hl_client_events(client)};

        ck_assert_int_ge(poll(&pfd, 1, 20000), 1);
        ck_assert_int_eq(hl_client_process(client, NULL), 0);
    }
    ck_assert_ptr_null(client->parcels);
    ck_assert_uint_eq(client->ndescriptors, 0);
    fake_stop(&server, client);
    ck_assert_uint_eq(fake_count_fds(), before);
    free(bulk);
}
END_TEST

static void gate_script(struct fake_server *server)
{
    /* Reads when the test says so: a byte on a pipe of its own. */
    char byte;

    if (read((int)server->seed, &byte, 1) < 0)
        abort();
}

START_TEST(too_many_at_once)
{
    struct hl_value arg = fake_value("x");
    struct hl_call call = {.image = "i", .function = "f", .args = &arg, .nargs = 1};
    unsigned int before = fake_count_fds(), n = 0;
    struct fake_server server = {0};
    struct hl_client_error err;
    struct hl_client *client;
    int r, code = 0, gate[2];

    ck_assert_int_eq(pipe(gate), 0);
    server.seed = (unsigned int)gate[0];
    fake_start(&server, gate_script, &client);
    do {
        r = hl_client_submit(client, &call, on_done, &code, NULL, &err);
    } while (r == 0 && ++n < 10000);
    ck_assert_int_eq(r, -EAGAIN);
    ck_assert_uint_eq(n, PARCELS_MAX_FDS);
    ck_assert_int_eq(err.status, HL_STATUS_RESOURCE_EXHAUSTED);
    ck_assert_uint_eq(hl_client_pending(client), n);
    /* It never read a thing: what was sent and what was not are both gone. */
    ck_assert_int_eq(write(gate[1], "x", 1), 1);
    fake_stop(&server, client);
    close(gate[0]);
    close(gate[1]);
    ck_assert_int_eq(code, -ECANCELED);
    ck_assert_uint_eq(fake_count_fds(), before);
    close(arg.descriptor.fd);
}
END_TEST

/* ---- connections that break ---- */

static void one_frame_script(struct fake_server *server)
{
    struct got got;

    fake_read(server, &got);
    fake_close(&got);
}

START_TEST(broken_connections_leave_nothing_open)
{
    const size_t size = 1 << 20;
    uint8_t *bulk = calloc(1, size);
    struct hl_value args[] = {fake_value("x"), {.type = HL_TYPE_BYTES, .bytes = {bulk, size}}};
    struct hl_call call = {
        .image = "i", .function = "f", .args = args, .nargs = 2, .result_room = 4096};
    unsigned int before = fake_count_fds();
    struct fake_server server = {0};
    struct hl_client *client;
    struct hl_result result;
    int code[10] = {0};

    fake_start(&server, one_frame_script, &client);
    /* Most of it is never sent. */
    for (int i = 0; i < 10 && hl_client_submit(client, &call, on_done, &code[i], NULL, NULL) == 0;)
        i++;
    if (_i == 0)
        ck_assert_int_lt(hl_client_invoke(client, &call, &result, NULL), 0);
    if (_i == 1) {
        while (hl_client_process(client, NULL) == 0)
            ;
    }
    fake_stop(&server, client);
    ck_assert_int_lt(code[0], 0);
    ck_assert_uint_eq(fake_count_fds(), before);
    close(args[0].descriptor.fd);
    free(bulk);
}
END_TEST

static void silent_script(struct fake_server *server)
{
    struct got got[2];

    fake_read(server, &got[0]);
    fake_read(server, &got[1]);
    if (strcmp(got[1].method, "Cancel") != 0)
        abort();
    fake_put_result(&got[0], 1, "late", F_SEAL_WRITE);
    fake_answer_descriptor(server, got[0].stream, 1, 4);
    fake_close(&got[0]);
    fake_read(server, &got[0]);
    fake_answer_void(server, got[0].stream);
    fake_read(server, &got[0]);
}

START_TEST(result_that_comes_too_late)
{
    const struct hl_call plain = {.image = "i", .function = "f"};
    struct hl_value arg = fake_value("x");
    struct hl_call call = {.image = "i",
                           .function = "f",
                           .args = &arg,
                           .nargs = 1,
                           .timeout_ns = 1000000,
                           .result_room = 4096};
    unsigned int before = fake_count_fds();
    struct fake_server server = {0};
    struct hl_client *client;
    struct hl_result result;

    fake_start(&server, silent_script, &client);
    ck_assert_int_eq(hl_client_invoke(client, &call, &result, NULL), -ETIMEDOUT);
    ck_assert_int_eq(hl_client_invoke(client, &plain, &result, NULL), 0);
    fake_stop(&server, client);
    ck_assert_uint_eq(fake_count_fds(), before);
    close(arg.descriptor.fd);
}
END_TEST

int main(void)
{
    TCase *tc = tcase_create("client, parcels");

    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, each_with_its_own_frame);
    tcase_add_test(tc, too_many_at_once);
    tcase_add_loop_test(tc, broken_connections_leave_nothing_open, 0, 3);
    tcase_add_test(tc, result_that_comes_too_late);
    return tests_run(tc, "client, parcels");
}
