/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who runs when, and where: turns between clients, replies that go out together, calls past their
 * quantum, functions known to be long, shards that help one another, polling.
 */
#include "config.h"

#include <check.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "daemon/run.h"
#include "hv/timer.h"
#include "proto/buffer.h"
#include "tests/fake/fake.h"
#include "tests/unit/engine_rig.h"

static struct rig rig;
static struct settings settings;
static struct limits limits;

static const struct rig_call nothing = {.function = "nothing"};
static const struct rig_call spin = {.function = "spin", .call_id = 7};

static void prepare(void)
{
    rig_settings(&settings);
    limits = rig_limits();
}

static void start(void)
{
    rig_start(&rig, &settings, 0);
    rig_add(&rig, "test", &limits);
}

/* Several whole requests in one write. */
static void send_together(int fd, uint32_t first, unsigned int count, const char *function)
{
    Hl__V1__InvokeRequest request = HL__V1__INVOKE_REQUEST__INIT;
    struct buffer buf = {0};

    request.image = (char *)"test";
    request.function = (char *)function;
    for (unsigned int i = 0; i < count; i++)
        ck_assert_int_eq(envelope_encode_request(&buf, first + 2 * i, "hl.v1.Functions", "Invoke",
                                                 0, &request.base),
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

/* What a run notes down; guests call it in order on one shard. */
static struct {
    atomic_int runs;        /* of calls, not of start-ups */
    atomic_int watched;     /* a client's descriptor */
    atomic_int waiting[64]; /* bytes that it could read */
    _Atomic pid_t tid[64];
    atomic_bool beginnings; /* only the first run of each call */
    _Atomic uint64_t work_ns;
    atomic_bool hold; /* runs wait until it is over */
} notes;

static int note_run(struct hv_machine *m, uint64_t until_ns, struct hv_exit *out, void *opaque)
{
    uint64_t end;
    int n;

    (void)opaque;
    if (fake_at_start(m) || (notes.beginnings && fake_step(m) > 0))
        return fake_run(m, until_ns, out);
    n = atomic_fetch_add(&notes.runs, 1);
    if (n < 64) {
        notes.waiting[n] = bytes_waiting(notes.watched);
        notes.tid[n] = (pid_t)syscall(SYS_gettid);
    }
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
    notes.beginnings = false;
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
    send_together(many, 3, 8, "nothing");
    wait_runs(1);
    send_together(single, 3, 1, "nothing");
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
    send_together(a, 3, 6, "nothing");
    while (rig_counter(c, stream, "queued") < 7)
        stream += 2;
    send_together(b, 1, 2, "nothing");
    while (rig_counter(c, stream += 2, "queued") < 9) {
    }
    ck_assert_int_eq(bytes_waiting(b), 0);
    watch_runs(b);
    notes.beginnings = true;
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

START_TEST(test_one_write)
{
    int fd;

    settings.quantum_ns = 1000 * MS;
    start();
    fd = rig_connect(&rig);
    ck_assert_int_eq(rig_call(fd, 1, &nothing), 0);
    watch_runs(fd);
    send_together(fd, 3, 3, "nothing");
    wait_runs(3);
    for (int i = 0; i < 3; i++)
        receive_ok(fd);
    ck_assert_int_eq(notes.waiting[1], 0); /* the first answer was held back */
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
    send_together(fd, 3, 3, "nothing");
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

/* Past some quanta a call goes on elsewhere; a function known for that starts there. */
START_TEST(test_learns_long_functions)
{
    struct rig_call call = {.function = "delay", .kind = ARG_U32, .u32 = 30};
    pid_t shard, tid;
    int fd, last;

    start();
    fd = rig_connect(&rig);
    watch_runs(fd);
    ck_assert_int_eq(rig_call(fd, 1, &nothing), 0);
    shard = notes.tid[0];
    for (uint32_t i = 0; i < 2; i++) {
        atomic_store(&notes.runs, 0);
        ck_assert_int_eq(rig_call(fd, 2 * i + 3, &call), 0);
        ck_assert_int_eq(notes.tid[0], shard);
        last = atomic_load(&notes.runs);
        ck_assert_int_ge(last, 2);
        ck_assert_int_ne(notes.tid[last < 64 ? last - 1 : 63], shard);
    }
    atomic_store(&notes.runs, 0);
    ck_assert_int_eq(rig_call(fd, 7, &call), 0);
    tid = notes.tid[0];
    ck_assert_int_ne(tid, shard);
    ck_assert_uint_eq(rig_counter(fd, 9, "long_runs"), 3);
    /* Short again, it is back on its shard after a while. */
    call.u32 = 0;
    for (uint32_t i = 0; i < 5; i++) {
        atomic_store(&notes.runs, 0);
        ck_assert_int_eq(rig_call(fd, 2 * i + 11, &call), 0);
    }
    ck_assert_int_eq(notes.tid[0], shard);
    fake_set_run(NULL, NULL);
    close(fd);
    rig_stop(&rig);
}
END_TEST

/* Past its quantum a call goes on where it is while nobody else wants the shard. */
START_TEST(test_alone_or_not)
{
    const struct rig_call call = {.function = "delay", .kind = ARG_U32, .u32 = 6};
    uint32_t stream = 1;
    int fd, other;

    settings.quantum_ns = 2 * MS;
    start();
    fd = rig_connect(&rig);
    other = rig_connect(&rig);
    ck_assert_int_eq(rig_call(other, 1, &nothing), 0);
    ck_assert_int_eq(rig_call(fd, 1, &call), 0);
    ck_assert_uint_eq(rig_counter(fd, 3, "long_runs"), 0);
    for (int i = 0; i < 1000 && rig_counter(other, stream += 2, "long_runs") == 0; i++) {
        rig_invoke(fd, 2 * (uint32_t)i + 5, &call);
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

/* More long calls than threads for them: all get on. */
START_TEST(test_long_calls_take_turns)
{
    const struct rig_call call = {.function = "delay", .kind = ARG_U32, .u32 = 100};
    uint64_t before;
    int fd;

    limits.max_instances = 6;
    settings.long_threads = 1;
    start();
    fd = rig_connect(&rig);
    ck_assert_int_eq(rig_call(fd, 1, &nothing), 0);
    before = hv_now_ns();
    for (uint32_t i = 0; i < 6; i++)
        rig_invoke(fd, 2 * i + 3, &call);
    for (uint32_t i = 0; i < 6; i++)
        receive_ok(fd);
    /* The fake's delay passes for all of them at once if none has the thread to itself. */
    ck_assert_uint_lt(hv_now_ns() - before, 450 * MS);
    close(fd);
    rig_stop(&rig);
}
END_TEST

/* Long calls whose client goes, whose deadline comes, that are cancelled: each leaves the thread,
 * and its instance is not used again. */
START_TEST(test_long_calls_end)
{
    struct rig_call call = spin;
    struct rig_response response;
    int fd, other;

    limits.max_instances = 3;
    settings.long_threads = 1;
    start();
    fd = rig_connect(&rig);
    other = rig_connect(&rig);
    ck_assert_int_eq(rig_call(other, 1, &nothing), 0);
    rig_invoke(fd, 1, &spin);
    rig_invoke(other, 3, &spin);
    call.timeout_ns = 50 * MS;
    call.call_id = 8;
    rig_invoke(other, 5, &call);
    for (uint32_t stream = 7; rig_counter(other, stream, "long_runs") < 3;)
        stream += 2;
    close(fd);
    ck_assert(rig_receive(other, &response));
    ck_assert_uint_eq(response.stream, 5);
    ck_assert_int_eq(response.envelope.code, HL_STATUS_DEADLINE_EXCEEDED);
    rig_response_free(&response);
    rig_cancel(other, 1001, 7);
    ck_assert(rig_receive(other, &response));
    ck_assert_uint_eq(response.stream, 3);
    ck_assert_int_eq(response.envelope.code, HL_STATUS_CANCELLED);
    rig_response_free(&response);
    ck_assert(rig_receive(other, &response));
    rig_response_free(&response);
    for (uint32_t stream = 1003; rig_counter(other, stream, "instances_destroyed") < 3;)
        stream += 2;
    ck_assert_int_eq(rig_call(other, 9001, &nothing), 0);
    close(other);
    rig_stop(&rig);
}
END_TEST

/* A reset that follows a long call fails, or finds the image gone. */
START_TEST(test_long_reset)
{
    const struct rig_call call = {.function = "delay", .kind = ARG_U32, .u32 = 5};
    uint32_t stream = 5;
    int fd;

    start();
    fd = rig_connect(&rig);
    ck_assert_int_eq(rig_call(fd, 1, &nothing), 0);
    fake_fail(FAKE_AUDIT, 1, 1);
    ck_assert_int_eq(rig_call(fd, 3, &call), 0);
    while (rig_counter(fd, stream, "audit_failures") < 1)
        stream += 2;
    ck_assert_int_eq(rig_call(fd, stream + 2, &call), 0);
    rig_invalidate(&rig, "test");
    while (rig_counter(fd, stream += 4, "instances_destroyed") < 2) {
    }
    close(fd);
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
        send_together(fd, stream + 2, 20, "nothing");
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
    limits.deadline_ns = 60 * MS;
    settings.shards = 2;
    settings.poll_ns = 10 * MS;
    start();
    for (int round = 0; round < 20; round++) {
        const char *function = round % 2 ? "spin" : "fault";

        fd = rig_connect(&rig);
        send_together(fd, 1, 6, function);
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
    Suite *suite = suite_create("run");
    TCase *tc = tcase_create("run");
    SRunner *runner = srunner_create(suite);
    int failed;

    tcase_set_timeout(tc, 120);
    tcase_add_checked_fixture(tc, prepare, NULL);
    tcase_add_test(tc, test_turns_of_ready);
    tcase_add_test(tc, test_rounds);
    tcase_add_test(tc, test_one_write);
    tcase_add_test(tc, test_held_back_for_a_moment);
    tcase_add_test(tc, test_learns_long_functions);
    tcase_add_test(tc, test_alone_or_not);
    tcase_add_test(tc, test_long_calls_take_turns);
    tcase_add_test(tc, test_long_calls_end);
    tcase_add_test(tc, test_long_reset);
    tcase_add_loop_test(tc, test_idle_shard_helps, 0, 2);
    tcase_add_test(tc, test_help_gone_wrong);
    tcase_add_test(tc, test_polls);
    tcase_add_test(tc, test_does_not_poll);
    suite_add_tcase(suite, tc);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
