/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_DAEMON_LOG_H
#define HL_DAEMON_LOG_H

/*
 * The log of front and workers: one line a message on standard error, written by one write(2), with
 * sd-daemon(3)'s "<N>" in front where standard error is the journal. Line breaks, control
 * characters and bytes that are no UTF-8 are escaped, whatever argument they came from. Any thread.
 */

#include <stdint.h>
#include <sys/types.h>

#define LOG_LINE_MAX 1024u

/* syslog(3)'s numbers. */
enum log_level {
    LOG_LEVEL_CRITICAL = 2,
    LOG_LEVEL_ERROR = 3,
    LOG_LEVEL_WARNING = 4,
    LOG_LEVEL_NOTICE = 5,
    LOG_LEVEL_INFO = 6,
    LOG_LEVEL_DEBUG = 7,
};

/* Before threads start. who: put in front of each line ("worker of uid 1000"), copied; NULL for
 * none. The environment decides about the journal (JOURNAL_STREAM) and about debug lines
 * (HLD_DEBUG=1). */
void log_init(const char *who);

void log_write(enum log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* At most burst lines in interval_ns of what a peer can cause; the next line allowed says how many
 * were left out. One struct a cause, owned by one thread. */
struct log_limit {
    uint64_t interval_ns;
    unsigned int burst;
    uint64_t started_ns;
    unsigned int lines;
    unsigned int left_out;
};

#define LOG_LIMIT_INIT                                                                             \
    {                                                                                              \
        .interval_ns = 5000000000, .burst = 5                                                      \
    }

void log_limited(struct log_limit *limit, enum log_level level, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

#define log_error(...)   log_write(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warning(...) log_write(LOG_LEVEL_WARNING, __VA_ARGS__)
#define log_notice(...)  log_write(LOG_LEVEL_NOTICE, __VA_ARGS__)
#define log_info(...)    log_write(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...)   log_write(LOG_LEVEL_DEBUG, __VA_ARGS__)

/* text into out as it would be logged, NUL-terminated, cut to fit. Returns: the length. */
size_t log_escape(char *out, size_t size, const char *text);

#endif
