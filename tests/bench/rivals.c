/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The same job done by hld and by what one would use instead, in turns: a call in this very process
 * without any isolation; fork and exec of a dynamic program; posix_spawn of a static one; and
 * bubblewrap around that. Programs are fed and read through pipes; the pipes hold a mebibyte, so
 * that no job waits for a pipe that is full. Every answer is compared with the right one, outside
 * of the time.
 *
 *   rivals --socket PATH --image NAME --job gunzip|echo --input FILE --expected FILE --dynamic
 * PROGRAM
 *          --static PROGRAM [--bwrap PROGRAM] [--count N]
 */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/bench/job.h"
#include "tests/bench/support.h"

#define PIPE_SIZE (1 << 20)
#define ROUND     4u

struct bench {
    const char *socket, *image, *job, *dynamic_program, *static_program, *bwrap;
    uint8_t *input, *expected, *out;
    const uint8_t *answer;
    size_t input_len, expected_len;
    uint64_t count;
    z_stream stream;
    struct hl_client *client;
};

struct rival {
    const char *name;
    /* Leaves the answer at bench->answer, which is out unless it says otherwise. Returns: its
     * length. */
    size_t (*run)(struct bench *bench);
    bool missing;
    struct samples samples, guest;
};

static struct hl_accounting last_accounting;

/* ---- ways to do the job ---- */

static size_t run_hld(struct bench *bench)
{
    const struct hl_value arg = {.type = HL_TYPE_BYTES, .bytes = {bench->input, bench->input_len}};
    const struct hl_call call = {
        .image = bench->image, .function = bench->job, .args = &arg, .nargs = 1};
    struct hl_client_error err;
    struct hl_result result;
    int r = hl_client_invoke(bench->client, &call, &result, &err);

    if (r < 0)
        bench_die("hld: %s", err.text);
    if (r > 0 || result.value.type != HL_TYPE_BYTES || result.value.bytes.len > JOB_ROOM)
        bench_die("hld: an error, or not the result that was expected");
    last_accounting = result.accounting;
    bench->answer = result.value.bytes.data; /* in the caller's memory, until its next call */
    return result.value.bytes.len;
}

static size_t run_here(struct bench *bench)
{
    long n = strcmp(bench->job, "gunzip") == 0
                 ? job_gunzip(&bench->stream, bench->input, bench->input_len, bench->out, JOB_ROOM)
                 : job_echo(bench->input, bench->input_len, bench->out, JOB_ROOM);

    if (n < 0)
        bench_die("in-process: %s failed", bench->job);
    return (size_t)n;
}

struct pipes {
    int in[2], out[2];
};

static void open_pipes(struct pipes *pipes)
{
    if (pipe2(pipes->in, O_CLOEXEC) < 0 || pipe2(pipes->out, O_CLOEXEC) < 0)
        bench_die("pipe: %s", strerror(errno));
    fcntl(pipes->in[1], F_SETPIPE_SZ, PIPE_SIZE);
    fcntl(pipes->out[1], F_SETPIPE_SZ, PIPE_SIZE);
    fcntl(pipes->in[1], F_SETFL, O_NONBLOCK);
}

/* Writes the input and reads the output as far as both go, to the output's end. */
static size_t feed(struct bench *bench, struct pipes *pipes, pid_t pid)
{
    size_t sent = 0, got = 0;
    int status;

    close(pipes->in[0]);
    close(pipes->out[1]);
    for (;;) {
        struct pollfd pfds[2] = {
            {.fd = pipes->out[0], .events = POLLIN},
            {.fd = sent < bench->input_len ? pipes->in[1] : -1, .events = POLLOUT}};
        ssize_t n;

        if (sent < bench->input_len) {
            n = write(pipes->in[1], bench->input + sent, bench->input_len - sent);
            sent += n > 0 ? (size_t)n : 0;
            if (sent == bench->input_len)
                close(pipes->in[1]);
            else if (poll(pfds, 2, -1) < 0 || !(pfds[0].revents & (POLLIN | POLLHUP)))
                continue;
        }
        n = read(pipes->out[0], bench->out + got, JOB_ROOM - got);
        if (n <= 0)
            break;
        got += (size_t)n;
    }
    close(pipes->out[0]);
    if (sent < bench->input_len)
        close(pipes->in[1]);
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    if (status != 0)
        bench_die("a program ended with status %d", status);
    return got;
}

static size_t run_fork(struct bench *bench)
{
    struct pipes pipes;
    pid_t pid;

    open_pipes(&pipes);
    pid = fork();
    if (pid < 0)
        bench_die("fork: %s", strerror(errno));
    if (pid == 0) {
        dup2(pipes.in[0], STDIN_FILENO);
        dup2(pipes.out[1], STDOUT_FILENO);
        execl(bench->dynamic_program, "job", bench->job, (char *)NULL);
        _exit(127);
    }
    return feed(bench, &pipes, pid);
}

static size_t spawn(struct bench *bench, const char *program, char *const *args)
{
    posix_spawn_file_actions_t actions;
    struct pipes pipes;
    pid_t pid;
    int r;

    open_pipes(&pipes);
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, pipes.in[0], STDIN_FILENO);
    posix_spawn_file_actions_adddup2(&actions, pipes.out[1], STDOUT_FILENO);
    r = posix_spawn(&pid, program, &actions, NULL, args, environ);
    posix_spawn_file_actions_destroy(&actions);
    if (r != 0)
        bench_die("%s: %s", program, strerror(r));
    return feed(bench, &pipes, pid);
}

static size_t run_spawn(struct bench *bench)
{
    char *args[] = {(char *)"job", (char *)bench->job, NULL};

    return spawn(bench, bench->static_program, args);
}

static size_t run_bwrap(struct bench *bench)
{
    char *args[] = {
        (char *)"bwrap",
        (char *)"--unshare-all",
        (char *)"--die-with-parent",
        (char *)"--cap-drop",
        (char *)"ALL",
        (char *)"--ro-bind",
        (char *)bench->static_program,
        (char *)"/job",
        (char *)"/job",
        (char *)bench->job,
        NULL,
    };

    return spawn(bench, bench->bwrap, args);
}

/* ---- turns ---- */

static struct rival rivals[] = {
    {.name = "hld", .run = run_hld},          {.name = "in_process", .run = run_here},
    {.name = "fork_exec", .run = run_fork},   {.name = "spawn_static", .run = run_spawn},
    {.name = "bubblewrap", .run = run_bwrap},
};
#define NRIVALS (sizeof(rivals) / sizeof(rivals[0]))

static void run_once(struct bench *bench, struct rival *rival, bool keep)
{
    uint64_t begin, took;
    size_t n;

    bench->answer = bench->out;
    begin = bench_now();
    n = rival->run(bench);
    took = bench_now() - begin;
    if (n != bench->expected_len || memcmp(bench->answer, bench->expected, n) != 0)
        bench_die("%s: the answer to %s is wrong", rival->name, bench->job);
    memset(bench->out, 0, bench->expected_len);
    if (!keep)
        return;
    samples_add(&rival->samples, took);
    if (rival->run == run_hld)
        samples_add(&rival->guest, last_accounting.run_ns);
}

static void take_options(struct bench *bench, int argc, char **argv)
{
    static const struct option options[] = {
        {"socket", required_argument, NULL, 'S'},   {"image", required_argument, NULL, 'i'},
        {"job", required_argument, NULL, 'j'},      {"input", required_argument, NULL, 'f'},
        {"expected", required_argument, NULL, 'e'}, {"dynamic", required_argument, NULL, 'd'},
        {"static", required_argument, NULL, 's'},   {"bwrap", required_argument, NULL, 'b'},
        {"count", required_argument, NULL, 'c'},    {NULL, 0, NULL, 0},
    };
    const char **const texts[] = {
        ['S'] = &bench->socket,          ['i'] = &bench->image,          ['j'] = &bench->job,
        ['d'] = &bench->dynamic_program, ['s'] = &bench->static_program, ['b'] = &bench->bwrap};
    int option;

    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (option == '?')
            exit(2);
        else if (option == 'f')
            bench->input = bench_read_file(optarg, &bench->input_len);
        else if (option == 'e')
            bench->expected = bench_read_file(optarg, &bench->expected_len);
        else if (option == 'c')
            bench->count = bench_number("--count", optarg, 1000000);
        else
            *texts[option] = optarg;
    }
    if (!bench->image || !bench->job || !bench->input || !bench->expected ||
        !bench->dynamic_program || !bench->static_program)
        bench_die("--image, --job, --input, --expected, --dynamic and --static are needed");
}

static void set_up(struct bench *bench)
{
    struct hl_client_error err;

    bench->out = bench_alloc(JOB_ROOM);
    if (job_init(&bench->stream) < 0)
        bench_die("zlib does not start");
    if (hl_client_connect(&bench->client, bench->socket, &err) < 0)
        bench_die("%s", err.text);
    rivals[NRIVALS - 1].missing = !bench->bwrap;
}

/* Some of one way and then of the next, in an order that changes, so that none always runs in the
 * wake of the same other; the first of each round finds caches as the one before left them and is
 * not counted. */
static void one_round(struct bench *bench, uint64_t count)
{
    struct rival *order[NRIVALS];

    for (size_t k = 0; k < NRIVALS; k++) {
        size_t other = (size_t)random() % (k + 1);

        order[k] = order[other];
        order[other] = &rivals[k];
    }
    for (size_t k = 0; k < NRIVALS; k++) {
        for (uint64_t i = 0; i <= count && !order[k]->missing; i++)
            run_once(bench, order[k], i > 0);
    }
}

int main(int argc, char **argv)
{
    struct bench bench = {.count = 100};
    json_t *results = json_object();

    signal(SIGPIPE, SIG_IGN);
    take_options(&bench, argc, argv);
    set_up(&bench);
    for (uint64_t done = 0, n; done < bench.count; done += n) {
        n = bench.count - done < ROUND ? bench.count - done : ROUND;
        one_round(&bench, n);
    }
    for (size_t k = 0; k < NRIVALS; k++) {
        if (!rivals[k].missing)
            json_object_set_new(results, rivals[k].name, samples_json(&rivals[k].samples));
    }
    json_object_set_new(results, "hld_in_the_guest", samples_json(&rivals[0].guest));
    hl_client_disconnect(bench.client);
    inflateEnd(&bench.stream);
    free(bench.input);
    free(bench.expected);
    free(bench.out);
    for (size_t k = 0; k < NRIVALS; k++) {
        samples_fini(&rivals[k].samples);
        samples_fini(&rivals[k].guest);
    }
    return bench_print(json_pack("{s:s, s:I, s:I, s:o}", "job", bench.job, "input_bytes",
                                 (json_int_t)bench.input_len, "output_bytes",
                                 (json_int_t)bench.expected_len, "ways", results));
}
