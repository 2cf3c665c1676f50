/* SPDX-License-Identifier: Apache-2.0 */
/* Results in print. */
#include "client/hlctl/value.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <unistd.h>

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

/* From fd as far as the kernel copies to what standard output is, and the rest from memory. */
static int print_bytes(const struct hl_value *value, int fd)
{
    size_t len = value->bytes.len;
    off_t at = 0;
    ssize_t n = 1;

    fflush(stdout);
    while (fd >= 0 && (size_t)at < len && n > 0) {
        do {
            n = sendfile(STDOUT_FILENO, fd, &at, len - (size_t)at);
        } while (n < 0 && errno == EINTR);
    }
    len -= (size_t)at;
    if (len == 0)
        return 0;
    return fwrite((const char *)value->bytes.data + at, 1, len, stdout) == len ? 0 : -EIO;
}

int value_print(const struct hl_value *value, int fd, bool terminal)
{
    char number[64];

    switch (value->type) {
    case HL_TYPE_VOID:
        return 0;
    case HL_TYPE_STRING:
    case HL_TYPE_BYTES:
        if (terminal)
            return print_on_terminal(value->bytes.data, value->bytes.len);
        return print_bytes(value, fd);
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

static int base64_digit(char c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

/* In place. Returns: how many bytes, or -EINVAL. */
static ssize_t base64_decode(char *text, size_t len)
{
    uint8_t *out = (uint8_t *)text;
    size_t padding = 0, n = 0;

    while (padding < 2 && len > 0 && text[len - 1] == '=') {
        padding++;
        len--;
    }
    if ((len + padding) % 4 != 0)
        return -EINVAL;
    for (size_t i = 0; i < len; i += 4) {
        uint32_t group = 0;
        size_t have = len - i < 4 ? len - i : 4;

        for (size_t j = 0; j < 4; j++) {
            int digit = j < have ? base64_digit(text[i + j]) : 0;

            if (digit < 0)
                return -EINVAL;
            group = group << 6 | (uint32_t)digit;
        }
        for (size_t j = 0; j + 1 < have; j++)
            out[n++] = (uint8_t)(group >> (16 - 8 * j));
    }
    return (ssize_t)n;
}

/* A JSON string, as a string, as bytes, or as the name of a number (NaN). */
static int text_from_json(const json_t *json, enum hl_type type, struct hl_value *out,
                          void **memory)
{
    size_t len = json_string_length(json);
    char why[64];
    ssize_t n;

    if (type != HL_TYPE_STRING && type != HL_TYPE_BYTES)
        return text_parse_value(json_string_value(json), type, out, why, sizeof(why)) < 0 ? -EINVAL
                                                                                          : 0;
    *memory = malloc(len + 1);
    if (!*memory)
        return -ENOMEM;
    memcpy(*memory, json_string_value(json), len + 1);
    n = type == HL_TYPE_BYTES ? base64_decode(*memory, len) : (ssize_t)len;
    if (n < 0)
        return -EINVAL;
    out->type = type;
    out->bytes.data = *memory;
    out->bytes.len = (size_t)n;
    return 0;
}

int value_from_json(const char *text, size_t len, enum hl_type type, struct hl_value *out,
                    void **memory)
{
    char number[64], why[64];
    json_t *json;
    int r = -EINVAL;

    *memory = NULL;
    *out = (struct hl_value){.type = HL_TYPE_VOID};
    while (len > 0 && strchr(" \t\r\n", text[len - 1]))
        len--;
    while (len > 0 && strchr(" \t\r\n", *text)) {
        text++;
        len--;
    }
    if (type == HL_TYPE_VOID)
        return len == 0 || (len == 4 && memcmp(text, "null", 4) == 0) ? 0 : -EINVAL;
    if (len == 0)
        return -EINVAL;
    if (*text == '"') {
        json = json_loadb(text, len, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
        if (json_is_string(json))
            r = text_from_json(json, type, out, memory);
        json_decref(json);
        return r;
    }
    /* A number is read as it is written: a u64 is none that the JSON library can hold. */
    if (type == HL_TYPE_STRING || type == HL_TYPE_BYTES || len >= sizeof(number))
        return -EINVAL;
    memcpy(number, text, len);
    number[len] = '\0';
    return text_parse_value(number, type, out, why, sizeof(why)) < 0 ? -EINVAL : 0;
}

char *value_line(char *buf, size_t size, const char *text, size_t len)
{
    if (len > size - 1)
        len = size - 1;
    memcpy(buf, text, len);
    buf[len] = '\0';
    return text_clean(buf, len, ' ');
}
