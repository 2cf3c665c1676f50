/* SPDX-License-Identifier: Apache-2.0 */
#include "config.h"

#include "daemon/descriptors.h"

#include <errno.h>
#include <string.h>

#include "daemon/discard.h"

int descriptors_add(struct descriptors *d, int fd, uint64_t at)
{
    if (d->count == DESCRIPTORS_MAX) {
        discard(fd);
        return -ENOBUFS;
    }
    d->fds[d->count] = fd;
    d->came_by[d->count] = at;
    d->count++;
    return 0;
}

static void shift(struct descriptors *d, unsigned int n)
{
    d->count -= n;
    memmove(d->fds, d->fds + n, d->count * sizeof(d->fds[0]));
    memmove(d->came_by, d->came_by + n, d->count * sizeof(d->came_by[0]));
}

int descriptors_take(struct descriptors *d, int *fds, unsigned int n)
{
    if (n > d->count)
        return -ENODATA;
    memcpy(fds, d->fds, n * sizeof(fds[0]));
    shift(d, n);
    return 0;
}

void descriptors_drop_until(struct descriptors *d, uint64_t at)
{
    unsigned int n = 0;

    while (n < d->count && d->came_by[n] <= at)
        discard(d->fds[n++]);
    if (n > 0)
        shift(d, n);
}

void descriptors_drop(struct descriptors *d)
{
    descriptors_drop_until(d, UINT64_MAX);
}
