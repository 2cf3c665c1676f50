/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Host functions: guests' calls, and the callbacks that answer them. A host call is copied out of
 * the read buffer when its frame is dispatched and served when no frame is being looked at any
 * more: a callback may then use the connection, wait for another call and serve that one's host
 * calls, and so on, each on top of the other. Two things keep that in order. While a callback waits
 * for a call it is served that call's host calls alone, so the stack is as deep as calls are nested
 * and not as long as many are. And a stream whose callback is on the stack stays known until the
 * callback is over, whatever comes meanwhile.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "client/client.h"
#include "proto/convert.h"
#include "proto/service.h"

#define ARENA_FIRST 4096u
#define ARENA_MAX   (64u << 20)

struct host_event {
    struct hl_host_call call; /* what the callback sees; first */
    struct host_event *next;
    uint32_t stream;
    uint64_t id;
    bool offers, answered;
    struct arena arena; /* of message */
    const Hl__V1__HostCall *message;
    struct hl_value args[HL_MAX_PARAMS];
};

static void event_free(struct host_event *event)
{
    arena_fini(&event->arena);
    free(event);
}

void host_drop_events(struct hl_client *client)
{
    while (client->events) {
        struct host_event *event = client->events;

        client->events = event->next;
        event_free(event);
    }
}

/* --- answers -------------------------------------------------------------------------------- */

static int send_answer(struct host_event *event, Hl__V1__HostReturn *answer)
{
    struct hl_client *client = event->call.client;
    Hl__V1__InvokeWithHostRequest caller = HL__V1__INVOKE_WITH_HOST_REQUEST__INIT;
    Hl__V1__OfferRequest provider = HL__V1__OFFER_REQUEST__INIT;
    int r;

    if (event->answered)
        return -EALREADY;
    if (client->broken)
        return client->broken;
    answer->id = event->id;
    caller.kind_case = HL__V1__INVOKE_WITH_HOST_REQUEST__KIND_ANSWER;
    provider.kind_case = HL__V1__OFFER_REQUEST__KIND_ANSWER;
    caller.answer = provider.answer = answer;
    r = envelope_encode_data(&client->out, event->stream, 0,
                             event->offers ? &provider.base : &caller.base);
    if (r < 0)
        return r;
    event->answered = true;
    client_flush(client);
    return 0;
}

int hl_host_return(struct hl_host_call *call, const struct hl_value *result)
{
    Hl__V1__HostReturn answer = HL__V1__HOST_RETURN__INIT;
    Hl__V1__Value value;
    int r;

    if (result && result->type != HL_TYPE_VOID) {
        r = convert_to_proto(&value, result);
        if (r < 0)
            return r;
        answer.outcome_case = HL__V1__HOST_RETURN__OUTCOME_RESULT;
        answer.result = &value;
    }
    return send_answer((struct host_event *)call, &answer);
}

int hl_host_fail(struct hl_host_call *call, enum hl_status status, int32_t code, const char *text)
{
    Hl__V1__HostReturn answer = HL__V1__HOST_RETURN__INIT;
    Hl__V1__HostError error = HL__V1__HOST_ERROR__INIT;

    if (text && !hl_utf8_valid(text, strlen(text)))
        return -EILSEQ;
    error.status = (uint32_t)status;
    error.code = code;
    error.text = (char *)(text ? text : "");
    answer.outcome_case = HL__V1__HOST_RETURN__OUTCOME_ERROR;
    answer.error = &error;
    return send_answer((struct host_event *)call, &answer);
}

/* --- what comes ----------------------------------------------------------------------------- */

/* Fills in event from its message. Returns: 0, or -EPROTO. */
static int take_call(struct host_event *event, const Hl__V1__HostCall *message)
{
    struct hl_host_call *call = &event->call;

    if (message->n_args > HL_MAX_PARAMS)
        return -EPROTO;
    for (size_t i = 0; i < message->n_args; i++) {
        if (convert_from_proto(&event->args[i], message->args[i], NULL) < 0)
            return -EPROTO;
    }
    event->id = message->id;
    call->image = message->image;
    call->function = message->function;
    call->args = event->args;
    call->nargs = message->n_args;
    call->depth = message->depth;
    call->ret = (enum hl_type)message->ret;
    return 0;
}

/* Returns: 1 with a host call in event; 0 with an offer's confirmation; -EPROTO. */
static int take_message(struct host_event *event, bool offers, const uint8_t *payload, size_t len)
{
    const Hl__V1__InvokeWithHostResponse *caller;
    const Hl__V1__OfferResponse *provider;
    ProtobufCMessage *message;
    int r;

    r = arena_unpack(&event->arena,
                     offers ? &hl__v1__offer_response__descriptor
                            : &hl__v1__invoke_with_host_response__descriptor,
                     payload, len, &message);
    if (r < 0)
        return -EPROTO;
    caller = (const Hl__V1__InvokeWithHostResponse *)message;
    provider = (const Hl__V1__OfferResponse *)message;
    if (offers && provider->kind_case == HL__V1__OFFER_RESPONSE__KIND_OFFERED)
        return 0;
    if (offers && provider->kind_case == HL__V1__OFFER_RESPONSE__KIND_CALL)
        r = take_call(event, provider->call);
    else if (!offers && caller->kind_case == HL__V1__INVOKE_WITH_HOST_RESPONSE__KIND_CALL)
        r = take_call(event, caller->call);
    else
        return -EPROTO;
    return r < 0 ? r : 1;
}

int host_take_data(struct hl_client *client, struct pending *p, const struct frame_header *header,
                   const uint8_t *payload)
{
    struct host_event *event;
    int r;

    if (p->kind == PENDING_DROP)
        return 0;
    if (!p->functions)
        return -EPROTO;
    event = calloc(1, sizeof(*event));
    if (!event)
        return -ENOMEM;
    arena_init(&event->arena, ARENA_FIRST, ARENA_MAX);
    event->call.client = client;
    event->stream = p->stream;
    event->offers = p->offers;
    r = take_message(event, p->offers, payload, header->length);
    if (r == 0 && p->kind != PENDING_WAIT)
        r = -EPROTO; /* it was told already */
    if (r <= 0) {
        event_free(event);
        if (r == 0)
            p->done = true;
        return r;
    }
    if (!client->events)
        client->events_end = &client->events;
    *client->events_end = event;
    client->events_end = &event->next;
    return 0;
}

int host_keep_response(struct pending *p, const uint8_t *payload, size_t len)
{
    p->late = malloc(len + 1);
    if (!p->late)
        return -ENOMEM;
    memcpy(p->late, payload, len);
    p->late_len = len;
    return 0;
}

/* --- callbacks ------------------------------------------------------------------------------ */

static const struct hl_host *find_function(const struct pending *p, const char *name)
{
    for (size_t i = 0; i < p->nfunctions; i++) {
        if (strcmp(p->functions[i].name, name) == 0)
            return &p->functions[i];
    }
    return NULL;
}

static bool arguments_fit(const struct hl_host *f, const struct hl_host_call *call)
{
    if (!f->sig)
        return true;
    if (call->nargs != f->sig->nparams)
        return false;
    for (size_t i = 0; i < call->nargs; i++) {
        if (call->args[i].type != f->sig->params[i])
            return false;
    }
    return true;
}

static void call_function(const struct hl_host *f, struct hl_host_call *call)
{
    struct hl_client *client = call->client;
    struct arena level, *outer = client->arena;
    struct room handed = room_steal(&client->handed);
    uint32_t depth = client->depth;

    arena_init(&level, ARENA_FIRST, ARENA_MAX);
    client->arena = &level;
    client->depth = call->depth;
    client->hosting++;
    f->cb(f->opaque, call);
    client->hosting--;
    client->depth = depth;
    room_fini(&client->handed);
    client->handed = handed;
    client->arena = outer;
    arena_fini(&level);
}

static void serve(struct pending *p, struct host_event *event)
{
    const struct hl_host *f = find_function(p, event->call.function);

    if (!f) {
        hl_host_fail(&event->call, HL_STATUS_UNIMPLEMENTED, 0, "no such host function here");
        return;
    }
    if (!arguments_fit(f, &event->call)) {
        hl_host_fail(&event->call, HL_STATUS_INVALID_ARGUMENT, 0,
                     "the host function takes other arguments");
        return;
    }
    call_function(f, &event->call);
    if (!event->answered)
        hl_host_return(&event->call, NULL);
}

/* What came for p while its callbacks ran. */
static void catch_up(struct hl_client *client, struct pending *p)
{
    struct envelope_response response;
    uint8_t *late = p->late;

    p->late = NULL;
    if (late) {
        /* It was decoded when it came, so it can be. */
        (void)envelope_decode_response(&response, late, p->late_len);
        call_complete(client, p, &response);
    } else if (p->lost) {
        call_back(client, p, client->failure.code, NULL, &client->failure);
    }
    free(late);
}

/* Takes the first event, or the first of stop, out of the list. */
static struct host_event *take_event(struct hl_client *client, const struct pending *stop)
{
    struct host_event **at = &client->events, *event;

    while (*at && client->hosting > 0 && (!stop || (*at)->stream != stop->stream))
        at = &(*at)->next;
    event = *at;
    if (!event)
        return NULL;
    *at = event->next;
    if (!event->next)
        client->events_end = at;
    return event;
}

void host_serve_events(struct hl_client *client, const struct pending *stop)
{
    struct host_event *event;

    while (!client->broken && (event = take_event(client, stop))) {
        struct pending *p = pending_find(client, event->stream);

        if (p && p->kind != PENDING_DROP && !(p->kind == PENDING_WAIT && p->done && !p->offers)) {
            p->hosting++;
            serve(p, event);
            if (--p->hosting == 0 && p->kind != PENDING_WAIT)
                catch_up(client, p);
        }
        event_free(event);
    }
}

/* --- offers --------------------------------------------------------------------------------- */

static int fill_offer(Hl__V1__FunctionOffer *out, const struct hl_offer *offer, char **names,
                      struct hl_client_error *err)
{
    if (offer->nfunctions == 0 || offer->nfunctions > HL_HOST_FUNCTIONS_MAX)
        return failure_local(err, -EINVAL, HL_STATUS_INVALID_ARGUMENT,
                             "an offer is of 1 to %d functions", HL_HOST_FUNCTIONS_MAX);
    for (size_t i = 0; i < offer->nfunctions; i++)
        names[i] = (char *)offer->functions[i].name;
    hl__v1__function_offer__init(out);
    out->functions = names;
    out->n_functions = offer->nfunctions;
    if (offer->image)
        out->image = (char *)offer->image;
    out->max_queue = offer->max_queue;
    out->timeout_ns = offer->timeout_ns;
    return 0;
}

/* Waits until p is in force, or refused: p->code is negative then. */
static int wait_offer(struct hl_client *client, struct pending *p, struct hl_client_error *err)
{
    uint64_t deadline = UINT64_MAX;
    int r;

    if (client->timeout_ns > 0 &&
        __builtin_add_overflow(client_now(), client->timeout_ns, &deadline))
        deadline = UINT64_MAX;
    r = client_wait(client, p, deadline);
    if (r == -ETIMEDOUT) {
        p->kind = PENDING_DROP;
        return failure_local(err, r, HL_STATUS_DEADLINE_EXCEEDED, "no answer from hld in time");
    }
    r = p->code;
    if (r == 0 && p->message) /* a response without an offer in force */
        r = failure_local(err, -EPROTO, HL_STATUS_INTERNAL, "hld's answer is no offer");
    if (r < 0)
        pending_remove(client, p);
    return r;
}

int hl_client_offer(struct hl_client *client, const struct hl_offer *offer, hl_done_cb ended,
                    void *opaque, uint64_t *id, struct hl_client_error *err)
{
    Hl__V1__OfferRequest first = HL__V1__OFFER_REQUEST__INIT;
    char *names[HL_HOST_FUNCTIONS_MAX];
    Hl__V1__FunctionOffer message;
    struct pending *p;
    int r;

    r = request_begin(client, err);
    if (r == 0)
        r = fill_offer(&message, offer, names, err);
    if (r == 0)
        r = pending_new(&p, client, PENDING_WAIT, err);
    if (r < 0)
        return r;
    p->functions = offer->functions;
    p->nfunctions = offer->nfunctions;
    p->offers = true;
    p->type = &hl__v1__offer_response__descriptor;
    p->err = err;
    first.kind_case = HL__V1__OFFER_REQUEST__KIND_OFFER;
    first.offer = &message;
    r = request_send(client, p, SERVICE_HOST, "Offer", 0, &first.base, err);
    if (r == 0)
        r = wait_offer(client, p, err);
    if (r < 0)
        return r;
    p->kind = PENDING_OFFER;
    p->done = false;
    p->err = NULL;
    p->cb = ended;
    p->opaque = opaque;
    if (id)
        *id = p->stream;
    catch_up(client, p);
    return 0;
}

int hl_client_withdraw(struct hl_client *client, uint64_t id)
{
    struct pending *p = id <= UINT32_MAX ? pending_find(client, (uint32_t)id) : NULL;
    struct frame_header header = {
        .type = FRAME_DATA,
        .flags = FRAME_REMOTE_CLOSED | FRAME_NO_DATA,
    };
    uint8_t *room;

    if (client->broken)
        return client->broken;
    if (!p || p->kind != PENDING_OFFER)
        return -ENOENT;
    room = buffer_reserve(&client->out, FRAME_HEADER_SIZE);
    if (!room)
        return -ENOMEM;
    header.stream = p->stream;
    frame_encode_header(room, &header);
    buffer_commit(&client->out, FRAME_HEADER_SIZE);
    client_flush(client);
    return 0;
}
