/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HLGUEST_H
#define HLGUEST_H

/*
 * What a guest program of hld includes. A function that callers may use is written with one macro:
 *
 *     HL_FUNCTION(i32, divide, (i32, a), (i32, b))
 *     {
 *         if (b == 0)
 *             hl_fail(3, "division by zero");
 *         return a / b;
 *     }
 *
 * Types are i32 u32 i64 u64 f32 f64 bool string bytes, as result also void; up to 16 parameters.
 * string and bytes are struct hl_string and struct hl_bytes: a pointer and a length. Those of an
 * argument point into the I/O window and are the function's own to read until it returns; a string
 * argument is valid UTF-8 and not NUL-terminated, a string result must be valid UTF-8.
 *
 * After every call memory and registers go back to what they were when the program became ready,
 * so nothing needs freeing, and nothing is kept. What should be there for every call belongs into
 * HL_INIT or in front of hl_serve; what must not be the same in every call, such as a random seed,
 * belongs into HL_RESTORE. Works with C and C++.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
#define HL_NORETURN_ [[noreturn]]
#ifndef _Static_assert
#define _Static_assert static_assert
#endif
extern "C" {
#else
#define HL_NORETURN_ _Noreturn
#endif

#include "hl_abi.h"

struct hl_bytes {
    const void *data;
    size_t len;
};

struct hl_string {
    const char *data;
    size_t len;
};

enum {
    HL_LOG_ERROR = HL_ABI_LOG_ERROR,
    HL_LOG_WARNING = HL_ABI_LOG_WARNING,
    HL_LOG_INFO = HL_ABI_LOG_INFO,
    HL_LOG_DEBUG = HL_ABI_LOG_DEBUG,
};

/* Error codes that the library gives itself; a program's own are for it to choose, from 1 up. */
enum {
    HL_FAIL_RESULT_SIZE = -1, /* a result larger than the I/O window has room for */
    HL_FAIL_INIT = -2,        /* initialisation failed and said no code of its own */
    HL_FAIL_RANDOM = -3,      /* the host gave no random bytes */
};

/* Ends the call with an error of the program's own, from any depth; the text is cut at
 * HL_ABI_LOG_MAX bytes. During initialisation the program is refused with this text. */
HL_NORETURN_ void hl_fail(int32_t code, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* One line into the image's log; cut at HL_ABI_LOG_MAX bytes. */
void hl_log(int level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Room for a result of len bytes inside the I/O window, aligned to 16: a result built there is not
 * copied. Ends the call with HL_FAIL_RESULT_SIZE when there is not as much. Only during a call. */
void *hl_alloc_result(size_t len);

/* The same for a result of type bytes: where the window has not as much, and the caller has made
 * room for a larger one, it is in malloc's memory. What a call was given there ends with it: the
 * next one in the same session that needs such room takes it back. */
void *hl_alloc_bytes(size_t len);

/* Whether this call's caller has made room for bytes that are larger than the window: such a result
 * may be anywhere in memory, as malloc gives it, and is not copied. Only during a call. */
bool hl_result_large(void);

/* The most that hl_alloc_result would give now. */
size_t hl_result_room(void);

/* A string result built as by printf, in the I/O window. */
struct hl_string hl_format(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* Gives back what hl_alloc_result, hl_format and host functions took of the window since mark was
 * hl_result_room(); what lies there may not be used any more. For loops that would fill it. */
void hl_result_release(size_t mark);

/* A NUL-terminated copy in malloc's memory; ends the call when there is none left. */
char *hl_string_copy(struct hl_string s);

/* Whether s is well-formed UTF-8: what every string result must be. */
bool hl_string_valid(struct hl_string s);

static inline struct hl_bytes hl_bytes_of(const void *data, size_t len)
{
    struct hl_bytes bytes = {data, len};

    return bytes;
}

static inline struct hl_string hl_string_of(const char *text)
{
    struct hl_string string = {text, __builtin_strlen(text)};

    return string;
}

/* Random bytes that are fresh in each call, from what the host brings with it: no exit, but for the
 * first time in a call that came without (a later call of a session, or arguments that fill the
 * window). In start-up they are the host's too, and then the same in every call. */
void hl_random(void *buf, size_t len);

/* Seeds rand and random from hl_random. Fit for HL_RESTORE. */
void hl_seed_rand(void);

/* Runs the init hook, makes the snapshot, answers the call. The library's main does nothing else;
 * a program with a main of its own calls it when it is ready. */
HL_NORETURN_ void hl_serve(void);

/* HL_INIT(function): `int function(void)` runs once, before the snapshot. Not 0: the program is
 * refused, with that code. At most one in a program. */
extern int (*const hl_init_hook)(void);
#define HL_INIT(function) int (*const hl_init_hook)(void) = function

/* HL_RESTORE(function): `void function(void)` runs at the start of the first call after memory was
 * put back to the snapshot, in front of the function called: with every call, but in a session with
 * the first one and the first after a rollback. What start-up has drawn or looked up and must not
 * be the same everywhere is renewed there. hl_fail ends the call. At most one in a program. */
extern void (*const hl_restore_hook)(void);
#define HL_RESTORE(function) void (*const hl_restore_hook)(void) = function

/* HL_FUNCTION(result type, name, (type, parameter)...) { body } */
#define HL_FUNCTION(ret, name, ...)                                                                \
    static HL_C_##ret hl_function_##name(HL_PARAMS_(_, ##__VA_ARGS__));                            \
    static void hl_wrapper_##name(const struct hl_abi_value *hl_args,                              \
                                  struct hl_abi_value *hl_result)                                  \
    {                                                                                              \
        (void)hl_args;                                                                             \
        HL_PUT_##ret(hl_result, hl_function_##name(HL_ARGS_(_, ##__VA_ARGS__)));                   \
    }                                                                                              \
    _Static_assert(sizeof(#name) <= HL_ABI_NAME_SIZE, "function name too long: " #name);           \
    static const struct hl_function_entry hl_entry_##name HL_ENTRY_ATTRIBUTES_ = {                 \
        HL_ABI_FUNCTION_MAGIC,                                                                     \
        HL_ABI_VERSION,                                                                            \
        HL_COUNT_(_, ##__VA_ARGS__),                                                               \
        HL_ABI_##ret,                                                                              \
        {HL_TYPES_(_, ##__VA_ARGS__)},                                                             \
        hl_wrapper_##name,                                                                         \
        #name};                                                                                    \
    static HL_C_##ret hl_function_##name(HL_PARAMS_(_, ##__VA_ARGS__))

#include "hlguest_host.h" /* HL_HOST_FUNCTION: calling functions outside of the machine */
#include "hlguest_macros.h"

#ifdef __cplusplus
}
#endif

#endif
