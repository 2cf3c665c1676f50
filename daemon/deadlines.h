/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_DAEMON_DEADLINES_H
#define HL_DAEMON_DEADLINES_H

/* A heap of times, earliest first, whose entries know their place so that they can leave early.
 * Owned by one thread. */

#include <stddef.h>
#include <stdint.h>

struct deadline {
    uint64_t at_ns;
    size_t place; /* 1-based; 0: in no heap */
};

struct deadlines {
    struct deadline **heap;
    size_t count, size;
};

/* Returns: 0 or -ENOMEM. Adding one that is in already moves it. */
int deadlines_add(struct deadlines *d, struct deadline *entry, uint64_t at_ns);
void deadlines_remove(struct deadlines *d, struct deadline *entry); /* no-op when not in */
struct deadline *deadlines_first(const struct deadlines *d);        /* NULL when empty */
void deadlines_fini(struct deadlines *d);

#endif
