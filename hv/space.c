/* SPDX-License-Identifier: Apache-2.0 */
/*
 * brk, mmap and mprotect for a guest whose page tables cost a lot to change and whose calls last
 * microseconds. The rule:
 *
 * - Everything between the program and the stack's closed page is readable and writable in every
 *   snapshot. Growing the heap and mapping memory move a mark and set bits; no table is touched and
 *   the instance stays one that can be reset.
 * - A mapping comes readable and writable whatever was asked for (but never executable).
 * - mprotect is exact, wherever it points. In start-up (RELRO, a library's closed pages) it becomes
 *   part of the ready snapshot; in a call it costs the instance its reset. C libraries ask for it
 * in a call only to open what is open here already, which is no change.
 * - Nothing is ever made executable; asking for what is already there is no change.
 * - Memory given back is marked stale, and zeroed when it is handed out again. That can be the
 *   whole memory, so it is done in steps, before the guest goes on and with an eye on the clock.
 *
 * So the guest can reach memory it never asked for. It is its own, zero at the start of each call
 * and counted in its image's limit, so nothing depends on closing it.
 */
#include "config.h"

#include "hv/space.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "guest/hl_abi.h"
#include "hv/snapshot_internal.h"
#include "hv/timer.h"

#define PAGE        ((uint64_t)HL_ABI_PAGE_SIZE)
#define SETTLE_STEP (64 * 1024u) /* bytes zeroed between two looks at the clock */
#define READ_WRITE  (HV_PROT_READ | HV_PROT_WRITE)

void space_init(struct space *s, const struct hv_backend *hv, struct hv_machine *machine,
                struct snapshot *snap)
{
    *s = (struct space){.hv = hv, .machine = machine, .snap = snap};
    space_reset(s);
}

void space_reset(struct space *s)
{
    space_fini(s);
    s->changes = 0;
    s->brk = s->brk_high = snapshot_linux(s->snap)->brk;
    s->settle_at = s->settle_end = 0;
}

void space_fini(struct space *s)
{
    free(s->prot);
    free(s->used);
    s->prot = NULL;
    s->used = s->stale = NULL;
}

const uint8_t *space_prot(const struct space *s)
{
    return s->prot ? s->prot : s->snap->prot;
}

const uint64_t *space_used(const struct space *s)
{
    return s->used ? s->used : s->snap->used;
}

static uint64_t page_up(uint64_t addr)
{
    return (addr + PAGE - 1) & ~(PAGE - 1);
}

static bool get_bit(const uint64_t *bits, uint64_t page)
{
    return bits[page / 64] >> (page % 64) & 1;
}

static void put_bits(uint64_t *bits, hl_gpa start, hl_gpa end, bool value)
{
    for (uint64_t page = start / PAGE; page < end / PAGE; page++) {
        if (value)
            bits[page / 64] |= 1ull << (page % 64);
        else
            bits[page / 64] &= ~(1ull << (page % 64));
    }
}

static bool any_used(const struct space *s, hl_gpa start, hl_gpa end)
{
    const uint64_t *used = space_used(s);

    for (uint64_t page = start / PAGE; page < end / PAGE; page++) {
        if (get_bit(used, page))
            return true;
    }
    return false;
}

/* Before any of them changes. */
static int own_bits(struct space *s)
{
    size_t words = s->snap->npages / 64 + 1;

    s->changes++;
    if (s->used)
        return 0;
    s->used = calloc(2 * words, sizeof(*s->used));
    if (!s->used)
        return -ENOMEM;
    memcpy(s->used, s->snap->used, words * sizeof(*s->used));
    s->stale = s->used + words;
    return 0;
}

/* Before the guest goes on, the stale pages of the range are zeroed. One system call at a time, so
 * one range is enough. */
static void settle_later(struct space *s, hl_gpa start, hl_gpa end)
{
    s->settle_at = start;
    s->settle_end = end;
}

static int zero_pages(struct space *s, hl_gpa addr, uint64_t len)
{
    static const uint8_t zeros[SETTLE_STEP];

    return s->hv->mem_write(s->machine, addr, zeros, len);
}

int space_settle(struct space *s, uint64_t until_ns)
{
    while (s->settle_at < s->settle_end) {
        uint64_t len = 0;
        int rc;

        while (s->settle_at + len < s->settle_end && len < SETTLE_STEP &&
               get_bit(s->stale, (s->settle_at + len) / PAGE))
            len += PAGE;
        if (len == 0) {
            s->settle_at += PAGE;
            continue;
        }
        rc = zero_pages(s, s->settle_at, len);
        if (rc < 0)
            return rc;
        put_bits(s->stale, s->settle_at, s->settle_at + len, false);
        s->changes++;
        s->settle_at += len;
        if (s->settle_at < s->settle_end && hv_now_ns() >= until_ns)
            return 1;
    }
    return 0;
}

bool space_allows(const struct space *s, hl_gpa addr, uint64_t len, bool write)
{
    unsigned int wanted = write ? HV_PROT_WRITE : HV_PROT_READ;
    const uint8_t *prot = space_prot(s);
    uint64_t end;

    if (len == 0)
        return true;
    if (__builtin_add_overflow(addr, len, &end) || end > s->snap->size)
        return false;
    for (uint64_t page = addr / PAGE; page <= (end - 1) / PAGE; page++) {
        if (!(prot[page] & wanted))
            return false;
    }
    return true;
}

static int own_prot(struct space *s)
{
    s->changes++;
    if (s->prot)
        return 0;
    s->prot = malloc(s->snap->npages);
    if (!s->prot)
        return -ENOMEM;
    memcpy(s->prot, s->snap->prot, s->snap->npages);
    return 0;
}

/* Changes the permissions of whole pages, in the machine and in the books. */
static int apply(struct space *s, hl_gpa start, hl_gpa end, unsigned int prot)
{
    int rc = own_prot(s);

    if (rc < 0)
        return rc;
    rc = s->hv->protect(s->machine, start, end - start, (enum hv_prot)prot);
    if (rc < 0)
        return rc == -ENOMEM ? rc : -EIO;
    for (uint64_t page = start / PAGE; page < end / PAGE; page++) {
        unsigned int was = s->prot[page] & (HV_PROT_WRITE | SPACE_WAS_WRITABLE);

        s->prot[page] = (uint8_t)(prot | (was ? SPACE_WAS_WRITABLE : 0u));
    }
    return 0;
}

/* Whether each page of the range has these permissions and no others. */
static bool permits(const struct space *s, hl_gpa start, hl_gpa end, unsigned int wanted)
{
    const uint8_t *prot = space_prot(s);

    for (uint64_t page = start / PAGE; page < end / PAGE; page++) {
        if ((prot[page] & ~(unsigned int)SPACE_WAS_WRITABLE) != wanted)
            return false;
    }
    return true;
}

int64_t space_brk(struct space *s, uint64_t addr)
{
    const struct linux_state *at = snapshot_linux(s->snap);
    hl_gpa old_end = page_up(s->brk), new_end;

    if (addr < at->brk_start || addr > at->map_top)
        return (int64_t)s->brk;
    new_end = page_up(addr);
    if (new_end == old_end) {
        s->brk = addr;
        return (int64_t)s->brk;
    }
    if (new_end < old_end) {
        if (own_bits(s) < 0)
            return (int64_t)s->brk;
        put_bits(s->stale, new_end, old_end, true);
    } else {
        if (any_used(s, old_end, new_end))
            return (int64_t)s->brk;
        if (!permits(s, old_end, new_end, READ_WRITE) && apply(s, old_end, new_end, READ_WRITE) < 0)
            return (int64_t)s->brk;
        if (old_end < s->brk_high && s->stale)
            settle_later(s, old_end, new_end);
    }
    s->brk = addr;
    if (new_end > s->brk_high)
        s->brk_high = new_end;
    return (int64_t)s->brk;
}

/* The highest free range of len bytes between heap and stack. Returns: its start, 0 for none. */
static hl_gpa find_free(const struct space *s, uint64_t len)
{
    const uint64_t *used = space_used(s);
    hl_gpa floor = page_up(s->brk), end = snapshot_linux(s->snap)->map_top;

    for (hl_gpa at = end; at > floor;) {
        at -= PAGE;
        if (get_bit(used, at / PAGE))
            end = at;
        else if (end - at >= len)
            return at;
    }
    return 0;
}

static int64_t choose(const struct space *s, uint64_t addr, uint64_t len, uint64_t flags)
{
    const struct linux_state *at = snapshot_linux(s->snap);
    hl_gpa found;

    if (!(flags & (MAP_FIXED | MAP_FIXED_NOREPLACE))) {
        found = find_free(s, len);
        return found ? (int64_t)found : -ENOMEM;
    }
    if (addr % PAGE != 0)
        return -EINVAL;
    if (addr < at->brk_start || addr > at->map_top || len > at->map_top - addr)
        return -ENOMEM;
    if ((flags & MAP_FIXED_NOREPLACE) && (addr < page_up(s->brk) || any_used(s, addr, addr + len)))
        return -EEXIST;
    return (int64_t)addr;
}

int64_t space_mmap(struct space *s, uint64_t addr, uint64_t len, uint64_t prot, uint64_t flags)
{
    hl_gpa heap_end = page_up(s->brk);
    int64_t start;
    uint64_t end;
    int rc;

    if (!(flags & MAP_ANONYMOUS))
        return -EBADF;
    if (len == 0 || (flags & MAP_HUGETLB))
        return -EINVAL;
    if (prot & PROT_EXEC)
        return -EACCES;
    if (len > s->snap->size)
        return -ENOMEM;
    len = page_up(len);
    start = choose(s, addr, len, flags);
    if (start < 0)
        return start;
    end = (uint64_t)start + len;
    rc = own_bits(s);
    if (rc < 0)
        return rc;
    if (!permits(s, (hl_gpa)start, end, READ_WRITE)) {
        rc = apply(s, (hl_gpa)start, end, READ_WRITE);
        if (rc < 0)
            return rc;
    }
    /* A fixed mapping replaces what is there: mappings, or part of the heap. */
    for (hl_gpa at = (hl_gpa)start; at < end; at += PAGE) {
        if (at < heap_end || get_bit(s->used, at / PAGE))
            put_bits(s->stale, at, at + PAGE, true);
    }
    if (end > heap_end)
        put_bits(s->used, (hl_gpa)start > heap_end ? (hl_gpa)start : heap_end, end, true);
    settle_later(s, (hl_gpa)start, end);
    return start;
}

int64_t space_munmap(struct space *s, uint64_t addr, uint64_t len)
{
    const struct linux_state *at = snapshot_linux(s->snap);
    uint64_t end;
    int rc;

    if (addr % PAGE != 0 || len == 0 || len > s->snap->size)
        return -EINVAL;
    len = page_up(len);
    if (__builtin_add_overflow(addr, len, &end) || addr < page_up(s->brk) || end > at->map_top)
        return -EINVAL;
    rc = own_bits(s);
    if (rc < 0)
        return rc;
    for (; addr < end; addr += PAGE) {
        if (!get_bit(s->used, addr / PAGE))
            continue;
        put_bits(s->used, addr, addr + PAGE, false);
        put_bits(s->stale, addr, addr + PAGE, true);
    }
    return 0;
}

/* The program, the heap, mappings, the stack: what mprotect and madvise may name. */
static bool is_mapped(const struct space *s, hl_gpa start, hl_gpa end)
{
    const struct linux_state *at = snapshot_linux(s->snap);
    hl_gpa heap_end = page_up(s->brk);
    const uint64_t *used = space_used(s);

    if (start < at->program_start || end > s->snap->size)
        return false;
    for (hl_gpa addr = start; addr < end; addr += PAGE) {
        if (addr >= heap_end && addr < at->stack_start &&
            (addr >= at->map_top || !get_bit(used, addr / PAGE)))
            return false;
    }
    return true;
}

/* Checks (addr, len) of mprotect and madvise. Returns: 0 with *end set, or a negative errno. */
static int check_range(const struct space *s, uint64_t addr, uint64_t len, uint64_t *end)
{
    if (addr % PAGE != 0)
        return -EINVAL;
    if (len > s->snap->size || __builtin_add_overflow(addr, page_up(len), end) ||
        (len > 0 && !is_mapped(s, addr, *end)))
        return -ENOMEM;
    return 0;
}

int64_t space_mprotect(struct space *s, uint64_t addr, uint64_t len, uint64_t prot)
{
    unsigned int wanted = HV_PROT_NONE;
    uint64_t end;
    int rc = check_range(s, addr, len, &end);

    if (rc < 0 || len == 0)
        return rc;
    if (prot & ~(uint64_t)(PROT_READ | PROT_WRITE | PROT_EXEC))
        return -EINVAL;
    if (prot & PROT_READ)
        wanted |= HV_PROT_READ;
    if (prot & PROT_WRITE)
        wanted |= READ_WRITE;
    if (prot & PROT_EXEC)
        wanted |= HV_PROT_READ | HV_PROT_EXEC;
    if (permits(s, addr, end, wanted))
        return 0;
    if (prot & PROT_EXEC)
        return -EACCES;
    return apply(s, addr, end, wanted);
}

int64_t space_madvise(struct space *s, uint64_t addr, uint64_t len, uint64_t advice)
{
    uint64_t end;
    int rc = check_range(s, addr, len, &end);

    if (rc < 0 || len == 0 || advice != MADV_DONTNEED)
        return rc;
    /* Of the program's own pages it would bring back the file's bytes. */
    if (addr < snapshot_linux(s->snap)->brk_start)
        return -EINVAL;
    rc = own_bits(s);
    if (rc < 0)
        return rc;
    put_bits(s->stale, addr, end, true);
    settle_later(s, addr, end);
    return 0;
}

/* --- the books as a whole ------------------------------------------------------------------- */

const uint8_t *space_book(const struct space *s, unsigned int book, bool first, size_t *size)
{
    *size = s->snap->npages;
    if (book == SPACE_BOOK_PROT)
        return first ? s->snap->prot : space_prot(s);
    *size = (s->snap->npages / 64 + 1) * sizeof(uint64_t);
    if (book == SPACE_BOOK_USED)
        return (const uint8_t *)(first ? s->snap->used : space_used(s));
    return first ? NULL : (const uint8_t *)s->stale;
}

struct space_marks space_marks(const struct space *s)
{
    return (struct space_marks){.brk = s->brk, .brk_high = s->brk_high};
}

struct space_marks space_first_marks(const struct space *s)
{
    hl_gpa brk = snapshot_linux(s->snap)->brk;

    return (struct space_marks){.brk = brk, .brk_high = brk};
}

/* The machine's permissions, where they are not as wanted, in runs of pages. */
static int restore_prot(struct space *s, const uint8_t *wanted)
{
    const uint8_t *prot = space_prot(s);
    size_t npages = s->snap->npages;
    unsigned int own = (unsigned int)SPACE_WAS_WRITABLE;

    for (size_t page = 0; page < npages;) {
        size_t first = page++;
        unsigned int want = wanted[first] & ~own;
        int rc;

        if ((prot[first] & ~own) == want)
            continue;
        while (page < npages && (wanted[page] & ~own) == want && (prot[page] & ~own) != want)
            page++;
        rc = s->hv->protect(s->machine, first * PAGE, (page - first) * PAGE, (enum hv_prot)want);
        if (rc < 0)
            return rc;
    }
    return 0;
}

void space_set_marks(struct space *s, const struct space_marks *marks)
{
    s->brk = marks->brk;
    s->brk_high = marks->brk_high;
    s->settle_at = s->settle_end = 0;
}

int space_restore(struct space *s, uint8_t *const books[SPACE_BOOKS])
{
    size_t size;
    int rc;

    if (memcmp(books[SPACE_BOOK_PROT], space_prot(s), s->snap->npages) != 0) {
        rc = own_prot(s);
        if (rc == 0)
            rc = restore_prot(s, books[SPACE_BOOK_PROT]);
        if (rc < 0)
            return rc;
        memcpy(s->prot, books[SPACE_BOOK_PROT], s->snap->npages);
    }
    space_book(s, SPACE_BOOK_USED, true, &size);
    rc = own_bits(s);
    if (rc < 0)
        return rc;
    memcpy(s->used, books[SPACE_BOOK_USED], size);
    memcpy(s->stale, books[SPACE_BOOK_STALE], size);
    return 0;
}
