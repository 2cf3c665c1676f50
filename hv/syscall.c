/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The Linux system calls a guest may make: what a C library needs to start, to allocate and to
 * print. There are no files, so every path is ENOENT; there are three descriptors, the standard
 * ones, which look like a terminal so that a C library sends each line when it is complete; there
 * are no other processes and threads, so waking is done and waiting is pointless. What a handler
 * reads or writes in guest memory goes through copies that check the guest's own permissions.
 *
 * A call that is not in the table is ENOSYS and counted, so that an image's owner can see what a
 * program misses. Calls that are here only to refuse are not counted: C libraries try them.
 */
#include "config.h"

#include <asm/prctl.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <sys/utsname.h>
#include <time.h>

#include "guest/hl_abi.h"
#include "hv/guest.h"

#define GUEST_PID      1
#define GUEST_ID       65534
#define WRITE_MAX      (64u * 1024)
#define IOV_COUNT_MAX  1024u
#define RANDOM_MAX     (64u * 1024)
#define COPY_STEP      1024u
#define KERNEL_TERMIOS 36u /* struct termios as the kernel has it, asm-generic/termbits.h */
#define ADDRESS_LIMIT  (1ull << 47) /* canonical lower half */
#define NS_A_SECOND    1000000000u

typedef int64_t (*syscall_fn)(struct guest *g, const uint64_t *a);

static int64_t zero(struct guest *g, const uint64_t *a)
{
    (void)g, (void)a;
    return 0;
}

static int64_t not_there(struct guest *g, const uint64_t *a)
{
    (void)g, (void)a;
    return -ENOENT;
}

static int64_t refused(struct guest *g, const uint64_t *a)
{
    (void)g, (void)a;
    return -ENOSYS;
}

static int64_t no_memory(struct guest *g, const uint64_t *a)
{
    (void)g, (void)a;
    return -ENOMEM;
}

static int64_t own_pid(struct guest *g, const uint64_t *a)
{
    (void)g, (void)a;
    return GUEST_PID;
}

static int64_t own_id(struct guest *g, const uint64_t *a)
{
    (void)g, (void)a;
    return GUEST_ID;
}

static bool is_standard(uint64_t fd)
{
    return (uint32_t)fd <= 2;
}

/* ---- memory ---- */

static int64_t machine_failed(struct guest *g, int64_t result)
{
    if (result == -EIO)
        guest_fail(g, INSTANCE_END_DIED, 0, "the machine could not change its page permissions");
    return result;
}

static int64_t sys_brk(struct guest *g, const uint64_t *a)
{
    return space_brk(&g->space, a[0]);
}

static int64_t sys_mmap(struct guest *g, const uint64_t *a)
{
    return machine_failed(g, space_mmap(&g->space, a[0], a[1], a[2], a[3]));
}

static int64_t sys_munmap(struct guest *g, const uint64_t *a)
{
    return space_munmap(&g->space, a[0], a[1]);
}

static int64_t sys_mprotect(struct guest *g, const uint64_t *a)
{
    return machine_failed(g, space_mprotect(&g->space, a[0], a[1], a[2]));
}

static int64_t sys_madvise(struct guest *g, const uint64_t *a)
{
    return space_madvise(&g->space, a[0], a[1], a[2]);
}

/* ---- output ---- */

static int level_of(uint64_t fd)
{
    return (uint32_t)fd == 2 ? HL_ABI_LOG_WARNING : HL_ABI_LOG_INFO;
}

static int64_t write_text(struct guest *g, uint64_t fd, hl_gpa addr, uint64_t len)
{
    char text[COPY_STEP];
    uint64_t done = 0;

    if (len > WRITE_MAX)
        len = WRITE_MAX;
    while (done < len) {
        size_t step = len - done < sizeof(text) ? (size_t)(len - done) : sizeof(text);

        if (guest_copy_in(g, addr + done, text, step) < 0)
            return done > 0 ? (int64_t)done : -EFAULT;
        guest_log(g, level_of(fd), text, step);
        done += step;
    }
    return (int64_t)done;
}

static bool is_output(uint64_t fd)
{
    return (uint32_t)fd == 1 || (uint32_t)fd == 2;
}

static int64_t sys_write(struct guest *g, const uint64_t *a)
{
    return is_output(a[0]) ? write_text(g, a[0], a[1], a[2]) : -EBADF;
}

static int64_t sys_writev(struct guest *g, const uint64_t *a)
{
    int64_t total = 0;

    if (!is_output(a[0]))
        return -EBADF;
    if (a[2] > IOV_COUNT_MAX)
        return -EINVAL;
    for (uint64_t i = 0; i < a[2] && total < (int64_t)WRITE_MAX; i++) {
        struct iovec iov;
        int64_t n;

        if (guest_copy_in(g, a[1] + i * sizeof(iov), &iov, sizeof(iov)) < 0)
            return total > 0 ? total : -EFAULT;
        n = write_text(g, a[0], (hl_gpa)(uintptr_t)iov.iov_base, iov.iov_len);
        if (n < 0)
            return total > 0 ? total : n;
        total += n;
        if ((uint64_t)n < iov.iov_len)
            break;
    }
    return total;
}

/* ---- descriptors ---- */

static int64_t sys_read(struct guest *g, const uint64_t *a)
{
    (void)g;
    return (uint32_t)a[0] == 0 ? 0 : -EBADF;
}

static int64_t sys_close(struct guest *g, const uint64_t *a)
{
    (void)g;
    return is_standard(a[0]) ? 0 : -EBADF;
}

static int64_t sys_lseek(struct guest *g, const uint64_t *a)
{
    (void)g;
    return is_standard(a[0]) ? -ESPIPE : -EBADF;
}

static int64_t sys_fcntl(struct guest *g, const uint64_t *a)
{
    (void)g;
    if (!is_standard(a[0]))
        return -EBADF;
    if (a[1] == F_GETFL)
        return O_RDWR;
    return a[1] == F_GETFD ? 0 : -EINVAL;
}

static int64_t sys_ioctl(struct guest *g, const uint64_t *a)
{
    const struct winsize size = {.ws_row = 25, .ws_col = 80};
    const uint8_t termios[KERNEL_TERMIOS] = {0};

    if (!is_standard(a[0]))
        return -EBADF;
    if ((uint32_t)a[1] == TCGETS)
        return guest_copy_out(g, a[2], termios, sizeof(termios));
    if ((uint32_t)a[1] == TIOCGWINSZ)
        return guest_copy_out(g, a[2], &size, sizeof(size));
    return -ENOTTY;
}

static int64_t stat_terminal(struct guest *g, hl_gpa addr)
{
    const struct stat st = {
        .st_mode = S_IFCHR | 0620,
        .st_nlink = 1,
        .st_uid = GUEST_ID,
        .st_gid = GUEST_ID,
        .st_rdev = makedev(136, 0),
        .st_blksize = 1024,
    };

    return guest_copy_out(g, addr, &st, sizeof(st));
}

static int64_t sys_fstat(struct guest *g, const uint64_t *a)
{
    return is_standard(a[0]) ? stat_terminal(g, a[1]) : -EBADF;
}

static int64_t sys_newfstatat(struct guest *g, const uint64_t *a)
{
    char first;

    if (guest_copy_in(g, a[1], &first, 1) < 0)
        return -EFAULT;
    if (first != '\0' || !(a[3] & AT_EMPTY_PATH))
        return -ENOENT;
    return is_standard(a[0]) ? stat_terminal(g, a[2]) : -EBADF;
}

/* ---- the process ---- */

static int64_t sys_arch_prctl(struct guest *g, const uint64_t *a)
{
    switch (a[0]) {
    case ARCH_SET_FS:
        if (a[1] >= ADDRESS_LIMIT)
            return -EPERM;
        if (g->hv->set_fs_base(g->machine, a[1]) < 0) {
            guest_fail(g, INSTANCE_END_DIED, 0, "the machine could not set its FS base");
            return -EIO;
        }
        g->fs_base = a[1];
        return 0;
    case ARCH_GET_FS:
        return guest_copy_out(g, a[1], &g->fs_base, sizeof(g->fs_base));
    default:
        return -EINVAL;
    }
}

static int64_t sys_exit(struct guest *g, const uint64_t *a)
{
    int code = (int)(a[0] & 0xff);

    guest_fail(g, INSTANCE_END_EXIT, code, "exited with status %d", code);
    return 0;
}

static int64_t end_by_signal(struct guest *g, uint64_t sig)
{
    const char *name;

    if (sig == 0)
        return 0;
    if (sig > 64)
        return -EINVAL;
    name = sigabbrev_np((int)sig);
    guest_fail(g, INSTANCE_END_EXIT, 128 + (int)sig, "ended itself with signal %d%s%s%s", (int)sig,
               name ? " (SIG" : "", name ? name : "", name ? ")" : "");
    return 0;
}

static int64_t sys_kill(struct guest *g, const uint64_t *a)
{
    return (uint32_t)a[0] == GUEST_PID || a[0] == 0 ? end_by_signal(g, a[1]) : -ESRCH;
}

static int64_t sys_tgkill(struct guest *g, const uint64_t *a)
{
    return (uint32_t)a[1] == GUEST_PID ? end_by_signal(g, a[2]) : -ESRCH;
}

/* Old handlers, masks and stacks read as the defaults. */
static int64_t sys_rt_sigaction(struct guest *g, const uint64_t *a)
{
    const uint64_t old[4] = {0}; /* handler, flags, restorer, mask: SIG_DFL is 0 */

    return a[2] ? guest_copy_out(g, a[2], old, sizeof(old)) : 0;
}

static int64_t sys_rt_sigprocmask(struct guest *g, const uint64_t *a)
{
    const uint64_t old = 0;

    return a[2] ? guest_copy_out(g, a[2], &old, sizeof(old)) : 0;
}

static int64_t sys_sigaltstack(struct guest *g, const uint64_t *a)
{
    const stack_t old = {.ss_flags = SS_DISABLE};

    return a[1] ? guest_copy_out(g, a[1], &old, sizeof(old)) : 0;
}

static int64_t sys_futex(struct guest *g, const uint64_t *a)
{
    (void)g;
    switch (a[1] & FUTEX_CMD_MASK) {
    case FUTEX_WAKE:
    case FUTEX_WAKE_BITSET:
        return 0;
    case FUTEX_WAIT:
    case FUTEX_WAIT_BITSET:
        return -EAGAIN;
    default:
        return -ENOSYS;
    }
}

static int64_t get_limit(struct guest *g, uint64_t resource, hl_gpa addr)
{
    struct rlimit limit = {.rlim_cur = RLIM_INFINITY, .rlim_max = RLIM_INFINITY};

    if (resource == RLIMIT_STACK)
        limit.rlim_cur = limit.rlim_max =
            snapshot_size(g->snap) - snapshot_linux(g->snap)->stack_start;
    else if (resource == RLIMIT_NOFILE)
        limit.rlim_cur = limit.rlim_max = 3;
    else if (resource == RLIMIT_CORE || resource == RLIMIT_NPROC)
        limit.rlim_cur = limit.rlim_max = 0;
    else if (resource >= RLIM_NLIMITS)
        return -EINVAL;
    return guest_copy_out(g, addr, &limit, sizeof(limit));
}

static int64_t sys_prlimit64(struct guest *g, const uint64_t *a)
{
    if ((uint32_t)a[0] != 0 && (uint32_t)a[0] != GUEST_PID)
        return -ESRCH;
    if (a[2])
        return -EPERM;
    return a[3] ? get_limit(g, a[1], a[3]) : 0;
}

static int64_t sys_getrlimit(struct guest *g, const uint64_t *a)
{
    return get_limit(g, a[0], a[1]);
}

static int64_t sys_sched_getaffinity(struct guest *g, const uint64_t *a)
{
    const uint64_t one_cpu = 1;
    int rc;

    if (a[1] < sizeof(one_cpu))
        return -EINVAL;
    rc = guest_copy_out(g, a[2], &one_cpu, sizeof(one_cpu));
    return rc < 0 ? rc : (int64_t)sizeof(one_cpu);
}

static int64_t sys_uname(struct guest *g, const uint64_t *a)
{
    const struct utsname name = {
        .sysname = "Linux",
        .nodename = "hld",
        .release = "6.1.0-hld",
        .version = "hld",
        .machine = "x86_64",
    };

    return guest_copy_out(g, a[0], &name, sizeof(name));
}

/* glibc's qsort asks how much memory there is. */
static int64_t sys_sysinfo(struct guest *g, const uint64_t *a)
{
    const struct sysinfo info = {
        .totalram = snapshot_size(g->snap),
        .freeram = snapshot_size(g->snap) / 2,
        .procs = 1,
        .mem_unit = 1,
    };

    return guest_copy_out(g, a[0], &info, sizeof(info));
}

/* ---- time and entropy ---- */

/* CPU time would be the worker's, so those clocks show the monotonic one. */
static clockid_t host_clock(uint64_t id)
{
    switch (id) {
    case CLOCK_REALTIME:
    case CLOCK_REALTIME_COARSE:
    case CLOCK_TAI:
        return CLOCK_REALTIME;
    case CLOCK_MONOTONIC:
    case CLOCK_MONOTONIC_RAW:
    case CLOCK_MONOTONIC_COARSE:
    case CLOCK_BOOTTIME:
    case CLOCK_PROCESS_CPUTIME_ID:
    case CLOCK_THREAD_CPUTIME_ID:
        return CLOCK_MONOTONIC;
    default:
        return -1;
    }
}

static int64_t sys_clock_gettime(struct guest *g, const uint64_t *a)
{
    clockid_t id = host_clock(a[0]);
    struct timespec ts;

    if (id < 0 || world_time(&g->world, id, &ts) < 0)
        return -EINVAL;
    if (id == CLOCK_MONOTONIC && !g->world.made_up) {
        uint64_t ns = (uint64_t)ts.tv_nsec + snapshot_clock_ahead(g->snap);

        ts.tv_sec += (time_t)(ns / NS_A_SECOND);
        ts.tv_nsec = (long)(ns % NS_A_SECOND);
    }
    return guest_copy_out(g, a[1], &ts, sizeof(ts));
}

static int64_t sys_clock_getres(struct guest *g, const uint64_t *a)
{
    const struct timespec ts = {.tv_nsec = 1};

    if (host_clock(a[0]) < 0)
        return -EINVAL;
    return a[1] ? guest_copy_out(g, a[1], &ts, sizeof(ts)) : 0;
}

static int64_t sys_gettimeofday(struct guest *g, const uint64_t *a)
{
    const int zone[2] = {0};
    struct timespec ts;
    int64_t tv[2];
    int rc = 0;

    if (world_time(&g->world, CLOCK_REALTIME, &ts) < 0)
        return -EINVAL;
    tv[0] = ts.tv_sec;
    tv[1] = ts.tv_nsec / 1000;
    if (a[0])
        rc = guest_copy_out(g, a[0], tv, sizeof(tv));
    if (rc == 0 && a[1])
        rc = guest_copy_out(g, a[1], zone, sizeof(zone));
    return rc;
}

static int64_t sys_time(struct guest *g, const uint64_t *a)
{
    struct timespec ts = {0};
    int rc = world_time(&g->world, CLOCK_REALTIME, &ts);
    int64_t now = ts.tv_sec;

    if (rc == 0 && a[0])
        rc = guest_copy_out(g, a[0], &now, sizeof(now));
    return rc < 0 ? rc : now;
}

static int64_t sys_getrandom(struct guest *g, const uint64_t *a)
{
    uint64_t len = a[1] < RANDOM_MAX ? a[1] : RANDOM_MAX, done = 0;
    uint8_t bytes[COPY_STEP];

    if (a[2] & ~(uint64_t)(GRND_NONBLOCK | GRND_RANDOM | 4u /* GRND_INSECURE */))
        return -EINVAL;
    while (done < len) {
        size_t step = len - done < sizeof(bytes) ? (size_t)(len - done) : sizeof(bytes);

        if (world_random(&g->world, bytes, step) < 0)
            return done > 0 ? (int64_t)done : -EAGAIN;
        if (guest_copy_out(g, a[0] + done, bytes, step) < 0)
            return done > 0 ? (int64_t)done : -EFAULT;
        done += step;
    }
    return (int64_t)done;
}

static const syscall_fn table[] = {
    [SYS_brk] = sys_brk,
    [SYS_mmap] = sys_mmap,
    [SYS_munmap] = sys_munmap,
    [SYS_mprotect] = sys_mprotect,
    [SYS_madvise] = sys_madvise,
    [SYS_mremap] = no_memory,
    [SYS_write] = sys_write,
    [SYS_writev] = sys_writev,
    [SYS_read] = sys_read,
    [SYS_close] = sys_close,
    [SYS_lseek] = sys_lseek,
    [SYS_fcntl] = sys_fcntl,
    [SYS_ioctl] = sys_ioctl,
    [SYS_fstat] = sys_fstat,
    [SYS_newfstatat] = sys_newfstatat,
    [SYS_stat] = not_there,
    [SYS_lstat] = not_there,
    [SYS_statx] = not_there,
    [SYS_open] = not_there,
    [SYS_openat] = not_there,
    [SYS_access] = not_there,
    [SYS_faccessat] = not_there,
    [SYS_readlink] = not_there,
    [SYS_readlinkat] = not_there,
    [SYS_getcwd] = not_there,
    [SYS_arch_prctl] = sys_arch_prctl,
    [SYS_set_tid_address] = own_pid,
    [SYS_set_robust_list] = zero,
    [SYS_rseq] = refused,
    [SYS_prctl] = refused,
    [SYS_exit] = sys_exit,
    [SYS_exit_group] = sys_exit,
    [SYS_getpid] = own_pid,
    [SYS_gettid] = own_pid,
    [SYS_getppid] = zero,
    [SYS_getuid] = own_id,
    [SYS_geteuid] = own_id,
    [SYS_getgid] = own_id,
    [SYS_getegid] = own_id,
    [SYS_kill] = sys_kill,
    [SYS_tkill] = sys_kill,
    [SYS_tgkill] = sys_tgkill,
    [SYS_rt_sigaction] = sys_rt_sigaction,
    [SYS_rt_sigprocmask] = sys_rt_sigprocmask,
    [SYS_sigaltstack] = sys_sigaltstack,
    [SYS_futex] = sys_futex,
    [SYS_prlimit64] = sys_prlimit64,
    [SYS_getrlimit] = sys_getrlimit,
    [SYS_sched_yield] = zero,
    [SYS_sched_getaffinity] = sys_sched_getaffinity,
    [SYS_uname] = sys_uname,
    [SYS_sysinfo] = sys_sysinfo,
    [SYS_clock_gettime] = sys_clock_gettime,
    [SYS_clock_getres] = sys_clock_getres,
    [SYS_gettimeofday] = sys_gettimeofday,
    [SYS_time] = sys_time,
    [SYS_getrandom] = sys_getrandom,
};

int64_t guest_syscall(struct guest *g, uint64_t nr, const uint64_t args[6])
{
    if (nr < sizeof(table) / sizeof(table[0]) && table[nr])
        return table[nr](g, args);
    instance_count(&g->counters.unknown_syscalls);
    return -ENOSYS;
}
