/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Samples are kept one by one, so that percentiles are of what was measured. Memory for them is
 * taken in large steps: growing is a copy, and a copy in the middle of a round would be in its
 * figures.
 */
#include "config.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "tests/bench/support.h"

#define FIRST_SAMPLES (64u << 10)

uint64_t bench_now(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

void bench_sleep_until(uint64_t ns)
{
    const struct timespec ts = {
        .tv_sec = (time_t)(ns / 1000000000u),
        .tv_nsec = (long)(ns % 1000000000u),
    };

    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, NULL) == EINTR)
        ;
}

void bench_die(const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    fprintf(stderr, "%s: ", program_invocation_short_name);
    vfprintf(stderr, fmt, args);
    fputc('\n', stderr);
    va_end(args);
    exit(EXIT_FAILURE);
}

void *bench_alloc(size_t size)
{
    void *p = calloc(1, size > 0 ? size : 1);

    if (!p)
        bench_die("out of memory");
    return p;
}

void *bench_read_file(const char *path, size_t *size)
{
    FILE *file = fopen(path, "re");
    size_t room = 1u << 20;
    uint8_t *data = bench_alloc(room);

    if (!file)
        bench_die("%s: %s", path, strerror(errno));
    *size = 0;
    for (;;) {
        size_t n = fread(data + *size, 1, room - *size, file);

        if (n == 0)
            break;
        *size += n;
        if (*size < room)
            continue;
        room *= 2;
        data = realloc(data, room);
        if (!data)
            bench_die("out of memory");
    }
    if (ferror(file))
        bench_die("%s: %s", path, strerror(errno));
    fclose(file);
    return data;
}

uint64_t bench_number(const char *name, const char *text, uint64_t max)
{
    char *end;
    unsigned long long value;

    errno = 0;
    value = strtoull(text, &end, 10);
    if (errno || end == text || *end || text[0] == '-' || value > max)
        bench_die("%s: '%s' is no number up to %" PRIu64, name, text, max);
    return value;
}

uint64_t bench_own_cpu(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* schedstat's first number: nanoseconds on a CPU. Unlike stat's ticks it counts short stays. */
static uint64_t thread_cpu(long pid, const char *thread)
{
    char path[320];
    unsigned long long ns = 0;
    FILE *file;

    snprintf(path, sizeof(path), "/proc/%ld/task/%s/schedstat", pid, thread);
    file = fopen(path, "re");
    if (!file)
        return 0;
    if (fscanf(file, "%llu", &ns) != 1)
        ns = 0;
    fclose(file);
    return ns;
}

uint64_t bench_cpu_of(long pid)
{
    const struct dirent *entry;
    uint64_t sum = 0;
    char path[64];
    DIR *dir;

    snprintf(path, sizeof(path), "/proc/%ld/task", pid);
    dir = pid > 0 ? opendir(path) : NULL;
    while (dir && (entry = readdir(dir))) {
        if (entry->d_name[0] != '.')
            sum += thread_cpu(pid, entry->d_name);
    }
    if (dir)
        closedir(dir);
    return sum;
}

void samples_add(struct samples *samples, uint64_t ns)
{
    if (samples->count == samples->size) {
        samples->size = samples->size ? 2 * samples->size : FIRST_SAMPLES;
        samples->ns = reallocarray(samples->ns, samples->size, sizeof(*samples->ns));
        if (!samples->ns)
            bench_die("out of memory");
    }
    samples->ns[samples->count++] = ns;
}

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return (x > y) - (x < y);
}

/* Nearest rank: the smallest sample that so many of 1000 do not exceed. */
static json_int_t per_mille(const struct samples *samples, size_t share)
{
    size_t rank = (samples->count * share + 999) / 1000;

    return (json_int_t)samples->ns[rank > 0 ? rank - 1 : 0];
}

json_t *samples_json(struct samples *samples)
{
    long double sum = 0;

    if (samples->count == 0)
        return json_pack("{s:i}", "n", 0);
    qsort(samples->ns, samples->count, sizeof(*samples->ns), by_value);
    for (size_t i = 0; i < samples->count; i++)
        sum += (long double)samples->ns[i];
    return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "n", (json_int_t)samples->count,
                     "min", (json_int_t)samples->ns[0], "p50", per_mille(samples, 500), "p95",
                     per_mille(samples, 950), "p99", per_mille(samples, 990), "p999",
                     per_mille(samples, 999), "max", (json_int_t)samples->ns[samples->count - 1],
                     "mean", (json_int_t)(sum / (long double)samples->count));
}

void samples_fini(struct samples *samples)
{
    free(samples->ns);
    *samples = (struct samples){0};
}

int bench_print(json_t *object)
{
    if (!object)
        bench_die("out of memory");
    json_dumpf(object, stdout, JSON_COMPACT | JSON_PRESERVE_ORDER);
    putchar('\n');
    json_decref(object);
    return fflush(stdout) == 0 && !ferror(stdout) ? EXIT_SUCCESS : EXIT_FAILURE;
}
