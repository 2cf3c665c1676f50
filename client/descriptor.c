/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Arguments that are a file: memfds which nobody can change any more, so that hld need not copy
 * what it is given before it looks at it. What is in another file is copied into one, by the kernel
 * where it can.
 */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#include "client/client.h"

#define NEEDED_SEALS (F_SEAL_WRITE | F_SEAL_SHRINK)
#define SIZE_MAX_ARG UINT32_MAX /* of a value in the guest ABI */

int descriptor_check(const struct hl_value *value, char *why, size_t size)
{
    int seals = fcntl(value->descriptor.fd, F_GET_SEALS);
    struct stat st;

    if (seals < 0 || fstat(value->descriptor.fd, &st) < 0) {
        snprintf(why, size, "%s",
                 errno == EBADF ? "its descriptor is not open" : "its descriptor is no memfd");
        return -EINVAL;
    }
    if ((seals & NEEDED_SEALS) != NEEDED_SEALS) {
        snprintf(why, size, "its memfd can still change, it lacks the seal%s%s%s",
                 seals & NEEDED_SEALS ? "" : "s", seals & F_SEAL_WRITE ? "" : " F_SEAL_WRITE",
                 seals & F_SEAL_SHRINK ? "" : " F_SEAL_SHRINK");
        return -EINVAL;
    }
    if ((uint64_t)st.st_size != value->descriptor.len) {
        snprintf(why, size, "its memfd has %lld bytes, not %zu, and goes as a whole",
                 (long long)st.st_size, value->descriptor.len);
        return -EINVAL;
    }
    if (value->descriptor.len > SIZE_MAX_ARG) {
        snprintf(why, size, "%zu bytes are more than a function can take", value->descriptor.len);
        return -EFBIG;
    }
    return 0;
}
