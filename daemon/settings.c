/* SPDX-License-Identifier: Apache-2.0 */
/* Settings and limits between the messages and the engine, and the one place where asked-for limits
 * become limits in force. */
#include "config.h"

#include "daemon/settings.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "guest/hl_abi.h"

#define MILLISECOND 1000000ull
#define SECOND      1000000000ull
#define MEBIBYTE    (1ull << 20)

void limits_from_control(struct limits *out, const Hl__Control__LimitSet *in)
{
    memset(out, 0, sizeof(*out));
    if (!in)
        return;
    out->memory = in->memory;
    out->deadline_ns = in->deadline_ns;
    out->io_size = in->io_size;
    out->min_instances = in->min_instances;
    out->max_instances = in->max_instances;
    out->max_queue = in->max_queue;
}

void limits_to_control(Hl__Control__LimitSet *out, const struct limits *in)
{
    hl__control__limit_set__init(out);
    out->memory = in->memory;
    out->deadline_ns = in->deadline_ns;
    out->io_size = in->io_size;
    out->min_instances = in->min_instances;
    out->max_instances = in->max_instances;
    out->max_queue = in->max_queue;
}

void limits_from_message(struct limits *out, const Hl__V1__Limits *in)
{
    memset(out, 0, sizeof(*out));
    if (!in)
        return;
    out->memory = in->memory;
    out->deadline_ns = in->deadline_ns;
    out->io_size = in->io_size;
    out->min_instances = in->min_instances;
    out->max_instances = in->max_instances;
    out->max_queue = in->max_queue;
}

void limits_to_message(Hl__V1__Limits *out, const struct limits *in)
{
    hl__v1__limits__init(out);
    out->memory = in->memory;
    out->deadline_ns = in->deadline_ns;
    out->io_size = in->io_size;
    out->min_instances = in->min_instances;
    out->max_instances = in->max_instances;
    out->max_queue = in->max_queue;
}

static void set_default(uint64_t *value, uint64_t fallback)
{
    if (*value == 0)
        *value = fallback;
}

static void set_default32(uint32_t *value, uint32_t fallback)
{
    if (*value == 0)
        *value = fallback;
}

static void fill_limits(struct limits *limits, const struct limits *fallback)
{
    set_default(&limits->memory, fallback->memory);
    set_default(&limits->deadline_ns, fallback->deadline_ns);
    set_default(&limits->io_size, fallback->io_size);
    set_default32(&limits->min_instances, fallback->min_instances);
    set_default32(&limits->max_instances, fallback->max_instances);
    set_default32(&limits->max_queue, fallback->max_queue);
}

int settings_from_control(struct settings *out, const Hl__Control__Settings *in,
                          struct hl_error *err)
{
    static const struct limits defaults = {64 * MEBIBYTE, 10 * SECOND, HL_ABI_IO_SIZE, 0, 8, 128};
    static const struct limits maxima = {
        1024 * MEBIBYTE, 300 * SECOND, HL_ABI_IO_SIZE_MAX, 64, 1024, 65536};

    memset(out, 0, sizeof(*out));
    if (!in)
        return hl_error_set(err, -EPROTO, "no settings");
    if (strlen(in->backend) >= sizeof(out->backend))
        return hl_error_set(err, -EPROTO, "backend name too long");
    memcpy(out->backend, in->backend, strlen(in->backend) + 1);
    out->shards = in->shards > SHARDS_MAX ? SHARDS_MAX : in->shards;
    out->quantum_ns = in->quantum_ns;
    out->long_threads = in->long_threads > LONG_THREADS_MAX ? LONG_THREADS_MAX : in->long_threads;
    out->long_nice = in->long_nice < 19 ? in->long_nice : 19;
    out->poll_ns = in->poll_ns < SECOND ? in->poll_ns : SECOND;
    out->audit_every = in->audit_every;
    out->init_deadline_ns = in->init_deadline_ns;
    out->max_connections = in->max_connections;
    out->max_queue_per_client = in->max_queue_per_client;
    out->shells = in->shells;
    out->max_image_size = in->max_image_size;
    out->memory_budget = in->memory_budget;
    out->max_vms = in->max_vms;
    out->max_deadline_ns = in->max_deadline_ns;
    out->slow_sender_ns = in->slow_sender_ns;
    out->session_idle_ns = in->session_idle_ns;
    out->max_sessions = in->max_sessions;
    out->bulk_budget = in->bulk_budget;
    limits_from_control(&out->defaults, in->defaults);
    limits_from_control(&out->maxima, in->maxima);
    set_default(&out->quantum_ns, MILLISECOND);
    set_default(&out->init_deadline_ns, 10 * SECOND);
    set_default32(&out->max_connections, 256);
    set_default32(&out->max_queue_per_client, 128);
    set_default(&out->max_image_size, 64 * MEBIBYTE);
    set_default(&out->memory_budget, 4096 * MEBIBYTE);
    set_default(&out->max_vms, 64);
    set_default(&out->max_deadline_ns, 300 * SECOND);
    set_default(&out->slow_sender_ns, 10 * SECOND);
    set_default(&out->session_idle_ns, 300 * SECOND);
    fill_limits(&out->defaults, &defaults);
    fill_limits(&out->maxima, &maxima);
    if (in->maxima) /* none kept warm is a limit too */
        out->maxima.min_instances = in->maxima->min_instances;
    return 0;
}

static int check_limit(const char *name, uint64_t value, uint64_t max, struct hl_error *err)
{
    if (value > max)
        return hl_error_set(err, -EINVAL,
                            "limit %s: %" PRIu64 " is over this daemon's maximum of %" PRIu64, name,
                            value, max);
    return 0;
}

static uint64_t page_round(uint64_t value)
{
    const uint64_t mask = HL_ABI_PAGE_SIZE - 1;

    return value > UINT64_MAX - mask ? value : (value + mask) & ~mask;
}

int limits_resolve(struct limits *out, const struct limits *asked, const struct settings *settings,
                   struct hl_error *err)
{
    const struct limits *max = &settings->maxima;
    int r;

    *out = *asked;
    fill_limits(out, &settings->defaults);
    out->memory = page_round(out->memory);
    out->io_size = page_round(out->io_size);
    if (asked->min_instances == 0 && out->min_instances > out->max_instances)
        out->min_instances = out->max_instances;
    if ((r = check_limit("memory", out->memory, max->memory, err)) < 0 ||
        (r = check_limit("deadline_ns", out->deadline_ns, max->deadline_ns, err)) < 0 ||
        (r = check_limit("io_size", out->io_size, max->io_size, err)) < 0 ||
        (r = check_limit("min_instances", out->min_instances, max->min_instances, err)) < 0 ||
        (r = check_limit("max_instances", out->max_instances, max->max_instances, err)) < 0 ||
        (r = check_limit("max_queue", out->max_queue, max->max_queue, err)) < 0)
        return r;
    if (out->min_instances > out->max_instances)
        return hl_error_set(err, -EINVAL, "limit min_instances: %u is over max_instances, %u",
                            out->min_instances, out->max_instances);
    return 0;
}
