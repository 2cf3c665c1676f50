/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Taking and giving back instances. A bound that is shared by all shards (a program's
 * max_instances, the budget) can be reached while another shard has idle what this one lacks. So
 * whoever goes without first sets its bit in `wanted` or `starved`, then looks once more, then asks
 * the others; whoever gives something back does so first and looks at the bits afterwards. One of
 * the two therefore sees the other, and no call waits for something that lies idle.
 */
#include "config.h"

#include "daemon/pool.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/call.h"
#include "daemon/engine.h"
#include "daemon/shard.h"
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

struct pool *pool_new(struct shard *shard, const char *name)
{
    struct pool *pool = calloc(1, sizeof(*pool));

    if (!pool)
        return NULL;
    pool->shard = shard;
    memcpy(pool->name, name, strlen(name) + 1);
    list_init(&pool->waiting);
    list_init(&pool->waiting_link);
    list_init(&pool->chore_link);
    list_init(&pool->idle);
    list_push_front(bucket(shard, name), &pool->link);
    pool->resolving = true;
    pool->resolve.shard = shard;
    pool->resolve.done = on_resolved;
    memcpy(pool->resolve.name, name, strlen(name) + 1);
    images_resolve(shard->engine, &pool->resolve);
    return pool;
}

/* --- going without -------------------------------------------------------------------------- */

static uint64_t own_bit(const struct shard *shard)
{
    return 1ull << shard->index;
}

static bool other_wants(const struct shard *shard, _Atomic uint64_t *wanted)
{
    return (atomic_load(wanted) & ~own_bit(shard)) != 0;
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
static void wake_others(struct shard *shard, _Atomic uint64_t *wanted)
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

void pool_unlist(struct pool *pool)
{
    list_remove(&pool->waiting_link);
    if (pool->program)
        atomic_fetch_and(&pool->program->wanted, ~own_bit(pool->shard));
}

void pool_set_pending(struct pool *pool)
{
    if (!pool->program || pool->resolving)
        return;
    list_remove(&pool->waiting_link);
    list_push_back(&pool->shard->pending, &pool->waiting_link);
    shard_wake(pool->shard);
}

/* --- instances ------------------------------------------------------------------------------ */

struct ready_shell {
    struct list link;
    struct shell *shell;
    uint64_t size;
    struct charge vm;
};

static void shell_discard(struct shard *shard, struct ready_shell *ready)
{
    list_remove(&ready->link);
    shard->nshells--;
    shell_free(ready->shell);
    charge_release(&ready->vm);
    free(ready);
}

static void forget_idle(struct pooled *p)
{
    list_remove(&p->link);
    list_remove(&p->lru_link);
    atomic_fetch_sub(&p->program->warm, 1);
}

static void pooled_free(struct shard *shard, struct pooled *p)
{
    struct program *program = p->program;

    instance_free(p->inst);
    charge_release(&p->vm);
    charge_release(&p->memory);
    free(p);
    stats_add(&shard->stats, STAT_INSTANCES_DESTROYED, 1);
    atomic_fetch_sub(&program->instances, 1);
    wake_others(shard, &program->wanted);
    program_unref(program);
}

/* Gives back the least useful idle thing of this shard. Returns: whether there was one. */
static bool evict_one(struct shard *shard, const struct pool *spare)
{
    LIST_FOREACH(l, &shard->shells)
    {
        shell_discard(shard, LIST_ENTRY(l, struct ready_shell, link));
        return true;
    }
    LIST_FOREACH(l, &shard->idle_instances)
    {
        struct pooled *p = LIST_ENTRY(l, struct pooled, lru_link);

        if (p->pool == spare)
            continue;
        forget_idle(p);
        pooled_free(shard, p);
        return true;
    }
    return false;
}

static bool charge_evicting(struct pool *pool, struct charge *charge, enum budget_kind kind,
                            uint64_t amount)
{
    struct shard *shard = pool->shard;

    while (!charge_set(charge, &shard->engine->budget, kind, amount)) {
        if (!evict_one(shard, pool))
            return false;
    }
    return true;
}

static struct ready_shell *find_shell(struct shard *shard, uint64_t size)
{
    LIST_FOREACH(l, &shard->shells)
    {
        struct ready_shell *ready = LIST_ENTRY(l, struct ready_shell, link);

        if (ready->size == size)
            return ready;
    }
    return NULL;
}

static int take_shell(struct pool *pool, struct pooled *p, struct shell **out, struct hl_error *err)
{
    struct shard *shard = pool->shard;
    uint64_t size = shell_class(snapshot_size(pool->program->snap));
    struct ready_shell *ready = find_shell(shard, size);

    shard->shell_size = size;
    if (ready) {
        list_remove(&ready->link);
        shard->nshells--;
        *out = ready->shell;
        p->vm = ready->vm;
        free(ready);
        shard_wake(shard); /* to make another */
        return 0;
    }
    if (!charge_evicting(pool, &p->vm, BUDGET_VMS, 1))
        return -EAGAIN;
    return shell_new(out, shard->engine->hv, shard->engine->host, size, err);
}

static bool reserve_instance(struct program *program)
{
    unsigned int n = atomic_load(&program->instances);

    do {
        if (n >= program->entry.limits.max_instances)
            return false;
    } while (!atomic_compare_exchange_weak(&program->instances, &n, n + 1));
    return true;
}

static int make_instance(struct pool *pool, struct pooled *p, struct hl_error *err)
{
    struct shard *shard = pool->shard;
    struct program *program = pool->program;
    struct shell *shell = NULL;
    int r;

    if (!charge_evicting(pool, &p->memory, BUDGET_GUEST_MEMORY, snapshot_size(program->snap)))
        return -EAGAIN;
    r = take_shell(pool, p, &shell, err);
    if (r < 0)
        return r;
    r = instance_bind(&p->inst, shell, program->snap, program->img, err);
    if (r < 0)
        return r;
    instance_set_log(p->inst, program_log_line, &program->log);
    if (shard->engine->reset_skip)
        instance_set_skip(p->inst, shard->engine->reset_skip);
    p->program = program_ref(program);
    p->pool = pool;
    p->bound_ns = hv_now_ns();
    stats_add(&shard->stats, STAT_INSTANCES_MADE, 1);
    return 0;
}

static int new_instance(struct pool *pool, struct pooled **out, struct hl_error *err)
{
    struct pooled *p;
    int r;

    if (!reserve_instance(pool->program))
        return -EAGAIN;
    p = calloc(1, sizeof(*p));
    if (!p) {
        atomic_fetch_sub(&pool->program->instances, 1);
        return hl_error_set(err, -ENOMEM, "out of memory");
    }
    list_init(&p->link);
    list_init(&p->lru_link);
    r = make_instance(pool, p, err);
    if (r < 0) {
        charge_release(&p->vm);
        charge_release(&p->memory);
        free(p);
        atomic_fetch_sub(&pool->program->instances, 1);
        return r;
    }
    *out = p;
    return 0;
}

int pool_take(struct pool *pool, struct pooled **out, struct hl_error *err)
{
    struct shard *shard = pool->shard;
    struct budget *budget = &shard->engine->budget;
    int r;

    if (!list_empty(&pool->idle)) {
        struct pooled *p = LIST_ENTRY(pool->idle.next, struct pooled, link);

        forget_idle(p);
        *out = p;
        r = 0;
    } else {
        if (snapshot_size(pool->program->snap) > atomic_load(&budget->limit[BUDGET_GUEST_MEMORY]))
            return hl_error_set(err, -ENOMEM,
                                "the image's memory is over the worker's whole budget");
        r = new_instance(pool, out, err);
    }
    if (r < 0)
        return r;
    pool->busy++;
    atomic_fetch_add(&pool->program->running, 1);
    return 0;
}

static void keep(struct pool *pool, struct pooled *p)
{
    p->pool = pool;
    list_push_front(&pool->idle, &p->link);
    list_push_back(&pool->shard->idle_instances, &p->lru_link);
    atomic_fetch_add(&p->program->warm, 1);
}

/* --- between shards ------------------------------------------------------------------------- */

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
    keep(pool, p);
    if (!list_empty(&pool->waiting))
        pool_set_pending(pool);
}

static void hand_over(struct pooled *p, struct shard *to)
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

    if (pool && !list_empty(&pool->idle)) {
        struct pooled *p = LIST_ENTRY(pool->idle.prev, struct pooled, link);

        forget_idle(p);
        hand_over(p, note->from);
    }
    program_unref(note->program);
    free(note);
}

/* Another shard has calls and finds the budget used up. */
static void on_starved(struct mail *mail, void *owner)
{
    struct note *note = LIST_ENTRY(mail, struct note, mail);
    struct shard *shard = owner;

    if (evict_one(shard, NULL))
        wake_others(shard, NULL);
    free(note);
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

void pool_set_starved(struct pool *pool)
{
    struct shard *shard = pool->shard;
    struct program *program = pool->program;
    bool full = atomic_load(&program->instances) >= program->entry.limits.max_instances;

    list_remove(&pool->waiting_link);
    list_push_back(&shard->starved, &pool->waiting_link);
    atomic_fetch_or(full ? &program->wanted : &shard->engine->starved, own_bit(shard));
    ask_others(shard, full ? program : NULL);
}

/* --- after a call --------------------------------------------------------------------------- */

static void not_busy(struct pooled *p)
{
    p->pool->busy--;
    atomic_fetch_sub(&p->program->running, 1);
}

static int reset(struct shard *shard, struct pooled *p)
{
    uint32_t every = shard->settings.audit_every;
    bool audit = every > 0 && ++shard->resets % every == 0;
    struct hl_error err = HL_ERROR_INIT;
    int r = instance_reset(p->inst, audit, &p->pages_reset, &err);

    stats_add(&shard->stats, STAT_RESETS, 1);
    stats_add(&shard->stats, STAT_AUDITS, audit);
    if (r == 0)
        stats_add(&shard->stats, STAT_PAGES_RESET, p->pages_reset);
    if (r == -EBADMSG) {
        stats_add(&shard->stats, STAT_AUDIT_FAILURES, 1);
        log_write(LOG_LEVEL_CRITICAL, "audit: an instance of %s was not as its snapshot: %s",
                  p->program->entry.name, err.text);
    } else if (r < 0) {
        log_limited(&shard->log_limit, LOG_LEVEL_WARNING, "reset of an instance of %s: %s",
                    p->program->entry.name, err.text);
    }
    return r;
}

/* Whether another shard should have p, which is idle now. Returns: that shard or NULL. */
static struct shard *wanted_by(struct pool *pool, struct pooled *p)
{
    struct shard *shard = pool->shard;
    uint64_t bits;

    if (!other_wants(shard, &p->program->wanted)) {
        pool->turns = 0;
        return NULL;
    }
    if (!list_empty(&pool->waiting) && ++pool->turns < TURNS)
        return NULL;
    pool->turns = 0;
    bits = atomic_load(&p->program->wanted) & ~own_bit(shard);
    if (bits == 0)
        return NULL;
    atomic_fetch_and(&p->program->wanted, ~(bits & -bits));
    return a_shard_of(shard->engine, bits);
}

static void want_replacement(struct pool *pool)
{
    if (pool->stale || !pool->program || !list_empty(&pool->chore_link))
        return;
    list_push_back(&pool->shard->chores, &pool->chore_link);
    shard_wake(pool->shard);
}

void pool_give_back(struct pooled *p)
{
    struct pool *pool = p->pool;
    struct shard *shard = pool->shard;
    struct shard *other;

    if (reset(shard, p) != 0) {
        pool_destroy(p);
        return;
    }
    not_busy(p);
    p->calls++;
    other = wanted_by(pool, p);
    if (other) {
        hand_over(p, other);
    } else if ((pool->stale && list_empty(&pool->waiting)) || shard->stopping ||
               (list_empty(&pool->waiting) && other_wants(shard, &shard->engine->starved))) {
        pooled_free(shard, p);
    } else {
        keep(pool, p);
        if (atomic_load_explicit(&p->program->instances, memory_order_relaxed) <
            p->program->entry.limits.min_instances)
            want_replacement(pool);
    }
    if (!list_empty(&pool->waiting))
        pool_set_pending(pool);
    if (!list_empty(&shard->starved))
        retry_starved(shard); /* what is idle now can make room */
    pool_check_unused(pool);
}

void pool_destroy(struct pooled *p)
{
    struct pool *pool = p->pool;

    not_busy(p);
    pooled_free(pool->shard, p);
    if (!list_empty(&pool->waiting))
        pool_set_pending(pool);
    else
        want_replacement(pool);
    pool_check_unused(pool);
}

/* --- versions ------------------------------------------------------------------------------- */

static void drop_idle(struct pool *pool)
{
    while (!list_empty(&pool->idle)) {
        struct pooled *p = LIST_ENTRY(pool->idle.next, struct pooled, link);

        forget_idle(p);
        pooled_free(pool->shard, p);
    }
}

void pool_check_unused(struct pool *pool)
{
    if (!pool->stale || pool->resolving || pool->busy > 0 || !list_empty(&pool->waiting))
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
    if (new_instance(pool, &p, &err) < 0)
        return;
    keep(pool, p);
    if (atomic_load(&program->instances) < program->entry.limits.min_instances)
        want_replacement(pool);
}

struct shell_work {
    uv_work_t work;
    struct shard *shard;
    struct ready_shell *ready;
    struct hl_error err;
    int result;
};

static void make_shell(uv_work_t *work)
{
    struct shell_work *job = work->data;
    struct engine *engine = job->shard->engine;

    job->result =
        shell_new(&job->ready->shell, engine->hv, engine->host, job->ready->size, &job->err);
}

static void on_shell_made(uv_work_t *work, int status)
{
    struct shell_work *job = work->data;
    struct shard *shard = job->shard;
    struct ready_shell *ready = job->ready;

    shard->works--;
    shard->shells_making--;
    if (status < 0 || job->result < 0) {
        charge_release(&ready->vm);
        free(ready);
    } else {
        list_push_back(&shard->shells, &ready->link);
        shard->nshells++;
        if (shard->stopping)
            shell_discard(shard, ready);
    }
    free(job);
    shard_check_quiet(shard);
}

static bool start_shell(struct shard *shard)
{
    struct engine *engine = shard->engine;
    struct shell_work *job;
    struct ready_shell *ready;

    if (shard->shell_size == 0 || shard->stopping || shard->draining ||
        shard->nshells + shard->shells_making >= shard->settings.shells ||
        atomic_load(&engine->starved) != 0)
        return false;
    job = calloc(1, sizeof(*job));
    ready = calloc(1, sizeof(*ready));
    if (!job || !ready || !charge_set(&ready->vm, &engine->budget, BUDGET_VMS, 1)) {
        free(job);
        free(ready);
        return false;
    }
    list_init(&ready->link);
    ready->size = shard->shell_size;
    job->shard = shard;
    job->ready = ready;
    job->work.data = job;
    uv_queue_work(&shard->loop, &job->work, make_shell, on_shell_made);
    shard->works++;
    shard->shells_making++;
    return true;
}

bool pool_chore(struct shard *shard)
{
    struct list *l = list_pop_front(&shard->chores);

    if (!l)
        return start_shell(shard);
    warm_up(LIST_ENTRY(l, struct pool, chore_link));
    return true;
}

void pool_release_all(struct shard *shard)
{
    for (unsigned int i = 0; i < POOL_BUCKETS; i++) {
        while (!list_empty(&shard->pools[i]))
            pool_retire(LIST_ENTRY(shard->pools[i].next, struct pool, link));
    }
    while (!list_empty(&shard->shells))
        shell_discard(shard, LIST_ENTRY(shard->shells.next, struct ready_shell, link));
}
