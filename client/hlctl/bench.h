/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_HLCTL_BENCH_H
#define HL_HLCTL_BENCH_H

/* Pieces of `hlctl bench`: samples and their percentiles, and the load of many connections. */

#include "client/hlctl/arguments.h"

struct samples {
    const char *name;
    uint64_t *ns;
    size_t count, size;
};

struct summary {
    uint64_t p50, p95, p99, min, max, mean;
};

/* Returns: 0 or -ENOMEM. */
int samples_add(struct samples *samples, uint64_t ns);
/* Sorts the samples. All zeros when there are none. */
struct summary samples_summary(struct samples *samples);
void samples_fini(struct samples *samples);

/* count calls over as many connections, one in flight on each. *ns: what it took from the first to
 * the last. Returns: 0, or the exit code, having printed why. */
int bench_load(struct hlctl *ctl, const struct hl_call *call, unsigned int connections,
               uint64_t count, uint64_t *ns);

#endif
