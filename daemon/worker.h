/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_DAEMON_WORKER_H
#define HL_DAEMON_WORKER_H

/* `hld --worker`: the process that serves one uid. control_fd is its end of the control channel.
 * Returns the exit status: 0 after a drain or the front's end, 1 when it could not start. */
int worker_main(int control_fd);

#endif
