/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libhlclient against a real hld, as a program of a user's would use it: only the installed
 * headers, only public functions. Blocking calls, many calls at once through a descriptor that is
 * polled, and one that is stopped. test_clients.py builds it twice, on the shared library and on
 * the static one, and registers echo, adder and hostile before.
 */
#include <errno.h>
#include <hlclient.h>
#include <hlmanage.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CALLS 200u

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "line %d: %s is not so\n", __LINE__, #condition);                      \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

struct outcome {
    unsigned int done;
    int code;
    int32_t value;
    enum hl_status status;
};

static struct hl_client *connect_to(const char *path)
{
    struct hl_client_error err;
    struct hl_client *client;

    if (hl_client_connect(&client, path, &err) < 0) {
        fprintf(stderr, "%s\n", err.text);
        exit(1);
    }
    return client;
}

static void on_done(void *opaque, uint64_t id, int code, const struct hl_result *result,
                    const struct hl_client_error *err)
{
    struct outcome *outcome = opaque;

    (void)id;
    outcome->done++;
    outcome->code = code;
    if (result)
        outcome->value = result->value.i32;
    if (err)
        outcome->status = err->status;
}

/* Polls the client's descriptor until no call is on its way. */
static void run(struct hl_client *client)
{
    struct hl_client_error err;

    while (hl_client_pending(client) > 0) {
        struct pollfd pfd = {hl_client_fd(client), hl_client_events(client), 0};

        CHECK(poll(&pfd, 1, 60000) == 1);
        CHECK(hl_client_process(client, &err) == 0);
    }
}

static void test_blocking(struct hl_client *client)
{
    char text[] = "sixty-four bytes, or not";
    struct hl_value arg = {.type = HL_TYPE_BYTES, .bytes = {text, sizeof(text)}};
    struct hl_call call = {.image = "echo", .function = "echo", .args = &arg, .nargs = 1};
    struct hl_client_error err;
    struct hl_result result;

    CHECK(hl_client_invoke(client, &call, &result, &err) == 0);
    CHECK(result.value.type == HL_TYPE_BYTES && result.value.bytes.len == sizeof(text));
    CHECK(memcmp(result.value.bytes.data, text, sizeof(text)) == 0);
    CHECK(result.accounting.run_ns > 0 && result.accounting.total_ns >= result.accounting.run_ns);

    call.image = "no-such-image";
    CHECK(hl_client_invoke(client, &call, &result, &err) < 0);
    CHECK(err.status == HL_STATUS_NOT_FOUND && err.remote && err.text[0] != '\0');
}

static void test_guest_error_and_fault(struct hl_client *client)
{
    struct hl_value args[2] = {{.type = HL_TYPE_I32, .i32 = 1}, {.type = HL_TYPE_I32, .i32 = 0}};
    struct hl_call divide = {.image = "adder", .function = "divide", .args = args, .nargs = 2};
    struct hl_call fault = {.image = "hostile", .function = "null_write"};
    struct hl_client_error err;
    struct hl_result result;

    CHECK(hl_client_invoke(client, &divide, &result, &err) == HL_GUEST_ERROR);
    CHECK(result.code == 3 && result.value.bytes.len == strlen("division by zero"));
    CHECK(hl_client_invoke(client, &fault, &result, &err) < 0);
    CHECK(err.status == HL_STATUS_ABORTED && err.has_fault && err.fault.vector == 14);
    CHECK(strstr(err.fault.symbol, "null_write"));
}

static void test_many_at_once(struct hl_client *client)
{
    static struct outcome outcomes[CALLS];
    struct hl_client_error err;

    for (unsigned int i = 0; i < CALLS; i++) {
        struct hl_value args[2] = {{.type = HL_TYPE_I32, .i32 = (int32_t)i},
                                   {.type = HL_TYPE_I32, .i32 = 1000}};
        struct hl_call call = {.image = "adder", .function = "add_i32", .args = args, .nargs = 2};
        int r;

        while ((r = hl_client_submit(client, &call, on_done, &outcomes[i], NULL, &err)) == -EAGAIN)
            run(client);
        CHECK(r == 0);
        if (hl_client_pending(client) >= 8)
            run(client);
    }
    run(client);
    for (unsigned int i = 0; i < CALLS; i++) {
        CHECK(outcomes[i].done == 1 && outcomes[i].code == 0);
        CHECK(outcomes[i].value == (int32_t)i + 1000);
    }
}

static void test_cancel(struct hl_client *client)
{
    struct hl_call loop = {.image = "hostile", .function = "loop", .timeout_ns = 60000000000ull};
    struct outcome outcome = {0};
    struct hl_client_error err;
    uint64_t id;

    CHECK(hl_client_submit(client, &loop, on_done, &outcome, &id, &err) == 0);
    test_blocking(client); /* the loop holds up nobody, not even on its own connection */
    CHECK(outcome.done == 0);
    CHECK(hl_client_cancel(client, id) == 0);
    run(client);
    CHECK(outcome.done == 1 && outcome.code < 0 && outcome.status == HL_STATUS_CANCELLED);
    CHECK(hl_client_cancel(client, id) == -ENOENT);
}

static void test_deadline(struct hl_client *client)
{
    struct hl_call loop = {.image = "hostile", .function = "loop", .timeout_ns = 20000000};
    struct hl_client_error err;
    struct hl_result result;

    CHECK(hl_client_invoke(client, &loop, &result, &err) < 0);
    CHECK(err.status == HL_STATUS_DEADLINE_EXCEEDED);
}

static void test_disconnect(const char *path)
{
    struct hl_call loop = {.image = "hostile", .function = "loop", .timeout_ns = 60000000000ull};
    struct hl_client *client = connect_to(path);
    struct outcome outcome = {0};
    struct hl_client_error err;

    CHECK(hl_client_submit(client, &loop, on_done, &outcome, NULL, &err) == 0);
    hl_client_disconnect(client);
    CHECK(outcome.done == 1 && outcome.status == HL_STATUS_CANCELLED);
}

static void test_management(struct hl_client *client)
{
    const struct hl_image *image;
    struct hl_client_error err;
    struct hl_image_list list;
    struct hl_info info;

    CHECK(hl_client_ping(client, "ping", 4, &err) == 0);
    CHECK(hl_client_info(client, &info, &err) == 0 && info.abi_version == 1);
    CHECK(hl_client_list(client, NULL, 0, &list, &err) == 0 && list.count >= 3);
    CHECK(hl_client_inspect(client, "echo", &image, &err) == 0);
    CHECK(strcmp(image->name, "echo") == 0 && image->nfunctions == 2);
}

int main(int argc, char **argv)
{
    struct hl_client *client;

    if (argc != 2) {
        fprintf(stderr, "usage: client_test SOCKET\n");
        return 2;
    }
    client = connect_to(argv[1]);
    test_blocking(client);
    test_guest_error_and_fault(client);
    test_many_at_once(client);
    test_cancel(client);
    test_deadline(client);
    test_management(client);
    hl_client_disconnect(client);
    test_disconnect(argv[1]);
    puts("ok");
    return 0;
}
