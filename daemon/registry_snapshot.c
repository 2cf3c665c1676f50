/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The snapshot's bytes, then a trailer: which version of which image they are of, and a checksum of
 * everything. Who can write here can write a checksum too, so it is against damage, and speed is
 * what counts: a program of 800 KiB starts in 3 ms, its snapshot's SHA-256 takes half of that,
 * BLAKE2b a third, Poly1305 a twentieth. Poly1305 with a key drawn for each file misses no damage
 * that was not made with the key at hand (RFC 8439).
 *
 * A file appears under its name whole and synced, as the registry's others do; but the directory is
 * not synced. After a crash of the machine the name stands for the old file, for the new one or for
 * none, and each is right or is found out: the trailer says what the file is of.
 *
 * What is handed out is never the file but a sealed copy in memory, checked while it was copied. So
 * what happens to the file afterwards cannot change what runs, and no reader can be hurt by it.
 */
#include "config.h"

#include "daemon/registry_snapshot.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sodium.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "daemon/log.h"

#define COPY_SIZE (256u * 1024)
#define MAGIC     "hldkept"
#define SEALS     (F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)

struct trailer {
    char magic[8];
    char name[64];
    uint8_t sha256[REGISTRY_SHA256_SIZE]; /* of the program */
    uint64_t registered_ns;
    uint64_t size; /* of what stands before */
    uint8_t key[crypto_onetimeauth_KEYBYTES];
    uint8_t tag[crypto_onetimeauth_BYTES]; /* of all before it */
};

_Static_assert(sizeof(struct trailer) == 168, "no padding");
_Static_assert(HL_NAME_MAX < 64, "name");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the file is as memory is");

uint64_t registry_snapshot_file_size(uint64_t size)
{
    return size + sizeof(struct trailer);
}

static void fill_trailer(struct trailer *trailer, const struct manifest *m, uint64_t size)
{
    memset(trailer, 0, sizeof(*trailer));
    memcpy(trailer->magic, MAGIC, sizeof(MAGIC));
    memcpy(trailer->name, m->name, strnlen(m->name, sizeof(trailer->name) - 1));
    memcpy(trailer->sha256, m->sha256, sizeof(trailer->sha256));
    trailer->registered_ns = m->registered_ns;
    trailer->size = size;
}

/* Copies size bytes and fills trailer's tag. Returns: 0; -EBADMSG when `from` ends early. */
static int copy(const struct registry_io *io, int from, int to, uint64_t size,
                struct trailer *trailer)
{
    _cleanup_free_ uint8_t *buf = malloc(COPY_SIZE);
    crypto_onetimeauth_state auth;
    uint64_t at = 0;

    if (!buf)
        return -ENOMEM;
    crypto_onetimeauth_init(&auth, trailer->key);
    while (at < size) {
        size_t want = size - at < COPY_SIZE ? (size_t)(size - at) : COPY_SIZE;
        ssize_t n = pread(from, buf, want, (off_t)at);
        int r;

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -EBADMSG;
        crypto_onetimeauth_update(&auth, buf, (size_t)n);
        r = registry_write_all(io, to, buf, (size_t)n);
        if (r < 0)
            return r;
        at += (uint64_t)n;
    }
    crypto_onetimeauth_update(&auth, (const uint8_t *)trailer, offsetof(struct trailer, tag));
    crypto_onetimeauth_final(&auth, trailer->tag);
    return 0;
}

int registry_snapshot_write(const struct registry_store *store, const struct manifest *manifest,
                            int from, uint64_t size, char temp[REGISTRY_TEMP_SIZE],
                            struct hl_error *err)
{
    const struct registry_io *io = store->io;
    struct trailer trailer;
    int fd = registry_temp_open(io, store->snapshots, temp), r;

    if (fd < 0)
        return hl_error_set(err, fd, "cannot make a file for the snapshot: %s", strerror(-fd));
    fill_trailer(&trailer, manifest, size);
    randombytes_buf(trailer.key, sizeof(trailer.key));
    r = copy(io, from, fd, size, &trailer);
    if (r == 0)
        r = registry_write_all(io, fd, &trailer, sizeof(trailer));
    if (r == 0)
        r = io->fsync(fd);
    close(fd);
    if (r == 0)
        return 0;
    io->unlink(store->snapshots, temp);
    return hl_error_set(err, r, "cannot write the snapshot: %s", strerror(-r));
}

int registry_snapshot_commit(const struct registry_store *store, const char *name, const char *temp)
{
    int r = store->io->rename(store->snapshots, temp, name, 0);

    if (r < 0)
        registry_snapshot_discard(store, temp);
    return r;
}

void registry_snapshot_discard(const struct registry_store *store, const char *temp)
{
    (void)store->io->unlink(store->snapshots, temp);
}

void registry_snapshot_remove(const struct registry_store *store, const char *name)
{
    int r = store->io->unlink(store->snapshots, name);

    if (r < 0 && r != -ENOENT)
        log_warning("the snapshot of image %s cannot be removed: %s", name, strerror(-r));
}

/* Returns: the size of what stands before a trailer that is of manifest's version, or as
 * registry_snapshot_read. */
static int64_t read_trailer(int fd, const struct manifest *manifest, struct trailer *trailer,
                            struct hl_error *err)
{
    struct trailer expected;
    struct stat st;
    uint64_t size;

    if (fstat(fd, &st) < 0)
        return -errno;
    if (!S_ISREG(st.st_mode) || st.st_size < (off_t)sizeof(*trailer) ||
        (uint64_t)st.st_size > registry_snapshot_file_size(CONTROL_SNAPSHOT_MAX))
        return hl_error_set(err, -EBADMSG, "its size is wrong");
    size = (uint64_t)st.st_size - sizeof(*trailer);
    if (pread(fd, trailer, sizeof(*trailer), (off_t)size) != (ssize_t)sizeof(*trailer))
        return hl_error_set(err, -EBADMSG, "it cannot be read to its end");
    fill_trailer(&expected, manifest, size);
    if (memcmp(trailer->magic, expected.magic, sizeof(expected.magic)) != 0 ||
        trailer->size != size || memcmp(trailer->name, expected.name, sizeof(expected.name)) != 0)
        return hl_error_set(err, -EBADMSG, "its end is not that of such a file");
    if (memcmp(trailer, &expected, offsetof(struct trailer, size)) != 0)
        return -ENOENT;
    return (int64_t)size;
}

static ssize_t plain_write(int fd, const void *data, size_t len)
{
    ssize_t n = write(fd, data, len);

    return n < 0 ? -errno : n;
}

int registry_snapshot_read(const struct registry_store *store, const struct manifest *manifest,
                           int *fd, uint64_t *size, struct hl_error *err)
{
    static const struct registry_io to_memory = {.write = plain_write};
    _cleanup_close_ int file =
        openat(store->snapshots, manifest->name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    _cleanup_close_ int memory = -1;
    struct trailer trailer, actual;
    int64_t len;
    int r;

    if (file < 0)
        return errno == ELOOP ? hl_error_set(err, -EBADMSG, "it is a link") : -errno;
    len = read_trailer(file, manifest, &trailer, err);
    if (len < 0)
        return (int)len;
    memory = memfd_create("hld-snapshot", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (memory < 0)
        return -errno;
    actual = trailer;
    r = copy(&to_memory, file, memory, (uint64_t)len, &actual);
    if (r == 0 && sodium_memcmp(actual.tag, trailer.tag, sizeof(actual.tag)) != 0)
        r = hl_error_set(err, -EBADMSG, "its content has another checksum");
    if (r == 0 && fcntl(memory, F_ADD_SEALS, SEALS) < 0)
        r = -errno;
    if (r < 0)
        return r;
    *fd = hl_steal_fd(&memory);
    *size = (uint64_t)len;
    return 0;
}
