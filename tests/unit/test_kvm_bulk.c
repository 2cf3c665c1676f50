/* SPDX-License-Identifier: Apache-2.0 */
/* Files in a guest's bulk window: read as they are, never written or executed, and gone when the
 * call is over. */
#include "config.h"

#include "tests/unit/kvm_support.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "hv/kvm_machine.h"
#include "tests/unit/tests_run.h"

/* What is at rax: tells the eight bytes, again and again. */
GUEST(read_at, "mov %rax, %rbx; 1: mov (%rbx), %rsi\n" CALL(1) "mov %rax, %rbx; jmp 1b");
GUEST(write_at, "movb $1, (%rax)\n" CALL(2) "ud2");
GUEST(jump_to, "call *%rax\n" CALL(3) "ud2");

#define SEALS (F_SEAL_WRITE | F_SEAL_SHRINK)
#define BULK  HL_ABI_BULK_ADDR
#define UNIT  HL_ABI_BULK_UNIT
#define GIB   (1ull << 30)

/* A sealed file of size bytes whose every page begins with its number and salt. */
static int file_of(uint64_t size, uint64_t salt)
{
    int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);

    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(ftruncate(fd, (off_t)size), 0);
    for (uint64_t at = 0; at < size && at < 16 * UNIT; at += 4096) {
        uint64_t value = salt + at / 4096;

        ck_assert_int_eq(pwrite(fd, &value, sizeof(value), (off_t)at), sizeof(value));
    }
    ck_assert_int_eq(fcntl(fd, F_ADD_SEALS, SEALS), 0);
    return fd;
}

static uint64_t read_at(struct hv_machine *m, hl_gpa addr)
{
    struct hv_exit exit;

    hv.set_return(m, addr);
    exit = test_run(m);
    ck_assert_msg(exit.kind == HV_EXIT_HYPERCALL, "exit %d vector %u at %#lx", exit.kind,
                  exit.fault.vector, exit.fault.address);
    return exit.args[0];
}

static void read_fails(struct hv_machine *m, hl_gpa addr)
{
    struct hv_exit exit;

    hv.set_return(m, addr);
    exit = test_run(m);
    ck_assert_int_eq(exit.kind, HV_EXIT_FAULT);
}

static void attach(struct hv_machine *m, hl_gpa addr, int fd, uint64_t len)
{
    ck_assert_int_eq(hv.attach(m, addr, fd, len), 0);
}

START_TEST(test_reads)
{
    struct hv_machine *m = BOUND(read_at);
    int a = file_of(3 * UNIT - 4000, 1000), b = file_of(4096, 77);

    attach(m, BULK, a, 3 * UNIT - 4000);
    attach(m, BULK + 3 * UNIT, b, 4096);
    close(a);
    close(b);
    ck_assert_uint_eq(read_at(m, BULK), 1000);
    ck_assert_uint_eq(read_at(m, BULK + UNIT), 1000 + UNIT / 4096);
    ck_assert_uint_eq(read_at(m, BULK + 3 * UNIT - 4096), 1000 + 3 * UNIT / 4096 - 1);
    ck_assert_uint_eq(read_at(m, BULK + 3 * UNIT), 77);
    test_reset(m, 0);
    test_expect_audit(m, NULL);
    test_free(m);
}
END_TEST

/* After each way out the window is empty. */
START_TEST(test_ends)
{
    struct snapshot *snap = test_snapshot(guest_read_at, guest_read_at_end, NULL);
    int fd = file_of(UNIT, 5);

    for (int way = 0; way < 4; way++) {
        struct hv_machine *m = test_machine(snap);
        struct hl_error err = HL_ERROR_INIT;

        attach(m, BULK, fd, UNIT);
        test_expect_audit(m, "bulk window");
        ck_assert_uint_eq(read_at(m, BULK), 5);
        if (way == 0)
            test_reset(m, 0);
        if (way == 1)
            ck_assert_int_eq(hv.rewind(m), 0);
        if (way == 2)
            ck_assert_int_eq(hv.unbind(m), 0);
        if (way >= 2)
            ck_assert_int_eq(hv.bind(m, snap, &err), 0);
        if (way != 1) /* which leaves memory as it is */
            test_expect_audit(m, NULL);
        ck_assert_uint_eq(read_at(m, GUEST_DATA), 0x5a5a5a5a5a5a5a5a);
        read_fails(m, BULK);
        test_free(m);
    }
    close(fd);
    snapshot_unref(snap);
}
END_TEST

/* One call after the other, each with a file of its own, at the same place. */
START_TEST(test_next_file)
{
    struct hv_machine *m = BOUND(read_at);

    for (uint64_t i = 1; i < 40; i++) {
        uint64_t size = i % 3 ? UNIT : 20 * UNIT;
        int fd = file_of(size, i << 32);

        attach(m, BULK, fd, size);
        ck_assert_uint_eq(read_at(m, BULK + 4096 * (i % 8)), (i << 32) + i % 8);
        close(fd);
        test_reset(m, 0);
    }
    test_free(m);
}
END_TEST

static bool is_mapped(const struct hv_machine *m, uint64_t at)
{
    unsigned char vec;

    return mincore(m->bulk + at, 4096, &vec) == 0;
}

/* The same file in the next call is still there, and nothing else is. */
START_TEST(test_kept)
{
    struct hv_machine *m = BOUND(read_at);
    int a = file_of(UNIT, 100), b = file_of(UNIT, 200), c = file_of(2 * UNIT, 300);

    attach(m, BULK, a, UNIT);
    attach(m, BULK + UNIT, b, UNIT);
    ck_assert_uint_eq(read_at(m, BULK + UNIT), 200);
    test_reset(m, 0);
    test_expect_audit(m, NULL);
    ck_assert(is_mapped(m, 0) && is_mapped(m, UNIT));
    attach(m, BULK, a, UNIT); /* the first as before, the other another */
    attach(m, BULK + UNIT, c, 2 * UNIT);
    ck_assert_uint_eq(read_at(m, BULK), 100);
    ck_assert_uint_eq(read_at(m, BULK + UNIT), 300);
    test_reset(m, 0);
    attach(m, BULK, a, UNIT); /* the first alone */
    ck_assert_uint_eq(read_at(m, BULK), 100);
    ck_assert(!is_mapped(m, UNIT));
    test_reset(m, 0);
    attach(m, BULK, b, UNIT); /* another in its place */
    ck_assert_uint_eq(read_at(m, BULK), 200);
    test_reset(m, 0);
    attach(m, BULK, b, UNIT - 4096); /* not as long */
    ck_assert_uint_eq(read_at(m, BULK), 200);
    test_reset(m, 0);
    ck_assert_int_eq(hv.relax(m), 0);
    ck_assert(!is_mapped(m, 0));
    attach(m, BULK, b, UNIT);
    ck_assert_int_eq(hv.relax(m), 0); /* the coming call's stay */
    ck_assert_uint_eq(read_at(m, BULK), 200);
    test_reset(m, 0);
    ck_assert_uint_eq(read_at(m, GUEST_DATA), 0x5a5a5a5a5a5a5a5a); /* a call without any */
    ck_assert(!is_mapped(m, 0));
    read_fails(m, BULK);
    ck_assert_int_eq(hv.unbind(m), 0);
    ck_assert_ptr_null(m->bulk);
    test_free(m);
    close(a);
    close(b);
    close(c);
}
END_TEST

START_TEST(test_not_writable)
{
    struct hv_machine *m = BOUND(write_at);
    int fd = file_of(UNIT, 0);
    struct hv_exit exit;

    attach(m, BULK, fd, UNIT);
    hv.set_return(m, BULK);
    exit = test_run(m);
    ck_assert_int_eq(exit.kind, HV_EXIT_FAULT);
    ck_assert_uint_eq(exit.fault.vector, 14);
    ck_assert_uint_eq(exit.fault.address, BULK);
    test_free(m);
    m = BOUND(jump_to);
    attach(m, BULK, fd, UNIT);
    hv.set_return(m, BULK);
    exit = test_run(m);
    ck_assert_int_eq(exit.kind, HV_EXIT_FAULT);
    ck_assert_uint_eq(exit.fault.vector, 14);
    test_free(m);
    close(fd);
}
END_TEST

/* Everywhere else in the window, with a file and without. */
START_TEST(test_nothing_there)
{
    static const hl_gpa places[] = {
        BULK - 1ull * KVM_PAGE, BULK + UNIT,        BULK + 2 * UNIT, BULK + 64 * UNIT,
        BULK + 3 * GIB,         BULK + 4 * GIB - 8, BULK + 4 * GIB,  BULK - GIB,
    };
    struct snapshot *snap = test_snapshot(guest_read_at, guest_read_at_end, NULL);
    int fd = file_of(2 * UNIT, 0);

    for (size_t i = 0; i < 2 * sizeof(places) / sizeof(places[0]); i++) {
        struct hv_machine *m = test_machine(snap);

        if (i % 2)
            attach(m, BULK, fd, UNIT); /* one byte more would reach the second half */
        read_fails(m, places[i / 2]);
        test_free(m);
    }
    close(fd);
    snapshot_unref(snap);
}
END_TEST

START_TEST(test_refused)
{
    struct hv_machine *m = BOUND(read_at), *shell = NULL;
    int fd = file_of(UNIT, 3), ends[2];
    struct hl_error err = HL_ERROR_INIT;

    ck_assert_int_eq(hv.attach(m, BULK - UNIT, fd, UNIT), -EINVAL);
    ck_assert_int_eq(hv.attach(m, BULK + 4096, fd, UNIT), -EINVAL);
    ck_assert_int_eq(hv.attach(m, BULK, fd, 0), -EINVAL);
    ck_assert_int_eq(hv.attach(m, BULK, fd, 4 * GIB + 1), -EINVAL);
    ck_assert_int_eq(hv.attach(m, BULK + 4 * GIB, fd, 1), -EINVAL);
    ck_assert_int_eq(hv.attach(m, BULK + 4 * GIB - UNIT, fd, UNIT + 1), -EINVAL);
    ck_assert_int_eq(hv.attach(m, UINT64_MAX - UNIT + 1, fd, UNIT), -EINVAL);
    ck_assert_int_eq(pipe(ends), 0);
    ck_assert_int_lt(hv.attach(m, BULK, ends[0], UNIT), 0);
    attach(m, BULK + UNIT, fd, UNIT);
    ck_assert_int_eq(hv.attach(m, BULK, fd, UNIT), -EINVAL);
    ck_assert_int_eq(hv.attach(m, BULK + UNIT, fd, UNIT), -EINVAL);
    ck_assert_uint_eq(read_at(m, BULK + UNIT), 3);
    test_free(m);
    ck_assert_int_eq(hv.machine_new(&shell, test_host, GUEST_SLOT, &err), 0);
    ck_assert_int_eq(hv.attach(shell, BULK, fd, UNIT), -EINVAL);
    test_free(shell);
    close(fd);
    close(ends[0]);
    close(ends[1]);
}
END_TEST

/* All of the window at once; every machine a place of its own. */
START_TEST(test_large)
{
    struct snapshot *snap = test_snapshot(guest_read_at, guest_read_at_end, NULL);
    struct hv_machine *m[5];
    int fd = file_of(GIB, 9);

    for (int i = 0; i < 5; i++) {
        m[i] = test_machine(snap);
        for (uint64_t gib = 0; gib < 4; gib++)
            attach(m[i], BULK + gib * GIB, fd, GIB - (gib == 3));
    }
    for (int i = 0; i < 5; i++) {
        for (uint64_t gib = 0; gib < 4; gib++)
            ck_assert_uint_eq(read_at(m[i], BULK + gib * GIB + 4096 * gib), 9 + gib);
        ck_assert_uint_eq(read_at(m[i], BULK + 4 * GIB - 4096), 0);
        test_reset(m[i], 0);
        test_free(m[i]);
    }
    close(fd);
    snapshot_unref(snap);
}
END_TEST

/* More machines than there are places. */
START_TEST(test_places_run_out)
{
    struct snapshot *snap = test_snapshot(guest_read_at, guest_read_at_end, NULL);
    uint8_t *wall = mmap((void *)(uintptr_t)(0x180000000000ull + GIB), 0x20000000000ull - 2 * GIB,
                         PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    struct hv_machine *m = test_machine(snap);
    int fd = file_of(UNIT, 9);

    ck_assert_ptr_ne(wall, MAP_FAILED);
    ck_assert_int_eq(hv.attach(m, BULK, fd, UNIT), -ENOBUFS);
    ck_assert_uint_eq(read_at(m, GUEST_DATA), 0x5a5a5a5a5a5a5a5a);
    test_reset(m, 0);
    munmap(wall, 0x20000000000ull - 2 * GIB);
    attach(m, BULK, fd, UNIT);
    ck_assert_uint_eq(read_at(m, BULK), 9);
    test_free(m);
    close(fd);
    snapshot_unref(snap);
}
END_TEST

int main(void)
{
    TCase *tc = tcase_create("kvm_bulk");

    test_open();
    tcase_set_timeout(tc, 120);
    tcase_add_checked_fixture(tc, test_thread, NULL);
    tcase_add_test(tc, test_reads);
    tcase_add_test(tc, test_ends);
    tcase_add_test(tc, test_next_file);
    tcase_add_test(tc, test_kept);
    tcase_add_test(tc, test_not_writable);
    tcase_add_test(tc, test_nothing_there);
    tcase_add_test(tc, test_refused);
    tcase_add_test(tc, test_large);
    tcase_add_test(tc, test_places_run_out);
    return tests_run(tc, "kvm_bulk");
}
