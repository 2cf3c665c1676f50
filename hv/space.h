/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_HV_SPACE_H
#define HL_HV_SPACE_H

/*
 * The memory of a running guest as its C library manages it: heap, anonymous mappings, permissions.
 * Bookkeeping over one machine; what it changes in the machine are permissions, and zeroes in pages
 * that are handed out again.
 */

#include <stdbool.h>

#include "hv/backend.h"
#include "hv/snapshot.h"

/* In the copy of the permissions: the page was writable once. */
#define SPACE_WAS_WRITABLE 0x80

struct space {
    const struct hv_backend *hv;
    struct hv_machine *machine;
    struct snapshot *snap; /* borrowed */
    hl_gpa brk, brk_high;
    uint8_t *prot;                /* NULL: the snapshot's */
    uint64_t *used, *stale;       /* NULL: the snapshot's, none; one allocation */
    uint64_t changes;             /* of the arrays above since bind or reset, or more */
    hl_gpa settle_at, settle_end; /* stale pages in here must be zeroed before the guest goes on */
};

/* The machine is bound to snap, and was just bound or reset. */
void space_init(struct space *s, const struct hv_backend *hv, struct hv_machine *machine,
                struct snapshot *snap);
void space_reset(struct space *s);
void space_fini(struct space *s);

/* Zeroes what has to be before the guest goes on. Returns: 0; 1 when until_ns came first and it
 * must be called again; a negative errno when the machine failed. */
int space_settle(struct space *s, uint64_t until_ns);

/* Whether the guest itself may read (write: write) all of [addr, addr + len). */
bool space_allows(const struct space *s, hl_gpa addr, uint64_t len, bool write);

/* System calls: arguments as the guest gave them; results as Linux returns them. -EIO: the machine
 * failed. */
int64_t space_brk(struct space *s, uint64_t addr);
int64_t space_mmap(struct space *s, uint64_t addr, uint64_t len, uint64_t prot, uint64_t flags);
int64_t space_munmap(struct space *s, uint64_t addr, uint64_t len);
int64_t space_mprotect(struct space *s, uint64_t addr, uint64_t len, uint64_t prot);
int64_t space_madvise(struct space *s, uint64_t addr, uint64_t len, uint64_t advice);

/* The books as bytes, for hv/checkpoint.c: permissions, mappings, stale pages. */
enum space_book {
    SPACE_BOOK_PROT,
    SPACE_BOOK_USED,
    SPACE_BOOK_STALE,
    SPACE_BOOKS,
};

struct space_marks {
    hl_gpa brk, brk_high;
};

/* first: as they were when the machine was bound. Returns: *size bytes, or NULL for so many zeros.
 */
const uint8_t *space_book(const struct space *s, unsigned int book, bool first, size_t *size);
struct space_marks space_marks(const struct space *s);
struct space_marks space_first_marks(const struct space *s);

/* Makes books and the machine's permissions these: of this snapshot, between calls. Returns: 0, or
 * a negative errno after which the machine can only be freed. */
int space_restore(struct space *s, uint8_t *const books[SPACE_BOOKS]);
void space_set_marks(struct space *s, const struct space_marks *marks); /* likewise */

const uint8_t *space_prot(const struct space *s);  /* one a page, maybe with SPACE_WAS_WRITABLE */
const uint64_t *space_used(const struct space *s); /* anonymous mappings, one bit a page */

#endif
