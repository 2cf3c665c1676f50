/* SPDX-License-Identifier: Apache-2.0 */
/* Every kind of value, every kind of mistake with its file and line, and what a reload may change.
 */
#include "config.h"

#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/configuration.h"
#include "daemon/configuration_keys.h"
#include "tests/unit/tests_run.h"

static char dir[] = "/tmp/hld-test-XXXXXX";
static char path[64];
static struct configuration config;
static char said[8192];

static void set_up(void)
{
    strcpy(dir + strlen(dir) - 6, "XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(dir));
    snprintf(path, sizeof(path), "%s/hld.conf", dir);
}

static void tear_down(void)
{
    unlink(path);
    rmdir(dir);
}

static void report(void *opaque, const char *line)
{
    (void)opaque;
    ck_assert_uint_lt(strlen(said) + strlen(line) + 2, sizeof(said));
    strcat(said, line);
    strcat(said, "\n");
}

static int load(const char *text)
{
    FILE *file = fopen(path, "w");

    fputs(text, file);
    fclose(file);
    said[0] = '\0';
    configuration_init(&config);
    return configuration_load(&config, path, false, report, NULL);
}

/* text is refused with exactly this one line. */
static void refused(const char *text, const char *line)
{
    char expected[512];

    ck_assert_int_eq(load(text), -EINVAL);
    snprintf(expected, sizeof(expected), "%s:%s\n", path, line);
    ck_assert_str_eq(said, expected);
}

START_TEST(built_in_values_are_sound)
{
    said[0] = '\0';
    configuration_init(&config);
    ck_assert_int_eq(configuration_check(&config, "built-in", report, NULL), 0);
    ck_assert_str_eq(said, "");
    ck_assert_str_eq(config.backend, "auto");
}
END_TEST

/* The example shows each setting once, with the value it has anyway. */
START_TEST(the_example_shows_the_built_in_values)
{
    FILE *in = fopen(SOURCE_DIR "/contrib/hld.conf", "r");
    FILE *out = fopen(path, "w");
    struct configuration built_in;
    char line[256];
    unsigned int settings = 0;

    ck_assert_ptr_nonnull(in);
    while (fgets(line, sizeof(line), in)) {
        bool commented = line[0] == '#' && line[1] >= 'a' && line[1] <= 'z';
        /* Who there is differs between hosts. */
        bool account = strncmp(line, "#socket_group", 13) == 0 ||
                       strncmp(line, "#worker_user", 12) == 0 || strncmp(line, "#allow_", 7) == 0;

        settings += commented;
        fputs(line + (commented && !account), out);
    }
    fclose(in);
    fclose(out);
    ck_assert_uint_eq(settings, configuration_key_count);
    said[0] = '\0';
    setenv("RUNTIME_DIRECTORY", "/run/hld", 1);
    setenv("STATE_DIRECTORY", "/var/lib/hld", 1);
    configuration_init(&config);
    built_in = config;
    ck_assert_int_eq(configuration_load(&config, path, false, report, NULL), 0);
    ck_assert_str_eq(said, "");
    ck_assert_mem_eq(&config, &built_in, sizeof(config));
}
END_TEST

START_TEST(every_kind_of_value)
{
    ck_assert_int_eq(load("# comment\n"
                          "; another\n"
                          "[daemon]  ; and another\n"
                          "worker_user = daemon\n"
                          "socket_group = root\n"
                          "socket = /tmp/x.sock\n"
                          "  socket_mode=0600  \n"
                          "backend = process ; why not\n"
                          "allow_uids = 0, 7 root\n"
                          "idle_timeout = 2min\n"
                          "max_workers = 3\n"
                          "\n"
                          "[engine]\n"
                          "quantum = 500us\n"
                          "audit_every = 1\n"
                          "[defaults]\n"
                          "memory = 16M\n"
                          "deadline = 20ms\n"
                          "[limits]\n"
                          "image_size: 1G\n"),
                     0);
    ck_assert_str_eq(said, "");
    ck_assert_str_eq(config.socket, "/tmp/x.sock");
    ck_assert_uint_eq(config.socket_mode, 0600);
    ck_assert_str_eq(config.backend, "process");
    ck_assert_str_eq(config.worker_user, "daemon");
    ck_assert_str_eq(config.socket_group, "root");
    ck_assert_uint_eq(config.allow_uids.count, 3);
    ck_assert_uint_eq(config.allow_uids.id[1], 7);
    ck_assert_uint_eq(config.allow_uids.id[2], 0);
    ck_assert_uint_eq(config.idle_timeout_ns, 120000000000u);
    ck_assert_uint_eq(config.max_workers, 3);
    ck_assert_uint_eq(config.quantum_ns, 500000);
    ck_assert_uint_eq(config.audit_every, 1);
    ck_assert_uint_eq(config.defaults.memory, 16u << 20);
    ck_assert_uint_eq(config.defaults.deadline_ns, 20000000);
    ck_assert_uint_eq(config.max_image_size, 1u << 30);
}
END_TEST

START_TEST(mistakes_name_file_line_and_form)
{
    refused("[daemon]\nnope = 1\n", "2: [daemon] has no setting 'nope' (see hld.conf(5))");
    refused("[deamon]\nsocket = /x\n",
            "1: unknown section [deamon]; there are [daemon], [engine], [defaults] and [limits]");
    refused("[deamon]\n",
            "1: unknown section [deamon]; there are [daemon], [engine], [defaults] and [limits]");
    refused("\nsocket = /x\n", "2: 'socket' stands before any section");
    refused("[daemon]\nsocket = x.sock\n", "2: socket must be an absolute path, not 'x.sock'");
    refused("[daemon]\nbackend = xen\n", "2: backend must be auto, kvm or process, not 'xen'");
    refused("[daemon]\nsocket_mode = 888\n",
            "2: socket_mode must be an octal mode such as 0660, not '888'");
    refused("[daemon]\nsocket_mode = 1777\n",
            "2: socket_mode must be an octal mode from 0 to 0777, not '1777'");
    refused("[daemon]\nmax_workers = 0\n",
            "2: max_workers must be a whole number from 1 to 4096, not '0'");
    refused("[daemon]\nmax_workers = -1\n",
            "2: max_workers must be a whole number from 1 to 4096, not '-1'");
    refused("[daemon]\nmax_workers = 3 4\n",
            "2: max_workers must be a whole number from 1 to 4096, not '3 4'");
    refused("[engine]\nquantum = 1\n", "2: quantum must be a time with its unit (ns, us, ms, s, "
                                       "min) from 10us to 1s, not '1'");
    refused("[defaults]\nmemory = 2T\n",
            "2: memory must be a size (plain bytes, or with K, M, G) from 4M to 1G, not '2T'");
    refused("[defaults]\nmemory =\n",
            "2: memory must be a size (plain bytes, or with K, M, G) from 4M to 1G, not ''");
    refused("[daemon]\nallow_uids = no-such-user-here\n",
            "2: allow_uids: no user 'no-such-user-here'; numbers and names are accepted");
    refused("[daemon]\nallow_gids = ,\n", "2: allow_gids must name at least one group");
    refused("[daemon]\nmax_images = 1\nmax_images = 2\n", "3: max_images is set twice");
    refused("[daemon]\nworker_user = no-such-user-here\n",
            "2: worker_user: no user 'no-such-user-here'; a name is accepted");
    refused("[daemon]\nworker_user =\n", "2: worker_user: no user ''; a name is accepted");
    refused("[daemon]\nworker_user = root\n", "2: worker_user: workers cannot run as root");
    refused("[daemon]\nsocket_group = no-such-group-here\n",
            "2: socket_group: no group 'no-such-group-here'; a name is accepted");
    refused("[daemon] socket = /x\n", "1: a section header stands alone in its line");
    refused("[daemon]]\n", "1: a section header stands alone in its line");
    refused("[daemon\n", "1: a section header ends with ']'");
    refused("[daemon]\nmax_images\n",
            "2: neither a [section], nor a setting (name = value), nor a comment (#)");
}
END_TEST

START_TEST(all_mistakes_are_told)
{
    ck_assert_int_eq(load("[daemon]\na = 1\nb = 2\n[x]\ny = 1\n"), -EINVAL);
    ck_assert_ptr_nonnull(strstr(said, ":2: [daemon] has no setting 'a'"));
    ck_assert_ptr_nonnull(strstr(said, ":3: [daemon] has no setting 'b'"));
    ck_assert_ptr_nonnull(strstr(said, ":4: unknown section [x]"));
    ck_assert_ptr_null(strstr(said, ":5:"));
}
END_TEST

START_TEST(indented_lines_continue_nothing)
{
    refused("[daemon]\nbackend = kvm\n  nope = 1\n",
            "3: [daemon] has no setting 'nope' (see hld.conf(5))");
}
END_TEST

START_TEST(long_lines_are_refused_whole)
{
    char text[2048] = "[daemon]\nsocket = /";
    size_t n = strlen(text);

    memset(text + n, 'x', 1500);
    strcpy(text + n + 1500, "\nmax_images = 5\nnope = 1\n");
    ck_assert_int_eq(load(text), -EINVAL);
    ck_assert_ptr_nonnull(strstr(said, ":2: the line is too long"));
    ck_assert_ptr_nonnull(strstr(said, ":4: [daemon] has no setting 'nope'"));
    ck_assert_ptr_null(strstr(said, ":3:"));
    ck_assert_uint_eq(config.max_images, 5);
}
END_TEST

START_TEST(hostile_text_does_not_break_the_reader)
{
    ck_assert_int_eq(load("[daemon]\n\x01\xff=\x02\n=\n==\n[]\n]\n[[\n;\n#\n"), -EINVAL);
    ck_assert_int_eq(load(""), 0);
    ck_assert_int_eq(load("\n\n   \n"), 0);
    ck_assert_int_eq(load("\xef\xbb\xbf[daemon]\nmax_images = 9"), 0);
    ck_assert_uint_eq(config.max_images, 9);
}
END_TEST

START_TEST(missing_and_unreadable_files)
{
    said[0] = '\0';
    configuration_init(&config);
    ck_assert_int_eq(configuration_load(&config, path, true, report, NULL), 0);
    ck_assert_int_eq(configuration_load(&config, path, false, report, NULL), -ENOENT);
    ck_assert_ptr_nonnull(strstr(said, "No such file"));
    ck_assert_int_eq(configuration_load(&config, dir, true, report, NULL), -EISDIR);
    ck_assert_int_eq(mkfifo(path, 0600), 0);
    ck_assert_int_eq(configuration_load(&config, path, true, report, NULL), -EINVAL);
}
END_TEST

START_TEST(settings_are_checked_against_each_other)
{
    ck_assert_int_eq(load("[defaults]\nmemory = 512M\nmin_instances = 9\n[limits]\nmemory = 64M\n"),
                     0);
    ck_assert_int_eq(configuration_check(&config, "F", report, NULL), -EINVAL);
    ck_assert_str_eq(
        said, "F: [defaults] memory must not be larger than [limits] memory\n"
              "F: [defaults] min_instances must not be larger than [defaults] max_instances\n");
}
END_TEST

START_TEST(reload_applies_what_it_can_and_names_the_rest)
{
    struct configuration old;

    load("[daemon]\nsocket = /a\nmax_images = 5\n");
    old = config;
    load("[daemon]\nsocket = /b\nmax_images = 6\n[engine]\nshards = 2\n");
    ck_assert_uint_eq(configuration_apply(&old, &config, report, NULL), 2);
    ck_assert_uint_eq(old.max_images, 6);
    ck_assert_str_eq(old.socket, "/a");
    ck_assert_uint_eq(old.shards, 0);
    ck_assert_ptr_nonnull(strstr(said, "[daemon] socket changed"));
    ck_assert_ptr_nonnull(strstr(said, "[engine] shards changed"));
}
END_TEST

START_TEST(sizes_and_times)
{
    uint64_t n;

    ck_assert_int_eq(configuration_parse_size("18446744073709551615", &n), 0);
    ck_assert_uint_eq(n, UINT64_MAX);
    ck_assert_int_eq(configuration_parse_size("18446744073709551616", &n), -EINVAL);
    ck_assert_int_eq(configuration_parse_size("18014398509481984K", &n), -EINVAL);
    ck_assert_int_eq(configuration_parse_size("1 K", &n), 0);
    ck_assert_uint_eq(n, 1024);
    ck_assert_int_eq(configuration_parse_size("1KB", &n), -EINVAL);
    ck_assert_int_eq(configuration_parse_size("0x10", &n), -EINVAL);
    ck_assert_int_eq(configuration_parse_time("0", &n), 0);
    ck_assert_int_eq(configuration_parse_time("3s", &n), 0);
    ck_assert_uint_eq(n, 3000000000u);
    ck_assert_int_eq(configuration_parse_time("3", &n), -EINVAL);
    ck_assert_int_eq(configuration_parse_time("s", &n), -EINVAL);
}
END_TEST

START_TEST(paths_follow_the_environment)
{
    char longest[200];

    setenv("RUNTIME_DIRECTORY", "/run/hld", 1);
    setenv("STATE_DIRECTORY", "/var/lib/hld", 1);
    configuration_init(&config);
    ck_assert_str_eq(config.socket, "/run/hld/hld.sock");
    ck_assert_str_eq(config.state_dir, "/var/lib/hld");
    memset(longest, 'x', sizeof(longest) - 1);
    longest[0] = '/';
    longest[sizeof(longest) - 1] = '\0';
    setenv("RUNTIME_DIRECTORY", longest, 1);
    configuration_init(&config);
    ck_assert_str_eq(config.socket, "");
    setenv("RUNTIME_DIRECTORY", "relative", 1);
    configuration_init(&config);
    ck_assert_str_eq(config.socket, "");
    unsetenv("RUNTIME_DIRECTORY");
    unsetenv("STATE_DIRECTORY");
    if (geteuid() == 0)
        ck_assert_int_eq(seteuid(65534), 0);
    setenv("XDG_RUNTIME_DIR", "/run/user/7", 1);
    unsetenv("XDG_STATE_HOME");
    setenv("HOME", "/home/x", 1);
    configuration_init(&config);
    ck_assert_str_eq(config.socket, "/run/user/7/hld/hld.sock");
    ck_assert_str_eq(config.state_dir, "/home/x/.local/state/hld");
    setenv("XDG_STATE_HOME", "/s", 1);
    unsetenv("XDG_RUNTIME_DIR");
    configuration_init(&config);
    ck_assert_str_eq(config.socket, "");
    ck_assert_str_eq(config.state_dir, "/s/hld");
    if (getuid() == 0)
        ck_assert_int_eq(seteuid(0), 0);
}
END_TEST

int main(void)
{
    TCase *tc = tcase_create("configuration");

    tcase_add_checked_fixture(tc, set_up, tear_down);
    tcase_add_test(tc, built_in_values_are_sound);
    tcase_add_test(tc, the_example_shows_the_built_in_values);
    tcase_add_test(tc, every_kind_of_value);
    tcase_add_test(tc, mistakes_name_file_line_and_form);
    tcase_add_test(tc, all_mistakes_are_told);
    tcase_add_test(tc, indented_lines_continue_nothing);
    tcase_add_test(tc, long_lines_are_refused_whole);
    tcase_add_test(tc, hostile_text_does_not_break_the_reader);
    tcase_add_test(tc, missing_and_unreadable_files);
    tcase_add_test(tc, settings_are_checked_against_each_other);
    tcase_add_test(tc, reload_applies_what_it_can_and_names_the_rest);
    tcase_add_test(tc, sizes_and_times);
    tcase_add_test(tc, paths_follow_the_environment);
    return tests_run(tc, "configuration");
}
