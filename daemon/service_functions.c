/* SPDX-License-Identifier: Apache-2.0 */
/* The Functions service: requests decoded into the shard's arena, and handed to the call. */
#include "config.h"

#include "daemon/call.h"
#include "daemon/call_stream.h"
#include "daemon/conn.h"
#include "daemon/service.h"
#include "daemon/shard.h"

static void serve_invoke(const struct request *request)
{
    struct stats *stats = &request->conn->shard->stats;
    Hl__V1__InvokeRequest *message =
        service_decode(request, Hl__V1__InvokeRequest, hl__v1__invoke_request__descriptor);

    stats_add(stats, STAT_CALLS, 1);
    if (message)
        call_begin(request, message);
    else
        stats_add(stats, STAT_OTHER_ERRORS, 1);
}

static void serve_cancel(const struct request *request)
{
    Hl__V1__CancelRequest *message =
        service_decode(request, Hl__V1__CancelRequest, hl__v1__cancel_request__descriptor);
    Hl__V1__CancelResponse response = HL__V1__CANCEL_RESPONSE__INIT;

    if (!message)
        return;
    response.found = call_cancel(request->conn, message->call_id);
    conn_send_message(request->conn, request->stream, &response.base);
}

const struct service_method service_functions[] = {
    {"Invoke", serve_invoke},
    {"Cancel", serve_cancel},
    {"InvokeWithHost", serve_invoke_with_host},
    {NULL, NULL},
};
