/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bytes of a client. Frames are served straight from the read buffer, one a turn: a connection with
 * a whole frame is ready, and the shard goes round its ready connections, so that one client with a
 * full pipe cannot keep others from theirs. A client that sends half a frame and stops, or that
 * does not read its replies, is given slow_sender_ns. Every buffer is charged before it is
 * allocated.
 *
 * A client may shut down its sending side and still get its answers. The kernel then reports no
 * end of the other direction to one who does not read, so a timer looks for it.
 */
#include "config.h"

#include "daemon/conn.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "daemon/call.h"
#include "daemon/discard.h"
#include "daemon/engine.h"
#include "daemon/service.h"
#include "daemon/shard.h"
#include "hv/timer.h"
#include "proto/frame.h"

#define HANGUP_LOOK_MS 20

/* --- end ----------------------------------------------------------------------------------- */

static void conn_free(struct conn *conn)
{
    charge_release(&conn->buf_charge);
    charge_release(&conn->write_charge);
    buffer_fini(&conn->out);
    free(conn->buf);
    free(conn);
}

static void on_handle_closed(uv_handle_t *handle)
{
    struct conn *conn = handle->data;

    if (--conn->open_handles == 0)
        conn_free(conn);
}

static void drop_uploads(struct conn *conn)
{
    for (size_t i = 0; i < CONN_UPLOADS_MAX; i++) {
        hl_cleanup_closep(&conn->uploads[i].fd);
        charge_release(&conn->uploads[i].charge);
        conn->uploads[i] = (struct upload){.fd = -1};
    }
}

void conn_close(struct conn *conn)
{
    struct list *l;

    if (conn->closing)
        return;
    conn->closing = true;
    conn->reading = conn->late = false;
    list_remove(&conn->link);
    list_remove(&conn->ready_link);
    while (!list_empty(&conn->calls))
        call_abandon(LIST_ENTRY(conn->calls.next, struct call, conn_link));
    while (!list_empty(&conn->streams)) {
        struct stream *stream = LIST_ENTRY(conn->streams.next, struct stream, link);

        stream_close(stream);
        stream->on_closed(stream);
    }
    while ((l = list_pop_front(&conn->tickets)))
        LIST_ENTRY(l, struct ticket, link)->conn = NULL;
    drop_uploads(conn);
    conn_forget_descriptors(conn);
    uv_close((uv_handle_t *)&conn->poll, on_handle_closed);
    discard_connection(conn->fd); /* now: another connection may be waiting for its number */
    conn->fd = -1;
    uv_close((uv_handle_t *)&conn->timer, on_handle_closed);
    shard_conn_closed(conn->shard);
}

bool conn_owed(const struct conn *conn)
{
    return !list_empty(&conn->calls) || !list_empty(&conn->tickets) || conn->write_bytes > 0 ||
           conn->asked > 0;
}

void conn_check_done(struct conn *conn)
{
    if (!conn->closing && conn->eof && conn->more == 0 && !conn_owed(conn) &&
        list_empty(&conn->ready_link))
        conn_close(conn);
}

/* --- watching over slow clients ------------------------------------------------------------- */

static void on_timer(uv_timer_t *timer);

static uint64_t earlier(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

void conn_watch(struct conn *conn)
{
    uint64_t patience = conn->shard->settings.slow_sender_ns;
    uint64_t now, when = UINT64_MAX;

    if (conn->closing)
        return;
    if (conn->partial_ns == 0 && conn->stalled_ns == 0 && !conn->eof) {
        if (uv_is_active((uv_handle_t *)&conn->timer))
            uv_timer_stop(&conn->timer);
        return;
    }
    now = hv_now_ns();
    if (conn->partial_ns != 0)
        when = earlier(when, conn->partial_ns + patience);
    if (conn->stalled_ns != 0)
        when = earlier(when, conn->stalled_ns + patience);
    if (conn->eof)
        when = earlier(when, now + HANGUP_LOOK_MS * 1000000ull);
    uv_update_time(&conn->shard->loop);
    uv_timer_start(&conn->timer, on_timer, when <= now ? 0 : (when - now) / 1000000u + 1, 0);
}

static bool hung_up(const struct conn *conn)
{
    struct pollfd pfd = {.fd = conn->fd, .events = 0};

    return poll(&pfd, 1, 0) == 1 && (pfd.revents & (POLLHUP | POLLERR)) != 0;
}

static void on_timer(uv_timer_t *timer)
{
    struct conn *conn = timer->data;
    uint64_t patience = conn->shard->settings.slow_sender_ns;
    uint64_t now = hv_now_ns();

    if ((conn->partial_ns != 0 && list_empty(&conn->ready_link) &&
         now >= conn->partial_ns + patience) ||
        (conn->stalled_ns != 0 && now >= conn->stalled_ns + patience)) {
        stats_add(&conn->shard->stats, STAT_SLOW, 1);
        conn_close(conn);
        return;
    }
    if (conn->eof && hung_up(conn)) {
        conn_close(conn);
        return;
    }
    conn_watch(conn);
}

/* --- reading -------------------------------------------------------------------------------- */

static void malformed(struct conn *conn)
{
    stats_add(&conn->shard->stats, STAT_MALFORMED, 1);
    conn_close(conn);
}

static void serve_request(struct conn *conn, const struct frame_header *header,
                          const uint8_t *payload)
{
    if (header->stream % 2 == 0 || header->stream <= conn->last_stream) {
        /* As other ttrpc servers do: the frame is whole, only its number is wrong. */
        conn_send_status(conn, header->stream, HL_STATUS_INVALID_ARGUMENT,
                         "stream %u: a client's stream numbers are odd and increase",
                         header->stream);
        return;
    }
    conn->last_stream = header->stream;
    service_serve(conn, header, payload);
}

static struct stream *find_stream(struct conn *conn, uint32_t id)
{
    LIST_FOREACH(l, &conn->streams)
    {
        struct stream *stream = LIST_ENTRY(l, struct stream, link);

        if (stream->id == id)
            return stream;
    }
    return NULL;
}

static void end_stream(struct stream *stream)
{
    if (stream->remote_closed)
        return;
    stream->remote_closed = true;
    stream->on_end(stream);
}

/* The client sends no more at all; what came was served. */
static void no_more_comes(struct conn *conn)
{
    struct list *l = conn->streams.next;

    if (l != &conn->streams && hung_up(conn)) {
        conn_close(conn);
        return;
    }
    while (l != &conn->streams) {
        struct stream *stream = LIST_ENTRY(l, struct stream, link);

        l = l->next;
        if (stream->remote_closed)
            continue;
        end_stream(stream);
        l = conn->streams.next; /* others may be over too */
    }
}

static void serve_data(struct conn *conn, const struct frame_header *header, const uint8_t *payload)
{
    struct stream *stream = find_stream(conn, header->stream);

    if (!stream) {
        /* One that was closed meanwhile may still get some. */
        if (header->stream > conn->last_stream || header->stream % 2 == 0)
            conn_send_status(conn, header->stream, HL_STATUS_INVALID_ARGUMENT,
                             "stream %u takes no data", header->stream);
        return;
    }
    if (stream->remote_closed)
        return;
    if (!(header->flags & FRAME_NO_DATA) || header->length > 0)
        stream->on_data(stream, payload, header->length);
    if (!(header->flags & FRAME_REMOTE_CLOSED))
        return;
    stream = find_stream(conn, header->stream); /* it may be over */
    if (stream)
        end_stream(stream);
}

static void serve_frame(struct conn *conn, const struct frame_header *header,
                        const uint8_t *payload)
{
    switch (header->type) {
    case FRAME_REQUEST:
        serve_request(conn, header, payload);
        break;
    case FRAME_DATA:
        serve_data(conn, header, payload);
        break;
    default:
        malformed(conn);
    }
}

static int resize(struct conn *conn, size_t cap)
{
    struct budget *budget = &conn->shard->engine->budget;
    size_t held = conn->end - conn->start;
    uint8_t *buf;

    if (!charge_set(&conn->buf_charge, budget, BUDGET_CLIENT_BYTES, cap))
        return -ENOBUFS;
    buf = malloc(cap);
    if (!buf) {
        charge_set(&conn->buf_charge, budget, BUDGET_CLIENT_BYTES, conn->cap);
        return -ENOMEM;
    }
    if (held > 0)
        memcpy(buf, conn->buf + conn->start, held);
    free(conn->buf);
    conn->buf = buf;
    conn->cap = cap;
    conn->start = 0;
    conn->end = held;
    return 0;
}

/* Room for the frame whose header is at hand, or for a new one. */
static void make_room(struct conn *conn, const struct frame_header *header, bool known)
{
    size_t held = conn->end - conn->start;
    size_t need = known ? FRAME_HEADER_SIZE + (size_t)header->length : FRAME_HEADER_SIZE;

    if (need > conn->cap) {
        if (resize(conn, need) < 0) {
            conn_send_status(conn, header->stream, HL_STATUS_RESOURCE_EXHAUSTED,
                             "no room for a frame of %u bytes now", header->length);
            conn->discard = need - held;
            conn->start = conn->end = 0;
            conn_forget_descriptors(conn);
        }
        return;
    }
    if (held == 0) {
        conn->start = conn->end = 0;
        if (conn->cap > CONN_BUFFER_KEPT && conn->small_reads > CONN_SMALL_MANY)
            (void)resize(conn, CONN_BUFFER_SIZE);
    } else if (conn->start > 0 && (conn->cap - conn->start < need || conn->end == conn->cap)) {
        memmove(conn->buf, conn->buf + conn->start, held);
        conn->start = 0;
        conn->end = held;
    }
}

static void set_reading(struct conn *conn, bool want);

/* What is at hand was looked at: room for the rest, and the clock on it. */
static void settle(struct conn *conn, const struct frame_header *header, bool known)
{
    bool full = conn->write_bytes > CONN_WRITE_HIGH;

    if (conn->eof && !full) {
        conn->start = conn->end;
        conn_drop_descriptors(conn);
        no_more_comes(conn);
        if (conn->closing)
            return;
    }
    if (!full)
        make_room(conn, header, known);
    if (conn->start == conn->end || full) /* full: it is not the client who is late */
        conn->partial_ns = 0;
    else if (conn->partial_ns == 0)
        conn->partial_ns = hv_now_ns();
    set_reading(conn, !full);
    conn_watch(conn);
    conn_check_done(conn);
}

/* Returns: 1 with a whole frame at the front; 0 with none, and the connection settled to wait for
 * the rest; -EPROTO for what is no frame. */
static int next_frame(struct conn *conn, struct frame_header *header)
{
    size_t held = conn->end - conn->start;
    int r = 0;

    *header = (struct frame_header){0};
    if (conn->write_bytes <= CONN_WRITE_HIGH)
        r = frame_decode(conn->buf + conn->start, held, header);
    if (r == 0)
        settle(conn, header, held >= FRAME_HEADER_SIZE);
    return r;
}

/* Whole frames at hand, up to a few; one that is malformed counts, since it is to be served too. */
static unsigned int count_frames(const struct conn *conn)
{
    struct frame_header header;
    size_t at = conn->start;
    unsigned int n = 0;

    while (n < CONN_MORE_MOST) {
        int r = frame_decode(conn->buf + at, conn->end - at, &header);

        if (r == 0)
            break;
        n++;
        if (r < 0)
            break;
        at += FRAME_HEADER_SIZE + header.length;
    }
    return n;
}

bool conn_serve(struct conn *conn)
{
    struct frame_header header;
    int r = conn->closing ? 0 : next_frame(conn, &header);

    conn->more = 0;
    if (r < 0) {
        conn_flush(conn); /* what came before it was in order */
        malformed(conn);
    }
    if (r <= 0)
        return false;
    conn->start += FRAME_HEADER_SIZE + header.length;
    conn->small_reads = header.length > CONN_BUFFER_KEPT ? 0 : conn->small_reads + 1;
    conn->partial_ns = 0;
    conn->more = count_frames(conn);
    conn->corked = true;
    if (conn->more > 0 && conn->out.len == 0)
        conn->corked_ns = hv_now_ns();
    serve_frame(conn, &header, conn->buf + conn->start - header.length);
    conn_push(conn);
    conn->corked = false;
    if (conn->closing)
        return false;
    conn_drop_descriptors(conn);
    return conn->more > 0 || next_frame(conn, &header) != 0;
}

static void on_eof(struct conn *conn)
{
    conn->eof = true;
    set_reading(conn, false);
    if (hung_up(conn)) {
        conn_close(conn);
        return;
    }
    if (list_empty(&conn->ready_link)) { /* half a frame, which will never be whole */
        conn->start = conn->end;
        conn->partial_ns = 0;
        conn_drop_descriptors(conn);
        no_more_comes(conn);
    }
    if (conn->closing)
        return;
    conn_watch(conn);
    conn_check_done(conn);
}

static void take_bytes(struct conn *conn, size_t n)
{
    if (conn->discard > 0) {
        size_t gone = n < conn->discard ? n : conn->discard;

        conn->discard -= gone;
        n -= gone;
        memmove(conn->buf, conn->buf + gone, n);
    }
    conn->end += n;
    if (conn->discard > 0 || n == 0)
        conn_drop_descriptors(conn);
    /* Descriptors are for the frames at hand: those are served before more can come, so that each
     * frame may bring as many as are kept, however many are sent ahead. */
    if (conn->end == conn->cap || conn->descriptors.count > 0)
        set_reading(conn, false);
    conn->read_ns = hv_now_ns();
    shard_ready(conn->shard, conn);
}

static void read_once(struct conn *conn)
{
    union {
        struct cmsghdr header;
        char room[CMSG_SPACE(DESCRIPTORS_MAX * sizeof(int))];
    } control;
    struct iovec iov = {conn->buf + conn->end, conn->cap - conn->end};
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = &control,
                         .msg_controllen = sizeof(control)};
    ssize_t n = recvmsg(conn->fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n < 0) {
        conn_close(conn);
        return;
    }
    conn->received += (size_t)n;
    if (msg.msg_controllen > 0 || msg.msg_flags & MSG_CTRUNC)
        conn_keep_descriptors(conn, &msg);
    if (n == 0)
        on_eof(conn);
    else
        take_bytes(conn, (size_t)n);
}

/* --- waiting for the socket ----------------------------------------------------------------- */

static int wanted(const struct conn *conn)
{
    return (conn->reading ? UV_READABLE : 0) | (conn->late ? UV_WRITABLE : 0);
}

static void on_poll(uv_poll_t *poll, int status, int events);

static void poll_for(struct conn *conn, int want)
{
    conn->polled = want;
    if (want == 0)
        uv_poll_stop(&conn->poll);
    else if (uv_poll_start(&conn->poll, want, on_poll) < 0)
        conn_close(conn);
}

static void on_poll(uv_poll_t *poll, int status, int events)
{
    struct conn *conn = poll->data;
    bool stale = (events & ~wanted(conn)) != 0;

    if (conn->closing)
        return;
    if (status < 0) {
        conn_close(conn);
        return;
    }
    if (events & UV_WRITABLE)
        conn_writable(conn);
    if (events & UV_READABLE && conn->reading && !conn->closing)
        read_once(conn);
    stale |= (conn->polled & ~wanted(conn) & UV_WRITABLE) != 0; /* it would be reported at once */
    if (stale && !conn->closing && conn->polled != wanted(conn))
        poll_for(conn, wanted(conn));
}

/* A change is two system calls, and reading mostly stops to go on in the same turn: what is not
 * wanted any more is taken out when it is reported in vain. */
void conn_poll(struct conn *conn)
{
    if (!conn->closing && (wanted(conn) & ~conn->polled) != 0)
        poll_for(conn, wanted(conn));
}

static void set_reading(struct conn *conn, bool want)
{
    conn->reading = want && !conn->closing && !conn->eof;
    conn_poll(conn);
}

/* --- beginning ------------------------------------------------------------------------------ */

int conn_open(struct shard *shard, int fd)
{
    _cleanup_discard_ int own = fd;
    struct conn *conn = calloc(1, sizeof(*conn));
    int r;

    if (!conn)
        return -ENOMEM;
    conn->shard = shard;
    conn->fd = -1;
    list_init(&conn->link);
    list_init(&conn->ready_link);
    list_init(&conn->calls);
    list_init(&conn->streams);
    list_init(&conn->tickets);
    for (size_t i = 0; i < CONN_UPLOADS_MAX; i++)
        conn->uploads[i].fd = -1;
    r = resize(conn, CONN_BUFFER_SIZE);
    if (r == 0 && !charge_set(&conn->write_charge, &shard->engine->budget, BUDGET_CLIENT_BYTES,
                              CONN_BUFFER_SIZE))
        r = -ENOBUFS;
    if (r < 0) {
        conn_free(conn);
        return r;
    }
    r = uv_poll_init(&shard->loop, &conn->poll, own);
    if (r < 0) {
        conn_free(conn);
        return r;
    }
    conn->fd = hl_steal_fd(&own);
    uv_timer_init(&shard->loop, &conn->timer);
    conn->poll.data = conn->timer.data = conn;
    conn->open_handles = 2;
    list_push_back(&shard->conns, &conn->link);
    set_reading(conn, true);
    return 0;
}
