/* SPDX-License-Identifier: Apache-2.0 */
/* Names, signatures and the checks on text that every boundary shares. */
#include "base/value.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static const char *const type_names[] = {
    [HL_TYPE_VOID] = "void",   [HL_TYPE_I32] = "i32",   [HL_TYPE_U32] = "u32",
    [HL_TYPE_I64] = "i64",     [HL_TYPE_U64] = "u64",   [HL_TYPE_F32] = "f32",
    [HL_TYPE_F64] = "f64",     [HL_TYPE_BOOL] = "bool", [HL_TYPE_STRING] = "string",
    [HL_TYPE_BYTES] = "bytes",
};

#define TYPE_COUNT (sizeof(type_names) / sizeof(type_names[0]))

const char *hl_type_name(enum hl_type type)
{
    return (size_t)type < TYPE_COUNT ? type_names[type] : NULL;
}

int hl_type_parse(const char *name)
{
    for (size_t i = 0; i < TYPE_COUNT; i++) {
        if (strcmp(name, type_names[i]) == 0)
            return (int)i;
    }
    return -EINVAL;
}

int hl_signature_format(char *buf, size_t size, const char *name, const struct hl_signature *sig)
{
    char text[HL_NAME_MAX + HL_MAX_PARAMS * 8 + 32];
    size_t n = 0;

    n += (size_t)snprintf(text, sizeof(text), "%.*s(", HL_NAME_MAX, name);
    for (unsigned int i = 0; i < sig->nparams && i < HL_MAX_PARAMS; i++) {
        const char *type = hl_type_name(sig->params[i]);

        n += (size_t)snprintf(text + n, sizeof(text) - n, "%s%s", i ? ", " : "", type ? type : "?");
    }
    snprintf(text + n, sizeof(text) - n, ") -> %s",
             hl_type_name(sig->ret) ? hl_type_name(sig->ret) : "?");
    return snprintf(buf, size, "%s", text);
}

bool hl_name_valid(const char *name, size_t len)
{
    static const char allowed[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";

    if (len == 0 || len > HL_NAME_MAX || name[0] == '.' || name[0] == '-')
        return false;
    for (size_t i = 0; i < len; i++) {
        if (name[i] == '\0' || !strchr(allowed, name[i]))
            return false;
    }
    return true;
}

bool hl_utf8_valid(const void *data, size_t len)
{
    const uint8_t *p = data;
    size_t i = 0;

    while (i < len) {
        uint8_t lead = p[i++];
        unsigned int more;
        uint32_t point, least;

        if (lead < 0x80)
            continue;
        if (lead >= 0xc2 && lead <= 0xdf) {
            more = 1, point = lead & 0x1f, least = 0x80;
        } else if (lead >= 0xe0 && lead <= 0xef) {
            more = 2, point = lead & 0x0f, least = 0x800;
        } else if (lead >= 0xf0 && lead <= 0xf4) {
            more = 3, point = lead & 0x07, least = 0x10000;
        } else {
            return false;
        }
        if (more > len - i)
            return false;
        for (; more > 0; more--, i++) {
            if ((p[i] & 0xc0) != 0x80)
                return false;
            point = point << 6 | (p[i] & 0x3f);
        }
        if (point < least || point > 0x10ffff || (point >= 0xd800 && point <= 0xdfff))
            return false;
    }
    return true;
}
