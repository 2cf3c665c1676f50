/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_CHACHA_H
#define HL_CHACHA_H

/*
 * The ChaCha20 block function (RFC 8439, section 2.3): 64 bytes that are a function of key, counter
 * and nonce. The guest library makes random bytes of a seed with it, and the host made-up ones for
 * deterministic runs.
 */

#include <stdint.h>

#define HL_CHACHA_KEY   32
#define HL_CHACHA_BLOCK 64

static inline uint32_t hl_chacha_rotate_(uint32_t v, unsigned int n)
{
    return v << n | v >> (32 - n);
}

static inline void hl_chacha_quarter_(uint32_t x[16], unsigned int a, unsigned int b,
                                      unsigned int c, unsigned int d)
{
    x[a] += x[b];
    x[d] = hl_chacha_rotate_(x[d] ^ x[a], 16);
    x[c] += x[d];
    x[b] = hl_chacha_rotate_(x[b] ^ x[c], 12);
    x[a] += x[b];
    x[d] = hl_chacha_rotate_(x[d] ^ x[a], 8);
    x[c] += x[d];
    x[b] = hl_chacha_rotate_(x[b] ^ x[c], 7);
}

static inline void hl_chacha_block(uint8_t out[HL_CHACHA_BLOCK], const uint8_t key[HL_CHACHA_KEY],
                                   uint32_t counter, const uint32_t nonce[3])
{
    uint32_t in[16] = {0x61707865, 0x3320646e, 0x79622d32, 0x6b206574}, x[16];

    __builtin_memcpy(in + 4, key, HL_CHACHA_KEY);
    in[12] = counter;
    __builtin_memcpy(in + 13, nonce, 3 * sizeof(nonce[0]));
    __builtin_memcpy(x, in, sizeof(x));
    for (int i = 0; i < 10; i++) {
        hl_chacha_quarter_(x, 0, 4, 8, 12);
        hl_chacha_quarter_(x, 1, 5, 9, 13);
        hl_chacha_quarter_(x, 2, 6, 10, 14);
        hl_chacha_quarter_(x, 3, 7, 11, 15);
        hl_chacha_quarter_(x, 0, 5, 10, 15);
        hl_chacha_quarter_(x, 1, 6, 11, 12);
        hl_chacha_quarter_(x, 2, 7, 8, 13);
        hl_chacha_quarter_(x, 3, 4, 9, 14);
    }
    for (int i = 0; i < 16; i++)
        x[i] += in[i];
    __builtin_memcpy(out, x, HL_CHACHA_BLOCK);
}

#endif
