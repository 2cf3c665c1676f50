/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Calls that open a session, and calls in one. To open one is to be a call up to the point where
 * that would begin: it waits its turn for an instance as others do, and then keeps it. A call in a
 * session gets its instance from there and not from a pool; from then on it is like any other, may
 * go to a long-run thread or another shard, and gives the instance back to the session. While it
 * waits for the session it has its place there, and its deadline here; given up, it leaves the
 * place to be passed over.
 */
#include "config.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/call_internal.h"
#include "daemon/conn.h"
#include "daemon/engine.h"
#include "daemon/pool.h"
#include "daemon/session.h"
#include "daemon/shard.h"
#include "hv/timer.h"

void call_open(struct call *call)
{
    Hl__V1__OpenSessionResponse response = HL__V1__OPEN_SESSION_RESPONSE__INIT;
    struct pooled *p = call->pooled;
    struct hl_error err = HL_ERROR_INIT;
    struct session *session;
    int r = session_new(&session, p, &err);

    if (r < 0) {
        call->pooled = NULL;
        call_end_with(call, STAT_OTHER_ERRORS, HL_STATUS_RESOURCE_EXHAUSTED, err.text);
        pool_give_back(p);
        return;
    }
    response.session = session->info.id;
    call_end_message(call, &response.base);
}

/* --- in a session --------------------------------------------------------------------------- */

static void start(struct call *call, struct session_use *use)
{
    struct session *s = use->session;
    const char *image = call->request->image;
    struct hl_error err = HL_ERROR_INIT;
    struct arguments arguments;
    int r;

    if (call->state == CALL_WAITING) {
        call->conn->waiting--;
        deadlines_remove(&call->shard->deadlines, &call->deadline);
        call_move(call, CALL_RUNNING);
    }
    call->pool = s->pool; /* and its program: they stay as long as the session does */
    if (image[0] != '\0' && strcmp(image, s->pool->program->entry.name) != 0)
        r = hl_error_set(&err, -EINVAL, "the session is one of another image, '%s'",
                         s->pool->program->entry.name);
    else
        r = call_arguments(call, &arguments, &err);
    if (r < 0 || !call_set_deadline(call)) {
        call->use = NULL; /* nothing has happened to the session */
        if (r < 0)
            call_end_error(call, r, &err);
        else
            call_end_deadline(call);
        session_release(use);
        return;
    }
    atomic_fetch_add_explicit(&s->pool->program->calls, 1, memory_order_relaxed);
    s->pooled->use = use;
    call->pooled = s->pooled;
    call_start(call, &arguments);
}

static void take_answer(struct session_use *use)
{
    struct call *call = use->call;

    if (use->session && call) {
        start(call, use);
        return;
    }
    if (use->session) {
        session_release(use);
        return;
    }
    if (call)
        call_end_with(call, STAT_OTHER_ERRORS, use->status, use->err.text);
    free(use);
}

/* Until it has come the shard is not quiet, whatever became of the call. */
static void on_answer(struct session_use *use)
{
    struct shard *shard = use->from;

    shard->works--;
    take_answer(use);
    shard_check_quiet(shard);
}

void call_leave_session(struct call *call)
{
    call->conn->waiting--;
    call->use->call = NULL;
    call->use = NULL;
}

static const char *cause(enum counter stat)
{
    switch (stat) {
    case STAT_FAULTS:
        return "a call of it faulted";
    case STAT_DEADLINES:
        return "a call of it ran past its deadline";
    case STAT_CANCELLED:
        return "a call of it was cancelled";
    case STAT_ABANDONED:
        return "the client of a call disconnected";
    default:
        return "a call of it was stopped";
    }
}

void call_blame(struct call *call, enum counter stat)
{
    if (call->use && call->pooled) /* it has the session, and has begun */
        call->use->failed = cause(stat);
}

/* Returns: whether it waits from now on; otherwise it is over. */
static bool wait_for_session(struct call *call, const struct request *request)
{
    struct shard *shard = call->shard;
    int r = call_keep_request(call, request);

    if (call->conn->waiting >= shard->settings.max_queue_per_client)
        r = -EAGAIN;
    if (r == 0)
        r = deadlines_add(&shard->deadlines, &call->deadline, call->deadline_ns);
    if (r < 0) {
        call_end_with(call, STAT_QUEUE_REFUSED, HL_STATUS_RESOURCE_EXHAUSTED,
                      r == -EAGAIN ? "queue is full: too many calls of this client wait"
                                   : "no memory for another waiting call");
        return false;
    }
    shard_arm_deadlines(shard);
    stats_add(&shard->stats, STAT_QUEUED, 1);
    call->conn->waiting++;
    call_move(call, CALL_WAITING);
    return true;
}

void call_begin_in_session(struct call *call, const struct request *request)
{
    struct shard *shard = call->shard;
    struct shard *home = session_home(shard, call->request->session);
    struct session_use *use;

    if (!home) {
        call_end_with(call, STAT_OTHER_ERRORS, HL_STATUS_INVALID_ARGUMENT, "no valid session id");
        return;
    }
    if (!call_set_deadline(call)) {
        call_end_deadline(call);
        return;
    }
    use = calloc(1, sizeof(*use));
    if (!use) {
        call_end_with(call, STAT_OTHER_ERRORS, HL_STATUS_RESOURCE_EXHAUSTED, "out of memory");
        return;
    }
    use->from = shard;
    use->work = SESSION_CALL;
    use->done = on_answer;
    use->status = HL_STATUS_INTERNAL;
    memcpy(use->id, call->request->session, SESSION_ID_LENGTH + 1);
    /* A free one of this very shard is had at once, and nothing has to be kept. */
    if ((home != shard || session_is_busy(home, use->id)) && !wait_for_session(call, request)) {
        free(use);
        return;
    }
    use->call = call;
    call->use = use;
    shard->works++;
    session_ask(use, home);
}
