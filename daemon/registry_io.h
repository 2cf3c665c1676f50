/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_DAEMON_REGISTRY_IO_H
#define HL_DAEMON_REGISTRY_IO_H

/*
 * The few system calls by which the registry changes the disk, in a table that tests replace to
 * make the Nth of them fail. Each returns what the call does, or a negative errno.
 */

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define REGISTRY_TEMP_PREFIX ".tmp-"
#define REGISTRY_TEMP_SIZE   (sizeof(REGISTRY_TEMP_PREFIX) + 16)

struct registry_io {
    int (*open)(int dir, const char *name, int flags, mode_t mode);
    ssize_t (*write)(int fd, const void *data, size_t len);
    int (*fsync)(int fd);
    int (*rename)(int dir, const char *from, const char *to, unsigned int flags);
    int (*unlink)(int dir, const char *name);
};

extern const struct registry_io registry_io_system;

/* A new file of a random name in dir, to be renamed when it is whole. Returns: its descriptor. */
int registry_temp_open(const struct registry_io *io, int dir, char name[REGISTRY_TEMP_SIZE]);

/* All of it, over short writes. Returns: 0 or a negative errno. */
int registry_write_all(const struct registry_io *io, int fd, const void *data, size_t len);

#endif
