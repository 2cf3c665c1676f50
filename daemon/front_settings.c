/* SPDX-License-Identifier: Apache-2.0 */
/* The part of the configuration that workers get, as the control channel's message. */
#include "config.h"

#include "daemon/front_internal.h"

void settings_fill_limits(Hl__Control__LimitSet *out, const struct configuration_limits *limits)
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
    s->audit_every = config->audit_every;
    s->init_deadline_ns = config->init_deadline_ns;
    s->max_connections = config->max_connections;
    s->max_queue_per_client = config->max_queue_per_client;
    s->shells = config->shells;
    s->max_image_size = config->max_image_size;
    s->memory_budget = config->memory_budget;
    s->max_vms = config->max_vms;
    settings_fill_limits(&message->defaults, &config->defaults);
    settings_fill_limits(&message->maxima, &config->maxima);
    s->defaults = &message->defaults;
    s->maxima = &message->maxima;
    s->max_deadline_ns = config->maxima.deadline_ns;
    s->slow_sender_ns = config->slow_sender_ns;
}
