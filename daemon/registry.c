/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The index: names in a sorted array (for pages of a list), programs in another sorted by digest
 * and counted, so that a program goes with its last name. A change allocates everything before it
 * touches the disk: once the disk has changed, the index must follow without fail.
 */
#include "config.h"

#include "daemon/registry.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "daemon/log.h"
#include "daemon/registry_index.h"
#include "daemon/registry_snapshot.h"

#define NAMES_SHOWN 8u

struct registry_change {
    struct registry *registry;
    bool drop;
    struct manifest manifest;
    struct registry_put put;
    struct index_entry *entry;                /* put: the new one */
    struct index_blob *blobs[REGISTRY_FILES]; /* put: fresh, for digests that are not known */
    struct registry_stamp root_stamp;
    struct hl_error err;
    int result;
};

void registry_free(struct registry *registry)
{
    if (!registry)
        return;
    index_fini(&registry->index);
    registry_store_close(&registry->store);
    free(registry);
}

size_t registry_count(const struct registry *registry)
{
    return registry->index.entries.count;
}

static bool consists_of(const struct index_entry *entry, const struct index_blob *blob)
{
    bool does = entry->blob == blob;

    for (size_t i = 0; i < MANIFEST_PARTS; i++)
        does |= entry->parts[i] == blob;
    return does;
}

static bool is_damaged(const struct index_entry *entry)
{
    bool damaged = entry->state != ENTRY_USABLE || entry->blob->state == BLOB_DAMAGED;

    for (size_t i = 0; i < MANIFEST_PARTS; i++)
        damaged |= entry->parts[i] && entry->parts[i]->state == BLOB_DAMAGED;
    return damaged;
}

size_t registry_damaged(const struct registry *registry)
{
    const struct index_array *all = &registry->index.entries;
    size_t count = 0;

    for (size_t i = 0; i < all->count; i++)
        count += is_damaged(all->items[i]);
    return count;
}

const struct registry_store *registry_store(const struct registry *registry)
{
    return &registry->store;
}

static bool may_call(const struct index_entry *entry, uid_t uid)
{
    const struct manifest *m = &entry->manifest;

    return entry->state == ENTRY_USABLE && (!m->is_private || m->owner == uid || uid == 0);
}

int registry_find(const struct registry *registry, const char *name, uid_t uid,
                  struct registry_entry *out, struct hl_error *err)
{
    const struct index_entry *entry = index_find(&registry->index, name);

    if (!entry)
        return hl_error_set(err, -ENOENT, "no image '%s' is registered", name);
    if (entry->state != ENTRY_USABLE)
        return hl_error_set(err, -EBADMSG, "image '%s': its manifest %s", name,
                            entry->state == ENTRY_FUTURE ? "is a newer version's" : "is damaged");
    if (!may_call(entry, uid))
        return hl_error_set(err, -EACCES, "image '%s' is another user's and private", name);
    *out = (struct registry_entry){
        .manifest = entry->manifest,
        .state = entry->state,
        .blob = entry->blob->state,
        .generation = entry->generation,
        .stamp = entry->blob->stamp,
        .snapshot = entry->snapshot,
        .snapshot_version = entry->snapshot_version,
    };
    return 0;
}

size_t registry_list(const struct registry *registry, uid_t uid, const char *after, size_t max,
                     struct manifest *entries, bool *more)
{
    const struct index_array *all = &registry->index.entries;
    size_t n = 0;

    *more = false;
    for (size_t i = index_after(&registry->index, after); i < all->count; i++) {
        const struct index_entry *entry = all->items[i];

        if (!may_call(entry, uid))
            continue;
        if (n == max) {
            *more = true;
            break;
        }
        entries[n] = entry->manifest;
        entries[n++].host = NULL;
    }
    return n;
}

bool registry_knows(const struct registry *registry, const char *name)
{
    return index_find(&registry->index, name) != NULL;
}

/* Who reads the log knows images by their names, not by the digests of their files. */
static void name_images(const struct registry *registry, const struct index_blob *blob)
{
    const struct index_array *all = &registry->index.entries;
    char names[NAMES_SHOWN * (HL_NAME_MAX + 3)] = "";
    size_t shown = 0, count = 0, at = 0;

    for (size_t i = 0; i < all->count; i++) {
        const struct index_entry *entry = all->items[i];

        if (!consists_of(entry, blob) || count++ >= NAMES_SHOWN)
            continue;
        at += (size_t)snprintf(names + at, sizeof(names) - at, "%s%s", shown++ ? ", " : "",
                               entry->manifest.name);
    }
    if (count > 0)
        log_error("a damaged file is part of image%s %s%s", count == 1 ? "" : "s", names,
                  count > shown ? " and others" : "");
}

void registry_set_blob(struct registry *registry, const uint8_t sha256[REGISTRY_SHA256_SIZE],
                       enum blob_state from, enum blob_state to, const struct registry_stamp *stamp)
{
    struct index_blob *blob = index_find_blob(&registry->index, sha256);

    if (!blob || blob->state != from)
        return;
    blob->state = to;
    blob->stamp = stamp ? *stamp : (struct registry_stamp){0};
    if (to == BLOB_DAMAGED)
        name_images(registry, blob);
}

bool registry_next_unchecked(const struct registry *registry, uint8_t sha256[REGISTRY_SHA256_SIZE],
                             uint64_t *size)
{
    const struct index_array *all = &registry->index.blobs;
    size_t first = index_blob_after(&registry->index, sha256);

    for (size_t i = 0; i < all->count; i++) {
        const struct index_blob *blob = all->items[(first + i) % all->count];

        if (blob->state != BLOB_UNCHECKED)
            continue;
        memcpy(sha256, blob->sha256, REGISTRY_SHA256_SIZE);
        *size = blob->size;
        return true;
    }
    return false;
}

/* Who may change what the name stands for. */
static int check_owner(const struct index_entry *entry, uid_t uid, struct hl_error *err)
{
    const char *name = entry->manifest.name;

    if (entry->state == ENTRY_FUTURE)
        return hl_error_set(err, -EBUSY, "image '%s' was registered by a newer hld", name);
    if (uid == 0 || (entry->state == ENTRY_USABLE && entry->manifest.owner == uid))
        return 0;
    if (entry->state == ENTRY_DAMAGED)
        return hl_error_set(err, -EACCES, "image '%s' has a damaged manifest: root may replace it",
                            name);
    return hl_error_set(err, -EACCES, "image '%s' is owned by another user", name);
}

static uint64_t add(uint64_t a, uint64_t b)
{
    uint64_t sum;

    return __builtin_add_overflow(a, b, &sum) ? UINT64_MAX : sum;
}

/* with_root: it is the one whose root is counted. */
static uint64_t bytes_of(const struct manifest *m, bool with_root)
{
    uint64_t bytes = add(m->size, m->has_state ? m->parts[PART_STATE].size : 0);

    return add(bytes, m->has_state && with_root ? m->parts[PART_ROOT].size : 0);
}

/* Whether it is another image of the one who wants m. */
static bool counts(const struct index_entry *entry, const struct manifest *m)
{
    return entry->state == ENTRY_USABLE && entry->manifest.owner == m->owner &&
           strcmp(entry->manifest.name, m->name) != 0;
}

static bool same_root(const struct manifest *a, const struct manifest *b)
{
    return a->has_state && b->has_state &&
           memcmp(a->parts[PART_ROOT].sha256, b->parts[PART_ROOT].sha256, REGISTRY_SHA256_SIZE) ==
               0;
}

/* A root that several images of a user have is counted once: with m, else with the first. */
static bool first_of_root(const struct registry *registry, size_t at, const struct manifest *m)
{
    const struct index_array *all = &registry->index.entries;
    const struct index_entry *entry = all->items[at];

    if (same_root(&entry->manifest, m))
        return false;
    for (size_t i = 0; entry->manifest.has_state && i < at; i++) {
        const struct index_entry *other = all->items[i];

        if (counts(other, m) && same_root(&entry->manifest, &other->manifest))
            return false;
    }
    return true;
}

static int check_quota(const struct registry *registry, const struct manifest *m,
                       const struct registry_quota *quota, struct hl_error *err)
{
    uint64_t images = 1, disk = bytes_of(m, true);

    for (size_t i = 0; i < registry->index.entries.count; i++) {
        const struct index_entry *entry = registry->index.entries.items[i];

        if (!counts(entry, m))
            continue;
        images++;
        disk = add(disk, bytes_of(&entry->manifest, first_of_root(registry, i, m)));
    }
    if (images > quota->max_images)
        return hl_error_set(err, -EDQUOT, "max_images: at most %" PRIu32 " images of one user",
                            quota->max_images);
    if (disk > quota->max_disk)
        return hl_error_set(err, -EDQUOT,
                            "max_disk: at most %" PRIu64 " bytes of one user's images, these would "
                            "be %" PRIu64,
                            quota->max_disk, disk);
    return 0;
}

static void change_free(struct registry_change *change)
{
    for (unsigned int i = 0; i < REGISTRY_FILES; i++)
        free(change->blobs[i]);
    free(change->entry);
    free(change);
}

/* All that is allocated for it, and what is there. */
static int prepare_put(struct registry_change *change, int program_fd, bool replaces)
{
    struct manifest_file files[REGISTRY_FILES];
    unsigned int n = registry_files(&change->manifest, files);

    change->put.manifest = &change->manifest;
    change->put.program_fd = program_fd;
    change->put.replaces = replaces;
    change->put.root_stamp = &change->root_stamp;
    change->entry = calloc(1, sizeof(*change->entry));
    if (!change->entry)
        return -ENOMEM;
    for (unsigned int i = 0; i < n; i++) {
        const struct index_blob *blob = index_find_blob(&change->registry->index, files[i].sha256);

        change->put.blob_used[i] = blob != NULL;
        change->put.blob_trusted[i] = blob && blob->state == BLOB_GOOD;
        if (i == REGISTRY_FILE_ROOT && blob)
            change->root_stamp = blob->stamp;
        change->blobs[i] = calloc(1, sizeof(*change->blobs[i]));
        if (!change->blobs[i])
            return -ENOMEM;
    }
    return 0;
}

int registry_change_put(struct registry_change **out, struct registry *registry,
                        const struct manifest *manifest, int program_fd,
                        const struct registry_quota *quota, struct hl_error *err)
{
    struct index_entry *old = index_find(&registry->index, manifest->name);
    struct registry_change *change;
    int r;

    if (registry->changing)
        return -EBUSY;
    if (!hl_name_valid(manifest->name, strlen(manifest->name)))
        return hl_error_set(err, -EINVAL, "not an image's name");
    r = old ? check_owner(old, manifest->owner, err) : 0;
    if (r < 0)
        return r;
    change = calloc(1, sizeof(*change));
    if (!change)
        return -ENOMEM;
    change->registry = registry;
    change->manifest = *manifest;
    if (old && old->state == ENTRY_USABLE)
        change->manifest.owner = old->manifest.owner;
    r = check_quota(registry, &change->manifest, quota, err);
    if (r == 0)
        r = index_reserve(&registry->index);
    change->manifest.host = NULL;
    if (r == 0 && manifest->host) {
        change->manifest.host = malloc(sizeof(*manifest->host));
        if (change->manifest.host)
            *change->manifest.host = *manifest->host;
        else
            r = -ENOMEM;
    }
    if (r == 0)
        r = prepare_put(change, program_fd, old != NULL);
    if (r < 0) {
        free(change->manifest.host);
        change_free(change);
        return r;
    }
    registry->changing = true;
    *out = change;
    return 0;
}

/* Whether manifest's root is one that the uid could have by calling an image, and good as far as is
 * known. */
static bool has_root(const struct registry *registry, const struct manifest *manifest)
{
    for (size_t i = 0; i < registry->index.entries.count; i++) {
        const struct index_entry *entry = registry->index.entries.items[i];
        const struct manifest *m = &entry->manifest;

        if (may_call(entry, manifest->owner) && same_root(m, manifest) &&
            m->parts[PART_ROOT].size == manifest->parts[PART_ROOT].size &&
            memcmp(m->sha256, manifest->sha256, sizeof(m->sha256)) == 0)
            return entry->parts[PART_ROOT]->state != BLOB_DAMAGED;
    }
    return false;
}

int registry_change_put_rootless(struct registry_change **out, struct registry *registry,
                                 const struct manifest *manifest, int program_fd,
                                 const struct registry_quota *quota, struct hl_error *err)
{
    int r;

    if (!has_root(registry, manifest))
        return REGISTRY_ROOT_NEEDED;
    r = registry_change_put(out, registry, manifest, program_fd, quota, err);
    if (r == 0)
        (*out)->put.rootless = true;
    return r;
}

int registry_change_drop(struct registry_change **out, struct registry *registry, const char *name,
                         uid_t uid, struct hl_error *err)
{
    struct index_entry *old = index_find(&registry->index, name);
    struct registry_change *change;
    int r;

    if (registry->changing)
        return -EBUSY;
    if (!old)
        return hl_error_set(err, -ENOENT, "no image '%s' is registered", name);
    r = check_owner(old, uid, err);
    if (r < 0)
        return r;
    change = calloc(1, sizeof(*change));
    if (!change)
        return -ENOMEM;
    change->registry = registry;
    change->drop = true;
    change->manifest = old->manifest;
    change->manifest.host = NULL;
    registry->changing = true;
    *out = change;
    return 0;
}

void registry_change_run(struct registry_change *change)
{
    const struct registry_store *store = &change->registry->store;

    if (change->drop)
        change->result = registry_store_drop(store, change->manifest.name, &change->err);
    else
        change->result = registry_store_put(store, &change->put, &change->err);
}

bool registry_change_make_room(struct registry_change *change)
{
    struct registry *registry = change->registry;
    bool any = false;

    if (change->result != -ENOSPC)
        return false;
    for (size_t i = 0; i < registry->index.entries.count; i++) {
        struct index_entry *entry = registry->index.entries.items[i];

        if (entry->snapshot == 0)
            continue;
        registry_snapshot_remove(&registry->store, entry->manifest.name);
        entry->snapshot = 0;
        any = true;
    }
    return any;
}

/* A file goes with its last name. */
static void release(struct registry *registry, struct index_blob *blob)
{
    if (!blob || --blob->references > 0)
        return;
    registry_store_collect(&registry->store, blob->sha256);
    index_remove_blob(&registry->index, blob);
    free(blob);
}

/* Takes the name's entry out, and its files from the disk if no other name has them. */
static void forget(struct registry *registry, const char *name)
{
    struct index_entry *old = index_remove(&registry->index, name);

    if (!old)
        return;
    if (old->snapshot > 0)
        registry_snapshot_remove(&registry->store, name);
    release(registry, old->blob);
    for (unsigned int i = 0; i < MANIFEST_PARTS; i++)
        release(registry, old->parts[i]);
    index_entry_free(old);
}

/* The blob of the change's file number i, referred to once more. */
static struct index_blob *commit_blob(struct registry_change *change, unsigned int i,
                                      const struct manifest_file *file)
{
    struct registry *registry = change->registry;
    struct index_blob *blob = index_find_blob(&registry->index, file->sha256);

    if (!blob) {
        blob = HL_STEAL(change->blobs[i]);
        memcpy(blob->sha256, file->sha256, REGISTRY_SHA256_SIZE);
        blob->size = file->size;
        index_add_blob(&registry->index, blob);
    }
    blob->state = BLOB_GOOD;
    if (i == REGISTRY_FILE_ROOT)
        blob->stamp = change->root_stamp;
    else if (!change->put.blob_trusted[i])
        blob->stamp = (struct registry_stamp){0}; /* what stands there now was written, not read */
    blob->references++;
    return blob;
}

static void commit_put(struct registry_change *change)
{
    struct registry *registry = change->registry;
    struct index_entry *entry = change->entry;
    struct manifest_file files[REGISTRY_FILES];
    unsigned int n = registry_files(&change->manifest, files);

    /* Before forget, which may drop the same files' last other name. */
    for (unsigned int i = 0; i < n; i++) {
        struct index_blob *blob = commit_blob(change, i, &files[i]);

        if (i == 0)
            entry->blob = blob;
        else
            entry->parts[i - 1] = blob;
    }
    forget(registry, change->manifest.name);
    entry->manifest = change->manifest;
    entry->state = ENTRY_USABLE;
    entry->generation = ++registry->generation;
    index_add(&registry->index, entry);
    change->entry = NULL;
}

/* Until somebody brings it again. */
static void note_damaged_root(const struct registry_change *change)
{
    const uint8_t *sha256 = change->manifest.parts[PART_ROOT].sha256;
    struct index_blob *blob = index_find_blob(&change->registry->index, sha256);

    if (!blob)
        return;
    blob->state = BLOB_DAMAGED;
    blob->stamp = (struct registry_stamp){0};
}

int registry_change_end(struct registry_change *change, struct manifest *manifest,
                        struct hl_error *err)
{
    int r = change->result;

    if (r < 0 && err)
        *err = change->err;
    if (r == REGISTRY_ROOT_NEEDED)
        note_damaged_root(change);
    if (r == 0 && change->drop)
        forget(change->registry, change->manifest.name);
    else if (r == 0)
        commit_put(change); /* the policy is the entry's now */
    else
        free(HL_STEAL(change->manifest.host));
    if (manifest)
        *manifest = change->manifest;
    change->registry->changing = false;
    change_free(change);
    return r;
}

/* Snapshots */

int registry_snapshot_admit(const struct registry *registry, const struct manifest *manifest,
                            uid_t uid, uint64_t size, uint64_t max, struct hl_error *err)
{
    const struct index_entry *entry = index_find(&registry->index, manifest->name);
    uint64_t disk = registry_snapshot_file_size(size);

    if (!entry || entry->state != ENTRY_USABLE ||
        memcmp(entry->manifest.sha256, manifest->sha256, sizeof(manifest->sha256)) != 0 ||
        entry->manifest.registered_ns != manifest->registered_ns)
        return hl_error_set(err, -ENOENT, "image '%s' is another by now", manifest->name);
    if (entry->manifest.owner != uid)
        return hl_error_set(err, -EACCES, "image '%s' is owned by another user", manifest->name);
    for (size_t i = 0; i < registry->index.entries.count; i++) {
        const struct index_entry *other = registry->index.entries.items[i];

        if (other != entry && other->state == ENTRY_USABLE && other->manifest.owner == uid &&
            __builtin_add_overflow(disk, other->snapshot, &disk))
            disk = UINT64_MAX;
    }
    if (disk > max)
        return hl_error_set(err, -EDQUOT,
                            "max_snapshot_disk: at most %" PRIu64 " bytes of one user's snapshots",
                            max);
    return 0;
}

int registry_snapshot_put(struct registry *registry, const struct manifest *manifest, uid_t uid,
                          uint64_t size, uint64_t max, const char *temp, struct hl_error *err)
{
    struct index_entry *entry = index_find(&registry->index, manifest->name);
    int r = registry_snapshot_admit(registry, manifest, uid, size, max, err);

    if (r < 0) {
        registry_snapshot_discard(&registry->store, temp);
        return r;
    }
    r = registry_snapshot_commit(&registry->store, manifest->name, temp);
    if (r < 0)
        return hl_error_set(err, r, "cannot name the snapshot: %s", strerror(-r));
    entry->snapshot = registry_snapshot_file_size(size);
    entry->snapshot_version = ++registry->snapshot_versions;
    return 0;
}

void registry_snapshot_drop(struct registry *registry, const char *name, uint64_t version)
{
    struct index_entry *entry = index_find(&registry->index, name);

    if (!entry || entry->snapshot == 0 || entry->snapshot_version != version)
        return;
    registry_snapshot_remove(&registry->store, name);
    entry->snapshot = 0;
}
