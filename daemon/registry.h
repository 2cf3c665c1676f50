/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_DAEMON_REGISTRY_H
#define HL_DAEMON_REGISTRY_H

/*
 * The registered images: an index in memory of what registry_store.h keeps on disk. The index
 * belongs to one thread. A change has three steps, so that the disk's time is not the loop's:
 *
 *   registry_change_… (checks, allocates) → registry_change_run (any thread; the disk) →
 *   registry_change_end (the index, which cannot fail)
 *
 * and there is one change at a time.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"
#include "daemon/registry_io.h"
#include "daemon/registry_manifest.h"
#include "daemon/registry_store.h"

enum blob_state {
    BLOB_UNCHECKED, /* nobody has read it since the start */
    BLOB_GOOD,
    BLOB_DAMAGED,
};

enum entry_state {
    ENTRY_USABLE,
    ENTRY_DAMAGED, /* its manifest does not hold together: uid 0 may replace or remove it */
    ENTRY_FUTURE,  /* a newer version's: kept as it is */
};

struct registry;
struct registry_change;

struct registry_entry {
    struct manifest manifest; /* only the name means something unless state is ENTRY_USABLE */
    enum entry_state state;
    enum blob_state blob;
    uint64_t generation;         /* changes whenever the name stands for something else */
    struct registry_stamp stamp; /* of the program's file when it was found good */
    uint64_t snapshot;           /* bytes of its snapshot's file; 0: none */
    uint64_t snapshot_version;   /* changes whenever that is another */
};

struct registry_quota { /* of one uid */
    uint32_t max_images;
    uint64_t max_disk;
};

/* Takes the directory's lock, removes what an interrupted change left, reads all manifests (no
 * program). What is damaged is logged and left out. Returns: 0 or a negative errno with err. */
int registry_open(struct registry **out, const char *state_dir, const struct registry_io *io,
                  struct hl_error *err);
void registry_free(struct registry *registry); /* NULL is allowed; no change under way */

size_t registry_count(const struct registry *registry);
size_t registry_damaged(const struct registry *registry); /* of those: cannot be called, as known */
const struct registry_store *registry_store(const struct registry *registry);

/* A usable image that uid may call, copied into *entry; its host policy is borrowed, until the name
 * has another generation. Returns: 0; -ENOENT; -EACCES for another's
 * private image; -EBADMSG for a damaged one. */
int registry_find(const struct registry *registry, const char *name, uid_t uid,
                  struct registry_entry *entry, struct hl_error *err);

/* Up to max entries with names after `after` that uid may call, without host policies. Returns: how
 * many; *more: there are others. */
size_t registry_list(const struct registry *registry, uid_t uid, const char *after, size_t max,
                     struct manifest *entries, bool *more);

/* Whether an image of that name is registered, usable or not. */
bool registry_knows(const struct registry *registry, const char *name);

/* What a check of the program of that digest found, in the file of that stamp (NULL: none). Of one
 * that is damaged the log tells the images. Nothing happens when it is no longer in the state
 * `from`: it was written again while the check ran. */
void registry_set_blob(struct registry *registry, const uint8_t sha256[REGISTRY_SHA256_SIZE],
                       enum blob_state from, enum blob_state to,
                       const struct registry_stamp *stamp);

/* The next program after sha256, in a circle, that nobody has checked yet; all zeros to begin.
 * Returns: false when there is none. */
bool registry_next_unchecked(const struct registry *registry, uint8_t sha256[REGISTRY_SHA256_SIZE],
                             uint64_t *size);

/* manifest->owner is the uid that asks; a name that uid 0 replaces stays its owner's. Its host
 * policy is copied. program_fd: borrowed until the end. Returns: 0; -EACCES when the name is
 * another's; -EDQUOT with the limit named; -EBUSY during another change; -EINVAL, -ENOMEM. */
int registry_change_put(struct registry_change **out, struct registry *registry,
                        const struct manifest *manifest, int program_fd,
                        const struct registry_quota *quota, struct hl_error *err);

/* The same for a manifest whose root does not stand in program_fd: it is that of an image with the
 * same program that the uid may call. Returns: likewise, and REGISTRY_ROOT_NEEDED where there is no
 * such image, or the root is known to be damaged. So does registry_change_end, where it proves to
 * be. */
int registry_change_put_rootless(struct registry_change **out, struct registry *registry,
                                 const struct manifest *manifest, int program_fd,
                                 const struct registry_quota *quota, struct hl_error *err);

/* Returns: 0; -ENOENT; -EACCES; -EBUSY; -ENOMEM. */
int registry_change_drop(struct registry_change **out, struct registry *registry, const char *name,
                         uid_t uid, struct hl_error *err);

/* Whether a snapshot of size bytes may be kept of an image: -ENOENT when the name stands for
 * another version than manifest's, -EACCES when uid is not its owner, -EDQUOT past max bytes of
 * files of its owner's snapshots. */
int registry_snapshot_admit(const struct registry *registry, const struct manifest *manifest,
                            uid_t uid, uint64_t size, uint64_t max, struct hl_error *err);

/* temp (registry_snapshot.h) becomes the image's, if all of the above still holds; it is gone
 * otherwise. */
int registry_snapshot_put(struct registry *registry, const struct manifest *manifest, uid_t uid,
                          uint64_t size, uint64_t max, const char *temp, struct hl_error *err);

/* The snapshot of that version is of no use. */
void registry_snapshot_drop(struct registry *registry, const char *name, uint64_t version);

void registry_change_run(struct registry_change *change);

/* After a run that met a full disk: removes all snapshots, which programs come before. Returns:
 * whether there were any, so that the change is worth another run. */
bool registry_change_make_room(struct registry_change *change);

/* Frees change. *manifest: what the name stands for now (not for a drop), its host policy borrowed.
 * Returns: 0, or what run
 * met on the disk, with err; REGISTRY_ROOT_NEEDED. */
int registry_change_end(struct registry_change *change, struct manifest *manifest,
                        struct hl_error *err);

#endif
