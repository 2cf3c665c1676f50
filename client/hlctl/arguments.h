/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_HLCTL_ARGUMENTS_H
#define HL_HLCTL_ARGUMENTS_H

/* The function that `call` and `bench` name, and its arguments typed by its signature. */

#include "client/hlctl/hlctl.h"

struct arguments {
    struct hl_call call; /* image, function, args, nargs */
    struct hl_signature sig;
    struct hl_value values[HL_MAX_PARAMS];
    uint8_t *input; /* what standard input held or was made up, or NULL */
};

/* From ctl's arguments IMAGE FUNCTION [ARG…] and options; asks hld for the signature. make_up: when
 * no ARG was given the function gets ones, and strings and bytes of that length; 0 for never.
 * Returns: 0, or the exit code, having printed why. */
int arguments_take(struct hlctl *ctl, struct arguments *arguments, size_t make_up);
void arguments_fini(struct arguments *arguments);

#endif
