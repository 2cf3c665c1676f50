/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The registry against a disk that fails at every single step, a process that is killed at any
 * moment, and files that somebody changed.
 */
#include "config.h"

#include <check.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "daemon/registry.h"
#include "daemon/registry_snapshot.h"

static char dir[64];
static struct registry *registry;
static const struct registry_quota quota = {.max_images = 100, .max_disk = 1u << 30};

/* A disk that fails */

static unsigned int operations; /* so far */
static unsigned int fail_at;    /* which one fails, from 1; 0: none */
static bool fail_on;            /* and all after it */
static int fail_with = -EIO;

static char trace[64]; /* open, write, fsync of a file, Fsync of a directory, rename, unlink */

static bool failing(char operation)
{
    size_t n = strlen(trace);

    if (n + 1 < sizeof(trace) && !(operation == 'w' && n > 0 && trace[n - 1] == 'w'))
        trace[n] = operation;
    operations++;
    return fail_at != 0 && (operations == fail_at || (fail_on && operations > fail_at));
}

static int failing_open(int at, const char *name, int flags, mode_t mode)
{
    return failing('o') ? fail_with : registry_io_system.open(at, name, flags, mode);
}

static ssize_t failing_write(int fd, const void *data, size_t len)
{
    if (failing('w'))
        return fail_with;
    /* Short writes are a disk's right. */
    return registry_io_system.write(fd, data, len > 100 ? len / 2 : len);
}

static int failing_fsync(int fd)
{
    struct stat st;

    fstat(fd, &st);
    return failing(S_ISDIR(st.st_mode) ? 'F' : 'f') ? fail_with : registry_io_system.fsync(fd);
}

static int failing_rename(int at, const char *from, const char *to, unsigned int flags)
{
    return failing('r') ? fail_with : registry_io_system.rename(at, from, to, flags);
}

static int failing_unlink(int at, const char *name)
{
    return failing('u') ? fail_with : registry_io_system.unlink(at, name);
}

static const struct registry_io failing_io = {
    .open = failing_open,
    .write = failing_write,
    .fsync = failing_fsync,
    .rename = failing_rename,
    .unlink = failing_unlink,
};

/* What tests say */

static void reopen(const struct registry_io *io)
{
    struct hl_error err = HL_ERROR_INIT;
    int r;

    registry_free(registry);
    registry = NULL;
    r = registry_open(&registry, dir, io, &err);
    ck_assert_msg(r == 0, "%s", err.text);
}

static void set_up(void)
{
    strcpy(dir, "/tmp/hld-registry-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(dir));
    fail_at = operations = 0;
    fail_on = false;
    fail_with = -EIO;
    reopen(&failing_io);
}

static void tear_down(void)
{
    char command[128];

    registry_free(registry);
    registry = NULL;
    snprintf(command, sizeof(command), "rm -rf %s", dir);
    ck_assert_int_eq(system(command), 0);
}

static int put_as(const char *name, const char *content, uid_t uid, const struct registry_quota *q,
                  struct hl_error *err)
{
    struct manifest m = {.size = strlen(content), .owner = uid, .limits.memory = 42};
    struct registry_change *change;
    _cleanup_close_ int fd = memfd_create("program", MFD_CLOEXEC);
    int r;

    ck_assert_int_eq(write(fd, content, strlen(content)), (int)strlen(content));
    snprintf(m.name, sizeof(m.name), "%s", name);
    crypto_hash_sha256(m.sha256, (const uint8_t *)content, strlen(content));
    r = registry_change_put(&change, registry, &m, fd, q, err);
    if (r < 0)
        return r;
    registry_change_run(change);
    return registry_change_end(change, NULL, err);
}

static int put(const char *name, const char *content)
{
    struct hl_error err = HL_ERROR_INIT;

    return put_as(name, content, 1, &quota, &err);
}

static int drop(const char *name, uid_t uid)
{
    struct registry_change *change;
    int r = registry_change_drop(&change, registry, name, uid, NULL);

    if (r < 0)
        return r;
    registry_change_run(change);
    return registry_change_end(change, NULL, NULL);
}

/* Checks the whole program on the disk. Returns: what registry_find or the check said. */
static int find(const char *name, const char *content)
{
    struct registry_entry entry;
    char text[8192] = "";
    int fd, r = registry_find(registry, name, 1, &entry, NULL);

    if (r < 0)
        return r;
    r = registry_store_program(registry_store(registry), entry.manifest.sha256, entry.manifest.size,
                               true, &fd, NULL, NULL);
    if (r < 0)
        return r;
    ck_assert_int_ge(read(fd, text, sizeof(text) - 1), 0);
    close(fd);
    if (content)
        ck_assert_str_eq(text, content);
    ck_assert_uint_eq(entry.manifest.limits.memory, 42);
    return 0;
}

static unsigned int files_in(const char *sub, bool *temporary)
{
    char path[128];
    const struct dirent *file;
    unsigned int count = 0;
    DIR *d;

    snprintf(path, sizeof(path), "%s/%s", dir, sub);
    d = opendir(path);
    while ((file = readdir(d))) {
        *temporary |= strncmp(file->d_name, REGISTRY_TEMP_PREFIX, 5) == 0;
        count += file->d_name[0] != '.';
    }
    closedir(d);
    return count;
}

static void holds(unsigned int images, unsigned int manifests)
{
    bool temporary = false;

    ck_assert_uint_eq(files_in("images", &temporary), images);
    ck_assert_uint_eq(files_in("manifests", &temporary), manifests);
    ck_assert(!temporary);
}

/* Tests */

START_TEST(put_find_list_drop_and_restart)
{
    struct manifest page[2];
    bool more;

    ck_assert_int_eq(put("b", "one"), 0);
    ck_assert_int_eq(put("a", "one"), 0);
    ck_assert_int_eq(put("c", "three"), 0);
    holds(2, 3);
    for (int i = 0; i < 2; i++) {
        ck_assert_int_eq(find("a", "one"), 0);
        ck_assert_int_eq(find("c", "three"), 0);
        ck_assert_uint_eq(registry_list(registry, 1, "", 2, page, &more), 2);
        ck_assert_str_eq(page[0].name, "a");
        ck_assert_str_eq(page[1].name, "b");
        ck_assert(more);
        ck_assert_uint_eq(registry_list(registry, 1, "b", 2, page, &more), 1);
        ck_assert_str_eq(page[0].name, "c");
        ck_assert(!more);
        reopen(&failing_io);
    }
    ck_assert_int_eq(put("a", "four"), 0);
    holds(3, 3);
    ck_assert_int_eq(drop("b", 1), 0);
    holds(2, 2);
    ck_assert_int_eq(drop("b", 1), -ENOENT);
    ck_assert_int_eq(find("a", "four"), 0);
}
END_TEST

START_TEST(same_program_again_and_under_the_same_name)
{
    ck_assert_int_eq(put("a", "x"), 0);
    ck_assert_int_eq(put("a", "x"), 0);
    holds(1, 1);
    ck_assert_int_eq(find("a", "x"), 0);
}
END_TEST

static const char *trace_of(int result)
{
    static char copy[sizeof(trace)];

    ck_assert_int_eq(result, 0);
    memcpy(copy, trace, sizeof(copy));
    memset(trace, 0, sizeof(trace));
    return copy;
}

/* What a power cut finds depends on the order alone, and no test can cut the power. */
START_TEST(files_are_synced_before_they_are_named)
{
    memset(trace, 0, sizeof(trace));
    ck_assert_str_eq(trace_of(put("x", "one")), "owfrFowfrF");   /* program, then manifest */
    ck_assert_str_eq(trace_of(put("x", "two")), "owfrFowfrFuu"); /* old manifest, old program */
    ck_assert_str_eq(trace_of(put("y", "two")), "owfrF");
    ck_assert_str_eq(trace_of(drop("x", 1)), "uF");
    ck_assert_str_eq(trace_of(drop("y", 1)), "uFu");
}
END_TEST

START_TEST(one_change_at_a_time)
{
    struct registry_change *first, *second;

    put("a", "x");
    ck_assert_int_eq(registry_change_drop(&first, registry, "a", 1, NULL), 0);
    ck_assert_int_eq(registry_change_drop(&second, registry, "a", 1, NULL), -EBUSY);
    registry_change_run(first);
    ck_assert_int_eq(registry_change_end(first, NULL, NULL), 0);
    ck_assert_int_eq(find("a", NULL), -ENOENT);
}
END_TEST

START_TEST(quotas)
{
    struct registry_quota small = {.max_images = 2, .max_disk = 10};
    struct hl_error err = HL_ERROR_INIT;

    ck_assert_int_eq(put_as("a", "12345", 1, &small, &err), 0);
    ck_assert_int_eq(put_as("b", "123456", 1, &small, &err), -EDQUOT);
    ck_assert_ptr_nonnull(strstr(err.text, "max_disk"));
    ck_assert_int_eq(put_as("a", "1234567890", 1, &small, &err), 0); /* its own place counts once */
    ck_assert_int_eq(put_as("a", "1", 1, &small, &err), 0);
    ck_assert_int_eq(put_as("b", "1", 1, &small, &err), 0);
    ck_assert_int_eq(put_as("c", "1", 1, &small, &err), -EDQUOT);
    ck_assert_ptr_nonnull(strstr(err.text, "max_images"));
    ck_assert_int_eq(put_as("c", "1", 2, &small, &err), 0);
}
END_TEST

/* A change whose Nth operation fails leaves what was there, and a registry that goes on. */
static void fail_each(bool replace, bool drop_it, bool all_after)
{
    bool done = false;

    for (unsigned int n = 1; !done; n++) {
        int r, found;

        ck_assert_uint_lt(n, 100);
        fail_at = 0;
        put("other", "other-content");
        if (replace || drop_it)
            ck_assert_int_eq(put("x", "old-content"), 0);
        else
            drop("x", 1);
        operations = 0;
        fail_at = n;
        fail_on = all_after;
        r = drop_it ? drop("x", 1) : put("x", "new-content");
        done = operations < n;
        fail_at = 0;
        if (r < 0 && !all_after) {
            /* Whatever failed, it shows neither now nor after a restart. */
            ck_assert_int_eq(r, fail_with);
            ck_assert_int_eq(find("x", "old-content"), replace || drop_it ? 0 : -ENOENT);
        }
        reopen(&failing_io);
        ck_assert_int_eq(find("other", "other-content"), 0);
        found = find("x", NULL);
        if (r == 0)
            ck_assert_int_eq(find("x", "new-content"), drop_it ? -ENOENT : 0);
        else if (!all_after)
            ck_assert_int_eq(find("x", "old-content"), replace || drop_it ? 0 : -ENOENT);
        else
            ck_assert(found == 0 || (!replace && found == -ENOENT));
        holds(found == 0 ? 2 : 1, found == 0 ? 2 : 1);
    }
}

START_TEST(each_operation_of_a_first_put_fails)
{
    fail_each(false, false, false);
    fail_with = -ENOSPC;
    fail_each(false, false, false);
}
END_TEST

START_TEST(each_operation_of_a_replacement_fails)
{
    fail_each(true, false, false);
}
END_TEST

START_TEST(each_operation_of_a_drop_fails)
{
    fail_each(false, true, false);
}
END_TEST

START_TEST(the_disk_fails_for_good)
{
    fail_each(false, false, true);
    fail_each(true, false, true);
}
END_TEST

START_TEST(nothing_is_left_behind_while_running_either)
{
    /* One failure, its cleanup works: no restart needed to have the disk tidy. */
    for (unsigned int n = 1; n <= 5; n++) {
        operations = 0;
        fail_at = n;
        ck_assert_int_lt(put("x", "new-content"), 0);
        fail_at = 0;
        holds(0, 0);
    }
}
END_TEST

/* Snapshots */

static struct manifest manifest_of(const char *name)
{
    struct registry_entry entry;

    ck_assert_int_eq(registry_find(registry, name, 0, &entry, NULL), 0);
    return entry.manifest;
}

static int keep(const char *name, const char *content)
{
    const struct manifest m = manifest_of(name);
    struct hl_error err = HL_ERROR_INIT;
    _cleanup_close_ int fd = memfd_create("snapshot", MFD_CLOEXEC);
    char temp[REGISTRY_TEMP_SIZE];
    int r;

    ck_assert_int_eq(write(fd, content, strlen(content)), (int)strlen(content));
    r = registry_snapshot_write(registry_store(registry), &m, fd, strlen(content), temp, &err);
    if (r == 0)
        r = registry_snapshot_put(registry, &m, m.owner, strlen(content), 1u << 20, temp, &err);
    ck_assert(r == 0 || err.text[0] != '\0');
    return r;
}

/* What a worker would get. Returns: 0 when that is content. */
static int kept(const char *name, const char *content)
{
    struct registry_entry entry;
    struct hl_error err = HL_ERROR_INIT;
    char text[8192] = "";
    uint64_t size;
    int fd, r;

    ck_assert_int_eq(registry_find(registry, name, 0, &entry, NULL), 0);
    if (entry.snapshot == 0)
        return -ENOENT;
    r = registry_snapshot_read(registry_store(registry), &entry.manifest, &fd, &size, &err);
    if (r < 0)
        return r;
    ck_assert_int_eq(pread(fd, text, sizeof(text) - 1, 0), (ssize_t)size);
    ck_assert_int_lt(pwrite(fd, "x", 1, 0), 0);
    close(fd);
    ck_assert_str_eq(text, content);
    return 0;
}

/* The same, of the bytes that the killed process filled the program with. */
static int kept_whole(const char *name)
{
    char content[4096];
    const struct manifest m = manifest_of(name);
    int fd;

    ck_assert_int_eq(
        registry_store_program(registry_store(registry), m.sha256, m.size, true, &fd, NULL, NULL),
        0);
    ck_assert_int_eq(pread(fd, content, sizeof(content) - 1, 0), (int)sizeof(content) - 1);
    content[sizeof(content) - 1] = '\0';
    close(fd);
    return kept(name, content);
}

static unsigned int snapshots(void)
{
    bool temporary = false;
    unsigned int n = files_in("snapshots", &temporary);

    ck_assert(!temporary);
    return n;
}

START_TEST(a_snapshot_stays_with_its_image)
{
    put("a", "one");
    put("b", "one");
    ck_assert_int_eq(keep("a", "memory of a"), 0);
    ck_assert_int_eq(keep("b", "memory of b"), 0);
    for (int i = 0; i < 2; i++) {
        ck_assert_int_eq(kept("a", "memory of a"), 0);
        ck_assert_int_eq(kept("b", "memory of b"), 0);
        reopen(&failing_io);
    }
    ck_assert_int_eq(keep("a", "newer"), 0);
    ck_assert_int_eq(kept("a", "newer"), 0);
    ck_assert_uint_eq(snapshots(), 2);
    put("a", "two");
    ck_assert_int_eq(kept("a", ""), -ENOENT);
    ck_assert_uint_eq(snapshots(), 1);
    drop("b", 1);
    ck_assert_uint_eq(snapshots(), 0);
}
END_TEST

/* One that was written while its image was replaced, or moved by hand, is of another version. */
START_TEST(a_snapshot_of_another_version_is_none)
{
    char from[256], to[256];
    struct manifest m;

    put("a", "one");
    put("b", "one");
    keep("a", "memory");
    keep("b", "of b");
    m = manifest_of("a");
    m.registered_ns++;
    {
        uint64_t size;
        int fd;

        ck_assert_int_eq(registry_snapshot_read(registry_store(registry), &m, &fd, &size, NULL),
                         -ENOENT);
    }
    snprintf(from, sizeof(from), "%s/snapshots/a", dir);
    snprintf(to, sizeof(to), "%s/snapshots/b", dir);
    ck_assert_int_eq(rename(from, to), 0);
    ck_assert_int_eq(kept("b", ""), -EBADMSG);
    ck_assert_int_eq(kept("a", ""), -ENOENT);
}
END_TEST

START_TEST(each_operation_of_a_snapshot_fails)
{
    put("a", "one");
    ck_assert_int_eq(keep("a", "memory"), 0);
    memset(trace, 0, sizeof(trace));
    ck_assert_str_eq(trace_of(keep("a", "memory")), "owfr");
    for (int with = 0; with < 2; with++) {
        fail_with = with ? -ENOSPC : -EIO;
        for (unsigned int n = 1; n <= 5; n++) {
            int r;

            operations = 0;
            fail_at = n;
            r = keep("a", "newer");
            fail_at = 0;
            ck_assert_int_eq(r, fail_with);
            ck_assert_int_eq(kept("a", "memory"), 0);
            ck_assert_int_eq(find("a", "one"), 0);
            ck_assert_uint_eq(snapshots(), 1);
        }
    }
    /* When even the cleaning up fails, the next start does it. */
    operations = 0;
    fail_at = 3;
    fail_on = true;
    ck_assert_int_lt(keep("a", "newer"), 0);
    fail_at = 0;
    fail_on = false;
    reopen(&failing_io);
    ck_assert_uint_eq(snapshots(), 1);
    ck_assert_int_eq(kept("a", "memory"), 0);
}
END_TEST

/* Programs come first where the disk is full. */
START_TEST(snapshots_make_room_for_programs)
{
    struct manifest m = {.size = 3, .owner = 1, .name = "b"};
    struct registry_change *change;
    _cleanup_close_ int fd = memfd_create("program", MFD_CLOEXEC);

    put("a", "one");
    keep("a", "memory");
    ck_assert_int_eq(write(fd, "two", 3), 3);
    crypto_hash_sha256(m.sha256, (const uint8_t *)"two", 3);
    for (int i = 0; i < 2; i++) {
        ck_assert_int_eq(registry_change_put(&change, registry, &m, fd, &quota, NULL), 0);
        operations = 0;
        fail_at = 2;
        fail_with = i ? -ENOSPC : -EIO;
        registry_change_run(change);
        fail_at = 0;
        if (i == 0) {
            ck_assert(!registry_change_make_room(change));
            ck_assert_int_eq(registry_change_end(change, NULL, NULL), -EIO);
            ck_assert_uint_eq(snapshots(), 1);
            continue;
        }
        ck_assert(registry_change_make_room(change));
        ck_assert_uint_eq(snapshots(), 0);
        ck_assert_int_eq(kept("a", ""), -ENOENT);
        registry_change_run(change);
        ck_assert(!registry_change_make_room(change));
        ck_assert_int_eq(registry_change_end(change, NULL, NULL), 0);
    }
    ck_assert_int_eq(find("a", "one"), 0);
}
END_TEST

START_TEST(leftover_snapshots_go_at_the_start)
{
    char path[256];
    int fd;

    put("a", "one");
    keep("a", "memory");
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof(path), "%s/snapshots/%s", dir, i ? ".tmp-0123456789abcdef" : "gone");
        fd = open(path, O_CREAT | O_WRONLY, 0600);
        ck_assert_int_ge(fd, 0);
        close(fd);
    }
    reopen(&failing_io);
    ck_assert_uint_eq(snapshots(), 1);
    ck_assert_int_eq(kept("a", "memory"), 0);
}
END_TEST

START_TEST(every_byte_of_a_kept_snapshot)
{
    char path[256];
    struct stat st;

    put("a", "one");
    keep("a", "memory");
    snprintf(path, sizeof(path), "%s/snapshots/a", dir);
    ck_assert_int_eq(stat(path, &st), 0);
    for (off_t at = 0; at < st.st_size; at++) {
        char byte;
        int fd, r;

        ck_assert_int_eq(chmod(path, 0600), 0);
        fd = open(path, O_RDWR);
        ck_assert_int_eq(pread(fd, &byte, 1, at), 1);
        byte ^= 0x10;
        ck_assert_int_eq(pwrite(fd, &byte, 1, at), 1);
        r = kept("a", "");
        ck_assert_msg(r == -EBADMSG || r == -ENOENT, "byte %lld: %d", (long long)at, r);
        byte ^= 0x10;
        ck_assert_int_eq(pwrite(fd, &byte, 1, at), 1);
        close(fd);
        ck_assert_int_eq(kept("a", "memory"), 0);
    }
    for (off_t len = st.st_size - 1; len >= 0; len--) {
        ck_assert_int_eq(truncate(path, len), 0);
        ck_assert_int_eq(kept("a", ""), -EBADMSG);
    }
    unlink(path);
    ck_assert_int_eq(kept("a", ""), -ENOENT);
    ck_assert_int_eq(symlink("/etc/passwd", path), 0);
    ck_assert_int_eq(kept("a", ""), -EBADMSG);
    ck_assert_int_eq(keep("a", "memory"), 0);
    ck_assert_int_eq(kept("a", "memory"), 0);
}
END_TEST

START_TEST(killed_at_any_moment)
{
    char content[4096];

    put("other", "other-content");
    registry_free(registry);
    registry = NULL;
    for (int round = 0; round < 60; round++) {
        int status;
        pid_t pid = fork();

        if (pid == 0) {
            reopen(&registry_io_system);
            for (int i = 0;; i++) {
                memset(content, 'a' + i % 26, sizeof(content) - 1);
                content[sizeof(content) - 1] = '\0';
                put(i % 2 ? "x" : "y", content);
                keep(i % 2 ? "x" : "y", content);
                if (i % 5 == 4)
                    drop("x", 1);
            }
        }
        usleep(3000 + (useconds_t)(round * 137 % 4000));
        kill(pid, SIGKILL);
        waitpid(pid, &status, 0);
        ck_assert(WIFSIGNALED(status));
        reopen(&failing_io);
        ck_assert_int_eq(find("other", "other-content"), 0);
        ck_assert(find("x", NULL) == 0 || find("x", NULL) == -ENOENT);
        ck_assert(find("y", NULL) == 0 || find("y", NULL) == -ENOENT);
        ck_assert_uint_le(snapshots(), registry_count(registry));
        for (const char *name = "x"; name; name = *name == 'x' ? "y" : NULL) {
            if (find(name, NULL) == 0) /* of another version: replaced, and not yet removed */
                ck_assert_int_ne(kept_whole(name), -EBADMSG);
        }
        holds(files_in("images", &(bool){false}), (unsigned int)registry_count(registry));
        ck_assert_uint_le(files_in("images", &(bool){false}), registry_count(registry));
        registry_free(registry);
        registry = NULL;
    }
}
END_TEST

static void damage(const char *sub, const char *name, off_t at, const char *bytes)
{
    char path[256];
    int fd;

    snprintf(path, sizeof(path), "%s/%s/%s", dir, sub, name);
    ck_assert_int_eq(chmod(path, 0600), 0);
    fd = open(path, O_WRONLY);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(pwrite(fd, bytes, strlen(bytes), at), (int)strlen(bytes));
    close(fd);
}

static void hex_of(const char *content, char hex[REGISTRY_HEX_SIZE])
{
    uint8_t sha256[REGISTRY_SHA256_SIZE];

    crypto_hash_sha256(sha256, (const uint8_t *)content, strlen(content));
    registry_hex(hex, sha256);
}

START_TEST(damaged_missing_and_short_programs)
{
    struct registry_entry entry;
    char hex[REGISTRY_HEX_SIZE], path[256];

    put("a", "aaaa");
    put("b", "bbbb");
    put("c", "cccc");
    put("d", "dddd");
    hex_of("aaaa", hex);
    damage("images", hex, 2, "x");
    hex_of("bbbb", hex);
    damage("images", hex, 4, "x");
    hex_of("cccc", hex);
    snprintf(path, sizeof(path), "%s/images/%s", dir, hex);
    ck_assert_int_eq(unlink(path), 0);
    reopen(&failing_io);
    ck_assert_int_eq(find("a", NULL), -EBADMSG);
    ck_assert_int_eq(find("b", NULL), -EBADMSG);
    ck_assert_int_eq(find("c", NULL), -EBADMSG);
    ck_assert_int_eq(find("d", "dddd"), 0);
    registry_find(registry, "b", 1, &entry, NULL);
    ck_assert_int_eq(entry.blob, BLOB_DAMAGED);
    ck_assert_int_eq(put("a", "aaaa"), 0);
    ck_assert_int_eq(put("c", "cccc"), 0);
    ck_assert_int_eq(find("a", "aaaa"), 0);
    ck_assert_int_eq(find("c", "cccc"), 0);
}
END_TEST

START_TEST(a_link_is_no_program)
{
    char hex[REGISTRY_HEX_SIZE], path[256];

    put("a", "aaaa");
    hex_of("aaaa", hex);
    snprintf(path, sizeof(path), "%s/images/%s", dir, hex);
    unlink(path);
    ck_assert_int_eq(symlink("/etc/passwd", path), 0);
    ck_assert_int_eq(find("a", NULL), -EBADMSG);
}
END_TEST

START_TEST(damaged_manifests)
{
    char hex[REGISTRY_HEX_SIZE], path[256];
    struct hl_error err = HL_ERROR_INIT;

    put("a", "aaaa");
    put("b", "bbbb");
    put("future", "ffff");
    put("short", "ssss");
    damage("manifests", "a", 100, "#");
    damage("manifests", "future", strlen(REGISTRY_MANIFEST_KIND), "9");
    snprintf(path, sizeof(path), "%s/manifests/short", dir);
    ck_assert_int_eq(truncate(path, 20), 0);
    reopen(&failing_io);
    ck_assert_int_eq(find("a", NULL), -EBADMSG);
    ck_assert_int_eq(find("short", NULL), -EBADMSG);
    ck_assert_int_eq(find("future", NULL), -EBADMSG);
    ck_assert_int_eq(find("b", "bbbb"), 0);
    holds(4, 4); /* their programs are kept */
    /* Nobody knows whose it was: root alone may replace it. */
    ck_assert_int_eq(put("a", "mine"), -EACCES);
    ck_assert_int_eq(drop("a", 1), -EACCES);
    ck_assert_int_eq(put_as("a", "root", 0, &quota, &err), 0);
    ck_assert_int_eq(find("a", "root"), 0);
    ck_assert_int_eq(drop("short", 0), 0);
    /* A newer version's is nobody's to touch. */
    ck_assert_int_eq(put_as("future", "root", 0, &quota, &err), -EBUSY);
    ck_assert_int_eq(drop("future", 0), -EBUSY);
    hex_of("ffff", hex);
    snprintf(path, sizeof(path), "%s/images/%s", dir, hex);
    reopen(&failing_io);
    ck_assert_int_eq(access(path, F_OK), 0);
    ck_assert_int_eq(find("a", "root"), 0);
}
END_TEST

START_TEST(every_byte_of_a_manifest_is_guarded)
{
    struct manifest m = {.name = "x", .size = 5, .owner = 7}, back;
    _cleanup_free_ char *text = NULL;
    size_t len;

    ck_assert_int_eq(manifest_encode(&m, &text, &len), 0);
    ck_assert_int_eq(manifest_decode(&back, "x", text, len, NULL), 0);
    ck_assert_uint_eq(back.owner, 7);
    ck_assert_int_eq(manifest_decode(&back, "y", text, len, NULL), -EBADMSG);
    for (size_t i = 0; i < len; i++) {
        text[i] ^= 1;
        ck_assert_int_lt(manifest_decode(&back, "x", text, len, NULL), 0);
        text[i] ^= 1;
        ck_assert_int_lt(manifest_decode(&back, "x", text, i, NULL), 0);
    }
    m.size = UINT64_MAX;
    free(text);
    text = NULL;
    ck_assert_int_eq(manifest_encode(&m, &text, &len), -ERANGE);
}
END_TEST

static struct hl_host_policy *some_policy(void)
{
    static const char *const texts[] = {"f(u32, string) -> bytes", "g() @service", "hl.kv.get"};
    static struct hl_host_policy policy;
    char why[128];

    policy = (struct hl_host_policy){.rate = 5, .kv_size = 4096};
    for (unsigned int i = 0; i < 3; i++)
        ck_assert_int_eq(hl_host_function_parse(&policy.functions[policy.nfunctions++], texts[i],
                                                why, sizeof(why)),
                         0);
    return &policy;
}

/* With a policy it is a version that an older hld keeps and does not call; without one, also with
 * an empty one, it is what an older hld has always read. */
START_TEST(policies_in_manifests)
{
    struct hl_host_policy none = {0};
    struct manifest m = {.name = "x", .size = 5, .owner = 7, .host = some_policy()}, back;
    _cleanup_free_ char *text = NULL, *plain = NULL;
    size_t len;

    ck_assert_int_eq(manifest_encode(&m, &text, &len), 0);
    ck_assert_int_eq(strncmp(text, "hld-manifest 2 ", 15), 0);
    ck_assert_int_eq(manifest_decode(&back, "x", text, len, NULL), 0);
    ck_assert_ptr_nonnull(back.host);
    ck_assert_uint_eq(back.host->nfunctions, 3);
    ck_assert_str_eq(back.host->functions[1].name, "g");
    ck_assert_int_eq(back.host->functions[1].provider, HL_PROVIDER_SERVICE);
    ck_assert_int_eq(back.host->functions[0].sig.ret, HL_TYPE_BYTES);
    ck_assert_uint_eq(back.host->rate, 5);
    ck_assert_uint_eq(back.host->kv_size, 4096);
    free(back.host);
    for (size_t i = 0; i < len; i++) {
        text[i] ^= 1;
        ck_assert_int_lt(manifest_decode(&back, "x", text, len, NULL), 0);
        text[i] ^= 1;
    }
    m.host = &none;
    ck_assert_int_eq(manifest_encode(&m, &plain, &len), 0);
    ck_assert_int_eq(strncmp(plain, "hld-manifest 1 ", 15), 0);
    ck_assert_int_eq(manifest_decode(&back, "x", plain, len, NULL), 0);
    ck_assert_ptr_null(back.host);
    plain[13] = '2'; /* the checksum holds, and the version lies */
    ck_assert_int_eq(manifest_decode(&back, "x", plain, len, NULL), -EBADMSG);
    text[13] = '1';
    ck_assert_int_eq(manifest_decode(&back, "x", text, strlen(text), NULL), -EBADMSG);
    text[13] = '3';
    ck_assert_int_eq(manifest_decode(&back, "x", text, strlen(text), NULL), -EOPNOTSUPP);
}
END_TEST

/* A checksum proves nothing about who wrote it. */
START_TEST(well_summed_nonsense_is_refused)
{
    static const char *const bodies[] = {
        "",
        "{}",
        "[]",
        "null",
        "{\"name\": \"x\"}",
        "{\"name\":\"x\",\"sha256\":\"zz\",\"size\":1,\"owner\":0,\"private\":false,"
        "\"registered_unix_ns\":0,\"limits\":{\"memory\":0,\"deadline_ns\":0,\"min_instances\":0,"
        "\"max_instances\":0,\"max_queue\":0,\"io_size\":0}}",
        "{\"name\":\"x\",\"sha256\":"
        "\"0000000000000000000000000000000000000000000000000000000000000000\",\"size\":-1,"
        "\"owner\":0,\"private\":false,\"registered_unix_ns\":0,\"limits\":{\"memory\":0,"
        "\"deadline_ns\":0,\"min_instances\":0,\"max_instances\":0,\"max_queue\":0,\"io_size\":0}}",
        "{\"name\":\"x\",\"sha256\":"
        "\"0000000000000000000000000000000000000000000000000000000000000000\",\"size\":1,"
        "\"owner\":4294967296,\"private\":false,\"registered_unix_ns\":0,\"limits\":{\"memory\":0,"
        "\"deadline_ns\":0,\"min_instances\":0,\"max_instances\":0,\"max_queue\":0,\"io_size\":0}}",
    };

    for (size_t i = 0; i < sizeof(bodies) / sizeof(bodies[0]); i++) {
        char hex[REGISTRY_HEX_SIZE], text[2048];
        struct manifest m;
        int n;

        hex_of(bodies[i], hex);
        n = snprintf(text, sizeof(text), REGISTRY_MANIFEST_KIND "1 %s\n%s", hex, bodies[i]);
        ck_assert_int_eq(manifest_decode(&m, "x", text, (size_t)n, NULL), -EBADMSG);
    }
}
END_TEST

START_TEST(strange_files_do_not_matter)
{
    char path[256];
    int fd;

    put("a", "aaaa");
    for (int i = 0; i < 3; i++) {
        static const char *const names[] = {"images/junk", "manifests/.hidden",
                                            "images/.tmp-0123456789abcdef"};

        snprintf(path, sizeof(path), "%s/%s", dir, names[i]);
        fd = open(path, O_CREAT | O_WRONLY, 0600);
        close(fd);
    }
    snprintf(path, sizeof(path), "%s/manifests/fifo", dir);
    ck_assert_int_eq(mkfifo(path, 0600), 0);
    snprintf(path, sizeof(path), "%s/manifests/folder", dir);
    ck_assert_int_eq(mkdir(path, 0700), 0);
    reopen(&failing_io);
    ck_assert_int_eq(find("a", "aaaa"), 0);
    ck_assert_int_eq(find("fifo", NULL), -EBADMSG);
    ck_assert_int_eq(find("folder", NULL), -EBADMSG);
}
END_TEST

START_TEST(a_state_directory_is_ours_alone)
{
    struct registry *second = NULL;
    struct hl_error err = HL_ERROR_INIT;

    ck_assert_int_eq(registry_open(&second, dir, &failing_io, &err), -EBUSY);
    ck_assert_ptr_nonnull(strstr(err.text, "another hld"));
    registry_free(registry);
    registry = NULL;
    ck_assert_int_eq(chmod(dir, 0777), 0);
    ck_assert_int_eq(registry_open(&second, dir, &failing_io, &err), -EPERM);
    ck_assert_int_eq(chmod(dir, 0700), 0);
    reopen(&failing_io);
}
END_TEST

START_TEST(a_full_disk)
{
    char *big;

    if (geteuid() != 0)
        return;
    registry_free(registry);
    registry = NULL;
    if (mount("hld-test", dir, "tmpfs", 0, "size=64k,mode=0700") < 0) {
        reopen(&failing_io);
        return;
    }
    reopen(&registry_io_system);
    big = malloc(128 * 1024 + 1);
    memset(big, 'x', 128 * 1024);
    big[128 * 1024] = '\0';
    ck_assert_int_eq(put("small", "s"), 0);
    ck_assert_int_eq(put("big", big), -ENOSPC);
    ck_assert_int_eq(put("small", big), -ENOSPC);
    holds(1, 1);
    ck_assert_int_eq(find("small", "s"), 0);
    big[8 * 1024 - 1] = '\0';
    ck_assert_int_eq(put("fits", big), 0);
    free(big);
    registry_free(registry);
    registry = NULL;
    ck_assert_int_eq(umount(dir), 0);
    reopen(&failing_io);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("registry");
    TCase *tc = tcase_create("registry");
    SRunner *runner = srunner_create(suite);
    int failed;

    if (sodium_init() < 0)
        return EXIT_FAILURE;
    tcase_set_timeout(tc, 60);
    tcase_add_checked_fixture(tc, set_up, tear_down);
    tcase_add_test(tc, put_find_list_drop_and_restart);
    tcase_add_test(tc, same_program_again_and_under_the_same_name);
    tcase_add_test(tc, files_are_synced_before_they_are_named);
    tcase_add_test(tc, one_change_at_a_time);
    tcase_add_test(tc, quotas);
    tcase_add_test(tc, each_operation_of_a_first_put_fails);
    tcase_add_test(tc, each_operation_of_a_replacement_fails);
    tcase_add_test(tc, each_operation_of_a_drop_fails);
    tcase_add_test(tc, the_disk_fails_for_good);
    tcase_add_test(tc, nothing_is_left_behind_while_running_either);
    tcase_add_test(tc, killed_at_any_moment);
    tcase_add_test(tc, a_snapshot_stays_with_its_image);
    tcase_add_test(tc, a_snapshot_of_another_version_is_none);
    tcase_add_test(tc, each_operation_of_a_snapshot_fails);
    tcase_add_test(tc, snapshots_make_room_for_programs);
    tcase_add_test(tc, leftover_snapshots_go_at_the_start);
    tcase_add_test(tc, every_byte_of_a_kept_snapshot);
    tcase_add_test(tc, damaged_missing_and_short_programs);
    tcase_add_test(tc, a_link_is_no_program);
    tcase_add_test(tc, damaged_manifests);
    tcase_add_test(tc, every_byte_of_a_manifest_is_guarded);
    tcase_add_test(tc, policies_in_manifests);
    tcase_add_test(tc, well_summed_nonsense_is_refused);
    tcase_add_test(tc, strange_files_do_not_matter);
    tcase_add_test(tc, a_state_directory_is_ours_alone);
    tcase_add_test(tc, a_full_disk);
    suite_add_tcase(suite, tc);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
