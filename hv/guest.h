/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_HV_GUEST_H
#define HL_HV_GUEST_H

/*
 * A guest on a machine, between one host decision and the next: runs it, serves its system calls
 * and log lines, and stops where somebody above must act. Start-up (hv/build.c) and calls
 * (hv/instance.c) are both made of it. For hv/ alone.
 */

#include "hv/host_call.h"
#include "hv/instance.h"
#include "hv/space.h"
#include "hv/world.h"

#define GUEST_LINE_MAX 1024 /* a log line; longer ones are cut into several */

enum guest_state {
    GUEST_READY = 1, /* announced READY: before its first call */
    GUEST_DONE,      /* announced a result: `result` is its offset in the window */
    GUEST_KICKED,
    GUEST_HOST_CALL, /* called a host function: `host_call` has it */
    GUEST_FAILED,    /* failure says why; the machine can only be freed */
};

struct guest {
    const struct hv_backend *hv;
    struct hv_machine *machine;
    struct snapshot *snap;   /* borrowed */
    const struct image *img; /* borrowed */
    struct space space;
    struct world world;
    struct host_call host_call;
    bool starting; /* before READY */
    uint64_t result;
    uint64_t fs_base;
    struct instance_counters counters;
    bool failed;
    struct instance_failure failure;
    instance_log_cb log;
    void *log_opaque;
    char line[GUEST_LINE_MAX]; /* written to 1 or 2 so far, without its newline */
    size_t line_len;
    int line_level;
};

/* The machine is bound to snap. Everything is borrowed. The world is the true one; world_init
 * changes that. */
void guest_init(struct guest *g, const struct hv_backend *hv, struct hv_machine *machine,
                struct snapshot *snap, const struct image *img, bool starting);
void guest_fini(struct guest *g);

/* The machine was reset: everything of the last call goes, but its counters. */
void guest_reset(struct guest *g);

/* The machine was rewound: its memory stays, and so do the books of it. */
void guest_continue(struct guest *g);

/* hv/instance.c: the guest of an instance that has no call, or NULL; no call can follow. */
struct guest *instance_at_rest(struct instance *inst);
void instance_give_up(struct instance *inst);
void instance_put_back(struct instance *inst); /* its next call is a first one again */

/* Runs until something above must act, at most until until_ns. */
enum guest_state guest_run(struct guest *g, uint64_t until_ns);

/* Ends the guest, the first time it is called; later failures do not overwrite it. */
void guest_fail(struct guest *g, enum instance_end end, int code, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

/* Guest memory with the guest's own permissions. Returns: 0, -EFAULT. */
int guest_copy_in(struct guest *g, hl_gpa addr, void *buf, uint64_t len);
int guest_copy_out(struct guest *g, hl_gpa addr, const void *buf, uint64_t len);

/* Log output: text of any bytes, cut at newlines; level: HL_ABI_LOG_…. guest_log_flush sends what
 * has no newline yet. */
void guest_log(struct guest *g, int level, const char *text, size_t len);
void guest_log_flush(struct guest *g);

/* hv/host_call.c: copies and checks the call that the guest announced. Returns: 0 to go on, the
 * guest having its errno; GUEST_HOST_CALL; GUEST_FAILED. */
enum guest_state guest_host_call(struct guest *g, hl_gpa addr, uint64_t len);

/* Answers it: as instance_host_return and instance_host_fail, of a call that is there. */
int guest_host_return(struct guest *g, const struct hl_value *result, struct hl_error *err);
void guest_host_fail(struct guest *g, enum hl_status status, int32_t code, const char *text,
                     size_t len);

/* hv/syscall.c: serves one system call. Returns: what rax gets; guest_fail was called if it ends
 * the guest. */
int64_t guest_syscall(struct guest *g, uint64_t nr, const uint64_t args[6]);

/* hv/fault.c: fills failure->symbol and failure->text from failure->fault. */
void fault_describe(struct instance_failure *failure, const struct image *img,
                    const struct linux_state *at);

#endif
