/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_HLCTL_ARGUMENTS_H
#define HL_HLCTL_ARGUMENTS_H

/* The function that `call` and `bench` name, and its arguments typed by its signature. */

#include "client/hlctl/hlctl.h"

struct arguments {
    struct hl_call call; /* image, function, args, nargs, and what options say */
    struct hl_signature sig;
    struct hl_value values[HL_MAX_PARAMS];
    uint8_t *memory[HL_MAX_PARAMS]; /* what came from files or was made up, or NULL */
    size_t left;                    /* what more of that a message can carry */
    bool read_input;                /* standard input is used up */
};

/* From ctl's arguments IMAGE FUNCTION [ARG…] and options; asks hld for the signature, within the
 * time that ctl allows. make_up: when no ARG was given the function gets ones, and strings and
 * bytes of that length; 0 for never. Returns: 0, or the exit code, having printed why. */
int arguments_take(struct hlctl *ctl, struct arguments *arguments, size_t make_up);
/* What --deadline says; *ns stays as it is without. Returns: 0, or the exit code. */
int take_deadline(const struct hlctl *ctl, uint64_t *ns);
void arguments_fini(struct arguments *arguments);

#endif
