/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_HLCTL_IMAGE_H
#define HL_HLCTL_IMAGE_H

/* Images as people and programs read them. */

#include "client/hlctl/json.h"

json_t *json_limits(const struct hl_limits *limits);
json_t *json_image(const struct hl_image *image);
/* Name, digest and functions, after it was registered. */
void image_print_summary(const struct hl_image *image);
/* Everything. */
void image_print(const struct hl_image *image);
/* "defaults    64 MiB memory, 1 s deadline, …" */
void limits_print(const char *label, const struct hl_limits *limits);
/* Sixty-four hexadecimal digits and a NUL. */
void sha256_text(char out[65], const uint8_t sha256[32]);
/* The user's name, or the number. Returns: buf. */
char *user_text(char *buf, size_t size, uint32_t uid);
/* Local time. Returns: buf. */
char *time_text(char *buf, size_t size, uint64_t unix_ns);

#endif
