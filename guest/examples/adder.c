/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every type as argument and as result, errors, and the largest and the smallest signature.
 */
#include <hlguest.h>

#include <stdint.h>
#include <string.h>

/* Integers: a sum that does not fit is an error of the function's own. */
HL_FUNCTION(i32, add_i32, (i32, a), (i32, b))
{
    int32_t sum;

    if (__builtin_add_overflow(a, b, &sum))
        hl_fail(1, "%d + %d does not fit an i32", a, b);
    return sum;
}

HL_FUNCTION(u32, add_u32, (u32, a), (u32, b))
{
    uint32_t sum;

    if (__builtin_add_overflow(a, b, &sum))
        hl_fail(1, "%u + %u does not fit a u32", a, b);
    return sum;
}

HL_FUNCTION(i64, add_i64, (i64, a), (i64, b))
{
    int64_t sum;

    if (__builtin_add_overflow(a, b, &sum))
        hl_fail(1, "%lld + %lld does not fit an i64", (long long)a, (long long)b);
    return sum;
}

HL_FUNCTION(u64, add_u64, (u64, a), (u64, b))
{
    uint64_t sum;

    if (__builtin_add_overflow(a, b, &sum))
        hl_fail(1, "%llu + %llu does not fit a u64", (unsigned long long)a, (unsigned long long)b);
    return sum;
}

HL_FUNCTION(f32, add_f32, (f32, a), (f32, b))
{
    return a + b;
}

HL_FUNCTION(f64, add_f64, (f64, a), (f64, b))
{
    return a + b;
}

HL_FUNCTION(bool, both, (bool, a), (bool, b))
{
    return a && b;
}

HL_FUNCTION(string, join, (string, a), (string, b))
{
    struct hl_string s;
    char *room = hl_alloc_result(a.len + b.len);

    memcpy(room, a.data, a.len);
    memcpy(room + a.len, b.data, b.len);
    s.data = room;
    s.len = a.len + b.len;
    return s;
}

HL_FUNCTION(bytes, xor, (bytes, a), (bytes, b))
{
    const uint8_t *x = a.data, *y = b.data;
    uint8_t *room = hl_alloc_bytes(a.len);

    if (a.len != b.len)
        hl_fail(2, "%zu bytes against %zu", a.len, b.len);
    for (size_t i = 0; i < a.len; i++)
        room[i] = x[i] ^ y[i];
    return hl_bytes_of(room, a.len);
}

HL_FUNCTION(i32, divide, (i32, a), (i32, b))
{
    if (b == 0)
        hl_fail(3, "division by zero");
    return b == -1 ? (int32_t)(0 - (uint32_t)a) : a / b;
}

HL_FUNCTION(void, nothing)
{
}

HL_FUNCTION(void, log_line, (i32, level), (string, text))
{
    hl_log(level, "%.*s", (int)text.len, text.data);
}

HL_FUNCTION(f64, sum16, (i32, a), (u32, b), (i64, c), (u64, d), (f32, e), (f64, f), (bool, g),
            (string, h), (bytes, i), (i32, j), (u32, k), (i64, l), (u64, m), (f32, n), (f64, o),
            (bool, p))
{
    return a + b + (double)c + (double)d + (double)e + f + g + (double)h.len + (double)i.len + j +
           k + (double)l + (double)m + (double)n + o + p;
}
