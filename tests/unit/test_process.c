/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The process backend with guests in machine code that do as they should, or fail by accident:
 * exits, faults with the numbers that a virtual machine reports, kicks, memory, reset. Runs
 * anywhere.
 */
#include "config.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "hv/nursery.h"
#include "hv/timer.h"
#include "tests/unit/process_rig.h"

START_TEST(test_hypercall)
{
    struct hv_machine *m = machine_of(guest_hypercalls);
    struct hv_exit exit = run(m);
    struct hv_regs regs;

    ck_assert_int_eq(exit.kind, HV_EXIT_HYPERCALL);
    ck_assert_uint_eq(exit.nr, 7);
    ck_assert_uint_eq(exit.args[0], 1);
    ck_assert_uint_eq(exit.args[1], 2);
    ck_assert_uint_eq(exit.args[2], 3);
    ck_assert_int_eq(hv->get_regs(m, &regs), 0);
    ck_assert_uint_eq(regs.rip, HL_ABI_HYPERCALL_ADDR + PROCESS_HYPERCALL_RETURN);
    ck_assert_uint_lt(regs.rsp, TEST_SIZE);
    ck_assert_uint_ge(regs.rsp, TEST_STACK);
    for (uint64_t i = 1; i < 100; i++) {
        hv->set_return(m, i << 40);
        exit = run(m);
        ck_assert_int_eq(exit.kind, HV_EXIT_HYPERCALL);
        ck_assert_uint_eq(exit.nr, 8);
        ck_assert_uint_eq(exit.args[0], i << 40);
        ck_assert_uint_eq(exit.args[2], (i << 40) + 2);
    }
    hv->machine_free(m);
}
END_TEST

/* Every number comes out, none is carried out. */
START_TEST(test_syscalls)
{
    struct hv_machine *m = machine_of(guest_syscalls);

    for (uint64_t nr = 0; nr <= 600; nr++) {
        struct hv_exit exit = run(m);

        if (nr == NR_UPROBE && exit.kind == HV_EXIT_HYPERCALL) {
            ck_assert_uint_eq(exit.args[1], (uint64_t)-ENXIO);
            continue;
        }
        ck_assert_int_eq(exit.kind, HV_EXIT_SYSCALL);
        ck_assert_uint_eq(exit.nr, nr);
        for (uint64_t i = 0; i < 6; i++)
            ck_assert_uint_eq(exit.args[i], 11 + i);
        hv->set_return(m, nr + 1000);
    }
    hv->machine_free(m);
}
END_TEST

#define ANY UINT64_MAX

static const struct {
    const char *name;
    void (*guest)(void);
    uint64_t vector, error_code, address;
} faults[] = {
    {"null write", guest_null_write, 14, 6, 0},
    {"read of a closed page", guest_unmapped_read, 14, 4, TEST_CLOSED + 8},
    {"write to code", guest_write_code, 14, 7, TEST_TEXT},
    {"execute data", guest_execute_data, 14, 0x15, TEST_DATA},
    {"stack overflow", guest_stack_overflow, 14, 6, TEST_STACK - 8},
    {"kernel read", guest_kernel_read, 14, 4, 0xffffffff81000000},
    {"vsyscall", guest_vsyscall, 14, 0x14, TEST_VSYSCALL},
    {"ud2", guest_ud2, 6, 0, 0},
    {"division", guest_divide, 0, 0, 0},
    {"hlt", guest_hlt, 13, 0, 0},
    {"out", guest_out, 13, 0, 0},
    {"non-canonical", guest_noncanonical, 13, 0, 0},
    {"int3", guest_int3, 3, 0, 0},
    {"int 0x80", guest_int80, 13, 0x402, 0},
    {"SIMD", guest_simd, 19, 0, 0},
    {"alignment", guest_alignment, 17, 0, 0},
};

START_TEST(test_fault)
{
    struct hv_machine *m = machine_of(faults[_i].guest);
    struct hv_exit exit = run(m);
    uint64_t pages;

    ck_assert_int_eq(exit.kind, HV_EXIT_FAULT);
    ck_assert_msg(exit.fault.vector == faults[_i].vector, "%s: vector %u", faults[_i].name,
                  exit.fault.vector);
    ck_assert_msg(exit.fault.error_code == faults[_i].error_code, "%s: error code 0x%x",
                  faults[_i].name, exit.fault.error_code);
    ck_assert_msg(exit.fault.address == faults[_i].address, "%s: address 0x%lx", faults[_i].name,
                  exit.fault.address);
    if (faults[_i].vector == 14 && faults[_i].error_code & 0x10) /* fetching */
        ck_assert_uint_eq(exit.fault.rip, faults[_i].address);
    else
        ck_assert(exit.fault.rip >= TEST_TEXT && exit.fault.rip < TEST_TEXT_END);
    ck_assert_int_lt(hv->run(m, hv_now_ns() + SECOND, &exit), 0);
    ck_assert_int_eq(hv->reset(m, 0, &pages), 1);
    hv->machine_free(m);
}
END_TEST

static void *kick_later(void *m)
{
    usleep(20000);
    hv->kick(m);
    return NULL;
}

START_TEST(test_kick)
{
    struct hv_machine *m = machine_of(guest_spin);
    struct hv_exit exit;
    uint64_t until, before, after;
    pthread_t thread;
    char state[32];

    until = hv_now_ns() + 5000000;
    ck_assert_int_eq(hv->run(m, until, &exit), 0);
    ck_assert_int_eq(exit.kind, HV_EXIT_KICKED);
    ck_assert_uint_ge(hv_now_ns(), until);

    /* Stopped while nobody runs it; a time in the past still gets it somewhere. */
    for (int i = 0; i < 2000; i++) {
        status_of(pid_of(m), "State:", state, sizeof(state));
        if (state[0] == 'T')
            break;
        usleep(10000);
    }
    ck_assert_int_eq(state[0], 'T');
    ck_assert_int_eq(hv->mem_read(m, TEST_DATA, &before, sizeof(before)), 0);
    usleep(2000);
    ck_assert_int_eq(hv->mem_read(m, TEST_DATA, &after, sizeof(after)), 0);
    ck_assert_uint_eq(before, after);
    for (int i = 0; i < 1000 && after == before; i++) {
        ck_assert_int_eq(hv->run(m, 1, &exit), 0);
        ck_assert_int_eq(exit.kind, HV_EXIT_KICKED);
        ck_assert_int_eq(hv->mem_read(m, TEST_DATA, &after, sizeof(after)), 0);
    }
    ck_assert_uint_ne(before, after);

    ck_assert_int_eq(pthread_create(&thread, NULL, kick_later, m), 0);
    ck_assert_int_eq(hv->run(m, UINT64_MAX, &exit), 0);
    ck_assert_int_eq(exit.kind, HV_EXIT_KICKED);
    pthread_join(thread, NULL);

    /* Before a run: told once. */
    hv->kick(m);
    ck_assert_int_eq(hv->run(m, UINT64_MAX, &exit), 0);
    ck_assert_int_eq(exit.kind, HV_EXIT_KICKED);
    until = hv_now_ns() + 5000000;
    ck_assert_int_eq(hv->run(m, until, &exit), 0);
    ck_assert_uint_ge(hv_now_ns(), until);
    hv->machine_free(m);
}
END_TEST

START_TEST(test_kick_loses_no_exit)
{
    struct hv_machine *m = machine_of(guest_hypercalls);
    struct hv_exit exit = run(m);

    for (uint64_t i = 1; i < 200; i++) {
        hv->set_return(m, i);
        hv->kick(m);
        ck_assert_int_eq(hv->run(m, UINT64_MAX, &exit), 0);
        ck_assert_int_eq(exit.kind, HV_EXIT_KICKED);
        exit = run(m);
        ck_assert_int_eq(exit.kind, HV_EXIT_HYPERCALL);
        ck_assert_uint_eq(exit.args[0], i);
    }
    hv->machine_free(m);
}
END_TEST

START_TEST(test_memory)
{
    struct hv_machine *m = machine_of(guest_hypercalls);
    uint8_t buf[2 * PAGE], zeros[PAGE] = {0};
    const uint64_t top = TEST_SIZE;

    ck_assert_int_eq(hv->mem_read(m, TEST_DATA, buf, sizeof(buf)), 0);
    ck_assert_str_eq((char *)buf, "initial");
    ck_assert_int_eq(hv->mem_write(m, TEST_DATA + PAGE - 4, "across a page", 14), 0);
    ck_assert_int_eq(hv->mem_read(m, TEST_DATA + PAGE - 4, buf, 14), 0);
    ck_assert_str_eq((char *)buf, "across a page");
    /* Permissions do not matter to the host, bounds do. */
    ck_assert_int_eq(hv->mem_write(m, TEST_CLOSED, "x", 1), 0);
    ck_assert_int_eq(hv->mem_write(m, TEST_TEXT, "x", 1), 0);
    ck_assert_int_eq(hv->mem_read(m, top - 1, buf, 1), 0);
    ck_assert_int_eq(hv->mem_read(m, top - 1, buf, 2), -EFAULT);
    ck_assert_int_eq(hv->mem_read(m, UINT64_MAX, buf, 2), -EFAULT);
    ck_assert_int_eq(hv->mem_read(m, PROCESS_CONFIG_ADDR, buf, 2), -EFAULT);
    ck_assert_int_eq(hv->mem_write(m, PROCESS_TEXT_ADDR, buf, 2), -EFAULT);
    ck_assert_int_eq(hv->mem_write(m, 0x1000, buf, 2), -EFAULT);
    memset(buf, 1, sizeof(buf));
    ck_assert_int_eq(hv->mem_read(m, PROCESS_GUEST_MIN - PAGE, buf, sizeof(buf)), 0);
    ck_assert_mem_eq(buf, zeros, PAGE);
    ck_assert_int_eq(buf[PAGE], 0x49); /* the hypercall page */
    hv->machine_free(m);
}
END_TEST

/* What one call leaves behind is not there for the next; nor is it if the reset left it. */
START_TEST(test_secrets)
{
    struct hl_error err = HL_ERROR_INIT;
    struct hv_machine *m = machine_of(guest_secrets);
    const unsigned int skips[] = {HV_SKIP_MEMORY, HV_SKIP_IO, HV_SKIP_REGS, HV_SKIP_VECTOR};
    uint64_t pages = 1;
    struct hv_exit exit;

    for (int i = 0; i < 5; i++) {
        exit = run(m);
        ck_assert_int_eq(exit.kind, HV_EXIT_HYPERCALL);
        ck_assert_uint_eq(exit.args[0], 0);
        ck_assert_int_eq(hv->reset(m, 0, &pages), 0);
        ck_assert_uint_eq(pages, 0);
        ck_assert_msg(hv->audit(m, &err) == 0, "%s", err.text);
    }
    for (int i = 0; i < 4; i++) {
        exit = run(m);
        ck_assert_int_eq(hv->reset(m, skips[i], &pages), 0);
        ck_assert_int_eq(hv->audit(m, &err), 1);
        if (skips[i] != HV_SKIP_REGS) {
            exit = run(m);
            ck_assert_int_eq(exit.kind, HV_EXIT_HYPERCALL);
            ck_assert_uint_gt(exit.args[0], 0);
        }
        ck_assert_int_eq(hv->reset(m, 0, &pages), 0);
        ck_assert_msg(hv->audit(m, &err) == 0, "%s", err.text);
    }
    hv->machine_free(m);
}
END_TEST

START_TEST(test_protect)
{
    struct hv_machine *m = machine_of(guest_protect);
    struct hv_exit exit = run(m);
    uint64_t pages;

    ck_assert_int_eq(exit.kind, HV_EXIT_HYPERCALL);
    ck_assert_int_eq(hv->protect(m, TEST_DATA, PAGE, HV_PROT_EXEC | HV_PROT_READ), -EACCES);
    ck_assert_int_eq(hv->protect(m, TEST_DATA + 1, PAGE, HV_PROT_READ), -EINVAL);
    ck_assert_int_eq(hv->protect(m, TEST_SIZE, PAGE, HV_PROT_READ), -EINVAL);
    ck_assert_int_eq(hv->protect(m, TEST_DATA, PAGE, HV_PROT_READ), 0);
    exit = run(m);
    ck_assert_int_eq(exit.kind, HV_EXIT_HYPERCALL);
    ck_assert_uint_eq(exit.args[0], 1);
    exit = run(m);
    ck_assert_int_eq(exit.kind, HV_EXIT_FAULT);
    ck_assert_uint_eq(exit.fault.vector, 14);
    ck_assert_uint_eq(exit.fault.error_code, 7);
    ck_assert_uint_eq(exit.fault.address, TEST_DATA);
    hv->machine_free(m);

    /* Gone with the process. */
    m = machine_of(guest_protect);
    exit = run(m);
    ck_assert_int_eq(hv->protect(m, TEST_DATA, PAGE, HV_PROT_NONE), 0);
    ck_assert_int_eq(hv->reset(m, 0, &pages), 0);
    for (unsigned int i = 1; i <= 3; i++) {
        exit = run(m);
        ck_assert_int_eq(exit.kind, HV_EXIT_HYPERCALL);
        ck_assert_uint_eq(exit.nr, i);
    }
    hv->machine_free(m);
}
END_TEST

START_TEST(test_thread_pointer)
{
    struct hv_machine *m = machine_of(guest_thread_pointer);
    const uint64_t value = 0x1234567890abcdef;
    struct hv_regs regs;
    struct hv_exit exit;

    /* Before the first entry, and between exits. */
    ck_assert_int_eq(hv->mem_write(m, TEST_DATA, &value, sizeof(value)), 0);
    ck_assert_int_eq(hv->set_fs_base(m, TEST_DATA), 0);
    exit = run(m);
    ck_assert_int_eq(exit.kind, HV_EXIT_HYPERCALL);
    ck_assert_uint_eq(exit.args[0], value);
    ck_assert_int_eq(hv->mem_write(m, TEST_DATA + 64, "87654321", 8), 0);
    ck_assert_int_eq(hv->set_fs_base(m, TEST_DATA + 64), 0);
    ck_assert_int_eq(hv->set_fs_base(m, 1ull << 62), -EINVAL);
    exit = run(m);
    ck_assert_uint_eq(exit.args[0], 0x3132333435363738);
    ck_assert_int_eq(hv->get_regs(m, &regs), 0);
    ck_assert_uint_eq(regs.fs_base, TEST_DATA + 64);
    hv->machine_free(m);
}
END_TEST

static void *shard(void *snap)
{
    for (int i = 0; i < 30; i++) {
        struct hv_machine *m;

        ck_assert_int_eq(hv->machine_new(&m, host, TEST_SIZE, NULL), 0);
        ck_assert_int_eq(hv->bind(m, snap, NULL), 0);
        ck_assert_int_eq(run(m).kind, HV_EXIT_HYPERCALL);
        hv->machine_free(m);
    }
    return NULL;
}

START_TEST(test_threads)
{
    struct snapshot *snap = snapshot_of(guest_hypercalls);
    pthread_t threads[4];

    for (int i = 0; i < 4; i++)
        ck_assert_int_eq(pthread_create(&threads[i], NULL, shard, snap), 0);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    snapshot_unref(snap);
}
END_TEST

START_TEST(test_measure)
{
    uint32_t ns[100];
    uint64_t sum = 0, start = hv_now_ns();

    ck_assert_int_eq(hv->measure_entry(host, 100, ns, NULL), 0);
    for (int i = 0; i < 100; i++)
        sum += ns[i];
    ck_assert_uint_gt(sum, 0);
    ck_assert_uint_le(sum, hv_now_ns() - start);
}
END_TEST

/* Prints, and asserts nothing about, what things cost here. */
START_TEST(test_cost)
{
    struct hv_machine *m = machine_of(guest_hypercalls);
    uint64_t start = hv_now_ns(), bind_ns = UINT64_MAX, call_ns = UINT64_MAX;
    uint64_t exit_ns = UINT64_MAX, total, pages;
    struct nursery_report report;

    for (int i = 0; i < 100; i++) {
        start = hv_now_ns();
        ck_assert_int_eq(hv->bind(m, m->snap, NULL), 0);
        total = hv_now_ns() - start;
        bind_ns = total < bind_ns ? total : bind_ns;
        run(m);
        hv->set_return(m, 1);
        start = hv_now_ns();
        run(m);
        total = hv_now_ns() - start;
        exit_ns = total < exit_ns ? total : exit_ns;
        ck_assert_int_eq(hv->reset(m, 0, &pages), 0);
        ck_assert_int_eq(process_await(m, NULL), 0);
        start = hv_now_ns();
        run(m);
        total = hv_now_ns() - start;
        call_ns = total < call_ns ? total : call_ns;
    }
    printf("fork to ready %lu us, first entry to exit %lu us, exit and answer %lu us\n",
           bind_ns / 1000, call_ns / 1000, exit_ns / 1000);
    ck_assert_int_eq(nursery_report(nursery_fd, &report, NULL), 0);
    printf("layers:");
    for (size_t i = 0; i < report.count; i++)
        printf(" %s", report.layers[i]);
    printf("\n");
    hv->machine_free(m);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("process");
    TCase *tc = tcase_create("process");

    tcase_add_checked_fixture(tc, rig_setup, rig_teardown);
    tcase_set_timeout(tc, 120);
    tcase_add_test(tc, test_hypercall);
    tcase_add_test(tc, test_syscalls);
    tcase_add_loop_test(tc, test_fault, 0, sizeof(faults) / sizeof(faults[0]));
    tcase_add_test(tc, test_kick);
    tcase_add_test(tc, test_kick_loses_no_exit);
    tcase_add_test(tc, test_memory);
    tcase_add_test(tc, test_secrets);
    tcase_add_test(tc, test_protect);
    tcase_add_test(tc, test_thread_pointer);
    tcase_add_test(tc, test_threads);
    tcase_add_test(tc, test_measure);
    tcase_add_test(tc, test_cost);
    suite_add_tcase(s, tc);
    return s;
}

int main(int argc, char **argv)
{
    return rig_main(argc, argv, suite());
}
