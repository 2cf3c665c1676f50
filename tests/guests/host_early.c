/* SPDX-License-Identifier: Apache-2.0 */
/* Calls of host functions where there are none: in start-up, by the library and past it. And typed
 * ones of every type. */
#include <hlguest.h>

#include <string.h>

HL_HOST_FUNCTION(void, host_nothing, "nothing");
HL_HOST_FUNCTION(void, host_take, "take", (string, text));
HL_HOST_FUNCTION(i32, host_i32, "i32", (i32, v));
HL_HOST_FUNCTION(u32, host_u32, "u32", (u32, v));
HL_HOST_FUNCTION(i64, host_i64, "i64", (i64, v));
HL_HOST_FUNCTION(u64, host_u64, "u64", (u64, v));
HL_HOST_FUNCTION(f32, host_f32, "f32", (f32, v));
HL_HOST_FUNCTION(f64, host_f64, "f64", (f64, v));
HL_HOST_FUNCTION(bool, host_bool, "bool", (bool, v));
HL_HOST_FUNCTION(string, host_string, "string", (string, v));
HL_HOST_FUNCTION(bytes, host_bytes, "bytes", (bytes, v));
HL_HOST_FUNCTION(u64, host_get, "get");
HL_HOST_FUNCTION(i32, host_sixteen, "sixteen", (i32, a), (u32, b), (i64, c), (u64, d), (f32, e),
                 (f64, f), (bool, g), (string, h), (bytes, i), (i32, j), (u32, k), (i64, l),
                 (u64, m), (f32, n), (f64, o), (bool, p));

static struct {
    struct hl_abi_host_call request;
    struct hl_abi_result answer;
    char text[64];
} raw;
static int by_library;
static int64_t by_hand;

static int init(void)
{
    uint64_t (*hypercall)(uint64_t, uint64_t, uint64_t, uint64_t) =
        (uint64_t(*)(uint64_t, uint64_t, uint64_t, uint64_t))HL_ABI_HYPERCALL_ADDR;

    by_library = host_nothing();
    raw.request.magic = HL_ABI_HOST_CALL_MAGIC;
    raw.request.out = (uintptr_t)&raw.answer;
    raw.request.size = sizeof(raw) - offsetof(__typeof__(raw), answer);
    strcpy(raw.request.name, "nothing");
    by_hand = (int64_t)hypercall(HL_HYPERCALL_HOST_CALL, (uintptr_t)&raw, sizeof(raw.request), 0);
    return 0;
}

HL_INIT(init);

HL_FUNCTION(string, start_up)
{
    return hl_format("%d %d %u", by_library, (int)by_hand, raw.answer.error);
}

/* How many of them went wrong. */
HL_FUNCTION(i32, every_type)
{
    const struct hl_string text = hl_string_of("t\xc3\xa4xt");
    int32_t i32 = 0, wrong = 0;
    uint32_t u32 = 0;
    int64_t i64 = 0;
    uint64_t u64 = 0;
    float f32 = 0;
    double f64 = 0;
    bool truth = false;
    struct hl_string s = {NULL, 0};
    struct hl_bytes b = {NULL, 0};

    wrong += host_nothing() != 0;
    wrong += host_take(text) != 0;
    wrong += host_i32(&i32, INT32_MIN) != 0 || i32 != INT32_MIN;
    wrong += host_u32(&u32, UINT32_MAX) != 0 || u32 != UINT32_MAX;
    wrong += host_i64(&i64, INT64_MIN) != 0 || i64 != INT64_MIN;
    wrong += host_u64(&u64, UINT64_MAX) != 0 || u64 != UINT64_MAX;
    wrong += host_f32(&f32, -0.5f) != 0 || f32 != -0.5f;
    wrong += host_f64(&f64, 1e-300) != 0 || f64 != 1e-300;
    wrong += host_bool(&truth, true) != 0 || !truth;
    wrong += host_bool(&truth, false) != 0 || truth;
    wrong += host_string(&s, text) != 0 || s.len != text.len || memcmp(s.data, text.data, s.len);
    wrong += host_bytes(&b, hl_bytes_of("\0\1", 2)) != 0 || b.len != 2 || memcmp(b.data, "\0\1", 2);
    /* Both are still there. */
    wrong += memcmp(s.data, text.data, text.len) != 0;
    wrong += host_bytes(&b, hl_bytes_of(NULL, 0)) != 0 || b.len != 0;
    wrong += host_get(&u64) != 0 || u64 != 77;
    wrong += host_sixteen(&i32, 1, 2, 3, 4, 5, 6, true, text, hl_bytes_of("abc", 3), 10, 11, 12, 13,
                          14, 15, false) != 0 ||
             i32 != 16;
    return wrong;
}

/* The host answers with other types than these declare. */
HL_HOST_FUNCTION(u32, get_wrongly, "get");

HL_FUNCTION(string, other_type)
{
    uint32_t value = 5;
    int status = get_wrongly(&value);
    struct hl_host_error error = hl_host_error();

    return hl_format("%d %u %d %.*s", status, value, error.status, (int)error.text.len,
                     error.text.data);
}

/* An error's text as the argument of the next call; errors do not use up the window. */
HL_FUNCTION(string, quoting, (u32, errors))
{
    size_t room = hl_result_room();
    struct hl_host_error error;
    struct hl_string answer;

    for (uint32_t i = 0; i < errors; i++) {
        if (host_take(hl_string_of("fail")) != HL_HOST_UNKNOWN)
            hl_fail(1, "no error");
        if (hl_result_room() + 4200 < room)
            hl_fail(2, "%zu bytes of room are %zu", room, hl_result_room());
    }
    error = hl_host_error();
    if (host_string(&answer, error.text) != 0)
        hl_fail(3, "not quoted");
    if (hl_host_error().status != 0 || hl_host_error().text.len != 0)
        hl_fail(4, "an error that is over");
    return answer;
}

HL_FUNCTION(string, error_code)
{
    struct hl_host_error error;

    host_take(hl_string_of("fail"));
    error = hl_host_error();
    return hl_format("%d %d %.*s", error.status, error.code, (int)error.text.len, error.text.data);
}

/* Answers until there is no more room, then with room again. */
HL_FUNCTION(u32, fill, (u32, size))
{
    size_t mark = hl_result_room();
    static char block[65536];
    struct hl_bytes b;
    uint32_t n = 0;
    int status;

    while ((status = host_bytes(&b, hl_bytes_of(block, size))) == 0)
        n++;
    if (status != HL_HOST_RESOURCE_EXHAUSTED || hl_host_error().status != status)
        hl_fail(status, "not for want of room");
    hl_result_release(mark);
    if (hl_result_room() != mark || host_bytes(&b, hl_bytes_of(block, size)) != 0)
        hl_fail(1, "no room after a release");
    return n;
}
