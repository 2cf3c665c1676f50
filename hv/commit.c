/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A session's state as a snapshot's file. What is written is what would be kept had the program
 * announced READY in this state (hv/build.c): program, heap, mappings, stack; no window, nothing of
 * memory that is free or stale. Only pages that differ from the root's are in the file, so that
 * what many states have in common is stored and mapped once.
 *
 * Pages that differ make ranges; too many are joined over gaps, whose pages come along.
 */
#include "config.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "guest/hl_abi.h"
#include "hv/checkpoint_internal.h"
#include "hv/timer.h"

#define PAGE     ((uint64_t)HL_ABI_PAGE_SIZE)
#define RED_ZONE 128u

static const _Alignas(8) uint8_t zeros[HL_ABI_PAGE_SIZE];

struct state {
    const struct snapshot *snap; /* where the tree has nothing */
    const struct page_node *tree;
    struct linux_state at;
    hl_gpa heap_end, stack_from;
    uint8_t *prot;
    uint64_t *used, *stale;
    uint64_t *differs; /* one bit a page */
};

static void state_fini(struct state *state)
{
    free(state->prot);
    free(state->used);
    free(state->stale);
    free(state->differs);
}

static bool get_bit(const uint64_t *bits, uint64_t page)
{
    return bits[page / 64] >> (page % 64) & 1;
}

/* Whether a page is part of the program's state, and not just memory that it could reach. */
static bool is_kept(const struct state *state, uint64_t page)
{
    hl_gpa addr = page * PAGE;

    if (get_bit(state->stale, page))
        return false;
    if (addr < state->heap_end)
        return true;
    if (addr >= state->at.stack_start)
        return addr >= state->stack_from;
    return addr < state->at.map_top && get_bit(state->used, page);
}

static const uint8_t *state_page(void *opaque, uint64_t page)
{
    const struct state *state = opaque;
    const uint8_t *data;

    if (!is_kept(state, page))
        return zeros;
    data = page_tree_find(state->tree, (uint32_t)page);
    return data ? data : state->snap->memory + page * PAGE;
}

/* From the books; free memory is readable and writable again (hv/space.c). */
static int take_books(struct state *state, const struct checkpoint *to)
{
    const struct snapshot *snap = state->snap;
    const struct space first = {.snap = (struct snapshot *)snap};
    hl_gpa rsp = snap->regs.rsp;

    state->prot = checkpoint_book(state->tree, &first, SPACE_BOOK_PROT);
    state->used = (uint64_t *)(void *)checkpoint_book(state->tree, &first, SPACE_BOOK_USED);
    state->stale = (uint64_t *)(void *)checkpoint_book(state->tree, &first, SPACE_BOOK_STALE);
    state->differs = calloc(snap->npages / 64 + 1, sizeof(*state->differs));
    if (!state->prot || !state->used || !state->stale || !state->differs)
        return -ENOMEM;
    state->at = snap->linux_state;
    if (to)
        state->at.brk = to->marks.brk;
    state->heap_end = (state->at.brk + PAGE - 1) & ~(PAGE - 1);
    state->stack_from = snap->size;
    if (rsp >= state->at.stack_start && rsp < snap->size)
        state->stack_from = (rsp - RED_ZONE) & ~(PAGE - 1);
    for (uint64_t page = 0; page < snap->npages; page++) {
        hl_gpa addr = page * PAGE;

        state->prot[page] &= (uint8_t)~SPACE_WAS_WRITABLE;
        if (addr >= state->heap_end && addr < state->at.map_top && !get_bit(state->used, page))
            state->prot[page] = HV_PROT_READ | HV_PROT_WRITE;
    }
    return 0;
}

/* root: NULL for zeros. */
static void find_differences(struct state *state, const struct snapshot *root)
{
    for (uint64_t page = state->at.program_start / PAGE; page < state->snap->npages; page++) {
        const uint8_t *now = state_page(state, page);
        const uint8_t *then = root ? root->memory + page * PAGE : zeros;

        if (now != then && memcmp(now, then, PAGE) != 0)
            state->differs[page / 64] |= 1ull << (page % 64);
    }
}

/* Ranges joined over gaps of up to `gap` pages. Returns: how many; out gets the first max. */
static size_t join(const struct state *state, size_t gap, struct snapshot_extent *out, size_t max)
{
    uint64_t npages = state->snap->npages, last = 0;
    size_t count = 0;

    for (uint64_t page = 0; page < npages; page++) {
        if (!get_bit(state->differs, page))
            continue;
        if (count == 0 || page - last > gap + 1) {
            if (count < max)
                out[count] = (struct snapshot_extent){.start = page * PAGE};
            count++;
        }
        if (count <= max)
            out[count - 1].len = (page + 1) * PAGE - out[count - 1].start;
        last = page;
    }
    return count;
}

/* What is asked before anything is allocated. */
struct reserve {
    bool (*ask)(void *opaque, uint64_t bytes);
    void *opaque;
};

static int write_state(int *fd, uint64_t *size, struct state *state, uint64_t ready_ns,
                       const struct hv_backend *hv, const struct snapshot_key *key,
                       const struct reserve *reserve, struct hl_error *err)
{
    struct snapshot_extent extents[SNAPSHOT_EXTENTS_MAX];
    const struct snapshot *snap = state->snap;
    struct snapshot_source source = {
        .size = snap->size,
        .io_size = snap->io_size,
        .ready_ns = ready_ns,
        .regs = snap->regs,
        .linux_state = state->at,
        .prot = state->prot,
        .used = state->used,
        .npages = snap->npages,
        .extents = extents,
        .page = state_page,
        .opaque = state,
    };
    uint64_t bytes = 0;
    size_t gap = 0;

    while (join(state, gap, extents, SNAPSHOT_EXTENTS_MAX) > SNAPSHOT_EXTENTS_MAX)
        gap = gap * 2 + 1;
    source.nextents = join(state, gap, extents, SNAPSHOT_EXTENTS_MAX);
    for (size_t i = 0; i < source.nextents; i++)
        bytes += extents[i].len;
    if (reserve->ask && !reserve->ask(reserve->opaque, bytes))
        return hl_error_set(err, -ENOBUFS, "no room for a state of %" PRIu64 " bytes", bytes);
    return snapshot_source_write(fd, size, &source, hv, key, err);
}

int history_commit(int *fd, uint64_t *size, const struct history *history,
                   const struct checkpoint *to, enum history_pages pages,
                   const struct snapshot *root, const struct hv_backend *hv,
                   const struct snapshot_key *key, bool (*reserve)(void *opaque, uint64_t bytes),
                   void *opaque, struct hl_error *err)
{
    _cleanup_(state_fini) struct state state = {.snap = history->snap,
                                                .tree = to ? to->tree : NULL};
    const struct reserve asked = {reserve, opaque};

    if (pages == HISTORY_DIFFERENT && root != history->snap && root != history->snap->root)
        return hl_error_set(err, -EINVAL, "the history is of another family");
    if (take_books(&state, to) < 0)
        return hl_error_set(err, -ENOMEM, "no memory to commit a session");
    if (pages != HISTORY_NONE)
        find_differences(&state, pages == HISTORY_ALL ? NULL : root);
    return write_state(fd, size, &state, hv_now_ns() + history->snap->clock_ahead, hv, key, &asked,
                       err);
}

int snapshot_flat_write(int *fd, uint64_t *size, const struct snapshot *snap,
                        const struct hv_backend *hv, const struct snapshot_key *key,
                        bool (*reserve)(void *opaque, uint64_t bytes), void *opaque,
                        struct hl_error *err)
{
    _cleanup_(state_fini) struct state state = {.snap = snap};
    const struct reserve asked = {reserve, opaque};

    if (take_books(&state, NULL) < 0)
        return hl_error_set(err, -ENOMEM, "no memory to commit a session");
    find_differences(&state, NULL);
    return write_state(fd, size, &state, snap->ready_ns, hv, key, &asked, err);
}
