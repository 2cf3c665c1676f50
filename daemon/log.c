/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Logging. The whole formatted line is escaped, not single arguments, so that no caller can forget
 * to; what names a peer chose (image names, paths, guests' texts) can therefore neither forge a
 * second line nor a priority. Nothing is allocated, so that the log works when memory is short.
 */
#include "daemon/log.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/value.h"

static char log_who[64];
static bool log_journal;
static bool log_debugging;

/* Whether standard error is the journal's stream: JOURNAL_STREAM holds its "device:inode". */
static bool stderr_is_journal(void)
{
    const char *stream = getenv("JOURNAL_STREAM");
    unsigned long long device, inode;
    struct stat st;

    if (!stream || sscanf(stream, "%llu:%llu", &device, &inode) != 2)
        return false;
    return fstat(STDERR_FILENO, &st) == 0 && st.st_dev == device && st.st_ino == inode;
}

void log_init(const char *who)
{
    const char *debug = getenv("HLD_DEBUG");

    snprintf(log_who, sizeof(log_who), "%s%s", who ? who : "", who ? ": " : "");
    log_journal = stderr_is_journal();
    log_debugging = debug && strcmp(debug, "1") == 0;
}

size_t log_escape(char *out, size_t size, const char *text)
{
    static const char hex[] = "0123456789abcdef";
    bool utf8 = hl_utf8_valid(text, strlen(text));
    size_t n = 0;

    for (const unsigned char *p = (const unsigned char *)text; *p; p++) {
        /* U+0080 to U+009F are controls too: 0xc2 0x80 to 0xc2 0x9f. */
        bool c1 = *p == 0xc2 && p[1] >= 0x80 && p[1] <= 0x9f;

        if (*p >= 0x20 && *p != 0x7f && (*p < 0x80 || (utf8 && !c1))) {
            if (n + 1 >= size)
                break;
            out[n++] = (char)*p;
            continue;
        }
        for (int i = 0; i <= c1; i++) {
            if (n + 4 >= size)
                goto full;
            out[n++] = '\\';
            out[n++] = 'x';
            out[n++] = hex[p[i] >> 4];
            out[n++] = hex[p[i] & 15];
        }
        p += c1;
    }
full:
    out[n] = '\0';
    return n;
}

static const char *level_word(enum log_level level)
{
    switch (level) {
    case LOG_LEVEL_CRITICAL:
        return "critical: ";
    case LOG_LEVEL_ERROR:
        return "error: ";
    case LOG_LEVEL_WARNING:
        return "warning: ";
    case LOG_LEVEL_DEBUG:
        return "debug: ";
    default:
        return "";
    }
}

static void write_line(enum log_level level, const char *text)
{
    char line[LOG_LINE_MAX];
    size_t n;

    if (log_journal)
        n = (size_t)snprintf(line, sizeof(line), "<%d>%s", level, log_who);
    else
        n = (size_t)snprintf(line, sizeof(line), "hld: %s%s", log_who, level_word(level));
    n += log_escape(line + n, sizeof(line) - n - 1, text);
    line[n++] = '\n';
    if (write(STDERR_FILENO, line, n) < 0)
        return; /* nowhere left to say it */
}

void log_write(enum log_level level, const char *fmt, ...)
{
    char text[LOG_LINE_MAX];
    va_list ap;

    if (level == LOG_LEVEL_DEBUG && !log_debugging)
        return;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    write_line(level, text);
}

void log_limited(struct log_limit *limit, enum log_level level, const char *fmt, ...)
{
    char text[LOG_LINE_MAX];
    struct timespec ts;
    uint64_t now;
    va_list ap;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    now = (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
    if (now - limit->started_ns >= limit->interval_ns) {
        if (limit->left_out > 0)
            log_write(level, "%u lines like the next were left out", limit->left_out);
        limit->started_ns = now;
        limit->lines = 0;
        limit->left_out = 0;
    }
    if (limit->lines >= limit->burst) {
        limit->left_out++;
        return;
    }
    limit->lines++;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    write_line(level, text);
}
