/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Landlock: a ruleset that handles every access right the running kernel knows and allows none, so
 * that no path can be opened, made, removed or executed, and no TCP port reached, whatever seccomp
 * let through by mistake. The numbers are those of linux/landlock.h, written out because the
 * distribution's header may be older than the kernel that runs.
 */
#include "config.h"

#include <errno.h>
#include <linux/types.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "daemon/confine.h"

#define CREATE_RULESET_VERSION 1u

/* struct landlock_ruleset_attr; each version appended members. */
struct ruleset_attr {
    __u64 handled_access_fs;
    __u64 handled_access_net; /* version 4 */
    __u64 scoped;             /* version 6 */
};

/* Bits of handled_access_fs by version: 13 in 1, then REFER, TRUNCATE, IOCTL_DEV. */
static __u64 access_fs(int version)
{
    int bits = version >= 5 ? 16 : version >= 3 ? 15 : version >= 2 ? 14 : 13;

    return (1ull << bits) - 1;
}

int confine_landlock(const struct confine_options *options)
{
    long version = syscall(SYS_landlock_create_ruleset, NULL, 0, CREATE_RULESET_VERSION);
    struct ruleset_attr attr = {0};
    size_t size = offsetof(struct ruleset_attr, handled_access_net);
    _cleanup_close_ int fd = -1;

    if (version < 0)
        return -errno;
    attr.handled_access_fs = access_fs((int)version);
    if (version >= 4) {
        attr.handled_access_net = 3; /* bind and connect of TCP */
        size = offsetof(struct ruleset_attr, scoped);
    }
    if (version >= 6) {
        /* abstract Unix sockets; signals to processes outside, which guest processes are */
        attr.scoped = options->guest_processes ? 1 : 3;
        size = sizeof(attr);
    }
    fd = (int)syscall(SYS_landlock_create_ruleset, &attr, size, 0);
    if (fd < 0)
        return -errno;
    if (syscall(SYS_landlock_restrict_self, fd, 0) != 0)
        return -errno;
    return 0;
}
