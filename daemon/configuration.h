/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_DAEMON_CONFIGURATION_H
#define HL_DAEMON_CONFIGURATION_H

/*
 * hld.conf, read and checked whole, down to whether users and groups exist. A struct configuration
 * is plain data: copied by assignment, nothing to free. doc/hld.conf.5 tells what each setting
 * does.
 */

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"

#define CONFIGURATION_DEFAULT_PATH "/etc/hld/hld.conf"
#define CONFIGURATION_SOCKET_MAX   108u /* sun_path, NUL included */
#define CONFIGURATION_NAME_MAX     64u
#define CONFIGURATION_IDS_MAX      64u

/* An allow list. With no list set, everyone who may open the socket is served. */
struct configuration_ids {
    uint32_t count;
    uint32_t id[CONFIGURATION_IDS_MAX];
};

struct configuration_limits {
    uint64_t memory;
    uint64_t deadline_ns;
    uint32_t min_instances;
    uint32_t max_instances;
    uint32_t max_queue;
    uint64_t io_size;
};

struct configuration {
    /* [daemon] */
    char socket[CONFIGURATION_SOCKET_MAX];
    uint32_t socket_mode;
    char socket_group[CONFIGURATION_NAME_MAX]; /* "": hld if it exists and we may */
    char state_dir[PATH_MAX];
    char backend[16];
    char worker_user[CONFIGURATION_NAME_MAX]; /* "": hld if it exists, else nobody */
    struct configuration_ids allow_uids;
    struct configuration_ids allow_gids;
    uint64_t idle_timeout_ns;
    uint64_t drain_timeout_ns;
    uint32_t max_workers;
    uint32_t max_connections;   /* of one uid */
    uint32_t max_images;        /* of one uid */
    uint64_t max_disk;          /* bytes of one uid's images */
    uint64_t max_snapshot_disk; /* bytes of one uid's snapshots; 0: none are kept */

    /* [engine] */
    uint32_t shards;
    uint64_t quantum_ns;
    uint32_t long_threads;
    uint32_t long_nice;
    uint64_t poll_ns;
    uint32_t audit_every;
    uint64_t init_deadline_ns;
    uint32_t max_queue_per_client;
    uint32_t shells;
    uint64_t memory_budget;
    uint64_t max_vms;
    uint64_t slow_sender_ns;
    uint64_t session_idle_ns;
    uint32_t max_sessions;
    uint64_t bulk_budget; /* 0: no descriptors are taken */

    struct configuration_limits defaults; /* [defaults] */
    struct configuration_limits maxima;   /* [limits] */
    uint64_t max_image_size;              /* [limits] image_size */
};

/* One line a problem: "FILE:LINE: what is wrong and what is accepted". */
typedef void (*configuration_report)(void *opaque, const char *line);

/* The values of a file that says nothing. Socket and state directory come from RUNTIME_DIRECTORY
 * and STATE_DIRECTORY (systemd.exec(5)), else /run and /var/lib for root, else XDG_RUNTIME_DIR and
 * XDG_STATE_HOME or ~/.local/state; "" where none of them is there. */
void configuration_init(struct configuration *config);

/* Reads path over config's values. With optional, a file that does not exist is an empty one. All
 * problems are reported. Returns: 0; -EINVAL when there were any, config then holds no meaning;
 * -ENOENT or another negative errno, reported too, when the file cannot be read. */
int configuration_load(struct configuration *config, const char *path, bool optional,
                       configuration_report report, void *opaque);

/* One setting as the file would have it, for the command line. Returns: 0, or -EINVAL with err. */
int configuration_set(struct configuration *config, const char *section, const char *name,
                      const char *value, struct hl_error *err);

/* Checks settings against each other: some must not exceed others. path: what the report names.
 * Returns: 0 or -EINVAL. */
int configuration_check(const struct configuration *config, const char *path,
                        configuration_report report, void *opaque);

/* After a reload: copies from next to current what can change in a running daemon. Reports one line
 * for each setting that differs and needs a restart. Returns: how many those are. */
size_t configuration_apply(struct configuration *current, const struct configuration *next,
                           configuration_report report, void *opaque);

/* "64M", "1536K" or plain bytes; "10ms", "1min" …: also what hld prints. Returns: 0 or -EINVAL. */
int configuration_parse_size(const char *text, uint64_t *bytes);
int configuration_parse_time(const char *text, uint64_t *ns);

#endif
