/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_BASE_VALUE_H
#define HL_BASE_VALUE_H

/* Names and text, as every boundary checks them. The values themselves are in base/hltypes.h. */

#include "base/hltypes.h"

/* An image or function name: 1 to HL_NAME_MAX bytes of [A-Za-z0-9._-], not starting with '.' or
 * '-'. len excludes any NUL. */
bool hl_name_valid(const char *name, size_t len);

/* Whether len bytes at data are well-formed UTF-8 (RFC 3629: no surrogates, nothing past U+10FFFF,
 * no overlong forms). */
bool hl_utf8_valid(const void *data, size_t len);

#endif
