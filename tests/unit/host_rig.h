/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_TESTS_HOST_RIG_H
#define HL_TESTS_HOST_RIG_H

/* Clients and providers of host functions on top of engine_rig.h, frame by frame. */

#include "tests/unit/engine_rig.h"

/* What came on a stream: a host call, or its end. */
struct host_event {
    struct frame_header header;
    uint64_t id; /* of a call; 0: none */
    char function[64];
    uint32_t u32; /* its first argument, if it is one */
    uint32_t depth;
    bool offered;
    /* of a response */
    int code; /* its status */
    char message[512];
    bool done;            /* with an InvokeResponse: */
    uint64_t u64;         /* its result, if it is one */
    int error;            /* its guest error's code, or 0 */
    char error_text[256]; /* and text */
};

/* The first message goes with the request. */
void host_invoke(int fd, uint32_t stream, const struct rig_call *call, uint32_t depth);
/* host_calls(n): n calls of count(u32) -> u32. */
void host_invoke_counting(int fd, uint32_t stream, uint32_t n, int64_t timeout_ns,
                          uint64_t call_id);
void host_offer(int fd, uint32_t stream, const char *function, uint32_t max_queue,
                uint64_t timeout_ns);

/* Returns: whether something came; false at the connection's end. */
bool host_receive(int fd, struct host_event *event);

enum host_side { HOST_CLIENT, HOST_PROVIDER };
void host_answer_u32(int fd, enum host_side side, uint32_t stream, uint64_t id, uint32_t value);
void host_answer_text(int fd, enum host_side side, uint32_t stream, uint64_t id, const char *text);
void host_answer_error(int fd, enum host_side side, uint32_t stream, uint64_t id, uint32_t status,
                       int32_t code, const char *text);
/* A data frame that ends this side's part of the stream. */
void host_close_stream(int fd, uint32_t stream);

#endif
