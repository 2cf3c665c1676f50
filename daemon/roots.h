/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_DAEMON_ROOTS_H
#define HL_DAEMON_ROOTS_H

/*
 * The snapshots that images made from sessions lie over, by digest, so that all of a family in this
 * worker share one: loaded by the first that wants it, while others wait. Shard 0's.
 */

#include <stdint.h>

#include "base/list.h"
#include "daemon/budget.h"
#include "hv/snapshot.h"

#define ROOT_DIGEST_SIZE 32

struct roots {
    struct list list;
    struct budget *budget;
};

/* Who wants one. */
struct root_user {
    struct list link;
    uint8_t sha256[ROOT_DIGEST_SIZE];
    /* root: a reference of the user's; NULL: it is the one to load it, and calls roots_loaded. */
    void (*go)(struct root_user *user, struct snapshot *root);
};

void roots_init(struct roots *roots, struct budget *budget);
void roots_fini(struct roots *roots);

/* Those that no program refers to any more go. */
void roots_drop_unused(struct roots *roots);

/* go is called, now or later. */
void roots_want(struct roots *roots, struct root_user *user);

/* root: borrowed; NULL: that failed, and the next one tries. */
void roots_loaded(struct roots *roots, const struct root_user *user, struct snapshot *root);

#endif
