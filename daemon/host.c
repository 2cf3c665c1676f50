/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Parked calls. A guest that waits for a host function holds an instance and no thread: its call is
 * in the heap of deadlines, known to whoever has the host call, and found by Cancel and by the end
 * of its connection like any other; ended there, its instance is destroyed, since its guest is in
 * the middle of something.
 *
 * An answer from outside lets the guest run at once, in the turn that brought the answer. A host
 * call that turns out to have no taker is answered too, but the guest then waits for the shard's
 * next turn: it would otherwise keep the shard busy, and the stack growing, by asking again.
 */
#include "config.h"

#include "daemon/host.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "daemon/call_internal.h"
#include "daemon/call_stream.h"
#include "daemon/conn.h"
#include "daemon/kv.h"
#include "daemon/offer.h"
#include "daemon/pool.h"
#include "daemon/pooled.h"
#include "daemon/shard.h"
#include "proto/convert.h"

int host_call_to_message(struct host_call_message *out, const struct call *call,
                         const struct instance_host_call *asked)
{
    hl__v1__host_call__init(&out->call);
    for (size_t i = 0; i < asked->nargs; i++) {
        int r = convert_to_proto(&out->values[i], &asked->args[i]);

        if (r < 0)
            return r;
        out->pointers[i] = &out->values[i];
    }
    out->call.function = (char *)asked->name;
    out->call.args = out->pointers;
    out->call.n_args = asked->nargs;
    out->call.depth = call->depth + 1;
    out->call.image = call->pool->program->entry.name;
    out->call.ret = (Hl__V1__Type)call->parked.function->sig.ret;
    return 0;
}

/* --- answers -------------------------------------------------------------------------------- */

static void resume(struct call *call)
{
    deadlines_remove(&call->shard->deadlines, &call->deadline);
    call->parked = (struct parked){0};
    call_move(call, CALL_RUNNING);
    call_run_on(call);
}

void host_fail(struct call *call, enum hl_status status, int32_t code, const char *text)
{
    instance_host_fail(call->pooled->inst, status, code, text, strlen(text));
    resume(call);
}

void host_return(struct call *call, const struct hl_value *result)
{
    struct hl_error err = HL_ERROR_INIT;
    int r = instance_host_return(call->pooled->inst, result, &err);

    if (r < 0)
        instance_host_fail(call->pooled->inst, HL_STATUS_RESOURCE_EXHAUSTED, 0, err.text,
                           strlen(err.text));
    resume(call);
}

static void take_error(struct call *call, const Hl__V1__HostError *error)
{
    enum hl_status status = HL_STATUS_UNKNOWN;

    if (error->status > 0 && error->status <= HL_STATUS_UNAUTHENTICATED)
        status = (enum hl_status)error->status;
    host_fail(call, status, status == HL_STATUS_UNKNOWN ? error->code : 0, error->text);
}

void host_take(struct call *call, const Hl__V1__HostReturn *answer, bool strict)
{
    const struct hl_host_function *f = call->parked.function;
    struct hl_value value = {.type = HL_TYPE_VOID};
    struct hl_error err = HL_ERROR_INIT;
    int r = 0;

    if (answer->outcome_case == HL__V1__HOST_RETURN__OUTCOME_ERROR) {
        take_error(call, answer->error);
        return;
    }
    if (answer->outcome_case == HL__V1__HOST_RETURN__OUTCOME_RESULT)
        r = convert_from_proto(&value, answer->result, &err);
    if (r == 0 && value.type != f->sig.ret)
        r = hl_error_set(&err, -EINVAL, "it returns %s, not %s", hl_type_name(f->sig.ret),
                         hl_type_name(value.type));
    if (r == 0) {
        host_return(call, &value);
        return;
    }
    hl_error_wrap(&err, r, "answer of host function '%s'", f->name);
    if (strict)
        call_end_with(call, STAT_OTHER_ERRORS, HL_STATUS_INVALID_ARGUMENT, err.text);
    else
        host_fail(call, HL_STATUS_INTERNAL, 0, err.text);
}

bool host_resume_next(struct shard *shard)
{
    struct list *l = list_pop_front(&shard->answered);

    if (l)
        resume(LIST_ENTRY(l, struct call, link));
    return l != NULL;
}

/* --- parking -------------------------------------------------------------------------------- */

/* Nobody takes it: the guest is told so in its next turn. */
static void no_taker(struct call *call, enum hl_status status, const char *text)
{
    instance_host_fail(call->pooled->inst, status, 0, text, strlen(text));
    call->parked.at = PARKED_ANSWERED;
    list_push_back(&call->shard->answered, &call->link);
    shard_wake(call->shard);
}

/* May close the connection, and so end the call. */
static void to_client(struct call *call, const struct instance_host_call *asked)
{
    Hl__V1__InvokeWithHostResponse message = HL__V1__INVOKE_WITH_HOST_RESPONSE__INIT;
    struct call_stream *host = call->host;
    struct host_call_message out;

    if (!host || host->stream.remote_closed) {
        no_taker(call, HL_STATUS_UNAVAILABLE, "the caller answers no host calls");
        return;
    }
    if (host_call_to_message(&out, call, asked) < 0) {
        no_taker(call, HL_STATUS_INVALID_ARGUMENT, "the arguments cannot be sent");
        return;
    }
    out.call.id = ++host->last_id;
    message.kind_case = HL__V1__INVOKE_WITH_HOST_RESPONSE__KIND_CALL;
    message.call = &out.call;
    call->parked.at = PARKED_CLIENT;
    call->parked.id = out.call.id;
    if (conn_send_data(call->conn, call->stream, &message.base) < 0)
        no_taker(call, HL_STATUS_RESOURCE_EXHAUSTED,
                 "the arguments are more than one message carries");
}

static void to_service(struct call *call, const struct instance_host_call *asked)
{
    struct hl_error err = HL_ERROR_INIT;
    int r;

    call->parked.at = PARKED_SERVICE;
    r = offer_ask(call, asked, &err);
    if (r < 0)
        no_taker(call, hl_status_from_errno(r), err.text);
}

static void to_store(struct call *call, const struct instance_host_call *asked)
{
    struct hl_error err = HL_ERROR_INIT;
    int r;

    call->parked.at = PARKED_STORE;
    r = kv_ask(call, asked, &err);
    if (r < 0)
        no_taker(call, hl_status_from_errno(r), err.text);
}

void host_park(struct call *call)
{
    struct shard *shard = call->shard;
    const struct instance_host_call *asked = instance_host_call(call->pooled->inst);
    const struct hl_host_policy *policy = &call->pool->program->entry.host;
    struct hl_error err = HL_ERROR_INIT;

    call_move(call, CALL_PARKED);
    call->parked = (struct parked){.function = host_policy_find(policy, asked->name)};
    stats_add(&shard->stats, STAT_HOST_PARKED, 1);
    if (deadlines_add(&shard->deadlines, &call->deadline, call->deadline_ns) < 0) {
        call_end_error(call, -ENOMEM, &err);
        return;
    }
    shard_arm_deadlines(shard);
    switch (call->parked.function->provider) {
    case HL_PROVIDER_CLIENT:
        to_client(call, asked);
        break;
    case HL_PROVIDER_SERVICE:
        to_service(call, asked);
        break;
    case HL_PROVIDER_BUILTIN:
        to_store(call, asked);
        break;
    }
}

void host_leave(struct call *call)
{
    if (call->parked.request)
        offer_abandon(call->parked.request);
    if (call->parked.kv)
        kv_abandon(call->parked.kv);
    list_remove(&call->link); /* of those that were answered */
    call->parked = (struct parked){0};
}

bool host_expire(struct call *call, uint64_t now_ns)
{
    if (call->state != CALL_PARKED || now_ns >= call->deadline_ns)
        return false;
    if (call->parked.request)
        offer_abandon(call->parked.request);
    call->parked.request = NULL;
    host_fail(call, HL_STATUS_DEADLINE_EXCEEDED, 0, "the provider did not answer in time");
    return true;
}
