/* SPDX-License-Identifier: Apache-2.0 */
/* Calls of libhlclient, blocking and submitted, against a server that answers well, with errors,
 * out of order. */
#include "config.h"

#include <check.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/fake_server.h"
#include "tests/unit/tests_run.h"

static const struct hl_call simple_call = {.image = "echo", .function = "echo"};

static int invoke(struct hl_client *client, struct hl_result *result, struct hl_client_error *err)
{
    return hl_client_invoke(client, &simple_call, result, err);
}

/* ---- good answers ---- */

/* Answers every Invoke with its first argument. */
static void echo_script(struct fake_server *server)
{
    struct got got;

    while (fake_read(server, &got)) {
        Hl__V1__InvokeResponse response = HL__V1__INVOKE_RESPONSE__INIT;
        const Hl__V1__InvokeRequest *request =
            fake_decode(server, &got, &hl__v1__invoke_request__descriptor);

        if (request->n_args > 0) {
            response.outcome_case = HL__V1__INVOKE_RESPONSE__OUTCOME_RESULT;
            response.result = request->args[0];
        }
        fake_answer(server, got.stream, &response.base);
    }
}

START_TEST(values_come_back)
{
    const struct hl_value values[] = {
        {.type = HL_TYPE_I32, .i32 = -7},
        {.type = HL_TYPE_U64, .u64 = UINT64_MAX},
        {.type = HL_TYPE_F64, .f64 = 0.1},
        {.type = HL_TYPE_BOOL, .b = true},
        {.type = HL_TYPE_STRING, .bytes = {"a\0b", 3}},
        {.type = HL_TYPE_BYTES, .bytes = {"\xff\x00", 2}},
    };
    struct fake_server server = {0};
    struct hl_client *client;
    struct hl_result result;

    fake_start(&server, echo_script, &client);
    for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
        struct hl_call call = simple_call;

        call.args = &values[i];
        call.nargs = 1;
        ck_assert_int_eq(hl_client_invoke(client, &call, &result, NULL), 0);
        ck_assert_int_eq(result.value.type, values[i].type);
        if (values[i].type >= HL_TYPE_STRING) {
            ck_assert_uint_eq(result.value.bytes.len, values[i].bytes.len);
            ck_assert_mem_eq(result.value.bytes.data, values[i].bytes.data, values[i].bytes.len);
        } else {
            ck_assert_uint_eq(result.value.u64, values[i].u64);
        }
    }
    ck_assert_int_eq(hl_client_invoke(client, &simple_call, &result, NULL), 0);
    ck_assert_int_eq(result.value.type, HL_TYPE_VOID);
    fake_stop(&server, client);
}
END_TEST

START_TEST(bad_arguments_are_refused_here)
{
    const struct hl_value bad = {.type = HL_TYPE_STRING, .bytes = {"\xff", 1}};
    struct hl_value many[HL_MAX_PARAMS + 1] = {0};
    struct hl_call call = {.image = "x", .function = "y", .args = &bad, .nargs = 1};
    struct fake_server server = {0};
    struct hl_client_error err;
    struct hl_client *client;
    struct hl_result result;

    fake_start(&server, echo_script, &client);
    ck_assert_int_eq(hl_client_invoke(client, &call, &result, &err), -EILSEQ);
    ck_assert_str_eq(err.text, "argument 1: string is not valid UTF-8");
    call.args = many;
    ck_assert_int_eq(hl_client_invoke(client, &call, &result, &err), -EINVAL);
    call.nargs = HL_MAX_PARAMS + 1;
    ck_assert_int_eq(hl_client_invoke(client, &call, &result, &err), -EINVAL);
    ck_assert_int_eq(err.status, HL_STATUS_INVALID_ARGUMENT);
    ck_assert(!err.remote);
    /* Nothing of it hurt the connection. */
    ck_assert_int_eq(invoke(client, &result, NULL), 0);
    fake_stop(&server, client);
}
END_TEST

START_TEST(too_large_is_refused_here)
{
    struct hl_value value = {.type = HL_TYPE_BYTES};
    struct hl_call call = {.image = "x", .function = "y", .args = &value, .nargs = 1};
    struct fake_server server = {0};
    struct hl_client_error err;
    struct hl_client *client;
    struct hl_result result;
    uint8_t *data = calloc(1, FRAME_PAYLOAD_MAX);

    ck_assert_ptr_nonnull(data);
    fake_start(&server, echo_script, &client);
    value.bytes.data = data;
    value.bytes.len = FRAME_PAYLOAD_MAX;
    ck_assert_int_eq(hl_client_invoke(client, &call, &result, &err), -EMSGSIZE);
    value.bytes.len = FRAME_PAYLOAD_MAX - 100;
    ck_assert_int_eq(hl_client_invoke(client, &call, &result, &err), 0);
    ck_assert_uint_eq(result.value.bytes.len, value.bytes.len);
    fake_stop(&server, client);
    free(data);
}
END_TEST

/* ---- errors that hld answers with ---- */

static void errors_script(struct fake_server *server)
{
    Hl__V1__InvokeResponse response = HL__V1__INVOKE_RESPONSE__INIT;
    Hl__V1__GuestFault fault = HL__V1__GUEST_FAULT__INIT;
    Hl__V1__Accounting accounting = HL__V1__ACCOUNTING__INIT;
    Hl__V1__GuestError error = HL__V1__GUEST_ERROR__INIT;
    const struct envelope_detail details[] = {{DETAIL_GUEST_FAULT, &fault.base},
                                              {DETAIL_ACCOUNTING, &accounting.base},
                                              {"type.googleapis.com/other", &error.base}};
    struct got got;

    fake_read(server, &got);
    fault.vector = 14;
    fault.address = 0x10;
    fault.symbol = "f+0x4\x1b\xc2\x9bm\u00e9";
    accounting.exits = 3;
    accounting.backend = "a name longer than what it is copied to";
    fake_status(server, got.stream, HL_STATUS_ABORTED, "page\nfault", details, 3);
    fake_read(server, &got);
    error.code = -5;
    error.text = "no";
    response.outcome_case = HL__V1__INVOKE_RESPONSE__OUTCOME_ERROR;
    response.error = &error;
    fake_answer(server, got.stream, &response.base);
    fake_read(server, &got);
    fake_status(server, got.stream, (enum hl_status)77, "", NULL, 0);
    fake_read(server, &got);
}

START_TEST(errors_of_hld)
{
    struct fake_server server = {0};
    struct hl_client_error err;
    struct hl_client *client;
    struct hl_result result;

    fake_start(&server, errors_script, &client);
    ck_assert_int_eq(invoke(client, &result, &err), -EFAULT);
    ck_assert_int_eq(err.status, HL_STATUS_ABORTED);
    ck_assert(err.remote && err.has_fault && err.has_accounting);
    ck_assert_uint_eq(err.fault.vector, 14);
    ck_assert_uint_eq(err.fault.address, 0x10);
    ck_assert_str_eq(err.fault.symbol, "f+0x4   m\u00e9");
    ck_assert_uint_eq(err.accounting.exits, 3);
    ck_assert_uint_eq(strlen(err.accounting.backend), sizeof(err.accounting.backend) - 1);
    ck_assert_str_eq(err.text, "page fault");

    ck_assert_int_eq(invoke(client, &result, &err), HL_GUEST_ERROR);
    ck_assert_int_eq(result.code, -5);
    ck_assert_uint_eq(result.value.bytes.len, 2);
    ck_assert_mem_eq(result.value.bytes.data, "no", 2);

    ck_assert_int_eq(invoke(client, &result, &err), -EREMOTEIO);
    ck_assert_int_eq(err.status, HL_STATUS_UNKNOWN);
    ck_assert_str_eq(err.text, "UNKNOWN");
    fake_stop(&server, client);
}
END_TEST

/* ---- submitted calls ---- */

struct seen {
    unsigned int count;
    uint64_t ids[4];
    int codes[4];
    char texts[4][16];
    struct hl_client *client; /* to submit again from the callback */
};

static void on_done(void *opaque, uint64_t id, int code, const struct hl_result *result,
                    const struct hl_client_error *err)
{
    struct seen *seen = opaque;
    unsigned int i = seen->count++;

    ck_assert_uint_lt(i, 4);
    seen->ids[i] = id;
    seen->codes[i] = code;
    ck_assert_int_eq(code < 0, err != NULL);
    ck_assert_int_eq(code >= 0, result != NULL);
    if (result && result->value.type == HL_TYPE_STRING)
        snprintf(seen->texts[i], sizeof(seen->texts[i]), "%.*s", (int)result->value.bytes.len,
                 (const char *)result->value.bytes.data);
}

static int process_until(struct hl_client *client, const struct seen *seen, unsigned int count)
{
    int r = 0;

    while (seen->count < count && r == 0) {
        struct pollfd pfd = {.fd = hl_client_fd(client), .events = hl_client_events(client)};

        ck_assert_int_ge(poll(&pfd, 1, 20000), 1);
        r = hl_client_process(client, NULL);
    }
    return r;
}

static void reverse_script(struct fake_server *server)
{
    struct got got[3];
    char text[16];

    for (int i = 0; i < 3; i++)
        fake_read(server, &got[i]);
    for (int i = 2; i >= 0; i--) {
        snprintf(text, sizeof(text), "%u", got[i].stream);
        fake_result(server, got[i].stream, text);
    }
    fake_read(server, &got[0]);
}

START_TEST(answers_out_of_order)
{
    struct fake_server server = {0};
    struct seen seen = {0};
    struct hl_client *client;
    uint64_t ids[3];

    fake_start(&server, reverse_script, &client);
    for (int i = 0; i < 3; i++)
        ck_assert_int_eq(hl_client_submit(client, &simple_call, on_done, &seen, &ids[i], NULL), 0);
    ck_assert_uint_eq(hl_client_pending(client), 3);
    ck_assert_int_eq(process_until(client, &seen, 3), 0);
    ck_assert_uint_eq(hl_client_pending(client), 0);
    for (int i = 0; i < 3; i++) {
        char text[16];

        snprintf(text, sizeof(text), "%llu", (unsigned long long)seen.ids[i]);
        ck_assert_uint_eq(seen.ids[i], ids[2 - i]);
        ck_assert_int_eq(seen.codes[i], 0);
        ck_assert_str_eq(seen.texts[i], text);
    }
    fake_stop(&server, client);
}
END_TEST

/* Three frames in one piece: the blocking one's between those of the submitted. */
static void together_script(struct fake_server *server)
{
    Hl__V1__InvokeResponse response = HL__V1__INVOKE_RESPONSE__INIT;
    struct buffer buf = {0};
    struct got got[3];

    for (int i = 0; i < 3; i++)
        fake_read(server, &got[i]);
    envelope_encode_response(&buf, got[0].stream, &response.base);
    envelope_encode_response(&buf, got[2].stream, &response.base);
    envelope_encode_response(&buf, got[1].stream, &response.base);
    fake_write(server, buffer_data(&buf), buf.len);
    buffer_fini(&buf);
    fake_read(server, &got[0]);
}

START_TEST(blocking_call_among_submitted_ones)
{
    struct fake_server server = {0};
    struct seen seen = {0};
    struct hl_client *client;
    struct hl_result result;

    fake_start(&server, together_script, &client);
    hl_client_submit(client, &simple_call, on_done, &seen, NULL, NULL);
    hl_client_submit(client, &simple_call, on_done, &seen, NULL, NULL);
    ck_assert_int_eq(invoke(client, &result, NULL), 0);
    /* Nothing is left in the client that poll would not tell about. */
    ck_assert_uint_eq(seen.count, 2);
    fake_stop(&server, client);
}
END_TEST

static void cancel_script(struct fake_server *server)
{
    Hl__V1__CancelResponse answer = HL__V1__CANCEL_RESPONSE__INIT;
    struct got call, cancel;
    const Hl__V1__InvokeRequest *request;
    const Hl__V1__CancelRequest *what;

    fake_read(server, &call);
    fake_read(server, &cancel);
    request = fake_decode(server, &call, &hl__v1__invoke_request__descriptor);
    what = fake_decode(server, &cancel, &hl__v1__cancel_request__descriptor);
    if (strcmp(cancel.method, "Cancel") != 0 || what->call_id != request->call_id)
        abort();
    fake_status(server, call.stream, HL_STATUS_CANCELLED, "cancelled", NULL, 0);
    answer.found = 1;
    fake_answer(server, cancel.stream, &answer.base);
    fake_read(server, &call);
}

START_TEST(cancel)
{
    struct fake_server server = {0};
    struct seen seen = {0};
    struct hl_client *client;
    uint64_t id;

    fake_start(&server, cancel_script, &client);
    ck_assert_int_eq(hl_client_cancel(client, 1), -ENOENT);
    ck_assert_int_eq(hl_client_submit(client, &simple_call, on_done, &seen, &id, NULL), 0);
    ck_assert_int_eq(hl_client_cancel(client, id), 0);
    ck_assert_int_eq(process_until(client, &seen, 1), 0);
    ck_assert_int_eq(seen.codes[0], -ECANCELED);
    ck_assert_int_eq(hl_client_cancel(client, id), -ENOENT);
    fake_stop(&server, client);
}
END_TEST

static void on_done_again(void *opaque, uint64_t id, int code, const struct hl_result *result,
                          const struct hl_client_error *err)
{
    struct seen *seen = opaque;
    struct hl_result none;

    on_done(opaque, id, code, result, err);
    ck_assert_int_eq(hl_client_ping(seen->client, NULL, 0, NULL), -EDEADLK);
    ck_assert_int_eq(invoke(seen->client, &none, NULL), -EDEADLK);
    ck_assert_int_eq(hl_client_process(seen->client, NULL), -EDEADLK);
    if (seen->count < 3)
        ck_assert_int_eq(
            hl_client_submit(seen->client, &simple_call, on_done_again, seen, NULL, NULL), 0);
}

START_TEST(submit_from_a_callback)
{
    struct fake_server server = {0};
    struct seen seen = {0};

    fake_start(&server, echo_script, &seen.client);
    hl_client_submit(seen.client, &simple_call, on_done_again, &seen, NULL, NULL);
    ck_assert_int_eq(process_until(seen.client, &seen, 3), 0);
    fake_stop(&server, seen.client);
}
END_TEST

START_TEST(disconnect_calls_back)
{
    struct fake_server server = {0};
    struct seen seen = {0};
    struct hl_client *client;

    fake_start(&server, reverse_script, &client);
    hl_client_submit(client, &simple_call, on_done, &seen, NULL, NULL);
    hl_client_submit(client, &simple_call, on_done, &seen, NULL, NULL);
    fake_stop(&server, client);
    ck_assert_uint_eq(seen.count, 2);
    ck_assert_int_eq(seen.codes[1], -ECANCELED);
}
END_TEST

static void count_done(void *opaque, uint64_t id, int code, const struct hl_result *result,
                       const struct hl_client_error *err)
{
    (void)id;
    (void)result;
    (void)err;
    ck_assert_int_eq(code, 0);
    ++*(unsigned int *)opaque;
}

START_TEST(many_calls_on_their_way)
{
    enum { CALLS = 3000 };
    struct fake_server server = {0};
    struct hl_client *client;
    unsigned int count = 0;

    /* More than the sockets hold, so that sending has to stop and go on. */
    fake_start(&server, echo_script, &client);
    for (int i = 0; i < CALLS; i++)
        ck_assert_int_eq(hl_client_submit(client, &simple_call, count_done, &count, NULL, NULL), 0);
    while (count < CALLS) {
        struct pollfd pfd = {.fd = hl_client_fd(client), .events = hl_client_events(client)};

        ck_assert_int_ge(poll(&pfd, 1, 20000), 1);
        ck_assert_int_eq(hl_client_process(client, NULL), 0);
    }
    ck_assert_uint_eq(hl_client_pending(client), 0);
    fake_stop(&server, client);
}
END_TEST

int main(void)
{
    TCase *tc = tcase_create("client");

    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, values_come_back);
    tcase_add_test(tc, bad_arguments_are_refused_here);
    tcase_add_test(tc, too_large_is_refused_here);
    tcase_add_test(tc, errors_of_hld);
    tcase_add_test(tc, answers_out_of_order);
    tcase_add_test(tc, blocking_call_among_submitted_ones);
    tcase_add_test(tc, cancel);
    tcase_add_test(tc, submit_from_a_callback);
    tcase_add_test(tc, disconnect_calls_back);
    tcase_add_test(tc, many_calls_on_their_way);
    return tests_run(tc, "client");
}
