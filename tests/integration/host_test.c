/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Host functions through libhlclient, by its public headers alone: many calls at once, calls within
 * calls, errors, offers. Prints ok. Usage: host_test SOCKET, with hostdemo registered as the test
 * does it.
 */
#include <errno.h>
#include <hlclient.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CALLS      50
#define HOST_CALLS 20

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                        \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

static const char *path;

static struct hl_client *connect_client(void)
{
    struct hl_client *client;
    struct hl_client_error err;

    if (hl_client_connect(&client, path, &err) < 0) {
        fprintf(stderr, "%s\n", err.text);
        exit(1);
    }
    return client;
}

static void run_until(struct hl_client *client, const int *done, int wanted)
{
    while (*done < wanted) {
        struct pollfd pfd = {.fd = hl_client_fd(client), .events = hl_client_events(client)};
        struct hl_client_error err;

        CHECK(poll(&pfd, 1, 60000) == 1);
        if (hl_client_process(client, &err) < 0) {
            fprintf(stderr, "%s\n", err.text);
            exit(1);
        }
    }
}

/* --- many calls at once --------------------------------------------------------------------- */

static void on_count(void *opaque, struct hl_host_call *call)
{
    struct hl_value answer = {.type = HL_TYPE_U32, .u32 = call->args[0].u32 * 3};

    CHECK(call->nargs == 1 && call->args[0].type == HL_TYPE_U32);
    CHECK(call->ret == HL_TYPE_U32 && call->depth == 1);
    CHECK(strcmp(call->image, "hostdemo") == 0 && strcmp(call->function, "count") == 0);
    ++*(int *)opaque;
    CHECK(hl_host_return(call, &answer) == 0);
    CHECK(hl_host_return(call, &answer) == -EALREADY);
}

static void on_sum(void *opaque, uint64_t id, int code, const struct hl_result *result,
                   const struct hl_client_error *err)
{
    (void)id;
    if (code != 0) {
        fprintf(stderr, "call ended with %d: %s\n", code, err ? err->text : "guest error");
        exit(1);
    }
    CHECK(result->value.type == HL_TYPE_U64);
    CHECK(result->value.u64 == 3 * (HOST_CALLS * (HOST_CALLS - 1) / 2));
    ++*(int *)opaque;
}

static void test_many(void)
{
    static const struct hl_signature signature = {HL_TYPE_U32, 1, {HL_TYPE_U32}};
    struct hl_value n = {.type = HL_TYPE_U32, .u32 = HOST_CALLS};
    struct hl_call call = {.image = "hostdemo", .function = "sum", .args = &n, .nargs = 1};
    struct hl_client *client = connect_client();
    struct hl_client_error err;
    int asked = 0, done = 0;
    struct hl_host functions[] = {{"count", &signature, on_count, &asked}};

    call.timeout_ns = 60000000000ull;
    for (int i = 0; i < CALLS; i++)
        CHECK(hl_client_submit_with_host(client, &call, functions, 1, on_sum, &done, NULL, &err) ==
              0);
    CHECK(hl_client_pending(client) == CALLS);
    run_until(client, &done, CALLS);
    CHECK(asked == CALLS * HOST_CALLS);
    hl_client_disconnect(client);
}

/* --- calls within calls --------------------------------------------------------------------- */

struct nest {
    struct hl_host functions[1];
    int deepest, refused;
};

static void on_descend(void *opaque, struct hl_host_call *call)
{
    struct nest *nest = opaque;
    struct hl_call inner = {
        .image = "hostdemo", .function = "descend", .args = call->args, .nargs = 1};
    struct hl_client_error err;
    struct hl_result result;
    int r;

    if ((int)call->depth > nest->deepest)
        nest->deepest = (int)call->depth;
    CHECK(hl_client_process(call->client, &err) == -EDEADLK);
    r = hl_client_invoke_with_host(call->client, &inner, nest->functions, 1, &result, &err);
    if (r == 0) {
        CHECK(hl_host_return(call, &result.value) == 0);
        return;
    }
    nest->refused++;
    CHECK(hl_host_fail(call, r < 0 ? err.status : HL_STATUS_ABORTED, 0, "too deep") == 0);
}

static void test_nested(void)
{
    struct hl_client *client = connect_client();
    struct nest nest = {.functions = {{"descend", NULL, on_descend, &nest}}};
    struct hl_value depth = {.type = HL_TYPE_U32, .u32 = 4};
    struct hl_call call = {.image = "hostdemo", .function = "descend", .args = &depth, .nargs = 1};
    struct hl_client_error err;
    struct hl_result result;

    CHECK(hl_client_invoke_with_host(client, &call, nest.functions, 1, &result, &err) == 0);
    CHECK(result.value.type == HL_TYPE_U32 && result.value.u32 == 5);
    CHECK(nest.deepest == 4 && nest.refused == 0);
    depth.u32 = 9; /* the image's policy allows 4 */
    CHECK(hl_client_invoke_with_host(client, &call, nest.functions, 1, &result, &err) ==
          HL_GUEST_ERROR);
    CHECK(nest.refused > 0 && nest.deepest == 5);
    hl_client_set_depth(client, 5); /* as if for a host call of another client */
    CHECK(hl_client_invoke_with_host(client, &call, nest.functions, 1, &result, &err) < 0);
    CHECK(err.status == HL_STATUS_RESOURCE_EXHAUSTED);
    hl_client_set_depth(client, 0);
    /* results of a blocking call are its own, whatever callbacks have called */
    CHECK(hl_client_pending(client) == 0);
    hl_client_disconnect(client);
}

/* --- errors --------------------------------------------------------------------------------- */

static void on_fail(void *opaque, struct hl_host_call *call)
{
    struct hl_value wrong = {.type = HL_TYPE_STRING, .bytes = {"\xff", 1}};

    (void)opaque;
    CHECK(hl_host_return(call, &wrong) == -EILSEQ);
    CHECK(hl_host_fail(call, HL_STATUS_UNKNOWN, 42, "not today") == 0);
}

static void on_wrong(void *opaque, struct hl_host_call *call)
{
    struct hl_value wrong = {.type = HL_TYPE_BOOL, .b = true};

    (void)opaque;
    CHECK(hl_host_return(call, &wrong) == 0);
}

static void on_nothing(void *opaque, struct hl_host_call *call)
{
    (void)opaque;
    (void)call;
}

static void test_errors(void)
{
    static const struct hl_signature other = {HL_TYPE_U32, 1, {HL_TYPE_STRING}};
    struct hl_host functions[] = {{"count", NULL, on_fail, NULL}};
    struct hl_client *client = connect_client();
    struct hl_value n = {.type = HL_TYPE_U32, .u32 = 1};
    struct hl_call call = {.image = "hostdemo", .function = "sum", .args = &n, .nargs = 1};
    struct hl_client_error err;
    struct hl_result result;

    CHECK(hl_client_invoke_with_host(client, &call, functions, 1, &result, &err) == HL_GUEST_ERROR);
    CHECK(result.code == HL_STATUS_UNKNOWN);
    CHECK(memmem(result.value.bytes.data, result.value.bytes.len, "not today", 9));
    functions[0].sig = &other;
    CHECK(hl_client_invoke_with_host(client, &call, functions, 1, &result, &err) == HL_GUEST_ERROR);
    CHECK(result.code == HL_STATUS_INVALID_ARGUMENT);
    CHECK(hl_client_invoke_with_host(client, &call, NULL, 0, &result, &err) == HL_GUEST_ERROR);
    CHECK(result.code == HL_STATUS_UNIMPLEMENTED);
    functions[0] = (struct hl_host){"count", NULL, on_wrong, NULL};
    CHECK(hl_client_invoke_with_host(client, &call, functions, 1, &result, &err) < 0);
    CHECK(err.status == HL_STATUS_INVALID_ARGUMENT && err.remote);
    functions[0].cb = on_nothing; /* void where the policy says u32 */
    CHECK(hl_client_invoke_with_host(client, &call, functions, 1, &result, &err) < 0);
    CHECK(err.status == HL_STATUS_INVALID_ARGUMENT);
    hl_client_disconnect(client);
}

/* --- offers --------------------------------------------------------------------------------- */

struct provider {
    pthread_t thread;
    atomic_bool ready, stop;
    atomic_int served;
    int ended;
};

static void on_shout(void *opaque, struct hl_host_call *call)
{
    struct provider *provider = opaque;
    struct hl_value answer = call->args[0];
    char text[64];

    CHECK(answer.type == HL_TYPE_BYTES && answer.bytes.len < sizeof(text));
    for (size_t i = 0; i < answer.bytes.len; i++)
        text[i] = (char)(((const char *)answer.bytes.data)[i] - 32);
    answer.bytes.data = text;
    CHECK(hl_host_return(call, &answer) == 0);
    atomic_fetch_add(&provider->served, 1);
}

static void on_ended(void *opaque, uint64_t id, int code, const struct hl_result *result,
                     const struct hl_client_error *err)
{
    (void)id;
    (void)result;
    CHECK(code == 0 && !err);
    ++*(int *)opaque;
}

static void *provide(void *opaque)
{
    struct provider *provider = opaque;
    struct hl_client *client = connect_client();
    struct hl_host functions[] = {{"shout", NULL, on_shout, provider}};
    struct hl_offer offer = {.functions = functions, .nfunctions = 1};
    struct hl_client_error err;
    uint64_t id;

    CHECK(hl_client_offer(client, &offer, on_ended, &provider->ended, &id, &err) == 0);
    atomic_store(&provider->ready, true);
    while (!atomic_load(&provider->stop)) {
        struct pollfd pfd = {.fd = hl_client_fd(client), .events = hl_client_events(client)};

        poll(&pfd, 1, 20);
        CHECK(hl_client_process(client, &err) == 0);
    }
    CHECK(hl_client_withdraw(client, id) == 0);
    run_until(client, &provider->ended, 1);
    CHECK(hl_client_withdraw(client, id) == -ENOENT);
    hl_client_disconnect(client);
    return NULL;
}

static void test_offer(void)
{
    struct provider provider = {0};
    struct hl_client *client = connect_client();
    struct hl_value args[] = {{.type = HL_TYPE_STRING, .bytes = {"shout", 5}},
                              {.type = HL_TYPE_BYTES, .bytes = {"loud", 4}}};
    struct hl_call call = {.image = "hostdemo", .function = "ask", .args = args, .nargs = 2};
    struct hl_client_error err;
    struct hl_result result;

    CHECK(hl_client_invoke(client, &call, &result, &err) == HL_GUEST_ERROR);
    CHECK(result.code == HL_STATUS_UNAVAILABLE);
    pthread_create(&provider.thread, NULL, provide, &provider);
    while (!atomic_load(&provider.ready))
        poll(NULL, 0, 5);
    for (int i = 0; i < 100; i++) {
        CHECK(hl_client_invoke(client, &call, &result, &err) == 0);
        CHECK(result.value.bytes.len == 4 && memcmp(result.value.bytes.data, "LOUD", 4) == 0);
    }
    atomic_store(&provider.stop, true);
    pthread_join(provider.thread, NULL);
    CHECK(atomic_load(&provider.served) == 100);
    CHECK(hl_client_invoke(client, &call, &result, &err) == HL_GUEST_ERROR);
    CHECK(result.code == HL_STATUS_UNAVAILABLE);
    hl_client_disconnect(client);
}

/* A call that is over while its callback runs: the callback goes to its end first. */
static void on_slow(void *opaque, struct hl_host_call *call)
{
    struct hl_value answer = {.type = HL_TYPE_U32};
    struct hl_call other = {.image = "hostdemo", .function = "flood"};
    struct hl_value args[] = {{.type = HL_TYPE_STRING, .bytes = {"none", 4}},
                              {.type = HL_TYPE_U32, .u32 = 1}};
    struct hl_client_error err;
    struct hl_result result;

    other.args = args;
    other.nargs = 2;
    poll(NULL, 0, 150);
    /* the connection is read here, the answer of the outer call with it */
    CHECK(hl_client_invoke(call->client, &other, &result, &err) == 0);
    CHECK(*(int *)opaque == 0);
    hl_host_return(call, &answer);
}

static void on_timed_out(void *opaque, uint64_t id, int code, const struct hl_result *result,
                         const struct hl_client_error *err)
{
    (void)id;
    (void)result;
    CHECK(code < 0 && err->status == HL_STATUS_DEADLINE_EXCEEDED);
    ++*(int *)opaque;
}

static void test_over_meanwhile(void)
{
    struct hl_client *client = connect_client();
    struct hl_value n = {.type = HL_TYPE_U32, .u32 = 1};
    struct hl_call call = {
        .image = "hostdemo", .function = "sum", .args = &n, .nargs = 1, .timeout_ns = 50000000};
    int done = 0, blocking = 0;
    struct hl_host functions[] = {{"count", NULL, on_slow, &done}};
    struct hl_client_error err;
    struct hl_result result;

    CHECK(hl_client_submit_with_host(client, &call, functions, 1, on_timed_out, &done, NULL,
                                     &err) == 0);
    run_until(client, &done, 1);
    functions[0].opaque = &blocking;
    CHECK(hl_client_invoke_with_host(client, &call, functions, 1, &result, &err) < 0);
    CHECK(err.status == HL_STATUS_DEADLINE_EXCEEDED && done == 1);
    hl_client_disconnect(client);
}

int main(int argc, char **argv)
{
    CHECK(argc == 2);
    path = argv[1];
    test_many();
    test_nested();
    test_errors();
    test_offer();
    test_over_meanwhile();
    printf("ok\n");
    return 0;
}
