/* SPDX-License-Identifier: Apache-2.0 */
/* Packets with and without a descriptor, and everything a hostile peer can put into one. */
#include <check.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/control.h"
#include "daemon/control.pb-c.h"
#include "tests/unit/tests_run.h"

static int ends[2];

static void make_pair(void)
{
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends),
                     0);
}

static void close_pair(void)
{
    close(ends[0]);
    close(ends[1]);
}

static int open_fds(void)
{
    DIR *dir = opendir("/proc/self/fd");
    int count = 0;

    while (readdir(dir))
        count++;
    closedir(dir);
    return count;
}

static int recv_to_worker(ProtobufCMessage **message, int *fd)
{
    return control_recv(ends[1], &hl__control__to_worker__descriptor, message, fd);
}

static void send_raw(const void *data, size_t len, const int *fds, size_t nfds)
{
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int) * 300)];
    } space = {0};
    struct iovec iov = {.iov_base = (void *)data, .iov_len = len};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};

    if (nfds > 0) {
        space.header.cmsg_len = CMSG_LEN(sizeof(int) * nfds);
        space.header.cmsg_level = SOL_SOCKET;
        space.header.cmsg_type = SCM_RIGHTS;
        memcpy(CMSG_DATA(&space.header), fds, sizeof(int) * nfds);
        msg.msg_control = &space;
        msg.msg_controllen = CMSG_SPACE(sizeof(int) * nfds);
    }
    ck_assert_int_eq(sendmsg(ends[0], &msg, MSG_NOSIGNAL), (int)len);
}

START_TEST(message_and_descriptor_arrive)
{
    Hl__Control__Connection connection = HL__CONTROL__CONNECTION__INIT;
    Hl__Control__ToWorker out = HL__CONTROL__TO_WORKER__INIT;
    ProtobufCMessage *in;
    int fd, before = open_fds();

    connection.pid = 77;
    out.kind_case = HL__CONTROL__TO_WORKER__KIND_CONNECTION;
    out.connection = &connection;
    ck_assert_int_eq(control_send(ends[0], &out.base, ends[0]), 0);
    ck_assert_int_eq(recv_to_worker(&in, &fd), 1);
    ck_assert_int_eq(((Hl__Control__ToWorker *)in)->kind_case,
                     HL__CONTROL__TO_WORKER__KIND_CONNECTION);
    ck_assert_uint_eq(((Hl__Control__ToWorker *)in)->connection->pid, 77);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(fcntl(fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
    close(fd);
    protobuf_c_message_free_unpacked(in, NULL);
    ck_assert_int_eq(open_fds(), before);
}
END_TEST

START_TEST(message_without_descriptor)
{
    Hl__Control__Drain drain = HL__CONTROL__DRAIN__INIT;
    Hl__Control__ToWorker out = HL__CONTROL__TO_WORKER__INIT;
    ProtobufCMessage *in;
    int fd;

    out.kind_case = HL__CONTROL__TO_WORKER__KIND_DRAIN;
    out.drain = &drain;
    ck_assert_int_eq(control_send(ends[0], &out.base, -1), 0);
    ck_assert_int_eq(recv_to_worker(&in, &fd), 1);
    ck_assert_int_eq(fd, -1);
    protobuf_c_message_free_unpacked(in, NULL);
    ck_assert_int_eq(recv_to_worker(&in, &fd), -EAGAIN);
}
END_TEST

START_TEST(largest_packet_and_one_more)
{
    Hl__Control__Invalidate invalidate = HL__CONTROL__INVALIDATE__INIT;
    Hl__Control__ToWorker out = HL__CONTROL__TO_WORKER__INIT;
    char *name = malloc(CONTROL_PACKET_MAX + 1);
    ProtobufCMessage *in;
    size_t extra;
    int fd;

    memset(name, 'n', CONTROL_PACKET_MAX + 1);
    name[CONTROL_PACKET_MAX - 100] = '\0';
    out.kind_case = HL__CONTROL__TO_WORKER__KIND_INVALIDATE;
    out.invalidate = &invalidate;
    invalidate.name = name;
    extra = CONTROL_PACKET_MAX - protobuf_c_message_get_packed_size(&out.base);
    name[CONTROL_PACKET_MAX - 100] = 'n';
    name[CONTROL_PACKET_MAX - 100 + extra] = '\0';
    ck_assert_uint_eq(protobuf_c_message_get_packed_size(&out.base), CONTROL_PACKET_MAX);
    ck_assert_int_eq(control_send(ends[0], &out.base, -1), 0);
    ck_assert_int_eq(recv_to_worker(&in, &fd), 1);
    ck_assert_str_eq(((Hl__Control__ToWorker *)in)->invalidate->name, name);
    protobuf_c_message_free_unpacked(in, NULL);
    name[CONTROL_PACKET_MAX - 100 + extra] = 'n';
    name[CONTROL_PACKET_MAX - 99 + extra] = '\0';
    ck_assert_int_eq(control_send(ends[0], &out.base, -1), -EMSGSIZE);
    free(name);
}
END_TEST

START_TEST(peers_end)
{
    Hl__Control__ToWorker empty = HL__CONTROL__TO_WORKER__INIT;
    ProtobufCMessage *in;
    int fd;

    ck_assert_int_eq(control_send(ends[0], &empty.base, -1), -EINVAL);
    shutdown(ends[0], SHUT_WR);
    ck_assert_int_eq(recv_to_worker(&in, &fd), 0);
    ck_assert_ptr_null(in);
    ck_assert_int_eq(fd, -1);
}
END_TEST

START_TEST(broken_packets_are_refused)
{
    static const uint8_t truncated[] = {0x12, 0x05, 0x08}; /* Connection of 5 bytes, 1 there */
    static const uint8_t unknown[] = {0x7a, 0x00};         /* field 15 */
    static char oversize[CONTROL_PACKET_MAX + 1];
    ProtobufCMessage *in;
    int fd, before = open_fds();

    send_raw(truncated, sizeof(truncated), ends, 1);
    ck_assert_int_eq(recv_to_worker(&in, &fd), -EBADMSG);
    ck_assert_int_eq(fd, -1);
    send_raw(unknown, sizeof(unknown), ends, 1);
    ck_assert_int_eq(recv_to_worker(&in, &fd), -EBADMSG);
    send_raw(oversize, sizeof(oversize), ends, 1);
    ck_assert_int_eq(recv_to_worker(&in, &fd), -EBADMSG);
    ck_assert_ptr_null(in);
    ck_assert_int_eq(open_fds(), before);
}
END_TEST

START_TEST(surplus_descriptors_are_closed)
{
    static const uint8_t drain[] = {0x2a, 0x00};
    ProtobufCMessage *in;
    int fds[253], fd, before = open_fds();

    for (int i = 0; i < 253; i++)
        fds[i] = ends[0];
    send_raw(drain, sizeof(drain), fds, 2);
    ck_assert_int_eq(recv_to_worker(&in, &fd), -EBADMSG);
    ck_assert_int_eq(fd, -1);
    send_raw(drain, sizeof(drain), fds, 253);
    ck_assert_int_eq(recv_to_worker(&in, &fd), -EBADMSG);
    ck_assert_int_eq(open_fds(), before);
    send_raw(drain, sizeof(drain), NULL, 0);
    ck_assert_int_eq(recv_to_worker(&in, &fd), 1);
    protobuf_c_message_free_unpacked(in, NULL);
}
END_TEST

START_TEST(without_a_free_descriptor_the_message_comes)
{
    static const uint8_t drain[] = {0x2a, 0x00};
    ProtobufCMessage *in;
    struct rlimit limit, none;
    int fds[] = {ends[0], ends[0]}, fd, before = open_fds();
    int next = dup(ends[0]);

    close(next);
    ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
    none = limit;
    for (int room = 0; room < 2; room++) {
        none.rlim_cur = (rlim_t)(next + room);
        send_raw(drain, sizeof(drain), fds, 1 + (size_t)room);
        ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &none), 0);
        ck_assert_int_eq(recv_to_worker(&in, &fd), room == 0 ? 1 : -EBADMSG);
        ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
        ck_assert_int_eq(fd, -1);
        if (in)
            protobuf_c_message_free_unpacked(in, NULL);
    }
    ck_assert_int_eq(open_fds(), before);
}
END_TEST

START_TEST(full_channel_is_eagain_and_loses_nothing)
{
    Hl__Control__Drain drain = HL__CONTROL__DRAIN__INIT;
    Hl__Control__ToWorker out = HL__CONTROL__TO_WORKER__INIT;
    ProtobufCMessage *in;
    unsigned int sent = 0, received = 0;
    int fd, r;

    out.kind_case = HL__CONTROL__TO_WORKER__KIND_DRAIN;
    out.drain = &drain;
    while ((r = control_send(ends[0], &out.base, -1)) == 0)
        drain.limit_ns = ++sent;
    ck_assert_int_eq(r, -EAGAIN);
    while (recv_to_worker(&in, &fd) == 1) {
        ck_assert_uint_eq(((Hl__Control__ToWorker *)in)->drain->limit_ns, received++);
        protobuf_c_message_free_unpacked(in, NULL);
    }
    ck_assert_uint_eq(sent, received);
    ck_assert_uint_gt(sent, 0);
}
END_TEST

START_TEST(gone_peer)
{
    Hl__Control__Drain drain = HL__CONTROL__DRAIN__INIT;
    Hl__Control__ToWorker out = HL__CONTROL__TO_WORKER__INIT;

    out.kind_case = HL__CONTROL__TO_WORKER__KIND_DRAIN;
    out.drain = &drain;
    shutdown(ends[1], SHUT_RDWR);
    ck_assert_int_eq(control_send(ends[0], &out.base, -1), -EPIPE);
}
END_TEST

int main(void)
{
    TCase *tc = tcase_create("control");

    tcase_add_checked_fixture(tc, make_pair, close_pair);
    tcase_add_test(tc, message_and_descriptor_arrive);
    tcase_add_test(tc, message_without_descriptor);
    tcase_add_test(tc, largest_packet_and_one_more);
    tcase_add_test(tc, peers_end);
    tcase_add_test(tc, broken_packets_are_refused);
    tcase_add_test(tc, surplus_descriptors_are_closed);
    tcase_add_test(tc, without_a_free_descriptor_the_message_comes);
    tcase_add_test(tc, full_channel_is_eagain_and_loses_nothing);
    tcase_add_test(tc, gone_peer);
    return tests_run(tc, "control");
}
