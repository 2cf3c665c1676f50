/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sessions through a whole engine on the fake backend: state that stays, ways to fail and to come
 * back, bounds.
 */
#include "config.h"

#include <check.h>
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "tests/fake/fake.h"
#include "tests/unit/session_rig.h"

/* --- state ---------------------------------------------------------------------------------- */

START_TEST(test_state_stays)
{
    char a[40], b[40];
    int fd;

    start();
    fd = rig_connect(&rig);
    open_session(fd, a);
    open_session(fd, b);
    ck_assert_str_ne(a, b);
    ck_assert_int_eq(keep(fd, a, 1), 0);
    ck_assert_int_eq(keep(fd, b, 7), 0);
    ck_assert_int_eq(keep(fd, NULL, 9), 0);
    ck_assert_int_eq(keep(fd, NULL, 9), 0); /* calls outside keep nothing */
    ck_assert_int_eq(keep(fd, a, 2), 1);
    ck_assert_int_eq(keep(fd, b, 8), 7);
    /* An error of the guest's own, and a request that never gets there. */
    ck_assert_int_eq(
        rig_call(
            fd, next_stream(),
            &(struct rig_call){
                .function = "fail", .session = a, .kind = ARG_CODE_TEXT, .data = "no", .len = 2}),
        0);
    ck_assert_int_eq(call(fd, a, "echo"), HL_STATUS_INVALID_ARGUMENT);
    ck_assert_int_eq(call(fd, a, "unknown"), HL_STATUS_NOT_FOUND);
    ck_assert_int_eq(
        rig_call(fd, next_stream(),
                 &(struct rig_call){.function = "nothing", .session = a, .image = "other"}),
        HL_STATUS_INVALID_ARGUMENT);
    ck_assert_int_eq(keep(fd, a, 3), 2);
    ck_assert_int_eq(close_session(fd, a), 0);
    ck_assert_int_eq(keep(fd, a, 4), -HL_STATUS_NOT_FOUND);
    ck_assert_int_eq(close_session(fd, a), HL_STATUS_NOT_FOUND);
    ck_assert_int_eq(keep(fd, b, 9), 8);
    /* It survives its client, and the engine's end it does not. */
    close(fd);
    fd = rig_connect(&rig);
    ck_assert_int_eq(keep(fd, b, 10), 9);
    close(fd);
    rig_stop(&rig);
}
END_TEST

START_TEST(test_ids)
{
    static const char *const bad[] = {"", "x", "0000000000000000000000000000000000x",
                                      "ff00000000000000000000000000000000",
                                      "0g00000000000000000000000000000000"};
    char id[40];
    int fd;

    start();
    fd = rig_connect(&rig);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        ck_assert_int_eq(close_session(fd, bad[i]), HL_STATUS_INVALID_ARGUMENT);
        ck_assert_int_eq(checkpoint(fd, bad[i], NULL), HL_STATUS_INVALID_ARGUMENT);
        ck_assert_int_eq(call(fd, bad[i], "nothing"), HL_STATUS_INVALID_ARGUMENT);
    }
    ck_assert_int_eq(call(fd, "0000000000000000000000000000000000", "nothing"),
                     HL_STATUS_NOT_FOUND);
    ck_assert_int_eq(open_image(fd, "unknown", id), HL_STATUS_NOT_FOUND);
    ck_assert_int_eq(open_image(fd, "-", id), HL_STATUS_INVALID_ARGUMENT);
    close(fd);
    rig_stop(&rig);
}
END_TEST

START_TEST(test_checkpoints)
{
    uint64_t one, two, three;
    char id[40];
    int fd;

    start();
    fd = rig_connect(&rig);
    open_session(fd, id);
    keep(fd, id, 1);
    ck_assert_int_eq(checkpoint(fd, id, &one), 0);
    keep(fd, id, 2);
    ck_assert_int_eq(checkpoint(fd, id, &two), 0);
    ck_assert_uint_eq(two, one + 1);
    keep(fd, id, 3);
    ck_assert_int_eq(rollback(fd, id, one), 0);
    ck_assert_int_eq(keep(fd, id, 4), 1);
    ck_assert_int_eq(rollback(fd, id, two), 0);
    ck_assert_int_eq(keep(fd, id, 5), 2);
    ck_assert_int_eq(rollback(fd, id, 0), 0);
    ck_assert_int_eq(keep(fd, id, 6), 0);
    ck_assert_int_eq(forget(fd, id, one), 0);
    ck_assert_int_eq(forget(fd, id, one), HL_STATUS_NOT_FOUND);
    ck_assert_int_eq(rollback(fd, id, one), HL_STATUS_NOT_FOUND);
    ck_assert_int_eq(rollback(fd, id, 77), HL_STATUS_NOT_FOUND);
    ck_assert_int_eq(checkpoint(fd, id, &three), 0);
    ck_assert_uint_eq(three, two + 1);
    ck_assert_int_eq(rollback(fd, id, two), 0);
    ck_assert_int_eq(keep(fd, id, 7), 2);
    close(fd);
    rig_stop(&rig);
}
END_TEST

/* More pages than are looked at on the shard itself. */
START_TEST(test_large_checkpoints)
{
    const struct rig_call dirty = {.function = "dirty", .kind = ARG_U32, .u32 = 1500};
    struct rig_call in_session = dirty;
    uint64_t one, two;
    char id[40];
    int fd;

    start();
    fd = rig_connect(&rig);
    open_session(fd, id);
    in_session.session = id;
    ck_assert_int_eq(rig_call(fd, next_stream(), &in_session), 0);
    keep(fd, id, 1);
    ck_assert_int_eq(checkpoint(fd, id, &one), 0);
    ck_assert_int_eq(rollback(fd, id, 0), 0);
    ck_assert_int_eq(keep(fd, id, 2), 0);
    ck_assert_int_eq(checkpoint(fd, id, &two), 0);
    ck_assert_int_eq(rollback(fd, id, one), 0);
    ck_assert_int_eq(keep(fd, id, 3), 1);
    ck_assert_uint_gt(rig_counter(fd, next_stream(), "now_guest_memory"),
                      limits.memory + 1500 * 4096);
    ck_assert_int_eq(close_session(fd, id), 0);
    ck_assert_uint_le(rig_counter(fd, next_stream(), "now_guest_memory"), 4 * limits.memory);
    close(fd);
    rig_stop(&rig);
}
END_TEST

/* Past its quantum a call goes to another thread, and the state with it. */
START_TEST(test_long_calls)
{
    char id[40];
    int fd;

    settings.quantum_ns = MS;
    start();
    fd = rig_connect(&rig);
    open_session(fd, id);
    for (uint32_t i = 0; i < 5; i++) {
        ck_assert_int_eq(keep(fd, id, i + 1), i);
        ck_assert_int_eq(delay(fd, id, 40, 0), 0);
    }
    ck_assert_uint_ge(rig_counter(fd, next_stream(), "long_runs"), 5);
    close(fd);
    rig_stop(&rig);
}
END_TEST

START_TEST(test_new_version)
{
    char old[40], new[40];
    uint64_t one;
    int fd;

    start();
    fd = rig_connect(&rig);
    open_session(fd, old);
    keep(fd, old, 1);
    rig_add(&rig, "test", &limits);
    rig_invalidate(&rig, "test");
    while (atomic_load(&rig.resolves) < 2) {
        keep(fd, NULL, 1);
        usleep(1000);
    }
    open_session(fd, new);
    ck_assert_int_eq(keep(fd, old, 2), 1);
    ck_assert_int_eq(keep(fd, new, 1), 0);
    ck_assert_int_eq(checkpoint(fd, old, &one), 0);
    ck_assert_int_eq(call(fd, old, "fault"), HL_STATUS_ABORTED);
    ck_assert_int_eq(rollback(fd, old, one), 0); /* an instance of the old version */
    ck_assert_int_eq(keep(fd, old, 3), 2);
    ck_assert_int_eq(close_session(fd, old), 0);
    ck_assert_int_eq(keep(fd, new, 2), 1);
    close(fd);
    rig_stop(&rig);
}
END_TEST

/* --- failing -------------------------------------------------------------------------------- */

static void check_failed(int fd, const char *id)
{
    Hl__V1__ListSessionsResponse *sessions;
    uint64_t number;

    ck_assert_int_eq(keep(fd, id, 1), -HL_STATUS_FAILED_PRECONDITION);
    ck_assert_int_eq(checkpoint(fd, id, &number), HL_STATUS_FAILED_PRECONDITION);
    sessions = list(fd);
    ck_assert_uint_eq(sessions->n_sessions, 1);
    ck_assert_str_ne(sessions->sessions[0]->failed, "");
    hl__v1__list_sessions_response__free_unpacked(sessions, NULL);
}

/* A call that is still running at its deadline, so that the session is lost. One that has not begun
 * by then has done nothing to the session: the next one gets more time. */
static void miss_deadline(int fd, const char *id, int64_t timeout_ns)
{
    for (;; timeout_ns *= 2) {
        ck_assert_int_eq(delay(fd, id, 60000, timeout_ns), HL_STATUS_DEADLINE_EXCEEDED);
        if (keep(fd, id, 1) < 0)
            break;
        ck_assert_int_lt(timeout_ns, 1000 * MS);
    }
    check_failed(fd, id);
}

START_TEST(test_failed_calls)
{
    static const char *const ends[] = {"fault", "die"};
    uint64_t one;
    char id[40];
    int fd, other;

    start();
    fd = rig_connect(&rig);
    open_session(fd, id);
    keep(fd, id, 5);
    ck_assert_int_eq(checkpoint(fd, id, &one), 0);
    for (size_t i = 0; i < 2; i++) {
        keep(fd, id, 6);
        ck_assert_int_eq(call(fd, id, ends[i]), HL_STATUS_ABORTED);
        check_failed(fd, id);
        ck_assert_int_eq(rollback(fd, id, 99), HL_STATUS_NOT_FOUND);
        check_failed(fd, id);
        ck_assert_int_eq(rollback(fd, id, i == 0 ? one : 0), 0);
        ck_assert_int_eq(keep(fd, id, 7), i == 0 ? 5 : 0);
    }
    /* Deadline, short and long; cancel; disconnect. */
    miss_deadline(fd, id, 100 * 1000);
    ck_assert_int_eq(rollback(fd, id, one), 0);
    miss_deadline(fd, id, 20 * MS);
    ck_assert_int_eq(rollback(fd, id, one), 0);
    other = rig_connect(&rig);
    rig_invoke(other, 1, &(struct rig_call){.function = "hold", .session = id, .call_id = 9});
    rig_await_held(1);
    rig_cancel(other, 3, 9);
    for (int i = 0; i < 2; i++) {
        struct rig_response response;

        ck_assert(rig_receive(other, &response));
        ck_assert_int_eq(response.envelope.code, response.stream == 1 ? HL_STATUS_CANCELLED : 0);
        rig_response_free(&response);
    }
    check_failed(fd, id);
    ck_assert_int_eq(rollback(fd, id, one), 0);
    rig_invoke(other, 5, &(struct rig_call){.function = "hold", .session = id});
    rig_await_held(2);
    close(other);
    check_failed(fd, id);
    ck_assert_int_eq(rollback(fd, id, one), 0);
    ck_assert_int_eq(keep(fd, id, 8), 5);
    /* Failed sessions close like others. */
    ck_assert_int_eq(call(fd, id, "fault"), HL_STATUS_ABORTED);
    ck_assert_int_eq(close_session(fd, id), 0);
    close(fd);
    rig_stop(&rig);
}
END_TEST

START_TEST(test_backend_failures)
{
    uint64_t one, two;
    char id[40];
    int fd;

    start();
    fd = rig_connect(&rig);
    open_session(fd, id);
    keep(fd, id, 5);
    ck_assert_int_eq(checkpoint(fd, id, &one), 0);
    fake_fail(FAKE_REWIND, 1, -EIO);
    ck_assert_int_eq(keep(fd, id, 6), 5); /* the answer was given already */
    check_failed(fd, id);
    ck_assert_int_eq(rollback(fd, id, one), 0);
    ck_assert_int_eq(keep(fd, id, 7), 5);
    fake_fail(FAKE_MEM_READ, 1, -EIO);
    ck_assert_int_eq(checkpoint(fd, id, &two), HL_STATUS_INTERNAL);
    check_failed(fd, id);
    fake_fail(FAKE_BIND, 1, -EIO); /* nor is there another one */
    fake_fail(FAKE_MEM_WRITE, 1, -EIO);
    ck_assert_int_ne(rollback(fd, id, one), 0);
    check_failed(fd, id);
    fake_fail(FAKE_MEM_WRITE, 0, 0);
    fake_fail(FAKE_BIND, 0, 0);
    ck_assert_int_eq(rollback(fd, id, one), 0);
    keep(fd, id, 8);
    hl__v1__list_sessions_response__free_unpacked(list(fd), NULL); /* and what follows its answer */
    fake_fail(FAKE_MEM_WRITE, 1, -EIO);
    ck_assert_int_eq(rollback(fd, id, one), HL_STATUS_INTERNAL);
    check_failed(fd, id);
    ck_assert_int_eq(rollback(fd, id, one), 0);
    fake_fail(FAKE_COLLECT, 1, -EIO);
    ck_assert_int_eq(checkpoint(fd, id, &two), HL_STATUS_INTERNAL);
    ck_assert_int_eq(rollback(fd, id, one), 0);
    ck_assert_int_eq(keep(fd, id, 9), 5);
    close(fd);
    rig_stop(&rig);
}
END_TEST

/* --- bounds --------------------------------------------------------------------------------- */

START_TEST(test_limit)
{
    char ids[3][40];
    int fd;

    settings.max_sessions = 2;
    limits.max_instances = 1;
    start();
    fd = rig_connect(&rig);
    open_session(fd, ids[0]);
    open_session(fd, ids[1]); /* not counted among the image's instances */
    ck_assert_int_eq(open_image(fd, "test", ids[2]), HL_STATUS_RESOURCE_EXHAUSTED);
    ck_assert_int_eq(keep(fd, NULL, 3), 0);
    ck_assert_int_eq(close_session(fd, ids[0]), 0);
    open_session(fd, ids[2]);
    ck_assert_int_eq(keep(fd, ids[2], 3), 0);
    close(fd);
    rig_stop(&rig);
}
END_TEST

START_TEST(test_budget)
{
    struct rig_call dirty = {.function = "dirty", .kind = ARG_U32, .u32 = 1000};
    uint64_t one, two;
    char id[40], other[40];
    int fd;

    settings.memory_budget = limits.memory + (5u << 20);
    settings.max_vms = 2;
    start();
    fd = rig_connect(&rig);
    open_session(fd, id);
    dirty.session = id;
    ck_assert_int_eq(rig_call(fd, next_stream(), &dirty), 0);
    ck_assert_int_eq(checkpoint(fd, id, &one), 0); /* 4 MiB of 5 */
    /* No room for a second instance, and a session is not evicted for it. */
    ck_assert_int_eq(rig_call(fd, next_stream(),
                              &(struct rig_call){.function = "nothing", .timeout_ns = 30 * MS}),
                     HL_STATUS_DEADLINE_EXCEEDED);
    ck_assert_int_eq(rollback(fd, id, 0), 0);
    keep(fd, id, 4);
    ck_assert_int_eq(checkpoint(fd, id, &two), 0);
    ck_assert_int_eq(rollback(fd, id, one), 0);
    ck_assert_int_eq(close_session(fd, id), 0);
    /* Every page another value, twice: more than there is room for. */
    open_session(fd, other);
    dirty.session = other;
    ck_assert_int_eq(rig_call(fd, next_stream(), &dirty), 0);
    ck_assert_int_eq(checkpoint(fd, other, &one), 0);
    dirty.u32 = 2000;
    ck_assert_int_eq(rig_call(fd, next_stream(), &dirty), 0);
    ck_assert_int_eq(checkpoint(fd, other, &two), HL_STATUS_RESOURCE_EXHAUSTED);
    keep(fd, other, 5);
    ck_assert_int_eq(keep(fd, other, 6), 5); /* it goes on */
    ck_assert_int_eq(rollback(fd, other, one), 0);
    close(fd);
    rig_stop(&rig);
}
END_TEST

int main(void)
{
    TCase *tc = tests_begin("session");

    tcase_add_test(tc, test_state_stays);
    tcase_add_test(tc, test_ids);
    tcase_add_test(tc, test_checkpoints);
    tcase_add_test(tc, test_large_checkpoints);
    tcase_add_test(tc, test_long_calls);
    tcase_add_test(tc, test_new_version);
    tcase_add_test(tc, test_failed_calls);
    tcase_add_test(tc, test_backend_failures);
    tcase_add_test(tc, test_limit);
    tcase_add_test(tc, test_budget);
    return tests_run(tc, "session");
}
