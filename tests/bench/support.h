/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_BENCH_SUPPORT_H
#define HL_BENCH_SUPPORT_H

/* What the benchmark's programs share: time, samples, and ends with a reason. They are tools for
 * one run, so whatever goes wrong ends them with one line on standard error. */

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

#include "client/hlmanage.h"

#define NSEC_PER_MSEC 1000000ull

/* CLOCK_MONOTONIC. */
uint64_t bench_now(void);
void bench_sleep_until(uint64_t ns);

_Noreturn void bench_die(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void *bench_alloc(size_t size); /* zeroed */
void *bench_read_file(const char *path, size_t *size);
/* A whole number up to max. */
uint64_t bench_number(const char *name, const char *text, uint64_t max);

/* CPU time that this process has used, and the process of that pid (0 when it cannot be told). */
uint64_t bench_own_cpu(void);
uint64_t bench_cpu_of(long pid);

/* All zeros is none yet. */
struct samples {
    uint64_t *ns;
    size_t count, size;
};

void samples_add(struct samples *samples, uint64_t ns);
/* {n, min, p50, p95, p99, p999, max, mean}, all but n in nanoseconds; {n: 0} when there are none.
 * Sorts the samples. Percentiles are nearest rank. */
json_t *samples_json(struct samples *samples);
void samples_fini(struct samples *samples);

/* Prints the object as one line, and releases it. Returns: an exit status. */
int bench_print(json_t *object);

#endif
