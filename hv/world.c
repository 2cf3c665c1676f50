/* SPDX-License-Identifier: Apache-2.0 */
/*
 * True random bytes come from the kernel in blocks, since each call of a guest needs a few and a
 * system call for each would be dearer than all else that begins a call. A block belongs to one
 * thread; what was handed out of it is wiped there. Made-up bytes are the ChaCha20 stream of the
 * seed, each request beginning with a block of its own.
 */
#include "config.h"

#include "hv/world.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>

#include "guest/chacha.h"

#define STOCK 4096u

_Static_assert(HV_SEED_SIZE == HL_CHACHA_KEY, "the seed is the key");

void world_init(struct world *w, const uint8_t seed[HV_SEED_SIZE], bool starting)
{
    *w = (struct world){.made_up = seed != NULL, .starting = starting};
    if (seed)
        memcpy(w->seed, seed, sizeof(w->seed));
}

void world_reset(struct world *w)
{
    w->at = (struct world_mark){0};
}

int world_time(struct world *w, clockid_t id, struct timespec *ts)
{
    uint64_t ns;

    if (!w->made_up)
        return clock_gettime(id, ts) < 0 ? -errno : 0;
    ns = w->at.looks++ * WORLD_STEP_NS;
    ts->tv_sec = (time_t)(ns / 1000000000u);
    ts->tv_nsec = (long)(ns % 1000000000u);
    if (id == CLOCK_REALTIME)
        ts->tv_sec += WORLD_EPOCH_S;
    if (!w->starting)
        ts->tv_sec += WORLD_CALLS_S;
    return 0;
}

static int from_kernel(uint8_t *buf, size_t len)
{
    while (len > 0) {
        ssize_t n = getrandom(buf, len, 0);

        if (n < 0 && errno != EINTR)
            return -errno;
        if (n > 0) {
            buf += n;
            len -= (size_t)n;
        }
    }
    return 0;
}

static int from_stock(uint8_t *buf, size_t len)
{
    static _Thread_local uint8_t stock[STOCK];
    static _Thread_local size_t left;
    int rc;

    if (left < len) {
        rc = from_kernel(stock, sizeof(stock));
        if (rc < 0)
            return rc;
        left = sizeof(stock);
    }
    left -= len;
    memcpy(buf, stock + left, len);
    explicit_bzero(stock + left, len);
    return 0;
}

/* stream: 0, or 1 for entropy. */
static void make_block(const struct world *w, uint32_t stream, uint8_t block[HL_CHACHA_BLOCK])
{
    const uint32_t nonce[3] = {(uint32_t)(w->at.blocks >> 32), w->starting, stream};

    hl_chacha_block(block, w->seed, (uint32_t)w->at.blocks, nonce);
}

static void from_seed(struct world *w, uint8_t *buf, size_t len)
{
    uint8_t block[HL_CHACHA_BLOCK];

    while (len > 0) {
        size_t step = len < sizeof(block) ? len : sizeof(block);

        make_block(w, 0, block);
        memcpy(buf, block, step);
        w->at.blocks++;
        buf += step;
        len -= step;
    }
}

int world_random(struct world *w, void *buf, size_t len)
{
    if (w->made_up) {
        from_seed(w, buf, len);
        return 0;
    }
    return len > STOCK / 16 ? from_kernel(buf, len) : from_stock(buf, len);
}

int world_entropy(struct world *w, void *buf, size_t len)
{
    uint8_t block[HL_CHACHA_BLOCK];

    if (!w->made_up)
        return world_random(w, buf, len);
    make_block(w, 1, block);
    memcpy(buf, block, len < sizeof(block) ? len : sizeof(block));
    return 0;
}
