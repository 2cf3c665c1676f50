/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The registry at start. Every manifest is read; programs are only looked for, so that thousands of
 * them do not delay the first call (their digests are checked before they are handed out). One bad
 * file costs its own image and nothing else. While any manifest cannot be read, programs without a
 * name are kept: one of them may be that manifest's.
 */
#include "config.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "daemon/log.h"
#include "daemon/registry.h"
#include "daemon/registry_index.h"
#include "daemon/registry_snapshot.h"

static void dir_close(DIR **dir)
{
    if (*dir)
        closedir(*dir);
}

static DIR *dir_open(int fd)
{
    int own = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = own < 0 ? NULL : fdopendir(own);

    if (!dir && own >= 0)
        close(own);
    return dir;
}

static bool is_temp(const char *name)
{
    return strncmp(name, REGISTRY_TEMP_PREFIX, strlen(REGISTRY_TEMP_PREFIX)) == 0;
}

/* Returns: 0 with the whole file in text; -EBADMSG when it is no file of a manifest's size. */
static int read_manifest(int dir, const char *name, char *text, size_t size, size_t *len,
                         struct hl_error *err)
{
    _cleanup_close_ int fd = openat(dir, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    struct stat st;
    size_t n = 0;

    if (fd < 0 || fstat(fd, &st) < 0)
        return hl_error_set(err, -errno, "%s", strerror(errno));
    if (!S_ISREG(st.st_mode) || (size_t)st.st_size > size)
        return hl_error_set(err, -EBADMSG, "it is no file of a manifest's size");
    while (n < size) {
        ssize_t got = read(fd, text + n, size - n);

        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return hl_error_set(err, -errno, "%s", strerror(errno));
        if (got == 0)
            break;
        n += (size_t)got;
    }
    *len = n;
    return 0;
}

static enum blob_state look_for_file(const struct registry *registry,
                                     const struct manifest_file *file, const char *name)
{
    struct hl_error err = HL_ERROR_INIT;
    int fd;

    if (registry_store_program(&registry->store, file->sha256, file->size, false, &fd, NULL, &err) <
        0) {
        log_error("image %s cannot be called: %s", name, err.text);
        return BLOB_DAMAGED;
    }
    close(fd);
    return BLOB_UNCHECKED;
}

static struct index_blob *blob_of(struct registry *registry, const struct manifest_file *file,
                                  const char *name)
{
    struct index_blob *blob = index_find_blob(&registry->index, file->sha256);

    if (!blob) {
        blob = calloc(1, sizeof(*blob));
        if (!blob)
            return NULL;
        memcpy(blob->sha256, file->sha256, sizeof(blob->sha256));
        blob->size = file->size;
        blob->state = look_for_file(registry, file, name);
        index_add_blob(&registry->index, blob);
    }
    blob->references++;
    return blob;
}

HL_DEFINE_CLEANUP(struct index_entry *, index_entry_free)
static int find_files(struct registry *registry, struct index_entry *entry)
{
    struct manifest_file files[REGISTRY_FILES];
    unsigned int n = registry_files(&entry->manifest, files);

    for (unsigned int i = 0; i < n; i++) {
        struct index_blob *blob = blob_of(registry, &files[i], entry->manifest.name);

        if (!blob)
            return -ENOMEM;
        if (i == 0)
            entry->blob = blob;
        else
            entry->parts[i - 1] = blob;
    }
    return 0;
}

/* Returns: 0 (the entry may be an unusable one), or -ENOMEM. */
static int load_manifest(struct registry *registry, const char *name)
{
    char text[REGISTRY_MANIFEST_MAX];
    struct hl_error err = HL_ERROR_INIT;
    _cleanup_(index_entry_freep) struct index_entry *entry = calloc(1, sizeof(*entry));
    size_t len = 0;
    int r;

    if (!entry || index_reserve(&registry->index) < 0)
        return -ENOMEM;
    r = read_manifest(registry->store.manifests, name, text, sizeof(text), &len, &err);
    if (r == 0)
        r = manifest_decode(&entry->manifest, name, text, len, &err);
    if (r == -ENOMEM)
        return r;
    if (r < 0) {
        log_error("image %s cannot be called: its manifest is refused: %s", name, err.text);
        entry->manifest = (struct manifest){0};
        memcpy(entry->manifest.name, name, strlen(name) + 1);
        entry->state = r == -EOPNOTSUPP ? ENTRY_FUTURE : ENTRY_DAMAGED;
    } else {
        r = find_files(registry, entry);
        if (r < 0)
            return r;
    }
    entry->generation = ++registry->generation;
    index_add(&registry->index, HL_STEAL(entry));
    return 0;
}

static int load_manifests(struct registry *registry)
{
    _cleanup_(dir_close) DIR *dir = dir_open(registry->store.manifests);
    const struct dirent *file;

    if (!dir)
        return -errno;
    for (errno = 0; (file = readdir(dir)); errno = 0) {
        int r = 0;

        if (is_temp(file->d_name))
            registry->store.io->unlink(registry->store.manifests, file->d_name);
        else if (hl_name_valid(file->d_name, strlen(file->d_name)))
            r = load_manifest(registry, file->d_name);
        if (r < 0)
            return r;
    }
    return -errno;
}

/* Removes programs that no manifest names. */
static int collect_programs(struct registry *registry)
{
    _cleanup_(dir_close) DIR *dir = dir_open(registry->store.images);
    const struct dirent *file;
    bool all_known = true;

    if (!dir)
        return -errno;
    for (size_t i = 0; i < registry->index.entries.count; i++)
        all_known &= ((struct index_entry *)registry->index.entries.items[i])->blob != NULL;
    for (errno = 0; (file = readdir(dir)); errno = 0) {
        uint8_t sha256[REGISTRY_SHA256_SIZE];

        if (is_temp(file->d_name))
            registry->store.io->unlink(registry->store.images, file->d_name);
        else if (all_known && registry_unhex(sha256, file->d_name) == 0 &&
                 !index_find_blob(&registry->index, sha256))
            registry_store_collect(&registry->store, sha256);
    }
    return -errno;
}

/* Notes which images have a snapshot; removes what is nobody's. Which version of its image a file
 * is of shows when it is read. */
static int find_snapshots(struct registry *registry)
{
    _cleanup_(dir_close) DIR *dir = dir_open(registry->store.snapshots);
    const struct dirent *file;

    if (!dir)
        return -errno;
    for (errno = 0; (file = readdir(dir)); errno = 0) {
        struct index_entry *entry = index_find(&registry->index, file->d_name);
        struct stat st;

        if (is_temp(file->d_name))
            registry_snapshot_discard(&registry->store, file->d_name);
        else if (!entry && hl_name_valid(file->d_name, strlen(file->d_name)))
            registry_snapshot_remove(&registry->store, file->d_name);
        else if (entry &&
                 fstatat(registry->store.snapshots, file->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
                 st.st_size > 0) {
            entry->snapshot = (uint64_t)st.st_size;
            entry->snapshot_version = ++registry->snapshot_versions;
        }
    }
    return -errno;
}

int registry_open(struct registry **out, const char *state_dir, const struct registry_io *io,
                  struct hl_error *err)
{
    struct registry *registry = calloc(1, sizeof(*registry));
    int r;

    if (!registry)
        return -ENOMEM;
    registry->store = (struct registry_store)REGISTRY_STORE_INIT;
    r = registry_store_open(&registry->store, state_dir, io, err);
    if (r == 0) {
        r = load_manifests(registry);
        if (r == 0)
            r = collect_programs(registry);
        if (r == 0)
            r = find_snapshots(registry);
        if (r < 0)
            hl_error_set(err, r, "%s: cannot read the registry: %s", state_dir, strerror(-r));
    }
    if (r < 0) {
        registry_free(registry);
        return r;
    }
    *out = registry;
    return 0;
}
