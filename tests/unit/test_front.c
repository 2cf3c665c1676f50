/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The front and its workers, clients, signals: each test makes one thing happen and looks at what
 * the client sees.
 */
#include "config.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "tests/unit/front_rig.h"

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

/* What a worker may have of hl.kv is what the registry says of the image it names. */
START_TEST(kv_is_what_the_policy_allows)
{
    static const char *const steps[][2] = {
        {"r store k x", "0 store:0"},
        {"r plain - x", "0 plain:0"},
        {"r twice K x", "3 host function 'hl.kv.get' comes twice"},
        {"K 0 store key", "5 no such key"},
        {"K 1 store key value", "0 "},
        {"K 0 store key", "0 value"},
        {"K 2 store key", "7 image 'store' may not call 'hl.kv.delete'"},
        {"K 0 plain key", "7 image 'plain' may not call 'hl.kv.get'"},
        {"K 0 nobody key", "5 no image 'nobody' is registered"},
        {"K 9 store key", "3 no such request"},
        {"K -1 store key", "3 no such request"},
        {"K 0 ../store key", "3 no such request"},
        {"K 0 store", "3 no such request"},
        {"r store k y", "0 store:0"},
        {"K 0 store key", "0 value"},
        {"U store", "0 "},
        {"K 0 store key", "5 no image 'store' is registered"},
        {"r store k x", "0 store:0"},
        {"K 0 store key", "5 no such key"},
    };
    char line[400] = "K 0 store ";
    int fd;

    start();
    fd = dial_and_greet();
    for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]); i++)
        ck_assert_str_eq(ask(fd, steps[i][0]), steps[i][1]);
    memset(line + strlen(line), 'k', 300); /* a key of 300 */
    ck_assert_str_eq(ask(fd, line), "3 no such request");
    close(fd);
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

START_TEST(what_is_not_sent_is_not_received)
{
    int first, second;

    start();
    first = dial_and_greet();
    ck_assert_str_eq(ask(first, "c"), "full");
    second = dial();
    usleep(100000); /* it is in the queue by then; a claim before that would be as false */
    ck_assert_str_eq(ask(first, "now"), "");
    ck_assert_str_ne(hear(second), "");
    close(first);
    close(second);
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

START_TEST(a_connection_that_ended_takes_no_room)
{
    int a, b, c;

    config.max_connections = 2;
    start();
    a = dial_and_greet();
    b = dial_and_greet();
    kill(front_pid, SIGSTOP);
    say(b, "w");
    ck_assert_str_eq(hear(b), "");
    ck_assert_str_eq(ask(a, "x"), "x"); /* the worker has told by now */
    c = dial();
    kill(front_pid, SIGCONT);
    ck_assert_str_ne(hear(c), "");
    close(a);
    close(b);
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

/* Or the front is late with either: then the worker was idle, and another round has to show it. */
START_TEST(a_connection_on_its_way_keeps_the_worker)
{
    bool kept = false;
    char pid[32];
    int fd;

    config.idle_timeout_ns = 200000000;
    start();
    for (int i = 0; i < 20 && !kept; i++) {
        fd = dial_and_greet();
        strcpy(pid, ask(fd, "p"));
        ck_assert_str_eq(ask(fd, "z"), ""); /* idle, as far as it has told */
        close(fd);
        fd = dial_and_greet();
        kept = strcmp(ask(fd, "p"), pid) == 0;
        close(fd);
    }
    ck_assert(kept);
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
    Suite *suite = suite_create("front");
    TCase *tc = tcase_create("front");

    tcase_set_timeout(tc, 60);
    tcase_add_checked_fixture(tc, set_up, tear_down);
    tcase_add_test(tc, a_connection_reaches_the_worker_of_its_uid);
    tcase_add_test(tc, each_uid_has_a_worker_of_its_own);
    tcase_add_test(tc, allow_lists_refuse);
    tcase_add_test(tc, a_dead_worker_is_replaced);
    tcase_add_test(tc, what_a_dead_worker_had_not_received_goes_to_the_next);
    tcase_add_test(tc, what_a_dead_worker_told_of_last_ends_with_it);
    tcase_add_test(tc, kv_is_what_the_policy_allows);
    tcase_add_test(tc, a_crash_loop_is_slowed_down);
    tcase_add_test(tc, a_worker_that_breaks_the_protocol_is_killed);
    tcase_add_test(tc, what_is_not_sent_is_not_received);
    tcase_add_test(tc, a_worker_that_does_not_read_costs_bounded_memory);
    tcase_add_test(tc, connections_of_a_uid_are_bounded);
    tcase_add_test(tc, a_connection_that_ended_takes_no_room);
    tcase_add_test(tc, an_idle_worker_ends_and_no_connection_is_lost);
    tcase_add_test(tc, a_connection_on_its_way_keeps_the_worker);
    tcase_add_test(tc, workers_are_bounded_and_idle_ones_make_room);
    tcase_add_test(tc, many_requests_at_once_are_all_answered);
    tcase_add_test(tc, a_reload_reaches_workers_and_a_bad_one_changes_nothing);
    tcase_add_test(tc, a_drain_waits_for_clients_then_ends);
    tcase_add_test(tc, a_drain_is_limited);
    tcase_add_test(tc, a_second_signal_ends_at_once);
    tcase_add_test(tc, the_watchdog_is_fed);
    tcase_add_test(tc, a_socket_that_was_passed_is_served_and_left);
    tcase_add_test(tc, a_second_daemon_and_stale_sockets);
    suite_add_tcase(suite, tc);
    return front_rig_main(argc, argv, suite);
}
