/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A host call is a run of the shell: arguments in, result out, both JSON. Input and output go
 * through pipes that are served together, so that neither side waits for the other; what is kept of
 * the output is bounded. A command is over when the shell has ended, whatever that left behind.
 * Where the connection has but one call, anything that comes on it while the command runs is that
 * call's end, and the command's too.
 *
 * Between hlctl and the shell stands a keeper, the leader of the command's process group: the
 * kernel tells it when hlctl has died, however that was, and it kills the group.
 */
#include "config.h"

#include "client/hlctl/command.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/host_policy.h"
#include "base/value.h"
#include "client/hlctl/value.h"

#define OUTPUT_MAX (6u << 20) /* a message holds no more, in base64 */
#define ERRORS_MAX 1024u

#define NSEC_PER_SEC 1000000000u

static volatile sig_atomic_t running; /* the group of the command that runs, or 0 */

struct pipe_end {
    int fd;
    char *data;
    size_t len, size; /* in: to send, sent; out: read, room */
};

struct run {
    pid_t pid; /* the keeper's, and the group's */
    int ended; /* a pidfd of it */
    struct pipe_end in, out, errors;
    bool cut;          /* nobody waits for its answer any more */
    uint64_t until_ns; /* of CLOCK_MONOTONIC, UINT64_MAX for no end */
    bool late;         /* … which has come */
    int status;
};

static void close_end(struct pipe_end *end)
{
    if (end->fd >= 0)
        close(end->fd);
    end->fd = -1;
}

/* Takes the command's status, having killed it when it is not over. */
static void run_end(struct run *run, bool killed)
{
    if (killed)
        kill(-run->pid, SIGKILL);
    running = 0;
    while (waitpid(run->pid, &run->status, 0) < 0 && errno == EINTR) {
    }
}

static void run_fini(struct run *run)
{
    if (run->ended >= 0)
        close(run->ended);
    close_end(&run->in);
    close_end(&run->out);
    close_end(&run->errors);
    free(run->in.data);
    free(run->out.data);
    free(run->errors.data);
}

/* The arguments, one a line. */
static int fill_input(struct pipe_end *in, const struct hl_host_call *call)
{
    FILE *file = open_memstream(&in->data, &in->len);
    int r = 0;

    if (!file)
        return -ENOMEM;
    for (size_t i = 0; i < call->nargs; i++) {
        _cleanup_free_ char *json = value_json(&call->args[i]);

        if (!json || fprintf(file, "%s\n", json) < 0)
            r = -ENOMEM;
    }
    return fclose(file) == 0 ? r : -ENOMEM;
}

/* --- signals -------------------------------------------------------------------------------------
 */

#define HLCTL_DIED SIGRTMIN /* from the kernel to the keeper; nobody else sends it */

static void on_signal(int number)
{
    if (running > 0)
        kill(-(pid_t)running, SIGKILL);
    raise(number);
}

static const int endings[] = {SIGINT, SIGTERM, SIGHUP};

#define NENDINGS (sizeof(endings) / sizeof(endings[0]))

/* What ends hlctl ends its command before; what it was started without minding stays so. */
static void watch_signals(void)
{
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESETHAND | SA_NODEFER};
    struct sigaction old;

    for (size_t i = 0; i < NENDINGS; i++) {
        if (sigaction(endings[i], NULL, &old) == 0 && old.sa_handler == SIG_DFL)
            sigaction(endings[i], &action, NULL);
    }
    signal(SIGCHLD, SIG_DFL); /* ignored, it would lose how a command ended */
}

/* --- the keeper and the shell --------------------------------------------------------------------
 */

static void shell(const char *text, const int fds[3], uint32_t depth, pid_t keeper)
{
    char number[16];

    snprintf(number, sizeof(number), "%u", depth);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != keeper)
        _exit(127);
    for (int i = 0; i < 3; i++) {
        if (dup2(fds[i], i) < 0)
            _exit(127);
    }
    if (setenv(DEPTH_VARIABLE, number, 1) < 0)
        _exit(127);
    execl("/bin/sh", "sh", "-c", text, (char *)NULL);
    _exit(127);
}

/* Waits for the shell's end, which becomes its own. */
static void keep_watch(pid_t command, const sigset_t *awaited)
{
    int number, status;

    close_range(0, ~0u, 0);
    for (;;) {
        if (sigwait(awaited, &number) != 0 || number == HLCTL_DIED)
            kill(0, SIGKILL);
        else if (waitpid(command, &status, WNOHANG) == command)
            _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
    }
}

static void keeper(const char *text, const int fds[3], uint32_t depth, pid_t parent)
{
    sigset_t awaited, old;
    struct sigaction action;
    pid_t command;

    setpgid(0, 0);
    for (size_t i = 0; i < NENDINGS; i++) {
        if (sigaction(endings[i], NULL, &action) == 0 && action.sa_handler == on_signal)
            signal(endings[i], SIG_DFL);
    }
    signal(SIGPIPE, SIG_DFL);
    sigemptyset(&awaited);
    sigaddset(&awaited, SIGCHLD);
    sigaddset(&awaited, HLCTL_DIED);
    sigprocmask(SIG_BLOCK, &awaited, &old);
    prctl(PR_SET_PDEATHSIG, HLCTL_DIED);
    if (getppid() != parent)
        _exit(127);
    command = fork();
    if (command < 0)
        _exit(127);
    if (command == 0) {
        sigprocmask(SIG_SETMASK, &old, NULL);
        shell(text, fds, depth, getpgrp());
    }
    keep_watch(command, &awaited);
}

static int start(struct run *run, const char *text, uint32_t depth)
{
    int pipes[3][2] = {{-1, -1}, {-1, -1}, {-1, -1}};
    struct pipe_end *ends[3] = {&run->in, &run->out, &run->errors};
    int theirs[3], r = 0;
    pid_t self = getpid();

    for (int i = 0; i < 3 && r == 0; i++)
        r = pipe2(pipes[i], O_CLOEXEC) < 0 ? -errno : 0;
    for (int i = 0; i < 3; i++) {
        theirs[i] = pipes[i][i == 0 ? 0 : 1];
        ends[i]->fd = pipes[i][i == 0 ? 1 : 0];
    }
    run->pid = r == 0 ? fork() : -1;
    if (run->pid == 0)
        keeper(text, theirs, depth, self);
    if (r == 0 && run->pid < 0)
        r = -errno;
    for (int i = 0; i < 3; i++) {
        if (theirs[i] >= 0)
            close(theirs[i]);
        if (ends[i]->fd >= 0)
            fcntl(ends[i]->fd, F_SETFL, O_NONBLOCK);
    }
    if (r < 0)
        return r;
    setpgid(run->pid, run->pid); /* whichever of the two is first */
    running = run->pid;
    run->ended = pidfd_open(run->pid, 0);
    if (run->ended < 0) {
        r = -errno;
        run_end(run, true);
    }
    return r;
}

/* --- input and output ----------------------------------------------------------------------------
 */

static void feed(struct pipe_end *in)
{
    ssize_t n = write(in->fd, in->data + in->size, in->len - in->size);

    if (n > 0)
        in->size += (size_t)n;
    if ((n < 0 && errno != EAGAIN && errno != EINTR) || in->size == in->len)
        close_end(in);
}

/* What is past the bound is read and thrown away. */
static void drain(struct pipe_end *end, size_t most)
{
    char rest[4096];
    bool room = end->len < most;
    ssize_t n;

    if (room && end->len == end->size) {
        size_t size = end->size ? end->size * 2 : 4096;
        char *data = realloc(end->data, size);

        if (data) {
            end->data = data;
            end->size = size;
        } else {
            room = false;
        }
    }
    n = room ? read(end->fd, end->data + end->len, end->size - end->len)
             : read(end->fd, rest, sizeof(rest));
    if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
        close_end(end);
    if (n > 0 && room)
        end->len += (size_t)n;
}

/* What a command that is over has written; what it left in the background may go on writing. */
static void drain_rest(struct pipe_end *end, size_t most)
{
    size_t before;
    int left = 0;

    if (end->fd < 0 || ioctl(end->fd, FIONREAD, &left) < 0)
        return;
    while (left > 0 && end->fd >= 0 && end->len < most) {
        before = end->len;
        drain(end, most);
        if (end->len == before)
            break;
        left -= (int)(end->len - before);
    }
}

/* Returns: as poll. */
static int wait_for(struct pollfd *fds, unsigned int count, uint64_t until_ns)
{
    uint64_t now = ctl_now();
    uint64_t left = until_ns > now ? until_ns - now : 0;
    struct timespec ts = {.tv_sec = (time_t)(left / NSEC_PER_SEC),
                          .tv_nsec = (long)(left % NSEC_PER_SEC)};

    return ppoll(fds, count, until_ns == UINT64_MAX ? NULL : &ts, NULL);
}

/* Until the command is over, or cut short because its call is or because it is late. */
static void serve(struct run *run, int connection, short events)
{
    bool over = false;
    int n;

    if (run->in.len == 0)
        close_end(&run->in);
    while (!run->cut && !run->late && !over) {
        struct pollfd fds[] = {
            {.fd = run->in.fd, .events = POLLOUT},    {.fd = run->out.fd, .events = POLLIN},
            {.fd = run->errors.fd, .events = POLLIN}, {.fd = connection, .events = events},
            {.fd = run->ended, .events = POLLIN},
        };

        n = wait_for(fds, 5, run->until_ns);
        if (n < 0 && errno != EINTR)
            break;
        run->late = n == 0;
        if (fds[0].revents)
            feed(&run->in);
        if (fds[1].revents)
            drain(&run->out, OUTPUT_MAX);
        if (fds[2].revents)
            drain(&run->errors, ERRORS_MAX);
        run->cut = fds[3].revents != 0;
        over = fds[4].revents != 0;
    }
    run_end(run, !over);
    drain_rest(&run->out, OUTPUT_MAX);
    drain_rest(&run->errors, ERRORS_MAX);
}

/* --- answers -------------------------------------------------------------------------------------
 */

static void fail(struct hl_host_call *call, const struct run *run)
{
    char line[256] = "";
    size_t len = 0;

    while (len < run->errors.len && run->errors.data[len] != '\n')
        len++;
    if (len > 0)
        value_line(line, sizeof(line), run->errors.data, len);
    else
        snprintf(line, sizeof(line), "the command failed");
    hl_host_fail(call, HL_STATUS_UNKNOWN,
                 WIFEXITED(run->status) ? WEXITSTATUS(run->status) : 128 + WTERMSIG(run->status),
                 line);
}

static void answer(struct hl_host_call *call, const struct run *run)
{
    _cleanup_free_ void *memory = NULL;
    struct hl_value value;
    char text[64];

    if (!WIFEXITED(run->status) || WEXITSTATUS(run->status) != 0) {
        fail(call, run);
        return;
    }
    if (value_from_json(run->out.len ? run->out.data : "", run->out.len, call->ret, &value,
                        &memory) < 0) {
        snprintf(text, sizeof(text), "the command's output is no JSON of type %s",
                 hl_type_name(call->ret));
        hl_host_fail(call, HL_STATUS_INTERNAL, 0, text);
        return;
    }
    if (hl_host_return(call, &value) == -EMSGSIZE)
        hl_host_fail(call, HL_STATUS_RESOURCE_EXHAUSTED, 0, "the command's output is too long");
}

static void run_command(void *opaque, struct hl_host_call *call)
{
    const struct command *command = opaque;
    uint64_t timeout_ns = command->all->timeout_ns;
    _cleanup_(run_fini) struct run run = {.ended = -1, .in.fd = -1, .out.fd = -1, .errors.fd = -1};
    int r = fill_input(&run.in, call);

    if (timeout_ns == 0 || __builtin_add_overflow(ctl_now(), timeout_ns, &run.until_ns))
        run.until_ns = UINT64_MAX;
    if (r == 0)
        r = start(&run, command->text, call->depth);
    if (r < 0) {
        hl_host_fail(call, HL_STATUS_INTERNAL, 0, "the command cannot be started");
        return;
    }
    serve(&run, hl_client_fd(call->client), command->all->one_call ? POLLIN : POLLRDHUP);
    if (run.late)
        hl_host_fail(call, HL_STATUS_DEADLINE_EXCEEDED, 0, "the command took too long");
    else if (!run.cut)
        answer(call, &run);
}

/* Returns: 0, or the exit code, having printed why. */
static int check_name(const struct hlctl *ctl, const struct commands *commands, const char *name,
                      size_t len)
{
    if (!hl_name_valid(name, len))
        return fail_usage(ctl,
                          "'%.*s': a host function's name is 1 to %d of A-Z a-z 0-9 . _ - and "
                          "starts with none of . -",
                          (int)len, name, HL_NAME_MAX);
    if (strncmp(name, HOST_BUILTIN_PREFIX, strlen(HOST_BUILTIN_PREFIX)) == 0)
        return fail_usage(ctl,
                          "'%.*s': names that begin with " HOST_BUILTIN_PREFIX
                          " are hld's own, and nobody else answers them",
                          (int)len, name);
    for (size_t i = 0; i < commands->count; i++) {
        if (strlen(commands->commands[i].name) == len &&
            memcmp(commands->commands[i].name, name, len) == 0)
            return fail_usage(ctl, "'%.*s' has two commands", (int)len, name);
    }
    return 0;
}

int commands_add(const struct hlctl *ctl, struct commands *commands, const char *text)
{
    const char *equals = strchr(text, '=');
    size_t len = equals ? (size_t)(equals - text) : 0;
    struct command *command = &commands->commands[commands->count];
    int r;

    if (len == 0 || equals[1] == '\0')
        return fail_usage(ctl, "'%s' is not NAME=COMMAND", text);
    r = check_name(ctl, commands, text, len);
    if (r != 0)
        return r;
    if (commands->count == HL_HOST_FUNCTIONS_MAX)
        return fail_usage(ctl, "at most %d host functions", HL_HOST_FUNCTIONS_MAX);
    if (commands->count == 0)
        watch_signals();
    memcpy(command->name, text, len);
    command->name[len] = '\0';
    command->text = equals + 1;
    command->all = commands;
    commands->functions[commands->count] = (struct hl_host){
        .name = command->name,
        .cb = run_command,
        .opaque = command,
    };
    commands->count++;
    return 0;
}
