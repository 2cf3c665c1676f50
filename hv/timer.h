/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_HV_TIMER_H
#define HL_HV_TIMER_H

/*
 * What takes a thread out of a guest: one POSIX timer per thread (SIGEV_THREAD_ID) and one signal,
 * HV_KICK_SIGNAL, whose handler marks the run that the thread is in. The timer is armed only when
 * the wanted time is earlier than the one it is armed for, or when that one is near and was for an
 * earlier run; so a stream of short calls with the same time to each costs a system call now and
 * then, not one per call, and is not interrupted.
 *
 * A backend's run:
 *
 *   hv_kick_begin(kick, until_ns);
 *   do
 *       enter the guest; *flag makes that return at once
 *   while (it was interrupted && !hv_kick_due(kick));
 *   hv_kick_end(kick);
 *
 * Between begin and end the signal stores 1 in *flag when the run is due to end, and interrupts a
 * blocking system call. A call that cannot look at *flag after it has blocked has to wait with
 * HV_KICK_SIGNAL unmasked by the wait itself (ppoll). Outside, the signal does nothing and system
 * calls are restarted (SA_RESTART; epoll and poll return EINTR all the same).
 */

#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define HV_KICK_SIGNAL (SIGRTMIN + 3)

/* Installs the handler (once per process) and this thread's timer. Idempotent. Returns 0 or -errno.
 */
int hv_thread_init(void);
void hv_thread_fini(void);

uint64_t hv_now_ns(void); /* CLOCK_MONOTONIC */

/* One per machine. Owned by the machine's thread, but for hv_kick_send. */
struct hv_kick {
    volatile uint8_t *flag; /* borrowed; written by the owning thread alone */
    uint64_t until_ns;
    atomic_uint pending; /* a kick that no hv_kick_due has told yet */
    atomic_int thread;   /* the thread between begin and end, 0 for none */
};

/* Also forgets a kick that has not been told. */
void hv_kick_init(struct hv_kick *kick, volatile uint8_t *flag);

/* From any thread: the run in progress, or the next one, is due. */
void hv_kick_send(struct hv_kick *kick);

/* Clears *flag, or sets it when a kick is pending. A time already past is taken as one a few tens
 * of microseconds from now, so that every run gets somewhere unless it is kicked. */
void hv_kick_begin(struct hv_kick *kick, uint64_t until_ns);

/* Whether the run is to end: kicked, which is told once, or until_ns reached. When not, *flag is
 * clear again. */
bool hv_kick_due(struct hv_kick *kick);

void hv_kick_end(struct hv_kick *kick);

#endif
