/* SPDX-License-Identifier: Apache-2.0 */
/* The disk below writes less than it was asked to when it can, and fails where a test says. */
#include "config.h"

#include "tests/unit/registry_rig.h"

#include <dirent.h>
#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "tests/unit/tests_run.h"

char dir[64];
struct registry *registry;
const struct registry_quota plenty = {.max_images = 100, .max_disk = 1u << 30};

unsigned int operations;
unsigned int fail_at;
bool fail_on;
int fail_with = -EIO;

char trace[64];

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

const struct registry_io failing_io = {
    .open = failing_open,
    .write = failing_write,
    .fsync = failing_fsync,
    .rename = failing_rename,
    .unlink = failing_unlink,
};

void reopen(const struct registry_io *io)
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

int put_as(const char *name, const char *content, uid_t uid, const struct registry_quota *q,
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

int put(const char *name, const char *content)
{
    struct hl_error err = HL_ERROR_INIT;

    return put_as(name, content, 1, &plenty, &err);
}

int drop(const char *name, uid_t uid)
{
    struct registry_change *change;
    int r = registry_change_drop(&change, registry, name, uid, NULL);

    if (r < 0)
        return r;
    registry_change_run(change);
    return registry_change_end(change, NULL, NULL);
}

int find(const char *name, const char *content)
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

unsigned int files_in(const char *sub, bool *temporary)
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

void holds(unsigned int images, unsigned int manifests)
{
    bool temporary = false;

    ck_assert_uint_eq(files_in("images", &temporary), images);
    ck_assert_uint_eq(files_in("manifests", &temporary), manifests);
    ck_assert(!temporary);
}

void hex_of(const char *content, char hex[REGISTRY_HEX_SIZE])
{
    uint8_t sha256[REGISTRY_SHA256_SIZE];

    crypto_hash_sha256(sha256, (const uint8_t *)content, strlen(content));
    registry_hex(hex, sha256);
}

const char *trace_of(int result)
{
    static char copy[sizeof(trace)];

    ck_assert_int_eq(result, 0);
    memcpy(copy, trace, sizeof(copy));
    memset(trace, 0, sizeof(trace));
    return copy;
}

int registry_tests_run(TCase *tc, const char *name)
{
    if (sodium_init() < 0)
        return EXIT_FAILURE;
    tcase_set_timeout(tc, 60);
    tcase_add_checked_fixture(tc, set_up, tear_down);
    return tests_run(tc, name);
}
