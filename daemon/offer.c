/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An offer is one object that all shards refer to. Its names never change; that it is gone is an
 * atomic flag; who provides it is known to the provider's shard alone. So is what was asked and not
 * yet answered: when the provider goes, that shard sends all of it back as UNAVAILABLE.
 *
 * A request goes to the provider's shard as one mail and comes back as the same mail, answered. If
 * its call is over sooner, a second mail, also part of it, goes after the first and comes back too;
 * the request is freed when both are home, so neither side ever looks at memory that the other has
 * given up. Between a shard and itself no mail is posted: the delivery is called.
 */
#include "config.h"

#include "daemon/offer.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/call.h"
#include "daemon/conn.h"
#include "daemon/engine.h"
#include "daemon/host.h"
#include "daemon/offer_stream.h"
#include "daemon/pool.h"
#include "daemon/shard.h"
#include "hv/timer.h"
#include "proto/frame.h"

static void send_mail(struct shard *from, struct shard *to, struct mail *mail,
                      void (*deliver)(struct mail *mail, void *owner))
{
    if (from == to)
        deliver(mail, to);
    else
        mailbox_post(&to->mailbox, mail, deliver);
}

/* --- at the call's shard -------------------------------------------------------------------- */

static void request_free(struct host_request *request)
{
    struct shard *shard = request->shard;

    offer_unref(request->offer);
    charge_release(&request->charge);
    free(request->data);
    free(request);
    shard->works--;
    shard_check_quiet(shard);
}

/* What the provider said, as the frame it came in. */
static void take_answer(struct call *call, const struct host_request *request)
{
    struct arena *arena = &call->shard->arena;
    const Hl__V1__OfferRequest *message;
    ProtobufCMessage *unpacked;

    if (request->status != HL_STATUS_OK) {
        host_fail(call, request->status, 0,
                  request->status == HL_STATUS_UNAVAILABLE ? "the provider is gone"
                                                           : "the provider's answer was too much");
        return;
    }
    arena_reset(arena);
    if (arena_unpack(arena, &hl__v1__offer_request__descriptor, request->data, request->len,
                     &unpacked) < 0) {
        host_fail(call, HL_STATUS_INTERNAL, 0, "the provider's answer is malformed");
        return;
    }
    message = (const Hl__V1__OfferRequest *)unpacked;
    host_take(call, message->answer, false);
}

static void on_home(struct mail *mail, void *owner)
{
    struct host_request *request = LIST_ENTRY(mail, struct host_request, mail);
    struct call *call = request->call;

    (void)owner;
    request->out--;
    request->call = NULL;
    if (!request->released) {
        request->released = true;
        atomic_fetch_sub(&request->offer->taken, 1);
    }
    if (call) {
        call->parked.request = NULL;
        take_answer(call, request);
    }
    if (request->out == 0)
        request_free(request);
}

static void on_abandon_home(struct mail *mail, void *owner)
{
    struct host_request *request = LIST_ENTRY(mail, struct host_request, abandon_mail);

    (void)owner;
    if (--request->out == 0)
        request_free(request);
}

/* --- at the provider's shard ---------------------------------------------------------------- */

void offer_send_home(struct host_request *request)
{
    struct shard *shard = request->offer->shard;

    list_remove(&request->link);
    if (request->pending)
        request->conn->asked--;
    request->pending = false;
    send_mail(shard, request->shard, &request->mail, on_home);
    shard_check_quiet(shard);
}

static void on_request(struct mail *mail, void *owner)
{
    struct host_request *request = LIST_ENTRY(mail, struct host_request, mail);
    struct offer_stream *provider = request->offer->provider;
    uint8_t *data = request->data;
    size_t len = request->len;

    (void)owner;
    list_init(&request->link);
    request->data = NULL;
    if (!provider) {
        request->status = HL_STATUS_UNAVAILABLE;
        offer_send_home(request);
    } else {
        request->pending = true;
        request->conn = provider->stream.conn;
        request->conn->asked++;
        list_push_back(&provider->pending, &request->link);
        /* May close the connection; the request is on its way home then. */
        conn_send_data_packed(request->conn, provider->stream.id, data, len);
    }
    free(data);
}

static void on_abandon(struct mail *mail, void *owner)
{
    struct host_request *request = LIST_ENTRY(mail, struct host_request, abandon_mail);
    struct shard *home = request->shard;

    if (request->pending) {
        request->status = HL_STATUS_CANCELLED;
        offer_send_home(request); /* one mail is still here, so it is not freed */
    }
    send_mail(owner, home, mail, on_abandon_home);
}

/* --- asking --------------------------------------------------------------------------------- */

void offer_abandon(struct host_request *request)
{
    struct shard *shard = request->shard;

    request->call->parked.request = NULL;
    request->call = NULL;
    if (!request->released) { /* it has no claim on the provider any more */
        request->released = true;
        atomic_fetch_sub(&request->offer->taken, 1);
    }
    request->out++;
    send_mail(shard, request->offer->shard, &request->abandon_mail, on_abandon);
}

static bool serves(const struct offer *offer, const char *image, const char *function)
{
    if (atomic_load(&offer->gone) || (offer->image[0] && strcmp(offer->image, image) != 0))
        return false;
    for (size_t i = 0; i < offer->nfunctions; i++) {
        if (strcmp(offer->functions[i], function) == 0)
            return true;
    }
    return false;
}

/* One that has room for another; it is taken. */
static struct offer *find(struct call *call, const char *function, struct hl_error *err)
{
    const char *image = call->pool->program->entry.name;
    bool full = false;

    LIST_FOREACH(l, &call->shard->offers)
    {
        struct offer *offer = LIST_ENTRY(l, struct offer_entry, link)->offer;

        if (!serves(offer, image, function))
            continue;
        if (atomic_fetch_add(&offer->taken, 1) < offer->max_queue)
            return offer;
        atomic_fetch_sub(&offer->taken, 1);
        full = true;
    }
    if (full)
        hl_error_set(err, -EAGAIN, "the queue of the provider of '%s' is full", function);
    else
        hl_error_set(err, -ECONNREFUSED, "nobody offers '%s' now", function);
    return NULL;
}

static int pack(struct host_request *request, struct call *call,
                const struct instance_host_call *asked, struct hl_error *err)
{
    Hl__V1__OfferResponse message = HL__V1__OFFER_RESPONSE__INIT;
    struct host_call_message out;

    if (host_call_to_message(&out, call, asked) < 0)
        return hl_error_set(err, -EINVAL, "the arguments cannot be sent");
    out.call.id = request->id;
    message.kind_case = HL__V1__OFFER_RESPONSE__KIND_CALL;
    message.call = &out.call;
    request->len = protobuf_c_message_get_packed_size(&message.base);
    if (request->len > FRAME_PAYLOAD_MAX)
        return hl_error_set(err, -EAGAIN, "the arguments are more than one message carries");
    if (!charge_set(&request->charge, &call->shard->engine->budget, BUDGET_CLIENT_BYTES,
                    request->len))
        return hl_error_set(err, -ENOBUFS, "no room for another host call now");
    request->data = malloc(request->len + 1);
    if (!request->data)
        return hl_error_set(err, -ENOMEM, "out of memory");
    protobuf_c_message_pack(&message.base, request->data);
    return 0;
}

/* The provider's time starts now. */
static void set_timeout(struct call *call, const struct offer *offer)
{
    uint64_t at = hv_now_ns() + offer->timeout_ns;

    /* It is in the heap already, so that moving it needs no memory. */
    if (at < call->deadline_ns)
        (void)deadlines_add(&call->shard->deadlines, &call->deadline, at);
    shard_arm_deadlines(call->shard);
}

int offer_ask(struct call *call, const struct instance_host_call *asked, struct hl_error *err)
{
    struct offer *offer = find(call, asked->name, err);
    struct host_request *request;
    int r;

    if (!offer)
        return err->code;
    request = calloc(1, sizeof(*request));
    if (!request) {
        atomic_fetch_sub(&offer->taken, 1);
        return hl_error_set(err, -ENOMEM, "out of memory");
    }
    request->offer = offer_ref(offer);
    request->shard = call->shard;
    request->id = atomic_fetch_add(&offer->last_id, 1) + 1;
    call->shard->works++;
    r = pack(request, call, asked, err);
    if (r < 0) {
        atomic_fetch_sub(&offer->taken, 1);
        request_free(request);
        return r;
    }
    request->call = call;
    request->out = 1;
    call->parked.request = request;
    set_timeout(call, offer);
    send_mail(call->shard, offer->shard, &request->mail, on_request);
    return 0;
}
