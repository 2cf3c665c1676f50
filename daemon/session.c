/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The life of sessions, at their home. A session is always in one of three hands: nobody's (its
 * idle time runs), a user's (a call on some shard, or work at the home, maybe on the thread pool),
 * or, closed, its last user's. It ends at the home and only when it is nobody's, so nothing of it
 * needs a lock: what travels with it is looked at by whoever has it, and List shows copies.
 */
#include "config.h"

#include "daemon/session.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/cleanup.h"
#include "daemon/engine.h"
#include "daemon/pool.h"
#include "daemon/program.h"
#include "daemon/shard.h"
#include "hv/timer.h"

#define USES_MAX 64u /* waiting for one session */

/* --- names ---------------------------------------------------------------------------------- */

static int make_id(struct shard *home, char id[SESSION_ID_LENGTH + 1])
{
    uint8_t random[16];

    if (getrandom(random, sizeof(random), 0) != (ssize_t)sizeof(random))
        return -EIO;
    snprintf(id, 3, "%02x", home->index);
    for (size_t i = 0; i < sizeof(random); i++)
        snprintf(id + 2 + 2 * i, 3, "%02x", random[i]);
    return 0;
}

struct shard *session_home(struct shard *shard, const char *id)
{
    unsigned int index = 0;

    if (strlen(id) != SESSION_ID_LENGTH || strspn(id, "0123456789abcdef") != SESSION_ID_LENGTH)
        return NULL;
    if (sscanf(id, "%2x", &index) != 1 || index >= shard->engine->nshards)
        return NULL;
    return &shard->engine->shards[index];
}

static struct session *find(struct shard *home, const char *id)
{
    LIST_FOREACH(l, &home->sessions)
    {
        struct session *s = LIST_ENTRY(l, struct session, link);

        if (!s->closed && strcmp(s->info.id, id) == 0)
            return s;
    }
    return NULL;
}

bool session_is_busy(struct shard *home, const char *id)
{
    const struct session *s = find(home, id);

    return s && (s->user || !list_empty(&s->uses));
}

/* --- beginning and end ---------------------------------------------------------------------- */

static bool charge_checkpoints(void *opaque, uint64_t bytes)
{
    struct session *s = opaque;

    return charge_set(&s->memory, &s->home->engine->budget, BUDGET_GUEST_MEMORY, bytes);
}

static bool reserve(struct shard *shard)
{
    atomic_uint *sessions = &shard->engine->sessions;

    if (atomic_fetch_add(sessions, 1) < shard->settings.max_sessions)
        return true;
    atomic_fetch_sub(sessions, 1);
    return false;
}

int session_new(struct session **out, struct pooled *p, struct hl_error *err)
{
    struct shard *shard = p->pool->shard;
    _cleanup_free_ struct session *s = calloc(1, sizeof(*s));
    int r;

    if (!s)
        return hl_error_set(err, -ENOMEM, "out of memory");
    s->home = shard;
    r = make_id(shard, s->info.id);
    if (r == 0)
        r = history_new(&s->history, p->program->snap, charge_checkpoints, s);
    if (r < 0)
        return hl_error_wrap(err, r, "session");
    if (!reserve(shard)) {
        history_free(s->history);
        return hl_error_set(err, -EAGAIN, "max_sessions is %u", shard->settings.max_sessions);
    }
    snprintf(s->info.image, sizeof(s->info.image), "%s", p->program->entry.name);
    s->info.opened_ns = s->info.used_ns = hv_now_ns();
    list_init(&s->uses);
    s->pool = p->pool;
    s->pool->sessions++;
    s->pooled = p;
    pool_set_apart(p);
    list_push_back(&shard->sessions, &s->link);
    shard->nsessions++;
    stats_add(&shard->stats, STAT_SESSIONS, 1);
    engine_note_sessions(shard->engine);
    sessions_arm(shard);
    *out = HL_STEAL(s);
    return 0;
}

/* Nobody has it. */
static void session_free(struct session *s)
{
    struct shard *shard = s->home;
    struct pool *pool = s->pool;

    list_remove(&s->link);
    session_free_checkpoints(s);
    history_free(s->history);
    charge_release(&s->memory);
    if (s->pooled)
        pool_end_apart(s->pooled, false);
    pool->sessions--;
    pool_check_unused(pool);
    free(s);
    shard->nsessions--;
    atomic_fetch_sub(&shard->engine->sessions, 1);
    engine_note_sessions(shard->engine);
    shard_check_quiet(shard);
}

void session_lose_instance(struct session *s, const char *why)
{
    snprintf(s->info.failed, sizeof(s->info.failed), "%s", why);
    if (s->pooled)
        pool_end_apart(s->pooled, true);
    s->pooled = NULL;
}

/* --- uses ----------------------------------------------------------------------------------- */

static void on_answer(struct mail *mail, void *owner)
{
    struct session_use *use = LIST_ENTRY(mail, struct session_use, mail);

    (void)owner;
    use->done(use);
}

static void answer(struct session_use *use, const struct shard *home)
{
    if (use->from == home)
        use->done(use);
    else
        mailbox_post(&use->from->mailbox, &use->mail, on_answer);
}

static void refuse(struct session_use *use, const struct shard *home, enum hl_status status,
                   const char *text)
{
    use->session = NULL;
    use->status = status;
    hl_error_set(&use->err, -1, "%s", text);
    answer(use, home);
}

static void refuse_unknown(struct session_use *use, const struct shard *home)
{
    refuse(use, home, HL_STATUS_NOT_FOUND,
           "no such session: it was closed, was idle for too long, or ended with its worker");
}

/* Whether it is about the state of now, which a failed session does not have. */
static bool needs_instance(const struct session_use *use)
{
    return use->work == SESSION_CALL || use->work == SESSION_CHECKPOINT ||
           (use->work == SESSION_COMMIT && use->checkpoint == 0);
}

static void dispatch(struct session *s, struct session_use *use)
{
    struct hl_error err;

    use->session = s;
    if (s->info.failed[0] != '\0' && needs_instance(use)) {
        hl_error_set(&err, -1, "the session failed: %s; roll it back or close it", s->info.failed);
        refuse(use, s->home, HL_STATUS_FAILED_PRECONDITION, err.text);
        return;
    }
    s->user = use;
    s->info.busy = true;
    if (use->work == SESSION_CALL)
        answer(use, s->home);
    else
        session_work_begin(s, use);
}

/* Nobody has it any more. */
static void next(struct session *s)
{
    struct list *l;

    s->user = NULL;
    s->info.busy = false;
    s->info.used_ns = hv_now_ns();
    list_remove(&s->link);
    list_push_back(&s->home->sessions, &s->link);
    if (s->held)
        return;
    s->held = true;
    while (!s->closed && !s->user && (l = list_pop_front(&s->uses))) {
        s->nuses--;
        dispatch(s, LIST_ENTRY(l, struct session_use, link));
    }
    s->held = false;
    if (s->closed && !s->user)
        session_free(s);
    else
        sessions_arm(s->home);
}

void session_worked(struct session *s, struct session_use *use)
{
    s->info.checkpoints = s->live;
    s->info.bytes = use->bytes = history_bytes(s->history);
    answer(use, s->home);
    next(s);
}

static void close_session(struct session *s)
{
    bool held = s->held;
    struct list *l;

    s->closed = s->held = true;
    while ((l = list_pop_front(&s->uses)))
        refuse_unknown(LIST_ENTRY(l, struct session_use, link), s->home);
    s->nuses = 0;
    s->held = held;
    if (!held && !s->user)
        session_free(s);
}

static void asked(struct session_use *use, struct shard *home)
{
    struct session *s = find(home, use->id);

    if (!s) {
        refuse_unknown(use, home);
    } else if (use->work == SESSION_CLOSE) {
        close_session(s);
        answer(use, home);
    } else if (!s->user && list_empty(&s->uses)) {
        dispatch(s, use);
    } else if (s->nuses >= USES_MAX) {
        refuse(use, home, HL_STATUS_RESOURCE_EXHAUSTED,
               "the session is busy, and as many requests as may wait for it do");
    } else {
        list_push_back(&s->uses, &use->link);
        s->nuses++;
    }
}

static void on_asked(struct mail *mail, void *owner)
{
    asked(LIST_ENTRY(mail, struct session_use, mail), owner);
}

void session_ask(struct session_use *use, struct shard *home)
{
    list_init(&use->link);
    if (use->from == home)
        asked(use, home);
    else
        mailbox_post(&home->mailbox, &use->mail, on_asked);
}

/* --- calls are over ------------------------------------------------------------------------- */

static void released(struct session_use *use)
{
    struct session *s = use->session;

    if (use->failed)
        session_lose_instance(s, use->failed);
    s->info.calls += use->called;
    free(use);
    next(s);
}

static void on_released(struct mail *mail, void *owner)
{
    (void)owner;
    released(LIST_ENTRY(mail, struct session_use, mail));
}

/* With others waiting it goes by mail to the very same shard: the next call is not to run inside of
 * the end of this one. */
void session_release(struct session_use *use)
{
    struct session *s = use->session;

    use->call = NULL;
    if (use->from == s->home && list_empty(&s->uses))
        released(use);
    else
        mailbox_post(&s->home->mailbox, &use->mail, on_released);
}

void session_call_ended(struct pooled *p)
{
    struct session_use *use = p->use;

    p->use = NULL;
    use->called = true;
    p->was_long = false;
    p->calls++;
    /* One that was given up may have ended all the same: its client was told otherwise. */
    if (instance_continue(p->inst) < 0 && !use->failed)
        use->failed = "its machine could not go on";
    session_release(use);
}

/* --- idle time ------------------------------------------------------------------------------ */

static uint64_t due_ns(const struct session *s)
{
    return s->info.used_ns + s->home->settings.session_idle_ns;
}

static struct session *longest_idle(struct shard *shard)
{
    LIST_FOREACH(l, &shard->sessions)
    {
        struct session *s = LIST_ENTRY(l, struct session, link);

        if (!s->user)
            return s;
    }
    return NULL;
}

static void on_session_timer(uv_timer_t *timer)
{
    struct shard *shard = timer->data;
    struct session *s;

    while ((s = longest_idle(shard)) && due_ns(s) <= hv_now_ns()) {
        stats_add(&shard->stats, STAT_SESSIONS_IDLE, 1);
        close_session(s);
    }
    sessions_arm(shard);
}

void sessions_arm(struct shard *shard)
{
    struct session *s = longest_idle(shard);
    uint64_t now = hv_now_ns(), due;

    if (shard->quiet)
        return;
    if (!s) {
        uv_timer_stop(&shard->session_timer);
        return;
    }
    due = due_ns(s);
    uv_update_time(&shard->loop);
    uv_timer_start(&shard->session_timer, on_session_timer,
                   due <= now ? 0 : (due - now) / 1000000u + 1, 0);
}

void sessions_stop(struct shard *shard)
{
    struct list *next_link;

    for (struct list *l = shard->sessions.next; l != &shard->sessions; l = next_link) {
        struct session *s = LIST_ENTRY(l, struct session, link);

        next_link = l->next;
        if (!s->closed)
            close_session(s);
    }
}

int sessions_list(struct shard *shard, struct session_info **out, size_t *count)
{
    struct session_info *grown =
        realloc(*out, (*count + shard->nsessions + 1) * sizeof(struct session_info));

    if (!grown)
        return -ENOMEM;
    *out = grown;
    LIST_FOREACH(l, &shard->sessions)
    {
        const struct session *s = LIST_ENTRY(l, struct session, link);

        if (!s->closed)
            grown[(*count)++] = s->info;
    }
    return 0;
}
