/* SPDX-License-Identifier: Apache-2.0 */
/* One request of the control channel for each host call, with copies of what it names: the call may
 * be over before the front has read it. */
#include "config.h"

#include "daemon/kv.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/call.h"
#include "daemon/control_link.h"
#include "daemon/engine.h"
#include "daemon/host.h"
#include "daemon/kv_limits.h"
#include "daemon/pool.h"
#include "daemon/shard.h"

struct kv_request {
    struct control_request control;
    struct call *call; /* NULL: nobody waits */
    struct charge charge;
    Hl__Control__Kv message;
    char image[HL_NAME_MAX + 1];
    char key[KV_KEY_MAX + 1];
    uint8_t value[]; /* of PUT */
};

static void take_reply(struct call *call, const struct kv_request *request,
                       const Hl__Control__Reply *reply)
{
    Hl__Control__Kv__Op op = request->message.op;
    struct hl_value value = {.type = HL_TYPE_VOID};
    int status = reply ? reply->status : HL_STATUS_UNAVAILABLE;
    bool missing = status == HL_STATUS_NOT_FOUND && op == HL__CONTROL__KV__OP__DELETE;

    if (status != HL_STATUS_OK && !missing) {
        if (status < 0 || status > HL_STATUS_UNAUTHENTICATED)
            status = HL_STATUS_UNKNOWN;
        host_fail(call, (enum hl_status)status, 0, reply ? reply->message : "hld is stopping");
        return;
    }
    if (op == HL__CONTROL__KV__OP__GET) {
        value.type = HL_TYPE_BYTES;
        value.bytes.data = reply->value.data;
        value.bytes.len = reply->value.len;
    } else if (op == HL__CONTROL__KV__OP__DELETE) {
        value.type = HL_TYPE_BOOL;
        value.b = !missing;
    }
    host_return(call, &value);
}

static void on_reply(struct control_request *control)
{
    struct kv_request *request = LIST_ENTRY(control, struct kv_request, control);
    struct shard *shard = control->shard;
    struct call *call = request->call;

    if (control->reply_fd >= 0)
        close(control->reply_fd);
    if (call) {
        call->parked.kv = NULL;
        take_reply(call, request, control->reply);
    }
    charge_release(&request->charge);
    free(request);
    shard->works--;
    shard_check_quiet(shard);
}

static void send_to_front(struct kv_request *request, struct call *call)
{
    struct control_request *control = &request->control;

    hl__control__request__init(&control->request);
    control->request.kind_case = HL__CONTROL__REQUEST__KIND_KV;
    control->request.kv = &request->message;
    control->shard = call->shard;
    control->fd = -1;
    control->done = on_reply;
    request->call = call;
    call->parked.kv = request;
    call->shard->works++;
    control_link_request(call->shard->engine, control);
}

static int take_key(struct kv_request *request, const struct hl_value *key, struct hl_error *err)
{
    size_t len = key->bytes.len;

    if (len == 0 || len > KV_KEY_MAX || memchr(key->bytes.data, '\0', len))
        return hl_error_set(err, -EINVAL, "a key is 1 to %u bytes, none of them NUL", KV_KEY_MAX);
    memcpy(request->key, key->bytes.data, len);
    request->key[len] = '\0';
    return 0;
}

static Hl__Control__Kv__Op op_of(const char *function)
{
    if (strcmp(function, "hl.kv.put") == 0)
        return HL__CONTROL__KV__OP__PUT;
    if (strcmp(function, "hl.kv.delete") == 0)
        return HL__CONTROL__KV__OP__DELETE;
    return HL__CONTROL__KV__OP__GET;
}

int kv_ask(struct call *call, const struct instance_host_call *asked, struct hl_error *err)
{
    Hl__Control__Kv__Op op = op_of(asked->name);
    const struct hl_value *value = op == HL__CONTROL__KV__OP__PUT ? &asked->args[1] : NULL;
    struct kv_request *request;
    size_t size;
    int r;

    if (value && value->bytes.len > KV_VALUE_MAX)
        return hl_error_set(err, -EINVAL, "a value has %u bytes at most", KV_VALUE_MAX);
    size = sizeof(*request) + (value ? value->bytes.len : 0);
    request = calloc(1, size);
    if (!request)
        return hl_error_set(err, -ENOMEM, "out of memory");
    r = take_key(request, &asked->args[0], err);
    if (r == 0 &&
        !charge_set(&request->charge, &call->shard->engine->budget, BUDGET_CLIENT_BYTES, size))
        r = hl_error_set(err, -ENOBUFS, "no room for another host call now");
    if (r < 0) {
        free(request);
        return r;
    }
    hl__control__kv__init(&request->message);
    memcpy(request->image, call->pool->program->entry.name, sizeof(request->image));
    request->message.image = request->image;
    request->message.op = op;
    request->message.key = request->key;
    if (value && value->bytes.len > 0) {
        memcpy(request->value, value->bytes.data, value->bytes.len);
        request->message.value.data = request->value;
        request->message.value.len = value->bytes.len;
    }
    send_to_front(request, call);
    return 0;
}

void kv_abandon(struct kv_request *request)
{
    request->call->parked.kv = NULL;
    request->call = NULL;
}
