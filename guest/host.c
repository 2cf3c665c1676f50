/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Calls of host functions. Request and answer stand in the room of the I/O window that is free for
 * results, so that nothing is allocated and no page is written that a call would not write anyway.
 * The host copies a request before it answers, so the answer may take its place. The text of an
 * error takes room as well, until the next call's answer takes it over; the request of that one
 * stands behind it, as it may be quoting it.
 *
 * Errors that the library finds itself have no answer: their status stands where an answer's offset
 * would.
 */
#include "serve.h"

#include <errno.h>
#include <string.h>

#define ALIGNMENT 16u
#define NO_OFFSET 32u /* of no answer: statuses are below, the call's header is not */

static uint64_t align_up(uint64_t value, uint64_t align)
{
    return (value + align - 1) & ~(align - 1);
}

static struct hl_abi_result *answer_at(uint64_t offset)
{
    return (struct hl_abi_result *)(HL_ABI_IO_ADDR + offset);
}

static uint64_t error_end(uint64_t offset)
{
    const struct hl_abi_result *answer = answer_at(offset);

    return answer->text_len > 0 ? offset + answer->text + answer->text_len
                                : offset + sizeof(*answer);
}

static int fail(struct hl_frame *frame, int status)
{
    frame->host_error = (uint64_t)status;
    return status;
}

static bool is_counted(uint32_t type)
{
    return type == HL_ABI_STRING || type == HL_ABI_BYTES;
}

static void put_scalar(struct hl_abi_value *to, const struct hl_value *from)
{
    switch (from->type) {
    case HL_ABI_I32:
        HL_PUT_i32(to, from->i32);
        break;
    case HL_ABI_U32:
        HL_PUT_u32(to, from->u32);
        break;
    case HL_ABI_F32:
        HL_PUT_f32(to, from->f32);
        break;
    case HL_ABI_BOOL:
        HL_PUT_bool(to, from->boolean);
        break;
    default: /* 64 bits, each */
        hl_put_(to, from->type, from->u64);
    }
}

/* Writes the request; *len: the room there is, then what it took. */
static int write_request(struct hl_abi_host_call *request, uint64_t *len, const char *name,
                         const struct hl_value *args, size_t nargs)
{
    uint64_t at = sizeof(*request) + nargs * sizeof(request->args[0]);
    size_t name_len = strnlen(name, HL_ABI_NAME_SIZE);

    if (name_len == HL_ABI_NAME_SIZE || nargs > HL_ABI_MAX_PARAMS)
        return HL_HOST_INVALID_ARGUMENT;
    if (at > *len)
        return HL_HOST_RESOURCE_EXHAUSTED;
    for (size_t i = 0; i < nargs; i++) {
        const struct hl_bytes *bytes = &args[i].bytes; /* hl_string is laid out alike */

        if (args[i].type == HL_ABI_VOID || args[i].type > HL_ABI_BYTES)
            return HL_HOST_INVALID_ARGUMENT;
        if (!is_counted(args[i].type)) {
            put_scalar(&request->args[i], &args[i]);
            continue;
        }
        at = align_up(at, 8);
        if (at > *len || bytes->len > *len - at || bytes->len > UINT32_MAX)
            return HL_HOST_RESOURCE_EXHAUSTED;
        request->args[i].type = args[i].type;
        request->args[i].len = (uint32_t)bytes->len;
        request->args[i].bits = at;
        if (bytes->len > 0)
            memcpy((uint8_t *)request + at, bytes->data, bytes->len);
        at += bytes->len;
    }
    request->magic = HL_ABI_HOST_CALL_MAGIC;
    request->nargs = (uint32_t)nargs;
    memset(request->name, 0, sizeof(request->name));
    memcpy(request->name, name, name_len);
    *len = at;
    return 0;
}

static int status_of(int64_t code)
{
    switch (code) {
    case -EMSGSIZE:
    case -ENOMEM:
        return HL_HOST_RESOURCE_EXHAUSTED;
    case -EINVAL:
    case -EILSEQ:
        return HL_HOST_INVALID_ARGUMENT;
    default:
        return HL_HOST_INTERNAL;
    }
}

static void take_value(struct hl_frame *frame, uint64_t offset, struct hl_value *result)
{
    struct hl_abi_value value = answer_at(offset)->value;

    result->type = value.type;
    result->u64 = value.bits;
    if (value.type == HL_ABI_BOOL)
        result->boolean = value.bits != 0;
    if (!is_counted(value.type))
        return;
    result->bytes.data = (const void *)(HL_ABI_IO_ADDR + offset + value.bits);
    result->bytes.len = value.len;
    if (value.len > 0)
        frame->used = offset + value.bits + value.len;
}

/* A request at `at` whose answer goes to out. */
static int make_call(struct hl_frame *frame, uint64_t at, uint64_t len, uint64_t out,
                     struct hl_value *result)
{
    struct hl_abi_host_call *request = (struct hl_abi_host_call *)(HL_ABI_IO_ADDR + at);
    int64_t code;

    request->out = HL_ABI_IO_ADDR + out;
    request->size = hl_info()->io_size - out;
    code = (int64_t)hl_hypercall(HL_HYPERCALL_HOST_CALL, (uintptr_t)request, len, 0);
    if (code != 0)
        return fail(frame, status_of(code));
    frame->host_error = 0;
    frame->used = out;
    if (answer_at(out)->error != 0) {
        frame->host_error = out;
        frame->used = error_end(out);
        return (int)answer_at(out)->error;
    }
    if (result)
        take_value(frame, out, result);
    return 0;
}

int hl_host_call(const char *name, struct hl_value *result, const struct hl_value *args,
                 size_t nargs)
{
    uint64_t io_size = hl_info()->io_size, at, out, len;
    struct hl_frame *frame;
    int status;

    if (!hl_ready)
        return HL_HOST_PERMISSION_DENIED;
    frame = hl_frame();
    if (!(hl_info()->flags & HL_ABI_INFO_HOST_CALL))
        return fail(frame, HL_HOST_UNIMPLEMENTED);
    at = out = align_up(frame->used, ALIGNMENT);
    if (frame->host_error >= NO_OFFSET && error_end(frame->host_error) == frame->used)
        out = frame->host_error;
    if (at >= io_size)
        return fail(frame, HL_HOST_RESOURCE_EXHAUSTED);
    len = io_size - at;
    status =
        write_request((struct hl_abi_host_call *)(HL_ABI_IO_ADDR + at), &len, name, args, nargs);
    return status == 0 ? make_call(frame, at, len, out, result) : fail(frame, status);
}

int hl_host_call_typed_(const char *name, uint32_t type, struct hl_value *result,
                        const struct hl_value *args, size_t nargs)
{
    int status = hl_host_call(name, result, args, nargs);

    return status == 0 && result->type != type ? fail(hl_frame(), HL_HOST_INVALID_ARGUMENT)
                                               : status;
}

static const char *text_of(int status)
{
    switch (status) {
    case HL_HOST_OK:
        return "";
    case HL_HOST_INVALID_ARGUMENT:
        return "not a name, not UTF-8, too many arguments, or an answer of another type";
    case HL_HOST_PERMISSION_DENIED:
        return "host functions are not there before READY";
    case HL_HOST_RESOURCE_EXHAUSTED:
        return "the I/O window has no room for it";
    case HL_HOST_UNIMPLEMENTED:
        return "this host has no host functions";
    default:
        return "the host did not take the call";
    }
}

struct hl_host_error hl_host_error(void)
{
    uint64_t at = hl_ready ? hl_frame()->host_error : HL_HOST_PERMISSION_DENIED;
    struct hl_host_error error = {(int)at, 0, {NULL, 0}};
    const struct hl_abi_result *answer;

    if (at < NO_OFFSET) {
        error.text = hl_string_of(text_of((int)at));
        return error;
    }
    answer = answer_at(at);
    error.status = (int)answer->error;
    error.code = answer->code;
    error.text.data = (const char *)answer + answer->text;
    error.text.len = answer->text_len;
    return error;
}
