/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_HV_PAGE_TREE_H
#define HL_HV_PAGE_TREE_H

/*
 * Versions of a memory: maps from page numbers to copies of pages, which share what they have in
 * common. A version never changes once another one was made from it. Trees of one store belong to
 * one thread at a time.
 */

#include <stdbool.h>
#include <stdint.h>

#include "guest/hl_abi.h"

#define PAGE_TREE_KEYS (1u << 20)

struct page_node; /* a version; NULL is the empty one */

/* What all versions together take, charged before it is allocated. */
struct page_store {
    bool (*charge)(void *opaque, uint64_t bytes); /* makes it bytes in all; down never fails */
    void *opaque;
    uint64_t bytes, charged;
};

/* Memory charged to the store. Returns: NULL when the charge is refused or there is none. */
void *page_store_alloc(struct page_store *store, uint64_t size);
void page_store_free(struct page_store *store, void *p, uint64_t size); /* NULL is allowed */

struct page_node *page_tree_ref(struct page_node *tree);
void page_tree_unref(struct page_store *store, struct page_node *tree);

/* Returns: HL_ABI_PAGE_SIZE bytes, good as long as tree is, or NULL. */
const uint8_t *page_tree_find(const struct page_node *tree, uint32_t key);

/* Makes *tree, a reference of the caller's, the version in which key has a copy of data. Returns:
 * 0; -ENOMEM with *tree a version that is as before or has less shared, but equal. */
int page_tree_put(struct page_store *store, struct page_node **tree, uint32_t key,
                  const uint8_t *data);

/* Calls differs for each key whose pages are not one and the same copy in both; they may be equal
 * all the same. Costs what differs, not what there is. */
void page_tree_diff(const struct page_node *a, const struct page_node *b,
                    void (*differs)(void *opaque, uint32_t key), void *opaque);

#endif
