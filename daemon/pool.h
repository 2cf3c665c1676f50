/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_DAEMON_POOL_H
#define HL_DAEMON_POOL_H

/*
 * A shard's instances of one program, and the calls that wait for one. Instances come from shells;
 * both are charged to the worker's budget while they exist. When a bound is reached the shard first
 * gives back what it has idle, then asks the other shards: an idle instance of the same program is
 * handed over, for the budget an idle one of any program is destroyed.
 */

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/list.h"
#include "daemon/images.h"
#include "daemon/pooled.h"
#include "daemon/program.h"

struct call;
struct shard;

struct pool {
    struct list link; /* of the shard's pools by name, or of its stale ones */
    struct shard *shard;
    char name[HL_NAME_MAX + 1];
    struct program *program; /* NULL while it is being resolved */
    bool resolving, stale;
    struct resolve resolve;

    struct list waiting;      /* calls, first come first */
    struct list waiting_link; /* of shard->pending or shard->starved */
    struct list chore_link;
    struct list idle;      /* instances, last used first */
    unsigned int busy;     /* instances with a call; the pool stays while there are any */
    unsigned int sessions; /* it stays for them too */
    uint64_t id, round;    /* of the shard's pools; of waiting calls, the last that was served */
    unsigned int turns;    /* calls served in a row while another shard wanted an instance */
};

struct pool *pool_find(struct shard *shard, const char *name);

/* Pools of a shard that are being resolved at a time. A name costs its client nothing to make up.
 */
#define POOLS_RESOLVING_MAX 256u

/* Makes the pool; has its program resolved unless that is ready already. Returns: NULL without
 * memory, or with too many of them under way. */
struct pool *pool_new(struct shard *shard, const char *name);

/* Ends with the last of its calls when it is stale. */
void pool_check_unused(struct pool *pool);

/* The name stands for another program from now on. */
void pool_retire(struct pool *pool);
void pool_invalidate(struct shard *shard, const char *name); /* "" for all */

/* Returns: 0; -EAGAIN when a bound is reached and the call has to wait; another negative errno when
 * no instance can be made. */
int pool_take(struct pool *pool, struct pooled **out, struct hl_error *err);

/* After a call: resets p and keeps it, hands it over, or destroys it. A reset that may take long
 * is done elsewhere; pool_was_reset goes on with its result. */
void pool_give_back(struct pooled *p);
void pool_was_reset(struct pooled *p, int result, bool audited);

/* After a fault, a deadline, or a call cut off. */
void pool_destroy(struct pooled *p);

/* p, just taken, is a session's from now on: charged as before, but not one of the max_instances.
 * It goes by pool_end_apart: where it was not lost, its machine serves others. */
void pool_set_apart(struct pooled *p);
void pool_end_apart(struct pooled *p, bool lost);

/* There are calls waiting: the shard tries to start the next in its turn. */
void pool_set_pending(struct pool *pool);
void pool_unlist(struct pool *pool); /* nothing waits any more */

/* Nothing else to do: one more warm instance or one more shell, where fewer stand ready than the
 * settings say. Returns: whether there was something to do. */
bool pool_chore(struct shard *shard);

/* A shard that stops: everything idle is destroyed. */
void pool_release_all(struct shard *shard);

#endif
