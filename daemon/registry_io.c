/* SPDX-License-Identifier: Apache-2.0 */
/* The registry's system calls. Nothing here follows a symbolic link or leaves a descriptor open
 * across exec. */
#include "config.h"

#include "daemon/registry_io.h"

#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static int system_open(int dir, const char *name, int flags, mode_t mode)
{
    int fd = openat(dir, name, flags | O_CLOEXEC | O_NOFOLLOW, mode);

    return fd < 0 ? -errno : fd;
}

static ssize_t system_write(int fd, const void *data, size_t len)
{
    ssize_t n = write(fd, data, len);

    return n < 0 ? -errno : n;
}

static int system_fsync(int fd)
{
    return fsync(fd) < 0 ? -errno : 0;
}

static int system_rename(int dir, const char *from, const char *to, unsigned int flags)
{
    return renameat2(dir, from, dir, to, flags) < 0 ? -errno : 0;
}

static int system_unlink(int dir, const char *name)
{
    return unlinkat(dir, name, 0) < 0 ? -errno : 0;
}

const struct registry_io registry_io_system = {
    .open = system_open,
    .write = system_write,
    .fsync = system_fsync,
    .rename = system_rename,
    .unlink = system_unlink,
};

int registry_temp_open(const struct registry_io *io, int dir, char name[REGISTRY_TEMP_SIZE])
{
    uint8_t random[8];
    char hex[2 * sizeof(random) + 1];

    randombytes_buf(random, sizeof(random));
    sodium_bin2hex(hex, sizeof(hex), random, sizeof(random));
    snprintf(name, REGISTRY_TEMP_SIZE, REGISTRY_TEMP_PREFIX "%s", hex);
    return io->open(dir, name, O_WRONLY | O_CREAT | O_EXCL, 0400);
}

int registry_write_all(const struct registry_io *io, int fd, const void *data, size_t len)
{
    const char *p = data;

    while (len > 0) {
        ssize_t n = io->write(fd, p, len);

        if (n == -EINTR)
            continue;
        if (n < 0)
            return (int)n;
        if (n == 0)
            return -EIO;
        p += n;
        len -= (size_t)n;
    }
    return 0;
}
