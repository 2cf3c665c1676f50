/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the machine itself costs, without a daemon around it: entry, reset, audit, shells, binding,
 * the first call. JSON on standard output, one flat object a case.
 *
 * Figures that are to be compared are taken in turns, a few of each a round, so that what else the
 * host is doing hits them alike.
 */
#include "config.h"

#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "hv/timer.h"
#include "tests/bench/bench_hv.h"

#define SERIES_MAX 64u
#define ENTRIES    32u

struct series {
    char about[160];
    uint32_t *ns;
    size_t count, room;
};

struct hv_host *bench_host;
unsigned int bench_rounds = 150;
const char *bench_guest = "guest/examples/echo";

static struct series all[SERIES_MAX];
static size_t nall;
static bool any_printed;

void bench_die(const char *what, const struct hl_error *err)
{
    fprintf(stderr, "bench_hv: %s: %s\n", what, err ? err->text : strerror(errno));
    exit(EXIT_FAILURE);
}

void bench_must(int r, const char *what, const struct hl_error *err)
{
    if (r < 0)
        bench_die(what, err);
}

struct series *series_new(const char *about, ...)
{
    struct series *s;
    va_list args;

    if (nall == SERIES_MAX)
        abort();
    s = &all[nall++];
    va_start(args, about);
    vsnprintf(s->about, sizeof(s->about), about, args);
    va_end(args);
    return s;
}

void series_add(struct series *s, uint64_t ns)
{
    if (s->count == s->room) {
        s->room = s->room ? s->room * 2 : 256;
        s->ns = realloc(s->ns, s->room * sizeof(*s->ns));
        if (!s->ns)
            bench_die("memory", NULL);
    }
    s->ns[s->count++] = ns > UINT32_MAX ? UINT32_MAX : (uint32_t)ns;
}

void bench_print(const char *members)
{
    printf("%s\n  {%s}", any_printed ? "," : "", members);
    any_printed = true;
}

static int compare(const void *a, const void *b)
{
    const uint32_t *x = a, *y = b;

    return *x < *y ? -1 : *x > *y;
}

void series_print_all(void)
{
    for (size_t i = 0; i < nall; i++) {
        struct series *s = &all[i];
        char text[320];

        if (s->count > 0) {
            qsort(s->ns, s->count, sizeof(*s->ns), compare);
            snprintf(text, sizeof(text),
                     "%.*s, \"n\": %zu, \"min_ns\": %u, \"p50_ns\": %u, \"p95_ns\": %u",
                     (int)sizeof(s->about), s->about, s->count, s->ns[0], s->ns[s->count / 2],
                     s->ns[s->count * 95 / 100]);
            bench_print(text);
        }
        free(s->ns);
        *s = (struct series){0};
    }
    nall = 0;
}

/* Of "name: value" lines, the value of the first that starts with name; "" for none. */
static void read_field(const char *path, const char *name, char *value, size_t size)
{
    FILE *file = fopen(path, "re");
    char line[512];
    size_t len = strlen(name);

    value[0] = '\0';
    while (file && fgets(line, sizeof(line), file)) {
        char *at = line + len;

        if (strncmp(line, name, len) != 0)
            continue;
        at += strspn(at, " \t:");
        at[strcspn(at, "\n")] = '\0';
        snprintf(value, size, "%s", at);
        break;
    }
    if (file)
        fclose(file);
}

uint64_t bench_bytes(const char *path, const char *name)
{
    char value[64];

    read_field(path, name, value, sizeof(value));
    return strtoull(value, NULL, 10) * 1024;
}

void bench_entry(struct series *s)
{
    struct hl_error err = HL_ERROR_INIT;
    uint32_t ns[ENTRIES];

    bench_must(hv_backend_kvm.measure_entry(bench_host, ENTRIES, ns, &err), "entry", &err);
    for (size_t i = 0; i < ENTRIES; i++)
        series_add(s, ns[i]);
}

static void measure_clock(void)
{
    struct series *s = series_new("\"name\": \"clock\"");

    for (unsigned int i = 0; i < bench_rounds; i++) {
        uint64_t start = hv_now_ns();

        series_add(s, hv_now_ns() - start);
    }
    series_print_all();
}

static void print_string(const char *name, const char *value)
{
    printf("\"%s\": \"", name);
    for (; *value; value++) {
        if (*value == '"' || *value == '\\')
            putchar('\\');
        putchar((unsigned char)*value < ' ' ? ' ' : *value);
    }
    printf("\", ");
}

static void print_machine(void)
{
    struct utsname name = {0};
    char model[128];

    uname(&name);
    read_field("/proc/cpuinfo", "model name", model, sizeof(model));
    printf("{\"machine\": {");
    print_string("cpu", model);
    print_string("kernel", name.release);
    printf("\"cpus\": %ld, \"memory_bytes\": %llu}, \"backend\": \"kvm\", \"rounds\": %u,\n"
           "\"cases\": [",
           sysconf(_SC_NPROCESSORS_ONLN),
           (unsigned long long)bench_bytes("/proc/meminfo", "MemTotal"), bench_rounds);
}

static void usage(FILE *to)
{
    fprintf(to, "usage: bench_hv [--quick] [--guest FILE]\n\n"
                "Measures entry, reset, audit, shells, binding and first calls on /dev/kvm and\n"
                "prints JSON: {\"machine\": {...}, \"cases\": [{\"name\": ..., \"n\": ...,\n"
                "\"min_ns\": ..., \"p50_ns\": ..., \"p95_ns\": ...}, ...]}.\n\n"
                "  -q, --quick       fewer rounds\n"
                "  -g, --guest FILE  the echo example (default: guest/examples/echo)\n"
                "  -h, --help        this text\n");
}

static void parse(int argc, char **argv)
{
    static const struct option options[] = {
        {"quick", no_argument, NULL, 'q'},
        {"guest", required_argument, NULL, 'g'},
        {"help", no_argument, NULL, 'h'},
        {0},
    };
    int option;

    while ((option = getopt_long(argc, argv, "qg:h", options, NULL)) != -1) {
        if (option == 'q') {
            bench_rounds = 30;
        } else if (option == 'g') {
            bench_guest = optarg;
        } else {
            usage(option == 'h' ? stdout : stderr);
            exit(option == 'h' ? 0 : 2);
        }
    }
    if (optind < argc) {
        usage(stderr);
        exit(2);
    }
}

int main(int argc, char **argv)
{
    struct hv_host_config config = {.kvm_fd = -1, .nursery_fd = -1};
    struct hl_error err = HL_ERROR_INIT;

    parse(argc, argv);
    bench_must(hv_thread_init(), "timer", NULL);
    bench_must(hv_backend_kvm.host_open(&bench_host, &config, &err), "kvm", &err);
    print_machine();
    measure_clock();
    bench_resets();
    bench_first();
    bench_idle();
    printf("\n]}\n");
    hv_backend_kvm.host_close(bench_host);
    hv_thread_fini();
    return fflush(stdout) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
