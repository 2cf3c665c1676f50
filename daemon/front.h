/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_DAEMON_FRONT_H
#define HL_DAEMON_FRONT_H

/*
 * The front: it listens, hands each connection to the worker of its uid, keeps the registry and the
 * configuration, and never looks at a byte that a client sent.
 */

#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"
#include "daemon/configuration.h"
#include "daemon/registry_io.h"

struct front_options {
    const struct configuration *config; /* copied */
    const char *backend;                /* resolved: "kvm" or "process" */
    const char *worker_exe;             /* run with "--worker", its channel as descriptor 3 */
    const char *version;
    uid_t run_uid; /* what workers become when hld is root; 0: they stay */
    gid_t run_gid;
    int listen_fd; /* from systemd, taken; -1: make config->socket */

    /* On SIGHUP: fills next with the configuration as it would be at a start. Returns: 0, or a
     * negative errno when the old one is to stay; it has logged why. */
    int (*reload)(void *opaque, struct configuration *next);
    void *opaque;

    const struct registry_io *registry_io;
};

/* Serves until SIGTERM or SIGINT. Returns: 0 after the drain, or a negative errno with err when it
 * could not start. */
int front_run(const struct front_options *options, struct hl_error *err);

#endif
