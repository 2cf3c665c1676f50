/* SPDX-License-Identifier: Apache-2.0 */
/* A binary heap in an array, as in any textbook; only calls that wait or were suspended are in it.
 */
#include "daemon/deadlines.h"

#include <errno.h>
#include <stdlib.h>

static void put(struct deadlines *d, size_t place, struct deadline *entry)
{
    d->heap[place - 1] = entry;
    entry->place = place;
}

static void sift_up(struct deadlines *d, struct deadline *entry)
{
    size_t place = entry->place;

    while (place > 1 && d->heap[place / 2 - 1]->at_ns > entry->at_ns) {
        put(d, place, d->heap[place / 2 - 1]);
        place /= 2;
    }
    put(d, place, entry);
}

static void sift_down(struct deadlines *d, struct deadline *entry)
{
    size_t place = entry->place;

    for (;;) {
        size_t child = place * 2;

        if (child > d->count)
            break;
        if (child < d->count && d->heap[child]->at_ns < d->heap[child - 1]->at_ns)
            child++;
        if (d->heap[child - 1]->at_ns >= entry->at_ns)
            break;
        put(d, place, d->heap[child - 1]);
        place = child;
    }
    put(d, place, entry);
}

int deadlines_add(struct deadlines *d, struct deadline *entry, uint64_t at_ns)
{
    deadlines_remove(d, entry);
    if (d->count == d->size) {
        size_t size = d->size ? d->size * 2 : 64;
        struct deadline **heap = realloc(d->heap, size * sizeof(struct deadline *));

        if (!heap)
            return -ENOMEM;
        d->heap = heap;
        d->size = size;
    }
    entry->at_ns = at_ns;
    put(d, ++d->count, entry);
    sift_up(d, entry);
    return 0;
}

void deadlines_remove(struct deadlines *d, struct deadline *entry)
{
    struct deadline *last;
    size_t place = entry->place;

    if (place == 0)
        return;
    entry->place = 0;
    last = d->heap[--d->count];
    if (last == entry)
        return;
    put(d, place, last);
    sift_up(d, last);
    sift_down(d, last);
}

struct deadline *deadlines_first(const struct deadlines *d)
{
    return d->count > 0 ? d->heap[0] : NULL;
}

void deadlines_fini(struct deadlines *d)
{
    free(d->heap);
    *d = (struct deadlines){0};
}
