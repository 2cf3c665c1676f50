/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_DAEMON_KV_H
#define HL_DAEMON_KV_H

/* hl.kv in the worker: the store is the front's (front_kv.c), and asked over the control channel.
 */

#include "base/error.h"

struct call;
struct instance_host_call;
struct kv_request;

/* On the call's shard: gives the host call of a call that is being parked to the front. Returns: 0;
 * -EINVAL, -ENOMEM with err. */
int kv_ask(struct call *call, const struct instance_host_call *asked, struct hl_error *err);

/* Nobody waits for the answer any more. What was asked is done all the same. */
void kv_abandon(struct kv_request *request);

#endif
