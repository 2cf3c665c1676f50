/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_TESTS_BENCH_HV_H
#define HL_TESTS_BENCH_HV_H

/* What the files of bench_hv share: times taken case by case, printed as JSON. */

#include <stdint.h>

#include "base/error.h"
#include "hv/backend.h"

/* One case: its description as JSON members, and the times taken so far. */
struct series;

extern struct hv_host *bench_host;
extern unsigned int bench_rounds;
extern const char *bench_guest; /* path of the echo example */

/* Ends the program. err NULL: errno tells. */
_Noreturn void bench_die(const char *what, const struct hl_error *err);
void bench_must(int r, const char *what, const struct hl_error *err);

/* about: a printf format of JSON members, '"name": "reset", "dirty_pages": 10'. */
struct series *series_new(const char *about, ...) __attribute__((format(printf, 1, 2)));
void series_add(struct series *s, uint64_t ns);
void series_print_all(void); /* and forgets them */
void bench_print(const char *members);

/* Of a file of lines "name: n kB", the line that starts with name. */
uint64_t bench_bytes(const char *path, const char *name);
void bench_entry(struct series *s); /* 32 bare entries of a machine of their own */

void bench_resets(void); /* bench_hv_reset.c */
void bench_first(void);  /* bench_hv_first.c */
void bench_idle(void);

#endif
