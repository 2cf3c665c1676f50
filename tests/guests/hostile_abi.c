/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Lies about results, and hypercalls with arguments that make no sense.
 */
#include <hlguest.h>

#include <stdio.h>
#include <string.h>

#include "tests/guests/hostile.h"

static _Noreturn void done(uint64_t offset)
{
    raw_hypercall(HL_HYPERCALL_DONE, offset, 0, 0);
    __builtin_trap();
}

/* A struct hl_abi_result, of the caller's making, at offset if that is in the window; DONE is told
 * announced. The four differ in the result type that the host expects. */
static _Noreturn void raw(struct hl_bytes result, uint64_t offset, uint64_t announced)
{
    if (result.len <= abi_info()->io_size && offset <= abi_info()->io_size - result.len)
        memmove((uint8_t *)(uintptr_t)HL_ABI_IO_ADDR + offset, result.data, result.len);
    done(announced);
}

HL_FUNCTION(bytes, raw_bytes, (bytes, result), (u64, offset), (u64, announced))
{
    raw(result, offset, announced);
}

HL_FUNCTION(string, raw_string, (bytes, result), (u64, offset), (u64, announced))
{
    raw(result, offset, announced);
}

HL_FUNCTION(bool, raw_bool, (bytes, result), (u64, offset), (u64, announced))
{
    raw(result, offset, announced);
}

HL_FUNCTION(i32, raw_i32, (bytes, result), (u64, offset), (u64, announced))
{
    raw(result, offset, announced);
}

static struct hl_abi_result *bytes_result(uint64_t bits, uint32_t len)
{
    struct hl_abi_result *result = hl_alloc_result(sizeof(*result));

    memset(result, 0, sizeof(*result));
    result->magic = HL_ABI_RESULT_MAGIC;
    result->value.type = HL_ABI_BYTES;
    result->value.bits = bits;
    result->value.len = len;
    return result;
}

static _Noreturn void done_with(const struct hl_abi_result *result)
{
    done((uintptr_t)result - HL_ABI_IO_ADDR);
}

HL_FUNCTION(bytes, result_huge)
{
    done_with(bytes_result(0, UINT32_MAX));
}

HL_FUNCTION(bytes, result_outside)
{
    done_with(bytes_result(abi_info()->io_size + 4096, 64));
}

HL_FUNCTION(bytes, result_wraps)
{
    done_with(bytes_result(UINT64_MAX - 15, 64));
}

HL_FUNCTION(string, result_not_utf8)
{
    return hl_string_of("\xff\xfe");
}

HL_FUNCTION(bytes, result_too_large)
{
    return hl_bytes_of((const void *)(uintptr_t)HL_ABI_IO_ADDR, abi_info()->io_size + 1);
}

HL_FUNCTION(u64, hypercall, (u64, code), (u64, a), (u64, b), (u64, c))
{
    return raw_hypercall(code, a, b, c);
}

/* Past the hypercall page's first instruction. */
HL_FUNCTION(u64, hypercall_into, (u64, offset), (u64, rdi), (u64, rax))
{
    uint64_t value = rax;

    __asm__ volatile("call *%1"
                     : "+a"(value)
                     : "r"(HL_ABI_HYPERCALL_ADDR + offset), "D"(rdi), "S"(0ull), "d"(0ull)
                     : "rcx", "r8", "r9", "r10", "r11", "memory");
    return value;
}

/* The request at addr, if that is in the window, and a host call of addr and len. */
HL_FUNCTION(i64, host_raw, (bytes, request), (u64, addr), (u64, len))
{
    uint64_t offset = addr - HL_ABI_IO_ADDR;

    if (offset < abi_info()->io_size && request.len <= abi_info()->io_size - offset)
        memmove((uint8_t *)(uintptr_t)addr, request.data, request.len);
    return (int64_t)raw_hypercall(HL_HYPERCALL_HOST_CALL, addr, len, 0);
}

HL_FUNCTION(u32, log_flood, (u32, lines))
{
    for (uint32_t i = 0; i < lines; i++)
        hl_log(HL_LOG_INFO, "line %u", i);
    return lines;
}

HL_FUNCTION(u32, print_flood, (u32, lines))
{
    for (uint32_t i = 0; i < lines; i++)
        printf("line %u\n", i);
    return lines;
}
