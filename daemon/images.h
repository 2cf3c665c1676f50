/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_DAEMON_IMAGES_H
#define HL_DAEMON_IMAGES_H

/*
 * The worker's programs by name. Shard 0 owns the table and talks to the registry; shards ask it
 * once for each name and keep what they got until it is invalidated.
 */

#include <stdbool.h>

#include "base/error.h"
#include "base/list.h"
#include "base/value.h"
#include "daemon/control.pb-c.h"
#include "daemon/mailbox.h"

struct engine;
struct images;
struct snapshot_key;
struct program;
struct shard;

/* A question, part of whatever asks it. */
struct resolve {
    struct mail mail;
    struct list link;
    struct shard *shard; /* that asks, and gets the answer */
    char name[HL_NAME_MAX + 1];
    void (*done)(struct resolve *resolve); /* on that shard */
    /* the answer */
    struct program *program; /* a reference of the receiver's, or NULL with: */
    enum hl_status status;
    struct hl_error err;
};

int images_new(struct images **out, struct engine *engine);
void images_free(struct images *images);

/* From any shard: a reference to the program that is ready under this name, or NULL: ask then. An
 * invalidation that comes later is told to every shard. */
struct program *images_ready(struct engine *engine, const char *name);

/* From any shard; resolve is borrowed until done is called. */
void images_resolve(struct engine *engine, struct resolve *resolve);

/* What all snapshots of this worker have in common. Any thread. */
const struct snapshot_key *images_key(const struct engine *engine);

/* On shard 0, when the engine stops: whoever waits is told so. */
void images_stop(struct engine *engine);

/* On shard 0. The name stands for another program, or for none. */
void images_invalidate(struct engine *engine, const char *name);

/* On shard 0: the name stands for this program from now on. Takes the reference. */
void images_install(struct engine *engine, struct program *program);

/* On shard 0: where `bytes` more of programs have no room, those go that nobody calls now, the ones
 * without instances first; never keep. What they had is given back when each shard, and shard 0
 * once more, has had a mail that is posted afterwards. */
void images_make_room(struct engine *engine, uint64_t bytes, const struct program *keep);

/* On shard 0: an image was made of a session of this program. */
void images_note_parent(struct engine *engine, struct program *program);

/* On shard 0: references to all programs that are ready. *out is the caller's. Returns: how many.
 */
size_t images_list(struct images *images, struct program ***out);

#endif
