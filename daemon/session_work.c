/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is done to a session at its home: checkpoints, rollbacks. Both cost the pages that changed;
 * what may be many is done on the thread pool, as are all that a backend cannot tell the number of.
 *
 * A session whose guest failed has no instance. A rollback takes one from the pool and moves the
 * history there; so does one whose own instance did not take it well.
 */
#include "config.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/engine.h"
#include "daemon/pool.h"
#include "daemon/session.h"
#include "daemon/shard.h"

#define FEW_PAGES       256u
#define FEW_BYTES       (4u << 20) /* of all checkpoints: what two of them can differ in */
#define CHECKPOINTS_MAX 65536u
#define GROW            64u
#define PAGE_COST       4608u /* of a copy, and the tree above it */

void session_free_checkpoints(struct session *s)
{
    for (uint64_t i = 0; i < s->ncheckpoints; i++)
        checkpoint_free(s->history, s->checkpoints[i]);
    free(s->checkpoints);
    s->checkpoints = NULL;
    s->ncheckpoints = s->live = 0;
}

static struct checkpoint *find(struct session *s, uint64_t number)
{
    return number > 0 && number <= s->ncheckpoints ? s->checkpoints[number - 1] : NULL;
}

/* Returns: whether use->checkpoint is one. */
static bool exists(struct session *s, struct session_use *use)
{
    if (find(s, use->checkpoint))
        return true;
    use->status = HL_STATUS_NOT_FOUND;
    hl_error_set(&use->err, -ENOENT, "the session has no checkpoint %" PRIu64, use->checkpoint);
    return false;
}

/* --- on any thread, with the session the use's ------------------------------------------------ */

static int checkpoint(struct session *s, struct session_use *use)
{
    struct checkpoint *made;
    int r;

    if (s->ncheckpoints % GROW == 0) {
        void *grown = realloc(s->checkpoints, (s->ncheckpoints + GROW) * sizeof(*s->checkpoints));

        if (!grown)
            return hl_error_set(&use->err, -ENOMEM, "no memory for a checkpoint");
        s->checkpoints = grown;
    }
    r = history_checkpoint(s->history, s->pooled->inst, &made, &use->pages, &use->err);
    if (r < 0)
        return r;
    s->checkpoints[s->ncheckpoints++] = made;
    s->live++;
    use->checkpoint = s->ncheckpoints;
    return 0;
}

static int rollback(struct session *s, struct session_use *use)
{
    const struct checkpoint *to = find(s, use->checkpoint);

    if (use->move)
        return history_move(s->history, s->pooled->inst, to, &use->pages, &use->err);
    return history_rollback(s->history, s->pooled->inst, to, &use->pages, &use->err);
}

static void work(uv_work_t *uv)
{
    struct session_use *use = uv->data;

    use->result = use->work == SESSION_CHECKPOINT ? checkpoint(use->session, use)
                                                  : rollback(use->session, use);
}

/* --- at the home ------------------------------------------------------------------------------ */

static void worked(struct session_use *use)
{
    struct session *s = use->session;

    if (use->result < 0) {
        use->status = use->result == -ENOMEM       ? HL_STATUS_RESOURCE_EXHAUSTED
                      : use->result == -EOPNOTSUPP ? HL_STATUS_UNIMPLEMENTED
                                                   : HL_STATUS_INTERNAL;
        if (use->work == SESSION_ROLLBACK ||
            use->status == HL_STATUS_INTERNAL) /* neither here nor there */
            session_lose_instance(s, use->err.text);
    } else if (use->work == SESSION_ROLLBACK) {
        s->info.failed[0] = '\0';
    }
    session_worked(s, use);
}

static void on_work_done(uv_work_t *uv, int status)
{
    struct session_use *use = uv->data;
    struct shard *home = use->session->home;

    home->works--;
    if (status < 0)
        use->result = hl_error_wrap(&use->err, status, "the thread pool");
    worked(use);
    shard_check_quiet(home);
}

static void do_work(struct session *s, struct session_use *use, bool much)
{
    use->uv.data = use;
    if (much && !s->home->stopping) {
        s->home->works++;
        uv_queue_work(&s->home->loop, &use->uv, work, on_work_done);
    } else {
        work(&use->uv);
        worked(use);
    }
}

/* Idle instances make room for checkpoints, as they do for calls. */
static void make_room(struct shard *shard, uint64_t bytes)
{
    struct budget *budget = &shard->engine->budget;

    while (budget_used(budget, BUDGET_GUEST_MEMORY) + bytes >
               atomic_load(&budget->limit[BUDGET_GUEST_MEMORY]) &&
           pooled_evict(shard)) {
    }
}

static void begin_checkpoint(struct session *s, struct session_use *use)
{
    int64_t pages;

    if (s->ncheckpoints >= CHECKPOINTS_MAX) {
        use->status = HL_STATUS_RESOURCE_EXHAUSTED;
        hl_error_set(&use->err, -EAGAIN, "the session has had %u checkpoints", CHECKPOINTS_MAX);
        session_worked(s, use);
        return;
    }
    pages = history_written(s->history, s->pooled->inst);
    if (pages < 0) {
        use->result = hl_error_wrap(&use->err, (int)pages, "checkpoint");
        worked(use);
        return;
    }
    make_room(s->home, (uint64_t)pages * PAGE_COST);
    do_work(s, use, pages > FEW_PAGES);
}

static void begin_rollback(struct session *s, struct session_use *use)
{
    int64_t pages = 0;
    int r;

    if (use->checkpoint != 0 && !exists(s, use)) {
        session_worked(s, use);
        return;
    }
    if (s->pooled)
        pages = history_written(s->history, s->pooled->inst);
    if (pages < 0)
        session_lose_instance(s, "its machine failed");
    use->move = !s->pooled;
    if (use->move) {
        r = pool_take(s->pool, &s->pooled, &use->err);
        if (r < 0) {
            s->pooled = NULL;
            use->status = HL_STATUS_RESOURCE_EXHAUSTED;
            if (r == -EAGAIN)
                hl_error_set(&use->err, r, "no instance is free for it now");
            session_worked(s, use);
            return;
        }
        pool_set_apart(s->pooled);
    }
    do_work(s, use, pages > FEW_PAGES || history_bytes(s->history) > FEW_BYTES);
}

/* The state of now is a checkpoint while it is written. */
static void begin_commit(struct session *s, struct session_use *use)
{
    int64_t pages = 0;

    if (use->checkpoint != 0 && !exists(s, use)) {
        session_worked(s, use);
        return;
    }
    if (use->checkpoint == 0)
        pages = history_written(s->history, s->pooled->inst);
    if (pages > 0) /* what is wrong with it, the checkpoint says */
        make_room(s->home, (uint64_t)pages * PAGE_COST);
    session_commit(s, use);
}

static void forget(struct session *s, struct session_use *use)
{
    if (exists(s, use)) {
        checkpoint_free(s->history, s->checkpoints[use->checkpoint - 1]);
        s->checkpoints[use->checkpoint - 1] = NULL;
        s->live--;
    }
    session_worked(s, use);
}

void session_work_begin(struct session *s, struct session_use *use)
{
    if (use->work == SESSION_CHECKPOINT)
        begin_checkpoint(s, use);
    else if (use->work == SESSION_ROLLBACK)
        begin_rollback(s, use);
    else if (use->work == SESSION_FORGET)
        forget(s, use);
    else
        begin_commit(s, use);
}
