/* SPDX-License-Identifier: Apache-2.0 */
/* The names of the counters; clients see them in Daemon.Stats, people in `hlctl info`. */
#include "daemon/stats.h"

static const char *const names[] = {
    [STAT_CALLS] = "calls",
    [STAT_OK] = "ok",
    [STAT_GUEST_ERRORS] = "guest_errors",
    [STAT_FAULTS] = "faults",
    [STAT_DEADLINES] = "deadlines",
    [STAT_CANCELLED] = "cancelled",
    [STAT_ABANDONED] = "abandoned",
    [STAT_QUEUE_REFUSED] = "queue_refused",
    [STAT_OTHER_ERRORS] = "other_errors",
    [STAT_QUEUED] = "queued",
    [STAT_LONG_RUNS] = "long_runs",
    [STAT_STOLEN] = "stolen",
    [STAT_EXITS] = "exits",
    [STAT_SYSCALLS] = "syscalls",
    [STAT_UNKNOWN_SYSCALLS] = "unknown_syscalls",
    [STAT_LOG_LINES] = "log_lines",
    [STAT_RESETS] = "resets",
    [STAT_PAGES_RESET] = "pages_reset",
    [STAT_AUDITS] = "audits",
    [STAT_AUDIT_FAILURES] = "audit_failures",
    [STAT_INSTANCES_MADE] = "instances_made",
    [STAT_INSTANCES_DESTROYED] = "instances_destroyed",
    [STAT_INSTANCES_UNBOUND] = "instances_unbound",
    [STAT_INSTANCES_MOVED] = "instances_moved",
    [STAT_POLLS] = "polls",
    [STAT_POLL_HITS] = "poll_hits",
    [STAT_BUILDS] = "builds",
    [STAT_BUILD_FAILURES] = "build_failures",
    [STAT_SNAPSHOTS_LOADED] = "snapshots_loaded",
    [STAT_SNAPSHOTS_REFUSED] = "snapshots_refused",
    [STAT_SNAPSHOTS_SAVED] = "snapshots_saved",
    [STAT_CONNECTIONS] = "connections",
    [STAT_CONNECTIONS_REFUSED] = "connections_refused",
    [STAT_MALFORMED] = "malformed",
    [STAT_SLOW] = "slow",
    [STAT_HOST_CALLS] = "host_calls",
    [STAT_HOST_DENIED] = "host_denied",
    [STAT_HOST_PARKED] = "host_parked",
    [STAT_SESSIONS] = "sessions",
    [STAT_SESSIONS_IDLE] = "sessions_idle",
};

_Static_assert(sizeof(names) / sizeof(names[0]) == STAT_COUNT, "a name for each counter");

const char *stats_name(enum counter stat)
{
    return names[stat];
}
