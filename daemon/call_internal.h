/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_DAEMON_CALL_INTERNAL_H
#define HL_DAEMON_CALL_INTERNAL_H

/* What the call*.c files share: inside of call.h. */

#include "daemon/arguments.h"
#include "daemon/call.h"
#include "daemon/stats.h"
#include "hv/instance.h"

/* call.c */
void call_move(struct call *call, enum call_state to);
bool call_set_deadline(struct call *call); /* returns: whether it is still to come */

/* Gives the call's arguments to its instance, and has it run: here, or where there is more time. */
void call_start(struct call *call, const struct arguments *arguments);

/* A running call whose guest was outside runs on, here or where there is more time. */
void call_run_on(struct call *call);

/* Whether it may be made, and with which function and arguments; none where it opens a session. Its
 * program is there. Returns: 0 or a negative errno. */
int call_arguments(const struct call *call, struct arguments *out, struct hl_error *err);

/* call_end.c */

struct call *call_alloc(struct shard *shard); /* all zero, or NULL */

/* Its guest has left a result, at now. */
void call_done(struct call *call, uint64_t now);
void call_end_failure(struct call *call, const struct instance_failure *failure, uint64_t now);

/* Ends it with this answer; whatever instance it had is somebody else's. */
void call_end_message(struct call *call, const ProtobufCMessage *message);

/* Each ends the call with a status. What instance it has is in the middle of a call, so it goes. */
void call_end_with(struct call *call, enum counter stat, enum hl_status status, const char *text);
void call_end_deadline(struct call *call);
void call_end_error(struct call *call, int code, const struct hl_error *err);

/* call_queue.c */

/* It has to wait: for its pool's program, or for an instance. Refused past a bound. */
void call_wait(struct call *call, const struct request *request);
void call_leave_queue(struct call *call); /* of a call that waits */
int call_keep_request(struct call *call, const struct request *request);
void call_drop_request(struct call *call);

/* call_session.c */
void call_open(struct call *call); /* it has its instance */
void call_begin_in_session(struct call *call, const struct request *request);
void call_leave_session(struct call *call);            /* of one that waits for it */
void call_blame(struct call *call, enum counter stat); /* how it ends; no-op outside a session */

#endif
