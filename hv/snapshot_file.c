/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whoever wrote the file may have wanted to break out of the machine that is made of it. So a file
 * is held to what a hostile program could have brought about by running, no more:
 *
 * - The header and its tables are copied once; the copy is checked and used. The pages behind them
 *   are guest memory, which may hold anything.
 * - Where program, heap, mappings and stack stand is computed from the program as the loader
 *   computes it, and the file must say the same. It decides one thing, where the heap ends.
 * - Permissions: below the program they are the loader's; above it never writable and executable;
 *   memory that is not handed out is readable and writable, as hv/space.c counts on.
 * - No page comes from the file below the program, so the window starts as zeros and the machine's
 *   own pages are the backend's.
 * - Registers are those that ring 3 can set, with a place to go on that it may execute.
 *
 * One thing a guest could not bring about by itself: a snapshot outlives the machine's uptime. So
 * the file says how late it was for the guest, and its monotonic clock goes on from there.
 *
 * The writer runs the same check, so that what could not be loaded is never stored.
 *
 * Where the backend can, the pages are used in place: the file is one of the snapshot's memory
 * files, and workers that hold the same file share its memory. The low part is a small file of the
 * snapshot's own.
 */
#include "config.h"

#include "hv/snapshot_file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "guest/hl_abi.h"
#include "hv/snapshot_internal.h"
#include "hv/snapshot_layout.h"

#define PAGE  ((uint64_t)HL_ABI_PAGE_SIZE)
#define SEALS (F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW)

/* CF PF AF ZF SF DF OF AC ID: what ring 3 can set, without the trap flag; IF and bit 1 always. */
#define RFLAGS_FREE  0x240cd5u
#define RFLAGS_FIXED 0x202u

/* A clock that far ahead is nobody's, and nothing overflows on the way there: 146 years. */
#define CLOCK_END (1ull << 62)

/* Bases of user segments that are canonical and no kernel's. */
#define BASE_END (1ull << 47)

/* Header and tables, the tables at their largest. */
struct file_head {
    struct snapshot_file_header header;
    struct snapshot_file_extent extents[SNAPSHOT_EXTENTS_MAX];
    struct snapshot_file_run prot[SNAPSHOT_FILE_RUNS_MAX], used[SNAPSHOT_FILE_RUNS_MAX];
};

/* What the tables say, page by page. */
struct pages {
    uint8_t *prot;
    uint64_t *used;
    size_t npages;
};

static void pages_fini(struct pages *pages)
{
    free(pages->prot);
    free(pages->used);
}

void snapshot_host_features(struct hv_features *out, const struct hv_backend *hv,
                            struct hv_host *host)
{
    hv_features_read(out);
    if (hv->features)
        hv->features(host, out);
}

static void set_text(char *to, size_t size, const char *text)
{
    memcpy(to, text, strnlen(text, size - 1));
}

static void fill_identity(struct snapshot_file_header *header, const struct hv_backend *hv,
                          const struct snapshot_key *key)
{
    memset(header, 0, sizeof(*header));
    memcpy(header->magic, SNAPSHOT_FILE_MAGIC, sizeof(SNAPSHOT_FILE_MAGIC));
    header->format = SNAPSHOT_FILE_FORMAT;
    header->abi = HL_ABI_VERSION;
    set_text(header->version, sizeof(header->version), key->version);
    set_text(header->backend, sizeof(header->backend), hv->name);
    set_text(header->name, sizeof(header->name), key->name);
    memcpy(header->program, key->program, sizeof(header->program));
    memcpy(header->host, key->host, sizeof(header->host));
}

static uint64_t tables_size(const struct snapshot_file_header *header)
{
    return header->nextents * sizeof(struct snapshot_file_extent) +
           ((uint64_t)header->nprot + header->nused) * sizeof(struct snapshot_file_run);
}

/* --- the check ------------------------------------------------------------------------------- */

static int broken(struct hl_error *err, const char *what)
{
    return hl_error_set(err, -EBADMSG, "snapshot: %s", what);
}

static bool is_used(const struct pages *pages, uint64_t page)
{
    return pages->used[page / 64] >> (page % 64) & 1;
}

static bool same_places(const struct linux_state *a, const struct linux_state *b)
{
    return a->program_start == b->program_start && a->bias == b->bias &&
           a->brk_start == b->brk_start && a->map_top == b->map_top &&
           a->stack_start == b->stack_start;
}

/* What a page of the guest's may be, given where it stands. */
static bool page_ok(const struct snapshot_file_header *header, const struct pages *pages,
                    uint64_t page, uint64_t heap_end)
{
    const struct linux_state *at = &header->linux_state;
    hl_gpa addr = page * PAGE;
    uint8_t prot = pages->prot[page];
    bool used = is_used(pages, page);

    if (used && (addr < heap_end || addr >= at->map_top))
        return false;
    if (addr == HL_ABI_HYPERCALL_ADDR)
        return prot == (HV_PROT_READ | HV_PROT_EXEC);
    if (addr == HL_ABI_INFO_ADDR)
        return prot == HV_PROT_READ;
    if (addr >= HL_ABI_IO_ADDR && addr < HL_ABI_IO_ADDR + header->io_size)
        return prot == (HV_PROT_READ | HV_PROT_WRITE);
    if (addr < at->program_start || (addr >= at->map_top && addr < at->stack_start))
        return prot == HV_PROT_NONE;
    if (addr >= heap_end && addr < at->map_top && !used)
        return prot == (HV_PROT_READ | HV_PROT_WRITE);
    return prot == HV_PROT_NONE || prot == HV_PROT_READ || prot == (HV_PROT_READ | HV_PROT_WRITE) ||
           prot == (HV_PROT_READ | HV_PROT_EXEC);
}

static int check_pages(const struct snapshot_file_header *header, const struct pages *pages,
                       struct hl_error *err)
{
    uint64_t heap_end = (header->linux_state.brk + PAGE - 1) & ~(PAGE - 1);

    for (uint64_t page = 0; page < pages->npages; page++) {
        if (!page_ok(header, pages, page, heap_end))
            return hl_error_set(err, -EBADMSG,
                                "snapshot: page %#" PRIx64 " may not be as it is there", page);
    }
    return 0;
}

static int check_registers(const struct snapshot_file_header *header, const struct pages *pages,
                           struct hl_error *err)
{
    const struct hv_regs *regs = &header->regs;

    if (regs->rip >= header->memory_size || !(pages->prot[regs->rip / PAGE] & HV_PROT_EXEC))
        return broken(err, "it goes on at an address that is not executable");
    if ((regs->rflags & ~(uint64_t)RFLAGS_FREE) != RFLAGS_FIXED)
        return broken(err, "flags that a guest cannot set");
    if (regs->fs_base >= BASE_END || regs->gs_base >= BASE_END)
        return broken(err, "a segment's base that is no user's");
    if (header->ready_ns >= CLOCK_END)
        return broken(err, "it was taken at a time that is none");
    return 0;
}

static int check_extents(const struct file_head *head, uint64_t file_size, struct hl_error *err)
{
    const struct snapshot_file_header *header = &head->header;
    uint64_t at = header->linux_state.program_start, data = header->data_offset;

    for (uint32_t i = 0; i < header->nextents; i++) {
        const struct snapshot_file_extent *extent = &head->extents[i];

        if (extent->start % PAGE || extent->len % PAGE || extent->len == 0 || extent->start < at ||
            extent->start >= header->memory_size ||
            extent->len > header->memory_size - extent->start)
            return broken(err, "its ranges of memory are out of order or out of bounds");
        at = extent->start + extent->len;
        data += extent->len; /* at most memory_size in all */
    }
    return data == file_size ? 0 : broken(err, "its size is not that of its pages");
}

/* All of it but the identity, which has been compared. file_size: what there is. */
static int check(const struct file_head *head, const struct pages *pages,
                 const struct linux_state *expected, uint64_t file_size, struct hl_error *err)
{
    const struct linux_state *at = &head->header.linux_state;
    int rc;

    if (!same_places(at, expected) || at->brk < at->brk_start || at->brk > at->map_top)
        return broken(err, "its memory is laid out in another way");
    rc = check_extents(head, file_size, err);
    if (rc == 0)
        rc = check_pages(&head->header, pages, err);
    if (rc == 0)
        rc = check_registers(&head->header, pages, err);
    return rc;
}

/* --- writing --------------------------------------------------------------------------------- */

static bool add_run(struct snapshot_file_run *runs, uint32_t *count, uint32_t value)
{
    if (*count > 0 && runs[*count - 1].value == value) {
        runs[*count - 1].pages++;
        return true;
    }
    if (*count == SNAPSHOT_FILE_RUNS_MAX)
        return false;
    runs[(*count)++] = (struct snapshot_file_run){.pages = 1, .value = value};
    return true;
}

/* Fills everything but data_offset. Returns: 0, -EOPNOTSUPP. */
static int describe(struct file_head *head, const struct snapshot_source *snap,
                    struct hl_error *err)
{
    struct snapshot_file_header *header = &head->header;
    const struct linux_state *at = &snap->linux_state;
    const struct pages pages = {(uint8_t *)snap->prot, (uint64_t *)snap->used, snap->npages};

    header->memory_size = snap->size;
    header->io_size = snap->io_size;
    header->regs = snap->regs;
    header->regs.rflags = (header->regs.rflags & RFLAGS_FREE) | RFLAGS_FIXED;
    header->linux_state = *at;
    header->ready_ns = snap->ready_ns;
    for (size_t page = 0; page < snap->npages; page++) {
        if (!add_run(head->prot, &header->nprot, snap->prot[page]) ||
            !add_run(head->used, &header->nused, is_used(&pages, page)))
            return hl_error_set(err, -EOPNOTSUPP,
                                "snapshot: permissions or mappings change more than %u times",
                                SNAPSHOT_FILE_RUNS_MAX);
    }
    for (size_t i = 0; i < snap->nextents; i++) {
        uint64_t start = snap->extents[i].start, end = start + snap->extents[i].len;

        if (start < at->program_start)
            start = at->program_start;
        if (start >= end)
            continue;
        if (header->nextents == SNAPSHOT_EXTENTS_MAX)
            return hl_error_set(err, -EOPNOTSUPP, "snapshot: more than %d ranges of memory",
                                SNAPSHOT_EXTENTS_MAX);
        head->extents[header->nextents++] = (struct snapshot_file_extent){start, end - start};
    }
    return 0;
}

static int write_at(int fd, const void *data, size_t len, uint64_t at)
{
    const char *p = data;

    while (len > 0) {
        ssize_t n = pwrite(fd, p, len, (off_t)at);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -EIO;
        p += n;
        at += (uint64_t)n;
        len -= (size_t)n;
    }
    return 0;
}

static int write_pages(int fd, const struct snapshot_source *source,
                       const struct snapshot_file_extent *extent, uint64_t at)
{
    int rc = 0;

    for (uint64_t done = 0; rc == 0 && done < extent->len; done += PAGE)
        rc = write_at(fd, source->page(source->opaque, (extent->start + done) / PAGE), PAGE,
                      at + done);
    return rc;
}

static int write_all(int fd, const struct file_head *head, const struct snapshot_source *source)
{
    const struct snapshot_file_header *header = &head->header;
    uint64_t at = sizeof(*header), data = header->data_offset;
    size_t extents = header->nextents * sizeof(head->extents[0]);
    size_t prot = header->nprot * sizeof(head->prot[0]);
    int rc = write_at(fd, header, sizeof(*header), 0);

    if (rc == 0)
        rc = write_at(fd, head->extents, extents, at);
    if (rc == 0)
        rc = write_at(fd, head->prot, prot, at + extents);
    if (rc == 0)
        rc = write_at(fd, head->used, header->nused * sizeof(head->used[0]), at + extents + prot);
    for (uint32_t i = 0; rc == 0 && i < header->nextents; i++) {
        rc = write_pages(fd, source, &head->extents[i], data);
        data += head->extents[i].len;
    }
    if (rc == 0 && data == header->data_offset) /* no pages at all: the padding is a hole */
        rc = ftruncate(fd, (off_t)data) < 0 ? -errno : 0;
    return rc;
}

int snapshot_source_write(int *fd, uint64_t *size, const struct snapshot_source *snap,
                          const struct hv_backend *hv, const struct snapshot_key *key,
                          struct hl_error *err)
{
    _cleanup_free_ struct file_head *head = calloc(1, sizeof(*head));
    const struct pages pages = {(uint8_t *)snap->prot, (uint64_t *)snap->used, snap->npages};
    _cleanup_close_ int made = -1;
    uint64_t total;
    int rc;

    if (!head)
        return -ENOMEM;
    fill_identity(&head->header, hv, key);
    rc = describe(head, snap, err);
    if (rc < 0)
        return rc;
    head->header.data_offset =
        (sizeof(head->header) + tables_size(&head->header) + PAGE - 1) & ~(PAGE - 1);
    total = head->header.data_offset;
    for (uint32_t i = 0; i < head->header.nextents; i++)
        total += head->extents[i].len;
    if (check(head, &pages, &snap->linux_state, total, err) < 0)
        return hl_error_wrap(err, -EOPNOTSUPP, "cannot be stored");
    made = memfd_create("hld-snapshot-file", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    rc = made < 0 ? -errno : write_all(made, head, snap);
    if (rc == 0 && fcntl(made, F_ADD_SEALS, SEALS | F_SEAL_SEAL) < 0)
        rc = -errno;
    if (rc < 0)
        return hl_error_wrap(err, rc, "writing a snapshot");
    *fd = hl_steal_fd(&made);
    *size = total;
    return 0;
}

static const uint8_t *page_of(void *opaque, uint64_t page)
{
    const struct snapshot *snap = opaque;

    return snap->memory + page * PAGE;
}

int snapshot_file_write(int *fd, uint64_t *size, const struct snapshot *snap,
                        const struct hv_backend *hv, const struct snapshot_key *key,
                        struct hl_error *err)
{
    const struct snapshot_source source = {
        .size = snap->size,
        .io_size = snap->io_size,
        .ready_ns = snap->ready_ns,
        .regs = snap->regs,
        .linux_state = snap->linux_state,
        .prot = snap->prot,
        .used = snap->used,
        .npages = snap->npages,
        .extents = snap->extents,
        .nextents = snap->nextents,
        .page = page_of,
        .opaque = (void *)snap,
    };

    if (snap->root)
        return hl_error_set(err, -EOPNOTSUPP, "a snapshot over another one");
    return snapshot_source_write(fd, size, &source, hv, key, err);
}

/* --- loading --------------------------------------------------------------------------------- */

static int read_at(int fd, void *to, size_t len, uint64_t at)
{
    char *p = to;

    while (len > 0) {
        ssize_t n = pread(fd, p, len, (off_t)at);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -EBADMSG;
        p += n;
        at += (uint64_t)n;
        len -= (size_t)n;
    }
    return 0;
}

/* Only files in memory have seals, so one that has is no device, pipe or socket; and its size is
 * asked for by lseek because a confined worker may not call what fstat has become in some C
 * libraries. Returns: 0 with *size; -EBADMSG for a file that might change or is none. */
static int check_file(int fd, uint64_t *size, struct hl_error *err)
{
    int seals = fcntl(fd, F_GET_SEALS);
    off_t end;

    if (seals < 0 || (seals & SEALS) != SEALS)
        return broken(err, "it is not in a sealed memory file");
    end = lseek(fd, 0, SEEK_END);
    if (end < (off_t)sizeof(struct snapshot_file_header) || (uint64_t)end % PAGE != 0)
        return broken(err, "its size is that of none");
    *size = (uint64_t)end;
    return 0;
}

static int check_identity(const struct snapshot_file_header *header, const struct hv_backend *hv,
                          const struct snapshot_options *options, const struct snapshot_key *key,
                          struct hl_error *err)
{
    struct snapshot_file_header expected;

    fill_identity(&expected, hv, key);
    if (memcmp(header->magic, expected.magic, sizeof(expected.magic)) != 0)
        return broken(err, "it is no snapshot");
    if (header->format != expected.format)
        return hl_error_set(err, -ESTALE, "snapshot of format %" PRIu32, header->format);
    expected.memory_size = options->memory_size;
    expected.io_size = options->io_size;
    if (memcmp(header, &expected, offsetof(struct snapshot_file_header, regs)) != 0)
        return hl_error_set(err, -ESTALE, "snapshot of another program, host, version or size");
    return 0;
}

static int read_head(struct file_head *head, int fd, uint64_t size, struct hl_error *err)
{
    const struct snapshot_file_header *header = &head->header;
    uint64_t at = sizeof(*header), end;
    int rc;

    if (header->nextents > SNAPSHOT_EXTENTS_MAX || header->nprot > SNAPSHOT_FILE_RUNS_MAX ||
        header->nused > SNAPSHOT_FILE_RUNS_MAX || header->zero != 0)
        return broken(err, "its tables are too long");
    end = (at + tables_size(header) + PAGE - 1) & ~(PAGE - 1);
    if (header->data_offset != end || end > size)
        return broken(err, "its pages begin elsewhere");
    rc = read_at(fd, head->extents, header->nextents * sizeof(head->extents[0]), at);
    at += header->nextents * sizeof(head->extents[0]);
    if (rc == 0)
        rc = read_at(fd, head->prot, header->nprot * sizeof(head->prot[0]), at);
    at += header->nprot * sizeof(head->prot[0]);
    if (rc == 0)
        rc = read_at(fd, head->used, header->nused * sizeof(head->used[0]), at);
    return rc < 0 ? hl_error_wrap(err, rc, "reading a snapshot") : 0;
}

static void set_bits(uint64_t *bits, size_t first, size_t count)
{
    for (size_t page = first; page < first + count; page++)
        bits[page / 64] |= 1ull << (page % 64);
}

static int read_pages(struct pages *pages, const struct file_head *head, struct hl_error *err)
{
    size_t npages = head->header.memory_size / PAGE, page = 0;

    pages->npages = npages;
    pages->prot = calloc(npages, 1);
    pages->used = calloc(npages / 64 + 1, sizeof(uint64_t));
    if (!pages->prot || !pages->used)
        return hl_error_set(err, -ENOMEM, "no memory for a snapshot of %zu pages", npages);
    for (uint32_t i = 0; i < head->header.nprot; i++) {
        const struct snapshot_file_run *run = &head->prot[i];

        if (run->pages == 0 || run->pages > npages - page || run->value > UINT8_MAX)
            return broken(err, "permissions past the end of memory");
        memset(pages->prot + page, (int)run->value, run->pages);
        page += run->pages;
    }
    if (page != npages)
        return broken(err, "permissions of a part of its memory");
    page = 0;
    for (uint32_t i = 0; i < head->header.nused; i++) {
        const struct snapshot_file_run *run = &head->used[i];

        if (run->pages == 0 || run->pages > npages - page || run->value > 1)
            return broken(err, "mappings past the end of memory");
        if (run->value)
            set_bits(pages->used, page, run->pages);
        page += run->pages;
    }
    return page == npages ? 0 : broken(err, "mappings of a part of its memory");
}

/* The low part, made anew, as a draft of its own or of all memory. */
static int make_low(struct snapshot_draft *draft, const struct pages *pages,
                    const struct hv_backend *hv, struct hv_host *host,
                    const struct snapshot_options *options, struct hl_error *err)
{
    snapshot_write_info(draft->memory, hv, options);
    return hv->populate(host, draft->memory, pages->prot, pages->npages, err);
}

static void copy_extent(struct snapshot_draft *draft, const struct snapshot *root,
                        const struct snapshot_extent *extent, hl_gpa from)
{
    hl_gpa start = extent->start > from ? extent->start : from;

    memcpy(draft->memory + start, root->memory + start, extent->start + extent->len - start);
}

/* Everything in one memory file at its own address, for a backend that needs it so. */
static int load_copied(struct snapshot **out, int fd, const struct file_head *head,
                       struct pages *pages, struct snapshot *root, const struct hv_backend *hv,
                       struct hv_host *host, const struct snapshot_options *options,
                       struct hl_error *err)
{
    _cleanup_(snapshot_draft_fini) struct snapshot_draft draft = SNAPSHOT_DRAFT_INIT;
    const struct snapshot_file_header *header = &head->header;
    uint64_t at = header->data_offset;
    int rc = snapshot_draft_init(&draft, header->memory_size, header->io_size, err);

    if (rc == 0)
        rc = make_low(&draft, pages, hv, host, options, err);
    for (size_t i = 0; rc == 0 && root && i < root->nextents; i++)
        if (root->extents[i].start + root->extents[i].len > header->linux_state.program_start)
            copy_extent(&draft, root, &root->extents[i], header->linux_state.program_start);
    for (uint32_t i = 0; rc == 0 && i < header->nextents; i++) {
        rc = read_at(fd, draft.memory + head->extents[i].start, head->extents[i].len, at);
        at += head->extents[i].len;
    }
    if (rc < 0)
        return hl_error_wrap(err, rc, "loading a snapshot");
    draft.regs = header->regs;
    draft.linux_state = header->linux_state;
    memcpy(draft.prot, pages->prot, pages->npages);
    memcpy(draft.used, pages->used, (pages->npages / 64 + 1) * sizeof(uint64_t));
    rc = snapshot_draft_seal(out, &draft, err);
    if (rc == 0) {
        snapshot_set_clock(*out, header->ready_ns);
        (*out)->root = root ? snapshot_ref(root) : NULL;
    }
    return rc;
}

static int load_mapped(struct snapshot **out, int fd, const struct file_head *head,
                       struct pages *pages, struct snapshot *root, const struct hv_backend *hv,
                       struct hv_host *host, const struct snapshot_options *options,
                       struct hl_error *err)
{
    _cleanup_(snapshot_draft_fini) struct snapshot_draft low = SNAPSHOT_DRAFT_INIT;
    const struct snapshot_file_header *header = &head->header;
    struct snapshot_parts parts = {
        .size = header->memory_size,
        .io_size = header->io_size,
        .regs = &header->regs,
        .linux_state = &header->linux_state,
        .ready_ns = header->ready_ns,
        .prot = &pages->prot,
        .used = &pages->used,
        .root = root,
    };
    uint64_t at = header->data_offset;
    int rc = snapshot_draft_init(&low, HL_ABI_IO_ADDR, header->io_size, err);

    if (rc == 0)
        rc = make_low(&low, pages, hv, host, options, err);
    if (rc < 0)
        return rc;
    parts.fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (parts.fd < 0)
        return hl_error_wrap(err, -errno, "loading a snapshot");
    for (uint32_t i = 0; i < header->nextents; i++) {
        parts.extents[parts.nextents++] = (struct snapshot_extent){
            .start = head->extents[i].start,
            .len = head->extents[i].len,
            .offset = at,
            .fd = parts.fd,
        };
        at += head->extents[i].len;
    }
    return snapshot_join(out, &low, &parts, err);
}

int snapshot_file_load(struct snapshot **out, int fd, const struct hv_backend *hv,
                       struct hv_host *host, const struct image *img,
                       const struct snapshot_options *options, const struct snapshot_key *key,
                       struct hl_error *err)
{
    return snapshot_file_load_over(out, fd, NULL, hv, host, img, options, key, err);
}

int snapshot_file_load_over(struct snapshot **out, int fd, struct snapshot *root,
                            const struct hv_backend *hv, struct hv_host *host,
                            const struct image *img, const struct snapshot_options *options,
                            const struct snapshot_key *key, struct hl_error *err)
{
    _cleanup_free_ struct file_head *head = calloc(1, sizeof(*head));
    _cleanup_(pages_fini) struct pages pages = {0};
    struct linux_state expected = {0};
    uint64_t size = 0;
    int rc;

    *out = NULL;
    if (!head)
        return -ENOMEM;
    if (root &&
        (root->root || root->size != options->memory_size || root->io_size != options->io_size))
        return broken(err, "it is not one of what it lies over");
    rc = check_file(fd, &size, err);
    if (rc == 0)
        rc = read_at(fd, &head->header, sizeof(head->header), 0);
    if (rc == 0)
        rc = check_identity(&head->header, hv, options, key, err);
    if (rc == 0)
        rc = snapshot_place(&expected, img, options, err);
    if (rc == 0)
        rc = read_head(head, fd, size, err);
    if (rc == 0)
        rc = read_pages(&pages, head, err);
    if (rc == 0)
        rc = check(head, &pages, &expected, size, err);
    if (rc < 0)
        return rc;
    if (hv->single_file)
        return load_copied(out, fd, head, &pages, root, hv, host, options, err);
    return load_mapped(out, fd, head, &pages, root, hv, host, options, err);
}
