/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Packets from the front are served in order; each is checked as if it came from a stranger, and
 * one that makes no sense is logged and dropped. Packets to the front are sent at once or, when its
 * socket is full, wait in a list of requests: there are never more than clients have asked for.
 * When the front has closed the channel, because the worker is idle or because its own end has
 * come, no call can be let in or resolved any more, so the worker drains.
 */
#include "config.h"

#include "daemon/control_link.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <uv.h>

#include "base/cleanup.h"
#include "daemon/control.h"
#include "daemon/discard.h"
#include "daemon/engine.h"
#include "daemon/images.h"
#include "daemon/shard.h"

/* After the front's end running calls may take this long. */
#define ORPHAN_DRAIN_NS 5000000000ull
#define PACKETS_A_TURN  64

struct control_link {
    struct engine *engine;
    int fd;
    uv_poll_t poll;
    bool gone, idle_due, stopped;
    uint64_t next_id;
    struct list unsent; /* requests */
    struct list sent;
    unsigned int nsent;
};

static void on_poll(uv_poll_t *poll, int status, int events);

static void watch(struct control_link *link)
{
    int events = UV_READABLE;

    if (link->gone)
        return;
    if ((!list_empty(&link->unsent) && link->nsent < CONTROL_REQUESTS_MAX) || link->idle_due)
        events |= UV_WRITABLE;
    uv_poll_start(&link->poll, events, on_poll);
}

/* --- replies -------------------------------------------------------------------------------- */

static void deliver_reply(struct mail *mail, void *owner)
{
    struct control_request *request = LIST_ENTRY(mail, struct control_request, mail);
    Hl__Control__ToWorker *message = request->message;

    (void)owner;
    request->done(request); /* may free it */
    if (message)
        hl__control__to_worker__free_unpacked(message, NULL);
}

/* Takes message and fd. */
static void answer(struct control_request *request, Hl__Control__ToWorker *message, int fd)
{
    list_remove(&request->link);
    request->message = message;
    request->reply = message ? message->reply : NULL;
    request->reply_fd = fd;
    if (request->reply && request->seen)
        request->seen(request);
    mailbox_post(&request->shard->mailbox, &request->mail, deliver_reply);
}

void control_link_stop(struct control_link *link)
{
    link->stopped = true;
    while (!list_empty(&link->unsent))
        answer(LIST_ENTRY(link->unsent.next, struct control_request, link), NULL, -1);
    while (!list_empty(&link->sent))
        answer(LIST_ENTRY(link->sent.next, struct control_request, link), NULL, -1);
    link->nsent = 0;
}

static void front_gone(struct control_link *link, const char *why)
{
    if (link->gone)
        return;
    link->gone = true;
    uv_poll_stop(&link->poll);
    if (atomic_load(&link->engine->connections) == 0 && atomic_load(&link->engine->sessions) == 0)
        log_debug("the front closed the channel (%s): there is nothing left to do", why);
    else
        log_info("the front closed the channel (%s): draining", why);
    control_link_stop(link);
    engine_drain(link->engine, ORPHAN_DRAIN_NS);
}

/* --- to the front --------------------------------------------------------------------------- */

/* Returns: 0, -EAGAIN to try later, another negative errno when it is hopeless. */
static int send_message(struct control_link *link, Hl__Control__ToFront *message, int fd)
{
    int r = link->gone ? -EPIPE : control_send(link->fd, &message->base, fd);

    if (r == -EPIPE || r == -ECONNRESET || r == -ECONNREFUSED || r == -ENOTCONN)
        front_gone(link, "send");
    return r;
}

static int send_request(struct control_link *link, struct control_request *request)
{
    Hl__Control__ToFront message = HL__CONTROL__TO_FRONT__INIT;

    request->request.id = ++link->next_id;
    message.kind_case = HL__CONTROL__TO_FRONT__KIND_REQUEST;
    message.request = &request->request;
    return send_message(link, &message, request->fd);
}

static void send_idle(struct control_link *link)
{
    Hl__Control__ToFront message = HL__CONTROL__TO_FRONT__INIT;
    Hl__Control__Idle idle = HL__CONTROL__IDLE__INIT;

    idle.connections = atomic_load(&link->engine->connections);
    idle.received = link->engine->received;
    idle.sessions = atomic_load(&link->engine->sessions);
    message.kind_case = HL__CONTROL__TO_FRONT__KIND_IDLE;
    message.idle = &idle;
    link->idle_due = send_message(link, &message, -1) == -EAGAIN;
}

static void flush(struct control_link *link)
{
    while (!list_empty(&link->unsent) && link->nsent < CONTROL_REQUESTS_MAX) {
        struct control_request *request =
            LIST_ENTRY(link->unsent.next, struct control_request, link);
        int r = send_request(link, request);

        if (r == -EAGAIN)
            break;
        if (link->gone)
            return; /* and everything is answered */
        if (r < 0) {
            log_warning("a request to the front could not be sent: %s", strerror(-r));
            answer(request, NULL, -1);
            continue;
        }
        list_remove(&request->link);
        list_push_back(&link->sent, &request->link);
        link->nsent++;
    }
    if (link->idle_due)
        send_idle(link);
    watch(link);
}

void control_link_idle(struct control_link *link)
{
    link->idle_due = true;
    flush(link);
}

static void on_request(struct mail *mail, void *owner)
{
    struct control_request *request = LIST_ENTRY(mail, struct control_request, mail);
    struct control_link *link = ((struct shard *)owner)->engine->control;

    list_init(&request->link);
    list_push_back(&link->unsent, &request->link);
    if (link->gone || link->stopped)
        answer(request, NULL, -1);
    else
        flush(link);
}

void control_link_request(struct engine *engine, struct control_request *request)
{
    mailbox_post(&engine->shards[0].mailbox, &request->mail, on_request);
}

int control_link_ready(struct control_link *link)
{
    Hl__Control__ToFront message = HL__CONTROL__TO_FRONT__INIT;
    Hl__Control__Ready ready = HL__CONTROL__READY__INIT;
    struct confine_report *report = &link->engine->confinement;

    ready.confinement = (char **)report->layers;
    ready.n_confinement = report->count;
    message.kind_case = HL__CONTROL__TO_FRONT__KIND_READY;
    message.ready = &ready;
    return control_send(link->fd, &message.base, -1);
}

/* --- from the front ------------------------------------------------------------------------- */

/* Takes message and fd. */
static void on_reply(struct control_link *link, Hl__Control__ToWorker *message, int fd)
{
    LIST_FOREACH(l, &link->sent)
    {
        struct control_request *request = LIST_ENTRY(l, struct control_request, link);

        if (request->request.id == message->reply->id) {
            answer(request, message, fd);
            link->nsent--;
            flush(link);
            return;
        }
    }
    log_warning("the front replied to a request that was not made");
    hl__control__to_worker__free_unpacked(message, NULL);
    hl_cleanup_closep(&fd);
}

/* Takes fd. */
static void on_snapshot(struct control_link *link, const Hl__Control__Snapshot *snapshot, int fd)
{
    _cleanup_close_ int own = fd;

    LIST_FOREACH(l, &link->sent)
    {
        struct control_request *request = LIST_ENTRY(l, struct control_request, link);

        if (request->request.id != snapshot->id ||
            request->request.kind_case != HL__CONTROL__REQUEST__KIND_RESOLVE ||
            request->snapshot_fd >= 0)
            continue;
        request->snapshot_fd = hl_steal_fd(&own);
        return;
    }
    log_warning("a snapshot from the front that has no place here");
}

static void on_reload(struct engine *engine, const Hl__Control__Settings *reload)
{
    struct hl_error err = HL_ERROR_INIT;
    struct settings settings;

    if (settings_from_control(&settings, reload, &err) < 0)
        log_warning("settings from the front: %s", err.text);
    else
        engine_reload(engine, &settings);
}

/* Takes message and fd. */
static void serve(struct control_link *link, Hl__Control__ToWorker *message, int fd)
{
    _cleanup_close_ int own = fd;
    struct engine *engine = link->engine;

    switch (message->kind_case) {
    case HL__CONTROL__TO_WORKER__KIND_REPLY:
        on_reply(link, message, hl_steal_fd(&own));
        return;
    case HL__CONTROL__TO_WORKER__KIND_CONNECTION:
        engine->received++;
        engine_connection(engine, hl_steal_fd(&own));
        break;
    case HL__CONTROL__TO_WORKER__KIND_TAKEN:
        discard(hl_steal_fd(&own));
        break;
    case HL__CONTROL__TO_WORKER__KIND_SNAPSHOT:
        on_snapshot(link, message->snapshot, hl_steal_fd(&own));
        break;
    case HL__CONTROL__TO_WORKER__KIND_INVALIDATE:
        images_invalidate(engine, message->invalidate->name);
        break;
    case HL__CONTROL__TO_WORKER__KIND_DRAIN:
        engine_drain(engine, message->drain->limit_ns);
        break;
    case HL__CONTROL__TO_WORKER__KIND_RELOAD:
        on_reload(engine, message->reload);
        break;
    default:
        log_warning("a message from the front that has no place here");
    }
    hl__control__to_worker__free_unpacked(message, NULL);
}

static void on_poll(uv_poll_t *poll, int status, int events)
{
    struct control_link *link = poll->data;

    if (status < 0) {
        front_gone(link, uv_strerror(status));
        return;
    }
    if (events & UV_WRITABLE)
        flush(link);
    for (int i = 0; i < PACKETS_A_TURN && !link->gone; i++) {
        ProtobufCMessage *message;
        int fd = -1;
        int r = control_recv(link->fd, &hl__control__to_worker__descriptor, &message, &fd);

        if (r == -EAGAIN)
            return;
        if (r == -EBADMSG) {
            log_warning("a malformed message from the front");
            continue;
        }
        if (r <= 0) {
            front_gone(link, r == 0 ? "end" : strerror(-r));
            return;
        }
        serve(link, (Hl__Control__ToWorker *)message, fd);
    }
}

/* --- life ----------------------------------------------------------------------------------- */

int control_link_new(struct control_link **out, struct engine *engine, int fd)
{
    struct control_link *link = calloc(1, sizeof(*link));
    int r;

    if (!link) {
        close(fd);
        return -ENOMEM;
    }
    link->engine = engine;
    link->fd = fd;
    list_init(&link->unsent);
    list_init(&link->sent);
    r = uv_poll_init(&engine->shards[0].loop, &link->poll, fd);
    if (r < 0) {
        control_link_free(link);
        return r;
    }
    link->poll.data = link;
    watch(link);
    *out = link;
    return 0;
}

void control_link_close(struct control_link *link)
{
    link->gone = true;
    uv_close((uv_handle_t *)&link->poll, NULL);
}

void control_link_free(struct control_link *link)
{
    if (!link)
        return;
    close(link->fd);
    free(link);
}
