/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_PROTO_CONVERT_POLICY_H
#define HL_PROTO_CONVERT_POLICY_H

/* Policies of host functions as messages. */

#include "base/host_policy.h"
#include "proto/hl.pb-c.h"

struct policy_message {
    Hl__V1__HostPolicy policy;
    Hl__V1__HostFunction functions[HL_HOST_FUNCTIONS_MAX];
    Hl__V1__HostFunction *pointers[HL_HOST_FUNCTIONS_MAX];
    Hl__V1__Type params[HL_HOST_FUNCTIONS_MAX][HL_MAX_PARAMS];
};

/* in: checked; it and out must outlive the message's use. */
void policy_to_message(struct policy_message *out, const struct hl_host_policy *in);

/* in: NULL is no policy. Returns: what host_policy_check does. */
int policy_from_message(struct hl_host_policy *out, const Hl__V1__HostPolicy *in,
                        struct hl_error *err);

#endif
