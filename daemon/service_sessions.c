/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The Sessions service: requests become uses of a session (session.h), or, opening and calling,
 * calls. List goes round the shards, each of which adds what it has.
 */
#include "config.h"

#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "daemon/call.h"
#include "daemon/conn.h"
#include "daemon/engine.h"
#include "daemon/service.h"
#include "daemon/session.h"
#include "daemon/shard.h"
#include "hv/timer.h"

static void serve_open(const struct request *request)
{
    Hl__V1__OpenSessionRequest *message = service_decode(request, Hl__V1__OpenSessionRequest,
                                                         hl__v1__open_session_request__descriptor);

    if (message)
        call_begin_open(request, message->image, message->call_id);
}

static void serve_invoke(const struct request *request)
{
    Hl__V1__InvokeRequest *message =
        service_decode(request, Hl__V1__InvokeRequest, hl__v1__invoke_request__descriptor);

    if (message && message->session[0] == '\0') {
        conn_send_status(request->conn, request->stream, HL_STATUS_INVALID_ARGUMENT,
                         "no session id");
        return;
    }
    stats_add(&request->conn->shard->stats, STAT_CALLS, 1);
    if (message)
        call_begin(request, message);
    else
        stats_add(&request->conn->shard->stats, STAT_OTHER_ERRORS, 1);
}

/* --- what is done at the session's home ------------------------------------------------------- */

static void send_done(struct session_use *use)
{
    struct conn *conn = use->ticket.conn;
    uint32_t stream = use->ticket.stream;
    Hl__V1__CheckpointResponse made = HL__V1__CHECKPOINT_RESPONSE__INIT;
    Hl__V1__RollbackResponse back = HL__V1__ROLLBACK_RESPONSE__INIT;
    Hl__V1__ForgetResponse forgot = HL__V1__FORGET_RESPONSE__INIT;
    Hl__V1__CommitResponse committed = HL__V1__COMMIT_RESPONSE__INIT;
    Hl__V1__CloseSessionResponse closed = HL__V1__CLOSE_SESSION_RESPONSE__INIT;

    if (use->status != HL_STATUS_OK) {
        conn_send_status(conn, stream, use->status, "%s", use->err.text);
        return;
    }
    switch (use->work) {
    case SESSION_CHECKPOINT:
        made.checkpoint = use->checkpoint;
        made.pages = use->pages;
        made.bytes = use->bytes;
        conn_send_message(conn, stream, &made.base);
        break;
    case SESSION_ROLLBACK:
        back.pages = use->pages;
        conn_send_message(conn, stream, &back.base);
        break;
    case SESSION_FORGET:
        forgot.bytes = use->bytes;
        conn_send_message(conn, stream, &forgot.base);
        break;
    case SESSION_COMMIT:
        committed.state_bytes = use->pages;
        conn_send_message(conn, stream, &committed.base);
        break;
    default:
        conn_send_message(conn, stream, &closed.base);
    }
}

static void on_done(struct session_use *use)
{
    if (use->ticket.conn)
        send_done(use);
    ticket_drop(&use->ticket);
    free(use);
}

/* Returns: NULL where it is answered already. */
static struct session_use *use_new(const struct request *request, const char *id,
                                   enum session_work work, uint64_t checkpoint)
{
    struct shard *shard = request->conn->shard;
    struct shard *home = session_home(shard, id);
    struct session_use *use;

    if (!home) {
        conn_send_status(request->conn, request->stream, HL_STATUS_INVALID_ARGUMENT,
                         "no valid session id");
        return NULL;
    }
    use = calloc(1, sizeof(*use));
    if (!use) {
        conn_send_status(request->conn, request->stream, HL_STATUS_RESOURCE_EXHAUSTED,
                         "out of memory");
        return NULL;
    }
    if (!ticket_take(&use->ticket, request)) {
        free(use);
        return NULL;
    }
    use->from = shard;
    use->work = work;
    use->checkpoint = checkpoint;
    use->done = on_done;
    use->err = (struct hl_error)HL_ERROR_INIT;
    memcpy(use->id, id, SESSION_ID_LENGTH + 1);
    return use;
}

static void ask(const struct request *request, const char *id, enum session_work work,
                uint64_t checkpoint)
{
    struct session_use *use = use_new(request, id, work, checkpoint);

    if (use)
        session_ask(use, session_home(use->from, use->id));
}

static void serve_checkpoint(const struct request *request)
{
    Hl__V1__CheckpointRequest *message =
        service_decode(request, Hl__V1__CheckpointRequest, hl__v1__checkpoint_request__descriptor);

    if (message)
        ask(request, message->session, SESSION_CHECKPOINT, 0);
}

static void serve_rollback(const struct request *request)
{
    Hl__V1__RollbackRequest *message =
        service_decode(request, Hl__V1__RollbackRequest, hl__v1__rollback_request__descriptor);

    if (message)
        ask(request, message->session, SESSION_ROLLBACK, message->checkpoint);
}

static void serve_forget(const struct request *request)
{
    Hl__V1__ForgetRequest *message =
        service_decode(request, Hl__V1__ForgetRequest, hl__v1__forget_request__descriptor);

    if (message)
        ask(request, message->session, SESSION_FORGET, message->checkpoint);
}

static void serve_commit(const struct request *request)
{
    Hl__V1__CommitRequest *message =
        service_decode(request, Hl__V1__CommitRequest, hl__v1__commit_request__descriptor);
    struct session_use *use;

    if (!message)
        return;
    if (!hl_name_valid(message->name, strlen(message->name))) {
        conn_send_status(request->conn, request->stream, HL_STATUS_INVALID_ARGUMENT,
                         "no valid image name");
        return;
    }
    use = use_new(request, message->session, SESSION_COMMIT, message->checkpoint);
    if (!use)
        return;
    memcpy(use->name, message->name, strlen(message->name) + 1);
    use->private_ = message->private_;
    use->flatten = message->flatten;
    session_ask(use, session_home(use->from, use->id));
}

static void serve_close(const struct request *request)
{
    Hl__V1__CloseSessionRequest *message = service_decode(
        request, Hl__V1__CloseSessionRequest, hl__v1__close_session_request__descriptor);

    if (message)
        ask(request, message->session, SESSION_CLOSE, 0);
}

/* --- List ------------------------------------------------------------------------------------- */

struct list_job {
    struct mail mail;
    struct shard *from;
    struct ticket ticket;
    unsigned int shards_left;
    struct session_info *infos;
    size_t count;
    bool failed;
};

static void to_message(Hl__V1__SessionInfo *out, const struct session_info *in, uint64_t now)
{
    hl__v1__session_info__init(out);
    out->session = (char *)in->id;
    out->image = (char *)in->image;
    out->calls = in->calls;
    out->checkpoints = in->checkpoints;
    out->checkpoint_bytes = in->bytes;
    out->age_ns = now > in->opened_ns ? now - in->opened_ns : 0;
    out->idle_ns = now > in->used_ns && !in->busy ? now - in->used_ns : 0;
    out->busy = in->busy;
    out->failed = (char *)in->failed;
}

static void send_list(struct list_job *job)
{
    Hl__V1__ListSessionsResponse response = HL__V1__LIST_SESSIONS_RESPONSE__INIT;
    _cleanup_free_ Hl__V1__SessionInfo *infos = calloc(job->count + 1, sizeof(*infos));
    _cleanup_free_ Hl__V1__SessionInfo **list = calloc(job->count + 1, sizeof(*list));
    uint64_t now = hv_now_ns();

    if (job->failed || !infos || !list) {
        conn_send_status(job->ticket.conn, job->ticket.stream, HL_STATUS_RESOURCE_EXHAUSTED,
                         "out of memory");
        return;
    }
    for (size_t i = 0; i < job->count; i++) {
        to_message(&infos[i], &job->infos[i], now);
        list[i] = &infos[i];
    }
    response.sessions = list;
    response.n_sessions = job->count;
    conn_send_message(job->ticket.conn, job->ticket.stream, &response.base);
}

static void on_listed(struct mail *mail, void *owner)
{
    struct list_job *job = LIST_ENTRY(mail, struct list_job, mail);

    (void)owner;
    if (job->ticket.conn)
        send_list(job);
    free(job->infos);
    ticket_drop(&job->ticket);
    free(job);
}

static void on_list(struct mail *mail, void *owner)
{
    struct list_job *job = LIST_ENTRY(mail, struct list_job, mail);
    struct shard *shard = owner;

    if (sessions_list(shard, &job->infos, &job->count) < 0)
        job->failed = true;
    if (job->shards_left-- > 0)
        mailbox_post(&shard->engine->shards[job->shards_left].mailbox, &job->mail, on_list);
    else
        mailbox_post(&job->from->mailbox, &job->mail, on_listed);
}

static void serve_list(const struct request *request)
{
    struct engine *engine = request->conn->shard->engine;
    struct list_job *job = calloc(1, sizeof(*job));

    if (!job) {
        conn_send_status(request->conn, request->stream, HL_STATUS_RESOURCE_EXHAUSTED,
                         "out of memory");
        return;
    }
    if (!ticket_take(&job->ticket, request)) {
        free(job);
        return;
    }
    job->from = request->conn->shard;
    job->shards_left = engine->nshards - 1;
    mailbox_post(&engine->shards[job->shards_left].mailbox, &job->mail, on_list);
}

const struct service_method service_sessions[] = {
    {"Open", serve_open},         {"Invoke", serve_invoke}, {"Checkpoint", serve_checkpoint},
    {"Rollback", serve_rollback}, {"Forget", serve_forget}, {"Close", serve_close},
    {"List", serve_list},         {"Commit", serve_commit}, {NULL, NULL},
};
