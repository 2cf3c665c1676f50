/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_HV_TIMER_H
#define HL_HV_TIMER_H

/*
 * What takes a thread out of a guest: one POSIX timer per thread (SIGEV_THREAD_ID) and one signal,
 * HV_KICK_SIGNAL, whose handler marks the machine the thread is running. The timer is armed only
 * when the wanted time is earlier than the one it is armed for, so a stream of short calls with the
 * same deadline costs a system call now and then and not one per call.
 */

#include <stdint.h>

#include "hv/backend.h"

#define HV_KICK_SIGNAL (SIGRTMIN + 3)

/* Installs the handler (once per process) and this thread's timer. Idempotent. Returns 0 or -errno.
 */
int hv_thread_init(void);
void hv_thread_fini(void);

uint64_t hv_now_ns(void); /* CLOCK_MONOTONIC */

#endif
