/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who runs when, and where: turns between clients, replies that go out together, calls past their
 * quantum, functions known to be long, shards that help one another, polling.
 */
#include "config.h"

#include <check.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "daemon/run.h"
#include "hv/timer.h"
#include "proto/buffer.h"
#include "tests/fake/fake.h"
#include "tests/unit/engine_tests.h"

static const struct rig_call spin = {.function = "spin", .call_id = 7};
static const struct rig_call hold = {.function = "hold"};

/* Several whole requests in one write. */
static void send_together(int fd, uint32_t first, unsigned int count, const char *function,
                          int64_t timeout_ns)
{
    Hl__V1__InvokeRequest request = HL__V1__INVOKE_REQUEST__INIT;
    struct buffer buf = {0};

    request.image = (char *)"test";
    request.function = (char *)function;
    for (unsigned int i = 0; i < count; i++)
        ck_assert_int_eq(envelope_encode_request(&buf, first + 2 * i, "hl.v1.Functions", "Invoke",
                                                 timeout_ns, &request.base),
                         0);
    rig_send(fd, buffer_data(&buf), buf.len);
    buffer_fini(&buf);
}

static uint32_t receive_ok(int fd)
{
    struct rig_response response;
    uint32_t stream;

    ck_assert(rig_receive(fd, &response));
    ck_assert_msg(response.envelope.code == 0, "%d %s", response.envelope.code, response.message);
    stream = response.stream;
    rig_response_free(&response);
    return stream;
}

static int bytes_waiting(int fd)
{
    int n = 0;

    ck_assert_int_eq(ioctl(fd, FIONREAD, &n), 0);
    return n;
}

/* What a run notes down when it begins; guests call it in order on one shard. */
static struct {
    atomic_int runs;        /* of calls, not of start-ups */
    atomic_int watched;     /* a client's descriptor */
    atomic_int waiting[64]; /* bytes that it could read */
    _Atomic pid_t tid[64];
    atomic_bool ends; /* only the last run of each call */
    _Atomic uint64_t work_ns;
    atomic_bool hold; /* runs wait until it is over */
} notes;

static void note(int waiting)
{
    int n = atomic_fetch_add(&notes.runs, 1);

    if (n < 64) {
        notes.waiting[n] = waiting;
        notes.tid[n] = (pid_t)syscall(SYS_gettid);
    }
}

static int note_run(struct hv_machine *m, uint64_t until_ns, struct hv_exit *out, void *opaque)
{
    uint64_t end;

    (void)opaque;
    if (fake_at_start(m))
        return fake_run(m, until_ns, out);
    if (notes.ends) {
        int waiting = bytes_waiting(notes.watched), r = fake_run(m, until_ns, out);

        if (out->kind != HV_EXIT_KICKED)
            note(waiting);
        return r;
    }
    note(bytes_waiting(notes.watched));
    for (end = hv_now_ns() + 10000 * MS; notes.hold && hv_now_ns() < end;)
        usleep(100);
    for (end = hv_now_ns() + notes.work_ns; hv_now_ns() < end;) {
    }
    return fake_run(m, until_ns, out);
}

static void watch_runs(int fd)
{
    notes.runs = 0;
    for (int i = 0; i < 64; i++)
        notes.waiting[i] = notes.tid[i] = 0;
    notes.ends = false;
    notes.work_ns = 0;
    notes.hold = false;
    notes.watched = fd;
    fake_set_run(note_run, NULL);
}

static void wait_runs(int n)
{
    for (int i = 0; i < 4000 && atomic_load(&notes.runs) < n; i++)
        usleep(5000);
    ck_assert_int_eq(atomic_load(&notes.runs), n);
}

/* --- turns ---------------------------------------------------------------------------------- */

/* While one client's many calls are served, another's single one gets its turn after the first. */
START_TEST(test_turns_of_ready)
{
    int many, single;

    settings.quantum_ns = 1000 * MS;
    start();
    many = rig_connect(&rig);
    single = rig_connect(&rig);
    ck_assert_int_eq(rig_call(many, 1, &nothing), 0);
    ck_assert_int_eq(rig_call(single, 1, &nothing), 0);
    watch_runs(single);
    notes.work_ns = 1 * MS;
    notes.hold = true; /* while the first runs, all the others arrive */
    send_together(many, 3, 8, "nothing", 0);
    wait_runs(1);
    send_together(single, 3, 1, "nothing", 0);
    notes.hold = false;
    wait_runs(9);
    ck_assert_int_eq(notes.waiting[1], 0);
    ck_assert_int_gt(notes.waiting[3], 0); /* served first, second or third */
    receive_ok(single);
    for (int i = 0; i < 8; i++)
        receive_ok(many);
    fake_set_run(NULL, NULL);
    close(many);
    close(single);
    rig_stop(&rig);
}
END_TEST

/* With one instance, which is taken, calls wait in rounds of their clients and not in the order
 * they came: one client's six, then two of another's. */
START_TEST(test_rounds)
{
    int a, b, c, one;
    uint32_t stream = 3;

    limits.max_instances = 1;
    limits.max_queue = 64;
    start();
    a = rig_connect(&rig);
    b = rig_connect(&rig);
    c = rig_connect(&rig);
    ck_assert_int_eq(rig_call(c, 1, &nothing), 0); /* waits as well, for the program */
    rig_invoke(a, 1, &spin);
    send_together(a, 3, 6, "nothing", 0);
    while (rig_counter(c, stream, "queued") < 7)
        stream += 2;
    send_together(b, 1, 2, "nothing", 0);
    while (rig_counter(c, stream += 2, "queued") < 9) {
    }
    ck_assert_int_eq(bytes_waiting(b), 0);
    watch_runs(b);
    notes.ends = true; /* not those of the spinning call */
    rig_cancel(a, 5001, 7);
    wait_runs(8);
    /* a b a b a a a a: how many answers b has when each of them begins. */
    one = notes.waiting[7] / 2;
    ck_assert_int_gt(one, 16);
    for (int i = 0; i < 8; i++)
        ck_assert_int_eq((notes.waiting[i] + one / 2) / one, i < 2 ? 0 : i < 4 ? 1 : 2);
    for (uint32_t i = 0; i < 6;) { /* its own calls keep their order */
        struct rig_response response;

        ck_assert(rig_receive(a, &response));
        if (response.envelope.code == 0 && response.stream != 5001)
            ck_assert_uint_eq(response.stream, 3 + 2 * i++);
        rig_response_free(&response);
    }
    fake_set_run(NULL, NULL);
    close(a);
    close(b);
    close(c);
    rig_stop(&rig);
}
END_TEST

/* --- answers together ----------------------------------------------------------------------- */

/* Preempted, the shard sends what it held back sooner: one of the rounds has to go without that. */
START_TEST(test_one_write)
{
    bool together = false;
    uint32_t stream = 3;
    int fd;

    settings.quantum_ns = 1000 * MS;
    start();
    fd = rig_connect(&rig);
    ck_assert_int_eq(rig_call(fd, 1, &nothing), 0);
    for (int round = 0; round < 200 && !together; round++, stream += 6) {
        watch_runs(fd);
        send_together(fd, stream, 3, "nothing", 0);
        wait_runs(3);
        for (int i = 0; i < 3; i++)
            receive_ok(fd);
        together = notes.waiting[1] == 0;
    }
    ck_assert(together); /* the first answer was held back */
    fake_set_run(NULL, NULL);
    close(fd);
    rig_stop(&rig);
}
END_TEST

/* … but not for long. */
START_TEST(test_held_back_for_a_moment)
{
    int fd;

    settings.quantum_ns = 1000 * MS;
    start();
    fd = rig_connect(&rig);
    ck_assert_int_eq(rig_call(fd, 1, &nothing), 0);
    watch_runs(fd);
    notes.work_ns = 5 * MS;
    send_together(fd, 3, 3, "nothing", 0);
    wait_runs(3);
    for (int i = 0; i < 3; i++)
        receive_ok(fd);
    ck_assert_int_gt(notes.waiting[1], 0);
    fake_set_run(NULL, NULL);
    close(fd);
    rig_stop(&rig);
}
END_TEST

/* --- long calls ----------------------------------------------------------------------------- */

/* Waits for the third run on another thread than that one: by then the first two have lasted for a
 * whole slice each, and the call is long. */
static void await_runs_off(pid_t shard)
{
    for (int i = 0; i < 20000; i++) {
        int off = 0;

        for (int n = 0; n < 64 && notes.tid[n] != 0; n++)
            off += notes.tid[n] != shard;
        if (off >= 3)
            return;
        usleep(500);
    }
    ck_abort_msg("the runs were on the shard");
}

/* Past some quanta a call goes on elsewhere; a function known for that starts there. */
START_TEST(test_learns_long_functions)
{
    uint32_t stream = 1;
    pid_t shard;
    int fd;

    start();
    fd = rig_connect(&rig);
    watch_runs(fd);
    ck_assert_int_eq(rig_call(fd, 1, &nothing), 0);
    shard = notes.tid[0];
    for (int i = 0; i < 3; i++) {
        fake_hold(true);
        watch_runs(fd);
        rig_invoke(fd, stream += 2, &hold);
        await_runs_off(shard);
        fake_hold(false);
        ck_assert_uint_eq(receive_ok(fd), stream);
        if (i < 2)
            ck_assert_int_eq(notes.tid[0], shard);
        else
            ck_assert_int_ne(notes.tid[0], shard);
    }
    ck_assert_uint_eq(rig_counter(fd, stream += 2, "long_runs"), 3);
    /* Short again, it is back on its shard after a while. */
    for (int i = 0; i < 1000 && notes.tid[0] != shard; i++) {
        watch_runs(fd);
        ck_assert_int_eq(rig_call(fd, stream += 2, &hold), 0);
    }
    ck_assert_int_eq(notes.tid[0], shard);
    fake_set_run(NULL, NULL);
    close(fd);
    rig_stop(&rig);
}
END_TEST

/* Returns: whether a call of three quanta ended where it began. */
static bool stays(uint32_t quantum_ms)
{
    const struct rig_call call = {.function = "delay", .kind = ARG_U32, .u32 = 3 * quantum_ms};
    bool stayed;
    int fd;

    settings.quantum_ns = quantum_ms * MS;
    start();
    fd = rig_connect(&rig);
    ck_assert_int_eq(rig_call(fd, 1, &nothing), 0);
    ck_assert_int_eq(rig_call(fd, 3, &call), 0);
    stayed = rig_counter(fd, 5, "long_runs") == 0;
    close(fd);
    rig_stop(&rig);
    return stayed;
}

/* Past its quantum a call goes on where it is while nobody else wants the shard. (Preempted, one
 * may be past its ten quanta: the longer they are, the less of that.) */
START_TEST(test_alone)
{
    uint32_t quantum_ms = 2;

    while (!stays(quantum_ms) && quantum_ms < 500)
        quantum_ms *= 4;
    ck_assert_uint_lt(quantum_ms, 500);
}
END_TEST

START_TEST(test_not_alone)
{
    const struct rig_call call = {.function = "delay", .kind = ARG_U32, .u32 = 6};
    uint32_t stream = 1;
    int fd, other;

    settings.quantum_ns = 2 * MS;
    start();
    fd = rig_connect(&rig);
    other = rig_connect(&rig);
    ck_assert_int_eq(rig_call(other, 1, &nothing), 0);
    for (int i = 0; i < 1000 && rig_counter(other, stream += 2, "long_runs") == 0; i++) {
        rig_invoke(fd, 2 * (uint32_t)i + 1, &call);
        usleep(1000);
        ck_assert_int_eq(rig_call(other, stream += 2, &nothing), 0);
        receive_ok(fd);
    }
    ck_assert_uint_gt(rig_counter(other, stream += 2, "long_runs"), 0);
    close(fd);
    close(other);
    rig_stop(&rig);
}
END_TEST

/* More long calls than threads for them: all get on, although the first and the last never end. */
START_TEST(test_long_calls_take_turns)
{
    struct rig_response response;
    uint32_t stream = 101;
    int fd, other;

    limits.max_instances = 7;
    settings.long_threads = 1;
    start();
    fd = rig_connect(&rig);
    other = rig_connect(&rig);
    ck_assert_int_eq(rig_call(fd, 1, &nothing), 0);
    rig_invoke(fd, 3, &spin);
    rig_await_counter(other, &stream, "long_runs", 1);
    for (uint32_t i = 0; i < 5; i++)
        rig_invoke(fd, 2 * i + 5, &hold);
    rig_await_counter(other, &stream, "long_runs", 6);
    rig_invoke(fd, 15, &(struct rig_call){.function = "spin", .call_id = 8});
    rig_await_counter(other, &stream, "long_runs", 7);
    fake_hold(false);
    for (uint32_t i = 0; i < 5; i++)
        receive_ok(fd);
    for (uint32_t i = 0; i < 2; i++) {
        rig_cancel(fd, 101 + 2 * i, 7 + i);
        ck_assert(rig_receive(fd, &response));
        ck_assert_uint_eq(response.stream, 3 + 12 * i);
        ck_assert_int_eq(response.envelope.code, HL_STATUS_CANCELLED);
        rig_response_free(&response);
        ck_assert(rig_receive(fd, &response)); /* to the request to cancel it */
        rig_response_free(&response);
    }
    close(fd);
    close(other);
    rig_stop(&rig);
}
END_TEST

/* Whose machine ran, in order. */
static struct {
    atomic_int count;
    struct hv_machine *_Atomic machines[64];
} turns;

static int note_turn(struct hv_machine *m, uint64_t until_ns, struct hv_exit *out, void *opaque)
{
    (void)opaque;
    if (!fake_at_start(m)) {
        int n = atomic_fetch_add(&turns.count, 1);

        turns.machines[n % 64] = m;
    }
    return fake_run(m, until_ns, out);
}

/* Those of the next n turns, from one that begins after now. */
static void next_turns(struct hv_machine **machines, int n)
{
    turns.count = 0;
    for (int i = 0; i < 4000 && turns.count <= n; i++)
        usleep(5000);
    ck_assert_int_gt(turns.count, n);
    for (int i = 0; i < n; i++)
        machines[i] = turns.machines[i];
}

/* However many long calls a client has, another's gets every second turn beside them; and its own
 * get one after the other. */
START_TEST(test_long_calls_take_turns_by_client)
{
    enum { MANY = 5 };
    struct hv_machine *machines[4 * MANY], *single;
    uint32_t stream = 1;
    int many, one, other, first;

    limits.max_instances = MANY + 1;
    settings.long_threads = 1;
    start();
    many = rig_connect(&rig);
    one = rig_connect(&rig);
    other = rig_connect(&rig);
    ck_assert_int_eq(rig_call(other, 1, &nothing), 0); /* the program is there */
    fake_set_run(note_turn, NULL);
    rig_invoke(one, 1, &hold);
    rig_await_counter(other, &stream, "long_runs", 1);
    next_turns(&single, 1);
    for (uint32_t i = 0; i < MANY; i++)
        rig_invoke(many, 2 * i + 1, &hold);
    rig_await_counter(other, &stream, "long_runs", MANY + 1);
    next_turns(machines, 4 * MANY);
    first = machines[0] == single ? 1 : 0; /* of the other client's */
    for (int i = 0; i < 4 * MANY; i++)
        ck_assert_int_eq(machines[i] == single, i % 2 != first);
    for (int i = first; i < 2 * MANY; i += 2) {
        ck_assert_ptr_eq(machines[i], machines[i + 2 * MANY]);
        for (int j = i + 2; j < i + 2 * MANY; j += 2)
            ck_assert_ptr_ne(machines[i], machines[j]);
    }
    fake_hold(false);
    receive_ok(one);
    for (int i = 0; i < MANY; i++)
        receive_ok(many);
    fake_set_run(NULL, NULL);
    close(many);
    close(one);
    close(other);
    rig_stop(&rig);
}
END_TEST

/* Long calls whose client goes, whose deadline comes, that are cancelled: each leaves the thread,
 * and its instance is not used again. */
START_TEST(test_long_calls_end)
{
    struct rig_call call = {.function = "spin"};
    struct rig_response response;
    uint32_t stream = 5;
    int fd, other;

    limits.max_instances = 3;
    settings.long_threads = 1;
    start();
    fd = rig_connect(&rig);
    other = rig_connect(&rig);
    ck_assert_int_eq(rig_call(other, 1, &nothing), 0);
    rig_invoke(fd, 1, &spin);
    rig_invoke(other, 3, &spin);
    rig_await_counter(other, &stream, "long_runs", 2);
    call.timeout_ns = 50 * MS; /* enough to get to the thread, or it gets more */
    do {
        ck_assert_int_eq(rig_call(other, stream += 2, &call), HL_STATUS_DEADLINE_EXCEEDED);
        call.timeout_ns *= 2;
    } while (rig_counter(other, stream += 2, "long_runs") < 3);
    close(fd);
    rig_cancel(other, stream += 2, 7);
    ck_assert(rig_receive(other, &response));
    ck_assert_uint_eq(response.stream, 3);
    ck_assert_int_eq(response.envelope.code, HL_STATUS_CANCELLED);
    rig_response_free(&response);
    ck_assert(rig_receive(other, &response));
    rig_response_free(&response);
    while (rig_counter(other, stream += 2, "instances_destroyed") < 3) {
    }
    ck_assert_int_eq(rig_call(other, stream += 2, &nothing), 0);
    close(other);
    rig_stop(&rig);
}
END_TEST

/* A reset that follows a long call fails, or finds the image gone. */
START_TEST(test_long_reset)
{
    uint32_t stream = 1;
    int fd, other;

    start();
    fd = rig_connect(&rig);
    other = rig_connect(&rig);
    ck_assert_int_eq(rig_call(fd, 1, &nothing), 0);
    for (uint32_t i = 1; i <= 2; i++) {
        fake_hold(true);
        rig_invoke(fd, 2 * i + 1, &hold);
        rig_await_counter(other, &stream, "long_runs", i);
        if (i == 1)
            fake_fail(FAKE_AUDIT, 1, 1);
        else
            rig_invalidate(&rig, "test");
        fake_hold(false);
        receive_ok(fd);
        rig_await_counter(other, &stream, "instances_destroyed", i);
    }
    ck_assert_uint_eq(rig_counter(other, stream += 2, "audit_failures"), 1);
    close(fd);
    close(other);
    rig_stop(&rig);
}
END_TEST

/* --- help ----------------------------------------------------------------------------------- */

/* One client's calls all come to one shard; the other, which is idle, takes some. */
START_TEST(test_idle_shard_helps)
{
    uint32_t stream = 1;
    int fd;

    limits.max_instances = 8;
    limits.max_queue = 64;
    settings.shards = 2;
    settings.poll_ns = _i ? 10 * MS : 0; /* and polls, or sleeps */
    settings.quantum_ns = 1000 * MS;
    start();
    fd = rig_connect(&rig);
    ck_assert_int_eq(rig_call(fd, stream, &nothing), 0);
    watch_runs(fd);
    notes.work_ns = 2 * MS;
    for (int round = 0; round < 50; round++) {
        send_together(fd, stream + 2, 20, "nothing", 0);
        stream += 40;
        for (int i = 0; i < 20; i++)
            receive_ok(fd);
        if (rig_counter(fd, stream += 2, "stolen") > 0)
            break;
    }
    ck_assert_uint_gt(rig_counter(fd, stream + 2, "stolen"), 0);
    fake_set_run(NULL, NULL);
    close(fd);
    rig_stop(&rig);
}
END_TEST

/* Helped calls that never end, fault, or lose their client. */
START_TEST(test_help_gone_wrong)
{
    struct rig_response response;
    int fd;

    limits.max_instances = 8;
    limits.max_queue = 64;
    settings.shards = 2;
    settings.poll_ns = 10 * MS;
    start();
    for (int round = 0; round < 20; round++) {
        const char *function = round % 2 ? "spin" : "fault";

        fd = rig_connect(&rig);
        send_together(fd, 1, 6, function, round % 2 ? 60 * MS : 0);
        for (int i = 0; i < (round % 4 < 2 ? 6 : 1); i++) {
            ck_assert(rig_receive(fd, &response));
            ck_assert_int_eq(response.envelope.code,
                             round % 2 ? HL_STATUS_DEADLINE_EXCEEDED : HL_STATUS_ABORTED);
            rig_response_free(&response);
        }
        close(fd);
    }
    fd = rig_connect(&rig);
    ck_assert_int_eq(rig_call(fd, 1, &nothing), 0);
    close(fd);
    rig_stop(&rig);
}
END_TEST

START_TEST(test_polls)
{
    uint32_t stream = 1;
    int fd;

    settings.poll_ns = 20 * MS;
    start();
    fd = rig_connect(&rig);
    /* A busy machine makes it pause. */
    for (int i = 0; i < 20000 && rig_counter(fd, stream += 2, "poll_hits") == 0; i++)
        ck_assert_int_eq(rig_call(fd, stream += 2, &nothing), 0);
    ck_assert_uint_gt(rig_counter(fd, stream += 2, "poll_hits"), 0);
    close(fd);
    rig_stop(&rig);
}
END_TEST

START_TEST(test_does_not_poll)
{
    uint32_t stream = 1;
    int fd;

    start();
    fd = rig_connect(&rig);
    for (int i = 0; i < 100; i++)
        ck_assert_int_eq(rig_call(fd, stream += 2, &nothing), 0);
    ck_assert_uint_eq(rig_counter(fd, stream += 2, "polls"), 0);
    close(fd);
    rig_stop(&rig);
}
END_TEST

int main(void)
{
    TCase *tc = tests_begin("run");

    tcase_add_test(tc, test_turns_of_ready);
    tcase_add_test(tc, test_rounds);
    tcase_add_test(tc, test_one_write);
    tcase_add_test(tc, test_held_back_for_a_moment);
    tcase_add_test(tc, test_learns_long_functions);
    tcase_add_test(tc, test_alone);
    tcase_add_test(tc, test_not_alone);
    tcase_add_test(tc, test_long_calls_take_turns);
    tcase_add_test(tc, test_long_calls_take_turns_by_client);
    tcase_add_test(tc, test_long_calls_end);
    tcase_add_test(tc, test_long_reset);
    tcase_add_loop_test(tc, test_idle_shard_helps, 0, 2);
    tcase_add_test(tc, test_help_gone_wrong);
    tcase_add_test(tc, test_polls);
    tcase_add_test(tc, test_does_not_poll);
    return tests_run(tc, "run");
}
