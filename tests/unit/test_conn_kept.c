/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A connection with no engine around it, turned by hand: what it keeps of descriptors and memory,
 * and for how long. Each descriptor is the write end of a pipe, whose other end says when nobody
 * has it any more. The handler is a stream's.
 */
#include "config.h"

#include <check.h>
#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/conn.h"
#include "daemon/engine.h"
#include "daemon/shard.h"
#include "hv/timer.h"
#include "proto/frame.h"
#include "tests/unit/tests_run.h"

#ifndef SO_PASSPIDFD
#define SO_PASSPIDFD 76
#endif

#define STREAM 1u
#define OTHERS 8

struct end {
    struct conn *conn;
    struct stream stream;
    int client;
    bool closed;
};

static struct engine engine;
static struct shard *shard;
static struct end first, others[OTHERS];
static unsigned int open_before;
static unsigned int served, failed; /* frames of the first; of those, without what they want */
static unsigned int want;

static unsigned int count_open(void)
{
    DIR *dir = opendir("/proc/self/fd");
    unsigned int n = 0;

    ck_assert_ptr_nonnull(dir);
    while (readdir(dir))
        n++;
    closedir(dir);
    return n;
}

static void on_data(struct stream *from, const uint8_t *message, size_t len)
{
    int fds[DESCRIPTORS_MAX];

    (void)message;
    (void)len;
    served++;
    if (want == 0)
        return;
    if (conn_take_descriptors(from->conn, fds, want) < 0) {
        failed++;
        return;
    }
    for (unsigned int i = 0; i < want; i++)
        close(fds[i]);
}

/* As a call does that takes its time on the shard. */
static void on_slow_data(struct stream *from, const uint8_t *message, size_t len)
{
    uint64_t until = hv_now_ns() + 300000;

    (void)from;
    (void)message;
    (void)len;
    while (hv_now_ns() < until)
        ;
}

static void on_end(struct stream *from)
{
    (void)from;
}

static void on_closed(struct stream *from)
{
    LIST_ENTRY(from, struct end, stream)->closed = true;
}

static void connect_end(struct end *end)
{
    struct request request = {.stream = STREAM, .remote_open = true};
    int pair[2];

    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    *end = (struct end){.client = pair[0]};
    ck_assert_int_eq(conn_open(shard, pair[1]), 0);
    request.conn = end->conn = LIST_ENTRY(shard->conns.prev, struct conn, link);
    end->stream = (struct stream){.on_data = on_data, .on_end = on_end, .on_closed = on_closed};
    ck_assert(stream_open(&end->stream, &request));
}

static void begin(void)
{
    struct settings settings = {.slow_sender_ns = 10000000000ull};
    uv_loop_t loop;

    uv_loop_init(&loop); /* the first one leaves something of the library's own */
    uv_loop_close(&loop);
    open_before = count_open();
    memset(&engine, 0, sizeof(engine));
    budget_init(&engine.budget);
    atomic_init(&engine.connections, 1 + OTHERS);
    atomic_init(&engine.idle_noted, true); /* nobody is told */
    shard = calloc(1, sizeof(*shard));
    ck_assert_int_eq(shard_init(shard, &engine, 0, &settings), 0);
    connect_end(&first);
    for (int i = 0; i < OTHERS; i++)
        connect_end(&others[i]);
    served = failed = want = 0;
}

static void turn(void)
{
    for (int i = 0; i < 10; i++)
        uv_run(&shard->loop, UV_RUN_NOWAIT);
}

static void finish(void)
{
    if (!first.closed)
        conn_close(first.conn);
    for (int i = 0; i < OTHERS; i++) {
        conn_close(others[i].conn);
        close(others[i].client);
    }
    ck_assert_uint_eq(budget_used(&engine.budget, BUDGET_DESCRIPTORS), 0);
    turn();
    ck_assert_uint_eq(budget_used(&engine.budget, BUDGET_CLIENT_BYTES), 0);
    shard_fini(shard);
    free(shard);
    close(first.client);
    ck_assert_uint_eq(count_open(), open_before);
}

/* Sends bytes and, with the first of them, n descriptors of one pipe. Returns: its other end. */
static int send_beside(int client, const void *data, size_t len, unsigned int n)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(DESCRIPTORS_MAX * sizeof(int))];
    } control = {0};
    struct iovec iov = {.iov_base = (void *)data, .iov_len = len};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    int fds[DESCRIPTORS_MAX], pair[2];

    ck_assert_int_eq(pipe(pair), 0);
    for (unsigned int i = 0; i < n; i++)
        fds[i] = pair[1];
    if (n > 0) {
        msg.msg_control = control.bytes;
        msg.msg_controllen = CMSG_SPACE(n * sizeof(int));
        control.align.cmsg_level = SOL_SOCKET;
        control.align.cmsg_type = SCM_RIGHTS;
        control.align.cmsg_len = CMSG_LEN(n * sizeof(int));
        memcpy(CMSG_DATA(&control.align), fds, n * sizeof(int));
    }
    ck_assert_int_eq(sendmsg(client, &msg, MSG_NOSIGNAL | MSG_DONTWAIT), (ssize_t)len);
    close(pair[1]);
    return pair[0];
}

static size_t make_frame(uint8_t *frame, uint32_t len)
{
    const struct frame_header header = {.length = len, .stream = STREAM, .type = FRAME_DATA};

    frame_encode_header(frame, &header);
    memset(frame + FRAME_HEADER_SIZE, 'x', len);
    return FRAME_HEADER_SIZE + len;
}

static bool gone(int end)
{
    struct pollfd pfd = {.fd = end, .events = POLLIN};

    return poll(&pfd, 1, 0) == 1 && (pfd.revents & POLLHUP) != 0;
}

/* A client that asks ahead is not refused because others keep the shard busy. */
START_TEST(test_pipelined_beside_another)
{
    enum { FRAMES = 40, EACH = 5 };
    uint8_t frame[128];
    size_t len = make_frame(frame, 100);

    for (int i = 0; i < OTHERS; i++)
        others[i].stream.on_data = on_slow_data;
    want = EACH;
    for (int i = 0; i < FRAMES; i++) {
        for (int j = 0; j < OTHERS; j++)
            close(send_beside(others[j].client, frame, len, 0));
        close(send_beside(first.client, frame, len, EACH));
    }
    for (int i = 0; i < 1000 && served < FRAMES; i++)
        uv_run(&shard->loop, UV_RUN_NOWAIT);
    ck_assert_uint_eq(served, FRAMES);
    ck_assert_uint_eq(failed, 0);
}
END_TEST

/* Half a frame, and no more to come, while an answer is owed. */
START_TEST(test_half_then_no_more)
{
    uint8_t frame[128];
    int end;

    make_frame(frame, 100);
    first.conn->asked++; /* something is owed */
    end = send_beside(first.client, frame, 50, 2);
    turn();
    ck_assert(!gone(end));
    shutdown(first.client, SHUT_WR);
    turn();
    ck_assert(!first.closed);
    ck_assert(gone(end));
    close(end);
    first.conn->asked--;
}
END_TEST

/* A frame that there is no memory for, of which no more comes. */
START_TEST(test_refused_then_silence)
{
    uint8_t *frame = malloc(FRAME_HEADER_SIZE + 100000);
    int end;

    make_frame(frame, 100000);
    budget_set_limit(&engine.budget, BUDGET_CLIENT_BYTES, (2 * OTHERS + 3) * CONN_BUFFER_SIZE);
    end = send_beside(first.client, frame, 50, 2);
    turn();
    ck_assert(gone(end));
    close(end);
    free(frame);
}
END_TEST

/* A socket that says who sends, as one of systemd's may: no descriptors then, and no leak. */
START_TEST(test_other_control)
{
    const int option = _i == 0 ? SO_PASSCRED : SO_PASSPIDFD, on = 1;
    uint8_t frame[128];
    size_t len = make_frame(frame, 100);
    int end;

    if (setsockopt(first.conn->fd, SOL_SOCKET, option, &on, sizeof(on)) < 0)
        return; /* an older kernel */
    end = send_beside(first.client, frame, len, 2);
    turn();
    ck_assert_uint_eq(served, 1);
    ck_assert(gone(end));
    close(end);
}
END_TEST

static size_t drain(void)
{
    static char bytes[65536];
    size_t all = 0;
    ssize_t n;

    while ((n = recv(first.client, bytes, sizeof(bytes), MSG_DONTWAIT)) > 0)
        all += (size_t)n;
    return all;
}

/* What was kept for a client that read late is given back when it has read all. */
START_TEST(test_memory_after_reading_late)
{
    const size_t size = 3900000, count = 4;
    char *data = calloc(1, size);
    size_t came = 0;

    for (size_t i = 0; i < count; i++)
        ck_assert_int_eq(conn_send_data_packed(first.conn, STREAM, data, size), 0);
    ck_assert(!first.closed && conn_owed(first.conn));
    for (int i = 0; i < 100000 && came < count * size; i++) {
        came += drain();
        uv_run(&shard->loop, UV_RUN_NOWAIT);
    }
    ck_assert(!conn_owed(first.conn));
    ck_assert_uint_le(budget_used(&engine.budget, BUDGET_CLIENT_BYTES), 9u << 20);
    free(data);
}
END_TEST

int main(void)
{
    TCase *tc = tcase_create("conn_kept");

    tcase_set_timeout(tc, 60);
    tcase_add_checked_fixture(tc, begin, finish);
    tcase_add_test(tc, test_pipelined_beside_another);
    tcase_add_test(tc, test_half_then_no_more);
    tcase_add_test(tc, test_refused_then_silence);
    tcase_add_loop_test(tc, test_other_control, 0, 2);
    tcase_add_test(tc, test_memory_after_reading_late);
    return tests_run(tc, "conn_kept");
}
