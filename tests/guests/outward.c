/* SPDX-License-Identifier: Apache-2.0 */
/* Calls of hld's own host functions, each handed on as it is; an error of the host function becomes
 * the function's, with the status as its code. */
#include <hlguest.h>

#include <stdlib.h>

HL_HOST_FUNCTION(i64, wall, "hl.time");
HL_HOST_FUNCTION(i64, monotonic, "hl.time.monotonic");
HL_HOST_FUNCTION(bytes, host_random, "hl.random", (u32, size));
HL_HOST_FUNCTION(void, host_log, "hl.log", (string, line));
HL_HOST_FUNCTION(bytes, host_get, "hl.kv.get", (string, key));
HL_HOST_FUNCTION(void, host_put, "hl.kv.put", (string, key), (bytes, value));
HL_HOST_FUNCTION(bool, host_delete, "hl.kv.delete", (string, key));

static void must(int status)
{
    struct hl_host_error error = hl_host_error();

    if (status != 0)
        hl_fail(status, "%.*s", (int)error.text.len, error.text.data);
}

HL_FUNCTION(i64, time_wall)
{
    int64_t ns;

    must(wall(&ns));
    return ns;
}

HL_FUNCTION(i64, time_monotonic)
{
    int64_t ns;

    must(monotonic(&ns));
    return ns;
}

HL_FUNCTION(bytes, random_bytes, (u32, size))
{
    struct hl_bytes bytes;

    must(host_random(&bytes, size));
    return bytes;
}

HL_FUNCTION(void, log_line, (string, line))
{
    must(host_log(line));
}

HL_FUNCTION(bytes, get, (string, key))
{
    struct hl_bytes value;

    must(host_get(&value, key));
    return value;
}

HL_FUNCTION(void, put, (string, key), (bytes, value))
{
    must(host_put(key, value));
}

HL_FUNCTION(bool, del, (string, key))
{
    bool was;

    must(host_delete(&was, key));
    return was;
}

/* Puts n values under one key; the last is the number n - 1 in decimal. */
HL_FUNCTION(void, put_many, (string, key), (u32, n))
{
    size_t mark = hl_result_room();

    for (uint32_t i = 0; i < n; i++) {
        struct hl_string text = hl_format("%u", i);

        must(host_put(key, hl_bytes_of(text.data, text.len)));
        hl_result_release(mark);
    }
}

/* A function of the caller's that takes and gives a u32, n times. */
HL_HOST_FUNCTION(u32, echo_u32, "echo", (u32, value));

HL_FUNCTION(u64, echoes, (u32, n))
{
    uint64_t total = 0;
    uint32_t value;

    for (uint32_t i = 0; i < n; i++) {
        must(echo_u32(&value, i));
        total += value;
    }
    return total;
}
