/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The life of a call. The usual one never waits: it is decoded into the shard's arena, finds a warm
 * instance, runs in one slice, is answered, and its instance is reset, all in the turn of the loop
 * that read it. Only a call that has to wait keeps a copy of its request, and only a call that
 * waits or is suspended is known to the deadline timer.
 */
#include "config.h"

#include "daemon/call.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/answer.h"
#include "daemon/arguments.h"
#include "daemon/conn.h"
#include "daemon/engine.h"
#include "daemon/pool.h"
#include "daemon/shard.h"
#include "daemon/share.h"
#include "hv/timer.h"

bool call_may(enum call_state from, enum call_state to)
{
    static const bool moves[CALL_STATES][CALL_STATES] = {
        [CALL_NEW] = {[CALL_WAITING] = true, [CALL_RUNNING] = true, [CALL_OVER] = true},
        [CALL_WAITING] = {[CALL_RUNNING] = true, [CALL_OVER] = true},
        [CALL_RUNNING] = {[CALL_SUSPENDED] = true, [CALL_OVER] = true},
        [CALL_SUSPENDED] = {[CALL_RUNNING] = true, [CALL_OVER] = true},
    };

    return moves[from][to];
}

static void move(struct call *call, enum call_state to)
{
    assert(call_may(call->state, to));
    call->state = to;
}

/* Leaves whatever list it waits in. */
static void leave_queue(struct call *call)
{
    struct pool *pool = call->pool;

    if (call->state == CALL_WAITING) {
        list_remove(&call->link);
        call->conn->waiting--;
        if (call->queued)
            atomic_fetch_sub(&pool->program->queued, 1);
        call->queued = false;
        if (list_empty(&pool->waiting))
            pool_unlist(pool);
    } else if (call->state == CALL_SUSPENDED) {
        list_remove(&call->link);
    }
    deadlines_remove(&call->shard->deadlines, &call->deadline);
}

static void drop_request(struct call *call)
{
    call->request = NULL;
    if (call->kept) {
        arena_fini(call->kept);
        free(call->kept);
        call->kept = NULL;
    }
    charge_release(&call->kept_charge);
}

/* The end of every call. Its instance was dealt with, the answer is sent. */
static void call_end(struct call *call)
{
    struct shard *shard = call->shard;
    struct conn *conn = call->conn;
    struct pool *pool = call->pool;
    bool waited = call->state == CALL_WAITING;

    leave_queue(call);
    move(call, CALL_OVER);
    drop_request(call);
    list_remove(&call->conn_link);
    free(call);
    shard->calls--;
    if (pool && waited)
        pool_check_unused(pool);
    conn_check_done(conn);
    shard_check_quiet(shard);
}

static void count_error(struct call *call, enum counter stat)
{
    stats_add(&call->shard->stats, stat, 1);
    if (call->pool && call->pool->program)
        atomic_fetch_add_explicit(&call->pool->program->errors, 1, memory_order_relaxed);
}

/* The connection may be closed by whatever is sent on it now, and then abandons its calls: this one
 * is no longer among them. */
static void detach(struct call *call)
{
    list_remove(&call->conn_link);
}

/* Ends it with a status; an instance it has is in the middle of a call, so it goes. */
static void end_with(struct call *call, enum counter stat, enum hl_status status, const char *text)
{
    struct pooled *p = call->pooled;

    detach(call);
    count_error(call, stat);
    conn_send_status(call->conn, call->stream, status, "%s", text);
    conn_flush(call->conn);
    call->pooled = NULL;
    call_end(call);
    if (p)
        pool_destroy(p);
}

static void end_deadline(struct call *call)
{
    struct hl_error err;

    answer_deadline_text(&err, call, hv_now_ns());
    end_with(call, STAT_DEADLINES, HL_STATUS_DEADLINE_EXCEEDED, err.text);
}

static void end_error(struct call *call, int code, const struct hl_error *err)
{
    end_with(call, STAT_OTHER_ERRORS, hl_status_from_errno(code),
             err->text[0] ? err->text : strerror(-code));
}

/* --- running -------------------------------------------------------------------------------- */

static void count_exits(struct call *call)
{
    const struct instance_counters *counters = instance_counters(call->pooled->inst);
    struct stats *stats = &call->shard->stats;

    stats_add(stats, STAT_EXITS, counters->exits);
    stats_add(stats, STAT_SYSCALLS, counters->syscalls);
    stats_add(stats, STAT_UNKNOWN_SYSCALLS, counters->unknown_syscalls);
    stats_add(stats, STAT_LOG_LINES, counters->log_lines);
}

static void end_failure(struct call *call, const struct instance_failure *failure, uint64_t now)
{
    struct pooled *p = call->pooled;

    detach(call);
    count_exits(call);
    count_error(call, STAT_FAULTS);
    answer_failure(call, failure, now);
    conn_flush(call->conn);
    call->pooled = NULL;
    call_end(call);
    pool_destroy(p);
}

static void call_done(struct call *call, uint64_t now)
{
    struct instance_result result = {0};
    struct pooled *p = call->pooled;
    struct hl_error err = HL_ERROR_INIT;
    int r = instance_result(p->inst, &result, &err);

    if (r == -ENOMEM) {
        end_error(call, r, &err);
        return;
    }
    if (r < 0) { /* what the guest left is no result */
        struct instance_failure failure = {.end = INSTANCE_END_PROTOCOL};

        snprintf(failure.text, sizeof(failure.text), "%.255s", err.text);
        end_failure(call, &failure, now);
        return;
    }
    count_exits(call);
    detach(call);
    stats_add(&call->shard->stats, result.is_error ? STAT_GUEST_ERRORS : STAT_OK, 1);
    answer_result(call, &result, now);
    conn_flush(call->conn);
    free(result.storage);
    call->pooled = NULL;
    call_end(call);
    pool_give_back(p);
}

static void suspend(struct call *call)
{
    struct shard *shard = call->shard;

    move(call, CALL_SUSPENDED);
    stats_add(&shard->stats, STAT_SUSPENDED, 1);
    list_push_back(&shard->suspended, &call->link);
    if (call->deadline.place == 0 &&
        deadlines_add(&shard->deadlines, &call->deadline, call->deadline_ns) == 0)
        shard_arm_deadlines(shard);
    shard_wake(shard);
}

static void run_slice(struct call *call, uint64_t now)
{
    uint64_t until = now + call->shard->settings.quantum_ns;
    enum instance_state state;
    uint64_t after;

    if (call->state != CALL_RUNNING)
        move(call, CALL_RUNNING);
    state = instance_run(call->pooled->inst, until < call->deadline_ns ? until : call->deadline_ns);
    after = hv_now_ns();
    call->run_ns += after - now;
    switch (state) {
    case INSTANCE_DONE:
        call_done(call, after);
        break;
    case INSTANCE_KICKED:
        if (after >= call->deadline_ns)
            end_deadline(call);
        else
            suspend(call);
        break;
    default:
        end_failure(call, instance_failure(call->pooled->inst), after);
    }
}

/* Gives the call's arguments to the instance and enters it. */
static void start(struct call *call, const struct arguments *arguments)
{
    struct hl_error err = HL_ERROR_INIT;
    int r = instance_begin(call->pooled->inst, arguments->function, arguments->args,
                           arguments->nargs, &err);
    uint64_t now;

    if (r < 0) {
        end_error(call, r, &err);
        return;
    }
    drop_request(call);
    now = hv_now_ns();
    call->entered_ns = now;
    if (now >= call->deadline_ns)
        end_deadline(call);
    else
        run_slice(call, now);
}

/* --- waiting -------------------------------------------------------------------------------- */

static bool set_deadline(struct call *call)
{
    const struct settings *settings = &call->shard->settings;
    const struct program *program = call->pool->program;
    uint64_t ns = program ? program->entry.limits.deadline_ns : settings->defaults.deadline_ns;

    if (call->timeout_ns > 0)
        ns = (uint64_t)call->timeout_ns;
    if (ns > settings->max_deadline_ns)
        ns = settings->max_deadline_ns;
    call->deadline_ns = call->read_ns + ns;
    return hv_now_ns() < call->deadline_ns;
}

/* Copies the request out of the read buffer and the shard's arena. */
static int keep_request(struct call *call, const struct request *request)
{
    ProtobufCMessage *message;
    size_t most = request->len * 2 + 4096;
    int r;

    if (!charge_set(&call->kept_charge, &call->shard->engine->budget, BUDGET_CLIENT_BYTES, most))
        return -ENOBUFS;
    call->kept = malloc(sizeof(*call->kept));
    if (!call->kept)
        return -ENOMEM;
    arena_init(call->kept, 512, most);
    r = arena_unpack(call->kept, &hl__v1__invoke_request__descriptor, request->payload,
                     request->len, &message);
    if (r < 0)
        return r;
    call->request = (const Hl__V1__InvokeRequest *)message;
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

static void wait_for_turn(struct call *call, const struct request *request)
{
    struct shard *shard = call->shard;
    struct hl_error err = HL_ERROR_INIT;
    int r;

    if (queue_full(call, &err)) {
        end_with(call, STAT_QUEUE_REFUSED, HL_STATUS_RESOURCE_EXHAUSTED, err.text);
        return;
    }
    r = keep_request(call, request);
    if (r == 0)
        r = deadlines_add(&shard->deadlines, &call->deadline, call->deadline_ns);
    if (r < 0) {
        if (call->queued)
            atomic_fetch_sub(&call->pool->program->queued, 1);
        end_with(call, STAT_QUEUE_REFUSED, HL_STATUS_RESOURCE_EXHAUSTED,
                 "no memory for another waiting call");
        return;
    }
    shard_arm_deadlines(shard);
    stats_add(&shard->stats, STAT_QUEUED, 1);
    call->conn->waiting++;
    list_push_back(&call->pool->waiting, &call->link);
    move(call, CALL_WAITING);
}

static void admit_waiting(struct call *call)
{
    struct deadlines *deadlines = &call->shard->deadlines;
    struct arguments arguments;
    struct hl_error err = HL_ERROR_INIT;
    int r = arguments_decode(&arguments, call->pool->program, call->request, &err);

    if (r < 0) {
        end_error(call, r, &err);
        return;
    }
    if (program_queue_full(call, &err)) {
        end_with(call, STAT_QUEUE_REFUSED, HL_STATUS_RESOURCE_EXHAUSTED, err.text);
        return;
    }
    atomic_fetch_add_explicit(&call->pool->program->calls, 1, memory_order_relaxed);
    if (!set_deadline(call))
        end_deadline(call);
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
        end_with(LIST_ENTRY(pool->waiting.next, struct call, link), STAT_OTHER_ERRORS, status,
                 text);
    pool->busy--;
    pool_check_unused(pool);
}

/* --- the shard's turns ---------------------------------------------------------------------- */

bool calls_run_suspended(struct shard *shard)
{
    struct list *l = list_pop_front(&shard->suspended);

    if (!l)
        return false;
    run_slice(LIST_ENTRY(l, struct call, link), hv_now_ns());
    return true;
}

/* The pool's next call gets the instance. */
static void start_next(struct pool *pool, struct pooled *p)
{
    struct call *call = LIST_ENTRY(pool->waiting.next, struct call, link);
    struct arguments arguments;
    struct hl_error err = HL_ERROR_INIT;
    int r;

    leave_queue(call);
    call->pooled = p;
    move(call, CALL_RUNNING);
    if (!list_empty(&pool->waiting))
        pool_set_pending(pool);
    r = arguments_decode(&arguments, call->pool->program, call->request, &err);
    if (r < 0)
        end_error(call, r, &err);
    else
        start(call, &arguments);
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

void calls_expire(struct shard *shard, uint64_t now_ns)
{
    struct deadline *first;

    while ((first = deadlines_first(&shard->deadlines)) && first->at_ns <= now_ns)
        end_deadline(LIST_ENTRY(first, struct call, deadline));
}

void calls_stop_all(struct shard *shard)
{
    LIST_FOREACH(l, &shard->conns)
    {
        struct conn *conn = LIST_ENTRY(l, struct conn, link);

        while (!list_empty(&conn->calls))
            end_with(LIST_ENTRY(conn->calls.next, struct call, conn_link), STAT_OTHER_ERRORS,
                     HL_STATUS_UNAVAILABLE, "hld is stopping");
    }
}

void call_abandon(struct call *call)
{
    struct pooled *p = call->pooled;

    count_error(call, STAT_ABANDONED);
    call->pooled = NULL;
    call_end(call);
    if (p)
        pool_destroy(p);
}

/* --- requests ------------------------------------------------------------------------------- */

static struct call *call_new(const struct request *request, const Hl__V1__InvokeRequest *message)
{
    struct conn *conn = request->conn;
    struct call *call = calloc(1, sizeof(*call));

    if (!call)
        return NULL;
    call->shard = conn->shard;
    call->conn = conn;
    list_init(&call->link);
    list_push_back(&conn->calls, &call->conn_link);
    call->stream = request->stream;
    call->call_id = message->call_id;
    call->timeout_ns = request->timeout_ns;
    call->read_ns = request->read_ns;
    call->request = message;
    call->shard->calls++;
    return call;
}

/* With its pool known: starts it, or has it wait. */
static void admit(struct call *call, const struct request *request)
{
    struct pool *pool = call->pool;
    struct arguments arguments;
    struct hl_error err = HL_ERROR_INIT;
    int r;

    if (!set_deadline(call)) {
        end_deadline(call);
        return;
    }
    if (!pool->program) {
        wait_for_turn(call, request);
        return;
    }
    r = arguments_decode(&arguments, call->pool->program, call->request, &err);
    if (r < 0) {
        end_error(call, r, &err);
        return;
    }
    atomic_fetch_add_explicit(&pool->program->calls, 1, memory_order_relaxed);
    r = list_empty(&pool->waiting) ? pool_take(pool, &call->pooled, &err) : -EAGAIN;
    if (r == 0) {
        start(call, &arguments);
    } else if (r == -EAGAIN) {
        bool first = list_empty(&pool->waiting);

        wait_for_turn(call, request);
        if (first && !list_empty(&pool->waiting))
            pool_set_pending(pool);
    } else {
        end_error(call, r, &err);
    }
}

void call_begin(const struct request *request, const Hl__V1__InvokeRequest *message)
{
    struct shard *shard = request->conn->shard;
    struct call *call = call_new(request, message);

    if (!call) {
        conn_send_status(request->conn, request->stream, HL_STATUS_RESOURCE_EXHAUSTED,
                         "out of memory");
        return;
    }
    if (shard->draining) {
        end_with(call, STAT_OTHER_ERRORS, HL_STATUS_UNAVAILABLE, "hld is draining: no new calls");
        return;
    }
    if (!hl_name_valid(message->image, strlen(message->image))) {
        end_with(call, STAT_OTHER_ERRORS, HL_STATUS_INVALID_ARGUMENT, "no valid image name");
        return;
    }
    call->pool = pool_find(shard, message->image);
    if (!call->pool)
        call->pool = pool_new(shard, message->image);
    if (!call->pool) {
        end_with(call, STAT_OTHER_ERRORS, HL_STATUS_RESOURCE_EXHAUSTED,
                 "no room to look for another image now");
        return;
    }
    admit(call, request);
}

bool call_cancel(struct conn *conn, uint64_t call_id)
{
    LIST_FOREACH(l, &conn->calls)
    {
        struct call *call = LIST_ENTRY(l, struct call, conn_link);

        if (call_id != 0 && call->call_id == call_id) {
            end_with(call, STAT_CANCELLED, HL_STATUS_CANCELLED, "cancelled by its client");
            return true;
        }
    }
    return false;
}
