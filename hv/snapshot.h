/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_HV_SNAPSHOT_H
#define HL_HV_SNAPSHOT_H

/*
 * A snapshot: memory, page permissions and registers of an image at its ready point. The memory is
 * in sealed memory files (write, shrink, grow) and only as far as it is not zero; the rest of the
 * object is immutable too, so threads share one by reference count and no lock. One that was built
 * here has one such file, with each page at its own address; one that was loaded may have two
 * (hv/snapshot_file.h).
 *
 * The program as loaded from its ELF file, before its first instruction, is a snapshot as well
 * (snapshot_load); running that one up to its READY gives the one that calls start from.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "hv/backend.h"
#include "hv/image.h"
#include "hv/world.h"

struct snapshot;

/* A range of guest memory whose bytes stand in a memory file. */
struct snapshot_extent {
    hl_gpa start;
    uint64_t len;    /* page multiples */
    uint64_t offset; /* in the file, a page multiple */
    int fd;          /* the snapshot's */
};

struct snapshot_options {
    uint64_t memory_size; /* bytes, a page multiple */
    uint64_t io_size;     /* bytes of I/O window, a page multiple */
    uint64_t deadline_ns; /* CLOCK_MONOTONIC: initialisation must be over by then */
    const char *name;     /* argv[0] */
    void (*log)(void *opaque, int level, const char *text, size_t len); /* may be NULL */
    void *opaque;
    const uint8_t *deterministic; /* HV_SEED_SIZE bytes: made-up time and randomness (hv/world.h),
                                     AT_RANDOM included; NULL: the true ones */
};

/* Where things stand in guest memory, for the Linux subset (hv/space.c). Page multiples, but brk.
 */
struct linux_state {
    hl_gpa program_start;  /* first page of the program */
    uint64_t bias;         /* what loading added to the file's addresses */
    hl_gpa brk_start, brk; /* heap: grows up from the page after the program */
    hl_gpa map_top;        /* anonymous mappings grow down from here; above it a closed page */
    hl_gpa stack_start;    /* the stack: from here to the end of memory */
};

/* Loads img, runs its start-up on a machine of its own and takes the snapshot at READY. May take
 * milliseconds and runs untrusted code until options->deadline_ns: not for a thread that must not
 * wait. Returns: 0; -ETIMEDOUT; -EFAULT with the fault told; -ENOMEM when memory_size does not hold
 * the program; -ECANCELED when the guest aborted its initialisation, with its text. */
int snapshot_build(struct snapshot **out, const struct hv_backend *hv, struct hv_host *host,
                   const struct image *img, const struct snapshot_options *options,
                   struct hl_error *err);

/* What it lies over, or NULL: the snapshot that it shares pages with (hv/snapshot_file.h). */
struct snapshot *snapshot_root(const struct snapshot *snap);

/* Whether there are other references than the caller's. */
bool snapshot_is_shared(const struct snapshot *snap);

struct snapshot *snapshot_ref(struct snapshot *snap); /* any thread */
void snapshot_unref(struct snapshot *snap);           /* any thread; NULL is allowed */

/* The file that holds the program's memory; the only one where the backend asked for that. */
int snapshot_memfd(const struct snapshot *snap);
uint64_t snapshot_size(const struct snapshot *snap); /* of guest memory */
uint64_t snapshot_io_size(const struct snapshot *snap);
uint64_t snapshot_resident(const struct snapshot *snap);     /* bytes in extents */
const uint8_t *snapshot_memory(const struct snapshot *snap); /* read-only mapping, zero pages too */
const uint8_t *snapshot_prot(const struct snapshot *snap, size_t *npages); /* enum hv_prot a page */
const struct snapshot_extent *snapshot_extents(const struct snapshot *snap, size_t *count);
const struct hv_regs *snapshot_regs(const struct snapshot *snap);
const struct linux_state *snapshot_linux(const struct snapshot *snap);

/* What its guests' monotonic clock is ahead of this machine's: never less than it was at READY,
 * which may have been before a restart of the machine. */
uint64_t snapshot_clock_ahead(const struct snapshot *snap);

/* Pages that calls of this snapshot were seen to write, one bit a page (bit n of word n / 64),
 * shared by all its instances: read and set with relaxed atomics. A hint for bind, never for
 * correctness. */
uint64_t *snapshot_hot(struct snapshot *snap);

#endif
