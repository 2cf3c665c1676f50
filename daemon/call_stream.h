/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_DAEMON_CALL_STREAM_H
#define HL_DAEMON_CALL_STREAM_H

/* The stream of Functions.InvokeWithHost: a call whose client answers host calls. */

#include "daemon/conn.h"

struct call;

struct call_stream {
    struct stream stream;
    struct call *call; /* NULL until the stream's first message */
    uint64_t read_ns;
    int64_t timeout_ns;
    uint64_t last_id; /* of a host call */
};

/* Functions.InvokeWithHost. */
void serve_invoke_with_host(const struct request *request);

/* Closes and frees it, without a word. NULL is allowed. */
void call_stream_free(struct call_stream *stream);

#endif
