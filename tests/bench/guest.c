/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the benchmark calls: an echo, echoes by a host function, a loop that lasts, and writes to
 * memory, few and many. The loop goes by the processor's time stamp counter, which a guest reads
 * without leaving; how fast it counts was found out before the snapshot.
 */
#include <hlguest.h>

#include <string.h>
#include <time.h>
#include <x86intrin.h>

#define PAGE  4096u
#define PAGES ((64u << 20) / PAGE)

enum { FAIL_TOO_MANY = 1, FAIL_OUTWARD, FAIL_ANSWER };

HL_HOST_FUNCTION(bytes, echo_outside, "echo", (bytes, data));

static uint64_t ticks_per_ms;
static char memory[PAGES][PAGE] __attribute__((aligned(4096)));

static uint64_t now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static int set_up(void)
{
    uint64_t begin = now_ns(), first = __rdtsc(), ns;

    do
        ns = now_ns() - begin;
    while (ns < 2000000);
    ticks_per_ms = (__rdtsc() - first) * 1000000 / ns;
    return 0;
}
HL_INIT(set_up);

HL_FUNCTION(bytes, echo, (bytes, data))
{
    return data;
}

HL_FUNCTION(u32, last, (bytes, data))
{
    return data.len > 0 ? ((const uint8_t *)data.data)[data.len - 1] : 0;
}

/* So many host calls in a row, each of which gets back what it sent. */
HL_FUNCTION(void, outward, (u32, count), (bytes, data))
{
    size_t mark = hl_result_room();

    for (uint32_t i = 0; i < count; i++) {
        struct hl_bytes answer;

        if (echo_outside(&answer, data) != 0)
            hl_fail(FAIL_OUTWARD, "host call %u of %u failed", i + 1, count);
        if (answer.len != data.len || memcmp(answer.data, data.data, data.len) != 0)
            hl_fail(FAIL_ANSWER, "host call %u of %u got another answer", i + 1, count);
        hl_result_release(mark);
    }
}

HL_FUNCTION(void, nothing)
{
}

HL_FUNCTION(void, spin, (u32, ms))
{
    uint64_t begin = __rdtsc();

    while (__rdtsc() - begin < ms * ticks_per_ms)
        ;
}

/* One write to each of so many pages. */
HL_FUNCTION(void, dirty, (u32, pages))
{
    if (pages > PAGES)
        hl_fail(FAIL_TOO_MANY, "%u pages; there are %u", pages, PAGES);
    for (uint32_t i = 0; i < pages; i++)
        *(volatile char *)memory[i] = 1;
}

/* Every byte of 64 MiB. */
HL_FUNCTION(void, dirty64m)
{
    memset(memory, 0x5a, sizeof(memory));
    __asm__ volatile("" : : "r"(memory) : "memory");
}
