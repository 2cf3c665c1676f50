/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An image made from a session has the program of its parent, a root and the pages that differ from
 * it. The root is the snapshot that the program's start-up left. For a parent that was made from a
 * session itself it is the one that the parent's state lies over, as long as that state is small
 * beside it; from then on it is the parent's whole snapshot, made flat, so that its children have
 * it once and not each. So a state never lies over another state, however long the family.
 *
 * Small is a sixteenth: with each generation changing c bytes more of a root of r, one stores r/32
 * on average for what it shares with those before, and every r/16c of them a root, which for the
 * usual c (some thousandths of r) is near the least that the two can be together.
 *
 * The front stores a file that it has already only once, by its digest, which is why the root of a
 * program has to come out the same each time it is written: its bytes depend on the snapshot alone.
 * So once its digest is known the root need not be written again: the front has it, or says that it
 * has not.
 */
#include "config.h"

#include "daemon/commit.h"

#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/io.h"

#define COPY_SIZE   (256u << 10)
#define STATE_SMALL (512u << 10) /* whatever the root */
#define ROOT_SHARE  16u
#define SEALS       (F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)

void commit_fini(struct commit *commit)
{
    hl_cleanup_closep(&commit->fd);
    commit->fd = -1;
    charge_release(&commit->memory);
}

/* Appends file->size bytes of from, and their digest to file. */
static int append(int to, int from, struct commit_file *file)
{
    _cleanup_free_ uint8_t *buf = malloc(COPY_SIZE);
    crypto_hash_sha256_state hash;
    uint64_t at = 0;

    if (!buf)
        return -ENOMEM;
    crypto_hash_sha256_init(&hash);
    while (at < file->size) {
        ssize_t n = pread(from, buf, COPY_SIZE, (off_t)at);
        int r;

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -EIO;
        crypto_hash_sha256_update(&hash, buf, (size_t)n);
        r = hl_write_all(to, buf, (size_t)n);
        if (r < 0)
            return r;
        at += (uint64_t)n;
    }
    crypto_hash_sha256_final(&hash, file->sha256);
    return 0;
}

/* commit->fd becomes the program, and what follows is appended. */
static int begin(struct commit *commit, const struct program *program)
{
    commit->fd = memfd_create("hld-commit", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (commit->fd < 0)
        return -errno;
    return hl_write_all(commit->fd, program->elf, program->elf_size);
}

/* A file is there twice until it has been appended. */
static bool reserve(void *opaque, uint64_t bytes)
{
    struct commit *commit = opaque;
    uint64_t total;

    return !__builtin_mul_overflow(bytes, 2, &total) &&
           !__builtin_add_overflow(total, commit->size, &total) &&
           charge_set(&commit->memory, commit->budget, BUDGET_PROGRAMS, commit->wanted = total);
}

static int put_root(struct commit *commit, const struct snapshot *root, const struct hv_backend *hv,
                    const struct snapshot_key *key, struct hl_error *err)
{
    _cleanup_close_ int fd = -1;
    int r = snapshot_flat_write(&fd, &commit->root.size, root, hv, key, reserve, commit, err);

    if (r == 0)
        r = append(commit->fd, fd, &commit->root);
    commit->size += commit->root.size;
    return r;
}

/* The session's own state, as pages says, into file. */
static int put_state(struct commit *commit, const struct commit_request *request,
                     enum history_pages pages, const struct snapshot *root,
                     const struct snapshot_key *key, struct commit_file *file, struct hl_error *err)
{
    _cleanup_close_ int fd = -1;
    int r = history_commit(&fd, &file->size, request->history, request->to, pages, root,
                           request->hv, key, reserve, commit, err);

    if (r == 0)
        r = append(commit->fd, fd, file);
    commit->size += file->size;
    return r;
}

/* Fills commit->root where it is known already. */
static bool recall_root(struct commit *commit, struct program *program, const struct snapshot *root)
{
    const struct program_entry *entry = &program->entry;
    struct commit_file *file = &commit->root;
    bool known;

    if (root == snapshot_root(program->snap)) {
        memcpy(file->sha256, entry->root_sha256, sizeof(file->sha256));
        file->size = entry->root_size;
        return true;
    }
    pthread_mutex_lock(&program->root_lock);
    known = program->root_known;
    if (known) {
        memcpy(file->sha256, program->root_sha256, sizeof(file->sha256));
        file->size = program->root_size;
    }
    pthread_mutex_unlock(&program->root_lock);
    return known;
}

static void note_root(const struct commit *commit, struct program *program)
{
    pthread_mutex_lock(&program->root_lock);
    memcpy(program->root_sha256, commit->root.sha256, sizeof(program->root_sha256));
    program->root_size = commit->root.size;
    program->root_known = true;
    pthread_mutex_unlock(&program->root_lock);
}

/* What the state is to lie over. */
static const struct snapshot *choose_root(const struct program *program)
{
    const struct snapshot *root = snapshot_root(program->snap);
    uint64_t small = program->entry.root_size / ROOT_SHARE;

    if (small < STATE_SMALL)
        small = STATE_SMALL;
    return root && program->entry.state_size <= small ? root : program->snap;
}

int commit_make(struct commit *commit, const struct commit_request *request,
                const struct snapshot_key *key, struct budget *budget, struct hl_error *err)
{
    struct program *program = request->program;
    const struct snapshot_key own = program_state_key(&program->entry, key);
    const struct snapshot *root = choose_root(program);
    bool flatten = request->flatten;
    int r;

    commit->budget = budget;
    commit->size = program->elf_size;
    if (!reserve(commit, 0))
        return hl_error_set(err, -ENOBUFS, "no room for another program now");
    r = begin(commit, program);
    commit->rootless = !flatten && !request->whole && recall_root(commit, program, root);
    if (r == 0 && flatten)
        r = put_state(commit, request, HISTORY_ALL, NULL, &own, &commit->root, err);
    else if (r == 0 && !commit->rootless)
        r = put_root(commit, root, request->hv, &own, err);
    if (r == 0 && !flatten && !commit->rootless)
        note_root(commit, program);
    if (r == 0)
        r = put_state(commit, request, flatten ? HISTORY_NONE : HISTORY_DIFFERENT, root, &own,
                      &commit->pages, err);
    if (r == 0 && fcntl(commit->fd, F_ADD_SEALS, SEALS) < 0)
        r = -errno;
    (void)charge_set(&commit->memory, budget, BUDGET_PROGRAMS, commit->size);
    return r < 0 ? hl_error_wrap(err, r, "writing the state") : 0;
}
