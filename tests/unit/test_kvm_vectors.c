/* SPDX-License-Identifier: Apache-2.0 */
/* Vector registers after a reset, seen by the audit and by the guest itself; and the code that puts
 * them back, which the guest is entered through. */

#include "tests/unit/kvm_support.h"

#include <cpuid.h>
#include <stdlib.h>

#include "hv/kvm_machine.h"
#include "tests/unit/tests_run.h"

/* Tells in rsi what the vector state holds: 0 for nothing. Then leaves secrets in all of it. */
GUEST(vectors,
      "vpxor %ymm15, %ymm15, %ymm15; cmp $0, %eax; jne 3f\n"
      "vpor %ymm0, %ymm1, %ymm1; vpor %ymm2, %ymm1, %ymm1; vpor %ymm7, %ymm1, %ymm1\n"
      "vpor %ymm14, %ymm1, %ymm1; vextracti128 $1, %ymm1, %xmm2; xor %esi, %esi\n"
      "vptest %ymm1, %ymm1; setnz %sil; vptest %xmm2, %xmm2; setnz %dl; shl $1, %dl; or %dl, %sil\n"
      "push $0; stmxcsr (%rsp); mov (%rsp), %edx; and $0xffc0, %edx; cmp $0x1f80, %edx\n"
      "je 1f; or $4, %sil; 1: fnstcw (%rsp); cmpw $0x37f, (%rsp); je 2f; or $8, %sil\n"
      "2: sub $128, %rsp; fnsave (%rsp); cmpw $-1, 8(%rsp); je 1f; or $16, %sil\n"
      "1: xor %eax, %eax; mov $7, %ecx; lea 28(%rsp), %rdi\n"
      "1: or (%rdi), %rax; or 8(%rdi), %ax; add $10, %rdi; dec %ecx; jnz 1b\n"
      "test %rax, %rax; jz 3f; or $32, %sil; 3: mov %rsi, %r12\n"
      "vpcmpeqd %ymm0, %ymm0, %ymm0; vmovdqa %ymm0, %ymm2; vmovdqa %ymm0, %ymm7\n"
      "vmovdqa %ymm0, %ymm14; vmovdqa %ymm0, %ymm1; push $0x7f80; ldmxcsr (%rsp); fninit\n"
      "fldpi; fldl2e; fldpi; movw $0xf7f, (%rsp); fldcw (%rsp); mov %r12, %rsi\n" CALL(1) "ud2");

/* kind: 0, a guest behind a hypercall; 1 and 2, those whose vectors an ioctl resets: one at its
 * start, and one whose snapshot has other code where ours should be. */
#define KINDS 3
static struct hv_machine *vectors_machine(const uint8_t *code, const uint8_t *end, int kind)
{
    struct guest_options options = {.boot = kind == 1, .no_restore = kind == 2};
    struct snapshot *snap = test_snapshot(code, end, &options);
    struct hv_machine *m = test_machine(snap);

    ck_assert_int_eq(m->restores, kind == 0 && test_host->restores);
    snapshot_unref(snap);
    return m;
}

START_TEST(test_vectors)
{
    struct hv_machine *m = vectors_machine(guest_vectors, guest_vectors_end, _i);
    struct hv_exit exit;

    for (int i = 0; i < 4; i++) {
        hv.set_return(m, 0);
        exit = test_run(m);
        ck_assert_int_eq(exit.kind, HV_EXIT_HYPERCALL);
        ck_assert_uint_eq(exit.args[0], 0);
        test_reset(m, 0);
        if (i % 2)
            test_expect_audit(m, NULL);
    }
    hv.set_return(m, 0);
    test_expect_hypercall(m, 1);
    test_reset(m, HV_SKIP_VECTOR);
    test_expect_audit(m, "");
    hv.set_return(m, 0);
    exit = test_run(m);
    ck_assert_uint_eq(exit.args[0], 63); /* the guest itself can see all of it */
    test_free(m);
}
END_TEST

/* Each kind of vector state alone, so that the audit's own eyes are tested. */
GUEST(left_xmm, "pcmpeqd %xmm9, %xmm9\n" CALL(1) "ud2");
GUEST(left_ymm, "vpcmpeqd %ymm9, %ymm9, %ymm9; pxor %xmm9, %xmm9\n" CALL(1) "ud2");
GUEST(left_mxcsr, "push $0x3f80; ldmxcsr (%rsp)\n" CALL(1) "ud2");
GUEST(left_fcw, "push $0x27f; fldcw (%rsp)\n" CALL(1) "ud2");
GUEST(left_x87, "fldpi; fstp %st\n" CALL(1) "ud2");
GUEST(left_zmm, "vpternlogd $255, %zmm20, %zmm20, %zmm20\n" CALL(1) "ud2");
GUEST(left_high, "vpternlogd $255, %zmm4, %zmm4, %zmm4; vpxor %ymm4, %ymm4, %ymm5\n"
                 "vinserti64x4 $0, %ymm5, %zmm4, %zmm4\n" CALL(1) "ud2");
GUEST(left_mask, "kxnorq %k3, %k3, %k3\n" CALL(1) "ud2");
/* Nothing but the x87 pointers: a zero in a register that is empty again is no trace. */
GUEST(left_pointers, "fldz; fstpl 0x600100\n" CALL(1) "ud2");

static bool has_avx512(void)
{
    unsigned int a, b, c, d;

    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & bit_AVX512BW);
}

/* Some processors tell the pointers only while an exception is pending. */
static bool tells_pointers(void)
{
    static uint8_t area[512] __attribute__((aligned(16)));
    static double zero;
    uint64_t pointer;

    __asm__ volatile("fldz; fstpl %1; fxsave64 %0" : "=m"(area), "=m"(zero));
    memcpy(&pointer, area + 8, sizeof(pointer));
    return pointer != 0;
}

static const struct {
    const uint8_t *code, *end;
    const char *text;
    bool (*applies)(void);
} left[] = {
    {guest_left_xmm, guest_left_xmm_end, "XMM register", NULL},
    {guest_left_ymm, guest_left_ymm_end, "extended vector register", NULL},
    {guest_left_mxcsr, guest_left_mxcsr_end, "MXCSR", NULL},
    {guest_left_fcw, guest_left_fcw_end, "x87 control word", NULL},
    {guest_left_x87, guest_left_x87_end, "x87", NULL},
    {guest_left_zmm, guest_left_zmm_end, "extended vector register", has_avx512},
    {guest_left_high, guest_left_high_end, "extended vector register", has_avx512},
    {guest_left_mask, guest_left_mask_end, "extended vector register", has_avx512},
    {guest_left_pointers, guest_left_pointers_end, "x87", tells_pointers},
};

START_TEST(test_each_vector)
{
    int which = _i / KINDS;
    struct hv_machine *m;

    if (left[which].applies && !left[which].applies())
        return;
    m = vectors_machine(left[which].code, left[which].end, _i % KINDS);
    test_expect_hypercall(m, 1);
    test_reset(m, HV_SKIP_VECTOR);
    test_expect_audit(m, left[which].text);
    test_reset(m, 0);
    test_expect_audit(m, NULL);
    test_free(m);
}
END_TEST

/* The restore code is entered once a reset, after which the guest finds what it may rely on. */
GUEST(after_ready, "mov %rax, %rsi; pushf; pop %rdx; mov %rbx, %rcx\n" CALL(1) "ud2");
/* A guest that goes there itself gets nowhere it could not go anyway. */
GUEST(into_restore,
      "lea 1f(%rip), %rbx; mov %rsp, %r12; push %rbx; mov $0x100040, %ebx; jmp *%rbx\n"
      "1: sub %rsp, %r12; mov %r12, %rsi\n" CALL(1) "ud2");
GUEST(write_restore, "movb $0x90, 0x100040; ud2");

START_TEST(test_restore)
{
    struct guest_options options = {.regs = {.rbx = 0x1234567, .rflags = 0x8d5}};
    struct snapshot *snap = test_snapshot(guest_after_ready, guest_after_ready_end, &options);
    struct hv_machine *m = test_machine(snap);
    struct hv_exit exit;

    for (int i = 0; i < 4; i++) {
        hv.set_return(m, 0xfedcba9876543210);
        if (i > 1) {
            hv.kick(m); /* before the first instruction */
            ck_assert_int_eq(test_run(m).kind, HV_EXIT_KICKED);
        }
        exit = test_run(m);
        ck_assert_int_eq(exit.kind, HV_EXIT_HYPERCALL);
        ck_assert_uint_eq(exit.args[0], 0xfedcba9876543210);
        ck_assert_uint_eq(exit.args[1], 0x8d5 | KVM_FIXED_RFLAGS);
        ck_assert_uint_eq(exit.args[2], 0x1234567);
        test_reset(m, 0);
        test_expect_audit(m, NULL);
    }
    test_free(m);
    snapshot_unref(snap);

    m = BOUND(into_restore);
    for (int i = 0; i < 2; i++) {
        exit = test_run(m);
        ck_assert_int_eq(exit.kind, HV_EXIT_HYPERCALL);
        ck_assert_uint_eq(exit.args[0], 0);
        test_reset(m, 0);
        test_expect_audit(m, NULL);
    }
    test_free(m);
    m = BOUND(write_restore);
    test_expect_fault(m, 14);
    test_free(m);
}
END_TEST

int main(void)
{
    TCase *tc = tcase_create("vectors");
    int r;

    test_open();
    tcase_set_timeout(tc, 120);
    tcase_add_checked_fixture(tc, test_thread, NULL);
    tcase_add_loop_test(tc, test_vectors, 0, KINDS);
    tcase_add_loop_test(tc, test_each_vector, 0, KINDS * sizeof(left) / sizeof(left[0]));
    tcase_add_test(tc, test_restore);
    r = tests_run(tc, "kvm vectors");
    hv.host_close(test_host);
    return r;
}
