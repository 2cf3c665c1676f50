/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_DAEMON_MAILBOX_H
#define HL_DAEMON_MAILBOX_H

/*
 * The one way from thread to thread: any thread posts, the owner's loop delivers, in the order of
 * arrival. A mail is part of whatever is sent and belongs to the receiver from the post on.
 */

#include <stdatomic.h>
#include <uv.h>

struct mail {
    struct mail *next;
    void (*deliver)(struct mail *mail, void *owner);
};

struct mailbox {
    _Atomic(struct mail *) head; /* newest first */
    uv_async_t async;
    void *owner;
    void (*on_mail)(void *owner); /* before mails are delivered; may be NULL */
};

/* On the owner's thread, or before it runs. Returns: 0 or a negative errno. */
int mailbox_init(struct mailbox *box, uv_loop_t *loop, void *owner, void (*on_mail)(void *owner));

void mailbox_post(struct mailbox *box, struct mail *mail,
                  void (*deliver)(struct mail *mail, void *owner));

/* On the owner's thread: delivers what is there, without waiting for the loop to look. */
void mailbox_check(struct mailbox *box);

/* On the owner's thread, when nobody posts any more. Delivers what is left first. */
void mailbox_close(struct mailbox *box);

#endif
