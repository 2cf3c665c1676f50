/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_HV_INSTANCE_H
#define HL_HV_INSTANCE_H

/*
 * Calls on a machine: what the engine uses. An instance is a machine bound to an image's ready
 * snapshot; begin writes a call into its I/O window, run enters the guest (serving its system calls
 * and log lines) until the call is over, result copies the answer out, reset makes it as new.
 *
 *   shell_new → instance_bind → [ instance_begin → instance_run … → instance_reset ]
 *             → instance_unbind → instance_bind …, or instance_free
 *
 * One thread at a time uses an instance; instance_kick alone may come from any thread.
 */

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/value.h"
#include "hv/backend.h"
#include "hv/image.h"
#include "hv/snapshot.h"
#include "hv/world.h"

struct shell;
struct instance;

enum instance_state {
    INSTANCE_DONE = 1,  /* the guest left a result: instance_result */
    INSTANCE_KICKED,    /* until_ns passed or a kick: run again to go on */
    INSTANCE_FAULT,     /* fault, exit(), abort, broken result: instance_fault says; free it */
    INSTANCE_HOST_CALL, /* the guest calls a host function: instance_host_call; answer it, run on */
};

/* Why a call ended without a result. */
enum instance_end {
    INSTANCE_END_FAULT = 1, /* CPU exception: fault is filled */
    INSTANCE_END_EXIT,      /* exit or exit_group: code is its status */
    INSTANCE_END_ABORT,     /* HL_HYPERCALL_ABORT: code and text */
    INSTANCE_END_PROTOCOL,  /* unknown hypercall, result outside the window, wrong type …: text */
    INSTANCE_END_DIED,      /* the machine itself failed: text */
};

struct instance_failure {
    enum instance_end end;
    struct hv_fault fault;
    int code;
    char symbol[128]; /* "name+0x1c", or "" */
    char text[256];   /* one line that says it all, for the error's message */
};

/* Of the call since instance_begin. Counted by the thread that runs it, and any other may look. */
struct instance_counters {
    atomic_uint exits; /* times the guest left to the host, kicks excluded */
    atomic_uint syscalls;
    atomic_uint unknown_syscalls;
    atomic_uint log_lines;
    atomic_uint host_calls; /* all that the guest made, refused and broken ones included */
};

/* By the thread that counts, which is one at a time. */
static inline void instance_count(atomic_uint *counter)
{
    atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + 1,
                          memory_order_relaxed);
}

typedef void (*instance_log_cb)(void *opaque, int level, const char *text, size_t len);

/* What slot size a snapshot of memory_size bytes needs: shells come in few sizes (powers of two
 * from 16 MiB) so that any of a class serves any image of it. */
uint64_t shell_class(uint64_t memory_size);

int shell_new(struct shell **out, const struct hv_backend *hv, struct hv_host *host,
              uint64_t slot_size, struct hl_error *err);
void shell_free(struct shell *shell);

/* Takes shell (freed on failure too); keeps a reference to snap; img is borrowed and must outlive
 * the instance. Pages that earlier calls of the image wrote are made present. */
int instance_bind(struct instance **out, struct shell *shell, struct snapshot *snap,
                  const struct image *img, struct hl_error *err);
void instance_free(struct instance *inst);

/* inst as a shell again, which any snapshot of its slot class can be bound to: nothing of the old
 * image is left in its memory and registers, and its private pages are the system's again. Not for
 * the time of a call. Frees inst in any case. Returns: NULL where the machine cannot be used again,
 * because the backend has no such thing or because its guest failed or was stopped. */
struct shell *instance_unbind(struct instance *inst);

/* Log lines of later calls (hl_log and writes to 1 and 2, split at newlines, bounded). */
void instance_set_log(struct instance *inst, instance_log_cb cb, void *opaque);

/* Time and randomness of later calls made up instead of true: a function of seed and of how often
 * the guest has asked since the instance was bound or reset (hv/world.h); checkpoints keep the
 * latter, and rollbacks put it back. NULL: true ones again.
 * Not for the time of a call. */
void instance_set_deterministic(struct instance *inst, const uint8_t seed[HV_SEED_SIZE]);

/* Checks args against the function's signature and writes the call; the first one since the
 * instance was bound or reset tells the guest so and brings it fresh entropy. What is in a
 * descriptor, HL_TYPE_DESCRIPTOR for a parameter of type bytes, is mapped where the guest reads it
 * until the call's end, or copied where it is small or there is no such thing here: the file is one
 * whose bytes nobody can change or take away. Returns: 0; -EINVAL with err naming argument and
 * type, -EMSGSIZE with the window's size when the arguments do not fit: the instance is as it was;
 * another negative errno: it can only be freed. */
int instance_begin(struct instance *inst, size_t function, const struct hl_value *args,
                   size_t nargs, struct hl_error *err);

/* Only the check of instance_begin, without an instance. */
int instance_check_args(const struct image *img, size_t function, const struct snapshot *snap,
                        const struct hl_value *args, size_t nargs, struct hl_error *err);

/* For the call that begins next: bytes that the function returns (text and others as ever) go to
 * `to`, which has room for size and stays until the call's result was taken, instance_begin has
 * failed, or the instance is reset or freed; they may be larger than the I/O window then. They are
 * copied piece by piece in instance_run, which comes back KICKED meanwhile as from a guest that
 * computes. The result is an HL_TYPE_DESCRIPTOR, with no descriptor in it. */
void instance_result_into(struct instance *inst, void *to, size_t size);

enum instance_state instance_run(struct instance *inst, uint64_t until_ns);

/* After INSTANCE_DONE, once. value: a result, or, when the guest answered with an error, is_error
 * with code and text in a string value. String and bytes are the instance's: good until it is
 * reset, unbound or freed. They were checked where the guest cannot change them any more. Returns:
 * 0; -ENOMEM; -EMSGSIZE with both sizes where instance_result_into gave too little room; -EBUSY or
 * -ENODATA when there is none. */
struct instance_result {
    bool is_error;
    int32_t code;
    struct hl_value value;
};
int instance_result(struct instance *inst, struct instance_result *result, struct hl_error *err);

/* A call of a host function, checked: name is 1 to 63 of A-Z a-z 0-9 . _ -, strings are UTF-8. All
 * of it is a copy, the instance's own. */
struct instance_host_call {
    char name[HL_NAME_MAX + 1];
    const struct hl_value *args;
    size_t nargs;
};

/* After INSTANCE_HOST_CALL, until it is answered. The instance may stay in that state for as long
 * as one likes, on no thread. Returns: NULL when there is none. */
const struct instance_host_call *instance_host_call(const struct instance *inst);

/* Answers it: instance_run then goes on. result: NULL or HL_TYPE_VOID for nothing; its strings must
 * be UTF-8. Returns: 0; -EINVAL for what is no value; -EMSGSIZE with the guest's room named, when
 * that does not hold the result; -EBUSY without a call. On error nothing was answered yet. */
int instance_host_return(struct instance *inst, const struct hl_value *result,
                         struct hl_error *err);

/* Answers it with an error. code: the provider's own, with HL_STATUS_UNKNOWN, else 0. The text is
 * cut to the guest's room and HL_ABI_LOG_MAX, and made UTF-8. Returns: 0; -EBUSY. */
int instance_host_fail(struct instance *inst, enum hl_status status, int32_t code, const char *text,
                       size_t len);

const struct instance_failure *instance_failure(const struct instance *inst);
const struct instance_counters *instance_counters(const struct instance *inst);

/* Back to the snapshot. audit: compare everything afterwards. Returns: 0 warm again; 1 not reusable
 * by design (process backend, changed permissions, a call that failed or was not over, be it that
 * a host function was not answered): free it;
 * -EBADMSG the audit found a difference, err says which; other negative errno. Anything but 0: the
 * instance can only be freed. */
int instance_reset(struct instance *inst, bool audit, uint64_t *pages, struct hl_error *err);

/* After INSTANCE_DONE, in the place of a reset: the next call finds memory as this one left it, the
 * I/O window included (behind the call that is written there), and all else as after a reset.
 * hv/checkpoint.h has the ways back. Returns: 0; 1 when it can only be freed (its call failed or
 * was not over); a negative errno likewise. */
int instance_continue(struct instance *inst);

/* An instance that has no call gives back what it keeps for another one like the last: files.
 * Returns: 0; a negative errno after which it can only be freed. */
int instance_relax(struct instance *inst);

/* For tests of the audit: parts of later resets to leave out, enum hv_reset_skip. */
void instance_set_skip(struct instance *inst, unsigned int skip);

void instance_kick(struct instance *inst);

#endif
