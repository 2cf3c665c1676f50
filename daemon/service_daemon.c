/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The Daemon service: what the worker is and what it has done. Ping is served with nothing but the
 * loop, on purpose: it is the floor that calls are measured against.
 */
#include "config.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "daemon/conn.h"
#include "daemon/engine.h"
#include "daemon/images.h"
#include "daemon/program.h"
#include "daemon/service.h"
#include "daemon/shard.h"
#include "guest/hl_abi.h"
#include "hv/timer.h"
#include "proto/frame.h"

#define ROUNDS_MAX 10000u

static void serve_info(const struct request *request)
{
    struct shard *shard = request->conn->shard;
    struct engine *engine = shard->engine;
    Hl__V1__InfoResponse response = HL__V1__INFO_RESPONSE__INIT;
    Hl__V1__Limits defaults, maxima;

    response.version = engine->version;
    response.backend = (char *)engine->hv->name;
    response.abi_version = HL_ABI_VERSION;
    response.shards = engine->nshards;
    response.uid = engine->uid;
    response.uptime_ns = hv_now_ns() - engine->started_ns;
    response.max_message = FRAME_PAYLOAD_MAX;
    limits_to_message(&defaults, &shard->settings.defaults);
    limits_to_message(&maxima, &shard->settings.maxima);
    response.defaults = &defaults;
    response.maxima = &maxima;
    response.n_confinement = engine->confinement.count;
    response.confinement = (char **)engine->confinement.layers;
    response.draining = atomic_load(&engine->draining);
    conn_send_message(request->conn, request->stream, &response.base);
}

static void serve_ping(const struct request *request)
{
    Hl__V1__PingRequest *ping =
        service_decode(request, Hl__V1__PingRequest, hl__v1__ping_request__descriptor);
    Hl__V1__PingResponse response = HL__V1__PING_RESPONSE__INIT;

    if (!ping)
        return;
    response.payload = ping->payload;
    conn_send_message(request->conn, request->stream, &response.base);
}

/* --- Stats: the list of programs is shard 0's ------------------------------------------------- */

struct stats_job {
    struct mail mail;
    struct shard *shard;
    struct ticket ticket;
    struct program **programs;
    size_t count;
};

static void image_stats(Hl__V1__ImageStats *out, struct program *program)
{
    hl__v1__image_stats__init(out);
    out->name = program->entry.name;
    out->calls = atomic_load(&program->calls);
    out->errors = atomic_load(&program->errors);
    out->warm = atomic_load(&program->warm);
    out->running = atomic_load(&program->running);
    out->queued = atomic_load(&program->queued);
}

static uint64_t total(const struct engine *engine, enum counter stat)
{
    uint64_t sum = 0;

    for (unsigned int i = 0; i < engine->nshards; i++)
        sum += stats_get(&engine->shards[i].stats, stat);
    return sum;
}

#define GAUGES 7

static void send_stats(struct stats_job *job)
{
    struct engine *engine = job->shard->engine;
    Hl__V1__StatsResponse response = HL__V1__STATS_RESPONSE__INIT;
    Hl__V1__StatsResponse__CountersEntry counters[STAT_COUNT + GAUGES];
    Hl__V1__StatsResponse__CountersEntry *counter_list[STAT_COUNT + GAUGES];
    const struct {
        const char *name;
        uint64_t value;
    } gauges[GAUGES] = {
        {"now_connections", atomic_load(&engine->connections)},
        {"now_sessions", atomic_load(&engine->sessions)},
        {"now_vms", budget_used(&engine->budget, BUDGET_VMS)},
        {"now_guest_memory", budget_used(&engine->budget, BUDGET_GUEST_MEMORY)},
        {"now_client_bytes", budget_used(&engine->budget, BUDGET_CLIENT_BYTES)},
        {"now_bulk_bytes", budget_used(&engine->budget, BUDGET_BULK)},
        {"now_descriptors", budget_used(&engine->budget, BUDGET_DESCRIPTORS)},
    };
    _cleanup_free_ Hl__V1__ImageStats *images = calloc(job->count + 1, sizeof(*images));
    _cleanup_free_ Hl__V1__ImageStats **image_list = calloc(job->count + 1, sizeof(*image_list));

    for (size_t i = 0; i < STAT_COUNT + GAUGES; i++) {
        hl__v1__stats_response__counters_entry__init(&counters[i]);
        counters[i].key = (char *)(i < STAT_COUNT ? stats_name(i) : gauges[i - STAT_COUNT].name);
        counters[i].value = i < STAT_COUNT ? total(engine, i) : gauges[i - STAT_COUNT].value;
        counter_list[i] = &counters[i];
    }
    response.counters = counter_list;
    response.n_counters = STAT_COUNT + GAUGES;
    if (images && image_list) {
        for (size_t i = 0; i < job->count; i++) {
            image_stats(&images[i], job->programs[i]);
            image_list[i] = &images[i];
        }
        response.images = image_list;
        response.n_images = job->count;
    }
    conn_send_message(job->ticket.conn, job->ticket.stream, &response.base);
}

static void on_programs(struct mail *mail, void *owner)
{
    struct stats_job *job = LIST_ENTRY(mail, struct stats_job, mail);

    (void)owner;
    if (job->ticket.conn)
        send_stats(job);
    for (size_t i = 0; i < job->count; i++)
        program_unref(job->programs[i]);
    free(job->programs);
    ticket_drop(&job->ticket);
    free(job);
}

static int by_name(const void *a, const void *b)
{
    const struct program *const *x = a, *const *y = b;

    return strcmp((*x)->entry.name, (*y)->entry.name);
}

static void on_list_programs(struct mail *mail, void *owner)
{
    struct stats_job *job = LIST_ENTRY(mail, struct stats_job, mail);
    struct shard *shard = owner;

    job->count = images_list(shard->engine->images, &job->programs);
    if (job->count > 1)
        qsort(job->programs, job->count, sizeof(struct program *), by_name);
    mailbox_post(&job->shard->mailbox, &job->mail, on_programs);
}

static void serve_stats(const struct request *request)
{
    struct stats_job *job = calloc(1, sizeof(*job));

    if (!job) {
        conn_send_status(request->conn, request->stream, HL_STATUS_RESOURCE_EXHAUSTED,
                         "out of memory");
        return;
    }
    if (!ticket_take(&job->ticket, request)) {
        free(job);
        return;
    }
    job->shard = request->conn->shard;
    mailbox_post(&job->shard->engine->shards[0].mailbox, &job->mail, on_list_programs);
}

/* --- MeasureEntry: on the thread pool, since it may take a while ------------------------------ */

struct measure_job {
    uv_work_t work;
    struct shard *shard;
    struct ticket ticket;
    struct charge vm;
    unsigned int rounds;
    uint32_t *ns;
    int result;
    struct hl_error err;
};

static void measure(uv_work_t *work)
{
    struct measure_job *job = work->data;
    struct engine *engine = job->shard->engine;

    job->result = hv_thread_init();
    if (job->result == 0)
        job->result = engine->hv->measure_entry(engine->host, job->rounds, job->ns, &job->err);
}

static void on_measured(uv_work_t *work, int status)
{
    struct measure_job *job = work->data;
    Hl__V1__MeasureEntryResponse response = HL__V1__MEASURE_ENTRY_RESPONSE__INIT;

    if (job->ticket.conn && (status < 0 || job->result < 0)) {
        conn_send_status(job->ticket.conn, job->ticket.stream, HL_STATUS_INTERNAL, "%s",
                         job->err.text[0] ? job->err.text : "the measurement failed");
    } else if (job->ticket.conn) {
        response.ns = job->ns;
        response.n_ns = job->rounds;
        conn_send_message(job->ticket.conn, job->ticket.stream, &response.base);
    }
    charge_release(&job->vm);
    free(job->ns);
    ticket_drop(&job->ticket);
    free(job);
}

static void start_measuring(const struct request *request, unsigned int rounds)
{
    struct conn *conn = request->conn;
    struct shard *shard = conn->shard;
    struct measure_job *job = calloc(1, sizeof(*job));
    uint32_t *ns = calloc(rounds, sizeof(*ns));

    if (!job || !ns || !charge_set(&job->vm, &shard->engine->budget, BUDGET_VMS, 1)) {
        free(ns);
        free(job);
        conn_send_status(conn, request->stream, HL_STATUS_RESOURCE_EXHAUSTED,
                         "no VM to measure with: the worker's max_vms are in use");
        return;
    }
    if (!ticket_take(&job->ticket, request)) {
        charge_release(&job->vm);
        free(ns);
        free(job);
        return;
    }
    job->shard = shard;
    job->rounds = rounds;
    job->ns = ns;
    job->work.data = job;
    uv_queue_work(&shard->loop, &job->work, measure, on_measured);
}

static void serve_measure_entry(const struct request *request)
{
    Hl__V1__MeasureEntryRequest *message = service_decode(
        request, Hl__V1__MeasureEntryRequest, hl__v1__measure_entry_request__descriptor);
    struct conn *conn = request->conn;

    if (!message)
        return;
    if (!conn->shard->engine->hv->measure_entry)
        conn_send_status(conn, request->stream, HL_STATUS_UNIMPLEMENTED,
                         "backend %s has no entry to measure", conn->shard->engine->hv->name);
    else if (message->rounds == 0 || message->rounds > ROUNDS_MAX)
        conn_send_status(conn, request->stream, HL_STATUS_INVALID_ARGUMENT,
                         "rounds: 1 to %u, not %u", ROUNDS_MAX, message->rounds);
    else
        start_measuring(request, message->rounds);
}

const struct service_method service_daemon[] = {
    {"Info", serve_info}, {"Stats", serve_stats},
    {"Ping", serve_ping}, {"MeasureEntry", serve_measure_entry},
    {NULL, NULL},
};
