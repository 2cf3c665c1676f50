/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_TESTS_FAKE_FAKE_INTERNAL_H
#define HL_TESTS_FAKE_FAKE_INTERNAL_H

/* Shared by the machine (fake.c) and the built-in guest (guest.c). */

#include <pthread.h>

#include "guest/hl_abi.h"
#include "hv/snapshot.h"
#include "tests/fake/fake.h"

enum fake_phase {
    FAKE_AT_START, /* before READY */
    FAKE_IN_CALL,  /* READY has returned, or will at the next run */
};

struct fake_file {
    hl_gpa addr;
    uint8_t *data;
    uint64_t len;
};

struct hv_machine {
    uint8_t *memory;
    uint64_t slot_size, size, io_size;
    struct snapshot *snap;
    uint8_t *prot;      /* of the bound snapshot, as changed */
    uint64_t *by_guest; /* dirty pages, one bit each */
    uint64_t *by_host;  /* likewise */
    uint64_t *ever;     /* either, since bind */
    uint64_t *since;    /* either, since bind or the last collect */
    bool prot_changed;
    enum fake_phase phase;
    unsigned int step;
    uint64_t wake_ns; /* of delay; of hold: not 0 once it has begun */
    uint64_t returned, fs_base;
    uint64_t sum;                              /* of host_calls */
    struct fake_file files[HL_ABI_MAX_PARAMS]; /* attached */
    unsigned int nfiles;
    pthread_mutex_t lock;
    pthread_cond_t cond;
    bool kicked;
};

uint64_t fake_now_ns(void);

/* A run of hold(). Returns: whether the call is over. */
bool fake_hold_call(struct hv_machine *m, uint64_t until_ns);

int fake_guest_call(struct hv_machine *m, uint64_t until_ns, struct hv_exit *exit);

#endif
