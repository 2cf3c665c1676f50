/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Programs whose start-up is hostile or broken: one source, STARTUP says which of these functions
 * is the init hook.
 */
#include <hlguest.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/guests/hostile.h"

#define HOOK static __attribute__((unused)) int

HOOK start_loop(void)
{
    fputs("going round", stderr);
    for (;;)
        __asm__ volatile("");
    return 0;
}

HOOK start_exit(void)
{
    exit(3);
}

HOOK start_fault(void)
{
    volatile uintptr_t address = 8;

    *(volatile char *)address = 1;
    return 0;
}

HOOK start_fail(void)
{
    hl_fail(42, "no such luck: %d", 7);
}

HOOK start_code(void)
{
    hl_log(HL_LOG_INFO, "an earlier line");
    fputs("no database: \x01", stderr);
    for (int i = 0; i < 300; i++)
        fputs("\xc3\xa9", stderr);
    fputs("\n", stderr);
    return 5;
}

HOOK start_abort(void)
{
    abort();
}

HOOK start_hog(void)
{
    for (;;) {
        char *block = malloc(65536);

        if (!block)
            hl_fail(12, "out of memory");
        memset(block, 1, 65536);
    }
}

HOOK start_flood(void)
{
    for (int i = 0; i < 10000; i++)
        hl_log(HL_LOG_INFO, "line %d", i);
    for (int i = 0; i < 10000; i++)
        printf("line %d\n", i);
    return 0;
}

HOOK start_done(void)
{
    raw_hypercall(HL_HYPERCALL_DONE, 0, 0, 0);
    return 0;
}

HOOK start_hypercall(void)
{
    raw_hypercall(0x1234, 1, 2, 3);
    return 0;
}

HOOK start_wild_abort(void)
{
    raw_hypercall(HL_HYPERCALL_ABORT, 1, 0xfffffffffffff000ull, 0xffffffffffffull);
    return 0;
}

HL_INIT(STARTUP);

HL_FUNCTION(i32, one)
{
    return 1;
}
