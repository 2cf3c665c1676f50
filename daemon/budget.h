/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_DAEMON_BUDGET_H
#define HL_DAEMON_BUDGET_H

/*
 * What a worker as a whole may hold: VMs, guest memory, bytes kept for clients. Whoever holds some
 * of it holds a charge, and giving the charge back is the only way to free it. Any thread.
 */

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum budget_kind {
    BUDGET_VMS,
    BUDGET_GUEST_MEMORY,
    BUDGET_PROGRAMS,     /* bytes of programs and their snapshots */
    BUDGET_CLIENT_BYTES, /* read and write buffers, waiting requests, uploads */
    BUDGET_BULK,         /* bytes of calls' descriptors */
    BUDGET_DESCRIPTORS,  /* those, and what came on connections and is not taken yet */
    BUDGET_KINDS,
};

struct budget {
    _Atomic uint64_t used[BUDGET_KINDS];
    _Atomic uint64_t limit[BUDGET_KINDS];
};

struct charge {
    struct budget *budget; /* NULL: nothing charged */
    enum budget_kind kind;
    uint64_t amount;
};

void budget_init(struct budget *budget);
void budget_set_limit(struct budget *budget, enum budget_kind kind, uint64_t limit);
uint64_t budget_used(struct budget *budget, enum budget_kind kind);

/* Makes charge amount units, up or down from what it was. Returns: false, with charge as it was,
 * past the limit. Down never fails. */
bool charge_set(struct charge *charge, struct budget *budget, enum budget_kind kind,
                uint64_t amount);
void charge_release(struct charge *charge); /* may be called twice */

#endif
