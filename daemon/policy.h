/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_DAEMON_POLICY_H
#define HL_DAEMON_POLICY_H

/* Policies of host functions on the control channel. */

#include "base/host_policy.h"
#include "daemon/control.pb-c.h"

struct policy_packet {
    Hl__Control__HostPolicy policy;
    Hl__Control__HostFunction functions[HL_HOST_FUNCTIONS_MAX];
    Hl__Control__HostFunction *pointers[HL_HOST_FUNCTIONS_MAX];
    uint32_t params[HL_HOST_FUNCTIONS_MAX][HL_MAX_PARAMS];
};

/* in: checked; it and out must outlive the packet's use. */
void policy_to_control(struct policy_packet *out, const struct hl_host_policy *in);

/* in: NULL is no policy. Returns: what host_policy_check does. */
int policy_from_control(struct hl_host_policy *out, const Hl__Control__HostPolicy *in,
                        struct hl_error *err);

#endif
