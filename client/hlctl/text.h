/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_HLCTL_TEXT_H
#define HL_HLCTL_TEXT_H

/* Sizes, times and values, from what people write and to what they read. */

#include "client/hlmanage.h"

/* "4096", "64K", "64M", "1G", also with "iB" or "B". Returns: 0 or -EINVAL. */
int text_parse_size(const char *text, uint64_t *out);
/* "10ms", "1.5s", "200us", "50ns", "2m"; a unit is needed unless it is 0. Returns: 0, -EINVAL. */
int text_parse_duration(const char *text, uint64_t *ns);
/* A whole number up to max. Returns: 0 or -EINVAL. */
int text_parse_count(const char *text, uint64_t max, uint64_t *out);

/* An argument of that type. Strings and bytes borrow text. On failure why says what was wanted.
 * Returns: 0, -EINVAL, -ERANGE. */
int text_parse_value(const char *text, enum hl_type type, struct hl_value *out, char *why,
                     size_t size);

/* "1.5 MiB", "64 B". Returns: buf. */
char *text_size(char *buf, size_t size, uint64_t bytes);
/* "1.23 ms", "45 us". Returns: buf. */
char *text_duration(char *buf, size_t size, uint64_t ns);
/* A number or bool as its shortest text that reads back as the same. Returns: buf. */
char *text_number(char *buf, size_t size, const struct hl_value *value);
/* What a terminal might obey, and what is no UTF-8, becomes instead, byte by byte. Returns: text.
 */
char *text_clean(char *text, size_t len, char instead);
/* text cleaned with '?', cut to fit. Returns: buf. */
char *text_printable(char *buf, size_t size, const char *text);

#endif
