/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TESTS_GUESTS_HOSTILE_H
#define TESTS_GUESTS_HOSTILE_H

/* What the hostile guests share: hypercalls without the library in between, and a register file
 * that an instruction under test may do with as it likes. */

#include <stdint.h>

#include "hl_abi.h"

static inline uint64_t raw_hypercall(uint64_t code, uint64_t a, uint64_t b, uint64_t c)
{
    uint64_t (*call)(uint64_t, uint64_t, uint64_t, uint64_t) =
        (uint64_t(*)(uint64_t, uint64_t, uint64_t, uint64_t))HL_ABI_HYPERCALL_ADDR;

    return call(code, a, b, c);
}

static inline int64_t raw_syscall(uint64_t nr, uint64_t a, uint64_t b, uint64_t c, uint64_t d,
                                  uint64_t e, uint64_t f)
{
    register uint64_t r10 __asm__("r10") = d;
    register uint64_t r8 __asm__("r8") = e;
    register uint64_t r9 __asm__("r9") = f;
    int64_t ret;

    __asm__ volatile("syscall"
                     : "=a"(ret)
                     : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return ret;
}

static inline const struct hl_abi_info *abi_info(void)
{
    return (const struct hl_abi_info *)HL_ABI_INFO_ADDR;
}

#endif
