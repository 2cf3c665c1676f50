/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Instances: kept, evicted, replaced, made ahead, and shared out between shards. The engine puts a
 * new connection on the shard with the fewest, so of two connections each has a shard of its own.
 */
#include "config.h"

#include <check.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <unistd.h>

#include "tests/fake/fake.h"
#include "tests/unit/engine_tests.h"

static int call_image(int fd, uint32_t stream, const char *image)
{
    return rig_call(fd, stream, &(struct rig_call){.image = image, .function = "nothing"});
}

/* Waits until the machines there are number n: what is made or destroyed behind the reply. */
static void wait_machines(int n)
{
    for (int i = 0; i < 2000 && fake_machines() != n; i++)
        usleep(2000);
    ck_assert_int_eq(fake_machines(), n);
}

START_TEST(test_least_recently_used)
{
    int fd;

    settings.max_vms = 2;
    start();
    rig_add(&rig, "third", &limits);
    fd = rig_connect(&rig);
    ck_assert_int_eq(call_image(fd, 1, "test"), 0);
    ck_assert_int_eq(call_image(fd, 3, "other"), 0);
    ck_assert_int_eq(call_image(fd, 5, "test"), 0);
    ck_assert_int_eq(call_image(fd, 7, "third"), 0); /* takes the place of "other" */
    ck_assert_uint_eq(rig_counter(fd, 9, "instances_made"), 3);
    ck_assert_int_eq(call_image(fd, 11, "test"), 0);
    ck_assert_uint_eq(rig_counter(fd, 13, "instances_made"), 3);
    ck_assert_int_eq(call_image(fd, 15, "other"), 0);
    ck_assert_uint_eq(rig_counter(fd, 17, "instances_made"), 4);
    ck_assert_int_eq(fake_machines(), 2);
    close(fd);
    rig_stop(&rig);
}
END_TEST

/* However many images there are, the machines stay the same. */
START_TEST(test_machines_go_round)
{
    static const enum fake_op op = FAKE_MACHINE_NEW;
    char name[16];
    uint64_t made, builds;
    uint32_t stream = 1;
    int fd;

    if (_i)
        settings.memory_budget = 2 * limits.memory;
    else
        settings.max_vms = 2;
    start();
    for (int i = 0; i < 8; i++) {
        snprintf(name, sizeof(name), "image%d", i);
        rig_add(&rig, name, &limits);
    }
    fd = rig_connect(&rig);
    for (int i = 0; i < 8; i++) {
        snprintf(name, sizeof(name), "image%d", i);
        ck_assert_int_eq(call_image(fd, stream += 2, name), 0);
    }
    builds = rig_counter(fd, stream += 2, "builds"); /* each on a machine of its own */
    made = fake_count(op);
    ck_assert_uint_eq(made, builds + 2);
    for (int i = 0; i < 32; i++) {
        snprintf(name, sizeof(name), "image%d", i % 8);
        ck_assert_int_eq(call_image(fd, stream += 2, name), 0);
    }
    ck_assert_uint_eq(fake_count(op), made);
    ck_assert_uint_ge(rig_counter(fd, stream += 2, "instances_unbound"), 36);
    ck_assert_int_eq(fake_machines(), 2);
    close(fd);
    rig_stop(&rig);
}
END_TEST

/* The second image waits until the first one's call is over. */
START_TEST(test_budget_waits)
{
    struct rig_response response;
    uint32_t stream = 1;
    uint64_t queued;
    int fd, witness;

    settings.max_vms = 1;
    start();
    fd = rig_connect(&rig);
    witness = rig_connect(&rig);
    ck_assert_int_eq(call_image(fd, 1, "test"), 0);
    ck_assert_int_eq(call_image(fd, 3, "other"), 0);
    queued = rig_counter(witness, stream, "queued");
    rig_invoke(fd, 5, &(struct rig_call){.function = "hold"});
    rig_await_held(1);
    rig_invoke(fd, 7, &(struct rig_call){.image = "other", .function = "nothing"});
    rig_await_counter(witness, &stream, "queued", queued + 1);
    fake_hold(false);
    for (uint32_t i = 5; i <= 7; i += 2) {
        ck_assert(rig_receive(fd, &response));
        ck_assert_uint_eq(response.stream, i);
        ck_assert_int_eq(response.envelope.code, 0);
        rig_response_free(&response);
    }
    close(fd);
    close(witness);
    rig_stop(&rig);
}
END_TEST

START_TEST(test_replaced_and_minimum)
{
    int fd;

    limits.min_instances = 3;
    start();
    fd = rig_connect(&rig);
    ck_assert_int_eq(rig_call(fd, 1, &nothing), 0);
    wait_machines(3);
    ck_assert_int_eq(rig_call(fd, 3, &(struct rig_call){.function = "fault"}), HL_STATUS_ABORTED);
    wait_machines(3);
    ck_assert_uint_eq(rig_counter(fd, 5, "instances_made"), 4);
    close(fd);
    rig_stop(&rig);
}
END_TEST

START_TEST(test_shells)
{
    int fd;

    settings.shells = 2;
    start();
    fd = rig_connect(&rig);
    ck_assert_int_eq(call_image(fd, 1, "test"), 0);
    wait_machines(3);
    ck_assert_int_eq(call_image(fd, 3, "other"), 0); /* on a shell */
    wait_machines(4);
    close(fd);
    rig_stop(&rig);
}
END_TEST

/* The images "large0", "large1" …, of another machine size than the others. */
static void add_large(int n)
{
    struct limits large = limits;
    char name[16];

    large.memory *= 4;
    for (int i = 0; i < n; i++) {
        snprintf(name, sizeof(name), "large%d", i);
        rig_add(&rig, name, &large);
    }
}

/* Shells of a size that is not needed any more give their places to the one that is: a call finds
 * its machine ready, without any being made for it, and there are no more than before. */
START_TEST(test_shells_of_the_size_needed)
{
    const struct rig_call hold = {.image = "large0", .function = "hold"};
    struct rig_response response;
    unsigned int held = 0;
    uint32_t stream = 3;
    int fd;

    limits.max_instances = 200;
    settings.shells = 2;
    if (_i)
        settings.max_vms = 4;
    start();
    add_large(1);
    fd = rig_connect(&rig);
    ck_assert_int_eq(call_image(fd, 1, "test"), 0);
    wait_machines(3);
    ck_assert_int_eq(call_image(fd, 3, "large0"), 0);
    wait_machines(4);
    rig_invoke(fd, stream += 2, &hold);
    rig_await_held(++held);
    for (int i = 0; i < 100 && held < 2; i++) {
        fake_fail(FAKE_MACHINE_NEW, 1, -EIO);
        rig_invoke(fd, stream += 2, &hold);
        for (int j = 0; j < 1000 && fake_held() < 2; j++) {
            struct pollfd pfd = {.fd = fd, .events = POLLIN};

            if (poll(&pfd, 1, 1) == 1)
                break;
        }
        fake_fail(FAKE_MACHINE_NEW, 1, 0);
        held = fake_held();
        if (held < 2) { /* it is not ready yet */
            ck_assert(rig_receive(fd, &response));
            ck_assert_int_ne(response.envelope.code, 0);
            rig_response_free(&response);
        }
    }
    ck_assert_uint_eq(held, 2);
    ck_assert_int_le(fake_machines(), _i ? 4 : 5);
    fake_hold(false);
    for (int i = 0; i < 2; i++) {
        ck_assert(rig_receive(fd, &response));
        ck_assert_int_eq(response.envelope.code, 0);
        rig_response_free(&response);
    }
    ck_assert_int_le(fake_machines(), _i ? 4 : 5);
    close(fd);
    rig_stop(&rig);
}
END_TEST

/* A single shell, and two sizes that are needed in turns: one of them finds it ready, and it is not
 * made anew for each. */
START_TEST(test_shells_stay)
{
    char name[16];
    uint64_t made, builds;
    uint32_t stream = 1;
    int fd;

    settings.shells = 1;
    start();
    add_large(12);
    for (int i = 0; i < 12; i++) {
        snprintf(name, sizeof(name), "small%d", i);
        rig_add(&rig, name, &limits);
    }
    fd = rig_connect(&rig);
    for (int i = 0; i < 12; i++) {
        snprintf(name, sizeof(name), "small%d", i);
        ck_assert_int_eq(call_image(fd, stream += 2, name), 0);
        wait_machines(2 * i + 2);
        snprintf(name, sizeof(name), "large%d", i);
        ck_assert_int_eq(call_image(fd, stream += 2, name), 0);
        wait_machines(2 * i + 3);
    }
    builds = rig_counter(fd, stream += 2, "builds"); /* each on a machine of its own */
    made = fake_count(FAKE_MACHINE_NEW) - builds;
    ck_assert_uint_le(made, 24 + 6); /* an instance each, and the shell, rarely another one */
    close(fd);
    rig_stop(&rig);
}
END_TEST

START_TEST(test_invalidated_instances_go)
{
    int fd;

    start();
    fd = rig_connect(&rig);
    ck_assert_int_eq(call_image(fd, 1, "test"), 0);
    ck_assert_int_eq(fake_machines(), 1);
    rig_invalidate(&rig, "test");
    wait_machines(0);
    ck_assert_int_eq(call_image(fd, 3, "test"), 0);
    close(fd);
    rig_stop(&rig);
}
END_TEST

START_TEST(test_reload)
{
    struct rig_response response;
    int fd;

    start();
    fd = rig_connect(&rig);
    ck_assert_int_eq(rig_call(fd, 1, &nothing), 0);
    settings.max_deadline_ns = 20 * MS;
    rig_reload(&rig, &settings);
    for (uint32_t stream = 3;; stream += 2) { /* until it has arrived */
        const struct rig_call slow = {.function = "delay", .kind = ARG_U32, .u32 = 60};
        int code;

        rig_invoke(fd, stream, &slow);
        ck_assert(rig_receive(fd, &response));
        code = response.envelope.code;
        rig_response_free(&response);
        if (code == HL_STATUS_DEADLINE_EXCEEDED)
            break;
        ck_assert_int_eq(code, 0);
    }
    close(fd);
    rig_stop(&rig);
}
END_TEST

/* --- two shards ----------------------------------------------------------------------------- */

#define CLIENTS 4

struct client {
    pthread_t thread;
    int fd, calls;
    const char *image;
    int failed; /* the first status that was not OK */
};

static void *call_often(void *opaque)
{
    struct client *client = opaque;

    for (int i = 0; i < client->calls && client->failed == 0; i++) {
        struct rig_call call = {.image = client->image, .function = "nothing"};

        if (i % 16 == 7)
            call = (struct rig_call){
                .image = client->image, .function = "delay", .kind = ARG_U32, .u32 = 3};
        client->failed = rig_call(client->fd, 2 * (uint32_t)i + 1, &call);
    }
    return NULL;
}

static void run_clients(unsigned int shards, const char *const images[CLIENTS])
{
    struct client clients[CLIENTS] = {0};

    settings.shards = shards;
    start();
    add_large(2);
    for (int i = 0; i < CLIENTS; i++) {
        clients[i].fd = rig_connect(&rig);
        clients[i].calls = 200;
        clients[i].image = images[i];
    }
    for (int i = 0; i < CLIENTS; i++)
        pthread_create(&clients[i].thread, NULL, call_often, &clients[i]);
    for (int i = 0; i < CLIENTS; i++) {
        pthread_join(clients[i].thread, NULL);
        ck_assert_int_eq(clients[i].failed, 0);
    }
    ck_assert_uint_eq(rig_counter(clients[0].fd, 100001, "ok"), 200 * CLIENTS);
    for (int i = 0; i < CLIENTS; i++)
        close(clients[i].fd);
    rig_stop(&rig);
}

static const char *const same[CLIENTS] = {"test", "test", "test", "test"};
static const char *const mixed[CLIENTS] = {"test", "other", "other", "test"};

START_TEST(test_two_shards)
{
    run_clients(2, mixed);
}
END_TEST

/* One instance for both shards: it is handed back and forth. */
START_TEST(test_one_instance)
{
    limits.max_instances = 1;
    run_clients(2, same);
}
END_TEST

/* One VM for both shards and two images. */
START_TEST(test_one_vm)
{
    settings.max_vms = 1;
    run_clients(2, mixed);
}
END_TEST

START_TEST(test_more_shards)
{
    settings.max_vms = 3;
    settings.shells = 1;
    limits.max_instances = 2;
    run_clients(4, mixed);
}
END_TEST

/* Shards that take machines of two sizes from each other all the time, up to the end. */
START_TEST(test_too_many_images)
{
    static const char *const images[CLIENTS] = {"test", "large0", "large1", "other"};

    settings.max_vms = 3;
    settings.shells = (uint32_t)_i;
    run_clients(2, images);
}
END_TEST

/* A program that is ready for one shard is there for the others, without a question. */
START_TEST(test_ready_for_all)
{
    int fds[8];

    settings.shards = 4;
    start();
    for (int i = 0; i < 8; i++) {
        fds[i] = rig_connect(&rig);
        ck_assert_int_eq(call_image(fds[i], 1, "test"), 0);
    }
    ck_assert_uint_eq(rig.resolves, 1);
    rig_invalidate(&rig, "test");
    for (uint32_t stream = 3; rig.resolves == 1; stream += 2)
        ck_assert_int_eq(call_image(fds[stream / 2 % 8], stream, "test"), 0);
    for (int i = 0; i < 8; i++) {
        ck_assert_int_eq(call_image(fds[i], 100001, "test"), 0);
        close(fds[i]);
    }
    rig_stop(&rig);
}
END_TEST

/* What lies idle on one shard serves a call on another, although nothing ends there. */
START_TEST(test_idle_instance_moves)
{
    int fd, other;

    settings.shards = 2;
    limits.max_instances = 1;
    start();
    fd = rig_connect(&rig);
    other = rig_connect(&rig);
    ck_assert_int_eq(rig_call(fd, 1, &nothing), 0);
    ck_assert_int_eq(rig_call(other, 1, &nothing), 0);
    ck_assert_uint_eq(rig_counter(fd, 3, "instances_made"), 1);
    ck_assert_uint_eq(rig_counter(fd, 5, "instances_moved"), 1);
    close(fd);
    close(other);
    rig_stop(&rig);
}
END_TEST

/* Calls each image, and gives the shards time for what they do behind the reply. */
static void call_each(int fd, uint32_t *stream, const char *const images[], int n)
{
    for (int i = 0; i < n; i++) {
        ck_assert_int_eq(call_image(fd, *stream += 2, images[i]), 0);
        usleep(2000);
    }
}

/* What one shard used once gives way to what the other needs over and over, of whatever size its
 * machines are: from some time on no instances are made. */
START_TEST(test_unused_elsewhere_goes)
{
    static const char *const unused[2][2] = {{"z", "w"}, {"large0", "large1"}};
    static const char *const needed[] = {"x", "y", "q"};
    uint32_t stream = 1, other_stream = 1;
    uint64_t made;
    int fd, other;

    settings.shards = 2;
    if (_i == 1)
        settings.memory_budget = 4 * limits.memory;
    else
        settings.max_vms = 4;
    start();
    add_large(2);
    for (int i = 0; i < 2; i++)
        rig_add(&rig, unused[0][i], &limits);
    for (int i = 0; i < 3; i++)
        rig_add(&rig, needed[i], &limits);
    other = rig_connect(&rig);
    fd = rig_connect(&rig);
    call_each(other, &other_stream, unused[_i == 2], 2);
    for (int i = 0; i < 10; i++)
        call_each(fd, &stream, needed, 3);
    made = rig_counter(fd, stream += 2, "instances_made");
    ck_assert_uint_ge(made, 6); /* there was no room for five at first */
    for (int i = 0; i < 3; i++)
        call_each(fd, &stream, needed, 3);
    ck_assert_uint_eq(rig_counter(fd, stream += 2, "instances_made"), made);
    ck_assert_int_le(fake_machines(), 4);
    close(fd);
    close(other);
    rig_stop(&rig);
}
END_TEST

/* … but what is used on the other shard meanwhile stays. */
START_TEST(test_used_elsewhere_stays)
{
    static const char *const needed[] = {"x", "y", "q"};
    uint32_t stream = 1, other_stream = 1;
    uint64_t made;
    int fd, other;

    settings.shards = 2;
    settings.max_vms = 3;
    start();
    for (int i = 0; i < 3; i++)
        rig_add(&rig, needed[i], &limits);
    other = rig_connect(&rig);
    fd = rig_connect(&rig);
    ck_assert_int_eq(call_image(other, 1, "test"), 0);
    for (int i = 0; i < 10; i++) {
        for (int j = 0; j < 3; j++) {
            call_each(fd, &stream, &needed[j], 1);
            ck_assert_int_eq(call_image(other, other_stream += 2, "test"), 0);
        }
    }
    made = rig_counter(fd, stream += 2, "instances_made");
    ck_assert_uint_le(made, 1 + 30 + 3); /* hardly any of them "test" */
    close(fd);
    close(other);
    rig_stop(&rig);
}
END_TEST

START_TEST(test_drain_two_shards)
{
    struct rig_response response;
    uint32_t stream = 3;
    int fds[4], code = 0;

    limits.max_instances = 5;
    settings.shards = 2;
    start();
    for (int i = 0; i < 4; i++) {
        fds[i] = rig_connect(&rig);
        ck_assert_int_eq(rig_call(fds[i], 1, &nothing), 0);
        rig_invoke(fds[i], 3, &(struct rig_call){.function = "hold"});
    }
    rig_await_held(4);
    rig_drain(&rig, 10000 * MS);
    rig.drained = true;
    while (code == 0) /* until it has arrived */
        code = rig_call(fds[0], stream += 2, &nothing);
    ck_assert_int_eq(code, HL_STATUS_UNAVAILABLE);
    fake_hold(false);
    for (int i = 0; i < 4; i++) {
        ck_assert(rig_receive(fds[i], &response));
        ck_assert_int_eq(response.envelope.code, 0);
        rig_response_free(&response);
        ck_assert(rig_closed(fds[i]));
        close(fds[i]);
    }
    rig_stop(&rig);
}
END_TEST

/* Drained before anything was served, and while a program is being resolved. */
START_TEST(test_drain_early)
{
    int fd;

    settings.shards = 2;
    start();
    rig.silent = _i == 1;
    fd = rig_connect(&rig);
    rig_invoke(fd, 1, &nothing);
    rig_drain(&rig, 100 * MS);
    rig.drained = true;
    rig_stop(&rig);
    close(fd);
}
END_TEST

int main(void)
{
    TCase *tc = tests_begin("pool");

    tcase_add_test(tc, test_least_recently_used);
    tcase_add_loop_test(tc, test_machines_go_round, 0, 2);
    tcase_add_test(tc, test_budget_waits);
    tcase_add_test(tc, test_replaced_and_minimum);
    tcase_add_test(tc, test_shells);
    tcase_add_loop_test(tc, test_shells_of_the_size_needed, 0, 2);
    tcase_add_test(tc, test_shells_stay);
    tcase_add_test(tc, test_invalidated_instances_go);
    tcase_add_test(tc, test_reload);
    tcase_add_test(tc, test_two_shards);
    tcase_add_test(tc, test_one_instance);
    tcase_add_test(tc, test_one_vm);
    tcase_add_test(tc, test_more_shards);
    tcase_add_loop_test(tc, test_too_many_images, 0, 2);
    tcase_add_test(tc, test_ready_for_all);
    tcase_add_test(tc, test_idle_instance_moves);
    tcase_add_loop_test(tc, test_unused_elsewhere_goes, 0, 3);
    tcase_add_test(tc, test_used_elsewhere_stays);
    tcase_add_test(tc, test_drain_two_shards);
    tcase_add_loop_test(tc, test_drain_early, 0, 2);
    return tests_run(tc, "pool");
}
