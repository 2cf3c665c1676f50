/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_HLCTL_INPUT_H
#define HL_HLCTL_INPUT_H

/* Arguments that are files or standard input. */

#include "client/hlctl/hlctl.h"

/* From here on bytes go by descriptor: sending fewer in a message is as fast. */
#define INPUT_BULK_MIN (256u << 10)
/* A message holds no more. */
#define INPUT_MESSAGE_MAX (4u << 20)

/* What fd holds, as bytes or a string; in a message, of which left bytes may still be used, or for
 * bytes in a sealed memfd: value is HL_TYPE_DESCRIPTOR then and its descriptor the caller's.
 * name: of the file, for what goes wrong. *memory is what holds the value otherwise, to free.
 * Returns: 0, or the exit code, having printed why. */
int input_take(const struct hlctl *ctl, int fd, const char *name, enum hl_type type, size_t left,
               struct hl_value *value, uint8_t **memory);

#endif
