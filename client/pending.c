/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests on their way, found by stream id. Ids are odd and count up, so they spread over the
 * buckets by themselves; entries are reused, so that a steady stream of calls allocates nothing.
 */
#include <errno.h>
#include <stdlib.h>

#include "client/client.h"

static struct pending **bucket(struct hl_client *client, uint32_t stream)
{
    return &client->buckets[stream / 2 % PENDING_BUCKETS];
}

struct pending *pending_find(const struct hl_client *client, uint32_t stream)
{
    struct pending *p = client->buckets[stream / 2 % PENDING_BUCKETS];

    while (p && p->stream != stream)
        p = p->next;
    return p;
}

int pending_new(struct pending **out, struct hl_client *client, enum pending_kind kind,
                struct hl_client_error *err)
{
    struct pending *p = client->spare;
    struct pending **head;

    /* ttrpc's stream ids only ever increase. */
    if (client->next_stream == 0)
        return failure_local(err, -EOVERFLOW, HL_STATUS_UNAVAILABLE,
                             "this connection has served 2^31 requests; connect again");
    if (client->npending >= PENDING_MAX)
        return failure_local(err, -EAGAIN, HL_STATUS_RESOURCE_EXHAUSTED,
                             "%u requests are on their way; process their answers first",
                             PENDING_MAX);
    if (p)
        client->spare = p->next;
    else
        p = malloc(sizeof(*p));
    if (!p)
        return failure_local(err, -ENOMEM, HL_STATUS_RESOURCE_EXHAUSTED, "out of memory");
    *p = (struct pending){
        .stream = client->next_stream,
        .kind = kind,
        .arena = client->arena,
        .room = ROOM_NONE,
    };
    client->next_stream = p->stream == UINT32_MAX ? 0 : p->stream + 2;
    head = bucket(client, p->stream);
    p->next = *head;
    *head = p;
    client->npending++;
    if (kind == PENDING_CALL)
        client->ncalls++;
    *out = p;
    return 0;
}

void pending_remove(struct hl_client *client, struct pending *p)
{
    struct pending **at = bucket(client, p->stream);

    while (*at != p)
        at = &(*at)->next;
    *at = p->next;
    client->npending--;
    if (p->kind == PENDING_CALL)
        client->ncalls--;
    client->ndescriptors -= p->ndescriptors;
    parcel_free(p->parcel);
    room_fini(&p->room);
    p->next = client->spare;
    client->spare = p;
}

void pending_fail_all(struct hl_client *client, const struct hl_client_error *reason)
{
    for (unsigned int i = 0; i < PENDING_BUCKETS; i++) {
        struct pending **at = &client->buckets[i];

        while (*at) {
            struct pending *p = *at;
            struct pending copy = *p;

            if (p->kind == PENDING_WAIT) {
                /* Its waiter removes it. */
                p->code = reason->code;
                if (p->err)
                    *p->err = *reason;
                p->done = true;
                at = &p->next;
                continue;
            }
            if (p->hosting > 0) { /* its callback goes first */
                p->lost = true;
                at = &p->next;
                continue;
            }
            pending_remove(client, p);
            if (copy.kind == PENDING_DROP || !copy.cb)
                continue;
            client->in_callback = true;
            copy.cb(copy.opaque, copy.stream, reason->code, NULL, reason);
            client->in_callback = false;
        }
    }
}

void pending_fini(struct hl_client *client)
{
    while (client->spare) {
        struct pending *p = client->spare;

        client->spare = p->next;
        free(p);
    }
}
