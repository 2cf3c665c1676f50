/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Add, look, take back: a charge first adds itself and withdraws when that went past the limit, so
 * two threads at the edge may both be refused but never both be let in.
 */
#include "daemon/budget.h"

void budget_init(struct budget *budget)
{
    for (int i = 0; i < BUDGET_KINDS; i++) {
        atomic_init(&budget->used[i], 0);
        atomic_init(&budget->limit[i], UINT64_MAX / 2);
    }
}

void budget_set_limit(struct budget *budget, enum budget_kind kind, uint64_t limit)
{
    if (limit > UINT64_MAX / 2)
        limit = UINT64_MAX / 2;
    atomic_store_explicit(&budget->limit[kind], limit, memory_order_relaxed);
}

uint64_t budget_used(struct budget *budget, enum budget_kind kind)
{
    return atomic_load_explicit(&budget->used[kind], memory_order_relaxed);
}

bool charge_set(struct charge *charge, struct budget *budget, enum budget_kind kind,
                uint64_t amount)
{
    uint64_t old = charge->budget ? charge->amount : 0;

    if (amount < old) {
        atomic_fetch_sub_explicit(&budget->used[kind], old - amount, memory_order_relaxed);
    } else if (amount > old) {
        uint64_t more = amount - old;
        uint64_t limit = atomic_load_explicit(&budget->limit[kind], memory_order_relaxed);

        if (more > limit)
            return false;
        if (atomic_fetch_add_explicit(&budget->used[kind], more, memory_order_relaxed) >
            limit - more) {
            atomic_fetch_sub_explicit(&budget->used[kind], more, memory_order_relaxed);
            return false;
        }
    }
    *charge = (struct charge){.budget = budget, .kind = kind, .amount = amount};
    return true;
}

void charge_release(struct charge *charge)
{
    if (charge->budget)
        atomic_fetch_sub_explicit(&charge->budget->used[charge->kind], charge->amount,
                                  memory_order_relaxed);
    *charge = (struct charge){0};
}
