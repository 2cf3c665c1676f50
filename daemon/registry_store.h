/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_DAEMON_REGISTRY_STORE_H
#define HL_DAEMON_REGISTRY_STORE_H

/*
 * The registry's directories: images/<sha256> holds programs, manifests/<name> says which program a
 * name stands for, snapshots/<name> what was made of it (registry_snapshot.h). These functions
 * touch the disk alone and so may run on any thread, one change at a time; what is registered is
 * the index's to know (registry.h).
 */

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "daemon/registry_io.h"
#include "daemon/registry_manifest.h"

struct registry_store {
    const struct registry_io *io;
    int lock; /* held while open: one hld for a state directory */
    int images;
    int manifests;
    int snapshots;
};

/* Which state of which file was looked at: it changes whenever the file's bytes do. */
struct registry_stamp {
    uint64_t device, inode; /* 0, 0: none */
    int64_t changed_s, changed_ns;
};

#define REGISTRY_STORE_INIT                                                                        \
    {                                                                                              \
        .io = NULL, .lock = -1, .images = -1, .manifests = -1, .snapshots = -1                     \
    }

/* Makes the directories where missing (mode 0700), refuses ones that others may write, takes the
 * lock. Returns: 0; -EBUSY when another hld holds it; another negative errno; err says which. */
int registry_store_open(struct registry_store *store, const char *state_dir,
                        const struct registry_io *io, struct hl_error *err);
void registry_store_close(struct registry_store *store);

/* What registry_store_put finds on the disk: of the program, then of the parts. */
#define REGISTRY_FILES     (1u + MANIFEST_PARTS)
#define REGISTRY_FILE_ROOT (1u + PART_ROOT) /* among them: the program is first */

struct registry_put {
    const struct manifest *manifest;
    int program_fd; /* sealed memfd: the program, then the parts, as long as manifest says; borrowed
                     */
    bool blob_used[REGISTRY_FILES];    /* images/<sha256> belongs to a registered image */
    bool blob_trusted[REGISTRY_FILES]; /* and its content was found good since the start */
    bool replaces;                     /* the name has a manifest */
    bool rootless;                     /* program_fd has no root: it must be there */
    struct registry_stamp *root_stamp; /* in which state its file was found or made good */
};

#define REGISTRY_ROOT_NEEDED 1 /* it is not there, or damaged */

/* The manifest's files in that order. Returns: how many. */
unsigned int registry_files(const struct manifest *manifest,
                            struct manifest_file files[REGISTRY_FILES]);

/* Program, then manifest, each synced before the next. On failure the disk is as it was; where even
 * that fails, the name stands for the old program or the new one, both whole.
 * Returns: 0; REGISTRY_ROOT_NEEDED; -EINVAL when the program is not what sha256 says; -ENOSPC, -EIO
 * …; err says what. */
int registry_store_put(const struct registry_store *store, const struct registry_put *put,
                       struct hl_error *err);

int registry_store_drop(const struct registry_store *store, const char *name, struct hl_error *err);

/* A program no manifest names any more. Failures leave it for the next start. */
void registry_store_collect(const struct registry_store *store,
                            const uint8_t sha256[REGISTRY_SHA256_SIZE]);

/* *fd: the program, read-only. check: read all of it and compare its digest. Returns: 0; -EBADMSG
 * for a program that is missing or is not what its name says; another negative errno. *stamp, if
 * not NULL: what was opened, as it was before it was read. */
int registry_store_program(const struct registry_store *store,
                           const uint8_t sha256[REGISTRY_SHA256_SIZE], uint64_t size, bool check,
                           int *fd, struct registry_stamp *stamp, struct hl_error *err);

/* *fd: a sealed copy in memory of a file among the programs, checked while it was copied. Returns:
 * as registry_store_program; -ENOMEM. */
int registry_store_copy(const struct registry_store *store, const struct manifest_file *file,
                        int *fd, struct hl_error *err);

bool registry_stamp_same(const struct registry_stamp *a, const struct registry_stamp *b);

#endif
