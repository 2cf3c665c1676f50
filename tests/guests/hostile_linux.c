/* SPDX-License-Identifier: Apache-2.0 */
/*
 * System calls with arguments that make no sense, in ways and from states they should not come.
 */
#include <hlguest.h>

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "tests/guests/hostile.h"

HL_FUNCTION(i64, system_call, (u64, nr), (u64, a), (u64, b), (u64, c), (u64, d), (u64, e), (u64, f))
{
    return raw_syscall(nr, a, b, c, d, e, f);
}

/* Every number up to 600, but those that end the program, with every argument the same. Returns how
 * many were not refused as unknown. */
HL_FUNCTION(u32, system_call_flood, (u64, argument))
{
    uint32_t known = 0;

    for (uint64_t nr = 0; nr <= 600; nr++) {
        if (nr == SYS_exit || nr == SYS_exit_group)
            continue;
        if (raw_syscall(nr, argument, argument, argument, argument, argument, argument) != -ENOSYS)
            known++;
    }
    return known;
}

/* Numbers far outside, x32's bit 30 among them. Returns how many were known. */
HL_FUNCTION(u32, system_call_wild_numbers)
{
    uint32_t known = 0;

    for (unsigned int bit = 10; bit < 63; bit++) {
        for (uint64_t low = 0; low < 40; low += 13) {
            if (raw_syscall(1ull << bit | low, 0, 0, 0, 0, 0, 0) != -ENOSYS)
                known++;
        }
    }
    return known;
}

HL_FUNCTION(i64, system_call_wild_stack, (u64, stack))
{
    int64_t ret;

    __asm__ volatile("mov %%rsp, %%rbx; mov %2, %%rsp; syscall; mov %%rbx, %%rsp"
                     : "=a"(ret)
                     : "a"((uint64_t)SYS_getpid), "r"(stack)
                     : "rbx", "rcx", "r11", "memory");
    return ret;
}

/* The SYSCALL instruction where it cannot return to: the last bytes of the user's half. */
HL_FUNCTION(i64, system_call_at, (u64, address))
{
    return ((int64_t(*)(void))address)();
}

HL_FUNCTION(void, exit_now, (i32, status))
{
    exit(status);
}

HL_FUNCTION(void, exit_raw, (i32, status))
{
    raw_syscall(SYS_exit_group, (uint64_t)status, 0, 0, 0, 0, 0);
}

HL_FUNCTION(void, abort_now)
{
    abort();
}

HL_FUNCTION(i32, sleepy, (u32, ms))
{
    struct timespec ts = {ms / 1000, (long)(ms % 1000) * 1000000};

    return nanosleep(&ts, NULL) == 0 ? 0 : errno;
}

static uint64_t now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

HL_FUNCTION(u32, spin_ms, (u32, ms))
{
    uint64_t end = now_ns() + ms * 1000000ull;
    uint32_t rounds = 0;

    do {
        for (int i = 0; i < 100000; i++)
            __asm__ volatile("pause");
        rounds++;
    } while (now_ns() < end);
    return rounds;
}

/* Maps until nothing is left, without touching. Returns MiB. */
HL_FUNCTION(u32, map_forever)
{
    uint32_t count = 0;

    while (mmap(NULL, 1u << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) !=
           MAP_FAILED)
        count++;
    return count;
}

/* Takes away what the program stands on. */
HL_FUNCTION(i32, unmap, (u64, address), (u64, len))
{
    return munmap((void *)address, len) == 0 ? 0 : errno;
}

HL_FUNCTION(i32, protect, (u64, address), (u64, len), (i32, prot))
{
    return mprotect((void *)address, len, prot) == 0 ? 0 : errno;
}

/* A mapping of its own made read-only and then written. */
HL_FUNCTION(i32, protect_and_write)
{
    volatile char *p =
        mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (p == MAP_FAILED)
        hl_fail(errno, "mmap");
    p[0] = 1;
    if (mprotect((void *)p, 65536, PROT_READ) != 0)
        hl_fail(errno, "mprotect");
    p[0] = 2;
    return p[0];
}

HL_FUNCTION(i32, write_and_execute)
{
    void *p =
        mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (p == MAP_FAILED)
        return errno;
    *(volatile uint8_t *)p = 0xc3;
    ((void (*)(void))p)();
    return 0;
}
