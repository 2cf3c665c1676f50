/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Descriptors beside a client's frames. The kernel gives them out with the first byte they were
 * sent with, and puts nothing behind that into the same read: so those of a frame are here before
 * the frame is whole, in the order of the frames. Which frame some of them were for cannot be told
 * any more once others are lost for want of room, so then all go, and frames are refused theirs up
 * to the place in the stream where that was.
 */
#include "config.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/conn.h"
#include "daemon/engine.h"
#include "daemon/shard.h"

#ifndef SCM_PIDFD
#define SCM_PIDFD 0x04 /* what a listening socket that was handed to us may ask for */
#endif

/* Returns: whether there is room for what is held now; fewer than before always have it. */
static bool charge(struct conn *conn)
{
    return charge_set(&conn->descriptors_charge, &conn->shard->engine->budget, BUDGET_DESCRIPTORS,
                      conn->descriptors.count);
}

/* Returns: 0; -ENOBUFS when not all of them could be kept. */
static int keep_all(struct conn *conn, const struct cmsghdr *cmsg)
{
    size_t n = (cmsg->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    int r = 0;

    for (size_t i = 0; i < n; i++) {
        int fd;

        memcpy(&fd, CMSG_DATA(cmsg) + i * sizeof(fd), sizeof(fd));
        if (descriptors_add(&conn->descriptors, fd, conn->received) < 0)
            r = -ENOBUFS;
    }
    return r;
}

static void close_pidfd(const struct cmsghdr *cmsg)
{
    int fd;

    memcpy(&fd, CMSG_DATA(cmsg), sizeof(fd));
    if (fd >= 0) /* an error otherwise */
        close(fd);
}

void conn_keep_descriptors(struct conn *conn, struct msghdr *msg)
{
    int r = msg->msg_flags & MSG_CTRUNC ? -ENOBUFS : 0;

    for (struct cmsghdr *cmsg = CMSG_FIRSTHDR(msg); cmsg; cmsg = CMSG_NXTHDR(msg, cmsg)) {
        if (cmsg->cmsg_level != SOL_SOCKET)
            continue;
        if (cmsg->cmsg_type == SCM_PIDFD)
            close_pidfd(cmsg);
        else if (cmsg->cmsg_type == SCM_RIGHTS && keep_all(conn, cmsg) < 0)
            r = -ENOBUFS;
    }
    if (r == 0 && charge(conn))
        return;
    conn_forget_descriptors(conn);
    conn->lost_at = conn->received;
}

void conn_forget_descriptors(struct conn *conn)
{
    descriptors_drop(&conn->descriptors);
    charge_release(&conn->descriptors_charge);
}

int conn_take_descriptors(struct conn *conn, int *fds, unsigned int n)
{
    int r = conn->lost_at ? -ENOBUFS : descriptors_take(&conn->descriptors, fds, n);

    if (r == 0)
        (void)charge(conn);
    return r;
}

void conn_drop_descriptors(struct conn *conn)
{
    uint64_t end = conn->received - (conn->end - conn->start);

    if (conn->lost_at <= end)
        conn->lost_at = 0;
    if (conn->descriptors.count == 0)
        return;
    descriptors_drop_until(&conn->descriptors, end);
    (void)charge(conn);
}
