/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One connection, one request at a time, as a program that simply calls a function does it. Rounds
 * are short, so that a disturbance of a millisecond or more meets every kind. Entries are asked for
 * on a connection of their own: the wait for many at once is a long one, and the connection would
 * not poll for what is asked for next.
 */
#include "tests/bench/load.h"

static void one_round(struct load *load, struct hl_client *client, struct hl_client *other,
                      uint64_t n, bool keep)
{
    for (unsigned int k = 0; k < load->nkinds; k++) {
        struct kind *kind = &load->kinds[k];

        if (kind->type == KIND_ENTRY) {
            kind_entries(kind, other, n, keep);
            continue;
        }
        if (kind->type == KIND_HOST) {
            kind_host_calls(kind, client, n, keep);
            continue;
        }
        for (uint64_t i = 0; i < n; i++)
            kind_run(kind, client, keep);
    }
}

static void rounds(struct load *load, struct hl_client *client, struct hl_client *other,
                   uint64_t count, bool keep)
{
    while (count > 0) {
        uint64_t n = count < load->round ? count : load->round;

        one_round(load, client, other, n, keep);
        count -= n;
    }
}

json_t *load_turns(struct load *load)
{
    struct hl_client *client = load_connect(load), *other = load_connect(load);
    json_t *kinds = json_array();
    uint64_t cpu, begin;

    rounds(load, client, other, load->warmup, false);
    cpu = bench_own_cpu();
    begin = bench_now();
    rounds(load, client, other, load->count, true);
    cpu = bench_own_cpu() - cpu;
    begin = bench_now() - begin;
    hl_client_disconnect(client);
    hl_client_disconnect(other);
    for (unsigned int k = 0; k < load->nkinds; k++)
        json_array_append_new(kinds, kind_json(&load->kinds[k]));
    return json_pack("{s:o, s:I, s:I}", "kinds", kinds, "own_cpu_ns", (json_int_t)cpu, "ns",
                     (json_int_t)begin);
}
