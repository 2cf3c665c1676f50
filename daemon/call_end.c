/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How calls end, and what becomes of their instance: reset and used again where the guest has come
 * to an end of its own, destroyed where it was stopped. The answer goes out first. Nothing of a
 * call is looked at after its answer but by whoever ended it: sending may close the connection,
 * which abandons the calls that are still on it. The structs themselves are used again and again.
 */
#include "config.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "daemon/answer.h"
#include "daemon/bulk.h"
#include "daemon/call_internal.h"
#include "daemon/call_stream.h"
#include "daemon/conn.h"
#include "daemon/host.h"
#include "daemon/pool.h"
#include "daemon/run.h"
#include "daemon/shard.h"
#include "hv/timer.h"

#define SPARE_MOST 256u

struct call *call_alloc(struct shard *shard)
{
    struct list *l = list_pop_front(&shard->spare_calls);
    struct call *call;

    if (!l)
        return calloc(1, sizeof(*call));
    shard->nspare--;
    call = LIST_ENTRY(l, struct call, link);
    *call = (struct call){0};
    return call;
}

static void call_release(struct call *call)
{
    struct shard *shard = call->shard;

    if (shard->nspare >= SPARE_MOST) {
        free(call);
        return;
    }
    list_push_front(&shard->spare_calls, &call->link);
    shard->nspare++;
}

void calls_drop_spare(struct shard *shard)
{
    struct list *l;

    while ((l = list_pop_front(&shard->spare_calls)))
        free(LIST_ENTRY(l, struct call, link));
}

/* The end of every call. Its instance was dealt with, the answer is sent. */
static void call_end(struct call *call)
{
    struct shard *shard = call->shard;
    struct conn *conn = call->conn;
    struct pool *pool = call->pool;
    bool waited = call->state == CALL_WAITING;

    if (waited)
        call_leave_queue(call);
    if (call->state == CALL_PARKED)
        host_leave(call);
    call_stream_free(HL_STEAL(call->host));
    deadlines_remove(&shard->deadlines, &call->deadline);
    call_move(call, CALL_OVER);
    call_drop_request(call);
    bulk_free(HL_STEAL(call->bulk));
    list_remove(&call->conn_link);
    call_release(call);
    shard->calls--;
    if (pool && waited)
        pool_check_unused(pool);
    conn_check_done(conn);
    shard_check_quiet(shard);
}

static void count_error(struct call *call, enum counter stat)
{
    call_blame(call, stat);
    stats_add(&call->shard->stats, stat, 1);
    if (call->pool && call->pool->program)
        atomic_fetch_add_explicit(&call->pool->program->errors, 1, memory_order_relaxed);
}

/* What its guest did, once it was entered. Another thread may still run it: what it does from now
 * on is nobody's. */
static void count_exits(struct call *call)
{
    const struct instance_counters *counters = instance_counters(call->pooled->inst);
    struct stats *stats = &call->shard->stats;

    if (call->entered_ns == 0) /* what is there is of the call before */
        return;
    stats_add(stats, STAT_EXITS, counters->exits);
    stats_add(stats, STAT_SYSCALLS, counters->syscalls);
    stats_add(stats, STAT_UNKNOWN_SYSCALLS, counters->unknown_syscalls);
    stats_add(stats, STAT_LOG_LINES, counters->log_lines);
    stats_add(stats, STAT_HOST_CALLS, counters->host_calls);
    stats_add(stats, STAT_HOST_DENIED, call->pooled->host_denied);
}

/* The connection may be closed by whatever is sent on it now, and then abandons its calls: this one
 * is no longer among them. */
static void detach(struct call *call)
{
    list_remove(&call->conn_link);
}

/* Its instance, if it has one, is in the middle of the call: here, or with another thread. */
static void drop_instance(struct pooled *p, bool away)
{
    if (p && away)
        run_abandon(p);
    else if (p)
        pool_destroy(p);
}

void call_end_with(struct call *call, enum counter stat, enum hl_status status, const char *text)
{
    struct pooled *p = call->pooled;
    bool away = call->state == CALL_AWAY;

    detach(call);
    if (call->state == CALL_PARKED) /* so does the offer that has its host call, if it is of that */
        host_leave(call);
    if (p)
        count_exits(call);
    count_error(call, stat);
    conn_send_status(call->conn, call->stream, status, "%s", text);
    conn_push(call->conn);
    call->pooled = NULL;
    call_end(call);
    drop_instance(p, away);
}

void call_end_message(struct call *call, const ProtobufCMessage *message)
{
    detach(call);
    stats_add(&call->shard->stats, STAT_OK, 1);
    conn_send_message(call->conn, call->stream, message);
    conn_push(call->conn);
    call->pooled = NULL;
    call_end(call);
}

void call_end_deadline(struct call *call)
{
    struct hl_error err;

    answer_deadline_text(&err, call, hv_now_ns());
    call_end_with(call, STAT_DEADLINES, HL_STATUS_DEADLINE_EXCEEDED, err.text);
}

void call_end_error(struct call *call, int code, const struct hl_error *err)
{
    call_end_with(call, STAT_OTHER_ERRORS, hl_status_from_errno(code),
                  err->text[0] ? err->text : strerror(-code));
}

void call_end_failure(struct call *call, const struct instance_failure *failure, uint64_t now)
{
    struct pooled *p = call->pooled;

    detach(call);
    count_exits(call);
    count_error(call, STAT_FAULTS);
    answer_failure(call, failure, now);
    conn_push(call->conn);
    call->pooled = NULL;
    call_end(call);
    pool_destroy(p);
}

/* The function returned, and what it did cannot be told. Its instance is as good as any. */
static void end_refused(struct call *call, int code, const struct hl_error *err)
{
    struct pooled *p = call->pooled;

    detach(call);
    count_exits(call);
    stats_add(&call->shard->stats, STAT_OTHER_ERRORS, 1);
    conn_send_status(call->conn, call->stream,
                     code == -EMSGSIZE ? HL_STATUS_RESOURCE_EXHAUSTED
                                       : HL_STATUS_FAILED_PRECONDITION,
                     "%s", err->text);
    conn_push(call->conn);
    call->pooled = NULL;
    call_end(call);
    pool_give_back(p);
}

void call_done(struct call *call, uint64_t now)
{
    struct instance_result result = {0};
    Hl__V1__Descriptor into;
    struct pooled *p = call->pooled;
    struct hl_error err = HL_ERROR_INIT;
    int r = instance_result(p->inst, &result, &err);

    if (r == 0 && result.value.type == HL_TYPE_DESCRIPTOR)
        r = bulk_seal_result(p->bulk, result.value.descriptor.len, &into, &err);
    if (r == -EMSGSIZE || r == -EBUSY) {
        end_refused(call, r, &err);
        return;
    }
    if (r == -ENOMEM) {
        call_end_error(call, r, &err);
        return;
    }
    if (r < 0) { /* what the guest left is no result */
        struct instance_failure failure = {.end = INSTANCE_END_PROTOCOL};

        snprintf(failure.text, sizeof(failure.text), "%.255s", err.text);
        call_end_failure(call, &failure, now);
        return;
    }
    count_exits(call);
    detach(call);
    stats_add(&call->shard->stats, result.is_error ? STAT_GUEST_ERRORS : STAT_OK, 1);
    answer_result(call, &result, &into, now);
    conn_push(call->conn);
    call->pooled = NULL;
    call_end(call);
    pool_give_back(p);
}

void call_abandon(struct call *call)
{
    struct pooled *p = call->pooled;
    bool away = call->state == CALL_AWAY;

    if (p)
        count_exits(call);
    count_error(call, STAT_ABANDONED);
    call->pooled = NULL;
    call_end(call);
    drop_instance(p, away);
}
