/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_BENCH_LOAD_H
#define HL_BENCH_LOAD_H

/*
 * The load generator's parts. A kind is what is asked for over and over: an echo without a VM
 * ("ping:64"), a call ("call:IMAGE:FUNCTION:bytes=64:u32=7:memfd=4096:file=PATH";
 * memfds= alternates between two files), a host call that this
 * client answers with what it was given ("host:IMAGE:FUNCTION:bytes=64", of a function that takes
 * how many host calls to make before those arguments) or the hypervisor's bare entry and exit
 * ("entry"). Several kinds in one run are taken in turns, so that whatever else the machine does
 * hits all of them alike.
 */

#include "tests/bench/support.h"

#define MAX_KINDS 8u
#define KIND_ARGS 4u

#define SPIN_DEFAULT UINT64_MAX

enum kind_type {
    KIND_PING,
    KIND_CALL,
    KIND_HOST,
    KIND_ENTRY,
};

struct kind {
    const char *spec;
    enum kind_type type;
    struct hl_call call;
    struct hl_value args[KIND_ARGS], others[KIND_ARGS]; /* others: void but for memfds= */
    uint8_t *payload; /* of a ping: the same bytes on the wire as a call's result of that size */
    size_t payload_len;
    bool skipped; /* this backend has no such thing */
    /* what was measured */
    struct samples latency, run, queue, total;
    struct samples each;    /* of host calls: a whole call's time by how many it made */
    struct samples windows; /* requests a second, one sample a window */
    uint64_t requests, errors, ns, own_cpu, server_cpu;
    char first_error[512];
};

struct load {
    const char *mode, *socket;
    struct kind kinds[MAX_KINDS];
    unsigned int nkinds;
    /* what the modes' options say; each mode uses some */
    uint64_t count, warmup, round, connections, window_ms, rounds, rate, seconds, gap_ms;
    uint64_t spin_us; /* SPIN_DEFAULT: as libhlclient has it; many connections then never poll */
    uint64_t hogs, first;
    bool exponential;
    const char *prefix, *program, *hog;
    long watch; /* the server's pid, whose CPU time is told too */
};

/* ---- load_kind.c ---- */

void kind_parse(struct kind *kind, const char *spec);
/* One request, waited for. keep: whether it counts. */
void kind_run(struct kind *kind, struct hl_client *client, bool keep);
/* n host calls, of one call. */
void kind_host_calls(struct kind *kind, struct hl_client *client, uint64_t n, bool keep);
/* n bare entries and exits. */
void kind_entries(struct kind *kind, struct hl_client *client, uint64_t n, bool keep);
/* Starts one; cb as of hl_client_submit. */
int kind_submit(struct kind *kind, struct hl_client *client, hl_done_cb cb, void *opaque,
                struct hl_client_error *err);
/* Notes how one ended. */
void kind_note(struct kind *kind, uint64_t ns, int code, const struct hl_result *result,
               const struct hl_client_error *err);
/* Adds what from measured. */
void kind_merge(struct kind *kind, const struct kind *from);
json_t *kind_json(struct kind *kind);
void kind_fini(struct kind *kind);

struct hl_client *load_connect(const struct load *load);

/* ---- the modes: each returns what it measured ---- */

/* load_turns.c: one connection, one request at a time, `round` of a kind and then of the next. */
json_t *load_turns(struct load *load);
/* load_lanes.c: `connections` with one request under way on each, windows of each kind in turns. */
json_t *load_closed(struct load *load);
/* load_open.c: arrivals at `rate`, whatever comes back; latency from the time a request was due. */
json_t *load_open(struct load *load);
/* load_beside.c: the same, in turns alone and beside `hogs` clients that call `hog` endlessly. */
json_t *load_beside(struct load *load);
/* load_images.c: the first call to each of `count` images; registering them, and their first
 * answer; registering those from `first` to `count`, as far as that goes. */
json_t *load_first(struct load *load);
json_t *load_register(struct load *load);
json_t *load_many(struct load *load);

/* ---- load_lanes.c ---- */

struct lanes;

/* Connections, each greeted once so that none is still being handed over when time starts. */
struct lanes *lanes_new(const struct load *load, uint64_t connections);
struct hl_client *lanes_client(struct lanes *lanes, uint64_t i);
/* Waits for an event until the time (0: not at all) and delivers what came. */
void lanes_process(struct lanes *lanes, uint64_t until_ns);
void lanes_free(struct lanes *lanes);

/* ---- load_open.c ---- */

/* Requests of the kinds in turns, due from now on at load->rate for so long; ends when the last
 * answer is there. late: how late the generator itself was. */
void open_run(const struct load *load, struct lanes *lanes, struct kind *kinds, unsigned int nkinds,
              uint64_t duration_ns, bool keep, struct samples *late);

#endif
