/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A stack that many threads push to by compare-and-swap and that the owner takes whole and turns
 * round: no lock, no ABA trouble since nothing is ever popped singly, and the owner is woken only
 * by the post that found the stack empty.
 */
#include "daemon/mailbox.h"

static void deliver_all(struct mailbox *box)
{
    struct mail *mail = atomic_exchange_explicit(&box->head, NULL, memory_order_acquire);
    struct mail *oldest = NULL;

    if (mail && box->on_mail)
        box->on_mail(box->owner);
    while (mail) {
        struct mail *next = mail->next;

        mail->next = oldest;
        oldest = mail;
        mail = next;
    }
    while (oldest) {
        struct mail *next = oldest->next; /* the receiver may free it */

        oldest->deliver(oldest, box->owner);
        oldest = next;
    }
}

static void on_async(uv_async_t *async)
{
    deliver_all(async->data);
}

int mailbox_init(struct mailbox *box, uv_loop_t *loop, void *owner, void (*on_mail)(void *owner))
{
    atomic_init(&box->head, NULL);
    box->owner = owner;
    box->on_mail = on_mail;
    box->async.data = box;
    return uv_async_init(loop, &box->async, on_async);
}

void mailbox_post(struct mailbox *box, struct mail *mail,
                  void (*deliver)(struct mail *mail, void *owner))
{
    struct mail *head = atomic_load_explicit(&box->head, memory_order_relaxed);

    mail->deliver = deliver;
    do {
        mail->next = head;
    } while (!atomic_compare_exchange_weak_explicit(&box->head, &head, mail, memory_order_release,
                                                    memory_order_relaxed));
    if (!head)
        uv_async_send(&box->async);
}

void mailbox_check(struct mailbox *box)
{
    if (atomic_load_explicit(&box->head, memory_order_relaxed))
        deliver_all(box);
}

void mailbox_close(struct mailbox *box)
{
    deliver_all(box);
    uv_close((uv_handle_t *)&box->async, NULL);
}
