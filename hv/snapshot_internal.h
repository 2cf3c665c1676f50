/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_HV_SNAPSHOT_INTERNAL_H
#define HL_HV_SNAPSHOT_INTERNAL_H

/*
 * How a snapshot comes to be: a draft is a writable memory file with permissions and registers,
 * which hv/boot.c fills from an ELF file and hv/build.c from a machine; sealing turns it into the
 * immutable object of hv/snapshot.h. For hv/ and its tests alone.
 */

#include <stdatomic.h>

#include "hv/snapshot.h"
#include "hv/snapshot_file.h"

#define HV_MEMORY_MAX (1ull << 30)

/* Past this number the extents are merged over wider gaps: each costs a bind one mmap. */
#define SNAPSHOT_EXTENTS_MAX 32

/* Of the low part, where that is a file of its own: tables, and the pages below the window. */
#define SNAPSHOT_LOW_EXTENTS_MAX 4

struct snapshot {
    atomic_uint refs;
    int memfd;
    int low_fd; /* what is below HL_ABI_IO_ADDR, where that is not in memfd; or -1 */
    uint64_t size, io_size, resident;
    uint8_t *memory;
    size_t npages;
    uint8_t *prot;
    struct snapshot_extent *extents;
    size_t nextents;
    struct hv_regs regs;
    struct linux_state linux_state;
    uint64_t ready_ns; /* the guest's monotonic clock when it was taken */
    uint64_t *used;    /* anonymous mappings, bit n of word n / 64: page n */
    uint64_t *hot;
    uint64_t clock_ahead;
    struct snapshot *root; /* whose pages stand where this one has none of its own; or NULL */
};

struct snapshot_draft {
    int memfd;
    uint64_t size, io_size;
    uint8_t *memory; /* writable, shared with memfd: only pages meant to be kept are touched */
    size_t npages;
    uint8_t *prot;  /* enum hv_prot a page, NONE at first */
    uint64_t *used; /* as above, room for every page */
    struct hv_regs regs;
    struct linux_state linux_state;
};

#define SNAPSHOT_DRAFT_INIT                                                                        \
    {                                                                                              \
        .memfd = -1                                                                                \
    }

/* size and io_size: page multiples that the caller has checked. Returns: 0, -ENOMEM, -EMFILE. */
int snapshot_draft_init(struct snapshot_draft *draft, uint64_t size, uint64_t io_size,
                        struct hl_error *err);
void snapshot_draft_fini(struct snapshot_draft *draft);

/* Takes what draft holds, on success and on failure. */
int snapshot_draft_seal(struct snapshot **out, struct snapshot_draft *draft, struct hl_error *err);

/* What a loaded snapshot consists of besides its low part. */
struct snapshot_parts {
    int fd; /* sealed already; taken, on success and on failure */
    uint64_t size, io_size;
    const struct hv_regs *regs;
    const struct linux_state *linux_state;
    uint64_t ready_ns;
    uint8_t **prot;                                       /* taken on success */
    uint64_t **used;                                      /* likewise */
    struct snapshot_extent extents[SNAPSHOT_EXTENTS_MAX]; /* in fd, above HL_ABI_IO_ADDR */
    size_t nextents;
    struct snapshot *root; /* NULL, or what the extents lie over; it is referred to */
};

/* A snapshot of a low part, HL_ABI_IO_ADDR bytes of draft, which is taken, and the rest in a file
 * that is used as it is. */
int snapshot_join(struct snapshot **out, struct snapshot_draft *low, struct snapshot_parts *parts,
                  struct hl_error *err);

/* What a file is written from. */
struct snapshot_source {
    uint64_t size, io_size, ready_ns;
    struct hv_regs regs;
    struct linux_state linux_state;
    const uint8_t *prot;
    const uint64_t *used;
    size_t npages;
    const struct snapshot_extent *extents; /* in order */
    size_t nextents;
    const uint8_t *(*page)(void *opaque, uint64_t page); /* of an extent: its bytes */
    void *opaque;
};

/* As snapshot_file_write. */
int snapshot_source_write(int *fd, uint64_t *size, const struct snapshot_source *source,
                          const struct hv_backend *hv, const struct snapshot_key *key,
                          struct hl_error *err);

/* snap was taken when its guest's monotonic clock stood at ready_ns, on whatever machine. */
void snapshot_set_clock(struct snapshot *snap, uint64_t ready_ns);

/* Whether a page of HL_ABI_PAGE_SIZE bytes, 8-aligned, holds zeros alone. */
bool snapshot_page_is_zero(const uint8_t *page);

/* Where img's program, heap, mappings and stack stand; brk is where the heap begins. Checks the
 * sizes of options too. Returns: 0, -EINVAL, -ENOEXEC, -ENOMEM with the reason. */
int snapshot_place(struct linux_state *at, const struct image *img,
                   const struct snapshot_options *options, struct hl_error *err);

/* The info page. memory: host address of guest address 0. */
void snapshot_write_info(uint8_t *memory, const struct hv_backend *hv,
                         const struct snapshot_options *options);

/* img laid out in memory with its first stack, before its first instruction. */
int snapshot_load(struct snapshot **out, const struct hv_backend *hv, struct hv_host *host,
                  const struct image *img, const struct snapshot_options *options,
                  struct hl_error *err);

#endif
