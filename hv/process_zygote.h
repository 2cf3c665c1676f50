/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_HV_PROCESS_ZYGOTE_H
#define HL_HV_PROCESS_ZYGOTE_H

/* How a freshly forked child of the nursery becomes a zygote. */

#include <stddef.h>

#include "hv/process_wire.h"

/* request: len bytes as received, not checked yet. sock: the zygote's end, memfd: the snapshot's
 * memory, proc: a directory descriptor of /proc. Never returns: on failure a reply goes to sock and
 * the process ends. */
void process_zygote_become(const struct process_request *request, size_t len, int sock, int memfd,
                           int proc) __attribute__((noreturn));

/* The part that can be tested: whether a request's numbers hold together. Returns: 0 or -EINVAL. */
int process_request_check(const struct process_request *request, size_t len);

/* The system calls a guest process keeps. Fills insns, room for PROCESS_FILTER_MAX. Returns: how
 * many. */
size_t process_filter(struct sock_filter *insns);

#endif
