/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Calls out of a guest. The whole of the guest's struct is copied once, at a size bounded before,
 * and nothing is read from the guest after that: what was checked is what is used, and where the
 * answer goes may overlap what was asked. Which memory that is was checked when the call was made.
 * A guest does not run while its call is pending, so its permissions stay what they were; on a
 * backend where it might write all the same, nothing of this is read back.
 *
 * What a program can do by honest mistake (a string that is not UTF-8, a name from an argument,
 * more bytes than fit) is an error it is told; what only a broken library does ends the call.
 */
#include "config.h"

#include "hv/host_call.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/value.h"
#include "hv/guest.h"

#define BYTES_AT 48u /* in an answer: behind the header, at a multiple of 16 */

_Static_assert(BYTES_AT >= sizeof(struct hl_abi_result), "bytes stand behind the header");

static bool is_name_character(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
           c == '_' || c == '-';
}

static int take_name(struct host_call *call, const char name[HL_ABI_NAME_SIZE])
{
    size_t len = strnlen(name, HL_ABI_NAME_SIZE);

    if (len == 0 || len == HL_ABI_NAME_SIZE)
        return -EINVAL;
    for (size_t i = 0; i < len; i++) {
        if (!is_name_character(name[i]))
            return -EINVAL;
    }
    memcpy(call->shown.name, name, len);
    call->shown.name[len] = '\0';
    return 0;
}

/* len: of the whole struct. bytes_at: where values end. */
static int take_value(struct host_call *call, size_t i, const struct hl_abi_value *value,
                      uint64_t bytes_at, uint64_t len, struct hl_error *err)
{
    struct hl_value *arg = &call->args[i];

    memset(arg, 0, sizeof(*arg));
    if (value->type == HL_ABI_VOID || value->type > HL_ABI_BYTES)
        return hl_error_set(err, -EPROTO, "argument %zu has the unknown type %" PRIu32, i + 1,
                            value->type);
    arg->type = (enum hl_type)value->type;
    if (!call_is_counted(arg->type)) {
        if (value->len != 0 || !call_scalar_valid(arg->type, value->bits))
            return hl_error_set(err, -EPROTO, "argument %zu, 0x%" PRIx64 ", is no %s", i + 1,
                                value->bits, hl_type_name(arg->type));
        call_scalar_take(arg, value->bits);
        return 0;
    }
    arg->bytes.len = value->len;
    arg->bytes.data = call->buffer.data + bytes_at;
    if (value->len == 0)
        return 0;
    if (value->bits < bytes_at || value->bits > len || value->len > len - value->bits)
        return hl_error_set(err, -EPROTO,
                            "argument %zu, %" PRIu32 " bytes at offset 0x%" PRIx64
                            ", is outside its bytes",
                            i + 1, value->len, value->bits);
    arg->bytes.data = call->buffer.data + value->bits;
    if (arg->type == HL_TYPE_STRING && !hl_utf8_valid(arg->bytes.data, arg->bytes.len))
        return -EILSEQ;
    return 0;
}

int host_call_decode(struct host_call *call, uint64_t len, struct hl_error *err)
{
    struct hl_abi_host_call header;
    uint64_t bytes_at;
    int rc;

    if (len < sizeof(header))
        return hl_error_set(err, -EPROTO, "%" PRIu64 " bytes are none", len);
    memcpy(&header, call->buffer.data, sizeof(header));
    if (header.magic != HL_ABI_HOST_CALL_MAGIC)
        return hl_error_set(err, -EPROTO, "its magic is 0x%08" PRIx32, header.magic);
    if (header.nargs > HL_ABI_MAX_PARAMS)
        return hl_error_set(err, -EPROTO, "%" PRIu32 " arguments", header.nargs);
    bytes_at = sizeof(header) + header.nargs * sizeof(struct hl_abi_value);
    if (len < bytes_at)
        return hl_error_set(err, -EPROTO, "%" PRIu32 " arguments in %" PRIu64 " bytes",
                            header.nargs, len);
    rc = take_name(call, header.name);
    for (size_t i = 0; i < header.nargs; i++) {
        struct hl_abi_value value;
        int arg_rc;

        memcpy(&value, call->buffer.data + sizeof(header) + i * sizeof(value), sizeof(value));
        arg_rc = take_value(call, i, &value, bytes_at, len, err);
        if (arg_rc == -EPROTO)
            return arg_rc;
        rc = rc == 0 ? arg_rc : rc;
    }
    call->shown.args = call->args;
    call->shown.nargs = header.nargs;
    call->out = header.out;
    call->room = header.size;
    return rc;
}

/* Copies, checks. Returns: 0, what the guest gets, or -EPROTO with err. */
static int take_call(struct guest *g, hl_gpa addr, uint64_t len, struct hl_error *err)
{
    struct host_call *call = &g->host_call;
    uint64_t io_size = snapshot_io_size(g->snap);
    int rc;

    if (len > io_size)
        return -EMSGSIZE;
    if (call_buffer_take(&call->buffer, len) < 0)
        return -ENOMEM;
    if (guest_copy_in(g, addr, call->buffer.data, len) < 0)
        return -EFAULT;
    rc = host_call_decode(call, len, err);
    if (rc < 0)
        return rc;
    if (call->room > io_size)
        call->room = io_size;
    if (call->room < sizeof(struct hl_abi_result))
        return -EMSGSIZE;
    return space_allows(&g->space, call->out, call->room, true) ? 0 : -EFAULT;
}

enum guest_state guest_host_call(struct guest *g, hl_gpa addr, uint64_t len)
{
    static const char too_early[] = "host functions are not there before READY";
    struct hl_error err = HL_ERROR_INIT;
    int rc = take_call(g, addr, len, &err);

    instance_count(&g->counters.host_calls);
    if (rc == -EPROTO) {
        guest_fail(g, INSTANCE_END_PROTOCOL, 0, "broken call of a host function: %s", err.text);
        return GUEST_FAILED;
    }
    if (rc < 0) {
        g->hv->set_return(g->machine, (uint64_t)(int64_t)rc);
        return 0;
    }
    if (!g->starting)
        return GUEST_HOST_CALL;
    guest_host_fail(g, HL_STATUS_PERMISSION_DENIED, 0, too_early, sizeof(too_early) - 1);
    return 0;
}

/* header's bytes are data. A machine that cannot be written to shows that when it is run. */
static void answer(struct guest *g, const struct hl_abi_result *header, const void *data,
                   size_t len)
{
    const struct host_call *call = &g->host_call;
    int rc = guest_copy_out(g, call->out, header, sizeof(*header));

    if (rc == 0 && len > 0)
        rc = guest_copy_out(g, call->out + BYTES_AT, data, len);
    g->hv->set_return(g->machine, (uint64_t)(int64_t)rc);
}

int guest_host_return(struct guest *g, const struct hl_value *result, struct hl_error *err)
{
    static const struct hl_value nothing = {.type = HL_TYPE_VOID};
    struct hl_abi_result header = {.magic = HL_ABI_RESULT_MAGIC};
    uint64_t room = g->host_call.room;
    size_t len = 0;

    if (!result)
        result = &nothing;
    if (!hl_type_name(result->type))
        return hl_error_set(err, -EINVAL, "a result of an unknown type");
    header.value.type = (uint32_t)result->type;
    if (!call_is_counted(result->type)) {
        header.value.bits = call_scalar_bits(result);
        answer(g, &header, NULL, 0);
        return 0;
    }
    len = result->bytes.len;
    room = room > BYTES_AT ? room - BYTES_AT : 0;
    if (len > room)
        return hl_error_set(err, -EMSGSIZE,
                            "a result of %zu bytes, more than the %" PRIu64
                            " that the guest has room for",
                            len, room);
    if (result->type == HL_TYPE_STRING && !hl_utf8_valid(result->bytes.data, len))
        return hl_error_set(err, -EINVAL, "a result that is a string but not well-formed UTF-8");
    header.value.len = (uint32_t)len;
    header.value.bits = len > 0 ? BYTES_AT : 0;
    answer(g, &header, result->bytes.data, len);
    return 0;
}

/* The bytes of a text that are to be shown in room: whole characters. */
static size_t cut_text(const char *text, size_t len, uint64_t room)
{
    if (len <= room)
        return len;
    len = (size_t)room;
    while (len > 0 && ((unsigned char)text[len] & 0xc0) == 0x80)
        len--;
    return len;
}

static void make_ascii(char *text, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if ((unsigned char)text[i] >= 0x80)
            text[i] = '?';
    }
}

void guest_host_fail(struct guest *g, enum hl_status status, int32_t code, const char *text,
                     size_t len)
{
    struct hl_abi_result header = {.magic = HL_ABI_RESULT_MAGIC, .code = code};
    uint64_t room = g->host_call.room;
    char shown[HL_ABI_LOG_MAX] = "";

    room = room > BYTES_AT ? room - BYTES_AT : 0;
    len = cut_text(text, len, room < sizeof(shown) ? room : sizeof(shown));
    if (len > 0)
        memcpy(shown, text, len);
    if (!hl_utf8_valid(shown, len))
        make_ascii(shown, len);
    header.error = status > HL_STATUS_OK && status <= HL_STATUS_UNAUTHENTICATED
                       ? (uint32_t)status
                       : (uint32_t)HL_STATUS_UNKNOWN;
    header.text_len = (uint32_t)len;
    header.text = len > 0 ? BYTES_AT : 0;
    answer(g, &header, shown, len);
}
