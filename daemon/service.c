/* SPDX-License-Identifier: Apache-2.0 */
/* Dispatch. Service and method are compared as bytes of the frame; nothing is copied to find out
 * who is meant. */
#include "config.h"

#include "daemon/service.h"

#include "daemon/conn.h"
#include "daemon/shard.h"
#include "proto/service.h"

static const struct {
    const char *name;
    const struct service_method *methods;
} services[] = {
    {SERVICE_FUNCTIONS, service_functions},
    {SERVICE_IMAGES, service_images},
    {SERVICE_DAEMON, service_daemon},
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

void service_serve(struct conn *conn, uint32_t stream, const uint8_t *payload, size_t len)
{
    struct envelope_request envelope;
    const struct service_method *method;
    struct request request = {.conn = conn, .stream = stream, .read_ns = conn->read_ns};

    if (envelope_decode_request(&envelope, payload, len) < 0) {
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
