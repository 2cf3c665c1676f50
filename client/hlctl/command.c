/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A host call is a run of the shell: arguments in, result out, both JSON. Input and output go
 * through pipes that are served together, so that neither side waits for the other; what is kept of
 * the output is bounded. Where the connection has but one call, anything that comes on it while the
 * command runs is that call's end, and the command's too.
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
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "client/hlctl/value.h"

#define OUTPUT_MAX (6u << 20) /* a message holds no more, in base64 */
#define ERRORS_MAX 1024u

struct pipe_end {
    int fd;
    char *data;
    size_t len, size; /* in: to send, sent; out: read, room */
};

struct run {
    pid_t pid;
    struct pipe_end in, out, errors;
    bool cut; /* nobody waits for its answer any more */
    int status;
};

static void close_end(struct pipe_end *end)
{
    if (end->fd >= 0)
        close(end->fd);
    end->fd = -1;
}

static void run_fini(struct run *run)
{
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

static void child(const char *text, const int fds[3])
{
    signal(SIGPIPE, SIG_DFL);
    setpgid(0, 0);
    for (int i = 0; i < 3; i++) {
        if (dup2(fds[i], i) < 0)
            _exit(127);
    }
    execl("/bin/sh", "sh", "-c", text, (char *)NULL);
    _exit(127);
}

static int start(struct run *run, const char *text)
{
    int pipes[3][2] = {{-1, -1}, {-1, -1}, {-1, -1}};
    struct pipe_end *ends[3] = {&run->in, &run->out, &run->errors};
    int theirs[3], r = 0;

    for (int i = 0; i < 3 && r == 0; i++)
        r = pipe2(pipes[i], O_CLOEXEC) < 0 ? -errno : 0;
    for (int i = 0; i < 3; i++) {
        theirs[i] = pipes[i][i == 0 ? 0 : 1];
        ends[i]->fd = pipes[i][i == 0 ? 1 : 0];
    }
    run->pid = r == 0 ? fork() : -1;
    if (run->pid == 0)
        child(text, theirs);
    if (r == 0 && run->pid < 0)
        r = -errno;
    for (int i = 0; i < 3; i++) {
        if (theirs[i] >= 0)
            close(theirs[i]);
        if (ends[i]->fd >= 0)
            fcntl(ends[i]->fd, F_SETFL, O_NONBLOCK);
    }
    if (r == 0)
        setpgid(run->pid, run->pid); /* whichever of the two is first */
    return r;
}

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

static void serve(struct run *run, int watched)
{
    if (run->in.len == 0)
        close_end(&run->in);
    while (!run->cut && (run->out.fd >= 0 || run->errors.fd >= 0)) {
        struct pollfd fds[] = {
            {.fd = run->in.fd, .events = POLLOUT},
            {.fd = run->out.fd, .events = POLLIN},
            {.fd = run->errors.fd, .events = POLLIN},
            {.fd = watched, .events = POLLIN},
        };

        if (poll(fds, 4, -1) < 0 && errno != EINTR)
            break;
        if (fds[0].revents)
            feed(&run->in);
        if (fds[1].revents)
            drain(&run->out, OUTPUT_MAX);
        if (fds[2].revents)
            drain(&run->errors, ERRORS_MAX);
        run->cut = fds[3].revents != 0;
    }
    if (run->cut)
        kill(-run->pid, SIGKILL);
    while (waitpid(run->pid, &run->status, 0) < 0 && errno == EINTR) {
    }
}

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
    _cleanup_(run_fini) struct run run = {.in.fd = -1, .out.fd = -1, .errors.fd = -1};
    int r = fill_input(&run.in, call);

    if (r == 0)
        r = start(&run, command->text);
    if (r < 0) {
        hl_host_fail(call, HL_STATUS_INTERNAL, 0, "the command cannot be started");
        return;
    }
    serve(&run, command->all->one_call ? hl_client_fd(call->client) : -1);
    if (!run.cut)
        answer(call, &run);
}

int commands_add(const struct hlctl *ctl, struct commands *commands, const char *text)
{
    const char *equals = strchr(text, '=');
    size_t len = equals ? (size_t)(equals - text) : 0;
    struct command *command = &commands->commands[commands->count];

    if (len == 0 || len > HL_NAME_MAX || equals[1] == '\0')
        return fail_usage(ctl, "'%s' is not NAME=COMMAND", text);
    if (commands->count == HL_HOST_FUNCTIONS_MAX)
        return fail_usage(ctl, "at most %d host functions", HL_HOST_FUNCTIONS_MAX);
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
