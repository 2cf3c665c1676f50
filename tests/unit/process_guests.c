/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Little guests for the process backend's tests. They stand in a section of their own, which the
 * tests copy to TEST_TEXT; as in hv/process_guest.c nothing may reach out of it.
 */
#include "config.h"

#include "tests/unit/process_guests.h"

#include <linux/audit.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include "guest/hl_abi.h"
#include "hv/process_wire.h"

#define CODE                                                                                       \
    __attribute__((section(TEST_SECTION), no_stack_protector, no_instrument_function,              \
                   no_sanitize("address", "thread", "undefined")))

#define WORD(address) (*(volatile uint64_t *)(uintptr_t)(address))

CODE static inline uint64_t hypercall(uint64_t code, uint64_t a, uint64_t b, uint64_t c)
{
    uint64_t (*call)(uint64_t, uint64_t, uint64_t, uint64_t) =
        (uint64_t(*)(uint64_t, uint64_t, uint64_t, uint64_t))(uintptr_t)HL_ABI_HYPERCALL_ADDR;

    return call(code, a, b, c);
}

CODE static inline long sys6(long nr, long a, long b, long c, long d, long e, long f)
{
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    long result;

    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}

CODE void guest_hypercalls(void)
{
    uint64_t value = hypercall(7, 1, 2, 3);

    for (;;)
        value = hypercall(8, value, value + 1, value + 2);
}

CODE void guest_syscalls(void)
{
    long nr = 0;

    for (;;) {
        long result = sys6(nr, 11, 12, 13, 14, 15, 16);

        if (result != nr + 1000)
            hypercall(99, (uint64_t)nr, (uint64_t)result, 0);
        nr++;
    }
}

CODE void guest_spin(void)
{
    for (;;)
        WORD(TEST_DATA)++;
}

CODE void guest_null_write(void)
{
    WORD(0) = 1;
}

CODE void guest_unmapped_read(void)
{
    (void)WORD(TEST_CLOSED + 8);
}

CODE void guest_write_code(void)
{
    WORD(TEST_TEXT) = 1;
}

CODE void guest_execute_data(void)
{
    WORD(TEST_DATA) = 0xc3;
    ((void (*)(void))(uintptr_t)TEST_DATA)();
}

CODE void guest_ud2(void)
{
    __asm__ volatile("ud2");
}

CODE void guest_divide(void)
{
    __asm__ volatile("xor %%ecx, %%ecx\n div %%ecx" ::: "rax", "rcx", "rdx");
}

CODE void guest_hlt(void)
{
    __asm__ volatile("hlt");
}

CODE void guest_out(void)
{
    __asm__ volatile("out %%al, $0x80" ::: "memory");
}

CODE void guest_int3(void)
{
    __asm__ volatile("int3");
}

CODE void guest_int80(void)
{
    __asm__ volatile("mov $1, %%eax\n int $0x80" ::: "rax", "memory");
}

CODE void guest_noncanonical(void)
{
    WORD(0x8000000000000000ull) = 1;
}

CODE void guest_kernel_read(void)
{
    (void)WORD(0xffffffff81000000ull);
}

CODE void guest_vsyscall(void)
{
    ((void (*)(void))(uintptr_t)TEST_VSYSCALL)();
    hypercall(1, 0, 0, 0);
}

CODE void guest_simd(void)
{
    uint32_t mxcsr = 0; /* nothing masked */

    __asm__ volatile("ldmxcsr %0\n pxor %%xmm0, %%xmm0\n divss %%xmm0, %%xmm0" ::"m"(mxcsr));
}

CODE void guest_alignment(void)
{
    __asm__ volatile(
        "pushf\n orl $0x40000, (%%rsp)\n popf\n mov %0, %%rax\n mov 1(%%rax), %%rax" ::"i"(
            TEST_DATA)
        : "rax", "memory");
}

CODE void guest_stack_overflow(void)
{
    __asm__ volatile("1: push %%rax\n jmp 1b" ::: "memory");
}

/* Whatever it finds of SECRET goes to the host: pages, red zone and window, vector registers. Then
 * it leaves some. */
CODE void guest_secrets(void)
{
    uint64_t found = 0, seen;

    __asm__ volatile("ptest %%xmm7, %%xmm7\n setnz %%al\n movzbl %%al, %%eax" : "=a"(seen)::"cc");
    found += seen;
    for (uint64_t at = TEST_DATA; at < TEST_DATA_END; at += 8)
        found += WORD(at) == TEST_SECRET;
    for (uint64_t at = HL_ABI_IO_ADDR; at < HL_ABI_IO_ADDR + TEST_IO_SIZE; at += 8)
        found += WORD(at) == TEST_SECRET;
    for (uint64_t at = TEST_DATA; at < TEST_DATA_END; at += 8)
        WORD(at) = TEST_SECRET;
    for (uint64_t at = HL_ABI_IO_ADDR; at < HL_ABI_IO_ADDR + TEST_IO_SIZE; at += 8)
        WORD(at) = TEST_SECRET;
    __asm__ volatile("movq %0, %%xmm7\n punpcklqdq %%xmm7, %%xmm7" ::"r"(TEST_SECRET));
    for (;;)
        hypercall(8, found, 0, 0);
}

/* Calls through the runtime's own SYSCALL: number and arguments stand in the window. What comes
 * back is in rax of the fault at the hlt behind it. */
CODE void guest_through_runtime(void)
{
    const uint64_t io = HL_ABI_IO_ADDR;

    __asm__ volatile("mov 8(%0), %%rdi\n mov 16(%0), %%rsi\n mov 24(%0), %%rdx\n"
                     "mov 32(%0), %%r10\n mov 40(%0), %%r8\n mov 48(%0), %%r9\n"
                     "mov (%0), %%rax\n mov 56(%0), %%rbx\n jmp *%%rbx" ::"r"(io)
                     : "rax", "rbx", "rdi", "rsi", "rdx", "r8", "r9", "r10", "memory");
}

CODE void guest_protect(void)
{
    WORD(TEST_DATA) = 1;
    hypercall(1, 0, 0, 0);
    hypercall(2, WORD(TEST_DATA), 0, 0);
    WORD(TEST_DATA) = 2;
    hypercall(3, 0, 0, 0);
}

/* Where, the host says. */
CODE void guest_read_at(void)
{
    uint64_t at = hypercall(1, 0, 0, 0);

    for (;;)
        at = hypercall(2, *(volatile uint8_t *)(uintptr_t)at, 0, 0);
}

CODE void guest_write_at(void)
{
    WORD(hypercall(1, 0, 0, 0)) = 1;
}

CODE void guest_jump_to(void)
{
    ((void (*)(void))(uintptr_t)hypercall(1, 0, 0, 0))();
}

CODE void guest_thread_pointer(void)
{
    for (;;) {
        uint64_t value;

        __asm__ volatile("mov %%fs:0, %0" : "=r"(value));
        hypercall(1, value, 0, 0);
    }
}

/* Its own descriptors and handlers are what it can harm. */
CODE void guest_break_runtime(void)
{
    for (uint64_t at = PROCESS_STACK_ADDR; at < PROCESS_END; at += 8)
        WORD(at) = 0x4141414141414141ull;
    __asm__ volatile("mov $0x4141414141414141, %%rbp\n mov %%rbp, %%rbx\n" ::: "rbx", "memory");
    hypercall(1, 0, 0, 0);
    for (;;)
        ;
}
