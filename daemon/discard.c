/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A process that is exiting does not wait for what it closes: the kernel respects SO_LINGER only in
 * those that are not (PF_EXITING in inet_release), and a file system that does not answer holds up
 * that process and no other. So the front sends descriptors to one that does nothing, and kills it
 * after a few of them or a moment. It cannot be a thread there: a stranger could have as many wait
 * for their close as the front may have open.
 *
 * A worker may not make processes, and has the clients of one uid only: it has a thread that closes
 * one after the other, and what does not fit into that thread's queue any more is closed at once.
 */
#include "config.h"

#include "daemon/discard.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "daemon/control.h"

#define TAKEN_MAX 64 /* by one process: they fit into its socket, so that sending never waits */
#define BAGS_MAX  64 /* processes that were not seen to end */
#define END_MS    1000
#define QUEUE_MAX 1024 /* of the thread */

static enum { BY_CLOSE, BY_PROCESS, BY_THREAD } means;

/* --- a process ------------------------------------------------------------------------------ */

static struct {
    int channel;
    unsigned int taken;
    pid_t pids[BAGS_MAX]; /* of all that were not seen to end; 0: none */
    pid_t *now;
    void (*begun)(void *opaque);
    void *opaque;
} bag = {.channel = -1};

/* The process: async-signal-safe functions alone, since the one it was forked from has threads. It
 * need not even receive: what is on its way to it dies with it. */
static _Noreturn void hold(int channel)
{
    sigset_t all;

    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
    prctl(PR_SET_NAME, "hld-discard");
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (dup2(channel, STDIN_FILENO) < 0 || close_range(STDIN_FILENO + 1, ~0U, 0) < 0)
        _exit(1);
    for (;;)
        pause();
}

void discard_reap(void)
{
    for (unsigned int i = 0; i < BAGS_MAX; i++) {
        if (bag.pids[i] > 0 && waitpid(bag.pids[i], NULL, WNOHANG) != 0)
            bag.pids[i] = 0;
    }
}

void discard_now(void)
{
    if (bag.channel < 0)
        return;
    if (*bag.now > 0) /* not gone by itself */
        kill(*bag.now, SIGKILL);
    close(bag.channel);
    bag.channel = -1;
    bag.taken = 0;
}

static bool any_left(void)
{
    discard_reap();
    for (unsigned int i = 0; i < BAGS_MAX; i++) {
        if (bag.pids[i] != 0)
            return true;
    }
    return false;
}

void discard_end(void)
{
    const struct timespec moment = {.tv_nsec = 1000000};

    discard_now();
    for (int i = 0; i < END_MS && any_left(); i++)
        nanosleep(&moment, NULL);
    means = BY_CLOSE;
}

static pid_t *free_place(void)
{
    discard_reap();
    for (unsigned int i = 0; i < BAGS_MAX; i++) {
        if (bag.pids[i] == 0)
            return &bag.pids[i];
    }
    return NULL;
}

static int start(void)
{
    pid_t *place = free_place();
    int ends[2];
    pid_t pid;

    if (!place)
        return -EAGAIN;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) < 0)
        return -errno;
    pid = fork();
    if (pid == 0)
        hold(ends[1]);
    close(ends[1]);
    if (pid < 0) {
        close(ends[0]);
        return -EAGAIN;
    }
    *place = pid;
    bag.now = place;
    bag.channel = ends[0];
    bag.begun(bag.opaque);
    return 0;
}

/* Returns: whether it has one reference more now, so that closing ours is not the end of it. */
static bool give_away(int fd)
{
    bool given =
        (bag.channel >= 0 || start() == 0) && control_send_packed(bag.channel, "", 1, fd) == 0;

    bag.taken += given;
    return given;
}

/* --- a thread ------------------------------------------------------------------------------- */

static struct {
    pthread_mutex_t lock;
    pthread_cond_t more;
    int fds[QUEUE_MAX];
    unsigned int first, count;
} queue = {.lock = PTHREAD_MUTEX_INITIALIZER, .more = PTHREAD_COND_INITIALIZER};

static void *close_all(void *unused)
{
    (void)unused;
    prctl(PR_SET_NAME, "hld-discard");
    for (;;) {
        int fd;

        pthread_mutex_lock(&queue.lock);
        while (queue.count == 0)
            pthread_cond_wait(&queue.more, &queue.lock);
        fd = queue.fds[queue.first];
        queue.first = (queue.first + 1) % QUEUE_MAX;
        queue.count--;
        pthread_mutex_unlock(&queue.lock);
        close(fd);
    }
    return NULL;
}

static bool queue_up(int fd)
{
    bool room;

    pthread_mutex_lock(&queue.lock);
    room = queue.count < QUEUE_MAX;
    if (room) {
        queue.fds[(queue.first + queue.count) % QUEUE_MAX] = fd;
        queue.count++;
        pthread_cond_signal(&queue.more);
    }
    pthread_mutex_unlock(&queue.lock);
    return room;
}

/* --- either --------------------------------------------------------------------------------- */

void discard_use_process(void (*begun)(void *opaque), void *opaque)
{
    bag.begun = begun;
    bag.opaque = opaque;
    means = BY_PROCESS;
}

int discard_use_thread(void)
{
    pthread_t thread;
    int r = pthread_create(&thread, NULL, close_all, NULL);

    if (r != 0)
        return -r;
    pthread_detach(thread);
    means = BY_THREAD;
    return 0;
}

void discard(int fd)
{
    if (fd < 0)
        return;
    /* A memfd has nothing to wait for, and only such have seals. */
    if (means != BY_CLOSE && fcntl(fd, F_GET_SEALS) < 0) {
        if (means == BY_THREAD && queue_up(fd))
            return;
        if (means == BY_PROCESS)
            (void)give_away(fd);
    }
    close(fd);
    if (bag.taken == TAKEN_MAX)
        discard_now();
}

void discard_connection(int fd)
{
    char byte;

    if (recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) > 0)
        discard(fd);
    else
        close(fd);
}
