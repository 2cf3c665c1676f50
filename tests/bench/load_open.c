/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An open loop: when a request is due was settled before, and nothing that comes back late moves
 * it. Latency counts from the time it was due, so that one slow answer shows in all the requests
 * that had to wait behind it, those not even sent yet included. How late the generator itself sent
 * is told beside it: what of the latency is its own.
 */
#include "config.h"

#include <math.h>
#include <stdlib.h>
#include <sys/prctl.h>

#include "tests/bench/load.h"

#define PATIENCE_NS (20ull * 1000 * NSEC_PER_MSEC)

struct slot {
    struct slot *next;
    struct open *open;
    struct kind *kind;
    uint64_t due;
};

struct open {
    struct slot *spare;
    uint64_t running;
    uint64_t random;
    bool keep;
};

static void done(void *opaque, uint64_t id, int code, const struct hl_result *result,
                 const struct hl_client_error *err)
{
    struct slot *slot = opaque;
    struct open *open = slot->open;

    (void)id;
    if (open->keep)
        kind_note(slot->kind, bench_now() - slot->due, code, result, err);
    open->running--;
    slot->next = open->spare;
    open->spare = slot;
}

static struct slot *take_slot(struct open *open, struct kind *kind, uint64_t due)
{
    struct slot *slot = open->spare;

    if (slot)
        open->spare = slot->next;
    else
        slot = bench_alloc(sizeof(*slot));
    *slot = (struct slot){.open = open, .kind = kind, .due = due};
    return slot;
}

/* xorshift64*: the same arrivals in every run. */
static double next_random(struct open *open)
{
    open->random ^= open->random >> 12;
    open->random ^= open->random << 25;
    open->random ^= open->random >> 27;
    return (double)((open->random * 0x2545f4914f6cdd1dull) >> 11) / 9007199254740992.0;
}

static uint64_t next_gap(const struct load *load, struct open *open)
{
    double mean = 1e9 / (double)load->rate;

    return (uint64_t)(load->exponential ? -log1p(-next_random(open)) * mean : mean);
}

void open_run(const struct load *load, struct lanes *lanes, struct kind *kinds, unsigned int nkinds,
              uint64_t duration_ns, bool keep, struct samples *late)
{
    struct open open = {.random = 0x9e3779b97f4a7c15ull, .keep = keep};
    uint64_t begin = bench_now(), end = begin + duration_ns, due = begin, i = 0;
    struct hl_client_error err;

    prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0);
    while (due < end || open.running > 0) {
        uint64_t now = bench_now();

        if (now > end + PATIENCE_NS)
            bench_die("%llu requests without an answer", (unsigned long long)open.running);
        for (; due < end && due <= now; due += next_gap(load, &open), i++) {
            struct kind *kind = &kinds[i % nkinds];
            struct slot *slot = take_slot(&open, kind, due);

            if (keep && late)
                samples_add(late, bench_now() - due);
            open.running++;
            if (kind_submit(kind, lanes_client(lanes, i), done, slot, &err) < 0)
                bench_die("%s: %s", kind->spec, err.text);
        }
        lanes_process(lanes, due < end ? due : end + PATIENCE_NS);
    }
    while (open.spare) {
        struct slot *slot = open.spare;

        open.spare = slot->next;
        free(slot);
    }
}

json_t *load_open(struct load *load)
{
    struct lanes *lanes = lanes_new(load, load->connections);
    struct samples late = {0};
    json_t *kinds = json_array();
    uint64_t begin, server, own;
    json_t *object;

    open_run(load, lanes, load->kinds, load->nkinds, 300 * NSEC_PER_MSEC, false, NULL);
    own = bench_own_cpu();
    server = bench_cpu_of(load->watch);
    begin = bench_now();
    open_run(load, lanes, load->kinds, load->nkinds, load->seconds * 1000 * NSEC_PER_MSEC, true,
             &late);
    begin = bench_now() - begin;
    own = bench_own_cpu() - own;
    server = bench_cpu_of(load->watch) - server;
    lanes_free(lanes);
    for (unsigned int k = 0; k < load->nkinds; k++)
        json_array_append_new(kinds, kind_json(&load->kinds[k]));
    object = json_pack("{s:I, s:I, s:o, s:o, s:I, s:I, s:I}", "rate", (json_int_t)load->rate,
                       "connections", (json_int_t)load->connections, "kinds", kinds, "late",
                       samples_json(&late), "ns", (json_int_t)begin, "own_cpu_ns", (json_int_t)own,
                       "server_cpu_ns", (json_int_t)server);
    samples_fini(&late);
    return object;
}
