/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_DAEMON_HOST_H
#define HL_DAEMON_HOST_H

/*
 * Host calls: what a guest asks of the world outside. Whatever the image's policy settles is
 * answered where the guest runs (host_here.c). The rest is somebody else's to answer: the call is
 * parked meanwhile, its instance on no thread, and goes on on its shard.
 */

#include <stdbool.h>
#include <stdint.h>

#include "hv/instance.h"
#include "proto/hl.pb-c.h"

struct call;
struct pooled;
struct shard;

/* ---- host_here.c: on whatever thread runs the guest ---- */

/* A call begins. */
void host_begin(struct pooled *p);

/* After INSTANCE_HOST_CALL. Returns: whether it is answered, and the guest can run on. */
bool host_answer_here(struct pooled *p);

/* A function that hld provides by itself and at once. Returns: whether it is one. */
bool host_builtin(struct pooled *p, const struct hl_host_function *function,
                  const struct instance_host_call *asked);

/* Answers with a failure. */
void host_refuse(struct instance *inst, enum hl_status status, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* ---- host.c: on the call's shard ---- */

/* A call that is running, whose guest made a host call that host_answer_here left: gives it to who
 * provides it. The call may be over afterwards. */
void host_park(struct call *call);

/* Each answers the host call of a parked call, which runs on then and may be over afterwards. */
void host_return(struct call *call, const struct hl_value *result);
void host_fail(struct call *call, enum hl_status status, int32_t code, const char *text);

/* What a provider answered. strict: a result that does not fit the function's type ends the call,
 * as an offence of its own client; else the guest gets INTERNAL. */
void host_take(struct call *call, const Hl__V1__HostReturn *answer, bool strict);

/* A parked call ends: whoever has its host call is told, or finds nobody waiting. */
void host_leave(struct call *call);

/* The time set for a parked call is over. Returns: whether that was its provider's alone; the call
 * runs on then. */
bool host_expire(struct call *call, uint64_t now_ns);

/* The next of the calls that were answered at once. Returns: whether there was one. */
bool host_resume_next(struct shard *shard);

/* asked as a message, in out; valid as long as both are. Returns: 0, or what convert_to_proto does.
 */
struct host_call_message {
    Hl__V1__HostCall call;
    Hl__V1__Value values[HL_MAX_PARAMS];
    Hl__V1__Value *pointers[HL_MAX_PARAMS];
};
int host_call_to_message(struct host_call_message *out, const struct call *call,
                         const struct instance_host_call *asked);

#endif
