/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A front in a process of its own, with a worker that is this same program run with "--worker"
 * (front_stub.c): each test makes one thing happen and looks at what the client sees.
 */
#include "config.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <signal.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "daemon/control.h"
#include "daemon/control.pb-c.h"
#include "daemon/front.h"
#include "daemon/log.h"
#include "tests/unit/front_stub.h"

#ifdef __SANITIZE_THREAD__
/* ThreadSanitizer does not see libuv, which it is not built into, close what it opened, and takes
 * the number's next use by another thread for a race. */
const char *__tsan_default_suppressions(void);
__attribute__((visibility("default"))) const char *__tsan_default_suppressions(void)
{
    return "race:uv_pipe\n";
}
#endif

/* The front, and a client's side */

static char dir[] = "/tmp/hld-front-XXXXXX";
static struct configuration config;
static struct configuration reloaded;
static int reload_result;
static pid_t front_pid = -1;
static int notify_fd = -1;

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
static void await_notify(const char *text)
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

static void start_front(int listen_fd)
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

static int wait_front(void)
{
    int status;

    ck_assert_int_eq(waitpid(front_pid, &status, 0), front_pid);
    front_pid = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static int stop_front(void)
{
    kill(front_pid, SIGTERM);
    return wait_front();
}

static void set_up(void)
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

static void tear_down(void)
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

static void start(void)
{
    start_front(-1);
    await_notify("READY=1");
}

static int dial(void)
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
static const char *hear(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    static char text[4096];
    ssize_t n;

    ck_assert_msg(poll(&p, 1, 20000) == 1, "nothing came");
    n = read(fd, text, sizeof(text) - 1);
    text[n > 0 ? n : 0] = '\0';
    return text;
}

static int dial_and_greet(void)
{
    char expected[32];
    int fd = dial();

    ck_assert_int_ge(fd, 0);
    snprintf(expected, sizeof(expected), "uid %u", geteuid());
    ck_assert_str_eq(hear(fd), expected);
    return fd;
}

/* A connection as another uid, made by a child and passed up. Root alone can. */
static int dial_as(uid_t uid)
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

static void say(int fd, const char *text)
{
    ck_assert_int_eq(write(fd, text, strlen(text)), (int)strlen(text));
}

static const char *ask(int fd, const char *text)
{
    say(fd, text);
    return hear(fd);
}

/* Tests */

START_TEST(a_connection_reaches_the_worker_of_its_uid)
{
    struct stat st;
    int a, b;
    char pid[32];

    start();
    ck_assert_int_eq(stat(config.socket, &st), 0);
    ck_assert_uint_eq(st.st_mode & 07777, 0660);
    a = dial_and_greet();
    ck_assert_str_eq(ask(a, "echo"), "echo");
    b = dial_and_greet();
    strcpy(pid, ask(a, "p"));
    ck_assert_str_eq(ask(b, "p"), pid);
    close(a);
    close(b);
    ck_assert_int_eq(stop_front(), 0);
    ck_assert_int_lt(stat(config.socket, &st), 0);
    ck_assert_int_lt(kill(atoi(pid), 0), 0);
}
END_TEST

START_TEST(each_uid_has_a_worker_of_its_own)
{
    int a, b;
    char pid[32];

    if (geteuid() != 0)
        return;
    config.socket_mode = 0666;
    chmod(dir, 0755);
    start();
    a = dial_and_greet();
    b = dial_as(12345);
    ck_assert_str_eq(hear(b), "uid 12345");
    strcpy(pid, ask(a, "p"));
    ck_assert_str_ne(ask(b, "p"), pid);
    say(b, "q");
    ck_assert_str_eq(hear(b), "");
    ck_assert_str_eq(ask(a, "still"), "still");
    close(b);
    b = dial_as(12345);
    ck_assert_str_eq(hear(b), "uid 12345");
    close(a);
    close(b);
    ck_assert_int_eq(stop_front(), 0);
}
END_TEST

START_TEST(allow_lists_refuse)
{
    int fd;

    config.allow_uids.count = 1;
    config.allow_uids.id[0] = geteuid() + 1;
    start();
    fd = dial();
    ck_assert_str_eq(hear(fd), "");
    close(fd);
    reloaded.allow_uids.count = 0;
    reloaded.allow_gids.count = 1;
    reloaded.allow_gids.id[0] = getegid();
    /* The child copied `reloaded` when it was forked. */
    ck_assert_int_eq(stop_front(), 0);
    config.allow_uids.count = 0;
    config.allow_gids = reloaded.allow_gids;
    start();
    close(dial_and_greet());
    ck_assert_int_eq(stop_front(), 0);
}
END_TEST

START_TEST(a_dead_worker_is_replaced)
{
    int fd;

    start();
    for (int i = 0; i < 2; i++) {
        fd = dial_and_greet();
        say(fd, "q");
        ck_assert_str_eq(hear(fd), "");
        close(fd);
    }
    close(dial_and_greet());
    ck_assert_int_eq(stop_front(), 0);
}
END_TEST

START_TEST(what_a_dead_worker_had_not_received_goes_to_the_next)
{
    int first, waiting[20];
    char pid[32];

    start();
    first = dial_and_greet();
    strcpy(pid, ask(first, "p"));
    say(first, "h");
    for (int i = 0; i < 20; i++)
        waiting[i] = dial();
    usleep(50000); /* for some of them to be on their way */
    ck_assert_int_eq(kill(atoi(pid), SIGKILL), 0);
    ck_assert_str_eq(hear(first), "");
    for (int i = 0; i < 20; i++) {
        ck_assert_ptr_nonnull(strstr(hear(waiting[i]), "uid "));
        ck_assert_str_eq(ask(waiting[i], "echo"), "echo");
        close(waiting[i]);
    }
    close(first);
    ck_assert_int_eq(stop_front(), 0);
}
END_TEST

START_TEST(what_a_dead_worker_told_of_last_ends_with_it)
{
    int first, second;

    start();
    first = dial_and_greet();
    ask(first, "R none"); /* so the front has read that the worker has the first */
    say(first, "d");
    second = dial_and_greet();
    ck_assert_int_eq(kill(front_pid, SIGSTOP), 0);
    say(second, "D");
    ck_assert_str_eq(hear(first), ""); /* the worker is dead, its packets are not read */
    ck_assert_int_eq(kill(front_pid, SIGCONT), 0);
    ck_assert_str_eq(hear(second), "");
    close(first);
    close(second);
    ck_assert_int_eq(stop_front(), 0);
}
END_TEST

START_TEST(a_crash_loop_is_slowed_down)
{
    unsigned int refused = 0;

    start();
    for (int i = 0; i < 40; i++) {
        int fd = dial();

        if (hear(fd)[0] == '\0')
            refused++;
        else
            say(fd, "q");
        hear(fd);
        close(fd);
    }
    ck_assert_uint_gt(refused, 5);
    ck_assert_int_eq(stop_front(), 0);
}
END_TEST

START_TEST(a_worker_that_breaks_the_protocol_is_killed)
{
    const char *const evil[] = {"i", "g"};

    start();
    for (size_t i = 0; i < 2; i++) {
        int fd = dial_and_greet();

        say(fd, evil[i]);
        ck_assert_str_eq(hear(fd), "");
        close(fd);
    }
    close(dial_and_greet());
    ck_assert_int_eq(stop_front(), 0);
}
END_TEST

START_TEST(a_worker_that_does_not_read_costs_bounded_memory)
{
    const struct rlimit many = {.rlim_cur = 8192, .rlim_max = 8192};
    int first, fds[1500], count = 0, closed = 0;

    config.max_connections = 65536;
    setrlimit(RLIMIT_NOFILE, &many);
    start();
    first = dial_and_greet();
    say(first, "h");
    while (count < 1500 && closed == 0) {
        struct pollfd p = {.events = POLLIN};

        fds[count] = p.fd = dial();
        ck_assert_int_ge(p.fd, 0);
        closed += poll(&p, 1, count > 1000 ? 20 : 0) == 1;
        count++;
    }
    ck_assert_int_gt(closed, 0);
    for (int i = 0; i < count; i++)
        close(fds[i]);
    close(first);
    kill(front_pid, SIGTERM);
    kill(front_pid, SIGTERM);
    ck_assert_int_eq(wait_front(), 0);
}
END_TEST

START_TEST(connections_of_a_uid_are_bounded)
{
    int a, b, c;

    config.max_connections = 2;
    start();
    a = dial_and_greet();
    b = dial_and_greet();
    c = dial();
    ck_assert_str_eq(hear(c), "");
    close(c);
    close(b);
    /* The worker tells once it has seen b's end. */
    for (int i = 0; i < 200; i++) {
        c = dial();
        if (hear(c)[0] != '\0')
            break;
        close(c);
        usleep(10000);
    }
    ck_assert_str_eq(ask(c, "x"), "x");
    close(a);
    close(c);
    ck_assert_int_eq(stop_front(), 0);
}
END_TEST

START_TEST(an_idle_worker_ends_and_no_connection_is_lost)
{
    char last[32] = "";
    unsigned int changes = 0;

    config.idle_timeout_ns = 1000000;
    start();
    for (int i = 0; i < 100; i++) {
        int fd = dial_and_greet();
        char pid[32];

        strcpy(pid, ask(fd, "p"));
        changes += strcmp(pid, last) != 0;
        strcpy(last, pid);
        close(fd);
        usleep((useconds_t)(i % 5) * 700);
    }
    ck_assert_uint_gt(changes, 1);
    ck_assert_int_eq(stop_front(), 0);
}
END_TEST

START_TEST(a_connection_on_its_way_keeps_the_worker)
{
    char pid[32];
    int fd;

    config.idle_timeout_ns = 200000000;
    start();
    fd = dial_and_greet();
    strcpy(pid, ask(fd, "p"));
    ck_assert_str_eq(ask(fd, "z"), ""); /* idle, as far as it has told */
    close(fd);
    fd = dial_and_greet();
    ck_assert_str_eq(ask(fd, "p"), pid);
    close(fd);
    ck_assert_int_eq(stop_front(), 0);
}
END_TEST

START_TEST(workers_are_bounded_and_idle_ones_make_room)
{
    int a, b;

    if (geteuid() != 0)
        return;
    config.socket_mode = 0666;
    config.max_workers = 1;
    chmod(dir, 0755);
    start();
    a = dial_and_greet();
    b = dial_as(12345);
    ck_assert_str_eq(hear(b), "");
    close(b);
    close(a);
    for (int i = 0; i < 200; i++) {
        const char *text;

        b = dial_as(12345);
        text = hear(b);
        if (text[0] != '\0')
            break;
        close(b);
        usleep(10000);
    }
    ck_assert_str_eq(ask(b, "x"), "x");
    close(b);
    ck_assert_int_eq(stop_front(), 0);
}
END_TEST

START_TEST(images_are_registered_resolved_listed_and_removed)
{
    int fd;
    char entry[64];

    start();
    fd = dial_and_greet();
    snprintf(entry, sizeof(entry), "0 echo:%u", geteuid());
    ck_assert_str_eq(ask(fd, "r echo - content"), entry);
    snprintf(entry, sizeof(entry), "0 echo:%u=content", geteuid());
    ck_assert_str_eq(ask(fd, "R echo"), entry);
    ck_assert_str_eq(ask(fd, "R other"), "5 no image 'other' is registered");
    ask(fd, "r b - x");
    ask(fd, "r c - y");
    snprintf(entry, sizeof(entry), "0 b:%uc:%u+", geteuid(), geteuid());
    ck_assert_str_eq(ask(fd, "L "), entry);
    snprintf(entry, sizeof(entry), "0 echo:%u", geteuid());
    ck_assert_str_eq(ask(fd, "L c"), entry);
    ck_assert_str_eq(ask(fd, "U b"), "0 ");
    ck_assert_str_eq(ask(fd, "U b"), "5 no image 'b' is registered");
    close(fd);
    ck_assert_int_eq(stop_front(), 0);
    start();
    fd = dial_and_greet();
    snprintf(entry, sizeof(entry), "0 echo:%u=content", geteuid());
    ck_assert_str_eq(ask(fd, "R echo"), entry);
    close(fd);
    ck_assert_int_eq(stop_front(), 0);
}
END_TEST

START_TEST(hostile_registrations_are_refused)
{
    static const char *const cases[][2] = {
        {"r x u content", "3 the program is not in a sealed memory file"},
        {"r x s content", "3 the program's SHA-256 is not "},
        {"r x z content", "3 the program's size is not the one announced"},
        {"r x n content", "3 the program is missing"},
        {"r x m content", "3 memory of 18446744073709551615 is more than the limit of 1073741824"},
        {"r ../x - content", "3 an image's name is "},
        {"r .x - content", "3 an image's name is "},
        {"R a/b", "3 an image's name is "},
        {"U .tmp-0000000000000000", "3 an image's name is "},
    };
    char big[64 + 2048] = "r big - ";
    int fd;

    config.max_image_size = 1024;
    config.max_images = 2;
    config.max_disk = 1024;
    start();
    fd = dial_and_greet();
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const char *said = ask(fd, cases[i][0]);

        ck_assert_msg(strncmp(said, cases[i][1], strlen(cases[i][1])) == 0, "%s: %s", cases[i][0],
                      said);
    }
    memset(big + strlen(big), 'x', 1025);
    ck_assert_ptr_nonnull(strstr(ask(fd, big), "3 image_size: a program has 1 to 1024 bytes"));
    big[8 + 1000] = '\0';
    ck_assert_ptr_nonnull(strstr(ask(fd, big), "0 big"));
    ck_assert_ptr_nonnull(strstr(ask(fd, "r two - 0123456789012345678901234"), "8 max_disk: "));
    ck_assert_ptr_nonnull(strstr(ask(fd, "r two - 01"), "0 two"));
    ck_assert_ptr_nonnull(strstr(ask(fd, "r three - 01"), "8 max_images: at most 2"));
    close(fd);
    ck_assert_int_eq(stop_front(), 0);
}
END_TEST

static void store_file(const char *name, char path[128])
{
    snprintf(path, 128, "%s/state/snapshots/%s", dir, name);
}

START_TEST(snapshots_are_kept_and_handed_out)
{
    char entry[64], with[64], path[128];
    int fd;

    start();
    fd = dial_and_greet();
    store_file("echo", path);
    snprintf(entry, sizeof(entry), "0 echo:%u=content", geteuid());
    snprintf(with, sizeof(with), "0 echo:%u=content+memory", geteuid());
    ask(fd, "r echo - content");
    ck_assert_str_eq(ask(fd, "R echo"), entry);
    ck_assert_str_eq(ask(fd, "k echo - content memory"), "0 ");
    ck_assert_int_eq(access(path, F_OK), 0);
    ck_assert_str_eq(ask(fd, "R echo"), with);
    ck_assert_str_eq(ask(fd, "R echo"), with); /* the copy in memory */
    ck_assert_str_eq(ask(fd, "k echo - content another"), "0 ");
    snprintf(with, sizeof(with), "0 echo:%u=content+another", geteuid());
    ck_assert_str_eq(ask(fd, "R echo"), with);
    close(fd);
    ck_assert_int_eq(stop_front(), 0);
    start();
    fd = dial_and_greet();
    ck_assert_str_eq(ask(fd, "R echo"), with);
    ck_assert_str_eq(ask(fd, "R echo"), with);
    /* The same program again is another version, with other limits perhaps. */
    ask(fd, "r echo - content");
    ck_assert_int_ne(access(path, F_OK), 0);
    ck_assert_str_eq(ask(fd, "R echo"), entry);
    ck_assert_str_eq(ask(fd, "k echo - content memory"), "0 ");
    ck_assert_str_eq(ask(fd, "U echo"), "0 ");
    ck_assert_int_ne(access(path, F_OK), 0);
    close(fd);
    ck_assert_int_eq(stop_front(), 0);
}
END_TEST

START_TEST(hostile_snapshots_are_not_kept)
{
    static const char *const cases[][2] = {
        {"k x u content memory", "3 the snapshot is not in a sealed memory file"},
        {"k x z content memory", "3 the snapshot's size is not the one announced"},
        {"k x n content memory", "3 the snapshot is missing"},
        {"k x b content memory", "3 a snapshot of 18446744073709551615 bytes is not kept"},
        {"k x t content memory", "5 image 'x' is another by now"},
        {"k x - another memory", "5 image 'x' is another by now"},
        {"k y - content memory", "5 image 'y' is another by now"},
        {"k ../x - content memory", "3 an image's name is "},
        {"k x - content 0123456789012345678901234567890123456789", "8 max_snapshot_disk: "},
    };
    char entry[64], path[128];
    int fd;

    config.max_snapshot_disk = 180;
    start();
    fd = dial_and_greet();
    ask(fd, "r x - content");
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const char *said = ask(fd, cases[i][0]);

        ck_assert_msg(strncmp(said, cases[i][1], strlen(cases[i][1])) == 0, "%s: %s", cases[i][0],
                      said);
    }
    snprintf(entry, sizeof(entry), "0 x:%u=content", geteuid());
    ck_assert_str_eq(ask(fd, "R x"), entry);
    store_file("x", path);
    ck_assert_int_ne(access(path, F_OK), 0);
    ck_assert_str_eq(ask(fd, "k x - content memory"), "0 ");
    ck_assert_str_eq(ask(fd, "k x - content memory"), "0 "); /* its own place counts once */
    ask(fd, "r z - content");
    ck_assert_ptr_nonnull(strstr(ask(fd, "k z - content memory"), "8 max_snapshot_disk: "));
    close(fd);
    ck_assert_int_eq(stop_front(), 0);
}
END_TEST

START_TEST(only_the_owner_hands_a_snapshot_in)
{
    int root, other;

    if (geteuid() != 0)
        return;
    config.socket_mode = 0666;
    chmod(dir, 0755);
    start();
    root = dial_and_greet();
    other = dial_as(12345);
    hear(other);
    ask(other, "r theirs - content");
    hear(root); /* invalid */
    ask(root, "r mine - content");
    hear(other);
    ck_assert_str_eq(ask(root, "R theirs"), "0 theirs:12345=content");
    ck_assert_str_eq(ask(root, "k theirs - content memory"),
                     "7 image 'theirs' is owned by another user");
    ck_assert_str_eq(ask(other, "R mine"), "0 mine:0=content");
    ck_assert_str_eq(ask(other, "k mine - content memory"),
                     "7 image 'mine' is owned by another user");
    ck_assert_str_eq(ask(root, "R mine"), "0 mine:0=content");
    ck_assert_str_eq(ask(root, "k mine - content memory"), "0 ");
    ck_assert_str_eq(ask(other, "R mine"), "0 mine:0=content+memory");
    close(root);
    close(other);
    ck_assert_int_eq(stop_front(), 0);
}
END_TEST

static void flip(const char *path, off_t at)
{
    int fd = open(path, O_RDWR | O_CLOEXEC);
    char byte;

    if (fd < 0) {
        ck_assert_int_eq(chmod(path, 0600), 0);
        fd = open(path, O_RDWR | O_CLOEXEC);
    }
    ck_assert_int_eq(pread(fd, &byte, 1, at), 1);
    byte ^= 1;
    ck_assert_int_eq(pwrite(fd, &byte, 1, at), 1);
    close(fd);
}

START_TEST(a_damaged_snapshot_is_found_and_goes)
{
    char entry[64], damaged[64], path[128];
    struct stat st;
    int fd;

    snprintf(entry, sizeof(entry), "0 x:%u=content", geteuid());
    snprintf(damaged, sizeof(damaged), "0 x:%u=content*", geteuid());
    store_file("x", path);
    for (off_t at = 0; at == 0 || at < st.st_size; at += 7) {
        start();
        fd = dial_and_greet();
        ask(fd, "r x - content");
        ck_assert_str_eq(ask(fd, "k x - content memory"), "0 ");
        ck_assert_int_eq(stat(path, &st), 0);
        flip(path, at);
        {
            const char *said = ask(fd, "R x");

            /* What is of another version is no damage. */
            ck_assert_msg(strcmp(said, damaged) == 0 || strcmp(said, entry) == 0, "%lld: %s",
                          (long long)at, said);
        }
        ck_assert_int_ne(access(path, F_OK), 0);
        ck_assert_str_eq(ask(fd, "R x"), entry);
        ck_assert_str_eq(ask(fd, "k x - content memory"), "0 ");
        strcpy(damaged + strlen(damaged) - 1, "+memory");
        ck_assert_str_eq(ask(fd, "R x"), damaged);
        snprintf(damaged, sizeof(damaged), "0 x:%u=content*", geteuid());
        close(fd);
        ck_assert_int_eq(stop_front(), 0);
    }
}
END_TEST

/* A worker that had the program hashed once does not get another one later. */
START_TEST(a_program_is_read_again_when_its_file_changed)
{
    char hex[65], path[256], entry[64];
    uint8_t sha256[32];
    int fd;

    start();
    fd = dial_and_greet();
    ask(fd, "r x - content");
    snprintf(entry, sizeof(entry), "0 x:%u=content", geteuid());
    ck_assert_str_eq(ask(fd, "R x"), entry);
    crypto_hash_sha256(sha256, (const uint8_t *)"content", 7);
    sodium_bin2hex(hex, sizeof(hex), sha256, sizeof(sha256));
    snprintf(path, sizeof(path), "%s/state/images/%s", dir, hex);
    usleep(20000); /* times of files go by the tick */
    flip(path, 3);
    ck_assert_ptr_nonnull(strstr(ask(fd, "R x"), "is damaged"));
    close(fd);
    ck_assert_int_eq(stop_front(), 0);
}
END_TEST

START_TEST(owners_and_private_images)
{
    int root, a, b;

    if (geteuid() != 0)
        return;
    config.socket_mode = 0666;
    chmod(dir, 0755);
    start();
    root = dial_and_greet();
    a = dial_as(1001);
    b = dial_as(1002);
    hear(a);
    hear(b);
    ck_assert_str_eq(ask(a, "r mine p one"), "0 mine:1001");
    ck_assert_str_eq(hear(b), "invalid mine");
    ck_assert_str_eq(hear(root), "invalid mine");
    ck_assert_str_eq(ask(a, "R mine"), "0 mine:1001=one");
    ck_assert_str_eq(ask(b, "R mine"), "7 image 'mine' is another user's and private");
    ck_assert_str_eq(ask(b, "L "), "0 ");
    ck_assert_str_eq(ask(a, "L "), "0 mine:1001");
    ck_assert_str_eq(ask(b, "r mine - two"), "7 image 'mine' is owned by another user");
    ck_assert_str_eq(ask(b, "U mine"), "7 image 'mine' is owned by another user");
    ck_assert_str_eq(ask(root, "R mine"), "0 mine:1001=one");
    ck_assert_str_eq(ask(root, "r mine - two"), "0 mine:1001");
    ck_assert_str_eq(hear(a), "invalid mine");
    ck_assert_str_eq(hear(b), "invalid mine");
    ck_assert_str_eq(ask(b, "R mine"), "0 mine:1001=two");
    ck_assert_str_eq(ask(root, "U mine"), "0 ");
    close(root);
    close(a);
    close(b);
    ck_assert_int_eq(stop_front(), 0);
}
END_TEST

START_TEST(a_damaged_program_is_never_handed_out)
{
    char name[512], command[256];
    FILE *out;
    int fd;

    start();
    fd = dial_and_greet();
    ask(fd, "r good - good-content");
    ask(fd, "r bad - bad-content");
    close(fd);
    ck_assert_int_eq(stop_front(), 0);
    snprintf(command, sizeof(command), "grep -l bad-content %s/state/images/*", dir);
    out = popen(command, "r");
    ck_assert_ptr_nonnull(fgets(name, sizeof(name), out));
    pclose(out);
    name[strcspn(name, "\n")] = '\0';
    chmod(name, 0600);
    fd = open(name, O_WRONLY);
    ck_assert_int_eq(pwrite(fd, "B", 1, 0), 1);
    close(fd);
    start();
    fd = dial_and_greet();
    ck_assert_ptr_nonnull(strstr(ask(fd, "R bad"), "15 image 'bad'"));
    ck_assert_ptr_nonnull(strstr(ask(fd, "R bad"), "15 image 'bad'"));
    ck_assert_ptr_nonnull(strstr(ask(fd, "R good"), "=good-content"));
    ck_assert_ptr_nonnull(strstr(ask(fd, "r bad - bad-content"), "0 bad"));
    ck_assert_ptr_nonnull(strstr(ask(fd, "R bad"), "=bad-content"));
    close(fd);
    ck_assert_int_eq(stop_front(), 0);
}
END_TEST

START_TEST(many_requests_at_once_are_all_answered)
{
    int fd;
    unsigned int answers = 0;

    start();
    fd = dial_and_greet();
    ask(fd, "r x - content");
    say(fd, "M x");
    while (answers < 50) { /* several may come in one read; each holds the content once */
        for (const char *p = hear(fd); (p = strstr(p, "=content")); p++)
            answers++;
    }
    close(fd);
    ck_assert_int_eq(stop_front(), 0);
}
END_TEST

START_TEST(a_reload_reaches_workers_and_a_bad_one_changes_nothing)
{
    int fd;

    reloaded.quantum_ns = 777000;
    start();
    fd = dial_and_greet();
    kill(front_pid, SIGHUP);
    await_notify("RELOADING=1\nMONOTONIC_USEC=");
    await_notify("READY=1");
    ck_assert_str_eq(hear(fd), "quantum 777000");
    close(fd);
    ck_assert_int_eq(stop_front(), 0);
    reload_result = -EINVAL;
    start();
    fd = dial_and_greet();
    kill(front_pid, SIGHUP);
    await_notify("RELOADING=1");
    await_notify("READY=1");
    ck_assert_str_eq(ask(fd, "echo"), "echo");
    close(fd);
    ck_assert_int_eq(stop_front(), 0);
}
END_TEST

START_TEST(a_drain_waits_for_clients_then_ends)
{
    int fd;

    start();
    fd = dial_and_greet();
    kill(front_pid, SIGTERM);
    await_notify("STOPPING=1");
    ck_assert_int_eq(dial(), -ENOENT);
    ck_assert_str_eq(ask(fd, "echo"), "echo");
    close(fd);
    ck_assert_int_eq(wait_front(), 0);
}
END_TEST

START_TEST(a_drain_is_limited)
{
    int fd;

    config.drain_timeout_ns = 1000000;
    start();
    fd = dial_and_greet();
    ck_assert_int_eq(stop_front(), 0);
    ck_assert_str_eq(hear(fd), "");
    close(fd);
}
END_TEST

START_TEST(a_second_signal_ends_at_once)
{
    int fd;

    config.drain_timeout_ns = 3600000000000u;
    start();
    fd = dial_and_greet();
    kill(front_pid, SIGTERM);
    await_notify("STOPPING=1");
    kill(front_pid, SIGINT);
    ck_assert_int_eq(wait_front(), 0);
    ck_assert_str_eq(hear(fd), "");
    close(fd);
}
END_TEST

START_TEST(the_watchdog_is_fed)
{
    setenv("WATCHDOG_USEC", "100000", 1);
    start();
    unsetenv("WATCHDOG_USEC");
    for (int i = 0; i < 3; i++)
        await_notify("WATCHDOG=1");
    ck_assert_int_eq(stop_front(), 0);
}
END_TEST

START_TEST(a_socket_that_was_passed_is_served_and_left)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct stat st;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    memcpy(address.sun_path, config.socket, sizeof(address.sun_path));
    ck_assert_int_eq(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    ck_assert_int_eq(listen(fd, 5), 0);
    start_front(fd);
    await_notify("READY=1");
    close(dial_and_greet());
    ck_assert_int_eq(stop_front(), 0);
    ck_assert_int_eq(stat(config.socket, &st), 0);
    close(fd);
}
END_TEST

START_TEST(a_second_daemon_and_stale_sockets)
{
    struct configuration first = config;
    pid_t first_pid;
    int fd;

    start();
    first_pid = front_pid;
    snprintf(config.state_dir, sizeof(config.state_dir), "%s/state2", dir);
    start_front(-1); /* same socket */
    ck_assert_int_eq(wait_front(), 1);
    config = first;
    snprintf(config.socket, sizeof(config.socket), "%s/sock2", dir);
    start_front(-1); /* same state */
    ck_assert_int_eq(wait_front(), 1);
    config = first;
    close(dial_and_greet());
    kill(first_pid, SIGKILL);
    waitpid(first_pid, NULL, 0);
    start();
    close(dial_and_greet());
    ck_assert_int_eq(stop_front(), 0);
    fd = open(config.socket, O_WRONLY | O_CREAT, 0600); /* not ours to remove */
    close(fd);
    start_front(-1);
    ck_assert_int_eq(wait_front(), 1);
    ck_assert_int_eq(unlink(config.socket), 0);
}
END_TEST

int main(int argc, char **argv)
{
    Suite *suite;
    TCase *tc;
    SRunner *runner;
    int failed;

    signal(SIGPIPE, SIG_IGN);
    if (sodium_init() < 0)
        return EXIT_FAILURE;
    if (argc == 2 && strcmp(argv[1], "--worker") == 0)
        return front_stub_main(3);
    suite = suite_create("front");
    tc = tcase_create("front");
    runner = srunner_create(suite);
    tcase_set_timeout(tc, 60);
    tcase_add_checked_fixture(tc, set_up, tear_down);
    tcase_add_test(tc, a_connection_reaches_the_worker_of_its_uid);
    tcase_add_test(tc, each_uid_has_a_worker_of_its_own);
    tcase_add_test(tc, allow_lists_refuse);
    tcase_add_test(tc, a_dead_worker_is_replaced);
    tcase_add_test(tc, what_a_dead_worker_had_not_received_goes_to_the_next);
    tcase_add_test(tc, what_a_dead_worker_told_of_last_ends_with_it);
    tcase_add_test(tc, a_crash_loop_is_slowed_down);
    tcase_add_test(tc, a_worker_that_breaks_the_protocol_is_killed);
    tcase_add_test(tc, a_worker_that_does_not_read_costs_bounded_memory);
    tcase_add_test(tc, connections_of_a_uid_are_bounded);
    tcase_add_test(tc, an_idle_worker_ends_and_no_connection_is_lost);
    tcase_add_test(tc, a_connection_on_its_way_keeps_the_worker);
    tcase_add_test(tc, workers_are_bounded_and_idle_ones_make_room);
    tcase_add_test(tc, images_are_registered_resolved_listed_and_removed);
    tcase_add_test(tc, hostile_registrations_are_refused);
    tcase_add_test(tc, owners_and_private_images);
    tcase_add_test(tc, snapshots_are_kept_and_handed_out);
    tcase_add_test(tc, hostile_snapshots_are_not_kept);
    tcase_add_test(tc, only_the_owner_hands_a_snapshot_in);
    tcase_add_test(tc, a_damaged_snapshot_is_found_and_goes);
    tcase_add_test(tc, a_program_is_read_again_when_its_file_changed);
    tcase_add_test(tc, a_damaged_program_is_never_handed_out);
    tcase_add_test(tc, many_requests_at_once_are_all_answered);
    tcase_add_test(tc, a_reload_reaches_workers_and_a_bad_one_changes_nothing);
    tcase_add_test(tc, a_drain_waits_for_clients_then_ends);
    tcase_add_test(tc, a_drain_is_limited);
    tcase_add_test(tc, a_second_signal_ends_at_once);
    tcase_add_test(tc, the_watchdog_is_fed);
    tcase_add_test(tc, a_socket_that_was_passed_is_served_and_left);
    tcase_add_test(tc, a_second_daemon_and_stale_sockets);
    suite_add_tcase(suite, tc);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
