/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_DAEMON_ARGUMENTS_H
#define HL_DAEMON_ARGUMENTS_H

/* A request's function and arguments, found and checked before an instance is touched. */

#include <stddef.h>

#include "base/error.h"
#include "base/value.h"
#include "proto/hl.pb-c.h"

struct bulk;
struct program;

struct arguments {
    size_t function, nargs;
    struct hl_value args[HL_MAX_PARAMS]; /* borrow from the request */
};

/* bulk: the request's descriptors, or NULL. Returns: 0; -ENOENT for no such function; -EINVAL and
 * others naming the argument. */
int arguments_decode(struct arguments *out, const struct program *program,
                     const Hl__V1__InvokeRequest *request, const struct bulk *bulk,
                     struct hl_error *err);

#endif
