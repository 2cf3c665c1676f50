/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_DAEMON_SAVES_H
#define HL_DAEMON_SAVES_H

/* Snapshots on their way to the front, which keeps them beside their images: shard 0's. */

#include <stdbool.h>

#include "base/list.h"
#include "hv/snapshot_file.h"

struct engine;
struct program;

struct saves {
    struct engine *engine;
    const struct snapshot_key *key;
    struct list waiting; /* struct save, first come first */
    unsigned int count;
    bool busy; /* with one that is no longer in the list */
};

void saves_init(struct saves *saves, struct engine *engine, const struct snapshot_key *key);
void saves_fini(struct saves *saves); /* after the loop has ended */

enum saves_why {
    SAVES_BUILT,  /* to spare the next worker the start-up, where that takes longer than loading */
    SAVES_PARENT, /* an image was made of it: the next ones should lie over the same root */
};

/* If the program was built here and is of this worker's own uid, and once. Nobody waits for it, and
 * nothing comes of it where it fails. */
void saves_add(struct saves *saves, struct program *program, enum saves_why why);

#endif
