/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_HLCTL_VALUE_H
#define HL_HLCTL_VALUE_H

/* Results in print. */

#include "client/hlmanage.h"

/* To standard output: strings and bytes raw, or on a terminal without control characters and with a
 * newline; numbers in a line; nothing for void. fd: a file that begins with the bytes, or -1.
 * Returns: 0, -EIO, -ENOMEM. */
int value_print(const struct hl_value *value, int fd, bool terminal);
/* As JSON: bytes in base64, NaN and infinities as strings, void as null.
 * Returns: text for the caller to free, NULL without memory. */
char *value_json(const struct hl_value *value);
/* From JSON as value_json writes it. Strings and bytes are in *memory, the caller's to free (NULL
 * otherwise). Returns: 0; -EINVAL for what is no such value; -ENOMEM. */
int value_from_json(const char *json, size_t len, enum hl_type type, struct hl_value *out,
                    void **memory);
/* Text of others as one line that is safe on a terminal. Returns: buf. */
char *value_line(char *buf, size_t size, const char *text, size_t len);

#endif
