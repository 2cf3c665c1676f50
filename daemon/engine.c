/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Beginning and end of a worker's threads. Shard 0 runs on the thread that calls engine_run, so
 * that a worker with one CPU has one thread (and libuv's pool once a program is built). The end
 * comes from the control link alone: a drain, or the front's own end.
 */
#include "config.h"

#include "daemon/engine.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "daemon/control_link.h"
#include "daemon/discard.h"
#include "daemon/images.h"
#include "daemon/run.h"
#include "daemon/shard.h"
#include "hv/timer.h"
#include "proto/frame.h"

/* Of buffers, waiting requests and uploads, for all clients of the uid together: each connection's
 * two buffers at their usual size, and some of the largest messages and programs besides. */
#define CLIENT_BYTES_EACH   (64u << 10)
#define CLIENT_BYTES_COMMON (16u * FRAME_PAYLOAD_MAX)

/* Of clients' descriptors at a time: worker.c counts them among what it needs. */
static uint64_t count_descriptors(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur / 8 >= ENGINE_DESCRIPTORS_MAX)
        return ENGINE_DESCRIPTORS_MAX;
    return limit.rlim_cur / 8;
}

static void set_budget(struct engine *engine, const struct settings *settings)
{
    budget_set_limit(&engine->budget, BUDGET_VMS, settings->max_vms);
    budget_set_limit(&engine->budget, BUDGET_GUEST_MEMORY, settings->memory_budget);
    budget_set_limit(&engine->budget, BUDGET_BULK, settings->bulk_budget);
    budget_set_limit(&engine->budget, BUDGET_DESCRIPTORS, count_descriptors());
    /* As much again as instances have, and one start-up of the largest. */
    budget_set_limit(&engine->budget, BUDGET_PROGRAMS,
                     settings->memory_budget + settings->maxima.memory);
    budget_set_limit(&engine->budget, BUDGET_CLIENT_BYTES,
                     (uint64_t)settings->max_connections * CLIENT_BYTES_EACH + CLIENT_BYTES_COMMON +
                         4 * settings->max_image_size);
}

static unsigned int count_shards(const struct settings *settings)
{
    unsigned int n = settings->shards > 0 ? settings->shards : uv_available_parallelism();

    return n > SHARDS_MAX ? SHARDS_MAX : n;
}

int engine_new(struct engine **out, const struct engine_config *config, struct hl_error *err)
{
    struct engine *engine = calloc(1, sizeof(*engine));
    int r = 0;

    if (!engine)
        return hl_error_set(err, -ENOMEM, "out of memory");
    engine->hv = config->hv;
    engine->host = config->host;
    engine->uid = config->uid;
    engine->reset_skip = config->reset_skip;
    engine->long_threads = config->settings.long_threads;
    engine->long_nice = config->settings.long_nice;
    engine->confinement = config->confinement;
    engine->started_ns = hv_now_ns();
    snprintf(engine->version, sizeof(engine->version), "%s", config->version);
    budget_init(&engine->budget);
    set_budget(engine, &config->settings);
    engine->nshards = count_shards(&config->settings);
    engine->shards = calloc(engine->nshards, sizeof(*engine->shards));
    if (!engine->shards)
        r = -ENOMEM;
    engine->made = engine->nshards;
    for (unsigned int i = 0; r == 0 && i < engine->nshards; i++)
        r = shard_init(&engine->shards[i], engine, i, &config->settings);
    if (r == 0)
        r = images_new(&engine->images, engine);
    if (r == 0)
        r = control_link_new(&engine->control, engine, config->control_fd);
    if (r < 0) {
        engine_free(engine);
        return hl_error_set(err, r, "starting the engine: %s", strerror(-r));
    }
    atomic_init(&engine->unquiet, engine->nshards);
    atomic_init(&engine->calling, engine->nshards);
    *out = engine;
    return 0;
}

static void shard_thread(void *opaque)
{
    struct shard *shard = opaque;
    char name[16];

    snprintf(name, sizeof(name), "shard-%u", shard->index);
    pthread_setname_np(pthread_self(), name);
    if (shard_run(shard) < 0)
        abort(); /* no timer for this thread: nothing could stop a guest */
}

/* Without a thread for it a shard is left out; nobody has heard of it yet. */
static void start_threads(struct engine *engine)
{
    unsigned int started = 1;

    for (; started < engine->nshards; started++) {
        struct shard *shard = &engine->shards[started];
        int r = uv_thread_create(&shard->thread, shard_thread, shard);

        if (r < 0) {
            log_warning("%u shards instead of %u: %s", started, engine->nshards, strerror(-r));
            break;
        }
    }
    engine->nshards = started;
    atomic_store(&engine->unquiet, started);
    atomic_store(&engine->calling, started);
}

int engine_run(struct engine *engine)
{
    int r = control_link_ready(engine->control);

    unsigned int cpus = uv_available_parallelism();

    if (r < 0)
        return r;
    engine->max_pollers = cpus > 2 ? cpus / 2 : 1;
    r = runners_start(engine, engine->long_threads > 0 ? engine->long_threads : cpus);
    if (r < 0)
        return r;
    start_threads(engine);
    r = shard_run(&engine->shards[0]);
    if (r < 0)
        abort(); /* as in shard_thread */
    for (unsigned int i = 1; i < engine->nshards; i++)
        uv_thread_join(&engine->shards[i].thread);
    runners_stop(engine);
    return 0;
}

void engine_free(struct engine *engine)
{
    if (!engine)
        return;
    for (unsigned int i = 0; engine->shards && i < engine->made; i++)
        shard_fini(&engine->shards[i]);
    control_link_free(engine->control);
    images_free(engine->images);
    free(engine->shards);
    free(engine);
}

/* --- from the control link ------------------------------------------------------------------ */

static struct shard *least_loaded(struct engine *engine)
{
    struct shard *best = &engine->shards[0];

    for (unsigned int i = 1; i < engine->nshards; i++) {
        if (atomic_load(&engine->shards[i].nconns) < atomic_load(&best->nconns))
            best = &engine->shards[i];
    }
    return best;
}

void engine_connection(struct engine *engine, int fd)
{
    struct shard *first = &engine->shards[0];

    if (fd < 0) { /* counted as received all the same, or the front would wait for ever */
        log_limited(&first->log_limit, LOG_LEVEL_WARNING,
                    "a connection is closed: there is no free descriptor for it");
        stats_add(&first->stats, STAT_CONNECTIONS_REFUSED, 1);
        control_link_idle(engine->control);
        return;
    }
    atomic_fetch_add(&engine->connections, 1);
    control_link_idle(engine->control); /* it is ours from here: the front must not pass it on */
    if (atomic_load(&engine->connections) > first->settings.max_connections ||
        shard_post_connection(least_loaded(engine), fd) < 0) {
        stats_add(&first->stats, STAT_CONNECTIONS_REFUSED, 1);
        discard(fd);
        engine_connection_closed(engine);
    }
}

static void on_idle_note(struct mail *mail, void *owner)
{
    struct shard *shard = owner;

    (void)mail;
    atomic_store(&shard->engine->idle_noted, false);
    if (!shard->quiet)
        control_link_idle(shard->engine->control);
}

static void note_counts(struct engine *engine)
{
    if (!atomic_exchange(&engine->idle_noted, true))
        mailbox_post(&engine->shards[0].mailbox, &engine->idle_mail, on_idle_note);
}

void engine_connection_closed(struct engine *engine)
{
    atomic_fetch_sub(&engine->connections, 1);
    note_counts(engine);
}

void engine_note_sessions(struct engine *engine)
{
    note_counts(engine);
}

void engine_reload(struct engine *engine, const struct settings *settings)
{
    set_budget(engine, settings);
    for (unsigned int i = 0; i < engine->nshards; i++) {
        if (shard_post_settings(&engine->shards[i], settings) < 0)
            log_error("out of memory: shard %u keeps its old settings", i);
    }
}

void engine_drain(struct engine *engine, uint64_t limit_ns)
{
    if (atomic_exchange(&engine->draining, true))
        return;
    for (unsigned int i = 0; i < engine->nshards; i++) {
        if (shard_post_drain(&engine->shards[i], limit_ns) < 0)
            abort(); /* a worker that can neither serve nor stop */
    }
}
