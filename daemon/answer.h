/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_DAEMON_ANSWER_H
#define HL_DAEMON_ANSWER_H

/* What a call is answered with. */

#include <stdint.h>

#include "base/error.h"
#include "hv/instance.h"
#include "proto/hl.pb-c.h"

struct call;

/* into: what to say of a result that is an HL_TYPE_DESCRIPTOR. now_ns: when its guest left for the
 * last time. */
void answer_result(struct call *call, const struct instance_result *result,
                   const Hl__V1__Descriptor *into, uint64_t now_ns);
void answer_failure(struct call *call, const struct instance_failure *failure, uint64_t now_ns);

void answer_deadline_text(struct hl_error *err, const struct call *call, uint64_t now_ns);

#endif
