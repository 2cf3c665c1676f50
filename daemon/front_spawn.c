/* SPDX-License-Identifier: Apache-2.0 */
/* Starting a worker's process. It inherits as little as possible: what it is to know comes over the
 * channel. */
#include "config.h"

#include "daemon/front_spawn.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define WORKER_CHANNEL 3

static bool keep_variable(const char *variable)
{
    static const char *const kept[] = {"JOURNAL_STREAM=", "HLD_DEBUG=",     "ASAN_OPTIONS=",
                                       "LSAN_OPTIONS=",   "UBSAN_OPTIONS=", "TSAN_OPTIONS="};

    for (size_t i = 0; i < sizeof(kept) / sizeof(kept[0]); i++) {
        if (strncmp(variable, kept[i], strlen(kept[i])) == 0)
            return true;
    }
    return false;
}

int spawn_worker(uv_loop_t *loop, uv_process_t *process, const char *exe, uv_exit_cb on_exit,
                 int *channel)
{
    char *args[] = {(char *)"hld", (char *)"--worker", NULL};
    char *environment[16] = {NULL};
    uv_stdio_container_t stdio[WORKER_CHANNEL + 1] = {
        {.flags = UV_IGNORE},
        {.flags = UV_INHERIT_FD, .data.fd = STDERR_FILENO},
        {.flags = UV_INHERIT_FD, .data.fd = STDERR_FILENO},
        {.flags = UV_INHERIT_FD},
    };
    uv_process_options_t options = {
        .exit_cb = on_exit,
        .file = exe,
        .args = args,
        .env = environment,
        .cwd = "/",
        .flags = UV_PROCESS_DETACHED,
        .stdio_count = WORKER_CHANNEL + 1,
        .stdio = stdio,
    };
    size_t kept = 0;
    int ends[2], r;

    for (char **v = environ; *v && kept < 15; v++) {
        if (keep_variable(*v))
            environment[kept++] = *v;
    }
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
        return -errno;
    stdio[WORKER_CHANNEL].data.fd = ends[1];
    r = uv_spawn(loop, process, &options);
    close(ends[1]);
    if (r < 0)
        close(ends[0]);
    else
        *channel = ends[0];
    return r;
}
