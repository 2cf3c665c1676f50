/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_TESTS_FAKE_ELF_H
#define HL_TESTS_FAKE_ELF_H

/*
 * Small well-formed ELF files made in memory: three segments (headers and descriptors, code, data
 * with bss), a function section, one symbol ("start" at the entry point). The code is `ud2`: they
 * are for the fake backend and for tests of the parser.
 */

#include <stddef.h>
#include <stdint.h>

#include "guest/hl_abi.h"

#define FAKE_ELF_BASE 0x400000u

/* Any descriptor: FAKE_FUNCTION("add", HL_ABI_I32, 2, HL_ABI_I32, HL_ABI_I32). */
#define FAKE_FUNCTION(fn_name, fn_ret, count, ...)                                                 \
    {                                                                                              \
        .magic = HL_ABI_FUNCTION_MAGIC, .version = HL_ABI_VERSION, .nparams = (count),             \
        .ret = (fn_ret), .params = {__VA_ARGS__}, .name = fn_name                                  \
    }

/* A file with the given functions; type is ET_EXEC or ET_DYN (based at 0). The caller frees it. */
uint8_t *fake_elf_with(const struct hl_abi_function *functions, size_t count, uint16_t type,
                       size_t *len);

/* The one with the built-in guest's functions (tests/fake/fake.h). */
uint8_t *fake_elf_new(size_t *len);

#endif
