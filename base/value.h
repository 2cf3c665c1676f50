/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_BASE_VALUE_H
#define HL_BASE_VALUE_H

/*
 * A typed value: an argument or a result of a call, as every part of hld passes it. The type
 * numbers are those of the guest ABI (guest/hl_abi.h, static assertions in hv/), so that no table
 * translates.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define HL_MAX_PARAMS 16
#define HL_NAME_MAX   63 /* of an image or a function, without the NUL */

enum hl_type {
    HL_TYPE_VOID = 0,
    HL_TYPE_I32 = 1,
    HL_TYPE_U32 = 2,
    HL_TYPE_I64 = 3,
    HL_TYPE_U64 = 4,
    HL_TYPE_F32 = 5,
    HL_TYPE_F64 = 6,
    HL_TYPE_BOOL = 7,
    HL_TYPE_STRING = 8, /* UTF-8, length-counted, may hold NUL bytes */
    HL_TYPE_BYTES = 9,
};

struct hl_value {
    enum hl_type type;
    union {
        int32_t i32;
        uint32_t u32;
        int64_t i64;
        uint64_t u64;
        float f32;
        double f64;
        bool b;
        struct {
            const void *data; /* borrowed; never NULL-terminated by contract */
            size_t len;
        } bytes; /* HL_TYPE_STRING and HL_TYPE_BYTES */
    };
};

struct hl_signature {
    enum hl_type ret;
    unsigned int nparams;
    enum hl_type params[HL_MAX_PARAMS];
};

/* "i32" … "bytes", "void"; NULL for a number that is no type. Static strings. */
const char *hl_type_name(enum hl_type type);

/* Returns: the type of that name, or -EINVAL. */
int hl_type_parse(const char *name);

/* Writes "add(i32, i32) -> i32" into buf, always NUL-terminated.
 * Returns: the length it would have had, as snprintf does. */
int hl_signature_format(char *buf, size_t size, const char *name, const struct hl_signature *sig);

/* An image or function name: 1 to HL_NAME_MAX bytes of [A-Za-z0-9._-], not starting with '.' or
 * '-'. len excludes any NUL. */
bool hl_name_valid(const char *name, size_t len);

/* Whether len bytes at data are well-formed UTF-8 (RFC 3629: no surrogates, nothing past U+10FFFF,
 * no overlong forms). */
bool hl_utf8_valid(const void *data, size_t len);

#endif
