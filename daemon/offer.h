/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_DAEMON_OFFER_H
#define HL_DAEMON_OFFER_H

/*
 * Providers of host functions: connections with an open HostFunctions.Offer stream. A provider
 * belongs to the shard of its connection; every shard has a list of all offers, and sends its host
 * calls to the provider's shard by mail.
 */

#include "base/error.h"
#include "base/list.h"

struct call;
struct host_request;
struct instance_host_call;
struct request;
struct shard;

/* HostFunctions.Offer. */
void serve_offer(const struct request *request);

/* On the call's shard: gives the host call of a call that is being parked to a provider. Returns:
 * 0, and the call may have its answer already; -ECONNREFUSED when nobody offers the name, -EAGAIN
 * when those who do have all they take, -EMSGSIZE, -ENOMEM, with err. */
int offer_ask(struct call *call, const struct instance_host_call *asked, struct hl_error *err);

/* On the call's shard: nobody waits for the answer any more. */
void offer_abandon(struct host_request *request);

#endif
