/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a client sends to a worker, and what a daemon sends to a client: a frame, the envelope in
 * it, the message in that, the values in the message. A payload is tried as each kind of message.
 */
#include "config.h"

#include <stdlib.h>

#include "proto/arena.h"
#include "proto/convert.h"
#include "proto/envelope.h"
#include "proto/frame.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void convert_all(const Hl__V1__InvokeRequest *request)
{
    for (size_t i = 0; i < request->n_args; i++) {
        struct hl_value value;
        Hl__V1__Value back = HL__V1__VALUE__INIT;

        if (convert_from_proto(&value, request->args[i], NULL) == 0 &&
            convert_to_proto(&back, &value) != 0)
            abort();
    }
}

static void unpack(struct envelope_view payload)
{
    static const ProtobufCMessageDescriptor *const types[] = {
        &hl__v1__invoke_request__descriptor,   &hl__v1__invoke_response__descriptor,
        &hl__v1__register_request__descriptor, &hl__v1__upload_request__descriptor,
        &hl__v1__inspect_response__descriptor, &hl__v1__stats_response__descriptor,
        &hl__v1__guest_fault__descriptor,
    };
    struct arena arena;
    ProtobufCMessage *message;

    arena_init(&arena, 4096, 1u << 20);
    for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
        if (arena_unpack(&arena, types[i], payload.data, payload.len, &message) == 0 && i == 0)
            convert_all((const Hl__V1__InvokeRequest *)message);
        arena_reset(&arena);
    }
    arena_fini(&arena);
}

static void decode(const uint8_t *payload, size_t len)
{
    struct envelope_request request;
    struct envelope_response response;
    struct envelope_any any;
    size_t cursor = 0;

    if (envelope_decode_request(&request, payload, len) == 0) {
        if (request.timeout_nano < 0)
            abort();
        unpack(request.payload);
    }
    if (envelope_decode_response(&response, payload, len) == 0) {
        unpack(response.payload);
        while (envelope_next_detail(&response, &cursor, &any))
            unpack(any.value);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct frame_header header;

    if (frame_decode(data, size, &header) == 1) {
        if (header.length > size - FRAME_HEADER_SIZE)
            abort();
        decode(data + FRAME_HEADER_SIZE, header.length);
    }
    decode(data, size);
    return 0;
}
