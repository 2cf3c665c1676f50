/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_CLIENT_BULK_H
#define HL_CLIENT_BULK_H

/* Inside libhlclient: bytes that go beside messages, in memfds. */

#include <sys/types.h>

#include "client/hlclient.h"
#include "proto/hl.pb-c.h"

/* Descriptors beside requests on their way; the kernel bounds those of a user too. */
#define PARCELS_MAX_FDS 256u

struct hl_client;

/* Descriptors that go beside a frame, together with its first byte. */
struct parcel {
    struct parcel *next;
    uint64_t at; /* where that byte is in all that the connection carries */
    unsigned int count;
    int fds[HL_MAX_PARAMS + 1]; /* its own */
};

/* Memory of ours for a call's result, and the result in it. ROOM_NONE is none. */
struct room {
    int fd;
    unsigned int index; /* of fd beside the request */
    size_t size;
    void *map; /* the result, once it came, or NULL when it is empty */
    size_t len;
};
#define ROOM_NONE ((struct room){.fd = -1})

/* ---- parcel.c ---- */

/* With duplicates of fds. Returns: 0 or a negative errno. */
int parcel_new(struct parcel **out, const int *fds, unsigned int count);
void parcel_free(struct parcel *parcel);
/* Goes with the byte at that place, which is past all that were queued before. Takes it. */
void parcel_queue(struct hl_client *client, struct parcel *parcel, uint64_t at);
/* What send does with the first bytes of client->out, while there are parcels. */
ssize_t parcel_send(struct hl_client *client);
void parcel_drop_all(struct hl_client *client);

/* ---- descriptor.c ---- */

/* What can go beside a request as an argument. Returns: 0, -EINVAL or -EFBIG with why filled. */
int descriptor_check(const struct hl_value *value, char *why, size_t size);

/* ---- room.c ---- */

/* Room for a result of size bytes, not 0. Returns: 0; a negative errno with err filled. */
int room_new(struct room *room, size_t size, struct hl_client_error *err);
/* What hld says that it has put there, checked and mapped, into result; the room stays the
 * caller's, and result is valid as long. Returns: 0; a negative errno with err filled. */
int room_take(struct room *room, const Hl__V1__Descriptor *answer, struct hl_result *result,
              struct hl_client_error *err);
void room_fini(struct room *room);
static inline struct room room_steal(struct room *room)
{
    struct room stolen = *room;

    *room = ROOM_NONE;
    return stolen;
}

#endif
