/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_HV_NURSERY_H
#define HL_HV_NURSERY_H

/*
 * The process backend's nursery: a fresh exec of the same binary that makes zygotes and guest
 * processes for a worker, which may neither fork nor exec once it is confined. It starts before the
 * worker reads anything from a client, so that no client's data is in any guest's address space.
 */

#include <sys/types.h>

#include "base/error.h"

/* Runs exe (normally "/proc/self/exe") with the one argument "--nursery" and a socket as its
 * descriptor 3. *fd: this side, for hv_host_config.nursery_fd; closing it ends the nursery and all
 * it made. Returns: 0 or a negative errno. */
int nursery_spawn(const char *exe, int *fd, pid_t *pid, struct hl_error *err);

/* What that program's main calls for "--nursery". Returns the exit status. */
int nursery_main(int fd);

#endif
