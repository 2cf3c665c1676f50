/* SPDX-License-Identifier: Apache-2.0 */
/* Each message is built and sent here, each frame taken apart; libhlclient has no part in it. */
#include "config.h"

#include "tests/unit/host_rig.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/buffer.h"

static void send_buffer(int fd, struct buffer *buf)
{
    rig_send(fd, buffer_data(buf), buf->len);
    buffer_fini(buf);
}

void host_invoke(int fd, uint32_t stream, const struct rig_call *call, uint32_t depth)
{
    Hl__V1__InvokeWithHostRequest first = HL__V1__INVOKE_WITH_HOST_REQUEST__INIT;
    Hl__V1__InvokeRequest request = HL__V1__INVOKE_REQUEST__INIT;
    Hl__V1__Value values[2] = {HL__V1__VALUE__INIT, HL__V1__VALUE__INIT};
    Hl__V1__Value *args[2] = {&values[0], &values[1]};
    struct buffer buf = {0};

    request.image = (char *)(call->image ? call->image : "test");
    request.function = (char *)call->function;
    request.call_id = call->call_id;
    request.depth = depth;
    request.args = args;
    if (call->kind == ARG_U32) {
        request.n_args = 1;
        values[0].kind_case = HL__V1__VALUE__KIND_U32;
        values[0].u32 = call->u32;
    } else if (call->kind == ARG_STRING) { /* host_call(name, bytes) */
        request.n_args = 2;
        values[0].kind_case = HL__V1__VALUE__KIND_TEXT;
        values[0].text = (ProtobufCBinaryData){call->len, (uint8_t *)call->data};
        values[1].kind_case = HL__V1__VALUE__KIND_DATA;
    }
    first.kind_case = HL__V1__INVOKE_WITH_HOST_REQUEST__KIND_START;
    first.start = &request;
    ck_assert_int_eq(envelope_encode_open(&buf, stream, "hl.v1.Functions", "InvokeWithHost",
                                          call->timeout_ns, &first.base),
                     0);
    send_buffer(fd, &buf);
}

void host_invoke_counting(int fd, uint32_t stream, uint32_t n, int64_t timeout_ns, uint64_t call_id)
{
    const struct rig_call call = {.function = "host_calls",
                                  .kind = ARG_U32,
                                  .u32 = n,
                                  .timeout_ns = timeout_ns,
                                  .call_id = call_id};

    host_invoke(fd, stream, &call, 0);
}

void host_offer(int fd, uint32_t stream, const char *function, uint32_t max_queue,
                uint64_t timeout_ns)
{
    Hl__V1__OfferRequest first = HL__V1__OFFER_REQUEST__INIT;
    Hl__V1__FunctionOffer offer = HL__V1__FUNCTION_OFFER__INIT;
    char *functions[1] = {(char *)function};
    struct buffer buf = {0};

    offer.functions = functions;
    offer.n_functions = 1;
    offer.max_queue = max_queue;
    offer.timeout_ns = timeout_ns;
    first.kind_case = HL__V1__OFFER_REQUEST__KIND_OFFER;
    first.offer = &offer;
    ck_assert_int_eq(
        envelope_encode_open(&buf, stream, "hl.v1.HostFunctions", "Offer", 0, &first.base), 0);
    send_buffer(fd, &buf);
}

/* --- what comes ----------------------------------------------------------------------------- */

static void take_call(struct host_event *event, const Hl__V1__HostCall *call)
{
    event->id = call->id;
    event->depth = call->depth;
    snprintf(event->function, sizeof(event->function), "%s", call->function);
    if (call->n_args > 0 && call->args[0]->kind_case == HL__V1__VALUE__KIND_U32)
        event->u32 = call->args[0]->u32;
}

/* A data frame: which of the two services' messages it is shows by their one difference. */
static void take_data(struct host_event *event, const uint8_t *payload)
{
    Hl__V1__InvokeWithHostResponse *message =
        hl__v1__invoke_with_host_response__unpack(NULL, event->header.length, payload);

    if (message && message->kind_case == HL__V1__INVOKE_WITH_HOST_RESPONSE__KIND_CALL &&
        message->call->id != 0) {
        take_call(event, message->call);
    } else {
        Hl__V1__OfferResponse *other =
            hl__v1__offer_response__unpack(NULL, event->header.length, payload);

        ck_assert_ptr_nonnull(other);
        event->offered = other->kind_case == HL__V1__OFFER_RESPONSE__KIND_OFFERED;
        if (other->kind_case == HL__V1__OFFER_RESPONSE__KIND_CALL)
            take_call(event, other->call);
        hl__v1__offer_response__free_unpacked(other, NULL);
    }
    if (message)
        hl__v1__invoke_with_host_response__free_unpacked(message, NULL);
}

static void take_done(struct host_event *event, const Hl__V1__InvokeResponse *done)
{
    event->done = true;
    if (done->outcome_case == HL__V1__INVOKE_RESPONSE__OUTCOME_ERROR) {
        event->error = done->error->code;
        snprintf(event->error_text, sizeof(event->error_text), "%s", done->error->text);
    } else if (done->outcome_case == HL__V1__INVOKE_RESPONSE__OUTCOME_RESULT &&
               done->result->kind_case == HL__V1__VALUE__KIND_U64) {
        event->u64 = done->result->u64;
    }
}

static void take_response(struct host_event *event, const uint8_t *payload)
{
    struct envelope_response envelope;
    Hl__V1__InvokeWithHostResponse *message;

    ck_assert_int_eq(envelope_decode_response(&envelope, payload, event->header.length), 0);
    event->code = envelope.code;
    snprintf(event->message, sizeof(event->message), "%.*s", (int)envelope.message.len,
             (const char *)envelope.message.data);
    if (envelope.code != 0)
        return;
    message = hl__v1__invoke_with_host_response__unpack(NULL, envelope.payload.len,
                                                        envelope.payload.data);
    if (!message)
        return; /* another method's */
    if (message->kind_case == HL__V1__INVOKE_WITH_HOST_RESPONSE__KIND_DONE)
        take_done(event, message->done);
    hl__v1__invoke_with_host_response__free_unpacked(message, NULL);
}

bool host_receive(int fd, struct host_event *event)
{
    uint8_t *payload;

    memset(event, 0, sizeof(*event));
    if (!rig_receive_frame(fd, &event->header, &payload))
        return false;
    if (event->header.type == FRAME_DATA)
        take_data(event, payload);
    else
        take_response(event, payload);
    free(payload);
    return true;
}

/* --- answers -------------------------------------------------------------------------------- */

static void send_answer(int fd, enum host_side side, uint32_t stream, Hl__V1__HostReturn *answer)
{
    Hl__V1__InvokeWithHostRequest client = HL__V1__INVOKE_WITH_HOST_REQUEST__INIT;
    Hl__V1__OfferRequest provider = HL__V1__OFFER_REQUEST__INIT;
    struct buffer buf = {0};

    client.kind_case = HL__V1__INVOKE_WITH_HOST_REQUEST__KIND_ANSWER;
    client.answer = answer;
    provider.kind_case = HL__V1__OFFER_REQUEST__KIND_ANSWER;
    provider.answer = answer;
    ck_assert_int_eq(
        envelope_encode_data(&buf, stream, 0, side == HOST_CLIENT ? &client.base : &provider.base),
        0);
    send_buffer(fd, &buf);
}

void host_answer_u32(int fd, enum host_side side, uint32_t stream, uint64_t id, uint32_t u32)
{
    Hl__V1__HostReturn answer = HL__V1__HOST_RETURN__INIT;
    Hl__V1__Value value = HL__V1__VALUE__INIT;

    value.kind_case = HL__V1__VALUE__KIND_U32;
    value.u32 = u32;
    answer.id = id;
    answer.outcome_case = HL__V1__HOST_RETURN__OUTCOME_RESULT;
    answer.result = &value;
    send_answer(fd, side, stream, &answer);
}

void host_answer_text(int fd, enum host_side side, uint32_t stream, uint64_t id, const char *text)
{
    Hl__V1__HostReturn answer = HL__V1__HOST_RETURN__INIT;
    Hl__V1__Value value = HL__V1__VALUE__INIT;

    value.kind_case = HL__V1__VALUE__KIND_TEXT;
    value.text = (ProtobufCBinaryData){strlen(text), (uint8_t *)text};
    answer.id = id;
    answer.outcome_case = HL__V1__HOST_RETURN__OUTCOME_RESULT;
    answer.result = &value;
    send_answer(fd, side, stream, &answer);
}

void host_answer_error(int fd, enum host_side side, uint32_t stream, uint64_t id, uint32_t status,
                       int32_t code, const char *text)
{
    Hl__V1__HostReturn answer = HL__V1__HOST_RETURN__INIT;
    Hl__V1__HostError error = HL__V1__HOST_ERROR__INIT;

    error.status = status;
    error.code = code;
    error.text = (char *)text;
    answer.id = id;
    answer.outcome_case = HL__V1__HOST_RETURN__OUTCOME_ERROR;
    answer.error = &error;
    send_answer(fd, side, stream, &answer);
}

void host_close_stream(int fd, uint32_t stream)
{
    struct frame_header header = {
        .stream = stream, .type = FRAME_DATA, .flags = FRAME_REMOTE_CLOSED | FRAME_NO_DATA};
    uint8_t head[FRAME_HEADER_SIZE];

    frame_encode_header(head, &header);
    rig_send(fd, head, sizeof(head));
}
