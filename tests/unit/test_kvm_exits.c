/* SPDX-License-Identifier: Apache-2.0 */
/* How a guest leaves a kvm machine: hypercalls, system calls, every fault, ports, flags, kicks. */

#include "tests/unit/kvm_support.h"
#include "tests/unit/tests_run.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define FLAG_TF 0x100u
#define FLAG_DF 0x400u
#define FLAG_NT 0x4000u
#define FLAG_AC 0x40000u
#define FLAG_ID 0x200000u

#define ANY_ERROR 0x80000000u /* in struct fault_case: not looked at */

GUEST(hypercall, "mov $7, %edi; mov $11, %esi; mov $12, %edx; mov $13, %ecx\n" HYPERCALL
                 "mov %rax, %rsi\n" CALL(8) "hlt");

START_TEST(test_hypercall)
{
    struct hv_machine *m = BOUND(hypercall);
    struct hv_exit exit = test_run(m);
    struct hv_regs regs;

    ck_assert_int_eq(exit.kind, HV_EXIT_HYPERCALL);
    ck_assert_uint_eq(exit.nr, 7);
    ck_assert_uint_eq(exit.args[0], 11);
    ck_assert_uint_eq(exit.args[1], 12);
    ck_assert_uint_eq(exit.args[2], 13);
    ck_assert_int_eq(hv.get_regs(m, &regs), 0);
    ck_assert_uint_eq(regs.rsp, GUEST_STACK - 8); /* the return address is on it */
    ck_assert_uint_ge(regs.rip, HL_ABI_HYPERCALL_ADDR);
    ck_assert_uint_lt(regs.rip, HL_ABI_INFO_ADDR);
    hv.set_return(m, 0x123456789abcull);
    exit = test_run(m);
    ck_assert_uint_eq(exit.nr, 8);
    ck_assert_uint_eq(exit.args[0], 0x123456789abcull);
    test_free(m);
}
END_TEST

GUEST(syscalls, "mov $39, %eax; mov $1, %edi; mov $2, %esi; mov $3, %edx; mov $4, %r10d\n"
                "mov $5, %r8d; mov $6, %r9d; syscall\n"
                "mov %rax, %rsi\n" CALL(
                    1) "mov $-1, %rax; syscall\n"
                       "std; stc; mov $40, %eax; syscall; pushf; pop %rsi; cld\n" CALL(2) "hlt");

START_TEST(test_syscall)
{
    struct hv_machine *m = BOUND(syscalls);
    struct hv_exit exit = test_run(m);

    ck_assert_int_eq(exit.kind, HV_EXIT_SYSCALL);
    ck_assert_uint_eq(exit.nr, 39);
    for (uint64_t i = 0; i < 6; i++)
        ck_assert_uint_eq(exit.args[i], i + 1);
    hv.set_return(m, (uint64_t)-EBADF);
    exit = test_run(m);
    ck_assert_int_eq(exit.kind, HV_EXIT_HYPERCALL);
    ck_assert_uint_eq(exit.args[0], (uint64_t)-EBADF);
    hv.set_return(m, 0);

    exit = test_run(m);
    ck_assert_int_eq(exit.kind, HV_EXIT_SYSCALL);
    ck_assert_uint_eq(exit.nr, UINT64_MAX);
    hv.set_return(m, 0);

    exit = test_run(m);
    ck_assert_int_eq(exit.kind, HV_EXIT_SYSCALL);
    hv.set_return(m, 0);
    exit = test_run(m);
    ck_assert_int_eq(exit.kind, HV_EXIT_HYPERCALL);
    ck_assert_uint_eq(exit.args[0] & (FLAG_DF | 1), FLAG_DF | 1);
    test_free(m);
}
END_TEST

/* The port and the SYSCALL entry, used from elsewhere with wild registers. */
GUEST(own_out, "mov $-1, %rcx; mov $-1, %r11; mov $5, %eax; mov $0x100020, %edx; jmp *%rdx");
GUEST(own_out_valid, "lea 1f(%rip), %rcx; mov $-1, %r11; mov $5, %eax; out %al, $0x48; hlt\n"
                     "1: mov $9, %edi; cld\n" HYPERCALL "hlt");
GUEST(string_out, "mov $0x48, %edx; mov $0x600000, %esi; mov $-1, %rcx; rep outsb; hlt");

START_TEST(test_own_out)
{
    struct hv_machine *m = BOUND(own_out);
    struct hv_exit exit;

    test_expect_fault(m, 13);
    test_free(m);

    /* Every flag set in r11: the trap flag and alignment check with them, so a fault follows. */
    m = BOUND(own_out_valid);
    exit = test_run(m);
    ck_assert_int_eq(exit.kind, HV_EXIT_SYSCALL);
    hv.set_return(m, 0);
    exit = test_run(m);
    ck_assert_int_eq(exit.kind, HV_EXIT_FAULT);
    ck_assert_uint_eq(exit.fault.vector, 1);
    test_free(m);

    m = BOUND(string_out);
    exit = test_run(m);
    ck_assert_int_eq(exit.kind, HV_EXIT_FAULT);
    test_free(m);
}
END_TEST

GUEST(triple, "ud2");

/* A machine that dies is told from a guest that faults. */
START_TEST(test_died)
{
    struct guest_options options = {.no_idt = true};
    struct snapshot *snap = test_snapshot(guest_triple, guest_triple_end, &options);
    struct hv_machine *m = test_machine(snap);
    struct hv_exit exit = test_run(m);

    ck_assert_int_eq(exit.kind, HV_EXIT_FAULT);
    ck_assert_uint_eq(exit.fault.vector, HV_VECTOR_DIED);
    test_free(m);
    snapshot_unref(snap);
}
END_TEST

#define WILD "mov $0x800000000000, %rax\n"

GUEST(de, "xor %ecx, %ecx; xor %edx, %edx; mov $1, %eax; 1: div %ecx");
GUEST(db_trap, "pushf; orl $0x100, (%rsp); popf; nop; nop; hlt");
GUEST(db_icebp, ".byte 0xf1; hlt");
GUEST(bp, "int3; hlt");
GUEST(ud, "ud2");
GUEST(gp_hlt, "hlt");
GUEST(gp_wild, WILD "mov (%rax), %rax");
GUEST(gp_cli, "cli; ud2");
GUEST(gp_selector, "mov $0x10, %eax; mov %ax, %ds; ud2");
GUEST(ss, "mov $0x900000000000, %rsp; push %rax; ud2");
GUEST(ac, "pushf; orl $0x40000, (%rsp); popf; mov $0x600001, %eax; mov (%rax), %ebx; ud2");
GUEST(mf, "fninit; push $0x300; fldcw (%rsp); fld1; fldz; fdivrp; fwait; ud2");
GUEST(xm, "push $0; stmxcsr (%rsp); andl $~0x200, (%rsp); ldmxcsr (%rsp); mov $1, %eax\n"
          "cvtsi2sd %eax, %xmm0; xorpd %xmm1, %xmm1; divsd %xmm1, %xmm0; ud2");
GUEST(pf_null, "mov 0, %rax; ud2");
GUEST(pf_tables, "mov 0x4000, %rax; ud2");
GUEST(pf_frame, "mov 0x7ff8, %rax; ud2");
GUEST(pf_page_table, "mov 0x1000, %rax; ud2");
GUEST(pf_code, "movb $1, 0x400000; ud2");
GUEST(pf_rodata, "movb $1, 0x401000; ud2");
GUEST(pf_hypercall, "movb $1, 0x100000; ud2");
GUEST(pf_execute, "mov $0x600000, %eax; jmp *%rax");
GUEST(pf_stub, "mov $0x6000, %eax; jmp *%rax");
GUEST(pf_past, "mov $0x1000000, %eax; mov (%rax), %rax; ud2");
GUEST(pf_high, "mov $-4096, %rax; mov (%rax), %rax; ud2");
GUEST(pf_stack, "1: push %rax; jmp 1b");

static const struct fault_case {
    const uint8_t *code, *end;
    unsigned int vector;
    uint32_t error_code;
    uint64_t address;
} faults[] = {
#define CASE(name, vector, error_code, address)                                                    \
    {                                                                                              \
        guest_##name, guest_##name##_end, vector, error_code, address                              \
    }
    CASE(de, 0, 0, 0),
    CASE(db_trap, 1, 0, 0),
    CASE(db_icebp, 1, 0, 0),
    CASE(bp, 3, 0, 0),
    CASE(ud, 6, 0, 0),
    CASE(gp_hlt, 13, 0, 0),
    CASE(gp_wild, 13, 0, 0),
    CASE(gp_cli, 13, 0, 0),
    CASE(gp_selector, 13, 0x10, 0),
    CASE(ss, 12, 0, 0),
    CASE(ac, 17, 0, 0),
    CASE(mf, 16, 0, 0),
    CASE(xm, 19, 0, 0),
    CASE(pf_null, 14, 4, 0),
    CASE(pf_tables, 14, 5, 0x4000),
    CASE(pf_frame, 14, 5, 0x7ff8),
    CASE(pf_page_table, 14, 4, 0x1000),
    CASE(pf_code, 14, 7, 0x400000),
    CASE(pf_rodata, 14, 7, 0x401000),
    CASE(pf_hypercall, 14, 7, 0x100000),
    CASE(pf_execute, 14, 0x15, 0x600000),
    CASE(pf_stub, 14, 0x15, 0x6000),
    CASE(pf_past, 14, 4, 0x1000000),
    CASE(pf_high, 14, ANY_ERROR, (uint64_t)-4096),
    CASE(pf_stack, 14, 6, GUEST_STACK - 0x4000 - 8),
#undef CASE
};

START_TEST(test_fault)
{
    const struct fault_case *c = &faults[_i];
    struct hv_machine *m = test_bound(c->code, c->end);
    struct hv_exit exit = test_run(m);

    ck_assert_int_eq(exit.kind, HV_EXIT_FAULT);
    ck_assert_uint_eq(exit.fault.vector, c->vector);
    if (c->error_code != ANY_ERROR)
        ck_assert_uint_eq(exit.fault.error_code, c->error_code);
    ck_assert_uint_eq(exit.fault.address, c->address);
    if (exit.fault.vector != 14 || !(exit.fault.error_code & 0x10)) {
        ck_assert_uint_ge(exit.fault.rip, GUEST_CODE);
        ck_assert_uint_lt(exit.fault.rip, GUEST_CODE + (uint64_t)(c->end - c->code));
    } else {
        ck_assert_uint_eq(exit.fault.rip, c->address);
    }
    test_free(m);
}
END_TEST

/* What ring 3 may not do. Which vector says so is the CPU's business; some instructions are
 * harmless and go on to the final ud2. No one of them may end in a hypercall or hang. */
GUEST(p_lgdt, "lgdt 0x600000; ud2");
GUEST(p_lidt, "lidt 0x600000; ud2");
GUEST(p_ltr, "mov $0x40, %eax; ltr %ax; ud2");
GUEST(p_lldt, "xor %eax, %eax; lldt %ax; ud2");
GUEST(p_cr0, "mov %rax, %cr0; ud2");
GUEST(p_cr3, "mov %cr3, %rax; ud2");
GUEST(p_dr7, "mov %rax, %dr7; ud2");
GUEST(p_rdmsr, "mov $0xc0000080, %ecx; rdmsr; ud2");
GUEST(p_wrmsr, "mov $0xc0000082, %ecx; xor %eax, %eax; xor %edx, %edx; wrmsr; ud2");
GUEST(p_xsetbv, "xor %ecx, %ecx; mov $1, %eax; xor %edx, %edx; xsetbv; ud2");
GUEST(p_swapgs, "swapgs; ud2");
GUEST(p_sysret, "mov $0x400000, %ecx; sysretq");
GUEST(p_sysenter, "sysenter; ud2");
GUEST(p_sysexit, "sysexitq");
GUEST(p_iret, "push $0x18; push $0x5ff000; pushf; push $0x10; push $0x400000; iretq");
GUEST(p_lret, "push $0x10; push $0x400000; lretq");
GUEST(p_compat, "push $0x23; push $0x400100; lretq");
GUEST(p_int80, "int $0x80; ud2");
GUEST(p_int20, "int $0x20; ud2");
GUEST(p_int0e, "int $0x0e; ud2");
GUEST(p_int1, "int $0x01; ud2");
GUEST(p_intff, "int $0xff; ud2");
GUEST(p_vmcall, "vmcall; ud2");
GUEST(p_vmmcall, "vmmcall; ud2");
GUEST(p_vmrun, "vmrun; ud2");
GUEST(p_invlpg, "invlpg 0x600000; ud2");
GUEST(p_invd, "invd; ud2");
GUEST(p_wbinvd, "wbinvd; ud2");
GUEST(p_clts, "clts; ud2");
GUEST(p_sti, "sti; ud2");
GUEST(p_rdpmc, "xor %ecx, %ecx; rdpmc; ud2");
GUEST(p_monitor, "mov $0x600000, %eax; xor %ecx, %ecx; xor %edx, %edx; monitor; ud2");
GUEST(p_mwait, "xor %eax, %eax; xor %ecx, %ecx; mwait; ud2");
GUEST(p_in, "in $0x48, %al; ud2");
GUEST(p_ins, "mov $0x48, %edx; mov $0x600000, %edi; mov $9, %ecx; rep insb; ud2");
GUEST(p_out16, "out %ax, $0x48; ud2");
GUEST(p_out32, "out %eax, $0x48; ud2");
GUEST(p_out16_low, "out %ax, $0x47; ud2");
GUEST(p_out_fault, "mov $14, %eax; out %al, $0x49; ud2");
GUEST(p_out_serial, "mov $0x3f8, %edx; out %al, %dx; ud2");
GUEST(p_out_last, "mov $0xffff, %edx; out %al, %dx; ud2");
GUEST(p_iopl, "pushf; orl $0x3000, (%rsp); popf; out %al, $0x80; ud2");
GUEST(p_wrpkru, "xor %ecx, %ecx; xor %edx, %edx; xor %eax, %eax; .byte 0x0f, 0x01, 0xef; ud2");

static const struct {
    const uint8_t *code, *end;
} privileged[] = {
#define CASE(name)                                                                                 \
    {                                                                                              \
        guest_p_##name, guest_p_##name##_end                                                       \
    }
    CASE(lgdt),     CASE(lidt),    CASE(ltr),       CASE(lldt),      CASE(cr0),
    CASE(cr3),      CASE(dr7),     CASE(rdmsr),     CASE(wrmsr),     CASE(xsetbv),
    CASE(swapgs),   CASE(sysret),  CASE(sysenter),  CASE(sysexit),   CASE(iret),
    CASE(lret),     CASE(compat),  CASE(int80),     CASE(int20),     CASE(int0e),
    CASE(int1),     CASE(intff),   CASE(vmcall),    CASE(vmmcall),   CASE(vmrun),
    CASE(invlpg),   CASE(invd),    CASE(wbinvd),    CASE(clts),      CASE(sti),
    CASE(rdpmc),    CASE(monitor), CASE(mwait),     CASE(in),        CASE(ins),
    CASE(out16),    CASE(out32),   CASE(out16_low), CASE(out_fault), CASE(out_serial),
    CASE(out_last), CASE(iopl),    CASE(wrpkru),
#undef CASE
};

START_TEST(test_privileged)
{
    struct hv_machine *m = test_bound(privileged[_i].code, privileged[_i].end);
    struct hv_exit exit;

    ck_assert_int_eq(hv.run(m, hv_now_ns() + 20000000, &exit), 0);
    /* vmcall livelocks on some KVMs until a signal; that is as good an end. */
    ck_assert_msg(exit.kind == HV_EXIT_FAULT || exit.kind == HV_EXIT_KICKED, "exit %d nr %#lx",
                  exit.kind, exit.nr);
    test_free(m);
}
END_TEST

GUEST(all_ports, "mov %eax, %edx; xor %eax, %eax; out %al, %dx; ud2");

/* A sample of all ports, all of those near the open one. */
START_TEST(test_ports)
{
    struct snapshot *snap = test_snapshot(guest_all_ports, guest_all_ports_end, NULL);
    struct hv_machine *m = test_machine(snap);
    struct hl_error err = HL_ERROR_INIT;
    struct hv_exit exit;

    for (uint64_t port = 0; port < 0x10000; port += port < 0x100 ? 1 : 509) {
        hv.set_return(m, port);
        exit = test_run(m);
        if (port == 0x48)
            ck_assert_int_eq(exit.kind, HV_EXIT_SYSCALL);
        else
            ck_assert_msg(exit.kind == HV_EXIT_FAULT && exit.fault.vector == 13 &&
                              exit.fault.error_code == 0,
                          "port %#lx: exit %d vector %u", port, exit.kind, exit.fault.vector);
        ck_assert_msg(hv.bind(m, snap, &err) == 0, "%s", err.text);
    }
    test_free(m);
    snapshot_unref(snap);
}
END_TEST

/* Sets the flags in rax, leaves, and is reset: they must be gone. */
GUEST(flags, "mov %rax, %rbx; pushf; pop %rsi; push %rbx; popf; mov $0x100000, %eax\n"
             "mov $1, %edi; call *%rax; ud2");

START_TEST(test_flags)
{
    static const uint64_t flags[] = {FLAG_DF, FLAG_NT, FLAG_AC, FLAG_ID, 1, 0x244cd5, 0x800};
    struct hv_machine *m = BOUND(flags);
    struct hv_exit exit;

    for (size_t i = 0; i < sizeof(flags) / sizeof(flags[0]); i++) {
        for (int round = 0; round < 2; round++) {
            hv.set_return(m, flags[i]);
            exit = test_run(m);
            ck_assert_int_eq(exit.kind, HV_EXIT_HYPERCALL);
            ck_assert_msg((exit.args[0] & 0x244dd5) == 0, "flags %#lx survived as %#lx", flags[i],
                          exit.args[0]);
            test_reset(m, 0);
            test_expect_audit(m, NULL);
        }
    }
    test_free(m);
}
END_TEST

/* The trap flag set by the very instruction before the out: the out is not trapped on every KVM,
 * but what was pending must not reach the next call. */
GUEST(trap_out, "test %eax, %eax; jnz 1f; mov $0x8000000000000000, %r8; mov $1, %edi\n"
                "lea 2f(%rip), %rcx; pushf; orl $0x100, (%rsp); mov %r8, %rax; or %rdi, %rax\n"
                "popf; out %al, $0x48; 2: ud2\n"
                "1: mov $2, %edi\n" HYPERCALL "ud2");

START_TEST(test_trap_flag)
{
    struct hv_machine *m = BOUND(trap_out);
    struct hv_exit exit = test_run(m);

    if (exit.kind == HV_EXIT_HYPERCALL) {
        ck_assert_uint_eq(exit.nr, 1);
        test_reset(m, 0);
        test_expect_audit(m, NULL);
        hv.set_return(m, 1);
        test_expect_hypercall(m, 2);
    } else {
        ck_assert_int_eq(exit.kind, HV_EXIT_FAULT);
        ck_assert_uint_eq(exit.fault.vector, 1);
    }
    test_free(m);
}
END_TEST

GUEST(spin, "1: inc %rbx; mov %rbx, 0x601000; jmp 1b");

static uint64_t counter(struct hv_machine *m)
{
    uint64_t value;

    ck_assert_int_eq(hv.mem_read(m, GUEST_DATA + 0x1000, &value, sizeof(value)), 0);
    return value;
}

START_TEST(test_deadline)
{
    struct hv_machine *m = BOUND(spin);
    struct hv_exit exit;
    uint64_t last = 0;

    /* A run may get nowhere when its thread is not given the CPU in time. */
    for (int i = 0, went_on = 0; went_on < 5; i++) {
        uint64_t until = hv_now_ns() + 3000000;

        ck_assert_int_lt(i, 500);

        ck_assert_int_eq(hv.run(m, until, &exit), 0);
        ck_assert_int_eq(exit.kind, HV_EXIT_KICKED);
        ck_assert_uint_ge(hv_now_ns(), until);
        ck_assert_uint_ge(counter(m), last);
        went_on += counter(m) > last;
        last = counter(m);
    }
    ck_assert_int_eq(hv.run(m, 0, &exit), 0);
    ck_assert_int_eq(exit.kind, HV_EXIT_KICKED);
    test_reset(m, 0);
    test_expect_audit(m, NULL);
    test_free(m);
}
END_TEST

static void *kick_soon(void *arg)
{
    struct timespec wait = {.tv_nsec = 2000000};

    nanosleep(&wait, NULL);
    hv.kick(arg);
    return NULL;
}

START_TEST(test_kick)
{
    struct hv_machine *m = BOUND(spin);
    struct hv_exit exit;
    pthread_t thread;
    uint64_t start;

    for (int i = 0; i < 10; i++) {
        ck_assert_int_eq(pthread_create(&thread, NULL, kick_soon, m), 0);
        ck_assert_int_eq(hv.run(m, UINT64_MAX, &exit), 0);
        ck_assert_int_eq(exit.kind, HV_EXIT_KICKED);
        pthread_join(thread, NULL);
    }
    hv.kick(m); /* before the run: it comes back without having got anywhere */
    ck_assert_int_eq(hv.run(m, UINT64_MAX, &exit), 0);
    ck_assert_int_eq(exit.kind, HV_EXIT_KICKED);
    hv.kick(m); /* before a reset: meant for the call that is over */
    test_reset(m, 0);
    start = hv_now_ns();
    ck_assert_int_eq(hv.run(m, start + 2000000, &exit), 0);
    ck_assert_uint_ge(hv_now_ns(), start + 2000000);
    test_free(m);
}
END_TEST

/* Kicked with a hypercall's return under way: nothing is lost or done twice. */
GUEST(count_calls,
      "1: inc %rbx; mov %rbx, %rsi\n" CALL(1) "add %rax, %r12; mov %r12, %rsi\n" CALL(2) "jmp 1b");

START_TEST(test_kick_on_return)
{
    struct hv_machine *m = BOUND(count_calls);
    struct hv_exit exit = {0};
    uint64_t sum = 0;

    for (uint64_t i = 1; i <= 200; i++) {
        exit = test_run(m);
        ck_assert_int_eq(exit.kind, HV_EXIT_HYPERCALL);
        ck_assert_uint_eq(exit.args[0], i);
        hv.set_return(m, i);
        sum += i;
        hv.kick(m);
        ck_assert_int_eq(hv.run(m, UINT64_MAX, &exit), 0);
        ck_assert_int_eq(exit.kind, HV_EXIT_KICKED);
        exit = test_run(m);
        ck_assert_int_eq(exit.kind, HV_EXIT_HYPERCALL);
        ck_assert_uint_eq(exit.nr, 2);
        ck_assert_uint_eq(exit.args[0], sum);
    }
    test_free(m);
}
END_TEST

static void *run_elsewhere(void *arg)
{
    struct hv_exit exit;

    if (hv_thread_init() < 0 || hv.run(arg, UINT64_MAX, &exit) < 0)
        return NULL;
    hv_thread_fini();
    return exit.kind == HV_EXIT_HYPERCALL ? arg : NULL;
}

/* Made and run on one thread, gone on with on another. */
START_TEST(test_threads)
{
    struct hv_machine *m = BOUND(count_calls);
    pthread_t thread;
    void *result = NULL;

    test_expect_hypercall(m, 1);
    ck_assert_int_eq(pthread_create(&thread, NULL, run_elsewhere, m), 0);
    pthread_join(thread, &result);
    ck_assert_ptr_eq(result, m);
    test_expect_hypercall(m, 1);
    test_free(m);
}
END_TEST

START_TEST(test_host_open)
{
    struct hv_host_config config = {.kvm_fd = open("/dev/null", O_RDWR), .nursery_fd = -1};
    struct hl_error err = HL_ERROR_INIT;
    struct hv_host *host = NULL;

    ck_assert_int_lt(hv.host_open(&host, &config, &err), 0);
    ck_assert_ptr_null(host);
    ck_assert_ptr_nonnull(strstr(err.text, "/dev/kvm"));
    close(config.kvm_fd);

    config.kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    ck_assert_int_eq(hv.host_open(&host, &config, &err), 0);
    hv.host_close(host);
    ck_assert_int_ge(fcntl(config.kvm_fd, F_GETFD), 0); /* borrowed: still open */
    close(config.kvm_fd);
    hv.host_close(NULL);
}
END_TEST

START_TEST(test_measure)
{
    uint32_t ns[50] = {0};
    struct hl_error err = HL_ERROR_INIT;

    ck_assert_msg(hv.measure_entry(test_host, 50, ns, &err) == 0, "%s", err.text);
    for (size_t i = 0; i < 50; i++)
        ck_assert_uint_gt(ns[i], 0);
}
END_TEST

int main(void)
{
    TCase *tc = tcase_create("exits");
    int r;

    test_open();
    tcase_set_timeout(tc, 120);
    tcase_add_checked_fixture(tc, test_thread, NULL);
    tcase_add_test(tc, test_hypercall);
    tcase_add_test(tc, test_syscall);
    tcase_add_test(tc, test_own_out);
    tcase_add_test(tc, test_died);
    tcase_add_loop_test(tc, test_fault, 0, sizeof(faults) / sizeof(faults[0]));
    tcase_add_loop_test(tc, test_privileged, 0, sizeof(privileged) / sizeof(privileged[0]));
    tcase_add_test(tc, test_ports);
    tcase_add_test(tc, test_flags);
    tcase_add_test(tc, test_trap_flag);
    tcase_add_test(tc, test_deadline);
    tcase_add_test(tc, test_kick);
    tcase_add_test(tc, test_kick_on_return);
    tcase_add_test(tc, test_threads);
    tcase_add_test(tc, test_host_open);
    tcase_add_test(tc, test_measure);
    r = tests_run(tc, "kvm exits");
    hv.host_close(test_host);
    return r;
}
