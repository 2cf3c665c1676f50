/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Random bytes from the entropy that the host brings with a call, or that one system call gets. A
 * ChaCha20 block's first half becomes the next key, so that what was given out cannot be computed
 * from what is kept; the entropy is wiped where it lay.
 *
 * The state is the program's data, so it goes with the call, and a snapshot has none: start-up asks
 * the host each time. A snapshot made of a session may have one, so it is not used in a first call
 * before that has seeded it anew.
 */
#include "serve.h"

#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "chacha.h"

static uint8_t key[HL_CHACHA_KEY];
static bool seeded;

static void from_host(uint8_t *buf, size_t len)
{
    while (len > 0) {
        long n = syscall(SYS_getrandom, buf, len, 0);

        if (n <= 0)
            hl_fail(HL_FAIL_RANDOM, "the host gives no random bytes");
        buf += n;
        len -= (size_t)n;
    }
}

static void seed(void)
{
    struct hl_abi_call *call = hl_call();
    uint8_t *entropy = (uint8_t *)call + call->size - HL_ABI_ENTROPY_SIZE;

    _Static_assert(sizeof(key) == HL_ABI_ENTROPY_SIZE, "a call's entropy is a key");
    if (call->flags & HL_ABI_CALL_ENTROPY) {
        memcpy(key, entropy, sizeof(key));
        memset(entropy, 0, HL_ABI_ENTROPY_SIZE);
    } else {
        from_host(key, sizeof(key));
    }
    /* This call asks no more. */
    call->flags &= (uint16_t) ~(HL_ABI_CALL_FIRST | HL_ABI_CALL_ENTROPY);
    seeded = true;
}

void hl_random(void *buf, size_t len)
{
    static const uint32_t nonce[3];
    uint8_t block[HL_CHACHA_BLOCK], *to = buf;

    if (!hl_ready) {
        from_host(buf, len);
        return;
    }
    if (!seeded || hl_call()->flags & HL_ABI_CALL_FIRST)
        seed();
    while (len > 0) {
        size_t step = len < sizeof(block) - sizeof(key) ? len : sizeof(block) - sizeof(key);

        hl_chacha_block(block, key, 0, nonce);
        memcpy(key, block, sizeof(key));
        memcpy(to, block + sizeof(key), step);
        to += step;
        len -= step;
    }
    memset(block, 0, sizeof(block));
    __asm__ volatile("" : : "r"(block) : "memory"); /* keeps the memset */
}
