/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_PROTO_CONVERT_H
#define HL_PROTO_CONVERT_H

/*
 * Between the generated messages and struct hl_value. Strings and bytes are borrowed in both
 * directions: the source must outlive the result. Neither function allocates. (Value.text is a
 * string in hl.proto and counted bytes in the C code generated from it, proto.mk, so that a NUL
 * in a string survives; on the wire the two are the same.)
 */

#include "base/error.h"
#include "base/value.h"
#include "proto/hl.pb-c.h"

/* Returns: 0; -EINVAL for a value without a kind; -EILSEQ for a string that is not UTF-8. */
int convert_from_proto(struct hl_value *out, const Hl__V1__Value *in, struct hl_error *err);

/* A void value leaves out without a kind. Returns: 0; -EILSEQ for a string that is not UTF-8;
 * -EINVAL for a type that is none. */
int convert_to_proto(Hl__V1__Value *out, const struct hl_value *in);

#endif
