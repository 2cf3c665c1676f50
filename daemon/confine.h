/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_DAEMON_CONFINE_H
#define HL_DAEMON_CONFINE_H

/*
 * What a worker takes from itself before it reads a client's first byte. Each step stands alone, so
 * that whoever gets past one meets the next; none can be taken back.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"

#define CONFINE_LAYERS_MAX 8

struct confine_options {
    uint64_t max_files;     /* RLIMIT_NOFILE */
    uint64_t max_file_size; /* RLIMIT_FSIZE: memfds count as files, so it cannot be 0 */
    bool guest_processes;   /* backend process: sockets to them, signals by their pidfds */
};

/* What was put in force, for Ready and `hlctl info`. Static strings. */
struct confine_report {
    size_t count;
    const char *layers[CONFINE_LAYERS_MAX];
};

/* Changes to uid and gid, without supplementary groups, when this process is root; -EPERM when it
 * is not and would have to change. Keeps no capability either way. */
int confine_become(uid_t uid, gid_t gid, struct hl_error *err);

/* The whole calling process, which must have one thread. no_new_privs, no capability in any set,
 * not dumpable, resource limits, Landlock without any path (where the kernel has it: its absence is
 * no error, the report says what there is), seccomp last. On error the process is half confined and
 * must end. */
int confine_self(const struct confine_options *options, struct confine_report *report,
                 struct hl_error *err);

/* Steps of it, in landlock.c and seccomp.c. confine_landlock returns 0 when in force, -ENOSYS or
 * -EOPNOTSUPP where the kernel has none. */
int confine_landlock(const struct confine_options *options);
int confine_seccomp(const struct confine_options *options, struct hl_error *err);

#endif
