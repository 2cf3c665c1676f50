/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_DAEMON_OFFER_STREAM_H
#define HL_DAEMON_OFFER_STREAM_H

/* What offer.c and offer_stream.c share: inside of offer.h. */

#include <stdatomic.h>

#include "base/error.h"
#include "daemon/budget.h"
#include "daemon/conn.h"
#include "daemon/mailbox.h"

#define OFFER_FUNCTIONS_MAX 32u
#define OFFER_QUEUE_MAX     1024u

struct offer;

/* A shard's part in an offer. */
struct offer_entry {
    struct mail add_mail, drop_mail;
    struct list link; /* of shard->offers */
    struct offer *offer;
};

struct offer {
    atomic_uint refs;
    struct shard *shard; /* the provider's */
    char image[HL_NAME_MAX + 1];
    size_t nfunctions;
    char functions[OFFER_FUNCTIONS_MAX][HL_NAME_MAX + 1];
    uint32_t max_queue;
    uint64_t timeout_ns;
    atomic_bool gone;
    atomic_uint taken;             /* host calls that wait for its answer */
    _Atomic uint64_t last_id;      /* of a host call */
    struct offer_stream *provider; /* its shard's alone; NULL: gone */
    struct charge charge;
    struct mail known_mail;
    atomic_uint unknown; /* shards that have not heard of it */
    unsigned int nentries;
    struct offer_entry entries[]; /* one a shard */
};

struct offer *offer_ref(struct offer *offer);
void offer_unref(struct offer *offer);

/* The provider's side. */
struct offer_stream {
    struct stream stream;
    struct offer *offer;
    struct list pending; /* requests that were sent to it */
};

/* A host call on its way to a provider and back. */
struct host_request {
    struct mail mail, abandon_mail;
    struct offer *offer;
    struct shard *shard; /* the call's */
    uint64_t id;
    struct charge charge;
    /* the call's shard's alone */
    struct call *call; /* NULL: nobody waits */
    unsigned int out;  /* mails that are not home */
    bool released;     /* no longer counted in offer->taken */
    /* the provider's shard's alone, once it is there, until it is home */
    struct list link;
    struct conn *conn; /* the provider's, while pending */
    bool pending;
    enum hl_status status;
    uint8_t *data; /* out: an OfferResponse; home, with HL_STATUS_OK: an OfferRequest */
    size_t len;
};

/* On the provider's shard: status, and data with HL_STATUS_OK, are set. */
void offer_send_home(struct host_request *request);

#endif
