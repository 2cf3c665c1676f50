/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_DAEMON_REGISTRY_MANIFEST_H
#define HL_DAEMON_REGISTRY_MANIFEST_H

/*
 * A registered image as its manifest file tells it. The first line is "hld-manifest ", a version
 * and the SHA-256 of all that follows; the rest is JSON. So a damaged file is told from a newer
 * version's without understanding either. An image without a policy of host functions is written as
 * version 1, one with a policy as version 2: what an older hld does not understand it keeps and
 * does not call, and what it can understand it goes on calling.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/value.h"
#include "daemon/configuration.h"

#define REGISTRY_SHA256_SIZE   32u
#define REGISTRY_HEX_SIZE      (2 * REGISTRY_SHA256_SIZE + 1)
#define REGISTRY_MANIFEST_MAX  16384u
#define REGISTRY_MANIFEST_KIND "hld-manifest "

/* What an image that was made from a session's state has besides its program, files like it. */
enum manifest_part {
    PART_ROOT,  /* the snapshot that the state lies over */
    PART_STATE, /* the pages that differ from it */
    MANIFEST_PARTS,
};

struct manifest_file {
    uint8_t sha256[REGISTRY_SHA256_SIZE];
    uint64_t size;
};

struct manifest {
    char name[HL_NAME_MAX + 1];
    uint8_t sha256[REGISTRY_SHA256_SIZE];
    uint64_t size;
    uint32_t owner;
    bool is_private;
    uint64_t registered_ns;             /* CLOCK_REALTIME */
    struct configuration_limits limits; /* as asked for: 0 is the default of the day */
    struct hl_host_policy *host;        /* NULL: an empty one; whose it is, its holder says */
    bool has_state;
    struct manifest_file parts[MANIFEST_PARTS];
    char parent[HL_NAME_MAX + 1]; /* the name its session was opened by */
};

/* *text: NUL-terminated, the caller's to free. Returns: 0, -ERANGE for a number JSON here cannot
 * hold, -ENOMEM. */
int manifest_encode(const struct manifest *manifest, char **text, size_t *len);

/* name: the file's, which the content must repeat. host is the caller's to free. Returns: 0;
 * -EBADMSG for a damaged manifest, -EOPNOTSUPP for a newer version's, each with err saying which;
 * -ENOMEM. */
int manifest_decode(struct manifest *manifest, const char *name, const char *text, size_t len,
                    struct hl_error *err);

void registry_hex(char hex[REGISTRY_HEX_SIZE], const uint8_t sha256[REGISTRY_SHA256_SIZE]);

/* Returns: 0, or -EINVAL when hex is not 64 lower-case digits. */
int registry_unhex(uint8_t sha256[REGISTRY_SHA256_SIZE], const char *hex);

#endif
