/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_DAEMON_REGISTRY_SNAPSHOT_H
#define HL_DAEMON_REGISTRY_SNAPSHOT_H

/*
 * Snapshots beside the images they are of: snapshots/<name>, one of an image. They can be made
 * again at any time, so nothing that happens to one is worse than its loss. What is in it is a
 * worker's business; here it is bytes, which are checked to be the bytes that were stored, for that
 * image in that version.
 */

#include <stdint.h>

#include "base/error.h"
#include "daemon/control.h"
#include "daemon/registry_manifest.h"
#include "daemon/registry_store.h"

/* On any thread. Copies size bytes of `from`, a sealed memory file, to a new file, synced. temp:
 * its name, to be given to one of the next two. Returns: 0; -ENOSPC, -EIO, … with nothing left. */
int registry_snapshot_write(const struct registry_store *store, const struct manifest *manifest,
                            int from, uint64_t size, char temp[REGISTRY_TEMP_SIZE],
                            struct hl_error *err);

/* The written file becomes the image's snapshot, or goes. No disk is waited for. */
int registry_snapshot_commit(const struct registry_store *store, const char *name,
                             const char *temp);
void registry_snapshot_discard(const struct registry_store *store, const char *temp);

/* Failures leave it for the next start, or for the next that takes its place. */
void registry_snapshot_remove(const struct registry_store *store, const char *name);

/* On any thread. *fd: a memory file of *size bytes, sealed, with what was stored; the caller's.
 * Returns: 0; -ENOENT when there is none, or one of another version of the image; -EBADMSG when it
 * is damaged; another negative errno. */
int registry_snapshot_read(const struct registry_store *store, const struct manifest *manifest,
                           int *fd, uint64_t *size, struct hl_error *err);

/* Bytes of the file that holds a snapshot of size bytes. */
uint64_t registry_snapshot_file_size(uint64_t size);

#endif
