/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Making and unmaking instances. What is made is charged first. Where the charge is refused, idle
 * instances of this shard go until it is not, the longest unused first; their machines are not
 * destroyed for that: unbound, a machine is a shell, and a shell becomes an instance of any image
 * of its size in a fraction of the time that a new machine takes. So as many images as there are
 * share the machines that the budget allows.
 *
 * The call waits for no other shard. But if one has had an instance idle for longer than the one
 * that went, it is asked to let that go too, behind the reply; the machine comes here, and the next
 * call finds room. So what one shard does not use any more does not stay while another makes its
 * instances over and over. Each shard's oldest_ms says whether it is worth asking: since what is
 * used later is never older, it is a bound until the next question, and calls need not keep it.
 *
 * Creating a machine takes about a millisecond, so some shells stand ready, made by the thread
 * pool; one of a size that is not needed gives its place to one of a size that is.
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

#define IDLE_LEAST   4u    /* fewer are not reduced to make room ahead of need */
#define ASK_EMPTY_MS 1000u /* for so long a shard with nothing idle is not asked again */

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
    p->pool->shard->nidle--;
    atomic_fetch_sub(&p->program->warm, 1);
    if (p->pool->shard->keeping == p)
        p->pool->shard->keeping = NULL;
    p->keeps = false;
}

void pooled_relax(struct shard *shard)
{
    struct pooled *p = shard->keeping;

    if (!p)
        return;
    shard->keeping = NULL;
    p->keeps = false;
    if (instance_relax(p->inst) == 0)
        return;
    pooled_forget(p);
    pooled_free(shard, p);
}

void pooled_free(struct shard *shard, struct pooled *p)
{
    struct program *program = p->program;

    instance_free(p->inst);
    charge_release(&p->vm);
    charge_release(&p->memory);
    stats_add(&shard->stats, STAT_INSTANCES_DESTROYED, 1);
    if (!p->apart)
        atomic_fetch_sub(&program->instances, 1);
    free(p);
    share_wake(shard, &program->wanted);
    program_unref(program);
}

static uint64_t class_of(const struct program *program)
{
    return shell_class(snapshot_size(program->snap));
}

/* Takes p's machine and its charge. Returns: the shell, or NULL where it cannot be one. */
static struct ready_shell *unbind(struct shard *shard, struct pooled *p)
{
    struct ready_shell *ready = shard->stopping ? NULL : calloc(1, sizeof(*ready));

    if (!ready)
        return NULL;
    ready->shell = instance_unbind(p->inst);
    p->inst = NULL; /* unbound or freed */
    if (!ready->shell) {
        free(ready);
        return NULL;
    }
    ready->size = class_of(p->program);
    ready->vm = p->vm;
    p->vm = (struct charge){0};
    stats_add(&shard->stats, STAT_INSTANCES_UNBOUND, 1);
    return ready;
}

static void keep_shell(struct shard *shard, struct ready_shell *ready)
{
    list_push_front(&shard->shells, &ready->link);
    shard->nshells++;
}

void pooled_retire(struct shard *shard, struct pooled *p)
{
    struct ready_shell *ready = unbind(shard, p);

    if (ready)
        keep_shell(shard, ready);
    pooled_free(shard, p);
}

/* The longest unused idle instance, but none of spare, none that calls wait for, and of machine
 * size `class` unless that is 0. */
static struct pooled *oldest_idle(struct shard *shard, const struct pool *spare, uint64_t class)
{
    LIST_FOREACH(l, &shard->idle_instances)
    {
        struct pooled *p = LIST_ENTRY(l, struct pooled, lru_link);

        if (p->pool != spare && list_empty(&p->pool->waiting) &&
            (class == 0 || class_of(p->program) == class))
            return p;
    }
    return NULL;
}

static bool retire_oldest(struct shard *shard, const struct pool *spare, uint64_t class)
{
    struct pooled *p = oldest_idle(shard, spare, class);

    if (!p)
        return false;
    pooled_forget(p);
    pooled_retire(shard, p);
    return true;
}

/* The same for a call of pool: the shard may ask others for room. */
static bool make_way(struct pool *pool, uint64_t class)
{
    struct shard *shard = pool->shard;
    const struct pooled *p = oldest_idle(shard, pool, class);

    if (!p)
        return false;
    shard->retired_ms = p->used_ms;
    return retire_oldest(shard, pool, class);
}

static bool discard_a_shell(struct shard *shard)
{
    if (list_empty(&shard->shells))
        return false;
    shell_discard(shard, LIST_ENTRY(shard->shells.prev, struct ready_shell, link));
    return true;
}

bool pooled_evict(struct shard *shard)
{
    struct budget *budget = &shard->engine->budget;

    if (budget_used(budget, BUDGET_VMS) < atomic_load(&budget->limit[BUDGET_VMS]))
        return retire_oldest(shard, NULL, 0);
    if (list_empty(&shard->shells))
        (void)retire_oldest(shard, NULL, 0);
    return discard_a_shell(shard);
}

static bool charge_memory(struct pool *pool, struct charge *charge)
{
    struct shard *shard = pool->shard;
    struct budget *budget = &shard->engine->budget;
    uint64_t size = snapshot_size(pool->program->snap);
    bool enough;

    while (!charge_set(charge, budget, BUDGET_GUEST_MEMORY, size)) {
        if (!make_way(pool, 0))
            return false;
        shard->memory_short = true;
    }
    /* Once images take each other's place, the next one should find room made already. */
    enough = budget_used(budget, BUDGET_GUEST_MEMORY) + size <=
             atomic_load(&budget->limit[BUDGET_GUEST_MEMORY]);
    shard->memory_short = shard->memory_short && !enough;
    shard->room_wanted = shard->room_wanted || shard->memory_short;
    return true;
}

/* For a machine of a size that no shell here has: shells of other sizes go. */
static bool charge_machine(struct pool *pool, struct charge *charge)
{
    struct shard *shard = pool->shard;

    while (!charge_set(charge, &shard->engine->budget, BUDGET_VMS, 1)) {
        if (list_empty(&shard->shells) && !make_way(pool, 0))
            return false;
        (void)discard_a_shell(shard);
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

static bool machines_are_short(struct shard *shard)
{
    struct budget *budget = &shard->engine->budget;

    return budget_used(budget, BUDGET_VMS) >= atomic_load(&budget->limit[BUDGET_VMS]);
}

static uint64_t *latest_ask(struct shard *shard, uint64_t size)
{
    return &shard->shell_asked[__builtin_ctzll(size)];
}

static void note_ask(struct shard *shard, uint64_t size, bool missed)
{
    uint64_t *latest = latest_ask(shard, size);

    shard->shell_size = size;
    if (missed) {
        shard->shell_missed = size;
        shard->shell_before = *latest;
    }
    *latest = ++shard->shell_asks;
    shard_wake(shard); /* to make others, behind the reply */
}

static int take_shell(struct pool *pool, struct pooled *p, struct shell **out, struct hl_error *err)
{
    struct shard *shard = pool->shard;
    uint64_t size = class_of(pool->program);
    struct ready_shell *ready = find_shell(shard, size);

    note_ask(shard, size, !ready);
    if (!ready && machines_are_short(shard) && make_way(pool, size)) {
        shard->room_wanted = true;
        ready = find_shell(shard, size);
    }
    if (ready) {
        list_remove(&ready->link);
        shard->nshells--;
        *out = ready->shell;
        p->vm = ready->vm;
        free(ready);
        return 0;
    }
    if (!charge_machine(pool, &p->vm))
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

    if (!charge_memory(pool, &p->memory))
        return -EAGAIN;
    r = take_shell(pool, p, &shell, err);
    if (r < 0)
        return r;
    r = instance_bind(&p->inst, shell, program->snap, program->img, err);
    if (r < 0)
        return r;
    instance_set_log(p->inst, program_log_line, &program->log);
    if (program->entry.host.deterministic)
        instance_set_deterministic(p->inst, program->entry.sha256);
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
    p->used_ms = uv_now(&pool->shard->loop);
    list_push_front(&pool->idle, &p->link);
    list_push_back(&pool->shard->idle_instances, &p->lru_link);
    pool->shard->nidle++;
    atomic_fetch_add(&p->program->warm, 1);
    if (!p->keeps)
        return;
    pooled_relax(pool->shard);
    pool->shard->keeping = p;
    pool->shard->keeping_ns = hv_now_ns();
}

/* --- room ahead of need ---------------------------------------------------------------------- */

/* oldest_ms fits what is idle. */
static void note_oldest(struct shard *shard)
{
    uint64_t ms = uv_now(&shard->loop) + ASK_EMPTY_MS;

    if (!list_empty(&shard->idle_instances))
        ms = LIST_ENTRY(shard->idle_instances.next, struct pooled, lru_link)->used_ms;
    atomic_store_explicit(&shard->oldest_ms, ms, memory_order_relaxed);
}

static void on_room_answered(struct mail *mail, void *owner)
{
    struct shard *shard = owner;

    (void)mail;
    shard->works--;
    shard->room.asked = false;
    if (shard->room.shell)
        keep_shell(shard, shard->room.shell);
    shard_check_quiet(shard);
}

static void on_room_asked(struct mail *mail, void *owner)
{
    struct room *room = LIST_ENTRY(mail, struct room, mail);
    struct shard *from = LIST_ENTRY(room, struct shard, room);
    struct shard *shard = owner;
    struct pooled *p = oldest_idle(shard, NULL, 0);

    room->shell = NULL;
    if (p && p->used_ms < room->before_ms) {
        pooled_forget(p);
        if (class_of(p->program) == room->wanted)
            room->shell = unbind(shard, p);
        pooled_free(shard, p);
    }
    note_oldest(shard);
    mailbox_post(&from->mailbox, mail, on_room_answered);
}

/* Returns: whether a shard may have something that is unused since before then, and is asked. */
static bool ask_for_room(struct shard *shard, uint64_t before_ms)
{
    struct engine *engine = shard->engine;
    struct shard *best = NULL;
    uint64_t oldest = before_ms;

    for (unsigned int i = 0; i < engine->nshards; i++) {
        struct shard *other = &engine->shards[i];
        uint64_t ms = atomic_load_explicit(&other->oldest_ms, memory_order_relaxed);

        if (other != shard && ms < oldest) {
            oldest = ms;
            best = other;
        }
    }
    if (!best)
        return false;
    shard->works++;
    shard->room.asked = true;
    shard->room.before_ms = before_ms;
    shard->room.wanted = shard->shell_size;
    mailbox_post(&best->mailbox, &shard->room.mail, on_room_asked);
    return true;
}

bool pooled_make_room(struct shard *shard)
{
    const struct pooled *p;
    uint64_t before_ms;
    bool own;

    if (!shard->room_wanted && shard->retired_ms == 0)
        return false;
    p = oldest_idle(shard, NULL, 0);
    own = shard->room_wanted && p && shard->nidle >= IDLE_LEAST;
    before_ms = own ? p->used_ms : shard->retired_ms;
    shard->room_wanted = false;
    shard->retired_ms = 0;
    if (shard->room.asked)
        return false;
    if (before_ms > 0 && !shard->stopping && ask_for_room(shard, before_ms))
        return true;
    return own && retire_oldest(shard, NULL, 0);
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
    struct ready_shell *ready = job->ready;

    shell_free(ready->shell); /* one whose place it takes */
    job->result = shell_new(&ready->shell, engine->hv, engine->host, ready->size, &job->err);
}

static void on_shell_made(uv_work_t *work, int status)
{
    struct shell_work *job = work->data;
    struct shard *shard = job->shard;
    struct ready_shell *ready = job->ready;

    shard->works--;
    shard->shells_making--;
    if (status < 0 || job->result < 0) {
        shell_free(ready->shell);
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

static unsigned int count_shells(struct shard *shard, uint64_t size)
{
    unsigned int n = 0;

    LIST_FOREACH(l, &shard->shells)
    {
        n += LIST_ENTRY(l, struct ready_shell, link)->size == size;
    }
    return n;
}

static struct ready_shell *charge_shell(struct shard *shard)
{
    struct ready_shell *ready = calloc(1, sizeof(*ready));

    if (!ready || charge_set(&ready->vm, &shard->engine->budget, BUDGET_VMS, 1))
        return ready;
    free(ready);
    return NULL;
}

/* A shell that can give its place to one of the size that was missed: there is another of its size,
 * or its size was not asked for since the missed one was last. So sizes that are asked for in turns
 * do not push each other out. */
static struct ready_shell *replace_shell(struct shard *shard)
{
    for (struct list *l = shard->shells.prev; l != &shard->shells; l = l->prev) {
        struct ready_shell *ready = LIST_ENTRY(l, struct ready_shell, link);

        if (ready->size != shard->shell_missed &&
            (count_shells(shard, ready->size) > 1 ||
             *latest_ask(shard, ready->size) < shard->shell_before)) {
            list_remove(&ready->link);
            shard->nshells--;
            return ready;
        }
    }
    return NULL;
}

/* What the next shell goes into, charged, or NULL: there are enough, or there is no place. */
static struct ready_shell *place_shell(struct shard *shard)
{
    uint64_t missed = shard->shell_missed;
    unsigned int most = shard->settings.shells;
    struct ready_shell *ready = NULL;

    if (shard->nshells + shard->shells_making < most)
        ready = charge_shell(shard);
    if (!ready && missed && count_shells(shard, missed) + shard->shells_making < most)
        ready = replace_shell(shard);
    if (ready)
        ready->size = missed ? missed : shard->shell_size;
    shard->shell_missed = 0;
    return ready;
}

bool pooled_make_shell(struct shard *shard)
{
    struct shell_work *job;

    if (shard->shell_size == 0 || shard->stopping || shard->draining ||
        (shard->nshells + shard->shells_making >= shard->settings.shells && !shard->shell_missed) ||
        atomic_load(&shard->engine->starved) != 0)
        return false;
    job = calloc(1, sizeof(*job));
    if (job)
        job->ready = place_shell(shard);
    if (!job || !job->ready) {
        free(job);
        return false;
    }
    job->shard = shard;
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
