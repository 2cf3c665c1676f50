/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A bound that is shared by all shards (a program's max_instances, the budget) can be reached while
 * another shard has idle what this one lacks. So whoever goes without first sets its bit in
 * `wanted` or `starved`, then looks once more, then asks the others; whoever gives something back
 * does so first and looks at the bits afterwards. One of the two therefore sees the other.
 *
 * What is neither here nor there at that moment (an instance on its way to another shard, a spare
 * machine in the making, a reservation that fails half-way) can slip past both. So whoever starves
 * also asks again from time to time.
 */
#include "config.h"

#include "daemon/share.h"

#include <stdlib.h>

#include "daemon/engine.h"
#include "daemon/pool.h"
#include "daemon/shard.h"

#define ASK_AGAIN_MS 5

static uint64_t own_bit(const struct shard *shard)
{
    return 1ull << shard->index;
}

static struct shard *a_shard_of(struct engine *engine, uint64_t bits)
{
    return bits ? &engine->shards[__builtin_ctzll(bits)] : NULL;
}

/* Something was given back: pools that starved may try again. */
static void retry_starved(struct shard *shard)
{
    struct list *l;

    atomic_fetch_and(&shard->engine->starved, ~own_bit(shard));
    while ((l = list_pop_front(&shard->starved))) {
        struct pool *pool = LIST_ENTRY(l, struct pool, waiting_link);

        if (pool->program)
            atomic_fetch_and(&pool->program->wanted, ~own_bit(shard));
        list_push_back(&shard->pending, &pool->waiting_link);
    }
    if (!list_empty(&shard->pending))
        shard_wake(shard);
}

struct note {
    struct mail mail;
    struct shard *from;
    struct program *program; /* a reference, or NULL */
};

static void on_wake(struct mail *mail, void *owner)
{
    free(LIST_ENTRY(mail, struct note, mail));
    retry_starved(owner);
}

static void post_note(struct shard *from, struct shard *to, struct program *program,
                      void (*deliver)(struct mail *, void *))
{
    struct note *note = malloc(sizeof(*note));

    if (!note)
        return; /* the call that waits has its deadline */
    note->from = from;
    note->program = program ? program_ref(program) : NULL;
    mailbox_post(&to->mailbox, &note->mail, deliver);
}

/* Tells those that wait for what was just given back. */
void share_wake(struct shard *shard, _Atomic uint64_t *wanted)
{
    uint64_t bits = wanted ? atomic_exchange(wanted, 0) : 0;

    bits |= atomic_exchange(&shard->engine->starved, 0);
    while (bits) {
        struct shard *other = a_shard_of(shard->engine, bits);

        bits &= bits - 1;
        if (other == shard)
            retry_starved(shard);
        else
            post_note(shard, other, NULL, on_wake);
    }
}

/* The pool of this very program, current or stale. */
static struct pool *pool_of(struct shard *shard, const struct program *program)
{
    struct pool *pool = pool_find(shard, program->entry.name);

    if (pool && pool->program == program)
        return pool;
    LIST_FOREACH(l, &shard->stale_pools)
    {
        pool = LIST_ENTRY(l, struct pool, link);
        if (pool->program == program)
            return pool;
    }
    return NULL;
}

static void on_given(struct mail *mail, void *owner)
{
    struct pooled *p = LIST_ENTRY(mail, struct pooled, mail);
    struct shard *shard = owner;
    struct pool *pool = pool_of(shard, p->program);

    if (!pool || shard->stopping || (pool->stale && list_empty(&pool->waiting))) {
        pooled_free(shard, p);
        return;
    }
    stats_add(&shard->stats, STAT_INSTANCES_MOVED, 1);
    if (list_empty(&pool->waiting)) {
        /* Not needed any more. Whoever asked while it was on its way found it nowhere. */
        struct shard *other = share_wanted_by(shard, &p->program->wanted);

        if (other) {
            share_hand_over(p, other);
            return;
        }
    }
    pooled_keep(pool, p);
    if (!list_empty(&pool->waiting))
        pool_set_pending(pool);
}

void share_hand_over(struct pooled *p, struct shard *to)
{
    p->pool = NULL;
    mailbox_post(&to->mailbox, &p->mail, on_given);
}

/* Another shard wants an instance of this program. */
static void on_wanted(struct mail *mail, void *owner)
{
    struct note *note = LIST_ENTRY(mail, struct note, mail);
    struct shard *shard = owner;
    struct pool *pool = pool_of(shard, note->program);

    /* One that calls here wait for stays: they would ask for it back before it was used. */
    if (pool && list_empty(&pool->waiting) && !list_empty(&pool->idle)) {
        struct pooled *p = LIST_ENTRY(pool->idle.prev, struct pooled, link);

        pooled_forget(p);
        share_hand_over(p, note->from);
    }
    program_unref(note->program);
    free(note);
}

/* Another shard has calls and finds the budget used up. */
static void on_starved(struct mail *mail, void *owner)
{
    struct note *note = LIST_ENTRY(mail, struct note, mail);
    struct shard *shard = owner;

    if (pooled_evict(shard))
        share_wake(shard, NULL);
    free(note);
}

static void on_ask_again(uv_timer_t *timer)
{
    retry_starved(timer->data);
}

static void ask_others(struct shard *shard, struct program *program)
{
    struct engine *engine = shard->engine;

    for (unsigned int i = 0; i < engine->nshards; i++) {
        if (i == shard->index)
            continue;
        if (program)
            post_note(shard, &engine->shards[i], program, on_wanted);
        else
            post_note(shard, &engine->shards[i], NULL, on_starved);
    }
}

void share_starve(struct pool *pool)
{
    struct shard *shard = pool->shard;
    struct program *program = pool->program;
    bool full = atomic_load(&program->instances) >= program->entry.limits.max_instances;

    list_remove(&pool->waiting_link);
    list_push_back(&shard->starved, &pool->waiting_link);
    atomic_fetch_or(full ? &program->wanted : &shard->engine->starved, own_bit(shard));
    ask_others(shard, full ? program : NULL);
    if (!uv_is_active((uv_handle_t *)&shard->starve_timer))
        uv_timer_start(&shard->starve_timer, on_ask_again, ASK_AGAIN_MS, 0);
}

struct shard *share_wanted_by(struct shard *shard, _Atomic uint64_t *wanted)
{
    uint64_t bits = atomic_load(wanted) & ~own_bit(shard);

    if (bits != 0)
        atomic_fetch_and(wanted, ~(bits & -bits));
    return a_shard_of(shard->engine, bits);
}

void share_forget(struct pool *pool)
{
    if (pool->program)
        atomic_fetch_and(&pool->program->wanted, ~own_bit(pool->shard));
}
