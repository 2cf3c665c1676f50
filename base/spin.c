/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The average moves by an eighth a wait and one long wait counts as no more than a few limits, so
 * that polling stops soon after traffic does and one pause of a client does not end it. While it is
 * off, every so many waits are polled all the same, to see whether that has begun to pay. A look
 * that took far longer than a look takes was preempted, the sign that the host is busy: pauses
 * double from 10 ms to a second while that repeats.
 */
#include "base/spin.h"

#define PROBE_EVERY  64u
#define WEIGHT_MOST  8u     /* limits; what a longer wait counts as */
#define DISTURBED_NS 50000u /* a look takes a microsecond or two, an interrupt ten */
#define PAUSE_MIN_NS 10000000u
#define PAUSE_MAX_NS 1000000000u

uint64_t spin_window(struct spin *spin, uint64_t limit_ns, uint64_t now_ns)
{
    if (limit_ns == 0 || now_ns < spin->paused_until_ns)
        return 0;
    if (spin->average_ns <= limit_ns || ++spin->skipped >= PROBE_EVERY) {
        spin->skipped = 0;
        return limit_ns;
    }
    return 0;
}

void spin_learn(struct spin *spin, uint64_t limit_ns, uint64_t waited_ns)
{
    uint64_t most = limit_ns * WEIGHT_MOST;

    if (waited_ns <= limit_ns)
        spin->pause_ns = 0;
    if (waited_ns > most)
        waited_ns = most;
    /* One that polling would have caught says that it pays, whatever was before. */
    if (waited_ns <= limit_ns && spin->average_ns > limit_ns)
        spin->average_ns = limit_ns;
    else
        spin->average_ns += waited_ns / 8 - spin->average_ns / 8;
}

bool spin_look(struct spin *spin, uint64_t then_ns, uint64_t now_ns)
{
    if (now_ns - then_ns < DISTURBED_NS)
        return true;
    spin->pause_ns = spin->pause_ns == 0 ? PAUSE_MIN_NS : spin->pause_ns * 2;
    if (spin->pause_ns > PAUSE_MAX_NS)
        spin->pause_ns = PAUSE_MAX_NS;
    spin->paused_until_ns = now_ns + spin->pause_ns;
    return false;
}
