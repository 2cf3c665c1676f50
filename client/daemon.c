/* SPDX-License-Identifier: Apache-2.0 */
/* What the daemon says about itself, and the two floors a benchmark stands on: an echo without any
 * VM and the hypervisor's bare entry and exit. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "client/client.h"

#include "proto/service.h"

int hl_client_ping(struct hl_client *client, const void *payload, size_t len,
                   struct hl_client_error *err)
{
    Hl__V1__PingRequest request = HL__V1__PING_REQUEST__INIT;
    const Hl__V1__PingResponse *response;
    ProtobufCMessage *message;
    int r;

    r = request_begin(client, err);
    if (r < 0)
        return r;
    request.payload = (ProtobufCBinaryData){.len = len, .data = (uint8_t *)payload};
    r = request_simple(client, SERVICE_DAEMON, "Ping", &request.base,
                       &hl__v1__ping_response__descriptor, &message, err);
    if (r < 0)
        return r;
    response = (const Hl__V1__PingResponse *)message;
    if (response->payload.len != len ||
        (len > 0 && memcmp(response->payload.data, payload, len) != 0))
        return failure_local(err, -EPROTO, HL_STATUS_INTERNAL, "hld echoed something else");
    return 0;
}

int hl_client_info(struct hl_client *client, struct hl_info *info, struct hl_client_error *err)
{
    Hl__V1__InfoRequest request = HL__V1__INFO_REQUEST__INIT;
    const Hl__V1__InfoResponse *response;
    ProtobufCMessage *message;
    int r;

    r = request_begin(client, err);
    if (r < 0)
        return r;
    r = request_simple(client, SERVICE_DAEMON, "Info", &request.base,
                       &hl__v1__info_response__descriptor, &message, err);
    if (r < 0)
        return r;
    response = (const Hl__V1__InfoResponse *)message;
    *info = (struct hl_info){
        .version = response->version,
        .backend = response->backend,
        .abi_version = response->abi_version,
        .shards = response->shards,
        .uid = response->uid,
        .uptime_ns = response->uptime_ns,
        .max_message = response->max_message,
        .nconfinement = response->n_confinement,
        .confinement = (const char *const *)response->confinement,
        .draining = response->draining != 0,
    };
    limits_copy(&info->defaults, response->defaults);
    limits_copy(&info->maxima, response->maxima);
    return 0;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct hl_counter *)a)->name, ((const struct hl_counter *)b)->name);
}

int hl_client_stats(struct hl_client *client, struct hl_stats *stats, struct hl_client_error *err)
{
    Hl__V1__StatsRequest request = HL__V1__STATS_REQUEST__INIT;
    const Hl__V1__StatsResponse *response;
    struct hl_image_stats *images;
    struct hl_counter *counters;
    ProtobufCMessage *message;
    int r;

    r = request_begin(client, err);
    if (r < 0)
        return r;
    r = request_simple(client, SERVICE_DAEMON, "Stats", &request.base,
                       &hl__v1__stats_response__descriptor, &message, err);
    if (r < 0)
        return r;
    response = (const Hl__V1__StatsResponse *)message;
    counters = arena_alloc(client->arena, (response->n_counters + 1) * sizeof(*counters));
    images = arena_alloc(client->arena, (response->n_images + 1) * sizeof(*images));
    if (!counters || !images)
        return failure_local(err, -ENOMEM, HL_STATUS_RESOURCE_EXHAUSTED, "out of memory");
    for (size_t i = 0; i < response->n_counters; i++)
        counters[i] = (struct hl_counter){response->counters[i]->key, response->counters[i]->value};
    qsort(counters, response->n_counters, sizeof(*counters), by_name);
    for (size_t i = 0; i < response->n_images; i++) {
        const Hl__V1__ImageStats *in = response->images[i];

        images[i] = (struct hl_image_stats){in->name, in->calls,   in->errors,
                                            in->warm, in->running, in->queued};
    }
    *stats = (struct hl_stats){
        .ncounters = response->n_counters,
        .nimages = response->n_images,
        .counters = counters,
        .images = images,
    };
    return 0;
}

int hl_client_measure_entry(struct hl_client *client, uint32_t rounds, const uint32_t **ns,
                            size_t *count, struct hl_client_error *err)
{
    Hl__V1__MeasureEntryRequest request = HL__V1__MEASURE_ENTRY_REQUEST__INIT;
    const Hl__V1__MeasureEntryResponse *response;
    ProtobufCMessage *message;
    int r;

    r = request_begin(client, err);
    if (r < 0)
        return r;
    request.rounds = rounds;
    r = request_simple(client, SERVICE_DAEMON, "MeasureEntry", &request.base,
                       &hl__v1__measure_entry_response__descriptor, &message, err);
    if (r < 0)
        return r;
    response = (const Hl__V1__MeasureEntryResponse *)message;
    *ns = response->ns;
    *count = response->n_ns;
    return 0;
}
