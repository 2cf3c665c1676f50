/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_BASE_ERROR_H
#define HL_BASE_ERROR_H

/*
 * Errors that a person or a client will read. Functions return 0 or a negative errno; those that
 * can say more take a struct hl_error as well, which callers may pass as NULL. Context is put in
 * front of the message on the way up: "image 'echo': segment 2: file offset 8192 is past the end".
 */

#include <stdarg.h>

#include "base/hltypes.h"

#define HL_ERROR_TEXT_MAX 512

struct hl_error {
    int code;                     /* negative errno, 0 while unset */
    char text[HL_ERROR_TEXT_MAX]; /* one line, NUL-terminated, truncated to fit */
};

#define HL_ERROR_INIT                                                                              \
    {                                                                                              \
        0                                                                                          \
    }

/* Fills err (if not NULL) with a message. Returns: code, so that `return hl_error_set(...)` reads
 * well. code must be a negative errno. */
int hl_error_set(struct hl_error *err, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* Puts "context: " in front of err's message; with no message yet, strerror(-code) stands for it.
 * Returns: code. */
int hl_error_wrap(struct hl_error *err, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* The one mapping of errno values to status codes; takes either sign.
 * 0 OK; ECANCELED CANCELLED; EINVAL E2BIG ENOEXEC ENAMETOOLONG EPROTO EILSEQ EMSGSIZE
 * INVALID_ARGUMENT; ETIMEDOUT ETIME DEADLINE_EXCEEDED; ENOENT NOT_FOUND; EEXIST ALREADY_EXISTS;
 * EACCES EPERM PERMISSION_DENIED; ENOMEM EAGAIN ENOBUFS EDQUOT ENOSPC EMFILE ENFILE
 * RESOURCE_EXHAUSTED; EBUSY ESTALE ENODEV FAILED_PRECONDITION; EFAULT ABORTED; ERANGE OUT_OF_RANGE;
 * ENOSYS EOPNOTSUPP UNIMPLEMENTED; ESHUTDOWN ECONNREFUSED ECONNRESET EPIPE UNAVAILABLE;
 * EBADMSG DATA_LOSS; anything else INTERNAL. */
enum hl_status hl_status_from_errno(int code);

#endif
