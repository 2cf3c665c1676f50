/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_CLIENT_CLIENT_H
#define HL_CLIENT_CLIENT_H

/* Inside libhlclient: the connection, and requests that wait for their response. */

#include "base/spin.h"
#include "client/bulk.h"
#include "client/hlmanage.h"
#include "proto/arena.h"
#include "proto/buffer.h"
#include "proto/envelope.h"
#include "proto/frame.h"
#include "proto/hl.pb-c.h"

#define PENDING_BUCKETS 256u
#define PENDING_MAX     65536u      /* requests on their way */
#define OUT_MAX         (64u << 20) /* bytes waiting to be sent */

#define NSEC_PER_SEC 1000000000ull

enum pending_kind {
    PENDING_WAIT,  /* a blocking function waits for it */
    PENDING_CALL,  /* submitted; cb is called */
    PENDING_OFFER, /* an offer in force; cb is called at its end */
    PENDING_DROP,  /* nobody waits any more; the response is thrown away */
};

/* A request without its response. stream is the call's id too. */
struct pending {
    struct pending *next;
    uint32_t stream;
    enum pending_kind kind;
    /* Of a stream on which hld sends host calls. */
    const struct hl_host *functions; /* NULL: none are expected */
    size_t nfunctions;
    bool offers;          /* it is an offer's */
    unsigned int hosting; /* callbacks of it that are running: it stays until they are over */
    uint8_t *late;        /* the response that came meanwhile */
    size_t late_len;
    bool lost;                 /* … or the connection broke */
    struct parcel *parcel;     /* of a request that is not in client->out yet */
    unsigned int ndescriptors; /* that went or go beside it */
    struct room room;          /* PENDING_CALL: for its result */
    /* PENDING_WAIT: what to decode and where to, and what came of it. */
    struct arena *arena;
    const ProtobufCMessageDescriptor *type;
    ProtobufCMessage *message;
    struct hl_client_error *err;
    int code;
    bool done;
    /* PENDING_CALL */
    hl_done_cb cb;
    void *opaque;
};

struct hl_client {
    int fd;
    int broken;     /* negative errno once the connection is of no use */
    int send_error; /* errno once nothing can be sent any more */
    bool in_callback;
    uint32_t next_stream; /* 0 when all are used up */
    struct buffer in, out;
    uint64_t sent; /* bytes that out has passed on */
    struct parcel *parcels, **parcels_end;
    struct arena *arena; /* what the last function handed out; in a callback of a host
                            function one of its own */
    struct room handed;  /* … and a result that is in no message; as arena, one for each level */
    struct arena base_arena;
    struct arena callback_arena; /* what a callback is given */
    struct pending *buckets[PENDING_BUCKETS];
    struct pending *spare;
    size_t npending, ncalls, ndescriptors;
    struct host_event *events, **events_end; /* host calls, first come first */
    unsigned int hosting;                    /* callbacks of host functions on the stack */
    uint32_t depth; /* of calls that are made to answer a host call, else 0 */
    uint64_t spin_ns, timeout_ns;
    struct spin spin;
    struct hl_client_error failure; /* what broke the connection */
};

/* ---- connection.c ---- */

/* Sends what goes without blocking. Trouble shows when reading: nothing is called back from here.
 */
void client_flush(struct hl_client *client);
/* Blocks until p is done. deadline_ns: CLOCK_MONOTONIC, UINT64_MAX for none. Returns: 0 (p->code
 * says how it went, a lost connection included), -ETIMEDOUT. */
int client_wait(struct hl_client *client, const struct pending *p, uint64_t deadline_ns);
uint64_t client_now(void);

/* ---- pending.c ---- */

/* A new entry with a stream id. Returns: 0; -EAGAIN, -ENOMEM or -EOVERFLOW with err filled. */
int pending_new(struct pending **out, struct hl_client *client, enum pending_kind kind,
                struct hl_client_error *err);
struct pending *pending_find(const struct hl_client *client, uint32_t stream);
void pending_remove(struct hl_client *client, struct pending *p);
/* Calls every callback with the reason, and marks every waiter done. */
void pending_fail_all(struct hl_client *client, const struct hl_client_error *reason);
void pending_fini(struct hl_client *client);

/* ---- request.c ---- */

/* What every public function starts with: refuses in a callback and on a broken connection, and
 * takes back what the last one handed out. */
int request_begin(struct hl_client *client, struct hl_client_error *err);
/* Appends a request's frame and sends what goes. Returns: 0; a negative errno with err filled and p
 * removed. */
int request_send(struct hl_client *client, struct pending *p, const char *service,
                 const char *method, uint64_t timeout_ns, const ProtobufCMessage *request,
                 struct hl_client_error *err);
/* Sends a request and waits for its response, which comes in the client's arena. timeout_ns: 0 for
 * none; *stream, unless NULL, is the request's. Returns: 0; a negative errno with err filled. */
int request_run(struct hl_client *client, const char *service, const char *method,
                const ProtobufCMessage *request, uint64_t timeout_ns, uint64_t wait_ns,
                struct pending *p, ProtobufCMessage **response, struct hl_client_error *err);
/* The same for management: one line. */
int request_simple(struct hl_client *client, const char *service, const char *method,
                   const ProtobufCMessage *request, const ProtobufCMessageDescriptor *type,
                   ProtobufCMessage **response, struct hl_client_error *err);
/* Decodes a response's payload into arena, or fills err from its status. Returns: 0 or a negative
 * errno; with -EPROTO the peer does not speak the protocol. */
int request_decode(struct arena *arena, const struct envelope_response *response,
                   const ProtobufCMessageDescriptor *type, ProtobufCMessage **out,
                   struct hl_client_error *err);

/* ---- call.c ---- */

/* A response to a submitted call: removes p, decodes, calls back. */
void call_complete(struct hl_client *client, struct pending *p,
                   const struct envelope_response *response);
void accounting_copy(struct hl_accounting *out, const Hl__V1__Accounting *in);

/* Takes p, whose end has come, out and calls back. code, result, err: as for hl_done_cb. */
void call_back(struct hl_client *client, struct pending *p, int code,
               const struct hl_result *result, const struct hl_client_error *err);

/* ---- host.c ---- */

/* A data frame on p's stream. Returns: 0; -EPROTO, -ENOMEM. */
int host_take_data(struct hl_client *client, struct pending *p, const struct frame_header *header,
                   const uint8_t *payload);
/* Calls back for what host_take_data took; within a callback only for what belongs to stop. */
void host_serve_events(struct hl_client *client, const struct pending *stop);
/* A response to a stream whose callback is running. Returns: 0 or -ENOMEM. */
int host_keep_response(struct pending *p, const uint8_t *payload, size_t len);
void host_drop_events(struct hl_client *client);

/* ---- images.c ---- */

/* in: NULL for all zeros. */
void limits_copy(struct hl_limits *out, const Hl__V1__Limits *in);

/* ---- failure.c ---- */

/* Something this side found. Returns: code. */
int failure_local(struct hl_client_error *err, int code, enum hl_status status, const char *fmt,
                  ...) __attribute__((format(printf, 4, 5)));
/* The status of a response. Returns: a negative errno for it. */
int failure_remote(struct hl_client_error *err, struct arena *arena,
                   const struct envelope_response *response);

#endif
