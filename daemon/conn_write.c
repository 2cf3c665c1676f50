/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bytes to a client. Replies are put together in one buffer and handed to the socket at once; what
 * the socket does not take stays there until it does, and from then on counts against the client's
 * patience. Frames that came together are answered together: while a further whole frame of the
 * same connection waits its turn, replies are held back, but never longer than CORK_NS.
 */
#include "config.h"

#include "daemon/conn.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "daemon/engine.h"
#include "daemon/shard.h"
#include "hv/timer.h"
#include "proto/frame.h"

#define WRITE_MAX  (16u << 20)              /* past it the connection ends */
#define LATE_KEPT  (2u * FRAME_PAYLOAD_MAX) /* of memory: one of the largest replies */
#define CORK_NS    200000u
#define CORK_BYTES 65536u

/* For what is to be written, and for memory that is kept. A buffer of the usual size is charged all
 * the time, so that usual replies change nothing that other threads look at. */
static bool charge_writes(struct conn *conn, size_t bytes)
{
    if (bytes < conn->out.size)
        bytes = conn->out.size;
    if (bytes < CONN_BUFFER_SIZE)
        bytes = CONN_BUFFER_SIZE;
    return charge_set(&conn->write_charge, &conn->shard->engine->budget, BUDGET_CLIENT_BYTES,
                      bytes);
}

static void written(struct conn *conn, size_t n)
{
    conn->write_bytes -= n;
    (void)charge_writes(conn, conn->write_bytes);
    conn->stalled_ns = conn->write_bytes > 0 ? hv_now_ns() : 0;
}

static void trim(struct conn *conn, size_t keep)
{
    buffer_trim(&conn->out, keep);
    (void)charge_writes(conn, conn->write_bytes);
}

/* Returns: whether all of it is gone; otherwise it is waited for, or the connection closed. */
static bool write_out(struct conn *conn)
{
    ssize_t n = send(conn->fd, buffer_data(&conn->out), conn->out.len, MSG_DONTWAIT | MSG_NOSIGNAL);

    if (n < 0 && errno != EAGAIN && errno != EINTR && errno != ENOBUFS) {
        conn_close(conn);
        return false;
    }
    if (n > 0) {
        buffer_consume(&conn->out, (size_t)n);
        written(conn, (size_t)n);
    }
    return conn->out.len == 0;
}

static void wait_for_socket(struct conn *conn)
{
    conn->late = true;
    conn_poll(conn);
    if (conn->stalled_ns == 0)
        conn->stalled_ns = hv_now_ns();
    conn_watch(conn);
}

/* Memory of large replies is kept for a while: those to one client come in a row, and fresh pages
 * for each would cost more than writing it. */
void conn_flush(struct conn *conn)
{
    if (conn->closing || conn->late || conn->out.len == 0)
        return;
    if (write_out(conn)) {
        if (++conn->small_writes > CONN_SMALL_MANY && conn->out.size > CONN_BUFFER_KEPT)
            trim(conn, CONN_BUFFER_KEPT);
    } else if (!conn->closing) {
        wait_for_socket(conn);
    }
}

void conn_writable(struct conn *conn)
{
    if (write_out(conn)) {
        conn->late = false;
        trim(conn, LATE_KEPT);
    }
    if (conn->closing)
        return;
    conn_poll(conn);
    if (conn->write_bytes <= CONN_WRITE_HIGH / 2 && !conn->reading) {
        shard_ready(conn->shard, conn);
        shard_wake(conn->shard);
    }
    conn_watch(conn);
    conn_check_done(conn);
    shard_check_quiet(conn->shard);
}

void conn_push(struct conn *conn)
{
    if (conn->corked && conn->more > 0 && conn->out.len < CORK_BYTES &&
        hv_now_ns() - conn->corked_ns < CORK_NS)
        return;
    conn_flush(conn);
}

/* Charges what was just put into out. */
static void sent(struct conn *conn, size_t before)
{
    size_t bytes = conn->write_bytes + conn->out.len - before;

    if (bytes > WRITE_MAX || !charge_writes(conn, bytes)) {
        stats_add(&conn->shard->stats, STAT_SLOW, 1);
        conn_close(conn);
        return;
    }
    conn->write_bytes = bytes;
    if (conn->out.len > CONN_BUFFER_KEPT)
        conn->small_writes = 0;
    if (!conn->corked)
        conn_flush(conn);
}

void conn_send_message(struct conn *conn, uint32_t stream, const ProtobufCMessage *message)
{
    size_t before = conn->out.len;
    int r;

    if (conn->closing)
        return;
    r = envelope_encode_response(&conn->out, stream, message);
    if (r == 0)
        sent(conn, before);
    else if (r == -EMSGSIZE)
        conn_send_status(conn, stream, HL_STATUS_RESOURCE_EXHAUSTED,
                         "the answer is over the %u bytes that one message carries",
                         FRAME_PAYLOAD_MAX);
    else
        conn_close(conn);
}

static int data_sent(struct conn *conn, size_t before, int r)
{
    if (r == 0)
        sent(conn, before);
    else if (r != -EMSGSIZE)
        conn_close(conn);
    return r == -EMSGSIZE ? r : 0;
}

int conn_send_data(struct conn *conn, uint32_t stream, const ProtobufCMessage *message)
{
    size_t before = conn->out.len;

    if (conn->closing)
        return 0;
    return data_sent(conn, before, envelope_encode_data(&conn->out, stream, 0, message));
}

int conn_send_data_packed(struct conn *conn, uint32_t stream, const void *packed, size_t len)
{
    size_t before = conn->out.len;

    if (conn->closing)
        return 0;
    return data_sent(conn, before, envelope_encode_data_packed(&conn->out, stream, 0, packed, len));
}

void conn_send_details(struct conn *conn, uint32_t stream, enum hl_status status, const char *text,
                       const struct envelope_detail *details, size_t ndetails)
{
    size_t before = conn->out.len;

    if (conn->closing)
        return;
    if (envelope_encode_status(&conn->out, stream, status, text, details, ndetails) == 0)
        sent(conn, before);
    else
        conn_close(conn);
}

void conn_send_status(struct conn *conn, uint32_t stream, enum hl_status status, const char *fmt,
                      ...)
{
    char text[HL_ERROR_TEXT_MAX];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    conn_send_details(conn, stream, status, text, NULL, 0);
}
