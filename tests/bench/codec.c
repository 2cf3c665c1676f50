/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the wire's encoding costs by itself: an Invoke request and its response, each encoded once
 * and decoded once, frame and envelope included, without a socket and without a daemon. This is
 * the part of a call's floor that no faster machine below would make smaller.
 *
 *   codec [BYTES]...
 */
#include <stdlib.h>
#include <string.h>

#include "proto/arena.h"
#include "proto/buffer.h"
#include "proto/envelope.h"
#include "proto/frame.h"
#include "proto/hl.pb-c.h"
#include "proto/service.h"
#include "tests/bench/support.h"

#define BATCHES    200u
#define BATCH_NS   500000u /* of one batch, about */
#define ARENA_MAX  (64u << 20)
#define ARENA_SIZE (64u << 10)

struct codec {
    struct buffer buf;
    struct arena arena;
    Hl__V1__Value value, *values[1];
    Hl__V1__InvokeRequest request;
    Hl__V1__Accounting accounting;
    Hl__V1__InvokeResponse response;
};

static void codec_init(struct codec *codec, size_t size)
{
    uint8_t *data = bench_alloc(size);

    memset(data, 0x5a, size);
    *codec = (struct codec){.buf = {0}};
    arena_init(&codec->arena, ARENA_SIZE + size, ARENA_MAX);
    hl__v1__value__init(&codec->value);
    codec->value.kind_case = HL__V1__VALUE__KIND_DATA;
    codec->value.data = (ProtobufCBinaryData){.len = size, .data = data};
    codec->values[0] = &codec->value;
    hl__v1__invoke_request__init(&codec->request);
    codec->request.image = (char *)"bench";
    codec->request.function = (char *)"echo";
    codec->request.n_args = 1;
    codec->request.args = codec->values;
    codec->request.call_id = 4711;
    hl__v1__accounting__init(&codec->accounting);
    codec->accounting.queue_ns = 5000;
    codec->accounting.run_ns = 35000;
    codec->accounting.total_ns = 41000;
    codec->accounting.exits = 1;
    codec->accounting.pages_reset = 10;
    codec->accounting.backend = (char *)"kvm";
    codec->accounting.instance_age_ns = 1000000000;
    codec->accounting.instance_calls = 100000;
    hl__v1__invoke_response__init(&codec->response);
    codec->response.outcome_case = HL__V1__INVOKE_RESPONSE__OUTCOME_RESULT;
    codec->response.result = &codec->value;
    codec->response.accounting = &codec->accounting;
}

static void codec_fini(struct codec *codec)
{
    free(codec->value.data.data);
    arena_fini(&codec->arena);
    buffer_fini(&codec->buf);
}

static struct frame_header take_frame(struct codec *codec)
{
    struct frame_header header;

    if (frame_decode(buffer_data(&codec->buf), codec->buf.len, &header) != 1)
        bench_die("no whole frame");
    return header;
}

static void one_request(struct codec *codec)
{
    struct envelope_request envelope;
    struct frame_header header;
    ProtobufCMessage *message;

    if (envelope_encode_request(&codec->buf, 1, SERVICE_FUNCTIONS, "Invoke", 0,
                                &codec->request.base) < 0)
        bench_die("request: does not encode");
    header = take_frame(codec);
    if (envelope_decode_request(&envelope, buffer_data(&codec->buf) + FRAME_HEADER_SIZE,
                                header.length) < 0 ||
        arena_unpack(&codec->arena, &hl__v1__invoke_request__descriptor, envelope.payload.data,
                     envelope.payload.len, &message) < 0)
        bench_die("request: does not decode");
    buffer_consume(&codec->buf, codec->buf.len);
    arena_reset(&codec->arena);
}

static void one_response(struct codec *codec)
{
    struct envelope_response envelope;
    struct frame_header header;
    ProtobufCMessage *message;

    if (envelope_encode_response(&codec->buf, 1, &codec->response.base) < 0)
        bench_die("response: does not encode");
    header = take_frame(codec);
    if (envelope_decode_response(&envelope, buffer_data(&codec->buf) + FRAME_HEADER_SIZE,
                                 header.length) < 0 ||
        arena_unpack(&codec->arena, &hl__v1__invoke_response__descriptor, envelope.payload.data,
                     envelope.payload.len, &message) < 0)
        bench_die("response: does not decode");
    buffer_consume(&codec->buf, codec->buf.len);
    arena_reset(&codec->arena);
}

/* Both, in batches long enough for the clock; a sample is a batch's mean. */
static json_t *measure(size_t size)
{
    struct samples request = {0}, response = {0};
    struct codec codec;
    uint64_t begin = bench_now(), n = 0;
    json_t *object;

    codec_init(&codec, size);
    do {
        one_request(&codec);
        one_response(&codec);
        n++;
    } while (bench_now() - begin < BATCH_NS);
    for (uint64_t b = 0; b < BATCHES; b++) {
        begin = bench_now();
        for (uint64_t i = 0; i < n; i++)
            one_request(&codec);
        samples_add(&request, (bench_now() - begin) / n);
        begin = bench_now();
        for (uint64_t i = 0; i < n; i++)
            one_response(&codec);
        samples_add(&response, (bench_now() - begin) / n);
    }
    object = json_pack("{s:I, s:I, s:o, s:o}", "bytes", (json_int_t)size, "batch", (json_int_t)n,
                       "request", samples_json(&request), "response", samples_json(&response));
    samples_fini(&request);
    samples_fini(&response);
    codec_fini(&codec);
    return object;
}

int main(int argc, char **argv)
{
    json_t *cases = json_array();

    for (int i = 1; i < argc; i++)
        json_array_append_new(cases, measure(bench_number("BYTES", argv[i], 3u << 20)));
    return bench_print(json_pack("{s:o}", "cases", cases));
}
