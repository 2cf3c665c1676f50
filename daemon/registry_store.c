/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Changes on disk. A file appears under its name only whole and synced: temporary file, write,
 * fsync, rename, fsync of the directory. The program comes before the manifest that names it, so a
 * crash leaves at most a temporary file or a program without a name; both are removed at the next
 * start. A replaced manifest is exchanged, not overwritten, until the directory is synced, so that
 * a failing disk can be undone too.
 */
#include "config.h"

#include "daemon/registry_store.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "daemon/log.h"

#define COPY_SIZE (256u * 1024)

/* A directory of ours: made if missing, owned by us, writable by nobody else. */
static int open_dir(int parent, const char *name, const char *path, struct hl_error *err)
{
    _cleanup_close_ int fd = -1;
    struct stat st;

    if (mkdirat(parent, name, 0700) < 0 && errno != EEXIST)
        return hl_error_set(err, -errno, "%s: cannot make the directory: %s", path,
                            strerror(errno));
    fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) < 0)
        return hl_error_set(err, -errno, "%s: %s", path, strerror(errno));
    if (st.st_uid != geteuid())
        return hl_error_set(err, -EPERM, "%s belongs to uid %u, hld runs as uid %u", path,
                            st.st_uid, geteuid());
    if (st.st_mode & 022)
        return hl_error_set(err, -EPERM, "%s is writable by others than its owner", path);
    return hl_steal_fd(&fd);
}

/* The directories above path, as far as they are missing. What cannot be made shows when path is.
 */
static void make_parents(const char *path)
{
    char prefix[PATH_MAX];

    for (const char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        snprintf(prefix, sizeof(prefix), "%.*s", (int)(slash - path), path);
        mkdir(prefix, 0755);
    }
}

static int take_lock(int dir, const char *state_dir, struct hl_error *err)
{
    _cleanup_close_ int fd = openat(dir, "lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);

    if (fd < 0)
        return hl_error_set(err, -errno, "%s/lock: %s", state_dir, strerror(errno));
    if (flock(fd, LOCK_EX | LOCK_NB) < 0)
        return hl_error_set(err, errno == EWOULDBLOCK ? -EBUSY : -errno,
                            "%s: another hld uses this state directory", state_dir);
    return hl_steal_fd(&fd);
}

int registry_store_open(struct registry_store *store, const char *state_dir,
                        const struct registry_io *io, struct hl_error *err)
{
    struct registry_store opened = REGISTRY_STORE_INIT;
    _cleanup_free_ char *images = NULL, *manifests = NULL, *snapshots = NULL;
    _cleanup_close_ int dir = -1;
    int r;

    if (asprintf(&images, "%s/images", state_dir) < 0 ||
        asprintf(&manifests, "%s/manifests", state_dir) < 0 ||
        asprintf(&snapshots, "%s/snapshots", state_dir) < 0)
        return -ENOMEM;
    make_parents(state_dir);
    dir = open_dir(AT_FDCWD, state_dir, state_dir, err);
    if (dir < 0)
        return dir;
    opened.io = io;
    r = opened.lock = take_lock(dir, state_dir, err);
    if (r >= 0)
        r = opened.images = open_dir(dir, "images", images, err);
    if (r >= 0)
        r = opened.manifests = open_dir(dir, "manifests", manifests, err);
    if (r >= 0)
        r = opened.snapshots = open_dir(dir, "snapshots", snapshots, err);
    if (r >= 0 && fsync(dir) < 0)
        r = hl_error_set(err, -errno, "%s: %s", state_dir, strerror(errno));
    if (r < 0) {
        registry_store_close(&opened);
        return r;
    }
    *store = opened;
    return 0;
}

void registry_store_close(struct registry_store *store)
{
    if (store->images >= 0)
        close(store->images);
    if (store->manifests >= 0)
        close(store->manifests);
    if (store->snapshots >= 0)
        close(store->snapshots);
    if (store->lock >= 0)
        close(store->lock);
    store->images = store->manifests = store->snapshots = store->lock = -1;
}

/* Reads size bytes of from, from at on, and hashes them; what was hashed is written to `to` unless
 * that is -1. Returns: 0; -EINVAL when the digest is another or the file ends early. */
static int copy_and_check(const struct registry_io *io, int from, uint64_t begin, int to,
                          uint64_t size, const uint8_t expected[REGISTRY_SHA256_SIZE])
{
    _cleanup_free_ uint8_t *buf = malloc(COPY_SIZE);
    uint8_t actual[REGISTRY_SHA256_SIZE];
    crypto_hash_sha256_state hash;
    uint64_t at = 0;

    if (!buf)
        return -ENOMEM;
    crypto_hash_sha256_init(&hash);
    while (at < size) {
        size_t want = size - at < COPY_SIZE ? (size_t)(size - at) : COPY_SIZE;
        ssize_t n = pread(from, buf, want, (off_t)(begin + at));
        int r;

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            return -EINVAL;
        crypto_hash_sha256_update(&hash, buf, (size_t)n);
        r = to < 0 ? 0 : registry_write_all(io, to, buf, (size_t)n);
        if (r < 0)
            return r;
        at += (uint64_t)n;
    }
    crypto_hash_sha256_final(&hash, actual);
    return sodium_memcmp(actual, expected, sizeof(actual)) == 0 ? 0 : -EINVAL;
}

unsigned int registry_files(const struct manifest *m, struct manifest_file files[REGISTRY_FILES])
{
    memcpy(files[0].sha256, m->sha256, sizeof(files[0].sha256));
    files[0].size = m->size;
    if (!m->has_state)
        return 1;
    memcpy(&files[1], m->parts, sizeof(m->parts));
    return REGISTRY_FILES;
}

/* What stands at `begin` of the memory file becomes a synced file under its digest. */
static int put_file(const struct registry_store *store, const struct registry_put *put,
                    const struct manifest_file *file, uint64_t begin, bool used,
                    struct hl_error *err)
{
    const struct registry_io *io = store->io;
    _cleanup_close_ int fd = -1;
    char temp[REGISTRY_TEMP_SIZE], hex[REGISTRY_HEX_SIZE];
    bool renamed = false;
    int r;

    registry_hex(hex, file->sha256);
    r = fd = registry_temp_open(io, store->images, temp);
    if (r < 0)
        return hl_error_set(err, r, "cannot make a file for the program: %s", strerror(-r));
    r = copy_and_check(io, put->program_fd, begin, fd, file->size, file->sha256);
    if (r == -EINVAL)
        hl_error_set(err, r, "the program's SHA-256 is not %s", hex);
    if (r == 0)
        r = io->fsync(fd);
    if (r == 0)
        r = io->rename(store->images, temp, hex, 0);
    if (r == 0) {
        renamed = true;
        r = io->fsync(store->images);
    }
    if (r == 0)
        return 0;
    if (r != -EINVAL)
        hl_error_set(err, r, "cannot write the program: %s", strerror(-r));
    if (!renamed)
        io->unlink(store->images, temp);
    else if (!used)
        io->unlink(store->images, hex);
    return r;
}

/* Who puts in what is there already has to have it all the same: a digest is no key to it. */
static int check_file(const struct registry_store *store, const struct registry_put *put,
                      const struct manifest_file *file, uint64_t begin, struct hl_error *err)
{
    char hex[REGISTRY_HEX_SIZE];
    int r = copy_and_check(store->io, put->program_fd, begin, -1, file->size, file->sha256);

    registry_hex(hex, file->sha256);
    if (r == -EINVAL)
        return hl_error_set(err, r, "the program's SHA-256 is not %s", hex);
    return r < 0 ? hl_error_set(err, r, "cannot read the program: %s", strerror(-r)) : 0;
}

/* Whether the root's file is in the state in which it was found good. */
static bool root_is_as_it_was(const struct registry_store *store, const struct registry_put *put,
                              const struct manifest_file *root, struct registry_stamp *now)
{
    int fd;

    if (registry_store_program(store, root->sha256, root->size, false, &fd, now, NULL) < 0)
        return false;
    close(fd);
    return registry_stamp_same(now, put->root_stamp);
}

/* One that did not come along. It is read where nobody knows whether it is good. */
static int find_root(const struct registry_store *store, const struct registry_put *put,
                     const struct manifest_file *root, struct hl_error *err)
{
    struct registry_stamp now;
    int fd, r;

    if (root_is_as_it_was(store, put, root, &now))
        return 0;
    r = registry_store_program(store, root->sha256, root->size, true, &fd, &now, err);
    if (r == -EBADMSG)
        return REGISTRY_ROOT_NEEDED;
    if (r < 0)
        return r;
    close(fd);
    *put->root_stamp = now;
    return 0;
}

/* What was written a moment ago has been hashed, so its state is a good one. */
static int put_root(const struct registry_store *store, const struct registry_put *put,
                    const struct manifest_file *root, uint64_t begin, struct hl_error *err)
{
    struct registry_stamp now = {0};
    int r;

    if (put->blob_used[REGISTRY_FILE_ROOT] && put->blob_trusted[REGISTRY_FILE_ROOT] &&
        root_is_as_it_was(store, put, root, &now))
        return check_file(store, put, root, begin, err);
    r = put_file(store, put, root, begin, put->blob_used[REGISTRY_FILE_ROOT], err);
    if (r < 0)
        return r;
    (void)root_is_as_it_was(store, put, root, &now);
    *put->root_stamp = now;
    return 0;
}

/* The first n files, where they were not there before. */
static void take_back(const struct registry_store *store, const struct registry_put *put,
                      const struct manifest_file *files, unsigned int n)
{
    char hex[REGISTRY_HEX_SIZE];

    for (unsigned int i = 0; i < n; i++) {
        registry_hex(hex, files[i].sha256);
        if (!put->blob_used[i])
            store->io->unlink(store->images, hex);
    }
}

static int put_files(const struct registry_store *store, const struct registry_put *put,
                     const struct manifest_file *files, unsigned int n, struct hl_error *err)
{
    uint64_t begin = 0;

    for (unsigned int i = 0; i < n; i++) {
        bool left_out = i == REGISTRY_FILE_ROOT && put->rootless;
        int r;

        if (left_out)
            r = find_root(store, put, &files[i], err);
        else if (i == REGISTRY_FILE_ROOT)
            r = put_root(store, put, &files[i], begin, err);
        else if (put->blob_used[i] && put->blob_trusted[i])
            r = check_file(store, put, &files[i], begin, err);
        else
            r = put_file(store, put, &files[i], begin, put->blob_used[i], err);
        if (r != 0) {
            take_back(store, put, files, i);
            return r;
        }
        begin += left_out ? 0 : files[i].size;
    }
    return 0;
}

/* Under temp stands the new manifest. With RENAME_EXCHANGE temp is the old one afterwards, and
 * exchanging again undoes. *undone: whether the name stands for what it did before. */
static int switch_manifest(const struct registry_store *store, const struct registry_put *put,
                           const char *temp, bool *undone)
{
    const char *name = put->manifest->name;
    unsigned int how = put->replaces ? RENAME_EXCHANGE : RENAME_NOREPLACE;
    const struct registry_io *io = store->io;
    int r = io->rename(store->manifests, temp, name, how);

    *undone = true;
    if (r == -EINVAL) { /* a file system without these flags */
        how = 0;
        r = io->rename(store->manifests, temp, name, how);
    }
    if (r < 0) {
        io->unlink(store->manifests, temp);
        return r;
    }
    r = io->fsync(store->manifests);
    if (r == 0) {
        if (how == RENAME_EXCHANGE)
            io->unlink(store->manifests, temp); /* else removed at the next start */
        return 0;
    }
    if (how == RENAME_EXCHANGE)
        *undone = io->rename(store->manifests, temp, name, RENAME_EXCHANGE) == 0 &&
                  (io->unlink(store->manifests, temp), true);
    else
        *undone = !put->replaces && io->unlink(store->manifests, name) == 0;
    return r;
}

static int put_manifest(const struct registry_store *store, const struct registry_put *put,
                        bool *undone, struct hl_error *err)
{
    const struct registry_io *io = store->io;
    _cleanup_free_ char *text = NULL;
    _cleanup_close_ int fd = -1;
    char temp[REGISTRY_TEMP_SIZE];
    size_t len;
    int r;

    *undone = true;
    r = manifest_encode(put->manifest, &text, &len);
    if (r < 0)
        return hl_error_set(err, r, "cannot write the manifest: %s", strerror(-r));
    r = fd = registry_temp_open(io, store->manifests, temp);
    if (r < 0)
        return hl_error_set(err, r, "cannot make a file for the manifest: %s", strerror(-r));
    r = registry_write_all(io, fd, text, len);
    if (r == 0)
        r = io->fsync(fd);
    if (r < 0)
        io->unlink(store->manifests, temp);
    else
        r = switch_manifest(store, put, temp, undone);
    if (r < 0)
        hl_error_set(err, r, "cannot write the manifest: %s", strerror(-r));
    return r;
}

int registry_store_put(const struct registry_store *store, const struct registry_put *put,
                       struct hl_error *err)
{
    struct manifest_file files[REGISTRY_FILES];
    unsigned int n = registry_files(put->manifest, files);
    char hex[REGISTRY_HEX_SIZE];
    bool undone;
    int r = put_files(store, put, files, n, err);

    if (r != 0)
        return r;
    r = put_manifest(store, put, &undone, err);
    if (r == 0)
        return 0;
    registry_hex(hex, files[0].sha256);
    if (!undone)
        log_error("image %s: %s, and that cannot be undone: after a restart the name may stand for "
                  "program %s",
                  put->manifest->name, err ? err->text : strerror(-r), hex);
    else
        take_back(store, put, files, n);
    return r;
}

int registry_store_drop(const struct registry_store *store, const char *name, struct hl_error *err)
{
    int r = store->io->unlink(store->manifests, name);

    if (r < 0 && r != -ENOENT)
        return hl_error_set(err, r, "cannot remove the manifest: %s", strerror(-r));
    r = store->io->fsync(store->manifests);
    if (r < 0) /* gone for this daemon; a crash of the machine might bring it back */
        log_error("image %s: removed, but the directory cannot be synced: %s", name, strerror(-r));
    return 0;
}

void registry_store_collect(const struct registry_store *store,
                            const uint8_t sha256[REGISTRY_SHA256_SIZE])
{
    char hex[REGISTRY_HEX_SIZE];
    int r;

    registry_hex(hex, sha256);
    r = store->io->unlink(store->images, hex);
    if (r < 0 && r != -ENOENT)
        log_warning("program %s, which no image uses, cannot be removed: %s", hex, strerror(-r));
}

int registry_store_program(const struct registry_store *store,
                           const uint8_t sha256[REGISTRY_SHA256_SIZE], uint64_t size, bool check,
                           int *fd, struct registry_stamp *stamp, struct hl_error *err)
{
    _cleanup_close_ int opened = -1;
    char hex[REGISTRY_HEX_SIZE];
    struct stat st;
    int r;

    registry_hex(hex, sha256);
    opened = openat(store->images, hex, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (opened < 0 && (errno == ENOENT || errno == ELOOP))
        return hl_error_set(err, -EBADMSG, "program %s is missing", hex);
    if (opened < 0 || fstat(opened, &st) < 0)
        return hl_error_set(err, -errno, "program %s: %s", hex, strerror(errno));
    if (!S_ISREG(st.st_mode) || (uint64_t)st.st_size != size)
        return hl_error_set(err, -EBADMSG, "program %s is damaged: its size is wrong", hex);
    if (stamp)
        *stamp = (struct registry_stamp){
            .device = st.st_dev,
            .inode = st.st_ino,
            .changed_s = st.st_ctim.tv_sec,
            .changed_ns = st.st_ctim.tv_nsec,
        };
    r = check ? copy_and_check(store->io, opened, 0, -1, size, sha256) : 0;
    if (r == -EINVAL)
        return hl_error_set(err, -EBADMSG, "program %s is damaged: its content has another digest",
                            hex);
    if (r < 0)
        return hl_error_set(err, r, "program %s cannot be read: %s", hex, strerror(-r));
    *fd = hl_steal_fd(&opened);
    return 0;
}

static ssize_t plain_write(int fd, const void *data, size_t len)
{
    ssize_t n = write(fd, data, len);

    return n < 0 ? -errno : n;
}

int registry_store_copy(const struct registry_store *store, const struct manifest_file *file,
                        int *fd, struct hl_error *err)
{
    static const struct registry_io to_memory = {.write = plain_write};
    _cleanup_close_ int opened = -1, memory = -1;
    int r = registry_store_program(store, file->sha256, file->size, false, &opened, NULL, err);

    if (r < 0)
        return r;
    memory = memfd_create("hld-state", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (memory < 0)
        return hl_error_set(err, -errno, "a memory file: %s", strerror(errno));
    r = copy_and_check(&to_memory, opened, 0, memory, file->size, file->sha256);
    if (r == -EINVAL)
        return hl_error_set(err, -EBADMSG, "a part of its state is damaged");
    if (r == 0 &&
        fcntl(memory, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
        r = -errno;
    if (r < 0)
        return hl_error_set(err, r, "reading its state: %s", strerror(-r));
    *fd = hl_steal_fd(&memory);
    return 0;
}

bool registry_stamp_same(const struct registry_stamp *a, const struct registry_stamp *b)
{
    return a->device == b->device && a->inode == b->inode && a->changed_s == b->changed_s &&
           a->changed_ns == b->changed_ns;
}
