/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The shard's loop. Sockets, timers and mails are libuv's; what is left over from them (suspended
 * calls, waiting calls, frames in buffers, instances to make) is done by an idle handle, one piece
 * of each kind a turn, so that the sockets are looked at between any two pieces. While the handle
 * is active the loop does not sleep; it is stopped as soon as nothing is left.
 */
#include "config.h"

#include "daemon/shard.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "daemon/call.h"
#include "daemon/conn.h"
#include "daemon/control_link.h"
#include "daemon/engine.h"
#include "daemon/images.h"
#include "daemon/pool.h"
#include "hv/timer.h"

/* What the largest message may take when it is decoded: its bytes twice over, and the parts. */
#define ARENA_FIRST 16384u
#define ARENA_MAX   (16u << 20)

static bool serve_deferred(struct shard *shard)
{
    struct list todo, *l;

    if (list_empty(&shard->deferred))
        return false;
    list_init(&todo);
    while ((l = list_pop_front(&shard->deferred)))
        list_push_back(&todo, l);
    while ((l = list_pop_front(&todo)))
        conn_resume(LIST_ENTRY(l, struct conn, defer_link));
    return true;
}

static void on_idle(uv_idle_t *idle)
{
    struct shard *shard = idle->data;
    bool busy = calls_run_suspended(shard);

    busy |= calls_start_waiting(shard);
    busy |= serve_deferred(shard);
    if (!busy && !pool_chore(shard))
        uv_idle_stop(&shard->idle);
}

void shard_wake(struct shard *shard)
{
    if (!shard->quiet && !uv_is_active((uv_handle_t *)&shard->idle))
        uv_idle_start(&shard->idle, on_idle);
}

void shard_defer(struct shard *shard, struct conn *conn)
{
    if (list_empty(&conn->defer_link))
        list_push_back(&shard->deferred, &conn->defer_link);
    shard_wake(shard);
}

static void on_deadline(uv_timer_t *timer)
{
    struct shard *shard = timer->data;

    calls_expire(shard, hv_now_ns());
    shard_arm_deadlines(shard);
}

void shard_arm_deadlines(struct shard *shard)
{
    struct deadline *first = deadlines_first(&shard->deadlines);
    uint64_t now;

    if (shard->quiet)
        return;
    if (!first) {
        uv_timer_stop(&shard->deadline_timer);
        return;
    }
    now = hv_now_ns();
    uv_update_time(&shard->loop);
    uv_timer_start(&shard->deadline_timer, on_deadline,
                   first->at_ns <= now ? 0 : (first->at_ns - now) / 1000000u + 1, 0);
}

/* --- the end -------------------------------------------------------------------------------- */

static void on_end(struct mail *mail, void *owner)
{
    struct shard *shard = owner;

    (void)mail;
    mailbox_close(&shard->mailbox);
}

static void on_other_quiet(struct mail *mail, void *owner)
{
    (void)mail;
    shard_check_quiet(owner);
}

/* Nothing of this shard is under way: its handles go, apart from the mailbox, which others may
 * still post to until all are this far. Shard 0 is the last, since the others need it. */
static void become_quiet(struct shard *shard)
{
    struct engine *engine = shard->engine;

    shard->quiet = true;
    pool_release_all(shard);
    uv_close((uv_handle_t *)&shard->idle, NULL);
    uv_close((uv_handle_t *)&shard->deadline_timer, NULL);
    uv_close((uv_handle_t *)&shard->drain_timer, NULL);
    uv_close((uv_handle_t *)&shard->starve_timer, NULL);
    atomic_fetch_sub(&engine->unquiet, 1);
    if (shard->index != 0) {
        mailbox_post(&engine->shards[0].mailbox, &shard->quiet_mail, on_other_quiet);
        return;
    }
    control_link_close(engine->control);
    for (unsigned int i = 0; i < engine->nshards; i++)
        mailbox_post(&engine->shards[i].mailbox, &engine->shards[i].end_mail, on_end);
}

static bool any_resolving(const struct list *pools)
{
    LIST_FOREACH(l, pools)
    {
        if (LIST_ENTRY(l, struct pool, link)->resolving)
            return true;
    }
    return false;
}

static bool pools_resolving(const struct shard *shard)
{
    for (unsigned int i = 0; i < POOL_BUCKETS; i++) {
        if (any_resolving(&shard->pools[i]))
            return true;
    }
    return any_resolving(&shard->stale_pools);
}

static bool clients_owed(const struct shard *shard)
{
    LIST_FOREACH(l, &shard->conns)
    {
        if (conn_owed(LIST_ENTRY(l, struct conn, link)))
            return true;
    }
    return false;
}

static void stop(struct shard *shard)
{
    shard->stopping = true;
    uv_timer_stop(&shard->drain_timer);
    calls_stop_all(shard);
    while (!list_empty(&shard->conns))
        conn_close(LIST_ENTRY(shard->conns.next, struct conn, link));
    if (shard->index == 0)
        images_stop(shard->engine);
}

void shard_check_quiet(struct shard *shard)
{
    bool last = shard->index != 0 || atomic_load(&shard->engine->unquiet) == 1;

    if (shard->quiet || !shard->draining || shard->calls > 0 || shard->checking)
        return;
    shard->checking = true;
    if (!shard->stopping && last && !clients_owed(shard))
        stop(shard);
    shard->checking = false;
    if (shard->stopping && last && shard->works == 0 && !pools_resolving(shard))
        become_quiet(shard);
}

static void on_drain_limit(uv_timer_t *timer)
{
    struct shard *shard = timer->data;

    shard->checking = true;
    stop(shard);
    shard->checking = false;
    shard_check_quiet(shard);
}

struct drain {
    struct mail mail;
    uint64_t limit_ns;
};

static void on_drain(struct mail *mail, void *owner)
{
    struct drain *drain = LIST_ENTRY(mail, struct drain, mail);
    struct shard *shard = owner;

    if (!shard->draining) {
        shard->draining = true;
        uv_update_time(&shard->loop);
        uv_timer_start(&shard->drain_timer, on_drain_limit, drain->limit_ns / 1000000u, 0);
        shard_check_quiet(shard);
    }
    free(drain);
}

int shard_post_drain(struct shard *shard, uint64_t limit_ns)
{
    struct drain *drain = malloc(sizeof(*drain));

    if (!drain)
        return -ENOMEM;
    drain->limit_ns = limit_ns;
    mailbox_post(&shard->mailbox, &drain->mail, on_drain);
    return 0;
}

/* --- from shard 0 --------------------------------------------------------------------------- */

void shard_conn_closed(struct shard *shard)
{
    atomic_fetch_sub(&shard->nconns, 1);
    engine_connection_closed(shard->engine);
    if (shard->draining)
        shard_check_quiet(shard);
}

struct arrival {
    struct mail mail;
    int fd;
};

static void on_arrival(struct mail *mail, void *owner)
{
    struct arrival *arrival = LIST_ENTRY(mail, struct arrival, mail);
    struct shard *shard = owner;

    if (shard->stopping || conn_open(shard, arrival->fd) < 0) {
        if (shard->stopping)
            close(arrival->fd);
        atomic_fetch_sub(&shard->nconns, 1);
        engine_connection_closed(shard->engine);
    } else {
        stats_add(&shard->stats, STAT_CONNECTIONS, 1);
    }
    free(arrival);
}

int shard_post_connection(struct shard *shard, int fd)
{
    struct arrival *arrival = malloc(sizeof(*arrival));

    if (!arrival)
        return -ENOMEM;
    arrival->fd = fd;
    atomic_fetch_add(&shard->nconns, 1);
    mailbox_post(&shard->mailbox, &arrival->mail, on_arrival);
    return 0;
}

struct new_settings {
    struct mail mail;
    struct settings settings;
};

static void on_settings(struct mail *mail, void *owner)
{
    struct new_settings *news = LIST_ENTRY(mail, struct new_settings, mail);
    struct shard *shard = owner;

    shard->settings = news->settings;
    free(news);
}

int shard_post_settings(struct shard *shard, const struct settings *settings)
{
    struct new_settings *news = malloc(sizeof(*news));

    if (!news)
        return -ENOMEM;
    news->settings = *settings;
    mailbox_post(&shard->mailbox, &news->mail, on_settings);
    return 0;
}

struct invalidation {
    struct mail mail;
    char name[HL_NAME_MAX + 1];
};

static void on_invalidation(struct mail *mail, void *owner)
{
    struct invalidation *invalidation = LIST_ENTRY(mail, struct invalidation, mail);

    pool_invalidate(owner, invalidation->name);
    free(invalidation);
}

int shard_post_invalidation(struct shard *shard, const char *name)
{
    struct invalidation *invalidation = malloc(sizeof(*invalidation));

    if (!invalidation)
        return -ENOMEM;
    snprintf(invalidation->name, sizeof(invalidation->name), "%s", name);
    mailbox_post(&shard->mailbox, &invalidation->mail, on_invalidation);
    return 0;
}

/* --- beginning ------------------------------------------------------------------------------ */

int shard_init(struct shard *shard, struct engine *engine, unsigned int index,
               const struct settings *settings)
{
    int r = uv_loop_init(&shard->loop);

    if (r < 0)
        return r;
    shard->engine = engine;
    shard->index = index;
    shard->settings = *settings;
    shard->log_limit = (struct log_limit)LOG_LIMIT_INIT;
    list_init(&shard->conns);
    list_init(&shard->deferred);
    list_init(&shard->suspended);
    list_init(&shard->pending);
    list_init(&shard->starved);
    list_init(&shard->stale_pools);
    list_init(&shard->idle_instances);
    list_init(&shard->shells);
    list_init(&shard->chores);
    for (unsigned int i = 0; i < POOL_BUCKETS; i++)
        list_init(&shard->pools[i]);
    arena_init(&shard->arena, ARENA_FIRST, ARENA_MAX);
    r = mailbox_init(&shard->mailbox, &shard->loop, shard);
    if (r < 0) {
        uv_loop_close(&shard->loop);
        return r;
    }
    uv_idle_init(&shard->loop, &shard->idle);
    uv_timer_init(&shard->loop, &shard->deadline_timer);
    uv_timer_init(&shard->loop, &shard->drain_timer);
    uv_timer_init(&shard->loop, &shard->starve_timer);
    shard->idle.data = shard->deadline_timer.data = shard->drain_timer.data = shard;
    shard->starve_timer.data = shard;
    shard->ready = true;
    return 0;
}

static void close_handle(uv_handle_t *handle, void *opaque)
{
    (void)opaque;
    if (!uv_is_closing(handle))
        uv_close(handle, NULL);
}

void shard_fini(struct shard *shard)
{
    if (!shard->ready)
        return;
    if (uv_loop_alive(&shard->loop)) {
        uv_walk(&shard->loop, close_handle, NULL); /* it never ran */
        uv_run(&shard->loop, UV_RUN_DEFAULT);
    }
    uv_loop_close(&shard->loop);
    arena_fini(&shard->arena);
    deadlines_fini(&shard->deadlines);
}

int shard_run(struct shard *shard)
{
    int r = hv_thread_init();

    if (r < 0)
        return r;
    uv_run(&shard->loop, UV_RUN_DEFAULT);
    hv_thread_fini();
    return 0;
}
