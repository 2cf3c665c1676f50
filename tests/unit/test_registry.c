/* SPDX-License-Identifier: Apache-2.0 */
/* The registry against a disk that fails at every single step, and files that somebody changed. */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "tests/unit/registry_rig.h"

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
    ck_assert_int_eq(put_as("a", "root", 0, &plenty, &err), 0);
    ck_assert_int_eq(find("a", "root"), 0);
    ck_assert_int_eq(drop("short", 0), 0);
    /* A newer version's is nobody's to touch. */
    ck_assert_int_eq(put_as("future", "root", 0, &plenty, &err), -EBUSY);
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
    TCase *tc = tcase_create("registry");

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
    tcase_add_test(tc, damaged_missing_and_short_programs);
    tcase_add_test(tc, a_link_is_no_program);
    tcase_add_test(tc, damaged_manifests);
    tcase_add_test(tc, every_byte_of_a_manifest_is_guarded);
    tcase_add_test(tc, policies_in_manifests);
    tcase_add_test(tc, well_summed_nonsense_is_refused);
    tcase_add_test(tc, strange_files_do_not_matter);
    tcase_add_test(tc, a_state_directory_is_ours_alone);
    tcase_add_test(tc, a_full_disk);
    return registry_tests_run(tc, "registry");
}
