/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Runs away from their shards. On a long-run thread clients take turns of a slice each, however
 * many runs each has there, and the runs of a client likewise; the thread has a loop of its own,
 * whose mailbox it looks at between slices. It is niced: a shard that wakes up has more of a claim
 * on the CPU than a thread that has been computing, so short calls hardly notice long ones, and a
 * shard never waits for a long-run thread. What goes to and fro is always the same mail, part of
 * the instance, so nothing is allocated and nothing is locked.
 *
 * A shard with a backlog gives whole calls to shards that are idle: at once to one that polls,
 * since that costs a microsecond or two, and only with several calls behind to one that sleeps,
 * since waking it takes as long as running a few of them.
 */
#include "config.h"

#include "daemon/run.h"

#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <uv.h>

#include "daemon/call.h"
#include "daemon/conn.h"
#include "daemon/engine.h"
#include "daemon/host.h"
#include "daemon/pool.h"
#include "daemon/pooled.h"
#include "daemon/shard.h"
#include "hv/timer.h"

#define SLICE_NS        10000000u
#define BACKLOG_TO_WAKE 3u

struct runner {
    struct engine *engine;
    uv_thread_t thread;
    uv_loop_t loop;
    struct mailbox mailbox;
    uv_idle_t idle;      /* active while there are runs */
    struct list clients; /* the first run of each, next to have its turn first */
    atomic_uint count;   /* given to it and not come back */
    struct mail end_mail;
};

static struct pooled *pooled_of(struct run *run)
{
    return LIST_ENTRY(run, struct pooled, run);
}

void run_slice(struct pooled *p, uint64_t until_ns)
{
    struct run *run = &p->run;
    uint64_t start = hv_now_ns();
    bool again;

    do {
        run->state = instance_run(p->inst, until_ns);
        run->left_ns = hv_now_ns();
        again = run->state == INSTANCE_HOST_CALL && host_answer_here(p);
        if (again && run->left_ns >= until_ns) {
            run->state = INSTANCE_KICKED;
            again = false;
        }
    } while (again);
    run->run_ns += run->left_ns - start;
}

/* --- back at the shard ---------------------------------------------------------------------- */

static void on_back(struct mail *mail, void *owner)
{
    struct run *run = LIST_ENTRY(mail, struct run, mail);
    struct pooled *p = pooled_of(run);
    struct shard *shard = owner;

    shard->away--;
    if (run->job == RUN_RESET)
        pool_was_reset(p, run->result, run->audit);
    else if (run->call)
        call_returned(run->call);
    else
        pool_destroy(p);
    shard_check_quiet(shard);
}

static void give_back(struct run *run)
{
    mailbox_post(&run->owner->mailbox, &run->mail, on_back);
}

static void send_away(struct call *call)
{
    struct run *run = &call->pooled->run;

    run->job = RUN_CALL;
    run->client = call->conn;
    run->owner = call->shard;
    run->call = call;
    run->deadline_ns = call->deadline_ns;
    run->run_ns = 0;
    atomic_store(&run->stop, false);
    run->owner->away++;
}

void run_abandon(struct pooled *p)
{
    p->run.call = NULL;
    atomic_store(&p->run.stop, true);
    instance_kick(p->inst);
}

static bool is_over(struct run *run, uint64_t now)
{
    return run->state != INSTANCE_KICKED || atomic_load(&run->stop) || now >= run->deadline_ns;
}

/* Starts nothing that has to stop at once. Returns: whether the guest ran. */
static bool slice(struct run *run, uint64_t ns)
{
    uint64_t now = hv_now_ns(), until = now + ns;

    run->state = INSTANCE_KICKED;
    run->left_ns = now;
    if (is_over(run, now))
        return false;
    run_slice(pooled_of(run), until < run->deadline_ns ? until : run->deadline_ns);
    return true;
}

/* --- at another shard ----------------------------------------------------------------------- */

static void on_helping(struct mail *mail, void *owner)
{
    struct run *run = LIST_ENTRY(mail, struct run, mail);
    struct shard *shard = owner;

    stats_add(&shard->stats, STAT_STOLEN, 1);
    (void)slice(run, shard->settings.quantum_ns);
    give_back(run); /* not over: its shard finds a long-run thread */
}

static struct shard *idle_shard(struct shard *shard, _Atomic uint64_t *set)
{
    uint64_t own = 1ull << shard->index;
    uint64_t bits = atomic_load_explicit(set, memory_order_relaxed) & ~own;

    while (bits) {
        uint64_t bit = bits & -bits;

        if (atomic_fetch_and(set, ~bit) & bit) /* one call each; it lists itself again */
            return &shard->engine->shards[__builtin_ctzll(bit)];
        bits &= ~bit;
    }
    return NULL;
}

bool run_helped(struct call *call)
{
    struct shard *shard = call->shard, *helper = NULL;
    struct engine *engine = shard->engine;
    unsigned int backlog;

    if (atomic_load_explicit(&engine->idle, memory_order_relaxed) == 0)
        return false;
    backlog = shard_backlog(shard) + call->conn->more;
    if (backlog > 0)
        helper = idle_shard(shard, &engine->polling);
    if (!helper && backlog >= BACKLOG_TO_WAKE)
        helper = idle_shard(shard, &engine->idle);
    if (!helper)
        return false;
    send_away(call);
    mailbox_post(&helper->mailbox, &call->pooled->run.mail, on_helping);
    return true;
}

/* --- at a long-run thread ------------------------------------------------------------------- */

static void reset(struct run *run)
{
    run->err = (struct hl_error)HL_ERROR_INIT;
    run->result = instance_reset(pooled_of(run)->inst, run->audit, &run->pages, &run->err);
}

static void enqueue(struct runner *runner, struct run *run)
{
    LIST_FOREACH(l, &runner->clients)
    {
        struct run *first = LIST_ENTRY(l, struct run, link);

        if (first->client == run->client) {
            list_push_back(&first->behind, &run->link);
            return;
        }
    }
    list_init(&run->behind);
    list_push_back(&runner->clients, &run->link);
}

/* Takes run, its client's first, out. The one behind it has its place, or (last) a place behind
 * all other clients. */
static void dequeue(struct runner *runner, struct run *run, bool last)
{
    struct list *l = list_pop_front(&run->behind);
    struct run *next;

    if (l) {
        next = LIST_ENTRY(l, struct run, link);
        list_init(&next->behind);
        list_push_front(&run->behind, &next->behind); /* into the ring in its place */
        list_remove(&run->behind);
        list_push_back(last ? &runner->clients : &run->link, &next->link);
    }
    list_remove(&run->link);
}

static void on_turn(uv_idle_t *idle)
{
    struct runner *runner = idle->data;
    bool ran = true, goes_on = false;
    struct run *run;

    if (list_empty(&runner->clients)) {
        uv_idle_stop(idle);
        return;
    }
    run = LIST_ENTRY(runner->clients.next, struct run, link);
    if (run->job == RUN_RESET) {
        reset(run);
    } else {
        ran = slice(run, SLICE_NS);
        goes_on = !is_over(run, run->left_ns);
    }
    dequeue(runner, run, ran); /* one that was given up is no turn of its client's */
    if (goes_on) {
        enqueue(runner, run);
        return;
    }
    atomic_fetch_sub(&runner->count, 1);
    give_back(run);
}

static void on_long(struct mail *mail, void *owner)
{
    struct runner *runner = owner;

    enqueue(runner, LIST_ENTRY(mail, struct run, mail));
    if (!uv_is_active((uv_handle_t *)&runner->idle))
        uv_idle_start(&runner->idle, on_turn);
}

static void post_to_runner(struct engine *engine, struct run *run)
{
    struct runner *best = &engine->runners[0];

    for (unsigned int i = 1; i < engine->nrunners; i++) {
        if (atomic_load(&engine->runners[i].count) < atomic_load(&best->count))
            best = &engine->runners[i];
    }
    atomic_fetch_add(&best->count, 1);
    mailbox_post(&best->mailbox, &run->mail, on_long);
}

void run_long(struct call *call)
{
    struct pooled *p = call->pooled;

    stats_add(&call->shard->stats, STAT_LONG_RUNS, 1);
    p->was_long = true;
    send_away(call);
    post_to_runner(call->shard->engine, &p->run);
}

void run_reset(struct pooled *p, bool audit)
{
    struct shard *shard = p->pool->shard;
    struct run *run = &p->run;

    run->job = RUN_RESET;
    run->owner = shard;
    run->call = NULL;
    run->audit = audit;
    shard->away++;
    post_to_runner(shard->engine, run);
}

/* --- life of the threads -------------------------------------------------------------------- */

static void runner_thread(void *opaque)
{
    struct runner *runner = opaque;

    pthread_setname_np(pthread_self(), "long-run");
    if (hv_thread_init() < 0)
        abort(); /* no timer for this thread: nothing could stop a guest */
    /* Of this thread alone (setpriority(2), C library/kernel differences). Without it long calls
     * only compete harder with short ones. */
    (void)setpriority(PRIO_PROCESS, 0, (int)runner->engine->long_nice);
    uv_run(&runner->loop, UV_RUN_DEFAULT);
    hv_thread_fini();
}

static void on_end(struct mail *mail, void *owner)
{
    struct runner *runner = owner;

    (void)mail;
    uv_close((uv_handle_t *)&runner->idle, NULL);
    mailbox_close(&runner->mailbox);
}

/* Returns: 0, or a negative errno with nothing left of it. */
static int runner_start(struct runner *runner, struct engine *engine)
{
    int r = uv_loop_init(&runner->loop);

    if (r < 0)
        return r;
    runner->engine = engine;
    list_init(&runner->clients);
    uv_idle_init(&runner->loop, &runner->idle);
    runner->idle.data = runner;
    r = mailbox_init(&runner->mailbox, &runner->loop, runner, NULL);
    if (r == 0) {
        r = uv_thread_create(&runner->thread, runner_thread, runner);
        if (r == 0)
            return 0;
        mailbox_close(&runner->mailbox);
    }
    uv_close((uv_handle_t *)&runner->idle, NULL);
    uv_run(&runner->loop, UV_RUN_DEFAULT);
    uv_loop_close(&runner->loop);
    return r;
}

int runners_start(struct engine *engine, unsigned int count)
{
    int r = 0;

    engine->runners = calloc(count, sizeof(*engine->runners));
    if (!engine->runners)
        return -ENOMEM;
    for (engine->nrunners = 0; engine->nrunners < count; engine->nrunners++) {
        r = runner_start(&engine->runners[engine->nrunners], engine);
        if (r < 0)
            break;
    }
    if (engine->nrunners == 0)
        return r;
    if (r < 0)
        log_warning("%u long-run threads instead of %u: %s", engine->nrunners, count, strerror(-r));
    return 0;
}

void runners_stop(struct engine *engine)
{
    for (unsigned int i = 0; i < engine->nrunners; i++)
        mailbox_post(&engine->runners[i].mailbox, &engine->runners[i].end_mail, on_end);
    for (unsigned int i = 0; i < engine->nrunners; i++) {
        uv_thread_join(&engine->runners[i].thread);
        uv_loop_close(&engine->runners[i].loop);
    }
    free(engine->runners);
    engine->runners = NULL;
    engine->nrunners = 0;
}
