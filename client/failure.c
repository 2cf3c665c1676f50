/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Errors as a caller sees them: one line, a status code, a negative errno, and what hld attached to
 * its answer. The daemon's bytes are copied bounded and made one line of text.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/value.h"
#include "client/client.h"
#include "proto/hl.pb-c.h"
#include "proto/service.h"

int failure_local(struct hl_client_error *err, int code, enum hl_status status, const char *fmt,
                  ...)
{
    va_list ap;

    if (!err)
        return code;
    *err = (struct hl_client_error){.status = status, .code = code};
    va_start(ap, fmt);
    vsnprintf(err->text, sizeof(err->text), fmt, ap);
    va_end(ap);
    return code;
}

static int errno_of_status(int32_t status)
{
    switch (status) {
    case HL_STATUS_CANCELLED:
        return -ECANCELED;
    case HL_STATUS_INVALID_ARGUMENT:
        return -EINVAL;
    case HL_STATUS_DEADLINE_EXCEEDED:
        return -ETIMEDOUT;
    case HL_STATUS_NOT_FOUND:
        return -ENOENT;
    case HL_STATUS_ALREADY_EXISTS:
        return -EEXIST;
    case HL_STATUS_PERMISSION_DENIED:
    case HL_STATUS_UNAUTHENTICATED:
        return -EACCES;
    case HL_STATUS_RESOURCE_EXHAUSTED:
        return -EAGAIN;
    case HL_STATUS_FAILED_PRECONDITION:
        return -EBUSY;
    case HL_STATUS_ABORTED:
        return -EFAULT;
    case HL_STATUS_OUT_OF_RANGE:
        return -ERANGE;
    case HL_STATUS_UNIMPLEMENTED:
        return -ENOSYS;
    case HL_STATUS_UNAVAILABLE:
        return -ESHUTDOWN;
    case HL_STATUS_DATA_LOSS:
        return -EBADMSG;
    default:
        return -EREMOTEIO;
    }
}

/* Copies up to size - 1 bytes of text, cut at a whole character, control characters as spaces. */
static void copy_line(char *out, size_t size, const void *text, size_t len)
{
    if (len > size - 1)
        len = size - 1;
    if (len > 0)
        memcpy(out, text, len);
    while (len > 0 && !hl_utf8_valid(out, len)) {
        size_t cut = len;

        /* A character cut at the end is dropped; anything else is replaced. */
        while (cut > 0 && len - cut < 3 && ((uint8_t)out[cut - 1] & 0xc0) == 0x80)
            cut--;
        if (cut > 0 && (uint8_t)out[cut - 1] >= 0xc0 && hl_utf8_valid(out, cut - 1)) {
            len = cut - 1;
            break;
        }
        for (size_t i = 0; i < len; i++) {
            if ((uint8_t)out[i] >= 0x80)
                out[i] = '?';
        }
    }
    for (size_t i = 0; i < len; i++) {
        if ((uint8_t)out[i] < 0x20 || out[i] == 0x7f)
            out[i] = ' ';
        else if ((uint8_t)out[i] == 0xc2 && (uint8_t)out[i + 1] < 0xa0) /* U+0080 to U+009F */
            out[i] = out[i + 1] = ' ';
    }
    out[len] = '\0';
}

static void take_fault(struct hl_client_error *err, const Hl__V1__GuestFault *fault)
{
    err->has_fault = true;
    err->fault = (struct hl_fault){
        .vector = fault->vector,
        .error_code = fault->error_code,
        .rip = fault->rip,
        .address = fault->address,
    };
    copy_line(err->fault.symbol, sizeof(err->fault.symbol), fault->symbol, strlen(fault->symbol));
    copy_line(err->fault.reason, sizeof(err->fault.reason), fault->reason, strlen(fault->reason));
}

static void take_detail(struct hl_client_error *err, struct arena *arena,
                        const struct envelope_any *any)
{
    ProtobufCMessage *message;

    if (envelope_view_equal(any->type_url, DETAIL_GUEST_FAULT) &&
        arena_unpack(arena, &hl__v1__guest_fault__descriptor, any->value.data, any->value.len,
                     &message) == 0) {
        take_fault(err, (const Hl__V1__GuestFault *)message);
    } else if (envelope_view_equal(any->type_url, DETAIL_ACCOUNTING) &&
               arena_unpack(arena, &hl__v1__accounting__descriptor, any->value.data, any->value.len,
                            &message) == 0) {
        err->has_accounting = true;
        accounting_copy(&err->accounting, (const Hl__V1__Accounting *)message);
    }
}

int failure_remote(struct hl_client_error *err, struct arena *arena,
                   const struct envelope_response *response)
{
    int code = errno_of_status(response->code);
    struct envelope_any any;
    size_t cursor = 0;

    if (!err)
        return code;
    *err = (struct hl_client_error){
        .status = response->code > 0 && response->code <= HL_STATUS_UNAUTHENTICATED
                      ? (enum hl_status)response->code
                      : HL_STATUS_UNKNOWN,
        .code = code,
        .remote = true,
    };
    copy_line(err->text, sizeof(err->text), response->message.data, response->message.len);
    if (err->text[0] == '\0')
        copy_line(err->text, sizeof(err->text), hl_status_name(err->status),
                  strlen(hl_status_name(err->status)));
    while (envelope_next_detail(response, &cursor, &any))
        take_detail(err, arena, &any);
    return code;
}
