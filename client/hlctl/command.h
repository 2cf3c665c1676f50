/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_HLCTL_COMMAND_H
#define HL_HLCTL_COMMAND_H

/* Host functions that are commands of the shell. */

#include "client/hlctl/hlctl.h"

struct commands {
    bool one_call;       /* nothing but one call is on the connection: its end ends a command */
    uint64_t timeout_ns; /* a command is killed after this; 0: never */
    size_t count;
    struct hl_host functions[HL_HOST_FUNCTIONS_MAX];
    struct command {
        char name[HL_NAME_MAX + 1];
        const char *text; /* borrowed */
        const struct commands *all;
    } commands[HL_HOST_FUNCTIONS_MAX];
};

/* "name=command". commands must not move afterwards. Returns: 0, or the exit code. */
int commands_add(const struct hlctl *ctl, struct commands *commands, const char *text);

#endif
