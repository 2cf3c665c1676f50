/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_DAEMON_RUN_H
#define HL_DAEMON_RUN_H

/*
 * Work on an instance that another thread than its shard does: what is left of a call that is past
 * its quantum (or is known to get there), a whole call that an idle shard takes from a busy one,
 * the reset of an instance whose call was long. The instance is the other thread's until the run
 * comes back by mail; the shard may only ask it to stop.
 */

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/list.h"
#include "daemon/mailbox.h"
#include "hv/instance.h"

struct call;
struct engine;
struct pooled;
struct runner;
struct shard;

enum run_job {
    RUN_CALL,
    RUN_RESET,
};

/* Part of the instance's struct pooled. */
struct run {
    struct mail mail;
    struct list link;    /* of a runner's clients, or behind the client's first run */
    struct list behind;  /* of a client's first run: its others */
    const void *client;  /* whose call it is, or was: to compare, not to look at */
    struct shard *owner; /* gets it back */
    struct call *call;   /* the owner's alone to look at; NULL: nobody waits for it any more */
    enum run_job job;
    uint64_t deadline_ns;
    atomic_bool stop;
    /* what came of it */
    enum instance_state state;
    uint64_t run_ns, left_ns; /* in the guest; when it left the guest */
    bool audit;
    int result; /* of the reset */
    uint64_t pages;
    struct hl_error err;
};

/* The calling thread, a shard's or a runner's, lets the guest run until until_ns at most; fills in
 * what came of it. */
void run_slice(struct pooled *p, uint64_t until_ns);

/* Each gives call, whose instance has begun, away. run_helped: to an idle shard, if there is one
 * that is worth its wake-up; returns whether there was. run_long: to a long-run thread. They come
 * back with call_returned. */
bool run_helped(struct call *call);
void run_long(struct call *call);

/* Has a long-run thread reset p; it comes back with pool_was_reset. */
void run_reset(struct pooled *p, bool audit);

/* Nobody waits for p's call any more: it is stopped, and destroyed when it comes back. */
void run_abandon(struct pooled *p);

/* The engine's long-run threads: as many as settings say, 0: one a CPU. Their priority is low, so
 * that shards get the CPU as soon as they have something to do. Returns: 0 or a negative errno. */
int runners_start(struct engine *engine, unsigned int count);
void runners_stop(struct engine *engine); /* no run is away; waits for the threads' end */

#endif
