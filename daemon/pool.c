/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A pool: a name's program on this shard, the calls that wait for it, its instances. Pools of
 * versions that were replaced live on, out of the table, until their last call is over.
 */
#include "config.h"

#include "daemon/pool.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "daemon/bulk.h"
#include "daemon/call.h"
#include "daemon/engine.h"
#include "daemon/session.h"
#include "daemon/shard.h"
#include "daemon/share.h"
#include "hv/timer.h"

/* Calls in a row that a shard may serve while another wants an instance of the program. */
#define TURNS 8

static struct list *bucket(struct shard *shard, const char *name)
{
    uint32_t hash = 2166136261u; /* FNV-1a; a client spoils only its own uid's table */

    for (const char *p = name; *p; p++)
        hash = (hash ^ (uint8_t)*p) * 16777619u;
    return &shard->pools[hash % POOL_BUCKETS];
}

struct pool *pool_find(struct shard *shard, const char *name)
{
    LIST_FOREACH(l, bucket(shard, name))
    {
        struct pool *pool = LIST_ENTRY(l, struct pool, link);

        if (strcmp(pool->name, name) == 0)
            return pool;
    }
    return NULL;
}

static void on_resolved(struct resolve *resolve)
{
    struct pool *pool = LIST_ENTRY(resolve, struct pool, resolve);
    struct shard *shard = pool->shard;

    shard->resolving--;
    pool->program = resolve->program;
    if (pool->program)
        calls_admit(pool);
    else
        calls_fail(pool, resolve->status, resolve->err.text);
    pool->resolving = false;
    if (!pool->program)
        pool_retire(pool);
    else if (list_empty(&pool->waiting))
        pool_check_unused(pool);
    else
        pool_set_pending(pool);
    shard_check_quiet(shard);
}

static void resolve(struct pool *pool)
{
    pool->shard->resolving++;
    pool->resolving = true;
    pool->resolve.shard = pool->shard;
    pool->resolve.done = on_resolved;
    memcpy(pool->resolve.name, pool->name, sizeof(pool->name));
    images_resolve(pool->shard->engine, &pool->resolve);
}

struct pool *pool_new(struct shard *shard, const char *name)
{
    struct program *program = images_ready(shard->engine, name);
    struct pool *pool = NULL;

    if (program || shard->resolving < POOLS_RESOLVING_MAX)
        pool = calloc(1, sizeof(*pool));
    if (!pool) {
        program_unref(program);
        return NULL;
    }
    pool->shard = shard;
    pool->program = program;
    pool->id = ++shard->pools_made;
    memcpy(pool->name, name, strlen(name) + 1);
    list_init(&pool->waiting);
    list_init(&pool->waiting_link);
    list_init(&pool->chore_link);
    list_init(&pool->idle);
    list_push_front(bucket(shard, name), &pool->link);
    if (!program)
        resolve(pool);
    return pool;
}

void pool_unlist(struct pool *pool)
{
    list_remove(&pool->waiting_link);
    share_forget(pool);
}

void pool_set_pending(struct pool *pool)
{
    if (!pool->program || pool->resolving)
        return;
    list_remove(&pool->waiting_link);
    list_push_back(&pool->shard->pending, &pool->waiting_link);
    shard_wake(pool->shard);
}

int pool_take(struct pool *pool, struct pooled **out, struct hl_error *err)
{
    struct shard *shard = pool->shard;
    struct budget *budget = &shard->engine->budget;
    int r;

    if (!list_empty(&pool->idle)) {
        struct pooled *p = LIST_ENTRY(pool->idle.next, struct pooled, link);

        pooled_forget(p);
        *out = p;
        r = 0;
    } else {
        if (snapshot_size(pool->program->snap) > atomic_load(&budget->limit[BUDGET_GUEST_MEMORY]))
            return hl_error_set(err, -ENOMEM,
                                "the image's memory is over the worker's whole budget");
        r = pooled_new(pool, out, err);
    }
    if (r < 0)
        return r;
    pool->busy++;
    atomic_fetch_add(&pool->program->running, 1);
    atomic_store_explicit(&pool->program->used_ms, uv_now(&shard->loop), memory_order_relaxed);
    return 0;
}

/* --- after a call --------------------------------------------------------------------------- */

static void not_busy(struct pooled *p)
{
    p->pool->busy--;
    atomic_fetch_sub(&p->program->running, 1);
}

static bool audit_is_due(struct shard *shard)
{
    uint32_t every = shard->settings.audit_every;

    return every > 0 && ++shard->resets % every == 0;
}

static void account_reset(struct pooled *p, int result, bool audited)
{
    struct shard *shard = p->pool->shard;
    const struct run *run = &p->run;

    stats_add(&shard->stats, STAT_RESETS, 1);
    stats_add(&shard->stats, STAT_AUDITS, audited);
    p->pages_reset = run->pages;
    if (result == 0)
        stats_add(&shard->stats, STAT_PAGES_RESET, p->pages_reset);
    if (result == -EBADMSG) {
        stats_add(&shard->stats, STAT_AUDIT_FAILURES, 1);
        log_write(LOG_LEVEL_CRITICAL, "audit: an instance of %s was not as its snapshot: %s",
                  p->program->entry.name, run->err.text);
    } else if (result < 0) {
        log_limited(&shard->log_limit, LOG_LEVEL_WARNING, "reset of an instance of %s: %s",
                    p->program->entry.name, run->err.text);
    }
}

/* Whether the pool's own calls have had their turns while others go without. */
static bool turns_over(struct pool *pool)
{
    if (!list_empty(&pool->waiting) && ++pool->turns < TURNS)
        return false;
    pool->turns = 0;
    return true;
}

/* Whether another shard should have p, which is idle now. Returns: that shard or NULL. */
static struct shard *wanted_by(struct pool *pool, struct pooled *p)
{
    uint64_t own = 1ull << pool->shard->index;

    if ((atomic_load(&p->program->wanted) & ~own) == 0 || !turns_over(pool))
        return NULL;
    return share_wanted_by(pool->shard, &p->program->wanted);
}

/* Whether what p holds of the budget should go to some other pool, here or elsewhere. */
static bool should_give_up(struct pool *pool)
{
    struct shard *shard = pool->shard;

    if (shard->stopping || (pool->stale && list_empty(&pool->waiting)))
        return true;
    return atomic_load(&shard->engine->starved) != 0 && turns_over(pool);
}

static void want_replacement(struct pool *pool)
{
    if (pool->stale || !pool->program || !list_empty(&pool->chore_link))
        return;
    list_push_back(&pool->shard->chores, &pool->chore_link);
    shard_wake(pool->shard);
}

static void keep_or_pass_on(struct pooled *p)
{
    struct pool *pool = p->pool;
    struct shard *shard = pool->shard;
    struct shard *other = wanted_by(pool, p);

    if (other) {
        share_hand_over(p, other);
    } else if (should_give_up(pool)) {
        pooled_free(shard, p);
    } else {
        pooled_keep(pool, p);
        if (atomic_load_explicit(&p->program->instances, memory_order_relaxed) <
            p->program->entry.limits.min_instances)
            want_replacement(pool);
    }
}

void pool_was_reset(struct pooled *p, int result, bool audited)
{
    struct pool *pool = p->pool;

    account_reset(p, result, audited);
    p->was_long = false;
    if (result != 0) {
        pool_destroy(p);
        return;
    }
    not_busy(p);
    p->calls++;
    keep_or_pass_on(p);
    if (!list_empty(&pool->waiting))
        pool_set_pending(pool);
    pool_check_unused(pool);
}

void pool_give_back(struct pooled *p)
{
    struct shard *shard = p->pool->shard;
    struct run *run = &p->run;
    bool audit;

    p->keeps = p->bulk != NULL;
    bulk_free(HL_STEAL(p->bulk));
    if (p->use) {
        session_call_ended(p);
        return;
    }
    audit = audit_is_due(shard);
    if (p->was_long && !shard->stopping) {
        run_reset(p, audit);
        return;
    }
    run->err.text[0] = '\0';
    run->result = instance_reset(p->inst, audit, &run->pages, &run->err);
    pool_was_reset(p, run->result, audit);
}

static void after_loss(struct pool *pool)
{
    if (!list_empty(&pool->waiting))
        pool_set_pending(pool);
    else
        want_replacement(pool);
    pool_check_unused(pool);
}

void pool_destroy(struct pooled *p)
{
    struct pool *pool = p->pool;

    bulk_free(HL_STEAL(p->bulk));
    if (p->use) {
        session_call_ended(p);
        return;
    }
    not_busy(p);
    pooled_free(pool->shard, p);
    after_loss(pool);
}

void pool_set_apart(struct pooled *p)
{
    struct pool *pool = p->pool;

    not_busy(p);
    p->apart = true;
    atomic_fetch_sub(&p->program->instances, 1);
    share_wake(pool->shard, &p->program->wanted);
    after_loss(pool);
}

void pool_end_apart(struct pooled *p, bool lost)
{
    struct shard *shard = p->pool->shard;

    if (!lost && shard->nshells < shard->settings.shells)
        pooled_retire(shard, p);
    else
        pooled_free(shard, p);
}

/* --- versions ------------------------------------------------------------------------------- */

static void drop_idle(struct pool *pool)
{
    struct shard *shard = pool->shard;

    while (!list_empty(&pool->idle)) {
        struct pooled *p = LIST_ENTRY(pool->idle.next, struct pooled, link);

        pooled_forget(p);
        if (shard->nshells < shard->settings.shells)
            pooled_retire(shard, p);
        else
            pooled_free(shard, p);
    }
}

void pool_check_unused(struct pool *pool)
{
    if (!pool->stale || pool->resolving || pool->busy > 0 || pool->sessions > 0 ||
        !list_empty(&pool->waiting))
        return;
    drop_idle(pool);
    pool_unlist(pool);
    list_remove(&pool->chore_link);
    list_remove(&pool->link);
    program_unref(pool->program);
    free(pool);
}

void pool_retire(struct pool *pool)
{
    if (!pool->stale) {
        pool->stale = true;
        list_remove(&pool->link);
        list_remove(&pool->chore_link);
        list_push_back(&pool->shard->stale_pools, &pool->link);
    }
    pool_check_unused(pool);
}

void pool_invalidate(struct shard *shard, const char *name)
{
    struct pool *pool = pool_find(shard, name);

    if (pool)
        pool_retire(pool);
}

/* --- ahead of need -------------------------------------------------------------------------- */

/* A warm instance in place of one that was lost, or to reach min_instances; never one that would
 * take something from others. */
static void warm_up(struct pool *pool)
{
    struct hl_error err = HL_ERROR_INIT;
    struct program *program = pool->program;
    struct budget *budget = &pool->shard->engine->budget;
    uint64_t size = snapshot_size(program->snap);
    struct pooled *p;

    if ((!list_empty(&pool->idle) &&
         atomic_load(&program->instances) >= program->entry.limits.min_instances) ||
        atomic_load(&pool->shard->engine->starved) != 0 ||
        budget_used(budget, BUDGET_VMS) >= atomic_load(&budget->limit[BUDGET_VMS]) ||
        budget_used(budget, BUDGET_GUEST_MEMORY) + size >
            atomic_load(&budget->limit[BUDGET_GUEST_MEMORY]))
        return;
    if (pooled_new(pool, &p, &err) < 0)
        return;
    pooled_keep(pool, p);
    if (atomic_load(&program->instances) < program->entry.limits.min_instances)
        want_replacement(pool);
}

bool pool_chore(struct shard *shard)
{
    struct list *l = list_pop_front(&shard->chores);

    if (!l)
        return pooled_make_room(shard) || pooled_make_shell(shard);
    warm_up(LIST_ENTRY(l, struct pool, chore_link));
    return true;
}

void pool_release_all(struct shard *shard)
{
    for (unsigned int i = 0; i < POOL_BUCKETS; i++) {
        while (!list_empty(&shard->pools[i]))
            pool_retire(LIST_ENTRY(shard->pools[i].next, struct pool, link));
    }
    pooled_drop_shells(shard);
}
