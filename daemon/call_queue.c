/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Calls that wait for an instance, or for their program. Queues are bounded, by image and by
 * client, and past a bound the answer comes at once. Within a pool clients take turns, however many
 * calls each has put there: a call belongs to the round after the one of its client's last call,
 * and the queue is sorted by rounds. What waits has a copy of its request, charged to the uid; the
 * one it came in belongs to the next frame.
 */
#include "config.h"

#include <errno.h>
#include <stdlib.h>

#include "daemon/call_internal.h"
#include "daemon/conn.h"
#include "daemon/engine.h"
#include "daemon/pool.h"
#include "daemon/shard.h"
#include "daemon/share.h"

void call_leave_queue(struct call *call)
{
    struct pool *pool = call->pool;

    if (call->use) {
        call_leave_session(call);
        return;
    }
    list_remove(&call->link);
    call->conn->waiting--;
    if (call->queued)
        atomic_fetch_sub(&pool->program->queued, 1);
    call->queued = false;
    if (list_empty(&pool->waiting))
        pool_unlist(pool);
}

void call_drop_request(struct call *call)
{
    call->request = NULL;
    if (call->kept) {
        arena_fini(call->kept);
        free(call->kept);
        call->kept = NULL;
    }
    charge_release(&call->kept_charge);
}

/* Into its place in the pool's queue. */
static void enqueue(struct call *call)
{
    struct pool *pool = call->pool;
    struct list *at = pool->waiting.prev;

    call->round = pool->round;
    if (call->conn->round_pool == pool->id && call->conn->round >= call->round)
        call->round = call->conn->round + 1;
    for (struct list *l = at; l != &pool->waiting; l = l->prev) {
        const struct call *other = LIST_ENTRY(l, struct call, link);

        if (other->conn == call->conn) {
            call->round = other->round + 1;
            break;
        }
    }
    while (at != &pool->waiting && LIST_ENTRY(at, struct call, link)->round > call->round)
        at = at->prev;
    list_push_front(at, &call->link);
}

/* Copies the request out of the read buffer and the shard's arena. */
int call_keep_request(struct call *call, const struct request *request)
{
    ProtobufCMessage *message;
    size_t most = request->len * 2 + 4096;
    int r;

    if (call->opens)
        return 0;
    if (!charge_set(&call->kept_charge, &call->shard->engine->budget, BUDGET_CLIENT_BYTES, most))
        return -ENOBUFS;
    call->kept = malloc(sizeof(*call->kept));
    if (!call->kept)
        return -ENOMEM;
    arena_init(call->kept, 512, most);
    r = arena_unpack(call->kept,
                     request->host ? &hl__v1__invoke_with_host_request__descriptor
                                   : &hl__v1__invoke_request__descriptor,
                     request->payload, request->len, &message);
    if (r < 0)
        return r;
    call->request = request->host ? ((const Hl__V1__InvokeWithHostRequest *)message)->start
                                  : (const Hl__V1__InvokeRequest *)message;
    return 0;
}

static bool program_queue_full(struct call *call, struct hl_error *err)
{
    struct program *program = call->pool->program;
    uint32_t max = program->entry.limits.max_queue;

    if (atomic_fetch_add(&program->queued, 1) >= max) {
        atomic_fetch_sub(&program->queued, 1);
        hl_error_set(err, -EAGAIN, "queue of image '%s' is full: its max_queue is %u",
                     program->entry.name, max);
        return true;
    }
    call->queued = true;
    return false;
}

static bool queue_full(struct call *call, struct hl_error *err)
{
    const struct settings *settings = &call->shard->settings;

    if (call->conn->waiting >= settings->max_queue_per_client) {
        hl_error_set(err, -EAGAIN, "queue is full: max_queue_per_client is %u",
                     settings->max_queue_per_client);
        return true;
    }
    return call->pool->program && program_queue_full(call, err);
}

void call_wait(struct call *call, const struct request *request)
{
    struct shard *shard = call->shard;
    struct hl_error err = HL_ERROR_INIT;
    int r;

    if (queue_full(call, &err)) {
        call_end_with(call, STAT_QUEUE_REFUSED, HL_STATUS_RESOURCE_EXHAUSTED, err.text);
        return;
    }
    r = call_keep_request(call, request);
    if (r == 0)
        r = deadlines_add(&shard->deadlines, &call->deadline, call->deadline_ns);
    if (r < 0) {
        if (call->queued)
            atomic_fetch_sub(&call->pool->program->queued, 1);
        call_end_with(call, STAT_QUEUE_REFUSED, HL_STATUS_RESOURCE_EXHAUSTED,
                      "no memory for another waiting call");
        return;
    }
    shard_arm_deadlines(shard);
    stats_add(&shard->stats, STAT_QUEUED, 1);
    call->conn->waiting++;
    enqueue(call);
    call_move(call, CALL_WAITING);
}

static void admit_waiting(struct call *call)
{
    struct deadlines *deadlines = &call->shard->deadlines;
    struct arguments arguments;
    struct hl_error err = HL_ERROR_INIT;
    int r = call_arguments(call, &arguments, &err);

    if (r < 0) {
        call_end_error(call, r, &err);
        return;
    }
    if (program_queue_full(call, &err)) {
        call_end_with(call, STAT_QUEUE_REFUSED, HL_STATUS_RESOURCE_EXHAUSTED, err.text);
        return;
    }
    atomic_fetch_add_explicit(&call->pool->program->calls, 1, memory_order_relaxed);
    if (!call_set_deadline(call))
        call_end_deadline(call);
    else if (deadlines_add(deadlines, &call->deadline, call->deadline_ns) == 0)
        shard_arm_deadlines(call->shard);
}

void calls_admit(struct pool *pool)
{
    struct list todo, *l;

    /* An answer may close its connection, and with it calls further down the list. */
    list_init(&todo);
    while ((l = list_pop_front(&pool->waiting)))
        list_push_back(&todo, l);
    while ((l = list_pop_front(&todo))) {
        list_push_back(&pool->waiting, l);
        admit_waiting(LIST_ENTRY(l, struct call, link));
    }
}

void calls_fail(struct pool *pool, enum hl_status status, const char *text)
{
    pool->busy++; /* the last call's end must not be the pool's */
    while (!list_empty(&pool->waiting))
        call_end_with(LIST_ENTRY(pool->waiting.next, struct call, link), STAT_OTHER_ERRORS, status,
                      text);
    pool->busy--;
    pool_check_unused(pool);
}

/* The pool's next call gets the instance. */
static void start_next(struct pool *pool, struct pooled *p)
{
    struct call *call = LIST_ENTRY(pool->waiting.next, struct call, link);
    struct arguments arguments;
    struct hl_error err = HL_ERROR_INIT;
    int r;

    pool->round = call->round;
    call->conn->round = call->round;
    call->conn->round_pool = pool->id;
    call_leave_queue(call);
    deadlines_remove(&call->shard->deadlines, &call->deadline);
    call->pooled = p;
    call_move(call, CALL_RUNNING);
    if (!list_empty(&pool->waiting))
        pool_set_pending(pool);
    r = call_arguments(call, &arguments, &err);
    if (r < 0)
        call_end_error(call, r, &err);
    else
        call_start(call, &arguments);
}

bool calls_start_waiting(struct shard *shard)
{
    struct list *l = shard->pending.next;
    struct hl_error err = HL_ERROR_INIT;
    struct pooled *p;
    struct pool *pool;
    int r;

    if (list_empty(&shard->pending))
        return false;
    pool = LIST_ENTRY(l, struct pool, waiting_link);
    if (list_empty(&pool->waiting)) {
        pool_unlist(pool);
        pool_check_unused(pool);
        return true;
    }
    r = pool_take(pool, &p, &err);
    if (r == -EAGAIN) {
        share_starve(pool);
        r = pool_take(pool, &p, &err); /* what was given back before others could know */
        if (r == -EAGAIN)
            return true;
    }
    if (r < 0)
        calls_fail(pool, hl_status_from_errno(r), err.text);
    else
        start_next(pool, p);
    return true;
}
