/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_DAEMON_CONTROL_LINK_H
#define HL_DAEMON_CONTROL_LINK_H

/*
 * The worker's end of the control channel: shard 0's. Requests come from any shard and get their
 * reply there.
 */

#include <stdint.h>

#include "base/list.h"
#include "daemon/control.pb-c.h"
#include "daemon/mailbox.h"

struct control_link;
struct engine;
struct shard;

/* A request to the front, allocated by who makes it. */
struct control_request {
    struct mail mail;
    struct list link;
    struct shard *shard;          /* that gets the reply */
    Hl__Control__Request request; /* id is filled in; what it points to stays until done */
    int fd;                       /* passed with it, or -1; stays the maker's */
    /* On shard 0, in the order of the packets, if not NULL: what the rest of the worker must know
     * before anything that comes after. reply is never NULL there. */
    void (*seen)(struct control_request *request);
    void (*done)(struct control_request *request);
    /* The answer, on shard. reply is valid until done returns; NULL when the front is gone. */
    Hl__Control__ToWorker *message; /* owns reply */
    const Hl__Control__Reply *reply;
    int reply_fd;    /* -1 or the receiver's */
    int snapshot_fd; /* of a Snapshot before the reply: likewise; -1 from the maker */
};

int control_link_new(struct control_link **out, struct engine *engine, int fd); /* takes fd */
void control_link_close(struct control_link *link);
void control_link_free(struct control_link *link); /* after the loop has ended */

/* On shard 0. Returns: 0 or a negative errno. */
int control_link_ready(struct control_link *link);
void control_link_idle(struct control_link *link);

/* From any shard. */
void control_link_request(struct engine *engine, struct control_request *request);

/* On shard 0: requests without a reply yet get none. */
void control_link_stop(struct control_link *link);

#endif
