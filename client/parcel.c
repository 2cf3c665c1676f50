/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Descriptors on their way out. A stream socket carries them with a byte, and hld takes those that
 * came with a frame's first, so what is sent in one piece begins there and ends where the next
 * frame with descriptors begins. They are duplicates: what the caller does with its own does not
 * matter any more, and once the kernel has taken them they are closed.
 */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "client/client.h"

int parcel_new(struct parcel **out, const int *fds, unsigned int count)
{
    struct parcel *parcel = calloc(1, sizeof(*parcel));

    if (!parcel)
        return -ENOMEM;
    for (unsigned int i = 0; i < count; i++) {
        int fd = fcntl(fds[i], F_DUPFD_CLOEXEC, 0);

        if (fd < 0) {
            int r = -errno;

            parcel_free(parcel);
            return r;
        }
        parcel->fds[parcel->count++] = fd;
    }
    *out = parcel;
    return 0;
}

void parcel_free(struct parcel *parcel)
{
    for (unsigned int i = 0; parcel && i < parcel->count; i++)
        close(parcel->fds[i]);
    free(parcel);
}

void parcel_queue(struct hl_client *client, struct parcel *parcel, uint64_t at)
{
    parcel->at = at;
    parcel->next = NULL;
    if (!client->parcels)
        client->parcels_end = &client->parcels;
    *client->parcels_end = parcel;
    client->parcels_end = &parcel->next;
}

static void drop_first(struct hl_client *client)
{
    struct parcel *first = client->parcels;

    client->parcels = first->next;
    parcel_free(first);
}

static ssize_t send_with(int fd, struct iovec *iov, const struct parcel *parcel)
{
    union {
        struct cmsghdr align;
        uint8_t bytes[CMSG_SPACE(sizeof(parcel->fds))];
    } control = {0};
    size_t size = parcel->count * sizeof(int);
    struct msghdr message = {
        .msg_iov = iov,
        .msg_iovlen = 1,
        .msg_control = control.bytes,
        .msg_controllen = CMSG_SPACE(size),
    };
    struct cmsghdr *cmsg = CMSG_FIRSTHDR(&message);

    cmsg->cmsg_level = SOL_SOCKET;
    cmsg->cmsg_type = SCM_RIGHTS;
    cmsg->cmsg_len = CMSG_LEN(size);
    memcpy(CMSG_DATA(cmsg), parcel->fds, size);
    return sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
}

ssize_t parcel_send(struct hl_client *client)
{
    const struct parcel *first = client->parcels;
    bool due = first->at == client->sent;
    const struct parcel *next = due ? first->next : first;
    struct iovec iov = {
        .iov_base = buffer_data(&client->out),
        .iov_len = next ? (size_t)(next->at - client->sent) : client->out.len,
    };
    ssize_t n;

    if (!due)
        return send(client->fd, iov.iov_base, iov.iov_len, MSG_NOSIGNAL | MSG_DONTWAIT);
    n = send_with(client->fd, &iov, first);
    if (n > 0)
        drop_first(client);
    return n;
}

void parcel_drop_all(struct hl_client *client)
{
    while (client->parcels)
        drop_first(client);
}
