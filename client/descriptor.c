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
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "client/client.h"

#define NEEDED_SEALS (F_SEAL_WRITE | F_SEAL_SHRINK)
#define ALL_SEALS    (NEEDED_SEALS | F_SEAL_GROW | F_SEAL_SEAL)
#define SIZE_MAX_ARG UINT32_MAX /* of a value in the guest ABI */
#define STEP         (64u << 20)
#define COPY_SIZE    (256u << 10)

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

/* --- files ---------------------------------------------------------------------------------- */

struct copy {
    int from, to;
    bool regular;
    uint64_t done;
    uint8_t *buffer; /* once the kernel does not copy this kind of file by itself */
};

static ssize_t copy_by_kernel(struct copy *copy, size_t most)
{
    off_t at = (off_t)copy->done;

    return copy->regular ? sendfile(copy->to, copy->from, &at, most)
                         : splice(copy->from, NULL, copy->to, NULL, most, 0);
}

static ssize_t copy_by_hand(struct copy *copy, size_t most)
{
    size_t len = most < COPY_SIZE ? most : COPY_SIZE;
    ssize_t n = copy->regular ? pread(copy->from, copy->buffer, len, (off_t)copy->done)
                              : read(copy->from, copy->buffer, len);
    int r = n > 0 ? hl_write_all(copy->to, copy->buffer, (size_t)n) : 0;

    if (r < 0) {
        errno = -r;
        return -1;
    }
    return n;
}

/* To the end that the file has when it is reached. */
static int copy_all(struct copy *copy)
{
    while (copy->done <= SIZE_MAX_ARG) {
        uint64_t left = (uint64_t)SIZE_MAX_ARG + 1 - copy->done;
        size_t most = left < STEP ? (size_t)left : STEP;
        ssize_t n = copy->buffer ? copy_by_hand(copy, most) : copy_by_kernel(copy, most);

        if (n == 0)
            return 0;
        if (n > 0) {
            copy->done += (size_t)n;
        } else if ((errno == EINVAL || errno == ENOSYS) && !copy->buffer) {
            copy->buffer = malloc(COPY_SIZE);
            if (!copy->buffer)
                return -ENOMEM;
        } else if (errno != EINTR) {
            return -errno;
        }
    }
    return -EFBIG;
}

static int copy_and_seal(int file, bool regular, struct hl_value *out)
{
    _cleanup_close_ int fd = memfd_create("hl-argument", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    struct copy copy = {.from = file, .to = fd, .regular = regular};
    int r = fd < 0 ? -errno : copy_all(&copy);

    free(copy.buffer);
    if (r == 0 && fcntl(fd, F_ADD_SEALS, ALL_SEALS) < 0)
        r = -errno;
    if (r == 0)
        *out = (struct hl_value){.type = HL_TYPE_DESCRIPTOR,
                                 .descriptor = {(size_t)copy.done, hl_steal_fd(&fd)}};
    return r;
}

static int duplicate(int file, off_t size, struct hl_value *out)
{
    int fd = fcntl(file, F_DUPFD_CLOEXEC, 0);

    if (fd < 0)
        return -errno;
    *out = (struct hl_value){.type = HL_TYPE_DESCRIPTOR, .descriptor = {(size_t)size, fd}};
    return 0;
}

int hl_descriptor_from_file(int file, struct hl_value *out, struct hl_client_error *err)
{
    struct stat st;
    int r, seals;

    *out = (struct hl_value){.type = HL_TYPE_VOID};
    if (fstat(file, &st) < 0)
        r = -errno;
    else if (S_ISREG(st.st_mode) && st.st_size > (off_t)SIZE_MAX_ARG)
        r = -EFBIG;
    else if ((seals = fcntl(file, F_GET_SEALS)) >= 0 && (seals & NEEDED_SEALS) == NEEDED_SEALS)
        r = duplicate(file, st.st_size, out);
    else
        r = copy_and_seal(file, S_ISREG(st.st_mode), out);
    if (r == -EFBIG)
        return failure_local(err, r, HL_STATUS_INVALID_ARGUMENT,
                             "the file has more than %u bytes, the most a function can take",
                             SIZE_MAX_ARG);
    if (r < 0)
        return failure_local(err, r, HL_STATUS_INVALID_ARGUMENT, "cannot copy the file: %s",
                             strerror(-r));
    return 0;
}
