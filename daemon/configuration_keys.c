/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One table says which settings there are, where they stand in struct configuration, what range
 * they have and whether a running daemon can change them; everything else about the file is
 * generic. Ranges keep every later computation far from overflow.
 */
#include "config.h"

#include "daemon/configuration_keys.h"

#include <ctype.h>
#include <errno.h>
#include <grp.h>
#include <inttypes.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KIB    1024u
#define MIB    (1024u * 1024u)
#define GIB    (1024ull * MIB)
#define US     1000u
#define MS     1000000u
#define SECOND 1000000000ull
#define DAY    (86400 * SECOND)

#define MEMBER(member)                                                                             \
    offsetof(struct configuration, member), sizeof(((struct configuration *)NULL)->member)

const struct configuration_key configuration_keys[] = {
    {"daemon", "socket", KEY_PATH, true, MEMBER(socket), 0, 0},
    {"daemon", "socket_mode", KEY_MODE, true, MEMBER(socket_mode), 0, 0777},
    {"daemon", "socket_group", KEY_GROUP, true, MEMBER(socket_group), 0, 0},
    {"daemon", "state_dir", KEY_PATH, true, MEMBER(state_dir), 0, 0},
    {"daemon", "backend", KEY_BACKEND, true, MEMBER(backend), 0, 0},
    {"daemon", "worker_user", KEY_USER, true, MEMBER(worker_user), 0, 0},
    {"daemon", "allow_uids", KEY_UIDS, false, MEMBER(allow_uids), 0, 0},
    {"daemon", "allow_gids", KEY_GIDS, false, MEMBER(allow_gids), 0, 0},
    {"daemon", "idle_timeout", KEY_TIME, false, MEMBER(idle_timeout_ns), MS, 365 * DAY},
    {"daemon", "drain_timeout", KEY_TIME, false, MEMBER(drain_timeout_ns), 0, DAY},
    {"daemon", "max_workers", KEY_COUNT, false, MEMBER(max_workers), 1, 4096},
    {"daemon", "max_connections", KEY_COUNT, false, MEMBER(max_connections), 1, 65536},
    {"daemon", "max_images", KEY_COUNT, false, MEMBER(max_images), 1, 1000000},
    {"daemon", "max_disk", KEY_SIZE, false, MEMBER(max_disk), MIB, 1024 * 1024 * GIB},
    {"daemon", "max_snapshot_disk", KEY_SIZE, false, MEMBER(max_snapshot_disk), 0,
     1024 * 1024 * GIB},

    {"engine", "shards", KEY_COUNT, true, MEMBER(shards), 0, 1024},
    {"engine", "quantum", KEY_TIME, false, MEMBER(quantum_ns), 10 * US, SECOND},
    {"engine", "long_threads", KEY_COUNT, true, MEMBER(long_threads), 0, 64},
    {"engine", "long_nice", KEY_COUNT, true, MEMBER(long_nice), 0, 19},
    {"engine", "poll", KEY_TIME, false, MEMBER(poll_ns), 0, 10 * MS},
    {"engine", "audit_every", KEY_COUNT, false, MEMBER(audit_every), 0, 1000000000},
    {"engine", "init_deadline", KEY_TIME, false, MEMBER(init_deadline_ns), MS, 600 * SECOND},
    {"engine", "max_queue_per_client", KEY_COUNT, false, MEMBER(max_queue_per_client), 1, 65536},
    {"engine", "shells", KEY_COUNT, false, MEMBER(shells), 0, 4096},
    {"engine", "memory_budget", KEY_SIZE, false, MEMBER(memory_budget), 16 * MIB,
     1024 * 1024 * GIB},
    {"engine", "max_vms", KEY_COUNT, false, MEMBER(max_vms), 1, 65536},
    {"engine", "slow_sender", KEY_TIME, false, MEMBER(slow_sender_ns), MS, 600 * SECOND},
    {"engine", "session_idle", KEY_TIME, false, MEMBER(session_idle_ns), MS, 365 * DAY},
    {"engine", "max_sessions", KEY_COUNT, false, MEMBER(max_sessions), 0, 4096},
    {"engine", "bulk_budget", KEY_SIZE, false, MEMBER(bulk_budget), 0, 1024 * 1024 * GIB},

    {"defaults", "memory", KEY_SIZE, false, MEMBER(defaults.memory), 4 * MIB, GIB},
    {"defaults", "deadline", KEY_TIME, false, MEMBER(defaults.deadline_ns), 10 * US, DAY},
    {"defaults", "min_instances", KEY_COUNT, false, MEMBER(defaults.min_instances), 0, 4096},
    {"defaults", "max_instances", KEY_COUNT, false, MEMBER(defaults.max_instances), 1, 4096},
    {"defaults", "max_queue", KEY_COUNT, false, MEMBER(defaults.max_queue), 1, 65536},
    {"defaults", "io_size", KEY_SIZE, false, MEMBER(defaults.io_size), 4 * KIB, 64 * MIB},

    {"limits", "memory", KEY_SIZE, false, MEMBER(maxima.memory), 4 * MIB, GIB},
    {"limits", "deadline", KEY_TIME, false, MEMBER(maxima.deadline_ns), 10 * US, DAY},
    {"limits", "min_instances", KEY_COUNT, false, MEMBER(maxima.min_instances), 0, 4096},
    {"limits", "max_instances", KEY_COUNT, false, MEMBER(maxima.max_instances), 1, 4096},
    {"limits", "max_queue", KEY_COUNT, false, MEMBER(maxima.max_queue), 1, 65536},
    {"limits", "io_size", KEY_SIZE, false, MEMBER(maxima.io_size), 4 * KIB, 64 * MIB},
    {"limits", "image_size", KEY_SIZE, false, MEMBER(max_image_size), 4 * KIB, GIB},
};

const size_t configuration_key_count = sizeof(configuration_keys) / sizeof(configuration_keys[0]);

struct unit {
    const char *name;
    uint64_t factor;
};

static const struct unit size_units[] = {{"", 1}, {"K", KIB}, {"M", MIB}, {"G", GIB}, {NULL, 0}};
static const struct unit time_units[] = {{"ns", 1},     {"us", US},           {"ms", MS},
                                         {"s", SECOND}, {"min", 60 * SECOND}, {NULL, 0}};

/* Digits and nothing else up to *end: no sign, no space, no other base. */
static int parse_digits(const char *text, const char **end, uint64_t *number)
{
    uint64_t n = 0;

    if (!isdigit((unsigned char)*text))
        return -EINVAL;
    for (; isdigit((unsigned char)*text); text++) {
        if (__builtin_mul_overflow(n, 10, &n) ||
            __builtin_add_overflow(n, (uint64_t)(*text - '0'), &n))
            return -EINVAL;
    }
    *end = text;
    *number = n;
    return 0;
}

static int parse_with_unit(const char *text, const struct unit *units, uint64_t *value)
{
    const char *end;
    uint64_t n;

    if (parse_digits(text, &end, &n) < 0)
        return -EINVAL;
    while (*end == ' ')
        end++;
    for (const struct unit *u = units; u->name; u++) {
        if (strcmp(end, u->name) != 0)
            continue;
        return __builtin_mul_overflow(n, u->factor, value) ? -EINVAL : 0;
    }
    return -EINVAL;
}

int configuration_parse_size(const char *text, uint64_t *bytes)
{
    return parse_with_unit(text, size_units, bytes);
}

int configuration_parse_time(const char *text, uint64_t *ns)
{
    if (strcmp(text, "0") == 0) {
        *ns = 0;
        return 0;
    }
    return parse_with_unit(text, time_units, ns);
}

/* The largest unit that gives a whole number. */
static void format_unit(char *buf, size_t size, uint64_t value, const struct unit *units)
{
    const struct unit *best = &units[0];

    for (const struct unit *u = units; u->name && value != 0; u++) {
        if (value % u->factor == 0)
            best = u;
    }
    snprintf(buf, size, "%" PRIu64 "%s", value / best->factor, best->name);
}

static int set_number(const struct configuration_key *key, void *member, const char *value,
                      struct hl_error *err)
{
    const struct unit *units = key->type == KEY_TIME ? time_units : size_units;
    const char *form = key->type == KEY_TIME   ? "a time with its unit (ns, us, ms, s, min)"
                       : key->type == KEY_SIZE ? "a size (plain bytes, or with K, M, G)"
                                               : "a whole number";
    char least[32], most[32];
    const char *end = "";
    uint64_t n;
    int r;

    if (key->type == KEY_TIME)
        r = configuration_parse_time(value, &n);
    else if (key->type == KEY_SIZE)
        r = configuration_parse_size(value, &n);
    else
        r = parse_digits(value, &end, &n);
    if (r < 0 || *end != '\0' || n < key->min || n > key->max) {
        format_unit(least, sizeof(least), key->min, units);
        format_unit(most, sizeof(most), key->max, units);
        if (key->type == KEY_COUNT) {
            snprintf(least, sizeof(least), "%" PRIu64, key->min);
            snprintf(most, sizeof(most), "%" PRIu64, key->max);
        }
        return hl_error_set(err, -EINVAL, "%s must be %s from %s to %s, not '%s'", key->name, form,
                            least, most, value);
    }
    if (key->size == sizeof(uint32_t))
        *(uint32_t *)member = (uint32_t)n;
    else
        *(uint64_t *)member = n;
    return 0;
}

static int set_mode(const struct configuration_key *key, uint32_t *member, const char *value,
                    struct hl_error *err)
{
    uint32_t mode = 0;

    for (const char *p = value; *p; p++) {
        if (*p < '0' || *p > '7' || p - value > 4)
            return hl_error_set(err, -EINVAL, "%s must be an octal mode such as 0660, not '%s'",
                                key->name, value);
        mode = mode * 8 + (uint32_t)(*p - '0');
    }
    if (*value == '\0' || mode > key->max)
        return hl_error_set(err, -EINVAL, "%s must be an octal mode from 0 to 0777, not '%s'",
                            key->name, value);
    *member = mode;
    return 0;
}

static int set_text(const struct configuration_key *key, char *member, const char *value,
                    struct hl_error *err)
{
    if (strlen(value) >= key->size)
        return hl_error_set(err, -EINVAL, "%s is too long: at most %zu bytes", key->name,
                            key->size - 1);
    if (key->type == KEY_PATH && value[0] != '/')
        return hl_error_set(err, -EINVAL, "%s must be an absolute path, not '%s'", key->name,
                            value);
    if (key->type == KEY_BACKEND && strcmp(value, "auto") != 0 && strcmp(value, "kvm") != 0 &&
        strcmp(value, "process") != 0)
        return hl_error_set(err, -EINVAL, "%s must be auto, kvm or process, not '%s'", key->name,
                            value);
    memset(member, 0, key->size);
    memcpy(member, value, strlen(value));
    return 0;
}

/* One who must exist: what names nobody would fail only when hld is started again. */
static int set_account(const struct configuration_key *key, char *member, const char *value,
                       struct hl_error *err)
{
    const char *what = key->type == KEY_USER ? "user" : "group";
    const struct passwd *user = key->type == KEY_USER ? getpwnam(value) : NULL;

    if (!user && (key->type == KEY_USER || !getgrnam(value)))
        return hl_error_set(err, -EINVAL, "%s: no %s '%s'; a name is accepted", key->name, what,
                            value);
    if (user && user->pw_uid == 0)
        return hl_error_set(err, -EINVAL, "%s: workers cannot run as root", key->name);
    return set_text(key, member, value, err);
}

static int parse_id(enum key_type type, const char *word, uint32_t *id)
{
    const struct passwd *pw;
    const struct group *gr;
    const char *end;
    uint64_t n;

    if (parse_digits(word, &end, &n) == 0 && *end == '\0') {
        if (n >= UINT32_MAX)
            return -EINVAL;
        *id = (uint32_t)n;
        return 0;
    }
    if (type == KEY_UIDS) {
        pw = getpwnam(word);
        if (pw)
            *id = pw->pw_uid;
        return pw ? 0 : -ENOENT;
    }
    gr = getgrnam(word);
    if (gr)
        *id = gr->gr_gid;
    return gr ? 0 : -ENOENT;
}

static int set_ids(const struct configuration_key *key, struct configuration_ids *member,
                   const char *value, struct hl_error *err)
{
    const char *what = key->type == KEY_UIDS ? "user" : "group";
    struct configuration_ids ids = {0};
    char copy[1024];
    char *save = NULL;

    if (strlen(value) >= sizeof(copy))
        return hl_error_set(err, -EINVAL, "%s is too long", key->name);
    memcpy(copy, value, strlen(value) + 1);
    for (char *word = strtok_r(copy, " ,\t", &save); word; word = strtok_r(NULL, " ,\t", &save)) {
        if (ids.count == CONFIGURATION_IDS_MAX)
            return hl_error_set(err, -EINVAL, "%s holds at most %u %ss", key->name,
                                CONFIGURATION_IDS_MAX, what);
        if (parse_id(key->type, word, &ids.id[ids.count]) < 0)
            return hl_error_set(err, -EINVAL, "%s: no %s '%s'; numbers and names are accepted",
                                key->name, what, word);
        ids.count++;
    }
    if (ids.count == 0)
        return hl_error_set(err, -EINVAL, "%s must name at least one %s", key->name, what);
    *member = ids;
    return 0;
}

int configuration_key_set(const struct configuration_key *key, struct configuration *config,
                          const char *value, struct hl_error *err)
{
    void *member = (char *)config + key->offset;

    switch (key->type) {
    case KEY_SIZE:
    case KEY_TIME:
    case KEY_COUNT:
        return set_number(key, member, value, err);
    case KEY_MODE:
        return set_mode(key, member, value, err);
    case KEY_PATH:
    case KEY_BACKEND:
        return set_text(key, member, value, err);
    case KEY_USER:
    case KEY_GROUP:
        return set_account(key, member, value, err);
    case KEY_UIDS:
    case KEY_GIDS:
        return set_ids(key, member, value, err);
    }
    return -EINVAL;
}
