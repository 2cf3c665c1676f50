/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_DAEMON_CONFIGURATION_KEYS_H
#define HL_DAEMON_CONFIGURATION_KEYS_H

/* The table of settings and the parsing of one value: inside of configuration.h. */

#include <stddef.h>
#include <stdint.h>

#include "daemon/configuration.h"

enum key_type {
    KEY_SIZE,
    KEY_TIME,
    KEY_COUNT,
    KEY_MODE,
    KEY_PATH,
    KEY_USER,
    KEY_GROUP,
    KEY_BACKEND,
    KEY_UIDS,
    KEY_GIDS,
};

struct configuration_key {
    const char *section;
    const char *name;
    enum key_type type;
    bool restart; /* a running daemon keeps the old value */
    size_t offset;
    size_t size; /* of the member */
    uint64_t min, max;
};

extern const struct configuration_key configuration_keys[];
extern const size_t configuration_key_count;

/* Parses value into config. Returns: 0, or -EINVAL with err saying what is accepted. */
int configuration_key_set(const struct configuration_key *key, struct configuration *config,
                          const char *value, struct hl_error *err);

#endif
