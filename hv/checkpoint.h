/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_HV_CHECKPOINT_H
#define HL_HV_CHECKPOINT_H

/*
 * What an instance was, to go back to. A checkpoint is taken between two calls, so it is memory and
 * the bookkeeping of it (heap, mappings, permissions), and how far made-up time and randomness have
 * gone; registers between calls are those of the ready point. It keeps copies of the pages changed
 * since the one before and shares all others with it. Any order of checkpoints and rollbacks goes:
 * a rollback makes no checkpoint invalid, and each can be dropped by itself.
 *
 * The history outlives the instance: a new one bound to the same snapshot can be made what an
 * earlier one was. One thread at a time uses a history, its checkpoints and its instance.
 */

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "hv/instance.h"
#include "hv/snapshot_file.h"

struct history;
struct checkpoint;

/* charge: as in hv/page_tree.h, for what all checkpoints take; NULL: not counted. Keeps a reference
 * to snap. */
int history_new(struct history **out, struct snapshot *snap,
                bool (*charge)(void *opaque, uint64_t bytes), void *opaque);
void history_free(struct history *history); /* NULL is allowed; its checkpoints were freed */

uint64_t history_bytes(const struct history *history); /* of all checkpoints */

/* How many pages were written since the last checkpoint or rollback, as far as known: what a
 * checkpoint would have to look at. Returns: a negative errno when the instance can only be freed,
 * -EOPNOTSUPP where its backend has no such thing, -EBUSY in the middle of a call. */
int64_t history_written(struct history *history, struct instance *inst);

/* Each works on the instance that the history began with, or was moved to by the last history_move,
 * between two calls. pages: how many were changed. */

/* Returns: 0; -ENOMEM when the charge is refused, with the instance as it was; otherwise as
 * history_written. */
int history_checkpoint(struct history *history, struct instance *inst, struct checkpoint **out,
                       uint64_t *pages, struct hl_error *err);

/* to: NULL for the snapshot. On failure the instance can only be freed. */
int history_rollback(struct history *history, struct instance *inst, const struct checkpoint *to,
                     uint64_t *pages, struct hl_error *err);

/* inst: another one, as its snapshot is. It becomes what `to` says. On failure it can only be
 * freed. */
int history_move(struct history *history, struct instance *inst, const struct checkpoint *to,
                 uint64_t *pages, struct hl_error *err);

/* The state at `to` as a file that snapshot_file_load_over takes: the pages that differ from
 * root's, which is the snapshot of the history's instances or what that one lies over; all pages,
 * as a root of its own (root is not looked at); or none of them, to lie over that. As at READY, the
 * I/O window and memory that is not handed out are zeros. Any thread, while no other uses the
 * history. reserve (unless NULL) is asked before so many bytes are allocated. Returns: -ENOBUFS
 * when it says no; as snapshot_file_write. */
enum history_pages { HISTORY_DIFFERENT, HISTORY_ALL, HISTORY_NONE };
int history_commit(int *fd, uint64_t *size, const struct history *history,
                   const struct checkpoint *to, enum history_pages pages,
                   const struct snapshot *root, const struct hv_backend *hv,
                   const struct snapshot_key *key, bool (*reserve)(void *opaque, uint64_t bytes),
                   void *opaque, struct hl_error *err);

/* snap in one file, with what it lies over. Returns: likewise. */
int snapshot_flat_write(int *fd, uint64_t *size, const struct snapshot *snap,
                        const struct hv_backend *hv, const struct snapshot_key *key,
                        bool (*reserve)(void *opaque, uint64_t bytes), void *opaque,
                        struct hl_error *err);

void checkpoint_free(struct history *history, struct checkpoint *checkpoint); /* NULL is allowed */

#endif
