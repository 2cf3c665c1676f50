/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A guest that leaves a secret in every place a program can write, and looks for it in every place
 * a program can read, as the next call would. Its own serve loop (secrets_enter.S) stores the
 * registers before any code runs that could change them.
 *
 * The secret is given masked, byte by byte, and unmasked only to be left: so what is being looked
 * for stands nowhere by reason of looking for it.
 */
#include <cpuid.h>
#include <elf.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "guest/serve.h"
#include "tests/guests/hostile.h"
#include "tests/guests/secrets.h"

#define MAX_LEN  64
#define AREA     (1u << 20)
#define STACK    ((uint64_t)8 << 20)
#define NEW_PAGE 64

union register_dump register_dump;
uint32_t register_features;

static uint8_t area[AREA];
static uint8_t initialised[4096] = {1};
static uint8_t *heap_block;
static uint64_t heap_start; /* the program's end */
static uint64_t fs_base;

static void find_features(void)
{
    uint32_t a, b, c, d, xcr0 = 0;

    __cpuid(1, a, b, c, d);
    if (c & 1u << 27) { /* OSXSAVE */
        __asm__ volatile("xgetbv" : "=a"(xcr0) : "c"(0) : "edx");
        __cpuid_count(0xd, 0, a, b, c, d);
        if (b <= DUMP_SIZE - DUMP_XSAVE)
            register_features |= FEATURE_XSAVE;
    }
    __cpuid(1, a, b, c, d);
    if ((xcr0 & 6) == 6 && c & bit_AVX)
        register_features |= FEATURE_AVX;
    __cpuid_count(7, 0, a, b, c, d);
    if ((xcr0 & 0xe6) == 0xe6 && b & bit_AVX512F && b & bit_AVX512BW)
        register_features |= FEATURE_AVX512;
#ifdef WITH_FSGSBASE
    register_features |= FEATURE_FSGSBASE;
#endif
}

static int set_up(void)
{
    find_features();
    heap_block = malloc(AREA);
    if (!heap_block)
        return 1;
    memset(heap_block, 0, AREA);
    raw_syscall(SYS_arch_prctl, 0x1003 /* ARCH_GET_FS */, (uint64_t)&fs_base, 0, 0, 0, 0);
    return 0;
}
HL_INIT(set_up);

static uint64_t stack_bottom(void)
{
    uint64_t size = abi_info()->memory_size / 8 < STACK ? abi_info()->memory_size / 8 : STACK;

    return (abi_info()->memory_size - size) & ~4095ull;
}

static void fill(void *to, size_t size, const uint8_t *secret, size_t len)
{
    for (size_t i = 0; i + len <= size; i += len)
        memcpy((uint8_t *)to + i, secret, len);
}

static void fill_stack(const uint8_t *secret, size_t len)
{
    uint64_t here = (uint64_t)__builtin_frame_address(0) - 16384;

    fill((void *)stack_bottom(), here - stack_bottom(), secret, len);
}

static void fill_registers(const uint8_t *secret, size_t len)
{
    union register_dump *r = &register_dump;
    uint64_t word;

    memcpy(&word, secret, sizeof(word));
    for (int i = 0; i < 16; i++)
        r->gpr[i] = word;
    r->gs_base = word & 0x7fffffffffff;
    fill(r->fx.st, sizeof(r->fx.st), secret, len);
    fill(r->fx.xmm, sizeof(r->fx.xmm), secret, len);
    fill(r->ymm, sizeof(r->ymm), secret, len);
    fill(r->zmm, sizeof(r->zmm), secret, len);
    fill(r->mask, sizeof(r->mask), secret, len);
    r->fx.ftw = 0xff;
    r->fx.fcw = 0x27f;
    r->fx.mxcsr = 0x7fbf;
}

HL_FUNCTION(u32, secret_leave, (bytes, masked))
{
    struct hl_frame *frame;
    uint8_t secret[MAX_LEN];
    uint64_t end = HL_ABI_IO_ADDR + abi_info()->io_size;
    uint8_t *mapping, *fresh;

    if (masked.len < 16 || masked.len > MAX_LEN || masked.len % 8 != 0)
        hl_fail(1, "a secret has 16 to 64 bytes, a multiple of 8");
    for (size_t i = 0; i < masked.len; i++)
        secret[i] = ((const uint8_t *)masked.data)[i] ^ SECRET_MASK;

    fill(area, sizeof(area), secret, masked.len);
    fill(initialised, sizeof(initialised), secret, masked.len);
    fill(heap_block, AREA, secret, masked.len);
    mapping = mmap(NULL, AREA, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapping != MAP_FAILED)
        fill(mapping, AREA, secret, masked.len);
    fresh = sbrk(NEW_PAGE * 4096);
    if (fresh != (void *)-1)
        fill(fresh, NEW_PAGE * 4096, secret, masked.len);
    fill_stack(secret, masked.len);
    fill_registers(secret, masked.len);

    frame = (struct hl_frame *)HL_ABI_IO_ADDR;
    fill(frame + 1, end - (uintptr_t)(frame + 1), secret, masked.len);
    memset(frame, 0, sizeof(*frame));
    frame->result.magic = HL_ABI_RESULT_MAGIC;
    frame->result.value.type = HL_ABI_U32;
    frame->result.value.bits = register_features;
    secrets_done(0);
}

/* Whether 16 bytes of the secret, from any place in it a multiple of 8, stand in [p, p + size). */
static bool found(const void *start, size_t size, const struct hl_bytes *masked)
{
    const uint8_t *p = start, *end = p + size, *want = masked->data;

    for (size_t from = 0; from + 8 <= masked->len; from += 8) {
        for (const uint8_t *at = p; (size_t)(end - at) >= 8; at++) {
            size_t n = 0;

            at = memchr(at, want[from] ^ SECRET_MASK, (size_t)(end - at) - 7);
            if (!at)
                break;
            while (n < 8 && at[n] == (want[from + n] ^ SECRET_MASK))
                n++;
            if (n == 8)
                return true;
        }
    }
    return false;
}

static uint32_t look_in_registers(const struct hl_bytes *masked)
{
    union register_dump *r = &register_dump;
    uint32_t where = 0;

    if (found(r->gpr, sizeof(r->gpr), masked))
        where |= FOUND_REGISTERS;
    if (found(&r->fx, DUMP_SIZE - DUMP_FX, masked))
        where |= FOUND_VECTORS;
    if (r->fx.mxcsr != 0x1f80 || r->fx.fcw != 0x37f || r->fx.ftw != 0 ||
        r->flags & ~0xad7ull) /* all but the arithmetic flags and IF */
        where |= FOUND_CONTROL;
    if (register_features & FEATURE_FSGSBASE && (r->gs_base != 0 || r->fs_base != fs_base))
        where |= FOUND_CONTROL;
    memset(r, 0, sizeof(*r));
    return where;
}

static uint32_t look_in_program(const struct hl_bytes *masked)
{
    const Elf64_Phdr *ph = (const Elf64_Phdr *)getauxval(AT_PHDR);
    uint64_t n = getauxval(AT_PHNUM);
    uint32_t where = 0;

    heap_start = 0;
    for (uint64_t i = 0; i < n; i++) {
        uint64_t end = ph[i].p_vaddr + ph[i].p_memsz;

        if (ph[i].p_type != PT_LOAD)
            continue;
        if (found((const void *)ph[i].p_vaddr, ph[i].p_memsz, masked))
            where |= FOUND_PROGRAM;
        if (end > heap_start)
            heap_start = end;
    }
    return where;
}

HL_FUNCTION(u32, secret_find, (bytes, masked))
{
    uint32_t where = look_in_registers(&masked);
    uint64_t map_end = stack_bottom() - HL_ABI_PAGE_SIZE; /* a closed page lies between */
    uint8_t *fresh;

    where |= look_in_program(&masked);
    if (found((void *)(uintptr_t)HL_ABI_IO_ADDR, abi_info()->io_size, &masked))
        where |= FOUND_WINDOW;
    if (found((void *)heap_start, map_end - heap_start, &masked))
        where |= FOUND_HEAP;
    if (found((void *)stack_bottom(), abi_info()->memory_size - stack_bottom(), &masked))
        where |= FOUND_STACK;
    fresh = mmap(NULL, AREA, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (fresh != MAP_FAILED && found(fresh, AREA, &masked))
        where |= FOUND_NEW_MAPPING;
    fresh = sbrk(NEW_PAGE * 4096);
    if (fresh != (void *)-1 && found(fresh, NEW_PAGE * 4096, &masked))
        where |= FOUND_NEW_HEAP;
    return where;
}

int main(void)
{
    hl_prepare();
    secrets_serve();
}
