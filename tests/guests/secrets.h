/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TESTS_GUESTS_SECRETS_H
#define TESTS_GUESTS_SECRETS_H

/* Registers as secrets_enter.S stores and loads them; its offsets are these. */

#define DUMP_GPR   0    /* 16 × 8, in the order of their numbers; rsp is not loaded */
#define DUMP_FLAGS 128  /* 8, then fs base, gs base, room */
#define DUMP_FX    192  /* FXSAVE area: x87, MXCSR, XMM */
#define DUMP_YMM   704  /* 16 × 32 */
#define DUMP_ZMM   1216 /* 32 × 64 */
#define DUMP_MASK  3264 /* 8 × 8 */
#define DUMP_XSAVE 3328 /* XSAVE area with all that XCR0 has */
#define DUMP_SIZE  20480

#define FEATURE_AVX      1
#define FEATURE_AVX512   2
#define FEATURE_XSAVE    4
#define FEATURE_FSGSBASE 8

#ifndef __ASSEMBLER__
#include <stdint.h>

/* What secret_find returns: where it was. */
enum {
    FOUND_REGISTERS = 1,
    FOUND_VECTORS = 2,
    FOUND_CONTROL = 4, /* MXCSR, FCW, RFLAGS or a segment base is not what it was */
    FOUND_PROGRAM = 8,
    FOUND_WINDOW = 16,
    FOUND_HEAP = 32, /* the heap, and all that mmap may hand out */
    FOUND_STACK = 64,
    FOUND_NEW_MAPPING = 128,
    FOUND_NEW_HEAP = 256,
};

#define SECRET_MASK 0x5a /* a secret's bytes are given xor this */

union register_dump {
    uint8_t bytes[DUMP_SIZE];
    struct {
        uint64_t gpr[16];
        uint64_t flags, fs_base, gs_base, spare[5];
        struct {
            uint16_t fcw, fsw;
            uint8_t ftw, reserved;
            uint16_t fop;
            uint64_t fip, fdp;
            uint32_t mxcsr, mxcsr_mask;
            uint8_t st[8][16];
            uint8_t xmm[16][16];
            uint8_t rest[96];
        } fx;
        uint8_t ymm[16][32];
        uint8_t zmm[32][64];
        uint64_t mask[8];
    };
} __attribute__((aligned(64)));

_Static_assert(__builtin_offsetof(union register_dump, fx) == DUMP_FX, "layout");
_Static_assert(__builtin_offsetof(union register_dump, ymm) == DUMP_YMM, "layout");
_Static_assert(__builtin_offsetof(union register_dump, zmm) == DUMP_ZMM, "layout");
_Static_assert(__builtin_offsetof(union register_dump, mask) == DUMP_MASK, "layout");
_Static_assert(sizeof(((union register_dump *)0)->fx) == 512, "layout");

extern union register_dump register_dump;
extern uint32_t register_features; /* FEATURE_… */

/* Announces readiness; stores every register in register_dump the moment that returns; then calls
 * hl_dispatch. */
_Noreturn void secrets_serve(void);

/* Loads every register from register_dump and ends the call with the result at offset. */
_Noreturn void secrets_done(uint64_t offset);
#endif

#endif
