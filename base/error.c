/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The error object and the table from errno to status. Text is truncated rather than allocated: an
 * error path must not fail.
 */
#include "base/error.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

int hl_error_set(struct hl_error *err, int code, const char *fmt, ...)
{
    va_list ap;

    if (!err)
        return code;
    err->code = code;
    va_start(ap, fmt);
    vsnprintf(err->text, sizeof(err->text), fmt, ap);
    va_end(ap);
    return code;
}

int hl_error_wrap(struct hl_error *err, int code, const char *fmt, ...)
{
    char inner[HL_ERROR_TEXT_MAX];
    va_list ap;
    int n;

    if (!err)
        return code;
    if (err->code != 0 && err->text[0] != '\0')
        memcpy(inner, err->text, sizeof(inner));
    else
        snprintf(inner, sizeof(inner), "%s", strerror(code < 0 ? -code : code));
    err->code = code;
    va_start(ap, fmt);
    n = vsnprintf(err->text, sizeof(err->text), fmt, ap);
    va_end(ap);
    if (n >= 0 && (size_t)n < sizeof(err->text))
        snprintf(err->text + n, sizeof(err->text) - (size_t)n, ": %s", inner);
    return code;
}

enum hl_status hl_status_from_errno(int code)
{
    switch (code < 0 ? -code : code) {
    case 0:
        return HL_STATUS_OK;
    case ECANCELED:
        return HL_STATUS_CANCELLED;
    case EINVAL:
    case E2BIG:
    case ENOEXEC:
    case ENAMETOOLONG:
    case EPROTO:
    case EILSEQ:
    case EMSGSIZE:
        return HL_STATUS_INVALID_ARGUMENT;
    case ETIMEDOUT:
    case ETIME:
        return HL_STATUS_DEADLINE_EXCEEDED;
    case ENOENT:
        return HL_STATUS_NOT_FOUND;
    case EEXIST:
        return HL_STATUS_ALREADY_EXISTS;
    case EACCES:
    case EPERM:
        return HL_STATUS_PERMISSION_DENIED;
    case ENOMEM:
    case EAGAIN:
    case ENOBUFS:
    case EDQUOT:
    case ENOSPC:
    case EMFILE:
    case ENFILE:
        return HL_STATUS_RESOURCE_EXHAUSTED;
    case EBUSY:
    case ESTALE:
    case ENODEV:
        return HL_STATUS_FAILED_PRECONDITION;
    case EFAULT:
        return HL_STATUS_ABORTED;
    case ERANGE:
        return HL_STATUS_OUT_OF_RANGE;
    case ENOSYS:
    case EOPNOTSUPP:
        return HL_STATUS_UNIMPLEMENTED;
    case ESHUTDOWN:
    case ECONNREFUSED:
    case ECONNRESET:
    case EPIPE:
        return HL_STATUS_UNAVAILABLE;
    case EBADMSG:
        return HL_STATUS_DATA_LOSS;
    default:
        return HL_STATUS_INTERNAL;
    }
}

const char *hl_status_name(int status)
{
    static const char *const names[] = {
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    };

    if (status < 0 || (size_t)status >= sizeof(names) / sizeof(names[0]))
        return "UNKNOWN";
    return names[status];
}
