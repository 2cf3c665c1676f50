/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_HV_WORLD_H
#define HL_HV_WORLD_H

/*
 * What a guest sees of the world outside: time and random bytes. The true ones, or, for tests and
 * replay, made-up ones that depend on a seed and on the guest's own requests alone: the same
 * program with the same seed and arguments sees the same. Processor instructions (CPUID, RDTSC,
 * RDRAND) are not covered: not every host can take them from a guest.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#define HV_SEED_SIZE 32

/* Made-up time: start-up begins at the epoch, calls a day later, both clocks alike, and each look
 * at a clock finds it one step on. */
#define WORLD_EPOCH_S 946684800 /* 2000-01-01T00:00:00Z */
#define WORLD_CALLS_S 86400
#define WORLD_STEP_NS 1000000u

/* How far it has gone. */
struct world_mark {
    uint64_t looks, blocks; /* at a clock; of random bytes, taken so far */
};

struct world {
    bool made_up;
    bool starting; /* before READY: other bytes, and an earlier time, than calls get */
    uint8_t seed[HV_SEED_SIZE];
    struct world_mark at;
};

/* seed: NULL for the true world. */
void world_init(struct world *w, const uint8_t seed[HV_SEED_SIZE], bool starting);

/* The machine was reset: made-up time and bytes begin again. */
void world_reset(struct world *w);

/* id: CLOCK_REALTIME or CLOCK_MONOTONIC. Returns: 0 or a negative errno. */
int world_time(struct world *w, clockid_t id, struct timespec *ts);

/* Returns: 0, or a negative errno when the kernel has none. */
int world_random(struct world *w, void *buf, size_t len);

/* What a call brings its guest, at most a block of it. Made up it depends on what was drawn before,
 * and what is drawn next does not depend on it: whether a call brings any is the host's affair.
 * Returns: likewise. */
int world_entropy(struct world *w, void *buf, size_t len);

#endif
