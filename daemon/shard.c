/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The shard's loop. Sockets, timers and mails are libuv's. Reading a socket only makes its
 * connection ready; when all sockets were looked at, the ready ones are served in turns, a frame
 * each, and with them the calls that wait for an instance and the mails of other threads, until it
 * is time to look at the sockets again. What is left then, and what is to be made ahead of need,
 * keeps an idle handle active, so that the loop does not sleep.
 *
 * With nothing to do the shard polls for a moment before it sleeps (base/spin.h), if no other half
 * of the CPUs does so already. While it polls or sleeps it is known as idle: shards with more than
 * they can do at once give it calls (run.h).
 */
#include "config.h"

#include "daemon/shard.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "daemon/call.h"
#include "daemon/conn.h"
#include "daemon/control_link.h"
#include "daemon/engine.h"
#include "daemon/host.h"
#include "daemon/images.h"
#include "daemon/pool.h"
#include "daemon/pooled.h"
#include "daemon/session.h"
#include "hv/timer.h"

/* What the largest message may take when it is decoded: its bytes twice over, and the parts. */
#define ARENA_FIRST 16384u
#define ARENA_MAX   (16u << 20)

#define BACKLOG_MOST 4u
#define KEEP_NS      10000000u /* files that an idle instance keeps, while there is always a call */
#define SERVE_NS     100000u /* from the first frame on; a look at the sockets costs a hundredth */

void shard_ready(struct shard *shard, struct conn *conn)
{
    shard_active(shard);
    if (list_empty(&conn->ready_link))
        list_push_back(&shard->ready, &conn->ready_link);
}

unsigned int shard_backlog(struct shard *shard)
{
    unsigned int n = list_empty(&shard->pending) ? 0 : 1;

    LIST_FOREACH(l, &shard->ready)
    {
        if (++n >= BACKLOG_MOST)
            break;
    }
    return n;
}

bool shard_wanted(struct shard *shard)
{
    /* An epoll descriptor is readable when one of those in it is; the mailbox has one there. */
    struct pollfd pfd = {.fd = uv_backend_fd(&shard->loop), .events = POLLIN};

    return !list_empty(&shard->ready) || !list_empty(&shard->pending) || shard->draining ||
           poll(&pfd, 1, 0) != 0;
}

static void on_check(uv_check_t *check)
{
    struct shard *shard = check->data;
    uint64_t until = list_empty(&shard->ready) ? 0 : hv_now_ns() + SERVE_NS;
    struct list *l;

    while ((l = list_pop_front(&shard->ready))) {
        struct conn *conn = LIST_ENTRY(l, struct conn, ready_link);

        if (conn_serve(conn) && list_empty(&conn->ready_link))
            list_push_back(&shard->ready, &conn->ready_link);
        mailbox_check(&shard->mailbox);
        if (!list_empty(&shard->pending))
            calls_start_waiting(shard);
        if (!list_empty(&shard->ready) && hv_now_ns() > until) {
            shard_wake(shard);
            return;
        }
    }
}

static void on_idle(uv_idle_t *idle)
{
    struct shard *shard = idle->data;
    bool busy = calls_start_waiting(shard);

    busy |= host_resume_next(shard);
    busy |= !list_empty(&shard->ready);
    if (!busy && !pool_chore(shard))
        uv_idle_stop(&shard->idle);
}

void shard_wake(struct shard *shard)
{
    if (!shard->quiet && !uv_is_active((uv_handle_t *)&shard->idle))
        uv_idle_start(&shard->idle, on_idle);
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
    uv_close((uv_handle_t *)&shard->check, NULL);
    uv_close((uv_handle_t *)&shard->idle, NULL);
    uv_close((uv_handle_t *)&shard->deadline_timer, NULL);
    uv_close((uv_handle_t *)&shard->drain_timer, NULL);
    uv_close((uv_handle_t *)&shard->starve_timer, NULL);
    uv_close((uv_handle_t *)&shard->session_timer, NULL);
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
    sessions_stop(shard);
    if (shard->index == 0)
        images_stop(shard->engine);
}

static void on_uncalled(struct mail *mail, void *owner)
{
    (void)mail;
    shard_check_quiet(owner);
}

/* The last of this shard's calls is over, and there will be no other. Calls of other shards may
 * still need providers that are clients of this one: when all shards are this far, each hears of
 * it. */
static void note_uncalled(struct shard *shard)
{
    struct engine *engine = shard->engine;

    if (shard->uncalled)
        return;
    shard->uncalled = true;
    if (atomic_fetch_sub(&engine->calling, 1) != 1)
        return;
    for (unsigned int i = 0; i < engine->nshards; i++)
        mailbox_post(&engine->shards[i].mailbox, &engine->shards[i].uncalled_mail, on_uncalled);
}

static bool is_needed(const struct shard *shard)
{
    return clients_owed(shard) ||
           (shard->providers > 0 && atomic_load(&shard->engine->calling) > 0);
}

void shard_check_quiet(struct shard *shard)
{
    bool last = shard->index != 0 || atomic_load(&shard->engine->unquiet) == 1;

    if (shard->quiet || !shard->draining || shard->calls > 0 || shard->checking)
        return;
    shard->checking = true;
    note_uncalled(shard);
    if (!shard->stopping && last && !is_needed(shard))
        stop(shard);
    shard->checking = false;
    if (shard->stopping && last && shard->works == 0 && shard->away == 0 && shard->nsessions == 0 &&
        !pools_resolving(shard))
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
    sessions_arm(shard);
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

static void on_mail(void *owner)
{
    shard_active(owner);
}

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
    list_init(&shard->ready);
    list_init(&shard->spare_calls);
    list_init(&shard->pending);
    list_init(&shard->starved);
    list_init(&shard->answered);
    list_init(&shard->offers);
    list_init(&shard->stale_pools);
    list_init(&shard->idle_instances);
    list_init(&shard->sessions);
    list_init(&shard->shells);
    list_init(&shard->chores);
    for (unsigned int i = 0; i < POOL_BUCKETS; i++)
        list_init(&shard->pools[i]);
    arena_init(&shard->arena, ARENA_FIRST, ARENA_MAX);
    r = mailbox_init(&shard->mailbox, &shard->loop, shard, on_mail);
    if (r < 0) {
        uv_loop_close(&shard->loop);
        return r;
    }
    uv_check_init(&shard->loop, &shard->check);
    uv_idle_init(&shard->loop, &shard->idle);
    uv_timer_init(&shard->loop, &shard->deadline_timer);
    uv_timer_init(&shard->loop, &shard->drain_timer);
    uv_timer_init(&shard->loop, &shard->starve_timer);
    uv_timer_init(&shard->loop, &shard->session_timer);
    shard->check.data = shard->idle.data = shard;
    shard->deadline_timer.data = shard->drain_timer.data = shard->starve_timer.data = shard;
    shard->session_timer.data = shard;
    uv_check_start(&shard->check, on_check);
    shard->made = true;
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
    if (!shard->made)
        return;
    if (uv_loop_alive(&shard->loop)) {
        uv_walk(&shard->loop, close_handle, NULL); /* it never ran */
        uv_run(&shard->loop, UV_RUN_DEFAULT);
    }
    uv_loop_close(&shard->loop);
    calls_drop_spare(shard);
    arena_fini(&shard->arena);
    deadlines_fini(&shard->deadlines);
}

/* --- waiting for work ----------------------------------------------------------------------- */

void shard_active(struct shard *shard)
{
    struct engine *engine = shard->engine;
    uint64_t bit = 1ull << shard->index;

    shard->events++;
    if (shard->idle_ns != 0)
        spin_learn(&shard->spin, shard->settings.poll_ns, hv_now_ns() - shard->idle_ns);
    shard->idle_ns = 0;
    if (shard->listed)
        atomic_fetch_and(&engine->idle, ~bit);
    if (shard->polling) {
        atomic_fetch_and(&engine->polling, ~bit);
        atomic_fetch_sub(&engine->pollers, 1);
    }
    shard->listed = shard->polling = false;
}

static bool begin_polling(struct shard *shard)
{
    struct engine *engine = shard->engine;

    if (atomic_fetch_add(&engine->pollers, 1) >= engine->max_pollers) {
        atomic_fetch_sub(&engine->pollers, 1);
        return false;
    }
    shard->polling = true;
    atomic_fetch_or(&engine->polling, 1ull << shard->index);
    return true;
}

static void end_polling(struct shard *shard)
{
    if (!shard->polling)
        return;
    atomic_fetch_and(&shard->engine->polling, ~(1ull << shard->index));
    atomic_fetch_sub(&shard->engine->pollers, 1);
    shard->polling = false;
}

/* Returns: whether something came. */
static bool poll_for_a_while(struct shard *shard)
{
    uint64_t start = shard->idle_ns, now = start, then, events = shard->events;
    uint64_t window = spin_window(&shard->spin, shard->settings.poll_ns, start);
    bool came = false;

    if (window == 0 || !begin_polling(shard))
        return false;
    stats_add(&shard->stats, STAT_POLLS, 1);
    do {
        then = now;
        uv_run(&shard->loop, UV_RUN_NOWAIT);
        came = shard->events != events || uv_is_active((uv_handle_t *)&shard->idle);
        now = hv_now_ns();
    } while (!came && !shard->quiet && spin_look(&shard->spin, then, now) && now < start + window);
    end_polling(shard);
    stats_add(&shard->stats, STAT_POLL_HITS, came);
    return came;
}

/* One turn of the loop, or several. Returns: whether there is a next one. */
static bool turn(struct shard *shard)
{
    if (shard->keeping && hv_now_ns() - shard->keeping_ns > KEEP_NS)
        pooled_relax(shard);
    if (uv_is_active((uv_handle_t *)&shard->idle) || shard->quiet)
        return uv_run(&shard->loop, UV_RUN_ONCE) != 0;
    if (shard->engine->made > 1) {
        shard->listed = true;
        atomic_fetch_or(&shard->engine->idle, 1ull << shard->index);
    }
    shard->idle_ns = hv_now_ns();
    if (poll_for_a_while(shard))
        return true;
    pooled_relax(shard);
    return uv_run(&shard->loop, UV_RUN_ONCE) != 0;
}

int shard_run(struct shard *shard)
{
    int r = hv_thread_init();

    if (r < 0)
        return r;
    while (turn(shard)) {
    }
    hv_thread_fini();
    return 0;
}
