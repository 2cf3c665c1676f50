/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Packets between hld and a worker. A packet is one protobuf message and at most one descriptor.
 * The peer is not trusted: whatever descriptors came are owned before anything else is looked at,
 * so that no refusal leaks one, and a message without any of the kinds we know is refused here
 * instead of in every reader. An empty packet cannot be told from the peer's end on SOCK_SEQPACKET,
 * so it is its end; no message of ours is empty.
 */
#include "daemon/control.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/cleanup.h"
#include "daemon/discard.h"

#define SCM_MAX_FD 253 /* unix(7): the most that one sendmsg can carry */

union fd_space {
    struct cmsghdr header;
    char bytes[CMSG_SPACE(sizeof(int) * SCM_MAX_FD)];
};

int control_send_packed(int fd, const void *packed, size_t size, int passed_fd)
{
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int))];
    } space = {0};
    struct iovec iov = {.iov_base = (void *)packed, .iov_len = size};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    ssize_t n;

    if (size > CONTROL_PACKET_MAX)
        return -EMSGSIZE;
    if (size == 0)
        return -EINVAL;
    if (passed_fd >= 0) {
        space.header.cmsg_len = CMSG_LEN(sizeof(int));
        space.header.cmsg_level = SOL_SOCKET;
        space.header.cmsg_type = SCM_RIGHTS;
        memcpy(CMSG_DATA(&space.header), &passed_fd, sizeof(int));
        msg.msg_control = space.bytes;
        msg.msg_controllen = sizeof(space.bytes);
    }
    do {
        n = sendmsg(fd, &msg, MSG_NOSIGNAL);
    } while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : 0;
}

int control_send(int fd, const ProtobufCMessage *message, int passed_fd)
{
    size_t size = protobuf_c_message_get_packed_size(message);
    _cleanup_free_ uint8_t *packed = NULL;

    if (size > CONTROL_PACKET_MAX)
        return -EMSGSIZE;
    packed = malloc(size ? size : 1);
    if (!packed)
        return -ENOMEM;
    protobuf_c_message_pack(message, packed);
    return control_send_packed(fd, packed, size, passed_fd);
}

/* Keeps the first descriptor in *first. Returns: whether there were more; those are closed. */
static bool take_fds(struct msghdr *msg, int *first)
{
    bool surplus = false;

    for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
        size_t count;

        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count; i++) {
            int fd;

            memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
            if (*first < 0) {
                *first = fd;
            } else {
                discard(fd);
                surplus = true;
            }
        }
    }
    return surplus;
}

/* Whether one of the message's `oneof kind` is set. */
static bool has_kind(const ProtobufCMessage *message)
{
    const ProtobufCMessageDescriptor *type = message->descriptor;
    uint32_t kind;

    if (type->n_fields == 0 || !(type->fields[0].flags & PROTOBUF_C_FIELD_FLAG_ONEOF))
        return true;
    memcpy(&kind, (const char *)message + type->fields[0].quantifier_offset, sizeof(kind));
    return kind != 0;
}

int control_recv(int fd, const ProtobufCMessageDescriptor *type, ProtobufCMessage **message,
                 int *passed_fd)
{
    _cleanup_free_ uint8_t *packed = malloc(CONTROL_PACKET_MAX);
    struct iovec iov = {.iov_base = packed, .iov_len = CONTROL_PACKET_MAX};
    union fd_space space;
    struct msghdr msg = {
        .msg_iov = &iov,
        .msg_iovlen = 1,
        .msg_control = &space,
        .msg_controllen = sizeof(space),
    };
    _cleanup_discard_ int received = -1;
    ProtobufCMessage *unpacked;
    ssize_t n;

    *message = NULL;
    *passed_fd = -1;
    if (!packed)
        return -ENOMEM;
    do {
        n = recvmsg(fd, &msg, MSG_CMSG_CLOEXEC);
    } while (n < 0 && errno == EINTR);
    if (n < 0)
        return -errno;
    if (take_fds(&msg, &received) || (msg.msg_flags & MSG_TRUNC))
        return -EBADMSG;
    /* The space is enough for all that can come, so what was cut off found no free number here. Out
     * of descriptors, a message still counts: it is the reader who knows what its lack means. */
    if ((msg.msg_flags & MSG_CTRUNC) && received >= 0)
        return -EBADMSG;
    if (n == 0)
        return 0;
    unpacked = protobuf_c_message_unpack(type, NULL, (size_t)n, packed);
    if (!unpacked)
        return -EBADMSG;
    if (!has_kind(unpacked)) {
        protobuf_c_message_free_unpacked(unpacked, NULL);
        return -EBADMSG;
    }
    *message = unpacked;
    *passed_fd = hl_steal_fd(&received);
    return 1;
}
