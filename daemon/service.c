/* SPDX-License-Identifier: Apache-2.0 */
/* Dispatch. Service and method are compared as bytes of the frame; nothing is copied to find out
 * who is meant. */
#include "config.h"

#include "daemon/service.h"

#include "daemon/call_stream.h"
#include "daemon/conn.h"
#include "daemon/offer.h"
#include "daemon/shard.h"
#include "proto/frame.h"
#include "proto/service.h"

static const struct {
    const char *name;
    const struct service_method *methods;
} services[] = {
    {SERVICE_FUNCTIONS, service_functions}, {SERVICE_HOST, service_host},
    {SERVICE_IMAGES, service_images},       {SERVICE_DAEMON, service_daemon},
    {SERVICE_SESSIONS, service_sessions},
};

static const struct service_method *find_method(const struct envelope_request *envelope)
{
    for (size_t i = 0; i < sizeof(services) / sizeof(services[0]); i++) {
        if (!envelope_view_equal(envelope->service, services[i].name))
            continue;
        for (const struct service_method *m = services[i].methods; m->name; m++) {
            if (envelope_view_equal(envelope->method, m->name))
                return m;
        }
    }
    return NULL;
}

/* Whether the client may send more than the request. */
static bool takes_data(const struct service_method *method)
{
    return method->serve == serve_invoke_with_host || method->serve == serve_offer;
}

void service_serve(struct conn *conn, const struct frame_header *header, const uint8_t *payload)
{
    uint32_t stream = header->stream;
    struct envelope_request envelope;
    const struct service_method *method;
    struct request request = {
        .conn = conn,
        .stream = stream,
        .read_ns = conn->read_ns,
        .remote_open = (header->flags & FRAME_REMOTE_OPEN) != 0,
    };

    if (envelope_decode_request(&envelope, payload, header->length) < 0) {
        conn_send_status(conn, stream, HL_STATUS_INVALID_ARGUMENT, "malformed ttrpc request");
        return;
    }
    method = find_method(&envelope);
    if (!method) {
        conn_send_status(conn, stream, HL_STATUS_UNIMPLEMENTED,
                         "hld has no method '%.*s' in a service '%.*s'",
                         envelope.method.len > 64 ? 64 : (int)envelope.method.len,
                         (const char *)envelope.method.data,
                         envelope.service.len > 64 ? 64 : (int)envelope.service.len,
                         (const char *)envelope.service.data);
        return;
    }
    if (request.remote_open && !takes_data(method)) {
        conn_send_status(conn, stream, HL_STATUS_UNIMPLEMENTED, "%s is no streaming method",
                         method->name);
        return;
    }
    request.timeout_ns = envelope.timeout_nano;
    request.payload = envelope.payload.data;
    request.len = envelope.payload.len;
    method->serve(&request);
}

void *service_unpack(const struct request *request, const void *descriptor)
{
    struct arena *arena = &request->conn->shard->arena;
    ProtobufCMessage *message;

    arena_reset(arena);
    if (arena_unpack(arena, descriptor, request->payload, request->len, &message) == 0)
        return message;
    conn_send_status(request->conn, request->stream, HL_STATUS_INVALID_ARGUMENT,
                     "malformed request");
    return NULL;
}
