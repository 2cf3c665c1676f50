/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_TESTS_KVM_SUPPORT_H
#define HL_TESTS_KVM_SUPPORT_H

/*
 * Guests of a few instructions for the tests of the kvm backend: GUEST defines one in assembly,
 * which runs at GUEST_CODE of a snapshot that has a data page, a stack and little else.
 */

#include <check.h>
#include <stdint.h>
#include <string.h>

#include "guest/hl_abi.h"
#include "hv/backend.h"
#include "hv/snapshot_internal.h"
#include "hv/timer.h"

#define GUEST_CODE   0x400000u /* read, execute */
#define GUEST_RODATA 0x401000u /* read */
#define GUEST_DATA   0x600000u /* read, write, to the end of memory; first page not zero */
#define GUEST_STACK  0x5ff000u /* top of a few pages, read and write */
#define GUEST_MEMORY 0x1000000u
#define GUEST_SLOT   0x1000000u

/* In a guest: hypercall with what is in rdi rsi rdx rcx. */
#define HYPERCALL  "mov $0x100000, %eax\n call *%rax\n"
#define CALL(code) "mov $" #code ", %edi\n" HYPERCALL

#define GUEST(name, text)                                                                          \
    __asm__(".pushsection .rodata\n guest_" #name ":\n" text "\n guest_" #name                     \
            "_end:\n .popsection\n");                                                              \
    extern const uint8_t guest_##name[], guest_##name##_end[]

struct guest_options {
    uint64_t memory;        /* 0: GUEST_MEMORY */
    enum hv_prot data_prot; /* 0: READ | WRITE */
    uint64_t scatter;       /* number of lone read-only pages among the data */
    struct hv_regs regs;    /* rip and rsp are filled in when 0 */
    bool no_idt;            /* damages the machine: its first fault is its end */
    bool no_restore;        /* its hypercall page lacks the restore code */
    bool boot;              /* starts at GUEST_CODE, not by the return of a hypercall */
};

extern struct hv_host *test_host;
extern uint64_t test_slot; /* of machines made from now on */

/* Opens the backend. Exits the test program with 77 when there is none. */
void test_open(void);
void test_thread(void); /* fixture: tests run in processes, and so threads, of their own */

struct snapshot *test_snapshot(const uint8_t *code, const uint8_t *end,
                               const struct guest_options *options);
struct hv_machine *test_machine(struct snapshot *snap);

/* A machine bound to a guest, ready to run; the snapshot's only reference is the machine's. */
struct hv_machine *test_bound(const uint8_t *code, const uint8_t *end);
#define BOUND(name) test_bound(guest_##name, guest_##name##_end)

void test_free(struct hv_machine *m);

/* Runs up to a second; fails the test on an error. */
struct hv_exit test_run(struct hv_machine *m);
void test_expect_hypercall(struct hv_machine *m, uint64_t code);
void test_expect_fault(struct hv_machine *m, unsigned int vector);
uint64_t test_reset(struct hv_machine *m, unsigned int skip);
void test_expect_audit(struct hv_machine *m, const char *text); /* NULL: none */

#define hv hv_backend_kvm

#endif
