/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_DAEMON_CONTROL_H
#define HL_DAEMON_CONTROL_H

/*
 * Packets of the control channel between hld and a worker (control.proto). One message a packet, at
 * most one descriptor beside it. Descriptors are received close-on-exec; surplus ones are closed
 * and the packet is refused.
 */

#include <protobuf-c/protobuf-c.h>

#define CONTROL_PACKET_MAX 65536u

/* Of one worker, without a reply. The front reads nothing of a worker that has as many; one that
 * sent more would keep it from its counts of connections too. */
#define CONTROL_REQUESTS_MAX 16u

/* The file of a snapshot, or of what a state consists of: all the memory that a guest may have, and
 * the tables before it. */
#define CONTROL_SNAPSHOT_MAX ((1ull << 30) + (1u << 20))

/* Sends without blocking if fd is non-blocking. passed_fd: borrowed, -1 for none.
 * Returns: 0, -EMSGSIZE, -EAGAIN, or another negative errno. */
int control_send(int fd, const ProtobufCMessage *message, int passed_fd);

/* The same with a message packed already, for queues. */
int control_send_packed(int fd, const void *packed, size_t size, int passed_fd);

/* *message: a ToWorker or ToFront as type says, freed with protobuf_c_message_free_unpacked(…,
 * NULL). *passed_fd: the caller's to close; -1 when none came, or when no number was free for it.
 * Returns: 1 with a message; 0 at the peer's end; -EAGAIN; -EBADMSG for a packet that is no such
 * message; another negative errno. */
int control_recv(int fd, const ProtobufCMessageDescriptor *type, ProtobufCMessage **message,
                 int *passed_fd);

#endif
