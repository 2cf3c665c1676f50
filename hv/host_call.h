/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_HV_HOST_CALL_H
#define HL_HV_HOST_CALL_H

/* A guest's call of a host function, by the rules of struct hl_abi_host_call. For hv/ alone. */

#include "base/error.h"
#include "guest/hl_abi.h"
#include "hv/call.h"
#include "hv/instance.h"

struct host_call {
    struct instance_host_call shown; /* args point into the two below */
    struct hl_value args[HL_ABI_MAX_PARAMS];
    struct call_buffer buffer; /* the guest's struct, copied */
    hl_gpa out;                /* where the answer goes: checked for being the guest's to write */
    uint64_t room;             /* there, at least sizeof(struct hl_abi_result) */
};

/* Checks call->buffer, of which len bytes came from a guest, and fills the rest of call; out and
 * room are the guest's word still. Returns: 0; what the guest gets: -EINVAL for a name, -EILSEQ for
 * a string; -EPROTO with err saying which rule is broken. */
int host_call_decode(struct host_call *call, uint64_t len, struct hl_error *err);

#endif
