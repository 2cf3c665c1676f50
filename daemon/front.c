/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The front's life: start, reload, drain. One libuv loop on one thread; only reading and syncing
 * the registry's files happens elsewhere. systemd hears of each step (sd_notify(3)), and of the
 * loop's health by the watchdog, which this loop itself feeds.
 */
#include "config.h"

#include "daemon/front.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <systemd/sd-daemon.h>
#include <time.h>

#include "daemon/discard.h"
#include "daemon/front_internal.h"
#include "daemon/front_kv.h"

#define DRAIN_GRACE_MS 2000u /* for workers to end after the time they were given */
#define DISCARD_MS     50

static void report_warning(void *opaque, const char *line)
{
    (void)opaque;
    log_warning("%s", line);
}

/* Reload */

static void on_hangup(uv_signal_t *handle, int number)
{
    struct front *front = handle->data;
    struct configuration *next;
    struct timespec now;

    (void)number;
    if (front->draining)
        return;
    clock_gettime(CLOCK_MONOTONIC, &now);
    sd_notifyf(0, "RELOADING=1\nMONOTONIC_USEC=%llu",
               (unsigned long long)now.tv_sec * 1000000u + (unsigned long long)now.tv_nsec / 1000u);
    next = malloc(sizeof(*next));
    if (next && front->options->reload(front->options->opaque, next) == 0) {
        configuration_apply(&front->config, next, report_warning, NULL);
        workers_reload(front);
        log_notice("configuration reloaded");
    } else {
        log_error("configuration not reloaded: the old one stays in force");
    }
    free(next);
    sd_notify(0, "READY=1");
    front_status(front);
}

/* Drain */

void front_check_drained(struct front *front)
{
    if (front->draining && !front->workers && front->jobs == 0)
        uv_stop(&front->loop);
}

static void on_drain_time(uv_timer_t *timer)
{
    struct front *front = timer->data;

    if (front->workers)
        log_warning("workers did not finish in time: killed");
    workers_kill(front);
}

static void drain(struct front *front)
{
    uint64_t limit_ms = front->config.drain_timeout_ns / 1000000u + DRAIN_GRACE_MS;

    front->draining = true;
    log_notice("stopping: calls in progress have %llu ms",
               (unsigned long long)(limit_ms - DRAIN_GRACE_MS));
    listener_close(front);
    sd_notify(0, "STOPPING=1");
    front_status(front);
    workers_drain(front);
    uv_timer_start(&front->drain, on_drain_time, limit_ms, 0);
    front_check_drained(front);
}

static void on_terminate(uv_signal_t *handle, int number)
{
    struct front *front = handle->data;

    if (!front->draining) {
        drain(front);
        return;
    }
    log_notice("stopping at once: a second %s", number == SIGINT ? "SIGINT" : "SIGTERM");
    front->at_once = true;
    workers_kill(front);
    uv_stop(&front->loop);
}

static void on_child(uv_signal_t *handle, int number)
{
    (void)handle;
    (void)number;
    discard_reap(); /* workers are libuv's */
}

static void on_discard_time(uv_timer_t *timer)
{
    (void)timer;
    discard_now();
}

static void on_discarded(void *opaque)
{
    struct front *front = opaque;

    uv_timer_start(&front->discard, on_discard_time, DISCARD_MS, 0);
}

/* Start */

static int init_handles(struct front *front)
{
    uv_signal_t *signals[] = {&front->terminate, &front->interrupt, &front->hangup, &front->child};
    const int numbers[] = {SIGTERM, SIGINT, SIGHUP, SIGCHLD};
    uv_signal_cb callbacks[] = {on_terminate, on_terminate, on_hangup, on_child};

    uv_timer_init(&front->loop, &front->watchdog);
    uv_timer_init(&front->loop, &front->drain);
    uv_timer_init(&front->loop, &front->status);
    uv_timer_init(&front->loop, &front->scrub_pause);
    uv_timer_init(&front->loop, &front->discard);
    front->drain.data = front->status.data = front->scrub_pause.data = front;
    discard_use_process(on_discarded, front);
    for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++) {
        int r = uv_signal_init(&front->loop, signals[i]);

        signals[i]->data = front;
        if (r == 0)
            r = uv_signal_start(signals[i], callbacks[i], numbers[i]);
        if (r < 0)
            return r;
    }
    return 0;
}

static void close_handle(uv_handle_t *handle, void *opaque)
{
    (void)opaque;
    if (!uv_is_closing(handle))
        uv_close(handle, NULL);
}

static void init(struct front *front, const struct front_options *options)
{
    const struct log_limit limit = LOG_LIMIT_INIT;

    memset(front, 0, sizeof(*front));
    front->options = options;
    front->config = *options->config;
    front->listener.fd = -1;
    front->changes_end = &front->changes;
    front->saves_end = &front->saves;
    list_init(&front->snapshots);
    front->last_changer = UINT32_MAX; /* no uid: (uid_t)-1 */
    front->refused_log = front->busy_log = front->worker_log = front->request_log = limit;
    front->snapshot_log = limit;
}

static int start(struct front *front, struct hl_error *err)
{
    char but[48];
    size_t damaged;
    int r =
        registry_open(&front->registry, front->config.state_dir, front->options->registry_io, err);

    if (r == 0)
        r = front_kv_new(&front->kv, front, err);
    if (r < 0)
        return r;
    r = init_handles(front);
    if (r < 0)
        return hl_error_set(err, r, "cannot set up the event loop: %s", strerror(-r));
    r = listener_open(front, err);
    if (r < 0)
        return r;
    front_notify_start(front);
    damaged = registry_damaged(front->registry);
    snprintf(but, sizeof(but), ", %zu of them refused", damaged);
    log_notice("hld %s serves %s with backend %s; %zu images registered%s", front->options->version,
               front->options->listen_fd >= 0 ? "the socket of systemd" : front->config.socket,
               front->options->backend, registry_count(front->registry), damaged > 0 ? but : "");
    sd_notify(0, "READY=1");
    front_status(front);
    requests_scrub_start(front);
    return 0;
}

int front_run(const struct front_options *options, struct hl_error *err)
{
    struct front *front = malloc(sizeof(*front));
    int r;

    if (!front)
        return -ENOMEM;
    init(front, options);
    r = uv_loop_init(&front->loop);
    if (r < 0) {
        free(front);
        return hl_error_set(err, r, "cannot make an event loop: %s", strerror(-r));
    }
    r = start(front, err);
    if (r == 0)
        uv_run(&front->loop, UV_RUN_DEFAULT);
    listener_close(front);
    discard_end();
    if (r == 0 && front->at_once)
        return 0; /* with jobs on the thread pool, whose memory must stay */
    uv_walk(&front->loop, close_handle, NULL);
    uv_run(&front->loop, UV_RUN_DEFAULT);
    uv_loop_close(&front->loop);
    front_kv_free(front->kv);
    snapshots_free(front);
    registry_free(front->registry);
    crashes_free(front);
    free(front);
    return r;
}
