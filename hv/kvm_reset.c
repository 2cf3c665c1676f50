/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A call's writes, undone. What KVM's dirty ring tells of after a call joins the hot set: a page
 * once written stays write-enabled, costs no fault again, and is not told of again. So every page
 * of the hot set is put back after every call, whether this call wrote it or not. Pages the host
 * wrote (arguments) are not in it; they are listed apart, for one reset each.
 *
 * The hot set is kept as spans, ready to copy; they are made anew only when it has grown, by way of
 * a map of the map, so that nothing here walks the whole of a large guest. A page that is zero in
 * the snapshot is cleared, without reading the memfd's holes. Pages in a row are one copy. To copy
 * the clean pages between them too, or all of a range that is mostly dirty, does not pay: with
 * every other page dirty the whole takes as long (zeros, more of them than the cache holds) up
 * to 1.8 times as long (data), and it makes pages private that nobody wrote.
 *
 * Two ways out of a hot set that has grown too large, both by protecting its pages again. A
 * *refresh*, once in REFRESH_RESETS, forgets pages that later calls may not write again; so it does
 * when the ring is nearly full of pages told twice. A *shrink*, past a limit,
 * also gives every private page of the slot back to the system, which puts all of memory back at
 * one stroke. An image whose every call writes that much would pay for it with a fault a page each
 * time, so a shrink soon after the last one raises the limit, up to HOT_LIMIT_MAX.
 */

#include "hv/kvm_machine.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#define HOT_LIMIT      1024u
#define HOT_LIMIT_MAX  6144u /* hv/kvm_ring.c has room for it */
#define HOT_SMALL      64u   /* not worth a refresh */
#define REFRESH_RESETS 256u
#define SHRINK_SOON    8u   /* resets since hot was emptied last */
#define POPULATE_MAX   512u /* pages made present at bind */
#define HOST_HINT_MAX  16u  /* longer writes of the host say nothing about later calls */

int kvm_reset_new(struct hv_machine *m)
{
    size_t words = kvm_words(m), pages = words * 64;
    uint8_t *p;

    /* Nothing is allocated later: three maps, a list of pages, spans for every other page. Memory
     * that no reset comes to need is never touched. */
    m->state_size = 3 * words * sizeof(uint64_t) + pages * sizeof(uint32_t) +
                    (pages / 2 + 1) * sizeof(struct kvm_span);
    p = mmap(NULL, m->state_size, PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        return -errno;
    m->state = p;
    m->hot = (uint64_t *)p;
    m->data = m->hot + words;
    m->host_map = m->data + words;
    m->host_pages = (uint32_t *)(m->host_map + words);
    m->spans = (struct kvm_span *)(m->host_pages + pages);
    m->hot_limit = HOT_LIMIT;
    return 0;
}

void kvm_reset_free(struct hv_machine *m)
{
    if (m->state)
        munmap(m->state, m->state_size);
}

/* Empties the hot set: its pages are write-protected, and told of when they are written again. */
static int hot_forget(struct hv_machine *m)
{
    for (size_t i = 0; i < sizeof(m->hot_words) / sizeof(m->hot_words[0]); i++) {
        for (uint64_t words = m->hot_words[i]; words; words &= words - 1)
            m->hot[i * 64 + (unsigned int)__builtin_ctzll(words)] = 0;
        m->hot_words[i] = 0;
    }
    m->hot_grown = false;
    m->hot_count = 0;
    m->span_count = 0;
    m->resets = 0;
    return kvm_ring_give_back(m);
}

static void host_forget(struct hv_machine *m)
{
    for (uint32_t i = 0; i < m->host_count; i++)
        m->host_map[m->host_pages[i] / 64] = 0;
    m->host_count = 0;
}

static void hint(struct hv_machine *m, size_t word, uint64_t bits)
{
    uint64_t *hot = snapshot_hot(m->snap);

    if ((__atomic_load_n(&hot[word], __ATOMIC_RELAXED) & bits) != bits)
        __atomic_fetch_or(&hot[word], bits, __ATOMIC_RELAXED);
}

void kvm_host_wrote(struct hv_machine *m, hl_gpa addr, size_t len)
{
    uint64_t first = addr / KVM_PAGE, end = (addr + len + KVM_PAGE - 1) / KVM_PAGE;

    for (uint64_t page = first; page < end && len > 0; page++) {
        if (kvm_bit(m->host_map, page))
            continue;
        m->host_map[page / 64] |= 1ull << (page % 64);
        m->host_pages[m->host_count++] = (uint32_t)page;
        if (end - first <= HOST_HINT_MAX)
            hint(m, page / 64, 1ull << (page % 64));
    }
}

/* page: within the slot. */
void kvm_hot_add(struct hv_machine *m, uint64_t page)
{
    size_t word = page / 64;
    uint64_t bit = 1ull << (page % 64);

    if (m->hot[word] & bit)
        return;
    m->hot[word] |= bit;
    m->hot_words[word / 64] |= 1ull << (word % 64);
    m->hot_grown = true;
    if (page < m->mem_size / KVM_PAGE)
        hint(m, word, bit);
}

static struct kvm_span *span_add(struct hv_machine *m, struct kvm_span *last, size_t word)
{
    for (uint64_t bits = m->hot[word]; bits; bits &= bits - 1) {
        uint32_t page = (uint32_t)(word * 64 + (unsigned int)__builtin_ctzll(bits));
        bool zero = !kvm_bit(m->data, page);

        m->hot_count++;
        if (last && last->zero == zero && last->first + last->count == page) {
            last->count++;
            continue;
        }
        last = &m->spans[m->span_count++];
        *last = (struct kvm_span){.first = page, .count = 1, .zero = zero};
    }
    return last;
}

static void spans_make(struct hv_machine *m)
{
    struct kvm_span *last = NULL;

    m->span_count = 0;
    m->hot_count = 0;
    for (size_t i = 0; i < sizeof(m->hot_words) / sizeof(m->hot_words[0]); i++)
        for (uint64_t words = m->hot_words[i]; words; words &= words - 1)
            last = span_add(m, last, i * 64 + (unsigned int)__builtin_ctzll(words));
    m->hot_grown = false;
}

static void restore(struct hv_machine *m, uint64_t page, uint64_t count, bool zero)
{
    uint8_t *to = m->mem + page * KVM_PAGE;

    if (zero)
        memset(to, 0, count * KVM_PAGE);
    else
        memcpy(to, snapshot_memory(m->snap) + page * KVM_PAGE, count * KVM_PAGE);
}

static bool skipped(const struct hv_machine *m, uint64_t page, unsigned int skip)
{
    uint64_t addr = page * KVM_PAGE;
    bool io = addr >= HL_ABI_IO_ADDR && addr < HL_ABI_IO_ADDR + m->io_size;

    return skip & (io ? HV_SKIP_IO : HV_SKIP_MEMORY);
}

static void restore_span(struct hv_machine *m, const struct kvm_span *span, unsigned int skip)
{
    if (!(skip & (HV_SKIP_IO | HV_SKIP_MEMORY))) {
        restore(m, span->first, span->count, span->zero);
        return;
    }
    for (uint64_t page = span->first; page < span->first + span->count; page++)
        if (!skipped(m, page, skip))
            restore(m, page, 1, span->zero);
}

static uint64_t restore_all(struct hv_machine *m, unsigned int skip)
{
    uint64_t pages = m->hot_count;

    for (uint32_t i = 0; i < m->span_count; i++)
        restore_span(m, &m->spans[i], skip);
    for (uint32_t i = 0; i < m->host_count; i++) {
        uint32_t page = m->host_pages[i];

        if (kvm_bit(m->hot, page) || skipped(m, page, skip))
            continue;
        restore(m, page, 1, !kvm_bit(m->data, page));
        pages++;
    }
    host_forget(m);
    return pages;
}

/* Everything private goes; what is read next comes from the snapshot, or is zero. */
static int shrink(struct hv_machine *m)
{
    if (m->resets < SHRINK_SOON)
        m->hot_limit = m->hot_limit < HOT_LIMIT_MAX / 2 ? m->hot_limit * 2 : HOT_LIMIT_MAX;
    if (madvise(m->mem, m->slot_size, MADV_DONTNEED) < 0)
        return -errno;
    host_forget(m);
    m->retained = 0;
    return hot_forget(m);
}

static int reset_memory(struct hv_machine *m, unsigned int skip, uint64_t *pages)
{
    int r = kvm_ring_take(m, true);

    if (r < 0)
        return r;
    if (m->hot_grown)
        spans_make(m);
    m->resets++;
    if (m->hot_count + m->retained + m->host_count > m->hot_limit && skip == 0) {
        *pages = m->hot_count + m->host_count;
        return shrink(m);
    }
    *pages = restore_all(m, skip);
    if (kvm_ring_nearly_full(m) || (m->resets >= REFRESH_RESETS && m->hot_count > HOT_SMALL)) {
        m->retained += m->hot_count;
        return hot_forget(m);
    }
    return 0;
}

/* Puts the snapshot's registers where the next KVM_RUN takes them from, which costs no system
 * call. Segments, control registers and bases go in only when they differ: the kernel wrote what
 * they are on the way out. */
void kvm_reset_registers(struct hv_machine *m)
{
    struct kvm_sync_regs *sync = &m->run->s.regs;

    sync->regs = m->ready_regs;
    memset(&sync->events, 0, sizeof(sync->events));
    sync->events.flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW;
    m->run->kvm_dirty_regs |= KVM_SYNC_X86_REGS | KVM_SYNC_X86_EVENTS;
    if (memcmp(&sync->sregs, &m->ready_sregs, sizeof(sync->sregs)) != 0) {
        sync->sregs = m->ready_sregs;
        m->run->kvm_dirty_regs |= KVM_SYNC_X86_SREGS;
    }
}

/* All but memory. */
static int reset_state(struct hv_machine *m, unsigned int skip)
{
    int r = 0;

    if (!(skip & HV_SKIP_REGS)) {
        kvm_reset_registers(m);
        if (m->debug_touched)
            r = kvm_clear_debug(m);
        m->debug_touched = false;
    }
    if (m->restores && skip & HV_SKIP_VECTOR)
        m->run->s.regs.regs.rip = snapshot_regs(m->snap)->rip;
    else if (r == 0 && !m->restores && !(skip & HV_SKIP_VECTOR))
        r = kvm_clear_vectors(m);
    hv_kick_init(&m->kick, &m->run->immediate_exit);
    return r;
}

int kvm_reset(struct hv_machine *m, unsigned int skip, uint64_t *pages)
{
    int r;

    *pages = 0;
    if (!m->snap || m->tables_changed || m->collected)
        return 1;
    m->nkept = 0;
    r = reset_memory(m, skip, pages);
    return r < 0 ? r : reset_state(m, skip);
}

int kvm_rewind(struct hv_machine *m)
{
    int r = m->snap ? kvm_bulk_detach(m) : 1;

    return r == 0 ? reset_state(m, 0) : r;
}

/* The hot set is what was written since it was emptied, and is emptied for the next time: to hear
 * of a page again it has to be protected, which is a fault for the next call that writes it. So
 * only machines that are asked pay for it. */
int kvm_collect(struct hv_machine *m, void (*written)(void *opaque, uint64_t page), void *opaque)
{
    int r = m->snap ? kvm_ring_take(m, true) : -EINVAL;

    if (r < 0)
        return r;
    m->collected = true;
    for (size_t i = 0; i < sizeof(m->hot_words) / sizeof(m->hot_words[0]); i++)
        for (uint64_t words = m->hot_words[i]; words; words &= words - 1) {
            size_t word = i * 64 + (unsigned int)__builtin_ctzll(words);

            for (uint64_t bits = m->hot[word]; bits; bits &= bits - 1)
                written(opaque, word * 64 + (unsigned int)__builtin_ctzll(bits));
        }
    for (uint32_t i = 0; i < m->host_count; i++)
        if (!kvm_bit(m->hot, m->host_pages[i]))
            written(opaque, m->host_pages[i]);
    host_forget(m);
    return hot_forget(m);
}

/* Pages that calls of this image were seen to write: a private copy each before the first call
 * wants it. Only a hint, so a failure costs time alone. */
static void populate_hot(struct hv_machine *m)
{
    const uint64_t *hot = snapshot_hot(m->snap);
    size_t npages = m->mem_size / KVM_PAGE, left = POPULATE_MAX;

    for (size_t page = HL_ABI_IO_ADDR / KVM_PAGE; page < npages && left > 0;) {
        uint64_t bits = __atomic_load_n(&hot[page / 64], __ATOMIC_RELAXED) >> (page % 64);
        size_t count = 0;

        if (bits == 0) {
            page += 64 - page % 64;
            continue;
        }
        page += (size_t)__builtin_ctzll(bits);
        while (page + count < npages && count < left &&
               __atomic_load_n(&hot[(page + count) / 64], __ATOMIC_RELAXED) >>
                       ((page + count) % 64) &
                   1)
            count++;
        if (count > 0)
            (void)madvise(m->mem + page * KVM_PAGE, count * KVM_PAGE, MADV_POPULATE_WRITE);
        page += count;
        left -= count;
    }
}

/* Whatever was written no longer matters: the memory is to be another. */
int kvm_reset_forget(struct hv_machine *m)
{
    int r;

    host_forget(m);
    m->collected = false;
    m->retained = 0;
    m->hot_limit = HOT_LIMIT;
    r = kvm_ring_take(m, false);
    return r == 0 ? hot_forget(m) : r;
}

/* After the new snapshot's memory is mapped, which has taken every page from the guest. */
int kvm_reset_bind(struct hv_machine *m)
{
    int r = kvm_reset_forget(m);

    if (r == 0)
        populate_hot(m);
    return r;
}
