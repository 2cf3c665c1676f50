/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A session becomes an image: its files are made on the thread pool and handed to the registry,
 * which decides as it does about any registration. Meanwhile the session is the use's; it goes on
 * as it was.
 *
 * Where there is no room for the files, programs that nobody calls make some, as they do for the
 * start of another program, and the files are made once more. Those programs are given back by the
 * shards that have them, so a mail goes round all shards before. They are made once more as well
 * where the root was left out and the front does not have it.
 */
#include "config.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "daemon/commit.h"
#include "daemon/control_link.h"
#include "daemon/engine.h"
#include "daemon/images.h"
#include "daemon/pool.h"
#include "daemon/session.h"
#include "daemon/shard.h"
#include "proto/convert_policy.h"

struct session_commit {
    struct session_use *use;
    struct commit commit;
    struct checkpoint *made; /* of the state of now, while it is written */
    struct mail mail;        /* goes round the shards to make room */
    unsigned int visits;     /* it has made */
    uint64_t wanted;         /* the room it was sent for; 0: it was not */
    bool whole;              /* the front lacks the root */
    struct control_request control;
    Hl__Control__Register message;
    Hl__Control__State state;
    Hl__Control__LimitSet limits;
    struct policy_message host;
};

static void end(struct session_commit *c)
{
    struct session_use *use = c->use;
    struct session *s = use->session;

    checkpoint_free(s->history, c->made);
    commit_fini(&c->commit);
    free(c);
    session_worked(s, use);
}

static void fail(struct session_commit *c, enum hl_status status, const char *text)
{
    c->use->status = status;
    if (text != c->use->err.text)
        hl_error_set(&c->use->err, -1, "%s", text);
    end(c);
}

/* On shard 0. The name stands for another image: what comes after must not find the old one. And
 * where it lies over its parent's snapshot, that is to be the same in workers to come. */
static void on_seen(struct control_request *control)
{
    struct session_commit *c = LIST_ENTRY(control, struct session_commit, control);

    if (control->reply->status != HL_STATUS_OK)
        return;
    images_invalidate(control->shard->engine, c->use->name);
    if (!c->use->flatten)
        images_note_parent(control->shard->engine, c->use->session->pool->program);
}

static void make_again(struct session_commit *c);

static void on_registered(struct control_request *control)
{
    struct session_commit *c = LIST_ENTRY(control, struct session_commit, control);
    const Hl__Control__Reply *reply = control->reply;
    int status = reply ? reply->status : HL_STATUS_UNAVAILABLE;

    hl_cleanup_closep(&control->reply_fd);
    if (reply && reply->root_needed && !c->whole && !control->shard->stopping) {
        c->whole = true;
        make_again(c);
        return;
    }
    if (status < 0 || status > HL_STATUS_UNAUTHENTICATED)
        status = HL_STATUS_UNKNOWN;
    if (status != HL_STATUS_OK) {
        fail(c, (enum hl_status)status, reply ? reply->message : "hld is stopping");
        return;
    }
    c->use->pages = c->commit.pages.size;
    end(c);
}

static void register_image(struct session_commit *c)
{
    struct session *s = c->use->session;
    struct program_entry *entry = &s->pool->program->entry;

    hl__control__state__init(&c->state);
    c->state.parent = entry->name;
    c->state.root_sha256.data = c->commit.root.sha256;
    c->state.root_sha256.len = PROGRAM_DIGEST_SIZE;
    c->state.root_size = c->commit.root.size;
    c->state.pages_sha256.data = c->commit.pages.sha256;
    c->state.pages_sha256.len = PROGRAM_DIGEST_SIZE;
    c->state.pages_size = c->commit.pages.size;
    c->state.root_left_out = c->commit.rootless;
    hl__control__register__init(&c->message);
    limits_to_control(&c->limits, &entry->limits);
    c->message.name = c->use->name;
    c->message.size = entry->size;
    c->message.sha256.data = entry->sha256;
    c->message.sha256.len = PROGRAM_DIGEST_SIZE;
    c->message.private_ = c->use->private_ || entry->private_;
    c->message.limits = &c->limits;
    policy_to_message(&c->host, &entry->host);
    c->message.host = &c->host.policy;
    c->message.state = &c->state;
    hl__control__request__init(&c->control.request);
    c->control.request.kind_case = HL__CONTROL__REQUEST__KIND_REGISTER;
    c->control.request.register_ = &c->message;
    c->control.shard = s->home;
    c->control.fd = c->commit.fd;
    c->control.snapshot_fd = -1;
    c->control.seen = on_seen;
    c->control.done = on_registered;
    control_link_request(s->home->engine, &c->control);
}

static int make(struct session_commit *c)
{
    struct session_use *use = c->use;
    struct session *s = use->session;
    struct engine *engine = s->home->engine;
    const struct checkpoint *to = c->made;
    uint64_t pages;
    int r = 0;

    if (c->made) {
        /* once more */
    } else if (use->checkpoint > 0) {
        to = s->checkpoints[use->checkpoint - 1];
    } else {
        r = history_checkpoint(s->history, s->pooled->inst, &c->made, &pages, &use->err);
        to = c->made;
    }
    if (r < 0)
        return r;
    return commit_make(&c->commit,
                       &(struct commit_request){.program = s->pool->program,
                                                .history = s->history,
                                                .to = to,
                                                .hv = engine->hv,
                                                .flatten = use->flatten,
                                                .whole = c->whole},
                       images_key(engine), &engine->budget, &use->err);
}

static void make_work(uv_work_t *uv)
{
    struct session_use *use = uv->data;

    use->result = make(use->commit);
}

static void on_made(uv_work_t *uv, int status);

static void make_again(struct session_commit *c)
{
    struct shard *home = c->use->session->home;

    c->use->err = (struct hl_error)HL_ERROR_INIT;
    commit_fini(&c->commit);
    home->works++;
    uv_queue_work(&home->loop, &c->use->uv, make_work, on_made);
}

/* Back at home. */
static void on_room(struct mail *mail, void *owner)
{
    ((struct shard *)owner)->works--;
    make_again(LIST_ENTRY(mail, struct session_commit, mail));
}

/* From shard 0 past each other one and back to it: by then what went has been given back, and roots
 * that only those programs had go too. */
static void on_round(struct mail *mail, void *owner)
{
    struct session_commit *c = LIST_ENTRY(mail, struct session_commit, mail);
    struct engine *engine = ((struct shard *)owner)->engine;
    unsigned int at = c->visits++ % engine->nshards;

    if (at == 0)
        images_make_room(engine, c->wanted, c->use->session->pool->program);
    if (c->visits > engine->nshards)
        mailbox_post(&c->use->session->home->mailbox, mail, on_room);
    else
        mailbox_post(&engine->shards[(at + 1) % engine->nshards].mailbox, mail, on_round);
}

/* Returns: whether it is worth another try, which follows. */
static bool make_room(struct session_commit *c)
{
    struct shard *home = c->use->session->home;

    if (home->stopping || c->commit.wanted <= c->wanted)
        return false;
    c->wanted = c->commit.wanted;
    c->visits = 0;
    commit_fini(&c->commit);
    home->works++; /* until it is back */
    mailbox_post(&home->engine->shards[0].mailbox, &c->mail, on_round);
    return true;
}

static void on_made(uv_work_t *uv, int status)
{
    struct session_use *use = uv->data;
    struct shard *home = use->session->home;
    int r = status < 0 ? hl_error_wrap(&use->err, status, "the thread pool") : use->result;

    home->works--;
    if (r == -ENOBUFS && make_room(use->commit))
        return;
    if (r < 0)
        fail(use->commit,
             r == -EOPNOTSUPP ? HL_STATUS_FAILED_PRECONDITION : hl_status_from_errno(r),
             use->err.text);
    else
        register_image(use->commit);
    shard_check_quiet(home);
}

void session_commit(struct session *s, struct session_use *use)
{
    struct session_commit *c = calloc(1, sizeof(*c));

    if (!c) {
        use->status = HL_STATUS_RESOURCE_EXHAUSTED;
        hl_error_set(&use->err, -ENOMEM, "out of memory");
        session_worked(s, use);
        return;
    }
    c->use = use;
    c->commit.fd = -1;
    use->commit = c;
    use->uv.data = use;
    make_again(c);
}
