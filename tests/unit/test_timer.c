/* SPDX-License-Identifier: Apache-2.0 */
/* Kicks and deadlines on a run that is no guest: a loop that waits for its flag. */

#include "hv/timer.h"
#include "tests/unit/tests_run.h"

#include <check.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static volatile uint8_t flag;
static struct hv_kick kick;

/* As a backend's run; gives up after a while. Returns whether the run was told to end. */
static bool run(uint64_t until_ns)
{
    uint64_t give_up = hv_now_ns() + 20000000000u;
    bool due = false;

    hv_kick_begin(&kick, until_ns);
    do {
        while (!flag && hv_now_ns() < give_up)
            ;
        due = hv_kick_due(&kick);
    } while (!due && hv_now_ns() < give_up);
    hv_kick_end(&kick);
    return due;
}

static void setup(void)
{
    ck_assert_int_eq(hv_thread_init(), 0);
    hv_kick_init(&kick, &flag);
}

START_TEST(test_deadline)
{
    uint64_t until = hv_now_ns() + 2000000;

    ck_assert(run(until));
    ck_assert_uint_ge(hv_now_ns(), until);
}
END_TEST

/* Armed for early, then wanted late: the early signal must not end the later run. */
START_TEST(test_lazy)
{
    uint64_t early = hv_now_ns() + 2000000, late = early + 20000000;

    hv_kick_begin(&kick, early);
    hv_kick_end(&kick);
    ck_assert(run(late));
    ck_assert_uint_ge(hv_now_ns(), late);
}
END_TEST

/* Fired while nothing ran: the next run has to arm anew. */
START_TEST(test_fired_idle)
{
    struct timespec wait = {.tv_nsec = 5000000};
    uint64_t until;

    hv_kick_begin(&kick, hv_now_ns() + 1000000);
    hv_kick_end(&kick);
    nanosleep(&wait, NULL);
    until = hv_now_ns() + 1000000;
    ck_assert(run(until));
    ck_assert_uint_ge(hv_now_ns(), until);
}
END_TEST

START_TEST(test_past)
{
    ck_assert(run(0));
    ck_assert(run(hv_now_ns() - 1));
}
END_TEST

START_TEST(test_pending)
{
    hv_kick_send(&kick);
    hv_kick_begin(&kick, UINT64_MAX);
    ck_assert_uint_eq(flag, 1);
    ck_assert(hv_kick_due(&kick));
    ck_assert_uint_eq(flag, 0);
    ck_assert(!hv_kick_due(&kick));
    hv_kick_end(&kick);

    hv_kick_send(&kick);
    hv_kick_init(&kick, &flag);
    hv_kick_begin(&kick, UINT64_MAX);
    ck_assert_uint_eq(flag, 0);
    hv_kick_end(&kick);
}
END_TEST

static atomic_int runs;

static void *kicker(void *arg)
{
    int *count = arg;

    for (int i = 0; i < *count; i++) {
        int before = atomic_load(&runs);

        hv_kick_send(&kick);
        while (atomic_load(&runs) == before)
            sched_yield();
    }
    return NULL;
}

/* Kicks from another thread at every point of the run; none may be lost. */
START_TEST(test_race)
{
    pthread_t thread;
    int count = 2000;

    ck_assert_int_eq(pthread_create(&thread, NULL, kicker, &count), 0);
    for (int i = 0; i < count; i++) {
        ck_assert(run(UINT64_MAX));
        atomic_fetch_add(&runs, 1);
    }
    pthread_join(thread, NULL);
}
END_TEST

static void *blocked(void *arg)
{
    sigset_t all;
    int *result = arg;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, NULL);
    *result = hv_thread_init();
    if (*result == 0)
        *result = run(hv_now_ns() + 1000000) ? 0 : -ETIMEDOUT;
    hv_thread_fini();
    return NULL;
}

START_TEST(test_blocked_thread)
{
    pthread_t thread;
    int result = -1;

    ck_assert_int_eq(pthread_create(&thread, NULL, blocked, &result), 0);
    pthread_join(thread, NULL);
    ck_assert_int_eq(result, 0);
}
END_TEST

int main(void)
{
    TCase *tc = tcase_create("kick");

    tcase_add_checked_fixture(tc, setup, NULL);
    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, test_deadline);
    tcase_add_test(tc, test_lazy);
    tcase_add_test(tc, test_fired_idle);
    tcase_add_test(tc, test_past);
    tcase_add_test(tc, test_pending);
    tcase_add_test(tc, test_race);
    tcase_add_test(tc, test_blocked_thread);
    return tests_run(tc, "timer");
}
