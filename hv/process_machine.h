/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_HV_PROCESS_MACHINE_H
#define HL_HV_PROCESS_MACHINE_H

/* A machine of the process backend, the worker's side of it. For hv/process*.c alone. */

#include <pthread.h>
#include <stdatomic.h>

#include "hv/backend.h"
#include "hv/process_wire.h"
#include "hv/snapshot.h"

struct zygote {
    struct zygote *next;
    struct snapshot *snap; /* the reference keeps the pointer from being used again */
    int sock;
    unsigned int users; /* machines; the last one ends it */
    bool dead;          /* no new users */
};

struct hv_host {
    int nursery_fd;
    pthread_mutex_t mutex; /* the list and all in it; machines hold users, so a zygote they have
                              stays */
    struct zygote *zygotes;
};

enum process_state {
    PROCESS_UNBOUND = 0,
    PROCESS_STARTING, /* asked for, its first message not read yet */
    PROCESS_FRESH,    /* no guest code has run: the next run starts it */
    PROCESS_WAITING,  /* reported an exit, waits for the answer */
    PROCESS_RUNNING,  /* in the guest; stopped if KICKED */
    PROCESS_OVER,     /* faulted, gone, or not to be trusted with another answer */
};

#define PROCESS_BULK_MAX HL_ABI_MAX_PARAMS

struct hv_machine {
    struct hv_host *host;
    uint64_t slot_size;
    struct snapshot *snap;
    struct zygote *zygote;
    enum process_state state;
    bool stopped;
    bool progress;        /* guest code ran since the last KICKED */
    int sock, mem, pidfd; /* of the guest process, -1 while there is none */
    int kick_fd;          /* eventfd */
    atomic_bool kicked;
    uint8_t *window; /* shared with the guest process */
    int window_fd;   /* until the process has it, else -1 */
    uint64_t io_size;
    struct hv_regs regs; /* as last reported, or the snapshot's; rax is what set_return gave */
    uint8_t *prot;       /* once a call has changed permissions: one enum hv_prot a page */
    struct process_bulk {
        hl_gpa start, end;
    } bulk[PROCESS_BULK_MAX]; /* whole pages, ascending */
    unsigned int nbulk;
};

/* A guest process of m->snap in the place of any that m has. wait: come back when it is FRESH;
 * otherwise it may still be STARTING. */
int process_start(struct hv_machine *m, bool wait, struct hl_error *err);

/* STARTING to FRESH. Returns: 0 in any later state, or a negative errno. */
int process_await(struct hv_machine *m, struct hl_error *err);

/* Kills the process and closes what belongs to it. The window stays. */
void process_end(struct hv_machine *m);

/* Forgets the machine's zygote. */
void process_leave_zygote(struct hv_machine *m);

/* One answer to m's process, with a descriptor (borrowed) or -1. A process that is gone is none of
 * its errors; it shows as that at the next run. */
int process_tell(struct hv_machine *m, const struct process_answer *answer, int fd);

/* hv/process_bulk.c: the entry of the table. 0 means that the process was told: if it cannot map
 * the file, it has ended by the next run. */
int process_attach(struct hv_machine *m, hl_gpa addr, int fd, uint64_t len);

/* Takes all files away. Returns: 0, or a negative errno after which m can only be freed. */
int process_detach(struct hv_machine *m);

/* Whether addr is on a page of a file. */
bool process_is_attached(const struct hv_machine *m, hl_gpa addr);

/* hv/process_audit.c: those entries of the table. */
int process_audit(struct hv_machine *m, struct hl_error *err);
int process_measure_entry(struct hv_host *host, unsigned int n, uint32_t *ns, struct hl_error *err);

#endif
