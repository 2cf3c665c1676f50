/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The mailbox, with several threads posting at once: everything arrives, once, and in order for
 * each sender. Then the other two small structures that the engine rests on: deadlines and budgets.
 */
#include "config.h"

#include <check.h>
#include <pthread.h>
#include <stdlib.h>

#include "base/list.h"
#include "daemon/budget.h"
#include "daemon/deadlines.h"
#include "daemon/mailbox.h"
#include "tests/unit/tests_run.h"

#define SENDERS 4
#define MAILS   5000

struct letter {
    struct mail mail;
    int sender, number;
};

struct receiver {
    struct mailbox box;
    int next[SENDERS];
    int total;
    bool disorder;
};

struct sender {
    struct receiver *receiver;
    int index;
};

static void on_letter(struct mail *mail, void *owner)
{
    struct letter *letter = LIST_ENTRY(mail, struct letter, mail);
    struct receiver *receiver = owner;

    if (letter->number != receiver->next[letter->sender]++)
        receiver->disorder = true;
    if (++receiver->total == SENDERS * MAILS)
        mailbox_close(&receiver->box);
    free(letter);
}

static void *send_all(void *opaque)
{
    struct sender *sender = opaque;

    for (int i = 0; i < MAILS; i++) {
        struct letter *letter = malloc(sizeof(*letter));

        letter->sender = sender->index;
        letter->number = i;
        mailbox_post(&sender->receiver->box, &letter->mail, on_letter);
    }
    return NULL;
}

START_TEST(test_many_senders)
{
    struct receiver receiver = {0};
    struct sender senders[SENDERS];
    pthread_t threads[SENDERS];
    uv_loop_t loop;

    ck_assert_int_eq(uv_loop_init(&loop), 0);
    ck_assert_int_eq(mailbox_init(&receiver.box, &loop, &receiver, NULL), 0);
    for (int i = 0; i < SENDERS; i++) {
        senders[i] = (struct sender){&receiver, i};
        pthread_create(&threads[i], NULL, send_all, &senders[i]);
    }
    uv_run(&loop, UV_RUN_DEFAULT);
    for (int i = 0; i < SENDERS; i++)
        pthread_join(threads[i], NULL);
    ck_assert_int_eq(receiver.total, SENDERS * MAILS);
    ck_assert(!receiver.disorder);
    ck_assert_int_eq(uv_loop_close(&loop), 0);
}
END_TEST

/* What was posted before the close is delivered by it. */
START_TEST(test_close_delivers)
{
    struct receiver receiver = {0};
    uv_loop_t loop;

    uv_loop_init(&loop);
    mailbox_init(&receiver.box, &loop, &receiver, NULL);
    for (int i = 0; i < 3; i++) {
        struct letter *letter = calloc(1, sizeof(*letter));

        letter->number = i;
        mailbox_post(&receiver.box, &letter->mail, on_letter);
    }
    mailbox_close(&receiver.box);
    ck_assert_int_eq(receiver.total, 3);
    uv_run(&loop, UV_RUN_DEFAULT);
    ck_assert_int_eq(uv_loop_close(&loop), 0);
}
END_TEST

START_TEST(test_deadlines)
{
    static struct deadline entries[500];
    struct deadlines d = {0};
    struct deadline *first;
    uint64_t last = 0;
    int left = 0;

    srand(7);
    for (int i = 0; i < 500; i++)
        ck_assert_int_eq(deadlines_add(&d, &entries[i], (uint64_t)rand() % 1000), 0);
    for (int i = 0; i < 500; i += 3)
        deadlines_remove(&d, &entries[i]);
    deadlines_remove(&d, &entries[0]);                         /* twice is harmless */
    ck_assert_int_eq(deadlines_add(&d, &entries[1], 2000), 0); /* moved */
    while ((first = deadlines_first(&d))) {
        ck_assert_uint_ge(first->at_ns, last);
        last = first->at_ns;
        deadlines_remove(&d, first);
        left++;
    }
    ck_assert_int_eq(left, 500 - 167);
    ck_assert_uint_eq(last, 2000);
    deadlines_fini(&d);
}
END_TEST

START_TEST(test_budget)
{
    struct budget budget;
    struct charge a = {0}, b = {0};

    budget_init(&budget);
    budget_set_limit(&budget, BUDGET_VMS, 10);
    ck_assert(charge_set(&a, &budget, BUDGET_VMS, 6));
    ck_assert(!charge_set(&b, &budget, BUDGET_VMS, 5));
    ck_assert_uint_eq(budget_used(&budget, BUDGET_VMS), 6);
    ck_assert(charge_set(&b, &budget, BUDGET_VMS, 4));
    ck_assert(!charge_set(&a, &budget, BUDGET_VMS, 7));
    ck_assert(charge_set(&a, &budget, BUDGET_VMS, 5));
    ck_assert(charge_set(&b, &budget, BUDGET_VMS, 5));
    budget_set_limit(&budget, BUDGET_VMS, 3); /* less than is used: nothing more, down always */
    ck_assert(!charge_set(&a, &budget, BUDGET_VMS, 6));
    ck_assert(charge_set(&a, &budget, BUDGET_VMS, 1));
    charge_release(&a);
    charge_release(&a);
    charge_release(&b);
    ck_assert_uint_eq(budget_used(&budget, BUDGET_VMS), 0);
}
END_TEST

int main(void)
{
    TCase *tc = tcase_create("mailbox");

    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, test_many_senders);
    tcase_add_test(tc, test_close_delivers);
    tcase_add_test(tc, test_deadlines);
    tcase_add_test(tc, test_budget);
    return tests_run(tc, "mailbox");
}
