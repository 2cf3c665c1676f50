/* SPDX-License-Identifier: Apache-2.0 */
/* Lines are single, escaped and bounded, and a flood is cut. */
#include "config.h"

#include <check.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/log.h"
#include "tests/unit/tests_run.h"

static int capture_pipe[2];
static int saved_stderr;

static void capture(void)
{
    ck_assert_int_eq(pipe2(capture_pipe, O_NONBLOCK | O_CLOEXEC), 0);
    saved_stderr = dup(STDERR_FILENO);
    dup2(capture_pipe[1], STDERR_FILENO);
}

static const char *captured(void)
{
    static char text[16384];
    ssize_t n = read(capture_pipe[0], text, sizeof(text) - 1);

    dup2(saved_stderr, STDERR_FILENO);
    text[n > 0 ? n : 0] = '\0';
    return text;
}

START_TEST(plain_lines)
{
    unsetenv("JOURNAL_STREAM");
    unsetenv("HLD_DEBUG");
    capture();
    log_init("worker of uid 7");
    log_info("ready");
    log_error("no %s", "room");
    log_debug("unseen");
    ck_assert_str_eq(captured(),
                     "hld: worker of uid 7: ready\nhld: worker of uid 7: error: no room\n");
}
END_TEST

START_TEST(journal_lines)
{
    char stream[64];
    struct stat st;

    capture();
    fstat(STDERR_FILENO, &st);
    snprintf(stream, sizeof(stream), "%llu:%llu", (unsigned long long)st.st_dev,
             (unsigned long long)st.st_ino);
    setenv("JOURNAL_STREAM", stream, 1);
    log_init(NULL);
    log_warning("x");
    ck_assert_str_eq(captured(), "<4>x\n");
}
END_TEST

START_TEST(another_stream_is_not_the_journal)
{
    setenv("JOURNAL_STREAM", "1:1", 1);
    capture();
    log_init(NULL);
    log_warning("x");
    ck_assert_str_eq(captured(), "hld: warning: x\n");
}
END_TEST

START_TEST(hostile_text_is_escaped)
{
    char out[256];

    log_escape(out, sizeof(out), "a\n<0>b\x1b[2J\x7f\\");
    ck_assert_str_eq(out, "a\\x0a<0>b\\x1b[2J\\x7f\\");
    log_escape(out, sizeof(out), "\xc3\xa4 \xc2\x85 z");
    ck_assert_str_eq(out, "\xc3\xa4 \\xc2\\x85 z");
    log_escape(out, sizeof(out), "\xc3\xa4 \xff");
    ck_assert_str_eq(out, "\\xc3\\xa4 \\xff");
    ck_assert_uint_eq(log_escape(out, 6, "ab\n\n"), 2);
    ck_assert_str_eq(out, "ab");
    ck_assert_uint_eq(log_escape(out, 7, "ab\n\n"), 6);
}
END_TEST

START_TEST(a_long_line_is_one_line)
{
    char text[4000];
    const char *line;

    memset(text, '\n', sizeof(text) - 1);
    text[sizeof(text) - 1] = '\0';
    unsetenv("JOURNAL_STREAM");
    capture();
    log_init(NULL);
    log_info("%s", text);
    line = captured();
    ck_assert_uint_le(strlen(line), LOG_LINE_MAX);
    ck_assert_ptr_eq(strchr(line, '\n'), line + strlen(line) - 1);
}
END_TEST

START_TEST(a_flood_is_cut_and_counted)
{
    struct log_limit limit = {.interval_ns = 3600000000000u, .burst = 2};
    const char *text;

    unsetenv("JOURNAL_STREAM");
    capture();
    log_init(NULL);
    for (int i = 0; i < 10; i++)
        log_limited(&limit, LOG_LEVEL_INFO, "line %d", i);
    limit.started_ns -= limit.interval_ns;
    log_limited(&limit, LOG_LEVEL_INFO, "later");
    text = captured();
    ck_assert_str_eq(text, "hld: line 0\nhld: line 1\nhld: 8 lines like the next were left out\n"
                           "hld: later\n");
}
END_TEST

int main(void)
{
    TCase *tc = tcase_create("log");

    tcase_add_test(tc, plain_lines);
    tcase_add_test(tc, journal_lines);
    tcase_add_test(tc, another_stream_is_not_the_journal);
    tcase_add_test(tc, hostile_text_is_escaped);
    tcase_add_test(tc, a_long_line_is_one_line);
    tcase_add_test(tc, a_flood_is_cut_and_counted);
    return tests_run(tc, "log");
}
