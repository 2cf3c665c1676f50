/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Functions that do to their machine what a program can do with instructions and memory alone, one
 * behaviour each. What they do to the guest ABI is in hostile_abi.c, to the system calls in
 * hostile_linux.c; the three are one program.
 */
#include <hlguest.h>

#include <stdlib.h>
#include <string.h>

#include "tests/guests/hostile.h"

HL_FUNCTION(void, loop)
{
    for (;;)
        __asm__ volatile("");
}

HL_FUNCTION(void, null_write)
{
    *(volatile char *)0 = 1;
}

HL_FUNCTION(u64, address_read, (u64, address))
{
    return *(volatile uint8_t *)address;
}

HL_FUNCTION(void, address_write, (u64, address))
{
    *(volatile uint8_t *)address = 0xcc;
}

HL_FUNCTION(void, address_jump, (u64, address))
{
    ((void (*)(void))address)();
}

HL_FUNCTION(void, code_write)
{
    *(volatile uint8_t *)(uintptr_t)hl_serve = 0xc3;
}

static uint8_t data_code[16] = {0xc3};

HL_FUNCTION(void, data_execute)
{
    ((void (*)(void))(uintptr_t)data_code)();
}

HL_FUNCTION(void, stack_execute)
{
    volatile uint8_t code[16] = {0xc3};

    ((void (*)(void))(uintptr_t)code)();
}

HL_FUNCTION(void, window_execute)
{
    uint8_t *code = hl_alloc_result(16);

    *(volatile uint8_t *)code = 0xc3;
    ((void (*)(void))(uintptr_t)code)();
}

static int recurse(volatile char *above, uint64_t depth)
{
    volatile char frame[512];

    frame[0] = above[0];
    return depth == 0 ? 0 : recurse(frame, depth - 1) + frame[0];
}

HL_FUNCTION(i32, stack_overflow)
{
    volatile char frame[1] = {0};

    return recurse(frame, UINT64_MAX);
}

HL_FUNCTION(void, undefined_instruction)
{
    __asm__ volatile("ud2");
}

HL_FUNCTION(i32, divide_by_zero)
{
    int32_t quotient = 1;

    __asm__ volatile("xor %%ecx, %%ecx; cltd; idivl %%ecx" : "+a"(quotient) : : "ecx", "edx");
    return quotient;
}

HL_FUNCTION(void, breakpoint)
{
    __asm__ volatile("int3");
}

/* Instructions that ring 3 must not get through with. Each is a function of its own, called with
 * its address in rdi and zeroes elsewhere, and returns if it was allowed. */
#define INSTRUCTIONS(X)                                                                            \
    X(hlt, "hlt")                                                                                  \
    X(cli, "cli")                                                                                  \
    X(sti, "sti")                                                                                  \
    X(mov_to_cr0, "mov %rax, %cr0")                                                                \
    X(mov_from_cr0, "mov %cr0, %rax")                                                              \
    X(mov_to_cr3, "mov %rax, %cr3")                                                                \
    X(mov_from_cr3, "mov %cr3, %rax")                                                              \
    X(mov_to_cr4, "mov %rax, %cr4")                                                                \
    X(mov_to_cr8, "mov %rax, %cr8")                                                                \
    X(mov_to_dr7, "mov %rax, %dr7")                                                                \
    X(mov_from_dr0, "mov %dr0, %rax")                                                              \
    X(wrmsr_lstar, "mov $0xc0000082, %ecx; wrmsr")                                                 \
    X(wrmsr_efer, "mov $0xc0000080, %ecx; wrmsr")                                                  \
    X(wrmsr_sysenter, "mov $0x174, %ecx; wrmsr")                                                   \
    X(rdmsr_efer, "mov $0xc0000080, %ecx; rdmsr")                                                  \
    X(lgdt, "lgdt (%rdi)")                                                                         \
    X(lidt, "lidt (%rdi)")                                                                         \
    X(lldt, "mov $0x28, %eax; lldt %ax")                                                           \
    X(ltr, "mov $0x28, %eax; ltr %ax")                                                             \
    X(lmsw, "lmsw %ax")                                                                            \
    X(clts, "clts")                                                                                \
    X(invd, "invd")                                                                                \
    X(wbinvd, "wbinvd")                                                                            \
    X(invlpg, "invlpg (%rdi)")                                                                     \
    X(swapgs, "swapgs")                                                                            \
    X(sysretq, "mov %rsp, %rbx; lea 1f(%rip), %rcx; mov $2, %r11d; sysretq; 1: mov %rbx, %rsp")    \
    X(iretq_ring0, "mov %rsp, %rax; push $0x10; push %rax; push $2; push $0x8; lea 1f(%rip), "     \
                   "%rax; push %rax; iretq; 1:")                                                   \
    X(lretq_ring0, "push $0x8; lea 1f(%rip), %rax; push %rax; lretq; 1:")                          \
    X(mov_ss_ring0, "mov $0x10, %eax; mov %ax, %ss")                                               \
    X(mov_ds_ring0, "mov $0x10, %eax; mov %ax, %ds")                                               \
    X(xsetbv, "xor %ecx, %ecx; mov $7, %eax; xor %edx, %edx; xsetbv")                              \
    X(rdpmc, "xor %ecx, %ecx; rdpmc")                                                              \
    X(monitor, "mov %rdi, %rax; xor %ecx, %ecx; xor %edx, %edx; monitor")                          \
    X(mwait, "xor %eax, %eax; xor %ecx, %ecx; mwait")                                              \
    X(int_0x80, "mov $39, %eax; int $0x80")                                                        \
    X(int_0x0e, "int $0x0e")                                                                       \
    X(int_0x0d, "int $0x0d")                                                                       \
    X(int_0x20, "int $0x20")                                                                       \
    X(int_0x02, "int $0x02")                                                                       \
    X(int1, ".byte 0xf1")                                                                          \
    X(sysenter, "mov %rsp, %rbx; sysenter; mov %rbx, %rsp")                                        \
    X(vmlaunch, "vmlaunch")                                                                        \
    X(vmxoff, "vmxoff")                                                                            \
    X(vmrun, "xor %eax, %eax; vmrun")                                                              \
    X(rsm, "rsm")

#define INSTRUCTION_FUNCTION(name, text)                                                           \
    __asm__(".pushsection .text\n"                                                                 \
            "instruction_" #name ": push %rbx\n" text "\npop %rbx\nret\n.popsection");             \
    extern void instruction_##name(void *address);
INSTRUCTIONS(INSTRUCTION_FUNCTION)

#define INSTRUCTION_ENTRY(name, text) {#name, instruction_##name},
static const struct {
    const char *name;
    void (*run)(void *address);
} instructions[] = {INSTRUCTIONS(INSTRUCTION_ENTRY)};

#define INSTRUCTION_COUNT (sizeof(instructions) / sizeof(instructions[0]))

HL_FUNCTION(u32, privileged_count)
{
    return INSTRUCTION_COUNT;
}

HL_FUNCTION(string, privileged_name, (u32, index))
{
    return hl_string_of(index < INSTRUCTION_COUNT ? instructions[index].name : "");
}

HL_FUNCTION(void, privileged, (u32, index))
{
    static uint8_t operand[64];

    if (index >= INSTRUCTION_COUNT)
        hl_fail(1, "no instruction %u", index);
    instructions[index].run(operand);
}

/* out and in with every register as the caller likes it. */
HL_FUNCTION(u64, port_out, (u32, port), (u32, width), (u64, rax), (u64, rdi))
{
    uint64_t value = rax;

    if (width == 1)
        __asm__ volatile("outb %%al, %%dx" : "+a"(value) : "d"(port), "D"(rdi) : "memory");
    else if (width == 2)
        __asm__ volatile("outw %%ax, %%dx" : "+a"(value) : "d"(port), "D"(rdi) : "memory");
    else
        __asm__ volatile("outl %%eax, %%dx" : "+a"(value) : "d"(port), "D"(rdi) : "memory");
    return value;
}

HL_FUNCTION(u64, port_in, (u32, port), (u32, width), (u64, rax))
{
    uint64_t value = rax;

    if (width == 1)
        __asm__ volatile("inb %%dx, %%al" : "+a"(value) : "d"(port) : "memory");
    else if (width == 2)
        __asm__ volatile("inw %%dx, %%ax" : "+a"(value) : "d"(port) : "memory");
    else
        __asm__ volatile("inl %%dx, %%eax" : "+a"(value) : "d"(port) : "memory");
    return value;
}

HL_FUNCTION(u64, port_string, (u32, port), (bool, write), (u64, count), (u64, address), (u64, rax))
{
    uint64_t left = count, at = address;

    if (write)
        __asm__ volatile("rep outsb" : "+c"(left), "+S"(at) : "d"(port), "a"(rax) : "memory");
    else
        __asm__ volatile("rep insb" : "+c"(left), "+D"(at) : "d"(port), "a"(rax) : "memory");
    return left;
}

/* Ends the call with these bits of RFLAGS set, so that they are what the host finds. */
HL_FUNCTION(void, flags_leave, (u64, bits))
{
    struct hl_abi_result *result = hl_alloc_result(sizeof(*result));

    memset(result, 0, sizeof(*result));
    result->magic = HL_ABI_RESULT_MAGIC;
    __asm__ volatile("pushfq; or %0, (%%rsp); popfq; call *%1"
                     :
                     : "r"(bits), "r"((uint64_t)HL_ABI_HYPERCALL_ADDR), "D"(HL_HYPERCALL_DONE),
                       "S"((uint64_t)(uintptr_t)result - HL_ABI_IO_ADDR)
                     : "memory", "cc");
    __builtin_trap();
}

HL_FUNCTION(u64, flags)
{
    uint64_t flags;

    __asm__ volatile("pushfq; popq %0" : "=r"(flags));
    return flags & ~0x8d5ull; /* without the arithmetic ones */
}

HL_FUNCTION(void, fs_base_write, (u64, base))
{
    __asm__ volatile("wrfsbase %0" : : "r"(base));
}

HL_FUNCTION(void, gs_base_write, (u64, base))
{
    __asm__ volatile("wrgsbase %0" : : "r"(base));
}

/* Overwrites the C library's and the guest library's variables, then returns as if nothing was. */
HL_FUNCTION(i32, scribble_runtime)
{
    extern char __data_start[], _end[];

    for (volatile char *p = __data_start; p < _end; p++)
        *p = 0x5a;
    return 1;
}

HL_FUNCTION(i32, scribble_window)
{
    memset((void *)(uintptr_t)HL_ABI_IO_ADDR, 0xff, abi_info()->io_size);
    return 1;
}

HL_FUNCTION(u32, many_pages, (u32, count))
{
    static uint8_t pages[16u << 20];

    if (count > sizeof(pages) / HL_ABI_PAGE_SIZE)
        hl_fail(1, "%u pages are too many", count);
    for (uint32_t i = 0; i < count; i++)
        pages[(size_t)i * HL_ABI_PAGE_SIZE]++;
    return pages[0]; /* 1 whenever memory was as new */
}

HL_FUNCTION(u32, allocate_forever)
{
    uint32_t count = 0;
    char *block;

    while ((block = malloc(1u << 20))) {
        memset(block, (int)count, 1u << 20);
        count++;
    }
    hl_fail(12, "out of memory after %u MiB", count);
}
