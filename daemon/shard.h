/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_DAEMON_SHARD_H
#define HL_DAEMON_SHARD_H

/*
 * A shard: one thread, its loop, its connections, its instances. Everything in the struct is its
 * thread's own, but for the mailbox and the counters, which others may post to and read, and
 * oldest_ms, which they may read.
 */

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "base/list.h"
#include "base/spin.h"
#include "daemon/deadlines.h"
#include "daemon/log.h"
#include "daemon/mailbox.h"
#include "daemon/settings.h"
#include "daemon/stats.h"
#include "proto/arena.h"

#define POOL_BUCKETS 256u

struct conn;
struct engine;
struct ready_shell;

/* A shard's question for what another has had idle for long (pooled_make_room). */
struct room {
    struct mail mail;
    bool asked;                /* it is under way, and counted among works */
    uint64_t before_ms;        /* it must be unused since before then */
    uint64_t wanted;           /* class of shell */
    struct ready_shell *shell; /* the answer, or NULL */
};

struct shard {
    struct engine *engine;
    unsigned int index;
    uv_thread_t thread;
    uv_loop_t loop;
    struct mailbox mailbox;
    uv_check_t check; /* after the sockets were looked at: serves what came */
    uv_idle_t idle;   /* active while there is something to do without being told */
    uv_timer_t deadline_timer;
    uv_timer_t drain_timer;
    uv_timer_t starve_timer; /* active while pools starve */
    uv_timer_t session_timer;
    struct settings settings;
    struct stats stats;
    struct log_limit log_limit;

    struct list conns;
    atomic_uint nconns; /* those still on their way included */
    struct list ready;  /* connections with whole frames in their buffers, next to serve first */

    struct list pending;  /* pools with calls that wait and may find an instance */
    struct list answered; /* parked calls whose host call found no taker: they go on */
    struct list starved;  /* pools with calls that wait for something to be given back */
    struct deadlines deadlines;
    unsigned int calls;      /* unfinished */
    unsigned int away;       /* instances with other threads, to come back (run.h) */
    struct list spare_calls; /* memory for the next ones */
    unsigned int nspare;
    struct arena arena; /* of the frame being served */

    struct spin spin;
    uint64_t events;      /* times that something came from outside */
    uint64_t idle_ns;     /* since when nothing did, 0: something has come */
    bool listed, polling; /* in engine->idle; in engine->polling */

    struct list offers; /* struct offer_entry: providers of host functions, newest first */
    struct list pools[POOL_BUCKETS]; /* by name, current versions */
    struct list stale_pools;         /* versions that were replaced and still have calls */
    struct list idle_instances;      /* of all pools, least recently used first */
    struct pooled *keeping;          /* the one of them that keeps files of its last call */
    uint64_t keeping_ns;             /* since when */
    struct list sessions;            /* at home here, longest unused first */
    unsigned int nsessions;
    struct list shells;     /* unbound, ready */
    struct list chores;     /* pools that want more warm instances */
    unsigned int resolving; /* pools whose program is not known yet */
    uint64_t pools_made;
    unsigned int nshells;
    unsigned int shells_making; /* by the thread pool */
    uint64_t shell_size;        /* class that was asked for last */
    uint64_t shell_asks;        /* so far */
    uint64_t shell_asked[64];   /* which of them was the latest for each class, by its logarithm */
    uint64_t shell_missed;      /* class that a call found none of, 0: none since one was begun */
    uint64_t shell_before;      /* which ask was the one for that class before */
    unsigned int nidle;         /* idle_instances */
    bool memory_short;          /* instances were retired for memory, and there still is little */
    bool room_wanted;           /* see pooled_make_room */
    uint64_t retired_ms;        /* since when the one was unused that made way for a call, or 0 */
    unsigned int works;         /* jobs of ours in the thread pool, questions to other shards */
    unsigned int resets;

    unsigned int providers; /* connections of ours with an offer */
    struct room room;
    _Atomic uint64_t oldest_ms; /* about: no idle instance is unused since before */
    struct mail quiet_mail, end_mail, uncalled_mail;
    bool made, draining, uncalled, stopping, quiet, checking;
};

int shard_init(struct shard *shard, struct engine *engine, unsigned int index,
               const struct settings *settings);
void shard_fini(struct shard *shard);

/* The shard's thread: returns when the shard has stopped. Returns: 0, or a negative errno when it
 * could not start. */
int shard_run(struct shard *shard);

/* The loop comes back soon although nothing happens outside. */
void shard_wake(struct shard *shard);

/* Something came from outside: the shard is idle no longer. */
void shard_active(struct shard *shard);

/* conn may have a whole frame: it gets its turn after the sockets were looked at. */
void shard_ready(struct shard *shard, struct conn *conn);

/* Whether there is anything else to do here, on sockets and in the mailbox too. */
bool shard_wanted(struct shard *shard);

/* How much there is to do here besides what is being done, up to a few. */
unsigned int shard_backlog(struct shard *shard);
void shard_conn_closed(struct shard *shard);

/* Call when something ended that a stopping shard waits for. */
void shard_check_quiet(struct shard *shard);

/* The deadline timer fits what is in shard->deadlines. */
void shard_arm_deadlines(struct shard *shard);

/* From shard 0. Each returns 0 or -ENOMEM. */
int shard_post_connection(struct shard *shard, int fd); /* takes fd when it succeeds */
int shard_post_settings(struct shard *shard, const struct settings *settings);
int shard_post_invalidation(struct shard *shard, const char *name);
int shard_post_drain(struct shard *shard, uint64_t limit_ns);

#endif
