/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Text to the host: log lines, and errors that end the call. An error need not unwind anything,
 * since the machine goes back to its snapshot anyway; so hl_fail leaves from wherever it is called.
 * Its result stands at the start of the window, over the call, which is of no more use: that works
 * even when the function has written over the whole window before.
 */
#include "serve.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Length of the well-formed UTF-8 sequence at p, 0 if there is none. */
static size_t utf8_sequence(const unsigned char *p, size_t len)
{
    unsigned char first_min = 0x80, first_max = 0xbf;
    size_t more;

    if (p[0] < 0x80)
        return 1;
    if (p[0] < 0xc2 || p[0] > 0xf4)
        return 0;
    more = p[0] < 0xe0 ? 1 : p[0] < 0xf0 ? 2 : 3;
    if (p[0] == 0xe0)
        first_min = 0xa0;
    else if (p[0] == 0xed)
        first_max = 0x9f;
    else if (p[0] == 0xf0)
        first_min = 0x90;
    else if (p[0] == 0xf4)
        first_max = 0x8f;
    if (more >= len || p[1] < first_min || p[1] > first_max)
        return 0;
    for (size_t i = 2; i <= more; i++) {
        if ((p[i] & 0xc0) != 0x80)
            return 0;
    }
    return more + 1;
}

bool hl_string_valid(struct hl_string s)
{
    for (size_t i = 0; i < s.len;) {
        size_t n = utf8_sequence((const unsigned char *)s.data + i, s.len - i);

        if (n == 0)
            return false;
        i += n;
    }
    return true;
}

/* The ABI's texts are UTF-8; a program's may quote anything. */
static void make_utf8(char *text, size_t len)
{
    for (size_t i = 0; i < len;) {
        size_t n = utf8_sequence((unsigned char *)text + i, len - i);

        if (n == 0) {
            text[i] = '?';
            n = 1;
        }
        i += n;
    }
}

/* Returns the length of what was written, at most HL_ABI_LOG_MAX. */
static size_t format(char buf[HL_ABI_LOG_MAX + 1], const char *fmt, va_list ap)
{
    int n = vsnprintf(buf, HL_ABI_LOG_MAX + 1, fmt, ap);
    size_t len = n < 0 ? 0 : n > (int)HL_ABI_LOG_MAX ? HL_ABI_LOG_MAX : (size_t)n;

    make_utf8(buf, len);
    return len;
}

_Noreturn void hl_fail(int32_t code, const char *fmt, ...)
{
    char text[HL_ABI_LOG_MAX + 1];
    va_list ap;
    size_t len;

    va_start(ap, fmt);
    len = format(text, fmt, ap);
    va_end(ap);
    if (hl_ready) {
        struct hl_abi_result *result = (struct hl_abi_result *)HL_ABI_IO_ADDR;

        memset(result, 0, sizeof(*result));
        result->magic = HL_ABI_RESULT_MAGIC;
        result->error = 1;
        result->code = code;
        result->text_len = (uint32_t)len;
        result->text = sizeof(*result);
        memcpy(result + 1, text, len);
        hl_hypercall(HL_HYPERCALL_DONE, 0, 0, 0);
    } else {
        hl_hypercall(HL_HYPERCALL_ABORT, (uint64_t)(int64_t)code, (uintptr_t)text, len);
    }
    __builtin_trap();
}

void hl_log(int level, const char *fmt, ...)
{
    char text[HL_ABI_LOG_MAX + 1];
    va_list ap;
    size_t len;

    va_start(ap, fmt);
    len = format(text, fmt, ap);
    va_end(ap);
    hl_hypercall(HL_HYPERCALL_LOG, (uint64_t)level, (uintptr_t)text, len);
}
