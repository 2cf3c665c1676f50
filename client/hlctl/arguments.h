/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_HLCTL_ARGUMENTS_H
#define HL_HLCTL_ARGUMENTS_H

/* The function that `call` and `bench` name, and its arguments typed by its signature. */

#include "client/hlctl/hlctl.h"

struct arguments {
    struct hl_call call; /* image, function, args, nargs */
    struct hl_signature sig;
    struct hl_value values[HL_MAX_PARAMS];
    uint8_t *input; /* what standard input held, or NULL */
};

/* From ctl's arguments IMAGE FUNCTION [ARG…] and options; asks hld for the signature.
 * Returns: 0, or the exit code, having printed why. */
int arguments_take(struct hlctl *ctl, struct arguments *arguments);
void arguments_fini(struct arguments *arguments);

#endif
