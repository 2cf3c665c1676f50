/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A root lives as long as a program's snapshot refers to it; those that nobody refers to any more
 * go when the next is asked for, or room is wanted. It is charged here, once, and not with the
 * programs that share it.
 */
#include "config.h"

#include "daemon/roots.h"

#include <stdlib.h>
#include <string.h>

struct root {
    struct list link;
    uint8_t sha256[ROOT_DIGEST_SIZE];
    struct snapshot *snap; /* NULL while it is loaded */
    struct list waiting;   /* struct root_user */
    struct charge memory;
};

static void root_free(struct root *root)
{
    list_remove(&root->link);
    snapshot_unref(root->snap);
    charge_release(&root->memory);
    free(root);
}

void roots_init(struct roots *roots, struct budget *budget)
{
    list_init(&roots->list);
    roots->budget = budget;
}

void roots_fini(struct roots *roots)
{
    while (!list_empty(&roots->list))
        root_free(LIST_ENTRY(roots->list.next, struct root, link));
}

void roots_drop_unused(struct roots *roots)
{
    struct list *next;

    for (struct list *l = roots->list.next; l != &roots->list; l = next) {
        struct root *root = LIST_ENTRY(l, struct root, link);

        next = l->next;
        if (root->snap && !snapshot_is_shared(root->snap))
            root_free(root);
    }
}

static struct root *find(struct roots *roots, const uint8_t sha256[ROOT_DIGEST_SIZE])
{
    LIST_FOREACH(l, &roots->list)
    {
        struct root *root = LIST_ENTRY(l, struct root, link);

        if (memcmp(root->sha256, sha256, sizeof(root->sha256)) == 0)
            return root;
    }
    return NULL;
}

void roots_want(struct roots *roots, struct root_user *user)
{
    struct root *root;

    list_init(&user->link);
    roots_drop_unused(roots);
    root = find(roots, user->sha256);
    if (root && root->snap) {
        user->go(user, snapshot_ref(root->snap));
        return;
    }
    if (root) {
        list_push_back(&root->waiting, &user->link);
        return;
    }
    root = calloc(1, sizeof(*root)); /* without it each loads its own */
    if (root) {
        memcpy(root->sha256, user->sha256, sizeof(root->sha256));
        list_init(&root->waiting);
        list_push_back(&roots->list, &root->link);
    }
    user->go(user, NULL);
}

void roots_loaded(struct roots *roots, const struct root_user *user, struct snapshot *snap)
{
    struct root *root = find(roots, user->sha256);
    struct list waiting, *l;

    if (!root || root->snap)
        return;
    list_init(&waiting);
    while ((l = list_pop_front(&root->waiting)))
        list_push_back(&waiting, l);
    if (snap && charge_set(&root->memory, roots->budget, BUDGET_PROGRAMS, snapshot_resident(snap)))
        root->snap = snapshot_ref(snap);
    else
        root_free(root);
    while ((l = list_pop_front(&waiting)))
        roots_want(roots, LIST_ENTRY(l, struct root_user, link));
}
