/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The life of a call. The usual one never waits: it is decoded into the shard's arena, finds a warm
 * instance, runs in one slice, is answered, and its instance is reset, all in the turn of the loop
 * that read it. One that is past its quantum goes on on a long-run thread (run.h) as soon as the
 * shard has something else to do, and after some quanta in any case; a function whose calls keep
 * taking that long is started there. Only a call that has to wait keeps a copy of its request, and
 * only one that waits or is away is known to the deadline timer.
 */
#include "config.h"

#include "daemon/call_internal.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "daemon/bulk.h"
#include "daemon/call_stream.h"
#include "daemon/conn.h"
#include "daemon/engine.h"
#include "daemon/host.h"
#include "daemon/pool.h"
#include "daemon/run.h"
#include "daemon/shard.h"
#include "hv/timer.h"

/* Quanta that a call may take on a shard with nothing else to do: where it ends within them, the
 * two wake-ups of another thread are saved. */
#define QUANTA_ALONE 10u

/* How far from short a function's calls have been: up by LONG_STEP for one past QUANTA_ALONE, down
 * for another. */
#define LONG_STEP  64
#define LONG_START 128 /* from here on its calls start on a long-run thread */
#define LONG_MOST  255

bool call_may(enum call_state from, enum call_state to)
{
    static const bool moves[CALL_STATES][CALL_STATES] = {
        [CALL_NEW] = {[CALL_WAITING] = true, [CALL_RUNNING] = true, [CALL_OVER] = true},
        [CALL_WAITING] = {[CALL_RUNNING] = true, [CALL_OVER] = true},
        [CALL_RUNNING] = {[CALL_AWAY] = true, [CALL_PARKED] = true, [CALL_OVER] = true},
        [CALL_PARKED] = {[CALL_RUNNING] = true, [CALL_OVER] = true},
        [CALL_AWAY] = {[CALL_RUNNING] = true, [CALL_OVER] = true},
    };

    return moves[from][to];
}

void call_move(struct call *call, enum call_state to)
{
    assert(call_may(call->state, to));
    call->state = to;
}

/* --- where it runs -------------------------------------------------------------------------- */

static void learn(struct call *call, bool was_long)
{
    atomic_uchar *tends = &call->pool->program->tends_long[call->function];
    int value = atomic_load_explicit(tends, memory_order_relaxed);
    int next = was_long ? value + LONG_STEP : value - LONG_STEP;

    if (next < 0)
        next = 0;
    if (next > LONG_MOST)
        next = LONG_MOST;
    if (next != value)
        atomic_store_explicit(tends, (unsigned char)next, memory_order_relaxed);
}

static bool tends_to_be_long(const struct call *call)
{
    return atomic_load_explicit(&call->pool->program->tends_long[call->function],
                                memory_order_relaxed) >= LONG_START;
}

/* Whoever runs it comes back at the deadline by itself, but it may be late in getting to run it. */
static void go_long(struct call *call)
{
    struct shard *shard = call->shard;

    call_move(call, CALL_AWAY);
    if (deadlines_add(&shard->deadlines, &call->deadline, call->deadline_ns) == 0)
        shard_arm_deadlines(shard);
    run_long(call);
}

static bool is_long(const struct call *call)
{
    return call->run_ns >= QUANTA_ALONE * call->shard->settings.quantum_ns;
}

/* One slice. Returns: whether the call goes on here. */
static bool run_here(struct call *call, uint64_t now)
{
    uint64_t until = now + call->shard->settings.quantum_ns;
    struct run *run = &call->pooled->run;

    run->run_ns = 0;
    run_slice(call->pooled, until < call->deadline_ns ? until : call->deadline_ns);
    call->run_ns += run->run_ns;
    return run->state == INSTANCE_KICKED && run->left_ns < call->deadline_ns && !is_long(call) &&
           !shard_wanted(call->shard);
}

/* A slice is over, here or elsewhere, and the call does not go on here. */
static void after_slice(struct call *call, enum instance_state state, uint64_t now)
{
    bool goes_on = state == INSTANCE_KICKED || state == INSTANCE_HOST_CALL;
    bool over = !goes_on || now >= call->deadline_ns;

    if (over && (is_long(call) || call->pooled->was_long))
        learn(call, is_long(call));
    switch (state) {
    case INSTANCE_DONE:
        call_done(call, now);
        break;
    case INSTANCE_KICKED:
        if (over)
            call_end_deadline(call);
        else
            go_long(call);
        break;
    case INSTANCE_HOST_CALL:
        if (over)
            call_end_deadline(call);
        else
            host_park(call);
        break;
    default:
        call_end_failure(call, instance_failure(call->pooled->inst), now);
    }
}

void call_returned(struct call *call)
{
    const struct run *run = &call->pooled->run;

    deadlines_remove(&call->shard->deadlines, &call->deadline);
    call_move(call, CALL_RUNNING);
    call->run_ns += run->run_ns;
    after_slice(call, run->state, run->left_ns);
}

/* Runs it here as long as that is right. */
static void run_on(struct call *call, uint64_t now)
{
    while (run_here(call, now))
        now = hv_now_ns();
    after_slice(call, call->pooled->run.state, call->pooled->run.left_ns);
}

void call_run_on(struct call *call)
{
    uint64_t now = hv_now_ns();

    if (now >= call->deadline_ns)
        call_end_deadline(call);
    else
        run_on(call, now);
}

/* From now on another thread may write to the result's file, for as long as the instance runs. */
static void hand_over_bulk(struct call *call)
{
    struct pooled *p = call->pooled;
    size_t room;
    void *to;

    p->bulk = HL_STEAL(call->bulk);
    to = bulk_result(p->bulk, &room);
    if (to)
        instance_result_into(p->inst, to, room);
}

void call_start(struct call *call, const struct arguments *arguments)
{
    struct hl_error err = HL_ERROR_INIT;
    uint64_t now;
    int r;

    if (call->opens) {
        call_open(call);
        return;
    }
    if (call->bulk)
        hand_over_bulk(call);
    r = instance_begin(call->pooled->inst, arguments->function, arguments->args, arguments->nargs,
                       &err);
    if (r < 0) {
        call_end_error(call, r, &err);
        return;
    }
    call_drop_request(call);
    now = hv_now_ns();
    call->function = arguments->function;
    call->entered_ns = now;
    host_begin(call->pooled);
    if (call->state != CALL_RUNNING)
        call_move(call, CALL_RUNNING);
    if (now >= call->deadline_ns) {
        call_end_deadline(call);
    } else if (tends_to_be_long(call)) {
        go_long(call);
    } else if (run_helped(call)) {
        call_move(call, CALL_AWAY);
    } else {
        run_on(call, now);
    }
}

bool call_set_deadline(struct call *call)
{
    const struct settings *settings = &call->shard->settings;
    const struct program *program = call->pool ? call->pool->program : NULL;
    uint64_t ns = program ? program->entry.limits.deadline_ns : settings->defaults.deadline_ns;

    if (call->timeout_ns > 0)
        ns = (uint64_t)call->timeout_ns;
    if (ns > settings->max_deadline_ns)
        ns = settings->max_deadline_ns;
    call->deadline_ns = call->read_ns + ns;
    return hv_now_ns() < call->deadline_ns;
}

/* --- the shard's turns ---------------------------------------------------------------------- */

void calls_expire(struct shard *shard, uint64_t now_ns)
{
    struct deadline *first;

    while ((first = deadlines_first(&shard->deadlines)) && first->at_ns <= now_ns) {
        struct call *call = LIST_ENTRY(first, struct call, deadline);

        if (!host_expire(call, now_ns))
            call_end_deadline(call);
    }
}

void calls_stop_all(struct shard *shard)
{
    LIST_FOREACH(l, &shard->conns)
    {
        struct conn *conn = LIST_ENTRY(l, struct conn, link);

        while (!list_empty(&conn->calls))
            call_end_with(LIST_ENTRY(conn->calls.next, struct call, conn_link), STAT_OTHER_ERRORS,
                          HL_STATUS_UNAVAILABLE, "hld is stopping");
    }
}

/* --- requests ------------------------------------------------------------------------------- */

static struct call *call_new(const struct request *request, uint64_t call_id)
{
    struct conn *conn = request->conn;
    struct call *call = call_alloc(conn->shard);

    if (!call)
        return NULL;
    call->shard = conn->shard;
    call->conn = conn;
    list_init(&call->link);
    list_push_back(&conn->calls, &call->conn_link);
    call->stream = request->stream;
    call->call_id = call_id;
    call->timeout_ns = request->timeout_ns;
    call->read_ns = request->read_ns;
    call->host = request->host;
    if (call->host)
        call->host->call = call;
    call->shard->calls++;
    return call;
}

int call_arguments(const struct call *call, struct arguments *out, struct hl_error *err)
{
    const struct program *program = call->pool->program;

    if (call->opens)
        return 0; /* call_start does not look at them */
    if (call->depth > program->entry.host.depth)
        return hl_error_set(err, -ENOBUFS, "image '%s' may be called %u deep in host calls, not %u",
                            program->entry.name, program->entry.host.depth, call->depth);
    return arguments_decode(out, program, call->request, call->bulk, err);
}

/* With its pool known: starts it, or has it wait. */
static void admit(struct call *call, const struct request *request)
{
    struct pool *pool = call->pool;
    struct arguments arguments;
    struct hl_error err = HL_ERROR_INIT;
    int r;

    if (!call_set_deadline(call)) {
        call_end_deadline(call);
        return;
    }
    if (!pool->program) {
        call_wait(call, request);
        return;
    }
    r = call_arguments(call, &arguments, &err);
    if (r < 0) {
        call_end_error(call, r, &err);
        return;
    }
    atomic_fetch_add_explicit(&pool->program->calls, 1, memory_order_relaxed);
    r = list_empty(&pool->waiting) ? pool_take(pool, &call->pooled, &err) : -EAGAIN;
    if (r == 0) {
        call_start(call, &arguments);
    } else if (r == -EAGAIN) {
        bool first = list_empty(&pool->waiting);

        call_wait(call, request);
        if (first && !list_empty(&pool->waiting))
            pool_set_pending(pool);
    } else {
        call_end_error(call, r, &err);
    }
}

/* Returns: NULL where it is answered already. */
static struct call *call_accept(const struct request *request, uint64_t call_id)
{
    struct call *call = call_new(request, call_id);

    if (!call) {
        call_stream_free(request->host);
        conn_send_status(request->conn, request->stream, HL_STATUS_RESOURCE_EXHAUSTED,
                         "out of memory");
        return NULL;
    }
    if (call->shard->draining) {
        call_end_with(call, STAT_OTHER_ERRORS, HL_STATUS_UNAVAILABLE,
                      "hld is draining: no new calls");
        return NULL;
    }
    return call;
}

static void call_image(struct call *call, const struct request *request, const char *image)
{
    struct shard *shard = call->shard;

    if (!hl_name_valid(image, strlen(image))) {
        call_end_with(call, STAT_OTHER_ERRORS, HL_STATUS_INVALID_ARGUMENT, "no valid image name");
        return;
    }
    call->pool = pool_find(shard, image);
    if (!call->pool)
        call->pool = pool_new(shard, image);
    if (!call->pool) {
        call_end_with(call, STAT_OTHER_ERRORS, HL_STATUS_RESOURCE_EXHAUSTED,
                      "no room to look for another image now");
        return;
    }
    admit(call, request);
}

void call_begin(const struct request *request, const Hl__V1__InvokeRequest *message)
{
    struct call *call = call_accept(request, message->call_id);
    struct hl_error err = HL_ERROR_INIT;
    int r;

    if (!call)
        return;
    call->request = message;
    call->depth = message->depth;
    r = bulk_take(&call->bulk, request, message, &err);
    if (r < 0)
        call_end_error(call, r, &err);
    else if (message->session[0] != '\0')
        call_begin_in_session(call, request);
    else
        call_image(call, request, message->image);
}

void call_begin_open(const struct request *request, const char *image, uint64_t call_id)
{
    struct call *call = call_accept(request, call_id);

    if (!call)
        return;
    call->opens = true;
    call_image(call, request, image);
}

bool call_cancel(struct conn *conn, uint64_t call_id)
{
    LIST_FOREACH(l, &conn->calls)
    {
        struct call *call = LIST_ENTRY(l, struct call, conn_link);

        if (call_id != 0 && call->call_id == call_id) {
            call_end_with(call, STAT_CANCELLED, HL_STATUS_CANCELLED, "cancelled by its client");
            return true;
        }
    }
    return false;
}
