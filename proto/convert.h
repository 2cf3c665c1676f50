/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_PROTO_CONVERT_H
#define HL_PROTO_CONVERT_H

/*
 * Between the generated messages and struct hl_value. Strings and bytes are borrowed in both
 * directions: the source must outlive the result.
 */

#include "base/error.h"
#include "base/value.h"
#include "proto/hl.pb-c.h"

/* Returns: 0, -EINVAL for a value without a kind. */
int convert_from_proto(struct hl_value *out, const Hl__V1__Value *in, struct hl_error *err);

/* A void value leaves out without a kind. text_buf: protobuf-c wants strings NUL-terminated; for
 * HL_TYPE_STRING the bytes are copied into *text_buf, malloc'ed, which the caller frees (NULL
 * otherwise). Returns: 0, -ENOMEM, -EILSEQ for a string with a NUL byte or malformed UTF-8. */
int convert_to_proto(Hl__V1__Value *out, const struct hl_value *in, char **text_buf);

#endif
