/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Workers as the front sees them: one for each uid that has connections, found or started when one
 * arrives. Everything about a worker can fail without hurting another: its death closes its own
 * clients' sockets (only it held them), a channel it does not read fills its own bounded queue, a
 * packet that breaks the protocol costs it its life.
 *
 * Idle workers end without a race: the front counts the connections it sent, the worker tells in
 * each Idle how many it has received, and only when both agree and none is open does the front
 * close the channel. Connections that a dead worker had not received go to the next one; what it
 * had begun to read ends with it. A worker that keeps dying is started again later and later.
 */
#include "config.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "daemon/control.h"
#include "daemon/discard.h"
#include "daemon/front_internal.h"
#include "daemon/front_spawn.h"

static void hand_on(struct worker *worker);

static uint64_t ns_to_ms(uint64_t ns)
{
    return ns / 1000000u + (ns % 1000000u != 0);
}

/* Life and death */

static void free_when_done(struct worker *worker)
{
    struct front *front = worker->front;

    if (worker->handles > 0 || worker->requests > 0)
        return;
    for (struct worker **at = &front->workers; *at; at = &(*at)->next) {
        if (*at == worker) {
            *at = worker->next;
            break;
        }
    }
    free(worker);
    front_check_drained(front);
}

static void on_handle_closed(uv_handle_t *handle)
{
    struct worker *worker = handle->data;

    worker->handles--;
    free_when_done(worker);
}

static void on_kill_time(uv_timer_t *timer)
{
    struct worker *worker = timer->data;

    if (!worker->running)
        return;
    log_warning("worker of uid %u did not end in time: killed", worker->uid);
    uv_process_kill(&worker->process, SIGKILL);
}

/* Closes the channel: the worker is to end by itself, and is killed when it does not. */
void worker_end(struct worker *worker)
{
    if (worker->state == WORKER_ENDING)
        return;
    worker->state = WORKER_ENDING;
    worker->front->worker_count--;
    channel_drop(worker);
    channel_read_rest(worker);
    uv_close((uv_handle_t *)&worker->channel, on_handle_closed);
    shutdown(worker->fd, SHUT_RDWR);
    discard(hl_steal_fd(&worker->fd)); /* with what the worker sent last */
    if (worker->running)
        uv_timer_start(&worker->timer, on_kill_time, WORKER_KILL_MS, 0);
    front_status(worker->front);
}

void worker_fail(struct worker *worker, const char *why)
{
    if (worker->state == WORKER_ENDING)
        return;
    log_limited(&worker->front->worker_log, LOG_LEVEL_ERROR, "worker of uid %u (pid %d) killed: %s",
                worker->uid, worker->process.pid, why);
    crash_note(worker);
    worker->asked = true;
    worker_end(worker);
    if (worker->running)
        uv_process_kill(&worker->process, SIGKILL);
}

static void on_worker_exit(uv_process_t *process, int64_t status, int signal)
{
    struct worker *worker = process->data;
    bool expected = worker->asked || worker->front->draining;

    worker->running = false;
    if (!expected) {
        crash_note(worker);
        log_limited(&worker->front->worker_log, LOG_LEVEL_WARNING,
                    "worker of uid %u (pid %d) ended: %s %d", worker->uid, process->pid,
                    signal ? "signal" : "status", signal ? signal : (int)status);
    }
    worker_end(worker);
    hand_on(worker);
    uv_close((uv_handle_t *)&worker->timer, on_handle_closed);
    uv_close((uv_handle_t *)process, on_handle_closed);
}

/* The channel */

static bool is_idle(const struct worker *worker)
{
    return worker->state == WORKER_SERVING && worker->connections == 0 && worker->sessions == 0 &&
           worker->received == worker->sent && worker->requests == 0;
}

static void on_idle_time(uv_timer_t *timer)
{
    struct worker *worker = timer->data;

    if (!is_idle(worker))
        return;
    log_info("worker of uid %u ends: idle", worker->uid);
    worker->asked = true;
    worker_end(worker);
}

void worker_watch_idle(struct worker *worker)
{
    if (worker->state != WORKER_SERVING)
        return;
    if (is_idle(worker))
        uv_timer_start(&worker->timer, on_idle_time,
                       ns_to_ms(worker->front->config.idle_timeout_ns), 0);
    else
        uv_timer_stop(&worker->timer);
}

/* Of a worker that is dead: what it never had goes to the next one. */
static void hand_on(struct worker *worker)
{
    struct front *front = worker->front;

    while (worker->handed) {
        struct handed *handed = worker->handed;

        worker->handed = handed->next;
        if (front->draining)
            front_refuse(handed->fd);
        else
            worker_hand_over(front, &handed->peer, handed->fd);
        free(handed);
    }
    worker->handed_end = &worker->handed;
}

void worker_request_done(struct worker *worker)
{
    worker->requests--;
    if (worker->state == WORKER_ENDING) {
        free_when_done(worker);
        return;
    }
    channel_watch(worker);
    worker_watch_idle(worker);
}

/* Start */

static void on_start_time(uv_timer_t *timer)
{
    worker_fail(timer->data, "it was not ready in time");
}

static void welcome(struct worker *worker, int kvm)
{
    Hl__Control__Welcome message = HL__CONTROL__WELCOME__INIT;
    Hl__Control__ToWorker packet = HL__CONTROL__TO_WORKER__INIT;
    const struct front_options *options = worker->front->options;
    struct settings_message settings;

    settings_fill(&settings, worker->front);
    message.settings = &settings.settings;
    message.uid = worker->uid;
    message.run_uid = options->run_uid;
    message.run_gid = options->run_gid;
    message.version = (char *)options->version;
    packet.kind_case = HL__CONTROL__TO_WORKER__KIND_WELCOME;
    packet.welcome = &message;
    channel_send(worker, &packet, kvm);
}

static void init_handles(struct worker *worker)
{
    uv_timer_init(&worker->front->loop, &worker->timer);
    uv_poll_init(&worker->front->loop, &worker->channel, worker->fd);
    worker->timer.data = worker->channel.data = worker->process.data = worker;
    worker->handles = 3;
}

static void on_never_ran(uv_handle_t *process)
{
    free(process->data);
}

static struct worker *start_worker(struct front *front, uint32_t uid)
{
    struct worker *worker = calloc(1, sizeof(*worker));
    _cleanup_close_ int kvm = -1;
    int r = -ENOMEM;

    if (!worker)
        return NULL;
    if (strcmp(front->options->backend, "kvm") == 0) {
        kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
        r = kvm < 0 ? -errno : 0;
    } else {
        r = 0;
    }
    worker->front = front;
    worker->process.data = worker;
    worker->uid = uid;
    worker->queue_end = &worker->queue;
    worker->handed_end = &worker->handed;
    worker->started_ms = uv_now(&front->loop);
    if (r == 0)
        r = spawn_worker(&front->loop, &worker->process, front->options->worker_exe, on_worker_exit,
                         &worker->fd);
    if (r < 0) {
        log_limited(&front->busy_log, LOG_LEVEL_ERROR, "cannot start a worker for uid %u: %s", uid,
                    strerror(-r));
        if (worker->process.type == UV_PROCESS)
            uv_close((uv_handle_t *)&worker->process, on_never_ran);
        else
            free(worker);
        return NULL;
    }
    init_handles(worker);
    worker->running = true;
    worker->state = WORKER_STARTING;
    worker->next = front->workers;
    front->workers = worker;
    front->worker_count++;
    uv_timer_start(&worker->timer, on_start_time, WORKER_START_MS, 0);
    welcome(worker, hl_steal_fd(&kvm));
    front_status(front);
    return worker->state == WORKER_ENDING ? NULL : worker;
}

static struct worker *find_worker(struct front *front, uint32_t uid)
{
    for (struct worker *w = front->workers; w; w = w->next) {
        if (w->uid == uid && w->state != WORKER_ENDING)
            return w;
    }
    return NULL;
}

/* Returns: whether there is room for one more worker, after ending an idle one if need be. */
static bool make_room(struct front *front)
{
    if (front->worker_count < front->config.max_workers)
        return true;
    for (struct worker *w = front->workers; w; w = w->next) {
        if (!is_idle(w))
            continue;
        w->asked = true;
        worker_end(w);
        return true;
    }
    return false;
}

static struct worker *worker_for(struct front *front, const struct ucred *peer)
{
    struct worker *worker = find_worker(front, peer->uid);
    uint64_t delay;

    if (worker)
        return worker;
    delay = crash_delay(front, peer->uid);
    if (delay > 0) {
        log_limited(&front->busy_log, LOG_LEVEL_WARNING,
                    "connection closed: workers of uid %u keep dying; the next start is in %llu ms",
                    peer->uid, (unsigned long long)delay);
        return NULL;
    }
    if (!make_room(front)) {
        log_limited(&front->busy_log, LOG_LEVEL_WARNING,
                    "connection closed: uid %u would need a worker beyond max_workers = %u",
                    peer->uid, front->config.max_workers);
        return NULL;
    }
    return start_worker(front, peer->uid);
}

static uint64_t waiting_for(const struct worker *worker)
{
    return worker->sent - worker->received;
}

static bool is_full(const struct worker *worker)
{
    return worker->connections + waiting_for(worker) >= worker->front->config.max_connections;
}

/* It may have told of connections that ended, and not been heard yet.
 * Returns: whether it is to be found again, being at its end. */
static bool take_counts(struct worker *worker)
{
    for (unsigned int i = 0; i < WORKER_PACKETS_MAX && is_full(worker); i++) {
        if (channel_read(worker) == 0)
            break;
    }
    return worker->state == WORKER_ENDING;
}

/* Whether the worker may have one connection more. */
static bool has_room(struct worker *worker)
{
    struct front *front = worker->front;

    if (is_full(worker)) {
        log_limited(&front->busy_log, LOG_LEVEL_WARNING,
                    "connection closed: uid %u has max_connections = %u open", worker->uid,
                    front->config.max_connections);
        return false;
    }
    if (waiting_for(worker) >= WORKER_QUEUE_MAX) {
        log_limited(&front->busy_log, LOG_LEVEL_WARNING,
                    "connection closed: the worker of uid %u does not take it", worker->uid);
        return false;
    }
    return true;
}

void worker_hand_over(struct front *front, const struct ucred *peer, int taken)
{
    Hl__Control__Connection message = HL__CONTROL__CONNECTION__INIT;
    Hl__Control__ToWorker packet = HL__CONTROL__TO_WORKER__INIT;
    struct worker *worker = worker_for(front, peer);
    _cleanup_refuse_ int fd = taken;
    struct handed *handed;

    if (worker && is_full(worker) && take_counts(worker))
        worker = worker_for(front, peer);
    if (!worker || !has_room(worker))
        return;
    handed = malloc(sizeof(*handed));
    if (!handed)
        return;
    *handed = (struct handed){.peer = *peer, .fd = hl_steal_fd(&fd)};
    *worker->handed_end = handed;
    worker->handed_end = &handed->next;
    worker->sent++;
    message.pid = (uint32_t)peer->pid;
    packet.kind_case = HL__CONTROL__TO_WORKER__KIND_CONNECTION;
    packet.connection = &message;
    channel_queue(worker, &packet, handed->fd, true);
    worker_watch_idle(worker);
}

/* To all of them */

void workers_invalidate(struct front *front, const char *name)
{
    Hl__Control__Invalidate message = HL__CONTROL__INVALIDATE__INIT;
    Hl__Control__ToWorker packet = HL__CONTROL__TO_WORKER__INIT;

    message.name = (char *)name;
    packet.kind_case = HL__CONTROL__TO_WORKER__KIND_INVALIDATE;
    packet.invalidate = &message;
    for (struct worker *w = front->workers; w; w = w->next)
        channel_send(w, &packet, -1);
}

void workers_reload(struct front *front)
{
    Hl__Control__ToWorker packet = HL__CONTROL__TO_WORKER__INIT;
    struct settings_message settings;

    settings_fill(&settings, front);
    packet.kind_case = HL__CONTROL__TO_WORKER__KIND_RELOAD;
    packet.reload = &settings.settings;
    for (struct worker *w = front->workers; w; w = w->next) {
        channel_send(w, &packet, -1);
        worker_watch_idle(w);
    }
}

void workers_drain(struct front *front)
{
    Hl__Control__Drain message = HL__CONTROL__DRAIN__INIT;
    Hl__Control__ToWorker packet = HL__CONTROL__TO_WORKER__INIT;

    message.limit_ns = front->config.drain_timeout_ns;
    packet.kind_case = HL__CONTROL__TO_WORKER__KIND_DRAIN;
    packet.drain = &message;
    for (struct worker *w = front->workers; w; w = w->next)
        channel_send(w, &packet, -1);
}

void workers_kill(struct front *front)
{
    for (struct worker *w = front->workers; w; w = w->next) {
        w->asked = true;
        worker_end(w);
        if (w->running)
            uv_process_kill(&w->process, SIGKILL);
    }
}
