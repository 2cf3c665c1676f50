/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Calls out of a function: typed, in a loop, at its limits, wrong on purpose, and around a corner:
 * a host function may call a function of this image again.
 */
#include <hlguest.h>

#include <stdlib.h>
#include <string.h>

HL_HOST_FUNCTION(u32, count, "count", (u32, i));
HL_HOST_FUNCTION(u32, host_descend, "descend", (u32, depth));

/* "7 the text": how the last call of a host function ended. */
static struct hl_string outcome(void)
{
    struct hl_host_error error = hl_host_error();

    return hl_format("%d %.*s", error.status, (int)error.text.len, error.text.data);
}

static void must(int status)
{
    struct hl_host_error error = hl_host_error();

    if (status != 0)
        hl_fail(status, "%.*s", (int)error.text.len, error.text.data);
}

/* Any host function that takes bytes and gives bytes. */
HL_FUNCTION(bytes, ask, (string, name), (bytes, data))
{
    const struct hl_value arg = hl_value_bytes(data);
    struct hl_value answer;

    must(hl_host_call(hl_string_copy(name), &answer, &arg, 1));
    if (answer.type != HL_ABI_BYTES && answer.type != HL_ABI_STRING)
        hl_fail(HL_HOST_INVALID_ARGUMENT, "the answer is neither bytes nor a string");
    return answer.bytes;
}

/* count(0) + … + count(n - 1) */
HL_FUNCTION(u64, sum, (u32, n))
{
    uint64_t total = 0;

    for (uint32_t i = 0; i < n; i++) {
        uint32_t value;

        must(count(&value, i));
        total += value;
    }
    return total;
}

/* As often as that, whatever comes of it: how many of them failed. */
HL_FUNCTION(u32, flood, (string, name), (u32, n))
{
    const char *copy = hl_string_copy(name);
    size_t mark = hl_result_room();
    uint32_t failed = 0;

    for (uint32_t i = 0; i < n; i++) {
        failed += hl_host_call(copy, NULL, NULL, 0) != 0;
        hl_result_release(mark);
    }
    return failed;
}

HL_FUNCTION(void, forever, (string, name))
{
    const char *copy = hl_string_copy(name);
    size_t mark = hl_result_room();

    for (;;) {
        hl_host_call(copy, NULL, NULL, 0);
        hl_result_release(mark);
    }
}

/* One argument of every type, which hardly any function takes. */
HL_FUNCTION(string, wrong_types, (string, name))
{
    const struct hl_value args[] = {
        hl_value_i32(-1),       hl_value_u32(1),       hl_value_i64(-1),
        hl_value_u64(1),        hl_value_f32(0.5f),    hl_value_f64(0.25),
        hl_value_boolean(true), hl_value_string(name), hl_value_bytes(hl_bytes_of("\xff", 1)),
    };

    hl_host_call(hl_string_copy(name), NULL, args, sizeof(args) / sizeof(args[0]));
    return outcome();
}

HL_FUNCTION(string, not_utf8, (string, name))
{
    const struct hl_value arg = hl_value_string(hl_string_of("\xff\xfe"));

    hl_host_call(hl_string_copy(name), NULL, &arg, 1);
    return outcome();
}

/* That many bytes, on the heap. */
HL_FUNCTION(string, huge, (string, name), (u64, size))
{
    struct hl_value arg;
    void *data = malloc(size);

    if (!data)
        hl_fail(1, "no memory for %llu bytes", (unsigned long long)size);
    memset(data, 'h', size);
    arg = hl_value_bytes(hl_bytes_of(data, size));
    hl_host_call(hl_string_copy(name), NULL, &arg, 1);
    return outcome();
}

/* How deep it got. A host function "descend" that calls this one with what it is given makes a
 * chain of calls, each waiting for the next. */
HL_FUNCTION(u32, descend, (u32, depth))
{
    uint32_t below = 0;

    if (depth > 0)
        must(host_descend(&below, depth - 1));
    return below + 1;
}
