/* SPDX-License-Identifier: Apache-2.0 */
/* Samples, kept one by one: percentiles are of what was measured, not of a model of it. */
#include <errno.h>
#include <stdlib.h>

#include "client/hlctl/bench.h"

int samples_add(struct samples *samples, uint64_t ns)
{
    if (samples->count == samples->size) {
        size_t size = samples->size ? 2 * samples->size : 1024;
        uint64_t *grown = reallocarray(samples->ns, size, sizeof(*grown));

        if (!grown)
            return -ENOMEM;
        samples->ns = grown;
        samples->size = size;
    }
    samples->ns[samples->count++] = ns;
    return 0;
}

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return (x > y) - (x < y);
}

/* Nearest rank: the smallest sample that percent of all do not exceed. */
static uint64_t percentile(const struct samples *samples, unsigned int percent)
{
    size_t rank = (samples->count * percent + 99) / 100;

    return samples->ns[rank > 0 ? rank - 1 : 0];
}

struct summary samples_summary(struct samples *samples)
{
    uint64_t sum = 0;

    if (samples->count == 0)
        return (struct summary){0};
    qsort(samples->ns, samples->count, sizeof(*samples->ns), by_value);
    for (size_t i = 0; i < samples->count; i++)
        sum += samples->ns[i];
    return (struct summary){
        .p50 = percentile(samples, 50),
        .p95 = percentile(samples, 95),
        .p99 = percentile(samples, 99),
        .min = samples->ns[0],
        .max = samples->ns[samples->count - 1],
        .mean = sum / samples->count,
    };
}

void samples_fini(struct samples *samples)
{
    free(samples->ns);
    *samples = (struct samples){0};
}
