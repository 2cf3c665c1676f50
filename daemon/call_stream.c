/* SPDX-License-Identifier: Apache-2.0 */
/*
 * InvokeWithHost. A call has one host call at a time under way, so what its client sends is an
 * answer to that one or an offence, which ends the call and harms no other. An answer that comes
 * after the call's end finds no stream any more and is thrown away.
 */
#include "config.h"

#include "daemon/call_stream.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "daemon/call_internal.h"
#include "daemon/host.h"
#include "daemon/service.h"
#include "daemon/shard.h"

void call_stream_free(struct call_stream *host)
{
    if (!host)
        return;
    stream_close(&host->stream);
    free(host);
}

/* It has no call yet, and will have none. */
static void refuse(struct call_stream *host, const char *text)
{
    struct conn *conn = host->stream.conn;
    uint32_t id = host->stream.id;

    stats_add(&conn->shard->stats, STAT_OTHER_ERRORS, 1);
    call_stream_free(host);
    conn_send_status(conn, id, HL_STATUS_INVALID_ARGUMENT, "%s", text);
}

/* May free host. */
static void start(struct call_stream *host, const uint8_t *payload, size_t len)
{
    struct conn *conn = host->stream.conn;
    struct request request = {
        .conn = conn,
        .stream = host->stream.id,
        .read_ns = host->read_ns,
        .timeout_ns = host->timeout_ns,
        .payload = payload,
        .len = len,
        .host = host,
    };
    struct arena *arena = &conn->shard->arena;
    ProtobufCMessage *message;
    const Hl__V1__InvokeWithHostRequest *first;

    arena_reset(arena);
    if (arena_unpack(arena, &hl__v1__invoke_with_host_request__descriptor, payload, len, &message) <
        0) {
        refuse(host, "malformed request");
        return;
    }
    first = (const Hl__V1__InvokeWithHostRequest *)message;
    if (first->kind_case != HL__V1__INVOKE_WITH_HOST_REQUEST__KIND_START)
        refuse(host, "the stream's first message is start");
    else
        call_begin(&request, first->start);
}

/* May end call. */
static void take_answer(struct call *call, const uint8_t *payload, size_t len)
{
    struct arena *arena = &call->shard->arena;
    const Hl__V1__InvokeWithHostRequest *request;
    ProtobufCMessage *message;
    char text[128];

    arena_reset(arena);
    if (arena_unpack(arena, &hl__v1__invoke_with_host_request__descriptor, payload, len, &message) <
        0) {
        call_end_with(call, STAT_OTHER_ERRORS, HL_STATUS_INVALID_ARGUMENT, "malformed answer");
        return;
    }
    request = (const Hl__V1__InvokeWithHostRequest *)message;
    if (request->kind_case != HL__V1__INVOKE_WITH_HOST_REQUEST__KIND_ANSWER) {
        call_end_with(call, STAT_OTHER_ERRORS, HL_STATUS_INVALID_ARGUMENT,
                      "after a stream's first message come answers");
        return;
    }
    if (call->state == CALL_PARKED && call->parked.at == PARKED_CLIENT &&
        call->parked.id == request->answer->id) {
        host_take(call, request->answer, true);
        return;
    }
    snprintf(text, sizeof(text), "no host call %" PRIu64 " waits for an answer",
             request->answer->id);
    call_end_with(call, STAT_OTHER_ERRORS, HL_STATUS_INVALID_ARGUMENT, text);
}

static void on_data(struct stream *stream, const uint8_t *payload, size_t len)
{
    struct call_stream *host = LIST_ENTRY(stream, struct call_stream, stream);

    if (host->call)
        take_answer(host->call, payload, len);
    else
        start(host, payload, len);
}

static void on_end(struct stream *stream)
{
    struct call_stream *host = LIST_ENTRY(stream, struct call_stream, stream);
    struct call *call = host->call;

    if (!call)
        refuse(host, "the stream ended before its first message");
    else if (call->state == CALL_PARKED && call->parked.at == PARKED_CLIENT)
        host_fail(call, HL_STATUS_UNAVAILABLE, 0, "the caller answers no more host calls");
}

static void on_closed(struct stream *stream)
{
    struct call_stream *host = LIST_ENTRY(stream, struct call_stream, stream);

    if (!host->call) /* else it is the call's to free, which is just ending */
        call_stream_free(host);
}

void serve_invoke_with_host(const struct request *request)
{
    struct call_stream *host = calloc(1, sizeof(*host));

    stats_add(&request->conn->shard->stats, STAT_CALLS, 1);
    if (!host) {
        conn_send_status(request->conn, request->stream, HL_STATUS_RESOURCE_EXHAUSTED,
                         "out of memory");
        return;
    }
    host->stream.on_data = on_data;
    host->stream.on_end = on_end;
    host->stream.on_closed = on_closed;
    host->read_ns = request->read_ns;
    host->timeout_ns = request->timeout_ns;
    if (!stream_open(&host->stream, request)) {
        free(host);
        return;
    }
    if (request->len > 0)
        start(host, request->payload, request->len);
    else if (!request->remote_open)
        refuse(host, "the stream ended before its first message");
}
