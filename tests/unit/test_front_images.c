/* SPDX-License-Identifier: Apache-2.0 */
/* What workers ask of the front's registry: programs and snapshots, honest and hostile. */
#include "config.h"

#include <check.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "tests/unit/front_rig.h"

START_TEST(images_are_registered_resolved_listed_and_removed)
{
    int fd;
    char entry[64];

    start();
    fd = dial_and_greet();
    snprintf(entry, sizeof(entry), "0 echo:%u", geteuid());
    ck_assert_str_eq(ask(fd, "r echo - content"), entry);
    snprintf(entry, sizeof(entry), "0 echo:%u=content", geteuid());
    ck_assert_str_eq(ask(fd, "R echo"), entry);
    ck_assert_str_eq(ask(fd, "R other"), "5 no image 'other' is registered");
    ask(fd, "r b - x");
    ask(fd, "r c - y");
    snprintf(entry, sizeof(entry), "0 b:%uc:%u+", geteuid(), geteuid());
    ck_assert_str_eq(ask(fd, "L "), entry);
    snprintf(entry, sizeof(entry), "0 echo:%u", geteuid());
    ck_assert_str_eq(ask(fd, "L c"), entry);
    ck_assert_str_eq(ask(fd, "U b"), "0 ");
    ck_assert_str_eq(ask(fd, "U b"), "5 no image 'b' is registered");
    close(fd);
    ck_assert_int_eq(stop_front(), 0);
    start();
    fd = dial_and_greet();
    snprintf(entry, sizeof(entry), "0 echo:%u=content", geteuid());
    ck_assert_str_eq(ask(fd, "R echo"), entry);
    close(fd);
    ck_assert_int_eq(stop_front(), 0);
}
END_TEST

START_TEST(hostile_registrations_are_refused)
{
    static const char *const cases[][2] = {
        {"r x u content", "3 the program is not in a sealed memory file"},
        {"r x s content", "3 the program's SHA-256 is not "},
        {"r x z content", "3 the program's size is not the one announced"},
        {"r x n content", "3 the program is missing"},
        {"r x m content", "3 memory of 18446744073709551615 is more than the limit of 1073741824"},
        {"r ../x - content", "3 an image's name is "},
        {"r .x - content", "3 an image's name is "},
        {"R a/b", "3 an image's name is "},
        {"U .tmp-0000000000000000", "3 an image's name is "},
    };
    char big[64 + 2048] = "r big - ";
    int fd;

    config.max_image_size = 1024;
    config.max_images = 2;
    config.max_disk = 1024;
    start();
    fd = dial_and_greet();
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const char *said = ask(fd, cases[i][0]);

        ck_assert_msg(strncmp(said, cases[i][1], strlen(cases[i][1])) == 0, "%s: %s", cases[i][0],
                      said);
    }
    memset(big + strlen(big), 'x', 1025);
    ck_assert_ptr_nonnull(strstr(ask(fd, big), "3 image_size: a program has 1 to 1024 bytes"));
    big[8 + 1000] = '\0';
    ck_assert_ptr_nonnull(strstr(ask(fd, big), "0 big"));
    ck_assert_ptr_nonnull(strstr(ask(fd, "r two - 0123456789012345678901234"), "8 max_disk: "));
    ck_assert_ptr_nonnull(strstr(ask(fd, "r two - 01"), "0 two"));
    ck_assert_ptr_nonnull(strstr(ask(fd, "r three - 01"), "8 max_images: at most 2"));
    close(fd);
    ck_assert_int_eq(stop_front(), 0);
}
END_TEST

static void store_file(const char *name, char path[128])
{
    snprintf(path, 128, "%s/state/snapshots/%s", dir, name);
}

START_TEST(snapshots_are_kept_and_handed_out)
{
    char entry[64], with[64], path[128];
    int fd;

    start();
    fd = dial_and_greet();
    store_file("echo", path);
    snprintf(entry, sizeof(entry), "0 echo:%u=content", geteuid());
    snprintf(with, sizeof(with), "0 echo:%u=content+memory", geteuid());
    ask(fd, "r echo - content");
    ck_assert_str_eq(ask(fd, "R echo"), entry);
    ck_assert_str_eq(ask(fd, "k echo - content memory"), "0 ");
    ck_assert_int_eq(access(path, F_OK), 0);
    ck_assert_str_eq(ask(fd, "R echo"), with);
    ck_assert_str_eq(ask(fd, "R echo"), with); /* the copy in memory */
    ck_assert_str_eq(ask(fd, "k echo - content another"), "0 ");
    snprintf(with, sizeof(with), "0 echo:%u=content+another", geteuid());
    ck_assert_str_eq(ask(fd, "R echo"), with);
    close(fd);
    ck_assert_int_eq(stop_front(), 0);
    start();
    fd = dial_and_greet();
    ck_assert_str_eq(ask(fd, "R echo"), with);
    ck_assert_str_eq(ask(fd, "R echo"), with);
    /* The same program again is another version, with other limits perhaps. */
    ask(fd, "r echo - content");
    ck_assert_int_ne(access(path, F_OK), 0);
    ck_assert_str_eq(ask(fd, "R echo"), entry);
    ck_assert_str_eq(ask(fd, "k echo - content memory"), "0 ");
    ck_assert_str_eq(ask(fd, "U echo"), "0 ");
    ck_assert_int_ne(access(path, F_OK), 0);
    close(fd);
    ck_assert_int_eq(stop_front(), 0);
}
END_TEST

START_TEST(hostile_snapshots_are_not_kept)
{
    static const char *const cases[][2] = {
        {"k x u content memory", "3 the snapshot is not in a sealed memory file"},
        {"k x z content memory", "3 the snapshot's size is not the one announced"},
        {"k x n content memory", "3 the snapshot is missing"},
        {"k x b content memory", "3 a snapshot of 18446744073709551615 bytes is not kept"},
        {"k x t content memory", "5 image 'x' is another by now"},
        {"k x - another memory", "5 image 'x' is another by now"},
        {"k y - content memory", "5 image 'y' is another by now"},
        {"k ../x - content memory", "3 an image's name is "},
        {"k x - content 0123456789012345678901234567890123456789", "8 max_snapshot_disk: "},
    };
    char entry[64], path[128];
    int fd;

    config.max_snapshot_disk = 180;
    start();
    fd = dial_and_greet();
    ask(fd, "r x - content");
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const char *said = ask(fd, cases[i][0]);

        ck_assert_msg(strncmp(said, cases[i][1], strlen(cases[i][1])) == 0, "%s: %s", cases[i][0],
                      said);
    }
    snprintf(entry, sizeof(entry), "0 x:%u=content", geteuid());
    ck_assert_str_eq(ask(fd, "R x"), entry);
    store_file("x", path);
    ck_assert_int_ne(access(path, F_OK), 0);
    ck_assert_str_eq(ask(fd, "k x - content memory"), "0 ");
    ck_assert_str_eq(ask(fd, "k x - content memory"), "0 "); /* its own place counts once */
    ask(fd, "r z - content");
    ck_assert_ptr_nonnull(strstr(ask(fd, "k z - content memory"), "8 max_snapshot_disk: "));
    close(fd);
    ck_assert_int_eq(stop_front(), 0);
}
END_TEST

START_TEST(only_the_owner_hands_a_snapshot_in)
{
    int root, other;

    if (geteuid() != 0)
        return;
    config.socket_mode = 0666;
    chmod(dir, 0755);
    start();
    root = dial_and_greet();
    other = dial_as(12345);
    hear(other);
    ask(other, "r theirs - content");
    hear(root); /* invalid */
    ask(root, "r mine - content");
    hear(other);
    ck_assert_str_eq(ask(root, "R theirs"), "0 theirs:12345=content");
    ck_assert_str_eq(ask(root, "k theirs - content memory"),
                     "7 image 'theirs' is owned by another user");
    ck_assert_str_eq(ask(other, "R mine"), "0 mine:0=content");
    ck_assert_str_eq(ask(other, "k mine - content memory"),
                     "7 image 'mine' is owned by another user");
    ck_assert_str_eq(ask(root, "R mine"), "0 mine:0=content");
    ck_assert_str_eq(ask(root, "k mine - content memory"), "0 ");
    ck_assert_str_eq(ask(other, "R mine"), "0 mine:0=content+memory");
    close(root);
    close(other);
    ck_assert_int_eq(stop_front(), 0);
}
END_TEST

static void flip(const char *path, off_t at)
{
    int fd = open(path, O_RDWR | O_CLOEXEC);
    char byte;

    if (fd < 0) {
        ck_assert_int_eq(chmod(path, 0600), 0);
        fd = open(path, O_RDWR | O_CLOEXEC);
    }
    ck_assert_int_eq(pread(fd, &byte, 1, at), 1);
    byte ^= 1;
    ck_assert_int_eq(pwrite(fd, &byte, 1, at), 1);
    close(fd);
}

START_TEST(a_damaged_snapshot_is_found_and_goes)
{
    char entry[64], damaged[64], path[128];
    struct stat st;
    int fd;

    snprintf(entry, sizeof(entry), "0 x:%u=content", geteuid());
    snprintf(damaged, sizeof(damaged), "0 x:%u=content*", geteuid());
    store_file("x", path);
    for (off_t at = 0; at == 0 || at < st.st_size; at += 7) {
        start();
        fd = dial_and_greet();
        ask(fd, "r x - content");
        ck_assert_str_eq(ask(fd, "k x - content memory"), "0 ");
        ck_assert_int_eq(stat(path, &st), 0);
        flip(path, at);
        {
            const char *said = ask(fd, "R x");

            /* What is of another version is no damage. */
            ck_assert_msg(strcmp(said, damaged) == 0 || strcmp(said, entry) == 0, "%lld: %s",
                          (long long)at, said);
        }
        ck_assert_int_ne(access(path, F_OK), 0);
        ck_assert_str_eq(ask(fd, "R x"), entry);
        ck_assert_str_eq(ask(fd, "k x - content memory"), "0 ");
        strcpy(damaged + strlen(damaged) - 1, "+memory");
        ck_assert_str_eq(ask(fd, "R x"), damaged);
        snprintf(damaged, sizeof(damaged), "0 x:%u=content*", geteuid());
        close(fd);
        ck_assert_int_eq(stop_front(), 0);
    }
}
END_TEST

/* A worker that had the program hashed once does not get another one later. */
START_TEST(a_program_is_read_again_when_its_file_changed)
{
    char hex[65], path[256], entry[64];
    uint8_t sha256[32];
    int fd;

    start();
    fd = dial_and_greet();
    ask(fd, "r x - content");
    snprintf(entry, sizeof(entry), "0 x:%u=content", geteuid());
    ck_assert_str_eq(ask(fd, "R x"), entry);
    crypto_hash_sha256(sha256, (const uint8_t *)"content", 7);
    sodium_bin2hex(hex, sizeof(hex), sha256, sizeof(sha256));
    snprintf(path, sizeof(path), "%s/state/images/%s", dir, hex);
    usleep(20000); /* times of files go by the tick */
    flip(path, 3);
    ck_assert_ptr_nonnull(strstr(ask(fd, "R x"), "is damaged"));
    close(fd);
    ck_assert_int_eq(stop_front(), 0);
}
END_TEST

START_TEST(owners_and_private_images)
{
    int root, a, b;

    if (geteuid() != 0)
        return;
    config.socket_mode = 0666;
    chmod(dir, 0755);
    start();
    root = dial_and_greet();
    a = dial_as(1001);
    b = dial_as(1002);
    hear(a);
    hear(b);
    ck_assert_str_eq(ask(a, "r mine p one"), "0 mine:1001");
    ck_assert_str_eq(hear(b), "invalid mine");
    ck_assert_str_eq(hear(root), "invalid mine");
    ck_assert_str_eq(ask(a, "R mine"), "0 mine:1001=one");
    ck_assert_str_eq(ask(b, "R mine"), "7 image 'mine' is another user's and private");
    ck_assert_str_eq(ask(b, "L "), "0 ");
    ck_assert_str_eq(ask(a, "L "), "0 mine:1001");
    ck_assert_str_eq(ask(b, "r mine - two"), "7 image 'mine' is owned by another user");
    ck_assert_str_eq(ask(b, "U mine"), "7 image 'mine' is owned by another user");
    ck_assert_str_eq(ask(root, "R mine"), "0 mine:1001=one");
    ck_assert_str_eq(ask(root, "r mine - two"), "0 mine:1001");
    ck_assert_str_eq(hear(a), "invalid mine");
    ck_assert_str_eq(hear(b), "invalid mine");
    ck_assert_str_eq(ask(b, "R mine"), "0 mine:1001=two");
    ck_assert_str_eq(ask(root, "U mine"), "0 ");
    hear(a);
    hear(b);
    ck_assert_str_eq(ask(a, "r shared k x"), "0 shared:1001");
    ck_assert_str_eq(hear(b), "invalid shared");
    ck_assert_str_eq(hear(root), "invalid shared");
    ck_assert_str_eq(ask(a, "K 1 shared key one's"), "0 ");
    ck_assert_str_eq(ask(b, "K 0 shared key"), "5 no such key");
    ck_assert_str_eq(ask(b, "K 1 shared key two's"), "0 ");
    ck_assert_str_eq(ask(a, "K 0 shared key"), "0 one's");
    ck_assert_str_eq(ask(root, "K 0 shared key"), "5 no such key");
    ck_assert_str_eq(ask(a, "r secret pk x"), "0 secret:1001");
    ck_assert_str_eq(hear(b), "invalid secret");
    ck_assert_str_eq(hear(root), "invalid secret");
    ck_assert_str_eq(ask(b, "K 1 secret key x"), "7 image 'secret' is another user's and private");
    close(root);
    close(a);
    close(b);
    ck_assert_int_eq(stop_front(), 0);
}
END_TEST

/* Whoever is not asked for a root that he does not bring knows nothing of it but what he could have
 * had: that of an image he may call. */
START_TEST(a_root_that_is_left_out)
{
    static const char needed[] = "9 the root of its state is not here, or damaged (needed)";
    int a, b;

    if (geteuid() != 0)
        return;
    config.socket_mode = 0666;
    chmod(dir, 0755);
    start();
    a = dial_as(1001);
    b = dial_as(1002);
    hear(a);
    hear(b);
    ck_assert_str_eq(ask(a, "S one lp program root pages"), needed);
    ck_assert_str_eq(ask(a, "S one p program root pages"), "0 one:1001");
    ck_assert_str_eq(hear(b), "invalid one");
    ck_assert_str_eq(ask(a, "S two lp program root others"), "0 two:1001");
    ck_assert_str_eq(hear(b), "invalid two");
    ck_assert_str_eq(ask(a, "R two"), "0 two:1001=program+others");
    ck_assert_str_eq(ask(b, "S mine l program root others"), needed);
    ck_assert_str_eq(ask(b, "S mine l program toor others"), needed);
    ck_assert_str_eq(ask(a, "S two l program toor others"), needed);
    ck_assert_str_eq(ask(a, "S two l other root others"), needed);
    ck_assert_str_eq(ask(a, "S two w program root others"),
                     "3 the program's size is not the one announced");
    ck_assert_str_eq(ask(a, "S open l program root pages"), "0 open:1001");
    ck_assert_str_eq(hear(b), "invalid open");
    ck_assert_str_eq(ask(b, "S mine l program root others"), "0 mine:1002");
    close(a);
    close(b);
    ck_assert_int_eq(stop_front(), 0);
}
END_TEST

START_TEST(a_damaged_program_is_never_handed_out)
{
    char name[512], command[256];
    FILE *out;
    int fd;

    start();
    fd = dial_and_greet();
    ask(fd, "r good - good-content");
    ask(fd, "r bad - bad-content");
    close(fd);
    ck_assert_int_eq(stop_front(), 0);
    snprintf(command, sizeof(command), "grep -l bad-content %s/state/images/*", dir);
    out = popen(command, "r");
    ck_assert_ptr_nonnull(fgets(name, sizeof(name), out));
    pclose(out);
    name[strcspn(name, "\n")] = '\0';
    chmod(name, 0600);
    fd = open(name, O_WRONLY);
    ck_assert_int_eq(pwrite(fd, "B", 1, 0), 1);
    close(fd);
    start();
    fd = dial_and_greet();
    ck_assert_ptr_nonnull(strstr(ask(fd, "R bad"), "15 image 'bad'"));
    ck_assert_ptr_nonnull(strstr(ask(fd, "R bad"), "15 image 'bad'"));
    ck_assert_ptr_nonnull(strstr(ask(fd, "R good"), "=good-content"));
    ck_assert_ptr_nonnull(strstr(ask(fd, "r bad - bad-content"), "0 bad"));
    ck_assert_ptr_nonnull(strstr(ask(fd, "R bad"), "=bad-content"));
    close(fd);
    ck_assert_int_eq(stop_front(), 0);
}
END_TEST

int main(int argc, char **argv)
{
    Suite *suite = suite_create("front_images");
    TCase *tc = tcase_create("front_images");

    tcase_set_timeout(tc, 60);
    tcase_add_checked_fixture(tc, set_up, tear_down);
    tcase_add_test(tc, images_are_registered_resolved_listed_and_removed);
    tcase_add_test(tc, hostile_registrations_are_refused);
    tcase_add_test(tc, owners_and_private_images);
    tcase_add_test(tc, snapshots_are_kept_and_handed_out);
    tcase_add_test(tc, hostile_snapshots_are_not_kept);
    tcase_add_test(tc, only_the_owner_hands_a_snapshot_in);
    tcase_add_test(tc, a_damaged_snapshot_is_found_and_goes);
    tcase_add_test(tc, a_program_is_read_again_when_its_file_changed);
    tcase_add_test(tc, a_root_that_is_left_out);
    tcase_add_test(tc, a_damaged_program_is_never_handed_out);
    suite_add_tcase(suite, tc);
    return front_rig_main(argc, argv, suite);
}
