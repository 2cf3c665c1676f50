/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_DAEMON_DISCARD_H
#define HL_DAEMON_DISCARD_H

/*
 * Closing what a stranger chose: a descriptor that came from one, or a socket in whose queue such
 * may lie unread. The last close of one may wait as long as the stranger likes (a TCP socket with
 * SO_LINGER, a file of a file system of his own); a discarded one is closed where nobody waits for
 * that: by another process that exits, or by a thread of its own.
 */

/* One of the two, once, before the first discard; without, discard is close. With a process all
 * calls come from one thread, and begun is called when the first of a few descriptors was taken: a
 * moment later discard_now is to be called, which ends those that were taken until then. */
void discard_use_process(void (*begun)(void *opaque), void *opaque);
int discard_use_thread(void); /* Returns: 0 or a negative errno. */

void discard_now(void);

/* The end of the user of a process: waits a moment for those that are ending, since they were
 * forked from it and may still have its files. From now on discard is close. */
void discard_end(void);

/* Takes fd; -1 is none. With a process its end can be a moment off: a connection whose peer is to
 * hear of it is shut down before. */
void discard(int fd);

/* The same for a connection that was read from: closed here if nothing lies unread in it. */
void discard_connection(int fd);

/* With a process: takes note of one that ended. To be called on SIGCHLD. */
void discard_reap(void);

static inline void discardp(int *fd)
{
    discard(*fd);
}
#define _cleanup_discard_ __attribute__((cleanup(discardp)))

#endif
