/* SPDX-License-Identifier: Apache-2.0 */
/* The rig: one front at a time, in a child, with a directory and a notify socket of its own. */
#include "config.h"

#include <check.h>
#include <errno.h>
#include <grp.h>
#include <poll.h>
#include <signal.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon/control.h"
#include "daemon/control.pb-c.h"
#include "daemon/front.h"
#include "daemon/log.h"
#include "tests/unit/front_rig.h"
#include "tests/unit/front_stub.h"
#include "tests/unit/tests_run.h"

#ifdef __SANITIZE_THREAD__
/* ThreadSanitizer does not see libuv, which it is not built into, close what it opened, and takes
 * the number's next use by another thread for a race. */
const char *__tsan_default_suppressions(void);
__attribute__((visibility("default"))) const char *__tsan_default_suppressions(void)
{
    return "race:uv_pipe\n";
}
#endif

char dir[] = "/tmp/hld-front-XXXXXX";
struct configuration config;
struct configuration reloaded;
int reload_result;
pid_t front_pid = -1;
int notify_fd = -1;

static int reload(void *opaque, struct configuration *next)
{
    (void)opaque;
    *next = reloaded;
    return reload_result;
}

static void listen_for_notify(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    notify_fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    snprintf(address.sun_path, sizeof(address.sun_path), "%s/notify", dir);
    ck_assert_int_eq(bind(notify_fd, (struct sockaddr *)&address, sizeof(address)), 0);
    setenv("NOTIFY_SOCKET", address.sun_path, 1);
}

/* Waits for a notification that has text in it. */
void await_notify(const char *text)
{
    struct pollfd fd = {.fd = notify_fd, .events = POLLIN};
    char got[512];

    for (;;) {
        ssize_t n;

        ck_assert_msg(poll(&fd, 1, 20000) == 1, "no notification '%s'", text);
        n = recv(notify_fd, got, sizeof(got) - 1, 0);
        ck_assert_int_ge(n, 0);
        got[n] = '\0';
        if (strstr(got, text))
            return;
    }
}

void start_front(int listen_fd)
{
    front_pid = fork();
    if (front_pid == 0) {
        struct front_options options = {
            .config = &config,
            .backend = "process",
            .worker_exe = "/proc/self/exe",
            .version = "test",
            .listen_fd = listen_fd,
            .reload = reload,
            .registry_io = &registry_io_system,
        };
        struct hl_error err = HL_ERROR_INIT;
        int r;

        log_init(NULL);
        r = front_run(&options, &err);
        if (r < 0)
            log_error("%s", err.text);
        exit(r < 0 ? 1 : 0);
    }
    ck_assert_int_gt(front_pid, 0);
}

int wait_front(void)
{
    int status;

    ck_assert_int_eq(waitpid(front_pid, &status, 0), front_pid);
    front_pid = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

int stop_front(void)
{
    kill(front_pid, SIGTERM);
    return wait_front();
}

void set_up(void)
{
    strcpy(dir + strlen(dir) - 6, "XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(dir));
    configuration_init(&config);
    snprintf(config.socket, sizeof(config.socket), "%s/sock", dir);
    snprintf(config.state_dir, sizeof(config.state_dir), "%s/state", dir);
    config.drain_timeout_ns = 5000000000u;
    reloaded = config;
    reload_result = 0;
    listen_for_notify();
}

void tear_down(void)
{
    char command[64];

    if (front_pid > 0) {
        kill(front_pid, SIGKILL);
        waitpid(front_pid, NULL, 0);
    }
    close(notify_fd);
    snprintf(command, sizeof(command), "rm -rf %s", dir);
    ck_assert_int_eq(system(command), 0);
}

void start(void)
{
    start_front(-1);
    await_notify("READY=1");
}

int dial(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    memcpy(address.sun_path, config.socket, sizeof(address.sun_path));
    if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
        close(fd);
        return -errno;
    }
    return fd;
}

/* What the other side sent next; "" at its end. */
const char *hear(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    static char text[4096];
    ssize_t n;

    ck_assert_msg(poll(&p, 1, 20000) == 1, "nothing came");
    n = read(fd, text, sizeof(text) - 1);
    text[n > 0 ? n : 0] = '\0';
    return text;
}

int dial_and_greet(void)
{
    char expected[32];
    int fd = dial();

    ck_assert_int_ge(fd, 0);
    snprintf(expected, sizeof(expected), "uid %u", geteuid());
    ck_assert_str_eq(hear(fd), expected);
    return fd;
}

/* A connection as another uid, made by a child and passed up. Root alone can. */
int dial_as(uid_t uid)
{
    Hl__Control__Drain drain = HL__CONTROL__DRAIN__INIT;
    Hl__Control__ToWorker packet = HL__CONTROL__TO_WORKER__INIT;
    ProtobufCMessage *message = NULL;
    int ends[2], fd = -1, status;
    pid_t pid;

    packet.kind_case = HL__CONTROL__TO_WORKER__KIND_DRAIN;
    packet.drain = &drain;
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends), 0);
    pid = fork();
    if (pid == 0) {
        if (setgroups(0, NULL) < 0 || setresgid(uid, uid, uid) < 0 || setresuid(uid, uid, uid) < 0)
            _exit(1);
        fd = dial();
        _exit(fd < 0 || control_send(ends[1], &packet.base, fd) < 0);
    }
    close(ends[1]);
    ck_assert_int_eq(control_recv(ends[0], &hl__control__to_worker__descriptor, &message, &fd), 1);
    protobuf_c_message_free_unpacked(message, NULL);
    waitpid(pid, &status, 0);
    close(ends[0]);
    return fd;
}

void say(int fd, const char *text)
{
    ck_assert_int_eq(write(fd, text, strlen(text)), (int)strlen(text));
}

const char *ask(int fd, const char *text)
{
    say(fd, text);
    return hear(fd);
}

int front_rig_main(int argc, char **argv, Suite *suite)
{

    signal(SIGPIPE, SIG_IGN);
    if (sodium_init() < 0)
        return EXIT_FAILURE;
    if (argc == 2 && strcmp(argv[1], "--worker") == 0)
        return front_stub_main(3);
    return suite_run(suite);
}
