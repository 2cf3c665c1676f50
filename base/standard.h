/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_BASE_STANDARD_H
#define HL_BASE_STANDARD_H

/* First thing in main: standard input, output and error that the program was started without are
 * opened, so that no file or socket of ours gets their numbers and what is printed goes into it.
 * Reading or writing them still fails, with EBADF. Returns: 0 or a negative errno. */
int hl_standard_open(void);

#endif
