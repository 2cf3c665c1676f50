/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Results that come in no message. The client makes the memory, so that it is charged to it and not
 * to hld, hld writes there and seals it, and only what nobody can write any more is mapped. What
 * hld says of it is checked like anything else it says.
 */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "client/client.h"

static size_t page_align(size_t size)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);

    return (size + page - 1) & ~(page - 1);
}

/* All of its memory is taken now: hld need not wait for it, and its end shows here. Mapped once as
 * well, since hld cannot tell pages that are only allocated from such as are not there. */
static int allocate(int fd, size_t size)
{
    void *map;

    while (fallocate(fd, 0, 0, (off_t)size) < 0) {
        if (errno != EINTR)
            return -errno;
    }
    map = mmap(NULL, size, PROT_READ, MAP_SHARED | MAP_POPULATE, fd, 0);
    if (map == MAP_FAILED)
        return -errno;
    munmap(map, size);
    return fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) < 0 ? -errno : 0;
}

int room_new(struct room *room, size_t size, struct hl_client_error *err)
{
    _cleanup_close_ int fd = -1;
    int r;

    if (size > HL_RESULT_ROOM_MAX)
        return failure_local(err, -EINVAL, HL_STATUS_INVALID_ARGUMENT,
                             "room for a result of %zu bytes; a call can have 256 MiB at most",
                             size);
    size = page_align(size);
    fd = memfd_create("hl-result", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    r = fd < 0 ? -errno : allocate(fd, size);
    if (r < 0)
        return failure_local(err, r, HL_STATUS_RESOURCE_EXHAUSTED,
                             "cannot make room for a result of %zu bytes: %s", size, strerror(-r));
    *room = (struct room){.fd = hl_steal_fd(&fd), .size = size};
    return 0;
}

int room_take(struct room *room, const Hl__V1__Descriptor *answer, struct hl_result *result,
              struct hl_client_error *err)
{
    size_t len = (size_t)answer->length;
    int seals;

    if (room->fd < 0 || answer->index != room->index || answer->length > room->size)
        return failure_local(err, -EPROTO, HL_STATUS_INTERNAL,
                             "hld's answer is in a place that it was not given");
    seals = fcntl(room->fd, F_GET_SEALS);
    if (seals < 0 || !(seals & F_SEAL_WRITE))
        return failure_local(err, -EPROTO, HL_STATUS_INTERNAL,
                             "hld has not sealed the result against writing");
    if (len > 0) {
        /* Private: kernels before 6.7 refuse a shared mapping of what is sealed. */
        void *map = mmap(NULL, len, PROT_READ, MAP_PRIVATE, room->fd, 0);

        if (map == MAP_FAILED)
            return failure_local(err, -errno, HL_STATUS_RESOURCE_EXHAUSTED,
                                 "cannot map the result: %s", strerror(errno));
        room->map = map;
        room->len = len;
    }
    result->value = (struct hl_value){.type = HL_TYPE_BYTES, .bytes = {room->map, len}};
    result->fd = room->fd;
    return 0;
}

void room_fini(struct room *room)
{
    if (room->map)
        munmap(room->map, room->len);
    if (room->fd >= 0)
        close(room->fd);
    *room = ROOM_NONE;
}
