/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Calls, blocking and submitted. Arguments go from the caller's values into the frame without a
 * copy between; what the function answered is checked here and handed out.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "client/client.h"
#include "proto/convert.h"
#include "proto/service.h"

/* hld stops a call at its deadline; only past this is it taken for dead. */
#define GRACE NSEC_PER_SEC

struct encoded_call {
    Hl__V1__InvokeRequest request;
    Hl__V1__InvokeWithHostRequest with_host; /* around it */
    Hl__V1__Value values[HL_MAX_PARAMS];
    Hl__V1__Value *pointers[HL_MAX_PARAMS];
    Hl__V1__Descriptor descriptors[HL_MAX_PARAMS + 1]; /* the last one is the result's room */
    int fds[HL_MAX_PARAMS + 1];                        /* what they name, borrowed */
    unsigned int ndescriptors;
};

static int encode_argument(struct encoded_call *out, size_t i, const struct hl_value *arg,
                           struct hl_client_error *err)
{
    Hl__V1__Descriptor *descriptor = &out->descriptors[out->ndescriptors];
    char why[128];
    int r;

    out->pointers[i] = &out->values[i];
    if (arg->type == HL_TYPE_DESCRIPTOR) {
        r = descriptor_check(arg, why, sizeof(why));
        if (r < 0)
            return failure_local(err, r, HL_STATUS_INVALID_ARGUMENT, "argument %zu: %s", i + 1,
                                 why);
        hl__v1__descriptor__init(descriptor);
        descriptor->index = out->ndescriptors;
        out->fds[out->ndescriptors++] = arg->descriptor.fd;
        hl__v1__value__init(&out->values[i]);
        out->values[i].kind_case = HL__V1__VALUE__KIND_DESCRIPTOR;
        out->values[i].descriptor = descriptor;
        return 0;
    }
    r = convert_to_proto(&out->values[i], arg);
    if (r == -EILSEQ)
        return failure_local(err, r, HL_STATUS_INVALID_ARGUMENT,
                             "argument %zu: string is not valid UTF-8", i + 1);
    if (r < 0 || arg->type == HL_TYPE_VOID)
        return failure_local(err, -EINVAL, HL_STATUS_INVALID_ARGUMENT,
                             "argument %zu: not a type that can be sent", i + 1);
    return 0;
}

static int encode(struct encoded_call *out, const struct hl_client *client,
                  const struct hl_call *call, struct hl_client_error *err)
{
    hl__v1__invoke_request__init(&out->request);
    hl__v1__invoke_with_host_request__init(&out->with_host);
    out->with_host.kind_case = HL__V1__INVOKE_WITH_HOST_REQUEST__KIND_START;
    out->with_host.start = &out->request;
    if (call->nargs > HL_MAX_PARAMS)
        return failure_local(err, -EINVAL, HL_STATUS_INVALID_ARGUMENT,
                             "%zu arguments; a function takes %d at most", call->nargs,
                             HL_MAX_PARAMS);
    out->ndescriptors = 0;
    for (size_t i = 0; i < call->nargs; i++) {
        int r = encode_argument(out, i, &call->args[i], err);

        if (r < 0)
            return r;
    }
    if (call->image)
        out->request.image = (char *)call->image;
    if (call->session)
        out->request.session = (char *)call->session;
    out->request.function = (char *)call->function;
    out->request.n_args = call->nargs;
    out->request.args = out->pointers;
    out->request.depth = client->depth;
    return 0;
}

/* What goes beside p's request: the arguments' descriptors, then room for the result. On failure p
 * is removed. */
static int attach(struct hl_client *client, struct pending *p, struct encoded_call *encoded,
                  const struct hl_call *call, struct hl_client_error *err)
{
    Hl__V1__Descriptor *into = &encoded->descriptors[encoded->ndescriptors];
    unsigned int count = encoded->ndescriptors + (call->result_room > 0);
    int r = 0;

    if (count == 0)
        return 0;
    if (client->ndescriptors + count > PARCELS_MAX_FDS)
        r = failure_local(err, -EAGAIN, HL_STATUS_RESOURCE_EXHAUSTED,
                          "too many descriptors on their way; process their answers first");
    else if (call->result_room > 0)
        r = room_new(&p->room, call->result_room, err);
    if (r == 0 && p->room.fd >= 0) {
        hl__v1__descriptor__init(into);
        into->index = p->room.index = encoded->ndescriptors;
        encoded->fds[encoded->ndescriptors++] = p->room.fd;
        encoded->request.result_into = into;
    }
    if (r == 0) {
        r = parcel_new(&p->parcel, encoded->fds, encoded->ndescriptors);
        if (r < 0)
            failure_local(err, r, HL_STATUS_RESOURCE_EXHAUSTED, "cannot duplicate a descriptor: %s",
                          strerror(-r));
    }
    if (r < 0) {
        pending_remove(client, p);
        return r;
    }
    p->ndescriptors = encoded->ndescriptors;
    client->ndescriptors += p->ndescriptors;
    return 0;
}

static const char *service_of(const struct hl_call *call)
{
    return call->session ? SERVICE_SESSIONS : SERVICE_FUNCTIONS;
}

void accounting_copy(struct hl_accounting *out, const Hl__V1__Accounting *in)
{
    *out = (struct hl_accounting){
        .queue_ns = in->queue_ns,
        .run_ns = in->run_ns,
        .total_ns = in->total_ns,
        .exits = in->exits,
        .pages_reset = in->pages_reset,
        .instance_age_ns = in->instance_age_ns,
        .instance_calls = in->instance_calls,
    };
    snprintf(out->backend, sizeof(out->backend), "%s", in->backend);
}

/* Returns: 0, HL_GUEST_ERROR, or -EPROTO for what no hld sends. */
static int take_response(struct hl_result *result, struct room *room,
                         const Hl__V1__InvokeResponse *response, struct hl_client_error *err)
{
    if (response->accounting)
        accounting_copy(&result->accounting, response->accounting);
    switch (response->outcome_case) {
    case HL__V1__INVOKE_RESPONSE__OUTCOME__NOT_SET:
        return 0;
    case HL__V1__INVOKE_RESPONSE__OUTCOME_RESULT:
        if (response->result->kind_case == HL__V1__VALUE__KIND_DESCRIPTOR)
            return room_take(room, response->result->descriptor, result, err);
        if (convert_from_proto(&result->value, response->result, NULL) == 0)
            return 0;
        break;
    case HL__V1__INVOKE_RESPONSE__OUTCOME_ERROR:
        result->code = response->error->code;
        result->value = (struct hl_value){
            .type = HL_TYPE_STRING,
            .bytes = {response->error->text, strlen(response->error->text)},
        };
        return HL_GUEST_ERROR;
    default:
        break;
    }
    return failure_local(err, -EPROTO, HL_STATUS_INTERNAL, "hld's answer holds no valid result");
}

static void send_cancel(struct hl_client *client, uint32_t id)
{
    Hl__V1__CancelRequest request = HL__V1__CANCEL_REQUEST__INIT;
    struct pending *p;

    if (pending_new(&p, client, PENDING_DROP, NULL) < 0)
        return;
    request.call_id = id;
    request_send(client, p, SERVICE_FUNCTIONS, "Cancel", 0, &request.base, NULL);
}

/* What answers p: an InvokeResponse, or one in an InvokeWithHostResponse. */
static const ProtobufCMessageDescriptor *response_type(const struct pending *p)
{
    return p->functions ? &hl__v1__invoke_with_host_response__descriptor
                        : &hl__v1__invoke_response__descriptor;
}

/* result is valid as long as message and room are. */
static int take_message(struct hl_result *result, struct room *room, bool with_host,
                        const ProtobufCMessage *message, struct hl_client_error *err)
{
    const Hl__V1__InvokeWithHostResponse *wrapped = (const Hl__V1__InvokeWithHostResponse *)message;

    *result = (struct hl_result){.value = {.type = HL_TYPE_VOID}, .fd = -1};
    if (!with_host)
        return take_response(result, room, (const Hl__V1__InvokeResponse *)message, err);
    if (wrapped->kind_case != HL__V1__INVOKE_WITH_HOST_RESPONSE__KIND_DONE)
        return failure_local(err, -EPROTO, HL_STATUS_INTERNAL, "hld's answer holds no result");
    return take_response(result, room, wrapped->done, err);
}

/* Where host calls of p go to. An empty table is one too: it answers that it has nothing. */
static void set_functions(struct pending *p, const struct hl_host *functions, size_t count)
{
    static const struct hl_host none;

    p->functions = functions ? functions : &none;
    p->nfunctions = count;
}

static int invoke(struct hl_client *client, struct pending *p, const struct hl_call *call,
                  struct encoded_call *encoded, struct hl_result *result,
                  struct hl_client_error *err)
{
    bool with_host = p->functions != NULL;
    uint32_t id = p->stream;
    ProtobufCMessage *response;
    uint64_t wait_ns = 0;
    struct room room;
    int r = attach(client, p, encoded, call, err);

    if (r < 0)
        return r;
    room = room_steal(&p->room);
    p->type = response_type(p);
    encoded->request.call_id = id;
    if (call->timeout_ns > 0 && __builtin_add_overflow(call->timeout_ns, GRACE, &wait_ns))
        wait_ns = 0;
    r = request_run(client, with_host ? SERVICE_FUNCTIONS : service_of(call),
                    with_host ? "InvokeWithHost" : "Invoke",
                    with_host ? &encoded->with_host.base : &encoded->request.base, call->timeout_ns,
                    wait_ns, p, &response, err);
    if (r == -ETIMEDOUT && pending_find(client, id))
        send_cancel(client, id);
    if (r == 0)
        r = take_message(result, &room, with_host, response, err);
    if (r == 0 && result->fd >= 0)
        client->handed = room_steal(&room);
    room_fini(&room);
    return r;
}

int hl_client_invoke(struct hl_client *client, const struct hl_call *call, struct hl_result *result,
                     struct hl_client_error *err)
{
    struct encoded_call encoded;
    struct pending *p;
    int r;

    r = request_begin(client, err);
    if (r == 0)
        r = encode(&encoded, client, call, err);
    if (r == 0)
        r = pending_new(&p, client, PENDING_WAIT, err);
    return r < 0 ? r : invoke(client, p, call, &encoded, result, err);
}

int hl_client_invoke_with_host(struct hl_client *client, const struct hl_call *call,
                               const struct hl_host *functions, size_t count,
                               struct hl_result *result, struct hl_client_error *err)
{
    struct encoded_call encoded;
    struct pending *p;
    int r;

    r = request_begin(client, err);
    if (r == 0)
        r = encode(&encoded, client, call, err);
    if (r == 0)
        r = pending_new(&p, client, PENDING_WAIT, err);
    if (r < 0)
        return r;
    set_functions(p, functions, count);
    return invoke(client, p, call, &encoded, result, err);
}

static int begin_submit(struct hl_client *client, struct encoded_call *encoded,
                        const struct hl_call *call, struct pending **p, struct hl_client_error *err)
{
    int r;

    if (client->broken) {
        if (err)
            *err = client->failure;
        return client->broken;
    }
    r = encode(encoded, client, call, err);
    return r < 0 ? r : pending_new(p, client, PENDING_CALL, err);
}

static int end_submit(struct hl_client *client, struct encoded_call *encoded,
                      const struct hl_call *call, struct pending *p, uint64_t *id,
                      struct hl_client_error *err)
{
    bool with_host = p->functions != NULL;
    int r = attach(client, p, encoded, call, err);

    if (r < 0)
        return r;
    encoded->request.call_id = p->stream;
    if (id)
        *id = p->stream;
    return request_send(client, p, with_host ? SERVICE_FUNCTIONS : service_of(call),
                        with_host ? "InvokeWithHost" : "Invoke", call->timeout_ns,
                        with_host ? &encoded->with_host.base : &encoded->request.base, err);
}

int hl_client_submit(struct hl_client *client, const struct hl_call *call, hl_done_cb cb,
                     void *opaque, uint64_t *id, struct hl_client_error *err)
{
    struct encoded_call encoded;
    struct pending *p;
    int r = begin_submit(client, &encoded, call, &p, err);

    if (r < 0)
        return r;
    p->cb = cb;
    p->opaque = opaque;
    return end_submit(client, &encoded, call, p, id, err);
}

int hl_client_submit_with_host(struct hl_client *client, const struct hl_call *call,
                               const struct hl_host *functions, size_t count, hl_done_cb cb,
                               void *opaque, uint64_t *id, struct hl_client_error *err)
{
    struct encoded_call encoded;
    struct pending *p;
    int r = begin_submit(client, &encoded, call, &p, err);

    if (r < 0)
        return r;
    set_functions(p, functions, count);
    p->cb = cb;
    p->opaque = opaque;
    return end_submit(client, &encoded, call, p, id, err);
}

void call_back(struct hl_client *client, struct pending *p, int code,
               const struct hl_result *result, const struct hl_client_error *err)
{
    hl_done_cb cb = p->cb;
    void *opaque = p->opaque;
    uint32_t id = p->stream;

    pending_remove(client, p);
    if (!cb)
        return;
    client->in_callback = true;
    cb(opaque, id, code, result, err);
    client->in_callback = false;
}

void call_complete(struct hl_client *client, struct pending *p,
                   const struct envelope_response *response)
{
    struct hl_client_error err;
    struct hl_result result = {.value = {.type = HL_TYPE_VOID}, .fd = -1};
    const ProtobufCMessageDescriptor *type = response_type(p);
    struct room room = room_steal(&p->room);
    ProtobufCMessage *message;
    int r;

    if (p->offers)
        type = &hl__v1__offer_response__descriptor;
    r = request_decode(&client->callback_arena, response, type, &message, &err);
    if (r == 0 && !p->offers)
        r = take_message(&result, &room, p->functions != NULL, message, &err);
    call_back(client, p, r, r < 0 ? NULL : &result, r < 0 ? &err : NULL);
    room_fini(&room);
    arena_reset(&client->callback_arena);
}

int hl_client_cancel(struct hl_client *client, uint64_t id)
{
    const struct pending *p = id <= UINT32_MAX ? pending_find(client, (uint32_t)id) : NULL;

    if (client->broken)
        return client->broken;
    if (!p || p->kind != PENDING_CALL)
        return -ENOENT;
    send_cancel(client, (uint32_t)id);
    return 0;
}
