/* SPDX-License-Identifier: Apache-2.0 */
/* Sizes, times and values. A number must be used up to its last character and fit its type: a
 * typing error is better refused than called with. */
#include "client/hlctl/text.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/value.h"

int text_parse_count(const char *text, uint64_t max, uint64_t *out)
{
    char *end;

    if (!isdigit((unsigned char)text[0]))
        return -EINVAL;
    errno = 0;
    *out = strtoull(text, &end, 10);
    return errno != 0 || *end != '\0' || *out > max ? -EINVAL : 0;
}

int text_parse_size(const char *text, uint64_t *out)
{
    static const char units[] = "KMGT";
    unsigned int shift = 0;
    const char *unit;
    char *end;

    if (!isdigit((unsigned char)text[0]))
        return -EINVAL;
    errno = 0;
    *out = strtoull(text, &end, 10);
    if (errno != 0)
        return -EINVAL;
    unit = *end ? strchr(units, toupper((unsigned char)*end)) : NULL;
    if (unit) {
        shift = 10 * (unsigned int)(unit - units + 1);
        end++;
        if (*end == 'i')
            end += end[1] == 'B' ? 1 : 0;
    }
    if (*end == 'B')
        end++;
    if (*end != '\0' || __builtin_mul_overflow(*out, 1ull << shift, out))
        return -EINVAL;
    return 0;
}

int text_parse_duration(const char *text, uint64_t *ns)
{
    static const struct {
        const char *name;
        double ns;
    } units[] = {{"ns", 1}, {"us", 1e3}, {"ms", 1e6}, {"s", 1e9}, {"m", 60e9}, {"h", 3600e9}};
    double number;
    char *end;

    if (strcmp(text, "0") == 0) {
        *ns = 0;
        return 0;
    }
    if (!isdigit((unsigned char)text[0]) && text[0] != '.')
        return -EINVAL;
    number = strtod(text, &end);
    for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++) {
        if (strcmp(end, units[i].name) != 0)
            continue;
        number = number * units[i].ns + 0.5;
        if (!(number < 9e18))
            return -EINVAL;
        *ns = (uint64_t)number;
        return 0;
    }
    return -EINVAL;
}

static int parse_signed(const char *text, int64_t min, int64_t max, int64_t *out, char *why,
                        size_t size)
{
    const char *digits = text + (*text == '-' || *text == '+');
    int base = digits[0] == '0' && (digits[1] | 0x20) == 'x' ? 16 : 10;
    char *end = NULL;

    errno = 0;
    if (isxdigit((unsigned char)*digits))
        *out = strtoll(text, &end, base);
    if (!end || *end != '\0') {
        snprintf(why, size, "not a whole number");
        return -EINVAL;
    }
    if (errno == ERANGE || *out < min || *out > max) {
        snprintf(why, size, "not within %" PRId64 " to %" PRId64, min, max);
        return -ERANGE;
    }
    return 0;
}

static int parse_unsigned(const char *text, uint64_t max, uint64_t *out, char *why, size_t size)
{
    const char *digits = text + (*text == '-' || *text == '+');
    int base = digits[0] == '0' && (digits[1] | 0x20) == 'x' ? 16 : 10;
    char *end = NULL;

    errno = 0;
    if (isxdigit((unsigned char)*digits))
        *out = strtoull(digits, &end, base);
    if (!end || *end != '\0') {
        snprintf(why, size, "not a whole number");
        return -EINVAL;
    }
    if (errno == ERANGE || *out > max || (*text == '-' && *out != 0)) {
        snprintf(why, size, "not within 0 to %" PRIu64, max);
        return -ERANGE;
    }
    return 0;
}

static int parse_float(const char *text, bool single, double *out, char *why, size_t size)
{
    char *end;

    *out = strtod(text, &end);
    if (end == text || *end != '\0' || isspace((unsigned char)*text)) {
        snprintf(why, size, "not a number");
        return -EINVAL;
    }
    /* A finite text that became infinite is out of range; "inf" is what it says. */
    if ((isinf(*out) || (single && isinf((float)*out))) && !strpbrk(text, "iI")) {
        snprintf(why, size, "too large");
        return -ERANGE;
    }
    return 0;
}

static int parse_bool(const char *text, bool *out, char *why, size_t size)
{
    *out = strcmp(text, "true") == 0 || strcmp(text, "1") == 0;
    if (*out || strcmp(text, "false") == 0 || strcmp(text, "0") == 0)
        return 0;
    snprintf(why, size, "not true or false");
    return -EINVAL;
}

int text_parse_value(const char *text, enum hl_type type, struct hl_value *out, char *why,
                     size_t size)
{
    int64_t i = 0;
    uint64_t u = 0;
    double f = 0;
    int r = 0;

    *out = (struct hl_value){.type = type};
    switch (type) {
    case HL_TYPE_I32:
        r = parse_signed(text, INT32_MIN, INT32_MAX, &i, why, size);
        out->i32 = (int32_t)i;
        return r;
    case HL_TYPE_I64:
        r = parse_signed(text, INT64_MIN, INT64_MAX, &i, why, size);
        out->i64 = i;
        return r;
    case HL_TYPE_U32:
        r = parse_unsigned(text, UINT32_MAX, &u, why, size);
        out->u32 = (uint32_t)u;
        return r;
    case HL_TYPE_U64:
        r = parse_unsigned(text, UINT64_MAX, &u, why, size);
        out->u64 = u;
        return r;
    case HL_TYPE_F32:
        r = parse_float(text, true, &f, why, size);
        out->f32 = (float)f;
        return r;
    case HL_TYPE_F64:
        return parse_float(text, false, &out->f64, why, size);
    case HL_TYPE_BOOL:
        return parse_bool(text, &out->b, why, size);
    case HL_TYPE_STRING:
    case HL_TYPE_BYTES:
        out->bytes.data = text;
        out->bytes.len = strlen(text);
        return 0;
    case HL_TYPE_VOID:
    case HL_TYPE_DESCRIPTOR:
        break;
    }
    snprintf(why, size, "not a type that can be passed");
    return -EINVAL;
}

char *text_size(char *buf, size_t size, uint64_t bytes)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    double value = (double)bytes;
    unsigned int unit = 0;

    while (value >= 1024 && unit + 1 < sizeof(units) / sizeof(units[0])) {
        value /= 1024;
        unit++;
    }
    snprintf(buf, size, value == floor(value) ? "%.0f %s" : "%.1f %s", value, units[unit]);
    return buf;
}

char *text_duration(char *buf, size_t size, uint64_t ns)
{
    static const struct {
        double ns;
        const char *name;
    } units[] = {{1, "ns"}, {1e3, "us"}, {1e6, "ms"}, {1e9, "s"}, {60e9, "min"}, {3600e9, "h"}};
    unsigned int unit = 0;
    double value;

    while (unit + 1 < sizeof(units) / sizeof(units[0]) && (double)ns >= units[unit + 1].ns)
        unit++;
    value = (double)ns / units[unit].ns;
    snprintf(buf, size, value == floor(value) ? "%.0f %s" : "%.3g %s", value, units[unit].name);
    return buf;
}

/* Few digits when they are enough to get the same number back. */
static void print_float(char *buf, size_t size, double value, bool single)
{
    for (int digits = 6; digits <= 17; digits++) {
        double back;

        snprintf(buf, size, "%.*g", digits, value);
        back = strtod(buf, NULL);
        if (isnan(value) || (single ? (float)back == (float)value : back == value))
            return;
    }
}

char *text_number(char *buf, size_t size, const struct hl_value *value)
{
    buf[0] = '\0';
    switch (value->type) {
    case HL_TYPE_I32:
        snprintf(buf, size, "%" PRId32, value->i32);
        break;
    case HL_TYPE_U32:
        snprintf(buf, size, "%" PRIu32, value->u32);
        break;
    case HL_TYPE_I64:
        snprintf(buf, size, "%" PRId64, value->i64);
        break;
    case HL_TYPE_U64:
        snprintf(buf, size, "%" PRIu64, value->u64);
        break;
    case HL_TYPE_F32:
        print_float(buf, size, (double)value->f32, true);
        break;
    case HL_TYPE_F64:
        print_float(buf, size, value->f64, false);
        break;
    case HL_TYPE_BOOL:
        snprintf(buf, size, "%s", value->b ? "true" : "false");
        break;
    default:
        break;
    }
    return buf;
}

/* How many bytes of text are one character that a terminal prints; 0 when it might obey the first.
 * U+0080 to U+009F are control characters too: a terminal may take U+009B for ESC [. */
static size_t printable(const char *text, size_t len)
{
    unsigned char first = (unsigned char)text[0];
    size_t size = first < 0x80 ? 1 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;

    if (size > len || first < 0x20 || first == 0x7f || !hl_utf8_valid(text, size))
        return 0;
    return first == 0xc2 && (unsigned char)text[1] < 0xa0 ? 0 : size;
}

char *text_clean(char *text, size_t len, char instead)
{
    for (size_t i = 0, n; i < len; i += n ? n : 1) {
        n = printable(text + i, len - i);
        if (n == 0)
            text[i] = instead;
    }
    return text;
}

/* Without the beginning of a character at the end, which a cut may have left there. */
static size_t whole_characters(const char *text, size_t len)
{
    size_t first = len;

    while (first > 0 && len - first < 3 && ((unsigned char)text[first - 1] & 0xc0) == 0x80)
        first--;
    if (first == 0 || (unsigned char)text[first - 1] < 0xc0)
        return len;
    return printable(text + first - 1, len - first + 1) ? len : first - 1;
}

char *text_printable(char *buf, size_t size, const char *text)
{
    size_t len = strlen(text);

    if (len > size - 1) {
        memcpy(buf, text, size - 1);
        len = whole_characters(buf, size - 1);
    } else {
        memcpy(buf, text, len);
    }
    buf[len] = '\0';
    return text_clean(buf, len, '?');
}
