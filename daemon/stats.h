/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_DAEMON_STATS_H
#define HL_DAEMON_STATS_H

/*
 * Counters of a worker. Each shard counts its own, so that counting costs one plain store; who asks
 * adds the shards up.
 */

#include <stdatomic.h>
#include <stdint.h>

enum counter {
    STAT_CALLS,         /* Invoke requests taken in */
    STAT_OK,            /* answered with a result */
    STAT_GUEST_ERRORS,  /* answered with the function's own error */
    STAT_FAULTS,        /* ended by a fault, exit, abort or broken result */
    STAT_DEADLINES,     /* ended by their deadline */
    STAT_CANCELLED,     /* by Cancel */
    STAT_ABANDONED,     /* by their client's disconnect */
    STAT_QUEUE_REFUSED, /* past a bound of a queue */
    STAT_OTHER_ERRORS,  /* answered with another status */
    STAT_QUEUED,        /* had to wait */
    STAT_LONG_RUNS,     /* calls that went to a long-run thread */
    STAT_STOLEN,        /* calls of another shard that this one ran, being idle */
    STAT_EXITS,         /* of guests to the host */
    STAT_SYSCALLS,
    STAT_UNKNOWN_SYSCALLS,
    STAT_LOG_LINES,
    STAT_RESETS,
    STAT_PAGES_RESET,
    STAT_AUDITS,
    STAT_AUDIT_FAILURES,
    STAT_INSTANCES_MADE,
    STAT_INSTANCES_DESTROYED,
    STAT_INSTANCES_UNBOUND, /* of those destroyed: their machine went on as a shell */
    STAT_INSTANCES_MOVED,   /* from one shard to another */
    STAT_POLLS,             /* times a shard polled before it slept */
    STAT_POLL_HITS,         /* … and something came */
    STAT_BUILDS,
    STAT_BUILD_FAILURES,
    STAT_SNAPSHOTS_LOADED,  /* came with the image and were used */
    STAT_SNAPSHOTS_REFUSED, /* were damaged, or did not hold together */
    STAT_SNAPSHOTS_SAVED,   /* given to the front to be kept */
    STAT_CONNECTIONS,
    STAT_CONNECTIONS_REFUSED,
    STAT_MALFORMED,     /* connections closed for a malformed frame */
    STAT_SLOW,          /* connections closed for a sender or a reader too slow */
    STAT_HOST_CALLS,    /* of guests, refused ones included */
    STAT_HOST_DENIED,   /* of those: names that the policy does not have */
    STAT_HOST_PARKED,   /* of those: given to a client, a service or the front */
    STAT_SESSIONS,      /* opened */
    STAT_SESSIONS_IDLE, /* ended by their idle time */
    STAT_COUNT,
};

struct stats {
    _Atomic uint64_t values[STAT_COUNT];
};

/* By the owner alone. */
static inline void stats_add(struct stats *stats, enum counter stat, uint64_t n)
{
    uint64_t value = atomic_load_explicit(&stats->values[stat], memory_order_relaxed);

    atomic_store_explicit(&stats->values[stat], value + n, memory_order_relaxed);
}

static inline uint64_t stats_get(struct stats *stats, enum counter stat)
{
    return atomic_load_explicit(&stats->values[stat], memory_order_relaxed);
}

/* The counter's name for clients: "calls" and so on. */
const char *stats_name(enum counter stat);

#endif
