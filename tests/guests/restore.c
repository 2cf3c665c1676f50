/* SPDX-License-Identifier: Apache-2.0 */
/* What start-up draws is in the snapshot; what a hook or a function draws is its call's own. */
#include <hlguest.h>

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

static uint8_t drawn[64];
static int hooks;

static int init(void)
{
    hl_random(drawn, sizeof(drawn));
    hl_seed_rand();
    return 0;
}

static void restored(void)
{
    hooks++;
}

HL_INIT(init);
HL_RESTORE(restored);

HL_FUNCTION(bytes, from_start_up)
{
    return hl_bytes_of(drawn, sizeof(drawn));
}

HL_FUNCTION(i32, hooks_run)
{
    return hooks;
}

HL_FUNCTION(bytes, random, (u32, len))
{
    void *room = hl_alloc_result(len);

    hl_random(room, len);
    return hl_bytes_of(room, len);
}

/* From start-up's seed, and from one of the call's own. */
HL_FUNCTION(i64, stale_rand)
{
    return (int64_t)rand() << 31 | rand();
}

HL_FUNCTION(i64, fresh_rand)
{
    hl_seed_rand();
    return (int64_t)rand() << 31 | rand();
}

/* The entropy of the call is gone once it was used. */
HL_FUNCTION(bool, entropy_is_wiped)
{
    const struct hl_abi_call *call = (const struct hl_abi_call *)HL_ABI_IO_ADDR;
    const uint8_t *at = (const uint8_t *)call + call->size - HL_ABI_ENTROPY_SIZE;
    static const uint8_t zeros[HL_ABI_ENTROPY_SIZE];
    bool was_there = call->flags & HL_ABI_CALL_ENTROPY && memcmp(at, zeros, sizeof(zeros)) != 0;
    uint8_t byte;

    hl_random(&byte, 1);
    return was_there && memcmp(at, zeros, sizeof(zeros)) == 0;
}

HL_FUNCTION(u32, random_beside, (bytes, large))
{
    uint32_t value = (uint32_t)large.len;

    hl_random(&value, sizeof(value));
    return value;
}

HL_FUNCTION(bytes, getrandom, (u32, len))
{
    void *room = hl_alloc_result(len);

    if (getrandom(room, len, 0) != (ssize_t)len)
        hl_fail(1, "getrandom");
    return hl_bytes_of(room, len);
}

/* Nanoseconds of the real-time clock, the third time it is looked at. */
HL_FUNCTION(i64, clock)
{
    struct timespec ts;

    for (int i = 0; i < 3; i++)
        clock_gettime(CLOCK_REALTIME, &ts);
    return ts.tv_sec * 1000000000 + ts.tv_nsec;
}
