/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sessions with others about: turns of several clients on several shards, idle time, the end of the
 * engine, everything at once.
 */
#include "config.h"

#include <check.h>
#include <poll.h>
#include <pthread.h>
#include <unistd.h>

#include "hv/timer.h"
#include "tests/fake/fake.h"
#include "tests/unit/session_rig.h"

/* n calls of fd that wait for the session, which is somebody's now; witness is asked for that. */
static void queue_up(int fd, const char *id, const char *function, unsigned int n, int witness)
{
    uint64_t queued = rig_counter(witness, next_stream(), "queued");

    for (unsigned int i = 0; i < n; i++)
        rig_invoke(fd, next_stream(), &(struct rig_call){.function = function, .session = id});
    await_counter(witness, "queued", queued + n);
}

/* --- several clients ------------------------------------------------------------------------ */

/* Requests for one session from two connections, on the same shard or on two. */
START_TEST(test_two_clients)
{
    struct rig_response response;
    char id[40];
    int a, b, c;

    settings.shards = (uint32_t)_i;
    start();
    a = rig_connect(&rig);
    b = rig_connect(&rig);
    c = rig_connect(&rig);
    open_session(a, id);
    ck_assert_int_eq(keep(a, id, 1), 0);
    ck_assert_int_eq(keep(b, id, 2), 1);
    ck_assert_int_eq(keep(a, id, 3), 2);
    /* One at a time: the second waits for the first. */
    begin_hold(a, id, 1);
    queue_up(b, id, "nothing", 1, c);
    ck_assert_int_eq(poll(&(struct pollfd){.fd = b, .events = POLLIN}, 1, 0), 0);
    end_hold(a);
    ck_assert(rig_receive(b, &response));
    ck_assert_int_eq(response.envelope.code, 0);
    rig_response_free(&response);
    ck_assert_int_eq(keep(b, id, 4), 3);
    /* One that waits past its deadline has done nothing to the session. */
    begin_hold(a, id, 2);
    ck_assert_int_eq(delay(b, id, 0, 5 * MS), HL_STATUS_DEADLINE_EXCEEDED);
    end_hold(a);
    ck_assert_int_eq(keep(b, id, 5), 4);
    /* Nor one whose client leaves meanwhile. */
    begin_hold(a, id, 3);
    queue_up(b, id, "fault", 1, c);
    close(b);
    await_counter(c, "abandoned", 1);
    end_hold(a);
    ck_assert_int_eq(keep(a, id, 6), 5);
    close(a);
    close(c);
    rig_stop(&rig);
}
END_TEST

START_TEST(test_queue_is_bounded)
{
    struct rig_response response;
    int refused = 0;
    char id[40];
    int fd, other;

    settings.shards = (uint32_t)_i;
    start();
    fd = rig_connect(&rig);
    other = rig_connect(&rig);
    open_session(fd, id);
    begin_hold(fd, id, 1);
    for (int i = 0; i < 80; i++)
        rig_invoke(fd, next_stream(), &(struct rig_call){.function = "nothing", .session = id});
    await_counter(other, "other_errors", 80 - 64);
    fake_hold(false);
    for (int i = 0; i < 81; i++) {
        ck_assert(rig_receive(fd, &response));
        refused += response.envelope.code == HL_STATUS_RESOURCE_EXHAUSTED;
        ck_assert(response.envelope.code == 0 ||
                  response.envelope.code == HL_STATUS_RESOURCE_EXHAUSTED);
        rig_response_free(&response);
    }
    ck_assert_int_eq(refused, 80 - 64);
    ck_assert_int_eq(keep(fd, id, 1), 0);
    close(fd);
    close(other);
    rig_stop(&rig);
}
END_TEST

START_TEST(test_close_while_busy)
{
    struct rig_response response;
    char id[40];
    int a, b;

    settings.shards = 2;
    start();
    a = rig_connect(&rig);
    b = rig_connect(&rig);
    open_session(a, id);
    begin_hold(a, id, 1);
    queue_up(a, id, "nothing", 1, b);
    ck_assert_int_eq(close_session(b, id), 0);
    ck_assert(rig_receive(a, &response)); /* the one that waited */
    ck_assert_int_eq(response.envelope.code, HL_STATUS_NOT_FOUND);
    rig_response_free(&response);
    end_hold(a);
    ck_assert_int_eq(keep(a, id, 1), -HL_STATUS_NOT_FOUND);
    await_counter(a, "now_sessions", 0);
    close(a);
    close(b);
    rig_stop(&rig);
}
END_TEST

/* --- time ----------------------------------------------------------------------------------- */

/* One session is used again and again until another one, which is not, is gone. Returns: whether no
 * pause between uses was as long as idle_ns, so that the one in use had to stay. */
static bool stays_while_used(int fd, uint64_t idle_ns)
{
    char used[40], unused[40];
    uint64_t asked = hv_now_ns(), pause = 0, closed;
    uint32_t i = 0;
    int64_t was;

    open_session(fd, used);
    open_session(fd, unused);
    closed = rig_counter(fd, next_stream(), "sessions_idle");
    do {
        uint64_t before = asked;

        asked = hv_now_ns();
        was = keep(fd, used, i + 1);
        pause = hv_now_ns() - before > pause ? hv_now_ns() - before : pause;
        usleep((useconds_t)(idle_ns / 10000));
    } while (was == i++ && rig_counter(fd, next_stream(), "sessions_idle") == closed);
    if (pause >= idle_ns)
        return false;
    ck_assert_int_eq(was, i - 1);
    ck_assert_int_eq(keep(fd, unused, 1), -HL_STATUS_NOT_FOUND);
    return true;
}

START_TEST(test_idle)
{
    uint64_t idle_ns = 100 * MS;
    bool stayed = false;
    int fd;

    for (; !stayed && idle_ns < 10000 * MS; idle_ns *= 2) {
        settings.session_idle_ns = idle_ns;
        start();
        fd = rig_connect(&rig);
        stayed = stays_while_used(fd, idle_ns);
        close(fd);
        rig_stop(&rig);
    }
    ck_assert(stayed);
}
END_TEST

/* A call that runs longer is no idle time. */
START_TEST(test_idle_and_running)
{
    char busy[40], unused[40];
    int a, b;

    settings.session_idle_ns = 50 * MS;
    start();
    a = rig_connect(&rig);
    b = rig_connect(&rig);
    open_session(a, busy);
    begin_hold(a, busy, 1);
    open_session(b, unused);
    await_counter(b, "sessions_idle", 1);
    ck_assert_uint_eq(rig_counter(b, next_stream(), "now_sessions"), 1);
    end_hold(a);
    await_counter(b, "sessions_idle", 2);
    close(a);
    close(b);
    rig_stop(&rig);
}
END_TEST

static void await_told(uint32_t sessions)
{
    bool told = false;

    for (int i = 0; i < 4000 && !told; i++) {
        usleep(5000);
        pthread_mutex_lock(&rig.lock);
        told = rig.idle_connections == 0 && rig.idle_received == 1 && rig.idle_sessions == sessions;
        pthread_mutex_unlock(&rig.lock);
    }
    ck_assert(told);
}

START_TEST(test_front_is_told)
{
    char id[40];
    int fd;

    settings.session_idle_ns = 60000 * MS;
    start();
    fd = rig_connect(&rig);
    open_session(fd, id);
    close(fd);
    await_told(1); /* one without a connection */
    settings.session_idle_ns = MS;
    rig_reload(&rig, &settings);
    await_told(0);
    rig_stop(&rig);
}
END_TEST

/* --- the end of the engine ---------------------------------------------------------------------
 */

START_TEST(test_end_with_a_call)
{
    char id[40], other[40];
    int a, b, code;

    settings.shards = 2;
    start();
    a = rig_connect(&rig);
    b = rig_connect(&rig);
    open_session(a, id);
    open_session(b, other);
    /* On the other one's shard. */
    begin_hold(b, id, 1);
    rig_drain(&rig, 10000 * MS);
    rig.drained = true;
    do { /* until it has heard of that */
        code = call(a, other, "nothing");
    } while (code == 0);
    ck_assert_int_eq(code, HL_STATUS_UNAVAILABLE);
    end_hold(b);
    ck_assert(rig_closed(a));
    close(a);
    close(b);
    rig_stop(&rig);
}
END_TEST

/* The last call of all runs when the one before it lets go of the session, and with it the engine
 * has nothing left to wait for. */
START_TEST(test_end_with_a_queue)
{
    char id[40];
    int a, b;

    settings.shards = 1;
    start();
    a = rig_connect(&rig);
    b = rig_connect(&rig);
    open_session(a, id);
    begin_hold(a, id, 1);
    queue_up(b, id, "nothing", 2, b);
    rig_drain(&rig, 10000 * MS);
    rig.drained = true;
    end_hold(a);
    for (int i = 0; i < 2; i++) {
        struct rig_response response;

        ck_assert(rig_receive(b, &response));
        ck_assert_int_eq(response.envelope.code, 0);
        rig_response_free(&response);
    }
    ck_assert(rig_closed(a));
    ck_assert(rig_closed(b));
    close(a);
    close(b);
    rig_stop(&rig);
}
END_TEST

/* Stopped in the middle of everything. */
START_TEST(test_end_at_the_limit)
{
    char id[40];
    int fds[4];

    settings.shards = 2;
    start();
    for (int i = 0; i < 4; i++)
        fds[i] = rig_connect(&rig);
    open_session(fds[0], id);
    for (int i = 0; i < 4; i++)
        rig_invoke(fds[i], next_stream(), &(struct rig_call){.function = "spin", .session = id});
    usleep(20000);
    rig_drain(&rig, 20 * MS);
    rig.drained = true;
    for (int i = 0; i < 4; i++) {
        ck_assert(rig_closed(fds[i]));
        close(fds[i]);
    }
    rig_stop(&rig);
}
END_TEST

/* --- all at once ---------------------------------------------------------------------------- */

#define CLIENTS  4
#define SESSIONS 6
#define ROUNDS   300

static char shared[SESSIONS][40];

static void *client(void *opaque)
{
    int fd = rig_connect(&rig);
    uint64_t seed = (uintptr_t)opaque, number = 0;
    char own[40];

    open_session(fd, own);
    for (uint32_t i = 0, state = 0; i < ROUNDS; i++) {
        const char *id;
        int code = 0;

        seed = seed * 6364136223846793005ull + 1442695040888963407ull;
        id = shared[(seed >> 33) % SESSIONS];
        switch ((seed >> 40) % 12) {
        case 0:
            code = checkpoint(fd, id, &number);
            break;
        case 1:
            code = rollback(fd, id, (seed >> 20) % 4);
            break;
        case 2:
            code = (seed >> 50) % 4 == 0 ? call(fd, id, "fault") : 0;
            break;
        case 3:
            code = delay(fd, id, 2, 0);
            break;
        case 4:
            hl__v1__list_sessions_response__free_unpacked(list(fd), NULL);
            break;
        case 5:
            code = delay(fd, id, 20, MS);
            break;
        default:
            code = keep(fd, id, i) < 0 ? HL_STATUS_FAILED_PRECONDITION : 0;
        }
        ck_assert(code == 0 || code == HL_STATUS_FAILED_PRECONDITION || code == HL_STATUS_ABORTED ||
                  code == HL_STATUS_NOT_FOUND || code == HL_STATUS_DEADLINE_EXCEEDED ||
                  code == HL_STATUS_RESOURCE_EXHAUSTED);
        ck_assert_int_eq(keep(fd, own, i + 1), state);
        state = i + 1;
    }
    ck_assert_int_eq(close_session(fd, own), 0);
    close(fd);
    return NULL;
}

START_TEST(test_everything_at_once)
{
    pthread_t threads[CLIENTS];
    int fd;

    settings.shards = 3;
    limits.max_instances = 3;
    start();
    fd = rig_connect(&rig);
    for (int i = 0; i < SESSIONS; i++)
        open_session(fd, shared[i]);
    for (uintptr_t i = 0; i < CLIENTS; i++)
        pthread_create(&threads[i], NULL, client, (void *)(i + 1));
    for (int i = 0; i < CLIENTS; i++)
        pthread_join(threads[i], NULL);
    for (int i = 0; i < SESSIONS; i++)
        ck_assert_int_eq(close_session(fd, shared[i]), 0);
    await_counter(fd, "now_sessions", 0);
    close(fd);
    rig_stop(&rig);
}
END_TEST

int main(void)
{
    TCase *tc = tests_begin("session_turns");

    tcase_add_loop_test(tc, test_two_clients, 1, 3);
    tcase_add_loop_test(tc, test_queue_is_bounded, 1, 3);
    tcase_add_test(tc, test_close_while_busy);
    tcase_add_test(tc, test_idle);
    tcase_add_test(tc, test_idle_and_running);
    tcase_add_test(tc, test_front_is_told);
    tcase_add_test(tc, test_end_with_a_call);
    tcase_add_test(tc, test_end_with_a_queue);
    tcase_add_test(tc, test_end_at_the_limit);
    tcase_add_test(tc, test_everything_at_once);
    return tests_run(tc, "session_turns");
}
