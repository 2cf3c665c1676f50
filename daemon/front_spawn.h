/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_DAEMON_FRONT_SPAWN_H
#define HL_DAEMON_FRONT_SPAWN_H

#include <uv.h>

/* Runs exe with "--worker" in a session of its own (a terminal's Ctrl-C is for the front alone): a
 * new channel as descriptor 3, standard error ours, nothing else inherited, an environment of what
 * logging and sanitizers need. *channel: our end, non-blocking. process: zeroed before. Returns: 0;
 * on failure a negative errno, and process is to be closed if its type is UV_PROCESS then. */
int spawn_worker(uv_loop_t *loop, uv_process_t *process, const char *exe, uv_exit_cb on_exit,
                 int *channel);

#endif
