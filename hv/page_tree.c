/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A radix tree whose nodes are counted references. Putting a page copies the nodes on the way to it
 * that other versions have as well, and changes in place those that this version has alone; so a
 * version costs the pages that it changed and a few nodes for each, whatever came before, and
 * versions form a tree or a line without knowing of each other: any of them can go at any time.
 * Where two versions share a node they are the same below it, which is why a difference costs what
 * differs.
 *
 * Pages of zeros are all one page that is not counted.
 */
#include "config.h"

#include "hv/page_tree.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "hv/snapshot_internal.h"

#define BITS   4u
#define FANOUT (1u << BITS)
#define LEVELS 5u

#define CHARGE_STEP (64u << 10)
#define BLOCK_COST  16u /* what an allocation costs beside itself */

_Static_assert(1u << (BITS * LEVELS) == PAGE_TREE_KEYS, "every key has a place");

struct page_copy {
    uint64_t refs;
    uint8_t data[HL_ABI_PAGE_SIZE];
};

struct page_node {
    uint64_t refs;
    void *child[FANOUT]; /* nodes; pages on the lowest level */
};

static struct page_copy zero_page;

static uint64_t step_up(uint64_t bytes)
{
    return (bytes + CHARGE_STEP - 1) / CHARGE_STEP * CHARGE_STEP;
}

void *page_store_alloc(struct page_store *store, uint64_t size)
{
    uint64_t bytes = store->bytes + size + BLOCK_COST;
    void *p;

    if (bytes > store->charged) {
        if (store->charge && !store->charge(store->opaque, step_up(bytes)))
            return NULL;
        store->charged = step_up(bytes);
    }
    p = calloc(1, size);
    if (p)
        store->bytes = bytes;
    return p;
}

void page_store_free(struct page_store *store, void *p, uint64_t size)
{
    if (!p)
        return;
    free(p);
    store->bytes -= size + BLOCK_COST;
    if (store->charged - step_up(store->bytes) < 2 * CHARGE_STEP && store->bytes > 0)
        return;
    store->charged = step_up(store->bytes);
    if (store->charge)
        (void)store->charge(store->opaque, store->charged);
}

static void page_unref(struct page_store *store, struct page_copy *page)
{
    if (page && page != &zero_page && --page->refs == 0)
        page_store_free(store, page, sizeof(*page));
}

static struct page_copy *page_ref(struct page_copy *page)
{
    if (page && page != &zero_page)
        page->refs++;
    return page;
}

struct page_node *page_tree_ref(struct page_node *tree)
{
    if (tree)
        tree->refs++;
    return tree;
}

static void node_unref(struct page_store *store, struct page_node *node, unsigned int level)
{
    if (!node || --node->refs > 0)
        return;
    for (unsigned int i = 0; i < FANOUT; i++) {
        if (level == 0)
            page_unref(store, node->child[i]);
        else
            node_unref(store, node->child[i], level - 1);
    }
    page_store_free(store, node, sizeof(*node));
}

void page_tree_unref(struct page_store *store, struct page_node *tree)
{
    node_unref(store, tree, LEVELS - 1);
}

static unsigned int slot(uint32_t key, unsigned int level)
{
    return key >> (level * BITS) & (FANOUT - 1);
}

const uint8_t *page_tree_find(const struct page_node *tree, uint32_t key)
{
    const struct page_node *node = tree;
    const struct page_copy *page;

    for (unsigned int level = LEVELS - 1; node && level > 0; level--)
        node = node->child[slot(key, level)];
    page = node ? node->child[slot(key, 0)] : NULL;
    return page ? page->data : NULL;
}

/* Makes the node at *at one that this version has alone. */
static int own_node(struct page_store *store, struct page_node **at, unsigned int level)
{
    struct page_node *old = *at, *node;

    if (old && old->refs == 1)
        return 0;
    node = page_store_alloc(store, sizeof(*node));
    if (!node)
        return -ENOMEM;
    node->refs = 1;
    for (unsigned int i = 0; old && i < FANOUT; i++)
        node->child[i] =
            level == 0 ? (void *)page_ref(old->child[i]) : (void *)page_tree_ref(old->child[i]);
    node_unref(store, old, level);
    *at = node;
    return 0;
}

int page_tree_put(struct page_store *store, struct page_node **tree, uint32_t key,
                  const uint8_t *data)
{
    struct page_node **at = tree;
    struct page_copy *page = &zero_page;

    if (key >= PAGE_TREE_KEYS)
        return -EINVAL;
    for (unsigned int level = LEVELS - 1;; level--) {
        int rc = own_node(store, at, level);

        if (rc < 0)
            return rc;
        if (level == 0)
            break;
        at = (struct page_node **)&(*at)->child[slot(key, level)];
    }
    if (!snapshot_page_is_zero(data)) {
        page = page_store_alloc(store, sizeof(*page));
        if (!page)
            return -ENOMEM;
        page->refs = 1;
        memcpy(page->data, data, sizeof(page->data));
    }
    page_unref(store, (*at)->child[slot(key, 0)]);
    (*at)->child[slot(key, 0)] = page;
    return 0;
}

struct diff {
    void (*differs)(void *opaque, uint32_t key);
    void *opaque;
};

static void diff_nodes(const struct diff *diff, const struct page_node *a,
                       const struct page_node *b, unsigned int level, uint32_t prefix)
{
    if (a == b)
        return;
    for (unsigned int i = 0; i < FANOUT; i++) {
        const void *of_a = a ? a->child[i] : NULL, *of_b = b ? b->child[i] : NULL;
        uint32_t key = prefix << BITS | i;

        if (of_a == of_b)
            continue;
        if (level == 0)
            diff->differs(diff->opaque, key);
        else
            diff_nodes(diff, of_a, of_b, level - 1, key);
    }
}

void page_tree_diff(const struct page_node *a, const struct page_node *b,
                    void (*differs)(void *opaque, uint32_t key), void *opaque)
{
    const struct diff diff = {.differs = differs, .opaque = opaque};

    diff_nodes(&diff, a, b, LEVELS - 1, 0);
}
