/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_DAEMON_POOLED_H
#define HL_DAEMON_POOLED_H

/*
 * Instances as the engine holds them, and the shells they are made from: charged while they exist,
 * idle or not. Owned by one shard's thread at a time.
 */

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/list.h"
#include "daemon/budget.h"
#include "daemon/mailbox.h"
#include "daemon/run.h"
#include "hv/instance.h"
#include "hv/world.h"

struct bulk;
struct pool;
struct program;
struct session_use;
struct shard;

struct pooled {
    struct mail mail;     /* on its way to another shard */
    struct run run;       /* while another thread works on it */
    struct list link;     /* of pool->idle */
    struct list lru_link; /* of shard->idle_instances */
    struct instance *inst;
    struct pool *pool; /* while a shard owns it */
    struct program *program;
    uint64_t used_ms; /* when it became idle last; a shard's clock */
    uint64_t bound_ns, calls, pages_reset;
    struct world world;      /* that its host calls see */
    uint32_t host_calls;     /* of its call, within the policy's bounds */
    atomic_uint host_denied; /* of its call, not in the policy: other threads may look */
    struct session_use *use; /* while a session's call has it */
    struct bulk *bulk;       /* of its call, if that has any */
    bool apart;              /* a session's: not among the program's instances */
    bool keeps;              /* files of its last call, while it is idle */
    bool was_long;           /* its call went to a long-run thread, and so does its reset */
    struct charge vm, memory;
};

/* Returns: 0; -EAGAIN when a bound is reached, with everything idle of this shard given back that
 * could make room; another negative errno when no instance can be made. */
int pooled_new(struct pool *pool, struct pooled **out, struct hl_error *err);

/* It is in no list. Tells shards that wait for what it held. */
void pooled_free(struct shard *shard, struct pooled *p);

void pooled_keep(struct pool *pool, struct pooled *p); /* idle from now on */
void pooled_forget(struct pooled *p);                  /* idle no longer */

/* The shard has nothing better to do, or it is time: files that an idle instance keeps for a call
 * like its last go. No-op without. */
void pooled_relax(struct shard *shard);

/* p, in no list, is of no use here any more: its machine becomes a shell, or is destroyed where it
 * cannot. Tells shards that wait for what it held. */
void pooled_retire(struct shard *shard, struct pooled *p);

/* Gives up the least useful idle thing of the shard, for another shard that finds the budget used
 * up: a machine where those are short, else memory. Returns: whether there was one. */
bool pooled_evict(struct shard *shard);

/* A call had to wait until an idle instance had made room: makes some for the next such call. If
 * another shard has one that has been unused for longer than that, it is asked for it; otherwise
 * one of this shard goes, if enough idle ones stay. Returns: whether it did. */
bool pooled_make_room(struct shard *shard);

/* One more shell on the thread pool, if the settings want more ready, or one of a size that a call
 * found none of in the place of one of another size. Returns: whether it began. */
bool pooled_make_shell(struct shard *shard);
void pooled_drop_shells(struct shard *shard);

#endif
