/* SPDX-License-Identifier: Apache-2.0 */
/* Descriptors that come beside frames: in order, for their own frame alone, and closed in every
 * other case. Each sent one is the write end of a pipe, whose read end tells when it is closed. */
#include "config.h"

#include <check.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/descriptors.h"
#include "proto/buffer.h"
#include "proto/frame.h"
#include "tests/unit/engine_tests.h"

/* --- pipes ---------------------------------------------------------------------------------- */

struct watched {
    int read_end, write_end;
};

static struct watched watch_one(void)
{
    int ends[2];

    ck_assert_int_eq(pipe(ends), 0);
    return (struct watched){.read_end = ends[0], .write_end = ends[1]};
}

static bool is_closed(const struct watched *w, int timeout_ms)
{
    struct pollfd pfd = {.fd = w->read_end};

    return poll(&pfd, 1, timeout_ms) == 1 && pfd.revents & POLLHUP;
}

static void expect_closed(struct watched *w)
{
    ck_assert_msg(is_closed(w, 20000), "a descriptor stays open");
    close(w->read_end);
}

/* --- the list ------------------------------------------------------------------------------- */

START_TEST(test_list)
{
    struct descriptors d = {0};
    struct watched w[5];
    int fds[5];

    for (int i = 0; i < 5; i++) {
        w[i] = watch_one();
        ck_assert_int_eq(descriptors_add(&d, w[i].write_end, (uint64_t)i / 2 * 100), 0);
    }
    ck_assert_int_eq(descriptors_take(&d, fds, 6), -ENODATA);
    ck_assert_int_eq(descriptors_take(&d, fds, 0), 0);
    ck_assert_int_eq(descriptors_take(&d, fds, 1), 0);
    ck_assert_int_eq(fds[0], w[0].write_end);
    ck_assert_uint_eq(d.count, 4);
    descriptors_drop_until(&d, 99);
    expect_closed(&w[1]);
    ck_assert_uint_eq(d.count, 3);
    descriptors_drop_until(&d, 99);
    ck_assert(!is_closed(&w[2], 0));
    descriptors_drop_until(&d, 100);
    expect_closed(&w[2]);
    expect_closed(&w[3]);
    ck_assert_int_eq(descriptors_take(&d, fds + 1, 1), 0);
    ck_assert_int_eq(fds[1], w[4].write_end);
    close(fds[0]);
    close(fds[1]);
    descriptors_drop(&d);
}
END_TEST

START_TEST(test_list_is_full)
{
    struct descriptors d = {0};
    struct watched w[DESCRIPTORS_MAX + 1];

    for (unsigned int i = 0; i <= DESCRIPTORS_MAX; i++) {
        w[i] = watch_one();
        ck_assert_int_eq(descriptors_add(&d, w[i].write_end, 1),
                         i < DESCRIPTORS_MAX ? 0 : -ENOBUFS);
    }
    expect_closed(&w[DESCRIPTORS_MAX]);
    descriptors_drop(&d);
    for (unsigned int i = 0; i < DESCRIPTORS_MAX; i++)
        expect_closed(&w[i]);
}
END_TEST

/* --- on a connection ------------------------------------------------------------------------ */

static int conn;

static void begin(void)
{
    settings.slow_sender_ns = 600000 * MS;
    start();
    conn = rig_connect(&rig);
    ck_assert_int_eq(rig_call(conn, 1, &nothing), 0);
}

static void stop(void)
{
    close(conn);
    rig_stop(&rig);
}

/* Bytes with the write ends of n pipes, which are closed here. */
static void send_with(const void *data, size_t len, struct watched *w, unsigned int n)
{
    union {
        struct cmsghdr header;
        char room[CMSG_SPACE(128 * sizeof(int))];
    } control = {0};
    struct iovec iov = {(void *)data, len};
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = &control,
                         .msg_controllen = CMSG_SPACE(n * sizeof(int))};

    control.header.cmsg_level = SOL_SOCKET;
    control.header.cmsg_type = SCM_RIGHTS;
    control.header.cmsg_len = CMSG_LEN(n * sizeof(int));
    for (unsigned int i = 0; i < n; i++) {
        w[i] = watch_one();
        memcpy(CMSG_DATA(&control.header) + i * sizeof(int), &w[i].write_end, sizeof(int));
    }
    ck_assert_int_eq(sendmsg(conn, &msg, MSG_NOSIGNAL), (ssize_t)len);
    for (unsigned int i = 0; i < n; i++)
        close(w[i].write_end);
}

/* A Ping of that stream; with a descriptor named, an Invoke that wants it. */
static struct buffer request(uint32_t stream, bool names)
{
    Hl__V1__PingRequest ping = HL__V1__PING_REQUEST__INIT;
    Hl__V1__InvokeRequest invoke = HL__V1__INVOKE_REQUEST__INIT;
    Hl__V1__Value value = HL__V1__VALUE__INIT, *args[] = {&value};
    Hl__V1__Descriptor named = HL__V1__DESCRIPTOR__INIT;
    struct buffer buf = {0};

    value.kind_case = HL__V1__VALUE__KIND_DESCRIPTOR;
    value.descriptor = &named;
    invoke.image = (char *)"test";
    invoke.function = (char *)"echo";
    invoke.args = args;
    invoke.n_args = 1;
    ck_assert_int_eq(
        names ? envelope_encode_request(&buf, stream, "hl.v1.Functions", "Invoke", 0, &invoke.base)
              : envelope_encode_request(&buf, stream, "hl.v1.Daemon", "Ping", 0, &ping.base),
        0);
    return buf;
}

/* The next response, which is for stream. With a name, its text says so. */
static void expect(uint32_t stream, int code, const char *text)
{
    struct rig_response response;

    ck_assert(rig_receive(conn, &response));
    ck_assert_uint_eq(response.stream, stream);
    ck_assert_msg(response.envelope.code == code && strstr(response.message, text), "%d %s",
                  response.envelope.code, response.message);
    rig_response_free(&response);
}

#define TAKEN     HL_STATUS_INVALID_ARGUMENT, "not a memfd" /* a pipe, which it looked at */
#define NONE_CAME HL_STATUS_INVALID_ARGUMENT, "fewer came"
#define NO_ROOM   HL_STATUS_RESOURCE_EXHAUSTED, "no room"

START_TEST(test_not_asked_for)
{
    struct buffer ping = request(3, false), wants = request(5, true);
    struct watched w[3];

    begin();
    send_with(buffer_data(&ping), ping.len, w, 3);
    expect(3, 0, "");
    for (int i = 0; i < 3; i++)
        expect_closed(&w[i]);
    rig_send(conn, buffer_data(&wants), wants.len);
    expect(5, NONE_CAME);
    stop();
    buffer_fini(&ping);
    buffer_fini(&wants);
}
END_TEST

/* More than the frame names. */
START_TEST(test_too_many_for_it)
{
    struct buffer wants = request(3, true);
    struct watched w[4];

    begin();
    send_with(buffer_data(&wants), wants.len, w, 4);
    expect(3, TAKEN);
    for (int i = 0; i < 4; i++)
        expect_closed(&w[i]);
    stop();
    buffer_fini(&wants);
}
END_TEST

/* A frame in many pieces, the descriptor with the first of them, or all by itself in front. */
START_TEST(test_in_pieces)
{
    struct buffer wants = request(3, true);
    uint8_t *data = buffer_data(&wants);
    struct watched w;

    begin();
    send_with(data, 1, &w, 1);
    for (size_t i = 1; i < wants.len; i++) {
        ck_assert(!is_closed(&w, i % 16 == 0));
        rig_send(conn, data + i, 1);
    }
    expect(3, TAKEN);
    expect_closed(&w);
    stop();
    buffer_fini(&wants);
}
END_TEST

START_TEST(test_half_a_frame)
{
    struct buffer wants = request(3, true);
    struct watched w[2];

    begin();
    send_with(buffer_data(&wants), wants.len / 2, w, 2);
    if (_i == 0) {
        rig_drain(&rig, 0);
    } else {
        close(conn);
        conn = rig_connect(&rig);
    }
    expect_closed(&w[0]);
    expect_closed(&w[1]);
    stop();
    buffer_fini(&wants);
}
END_TEST

/* Frames without, then one with it; then another without, which finds none. */
START_TEST(test_frames_together)
{
    struct buffer frames[4] = {request(3, false), request(5, false), request(7, true),
                               request(9, true)};
    struct watched w;

    begin();
    for (int i = 0; i < 4; i++) {
        if (i == 2)
            send_with(buffer_data(&frames[i]), frames[i].len, &w, 1);
        else
            rig_send(conn, buffer_data(&frames[i]), frames[i].len);
    }
    expect(3, 0, "");
    expect(5, 0, "");
    expect(7, TAKEN);
    expect(9, NONE_CAME);
    expect_closed(&w);
    stop();
    for (int i = 0; i < 4; i++)
        buffer_fini(&frames[i]);
}
END_TEST

/* Past what is kept for a connection all of them go, with a word to the frame they were for. */
START_TEST(test_flood)
{
    struct buffer wants = request(3, true), next = request(5, true);
    struct watched w[100], more;
    unsigned int n = _i ? 100 : DESCRIPTORS_MAX + 1;

    begin();
    send_with(buffer_data(&wants), wants.len, w, n);
    expect(3, NO_ROOM);
    for (unsigned int i = 0; i < n; i++)
        expect_closed(&w[i]);
    send_with(buffer_data(&next), next.len, &more, 1);
    expect(5, TAKEN);
    expect_closed(&more);
    stop();
    buffer_fini(&wants);
    buffer_fini(&next);
}
END_TEST

/* Whether there is no room for one more. */
static bool is_refused(uint32_t stream)
{
    struct buffer wants = request(stream, true);
    struct rig_response response;
    struct watched w;
    bool refused;

    send_with(buffer_data(&wants), wants.len, &w, 1);
    ck_assert(rig_receive(conn, &response));
    refused = response.envelope.code == HL_STATUS_RESOURCE_EXHAUSTED;
    rig_response_free(&response);
    expect_closed(&w);
    buffer_fini(&wants);
    return refused;
}

/* With the half of a frame each, connections use up what the worker has for all; whole frames get
 * theirs again when those are gone. */
START_TEST(test_common_bound)
{
    struct buffer wants = request(3, true);
    int first, others[ENGINE_DESCRIPTORS_MAX / DESCRIPTORS_MAX];
    unsigned int n = 0, all = ENGINE_DESCRIPTORS_MAX, left;
    struct rlimit limit;

    getrlimit(RLIMIT_NOFILE, &limit);
    if (limit.rlim_cur / 8 < all)
        all = (unsigned int)limit.rlim_cur / 8;
    begin();
    first = conn;
    for (left = all; left > 0; n++) {
        struct watched mine[DESCRIPTORS_MAX];
        unsigned int some = left < DESCRIPTORS_MAX ? left : DESCRIPTORS_MAX;

        conn = others[n] = rig_connect(&rig);
        send_with(buffer_data(&wants), 20, mine, some);
        for (unsigned int i = 0; i < some; i++)
            close(mine[i].read_end);
        left -= some;
    }
    conn = first;
    rig_await_counter(conn, &(uint32_t){9001}, "now_descriptors", all);
    ck_assert(is_refused(19001));
    while (n > 0)
        close(others[--n]);
    rig_await_counter(conn, &(uint32_t){20001}, "now_descriptors", 0);
    ck_assert(!is_refused(29001));
    stop();
    buffer_fini(&wants);
}
END_TEST

int main(void)
{
    TCase *tc = tests_begin("descriptors");

    tcase_add_test(tc, test_list);
    tcase_add_test(tc, test_list_is_full);
    tcase_add_test(tc, test_not_asked_for);
    tcase_add_test(tc, test_too_many_for_it);
    tcase_add_test(tc, test_in_pieces);
    tcase_add_loop_test(tc, test_half_a_frame, 0, 2);
    tcase_add_test(tc, test_frames_together);
    tcase_add_loop_test(tc, test_flood, 0, 2);
    tcase_add_test(tc, test_common_bound);
    return tests_run(tc, "descriptors");
}
