/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_BASE_IO_H
#define HL_BASE_IO_H

#include <stddef.h>
#include <sys/stat.h>

/* All of data to fd, where it stands; on a blocking descriptor. Returns: 0 or a negative errno. */
int hl_write_all(int fd, const void *data, size_t len);

/* fstat past libc, whose way is a system call that takes a path, which a worker may not make.
 * Returns: 0 or a negative errno. */
int hl_fstat(int fd, struct stat *st);

#endif
