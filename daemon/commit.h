/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_DAEMON_COMMIT_H
#define HL_DAEMON_COMMIT_H

/* A session's state as the files of an image. */

#include <stdint.h>

#include "base/error.h"
#include "daemon/budget.h"
#include "daemon/program.h"
#include "hv/checkpoint.h"

struct commit_file {
    uint8_t sha256[PROGRAM_DIGEST_SIZE];
    uint64_t size;
};

struct commit {
    int fd; /* a sealed memory file: program, root (unless rootless), pages */
    bool rootless;
    struct commit_file root, pages;
    uint64_t size; /* of it so far */
    struct budget *budget;
    struct charge memory; /* of BUDGET_PROGRAMS */
    uint64_t wanted;      /* of it, when it was last asked for room */
};

struct commit_request {
    struct program *program; /* that the session is of; what its root is gets noted there */
    const struct history *history;
    const struct checkpoint *to;
    const struct hv_backend *hv;
    bool flatten; /* nothing of the parent's files: the whole state is its root */
    bool whole;   /* with the root, although it is known which that is */
};

/* Blocks, any thread; the history is the caller's alone meanwhile. Returns: 0; -ENOBUFS where the
 * budget has no room; as history_commit. */
int commit_make(struct commit *commit, const struct commit_request *request,
                const struct snapshot_key *key, struct budget *budget, struct hl_error *err);
void commit_fini(struct commit *commit);

#endif
