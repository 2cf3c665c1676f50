/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The front's end of a worker's control channel. What the worker does not take waits in a bounded
 * queue; what it sends is checked, and costs it its life where it breaks the protocol. Its counts
 * of connections are taken as they come, of its requests one a turn, for the sake of other workers.
 */
#include "config.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "daemon/control.h"
#include "daemon/discard.h"
#include "daemon/front_internal.h"

static void on_channel(uv_poll_t *poll, int status, int events);

void channel_drop(struct worker *worker)
{
    while (worker->queue) {
        struct packet *packet = worker->queue;

        worker->queue = packet->next;
        if (!packet->fd_handed)
            discard(packet->fd);
        free(packet);
    }
    worker->queue_end = &worker->queue;
    worker->queued = 0;
}

void channel_watch(struct worker *worker)
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
                worker_end(worker);
            return;
        }
        worker->queue = packet->next;
        if (!worker->queue)
            worker->queue_end = &worker->queue;
        worker->queued--;
        worker->delivered += packet->fd_handed;
        if (packet->fd >= 0 && !packet->fd_handed)
            close(packet->fd); /* the worker's now */
        free(packet);
    }
}

void channel_queue(struct worker *worker, const Hl__Control__ToWorker *message, int fd,
                   bool fd_handed)
{
    size_t size = protobuf_c_message_get_packed_size(&message->base);
    struct packet *packet = malloc(sizeof(*packet) + size);

    if (!packet || worker->queued >= WORKER_QUEUE_MAX) {
        free(packet);
        if (!fd_handed)
            discard(fd);
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
        channel_watch(worker);
}

void channel_send(struct worker *worker, const Hl__Control__ToWorker *message, int taken)
{
    _cleanup_discard_ int fd = taken;

    if (worker->state != WORKER_ENDING)
        channel_queue(worker, message, hl_steal_fd(&fd), false);
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
    worker_watch_idle(worker);
}

/* The first count connections of the list are the worker's alone now. Ours may be the last
 * descriptor of one by then: the worker gets it, to close it. */
static void forget_handed(struct worker *worker, uint64_t count)
{
    Hl__Control__Taken message = HL__CONTROL__TAKEN__INIT;
    Hl__Control__ToWorker packet = HL__CONTROL__TO_WORKER__INIT;

    packet.kind_case = HL__CONTROL__TO_WORKER__KIND_TAKEN;
    packet.taken = &message;
    for (; count > 0 && worker->handed; count--) {
        struct handed *handed = worker->handed;

        worker->handed = handed->next;
        channel_send(worker, &packet, handed->fd);
        free(handed);
    }
    if (!worker->handed)
        worker->handed_end = &worker->handed;
}

static void take_idle(struct worker *worker, const Hl__Control__Idle *idle)
{
    /* One still in the queue is not to be forgotten: its number would be another descriptor's. */
    if (idle->received > worker->delivered || idle->received < worker->received ||
        idle->connections > idle->received) {
        worker_fail(worker, "its count of connections is impossible");
        return;
    }
    forget_handed(worker, idle->received - worker->received);
    worker->received = idle->received;
    worker->connections = idle->connections;
    worker->sessions = idle->sessions;
    worker_watch_idle(worker);
}

/* Takes fd. */
static void take_packet(struct worker *worker, const Hl__Control__ToFront *message, int taken)
{
    _cleanup_discard_ int fd = taken;

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

int channel_read(struct worker *worker)
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
        worker_end(worker); /* on_worker_exit says why */
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
        worker_end(worker);
        return;
    }
    if (events & UV_WRITABLE)
        flush_queue(worker);
    for (unsigned int i = 0; events & UV_READABLE && i < WORKER_PACKETS_MAX; i++) {
        if (channel_read(worker) != HL__CONTROL__TO_FRONT__KIND_IDLE)
            break;
    }
    if (worker->state != WORKER_ENDING)
        channel_watch(worker);
}

/* What an ended worker told before its end still counts: a connection that it has begun to read is
 * not for the next one, which would see the middle of a frame or wait for what was read already. */
void channel_read_rest(struct worker *worker)
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
        discard(fd);
        protobuf_c_message_free_unpacked(message, NULL);
    }
}
