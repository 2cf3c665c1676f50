/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Datagrams between worker, nursery and zygotes. Each request brings the socket its answer comes
 * back on, so threads of a worker share one socket to the nursery without a lock: a datagram is
 * sent whole or not at all. A wait that has no end of its own gets one here.
 */
#include "config.h"

#include "hv/process_socket.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "hv/process_wire.h"

union control {
    struct cmsghdr header;
    char room[CMSG_SPACE(2 * sizeof(int))];
};

int process_send(int sock, const void *message, size_t len, const int *fds, size_t nfds)
{
    union control control = {.room = {0}};
    struct iovec iov = {.iov_base = (void *)(uintptr_t)message, .iov_len = len};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    ssize_t n;

    if (nfds > 2)
        return -EINVAL;
    if (nfds > 0) {
        control.header.cmsg_len = CMSG_LEN(nfds * sizeof(int));
        control.header.cmsg_level = SOL_SOCKET;
        control.header.cmsg_type = SCM_RIGHTS;
        memcpy(CMSG_DATA(&control.header), fds, nfds * sizeof(int));
        msg.msg_control = &control;
        msg.msg_controllen = CMSG_SPACE(nfds * sizeof(int));
    }
    do
        n = sendmsg(sock, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return errno == ECONNRESET ? -EPIPE : -errno;
    return (size_t)n == len ? 0 : -EMSGSIZE;
}

static int64_t now_ms(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static int wait_readable(int sock, int timeout_ms)
{
    int64_t end = now_ms() + timeout_ms;
    struct pollfd pollfd = {.fd = sock, .events = POLLIN};

    for (;;) {
        int64_t left = timeout_ms < 0 ? -1 : end - now_ms();
        int n = poll(&pollfd, 1, timeout_ms < 0 ? -1 : left > 0 ? (int)left : 0);

        if (n > 0)
            return 0;
        if (n == 0)
            return -ETIMEDOUT;
        if (errno != EINTR)
            return -errno;
    }
}

/* The descriptors that came, or what is left of them after a refusal. */
static int take_fds(struct msghdr *msg, int fds[2])
{
    size_t count = 0;
    bool refused = (msg->msg_flags & MSG_CTRUNC) != 0;

    for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
        size_t n;
        int got[2];

        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        if (n > 2)
            n = 2; /* cannot be: there is room for two */
        memcpy(got, CMSG_DATA(c), n * sizeof(int));
        for (size_t i = 0; i < n; i++) {
            if (fds && count < 2) {
                fds[count++] = got[i];
            } else {
                close(got[i]);
                refused = true;
            }
        }
    }
    return refused ? -EPROTO : 0;
}

int process_receive(int sock, void *message, size_t *len, int fds[2], int timeout_ms)
{
    union control control;
    struct iovec iov = {.iov_base = message, .iov_len = *len};
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = &control,
                         .msg_controllen = sizeof(control)};
    ssize_t n;
    int rc = wait_readable(sock, timeout_ms);

    if (fds)
        fds[0] = fds[1] = -1;
    if (rc < 0)
        return rc;
    do
        n = recvmsg(sock, &msg, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return errno == ECONNRESET ? -EPIPE : -errno;
    rc = take_fds(&msg, fds);
    if (rc == 0 && n == 0)
        rc = -EPIPE;
    if (rc == 0 && msg.msg_flags & MSG_TRUNC)
        rc = -EPROTO;
    if (rc < 0 && fds) {
        for (int i = 0; i < 2; i++) {
            if (fds[i] >= 0)
                close(fds[i]);
            fds[i] = -1;
        }
    }
    *len = (size_t)n;
    return rc;
}

int process_socketpair(int ends[2])
{
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0) {
        ends[0] = ends[1] = -1;
        return -errno;
    }
    return 0;
}

int process_receive_reply(int sock, struct process_reply *reply, int fds[2])
{
    size_t len = sizeof(*reply);
    int rc = process_receive(sock, reply, &len, fds, PROCESS_PATIENCE_MS);

    if (rc < 0)
        return rc;
    if (len == sizeof(*reply) && reply->magic == PROCESS_MAGIC && reply->error <= 0)
        return 0;
    for (int i = 0; fds && i < 2; i++) {
        if (fds[i] >= 0)
            close(fds[i]);
        fds[i] = -1;
    }
    return -EPROTO;
}

const char *process_step_name(uint32_t step)
{
    switch (step) {
    case PROCESS_STEP_REQUEST:
        return "the request was refused";
    case PROCESS_STEP_FORK:
        return "forking";
    case PROCESS_STEP_SEALS:
        return "the memory file is not sealed or has another size";
    case PROCESS_STEP_MEMORY:
        return "mapping guest memory";
    case PROCESS_STEP_RUNTIME:
        return "mapping the runtime";
    case PROCESS_STEP_RSEQ:
        return "taking back restartable sequences";
    case PROCESS_STEP_WINDOW:
        return "mapping the I/O window";
    case PROCESS_STEP_PROC:
        return "opening /proc/self/mem";
    case PROCESS_STEP_PIDFD:
        return "opening a pidfd";
    case PROCESS_STEP_LIMITS:
        return "setting limits";
    case PROCESS_STEP_SIGNALS:
        return "installing signal handlers";
    case PROCESS_STEP_HELLO:
        return "handing over its descriptors";
    default:
        return "an unknown step";
    }
}
