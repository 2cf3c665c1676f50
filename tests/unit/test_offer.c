/* SPDX-License-Identifier: Apache-2.0 */
/* Providers of host functions against the fake backend: one shard and several, providers that go,
 * hang, answer late or wrongly, and have more to do than they take. */
#include "config.h"

#include <check.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/offer_stream.h"
#include "tests/unit/engine_tests.h"
#include "tests/unit/host_rig.h"

static int client, provider;

static void begin(unsigned int shards, uint32_t max_queue, uint64_t timeout_ns)
{
    static const char *const functions[] = {"count(u32) -> u32 @service", NULL};
    struct host_event event;

    settings.shards = shards;
    limits.max_instances = 8;
    rig_start(&rig, &settings, 0);
    rig_add(&rig, "test", &limits);
    rig_allow(&rig, "test", functions, NULL);
    client = rig_connect(&rig);
    provider = rig_connect(&rig);
    host_offer(provider, 1, "count", max_queue, timeout_ns);
    ck_assert(host_receive(provider, &event));
    ck_assert(event.offered);
}

static void finish(void)
{
    close(client);
    close(provider);
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

    ck_assert_msg(event.id != 0, "status %d %s", event.code, event.message);
    return event;
}

static void expect_error(int fd, int status)
{
    struct host_event event = receive(fd);

    ck_assert_msg(event.done && event.error == status, "status %d %s, error %d %s", event.code,
                  event.message, event.error, event.error_text);
}

static void expect_sum(uint64_t sum)
{
    struct host_event event = receive(client);

    ck_assert_msg(event.done && event.error == 0, "error %d %s", event.error, event.error_text);
    ck_assert_uint_eq(event.u64, sum);
}

/* With one shard, and with the two connections on two. */
START_TEST(test_provider_answers)
{
    begin((unsigned int)_i, 0, 0);
    host_invoke_counting(client, 1, 20, 0, 0);
    for (uint32_t i = 0; i < 20; i++) {
        struct host_event event = receive_call(provider);

        ck_assert_uint_eq(event.u32, i);
        host_answer_u32(provider, HOST_PROVIDER, 1, event.id, i + 1);
    }
    expect_sum(210);
    finish();
}
END_TEST

START_TEST(test_provider_gone)
{
    begin((unsigned int)_i, 0, 0);
    for (uint32_t i = 0; i < 3; i++)
        host_invoke_counting(client, 1 + 2 * i, 1, 0, 0);
    for (uint32_t i = 0; i < 3; i++)
        receive_call(provider);
    close(provider);
    for (uint32_t i = 0; i < 3; i++)
        expect_error(client, HL_STATUS_UNAVAILABLE);
    host_invoke_counting(client, 7, 1, 0, 0);
    expect_error(client, HL_STATUS_UNAVAILABLE);
    provider = rig_connect(&rig); /* another one takes over */
    host_offer(provider, 1, "count", 0, 0);
    ck_assert(receive(provider).offered);
    host_invoke_counting(client, 9, 1, 0, 0);
    host_answer_u32(provider, HOST_PROVIDER, 1, receive_call(provider).id, 4);
    expect_sum(4);
    finish();
}
END_TEST

START_TEST(test_offer_withdrawn)
{
    struct host_event event;

    begin((unsigned int)_i, 0, 0);
    host_invoke_counting(client, 1, 1, 0, 0);
    receive_call(provider);
    host_close_stream(provider, 1);
    event = receive(provider);
    ck_assert(event.header.type == FRAME_RESPONSE && event.code == 0);
    expect_error(client, HL_STATUS_UNAVAILABLE);
    finish();
}
END_TEST

START_TEST(test_timeout)
{
    struct host_event event;
    uint32_t stream = 1;
    uint64_t late;

    begin((unsigned int)_i, 0, 200 * MS);
    host_invoke_counting(client, 1, 2, 0, 0);
    late = receive_call(provider).id;
    expect_error(client, HL_STATUS_DEADLINE_EXCEEDED);
    host_answer_u32(provider, HOST_PROVIDER, 1, late, 1); /* and nobody minds */
    do {                                                  /* it goes on, in time sooner or later */
        host_invoke_counting(client, stream += 2, 1, 0, 0);
        host_answer_u32(provider, HOST_PROVIDER, 1, receive_call(provider).id, 6);
        event = receive(client);
    } while (event.error == HL_STATUS_DEADLINE_EXCEEDED && stream < 400);
    ck_assert_msg(event.done && event.error == 0, "error %d %s", event.error, event.error_text);
    ck_assert_uint_eq(event.u64, 6);
    finish();
}
END_TEST

START_TEST(test_client_gone)
{
    uint64_t ids[3];

    begin((unsigned int)_i, 0, 0);
    for (uint32_t i = 0; i < 3; i++)
        host_invoke_counting(client, 1 + 2 * i, 1, 0, 0);
    for (uint32_t i = 0; i < 3; i++)
        ids[i] = receive_call(provider).id;
    close(client);
    client = rig_connect(&rig);
    for (uint32_t i = 0; i < 3; i++)
        host_answer_u32(provider, HOST_PROVIDER, 1, ids[i], 1);
    host_invoke_counting(client, 1, 1, 0, 0);
    host_answer_u32(provider, HOST_PROVIDER, 1, receive_call(provider).id, 6);
    expect_sum(6);
    finish();
}
END_TEST

/* A client that is its own call's provider, and hears nothing any more: the answer to its call ends
 * the connection, the offer with it, and so what the call waits for. */
START_TEST(test_own_provider_gone)
{
    begin(1, 0, 0);
    for (int i = 0; i < 3; i++) {
        host_invoke_counting(provider, 3, 1, 0, 7);
        ck_assert_uint_ne(receive_call(provider).id, 0);
        ck_assert_int_eq(shutdown(provider, SHUT_RD), 0);
        rig_cancel(provider, 5, 7);
        close(provider);
        provider = rig_connect(&rig);
        host_offer(provider, 1, "count", 0, 0);
        ck_assert(receive(provider).offered);
    }
    host_invoke_counting(client, 1, 1, 0, 0);
    host_answer_u32(provider, HOST_PROVIDER, 1, receive_call(provider).id, 6);
    expect_sum(6);
    finish();
}
END_TEST

START_TEST(test_queue)
{
    uint64_t ids[2];

    begin((unsigned int)_i, 2, 0);
    host_invoke_counting(client, 1, 1, 0, 0);
    ids[0] = receive_call(provider).id;
    host_invoke_counting(client, 3, 1, 0, 0);
    ids[1] = receive_call(provider).id;
    host_invoke_counting(client, 5, 1, 0, 0);
    expect_error(client, HL_STATUS_RESOURCE_EXHAUSTED);
    for (int i = 0; i < 2; i++) {
        host_answer_u32(provider, HOST_PROVIDER, 1, ids[i], 3);
        expect_sum(3);
    }
    finish();
}
END_TEST

START_TEST(test_wrong_answers)
{
    struct host_event event;

    begin((unsigned int)_i, 0, 0);
    host_invoke_counting(client, 1, 1, 0, 0);
    host_answer_text(provider, HOST_PROVIDER, 1, receive_call(provider).id, "one");
    expect_error(client, HL_STATUS_INTERNAL);
    host_invoke_counting(client, 3, 1, 0, 0);
    event = receive_call(provider);
    host_answer_u32(provider, HOST_PROVIDER, 1, event.id + 1000, 1);
    ck_assert_int_eq(receive(provider).code, HL_STATUS_INVALID_ARGUMENT);
    expect_error(client, HL_STATUS_UNAVAILABLE);
    finish();
}
END_TEST

START_TEST(test_bad_offers)
{
    begin(1, 0, 0);
    host_offer(provider, 3, "", 0, 0);
    ck_assert_int_eq(receive(provider).code, HL_STATUS_INVALID_ARGUMENT);
    host_offer(provider, 5, "count", 1000000, 0);
    ck_assert_int_eq(receive(provider).code, HL_STATUS_INVALID_ARGUMENT);
    host_offer(provider, 7, "../x", 0, 0);
    ck_assert_int_eq(receive(provider).code, HL_STATUS_INVALID_ARGUMENT);
    finish();
}
END_TEST

START_TEST(test_offers_are_charged)
{
    uint64_t before, with;

    begin(1, 0, 0);
    before = rig_counter(client, 1, "now_client_bytes");
    for (uint32_t i = 0; i < 20; i++) {
        host_offer(provider, 3 + 2 * i, "count", 0, 0);
        ck_assert(receive(provider).offered);
    }
    with = rig_counter(client, 3, "now_client_bytes");
    ck_assert_uint_ge(with, before + 20 * sizeof(struct offer));
    close(provider);
    provider = rig_connect(&rig);
    for (uint32_t i = 5; with > before; i += 2)
        with = rig_counter(client, i, "now_client_bytes");
    finish();
}
END_TEST

/* The engine stops with a call parked at a provider, and with an offer that has just come. */
START_TEST(test_drain)
{
    struct host_event end;

    begin((unsigned int)_i, 0, 0);
    host_invoke_counting(client, 1, 1, 0, 0);
    receive_call(provider);
    host_offer(provider, 3, "count", 0, 0);
    rig_drain(&rig, 50 * MS);
    rig.drained = true;
    /* whichever of their shards is first: the call is stopped, or its provider is gone */
    end = receive(client);
    ck_assert_int_eq(end.code ? end.code : end.error, HL_STATUS_UNAVAILABLE);
    finish();
}
END_TEST

/* A call may go on asking a provider, whatever shard that is with, until the call is over. */
START_TEST(test_drain_waits)
{
    uint64_t id;

    begin((unsigned int)_i, 0, 0);
    host_invoke_counting(client, 1, 3, 0, 0);
    id = receive_call(provider).id;
    rig_drain(&rig, 10000 * MS);
    rig.drained = true;
    usleep(20000);
    host_answer_u32(provider, HOST_PROVIDER, 1, id, 8);
    for (int i = 0; i < 2; i++) {
        usleep(20000);
        host_answer_u32(provider, HOST_PROVIDER, 1, receive_call(provider).id, 1);
    }
    expect_sum(10);
    finish();
}
END_TEST

int main(void)
{
    TCase *tc = tests_begin("offer");

    tcase_add_loop_test(tc, test_provider_answers, 1, 4);
    tcase_add_loop_test(tc, test_provider_gone, 1, 4);
    tcase_add_loop_test(tc, test_offer_withdrawn, 1, 4);
    tcase_add_loop_test(tc, test_timeout, 1, 4);
    tcase_add_loop_test(tc, test_client_gone, 1, 4);
    tcase_add_test(tc, test_own_provider_gone);
    tcase_add_loop_test(tc, test_queue, 1, 4);
    tcase_add_loop_test(tc, test_wrong_answers, 1, 4);
    tcase_add_test(tc, test_bad_offers);
    tcase_add_test(tc, test_offers_are_charged);
    tcase_add_loop_test(tc, test_drain, 1, 4);
    tcase_add_loop_test(tc, test_drain_waits, 1, 4);
    return tests_run(tc, "offer");
}
