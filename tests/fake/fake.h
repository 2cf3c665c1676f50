/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_TESTS_FAKE_FAKE_H
#define HL_TESTS_FAKE_FAKE_H

/*
 * The fake backend, for tests alone: a machine that executes nothing. Its memory is real, what
 * "runs" in it is C code of the test: the built-in guest (below), or a function of the test's own
 * that makes any exit, fault, kick or delay happen. Every operation can be made to fail on purpose.
 *
 * The built-in guest announces READY when it is started, then answers calls by the name of the
 * function called, which it reads from the descriptor table at FAKE_TABLE_ADDR of guest memory; so
 * it goes with the image of tests/fake/elf.h, whose functions are:
 *
 *   echo(bytes) -> bytes            echo_string(string) -> string
 *   add(i32, i32) -> i32            nothing()
 *   at(bytes, u64 i) -> u32         byte i, of attached files too
 *   same_i32 … same_f64, same_bool  give their argument back
 *   big(u32 n) -> bytes             n bytes of 'x' (past the window too: a broken result)
 *   fail(i32 code, string text)     an error of the guest's own
 *   log(string)  print(bytes)       a log line; a write to descriptor 1
 *   dirty(u32 pages)                writes that many pages of its heap
 *   keep(u32 value) -> u32          stores value in its heap, gives back what was there
 *   delay(u32 ms)                   runs that long, across kicks
 *   hold()                          runs until the test lets it go (fake_hold), across kicks
 *   spin()  syscalls()              never end: computing; calling getpid
 *   fault()                         a page fault writing address 0
 *   exit(i32)  abort(string)        ends itself
 *   bad_result(u32 kind)            0 offset outside the window, 1 misaligned offset, 2 magic,
 *                                   3 type, 4 string outside the window, 5 not UTF-8, 6 a bool
 *                                   of 2, 7 unknown hypercall, 8 READY again
 *   die()                           run itself returns -EIO
 *   host_call(string name, bytes arg) -> bytes
 *                                   calls the host function name(bytes) -> bytes, gives its result;
 *                                   its error is an error of this one, with the status as code
 *                                   (negative: the hypercall's errno)
 *   host_calls(u32 n) -> u64        calls count(u32 i) -> u32 for i from 0 to n - 1: the sum
 *   host_insist(string, bytes) -> bytes
 *                                   as host_call, FAKE_INSIST times whatever the answers: the last
 *   host_raw(bytes, u64 addr, u64 len) -> i64
 *                                   writes the bytes to addr, as far as memory goes,
 *                                   and makes a host call of addr and len:
 *                                   what the hypercall returned
 *   entropy() -> bytes              the call's flags (2 bytes) and its entropy, if it brought any
 *   time() -> i64                   time(2)
 *
 * Control below is global and thread-safe.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "hv/backend.h"

#define FAKE_TABLE_ADDR 0x401000u /* where elf.h puts the descriptors */
#define FAKE_READY_RIP  (0x100000u + 16)
#define FAKE_INSIST     6u

extern const struct hv_backend hv_backend_fake;

enum fake_op {
    FAKE_PROBE,
    FAKE_HOST_OPEN,
    FAKE_POPULATE,
    FAKE_MACHINE_NEW,
    FAKE_BIND,
    FAKE_UNBIND,
    FAKE_RUN,
    FAKE_GET_REGS,
    FAKE_SET_FS_BASE,
    FAKE_MEM_READ,
    FAKE_MEM_WRITE,
    FAKE_ATTACH,
    FAKE_PROTECT,
    FAKE_RESET,
    FAKE_REWIND,
    FAKE_COLLECT,
    FAKE_AUDIT,
    FAKE_OP_COUNT,
};

/* The nth next call of op (1: the very next) returns code without doing anything, once. For
 * FAKE_RESET code 1 is "not resettable", for FAKE_AUDIT code 1 is a mismatch. code 0 disarms. */
void fake_fail(enum fake_op op, unsigned int nth, int code);

/* Calls of op since fake_clear. */
uint64_t fake_count(enum fake_op op);

/* Machines that exist now: for leak tests. */
int fake_machines(void);

/* Whether calls of hold() go on running. From fake_clear on they do. */
void fake_hold(bool on);

/* Calls of hold() that have begun since fake_clear. */
unsigned int fake_held(void);

/* No failures armed, counters zero, the built-in guest. */
void fake_clear(void);

/* Replaces the built-in guest for all machines; NULL brings it back. on_run stands for `run` of the
 * backend and may call fake_run itself. */
typedef int (*fake_run_cb)(struct hv_machine *m, uint64_t until_ns, struct hv_exit *exit,
                           void *opaque);
void fake_set_run(fake_run_cb on_run, void *opaque);

/* The built-in guest. */
int fake_run(struct hv_machine *m, uint64_t until_ns, struct hv_exit *exit);

/* For an on_run: fill an exit. Each returns 0. */
int fake_exit_hypercall(struct hv_exit *exit, uint64_t nr, uint64_t a, uint64_t b, uint64_t c);
int fake_exit_syscall(struct hv_exit *exit, uint64_t nr, const uint64_t args[6]);
int fake_exit_fault(struct hv_exit *exit, uint8_t vector, uint32_t error_code, uint64_t rip,
                    uint64_t address);
int fake_exit_kicked(struct hv_exit *exit);

/* Sleeps until wake_ns (CLOCK_MONOTONIC), until_ns or a kick, whichever is first.
 * Returns: true when it was wake_ns; false when run should come back KICKED. */
bool fake_sleep(struct hv_machine *m, uint64_t wake_ns, uint64_t until_ns);

/* Guest memory as the guest sees it; what an on_run writes goes through fake_write, so that reset
 * knows. Out of bounds aborts the test. */
const uint8_t *fake_memory(const struct hv_machine *m);
void fake_write(struct hv_machine *m, hl_gpa addr, const void *data, size_t len);
uint64_t fake_returned(const struct hv_machine *m); /* what set_return gave last */
uint64_t fake_fs_base(const struct hv_machine *m);
bool fake_at_start(const struct hv_machine *m); /* bound, and not run past READY yet */
unsigned int fake_step(struct hv_machine *m);   /* 0, 1, 2 … since bind, reset or READY */
struct snapshot *fake_bound(const struct hv_machine *m);

#endif
