/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_BASE_SPIN_H
#define HL_BASE_SPIN_H

/*
 * Whether to poll for a while before sleeping. A wake-up across CPUs can cost more than the work it
 * is for; polling avoids it and burns a CPU meanwhile. So it is done only while what is waited for
 * usually comes within the limit, and not while somebody else wants the CPU. Plain state without
 * any I/O, owned by one thread; times in ns of CLOCK_MONOTONIC.
 */

#include <stdbool.h>
#include <stdint.h>

struct spin {
    uint64_t average_ns; /* moving average of recent waits, sleep included */
    uint64_t paused_until_ns;
    uint64_t pause_ns;    /* the last pause; doubles while polling is disturbed */
    unsigned int skipped; /* waits in a row that were not polled */
};

/* How long to poll now; 0: not at all. limit_ns: the most, 0 for never. */
uint64_t spin_window(struct spin *spin, uint64_t limit_ns, uint64_t now_ns);

/* A wait is over that took waited_ns, whether it was polled or slept. */
void spin_learn(struct spin *spin, uint64_t limit_ns, uint64_t waited_ns);

/* One look of a poll that found nothing, from then to now. Returns: whether to go on polling; not
 * if the CPU was taken away meanwhile, since others need it then. */
bool spin_look(struct spin *spin, uint64_t then_ns, uint64_t now_ns);

#endif
