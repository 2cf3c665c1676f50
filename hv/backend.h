/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_HV_BACKEND_H
#define HL_HV_BACKEND_H

/*
 * The table a hypervisor fills in. Above it nothing knows which one runs: image loading, the Linux
 * syscall subset, calls and their results (hv/instance.h) are written once, on these operations.
 *
 * A machine is one memory slot and one virtual CPU (or, for `process`, what stands in for them).
 * Unbound it is a shell; bound it has a snapshot's memory and registers. A machine belongs to one
 * thread at a time; only kick may come from another.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

typedef uint64_t hl_gpa; /* guest address: guest-physical = guest-virtual */

struct snapshot;    /* hv/snapshot.h */
struct hv_host;     /* a backend, opened: one per worker; backend-private */
struct hv_machine;  /* backend-private */
struct hv_features; /* hv/features.h */

/* Page permissions as the guest sees them; never write and execute together. */
enum hv_prot {
    HV_PROT_NONE = 0,
    HV_PROT_READ = 1,
    HV_PROT_WRITE = 2, /* implies read */
    HV_PROT_EXEC = 4,  /* implies read */
};

/* The ring-3 register file, in the order of struct kvm_regs, then the two bases. */
struct hv_regs {
    uint64_t rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp;
    uint64_t r8, r9, r10, r11, r12, r13, r14, r15;
    uint64_t rip, rflags;
    uint64_t fs_base, gs_base;
};

/* Why run came back. */
enum hv_exit_kind {
    HV_EXIT_HYPERCALL = 1, /* nr: code; args[0..2] */
    HV_EXIT_SYSCALL,       /* nr: rax; args[0..5]: rdi rsi rdx r10 r8 r9 */
    HV_EXIT_FAULT,         /* fault is filled; the machine can only be destroyed */
    HV_EXIT_KICKED,        /* kick or until_ns; run again to go on */
};

/* What the CPU reported. vector as in the SDM, volume 3, table 6-1 (0 #DE, 6 #UD, 13 #GP, 14 #PF
 * …); HV_VECTOR_DIED where the machine ended without one (triple fault, process killed). */
#define HV_VECTOR_DIED 255

struct hv_fault {
    uint8_t vector;
    uint32_t error_code;
    uint64_t rip;
    uint64_t address; /* CR2, for vector 14 alone */
};

struct hv_exit {
    enum hv_exit_kind kind;
    uint64_t nr;
    uint64_t args[6];
    struct hv_fault fault;
};

struct hv_host_config {
    int kvm_fd;     /* /dev/kvm, or -1; borrowed */
    int nursery_fd; /* socket to the process backend's nursery, or -1; borrowed */
};

/* Parts of a reset that a test may leave out to see the audit find it. 0 in the product. */
enum hv_reset_skip {
    HV_SKIP_MEMORY = 1,
    HV_SKIP_IO = 2, /* what the host wrote into the I/O window */
    HV_SKIP_REGS = 4,
    HV_SKIP_VECTOR = 8, /* the XSAVE area */
};

struct hv_backend {
    const char *name; /* "kvm", "process" */

    /* Whether guest memory stays as it is while the guest does not run. Not so where the guest is a
     * process that can write on when it should be waiting. */
    bool settled;

    /* bind takes only snapshots whose memory is one file, each page at its own address. */
    bool single_file;

    /* Adds what guests are told of the processor by this backend, beside what the processor itself
     * tells. NULL: nothing. */
    void (*features)(struct hv_host *host, struct hv_features *out);

    /* Whether this machine can run it. Returns: 0, or a negative errno with err saying what is
     * missing ("/dev/kvm: Permission denied"). Opens nothing that stays open. */
    int (*probe)(struct hl_error *err);

    int (*host_open)(struct hv_host **out, const struct hv_host_config *config,
                     struct hl_error *err);
    void (*host_close)(struct hv_host *host);

    /* Fills the parts of a snapshot's memory below HL_ABI_IO_ADDR that are the backend's (hypercall
     * page, tables) before the snapshot is sealed. low: host address of guest [0, HL_ABI_IO_ADDR),
     * zeroed at first and idempotent to fill again; prot: one enum hv_prot a page, npages in all,
     * as the guest's permissions will stand. Returns: 0, -ENOMEM when the tables would not fit. */
    int (*populate)(struct hv_host *host, uint8_t *low, const uint8_t *prot, size_t npages,
                    struct hl_error *err);

    /* A shell for snapshots of up to slot_size bytes. */
    int (*machine_new)(struct hv_machine **out, struct hv_host *host, uint64_t slot_size,
                       struct hl_error *err);
    void (*machine_free)(struct hv_machine *m); /* NULL is allowed; bound or not */

    /* Makes m's memory and registers those of snap, whatever was there; m keeps a reference until
     * the next bind or free. */
    int (*bind)(struct hv_machine *m, struct snapshot *snap, struct hl_error *err);

    /* m a shell again, with nothing of its snapshot in memory or registers, and no reference to it.
     * Returns: 0, or a negative errno after which m can only be freed. NULL where machines are not
     * used twice. */
    int (*unbind)(struct hv_machine *m);

    /* Enters the guest until it leaves. Resumes after a HYPERCALL or SYSCALL exit with the value
     * that set_return gave, after KICKED where it was. until_ns: CLOCK_MONOTONIC time at which it
     * comes back KICKED, UINT64_MAX for never; hv_thread_init (hv/timer.h) must have been called on
     * this thread. Returns: 0 with exit filled, or a negative errno after which the machine can
     * only be freed. */
    int (*run)(struct hv_machine *m, uint64_t until_ns, struct hv_exit *exit);

    /* What the guest finds in rax when it goes on from the last HYPERCALL or SYSCALL exit. */
    void (*set_return)(struct hv_machine *m, uint64_t value);

    /* Registers as of the last HYPERCALL exit, with rip and rsp such that running from them returns
     * from that hypercall (set_return's value in rax). */
    int (*get_regs)(struct hv_machine *m, struct hv_regs *regs);

    /* FS base of a bound machine, for arch_prctl. */
    int (*set_fs_base)(struct hv_machine *m, uint64_t base);

    /* From any thread: a run in progress, or the next one, comes back KICKED. */
    void (*kick)(struct hv_machine *m);

    /* Guest memory while the guest is not running; permissions are not looked at, bounds are.
     * mem_read copies; a hostile guest of `process` may still be writing, so what was read is
     * checked in the copy. Returns: 0, -EFAULT past the end. mem_write is the host's own to account
     * for: reset undoes it. */
    int (*mem_read)(struct hv_machine *m, hl_gpa addr, void *buf, size_t len);
    int (*mem_write)(struct hv_machine *m, hl_gpa addr, const void *buf, size_t len);

    /* The I/O window in the host's address space, io_size bytes of the bound snapshot. The host
     * writes only through here to what io_dirty announces. */
    uint8_t *(*io_window)(struct hv_machine *m);
    void (*io_dirty)(struct hv_machine *m, size_t offset, size_t len);

    /* The first len bytes (not 0) of a file for the guest to read, neither to write nor to execute,
     * from addr on: a multiple of HL_ABI_BULK_UNIT in the bulk window, past all that is attached
     * already. Not copied: fd is a memfd that is sealed against writing and shrinking, borrowed for
     * the time of this. What the guest reads behind the file's end on its last page is the file's
     * as well; reading anywhere else in the bulk window is a fault. Ends with reset, rewind,
     * unbind and bind, for the guest; a machine that was reset may keep it mapped, where the next
     * call often wants the same, until relax. Returns: 0; -EINVAL; -EOPNOTSUPP where this kernel
     * has no such thing; -ENOBUFS where there is no room for it in this process; another negative
     * errno. After none of them the machine is of less use. NULL where there is no such thing. */
    int (*attach)(struct hv_machine *m, hl_gpa addr, int fd, uint64_t len);

    /* Gives back what a reset has kept for the next call and no call has come for: files. NULL
     * where nothing is kept. Returns: 0, or a negative errno after which m can only be freed. */
    int (*relax)(struct hv_machine *m);

    /* Page permissions of a bound machine: a call's mprotect. addr and len are page multiples
     * within the guest's own range. A machine whose permissions changed during a call is not reset
     * but replaced (reset returns 1). */
    int (*protect)(struct hv_machine *m, hl_gpa addr, uint64_t len, enum hv_prot prot);

    /* Back to the bound snapshot. skip: enum hv_reset_skip. pages: how many pages were written
     * back. Returns: 0; 1 when this machine cannot be reset and must be freed; a negative errno
     * likewise. */
    int (*reset)(struct hv_machine *m, unsigned int skip, uint64_t *pages);

    /* Memory stays, everything else becomes as after a reset: registers of the bound snapshot,
     * vector registers in their initial state, no kick. Returns: 0; 1 or a negative errno when the
     * machine can only be freed. */
    int (*rewind)(struct hv_machine *m);

    /* Calls written for each page written since the last collect, by the guest or mem_write or
     * io_dirty: once, in any order, with others that were not written if that is cheaper to find
     * out. The first one after bind or reset tells all that differs from the snapshot. Costs what
     * was written where the hypervisor can tell. A machine that was collected from is not reset any
     * more, but bound anew. Returns: 0, or a negative errno after which m can only be freed. NULL
     * where there is no such thing. */
    int (*collect)(struct hv_machine *m, void (*written)(void *opaque, uint64_t page),
                   void *opaque);

    /* Compares the whole memory and register state with the bound snapshot, right after a reset.
     * Returns: 0 when equal; 1 with err naming the first difference. */
    int (*audit)(struct hv_machine *m, struct hl_error *err);

    /* Bare entry and exit of a machine bound to nothing: the time in ns of each of n rounds. For
     * the benchmark's floor. NULL where it has no meaning. */
    int (*measure_entry)(struct hv_host *host, unsigned int n, uint32_t *ns, struct hl_error *err);
};

extern const struct hv_backend hv_backend_kvm;
extern const struct hv_backend hv_backend_process;

/* By name: "kvm", "process", or "auto" (kvm alone today; process is never chosen silently).
 * Returns: NULL with err filled for an unknown name, or for auto when nothing is usable. */
const struct hv_backend *hv_backend_find(const char *name, struct hl_error *err);

#endif
