/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Making and unmaking instances. What is made is charged first; where the charge is refused, idle
 * things of this shard go until it is not: shells before instances, the longest unused before
 * others. Creating a VM takes milliseconds, so some shells stand ready, made by the thread pool.
 */
#include "config.h"

#include "daemon/pooled.h"

#include <errno.h>
#include <stdlib.h>

#include "daemon/engine.h"
#include "daemon/pool.h"
#include "daemon/program.h"
#include "daemon/shard.h"
#include "daemon/share.h"
#include "hv/timer.h"

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

void pooled_forget(struct pooled *p)
{
    list_remove(&p->link);
    list_remove(&p->lru_link);
    atomic_fetch_sub(&p->program->warm, 1);
}

void pooled_free(struct shard *shard, struct pooled *p)
{
    struct program *program = p->program;

    instance_free(p->inst);
    charge_release(&p->vm);
    charge_release(&p->memory);
    free(p);
    stats_add(&shard->stats, STAT_INSTANCES_DESTROYED, 1);
    atomic_fetch_sub(&program->instances, 1);
    share_wake(shard, &program->wanted);
    program_unref(program);
}

bool pooled_evict(struct shard *shard, const struct pool *spare)
{
    LIST_FOREACH(l, &shard->shells)
    {
        shell_discard(shard, LIST_ENTRY(l, struct ready_shell, link));
        return true;
    }
    LIST_FOREACH(l, &shard->idle_instances)
    {
        struct pooled *p = LIST_ENTRY(l, struct pooled, lru_link);

        if (p->pool == spare || !list_empty(&p->pool->waiting))
            continue;
        pooled_forget(p);
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
        if (!pooled_evict(shard, pool))
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

int pooled_new(struct pool *pool, struct pooled **out, struct hl_error *err)
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

void pooled_keep(struct pool *pool, struct pooled *p)
{
    p->pool = pool;
    list_push_front(&pool->idle, &p->link);
    list_push_back(&pool->shard->idle_instances, &p->lru_link);
    atomic_fetch_add(&p->program->warm, 1);
}

/* --- shells ahead of need -------------------------------------------------------------------- */

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

bool pooled_make_shell(struct shard *shard)
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

void pooled_drop_shells(struct shard *shard)
{
    while (!list_empty(&shard->shells))
        shell_discard(shard, LIST_ENTRY(shard->shells.next, struct ready_shell, link));
}
