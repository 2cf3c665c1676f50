/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_TESTS_REGISTRY_RIG_H
#define HL_TESTS_REGISTRY_RIG_H

/* A registry in a directory of each test's own, on a disk that can be made to fail. */

#include <check.h>
#include <stdbool.h>

#include "daemon/registry.h"

extern char dir[64];
extern struct registry *registry;
extern const struct registry_quota plenty;

/* The disk */
extern const struct registry_io failing_io;
extern unsigned int operations; /* so far */
extern unsigned int fail_at;    /* which one fails, from 1; 0: none */
extern bool fail_on;            /* and all after it */
extern int fail_with;           /* -EIO unless a test says otherwise */
extern char trace[64]; /* open, write, fsync of a file, Fsync of a directory, rename, unlink */
const char *trace_of(int result); /* which must be 0: the trace, which begins anew */

void reopen(const struct registry_io *io);

/* Images without a state: name and program. Each returns what the registry did. */
int put_as(const char *name, const char *content, uid_t uid, const struct registry_quota *q,
           struct hl_error *err);
int put(const char *name, const char *content);
int drop(const char *name, uid_t uid);
/* Checks the whole program on the disk, and unless NULL that it is content. */
int find(const char *name, const char *content);

/* temporary: set if there are such files. */
unsigned int files_in(const char *sub, bool *temporary);
void holds(unsigned int images, unsigned int manifests); /* these files, none temporary */
void hex_of(const char *content, char hex[REGISTRY_HEX_SIZE]);

/* The rest of main. */
int registry_tests_run(TCase *tc, const char *name);

#endif
