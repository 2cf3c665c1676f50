/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The confinement, seen from inside: each case forks a child that confines itself and then does one
 * thing. A forbidden one must end in SIGSYS or in an error; a permitted one must work, or the test
 * of the forbidden ones would prove nothing.
 */
#include "config.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <linux/sockios.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon/confine.h"
#include "tests/unit/tests_run.h"

enum outcome { WORKED = 0, REFUSED = 10, NOT_CONFINED = 11, KILLED = 100 };

struct deed {
    const char *name;
    bool (*act)(void); /* whether it worked */
    bool allowed;
};

static bool do_open(void)
{
    return open("/etc/passwd", O_RDONLY) >= 0;
}

static bool do_create(void)
{
    return syscall(SYS_openat, AT_FDCWD, "/tmp/hld-confine", O_CREAT | O_WRONLY, 0600) >= 0;
}

static bool do_unlink(void)
{
    return unlink("/tmp/hld-confine-none") == 0 || errno == ENOENT;
}

static bool do_socket(void)
{
    return socket(AF_UNIX, SOCK_STREAM, 0) >= 0;
}

static bool do_inet(void)
{
    return socket(AF_INET, SOCK_STREAM, 0) >= 0;
}

static bool do_exec(void)
{
    execl("/bin/true", "true", NULL);
    return false;
}

static bool do_fork(void)
{
    return syscall(SYS_fork) >= 0;
}

static bool do_clone(void)
{
    return syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0) >= 0;
}

static bool do_ptrace(void)
{
    return ptrace(PTRACE_TRACEME, 0, NULL, NULL) == 0;
}

static bool do_kill_parent(void)
{
    return kill(getppid(), 0) == 0;
}

static bool do_tgkill_parent(void)
{
    return syscall(SYS_tgkill, getppid(), getppid(), 0) == 0;
}

static bool do_socketpair(void)
{
    int pair[2];

    return socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0;
}

static bool do_mmap_exec(void)
{
    return mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) !=
           MAP_FAILED;
}

static bool do_mprotect_exec(void)
{
    void *p = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    return p != MAP_FAILED && mprotect(p, 4096, PROT_READ | PROT_EXEC) == 0;
}

static bool do_socket_ioctl(void)
{
    int unread;

    return ioctl(-1, SIOCOUTQ, &unread) < 0 && errno == EBADF;
}

static bool do_tty_ioctl(void)
{
    return ioctl(0, TIOCSTI, "x") == 0 || errno != ENOSYS;
}

/* No descriptor: let through, it ends in EBADF. */
static bool do_unused_kvm_ioctl(void)
{
    return ioctl(-1, KVM_GET_DIRTY_LOG, NULL) < 0 && errno == EBADF;
}

static bool do_used_kvm_ioctl(void)
{
    return ioctl(-1, KVM_RESET_DIRTY_RINGS, NULL) < 0 && errno == EBADF;
}

static bool do_setuid(void)
{
    return setuid(getuid()) == 0;
}

static bool do_unshare(void)
{
    return syscall(SYS_unshare, 0x10000000) == 0;
}

static bool do_mount(void)
{
    return syscall(SYS_mount, "none", "/", "tmpfs", 0, NULL) == 0;
}

static bool do_bpf(void)
{
    return syscall(SYS_bpf, 0, NULL, 0) == 0 || errno == EFAULT || errno == EINVAL;
}

static bool do_io_uring(void)
{
    return syscall(SYS_io_uring_setup, 1, NULL) >= 0 || errno == EFAULT;
}

static bool do_dumpable(void)
{
    return prctl(PR_SET_DUMPABLE, 1, 0, 0, 0) == 0;
}

static bool do_raise_limit(void)
{
    struct rlimit limit = {RLIM_INFINITY, RLIM_INFINITY};

    return setrlimit(RLIMIT_CORE, &limit) == 0;
}

static void *thread(void *arg)
{
    *(bool *)arg = true;
    return NULL;
}

static bool do_thread(void)
{
    bool ran = false;
    pthread_t t;

    if (pthread_create(&t, NULL, thread, &ran) != 0)
        return false;
    pthread_join(t, NULL);
    return ran;
}

static bool do_memfd(void)
{
    int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    char byte = 0;

    return fd >= 0 && ftruncate(fd, 1 << 20) == 0 && pwrite(fd, "x", 1, 5) == 1 &&
           fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW) == 0 &&
           pread(fd, &byte, 1, 5) == 1 && byte == 'x';
}

static bool do_mmap(void)
{
    char *p = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    return p != MAP_FAILED && (p[5] = 1) == 1 && mprotect(p, 4096, PROT_READ) == 0 &&
           munmap(p, 1 << 20) == 0;
}

static bool do_file_too_large(void)
{
    int fd = memfd_create("test", MFD_CLOEXEC);

    return fd >= 0 && ftruncate(fd, 1ll << 40) == 0;
}

static bool do_raise(void)
{
    signal(SIGUSR1, SIG_IGN);
    return raise(SIGUSR1) == 0;
}

static const struct deed deeds[] = {
    {"open", do_open, false},
    {"create", do_create, false},
    {"unlink", do_unlink, false},
    {"socket", do_socket, false},
    {"inet", do_inet, false},
    {"socketpair", do_socketpair, false},
    {"socket ioctl", do_socket_ioctl, false},
    {"execve", do_exec, false},
    {"fork", do_fork, false},
    {"clone", do_clone, false},
    {"ptrace", do_ptrace, false},
    {"kill", do_kill_parent, false},
    {"tgkill", do_tgkill_parent, false},
    {"mmap exec", do_mmap_exec, false},
    {"mprotect exec", do_mprotect_exec, false},
    {"ioctl", do_tty_ioctl, false},
    {"unused kvm ioctl", do_unused_kvm_ioctl, false},
    {"setuid", do_setuid, false},
    {"unshare", do_unshare, false},
    {"mount", do_mount, false},
    {"bpf", do_bpf, false},
    {"io_uring", do_io_uring, false},
    {"dumpable", do_dumpable, false},
    {"setrlimit", do_raise_limit, false},
    {"file too large", do_file_too_large, false},
    {"thread", do_thread, true},
    {"memfd", do_memfd, true},
    {"mmap", do_mmap, true},
    {"raise", do_raise, true},
    {"kvm ioctl", do_used_kvm_ioctl, true},
};

#define NDEEDS ((int)(sizeof(deeds) / sizeof(deeds[0])))

static const struct confine_options options = {.max_files = 256, .max_file_size = 1u << 30};

static int outcome_of(bool (*act)(void), bool confine)
{
    int status;
    pid_t pid = fork();

    ck_assert_int_ge(pid, 0);
    if (pid == 0) {
        struct confine_report report;

        if (confine && confine_self(&options, &report, NULL) < 0)
            _exit(NOT_CONFINED);
        _exit(act() ? WORKED : REFUSED);
    }
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS ? KILLED : WEXITSTATUS(status);
}

START_TEST(test_deed)
{
    const struct deed *deed = &deeds[_i];
    int outcome = outcome_of(deed->act, true);

    if (deed->allowed)
        ck_assert_msg(outcome == WORKED, "%s: %d", deed->name, outcome);
    else
        ck_assert_msg(outcome == KILLED || outcome == REFUSED, "%s: %d", deed->name, outcome);
}
END_TEST

/* Without confinement these work, or the case above could not fail. */
START_TEST(test_unconfined)
{
    ck_assert_int_eq(outcome_of(do_open, false), WORKED);
    ck_assert_int_eq(outcome_of(do_socket, false), WORKED);
    ck_assert_int_eq(outcome_of(do_mmap_exec, false), WORKED);
    ck_assert_int_eq(outcome_of(do_ptrace, false), WORKED);
    ck_assert_int_eq(outcome_of(do_file_too_large, false), WORKED);
}
END_TEST

static bool has(const struct confine_report *report, const char *layer)
{
    for (size_t i = 0; i < report->count; i++) {
        if (strcmp(report->layers[i], layer) == 0)
            return true;
    }
    return false;
}

static bool landlock_alone(void)
{
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || confine_landlock(&options) != 0)
        return true;
    return open("/etc/passwd", O_RDONLY) >= 0;
}

/* Reports 1 for each layer found: the child's only way to speak is its exit status. */
static bool report_complete(void)
{
    struct confine_report report;
    bool landlock = syscall(SYS_landlock_create_ruleset, NULL, 0, 1) > 0;

    return confine_self(&options, &report, NULL) == 0 && has(&report, "seccomp") &&
           has(&report, "no_new_privs") && has(&report, "no-capabilities") &&
           has(&report, "non-dumpable") && has(&report, "landlock") == landlock;
}

START_TEST(test_report)
{
    ck_assert_int_eq(outcome_of(report_complete, false), WORKED);
}
END_TEST

static bool talk_to_guests(void)
{
    const struct confine_options own = {
        .max_files = 256, .max_file_size = 1u << 30, .guest_processes = true};
    struct confine_report report;
    pid_t child = fork();
    int pidfd;

    if (child == 0) {
        pause();
        _exit(0);
    }
    pidfd = (int)syscall(SYS_pidfd_open, child, 0);
    if (pidfd < 0 || confine_self(&own, &report, NULL) < 0)
        return false;
    return do_socketpair() && do_socket_ioctl() &&
           syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0) == 0;
}

START_TEST(test_guest_processes)
{
    ck_assert_int_eq(outcome_of(talk_to_guests, false), WORKED);
}
END_TEST

START_TEST(test_landlock)
{
    if (syscall(SYS_landlock_create_ruleset, NULL, 0, 1) > 0)
        ck_assert_int_eq(outcome_of(landlock_alone, false), REFUSED);
}
END_TEST

static bool become_nobody(void)
{
    return confine_become(65534, 65534, NULL) == 0 && getuid() == 65534 && geteuid() == 65534 &&
           getgid() == 65534 && setuid(0) != 0;
}

static bool become_without_root(void)
{
    return confine_become(65534, 65534, NULL) == 0 && confine_become(65533, 65533, NULL) == -EPERM;
}

START_TEST(test_become)
{
    if (geteuid() != 0)
        return;
    ck_assert_int_eq(outcome_of(become_nobody, false), WORKED);
    ck_assert_int_eq(outcome_of(become_without_root, false), WORKED);
}
END_TEST

int main(void)
{
    TCase *tc = tcase_create("confine");

    tcase_add_loop_test(tc, test_deed, 0, NDEEDS);
    tcase_add_test(tc, test_unconfined);
    tcase_add_test(tc, test_report);
    tcase_add_test(tc, test_guest_processes);
    tcase_add_test(tc, test_landlock);
    tcase_add_test(tc, test_become);
    return tests_run(tc, "confine");
}
