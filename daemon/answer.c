/* SPDX-License-Identifier: Apache-2.0 */
/* Answers of calls: results and failures as messages, with the accounting of what they took. */
#include "config.h"

#include "daemon/answer.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "daemon/call.h"
#include "daemon/conn.h"
#include "daemon/engine.h"
#include "daemon/pool.h"
#include "daemon/shard.h"
#include "proto/convert.h"
#include "proto/service.h"

static void account(Hl__V1__Accounting *out, const struct call *call, uint64_t now_ns)
{
    const struct pooled *p = call->pooled;

    hl__v1__accounting__init(out);
    out->queue_ns = call->entered_ns - call->read_ns;
    out->run_ns = call->run_ns;
    out->total_ns = now_ns - call->read_ns;
    out->exits = instance_counters(p->inst)->exits;
    out->pages_reset = p->pages_reset;
    out->backend = (char *)call->shard->engine->hv->name;
    out->instance_age_ns = call->entered_ns > p->bound_ns ? call->entered_ns - p->bound_ns : 0;
    out->instance_calls = p->calls;
}

void answer_result(struct call *call, const struct instance_result *result,
                   const Hl__V1__Descriptor *into, uint64_t now_ns)
{
    Hl__V1__InvokeResponse response = HL__V1__INVOKE_RESPONSE__INIT;
    Hl__V1__InvokeWithHostResponse wrapped = HL__V1__INVOKE_WITH_HOST_RESPONSE__INIT;
    Hl__V1__Accounting accounting;
    Hl__V1__GuestError error = HL__V1__GUEST_ERROR__INIT;
    Hl__V1__Value value = HL__V1__VALUE__INIT;
    char *text;

    account(&accounting, call, now_ns);
    response.accounting = &accounting;
    if (result->is_error) {
        /* the text was checked to be UTF-8; it ends at a NUL */
        size_t len = strnlen(result->value.bytes.data, result->value.bytes.len);

        error.code = result->code;
        text = arena_alloc(&call->shard->arena, len + 1);
        if (text) {
            memcpy(text, result->value.bytes.data, len);
            text[len] = '\0';
            error.text = text;
        }
        response.outcome_case = HL__V1__INVOKE_RESPONSE__OUTCOME_ERROR;
        response.error = &error;
    } else if (result->value.type == HL_TYPE_DESCRIPTOR) {
        value.kind_case = HL__V1__VALUE__KIND_DESCRIPTOR;
        value.descriptor = (Hl__V1__Descriptor *)into;
        response.outcome_case = HL__V1__INVOKE_RESPONSE__OUTCOME_RESULT;
        response.result = &value;
    } else if (result->value.type != HL_TYPE_VOID) {
        int r = convert_to_proto(&value, &result->value);

        if (r < 0) {
            conn_send_status(call->conn, call->stream, hl_status_from_errno(r),
                             "the result cannot be sent");
            return;
        }
        response.outcome_case = HL__V1__INVOKE_RESPONSE__OUTCOME_RESULT;
        response.result = &value;
    }
    if (!call->host) {
        conn_send_message(call->conn, call->stream, &response.base);
        return;
    }
    wrapped.kind_case = HL__V1__INVOKE_WITH_HOST_RESPONSE__KIND_DONE;
    wrapped.done = &response;
    conn_send_message(call->conn, call->stream, &wrapped.base);
}

void answer_failure(struct call *call, const struct instance_failure *failure, uint64_t now_ns)
{
    Hl__V1__GuestFault fault = HL__V1__GUEST_FAULT__INIT;
    Hl__V1__Accounting accounting;
    const struct envelope_detail details[] = {
        {DETAIL_GUEST_FAULT, &fault.base},
        {DETAIL_ACCOUNTING, &accounting.base},
    };

    account(&accounting, call, now_ns);
    fault.vector = failure->end == INSTANCE_END_FAULT ? failure->fault.vector : HV_VECTOR_DIED;
    fault.rip = failure->fault.rip;
    fault.address = failure->fault.address;
    fault.error_code = failure->fault.error_code;
    fault.symbol = (char *)failure->symbol;
    fault.reason = (char *)failure->text;
    program_log_line(&call->pool->program->log, 0, failure->text, strlen(failure->text));
    conn_send_details(call->conn, call->stream, HL_STATUS_ABORTED, failure->text, details, 2);
}

void answer_deadline_text(struct hl_error *err, const struct call *call, uint64_t now_ns)
{
    uint64_t total = now_ns - call->read_ns;
    uint64_t limit = call->deadline_ns - call->read_ns;

    if (call->entered_ns == 0)
        hl_error_set(err, -ETIMEDOUT,
                     "deadline of %" PRIu64 ".%03" PRIu64 " ms passed while the call waited",
                     limit / 1000000, limit / 1000 % 1000);
    else
        hl_error_set(
            err, -ETIMEDOUT,
            "deadline of %" PRIu64 ".%03" PRIu64 " ms passed after %" PRIu64 ".%03" PRIu64
            " ms in queue, %" PRIu64 ".%03" PRIu64 " ms in all",
            limit / 1000000, limit / 1000 % 1000, (call->entered_ns - call->read_ns) / 1000000,
            (call->entered_ns - call->read_ns) / 1000 % 1000, total / 1000000, total / 1000 % 1000);
}
