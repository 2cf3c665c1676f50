/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_HV_CHECKPOINT_INTERNAL_H
#define HL_HV_CHECKPOINT_INTERNAL_H

/* What the files of hv/checkpoint.h share. */

#include "guest/hl_abi.h"
#include "hv/checkpoint.h"
#include "hv/page_tree.h"
#include "hv/snapshot_internal.h"
#include "hv/space.h"
#include "hv/world.h"

/* Keys of the books: one array after the other. */
#define BOOKS_FIRST  (uint32_t)(HV_MEMORY_MAX / HL_ABI_PAGE_SIZE)
#define BOOKS_STRIDE (uint32_t)(HV_MEMORY_MAX / HL_ABI_PAGE_SIZE / HL_ABI_PAGE_SIZE + 1)

_Static_assert(BOOKS_FIRST + SPACE_BOOKS * BOOKS_STRIDE <= PAGE_TREE_KEYS, "the books have keys");

struct history {
    struct page_store store;
    struct snapshot *snap;
    struct page_node *now;
    uint64_t books;    /* space.changes when the books were as in now */
    bool books_differ; /* between now and the version to go to */
    uint8_t *state;    /* the allocation behind the next two */
    size_t state_size;
    uint64_t *map;     /* one bit a page: it is in the list */
    uint32_t *written; /* pages */
    uint32_t count;
};

struct checkpoint {
    struct page_node *tree;
    struct space_marks marks;
    struct world_mark world;
};

/* The whole of a book as tree has it; s tells what it was at first. The caller frees it. */
uint8_t *checkpoint_book(const struct page_node *tree, const struct space *s, unsigned int book);

#endif
