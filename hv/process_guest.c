/* SPDX-License-Identifier: Apache-2.0 */
/*
 * All the code of ours that a guest process has. The nursery copies this file's section to
 * PROCESS_TEXT_ADDR; from there it unmaps everything else (the program, libc, heap, stacks, vDSO),
 * so that a guest that reads its whole address space finds itself, the I/O window and this page or
 * two.
 * First it is the zygote: memory laid out and no guest code running, it forks one guest process per
 * request. In the guest process it is the signal handlers: a SYSCALL instruction of the guest traps
 * to SIGSYS, a fault to its signal; the handler reports the registers and waits for the answer.
 *
 * Nothing here may lie outside the section or reach out of it: no libc, no constants in memory, no
 * thread-local storage, no stack protector. The guest can jump into it and corrupt its stack; that
 * harms the guest alone, because the filter allows these few system calls for any caller that
 * reaches them here.
 */

#include "config.h"

#include <asm/prctl.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/close_range.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/ucontext.h>

#include "hv/process_wire.h"

#define CODE                                                                                       \
    __attribute__((section(PROCESS_SECTION), no_stack_protector, no_instrument_function,           \
                   no_sanitize("address", "thread", "undefined")))

#define SOCKET_FD 0
#define PROC_FD   1 /* the zygote's */
#define FILE_FD   1 /* a guest's, from its arrival until it is mapped */

#define USER_END 0x7ffffffff000ull

/* FXSAVE area (SDM volume 1, table 10-2) and XSAVE header (13.4.2). */
#define FX_SIZE      512
#define FX_FCW       0
#define FX_MXCSR     24
#define FCW_DEFAULT  0x37f
#define MXCSR_INIT   0x1f80
#define XSTATE_MAGIC 464 /* sw_reserved.magic1, asm/sigcontext.h */
#define FP_MAGIC1    0x46505853u

/* int $0x80: #GP with the gate's selector, as where there is no such gate. */
#define VECTOR_GP    13
#define ERROR_INT80  (0x80 * 8 + 2)
#define INT80_LENGTH 2

#define VECTOR_PF        14
#define ERROR_USER_FETCH 0x14

/* The kernel's struct sigaction, and the siginfo of SIGSYS. */
struct kernel_sigaction {
    void (*handler)(int, void *, void *);
    unsigned long flags;
    void (*restorer)(void);
    unsigned long mask;
};
#define KERNEL_SA_RESTORER 0x04000000ul

struct sigsys_info {
    int signo, error, code, zero;
    uint64_t call_addr;
    int syscall;
    uint32_t arch;
};
#define CODE_SECCOMP 1 /* SYS_SECCOMP */

void process_guest_restorer(void) __attribute__((visibility("hidden")));
__asm__(".pushsection " PROCESS_SECTION ",\"ax\",@progbits\n"
        ".hidden process_guest_restorer\n"
        ".type process_guest_restorer,@function\n"
        "process_guest_restorer:\n"
        "  mov $15, %eax\n" /* rt_sigreturn */
        "  syscall\n"
        "  hlt\n"
        ".size process_guest_restorer, . - process_guest_restorer\n"
        ".popsection\n");

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

#define SYS3(nr, a, b, c)    sys6(nr, (long)(a), (long)(b), (long)(c), 0, 0, 0)
#define SYS4(nr, a, b, c, d) sys6(nr, (long)(a), (long)(b), (long)(c), (long)(d), 0, 0)

CODE static void __attribute__((noreturn)) quit(void)
{
    for (;;)
        SYS3(SYS_exit_group, 1, 0, 0);
}

/* A loop that gcc would turn into a call of memset. */
CODE static inline void zero(void *at, unsigned long len)
{
    __asm__ volatile("rep stosb" : "+D"(at), "+c"(len) : "a"(0) : "memory");
}

CODE static void send_reply(int fd, long error, unsigned int step)
{
    struct process_reply reply;

    reply.magic = PROCESS_MAGIC;
    reply.error = (int32_t)error;
    reply.step = step;
    reply.layers = 0;
    sys6(SYS_sendto, fd, (long)&reply, sizeof(reply), MSG_NOSIGNAL, 0, 0);
}

union control {
    struct cmsghdr header;
    char room[CMSG_SPACE(2 * sizeof(int))];
};

CODE static long send_hello(int mem, int pidfd)
{
    struct process_reply reply;
    struct iovec iov;
    struct msghdr msg;
    union control control;

    zero(&control, sizeof(control));
    control.header.cmsg_len = CMSG_LEN(2 * sizeof(int));
    control.header.cmsg_level = SOL_SOCKET;
    control.header.cmsg_type = SCM_RIGHTS;
    ((int *)(void *)CMSG_DATA(&control.header))[0] = mem;
    ((int *)(void *)CMSG_DATA(&control.header))[1] = pidfd;
    zero(&reply, sizeof(reply));
    reply.magic = PROCESS_MAGIC;
    iov.iov_base = &reply;
    iov.iov_len = sizeof(reply);
    zero(&msg, sizeof(msg));
    msg.msg_iov = &iov;
    msg.msg_iovlen = 1;
    msg.msg_control = &control;
    msg.msg_controllen = sizeof(control);
    return SYS3(SYS_sendmsg, SOCKET_FD, &msg, MSG_NOSIGNAL);
}

/* The registers of a signal frame to hv_regs and back. */
#define EACH_REGISTER(DO)                                                                          \
    DO(rax, REG_RAX)                                                                               \
    DO(rbx, REG_RBX)                                                                               \
    DO(rcx, REG_RCX)                                                                               \
    DO(rdx, REG_RDX)                                                                               \
    DO(rsi, REG_RSI)                                                                               \
    DO(rdi, REG_RDI)                                                                               \
    DO(rsp, REG_RSP)                                                                               \
    DO(rbp, REG_RBP)                                                                               \
    DO(r8, REG_R8)                                                                                 \
    DO(r9, REG_R9)                                                                                 \
    DO(r10, REG_R10)                                                                               \
    DO(r11, REG_R11)                                                                               \
    DO(r12, REG_R12)                                                                               \
    DO(r13, REG_R13)                                                                               \
    DO(r14, REG_R14)                                                                               \
    DO(r15, REG_R15)                                                                               \
    DO(rip, REG_RIP)                                                                               \
    DO(rflags, REG_EFL)

#define SAVE_REGISTER(name, index) regs->name = (uint64_t)context->uc_mcontext.gregs[index];
#define LOAD_REGISTER(name, index) context->uc_mcontext.gregs[index] = (greg_t)regs->name;

CODE static void save_registers(struct hv_regs *regs, const ucontext_t *context)
{
    EACH_REGISTER(SAVE_REGISTER)
    regs->fs_base = regs->gs_base = 0;
    SYS3(SYS_arch_prctl, ARCH_GET_FS, &regs->fs_base, 0);
    SYS3(SYS_arch_prctl, ARCH_GET_GS, &regs->gs_base, 0);
}

CODE static void load_registers(const struct hv_regs *regs, ucontext_t *context)
{
    char *fx = (char *)context->uc_mcontext.fpregs;

    EACH_REGISTER(LOAD_REGISTER)
    SYS3(SYS_arch_prctl, ARCH_SET_FS, regs->fs_base, 0);
    SYS3(SYS_arch_prctl, ARCH_SET_GS, regs->gs_base, 0);
    if (!fx)
        return;
    /* XSTATE_BV of 0 sends every component to its initial state, whatever this CPU has. */
    if (*(uint32_t *)(void *)(fx + XSTATE_MAGIC) == FP_MAGIC1)
        *(uint64_t *)(void *)(fx + FX_SIZE) = 0;
    zero(fx, XSTATE_MAGIC);
    *(uint16_t *)(void *)(fx + FX_FCW) = FCW_DEFAULT;
    *(uint32_t *)(void *)(fx + FX_MXCSR) = MXCSR_INIT;
}

CODE static void send_report(int sig, const struct sigsys_info *info, const ucontext_t *context)
{
    struct process_report report;

    report.magic = PROCESS_MAGIC;
    report.kind = PROCESS_REPORT_FAULT;
    report.vector = (uint64_t)context->uc_mcontext.gregs[REG_TRAPNO];
    report.error_code = (uint64_t)context->uc_mcontext.gregs[REG_ERR];
    report.address = (uint64_t)context->uc_mcontext.gregs[REG_CR2];
    save_registers(&report.regs, context);
    if (sig == SIGILL && info->code == SI_KERNEL) {
        /* Linux 6.14 and later let uretprobe past every filter; outside a probe it ends in this
         * signal, with its number gone from rax. */
        report.kind = PROCESS_REPORT_SYSCALL;
        report.regs.rax = PROCESS_NR_URETPROBE;
    }
    if (sig == SIGSYS) {
        report.vector = report.error_code = report.address = 0;
        if (info->call_addr >> 63) {
            /* A jump into the vsyscall page, which Linux has turned into a call and a return. */
            report.vector = VECTOR_PF;
            report.error_code = ERROR_USER_FETCH;
            report.regs.rip = report.address = info->call_addr;
        } else if (info->arch == AUDIT_ARCH_X86_64) {
            report.kind = PROCESS_REPORT_SYSCALL;
        } else {
            report.vector = VECTOR_GP;
            report.error_code = ERROR_INT80;
            report.regs.rip -= INT80_LENGTH;
        }
    }
    if (sys6(SYS_sendto, SOCKET_FD, (long)&report, sizeof(report), MSG_NOSIGNAL, 0, 0) !=
        sizeof(report))
        quit();
}

/* An answer brings a descriptor if it is one that needs it; the end of the process closes any
 * other. */
CODE static void receive_answer(struct process_answer *answer)
{
    union control control;
    struct iovec iov;
    struct msghdr msg;
    long n;

    iov.iov_base = answer;
    iov.iov_len = sizeof(*answer);
    zero(&msg, sizeof(msg));
    msg.msg_iov = &iov;
    msg.msg_iovlen = 1;
    msg.msg_control = &control;
    msg.msg_controllen = CMSG_LEN(sizeof(int));
    do
        n = SYS3(SYS_recvmsg, SOCKET_FD, &msg, 0);
    while (n == -EINTR);
    if (n != sizeof(*answer) || answer->magic != PROCESS_MAGIC ||
        msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC) ||
        (msg.msg_controllen != 0) != (answer->kind == PROCESS_ANSWER_ATTACH))
        quit();
}

/* The mapping keeps the file. It is private because Linux before 6.7 makes no shared one of a file
 * that is sealed against writing. */
CODE static long map_file(const struct process_answer *answer)
{
    long at = sys6(SYS_mmap, (long)answer->addr, (long)answer->len, PROT_READ,
                   MAP_PRIVATE | MAP_FIXED, FILE_FD, 0);

    return at == (long)answer->addr ? SYS3(SYS_close, FILE_FD, 0, 0) : -EFAULT;
}

CODE static void handler(int sig, void *siginfo, void *ucontext)
{
    const struct sigsys_info *info = siginfo;
    ucontext_t *context = ucontext;
    struct process_answer answer;

    if (sig != SIGSYS || info->code != CODE_SECCOMP || info->syscall != PROCESS_NR_START)
        send_report(sig, info, context);
    for (;;) {
        long n;

        receive_answer(&answer);
        if (answer.kind == PROCESS_ANSWER_START) {
            load_registers(&answer.regs, context);
            return;
        }
        if (answer.kind == PROCESS_ANSWER_RETURN) {
            context->uc_mcontext.gregs[REG_RAX] = (greg_t)answer.value;
            return;
        }
        if (answer.kind == PROCESS_ANSWER_PROTECT)
            n = SYS3(SYS_mprotect, answer.addr, answer.len, answer.prot);
        else if (answer.kind == PROCESS_ANSWER_SET_FS)
            n = SYS3(SYS_arch_prctl, ARCH_SET_FS, answer.value, 0);
        else if (answer.kind == PROCESS_ANSWER_ATTACH)
            n = map_file(&answer);
        else if (answer.kind == PROCESS_ANSWER_DETACH)
            n = SYS3(SYS_munmap, HL_ABI_BULK_ADDR, HL_ABI_BULK_SIZE, 0);
        else
            n = -EINVAL;
        if (n < 0)
            quit();
    }
}

/* To value, or to what we have if that is less. */
CODE static long limit(int resource, uint64_t value)
{
    struct rlimit bounds;
    long rc = SYS4(SYS_prlimit64, 0, resource, 0, &bounds);

    if (bounds.rlim_max > value)
        bounds.rlim_max = value;
    bounds.rlim_cur = bounds.rlim_max;
    return rc < 0 ? rc : SYS4(SYS_prlimit64, 0, resource, &bounds, 0);
}

/* memory: of the guest, from 0. */
CODE static long set_limits(uint64_t memory)
{
    const uint64_t runtime = PROCESS_TEXT_SIZE + PROCESS_CONFIG_SIZE + 2 * PROCESS_STACK_SIZE;
    long rc = 0;

    /* What is mapped by now, and the bulk window. */
    rc |= limit(RLIMIT_AS, memory - PROCESS_GUEST_MIN + runtime + HL_ABI_BULK_SIZE);
    rc |= limit(RLIMIT_CORE, 0);
    rc |= limit(RLIMIT_FSIZE, 0);
    rc |= limit(RLIMIT_NPROC, 0);
    rc |= limit(RLIMIT_MEMLOCK, 0);
    rc |= limit(RLIMIT_STACK, 0);
    return rc;
}

CODE static long set_handlers(void)
{
    struct kernel_sigaction action;
    stack_t stack;
    long rc;

    zero(&stack, sizeof(stack));
    stack.ss_sp = (void *)(uintptr_t)(PROCESS_STACK_ADDR + PROCESS_STACK_SIZE);
    stack.ss_size = PROCESS_STACK_SIZE;
    rc = SYS3(SYS_sigaltstack, &stack, 0, 0);
    action.handler = handler;
    action.flags = SA_SIGINFO | SA_ONSTACK | KERNEL_SA_RESTORER;
    action.restorer = process_guest_restorer;
    action.mask = ~0ul;
    rc |= SYS4(SYS_rt_sigaction, SIGSEGV, &action, 0, sizeof(action.mask));
    rc |= SYS4(SYS_rt_sigaction, SIGBUS, &action, 0, sizeof(action.mask));
    rc |= SYS4(SYS_rt_sigaction, SIGILL, &action, 0, sizeof(action.mask));
    rc |= SYS4(SYS_rt_sigaction, SIGFPE, &action, 0, sizeof(action.mask));
    rc |= SYS4(SYS_rt_sigaction, SIGTRAP, &action, 0, sizeof(action.mask));
    rc |= SYS4(SYS_rt_sigaction, SIGSYS, &action, 0, sizeof(action.mask));
    return rc;
}

CODE static void __attribute__((noreturn)) refuse(long error, unsigned int step)
{
    send_reply(SOCKET_FD, error, step);
    quit();
}

/* The forked child: socket, window and its own memory handed out, everything else given away. */
CODE static void __attribute__((noreturn)) become_guest(int sock, int window, long parent)
{
    const struct process_config *config = (const void *)(uintptr_t)PROCESS_CONFIG_ADDR;
    struct sock_fprog program;
    long mem, pidfd, rc;

    /* Whoever made us may be gone before the death signal is set. */
    SYS3(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0);
    if (SYS3(SYS_getppid, 0, 0, 0) != parent || SYS3(SYS_dup2, sock, SOCKET_FD, 0) < 0)
        quit();
    /* A stopped member is a danger to its process group: when the group is orphaned, all of it gets
     * a SIGHUP. */
    SYS3(SYS_setsid, 0, 0, 0);
    rc = sys6(SYS_mmap, HL_ABI_IO_ADDR, (long)config->io_size, PROT_READ | PROT_WRITE,
              MAP_SHARED | MAP_FIXED, window, 0);
    if (rc != HL_ABI_IO_ADDR)
        refuse(rc, PROCESS_STEP_WINDOW);
    /* Only a dumpable process owns its files in /proc. */
    SYS3(SYS_prctl, PR_SET_DUMPABLE, 1, 0);
    mem = SYS4(SYS_openat, PROC_FD, config->mem_path, O_RDWR | O_CLOEXEC, 0);
    SYS3(SYS_prctl, PR_SET_DUMPABLE, 0, 0);
    if (mem < 0)
        refuse(mem, PROCESS_STEP_PROC);
    pidfd = SYS3(SYS_pidfd_open, SYS3(SYS_getpid, 0, 0, 0), 0, 0);
    if (pidfd < 0)
        refuse(pidfd, PROCESS_STEP_PIDFD);
    rc = set_handlers();
    if (rc < 0)
        refuse(rc, PROCESS_STEP_SIGNALS);
    if (set_limits(config->memory_size) < 0)
        refuse(-EPERM, PROCESS_STEP_LIMITS);
    rc = send_hello((int)mem, (int)pidfd);
    if (rc != sizeof(struct process_reply))
        refuse(rc < 0 ? rc : -EIO, PROCESS_STEP_HELLO);
    /* The socket and one more, by which a file arrives. Only now: descriptors under way count
     * against it. */
    if (limit(RLIMIT_NOFILE, FILE_FD + 1) < 0)
        quit();
    if (SYS3(SYS_close_range, SOCKET_FD + 1, ~0u, 0) < 0)
        quit();
    program.len = (unsigned short)config->filter_len;
    program.filter = (struct sock_filter *)config->filter;
    if (SYS3(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) < 0)
        quit();
    /* Traps; the handler goes on from here and comes back in the guest. */
    SYS3(PROCESS_NR_START, 0, 0, 0);
    quit();
}

CODE static void receive_request(long self)
{
    struct process_request_header request;
    struct iovec iov;
    struct msghdr msg;
    union control control;
    int *fds = (int *)(void *)CMSG_DATA(&control.header);
    long n, pid;

    zero(&control, sizeof(control));
    zero(&msg, sizeof(msg));
    iov.iov_base = &request;
    iov.iov_len = sizeof(request);
    msg.msg_iov = &iov;
    msg.msg_iovlen = 1;
    msg.msg_control = &control;
    msg.msg_controllen = sizeof(control);
    n = SYS3(SYS_recvmsg, SOCKET_FD, &msg, MSG_CMSG_CLOEXEC);
    if (n == -EINTR)
        return;
    if (n != sizeof(request) || msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC) ||
        msg.msg_controllen != sizeof(control) ||
        control.header.cmsg_len != CMSG_LEN(2 * sizeof(int)) ||
        control.header.cmsg_level != SOL_SOCKET || control.header.cmsg_type != SCM_RIGHTS ||
        request.magic != PROCESS_MAGIC || request.kind != PROCESS_REQUEST_GUEST)
        quit(); /* nobody but the worker speaks here, and a worker gone wrong has no use for us */
    pid = sys6(SYS_clone, SIGCHLD, 0, 0, 0, 0, 0);
    if (pid == 0)
        become_guest(fds[0], fds[1], self);
    if (pid < 0)
        send_reply(fds[0], pid, PROCESS_STEP_FORK);
    SYS3(SYS_close, fds[0], 0, 0);
    SYS3(SYS_close, fds[1], 0, 0);
}

CODE void process_guest_entry(void)
{
    const struct process_config *config = (const void *)(uintptr_t)PROCESS_CONFIG_ADDR;
    uint64_t end = config->memory_size;
    long self = SYS3(SYS_getpid, 0, 0, 0);

    if (SYS3(SYS_munmap, 0, PROCESS_GUEST_MIN, 0) < 0 ||
        SYS3(SYS_munmap, end, PROCESS_TEXT_ADDR - end, 0) < 0 ||
        SYS3(SYS_munmap, PROCESS_END, USER_END - PROCESS_END, 0) < 0)
        refuse(-EFAULT, PROCESS_STEP_RUNTIME);
    send_reply(SOCKET_FD, 0, PROCESS_STEP_NONE);
    for (;;)
        receive_request(self);
}
