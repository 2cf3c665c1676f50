/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HLMANAGE_H
#define HLMANAGE_H

/* libhlclient, second part: registering images and asking the daemon about itself. The rules are
 * those of hlclient.h. */

#include "hlclient.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- images ---- */

struct hl_limits { /* 0 asks for the daemon's default */
    uint64_t memory, deadline_ns, io_size;
    uint32_t min_instances, max_instances, max_queue;
};

struct hl_registration {
    const char *name;
    struct hl_limits limits;
    bool is_private;                   /* callable by the owner's uid alone */
    const uint8_t *sha256;             /* 32 bytes that the program must match, or NULL */
    const struct hl_host_policy *host; /* what its guest may call outward; NULL: nothing */
};

struct hl_function {
    const char *name;
    struct hl_signature sig;
};

struct hl_image {
    const char *name;
    uint8_t sha256[32];
    uint64_t size, registered_unix_ns, snapshot_bytes, start_ns;
    uint32_t owner_uid;
    bool is_private;
    struct hl_limits limits; /* in force */
    size_t nfunctions;       /* 0 in a list */
    const struct hl_function *functions;
    const struct hl_host_policy *host; /* in force; NULL in a list */
    size_t nlog;                       /* inspect alone: the image's latest log lines */
    const char *const *log;
    const char *parent; /* the name that its session was opened by; "" for others */
    uint64_t state_bytes, root_bytes;
};

struct hl_image_list {
    size_t count;
    const struct hl_image *images;
    bool more; /* ask again, after the last name */
};

/* Sends the program and registers it. image (unless NULL): what it became. */
HL_PUBLIC int hl_client_register(struct hl_client *client, const struct hl_registration *reg,
                                 const void *program, size_t size, const struct hl_image **image,
                                 struct hl_client_error *err);
/* Reads the program from fd, to its end. */
HL_PUBLIC int hl_client_register_fd(struct hl_client *client, const struct hl_registration *reg,
                                    int fd, const struct hl_image **image,
                                    struct hl_client_error *err);
HL_PUBLIC int hl_client_unregister(struct hl_client *client, const char *name,
                                   struct hl_client_error *err);
/* A page, by name, after the name given (NULL: from the first); limit 0: as many as fit. */
HL_PUBLIC int hl_client_list(struct hl_client *client, const char *after, uint32_t limit,
                             struct hl_image_list *list, struct hl_client_error *err);
HL_PUBLIC int hl_client_inspect(struct hl_client *client, const char *name,
                                const struct hl_image **image, struct hl_client_error *err);

/* ---- the daemon ---- */

struct hl_info {
    const char *version, *backend;
    uint32_t abi_version, shards, uid;
    uint64_t uptime_ns, max_message;
    struct hl_limits defaults, maxima;
    size_t nconfinement;
    const char *const *confinement;
    bool draining;
};

struct hl_counter {
    const char *name;
    uint64_t value;
};

struct hl_image_stats {
    const char *name;
    uint64_t calls, errors, warm, running, queued;
};

struct hl_stats {
    size_t ncounters, nimages;
    const struct hl_counter *counters; /* sorted by name */
    const struct hl_image_stats *images;
};

/* Sends the payload and checks that it comes back, without any VM. */
HL_PUBLIC int hl_client_ping(struct hl_client *client, const void *payload, size_t len,
                             struct hl_client_error *err);
HL_PUBLIC int hl_client_info(struct hl_client *client, struct hl_info *info,
                             struct hl_client_error *err);
HL_PUBLIC int hl_client_stats(struct hl_client *client, struct hl_stats *stats,
                              struct hl_client_error *err);
/* Times bare entries and exits of the hypervisor: *ns, *count of them. */
HL_PUBLIC int hl_client_measure_entry(struct hl_client *client, uint32_t rounds,
                                      const uint32_t **ns, size_t *count,
                                      struct hl_client_error *err);

#ifdef __cplusplus
}
#endif

#endif
