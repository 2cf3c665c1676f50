/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_DAEMON_CALL_H
#define HL_DAEMON_CALL_H

/*
 * A call, from Invoke to its answer:
 *
 *   CALL_NEW ──► CALL_RUNNING ◄──► CALL_AWAY      with another thread: past its quantum, or helped
 *       │          ▲ ▲ │  ▲            │
 *       │          │ │ │  └► CALL_PARKED            its guest waits for a host function (host.h)
 *       │          │ │ │        │
 *       └► CALL_WAITING│               │          for the program, or for an instance
 *              │       ▼               │
 *              └───► CALL_OVER ◄───────┘          answered, or nobody is left to answer
 *
 * Owned by the shard that read it.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/list.h"
#include "daemon/budget.h"
#include "daemon/deadlines.h"
#include "proto/arena.h"
#include "proto/hl.pb-c.h"

struct bulk;
struct call_stream;
struct conn;
struct host_request;
struct kv_request;
struct pool;
struct pooled;
struct request;
struct session_use;
struct shard;

enum call_state {
    CALL_NEW,
    CALL_WAITING,
    CALL_RUNNING,
    CALL_AWAY,
    CALL_PARKED,
    CALL_OVER,
    CALL_STATES,
};

/* Whether a call may go from one state to the other. */
bool call_may(enum call_state from, enum call_state to);

/* Who has the host call of a parked call. */
enum parked_at {
    PARKED_CLIENT = 1, /* the call's own client */
    PARKED_SERVICE,    /* a provider (offer.h) */
    PARKED_STORE,      /* the front, for hl.kv */
    PARKED_ANSWERED,   /* nobody: it runs on in the shard's next turn */
};

struct parked {
    enum parked_at at;
    const struct hl_host_function *function; /* of the program's policy */
    uint64_t id;                             /* with PARKED_CLIENT */
    struct host_request *request;            /* with PARKED_SERVICE */
    struct kv_request *kv;                   /* with PARKED_STORE */
};

struct call {
    enum call_state state;
    struct shard *shard;
    struct conn *conn;
    struct list conn_link;
    struct list link; /* of pool->waiting */
    uint64_t round;   /* its place there (call_queue.c) */
    struct deadline deadline;
    bool queued; /* counted in the program's queue */
    uint32_t stream;
    uint64_t call_id;
    int64_t timeout_ns;
    uint64_t read_ns, deadline_ns, entered_ns, run_ns;
    size_t function;         /* once it has begun */
    bool opens;              /* a session: it ends with an instance instead of beginning */
    struct session_use *use; /* the session's that it is in, from when it asks for it */
    struct pool *pool;
    struct pooled *pooled;
    const Hl__V1__InvokeRequest *request; /* NULL once the guest has the arguments */
    struct arena *kept;                   /* request's memory while it waits */
    struct charge kept_charge;
    struct bulk *bulk;        /* until its instance has begun; usually NULL */
    uint32_t depth;           /* of host calls that it was made in */
    struct call_stream *host; /* its stream, of InvokeWithHost; else NULL */
    struct parked parked;     /* while CALL_PARKED */
};

/* Invoke, in a session or not: answers it, now or later. message: in the shard's arena. */
void call_begin(const struct request *request, const Hl__V1__InvokeRequest *message);

/* Sessions.Open likewise. */
void call_begin_open(const struct request *request, const char *image, uint64_t call_id);

/* Returns: whether the connection had such a call; it is answered CANCELLED. */
bool call_cancel(struct conn *conn, uint64_t call_id);

/* Its client is gone: stops it where it is, without an answer. */
void call_abandon(struct call *call);

/* The pool's program is there: calls that turn out wrong are answered, the rest goes on waiting. */
void calls_admit(struct pool *pool);
void calls_fail(struct pool *pool, enum hl_status status, const char *text);

/* It comes back from another thread, with what became of it in its instance's run. */
void call_returned(struct call *call);

/* One waiting call of the next pool. Returns: whether there was something to do. */
bool calls_start_waiting(struct shard *shard);

/* The shard has ended. */
void calls_drop_spare(struct shard *shard);

/* Answers those whose deadline has passed while they did not run. */
void calls_expire(struct shard *shard, uint64_t now_ns);

/* The drain's limit is over. */
void calls_stop_all(struct shard *shard);

#endif
