/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_DAEMON_SETTINGS_H
#define HL_DAEMON_SETTINGS_H

/*
 * What the front tells a worker to hold to, checked and in host types. Every thread has a copy of
 * its own; a reload hands out new ones.
 */

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "daemon/control.pb-c.h"
#include "proto/hl.pb-c.h"

#define SHARDS_MAX       64u
#define LONG_THREADS_MAX 64u

struct limits {
    uint64_t memory, deadline_ns, io_size;
    uint32_t min_instances, max_instances, max_queue;
};

struct settings {
    char backend[16];
    uint32_t shards;
    uint64_t quantum_ns;
    uint32_t long_threads; /* 0: one a CPU */
    uint32_t long_nice;
    uint64_t poll_ns; /* 0: never */
    uint32_t audit_every;
    uint64_t init_deadline_ns;
    uint32_t max_connections;
    uint32_t max_queue_per_client;
    uint32_t shells;
    uint64_t max_image_size;
    uint64_t memory_budget;
    uint64_t max_vms;
    struct limits defaults, maxima;
    uint64_t max_deadline_ns;
    uint64_t slow_sender_ns;
    uint64_t session_idle_ns;
    uint32_t max_sessions;
    uint64_t bulk_budget;
};

/* A value that is 0 where that has no meaning becomes a sane one: the front fills in its
 * configuration, this is not the place for policy. Returns: 0, or -EPROTO for what cannot be. */
int settings_from_control(struct settings *out, const Hl__Control__Settings *in,
                          struct hl_error *err);

void limits_from_control(struct limits *out, const Hl__Control__LimitSet *in);
void limits_to_control(Hl__Control__LimitSet *out, const struct limits *in);
void limits_from_message(struct limits *out, const Hl__V1__Limits *in);
void limits_to_message(Hl__V1__Limits *out, const struct limits *in);

/* Fills asked's zeros with the defaults. Returns: 0, or -EINVAL naming the limit that is past its
 * maximum or makes no sense. */
int limits_resolve(struct limits *out, const struct limits *asked, const struct settings *settings,
                   struct hl_error *err);

#endif
