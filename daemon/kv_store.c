/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A file is a line, "hld-kv 1 " and the BLAKE2b of what follows, and then records: the lengths of
 * key and value, four bytes each, low byte first, and the two. Every operation reads the file
 * whole: it is small, the digest covers all of it, and nothing is left in memory that could grow
 * with the number of images. A file that does not hold together is reported and left alone.
 *
 * The name is IMAGE@UID; no image's name has an @.
 */
#include "config.h"

#include "daemon/kv_store.h"

#include <dirent.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/host_policy.h"
#include "base/value.h"
#include "daemon/log.h"

#define KIND        "hld-kv 1 "
#define HASH_SIZE   32u
#define HEADER_SIZE (sizeof(KIND) - 1 + 2 * HASH_SIZE + 1)
#define RECORD_SIZE 8u
#define NAME_SIZE   (HL_NAME_MAX + 16)

struct record {
    const uint8_t *key, *value;
    uint32_t key_len, value_len;
    const uint8_t *start, *end; /* of all of it */
};

static void file_name(char name[NAME_SIZE], const char *image, uint32_t uid)
{
    snprintf(name, NAME_SIZE, "%s@%u", image, uid);
}

/* --- reading -------------------------------------------------------------------------------- */

/* The next record at *at. Returns: 1; 0 at the end; -EBADMSG. */
static int next_record(const struct kv_bytes *body, size_t *at, struct record *out)
{
    const uint8_t *p = body->data + *at;
    size_t left = body->len - *at;
    uint32_t lengths[2];
    uint64_t need;

    if (left == 0)
        return 0;
    if (left < RECORD_SIZE)
        return -EBADMSG;
    memcpy(lengths, p, sizeof(lengths));
    out->key_len = le32toh(lengths[0]);
    out->value_len = le32toh(lengths[1]);
    need = (uint64_t)RECORD_SIZE + out->key_len + out->value_len;
    if (need > left)
        return -EBADMSG;
    out->start = p;
    out->key = p + RECORD_SIZE;
    out->value = out->key + out->key_len;
    out->end = p + need;
    *at += (size_t)need;
    return 1;
}

static int find_record(const struct kv_bytes *body, const char *key, struct record *out)
{
    size_t at = 0;
    int r;

    while ((r = next_record(body, &at, out)) > 0) {
        if (out->key_len == strlen(key) && memcmp(out->key, key, out->key_len) == 0)
            return 0;
    }
    return r < 0 ? r : -ENOENT;
}

static int read_file(int fd, struct kv_bytes *out)
{
    struct stat st;

    if (fstat(fd, &st) < 0)
        return -errno;
    if (!S_ISREG(st.st_mode) || st.st_size < 0 ||
        (uint64_t)st.st_size > HOST_KV_SIZE_MAX + HEADER_SIZE)
        return -EBADMSG;
    out->data = malloc((size_t)st.st_size + 1);
    if (!out->data)
        return -ENOMEM;
    while (out->len < (size_t)st.st_size) {
        ssize_t n = read(fd, out->data + out->len, (size_t)st.st_size - out->len);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            break;
        out->len += (size_t)n;
    }
    return 0;
}

static void hash_hex(char hex[2 * HASH_SIZE + 1], const void *data, size_t len)
{
    uint8_t hash[HASH_SIZE];

    crypto_generichash(hash, sizeof(hash), data, len, NULL, 0);
    sodium_bin2hex(hex, 2 * HASH_SIZE + 1, hash, sizeof(hash));
}

/* Takes the header off a file, having checked it. */
static int check_file(const struct kv_bytes *file, struct kv_bytes *body)
{
    char hex[2 * HASH_SIZE + 1];
    const size_t kind = sizeof(KIND) - 1;

    if (file->len < HEADER_SIZE || memcmp(file->data, KIND, kind) != 0 ||
        file->data[HEADER_SIZE - 1] != '\n')
        return -EBADMSG;
    body->data = file->data + HEADER_SIZE;
    body->len = file->len - HEADER_SIZE;
    hash_hex(hex, body->data, body->len);
    return memcmp(hex, file->data + kind, 2 * HASH_SIZE) == 0 ? 0 : -EBADMSG;
}

/* *file owns what *body is a part of. One that is not there is empty. */
static int load(const struct kv_store *store, const char *name, struct kv_bytes *file,
                struct kv_bytes *body, struct hl_error *err)
{
    _cleanup_close_ int fd =
        openat(store->dir, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    int r;

    *body = (struct kv_bytes){0};
    if (fd < 0 && errno == ENOENT)
        return 0;
    r = fd < 0 ? -errno : read_file(fd, file);
    if (r == 0)
        r = check_file(file, body);
    if (r < 0)
        hl_error_set(err, r, "the store cannot be read: %s",
                     r == -EBADMSG ? "it is damaged" : strerror(-r));
    return r;
}

static void bytes_fini(struct kv_bytes *bytes)
{
    free(bytes->data);
}

int kv_store_get(const struct kv_store *store, const char *image, uint32_t uid, const char *key,
                 struct kv_bytes *value, struct hl_error *err)
{
    _cleanup_(bytes_fini) struct kv_bytes file = {0};
    struct kv_bytes body;
    struct record record;
    char name[NAME_SIZE];
    int r;

    file_name(name, image, uid);
    r = load(store, name, &file, &body, err);
    if (r == 0)
        r = find_record(&body, key, &record);
    if (r == -ENOENT)
        return hl_error_set(err, r, "no such key");
    if (r < 0)
        return r;
    value->data = malloc(record.value_len + 1u);
    if (!value->data)
        return -ENOMEM;
    memcpy(value->data, record.value, record.value_len);
    value->len = record.value_len;
    return 0;
}

/* --- writing -------------------------------------------------------------------------------- */

static uint8_t *append(uint8_t *to, const void *data, size_t len)
{
    if (len > 0)
        memcpy(to, data, len);
    return to + len;
}

/* The file with old, if it is not NULL, taken out of body, and key and value, unless that is NULL,
 * put in. */
static int make_file(struct kv_bytes *out, const struct kv_bytes *body, const struct record *old,
                     const char *key, const struct kv_bytes *value)
{
    size_t key_len = strlen(key);
    char hex[2 * HASH_SIZE + 1];
    uint8_t *p;

    out->data = malloc(HEADER_SIZE + body->len + RECORD_SIZE + key_len + (value ? value->len : 0));
    if (!out->data)
        return -ENOMEM;
    p = out->data + HEADER_SIZE;
    if (old) {
        p = append(p, body->data, (size_t)(old->start - body->data));
        p = append(p, old->end, (size_t)(body->data + body->len - old->end));
    } else {
        p = append(p, body->data, body->len);
    }
    if (value) {
        const uint32_t lengths[2] = {htole32((uint32_t)key_len), htole32((uint32_t)value->len)};

        p = append(p, lengths, sizeof(lengths));
        p = append(p, key, key_len);
        p = append(p, value->data, value->len);
    }
    out->len = (size_t)(p - out->data);
    hash_hex(hex, out->data + HEADER_SIZE, out->len - HEADER_SIZE);
    p = append(out->data, KIND, sizeof(KIND) - 1);
    p = append(p, hex, 2 * HASH_SIZE);
    *p = '\n';
    return 0;
}

static int write_file(const struct kv_store *store, const char *name, const struct kv_bytes *file,
                      struct hl_error *err)
{
    const struct registry_io *io = store->io;
    char temp[REGISTRY_TEMP_SIZE];
    _cleanup_close_ int fd = registry_temp_open(io, store->dir, temp);
    int r = fd;

    if (r >= 0) {
        r = registry_write_all(io, fd, file->data, file->len);
        if (r == 0)
            r = io->fsync(fd);
        if (r == 0)
            r = io->rename(store->dir, temp, name, 0);
        if (r < 0)
            io->unlink(store->dir, temp);
        else
            r = io->fsync(store->dir);
    }
    if (r < 0)
        return hl_error_set(err, r, "the store cannot be written: %s", strerror(-r));
    return 0;
}

static int change(const struct kv_store *store, const char *name, const char *key,
                  const struct kv_bytes *value, uint64_t size, struct hl_error *err)
{
    _cleanup_(bytes_fini) struct kv_bytes file = {0}, changed = {0};
    struct kv_bytes body;
    struct record old;
    int found, r = load(store, name, &file, &body, err);

    if (r < 0)
        return r;
    found = find_record(&body, key, &old);
    if (found < 0 && (found != -ENOENT || !value))
        return hl_error_set(err, found, found == -ENOENT ? "no such key" : "the store is damaged");
    r = make_file(&changed, &body, found == 0 ? &old : NULL, key, value);
    if (r < 0)
        return r;
    if (value && changed.len - HEADER_SIZE > size)
        return hl_error_set(err, -EDQUOT, "the store is full: its size is %llu bytes",
                            (unsigned long long)size);
    return write_file(store, name, &changed, err);
}

int kv_store_put(const struct kv_store *store, const char *image, uint32_t uid, const char *key,
                 const struct kv_bytes *value, uint64_t size, struct hl_error *err)
{
    char name[NAME_SIZE];

    file_name(name, image, uid);
    return change(store, name, key, value, size, err);
}

int kv_store_delete(const struct kv_store *store, const char *image, uint32_t uid, const char *key,
                    struct hl_error *err)
{
    char name[NAME_SIZE];

    file_name(name, image, uid);
    return change(store, name, key, NULL, 0, err);
}

/* --- the directory -------------------------------------------------------------------------- */

int kv_store_open(struct kv_store *store, const char *state_dir, const struct registry_io *io,
                  struct hl_error *err)
{
    _cleanup_close_ int parent = open(state_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    struct stat st;

    store->io = io;
    if (parent < 0 || (mkdirat(parent, "kv", 0700) < 0 && errno != EEXIST))
        return hl_error_set(err, -errno, "%s/kv: %s", state_dir, strerror(errno));
    store->dir = openat(parent, "kv", O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (store->dir < 0 || fstat(store->dir, &st) < 0)
        return hl_error_set(err, -errno, "%s/kv: %s", state_dir, strerror(errno));
    if (st.st_uid != geteuid() || (st.st_mode & 022))
        return hl_error_set(err, -EPERM, "%s/kv: others may write to it", state_dir);
    return 0;
}

void kv_store_close(struct kv_store *store)
{
    hl_cleanup_closep(&store->dir);
    store->dir = -1;
}

static void dir_close(DIR **dir)
{
    if (*dir)
        closedir(*dir);
}

static DIR *dir_open(int fd)
{
    int own = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = own < 0 ? NULL : fdopendir(own);

    if (own >= 0 && !dir)
        close(own);
    return dir;
}

static void remove_file(const struct kv_store *store, const char *name)
{
    int r = store->io->unlink(store->dir, name);

    if (r < 0 && r != -ENOENT)
        log_warning("kv/%s cannot be removed: %s", name, strerror(-r));
}

void kv_store_forget(const struct kv_store *store, const char *image)
{
    _cleanup_(dir_close) DIR *dir = dir_open(store->dir);
    size_t len = strlen(image);
    const struct dirent *file;

    while (dir && (file = readdir(dir))) {
        if (strncmp(file->d_name, image, len) == 0 && file->d_name[len] == '@')
            remove_file(store, file->d_name);
    }
    store->io->fsync(store->dir);
}

void kv_store_collect(const struct kv_store *store, bool (*known)(void *opaque, const char *image),
                      void *opaque)
{
    _cleanup_(dir_close) DIR *dir = dir_open(store->dir);
    const struct dirent *file;

    while (dir && (file = readdir(dir))) {
        const char *at = strchr(file->d_name, '@');
        char image[HL_NAME_MAX + 1];
        size_t len = at ? (size_t)(at - file->d_name) : 0;

        if (strncmp(file->d_name, REGISTRY_TEMP_PREFIX, strlen(REGISTRY_TEMP_PREFIX)) == 0) {
            remove_file(store, file->d_name);
        } else if (hl_name_valid(file->d_name, len)) {
            memcpy(image, file->d_name, len);
            image[len] = '\0';
            if (!known(opaque, image))
                remove_file(store, file->d_name);
        }
    }
}
