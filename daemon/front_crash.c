/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Workers that keep dying, by uid. The first deaths cost nothing, so that a client whose worker was
 * killed is served again at once; then each makes the uid wait twice as long, so that nobody can
 * have the front start processes all day.
 */
#include "config.h"

#include <stdlib.h>

#include "daemon/front_internal.h"

#define CRASH_FREE      10 /* deaths in a row that cost no waiting */
#define CRASH_DELAY_MS  100u
#define CRASH_SHIFT_MAX 8 /* 25.6 s */
#define CRASH_FORGET_MS 60000u
#define HEALTHY_MS      10000u /* a worker that lived this long did not crash at its start */

void crashes_free(struct front *front)
{
    while (front->crashes) {
        struct crash *next = front->crashes->next;

        free(front->crashes);
        front->crashes = next;
    }
}

static struct crash *find_crash(struct front *front, uint32_t uid)
{
    struct crash **at = &front->crashes;
    uint64_t now = uv_now(&front->loop);

    while (*at) {
        struct crash *crash = *at;

        if (now - crash->last_ms > CRASH_FORGET_MS) {
            *at = crash->next;
            free(crash);
            continue;
        }
        if (crash->uid == uid)
            return crash;
        at = &crash->next;
    }
    return NULL;
}

void crash_note(struct worker *worker)
{
    struct front *front = worker->front;
    uint64_t now = uv_now(&front->loop);
    struct crash *crash = find_crash(front, worker->uid);

    if (!crash) {
        crash = calloc(1, sizeof(*crash));
        if (!crash)
            return;
        crash->uid = worker->uid;
        crash->next = front->crashes;
        front->crashes = crash;
    }
    if (now - worker->started_ms >= HEALTHY_MS)
        crash->count = 0;
    crash->count++;
    crash->last_ms = now;
}

/* Returns: ms until a worker of uid may be started, 0 for now. */
uint64_t crash_delay(struct front *front, uint32_t uid)
{
    const struct crash *crash = find_crash(front, uid);
    unsigned int shift;
    uint64_t until;

    if (!crash || crash->count < CRASH_FREE)
        return 0;
    shift = crash->count - CRASH_FREE;
    until = crash->last_ms +
            ((uint64_t)CRASH_DELAY_MS << (shift < CRASH_SHIFT_MAX ? shift : CRASH_SHIFT_MAX));
    return until > uv_now(&front->loop) ? until - uv_now(&front->loop) : 0;
}
