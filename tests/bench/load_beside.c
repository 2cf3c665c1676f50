/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Short requests alone and beside hogs, in windows that alternate, all of it in one run. A hog is a
 * thread with a connection of its own that has one long call under way whenever hogs are to run; at
 * the end of a window it cancels that call and waits until it is gone.
 */
#include "config.h"

#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>

#include "tests/bench/load.h"

#define SETTLE_NS (100 * NSEC_PER_MSEC) /* after hogs started or stopped */
#define MAX_HOGS  64u

struct hog {
    pthread_t thread;
    struct hl_client *client;
    struct kind kind;
    uint64_t calls, cancelled, errors;
    bool done;
};

static struct {
    atomic_bool run, quit;
    atomic_uint busy;
} hogs;

static void hog_done(void *opaque, uint64_t id, int code, const struct hl_result *result,
                     const struct hl_client_error *err)
{
    struct hog *hog = opaque;

    (void)id;
    (void)result;
    hog->done = true;
    if (code == 0)
        hog->calls++;
    else if (code < 0 && err->status == HL_STATUS_CANCELLED)
        hog->cancelled++;
    else if (hog->errors++ == 0)
        fprintf(stderr, "hog: %s\n", code < 0 ? err->text : "the function returned an error");
}

static void hog_call(struct hog *hog)
{
    struct hl_client_error err;
    bool cancelled = false;
    uint64_t id;

    hog->done = false;
    if (hl_client_submit(hog->client, &hog->kind.call, hog_done, hog, &id, &err) < 0)
        bench_die("hog: %s", err.text);
    while (!hog->done) {
        struct pollfd pfd = {.fd = hl_client_fd(hog->client),
                             .events = hl_client_events(hog->client)};

        poll(&pfd, 1, 5);
        if (!atomic_load(&hogs.run) && !cancelled) {
            hl_client_cancel(hog->client, id);
            cancelled = true;
        }
        if (hl_client_process(hog->client, &err) < 0)
            bench_die("hog: %s", err.text);
    }
}

static void *hog_main(void *opaque)
{
    struct hog *hog = opaque;

    while (!atomic_load(&hogs.quit)) {
        if (!atomic_load(&hogs.run)) {
            poll(NULL, 0, 2);
            continue;
        }
        atomic_fetch_add(&hogs.busy, 1);
        while (atomic_load(&hogs.run))
            hog_call(hog);
        atomic_fetch_sub(&hogs.busy, 1);
    }
    return NULL;
}

static void start_hogs(struct load *load, struct hog *all)
{
    for (uint64_t i = 0; i < load->hogs; i++) {
        kind_parse(&all[i].kind, load->hog);
        all[i].kind.call.timeout_ns = 60 * 1000 * NSEC_PER_MSEC;
        all[i].client = load_connect(load);
        if (pthread_create(&all[i].thread, NULL, hog_main, &all[i]) != 0)
            bench_die("cannot start a thread");
    }
}

static void let_hogs(bool run, uint64_t count)
{
    atomic_store(&hogs.run, run);
    while (atomic_load(&hogs.busy) != (run ? count : 0))
        bench_sleep_until(bench_now() + NSEC_PER_MSEC);
    bench_sleep_until(bench_now() + SETTLE_NS);
}

/* The hogs' own calls; stops the threads. */
static json_t *stop_hogs(const struct load *load, struct hog *all)
{
    uint64_t calls = 0, cancelled = 0, errors = 0;

    atomic_store(&hogs.quit, true);
    for (uint64_t i = 0; i < load->hogs; i++) {
        pthread_join(all[i].thread, NULL);
        hl_client_disconnect(all[i].client);
        kind_fini(&all[i].kind);
        calls += all[i].calls;
        cancelled += all[i].cancelled;
        errors += all[i].errors;
    }
    return json_pack("{s:s, s:I, s:I, s:I, s:I}", "kind", load->hog, "clients",
                     (json_int_t)load->hogs, "calls", (json_int_t)calls, "cancelled",
                     (json_int_t)cancelled, "errors", (json_int_t)errors);
}

/* One side: what is measured alone, or what is measured beside hogs. */
struct side {
    struct kind kinds[MAX_KINDS];
    struct samples late;
    json_t *p99; /* a row a window, a column a kind */
};

static void side_init(struct side *side, const struct load *load)
{
    side->p99 = json_array();
    for (unsigned int k = 0; k < load->nkinds; k++)
        kind_parse(&side->kinds[k], load->kinds[k].spec);
}

static json_t *side_json(struct side *side, unsigned int nkinds)
{
    json_t *kinds = json_array(), *object;

    for (unsigned int k = 0; k < nkinds; k++) {
        json_array_append_new(kinds, kind_json(&side->kinds[k]));
        kind_fini(&side->kinds[k]);
    }
    object = json_pack("{s:o, s:o, s:o}", "kinds", kinds, "windows_p99", side->p99, "late",
                       samples_json(&side->late));
    samples_fini(&side->late);
    return object;
}

/* A window's samples are looked at by themselves and then join the side's. */
static void side_window(struct side *side, const struct load *load, struct lanes *lanes)
{
    struct kind window[MAX_KINDS];
    json_t *row = json_array();

    for (unsigned int k = 0; k < load->nkinds; k++)
        kind_parse(&window[k], load->kinds[k].spec);
    open_run(load, lanes, window, load->nkinds, load->window_ms * NSEC_PER_MSEC, true, &side->late);
    for (unsigned int k = 0; k < load->nkinds; k++) {
        json_t *latency = samples_json(&window[k].latency);
        json_t *p99 = json_object_get(latency, "p99");

        json_array_append_new(row, json_integer(json_integer_value(p99)));
        json_decref(latency);
        kind_merge(&side->kinds[k], &window[k]);
        kind_fini(&window[k]);
    }
    json_array_append_new(side->p99, row);
}

json_t *load_beside(struct load *load)
{
    struct hog all[MAX_HOGS] = {0};
    struct side alone = {0}, beside = {0};
    struct lanes *lanes = lanes_new(load, load->connections);
    json_t *hogs_json;

    if (!load->hog || load->hogs > MAX_HOGS)
        bench_die("beside takes --hog and up to %u --hogs", MAX_HOGS);
    side_init(&alone, load);
    side_init(&beside, load);
    start_hogs(load, all);
    open_run(load, lanes, load->kinds, load->nkinds, load->window_ms * NSEC_PER_MSEC / 2, false,
             NULL);
    for (uint64_t r = 0; r < load->rounds; r++) {
        side_window(&alone, load, lanes);
        let_hogs(true, load->hogs);
        side_window(&beside, load, lanes);
        let_hogs(false, load->hogs);
    }
    hogs_json = stop_hogs(load, all);
    lanes_free(lanes);
    return json_pack("{s:I, s:o, s:o, s:o}", "rate", (json_int_t)load->rate, "hogs", hogs_json,
                     "alone", side_json(&alone, load->nkinds), "beside",
                     side_json(&beside, load->nkinds));
}
