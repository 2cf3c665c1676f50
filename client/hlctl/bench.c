/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hlctl bench: what a call costs, beside the two floors it stands on: an echo of the same bytes by
 * the same loop without a VM, and the hypervisor's bare entry and exit. Calls and floors are taken
 * in turns, in short rounds, so that whatever else the machine does hits all of them alike. The
 * time is the caller's: from before the request is encoded until the result is decoded.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "client/hlctl/bench.h"
#include "client/hlctl/json.h"
#include "client/hlctl/table.h"
#include "client/hlctl/text.h"

#define ROUND           100u
#define DEFAULT_COUNT   2000u
#define DEFAULT_WARMUP  200u
#define DEFAULT_SIZE    64u
#define DEFAULT_SPIN    50000u /* as libhlclient's */
#define MAX_SIZE        (4u << 20)
#define MAX_COUNT       100000000u
#define MAX_CONNECTIONS 1024u

struct bench {
    struct hlctl *ctl;
    struct arguments arguments;
    uint64_t count, warmup, spin_ns, connections, size, load_ns;
    size_t payload; /* bytes of strings and bytes arguments */
    struct hl_info info;
    char backend[32], version[64];
    bool has_entry;
    struct samples call, run, ping, entry;
};

static int take_count(struct bench *bench, const char *name, uint64_t max, uint64_t *out)
{
    const char *value = option_get(bench->ctl, name);

    if (value && text_parse_count(value, max, out) < 0)
        return fail_usage(bench->ctl, "--%s: '%s' is no number up to %llu", name, value,
                          (unsigned long long)max);
    return 0;
}

static int take_options(struct bench *bench)
{
    const char *spin = option_get(bench->ctl, "spin");
    const char *size = option_get(bench->ctl, "size");
    int r;

    bench->count = DEFAULT_COUNT;
    bench->warmup = DEFAULT_WARMUP;
    bench->size = DEFAULT_SIZE;
    bench->spin_ns = DEFAULT_SPIN;
    if (size &&
        (text_parse_size(size, &bench->size) < 0 || bench->size == 0 || bench->size > MAX_SIZE))
        return fail_usage(bench->ctl, "--size: '%s' is no size up to 4M", size);
    if (spin && text_parse_duration(spin, &bench->spin_ns) < 0)
        return fail_usage(bench->ctl, "--spin: '%s' is no time; write 50us", spin);
    r = take_count(bench, "count", MAX_COUNT, &bench->count);
    if (r == 0)
        r = take_count(bench, "warmup", MAX_COUNT, &bench->warmup);
    if (r == 0)
        r = take_count(bench, "connections", MAX_CONNECTIONS, &bench->connections);
    if (r == 0 && bench->count == 0)
        r = fail_usage(bench->ctl, "--count: at least 1");
    return r;
}

static int out_of_memory(struct bench *bench)
{
    return fail_local(bench->ctl, "out of memory");
}

static int one_call(struct bench *bench, bool keep)
{
    uint64_t start = ctl_now();
    struct hl_client_error err;
    struct hl_result result;
    int r = hl_client_invoke(bench->ctl->client, &bench->arguments.call, &result, &err);
    uint64_t took = ctl_now() - start;

    if (r < 0)
        return fail_with(bench->ctl, &err);
    if (r == HL_GUEST_ERROR)
        return fail_local(bench->ctl, "the function returned error %d", result.code);
    if (keep && (samples_add(&bench->call, took) < 0 ||
                 samples_add(&bench->run, result.accounting.run_ns) < 0))
        return out_of_memory(bench);
    return 0;
}

static int one_ping(struct bench *bench, const uint8_t *payload, bool keep)
{
    uint64_t start = ctl_now();
    struct hl_client_error err;
    int r = hl_client_ping(bench->ctl->client, payload, bench->payload, &err);
    uint64_t took = ctl_now() - start;

    if (r < 0)
        return fail_with(bench->ctl, &err);
    return keep && samples_add(&bench->ping, took) < 0 ? out_of_memory(bench) : 0;
}

static int some_entries(struct bench *bench, uint32_t rounds)
{
    struct hl_client_error err;
    const uint32_t *ns;
    size_t count;
    int r;

    if (!bench->has_entry)
        return 0;
    r = hl_client_measure_entry(bench->ctl->client, rounds, &ns, &count, &err);
    if (r < 0 && err.remote &&
        (err.status == HL_STATUS_UNIMPLEMENTED || err.status == HL_STATUS_FAILED_PRECONDITION)) {
        /* A backend without a hypervisor under it has no such floor. */
        bench->has_entry = false;
        return 0;
    }
    if (r < 0)
        return fail_with(bench->ctl, &err);
    for (size_t i = 0; i < count; i++) {
        if (samples_add(&bench->entry, ns[i]) < 0)
            return out_of_memory(bench);
    }
    return 0;
}

static int rounds(struct bench *bench, const uint8_t *payload, uint64_t count, bool keep)
{
    int r = 0;

    while (r == 0 && count > 0) {
        uint32_t n = (uint32_t)(count < ROUND ? count : ROUND);

        for (uint32_t i = 0; r == 0 && i < n; i++)
            r = one_ping(bench, payload, keep);
        for (uint32_t i = 0; r == 0 && i < n; i++)
            r = one_call(bench, keep);
        if (r == 0 && keep)
            r = some_entries(bench, n);
        count -= n;
    }
    return r;
}

static int measure(struct bench *bench)
{
    struct hl_client_error err;
    uint8_t *payload;
    int r;

    for (size_t i = 0; i < bench->arguments.call.nargs; i++) {
        const struct hl_value *value = &bench->arguments.values[i];

        if (value->type == HL_TYPE_STRING || value->type == HL_TYPE_BYTES)
            bench->payload += value->bytes.len;
    }
    if (hl_client_info(bench->ctl->client, &bench->info, &err) < 0)
        return fail_with(bench->ctl, &err);
    text_printable(bench->backend, sizeof(bench->backend), bench->info.backend);
    text_printable(bench->version, sizeof(bench->version), bench->info.version);
    payload = calloc(1, bench->payload + 1);
    if (!payload)
        return out_of_memory(bench);
    hl_client_set_spin(bench->ctl->client, bench->spin_ns);
    bench->has_entry = true;
    r = rounds(bench, payload, bench->warmup, false);
    if (r == 0)
        r = rounds(bench, payload, bench->count, true);
    free(payload);
    if (r == 0 && bench->connections > 0)
        r = bench_load(bench->ctl, &bench->arguments.call, (unsigned int)bench->connections,
                       bench->count, &bench->load_ns);
    return r;
}

/* "model name : …" of the first CPU. */
static void cpu_model(char *buf, size_t size)
{
    FILE *f = fopen("/proc/cpuinfo", "re");
    char line[256];

    snprintf(buf, size, "unknown CPU");
    while (f && fgets(line, sizeof(line), f)) {
        char *colon = strchr(line, ':');

        if (strncmp(line, "model name", 10) != 0 || !colon)
            continue;
        snprintf(buf, size, "%.*s", (int)strcspn(colon + 2, "\n"), colon + 2);
        break;
    }
    if (f)
        fclose(f);
}

static void print_row(struct table *table, const char *name, struct samples *samples)
{
    struct summary s = samples_summary(samples);
    const uint64_t cells[] = {s.p50, s.p95, s.p99, s.min, s.max};
    char texts[5][32], count[32];

    if (samples->count == 0)
        return;
    for (int i = 0; i < 5; i++)
        snprintf(texts[i], sizeof(texts[i]), "%.1f", (double)cells[i] / 1e3);
    snprintf(count, sizeof(count), "%zu", samples->count);
    table_add(table,
              (const char *[]){name, texts[0], texts[1], texts[2], texts[3], texts[4], count});
}

static double over(uint64_t call, uint64_t floor)
{
    return floor > 0 ? (double)call / (double)floor : 0;
}

/* p50 of the call over the sum of the floors' p50. */
static double ratio(struct bench *bench)
{
    return over(samples_summary(&bench->call).p50,
                samples_summary(&bench->ping).p50 + samples_summary(&bench->entry).p50);
}

/* The same of the least: what is left of it when the machine does nothing else. */
static double ratio_min(struct bench *bench)
{
    return over(samples_summary(&bench->call).min,
                samples_summary(&bench->ping).min + samples_summary(&bench->entry).min);
}

static double per_second(uint64_t count, uint64_t ns)
{
    return ns > 0 ? (double)count * 1e9 / (double)ns : 0;
}

static void print_report(struct bench *bench, const char *cpu, const struct utsname *os)
{
    struct table table = {.ncolumns = 7, .right = 0x7e};

    printf("%s, %ld CPUs, %s %s, hld %s, backend %s, %u shards\n", cpu,
           sysconf(_SC_NPROCESSORS_ONLN), os->sysname, os->release, bench->version, bench->backend,
           bench->info.shards);
    printf("%s %s, %zu bytes of arguments, spin %llu us\n\n", bench->arguments.call.image,
           bench->arguments.call.function, bench->payload,
           (unsigned long long)(bench->spin_ns / 1000));
    table_add(&table, (const char *[]){"microseconds", "p50", "p95", "p99", "min", "max", "count"});
    print_row(&table, "ping (no VM)", &bench->ping);
    print_row(&table, "bare entry", &bench->entry);
    print_row(&table, "call", &bench->call);
    print_row(&table, "  in the guest", &bench->run);
    table_print(&table);
    table_fini(&table);
    printf("\n%.0f calls/s, one after the other\n",
           per_second(1, samples_summary(&bench->call).mean));
    if (bench->connections > 0)
        printf("%.0f calls/s, %llu connections\n", per_second(bench->count, bench->load_ns),
               (unsigned long long)bench->connections);
    printf("call p50 is %.2f times the floors (%s), min %.2f times theirs\n", ratio(bench),
           bench->has_entry ? "ping + bare entry" : "ping", ratio_min(bench));
}

static json_t *json_samples(struct samples *samples)
{
    struct summary s = samples_summary(samples);

    return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "p50_ns", (json_int_t)s.p50, "p95_ns",
                     (json_int_t)s.p95, "p99_ns", (json_int_t)s.p99, "min_ns", (json_int_t)s.min,
                     "max_ns", (json_int_t)s.max, "mean_ns", (json_int_t)s.mean, "count",
                     (json_int_t)samples->count);
}

static void print_report_json(struct bench *bench, const char *cpu, const struct utsname *os)
{
    json_t *root = json_pack(
        "{s:{s:s, s:I, s:s, s:s, s:s, s:I}, s:s, s:s, s:I, s:I, s:o, s:o, s:o, s:f, s:f, s:f}",
        "machine", "cpu", cpu, "cpus", (json_int_t)sysconf(_SC_NPROCESSORS_ONLN), "kernel",
        os->release, "hld", bench->version, "backend", bench->backend, "shards",
        (json_int_t)bench->info.shards, "image", bench->arguments.call.image, "function",
        bench->arguments.call.function, "payload_bytes", (json_int_t)bench->payload, "spin_ns",
        (json_int_t)bench->spin_ns, "ping", json_samples(&bench->ping), "call",
        json_samples(&bench->call), "run", json_samples(&bench->run), "calls_per_second",
        per_second(1, samples_summary(&bench->call).mean), "ratio", ratio(bench), "ratio_min",
        ratio_min(bench));

    if (bench->has_entry)
        json_object_set_new(root, "entry", json_samples(&bench->entry));
    if (bench->connections > 0) {
        json_object_set_new(root, "connections", json_integer((json_int_t)bench->connections));
        json_object_set_new(root, "connections_calls_per_second",
                            json_real(per_second(bench->count, bench->load_ns)));
    }
    print_json_line(root);
}

static int run(struct hlctl *ctl)
{
    struct bench bench = {.ctl = ctl};
    struct utsname os = {0};
    char cpu[128];
    int r = take_options(&bench);

    if (r == 0)
        r = ctl_connect(ctl);
    if (r == 0)
        r = arguments_take(ctl, &bench.arguments, bench.size);
    if (r == 0)
        r = take_deadline(ctl, &bench.arguments.call.timeout_ns);
    if (r == 0)
        r = measure(&bench);
    if (r == 0) {
        cpu_model(cpu, sizeof(cpu));
        uname(&os);
        if (ctl->json)
            print_report_json(&bench, cpu, &os);
        else
            print_report(&bench, cpu, &os);
    }
    samples_fini(&bench.call);
    samples_fini(&bench.run);
    samples_fini(&bench.ping);
    samples_fini(&bench.entry);
    arguments_fini(&bench.arguments);
    return r;
}

const struct verb verb_bench = {
    .name = "bench",
    .arguments = "IMAGE FUNCTION [ARG...]",
    .summary = "Measure a function's calls, and the floors under them",
    .notes = "Floors: an echo of as many bytes by the same loop without a VM, and the bare entry "
             "and exit\nof the hypervisor, in the same run and in turns with the calls. Without "
             "arguments the\nfunction gets ones, and strings and bytes of --size.\n",
    .min_args = 2,
    .max_args = 2 + 1000,
    .options =
        {
            {"count", "N", "calls to measure (2000)"},
            {"warmup", "N", "calls before, not counted (200)"},
            {"size", "SIZE", "of strings and bytes, when no arguments are given (64)"},
            {"spin", "TIME", "poll that long for each answer before sleeping (50us)"},
            {"connections", "N", "also measure calls/s over N connections at once"},
            {"deadline", "TIME", "of each call"},
        },
    .run = run,
};
