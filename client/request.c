/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests: into the buffer of what is to be sent, and the wait for the response. A request that is
 * given up stays known until its late response has come and was thrown away, so that no later
 * request can be taken for it.
 */
#include <errno.h>
#include <string.h>

#include "base/cleanup.h"
#include "client/client.h"
#include "proto/frame.h"

int request_begin(struct hl_client *client, struct hl_client_error *err)
{
    if (client->in_callback)
        return failure_local(err, -EDEADLK, HL_STATUS_FAILED_PRECONDITION,
                             "blocking functions cannot be called from a callback");
    arena_reset(client->arena);
    room_fini(&client->handed);
    if (client->broken) {
        if (err)
            *err = client->failure;
        return client->broken;
    }
    return 0;
}

int request_send(struct hl_client *client, struct pending *p, const char *service,
                 const char *method, uint64_t timeout_ns, const ProtobufCMessage *request,
                 struct hl_client_error *err)
{
    int64_t timeout = timeout_ns > INT64_MAX ? INT64_MAX : (int64_t)timeout_ns;
    uint64_t at = client->sent + client->out.len;
    int r;

    if (client->out.len > OUT_MAX)
        r = -EAGAIN;
    else if (p->functions)
        r = envelope_encode_open(&client->out, p->stream, service, method, timeout, request);
    else
        r = envelope_encode_request(&client->out, p->stream, service, method, timeout, request);
    if (r == 0) {
        if (p->parcel)
            parcel_queue(client, HL_STEAL(p->parcel), at);
        client_flush(client);
        return 0;
    }
    pending_remove(client, p);
    if (r == -EMSGSIZE)
        return failure_local(err, r, HL_STATUS_INVALID_ARGUMENT,
                             "a request of %zu bytes is too large; a message holds %u at most",
                             protobuf_c_message_get_packed_size(request), FRAME_PAYLOAD_MAX);
    if (r == -EAGAIN)
        return failure_local(err, r, HL_STATUS_RESOURCE_EXHAUSTED,
                             "too many requests on their way; process their answers first");
    return failure_local(err, r, HL_STATUS_RESOURCE_EXHAUSTED, "out of memory");
}

int request_run(struct hl_client *client, const char *service, const char *method,
                const ProtobufCMessage *request, uint64_t timeout_ns, uint64_t wait_ns,
                struct pending *p, ProtobufCMessage **response, struct hl_client_error *err)
{
    uint64_t deadline = UINT64_MAX;
    int r;

    p->err = err;
    r = request_send(client, p, service, method, timeout_ns, request, err);
    if (r < 0)
        return r;
    if (wait_ns > 0 && __builtin_add_overflow(client_now(), wait_ns, &deadline))
        deadline = UINT64_MAX;
    r = client_wait(client, p, deadline);
    if (r == -ETIMEDOUT) {
        p->kind = PENDING_DROP;
        return failure_local(err, r, HL_STATUS_DEADLINE_EXCEEDED,
                             "no answer from hld within %.3f s", (double)wait_ns / NSEC_PER_SEC);
    }
    r = p->code;
    *response = p->message;
    pending_remove(client, p);
    return r;
}

int request_simple(struct hl_client *client, const char *service, const char *method,
                   const ProtobufCMessage *request, const ProtobufCMessageDescriptor *type,
                   ProtobufCMessage **response, struct hl_client_error *err)
{
    struct pending *p;
    int r;

    r = pending_new(&p, client, PENDING_WAIT, err);
    if (r < 0)
        return r;
    p->type = type;
    return request_run(client, service, method, request, 0, client->timeout_ns, p, response, err);
}

int request_decode(struct arena *arena, const struct envelope_response *response,
                   const ProtobufCMessageDescriptor *type, ProtobufCMessage **out,
                   struct hl_client_error *err)
{
    if (response->code != HL_STATUS_OK)
        return failure_remote(err, arena, response);
    if (arena_unpack(arena, type, response->payload.data, response->payload.len, out) < 0)
        return failure_local(err, -EPROTO, HL_STATUS_INTERNAL,
                             "hld's answer is no %s message; is it another version?", type->name);
    return 0;
}
