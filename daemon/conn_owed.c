/* SPDX-License-Identifier: Apache-2.0 */
/* What a connection is owed besides bytes: messages on streams, and replies that come later. */
#include "config.h"

#include "daemon/conn.h"
#include "daemon/shard.h"

bool stream_open(struct stream *stream, const struct request *request)
{
    struct conn *conn = request->conn;

    if (conn->nstreams >= CONN_STREAMS_MAX) {
        conn_send_status(conn, request->stream, HL_STATUS_RESOURCE_EXHAUSTED,
                         "%u streams of this connection are open", conn->nstreams);
        return false;
    }
    stream->conn = conn;
    stream->id = request->stream;
    stream->remote_closed = !request->remote_open;
    list_push_front(&conn->streams, &stream->link);
    conn->nstreams++;
    return true;
}

void stream_close(struct stream *stream)
{
    if (!stream->conn)
        return;
    list_remove(&stream->link);
    stream->conn->nstreams--;
    stream->conn = NULL;
}

bool ticket_take(struct ticket *ticket, const struct request *request)
{
    struct conn *conn = request->conn;

    if (conn->ntickets >= CONN_TICKETS_MAX) {
        conn_send_status(conn, request->stream, HL_STATUS_RESOURCE_EXHAUSTED,
                         "%u requests of this connection are not answered yet", conn->ntickets);
        return false;
    }
    ticket->shard = conn->shard;
    ticket->shard->works++;
    ticket->conn = conn;
    ticket->stream = request->stream;
    list_push_back(&conn->tickets, &ticket->link);
    conn->ntickets++;
    return true;
}

void ticket_drop(struct ticket *ticket)
{
    struct conn *conn = ticket->conn;

    ticket->conn = NULL;
    if (conn) {
        list_remove(&ticket->link);
        conn->ntickets--;
        conn_check_done(conn);
    }
    ticket->shard->works--;
    shard_check_quiet(ticket->shard);
}
