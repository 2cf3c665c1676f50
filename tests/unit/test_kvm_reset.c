/* SPDX-License-Identifier: Apache-2.0 */
/* What a call leaves behind in a kvm machine is gone after reset, and the audit finds it when a
 * part of reset is left out. */

#include "tests/unit/kvm_support.h"

#include <stdlib.h>
#include <sys/mman.h>

#include "hv/kvm_machine.h"
#include "tests/unit/tests_run.h"

/* Writes rax pages from GUEST_DATA up, then leaves. */
GUEST(write_pages, "mov $0x600000, %ebx; test %eax, %eax; jz 2f\n"
                   "1: incq 8(%rbx); add $0x1000, %rbx; dec %eax; jnz 1b; 2:" CALL(1) "ud2");

static uint64_t call_writing(struct hv_machine *m, uint64_t pages)
{
    hv.set_return(m, pages);
    test_expect_hypercall(m, 1);
    return test_reset(m, 0);
}

START_TEST(test_memory)
{
    struct hv_machine *m = BOUND(write_pages);

    for (int i = 0; i < 5; i++) {
        ck_assert_uint_eq(call_writing(m, 10), 11); /* and the stack */
        test_expect_audit(m, NULL);
    }
    ck_assert_uint_eq(call_writing(m, 0), 11); /* hot: put back all the same */
    ck_assert_uint_eq(call_writing(m, 20), 21);
    test_expect_audit(m, NULL);
    test_free(m);
}
END_TEST

/* One byte in each of many pages at odd places, and reads only elsewhere. */
GUEST(scatter,
      "mov $0x600000, %ebx; mov $50, %ecx\n"
      "1: incb 0xfff(%rbx); mov 0x1000(%rbx), %rdx; add $0x2b000, %rbx; dec %ecx; jnz 1b\n" CALL(
          1) "ud2");

START_TEST(test_scattered)
{
    struct hv_machine *m = BOUND(scatter);

    for (int i = 0; i < 3; i++) {
        test_expect_hypercall(m, 1);
        ck_assert_uint_eq(test_reset(m, 0), 51);
        test_expect_audit(m, NULL);
    }
    test_free(m);
}
END_TEST

START_TEST(test_skip_memory)
{
    struct hv_machine *m = BOUND(write_pages);

    hv.set_return(m, 3);
    test_expect_hypercall(m, 1);
    test_reset(m, HV_SKIP_MEMORY);
    test_expect_audit(m, "memory page");
    test_reset(m, 0);
    test_expect_audit(m, NULL);
    test_free(m);
}
END_TEST

START_TEST(test_host_writes)
{
    struct hv_machine *m = BOUND(write_pages);
    uint8_t data[20000];

    memset(data, 0xee, sizeof(data));
    for (int i = 0; i < 3; i++) {
        memcpy(hv.io_window(m) + 100, data, sizeof(data));
        hv.io_dirty(m, 100, sizeof(data));
        ck_assert_int_eq(hv.mem_write(m, GUEST_DATA + 0x3ff0, data, 0x100), 0);
        ck_assert_int_eq(hv.mem_write(m, GUEST_RODATA + 5, data, 1), 0);
        hv.set_return(m, 1);
        test_expect_hypercall(m, 1);
        ck_assert_uint_eq(test_reset(m, 0), 5 + 2 + 1 + 2);
        test_expect_audit(m, NULL);
    }
    memcpy(hv.io_window(m) + 100, data, sizeof(data));
    hv.io_dirty(m, 100, sizeof(data));
    hv.set_return(m, 1);
    test_expect_hypercall(m, 1);
    test_reset(m, HV_SKIP_IO);
    test_expect_audit(m, "memory page");
    test_free(m);
}
END_TEST

START_TEST(test_bounds)
{
    struct hv_machine *m = BOUND(write_pages);
    uint8_t data[16];

    ck_assert_int_eq(hv.mem_read(m, GUEST_MEMORY - 16, data, 16), 0);
    ck_assert_int_lt(hv.mem_read(m, GUEST_MEMORY - 15, data, 16), 0);
    ck_assert_int_lt(hv.mem_read(m, UINT64_MAX - 7, data, 16), 0);
    ck_assert_int_lt(hv.mem_read(m, 0, data, SIZE_MAX), 0);
    ck_assert_int_lt(hv.mem_write(m, GUEST_MEMORY - 15, data, 16), 0);
    ck_assert_int_lt(hv.mem_write(m, 0x1000, data, 16), 0); /* the machine's own */
    test_free(m);
}
END_TEST

GUEST(registers, "mov $0x5ec7e7, %eax; mov %rax, %rbx; mov %rax, %rdx; mov %rax, %rbp\n"
                 "mov %rax, %r8; mov %rax, %r9; mov %rax, %r12; mov %rax, %r15; push %rax\n"
                 "wrfsbase %rax; wrgsbase %rax\n" CALL(1) "ud2");
GUEST(
    segments,
    "mov $0x2b, %eax; mov %eax, %ds; mov %eax, %es; mov %eax, %fs; mov %eax, %gs\n" CALL(1) "ud2");

START_TEST(test_registers)
{
    struct hv_machine *m = BOUND(registers);
    struct hv_regs regs;

    test_expect_hypercall(m, 1);
    ck_assert_int_eq(hv.get_regs(m, &regs), 0);
    ck_assert_uint_eq(regs.fs_base, 0x5ec7e7);
    ck_assert_uint_eq(regs.gs_base, 0x5ec7e7);
    test_reset(m, 0);
    test_expect_audit(m, NULL);
    test_expect_hypercall(m, 1);
    test_reset(m, HV_SKIP_REGS);
    test_expect_audit(m, "register");
    test_reset(m, 0);
    test_expect_audit(m, NULL);
    test_free(m);

    m = BOUND(segments);
    test_expect_hypercall(m, 1);
    test_reset(m, 0);
    test_expect_audit(m, NULL);
    test_free(m);
}
END_TEST

/* The two bases of the snapshot, and set_fs_base after them. */
GUEST(bases, "rdfsbase %rsi; rdgsbase %rdx; push $1; pop %rdi; mov $0x100000, %eax; call *%rax\n"
             "rdfsbase %rsi\n" CALL(2) "ud2");

START_TEST(test_bases)
{
    struct guest_options options = {.regs = {.fs_base = 0x601000, .gs_base = 0x602000}};
    struct snapshot *snap = test_snapshot(guest_bases, guest_bases_end, &options);
    struct hv_machine *m = test_machine(snap);
    struct hv_exit exit;

    for (int i = 0; i < 3; i++) {
        exit = test_run(m);
        ck_assert_int_eq(exit.kind, HV_EXIT_HYPERCALL);
        ck_assert_uint_eq(exit.args[0], 0x601000);
        ck_assert_uint_eq(exit.args[1], 0x602000);
        ck_assert_int_eq(hv.set_fs_base(m, 0x700000), 0);
        ck_assert_int_lt(hv.set_fs_base(m, 1ull << 50), 0);
        exit = test_run(m);
        ck_assert_uint_eq(exit.nr, 2);
        ck_assert_uint_eq(exit.args[0], 0x700000);
        test_reset(m, 0);
        test_expect_audit(m, NULL);
    }
    test_free(m);
    snapshot_unref(snap);
}
END_TEST

static size_t resident(struct hv_machine *m)
{
    static unsigned char present[0x40000];
    uint8_t *mem = hv.io_window(m) - HL_ABI_IO_ADDR;
    size_t count = 0;

    ck_assert_int_eq(mincore(mem, test_slot, present), 0);
    for (size_t i = 0; i < test_slot / HL_ABI_PAGE_SIZE; i++)
        count += present[i] & 1;
    return count;
}

START_TEST(test_large)
{
    struct guest_options options = {.memory = 1u << 30};
    struct snapshot *snap;
    struct hv_machine *m;
    size_t before;

    test_slot = 1u << 30;
    snap = test_snapshot(guest_write_pages, guest_write_pages_end, &options);
    m = test_machine(snap);
    for (int i = 0; i < 3; i++)
        ck_assert_uint_eq(call_writing(m, 10), 11);
    before = resident(m);
    ck_assert_uint_lt(before, 100);
    test_expect_audit(m, NULL);
    /* Looking makes nothing resident, but for the one hole between the extents of the snapshot. */
    ck_assert_uint_le(resident(m), before + 1);
    test_free(m);
    snapshot_unref(snap);
}
END_TEST

START_TEST(test_growth)
{
    struct guest_options options = {.memory = 64u << 20};
    struct snapshot *snap;
    struct hv_machine *m;

    test_slot = 64u << 20;
    snap = test_snapshot(guest_write_pages, guest_write_pages_end, &options);
    m = test_machine(snap);
    call_writing(m, 10);
    ck_assert_uint_eq(call_writing(m, 12000), 12001);
    test_expect_audit(m, NULL);
    ck_assert_uint_lt(resident(m), 100);      /* all of it given back */
    ck_assert_uint_eq(call_writing(m, 5), 6); /* and the hot set is small again */
    test_expect_audit(m, NULL);

    /* What the host wrote is given back likewise. */
    for (uint64_t page = 0; page < 3000; page++)
        ck_assert_int_eq(hv.mem_write(m, GUEST_DATA + page * HL_ABI_PAGE_SIZE, "x", 1), 0);
    ck_assert_uint_gt(resident(m), 3000);
    ck_assert_uint_ge(call_writing(m, 5), 3000);
    test_expect_audit(m, NULL);
    ck_assert_uint_lt(resident(m), 100);

    /* Calls that always write that much: kept in the end. */
    for (int i = 0; i < 6; i++)
        ck_assert_uint_eq(call_writing(m, 3000), 3001);
    ck_assert_uint_gt(resident(m), 3000);
    test_expect_audit(m, NULL);
    test_free(m);
    snapshot_unref(snap);
}
END_TEST

/* A hot set that one call blew up is forgotten after a while. */
START_TEST(test_refresh)
{
    struct hv_machine *m = BOUND(write_pages);
    uint64_t pages = 0;

    call_writing(m, 500);
    for (int i = 0; i < 300; i++) {
        pages = call_writing(m, 4);
        if (i == 100)
            ck_assert_uint_eq(pages, 501);
        if (pages < 501)
            test_expect_audit(m, NULL);
    }
    ck_assert_uint_eq(pages, 5);
    test_expect_audit(m, NULL);
    test_free(m);
}
END_TEST

/* More pages in one call than the ring holds; and the guest is none the wiser. */
GUEST(write_many, "mov $0x600000, %ebx; mov $0x77, %r12d; pcmpeqd %xmm7, %xmm7; mov %eax, %ecx\n"
                  "1: incq 8(%rbx); add $0x1000, %rbx; dec %ecx; jnz 1b\n"
                  "mov %rbx, %rsi; mov %r12, %rdx; movq %xmm7, %rcx\n" CALL(1) "ud2");

START_TEST(test_ring_full)
{
    struct guest_options options = {.memory = 128u << 20};
    struct snapshot *snap;
    struct hv_machine *m;

    test_slot = 128u << 20;
    snap = test_snapshot(guest_write_many, guest_write_many_end, &options);
    m = test_machine(snap);
    for (uint64_t pages = 6000; pages < 30000; pages += 3999) {
        struct hv_exit exit;

        hv.set_return(m, pages);
        exit = test_run(m);
        ck_assert_int_eq(exit.kind, HV_EXIT_HYPERCALL);
        ck_assert_uint_eq(exit.args[0], GUEST_DATA + pages * HL_ABI_PAGE_SIZE);
        ck_assert_uint_eq(exit.args[1], 0x77);
        ck_assert_uint_eq(exit.args[2], UINT64_MAX);
        ck_assert_uint_gt(test_reset(m, 0), pages);
        test_expect_audit(m, NULL);
    }
    test_free(m);
    snapshot_unref(snap);
}
END_TEST

/* Pages that the host's kernel takes from the guest are told of again and again. */
START_TEST(test_told_twice)
{
    struct hv_machine *m = BOUND(write_pages);
    uint8_t *data = hv.io_window(m) - HL_ABI_IO_ADDR + GUEST_DATA;
    uint32_t most = 0;

    for (int i = 0; i < 400; i++) {
        ck_assert_uint_eq(call_writing(m, 40), 41);
        if (i % 16 == 0)
            test_expect_audit(m, NULL);
        if (m->ring_taken > most)
            most = m->ring_taken;
        ck_assert_int_eq(mprotect(data, 40 * HL_ABI_PAGE_SIZE, PROT_READ), 0);
        ck_assert_int_eq(mprotect(data, 40 * HL_ABI_PAGE_SIZE, PROT_READ | PROT_WRITE), 0);
    }
    ck_assert_uint_gt(most, 5000);
    ck_assert_uint_lt(m->ring_taken, most); /* given back at a reset, not by a full ring */
    test_free(m);
}
END_TEST

/* Every call elsewhere, so that each has pages of its own to tell of, over many refreshes. */
GUEST(write_there, "mov %rax, %rbx; movb $0x99, 7(%rbx); movb $0x99, 0x2fff(%rbx)\n" CALL(1) "ud2");

START_TEST(test_elsewhere)
{
    struct hv_machine *m = BOUND(write_there);
    unsigned int seed = 7;

    for (int i = 0; i < 3000; i++) {
        hv.set_return(m, GUEST_DATA + (uint64_t)rand_r(&seed) % 2000 * HL_ABI_PAGE_SIZE);
        test_expect_hypercall(m, 1);
        ck_assert_uint_ge(test_reset(m, 0), 3);
        test_expect_audit(m, NULL);
    }
    test_free(m);
}
END_TEST

/* Pages that calls were seen to write are there before the next machine's first call. */
START_TEST(test_hint)
{
    struct snapshot *snap = test_snapshot(guest_write_pages, guest_write_pages_end, NULL);
    struct hv_machine *m = test_machine(snap), *other;
    size_t before = resident(m);

    call_writing(m, 40);
    other = test_machine(snap);
    ck_assert_uint_ge(resident(other), before + 39);
    test_expect_audit(other, NULL);
    call_writing(other, 40);
    test_expect_audit(other, NULL);
    test_free(other);
    test_free(m);
    snapshot_unref(snap);
}
END_TEST

GUEST(one_write, "movb $1, 0x800000\n" CALL(1) "movb $1, 0x800000\n" CALL(2) "jmp *%rbx");

START_TEST(test_protect)
{
    struct hv_machine *m = BOUND(one_write);
    uint64_t pages;

    test_expect_hypercall(m, 1);
    ck_assert_int_eq(hv.protect(m, 0x800000, 0x1000, HV_PROT_READ), 0);
    ck_assert_int_eq(hv.reset(m, 0, &pages), 1);
    test_expect_fault(m, 14);
    test_free(m);

    /* Opened again, part of a large page and the whole of one. */
    m = BOUND(one_write);
    ck_assert_int_eq(hv.protect(m, 0x7ff000, 0x202000, HV_PROT_NONE), 0);
    ck_assert_int_eq(hv.protect(m, 0x800000, 0x200000, HV_PROT_READ | HV_PROT_WRITE), 0);
    test_expect_hypercall(m, 1);
    test_expect_hypercall(m, 2);
    test_free(m);

    m = BOUND(one_write);
    ck_assert_int_lt(hv.protect(m, 0x800000, 0x1000, HV_PROT_WRITE | HV_PROT_EXEC), 0);
    ck_assert_int_lt(hv.protect(m, 0x1000, 0x1000, HV_PROT_READ), 0);
    ck_assert_int_lt(hv.protect(m, 0x800001, 0x1000, HV_PROT_READ), 0);
    ck_assert_int_lt(hv.protect(m, GUEST_MEMORY, 0x1000, HV_PROT_READ), 0);
    test_expect_hypercall(m, 1);
    test_reset(m, 0); /* refusals change nothing */
    test_free(m);
}
END_TEST

/* Left by a string instruction, which the kernel may have yet to finish when the reset comes. */
#define STRING_OUT(insn)                                                                           \
    "mov $0x48, %edx; mov $0x600000, %esi; mov $1, %ecx; mov $0x3333, %r12d\n"                     \
    "incq 8(%rsi); bts $63, %rax; bts $0, %rax\n" insn "; ud2"
GUEST(outs, STRING_OUT("outsb"));
GUEST(rep_outs, STRING_OUT("rep outsb"));
GUEST(out_dx, STRING_OUT("out %al, %dx"));

static void leave_and_reset(struct hv_machine *m)
{
    for (int i = 0; i < 4; i++) {
        struct hv_regs regs;

        hv.set_return(m, 0);
        test_expect_hypercall(m, 1);
        test_reset(m, 0);
        test_expect_audit(m, NULL);
        ck_assert_int_eq(hv.get_regs(m, &regs), 0);
        ck_assert_uint_eq(regs.rip, KVM_RESTORE_ENTRY);
        ck_assert_uint_eq(regs.r12, 0);
    }
    test_free(m);
}

START_TEST(test_string_output)
{
    leave_and_reset(BOUND(out_dx));
    leave_and_reset(BOUND(outs));
    leave_and_reset(BOUND(rep_outs));
}
END_TEST

int main(void)
{
    TCase *tc = tcase_create("reset");
    int r;

    test_open();
    tcase_set_timeout(tc, 120);
    tcase_add_checked_fixture(tc, test_thread, NULL);
    tcase_add_test(tc, test_memory);
    tcase_add_test(tc, test_scattered);
    tcase_add_test(tc, test_skip_memory);
    tcase_add_test(tc, test_host_writes);
    tcase_add_test(tc, test_bounds);
    tcase_add_test(tc, test_registers);
    tcase_add_test(tc, test_bases);
    tcase_add_test(tc, test_large);
    tcase_add_test(tc, test_growth);
    tcase_add_test(tc, test_refresh);
    tcase_add_test(tc, test_ring_full);
    tcase_add_test(tc, test_told_twice);
    tcase_add_test(tc, test_elsewhere);
    tcase_add_test(tc, test_hint);
    tcase_add_test(tc, test_protect);
    tcase_add_test(tc, test_string_output);
    r = tests_run(tc, "kvm reset");
    hv.host_close(test_host);
    return r;
}
