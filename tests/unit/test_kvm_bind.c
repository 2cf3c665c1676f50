/* SPDX-License-Identifier: Apache-2.0 */
/* Shells, binding and binding again: nothing of one snapshot is left for the next, memory,
 * permissions and registers alike. And the tables that permissions are made of. */

#include "tests/unit/kvm_support.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "hv/kvm_machine.h"
#include "tests/unit/tests_run.h"

/* Writes to the page in rax, leaves with what stood there before. */
GUEST(write_at, "mov (%rax), %rsi; movq $0x77, (%rax)\n" CALL(1) "ud2");
GUEST(write_at2, "nop; mov (%rax), %rsi; movq $0x88, (%rax)\n" CALL(2) "ud2");
GUEST(jump, "mov %rax, %rbx; movl $0xccccc3c3, (%rbx); call *%rbx\n" CALL(3) "ud2");

#define SPOT  0xa00000u /* in a large page of every guest */
#define LARGE 0x200000u

static struct hl_error err;

static void bind(struct hv_machine *m, struct snapshot *snap)
{
    ck_assert_msg(hv.bind(m, snap, &err) == 0, "%s", err.text);
}

START_TEST(test_shell)
{
    struct snapshot *snap = test_snapshot(guest_write_at, guest_write_at_end, NULL);
    struct snapshot *large = test_snapshot(guest_write_at, guest_write_at_end,
                                           &(struct guest_options){.memory = 1u << 25});
    struct guest_options wild = {.regs = {.fs_base = 1ull << 60}};
    struct snapshot *bad = test_snapshot(guest_write_at, guest_write_at_end, &wild);
    struct hv_machine *m = NULL;
    struct hv_exit exit;
    struct hv_regs regs;
    uint64_t pages;

    ck_assert_int_lt(hv.machine_new(&m, test_host, 0, &err), 0);
    ck_assert_int_lt(hv.machine_new(&m, test_host, 0x201000, &err), 0);
    ck_assert_int_lt(hv.machine_new(&m, test_host, 1ull << 31, &err), 0);
    ck_assert_ptr_null(m);
    ck_assert_int_eq(hv.machine_new(&m, test_host, GUEST_SLOT, &err), 0);
    ck_assert_int_eq(hv.run(m, UINT64_MAX, &exit), -EINVAL);
    ck_assert_int_eq(hv.get_regs(m, &regs), -EINVAL);
    ck_assert_int_eq(hv.reset(m, 0, &pages), 1);
    ck_assert_int_eq(hv.audit(m, &err), 1);
    ck_assert_int_eq(hv.bind(m, large, &err), -EINVAL);
    ck_assert_int_eq(hv.bind(m, bad, &err), -EINVAL);
    bind(m, snap);
    test_expect_audit(m, NULL);
    hv.set_return(m, SPOT);
    test_expect_hypercall(m, 1);
    hv.machine_free(m);
    hv.machine_free(NULL);
    snapshot_unref(snap);
    snapshot_unref(large);
    snapshot_unref(bad);
}
END_TEST

/* One machine, two snapshots with the same tables: the memory changes under live translations. */
START_TEST(test_same_tables)
{
    struct snapshot *a = test_snapshot(guest_write_at, guest_write_at_end, NULL);
    struct snapshot *b = test_snapshot(guest_write_at2, guest_write_at2_end, NULL);
    struct hv_machine *m = test_machine(a);
    struct hv_exit exit;

    ck_assert(kvm_tables_same(snapshot_memory(a), snapshot_memory(b)));
    for (int i = 0; i < 20; i++) {
        bind(m, i % 2 ? b : a);
        test_expect_audit(m, NULL);
        hv.set_return(m, SPOT);
        exit = test_run(m);
        ck_assert_int_eq(exit.kind, HV_EXIT_HYPERCALL);
        ck_assert_uint_eq(exit.nr, i % 2 ? 2 : 1);
        ck_assert_uint_eq(exit.args[0], 0); /* not what the other wrote */
        if (i % 3 == 0)
            test_reset(m, 0);
    }
    test_free(m);
    snapshot_unref(a);
    snapshot_unref(b);
}
END_TEST

/* Permissions that differ, by large pages and by small ones, in every order. */
START_TEST(test_other_tables)
{
    struct guest_options options[] = {
        {.data_prot = HV_PROT_READ | HV_PROT_WRITE},
        {.data_prot = HV_PROT_READ},
        {.data_prot = HV_PROT_READ, .scatter = 5},
        {.data_prot = HV_PROT_READ | HV_PROT_WRITE, .scatter = 5},
        {.data_prot = HV_PROT_READ | HV_PROT_WRITE, .memory = GUEST_MEMORY - 0x5000},
    };
    struct snapshot *snaps[5];
    struct hv_machine *m = NULL;
    struct hv_exit exit;
    unsigned int from = 0;

    for (size_t i = 0; i < 5; i++)
        snaps[i] = test_snapshot(guest_write_at, guest_write_at_end, &options[i]);
    m = test_machine(snaps[0]);
    for (unsigned int i = 0; i < 60; i++) {
        unsigned int to = (from + 1 + i % 4) % 5;
        /* The lone read-only page of this region, or a page beside it. */
        uint64_t spot = GUEST_DATA + LARGE * 2 + (i % 2 ? 0x3000 : 0x5000);
        bool writable = (options[to].data_prot & HV_PROT_WRITE) && !(options[to].scatter && i % 2);

        bind(m, snaps[to]);
        hv.set_return(m, spot);
        exit = test_run(m);
        if (writable) {
            ck_assert_msg(exit.kind == HV_EXIT_HYPERCALL, "round %u, %u to %u: vector %u", i, from,
                          to, exit.fault.vector);
            ck_assert_uint_eq(exit.args[0], 0);
            test_reset(m, 0);
            test_expect_audit(m, NULL);
        } else {
            ck_assert_msg(exit.kind == HV_EXIT_FAULT, "round %u, %u to %u", i, from, to);
            ck_assert_uint_eq(exit.fault.vector, 14);
            ck_assert_uint_eq(exit.fault.error_code, 7);
            ck_assert_uint_eq(exit.fault.address, spot);
        }
        from = to;
    }
    test_free(m);
    for (size_t i = 0; i < 5; i++)
        snapshot_unref(snaps[i]);
}
END_TEST

/* Nothing of a snapshot is left in a machine that was bound to it. */
GUEST(everywhere, "mov $0x600000, %ebx; mov %eax, %ecx\n"
                  "1: movq $0x5ec7e7, 8(%rbx); add $0x1000, %rbx; dec %ecx; jnz 1b\n"
                  "mov $0x5ec7e7, %r12d; mov %r12, %r15; vpcmpeqd %ymm3, %ymm3, %ymm3\n"
                  "fldpi; wrgsbase %r12; movb $1, 0x200100\n" CALL(7) "ud2");
GUEST(tell, "mov %r12, %rsi; or %r15, %rsi; mov 0x601008, %rdx; or 0x200100, %rdx\n"
            "vptest %ymm3, %ymm3; setnz %cl; movzbl %cl, %ecx\n" CALL(8) "ud2");

static void check_empty(struct hv_machine *m)
{
    static unsigned char present[GUEST_SLOT / HL_ABI_PAGE_SIZE];
    static uint8_t area[16384], zeros[4096];
    struct kvm_regs regs;
    uint32_t mxcsr = 0;

    ck_assert_ptr_null(m->snap);
    ck_assert_int_eq(mincore(m->mem, GUEST_SLOT, present), 0);
    for (size_t i = 0; i < sizeof(present); i++)
        ck_assert_uint_eq(present[i] & 1, 0);
    for (size_t i = 0; i < GUEST_SLOT; i += sizeof(zeros))
        ck_assert_int_eq(memcmp(m->mem + i, zeros, sizeof(zeros)), 0);
    ck_assert_int_eq(ioctl(m->vcpu_fd, KVM_GET_REGS, &regs), 0);
    ck_assert_uint_eq(regs.r12 | regs.r15 | regs.rsp | regs.rip, 0);
    ck_assert_uint_le(m->xsave_size, sizeof(area));
    ck_assert_int_eq(ioctl(m->vcpu_fd, m->xsave_size > 4096 ? KVM_GET_XSAVE2 : KVM_GET_XSAVE, area),
                     0);
    memcpy(&mxcsr, area + 24, sizeof(mxcsr));
    ck_assert_uint_eq(mxcsr, 0x1f80);
    ck_assert_int_eq(memcmp(area + 32, zeros, 416 - 32), 0); /* x87 and XMM */
    ck_assert_int_eq(memcmp(area + 576, zeros, 256), 0);     /* upper halves of YMM */
}

START_TEST(test_unbind)
{
    struct guest_options options[] = {
        {.boot = true}, {0}, {.data_prot = HV_PROT_READ}, {.memory = GUEST_MEMORY - 0x5000}};
    struct snapshot *a = test_snapshot(guest_everywhere, guest_everywhere_end, NULL);
    struct hv_machine *m = test_machine(a);
    struct hv_exit exit;

    for (unsigned int i = 0; i < 24; i++) {
        struct snapshot *b = test_snapshot(guest_tell, guest_tell_end, &options[i % 4]);

        hv.set_return(m, i % 3 ? 10 : 1000);
        test_expect_hypercall(m, 7);
        if (i % 5 == 0)
            ck_assert_int_eq(hv.protect(m, SPOT, 0x1000, HV_PROT_READ), 0);
        else if (i % 2)
            test_reset(m, 0);
        ck_assert_int_eq(hv.unbind(m), 0);
        check_empty(m);
        ck_assert_int_eq(hv.run(m, UINT64_MAX, &exit), -EINVAL);

        bind(m, b);
        test_expect_audit(m, NULL);
        exit = test_run(m);
        ck_assert_int_eq(exit.kind, HV_EXIT_HYPERCALL);
        ck_assert_uint_eq(exit.nr, 8);
        ck_assert_uint_eq(exit.args[0] | exit.args[1] | exit.args[2], 0);
        test_reset(m, 0);
        test_expect_audit(m, NULL);
        snapshot_unref(b);
        if (i % 2)
            ck_assert_int_eq(hv.unbind(m), 0);
        bind(m, a);
        test_expect_audit(m, NULL);
    }
    ck_assert_int_eq(hv.unbind(m), 0);
    ck_assert_int_eq(hv.unbind(m), 0); /* a shell stays one */
    snapshot_unref(a);
    test_free(m);
}
END_TEST

/* A machine whose permissions were changed is bound again as new. */
START_TEST(test_after_protect)
{
    struct snapshot *snap = test_snapshot(guest_write_at, guest_write_at_end, NULL);
    struct hv_machine *m = test_machine(snap);

    ck_assert_int_eq(hv.protect(m, SPOT, 0x1000, HV_PROT_READ), 0);
    hv.set_return(m, SPOT);
    test_expect_fault(m, 14);
    bind(m, snap);
    test_expect_audit(m, NULL);
    hv.set_return(m, SPOT);
    test_expect_hypercall(m, 1);
    test_reset(m, 0);
    test_expect_audit(m, NULL);
    test_free(m);
    snapshot_unref(snap);
}
END_TEST

START_TEST(test_write_or_execute)
{
    struct hv_machine *m = BOUND(jump);

    hv.set_return(m, SPOT);
    test_expect_fault(m, 14);
    test_free(m);
}
END_TEST

/* The walk a CPU would do. Returns the leaf entry, 0 when there is none. */
static uint64_t walk(const uint8_t *low, uint64_t page)
{
    uint64_t e, table = KVM_PML4_ADDR;
    unsigned int shift = 39;

    for (;; shift -= 9) {
        memcpy(&e, low + table + (page * 4096 >> shift & 511) * 8, 8);
        if (!(e & 1) || shift == 12)
            return e & 1 ? e : 0;
        if (e & 0x80)
            return e + (page % 512) * 4096;
        table = e & 0xffffffffff000ull;
    }
}

static uint64_t expected(uint64_t page, unsigned int prot)
{
    if (prot == HV_PROT_NONE)
        return 0;
    return page * 4096 | 0x65 | (prot & HV_PROT_WRITE ? 2 : 0) |
           (prot & HV_PROT_EXEC ? 0 : 1ull << 63);
}

static void check_tables(const uint8_t *low, const uint8_t *prot, size_t npages)
{
    for (uint64_t page = 0x100; page < npages; page++)
        ck_assert_uint_eq(walk(low, page) & ~0x80ull, expected(page, prot[page]));
    for (uint64_t page = 0; page < 0x100; page++)
        ck_assert_uint_eq(walk(low, page) & 4, 0); /* nothing for ring 3 */
    for (uint64_t page = npages; page < 0x40000; page += 509)
        ck_assert_uint_eq(walk(low, page), 0);
}

START_TEST(test_tables)
{
    static uint8_t low[HL_ABI_IO_ADDR], again[HL_ABI_IO_ADDR], prot[0x40000];
    static const uint8_t kinds[] = {0, 1, 3, 5, 2, 4};
    unsigned int seed = 1;
    size_t npages = 0x3ff3;

    memset(prot, 0xff & HV_PROT_READ, 0x100); /* asks for the low pages: refused */
    for (size_t page = 0x100; page < npages; page++)
        prot[page] = page < 0x1000 || page > 0x2000 ? 3 : kinds[rand_r(&seed) % 6];
    ck_assert_int_eq(kvm_tables_fill(low, prot, npages, &err), 0);
    check_tables(low, prot, npages);
    memcpy(again, low, sizeof(low));
    ck_assert_int_eq(kvm_tables_fill(again, prot, npages, &err), 0);
    ck_assert_int_eq(memcmp(low, again, sizeof(low)), 0);

    for (int i = 0; i < 300; i++) {
        size_t first = 0x200 + (size_t)rand_r(&seed) % (npages - 0x200);
        size_t count = (size_t)rand_r(&seed) % (i % 2 ? 2000 : 20) + 1;
        uint8_t kind = kinds[rand_r(&seed) % 6];

        if (count > npages - first)
            count = npages - first;
        ck_assert_int_eq(kvm_tables_protect(low, first, count, kind), 0);
        memset(prot + first, kind, count);
    }
    check_tables(low, prot, npages);
    ck_assert(!kvm_tables_same(low, again));

    /* Too many tables; write and execute; sizes. */
    npages = 0x40000;
    for (size_t page = 0x100; page < npages; page++)
        prot[page] = page % 2 ? 1 : 3;
    ck_assert_int_eq(kvm_tables_fill(low, prot, npages, &err), -ENOMEM);
    /* What an earlier filling has used more than this one is as if it had never been. */
    memset(prot + 0x100, 3, npages - 0x100);
    memset(again, 0, sizeof(again));
    ck_assert_int_eq(kvm_tables_fill(low, prot, npages, &err), 0);
    ck_assert_int_eq(kvm_tables_fill(again, prot, npages, &err), 0);
    ck_assert_int_eq(memcmp(low, again, sizeof(low)), 0);
    prot[0x500] = HV_PROT_WRITE | HV_PROT_EXEC;
    ck_assert_int_eq(kvm_tables_fill(low, prot, 0x4000, &err), -EINVAL);
    ck_assert_int_eq(kvm_tables_fill(low, prot, 0x1ff, &err), -EINVAL);
    ck_assert_int_eq(kvm_tables_fill(low, prot, 0x40001, &err), -EINVAL);
}
END_TEST

int main(void)
{
    TCase *tc = tcase_create("bind");
    int r;

    test_open();
    tcase_set_timeout(tc, 120);
    tcase_add_checked_fixture(tc, test_thread, NULL);
    tcase_add_test(tc, test_shell);
    tcase_add_test(tc, test_same_tables);
    tcase_add_test(tc, test_other_tables);
    tcase_add_test(tc, test_unbind);
    tcase_add_test(tc, test_after_protect);
    tcase_add_test(tc, test_write_or_execute);
    tcase_add_test(tc, test_tables);
    r = tests_run(tc, "kvm bind");
    hv.host_close(test_host);
    return r;
}
