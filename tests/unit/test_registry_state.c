/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Images with a state: three files, counted one by one, that appear and go as one; with every
 * operation on the disk made to fail once.
 */
#include "config.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "tests/unit/registry_rig.h"

static void fill(struct manifest_file *file, const char *content)
{
    file->size = strlen(content);
    crypto_hash_sha256(file->sha256, (const uint8_t *)content, file->size);
}

static struct manifest manifest(const char *name, const char *root, const char *pages)
{
    struct manifest m = {.owner = 1, .has_state = true, .parent = "parent", .limits.memory = 42};
    struct manifest_file program;

    snprintf(m.name, sizeof(m.name), "%s", name);
    fill(&program, "program");
    memcpy(m.sha256, program.sha256, sizeof(m.sha256));
    m.size = program.size;
    fill(&m.parts[PART_ROOT], root);
    fill(&m.parts[PART_STATE], pages);
    return m;
}

static int put_state_as(const struct manifest *m, const char *content,
                        const struct registry_quota *quota)
{
    _cleanup_close_ int fd = memfd_create("files", MFD_CLOEXEC);
    struct registry_change *change;
    struct hl_error err = HL_ERROR_INIT;
    int r;

    ck_assert_int_eq(write(fd, content, strlen(content)), (int)strlen(content));
    r = registry_change_put(&change, registry, m, fd, quota, &err);
    if (r < 0)
        return r;
    registry_change_run(change);
    return registry_change_end(change, NULL, &err);
}

static int put_state(const char *name, const char *root, const char *pages)
{
    const struct manifest m = manifest(name, root, pages);
    char content[256];

    snprintf(content, sizeof(content), "program%s%s", root, pages);
    return put_state_as(&m, content, &plenty);
}

static int files(void)
{
    char path[128];
    const struct dirent *file;
    DIR *images;
    int n = 0;

    snprintf(path, sizeof(path), "%s/images", dir);
    images = opendir(path);
    ck_assert_ptr_nonnull(images);
    while ((file = readdir(images)))
        n += file->d_name[0] != '.' || strlen(file->d_name) > 2;
    closedir(images);
    return n;
}

/* Whether the name's part has that content. */
static int part(const char *name, enum manifest_part which, const char *content)
{
    struct registry_entry entry;
    char text[256] = "";
    int fd, r = registry_find(registry, name, 1, &entry, NULL);

    if (r < 0)
        return r;
    ck_assert(entry.manifest.has_state);
    ck_assert_str_eq(entry.manifest.parent, "parent");
    r = registry_store_copy(registry_store(registry), &entry.manifest.parts[which], &fd, NULL);
    if (r < 0)
        return r;
    ck_assert_int_eq(fcntl(fd, F_GET_SEALS) & F_SEAL_WRITE, F_SEAL_WRITE);
    ck_assert_int_eq(pread(fd, text, sizeof(text) - 1, 0), (int)strlen(content));
    close(fd);
    ck_assert_str_eq(text, content);
    return 0;
}

START_TEST(files_come_and_go_with_their_names)
{
    ck_assert_int_eq(put_state("a", "root", "pages of a"), 0);
    ck_assert_int_eq(put_state("b", "root", "pages of b"), 0);
    ck_assert_int_eq(files(), 4);
    for (int i = 0; i < 2; i++) {
        ck_assert_int_eq(part("a", PART_ROOT, "root"), 0);
        ck_assert_int_eq(part("a", PART_STATE, "pages of a"), 0);
        ck_assert_int_eq(part("b", PART_STATE, "pages of b"), 0);
        reopen(&failing_io);
        ck_assert_int_eq(files(), 4);
    }
    ck_assert_int_eq(put_state("a", "root", "newer pages"), 0);
    ck_assert_int_eq(files(), 4);
    ck_assert_int_eq(part("a", PART_STATE, "newer pages"), 0);
    ck_assert_int_eq(drop("b", 1), 0);
    ck_assert_int_eq(files(), 3);
    ck_assert_int_eq(part("a", PART_ROOT, "root"), 0);
    ck_assert_int_eq(drop("a", 1), 0);
    ck_assert_int_eq(files(), 0);
}
END_TEST

START_TEST(every_operation_fails_once)
{
    ck_assert_int_eq(put_state("a", "root", "pages of a"), 0);
    for (unsigned int at = 1;; at++) {
        int r, before;

        if (at > 1)
            reopen(&failing_io);
        before = files();
        operations = 0;
        fail_at = at;
        r = put_state("b", "root", "pages of b");
        fail_at = 0;
        ck_assert_int_eq(part("a", PART_ROOT, "root"), 0);
        ck_assert_int_eq(part("a", PART_STATE, "pages of a"), 0);
        if (r == 0 && operations < at)
            break;    /* there are no more */
        if (r == 0) { /* what failed was cleaning up */
            ck_assert_int_eq(drop("b", 1), 0);
            continue;
        }
        ck_assert_int_eq(files(), before);
        ck_assert_int_eq(part("b", PART_ROOT, "root"), -ENOENT);
        reopen(&failing_io);
        ck_assert_int_eq(files(), before);
        ck_assert_uint_lt(at, 100);
    }
    ck_assert_int_eq(part("b", PART_STATE, "pages of b"), 0);
}
END_TEST

/* Files that are there already have to be shown all the same. */
START_TEST(digests_are_checked)
{
    struct manifest m = manifest("b", "root", "pages of b");

    ck_assert_int_eq(put_state("a", "root", "pages of a"), 0);
    ck_assert_int_eq(put_state_as(&m, "programrootpages of x", &plenty), -EINVAL);
    ck_assert_int_eq(put_state_as(&m, "programrxxtpages of b", &plenty), -EINVAL);
    ck_assert_int_eq(put_state_as(&m, "pxxgramrootpages of b", &plenty), -EINVAL);
    ck_assert_int_eq(put_state_as(&m, "programroot", &plenty), -EINVAL);
    ck_assert_int_eq(files(), 3);
    ck_assert_int_eq(put_state_as(&m, "programrootpages of b", &plenty), 0);
}
END_TEST

/* The root stays where it is. Returns: as registry_change_put_rootless. */
static int put_rootless_as(const struct manifest *m, const char *content)
{
    _cleanup_close_ int fd = memfd_create("files", MFD_CLOEXEC);
    struct registry_change *change;
    struct hl_error err = HL_ERROR_INIT;
    int r;

    ck_assert_int_eq(write(fd, content, strlen(content)), (int)strlen(content));
    r = registry_change_put_rootless(&change, registry, m, fd, &plenty, &err);
    if (r != 0)
        return r;
    registry_change_run(change);
    return registry_change_end(change, NULL, &err);
}

static int put_rootless(const char *name, const char *root, const char *pages)
{
    const struct manifest m = manifest(name, root, pages);
    char content[256];

    snprintf(content, sizeof(content), "program%s", pages);
    return put_rootless_as(&m, content);
}

static void root_path(const char *root, char path[256])
{
    struct manifest_file file;
    char hex[REGISTRY_HEX_SIZE];

    fill(&file, root);
    registry_hex(hex, file.sha256);
    snprintf(path, 256, "%s/images/%s", dir, hex);
}

START_TEST(a_root_that_is_there_can_be_left_out)
{
    struct stat before, after;
    char path[256];

    root_path("root", path);
    ck_assert_int_eq(put_state("a", "root", "pages of a"), 0);
    ck_assert_int_eq(stat(path, &before), 0);
    for (int i = 0; i < 2; i++) {
        ck_assert_int_eq(put_rootless("b", "root", "pages of b"), 0);
        ck_assert_int_eq(put_rootless("b", "root", "others of b"), 0);
        ck_assert_int_eq(part("b", PART_ROOT, "root"), 0);
        ck_assert_int_eq(part("b", PART_STATE, "others of b"), 0);
        ck_assert_int_eq(files(), 4);
        ck_assert_int_eq(stat(path, &after), 0);
        ck_assert_uint_eq(before.st_ino, after.st_ino);
        ck_assert_int_eq(before.st_ctim.tv_nsec, after.st_ctim.tv_nsec);
        reopen(&failing_io);
    }
    /* Its own root goes with the name's last manifest, not before. */
    ck_assert_int_eq(drop("a", 1), 0);
    ck_assert_int_eq(put_rootless("b", "root", "pages of b"), 0);
    ck_assert_int_eq(part("b", PART_ROOT, "root"), 0);
    ck_assert_int_eq(drop("b", 1), 0);
    ck_assert_int_eq(files(), 0);
}
END_TEST

/* All of this is one answer: that the root is wanted. */
START_TEST(a_root_that_is_left_out_must_be_ones_own)
{
    struct manifest m = manifest("a", "root", "pages of a");

    ck_assert_int_eq(put_rootless_as(&m, "programpages of a"), REGISTRY_ROOT_NEEDED);
    m.is_private = true;
    ck_assert_int_eq(put_state_as(&m, "programrootpages of a", &plenty), 0);
    m = manifest("b", "root", "pages of b");
    m.owner = 2;
    ck_assert_int_eq(put_rootless_as(&m, "programpages of b"), REGISTRY_ROOT_NEEDED);
    m.owner = 1;
    m.parts[PART_ROOT].size++;
    ck_assert_int_eq(put_rootless_as(&m, "programpages of b"), REGISTRY_ROOT_NEEDED);
    m.parts[PART_ROOT].size--;
    m.sha256[0] ^= 1;
    ck_assert_int_eq(put_rootless_as(&m, "programpages of b"), REGISTRY_ROOT_NEEDED);
    m.sha256[0] ^= 1;
    ck_assert_int_eq(put_rootless("b", "toor", "pages of b"), REGISTRY_ROOT_NEEDED);
    /* Nor is a program a root, or pages. */
    ck_assert_int_eq(put_rootless("b", "program", "pages of b"), REGISTRY_ROOT_NEEDED);
    ck_assert_int_eq(put_rootless("b", "pages of a", "pages of b"), REGISTRY_ROOT_NEEDED);
    ck_assert_int_eq(put_rootless_as(&m, "programrootpages of b"), -EINVAL);
    ck_assert_int_eq(files(), 3);
    ck_assert_int_eq(put_rootless_as(&m, "programpages of b"), 0);
    /* A public one is for everybody. */
    ck_assert_int_eq(drop("a", 1), 0);
    m = manifest("c", "root", "pages of c");
    m.owner = 2;
    ck_assert_int_eq(put_rootless_as(&m, "programpages of c"), 0);
}
END_TEST

static void damage(const char *path)
{
    int fd;

    ck_assert_int_eq(chmod(path, 0600), 0);
    fd = open(path, O_WRONLY);
    ck_assert_int_eq(pwrite(fd, "R", 1, 0), 1);
    close(fd);
}

START_TEST(a_damaged_root_is_wanted_again)
{
    char path[256];

    root_path("root", path);
    ck_assert_int_eq(put_state("a", "root", "pages of a"), 0);
    for (int i = 0; i < 4; i++) {
        if (i % 2)
            ck_assert_int_eq(unlink(path), 0);
        else
            damage(path);
        if (i / 2)
            reopen(&failing_io);
        ck_assert_int_eq(put_rootless("b", "root", "pages of b"), REGISTRY_ROOT_NEEDED);
        ck_assert_int_eq(put_rootless("b", "root", "pages of b"), REGISTRY_ROOT_NEEDED);
        ck_assert_int_lt(part("a", PART_ROOT, "root"), 0);
        ck_assert_int_eq(part("b", PART_ROOT, "root"), -ENOENT);
        ck_assert_int_eq(put_state("b", "root", "pages of b"), 0);
        ck_assert_int_eq(part("a", PART_ROOT, "root"), 0);
        ck_assert_int_eq(put_rootless("b", "root", "pages of b"), 0);
        ck_assert_int_eq(drop("b", 1), 0);
        /* Who brings it makes it good even where nobody has seen the damage. */
        damage(path);
        ck_assert_int_eq(put_state("b", "root", "pages of b"), 0);
        ck_assert_int_eq(part("a", PART_ROOT, "root"), 0);
        ck_assert_int_eq(drop("b", 1), 0);
    }
}
END_TEST

START_TEST(a_damaged_part)
{
    struct registry_entry entry;
    char hex[REGISTRY_HEX_SIZE], path[256];
    int fd;

    ck_assert_int_eq(put_state("a", "root", "pages of a"), 0);
    ck_assert_int_eq(registry_find(registry, "a", 1, &entry, NULL), 0);
    registry_hex(hex, entry.manifest.parts[PART_STATE].sha256);
    snprintf(path, sizeof(path), "%s/images/%s", dir, hex);
    ck_assert_int_eq(chmod(path, 0600), 0);
    fd = open(path, O_WRONLY);
    ck_assert_int_eq(pwrite(fd, "P", 1, 0), 1);
    close(fd);
    ck_assert_int_eq(part("a", PART_STATE, ""), -EBADMSG);
    ck_assert_int_eq(unlink(path), 0);
    ck_assert_int_eq(part("a", PART_STATE, ""), -EBADMSG);
    ck_assert_int_eq(part("a", PART_ROOT, "root"), 0);
    reopen(&failing_io);
    ck_assert_int_eq(part("a", PART_STATE, ""), -EBADMSG);
    ck_assert_int_eq(put_state("a", "root", "pages of a"), 0);
    ck_assert_int_eq(part("a", PART_STATE, "pages of a"), 0);
}
END_TEST

/* Programs and pages count for each image, a root once. */
START_TEST(a_root_counts_once)
{
    const char *const names[] = {"a", "b", "c"};
    struct registry_quota quota = {.max_images = 3, .max_disk = 3 * (7 + 5) + 4};

    for (int i = 0; i < 3; i++) {
        const struct manifest m = manifest(names[i], "root", "pages");

        ck_assert_int_eq(put_state_as(&m, "programrootpages", &quota), 0);
    }
    for (int i = 0; i < 3; i++) {
        const struct manifest m = manifest(names[i], "root", "pagesX");

        ck_assert_int_eq(put_state_as(&m, "programrootpagesX", &quota), -EDQUOT);
        quota.max_disk++;
        ck_assert_int_eq(put_state_as(&m, "programrootpagesX", &quota), 0);
    }
    for (int i = 0; i < 2; i++) {
        const struct manifest m = manifest(names[i], i ? "r" : "other", "pagesX");

        if (i == 0)
            ck_assert_int_eq(put_state_as(&m, "programotherpagesX", &quota), -EDQUOT);
        quota.max_disk += i ? 1 : 5;
        ck_assert_int_eq(put_state_as(&m, i ? "programrpagesX" : "programotherpagesX", &quota), 0);
    }
}
END_TEST

START_TEST(manifests)
{
    struct manifest m = manifest("x", "root", "pages"), back;
    _cleanup_free_ char *text = NULL;
    size_t len;

    ck_assert_int_eq(manifest_encode(&m, &text, &len), 0);
    ck_assert_int_eq(manifest_decode(&back, "x", text, len, NULL), 0);
    ck_assert(back.has_state);
    ck_assert_str_eq(back.parent, "parent");
    ck_assert_mem_eq(back.parts, m.parts, sizeof(m.parts));
    for (size_t i = 0; i < len; i++) {
        text[i] ^= 1;
        ck_assert_int_lt(manifest_decode(&back, "x", text, len, NULL), 0);
        text[i] ^= 1;
    }
    m.parts[PART_ROOT].size = UINT64_MAX;
    free(text);
    text = NULL;
    ck_assert_int_eq(manifest_encode(&m, &text, &len), -ERANGE);
}
END_TEST

int main(void)
{
    TCase *tc = tcase_create("registry state");

    tcase_add_test(tc, files_come_and_go_with_their_names);
    tcase_add_test(tc, every_operation_fails_once);
    tcase_add_test(tc, digests_are_checked);
    tcase_add_test(tc, a_root_that_is_there_can_be_left_out);
    tcase_add_test(tc, a_root_that_is_left_out_must_be_ones_own);
    tcase_add_test(tc, a_damaged_root_is_wanted_again);
    tcase_add_test(tc, a_damaged_part);
    tcase_add_test(tc, a_root_counts_once);
    tcase_add_test(tc, manifests);
    return registry_tests_run(tc, "registry state");
}
