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
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "daemon/control.h"
#include "daemon/front_internal.h"
#include "daemon/front_spawn.h"

#define PACKETS_A_TURN 256u /* of one worker */

static void end_worker(struct worker *worker);
static void read_rest(struct worker *worker);
static void hand_on(struct worker *worker);
static void on_channel(uv_poll_t *poll, int status, int events);

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

static void packet_free(struct packet *packet)
{
    if (packet->fd >= 0 && !packet->fd_handed)
        close(packet->fd);
    free(packet);
}

static void drop_queue(struct worker *worker)
{
    while (worker->queue) {
        struct packet *packet = worker->queue;

        worker->queue = packet->next;
        packet_free(packet);
    }
    worker->queue_end = &worker->queue;
    worker->queued = 0;
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
static void end_worker(struct worker *worker)
{
    if (worker->state == WORKER_ENDING)
        return;
    worker->state = WORKER_ENDING;
    worker->front->worker_count--;
    drop_queue(worker);
    read_rest(worker);
    uv_close((uv_handle_t *)&worker->channel, on_handle_closed);
    close(worker->fd);
    worker->fd = -1;
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
    end_worker(worker);
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
    end_worker(worker);
    hand_on(worker);
    uv_close((uv_handle_t *)&worker->timer, on_handle_closed);
    uv_close((uv_handle_t *)process, on_handle_closed);
}

/* The channel */

static void watch_channel(struct worker *worker)
{
    int events = 0;

    if (worker->requests < CONTROL_REQUESTS_MAX)
        events |= UV_READABLE;
    if (worker->queue)
        events |= UV_WRITABLE;
    if (events)
        uv_poll_start(&worker->channel, events, on_channel);
    else
        uv_poll_stop(&worker->channel);
}

static void flush_queue(struct worker *worker)
{
    while (worker->queue) {
        struct packet *packet = worker->queue;
        int r = control_send_packed(worker->fd, packet->data, packet->size, packet->fd);

        if (r == -EAGAIN)
            return;
        if (r < 0) {
            if (r != -EPIPE && r != -ECONNRESET) /* its exit is about to be told */
                worker_fail(worker, strerror(-r));
            else
                end_worker(worker);
            return;
        }
        worker->queue = packet->next;
        if (!worker->queue)
            worker->queue_end = &worker->queue;
        worker->queued--;
        packet_free(packet);
    }
}

/* Takes fd, unless it is handed: then the worker's list has it. */
static void queue_packet(struct worker *worker, const Hl__Control__ToWorker *message, int fd,
                         bool fd_handed)
{
    size_t size = protobuf_c_message_get_packed_size(&message->base);
    struct packet *packet = malloc(sizeof(*packet) + size);

    if (!packet || worker->queued >= WORKER_QUEUE_MAX) {
        free(packet);
        if (fd >= 0 && !fd_handed)
            close(fd);
        worker_fail(worker, packet ? "it does not read its channel" : "out of memory");
        return;
    }
    protobuf_c_message_pack(&message->base, packet->data);
    packet->next = NULL;
    packet->size = size;
    packet->fd = fd;
    packet->fd_handed = fd_handed;
    *worker->queue_end = packet;
    worker->queue_end = &packet->next;
    worker->queued++;
    if (worker->queue == packet)
        flush_queue(worker);
    if (worker->state != WORKER_ENDING)
        watch_channel(worker);
}

void worker_send(struct worker *worker, const Hl__Control__ToWorker *message, int taken)
{
    _cleanup_close_ int fd = taken;

    if (worker->state != WORKER_ENDING)
        queue_packet(worker, message, hl_steal_fd(&fd), false);
}

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
    end_worker(worker);
}

static void watch_idle(struct worker *worker)
{
    if (worker->state != WORKER_SERVING)
        return;
    if (is_idle(worker))
        uv_timer_start(&worker->timer, on_idle_time,
                       ns_to_ms(worker->front->config.idle_timeout_ns), 0);
    else
        uv_timer_stop(&worker->timer);
}

static void take_ready(struct worker *worker, const Hl__Control__Ready *ready)
{
    char list[256] = "";
    size_t n = 0;

    if (worker->state != WORKER_STARTING) {
        worker_fail(worker, "it was ready twice");
        return;
    }
    for (size_t i = 0; i < ready->n_confinement && n < sizeof(list); i++)
        n += (size_t)snprintf(list + n, sizeof(list) - n, "%s%s", i ? " " : "",
                              ready->confinement[i]);
    log_info("worker of uid %u (pid %d) serves, confined by: %s", worker->uid, worker->process.pid,
             n ? list : "nothing");
    worker->state = WORKER_SERVING;
    uv_timer_stop(&worker->timer);
    watch_idle(worker);
}

/* The first count connections of the list are the worker's alone now. */
static void forget_handed(struct worker *worker, uint64_t count)
{
    for (; count > 0 && worker->handed; count--) {
        struct handed *handed = worker->handed;

        worker->handed = handed->next;
        close(handed->fd);
        free(handed);
    }
    if (!worker->handed)
        worker->handed_end = &worker->handed;
}

/* Of a worker that is dead: what it never had goes to the next one. */
static void hand_on(struct worker *worker)
{
    struct front *front = worker->front;

    while (worker->handed) {
        struct handed *handed = worker->handed;

        worker->handed = handed->next;
        if (front->draining)
            close(handed->fd);
        else
            worker_hand_over(front, &handed->peer, handed->fd);
        free(handed);
    }
    worker->handed_end = &worker->handed;
}

static void take_idle(struct worker *worker, const Hl__Control__Idle *idle)
{
    if (idle->received > worker->sent || idle->received < worker->received ||
        idle->connections > idle->received) {
        worker_fail(worker, "its count of connections is impossible");
        return;
    }
    forget_handed(worker, idle->received - worker->received);
    worker->received = idle->received;
    worker->connections = idle->connections;
    worker->sessions = idle->sessions;
    watch_idle(worker);
}

/* What an ended worker told before its end still counts: a connection that it has begun to read is
 * not for the next one, which would see the middle of a frame or wait for what was read already. */
static void read_rest(struct worker *worker)
{
    for (unsigned int i = 0; i < WORKER_REST_MAX; i++) {
        ProtobufCMessage *message = NULL;
        const Hl__Control__ToFront *packet;
        int fd = -1;

        if (control_recv(worker->fd, &hl__control__to_front__descriptor, &message, &fd) != 1)
            return;
        packet = (const Hl__Control__ToFront *)message;
        if (packet->kind_case == HL__CONTROL__TO_FRONT__KIND_IDLE)
            take_idle(worker, packet->idle);
        if (fd >= 0)
            close(fd);
        protobuf_c_message_free_unpacked(message, NULL);
    }
}

/* Takes fd. */
static void take_packet(struct worker *worker, const Hl__Control__ToFront *message, int taken)
{
    _cleanup_close_ int fd = taken;

    switch (message->kind_case) {
    case HL__CONTROL__TO_FRONT__KIND_READY:
        take_ready(worker, message->ready);
        break;
    case HL__CONTROL__TO_FRONT__KIND_IDLE:
        take_idle(worker, message->idle);
        break;
    case HL__CONTROL__TO_FRONT__KIND_REQUEST:
        worker->requests++;
        request_handle(worker, message->request, hl_steal_fd(&fd));
        break;
    default:
        worker_fail(worker, "it sent an unknown packet");
        break;
    }
}

/* Returns: the kind of the packet that was read and served, or 0. */
static int read_packet(struct worker *worker)
{
    ProtobufCMessage *message = NULL;
    const Hl__Control__ToFront *packet;
    int fd = -1, kind, r;

    if (worker->state == WORKER_ENDING || worker->requests >= CONTROL_REQUESTS_MAX)
        return 0;
    r = control_recv(worker->fd, &hl__control__to_front__descriptor, &message, &fd);
    if (r == -EAGAIN)
        return 0;
    if (r == 0 || r == -ECONNRESET)
        end_worker(worker); /* on_worker_exit says why */
    else if (r < 0)
        worker_fail(worker, r == -EBADMSG ? "it sent a broken packet" : strerror(-r));
    if (r != 1)
        return 0;
    packet = (const Hl__Control__ToFront *)message;
    kind = (int)packet->kind_case;
    take_packet(worker, packet, fd);
    protobuf_c_message_free_unpacked(message, NULL);
    return kind;
}

static void on_channel(uv_poll_t *poll, int status, int events)
{
    struct worker *worker = poll->data;

    if (status < 0) { /* the peer is gone, with packets of ours unread */
        end_worker(worker);
        return;
    }
    if (events & UV_WRITABLE)
        flush_queue(worker);
    /* Counts come faster than one a turn; of requests it is one, for the sake of others. */
    for (unsigned int i = 0; events & UV_READABLE && i < PACKETS_A_TURN; i++) {
        if (read_packet(worker) != HL__CONTROL__TO_FRONT__KIND_IDLE)
            break;
    }
    if (worker->state != WORKER_ENDING)
        watch_channel(worker);
}

void worker_request_done(struct worker *worker)
{
    worker->requests--;
    if (worker->state == WORKER_ENDING) {
        free_when_done(worker);
        return;
    }
    watch_channel(worker);
    watch_idle(worker);
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
    worker_send(worker, &packet, kvm);
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
        end_worker(w);
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
    for (unsigned int i = 0; i < PACKETS_A_TURN && is_full(worker); i++) {
        if (read_packet(worker) == 0)
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
    _cleanup_close_ int fd = taken;
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
    queue_packet(worker, &packet, handed->fd, true);
    watch_idle(worker);
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
        worker_send(w, &packet, -1);
}

void workers_reload(struct front *front)
{
    Hl__Control__ToWorker packet = HL__CONTROL__TO_WORKER__INIT;
    struct settings_message settings;

    settings_fill(&settings, front);
    packet.kind_case = HL__CONTROL__TO_WORKER__KIND_RELOAD;
    packet.reload = &settings.settings;
    for (struct worker *w = front->workers; w; w = w->next) {
        worker_send(w, &packet, -1);
        watch_idle(w);
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
        worker_send(w, &packet, -1);
}

void workers_kill(struct front *front)
{
    for (struct worker *w = front->workers; w; w = w->next) {
        w->asked = true;
        end_worker(w);
        if (w->running)
            uv_process_kill(&w->process, SIGKILL);
    }
}
