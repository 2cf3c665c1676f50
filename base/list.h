/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_BASE_LIST_H
#define HL_BASE_LIST_H

/*
 * A doubly linked list whose links stand in the members. A list head and an unlinked member both
 * point to themselves, so that removing twice is harmless. Owned by whoever owns the head.
 */

#include <stdbool.h>
#include <stddef.h>

struct list {
    struct list *next, *prev;
};

#define LIST_ENTRY(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))

/* The body may remove the current member. */
#define LIST_FOREACH(it, head)                                                                     \
    for (struct list *it = (head)->next, *it##_next = it->next; it != (head);                      \
         it = it##_next, it##_next = it->next)

static inline void list_init(struct list *l)
{
    l->next = l->prev = l;
}

static inline bool list_empty(const struct list *l)
{
    return l->next == l;
}

static inline void list_push_back(struct list *head, struct list *l)
{
    l->next = head;
    l->prev = head->prev;
    head->prev->next = l;
    head->prev = l;
}

static inline void list_push_front(struct list *head, struct list *l)
{
    list_push_back(head->next, l);
}

static inline void list_remove(struct list *l)
{
    l->prev->next = l->next;
    l->next->prev = l->prev;
    list_init(l);
}

/* Returns: the first member, unlinked, or NULL. */
static inline struct list *list_pop_front(struct list *head)
{
    struct list *l = head->next;

    if (l == head)
        return NULL;
    list_remove(l);
    return l;
}

#endif
