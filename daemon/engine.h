/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_DAEMON_ENGINE_H
#define HL_DAEMON_ENGINE_H

/*
 * The engine: shards, what they share, and their life together. A worker has one; unit tests make
 * theirs with a backend and a control socket of their own.
 */

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "daemon/budget.h"
#include "daemon/confine.h"
#include "daemon/mailbox.h"
#include "daemon/settings.h"
#include "hv/backend.h"

#define ENGINE_DESCRIPTORS_MAX 1024u /* of clients, at a time */

struct shard;
struct images;
struct control_link;

struct engine_config {
    const struct hv_backend *hv;
    struct hv_host *host; /* borrowed */
    int control_fd;       /* taken by engine_new when it succeeds */
    uint32_t uid;
    const char *version; /* copied */
    struct settings settings;
    struct confine_report confinement;
    unsigned int reset_skip; /* enum hv_reset_skip for every instance; tests of the audit */
};

struct engine {
    const struct hv_backend *hv;
    struct hv_host *host;
    uint32_t uid;
    char version[64];
    unsigned int reset_skip;
    struct confine_report confinement;
    uint64_t started_ns;
    struct budget budget;
    unsigned int nshards; /* that run */
    unsigned int made;    /* of shards, to be undone */
    struct shard *shards;
    struct images *images;        /* shard 0's */
    struct control_link *control; /* shard 0's */
    atomic_bool draining;
    atomic_uint connections;
    atomic_uint sessions;
    atomic_bool bulk_distrusted; /* no descriptors are taken from this uid (bulk.c) */
    uint64_t received;           /* shard 0's: Connection messages so far */
    atomic_bool idle_noted;      /* idle_mail is on its way */
    struct mail idle_mail;
    struct runner *runners;              /* long-run threads (run.h) */
    unsigned int nrunners, long_threads; /* that run; as configured */
    unsigned int long_nice;
    _Atomic uint64_t idle, polling; /* shards that sleep or poll, one bit each; that poll */
    atomic_uint pollers;            /* of those, at most max_pollers */
    unsigned int max_pollers;
    atomic_uint calling;      /* shards that have not run out of calls, in a drain, yet */
    atomic_uint unquiet;      /* shards that have not stopped yet */
    _Atomic uint64_t starved; /* shards waiting for some of the budget, one bit each */
};

int engine_new(struct engine **out, const struct engine_config *config, struct hl_error *err);

/* Serves on this thread, which is shard 0's, and on one of its own for each other shard, until a
 * drain or the front's end. Returns: 0, or a negative errno when it could not start. */
int engine_run(struct engine *engine);

void engine_free(struct engine *engine);

/* On shard 0's thread, by the control link. */
void engine_connection(struct engine *engine, int fd); /* takes fd */
void engine_reload(struct engine *engine, const struct settings *settings);
void engine_drain(struct engine *engine, uint64_t limit_ns);

/* From any shard. */
void engine_connection_closed(struct engine *engine);
void engine_note_sessions(struct engine *engine); /* their number has changed */

#endif
