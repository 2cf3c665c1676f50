/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The provider's side of an offer. It is in force when every shard has it in its list; only then
 * does the provider hear so, and whoever hears it from the provider will find it. What a provider
 * sends is the answer to something that it was asked, or late (the call is over: thrown away), or
 * an offence, which ends the offer and with it the wait of everybody else who asked.
 */
#include "config.h"

#include "daemon/offer_stream.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/value.h"
#include "daemon/engine.h"
#include "daemon/offer.h"
#include "daemon/service.h"
#include "daemon/shard.h"

#define QUEUE_DEFAULT   64u
#define TIMEOUT_DEFAULT 30000000000ull
#define TIMEOUT_MAX     3600000000000ull

struct offer *offer_ref(struct offer *offer)
{
    atomic_fetch_add_explicit(&offer->refs, 1, memory_order_relaxed);
    return offer;
}

static void offer_drop(struct offer *offer)
{
    charge_release(&offer->charge);
    free(offer);
}

void offer_unref(struct offer *offer)
{
    if (atomic_fetch_sub_explicit(&offer->refs, 1, memory_order_acq_rel) == 1)
        offer_drop(offer);
}

static struct offer *offer_new(struct shard *shard)
{
    unsigned int nshards = shard->engine->nshards;
    size_t size = sizeof(struct offer) + nshards * sizeof(struct offer_entry);
    struct charge charge = {0};
    struct offer *offer;

    if (!charge_set(&charge, &shard->engine->budget, BUDGET_CLIENT_BYTES, size))
        return NULL;
    offer = calloc(1, size);
    if (!offer) {
        charge_release(&charge);
        return NULL;
    }
    offer->charge = charge;
    offer->nentries = nshards;
    offer->shard = shard;
    return offer;
}

/* --- the shards' lists ---------------------------------------------------------------------- */

static void on_known(struct mail *mail, void *owner)
{
    struct offer *offer = LIST_ENTRY(mail, struct offer, known_mail);
    struct offer_stream *provider = offer->provider;
    Hl__V1__OfferResponse response = HL__V1__OFFER_RESPONSE__INIT;
    Hl__V1__Offered offered = HL__V1__OFFERED__INIT;
    struct shard *shard = owner;

    if (provider) {
        response.kind_case = HL__V1__OFFER_RESPONSE__KIND_OFFERED;
        response.offered = &offered;
        conn_send_data(provider->stream.conn, provider->stream.id, &response.base);
    }
    offer_unref(offer);
    shard->works--;
    shard_check_quiet(shard);
}

static void on_add(struct mail *mail, void *owner)
{
    struct offer_entry *entry = LIST_ENTRY(mail, struct offer_entry, add_mail);
    struct offer *offer = entry->offer;
    struct shard *shard = owner;

    list_push_front(&shard->offers, &entry->link);
    if (atomic_fetch_sub(&offer->unknown, 1) == 1)
        mailbox_post(&offer->shard->mailbox, &offer->known_mail, on_known);
}

static void on_drop(struct mail *mail, void *owner)
{
    struct offer_entry *entry = LIST_ENTRY(mail, struct offer_entry, drop_mail);

    (void)owner;
    list_remove(&entry->link);
    offer_unref(entry->offer);
}

static void announce(struct offer *offer)
{
    struct engine *engine = offer->shard->engine;

    offer->shard->works++; /* until known_mail */
    atomic_store(&offer->unknown, offer->nentries);
    atomic_store(&offer->refs, offer->nentries + 2); /* the provider's, and known_mail's */
    for (unsigned int i = 0; i < offer->nentries; i++) {
        offer->entries[i].offer = offer;
        list_init(&offer->entries[i].link);
        mailbox_post(&engine->shards[i].mailbox, &offer->entries[i].add_mail, on_add);
    }
}

/* Nobody asks it any more, and who has is told. */
static void withdraw(struct offer_stream *provider)
{
    struct offer *offer = provider->offer;
    struct engine *engine;

    if (!offer)
        return;
    engine = offer->shard->engine;
    offer->shard->providers--;
    provider->offer = NULL;
    offer->provider = NULL;
    atomic_store(&offer->gone, true);
    for (unsigned int i = 0; i < offer->nentries; i++)
        mailbox_post(&engine->shards[i].mailbox, &offer->entries[i].drop_mail, on_drop);
    while (!list_empty(&provider->pending)) {
        struct host_request *request =
            LIST_ENTRY(provider->pending.next, struct host_request, link);

        request->status = HL_STATUS_UNAVAILABLE;
        offer_send_home(request);
    }
    offer_unref(offer);
}

static void provider_free(struct offer_stream *provider)
{
    stream_close(&provider->stream);
    withdraw(provider);
    free(provider);
}

/* --- what it says --------------------------------------------------------------------------- */

static void end(struct offer_stream *provider, enum hl_status status, const char *text)
{
    struct conn *conn = provider->stream.conn;
    uint32_t id = provider->stream.id;

    provider_free(provider);
    conn_send_status(conn, id, status, "%s", text);
}

static int take_name(char out[HL_NAME_MAX + 1], const char *name, const char *what,
                     struct hl_error *err)
{
    size_t len = strlen(name);

    if (!hl_name_valid(name, len))
        return hl_error_set(err, -EINVAL, "no valid name of %s", what);
    memcpy(out, name, len + 1);
    return 0;
}

static int take_offer(struct offer *offer, const Hl__V1__FunctionOffer *asked, struct hl_error *err)
{
    int r = 0;

    if (asked->n_functions == 0 || asked->n_functions > OFFER_FUNCTIONS_MAX)
        return hl_error_set(err, -EINVAL, "an offer is of 1 to %u functions", OFFER_FUNCTIONS_MAX);
    if (asked->max_queue > OFFER_QUEUE_MAX)
        return hl_error_set(err, -EINVAL, "max_queue is %u at most", OFFER_QUEUE_MAX);
    for (size_t i = 0; r == 0 && i < asked->n_functions; i++)
        r = take_name(offer->functions[i], asked->functions[i], "a function", err);
    if (r == 0 && asked->image[0] != '\0')
        r = take_name(offer->image, asked->image, "an image", err);
    offer->nfunctions = asked->n_functions;
    offer->max_queue = asked->max_queue ? asked->max_queue : QUEUE_DEFAULT;
    offer->timeout_ns = asked->timeout_ns ? asked->timeout_ns : TIMEOUT_DEFAULT;
    if (offer->timeout_ns > TIMEOUT_MAX)
        offer->timeout_ns = TIMEOUT_MAX;
    return r;
}

static void begin(struct offer_stream *provider, const Hl__V1__FunctionOffer *asked)
{
    struct shard *shard = provider->stream.conn->shard;
    struct hl_error err = HL_ERROR_INIT;
    struct offer *offer;
    int r;

    if (shard->draining) {
        end(provider, HL_STATUS_UNAVAILABLE, "hld is draining");
        return;
    }
    offer = offer_new(shard);
    if (!offer) {
        end(provider, HL_STATUS_RESOURCE_EXHAUSTED, "no memory for another offer now");
        return;
    }
    r = take_offer(offer, asked, &err);
    if (r < 0) {
        offer_drop(offer);
        end(provider, hl_status_from_errno(r), err.text);
        return;
    }
    offer->provider = provider;
    provider->offer = offer;
    shard->providers++;
    announce(offer);
}

/* The frame as it came goes to whoever asked. */
static void send_answer(struct host_request *request, const uint8_t *payload, size_t len)
{
    struct budget *budget = &request->offer->shard->engine->budget;

    request->status = HL_STATUS_RESOURCE_EXHAUSTED;
    if (charge_set(&request->charge, budget, BUDGET_CLIENT_BYTES, len))
        request->data = malloc(len + 1);
    if (request->data) {
        memcpy(request->data, payload, len);
        request->len = len;
        request->status = HL_STATUS_OK;
    }
    offer_send_home(request);
}

static void take_answer(struct offer_stream *provider, uint64_t id, const uint8_t *payload,
                        size_t len)
{
    char text[96];

    LIST_FOREACH(l, &provider->pending)
    {
        struct host_request *request = LIST_ENTRY(l, struct host_request, link);

        if (request->id == id) {
            send_answer(request, payload, len);
            return;
        }
    }
    if (id != 0 && id <= atomic_load(&provider->offer->last_id))
        return; /* its call is over */
    snprintf(text, sizeof(text), "no host call %" PRIu64 " was made", id);
    end(provider, HL_STATUS_INVALID_ARGUMENT, text);
}

static void on_data(struct stream *stream, const uint8_t *payload, size_t len)
{
    struct offer_stream *provider = LIST_ENTRY(stream, struct offer_stream, stream);
    struct arena *arena = &stream->conn->shard->arena;
    const Hl__V1__OfferRequest *request;
    ProtobufCMessage *message;

    arena_reset(arena);
    if (arena_unpack(arena, &hl__v1__offer_request__descriptor, payload, len, &message) < 0) {
        end(provider, HL_STATUS_INVALID_ARGUMENT, "malformed request");
        return;
    }
    request = (const Hl__V1__OfferRequest *)message;
    if (!provider->offer && request->kind_case == HL__V1__OFFER_REQUEST__KIND_OFFER)
        begin(provider, request->offer);
    else if (provider->offer && request->kind_case == HL__V1__OFFER_REQUEST__KIND_ANSWER)
        take_answer(provider, request->answer->id, payload, len);
    else
        end(provider, HL_STATUS_INVALID_ARGUMENT, "a stream's messages are one offer, and answers");
}

static void on_end(struct stream *stream)
{
    struct offer_stream *provider = LIST_ENTRY(stream, struct offer_stream, stream);

    end(provider, HL_STATUS_OK, "");
}

static void on_closed(struct stream *stream)
{
    provider_free(LIST_ENTRY(stream, struct offer_stream, stream));
}

void serve_offer(const struct request *request)
{
    struct offer_stream *provider = calloc(1, sizeof(*provider));

    if (!provider) {
        conn_send_status(request->conn, request->stream, HL_STATUS_RESOURCE_EXHAUSTED,
                         "out of memory");
        return;
    }
    list_init(&provider->pending);
    provider->stream.on_data = on_data;
    provider->stream.on_end = on_end;
    provider->stream.on_closed = on_closed;
    if (!stream_open(&provider->stream, request))
        free(provider);
    else if (!request->remote_open)
        end(provider, HL_STATUS_INVALID_ARGUMENT, "an offer's stream takes answers");
    else if (request->len > 0)
        on_data(&provider->stream, request->payload, request->len);
}

const struct service_method service_host[] = {
    {"Offer", serve_offer},
    {NULL, NULL},
};
