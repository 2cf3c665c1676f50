/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_DAEMON_DESCRIPTORS_H
#define HL_DAEMON_DESCRIPTORS_H

/*
 * Descriptors that a client sent beside its frames. The kernel hands them out with the bytes they
 * were sent with, which need not be a frame's first in the read that brings them, so they are kept
 * in the order they came, each with the place in the byte stream where that read ended. A frame
 * takes from the front as many as it names; what came by its end and was not taken is closed.
 */

#include <stddef.h>
#include <stdint.h>

#define DESCRIPTORS_MAX 32u /* kept for a connection */

struct descriptors {
    unsigned int count;
    int fds[DESCRIPTORS_MAX];
    uint64_t came_by[DESCRIPTORS_MAX];
};

/* Takes fd; it came with bytes up to stream place at. Returns: 0; -ENOBUFS with fd closed. */
int descriptors_add(struct descriptors *d, int fd, uint64_t at);

/* The first n, whose owner the caller becomes. Returns: 0; -ENODATA when there are fewer, with all
 * of them still there. */
int descriptors_take(struct descriptors *d, int *fds, unsigned int n);

/* Closes what came by stream place at, or all of them. */
void descriptors_drop_until(struct descriptors *d, uint64_t at);
void descriptors_drop(struct descriptors *d);

#endif
