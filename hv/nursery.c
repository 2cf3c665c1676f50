/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The nursery. A worker cannot fork once it is confined, and a fork of the worker would carry its
 * clients' data into a guest; so a fresh exec of the same binary does it, with an empty environment
 * and one socket.
 *
 * It is two processes: the one that was spawned only waits for the other, which is in namespaces of
 * its own, is process 1 of them where that is allowed (its end is then the end of all it made), and
 * serves requests. Layers that this system refuses are left out and missing from the report: a
 * guest's seccomp filter, its single descriptor and its replacement after each call do not depend
 * on them.
 */
#include "config.h"

#include "hv/nursery.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "hv/process_socket.h"
#include "hv/process_zygote.h"

#define NURSERY_FD 3

static const struct {
    uint32_t bit;
    const char *name;
} layers[] = {
    {PROCESS_LAYER_NO_NEW_PRIVS, "no_new_privs"},
    {PROCESS_LAYER_NO_CAPABILITIES, "no-capabilities"},
    {PROCESS_LAYER_USER_NAMESPACE, "user-namespace"},
    {PROCESS_LAYER_NAMESPACES, "net-ipc-uts-namespaces"},
    {PROCESS_LAYER_PID_NAMESPACE, "pid-namespace"},
    {PROCESS_LAYER_EMPTY_ROOT, "empty-root"},
    {PROCESS_LAYER_RLIMITS, "rlimits"},
};

#define LAYERS (sizeof(layers) / sizeof(layers[0]))
_Static_assert(LAYERS <= NURSERY_LAYERS_MAX, "room for all");

/* Namespaces, the most that is allowed first. */
static const struct {
    unsigned long flags;
    uint32_t bits;
} attempts[] = {
    {CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNS | CLONE_NEWPID |
         CLONE_NEWCGROUP,
     PROCESS_LAYER_USER_NAMESPACE | PROCESS_LAYER_NAMESPACES | PROCESS_LAYER_PID_NAMESPACE},
    {CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWCGROUP,
     PROCESS_LAYER_NAMESPACES | PROCESS_LAYER_PID_NAMESPACE},
    {0, 0},
};

static void unblock_signals(void)
{
    sigset_t none;

    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

/* Of all of them, the one that ends a process at its parent's end. */
static bool die_with_parent(pid_t parent)
{
    return prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) == 0 && getppid() == parent;
}

static bool set_limits(void)
{
    const struct rlimit none = {0, 0};
    struct rlimit files;

    /* Descriptors on their way between processes count against the sender's limit, those of all
     * its uid's processes together: the most there is. A guest's own is small. */
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    return setrlimit(RLIMIT_CORE, &none) == 0 && setrlimit(RLIMIT_MSGQUEUE, &none) == 0 &&
           setrlimit(RLIMIT_MEMLOCK, &none) == 0;
}

static bool drop_capabilities(void)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2] = {{0}, {0}};

    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
    /* Refused without CAP_SETPCAP; no_new_privs then has to do. */
    for (unsigned long cap = 0; cap < 64; cap++)
        prctl(PR_CAPBSET_DROP, cap, 0, 0, 0);
    if (syscall(SYS_capset, &header, data) < 0 || syscall(SYS_capget, &header, data) < 0)
        return false;
    return (data[0].effective | data[0].permitted | data[0].inheritable | data[1].effective |
            data[1].permitted | data[1].inheritable) == 0;
}

/* An empty directory, read only, as root; what was there is detached. Directory descriptors opened
 * before go on working. */
static bool empty_root(void)
{
    const unsigned long flags = MS_NOSUID | MS_NODEV | MS_NOEXEC;

    return mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
           mount("none", "/proc", "tmpfs", flags, "size=4k,mode=555") == 0 && chdir("/proc") == 0 &&
           syscall(SYS_pivot_root, ".", ".") == 0 && umount2(".", MNT_DETACH) == 0 &&
           chdir("/") == 0 &&
           mount(NULL, "/", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | flags, NULL) == 0;
}

/* When memory runs out, guests go before whoever serves them. */
static void offer_to_oom_killer(void)
{
    _cleanup_close_ int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

    if (fd >= 0 && write(fd, "900", 3) < 0)
        return;
}

static void answer(int sock, int error, uint32_t step, uint32_t report)
{
    struct process_reply reply = {
        .magic = PROCESS_MAGIC, .error = error, .step = step, .layers = report};

    process_send(sock, &reply, sizeof(reply), NULL, 0);
}

static void make_zygote(const struct process_request *request, size_t len, const int fds[2],
                        int proc)
{
    pid_t self = getpid(), pid;

    /* Not fork(3): nothing of libc's (or of a sanitizer's, which starts a thread) is to be
     * registered with the kernel in a process that is about to unmap it. */
    pid = (pid_t)syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);
    if (pid == 0) {
        if (!die_with_parent(self))
            _exit(1);
        process_zygote_become(request, len, fds[0], fds[1], proc);
    }
    if (pid < 0)
        answer(fds[0], -errno, PROCESS_STEP_FORK, 0);
}

static int serve(int fd, int proc, uint32_t report)
{
    struct process_request *request = malloc(sizeof(*request));

    if (!request)
        return 1;
    for (;;) {
        size_t len = sizeof(*request);
        int fds[2];
        int rc = process_receive(fd, request, &len, fds, -1);

        if (rc < 0 && rc != -EPROTO)
            break;
        if (rc == 0 && len >= sizeof(request->header) && fds[1] >= 0) {
            if (request->header.kind == PROCESS_REQUEST_ZYGOTE)
                make_zygote(request, len, fds, proc);
            else if (request->header.kind == PROCESS_REQUEST_REPORT)
                answer(fds[0], 0, PROCESS_STEP_NONE, report);
        }
        for (int i = 0; i < 2; i++) {
            if (rc == 0 && fds[i] >= 0)
                close(fds[i]);
        }
    }
    free(request);
    return 0;
}

/* The inner process: in its namespaces, not confined yet. */
static int inner_main(int fd, uint32_t report)
{
    int proc = open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC);

    if (proc < 0)
        return 1;
    signal(SIGCHLD, SIG_IGN); /* children leave no zombies */
    offer_to_oom_killer();
    if (report & PROCESS_LAYER_NAMESPACES && empty_root())
        report |= PROCESS_LAYER_EMPTY_ROOT;
    if (set_limits())
        report |= PROCESS_LAYER_RLIMITS;
    if (drop_capabilities())
        report |= PROCESS_LAYER_NO_CAPABILITIES;
    if (prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1)
        report |= PROCESS_LAYER_NO_NEW_PRIVS;
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    prctl(PR_SET_NAME, "hld-nursery");
    return serve(fd, proc, report);
}

int nursery_main(int fd)
{
    pid_t outer = getpid(), pid = -1;
    uint32_t report = 0;
    int status = 0;

    unblock_signals();
    signal(SIGCHLD, SIG_DFL);
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        return 1;
    for (size_t i = 0; pid < 0 && i < sizeof(attempts) / sizeof(attempts[0]); i++) {
        pid = (pid_t)syscall(SYS_clone, attempts[i].flags | SIGCHLD, NULL, NULL, NULL, NULL);
        report = attempts[i].bits;
    }
    if (pid < 0)
        return 1;
    if (pid == 0) {
        /* In a new process namespace the parent has number 0. */
        if (!die_with_parent(report & PROCESS_LAYER_PID_NAMESPACE ? 0 : outer))
            _exit(1);
        _exit(inner_main(fd, report));
    }
    close(fd);
    drop_capabilities();
    prctl(PR_SET_NAME, "hld-nursery");
    while (waitpid(pid, &status, 0) < 0) {
        if (errno != EINTR)
            return 1;
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

/* Between fork and exec: system calls alone. */
static void __attribute__((noreturn)) exec_nursery(const char *exe, int sock)
{
    char *argv[] = {(char[]){"hld"}, (char[]){"--nursery"}, NULL};
    char *envp[4] = {NULL};
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);

    setsid();                                    /* a terminal's signals are the daemon's to see */
    sock = fcntl(sock, F_DUPFD, NURSERY_FD + 1); /* out of the way of 0 to 2 */
    if (null >= 0) {
        dup2(null, STDIN_FILENO);
        dup2(null, STDOUT_FILENO);
    }
    if (sock < 0 || dup2(sock, NURSERY_FD) < 0)
        _exit(127);
#ifdef HL_SANITIZED
    const char *const names[] = {"ASAN_OPTIONS=", "UBSAN_OPTIONS=", "TSAN_OPTIONS="};
    size_t n = 0;

    for (char **var = environ; *var; var++) {
        for (size_t i = 0; i < 3 && n < 3; i++) {
            if (strncmp(*var, names[i], strlen(names[i])) == 0)
                envp[n++] = *var;
        }
    }
#endif
    syscall(SYS_close_range, NURSERY_FD + 1u, ~0u, 0u);
    execve(exe, argv, envp);
    _exit(127);
}

int nursery_spawn(const char *exe, int *fd, pid_t *pid, struct hl_error *err)
{
    struct nursery_report report;
    int ends[2];
    int rc = process_socketpair(ends);
    _cleanup_close_ int ours = ends[0], theirs = ends[1];

    *fd = -1;
    *pid = -1;
    if (rc < 0)
        return hl_error_wrap(err, rc, "a socket for the nursery");
    *pid = fork();
    if (*pid < 0)
        return hl_error_wrap(err, -errno, "forking the nursery");
    if (*pid == 0)
        exec_nursery(exe, theirs);
    close(hl_steal_fd(&theirs));
    rc = nursery_report(ours, &report, err);
    if (rc < 0) {
        kill(*pid, SIGKILL);
        waitpid(*pid, NULL, 0);
        *pid = -1;
        return hl_error_wrap(err, rc, "starting the nursery (%s --nursery)", exe);
    }
    *fd = hl_steal_fd(&ours);
    return 0;
}

int nursery_report(int fd, struct nursery_report *report, struct hl_error *err)
{
    const struct process_request_header header = {.magic = PROCESS_MAGIC,
                                                  .kind = PROCESS_REQUEST_REPORT};
    struct process_reply reply = {0};
    int ends[2];
    int rc = process_socketpair(ends);
    _cleanup_close_ int ours = ends[0], theirs = ends[1];

    report->count = 0;
    if (rc == 0)
        rc = process_send(fd, &header, sizeof(header), (const int[]){theirs, theirs}, 2);
    if (rc == 0) {
        close(hl_steal_fd(&theirs));
        rc = process_receive_reply(ours, &reply, NULL);
    }
    if (rc < 0)
        return hl_error_wrap(err, rc, "the nursery does not answer");
    for (size_t i = 0; i < LAYERS; i++) {
        if (reply.layers & layers[i].bit)
            report->layers[report->count++] = layers[i].name;
    }
    return 0;
}
