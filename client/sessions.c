/* SPDX-License-Identifier: Apache-2.0 */
/* Sessions: a request and its answer each. Calls in one are calls like others (call.c). */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "client/client.h"
#include "client/hlsession.h"
#include "proto/service.h"

/* Returns: 0 with the decoded response, or a negative errno. */
static int run(struct hl_client *client, const char *method, const ProtobufCMessage *request,
               const ProtobufCMessageDescriptor *type, ProtobufCMessage **response,
               struct hl_client_error *err)
{
    int r = request_begin(client, err);

    if (r < 0)
        return r;
    return request_simple(client, SERVICE_SESSIONS, method, request, type, response, err);
}

int hl_session_open(struct hl_client *client, const char *image, char *id,
                    struct hl_client_error *err)
{
    Hl__V1__OpenSessionRequest request = HL__V1__OPEN_SESSION_REQUEST__INIT;
    ProtobufCMessage *message;
    const char *session;
    int r;

    request.image = (char *)image;
    r = run(client, "Open", &request.base, &hl__v1__open_session_response__descriptor, &message,
            err);
    if (r < 0)
        return r;
    session = ((const Hl__V1__OpenSessionResponse *)message)->session;
    if (session[0] == '\0' || strlen(session) >= HL_SESSION_ID_SIZE)
        return failure_local(err, -EPROTO, HL_STATUS_INTERNAL, "hld's answer holds no session id");
    memcpy(id, session, strlen(session) + 1);
    return 0;
}

int hl_session_checkpoint(struct hl_client *client, const char *id,
                          struct hl_checkpoint *checkpoint, struct hl_client_error *err)
{
    Hl__V1__CheckpointRequest request = HL__V1__CHECKPOINT_REQUEST__INIT;
    const Hl__V1__CheckpointResponse *response;
    ProtobufCMessage *message;
    int r;

    request.session = (char *)id;
    r = run(client, "Checkpoint", &request.base, &hl__v1__checkpoint_response__descriptor, &message,
            err);
    if (r < 0 || !checkpoint)
        return r;
    response = (const Hl__V1__CheckpointResponse *)message;
    *checkpoint = (struct hl_checkpoint){
        .number = response->checkpoint,
        .pages = response->pages,
        .bytes = response->bytes,
    };
    return 0;
}

int hl_session_rollback(struct hl_client *client, const char *id, uint64_t checkpoint,
                        struct hl_client_error *err)
{
    Hl__V1__RollbackRequest request = HL__V1__ROLLBACK_REQUEST__INIT;
    ProtobufCMessage *message;

    request.session = (char *)id;
    request.checkpoint = checkpoint;
    return run(client, "Rollback", &request.base, &hl__v1__rollback_response__descriptor, &message,
               err);
}

int hl_session_forget(struct hl_client *client, const char *id, uint64_t checkpoint,
                      struct hl_client_error *err)
{
    Hl__V1__ForgetRequest request = HL__V1__FORGET_REQUEST__INIT;
    ProtobufCMessage *message;

    request.session = (char *)id;
    request.checkpoint = checkpoint;
    return run(client, "Forget", &request.base, &hl__v1__forget_response__descriptor, &message,
               err);
}

int hl_session_commit(struct hl_client *client, const char *id, uint64_t checkpoint,
                      const char *name, bool is_private, bool flatten, uint64_t *bytes,
                      struct hl_client_error *err)
{
    Hl__V1__CommitRequest request = HL__V1__COMMIT_REQUEST__INIT;
    ProtobufCMessage *message;
    int r;

    request.session = (char *)id;
    request.checkpoint = checkpoint;
    request.name = (char *)name;
    request.private_ = is_private;
    request.flatten = flatten;
    r = run(client, "Commit", &request.base, &hl__v1__commit_response__descriptor, &message, err);
    if (r == 0 && bytes)
        *bytes = ((const Hl__V1__CommitResponse *)message)->state_bytes;
    return r;
}

int hl_session_close(struct hl_client *client, const char *id, struct hl_client_error *err)
{
    Hl__V1__CloseSessionRequest request = HL__V1__CLOSE_SESSION_REQUEST__INIT;
    ProtobufCMessage *message;

    request.session = (char *)id;
    return run(client, "Close", &request.base, &hl__v1__close_session_response__descriptor,
               &message, err);
}

int hl_session_list(struct hl_client *client, struct hl_session_list *list,
                    struct hl_client_error *err)
{
    Hl__V1__ListSessionsRequest request = HL__V1__LIST_SESSIONS_REQUEST__INIT;
    const Hl__V1__ListSessionsResponse *response;
    struct hl_session *sessions;
    ProtobufCMessage *message;
    int r;

    r = run(client, "List", &request.base, &hl__v1__list_sessions_response__descriptor, &message,
            err);
    if (r < 0)
        return r;
    response = (const Hl__V1__ListSessionsResponse *)message;
    sessions = arena_alloc(client->arena, (response->n_sessions + 1) * sizeof(*sessions));
    if (!sessions)
        return failure_local(err, -ENOMEM, HL_STATUS_RESOURCE_EXHAUSTED, "out of memory");
    for (size_t i = 0; i < response->n_sessions; i++) {
        const Hl__V1__SessionInfo *in = response->sessions[i];

        sessions[i] = (struct hl_session){
            .id = in->session,
            .image = in->image,
            .calls = in->calls,
            .checkpoints = in->checkpoints,
            .checkpoint_bytes = in->checkpoint_bytes,
            .age_ns = in->age_ns,
            .idle_ns = in->idle_ns,
            .busy = in->busy != 0,
            .failed = in->failed,
        };
    }
    *list = (struct hl_session_list){.count = response->n_sessions, .sessions = sessions};
    return 0;
}
