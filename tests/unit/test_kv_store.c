/* SPDX-License-Identifier: Apache-2.0 */
/* The files of hl.kv: what they keep, against a disk that fails at every step, and files that
 * somebody changed. */
#include "config.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/kv_store.h"
#include "tests/unit/tests_run.h"

#define SIZE 10000u

static char dir[64];
static struct kv_store store;

static unsigned int operations, fail_at; /* from 1; 0: none */

static bool failing(void)
{
    return ++operations == fail_at;
}

static int failing_open(int at, const char *name, int flags, mode_t mode)
{
    return failing() ? -EIO : registry_io_system.open(at, name, flags, mode);
}

static ssize_t failing_write(int fd, const void *data, size_t len)
{
    return failing() ? -ENOSPC : registry_io_system.write(fd, data, len > 50 ? len / 2 : len);
}

static int failing_fsync(int fd)
{
    return failing() ? -EIO : registry_io_system.fsync(fd);
}

static int failing_rename(int at, const char *from, const char *to, unsigned int flags)
{
    return failing() ? -EIO : registry_io_system.rename(at, from, to, flags);
}

static int failing_unlink(int at, const char *name)
{
    return registry_io_system.unlink(at, name);
}

static const struct registry_io failing_io = {failing_open, failing_write, failing_fsync,
                                              failing_rename, failing_unlink};

static void prepare(void)
{
    struct hl_error err = HL_ERROR_INIT;

    ck_assert_int_ge(sodium_init(), 0);
    snprintf(dir, sizeof(dir), "/tmp/hld-kv-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(dir));
    store.dir = -1;
    fail_at = operations = 0;
    ck_assert_msg(kv_store_open(&store, dir, &failing_io, &err) == 0, "%s", err.text);
}

static void clean(void)
{
    char command[128];

    kv_store_close(&store);
    snprintf(command, sizeof(command), "rm -rf %s", dir);
    ck_assert_int_eq(system(command), 0);
}

static int put(const char *image, uint32_t uid, const char *key, const char *value)
{
    const struct kv_bytes bytes = {(uint8_t *)value, strlen(value)};

    return kv_store_put(&store, image, uid, key, &bytes, SIZE, NULL);
}

/* Returns: whether the key has that value, NULL: has none. */
static bool has(const char *image, uint32_t uid, const char *key, const char *value)
{
    struct kv_bytes got = {0};
    int r = kv_store_get(&store, image, uid, key, &got, NULL);
    bool same = value ? r == 0 && got.len == strlen(value) && memcmp(got.data, value, got.len) == 0
                      : r == -ENOENT;

    free(got.data);
    return same;
}

START_TEST(keeps)
{
    ck_assert(has("a", 1, "k", NULL));
    ck_assert_int_eq(put("a", 1, "k", "one"), 0);
    ck_assert_int_eq(put("a", 1, "l", ""), 0);
    ck_assert_int_eq(put("a", 1, "kk", "two"), 0);
    ck_assert_int_eq(put("a", 1, "k", "three, and longer"), 0);
    ck_assert(has("a", 1, "k", "three, and longer"));
    ck_assert(has("a", 1, "l", ""));
    ck_assert(has("a", 1, "kk", "two"));
    ck_assert(has("a", 2, "k", NULL)); /* another uid's */
    ck_assert(has("b", 1, "k", NULL)); /* another image's */
    ck_assert_int_eq(kv_store_delete(&store, "a", 1, "k", NULL), 0);
    ck_assert_int_eq(kv_store_delete(&store, "a", 1, "k", NULL), -ENOENT);
    ck_assert(has("a", 1, "k", NULL));
    ck_assert(has("a", 1, "kk", "two"));
}
END_TEST

START_TEST(size_is_bounded)
{
    static char big[SIZE];

    memset(big, 'x', SIZE - 8);
    ck_assert_int_eq(put("a", 1, "k", big), -EDQUOT);
    ck_assert_int_eq(put("a", 1, "k", "small"), 0);
    big[SIZE - 9] = '\0';
    ck_assert_int_eq(put("a", 1, "k", big), 0); /* in place of the other */
    ck_assert_int_eq(put("a", 1, "l", "x"), -EDQUOT);
    ck_assert(has("a", 1, "k", big));
}
END_TEST

START_TEST(every_step_may_fail)
{
    unsigned int steps;

    ck_assert_int_eq(put("a", 1, "k", "old"), 0);
    operations = 0;
    ck_assert_int_eq(put("a", 1, "k", "old"), 0);
    steps = operations;
    ck_assert_uint_gt(steps, 4);
    for (unsigned int i = 1; i <= steps; i++) {
        operations = 0;
        fail_at = i;
        ck_assert_int_lt(put("a", 1, "k", "new"), 0);
        fail_at = 0;
        /* the directory that could not be synced is the last step: it is either */
        ck_assert(has("a", 1, "k", "old") || (i == steps && has("a", 1, "k", "new")));
    }
}
END_TEST

START_TEST(every_byte_is_guarded)
{
    uint8_t data[512];
    char path[96];
    ssize_t len;
    int fd;

    ck_assert_int_eq(put("a", 1, "key", "a value"), 0);
    snprintf(path, sizeof(path), "%s/kv/a@1", dir);
    chmod(path, 0600);
    fd = open(path, O_RDWR);
    len = read(fd, data, sizeof(data));
    ck_assert_int_gt(len, 80);
    for (ssize_t i = 0; i < len; i++) {
        struct kv_bytes value = {0};

        data[i] ^= 4;
        ck_assert_int_eq(pwrite(fd, data, (size_t)len, 0), len);
        ck_assert_int_eq(kv_store_get(&store, "a", 1, "key", &value, NULL), -EBADMSG);
        ck_assert_int_eq(put("a", 1, "key", "x"), -EBADMSG);
        data[i] ^= 4;
    }
    ck_assert_int_eq(pwrite(fd, data, (size_t)len, 0), len);
    ck_assert(has("a", 1, "key", "a value"));
    close(fd);
}
END_TEST

/* A digest proves nothing about who wrote it. */
START_TEST(well_summed_nonsense)
{
    static const uint8_t bodies[][12] = {
        {1, 0, 0},                                /* half a record */
        {255, 255, 255, 255, 255, 255, 255, 255}, /* more than there is */
        {4, 0, 0, 0, 9, 0, 0, 0, 'k', 'e', 'y', '!'},
    };
    static const size_t sizes[] = {3, 8, 12};
    char path[96];

    snprintf(path, sizeof(path), "%s/kv/a@1", dir);
    for (int i = 0; i < 3; i++) {
        struct kv_bytes value = {0};
        uint8_t hash[32];
        char hex[65];
        FILE *file = fopen(path, "w");

        crypto_generichash(hash, sizeof(hash), bodies[i], sizes[i], NULL, 0);
        sodium_bin2hex(hex, sizeof(hex), hash, sizeof(hash));
        fprintf(file, "hld-kv 1 %s\n", hex);
        fwrite(bodies[i], 1, sizes[i], file);
        fclose(file);
        ck_assert_int_eq(kv_store_get(&store, "a", 1, "k", &value, NULL), -EBADMSG);
        ck_assert_int_eq(kv_store_delete(&store, "a", 1, "k", NULL), -EBADMSG);
    }
}
END_TEST

static bool only_a(void *opaque, const char *image)
{
    (void)opaque;
    return strcmp(image, "a") == 0;
}

START_TEST(goes_with_its_image)
{
    char path[96];

    ck_assert_int_eq(put("a", 1, "k", "v"), 0);
    ck_assert_int_eq(put("a", 2, "k", "v"), 0);
    ck_assert_int_eq(put("ab", 1, "k", "v"), 0);
    kv_store_forget(&store, "a");
    ck_assert(has("a", 1, "k", NULL) && has("a", 2, "k", NULL) && has("ab", 1, "k", "v"));
    ck_assert_int_eq(put("a", 1, "k", "v"), 0);
    snprintf(path, sizeof(path), "%s/kv/.tmp-0123456789abcdef", dir);
    close(open(path, O_WRONLY | O_CREAT, 0400));
    kv_store_collect(&store, only_a, NULL);
    ck_assert(has("a", 1, "k", "v") && has("ab", 1, "k", NULL));
    ck_assert_int_lt(access(path, F_OK), 0);
}
END_TEST

START_TEST(directory_is_checked)
{
    struct kv_store other = {.dir = -1};
    char path[96];

    snprintf(path, sizeof(path), "%s/kv", dir);
    chmod(path, 0777);
    ck_assert_int_eq(kv_store_open(&other, dir, &failing_io, NULL), -EPERM);
    kv_store_close(&other);
    chmod(path, 0700);
}
END_TEST

int main(void)
{
    TCase *tc = tcase_create("kv_store");

    tcase_add_checked_fixture(tc, prepare, clean);
    tcase_add_test(tc, keeps);
    tcase_add_test(tc, size_is_bounded);
    tcase_add_test(tc, every_step_may_fail);
    tcase_add_test(tc, every_byte_is_guarded);
    tcase_add_test(tc, well_summed_nonsense);
    tcase_add_test(tc, goes_with_its_image);
    tcase_add_test(tc, directory_is_checked);
    return tests_run(tc, "kv_store");
}
