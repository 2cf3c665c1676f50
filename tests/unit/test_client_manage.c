/* SPDX-License-Identifier: Apache-2.0 */
/* libhlclient: sending programs, listing, and what the daemon says of itself. */
#include "config.h"

#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "client/hlsession.h"
#include "tests/unit/fake_server.h"
#include "tests/unit/tests_run.h"

#define PROGRAM_SIZE ((5u << 20) / 2) /* two whole pieces and a half */

static uint8_t byte_at(size_t offset)
{
    return (uint8_t)(offset * 7 + (offset >> 12));
}

/* Takes pieces in order, then Register; answers each other method that the tests call. */
static void answer_register(struct fake_server *server, const struct got *got, uint64_t received)
{
    const Hl__V1__RegisterRequest *request =
        fake_decode(server, got, &hl__v1__register_request__descriptor);
    Hl__V1__RegisterResponse response = HL__V1__REGISTER_RESPONSE__INIT;
    Hl__V1__Image image = HL__V1__IMAGE__INIT;
    Hl__V1__Function function = HL__V1__FUNCTION__INIT;
    Hl__V1__Function *functions[] = {&function};
    Hl__V1__Type params[] = {HL__V1__TYPE__I32, HL__V1__TYPE__BYTES};

    if (request->upload_id != 9 || request->limits->memory != 1 << 20 || !request->private_)
        abort();
    image.name = request->name;
    image.size = received;
    image.limits = request->limits;
    image.private_ = request->private_;
    image.sha256 = request->sha256;
    function.name = "f";
    function.ret = server->seed == 1 ? (Hl__V1__Type)99 : HL__V1__TYPE__F64;
    function.n_params = 2;
    function.params = params;
    image.n_functions = 1;
    image.functions = functions;
    response.image = &image;
    fake_answer(server, got->stream, &response.base);
}

static void upload_script(struct fake_server *server)
{
    uint64_t received = 0;
    struct got got;

    while (fake_read(server, &got)) {
        Hl__V1__UploadResponse response = HL__V1__UPLOAD_RESPONSE__INIT;
        const Hl__V1__UploadRequest *request;

        if (strcmp(got.method, "Register") == 0) {
            answer_register(server, &got, received);
            continue;
        }
        request = fake_decode(server, &got, &hl__v1__upload_request__descriptor);
        if (request->upload_id != (received ? 9 : 0) || request->offset != received)
            abort();
        for (size_t i = 0; i < request->data.len; i++) {
            if (request->data.data[i] != byte_at(received + i))
                abort();
        }
        received += request->data.len;
        response.upload_id = 9;
        response.received = server->seed == 2 ? received - 1 : received;
        fake_answer(server, got.stream, &response.base);
    }
}

static uint8_t *program(void)
{
    uint8_t *bytes = malloc(PROGRAM_SIZE);

    ck_assert_ptr_nonnull(bytes);
    for (size_t i = 0; i < PROGRAM_SIZE; i++)
        bytes[i] = byte_at(i);
    return bytes;
}

static const uint8_t digest[32] = {0xab, 0xcd};
static const struct hl_registration registration = {
    .name = "image",
    .limits = {.memory = 1 << 20, .max_queue = 4},
    .is_private = true,
    .sha256 = digest,
};

START_TEST(register_from_memory)
{
    struct fake_server server = {0};
    const struct hl_image *image;
    struct hl_client *client;
    uint8_t *bytes = program();

    fake_start(&server, upload_script, &client);
    ck_assert_int_eq(hl_client_register(client, &registration, bytes, PROGRAM_SIZE, &image, NULL),
                     0);
    ck_assert_str_eq(image->name, "image");
    ck_assert_uint_eq(image->size, PROGRAM_SIZE);
    ck_assert_mem_eq(image->sha256, digest, 32);
    ck_assert(image->is_private);
    ck_assert_uint_eq(image->limits.max_queue, 4);
    ck_assert_uint_eq(image->nfunctions, 1);
    ck_assert_str_eq(image->functions[0].name, "f");
    ck_assert_int_eq(image->functions[0].sig.ret, HL_TYPE_F64);
    ck_assert_uint_eq(image->functions[0].sig.nparams, 2);
    ck_assert_int_eq(image->functions[0].sig.params[1], HL_TYPE_BYTES);
    fake_stop(&server, client);
    free(bytes);
}
END_TEST

START_TEST(register_from_a_descriptor)
{
    struct fake_server server = {0};
    const struct hl_image *image;
    struct hl_client *client;
    uint8_t *bytes = program();
    FILE *file = tmpfile();

    ck_assert_ptr_nonnull(file);
    ck_assert_uint_eq(fwrite(bytes, 1, PROGRAM_SIZE, file), PROGRAM_SIZE);
    rewind(file);
    fake_start(&server, upload_script, &client);
    ck_assert_int_eq(hl_client_register_fd(client, &registration, fileno(file), &image, NULL), 0);
    ck_assert_uint_eq(image->size, PROGRAM_SIZE);
    fake_stop(&server, client);
    /* Empty and unreadable ones. */
    fake_start(&server, upload_script, &client);
    ck_assert_int_eq(hl_client_register_fd(client, &registration, fileno(file), &image, NULL), 0);
    ck_assert_uint_eq(image->size, 0);
    ck_assert_int_eq(hl_client_register_fd(client, &registration, -1, &image, NULL), -EBADF);
    fake_stop(&server, client);
    fclose(file);
    free(bytes);
}
END_TEST

START_TEST(register_checks_the_answers)
{
    struct fake_server server = {.seed = (unsigned int)_i};
    const struct hl_image *image;
    struct hl_client_error err;
    struct hl_client *client;
    uint8_t *bytes = program();

    fake_start(&server, upload_script, &client);
    ck_assert_int_eq(hl_client_register(client, &registration, bytes, PROGRAM_SIZE, &image, &err),
                     -EPROTO);
    ck_assert_int_eq(err.status, HL_STATUS_INTERNAL);
    fake_stop(&server, client);
    free(bytes);
}
END_TEST

/* Three images in pages of two. */
static void list_script(struct fake_server *server)
{
    static char *const names[] = {"a", "b", "c"};
    struct got got;

    while (fake_read(server, &got)) {
        Hl__V1__ListResponse response = HL__V1__LIST_RESPONSE__INIT;
        Hl__V1__Image images[2] = {HL__V1__IMAGE__INIT, HL__V1__IMAGE__INIT};
        Hl__V1__Image *pointers[] = {&images[0], &images[1]};
        const Hl__V1__ListRequest *request =
            fake_decode(server, &got, &hl__v1__list_request__descriptor);

        for (int i = 0; i < 3; i++) {
            if (strcmp(names[i], request->after) > 0 && response.n_images < 2)
                images[response.n_images++].name = names[i];
        }
        response.images = pointers;
        response.more = response.n_images == 2 && strcmp(images[1].name, "c") != 0;
        fake_answer(server, got.stream, &response.base);
    }
}

START_TEST(list_in_pages)
{
    struct fake_server server = {0};
    struct hl_image_list list;
    struct hl_client *client;

    fake_start(&server, list_script, &client);
    ck_assert_int_eq(hl_client_list(client, NULL, 0, &list, NULL), 0);
    ck_assert_uint_eq(list.count, 2);
    ck_assert_str_eq(list.images[1].name, "b");
    ck_assert(list.more);
    ck_assert_int_eq(hl_client_list(client, "b", 0, &list, NULL), 0);
    ck_assert_uint_eq(list.count, 1);
    ck_assert(!list.more);
    ck_assert_int_eq(hl_client_list(client, "c", 0, &list, NULL), 0);
    ck_assert_uint_eq(list.count, 0);
    fake_stop(&server, client);
}
END_TEST

static void answer_stats(struct fake_server *server, const struct got *got)
{
    Hl__V1__StatsResponse response = HL__V1__STATS_RESPONSE__INIT;
    Hl__V1__StatsResponse__CountersEntry entries[2] = {
        HL__V1__STATS_RESPONSE__COUNTERS_ENTRY__INIT,
        HL__V1__STATS_RESPONSE__COUNTERS_ENTRY__INIT,
    };
    Hl__V1__StatsResponse__CountersEntry *counters[] = {&entries[0], &entries[1]};

    entries[0].key = "resets";
    entries[0].value = 2;
    entries[1].key = "calls";
    entries[1].value = 1;
    response.n_counters = 2;
    response.counters = counters;
    fake_answer(server, got->stream, &response.base);
}

static void daemon_script(struct fake_server *server)
{
    uint32_t ns[] = {30000, 31000};
    struct got got;

    while (fake_read(server, &got)) {
        Hl__V1__InfoResponse info = HL__V1__INFO_RESPONSE__INIT;
        Hl__V1__PingResponse pong = HL__V1__PING_RESPONSE__INIT;
        Hl__V1__InspectResponse nothing = HL__V1__INSPECT_RESPONSE__INIT;
        Hl__V1__MeasureEntryResponse entry = HL__V1__MEASURE_ENTRY_RESPONSE__INIT;

        if (strcmp(got.method, "Ping") == 0) {
            pong.payload = (ProtobufCBinaryData){3, (uint8_t *)"abc"};
            fake_answer(server, got.stream, &pong.base);
        } else if (strcmp(got.method, "Info") == 0) {
            info.backend = "fake";
            info.shards = 2;
            fake_answer(server, got.stream, &info.base);
        } else if (strcmp(got.method, "MeasureEntry") == 0) {
            entry.n_ns = 2;
            entry.ns = ns;
            fake_answer(server, got.stream, &entry.base);
        } else if (strcmp(got.method, "Stats") == 0) {
            answer_stats(server, &got);
        } else if (strcmp(got.method, "Inspect") == 0) {
            fake_answer(server, got.stream, &nothing.base);
        } else {
            fake_status(server, got.stream, HL_STATUS_NOT_FOUND, "no such image", NULL, 0);
        }
    }
}

START_TEST(the_daemon_about_itself)
{
    struct fake_server server = {0};
    const struct hl_image *image;
    struct hl_client_error err;
    struct hl_client *client;
    struct hl_stats stats;
    struct hl_info info;
    const uint32_t *ns;
    size_t count;

    fake_start(&server, daemon_script, &client);
    ck_assert_int_eq(hl_client_ping(client, "abc", 3, NULL), 0);
    ck_assert_int_eq(hl_client_ping(client, "abd", 3, NULL), -EPROTO);
    ck_assert_int_eq(hl_client_info(client, &info, NULL), 0);
    ck_assert_str_eq(info.backend, "fake");
    ck_assert_str_eq(info.version, "");
    ck_assert_uint_eq(info.shards, 2);
    ck_assert_uint_eq(info.defaults.memory, 0);
    ck_assert_int_eq(hl_client_stats(client, &stats, NULL), 0);
    ck_assert_uint_eq(stats.ncounters, 2);
    ck_assert_str_eq(stats.counters[0].name, "calls");
    ck_assert_uint_eq(stats.counters[1].value, 2);
    ck_assert_int_eq(hl_client_measure_entry(client, 2, &ns, &count, NULL), 0);
    ck_assert_uint_eq(count, 2);
    ck_assert_uint_eq(ns[1], 31000);
    ck_assert_int_eq(hl_client_inspect(client, "x", &image, &err), -EPROTO);
    ck_assert_int_eq(hl_client_unregister(client, "x", &err), -ENOENT);
    ck_assert_str_eq(err.text, "no such image");
    fake_stop(&server, client);
}
END_TEST

/* Sessions: each request as it should come, answers that no hld gives. */
static void session_script(struct fake_server *server)
{
    struct got got;

    while (fake_read(server, &got)) {
        Hl__V1__OpenSessionResponse opened = HL__V1__OPEN_SESSION_RESPONSE__INIT;
        Hl__V1__CheckpointResponse made = HL__V1__CHECKPOINT_RESPONSE__INIT;
        Hl__V1__RollbackResponse back = HL__V1__ROLLBACK_RESPONSE__INIT;
        Hl__V1__ListSessionsResponse list = HL__V1__LIST_SESSIONS_RESPONSE__INIT;
        Hl__V1__SessionInfo info = HL__V1__SESSION_INFO__INIT, *infos[] = {&info};

        if (strcmp(got.method, "Open") == 0) {
            char id[60] = "the-id";

            if (server->seed > 0)
                memset(id, server->seed == 1 ? 'x' : '\0', sizeof(id) - 1);
            id[sizeof(id) - 1] = '\0';
            opened.session = id;
            fake_answer(server, got.stream, &opened.base);
        } else if (strcmp(got.method, "Checkpoint") == 0) {
            made.checkpoint = 3;
            made.pages = 4;
            made.bytes = 5;
            fake_answer(server, got.stream, &made.base);
        } else if (strcmp(got.method, "Rollback") == 0) {
            const Hl__V1__RollbackRequest *request =
                fake_decode(server, &got, &hl__v1__rollback_request__descriptor);

            if (strcmp(request->session, "the-id") == 0 && request->checkpoint == 3)
                fake_answer(server, got.stream, &back.base);
            else
                fake_status(server, got.stream, HL_STATUS_NOT_FOUND, "none", NULL, 0);
        } else if (strcmp(got.method, "Invoke") == 0) {
            const Hl__V1__InvokeRequest *request =
                fake_decode(server, &got, &hl__v1__invoke_request__descriptor);

            if (strcmp(request->session, "the-id") != 0 || request->image[0] != '\0')
                abort();
            fake_result(server, got.stream, "called");
        } else {
            info.session = "the-id";
            info.image = "image";
            info.calls = 6;
            info.failed = "because";
            list.sessions = infos;
            list.n_sessions = 1;
            fake_answer(server, got.stream, &list.base);
        }
    }
}

START_TEST(sessions)
{
    struct fake_server server = {0};
    struct hl_call call = {.session = "the-id", .function = "f"};
    char id[HL_SESSION_ID_SIZE];
    struct hl_checkpoint checkpoint;
    struct hl_session_list list;
    struct hl_client_error err;
    struct hl_client *client;
    struct hl_result result;

    fake_start(&server, session_script, &client);
    ck_assert_int_eq(hl_session_open(client, "image", id, NULL), 0);
    ck_assert_str_eq(id, "the-id");
    ck_assert_int_eq(hl_client_invoke(client, &call, &result, NULL), 0);
    ck_assert_int_eq(hl_session_checkpoint(client, id, &checkpoint, NULL), 0);
    ck_assert_uint_eq(checkpoint.number, 3);
    ck_assert_uint_eq(checkpoint.pages, 4);
    ck_assert_uint_eq(checkpoint.bytes, 5);
    ck_assert_int_eq(hl_session_checkpoint(client, id, NULL, NULL), 0);
    ck_assert_int_eq(hl_session_rollback(client, id, 3, NULL), 0);
    ck_assert_int_eq(hl_session_rollback(client, id, 4, &err), -ENOENT);
    ck_assert_int_eq(err.status, HL_STATUS_NOT_FOUND);
    ck_assert(err.remote);
    ck_assert_int_eq(hl_session_list(client, &list, NULL), 0);
    ck_assert_uint_eq(list.count, 1);
    ck_assert_str_eq(list.sessions[0].id, "the-id");
    ck_assert_str_eq(list.sessions[0].failed, "because");
    ck_assert_uint_eq(list.sessions[0].calls, 6);
    fake_stop(&server, client);
}
END_TEST

START_TEST(session_ids_are_checked)
{
    struct fake_server server = {.seed = (unsigned int)_i};
    char id[HL_SESSION_ID_SIZE] = "before";
    struct hl_client *client;

    fake_start(&server, session_script, &client);
    ck_assert_int_eq(hl_session_open(client, "image", id, NULL), -EPROTO);
    ck_assert_str_eq(id, "before");
    fake_stop(&server, client);
}
END_TEST

int main(void)
{
    TCase *tc = tcase_create("client, managing");

    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, sessions);
    tcase_add_loop_test(tc, session_ids_are_checked, 1, 3);
    tcase_add_test(tc, register_from_memory);
    tcase_add_test(tc, register_from_a_descriptor);
    tcase_add_loop_test(tc, register_checks_the_answers, 1, 3);
    tcase_add_test(tc, list_in_pages);
    tcase_add_test(tc, the_daemon_about_itself);
    return tests_run(tc, "client, managing");
}
