/* SPDX-License-Identifier: Apache-2.0 */
/* Results in print. */
#include "client/hlctl/value.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/hlctl/text.h"

/* Lines and tabs stay; what else a terminal might obey does not reach it. */
static int print_on_terminal(const char *data, size_t len)
{
    char *copy = malloc(len + 1);
    int r;

    if (!copy)
        return -ENOMEM;
    if (len > 0)
        memcpy(copy, data, len);
    copy[len] = '\n';
    for (size_t i = 0, n; i < len; i += n + 1) {
        for (n = 0; i + n < len && copy[i + n] != '\n' && copy[i + n] != '\t';)
            n++;
        text_clean(copy + i, n, '?');
    }
    r = fwrite(copy, 1, len + 1, stdout) == len + 1 ? 0 : -EIO;
    free(copy);
    return r;
}

int value_print(const struct hl_value *value, bool terminal)
{
    char number[64];

    switch (value->type) {
    case HL_TYPE_VOID:
        return 0;
    case HL_TYPE_STRING:
    case HL_TYPE_BYTES:
        if (terminal)
            return print_on_terminal(value->bytes.data, value->bytes.len);
        if (value->bytes.len > 0 &&
            fwrite(value->bytes.data, 1, value->bytes.len, stdout) != value->bytes.len)
            return -EIO;
        return 0;
    default:
        return puts(text_number(number, sizeof(number), value)) == EOF ? -EIO : 0;
    }
}

static char *base64_json(const uint8_t *data, size_t len)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    char *out = malloc((len + 2) / 3 * 4 + 3);
    char *p = out;

    if (!out)
        return NULL;
    *p++ = '"';
    for (size_t i = 0; i < len; i += 3) {
        uint32_t group = (uint32_t)data[i] << 16;

        if (i + 1 < len)
            group |= (uint32_t)data[i + 1] << 8;
        if (i + 2 < len)
            group |= data[i + 2];
        *p++ = digits[group >> 18];
        *p++ = digits[group >> 12 & 63];
        *p++ = i + 1 < len ? digits[group >> 6 & 63] : '=';
        *p++ = i + 2 < len ? digits[group & 63] : '=';
    }
    *p++ = '"';
    *p = '\0';
    return out;
}

static char *string_json(const struct hl_value *value)
{
    json_t *string = json_stringn(value->bytes.len ? value->bytes.data : "", value->bytes.len);
    char *out = string ? json_dumps(string, JSON_ENCODE_ANY) : NULL;

    json_decref(string);
    return out;
}

char *value_json(const struct hl_value *value)
{
    char number[64];
    double f = value->type == HL_TYPE_F32   ? (double)value->f32
               : value->type == HL_TYPE_F64 ? value->f64
                                            : 0;

    if (value->type == HL_TYPE_VOID)
        return strdup("null");
    if (value->type == HL_TYPE_STRING)
        return string_json(value);
    if (value->type == HL_TYPE_BYTES)
        return base64_json(value->bytes.data, value->bytes.len);
    if (isnan(f))
        return strdup("\"NaN\"");
    if (isinf(f))
        return strdup(f < 0 ? "\"-Infinity\"" : "\"Infinity\"");
    return strdup(text_number(number, sizeof(number), value));
}

char *value_line(char *buf, size_t size, const char *text, size_t len)
{
    if (len > size - 1)
        len = size - 1;
    memcpy(buf, text, len);
    buf[len] = '\0';
    return text_clean(buf, len, ' ');
}
