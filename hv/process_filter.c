/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The seccomp filter of a guest process, in BPF written out. A SYSCALL instruction anywhere but in
 * the runtime traps, and is served or refused as a system call of the guest. What the runtime may
 * ask for, and with which arguments, is all that a guest gets from Linux even if it jumps there
 * with registers of its choice: its one socket, its own thread pointer, permissions of its own
 * pages without execution, reading the files that its worker sent it, the end. 32-bit and x32 calls
 * trap like any other.
 */
#include "config.h"

#include <asm/prctl.h>
#include <linux/audit.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include "hv/process_zygote.h"

#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define LOAD_AT(offset)                                                                            \
    BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (uint32_t)(offsetof(struct seccomp_data, args) + (offset)))
#define LOW(n)  ((n)*8u)
#define HIGH(n) ((n)*8u + 4u)

#define TRAP  BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP)
#define ALLOW BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)

/* Each three instructions: what does not hold traps. */
#define REQUIRE(offset, test, value, yes, no)                                                      \
    LOAD_AT(offset), BPF_JUMP(BPF_JMP | (test) | BPF_K, value, yes, no), TRAP
#define EQUAL(offset, value)   REQUIRE(offset, BPF_JEQ, value, 1, 0)
#define BELOW(offset, value)   REQUIRE(offset, BPF_JGE, value, 0, 1)
#define NO_BITS(offset, value) REQUIRE(offset, BPF_JSET, value, 0, 1)

#define BULK_HIGH ((uint32_t)(HL_ABI_BULK_ADDR >> 32))

/* The block for a call: its number in the accumulator, `count` requirements, allowed. */
#define CALL(nr, count) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, nr, 0, 3 * (count) + 1)

static const struct sock_filter filter[] = {
    LOAD(arch),
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0),
    TRAP,
    BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, instruction_pointer) + 4),
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 1, 0),
    TRAP,
    LOAD(instruction_pointer),
    BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, PROCESS_TEXT_ADDR, 1, 0),
    TRAP,
    BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, PROCESS_TEXT_ADDR + PROCESS_TEXT_SIZE, 0, 1),
    TRAP,
    LOAD(nr),

    CALL(SYS_recvmsg, 2), /* no flags */
    EQUAL(LOW(0), 0),
    EQUAL(LOW(2), 0),
    ALLOW,

    CALL(SYS_sendto, 4), /* no address to send to */
    EQUAL(LOW(0), 0),
    EQUAL(LOW(3), MSG_NOSIGNAL),
    EQUAL(LOW(4), 0),
    EQUAL(HIGH(4), 0),
    ALLOW,

    CALL(SYS_rt_sigreturn, 0),
    ALLOW,

    CALL(SYS_arch_prctl, 2), /* ARCH_SET_GS, SET_FS, GET_FS, GET_GS: 0x1001 to 0x1004 */
    REQUIRE(LOW(0), BPF_JGE, ARCH_SET_GS, 1, 0),
    BELOW(LOW(0), ARCH_GET_GS + 1),
    ALLOW,

    CALL(SYS_mprotect, 5), /* in the guest's own range, and neither PROT_EXEC nor PROT_GROWS… */
    EQUAL(HIGH(0), 0),
    BELOW(LOW(0), PROCESS_GUEST_MAX),
    EQUAL(HIGH(1), 0),
    BELOW(LOW(1), PROCESS_GUEST_MAX + 1),
    NO_BITS(LOW(2), ~(uint32_t)(PROT_READ | PROT_WRITE)),
    ALLOW,

    CALL(SYS_mmap, 9), /* of a file that came, from its beginning, to be read, in the bulk window */
    EQUAL(HIGH(0), BULK_HIGH),
    EQUAL(HIGH(1), 0),
    EQUAL(LOW(2), PROT_READ),
    EQUAL(HIGH(2), 0),
    EQUAL(LOW(3), MAP_PRIVATE | MAP_FIXED),
    EQUAL(HIGH(3), 0),
    EQUAL(LOW(4), 1),
    EQUAL(LOW(5), 0),
    EQUAL(HIGH(5), 0),
    ALLOW,

    CALL(SYS_close, 1), /* the same file */
    EQUAL(LOW(0), 1),
    ALLOW,

    CALL(SYS_munmap, 4), /* the bulk window as a whole */
    EQUAL(LOW(0), 0),
    EQUAL(HIGH(0), BULK_HIGH),
    EQUAL(LOW(1), 0),
    EQUAL(HIGH(1), 1),
    ALLOW,

    CALL(SYS_exit_group, 0),
    ALLOW,

    TRAP,
};

_Static_assert(sizeof(filter) / sizeof(filter[0]) <= PROCESS_FILTER_MAX, "room in the config page");
/* A range that begins in the guest ends before the runtime's pages, or in the hole before them,
 * where mprotect stops. */
_Static_assert(PROCESS_GUEST_MAX < PROCESS_TEXT_ADDR, "a hole between guest and runtime");
/* What begins in the bulk window and runs past it is in address space where nothing else is. */
_Static_assert((uint32_t)HL_ABI_BULK_ADDR == 0 && HL_ABI_BULK_SIZE == 1ull << 32 &&
                   HL_ABI_BULK_ADDR > PROCESS_END,
               "an address's high half says whether it is in the bulk window");
_Static_assert(ARCH_SET_GS + 3 == ARCH_GET_GS, "a range of four");

size_t process_filter(struct sock_filter *insns)
{
    memcpy(insns, filter, sizeof(filter));
    return sizeof(filter) / sizeof(filter[0]);
}
