/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Checkpoints as versions of one page tree. The history knows which version the instance's memory
 * was last equal to (`now`) and, from the backend, the pages written since (`written`); what is in
 * neither is as in the snapshot. A checkpoint makes the next version of those pages, a rollback
 * puts back those and the pages in which the two versions differ.
 *
 * The books of hv/space.c (permissions, mappings, stale pages) are in the same tree, as pages
 * behind those of the largest memory, and looked at when they have changed.
 *
 * A page that was written with what it had is found out by comparing, and costs no copy: much of
 * what a call writes is its stack and its I/O window, over and over.
 */
#include "config.h"

#include "hv/checkpoint.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/cleanup.h"
#include "hv/checkpoint_internal.h"
#include "hv/guest.h"

#define PAGE HL_ABI_PAGE_SIZE

HL_DEFINE_CLEANUP(struct history *, history_free)

int history_new(struct history **out, struct snapshot *snap,
                bool (*charge)(void *opaque, uint64_t bytes), void *opaque)
{
    _cleanup_(history_freep) struct history *h = calloc(1, sizeof(*h));
    size_t words = snap->npages / 64 + 1;
    void *state;

    *out = NULL;
    if (!h)
        return -ENOMEM;
    h->store.charge = charge;
    h->store.opaque = opaque;
    h->snap = snapshot_ref(snap);
    /* Room for every page; what is never needed is never touched. */
    h->state_size = words * sizeof(uint64_t) + snap->npages * sizeof(uint32_t);
    state = mmap(NULL, h->state_size, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (state == MAP_FAILED)
        return -ENOMEM;
    h->state = state;
    h->map = state;
    h->written = (uint32_t *)(h->map + words);
    *out = HL_STEAL(h);
    return 0;
}

void history_free(struct history *h)
{
    if (!h)
        return;
    page_tree_unref(&h->store, h->now);
    if (h->state)
        munmap(h->state, h->state_size);
    snapshot_unref(h->snap);
    free(h);
}

uint64_t history_bytes(const struct history *h)
{
    return h->store.bytes;
}

void checkpoint_free(struct history *h, struct checkpoint *c)
{
    if (!c)
        return;
    page_tree_unref(&h->store, c->tree);
    page_store_free(&h->store, c, sizeof(*c));
}

/* --- what was written ----------------------------------------------------------------------- */

static void note_written(void *opaque, uint64_t page)
{
    struct history *h = opaque;

    /* Below the window stands what is the backend's own, and what the guest cannot write. */
    if (page < HL_ABI_IO_ADDR / PAGE || page >= h->snap->npages ||
        (h->map[page / 64] >> (page % 64) & 1))
        return;
    h->map[page / 64] |= 1ull << (page % 64);
    h->written[h->count++] = (uint32_t)page;
}

static void note_nothing(void *opaque, uint64_t page)
{
    (void)opaque;
    (void)page;
}

static void forget_written(struct history *h)
{
    for (uint32_t i = 0; i < h->count; i++)
        h->map[h->written[i] / 64] = 0;
    h->count = 0;
}

/* Returns: the instance's guest, between calls; or NULL with *rc. */
static struct guest *collect(struct history *h, struct instance *inst, int *rc)
{
    struct guest *g = instance_at_rest(inst);

    *rc = !g ? -EBUSY : !g->hv->collect ? -EOPNOTSUPP : g->snap != h->snap ? -EINVAL : 0;
    if (*rc == 0)
        *rc = g->hv->collect(g->machine, note_written, h);
    return *rc < 0 ? NULL : g;
}

int64_t history_written(struct history *h, struct instance *inst)
{
    int rc;

    return collect(h, inst, &rc) ? (int64_t)h->count : rc;
}

/* --- pages and books by key ----------------------------------------------------------------- */

static const uint8_t *memory_page(const struct history *h, const struct page_node *tree,
                                  uint32_t page)
{
    const uint8_t *data = page_tree_find(tree, page);

    return data ? data : h->snap->memory + (uint64_t)page * PAGE;
}

/* data: what key has; if that is new, the tree gets it. */
static int put_if_new(struct history *h, struct page_node **tree, uint32_t key, const uint8_t *data,
                      const uint8_t *old, uint64_t *pages)
{
    if (memcmp(data, old, PAGE) == 0)
        return 0;
    ++*pages;
    return page_tree_put(&h->store, tree, key, data);
}

static int put_memory(struct history *h, struct guest *g, struct page_node **tree, uint64_t *pages)
{
    _Alignas(8) uint8_t data[PAGE];

    for (uint32_t i = 0; i < h->count; i++) {
        uint32_t page = h->written[i];
        int rc = g->hv->mem_read(g->machine, (hl_gpa)page * PAGE, data, PAGE);

        if (rc == 0)
            rc = put_if_new(h, tree, page, data, memory_page(h, *tree, page), pages);
        if (rc < 0)
            return rc;
    }
    return 0;
}

static uint32_t book_key(unsigned int book, size_t chunk)
{
    return BOOKS_FIRST + book * BOOKS_STRIDE + (uint32_t)chunk;
}

/* A page of a book, as it was at the beginning or is now. */
static void book_page(const struct space *s, unsigned int book, size_t chunk, bool first,
                      uint8_t *data)
{
    size_t size, at = chunk * PAGE;
    const uint8_t *bytes = space_book(s, book, first, &size);
    size_t len = size - at < PAGE ? size - at : PAGE;

    memset(data, 0, PAGE);
    if (bytes)
        memcpy(data, bytes + at, len);
}

static size_t book_chunks(const struct space *s, unsigned int book)
{
    size_t size;

    space_book(s, book, true, &size);
    return (size + PAGE - 1) / PAGE;
}

static int put_books(struct history *h, struct guest *g, struct page_node **tree)
{
    _Alignas(8) uint8_t data[PAGE], first[PAGE];
    uint64_t pages = 0;
    int rc = 0;

    for (unsigned int book = 0; rc == 0 && book < SPACE_BOOKS; book++) {
        for (size_t i = 0; rc == 0 && i < book_chunks(&g->space, book); i++) {
            const uint8_t *old = page_tree_find(*tree, book_key(book, i));

            book_page(&g->space, book, i, false, data);
            if (!old)
                book_page(&g->space, book, i, true, first);
            rc = put_if_new(h, tree, book_key(book, i), data, old ? old : first, &pages);
        }
    }
    return rc;
}

int history_checkpoint(struct history *h, struct instance *inst, struct checkpoint **out,
                       uint64_t *pages, struct hl_error *err)
{
    struct checkpoint *c;
    struct guest *g;
    int rc;

    *out = NULL;
    *pages = 0;
    g = collect(h, inst, &rc);
    if (!g)
        return hl_error_wrap(err, rc, "checkpoint");
    c = page_store_alloc(&h->store, sizeof(*c));
    if (!c)
        return hl_error_set(err, -ENOMEM, "no memory for a checkpoint");
    c->tree = page_tree_ref(h->now);
    c->marks = space_marks(&g->space);
    c->world = g->world.at;
    rc = put_memory(h, g, &c->tree, pages);
    if (rc == 0 && g->space.changes != h->books)
        rc = put_books(h, g, &c->tree);
    if (rc < 0) {
        checkpoint_free(h, c);
        return rc == -ENOMEM ? hl_error_set(err, rc, "no memory for a checkpoint")
                             : hl_error_wrap(err, rc, "checkpoint");
    }
    page_tree_unref(&h->store, h->now);
    h->now = page_tree_ref(c->tree);
    h->books = g->space.changes;
    forget_written(h);
    *out = c;
    return 0;
}

/* --- back ----------------------------------------------------------------------------------- */

static void note_difference(void *opaque, uint32_t key)
{
    struct history *h = opaque;

    if (key < BOOKS_FIRST)
        note_written(h, key);
    else
        h->books_differ = true;
}

static int put_back_memory(struct history *h, struct guest *g, const struct page_node *tree,
                           uint64_t *pages)
{
    uint8_t data[PAGE];

    for (uint32_t i = 0; i < h->count; i++) {
        hl_gpa addr = (hl_gpa)h->written[i] * PAGE;
        const uint8_t *want = memory_page(h, tree, h->written[i]);
        int rc = g->hv->mem_read(g->machine, addr, data, PAGE);

        if (rc == 0 && memcmp(data, want, PAGE) != 0) {
            ++*pages;
            rc = g->hv->mem_write(g->machine, addr, want, PAGE);
        }
        if (rc < 0)
            return rc;
    }
    return 0;
}

uint8_t *checkpoint_book(const struct page_node *tree, const struct space *s, unsigned int book)
{
    size_t chunks = book_chunks(s, book);
    _Alignas(8) uint8_t *bytes = malloc(chunks * PAGE);

    for (size_t i = 0; bytes && i < chunks; i++) {
        const uint8_t *data = page_tree_find(tree, book_key(book, i));

        if (data)
            memcpy(bytes + i * PAGE, data, PAGE);
        else
            book_page(s, book, i, true, bytes + i * PAGE);
    }
    return bytes;
}

static int put_back_books(struct guest *g, const struct page_node *tree)
{
    uint8_t *books[SPACE_BOOKS] = {NULL};
    int rc = 0;

    for (unsigned int book = 0; rc == 0 && book < SPACE_BOOKS; book++) {
        books[book] = checkpoint_book(tree, &g->space, book);
        if (!books[book])
            rc = -ENOMEM;
    }
    if (rc == 0)
        rc = space_restore(&g->space, books);
    for (unsigned int book = 0; book < SPACE_BOOKS; book++)
        free(books[book]);
    return rc;
}

/* h->written has all that may differ. */
static int go_to(struct history *h, struct guest *g, const struct checkpoint *to, uint64_t *pages)
{
    struct page_node *tree = to ? to->tree : NULL;
    struct space_marks marks = to ? to->marks : space_first_marks(&g->space);
    int rc = put_back_memory(h, g, tree, pages);

    if (rc == 0 && (h->books_differ || g->space.changes != h->books))
        rc = put_back_books(g, tree);
    space_set_marks(&g->space, &marks);
    g->world.at = to ? to->world : (struct world_mark){0};
    /* What was written just now is known. */
    if (rc == 0)
        rc = g->hv->collect(g->machine, note_nothing, NULL);
    if (rc < 0)
        return rc;
    page_tree_ref(tree);
    page_tree_unref(&h->store, h->now);
    h->now = tree;
    h->books = g->space.changes;
    forget_written(h);
    return 0;
}

int history_rollback(struct history *h, struct instance *inst, const struct checkpoint *to,
                     uint64_t *pages, struct hl_error *err)
{
    struct guest *g;
    int rc;

    *pages = 0;
    g = collect(h, inst, &rc);
    if (g) {
        h->books_differ = false;
        page_tree_diff(h->now, to ? to->tree : NULL, note_difference, h);
        rc = go_to(h, g, to, pages);
    }
    if (rc == 0) {
        instance_put_back(inst);
        return 0;
    }
    instance_give_up(inst);
    return hl_error_wrap(err, rc, "rollback");
}

int history_move(struct history *h, struct instance *inst, const struct checkpoint *to,
                 uint64_t *pages, struct hl_error *err)
{
    forget_written(h);
    page_tree_unref(&h->store, h->now);
    h->now = NULL;
    h->books = 0;
    return history_rollback(h, inst, to, pages, err);
}
