/* SPDX-License-Identifier: Apache-2.0 */
/* A guest that keeps what its calls did, in each kind of memory that it has. */
#include <errno.h>
#include <hlguest.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE  4096u
#define CELLS 2048u /* a page each */

static struct {
    uint64_t value;
    char rest[PAGE - sizeof(uint64_t)];
} cells[CELLS] __attribute__((aligned(4096)));

static uint32_t counter = 1000;
static double ratio = 0.5;
static unsigned char *mapped;
static size_t mapped_len;
static uint64_t *blocks[64];
static unsigned int nblocks;

HL_FUNCTION(u32, count)
{
    ratio *= 2;
    return ++counter;
}

HL_FUNCTION(f64, doubled)
{
    return ratio;
}

HL_FUNCTION(u64, poke, (u32, cell), (u64, value))
{
    uint64_t old;

    if (cell >= CELLS)
        hl_fail(1, "no cell %u", cell);
    old = cells[cell].value;
    cells[cell].value = value;
    return old;
}

HL_FUNCTION(u64, peek, (u32, cell))
{
    if (cell >= CELLS)
        hl_fail(1, "no cell %u", cell);
    return cells[cell].value;
}

/* Writes n pages and says how many it has seen changed since start-up. */
HL_FUNCTION(u32, fill, (u32, first), (u32, n), (u64, value))
{
    uint32_t changed = 0;

    for (uint32_t i = first; i < first + n && i < CELLS; i++) {
        changed += cells[i].value != 0;
        cells[i].value = value + i;
    }
    return changed;
}

/* Takes heap: gives back a sum over all that was taken so far. */
HL_FUNCTION(u64, allocate, (u32, bytes))
{
    uint64_t sum = 0;

    if (nblocks == sizeof(blocks) / sizeof(blocks[0]) || bytes < 16)
        hl_fail(2, "no block of %u", bytes);
    blocks[nblocks] = malloc(bytes);
    if (!blocks[nblocks])
        hl_fail(3, "no memory");
    memset(blocks[nblocks], 0, bytes);
    blocks[nblocks][0] = nblocks + 1;
    nblocks++;
    for (unsigned int i = 0; i < nblocks; i++)
        sum += blocks[i][0];
    return sum;
}

HL_FUNCTION(u32, release)
{
    if (nblocks > 0)
        free(blocks[--nblocks]);
    return nblocks;
}

/* Anonymous memory; has to come as zeros. */
HL_FUNCTION(u32, map, (u32, pages))
{
    uint32_t stale = 0;

    if (mapped)
        munmap(mapped, mapped_len);
    mapped_len = pages * (size_t)PAGE;
    mapped = mmap(NULL, mapped_len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED)
        hl_fail(4, "mmap: %d", errno);
    for (size_t i = 0; i < mapped_len; i++)
        stale += mapped[i] != 0;
    memset(mapped, 7, mapped_len);
    return stale;
}

/* 1: the mapping's first page can be written; 0: no longer. */
HL_FUNCTION(void, writable, (bool, yes))
{
    if (!mapped || mprotect(mapped, PAGE, yes ? PROT_READ | PROT_WRITE : PROT_READ) < 0)
        hl_fail(5, "mprotect: %d", errno);
}

HL_FUNCTION(u32, touch)
{
    if (!mapped)
        hl_fail(6, "nothing is mapped");
    return ++mapped[0];
}

HL_FUNCTION(bytes, echo, (bytes, data))
{
    return data;
}

HL_FUNCTION(void, fails, (i32, code))
{
    cells[0].value++;
    hl_fail(code, "asked to");
}

HL_FUNCTION(void, crash)
{
    volatile int *volatile nowhere = NULL;

    counter += 500;
    *nowhere = 1;
}

HL_FUNCTION(void, spin)
{
    counter += 500;
    for (volatile unsigned int i = 0;; i++)
        ;
}

HL_FUNCTION(u32, slow, (u32, rounds))
{
    for (volatile uint32_t i = 0; i < rounds * 1000; i++)
        ;
    return ++counter;
}
