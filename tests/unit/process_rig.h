/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_TESTS_PROCESS_RIG_H
#define HL_TESTS_PROCESS_RIG_H

/* A nursery and a host for each test of the process backend, and machines bound to the guests of
 * tests/unit/process_guests.h. */

#include <check.h>
#include <sys/types.h>

#include "hv/process_machine.h"
#include "tests/unit/process_guests.h"

#define PAGE   HL_ABI_PAGE_SIZE
#define SECOND 1000000000ull

#define NR_UPROBE 336 /* refused by the kernel, past every filter (hv/process_filter.c) */

extern const struct hv_backend *const hv;
extern struct hv_host *host;
extern int nursery_fd;
extern pid_t nursery_pid;

/* A checked fixture. */
void rig_setup(void);
void rig_teardown(void);

/* A test program's main: runs the suite, or is its own nursery. */
int rig_main(int argc, char **argv, Suite *suite);

struct snapshot *snapshot_of(void (*guest)(void));

/* Bound to a snapshot that it alone refers to. */
struct hv_machine *machine_of(void (*guest)(void));

/* One run, which must succeed, of up to 20 s. */
struct hv_exit run(struct hv_machine *m);

/* Word `index` of the I/O window. */
void set_word(struct hv_machine *m, unsigned int index, uint64_t value);

/* For guest_through_runtime: the one call that it makes by the runtime's own hand. */
void set_call(struct hv_machine *m, uint64_t nr, const uint64_t args[6]);

/* That, and a run. */
struct hv_exit through_runtime(struct hv_machine *m, uint64_t nr, const uint64_t args[6]);

/* Such a call that takes, in the next run, what the handler would have. */
void guest_receives(struct hv_machine *m);

/* A guest that did not end with the fault it reported, from the beginning. */
void guest_again(struct hv_machine *m);

/* The guest process's number as /proc knows it. */
pid_t pid_of(const struct hv_machine *m);

/* The rest of the line in /proc/PID/status that starts with name. */
void status_of(pid_t pid, const char *name, char *value, size_t size);

#endif
