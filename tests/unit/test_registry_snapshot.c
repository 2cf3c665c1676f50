/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Snapshots that the registry keeps, on the same terms as images: a disk that fails at every single
 * step, a process that is killed at any moment, and files that somebody changed.
 */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "daemon/registry_snapshot.h"
#include "tests/unit/registry_rig.h"

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
        ck_assert_int_eq(registry_change_put(&change, registry, &m, fd, &plenty, NULL), 0);
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

int main(void)
{
    TCase *tc = tcase_create("registry_snapshot");

    tcase_add_test(tc, killed_at_any_moment);
    tcase_add_test(tc, a_snapshot_stays_with_its_image);
    tcase_add_test(tc, a_snapshot_of_another_version_is_none);
    tcase_add_test(tc, each_operation_of_a_snapshot_fails);
    tcase_add_test(tc, snapshots_make_room_for_programs);
    tcase_add_test(tc, leftover_snapshots_go_at_the_start);
    tcase_add_test(tc, every_byte_of_a_kept_snapshot);
    return registry_tests_run(tc, "registry_snapshot");
}
