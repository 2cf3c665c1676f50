/* SPDX-License-Identifier: Apache-2.0 */
/* A socket whose close would take an hour: a test that waits for it fails by its time. */
#include "config.h"

#include <check.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon/control.h"
#include "daemon/discard.h"
#include "tests/unit/tests_run.h"

static int peer = -1; /* of the last one, and does not read */

static int lingering(void)
{
    const struct linger hour = {.l_onoff = 1, .l_linger = 3600};
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof(address);
    int listener = socket(AF_INET, SOCK_STREAM, 0), fd = socket(AF_INET, SOCK_STREAM, 0);
    static char data[65536];

    ck_assert_int_eq(bind(listener, (struct sockaddr *)&address, size), 0);
    ck_assert_int_eq(listen(listener, 1), 0);
    ck_assert_int_eq(getsockname(listener, (struct sockaddr *)&address, &size), 0);
    ck_assert_int_eq(connect(fd, (struct sockaddr *)&address, size), 0);
    peer = accept(listener, NULL, NULL);
    ck_assert_int_ge(peer, 0);
    close(listener);
    while (send(fd, data, sizeof(data), MSG_DONTWAIT) > 0)
        ;
    ck_assert_int_eq(setsockopt(fd, SOL_SOCKET, SO_LINGER, &hour, sizeof(hour)), 0);
    return fd;
}

/* A connection with such a socket beside a byte that nobody has read. */
static int with_one_unread(int *client)
{
    int ends[2], fd = lingering();

    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    ck_assert_int_eq(control_send_packed(ends[0], "x", 1, fd), 0);
    close(fd);
    *client = ends[0];
    return ends[1];
}

static void on_begun(void *opaque)
{
    ++*(int *)opaque;
}

START_TEST(by_a_process)
{
    int begun = 0, client, fd;

    discard_use_process(on_begun, &begun);
    discard(-1);
    discard_now();
    ck_assert_int_eq(begun, 0);
    discard(lingering());
    fd = with_one_unread(&client);
    ck_assert_int_eq(shutdown(fd, SHUT_RDWR), 0);
    discard(fd);
    ck_assert_int_eq(fcntl(fd, F_GETFD), -1);
    ck_assert_int_eq(read(client, &(char){0}, 1), 0); /* its client has heard of it */
    ck_assert_int_eq(begun, 1);
    for (int i = 0; i < 200; i++) { /* more than one process takes */
        int pipes[2];

        ck_assert_int_eq(pipe2(pipes, O_CLOEXEC), 0);
        discard(pipes[1]);
        close(pipes[0]);
    }
    ck_assert_int_gt(begun, 1);
    fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    discard_end();
    discard(fd);
    ck_assert_int_eq(fcntl(fd, F_GETFD), -1);
}
END_TEST

/* What was taken is closed in the end, and what does it leaves. */
START_TEST(it_is_closed)
{
    int begun = 0, pipes[2];
    struct pollfd end;

    discard_use_process(on_begun, &begun);
    ck_assert_int_eq(pipe2(pipes, O_CLOEXEC), 0);
    discard(pipes[1]);
    end = (struct pollfd){.fd = pipes[0], .events = POLLIN};
    ck_assert_int_eq(poll(&end, 1, 0), 0);
    discard_now();
    ck_assert_int_eq(poll(&end, 1, 20000), 1);
    ck_assert_int_ne(end.revents & POLLHUP, 0);
    discard_end();
    ck_assert_int_eq(waitpid(-1, NULL, WNOHANG), -1);
}
END_TEST

START_TEST(by_a_thread)
{
    int client, fd, pipes[2];
    struct pollfd end;

    ck_assert_int_eq(discard_use_thread(), 0);
    ck_assert_int_eq(pipe2(pipes, O_CLOEXEC), 0);
    discard(pipes[1]);
    end = (struct pollfd){.fd = pipes[0], .events = POLLIN};
    ck_assert_int_eq(poll(&end, 1, 20000), 1);
    fd = with_one_unread(&client);
    discard_connection(fd);
    discard(lingering());
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, pipes), 0);
    discard_connection(pipes[1]); /* nothing is unread there, and the thread is held up */
    ck_assert_int_eq(fcntl(pipes[1], F_GETFD), -1);
    ck_assert_int_eq(read(pipes[0], &(char){0}, 1), 0);
}
END_TEST

int main(void)
{
    TCase *tc = tcase_create("discard");

    signal(SIGPIPE, SIG_IGN);
    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, by_a_process);
    tcase_add_test(tc, it_is_closed);
    tcase_add_test(tc, by_a_thread);
    return tests_run(tc, "discard");
}
