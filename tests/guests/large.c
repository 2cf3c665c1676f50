/* SPDX-License-Identifier: Apache-2.0 */
/* A guest whose start-up leaves much memory that is not zero, and other bytes each time. With
 * SLOW_START it takes longer than loading all that would. */
#include <hlguest.h>
#include <sys/random.h>
#include <time.h>

#define PAGE  4096u
#define CELLS (72u << 8) /* a page each: 72 MiB */

static struct {
    uint64_t value;
    char rest[PAGE - sizeof(uint64_t)];
} cells[CELLS] __attribute__((aligned(4096)));

static int set_up(void)
{
    uint64_t seed = 1;

    if (getrandom(&seed, sizeof(seed), 0) != (ssize_t)sizeof(seed))
        return 1;
    for (uint32_t i = 0; i < CELLS; i++)
        cells[i].value = (seed += 0x9e3779b97f4a7c15u) | 1;
#ifdef SLOW_START
    struct timespec begin, now;

    clock_gettime(CLOCK_MONOTONIC, &begin);
    do
        clock_gettime(CLOCK_MONOTONIC, &now);
    while ((now.tv_sec - begin.tv_sec) * 1000 + (now.tv_nsec - begin.tv_nsec) / 1000000 < 300);
#endif
    return 0;
}
HL_INIT(set_up);

HL_FUNCTION(void, fill, (u32, first), (u32, n), (u64, value))
{
    for (uint32_t i = first; i < first + n && i < CELLS; i++)
        cells[i].value = value + i;
}

HL_FUNCTION(u64, peek, (u32, cell))
{
    if (cell >= CELLS)
        hl_fail(1, "no cell %u", cell);
    return cells[cell].value;
}
