/* SPDX-License-Identifier: Apache-2.0 */
/* What workers get of the configuration, as the control channel's messages. */
#include "config.h"

#include "daemon/front_internal.h"

static void fill_limits(Hl__Control__LimitSet *out, const struct configuration_limits *limits)
{
    hl__control__limit_set__init(out);
    out->memory = limits->memory;
    out->deadline_ns = limits->deadline_ns;
    out->min_instances = limits->min_instances;
    out->max_instances = limits->max_instances;
    out->max_queue = limits->max_queue;
    out->io_size = limits->io_size;
}

void settings_fill(struct settings_message *message, const struct front *front)
{
    const struct configuration *config = &front->config;
    Hl__Control__Settings *s = &message->settings;

    hl__control__settings__init(s);
    s->backend = (char *)front->options->backend;
    s->shards = config->shards;
    s->quantum_ns = config->quantum_ns;
    s->long_threads = config->long_threads;
    s->long_nice = config->long_nice;
    s->poll_ns = config->poll_ns;
    s->audit_every = config->audit_every;
    s->init_deadline_ns = config->init_deadline_ns;
    s->max_connections = config->max_connections;
    s->max_queue_per_client = config->max_queue_per_client;
    s->shells = config->shells;
    s->max_image_size = config->max_image_size;
    s->memory_budget = config->memory_budget;
    s->max_vms = config->max_vms;
    fill_limits(&message->defaults, &config->defaults);
    fill_limits(&message->maxima, &config->maxima);
    s->defaults = &message->defaults;
    s->maxima = &message->maxima;
    s->max_deadline_ns = config->maxima.deadline_ns;
    s->slow_sender_ns = config->slow_sender_ns;
    s->session_idle_ns = config->session_idle_ns;
    s->max_sessions = config->max_sessions;
    s->bulk_budget = config->bulk_budget;
}

static uint64_t in_force(uint64_t asked, uint64_t standard, uint64_t most)
{
    uint64_t chosen = asked ? asked : standard;

    return chosen < most ? chosen : most;
}

void settings_fill_limits_in_force(Hl__Control__LimitSet *out,
                                   const struct configuration_limits *asked,
                                   const struct configuration *config)
{
    const struct configuration_limits *d = &config->defaults, *m = &config->maxima;

    hl__control__limit_set__init(out);
    out->memory = in_force(asked->memory, d->memory, m->memory);
    out->deadline_ns = in_force(asked->deadline_ns, d->deadline_ns, m->deadline_ns);
    out->max_instances =
        (uint32_t)in_force(asked->max_instances, d->max_instances, m->max_instances);
    out->min_instances =
        (uint32_t)in_force(asked->min_instances, d->min_instances, m->min_instances);
    if (out->min_instances > out->max_instances)
        out->min_instances = out->max_instances;
    out->max_queue = (uint32_t)in_force(asked->max_queue, d->max_queue, m->max_queue);
    out->io_size = in_force(asked->io_size, d->io_size, m->io_size);
}
