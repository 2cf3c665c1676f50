/* SPDX-License-Identifier: Apache-2.0 */
/* Each request on a stream of its own, numbered across all connections and threads. */
#include "config.h"

#include "tests/unit/session_rig.h"

#include <check.h>
#include <stdio.h>
#include <string.h>

#include "tests/fake/fake.h"

static uint32_t stream = 1;

uint32_t next_stream(void)
{
    return __atomic_fetch_add(&stream, 2, __ATOMIC_RELAXED);
}

/* Returns: the status; out (unless NULL) the decoded answer to an OK. */
static int ask(int fd, const char *method, const ProtobufCMessage *request,
               const ProtobufCMessageDescriptor *type, ProtobufCMessage **out)
{
    struct rig_response response;
    int code;

    rig_request(fd, next_stream(), "hl.v1.Sessions", method, 0, request);
    ck_assert_msg(rig_receive(fd, &response), "the connection was closed");
    code = response.envelope.code;
    if (code == 0 && out) {
        *out = protobuf_c_message_unpack(type, NULL, response.envelope.payload.len,
                                         response.envelope.payload.data);
        ck_assert_ptr_nonnull(*out);
    }
    ck_assert(code == 0 || response.message[0] != '\0');
    rig_response_free(&response);
    return code;
}

int open_image(int fd, const char *image, char id[40])
{
    Hl__V1__OpenSessionRequest request = HL__V1__OPEN_SESSION_REQUEST__INIT;
    ProtobufCMessage *out;
    int code;

    request.image = (char *)image;
    code = ask(fd, "Open", &request.base, &hl__v1__open_session_response__descriptor, &out);
    if (code == 0) {
        snprintf(id, 40, "%s", ((Hl__V1__OpenSessionResponse *)out)->session);
        protobuf_c_message_free_unpacked(out, NULL);
    }
    return code;
}

void open_session(int fd, char id[40])
{
    ck_assert_int_eq(open_image(fd, "test", id), 0);
    ck_assert_uint_eq(strlen(id), 34);
}

int checkpoint(int fd, const char *id, uint64_t *number)
{
    Hl__V1__CheckpointRequest request = HL__V1__CHECKPOINT_REQUEST__INIT;
    ProtobufCMessage *out;
    int code;

    request.session = (char *)id;
    code = ask(fd, "Checkpoint", &request.base, &hl__v1__checkpoint_response__descriptor, &out);
    if (code == 0) {
        *number = ((Hl__V1__CheckpointResponse *)out)->checkpoint;
        protobuf_c_message_free_unpacked(out, NULL);
    }
    return code;
}

int rollback(int fd, const char *id, uint64_t number)
{
    Hl__V1__RollbackRequest request = HL__V1__ROLLBACK_REQUEST__INIT;

    request.session = (char *)id;
    request.checkpoint = number;
    return ask(fd, "Rollback", &request.base, NULL, NULL);
}

int forget(int fd, const char *id, uint64_t number)
{
    Hl__V1__ForgetRequest request = HL__V1__FORGET_REQUEST__INIT;

    request.session = (char *)id;
    request.checkpoint = number;
    return ask(fd, "Forget", &request.base, NULL, NULL);
}

int close_session(int fd, const char *id)
{
    Hl__V1__CloseSessionRequest request = HL__V1__CLOSE_SESSION_REQUEST__INIT;

    request.session = (char *)id;
    return ask(fd, "Close", &request.base, NULL, NULL);
}

Hl__V1__ListSessionsResponse *list(int fd)
{
    Hl__V1__ListSessionsRequest request = HL__V1__LIST_SESSIONS_REQUEST__INIT;
    ProtobufCMessage *out;

    ck_assert_int_eq(
        ask(fd, "List", &request.base, &hl__v1__list_sessions_response__descriptor, &out), 0);
    return (Hl__V1__ListSessionsResponse *)out;
}

int call(int fd, const char *id, const char *function)
{
    return rig_call(fd, next_stream(), &(struct rig_call){.function = function, .session = id});
}

void begin_hold(int fd, const char *id, unsigned int n)
{
    fake_hold(true);
    rig_invoke(fd, next_stream(), &(struct rig_call){.function = "hold", .session = id});
    rig_await_held(n);
}

void end_hold(int fd)
{
    struct rig_response response;

    fake_hold(false);
    ck_assert(rig_receive(fd, &response));
    ck_assert_int_eq(response.envelope.code, 0);
    rig_response_free(&response);
}

void await_counter(int fd, const char *name, uint64_t value)
{
    uint32_t from = next_stream();

    rig_await_counter(fd, &from, name, value);
    __atomic_store_n(&stream, from + 2, __ATOMIC_RELAXED);
}

int delay(int fd, const char *id, uint32_t ms, int64_t timeout_ns)
{
    return rig_call(fd, next_stream(),
                    &(struct rig_call){.function = "delay",
                                       .session = id,
                                       .kind = ARG_U32,
                                       .u32 = ms,
                                       .timeout_ns = timeout_ns});
}

int64_t keep(int fd, const char *id, uint32_t value)
{
    const struct rig_call keep_call = {
        .function = "keep", .session = id, .kind = ARG_U32, .u32 = value};
    struct rig_response response;
    Hl__V1__InvokeResponse *message;
    int64_t old;

    rig_invoke(fd, next_stream(), &keep_call);
    ck_assert_msg(rig_receive(fd, &response), "the connection was closed");
    old = -(int64_t)response.envelope.code;
    if (old == 0) {
        message = hl__v1__invoke_response__unpack(NULL, response.envelope.payload.len,
                                                  response.envelope.payload.data);
        ck_assert(message && message->result);
        old = message->result->u32;
        hl__v1__invoke_response__free_unpacked(message, NULL);
    }
    rig_response_free(&response);
    return old;
}
