/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What holds when hld.conf says nothing. Paths depend on who starts the daemon: systemd names its
 * directories, root has the system's, everyone else the XDG ones.
 */
#include "config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/configuration.h"

#define MIB    (1024u * 1024u)
#define MS     1000000ull
#define SECOND 1000000000ull

/* dir + suffix into out, or "" when it would not fit or dir is not absolute. */
static void join(char *out, size_t size, const char *dir, const char *suffix)
{
    int n = snprintf(out, size, "%s%s", dir, suffix);

    if (dir[0] != '/' || n < 0 || (size_t)n >= size)
        memset(out, 0, size);
}

static void init_paths(struct configuration *config)
{
    const char *runtime = getenv("RUNTIME_DIRECTORY"), *state = getenv("STATE_DIRECTORY");
    const char *xdg_runtime = getenv("XDG_RUNTIME_DIR"), *xdg_state = getenv("XDG_STATE_HOME");
    const char *home = getenv("HOME");
    bool root = geteuid() == 0;

    if (runtime)
        join(config->socket, sizeof(config->socket), runtime, "/hld.sock");
    else if (root)
        join(config->socket, sizeof(config->socket), "/run", "/hld/hld.sock");
    else if (xdg_runtime)
        join(config->socket, sizeof(config->socket), xdg_runtime, "/hld/hld.sock");

    if (state)
        join(config->state_dir, sizeof(config->state_dir), state, "");
    else if (root)
        join(config->state_dir, sizeof(config->state_dir), "/var/lib", "/hld");
    else if (xdg_state)
        join(config->state_dir, sizeof(config->state_dir), xdg_state, "/hld");
    else if (home)
        join(config->state_dir, sizeof(config->state_dir), home, "/.local/state/hld");
}

void configuration_init(struct configuration *config)
{
    /* memset, not an initialiser: configuration_apply compares members whole. */
    memset(config, 0, sizeof(*config));
    init_paths(config);
    config->socket_mode = 0660;
    snprintf(config->backend, sizeof(config->backend), "auto");
    config->idle_timeout_ns = 60 * SECOND;
    config->drain_timeout_ns = 10 * SECOND;
    config->max_workers = 64;
    config->max_connections = 256;
    config->max_images = 1024;
    config->max_disk = 4096ull * MIB;
    config->max_snapshot_disk = 4096ull * MIB;

    config->quantum_ns = MS;
    config->long_nice = 10;
    config->poll_ns = 50000;
    config->audit_every = 1000;
    config->init_deadline_ns = 10 * SECOND;
    config->max_queue_per_client = 256;
    config->shells = 2;
    config->memory_budget = 2048ull * MIB;
    config->max_vms = 256;
    config->slow_sender_ns = 10 * SECOND;
    config->session_idle_ns = 300 * SECOND;
    config->max_sessions = 64;
    config->bulk_budget = 4096ull * MIB;

    config->defaults.memory = 64 * MIB;
    config->defaults.deadline_ns = SECOND;
    config->defaults.min_instances = 1;
    config->defaults.max_instances = 8;
    config->defaults.max_queue = 256;
    config->defaults.io_size = MIB;

    config->maxima.memory = 1024ull * MIB;
    config->maxima.deadline_ns = 300 * SECOND;
    config->maxima.min_instances = 64;
    config->maxima.max_instances = 256;
    config->maxima.max_queue = 4096;
    config->maxima.io_size = 64 * MIB;
    config->max_image_size = 64 * MIB;
}
