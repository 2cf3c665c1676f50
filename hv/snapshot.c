/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The snapshot object. Its memory file has blocks for pages that are not zero, and nothing else:
 * ranges of such pages are the extents, joined over small gaps because each extent is one mmap of
 * every bind. Reading a hole of a memory file through a mapping would allocate its page, so the
 * host's own view lays the extents over anonymous zero pages, as the backends do.
 *
 * A snapshot that came as a file is two: the file, used where it stands, and the low part, which
 * was made here. An extent says which of them it is in and where.
 *
 * The file is sealed before anybody else sees it. After that nothing here changes but the
 * reference count and the hot bits, which are a hint.
 */
#include "config.h"

#include "hv/snapshot_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "guest/hl_abi.h"
#include "hv/timer.h"

#define PAGE HL_ABI_PAGE_SIZE

/* Gaps up to this many pages are kept inside an extent. */
#define GAP_PAGES 16

int snapshot_draft_init(struct snapshot_draft *draft, uint64_t size, uint64_t io_size,
                        struct hl_error *err)
{
    struct snapshot_draft fresh = SNAPSHOT_DRAFT_INIT;
    void *memory;

    *draft = fresh;
    draft->size = size;
    draft->io_size = io_size;
    draft->npages = size / PAGE;
    draft->prot = calloc(draft->npages, 1);
    draft->used = calloc(draft->npages / 64 + 1, sizeof(uint64_t));
    if (!draft->prot || !draft->used) {
        snapshot_draft_fini(draft);
        return hl_error_set(err, -ENOMEM, "no memory for a snapshot of %zu pages", draft->npages);
    }
    draft->memfd = memfd_create("hld-snapshot", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (draft->memfd < 0 || ftruncate(draft->memfd, (off_t)size) < 0) {
        int code = -errno;

        snapshot_draft_fini(draft);
        return hl_error_wrap(err, code, "memory file for a snapshot");
    }
    memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, draft->memfd, 0);
    if (memory == MAP_FAILED) {
        int code = -errno;

        snapshot_draft_fini(draft);
        return hl_error_wrap(err, code, "mapping a snapshot");
    }
    draft->memory = memory;
    return 0;
}

void snapshot_draft_fini(struct snapshot_draft *draft)
{
    struct snapshot_draft empty = SNAPSHOT_DRAFT_INIT;

    if (draft->memory)
        munmap(draft->memory, draft->size);
    if (draft->memfd >= 0)
        close(draft->memfd);
    free(draft->prot);
    free(draft->used);
    *draft = empty;
}

bool snapshot_page_is_zero(const uint8_t *page)
{
    const uint64_t *words = (const uint64_t *)(const void *)page;

    for (size_t i = 0; i < PAGE / sizeof(*words); i += 8) {
        if (words[i] | words[i + 1] | words[i + 2] | words[i + 3] | words[i + 4] | words[i + 5] |
            words[i + 6] | words[i + 7])
            return false;
    }
    return true;
}

/* One bit a page: those that are not zero. Holes are asked for, not read. */
static int find_pages(const struct snapshot_draft *draft, uint64_t *bits)
{
    off_t at = 0;

    while (at < (off_t)draft->size) {
        off_t start = lseek(draft->memfd, at, SEEK_DATA);
        off_t end;

        if (start < 0)
            return errno == ENXIO ? 0 : -errno;
        end = lseek(draft->memfd, start, SEEK_HOLE);
        if (end < 0)
            return -errno;
        for (off_t page = start / PAGE; page < (end + PAGE - 1) / PAGE; page++) {
            if (!snapshot_page_is_zero(draft->memory + page * PAGE))
                bits[page / 64] |= 1ull << (page % 64);
        }
        at = end;
    }
    return 0;
}

/* Extents of the set bits, joined over gaps of up to `gap` pages. Returns: how many there are;
 * out (if not NULL) gets them. */
static size_t make_extents(const uint64_t *bits, size_t npages, size_t gap,
                           struct snapshot_extent *out)
{
    size_t count = 0, last = 0;

    for (size_t page = 0; page < npages; page++) {
        if (bits[page / 64] == 0) {
            page |= 63;
            continue;
        }
        if (!(bits[page / 64] >> (page % 64) & 1))
            continue;
        if (count == 0 || page - last > gap + 1) {
            if (out)
                out[count].start = (hl_gpa)page * PAGE;
            count++;
        }
        if (out)
            out[count - 1].len = (uint64_t)(page + 1) * PAGE - out[count - 1].start;
        last = page;
    }
    return count;
}

/* Appends those of draft, at most max of them. */
static int add_extents(struct snapshot *snap, const struct snapshot_draft *draft, size_t max)
{
    struct snapshot_extent *out = snap->extents + snap->nextents;
    _cleanup_free_ uint64_t *bits = calloc(draft->npages / 64 + 1, sizeof(*bits));
    size_t gap = GAP_PAGES, count;
    uint64_t end = 0;
    int rc;

    if (!bits)
        return -ENOMEM;
    rc = find_pages(draft, bits);
    if (rc < 0)
        return rc;
    while (make_extents(bits, draft->npages, gap, NULL) > max)
        gap *= 2;
    count = make_extents(bits, draft->npages, gap, out);
    for (size_t i = 0; i <= count; i++) {
        uint64_t start = i < count ? out[i].start : draft->size;

        /* Zero pages between extents that were written all the same give their blocks back. */
        if (start > end && fallocate(draft->memfd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                     (off_t)end, (off_t)(start - end)) < 0)
            return -errno;
        if (i < count) {
            end = start + out[i].len;
            out[i].offset = start;
            out[i].fd = draft->memfd;
            snap->resident += out[i].len;
        }
    }
    snap->nextents += count;
    return 0;
}

static int map_for_host(struct snapshot *snap)
{
    void *memory =
        mmap(NULL, snap->size, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (memory == MAP_FAILED)
        return -errno;
    snap->memory = memory;
    for (size_t i = 0; i < snap->nextents; i++) {
        const struct snapshot_extent *extent = &snap->extents[i];

        if (mmap(snap->memory + extent->start, extent->len, PROT_READ, MAP_PRIVATE | MAP_FIXED,
                 extent->fd, (off_t)extent->offset) == MAP_FAILED)
            return -errno;
    }
    return 0;
}

/* Every call writes to the stack where it stands, and to the page below before long, and finds its
 * arguments at the beginning of the window. */
static void hint_first_call(struct snapshot *snap)
{
    uint64_t stack = snap->regs.rsp / PAGE, window = HL_ABI_IO_ADDR / PAGE;

    if (stack > window && stack < snap->npages) {
        snap->hot[stack / 64] |= 1ull << (stack % 64);
        stack--;
        snap->hot[stack / 64] |= 1ull << (stack % 64);
    }
    if (window < snap->npages)
        snap->hot[window / 64] |= 1ull << (window % 64);
}

static struct snapshot *new_snapshot(uint64_t size, uint64_t io_size, const struct hv_regs *regs,
                                     const struct linux_state *linux_state)
{
    struct snapshot *snap = calloc(1, sizeof(*snap));

    if (!snap)
        return NULL;
    atomic_init(&snap->refs, 1);
    snap->memfd = snap->low_fd = -1;
    snap->size = size;
    snap->io_size = io_size;
    snap->npages = size / PAGE;
    snap->regs = *regs;
    snap->linux_state = *linux_state;
    snap->extents =
        calloc(2 * SNAPSHOT_EXTENTS_MAX + 2 * SNAPSHOT_LOW_EXTENTS_MAX, sizeof(*snap->extents));
    snap->hot = calloc(snap->npages / 64 + 1, sizeof(*snap->hot));
    if (!snap->extents || !snap->hot) {
        snapshot_unref(snap);
        return NULL;
    }
    hint_first_call(snap);
    return snap;
}

/* Finds the extents and seals the file, which becomes *fd. */
static int seal(struct snapshot *snap, struct snapshot_draft *draft, size_t max, int *fd)
{
    int rc = add_extents(snap, draft, max);

    if (rc < 0)
        return rc;
    munmap(draft->memory, draft->size);
    draft->memory = NULL;
    if (fcntl(draft->memfd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) <
        0)
        return -errno;
    *fd = hl_steal_fd(&draft->memfd);
    return 0;
}

int snapshot_draft_seal(struct snapshot **out, struct snapshot_draft *draft, struct hl_error *err)
{
    struct snapshot *snap =
        new_snapshot(draft->size, draft->io_size, &draft->regs, &draft->linux_state);
    int rc = snap ? seal(snap, draft, SNAPSHOT_EXTENTS_MAX, &snap->memfd) : -ENOMEM;

    *out = NULL;
    if (rc == 0) {
        snap->prot = HL_STEAL(draft->prot);
        snap->used = HL_STEAL(draft->used);
        snap->ready_ns = hv_now_ns();
        rc = map_for_host(snap);
    }
    snapshot_draft_fini(draft);
    if (rc < 0) {
        snapshot_unref(snap);
        return hl_error_wrap(err, rc, "sealing a snapshot");
    }
    *out = snap;
    return 0;
}

/* Its extents, without those of the machine's own. Ours follow and are mapped over them. */
static void add_root(struct snapshot *snap, struct snapshot *root)
{
    snap->root = snapshot_ref(root);
    for (size_t i = 0; i < root->nextents; i++) {
        if (root->extents[i].start >= HL_ABI_IO_ADDR)
            snap->extents[snap->nextents++] = root->extents[i];
    }
}

int snapshot_join(struct snapshot **out, struct snapshot_draft *low, struct snapshot_parts *parts,
                  struct hl_error *err)
{
    struct snapshot *snap =
        new_snapshot(parts->size, parts->io_size, parts->regs, parts->linux_state);
    _cleanup_close_ int fd = parts->fd;
    int rc = snap ? seal(snap, low, SNAPSHOT_LOW_EXTENTS_MAX, &snap->low_fd) : -ENOMEM;

    *out = NULL;
    if (rc == 0) {
        snap->memfd = hl_steal_fd(&fd);
        snap->prot = HL_STEAL(*parts->prot);
        snap->used = HL_STEAL(*parts->used);
        snapshot_set_clock(snap, parts->ready_ns);
        if (parts->root)
            add_root(snap, parts->root);
        for (size_t i = 0; i < parts->nextents; i++) {
            snap->extents[snap->nextents++] = parts->extents[i];
            snap->resident += parts->extents[i].len;
        }
        rc = map_for_host(snap);
    }
    snapshot_draft_fini(low);
    if (rc < 0) {
        snapshot_unref(snap);
        return hl_error_wrap(err, rc, "joining a snapshot");
    }
    *out = snap;
    return 0;
}

void snapshot_set_clock(struct snapshot *snap, uint64_t ready_ns)
{
    uint64_t now = hv_now_ns();

    snap->ready_ns = ready_ns;
    snap->clock_ahead = ready_ns > now ? ready_ns - now : 0;
}

uint64_t snapshot_clock_ahead(const struct snapshot *snap)
{
    return snap->clock_ahead;
}

struct snapshot *snapshot_ref(struct snapshot *snap)
{
    atomic_fetch_add_explicit(&snap->refs, 1, memory_order_relaxed);
    return snap;
}

void snapshot_unref(struct snapshot *snap)
{
    if (!snap || atomic_fetch_sub_explicit(&snap->refs, 1, memory_order_acq_rel) != 1)
        return;
    if (snap->memory)
        munmap(snap->memory, snap->size);
    if (snap->memfd >= 0)
        close(snap->memfd);
    if (snap->low_fd >= 0)
        close(snap->low_fd);
    free(snap->prot);
    free(snap->used);
    free(snap->extents);
    free(snap->hot);
    snapshot_unref(snap->root);
    free(snap);
}

struct snapshot *snapshot_root(const struct snapshot *snap)
{
    return snap->root;
}

bool snapshot_is_shared(const struct snapshot *snap)
{
    return atomic_load_explicit(&snap->refs, memory_order_acquire) > 1;
}

int snapshot_memfd(const struct snapshot *snap)
{
    return snap->memfd;
}

uint64_t snapshot_size(const struct snapshot *snap)
{
    return snap->size;
}

uint64_t snapshot_io_size(const struct snapshot *snap)
{
    return snap->io_size;
}

uint64_t snapshot_resident(const struct snapshot *snap)
{
    return snap->resident;
}

const uint8_t *snapshot_memory(const struct snapshot *snap)
{
    return snap->memory;
}

const uint8_t *snapshot_prot(const struct snapshot *snap, size_t *npages)
{
    if (npages)
        *npages = snap->npages;
    return snap->prot;
}

const struct snapshot_extent *snapshot_extents(const struct snapshot *snap, size_t *count)
{
    *count = snap->nextents;
    return snap->extents;
}

const struct hv_regs *snapshot_regs(const struct snapshot *snap)
{
    return &snap->regs;
}

const struct linux_state *snapshot_linux(const struct snapshot *snap)
{
    return &snap->linux_state;
}

uint64_t *snapshot_hot(struct snapshot *snap)
{
    return snap->hot;
}
