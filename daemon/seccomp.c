/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The system calls of a confined worker. Three lists: what is let through whatever its arguments;
 * what is let through only with these arguments; and what libc tries by itself on the way to
 * something harmless (looking for CPUs, for a newer call), which gets an error so that libc goes on
 * without. Everything else ends the process: nothing we link asks for it, so whoever does is not
 * us. A string in memory cannot be looked at from here, so no call that takes a path is on the
 * list.
 */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <linux/sockios.h>
#include <sched.h>
#include <seccomp.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/confine.h"

static const int allowed[] = {
    /* descriptors that are open already, and what the loop waits with */
    SCMP_SYS(read),
    SCMP_SYS(write),
    SCMP_SYS(readv),
    SCMP_SYS(writev),
    SCMP_SYS(pread64),
    SCMP_SYS(pwrite64),
    SCMP_SYS(recvmsg),
    SCMP_SYS(sendmsg),
    SCMP_SYS(recvfrom),
    SCMP_SYS(sendto),
    SCMP_SYS(shutdown),
    SCMP_SYS(close),
    SCMP_SYS(fstat),
    SCMP_SYS(lseek),
    SCMP_SYS(poll),
    SCMP_SYS(ppoll),
    SCMP_SYS(epoll_create1),
    SCMP_SYS(epoll_ctl),
    SCMP_SYS(epoll_wait),
    SCMP_SYS(epoll_pwait),
    SCMP_SYS(eventfd2),
    SCMP_SYS(pipe2),
    /* memory; mmap and mprotect have rules below */
    SCMP_SYS(memfd_create),
    SCMP_SYS(ftruncate),
    SCMP_SYS(fallocate),
    SCMP_SYS(munmap),
    SCMP_SYS(mremap),
    SCMP_SYS(madvise),
    SCMP_SYS(mincore), /* the audit skips what was never touched */
    SCMP_SYS(brk),
    /* threads; clone has a rule below */
    SCMP_SYS(futex),
    SCMP_SYS(set_robust_list),
    SCMP_SYS(rseq),
    SCMP_SYS(sched_yield),
    SCMP_SYS(sched_getaffinity),
    SCMP_SYS(exit),
    SCMP_SYS(exit_group),
    /* signals to ourselves, time, who we are */
    SCMP_SYS(rt_sigaction),
    SCMP_SYS(rt_sigprocmask),
    SCMP_SYS(rt_sigreturn),
    SCMP_SYS(sigaltstack),
    SCMP_SYS(restart_syscall),
    SCMP_SYS(timer_create),
    SCMP_SYS(timer_settime),
    SCMP_SYS(timer_gettime),
    SCMP_SYS(timer_delete),
    SCMP_SYS(clock_gettime),
    SCMP_SYS(clock_nanosleep),
    SCMP_SYS(nanosleep),
    SCMP_SYS(gettimeofday),
    SCMP_SYS(time),
    SCMP_SYS(getpid),
    SCMP_SYS(gettid),
    SCMP_SYS(getuid),
    SCMP_SYS(geteuid),
    SCMP_SYS(getgid),
    SCMP_SYS(getegid),
    SCMP_SYS(getrandom),
    SCMP_SYS(getrusage),
    SCMP_SYS(sysinfo),
#ifdef HL_SANITIZED
    /* The sanitizers' own needs, in builds for testing alone: ThreadSanitizer watches its own use
       of it. */
    SCMP_SYS(msync),
    SCMP_SYS(getcpu),
#endif
};

struct refusal {
    int nr;
    int error;
};

static const struct refusal refused[] = {
    {SCMP_SYS(clone3), ENOSYS}, /* its flags stand in memory; libc falls back to clone */
    {SCMP_SYS(open), EACCES},   /* libc looks for CPUs in /sys */
    {SCMP_SYS(openat), EACCES}, /* likewise */
    {SCMP_SYS(newfstatat), EACCES},   {SCMP_SYS(readlink), EACCES},  {SCMP_SYS(readlinkat), EACCES},
    {SCMP_SYS(access), EACCES},       {SCMP_SYS(faccessat), EACCES}, {SCMP_SYS(faccessat2), EACCES},
    {SCMP_SYS(prctl), EPERM}, /* all but the rule below */
    {SCMP_SYS(epoll_pwait2), ENOSYS}, {SCMP_SYS(statx), ENOSYS},     {SCMP_SYS(mbind), EPERM},
    {SCMP_SYS(getsockopt), EPERM},
};

/* What hv/ asks of KVM, and the two that libuv sets a descriptor's flags with. KVM_RUN first: the
 * filter looks at them in turn. */
static const unsigned long ioctls[] = {
    KVM_RUN,
    KVM_RESET_DIRTY_RINGS,
    FIONBIO,
    FIOCLEX,
    KVM_GET_API_VERSION,
    KVM_CHECK_EXTENSION,
    KVM_GET_VCPU_MMAP_SIZE,
    KVM_GET_SUPPORTED_CPUID,
    KVM_CREATE_VM,
    KVM_CREATE_VCPU,
    KVM_ENABLE_CAP,
    KVM_SET_TSS_ADDR,
    KVM_SET_USER_MEMORY_REGION,
    KVM_SET_CPUID2,
    KVM_GET_REGS,
    KVM_GET_SREGS,
    KVM_SET_SREGS,
    KVM_GET_XSAVE,
    KVM_GET_XSAVE2,
    KVM_SET_XSAVE,
    KVM_GET_XCRS,
    KVM_SET_XCRS,
    KVM_GET_DEBUGREGS,
    KVM_SET_DEBUGREGS,
    KVM_GET_MSRS,
    KVM_SET_MSRS,
    KVM_GET_VCPU_EVENTS,
};

static const int fcntls[] = {
    F_GETFL, F_SETFL, F_GETFD, F_SETFD, F_DUPFD_CLOEXEC, F_ADD_SEALS, F_GET_SEALS,
};

/* Exactly what pthread_create asks for. */
#define THREAD_FLAGS                                                                               \
    (CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SYSVSEM | CLONE_SIGHAND | CLONE_THREAD |            \
     CLONE_SETTLS | CLONE_PARENT_SETTID | CLONE_CHILD_CLEARTID)

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static int allow(scmp_filter_ctx ctx, int nr)
{
    return seccomp_rule_add(ctx, SCMP_ACT_ALLOW, nr, 0);
}

static int allow_if(scmp_filter_ctx ctx, int nr, struct scmp_arg_cmp a)
{
    return seccomp_rule_add_array(ctx, SCMP_ACT_ALLOW, nr, 1, &a);
}

static int add_conditional(scmp_filter_ctx ctx)
{
    const struct scmp_arg_cmp own_limits[] = {SCMP_A0(SCMP_CMP_EQ, 0), SCMP_A2(SCMP_CMP_EQ, 0)};
    const struct scmp_arg_cmp own_priority[] = {SCMP_A0(SCMP_CMP_EQ, PRIO_PROCESS),
                                                SCMP_A1(SCMP_CMP_EQ, 0)};
    int r = allow_if(ctx, SCMP_SYS(mmap), SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));

    if (r == 0)
        r = allow_if(ctx, SCMP_SYS(mprotect), SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
    if (r == 0)
        r = allow_if(ctx, SCMP_SYS(clone), SCMP_A0(SCMP_CMP_EQ, THREAD_FLAGS));
    if (r == 0)
        r = allow_if(ctx, SCMP_SYS(prctl), SCMP_A0(SCMP_CMP_EQ, PR_SET_NAME));
    if (r == 0)
        r = allow_if(ctx, SCMP_SYS(tgkill), SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)getpid()));
    if (r == 0)
        r = seccomp_rule_add_array(ctx, SCMP_ACT_ALLOW, SCMP_SYS(prlimit64), 2, own_limits);
    if (r == 0) /* long-run threads lower their own priority; raising it takes a capability */
        r = seccomp_rule_add_array(ctx, SCMP_ACT_ALLOW, SCMP_SYS(setpriority), 2, own_priority);
    for (size_t i = 0; r == 0 && i < COUNT(ioctls); i++)
        r = allow_if(ctx, SCMP_SYS(ioctl), SCMP_A1(SCMP_CMP_EQ, ioctls[i]));
    for (size_t i = 0; r == 0 && i < COUNT(fcntls); i++)
        r = allow_if(ctx, SCMP_SYS(fcntl), SCMP_A1(SCMP_CMP_EQ, (scmp_datum_t)fcntls[i]));
    return r;
}

/* To stop and kill a guest process by the descriptor that the nursery gave, to talk to a new one,
 * and to see what it has not read; none reaches anything that has a name. */
static int add_guest_processes(scmp_filter_ctx ctx)
{
    static const int signals[] = {SIGKILL, SIGSTOP, SIGCONT};
    const struct scmp_arg_cmp pair[] = {SCMP_A0(SCMP_CMP_EQ, AF_UNIX),
                                        SCMP_A1(SCMP_CMP_EQ, SOCK_SEQPACKET | SOCK_CLOEXEC)};
    int r = seccomp_rule_add_array(ctx, SCMP_ACT_ALLOW, SCMP_SYS(socketpair), 2, pair);

    if (r == 0)
        r = allow_if(ctx, SCMP_SYS(ioctl), SCMP_A1(SCMP_CMP_EQ, SIOCOUTQ));
    for (size_t i = 0; r == 0 && i < COUNT(signals); i++) {
        const struct scmp_arg_cmp signal[] = {SCMP_A1(SCMP_CMP_EQ, (scmp_datum_t)signals[i]),
                                              SCMP_A2(SCMP_CMP_EQ, 0), SCMP_A3(SCMP_CMP_EQ, 0)};

        r = seccomp_rule_add_array(ctx, SCMP_ACT_ALLOW, SCMP_SYS(pidfd_send_signal), 3, signal);
    }
    return r;
}

static int add_refused(scmp_filter_ctx ctx)
{
    const struct scmp_arg_cmp other = SCMP_A0(SCMP_CMP_NE, PR_SET_NAME);
    int r = 0;

    for (size_t i = 0; r == 0 && i < COUNT(refused); i++) {
        uint32_t action = SCMP_ACT_ERRNO((uint16_t)refused[i].error);

        if (refused[i].nr == SCMP_SYS(prctl))
            r = seccomp_rule_add_array(ctx, action, refused[i].nr, 1, &other);
        else
            r = seccomp_rule_add(ctx, action, refused[i].nr, 0);
    }
    return r;
}

static int build(scmp_filter_ctx ctx, const struct confine_options *options)
{
    int r = seccomp_attr_set(ctx, SCMP_FLTATR_CTL_TSYNC, 1);

    if (r == 0)
        r = seccomp_attr_set(ctx, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);
    if (r == 0)
        r = seccomp_attr_set(ctx, SCMP_FLTATR_CTL_OPTIMIZE, 2);
    for (size_t i = 0; r == 0 && i < COUNT(allowed); i++)
        r = allow(ctx, allowed[i]);
    if (r == 0)
        r = add_conditional(ctx);
    if (r == 0 && options->guest_processes)
        r = add_guest_processes(ctx);
    if (r == 0)
        r = add_refused(ctx);
    return r;
}

int confine_seccomp(const struct confine_options *options, struct hl_error *err)
{
    scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_KILL_PROCESS);
    int r;

    if (!ctx)
        return hl_error_set(err, -ENOMEM, "seccomp_init failed");
    r = build(ctx, options);
    if (r == 0)
        r = seccomp_load(ctx);
    seccomp_release(ctx);
    if (r < 0)
        return hl_error_set(err, r, "seccomp: %s", strerror(-r));
    return 0;
}
