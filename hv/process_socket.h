/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_HV_PROCESS_SOCKET_H
#define HL_HV_PROCESS_SOCKET_H

/* Datagrams with descriptors, and waits that end: for the worker and the nursery. */

#include <stddef.h>
#include <stdint.h>

/* How long a nursery or a zygote may take over one request before it counts as dead. */
#define PROCESS_PATIENCE_MS 3000

/* fds: up to two descriptors, borrowed; NULL when nfds is 0. Does not block. Returns: 0 or a
 * negative errno, -EPIPE when nobody is left to read. */
int process_send(int sock, const void *message, size_t len, const int *fds, size_t nfds);

/* Waits up to timeout_ms (-1: for ever). At most two descriptors go to fds, the rest of it -1, and
 * are the caller's; a message with others is refused and they are closed. fds NULL: none may come.
 * *len: room, then the length received. Returns: 0; -ETIMEDOUT; -EPIPE at the end; -EPROTO for a
 * message that is too long or brings other descriptors; another negative errno. */
int process_receive(int sock, void *message, size_t *len, int fds[2], int timeout_ms);

/* A pair whose ends close on exec. */
int process_socketpair(int ends[2]);

struct process_reply;

/* Receives a reply and checks it. Returns: 0 with reply->error 0 or negative; a negative errno. */
int process_receive_reply(int sock, struct process_reply *reply, int fds[2]);

/* "forking" and so on for enum process_step. Static strings. */
const char *process_step_name(uint32_t step);

#endif
