/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_HV_NURSERY_H
#define HL_HV_NURSERY_H

/*
 * The process backend's nursery: a fresh exec of the same binary that makes zygotes and guest
 * processes for a worker, which may neither fork nor exec once it is confined. It starts before the
 * worker reads anything from a client, so that no client's data is in any guest's address space.
 *
 * It keeps the uid of whoever spawns it, and guest processes are stopped and killed by signals: the
 * worker spawns it after it has become its own uid and before it is confined.
 */

#include <stddef.h>
#include <sys/types.h>

#include "base/error.h"

/* Runs exe (normally "/proc/self/exe") with the one argument "--nursery" and a socket as its
 * descriptor 3. *fd: this side, for hv_host_config.nursery_fd; closing it ends the nursery and all
 * it made. Returns: 0 or a negative errno. */
int nursery_spawn(const char *exe, int *fd, pid_t *pid, struct hl_error *err);

/* What that program's main calls for "--nursery". Returns the exit status. */
int nursery_main(int fd);

#define NURSERY_LAYERS_MAX 8

/* What confines the nursery and all it makes, beyond each guest's own seccomp filter and closed
 * descriptors, which are always there. Static strings. */
struct nursery_report {
    size_t count;
    const char *layers[NURSERY_LAYERS_MAX];
};

/* Asks it. Any thread. Returns: 0; -ETIMEDOUT or -EPIPE when it is gone. */
int nursery_report(int fd, struct nursery_report *report, struct hl_error *err);

#endif
