/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Manifests to text and back. A manifest whose checksum holds was written by this code, yet every
 * field is checked again: whoever can write the file can also write a checksum, and the numbers go
 * into messages and arithmetic.
 */
#include "config.h"

#include "daemon/registry_manifest.h"

#include <errno.h>
#include <jansson.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/host_policy.h"

/* What an older hld would misread has another number: it keeps such images as they are. */
#define VERSION_PLAIN '1'
#define VERSION_MORE  '2' /* with a policy of host functions, or a state */

static void json_drop(json_t **json)
{
    json_decref(*json);
}

#define _cleanup_json_ _cleanup_(json_drop)

void registry_hex(char hex[REGISTRY_HEX_SIZE], const uint8_t sha256[REGISTRY_SHA256_SIZE])
{
    sodium_bin2hex(hex, REGISTRY_HEX_SIZE, sha256, REGISTRY_SHA256_SIZE);
}

int registry_unhex(uint8_t sha256[REGISTRY_SHA256_SIZE], const char *hex)
{
    char again[REGISTRY_HEX_SIZE];
    size_t len;

    if (strlen(hex) != REGISTRY_HEX_SIZE - 1)
        return -EINVAL;
    if (sodium_hex2bin(sha256, REGISTRY_SHA256_SIZE, hex, strlen(hex), NULL, &len, NULL) != 0 ||
        len != REGISTRY_SHA256_SIZE)
        return -EINVAL;
    registry_hex(again, sha256);
    return strcmp(again, hex) == 0 ? 0 : -EINVAL;
}

static void digest(char hex[REGISTRY_HEX_SIZE], const char *text, size_t len)
{
    uint8_t sha256[REGISTRY_SHA256_SIZE];

    crypto_hash_sha256(sha256, (const unsigned char *)text, len);
    registry_hex(hex, sha256);
}

static json_t *encode_host(const struct hl_host_policy *host)
{
    json_t *allow = json_array();

    for (unsigned int i = 0; i < host->nfunctions; i++) {
        char text[512];

        hl_host_function_format(text, sizeof(text), &host->functions[i]);
        json_array_append_new(allow, json_string(text));
    }
    return json_pack("{s:o, s:I, s:I, s:I, s:I, s:b}", "allow", allow, "max_calls",
                     (json_int_t)host->max_calls, "rate", (json_int_t)host->rate, "depth",
                     (json_int_t)host->depth, "kv_size", (json_int_t)host->kv_size, "deterministic",
                     (int)host->deterministic);
}

/* Returns: 0 or -ENOMEM. */
static int add_state(json_t *json, const struct manifest *m)
{
    char root[REGISTRY_HEX_SIZE], state[REGISTRY_HEX_SIZE];

    registry_hex(root, m->parts[PART_ROOT].sha256);
    registry_hex(state, m->parts[PART_STATE].sha256);
    return json_object_set_new(json, "state",
                               json_pack("{s:s, s:s, s:I, s:s, s:I}", "parent", m->parent, "root",
                                         root, "root_size", (json_int_t)m->parts[PART_ROOT].size,
                                         "pages", state, "pages_size",
                                         (json_int_t)m->parts[PART_STATE].size)) < 0
               ? -ENOMEM
               : 0;
}

int manifest_encode(const struct manifest *m, char **text, size_t *len)
{
    const struct configuration_limits *l = &m->limits;
    bool has_host = m->host && !host_policy_empty(m->host);
    _cleanup_json_ json_t *json = NULL;
    _cleanup_free_ char *body = NULL;
    char hex[REGISTRY_HEX_SIZE], check[REGISTRY_HEX_SIZE];
    int n;

    if (m->parts[PART_ROOT].size > INT64_MAX || m->parts[PART_STATE].size > INT64_MAX ||
        m->size > INT64_MAX || m->registered_ns > INT64_MAX || l->memory > INT64_MAX ||
        l->deadline_ns > INT64_MAX || l->io_size > INT64_MAX)
        return -ERANGE;
    registry_hex(hex, m->sha256);
    json = json_pack("{s:s, s:s, s:I, s:I, s:b, s:I, s:{s:I, s:I, s:I, s:I, s:I, s:I}}", "name",
                     m->name, "sha256", hex, "size", (json_int_t)m->size, "owner",
                     (json_int_t)m->owner, "private", (int)m->is_private, "registered_unix_ns",
                     (json_int_t)m->registered_ns, "limits", "memory", (json_int_t)l->memory,
                     "deadline_ns", (json_int_t)l->deadline_ns, "min_instances",
                     (json_int_t)l->min_instances, "max_instances", (json_int_t)l->max_instances,
                     "max_queue", (json_int_t)l->max_queue, "io_size", (json_int_t)l->io_size);
    if (!json || (has_host && json_object_set_new(json, "host", encode_host(m->host)) < 0) ||
        (m->has_state && add_state(json, m) < 0))
        return -ENOMEM;
    body = json_dumps(json, JSON_INDENT(2));
    if (!body)
        return -ENOMEM;
    digest(check, body, strlen(body));
    n = asprintf(text, REGISTRY_MANIFEST_KIND "%c %s\n%s",
                 has_host || m->has_state ? VERSION_MORE : VERSION_PLAIN, check, body);
    if (n < 0)
        return -ENOMEM;
    *len = (size_t)n;
    return 0;
}

struct numbers {
    json_int_t size, owner, registered;
    json_int_t memory, deadline, min_instances, max_instances, max_queue, io_size;
};

struct state_fields {
    const char *parent, *root, *pages;
    json_int_t root_size, pages_size;
};

static int take_state(struct manifest *m, const struct state_fields *state, struct hl_error *err)
{
    if (!state->parent)
        return 0;
    if (!hl_name_valid(state->parent, strlen(state->parent)))
        return hl_error_set(err, -EBADMSG, "its parent has no image's name");
    if (registry_unhex(m->parts[PART_ROOT].sha256, state->root) < 0 ||
        registry_unhex(m->parts[PART_STATE].sha256, state->pages) < 0)
        return hl_error_set(err, -EBADMSG, "a part of its state has no digest");
    if (state->root_size <= 0 || state->pages_size <= 0)
        return hl_error_set(err, -EBADMSG, "a part of its state has no size");
    m->has_state = true;
    memcpy(m->parent, state->parent, strlen(state->parent) + 1);
    m->parts[PART_ROOT].size = (uint64_t)state->root_size;
    m->parts[PART_STATE].size = (uint64_t)state->pages_size;
    return 0;
}

static bool fits_u32(json_int_t n)
{
    return n >= 0 && n <= (json_int_t)UINT32_MAX;
}

static int take_functions(struct hl_host_policy *host, json_t *allow, struct hl_error *err)
{
    size_t count = json_array_size(allow);
    char why[128];

    if (!json_is_array(allow) || count > HL_HOST_FUNCTIONS_MAX)
        return hl_error_set(err, -EBADMSG, "its host functions are no list, or too many");
    for (size_t i = 0; i < count; i++) {
        const char *text = json_string_value(json_array_get(allow, i));

        if (!text || hl_host_function_parse(&host->functions[i], text, why, sizeof(why)) < 0)
            return hl_error_set(err, -EBADMSG, "host function %zu: %s", i, text ? why : "no text");
    }
    host->nfunctions = (unsigned int)count;
    return 0;
}

static int take_host(struct manifest *m, json_t *json, struct hl_error *err)
{
    _cleanup_free_ struct hl_host_policy *host = calloc(1, sizeof(*host));
    json_int_t max_calls, rate, depth, kv_size;
    json_error_t why;
    json_t *allow;
    int deterministic, r;

    if (!host)
        return -ENOMEM;
    if (json_unpack_ex(json, &why, JSON_STRICT, "{s:o, s:I, s:I, s:I, s:I, s:b}", "allow", &allow,
                       "max_calls", &max_calls, "rate", &rate, "depth", &depth, "kv_size", &kv_size,
                       "deterministic", &deterministic) < 0)
        return hl_error_set(err, -EBADMSG, "%s", why.text);
    if (!fits_u32(max_calls) || !fits_u32(rate) || !fits_u32(depth) || kv_size < 0)
        return hl_error_set(err, -EBADMSG, "a number is out of range");
    host->max_calls = (uint32_t)max_calls;
    host->rate = (uint32_t)rate;
    host->depth = (uint32_t)depth;
    host->kv_size = (uint64_t)kv_size;
    host->deterministic = deterministic;
    r = take_functions(host, allow, err);
    if (r == 0 && host_policy_check(host, err) < 0)
        r = -EBADMSG;
    if (r == 0)
        m->host = HL_STEAL(host);
    return r;
}

static int take_fields(struct manifest *m, const char *name, json_t *json, bool more,
                       struct hl_error *err)
{
    json_t *host = NULL;
    const char *inner_name, *hex;
    struct state_fields state = {0};
    struct numbers n;
    json_error_t why;
    int is_private, r;

    if (json_unpack_ex(json, &why, JSON_STRICT,
                       "{s:s, s:s, s:I, s:I, s:b, s:I, s:{s:I, s:I, s:I, s:I, s:I, s:I}, s?o, "
                       "s?{s:s, s:s, s:I, s:s, s:I}}",
                       "name", &inner_name, "sha256", &hex, "size", &n.size, "owner", &n.owner,
                       "private", &is_private, "registered_unix_ns", &n.registered, "limits",
                       "memory", &n.memory, "deadline_ns", &n.deadline, "min_instances",
                       &n.min_instances, "max_instances", &n.max_instances, "max_queue",
                       &n.max_queue, "io_size", &n.io_size, "host", &host, "state", "parent",
                       &state.parent, "root", &state.root, "root_size", &state.root_size, "pages",
                       &state.pages, "pages_size", &state.pages_size) < 0)
        return hl_error_set(err, -EBADMSG, "%s", why.text);
    if (more != (host || state.parent))
        return hl_error_set(err, -EBADMSG, "its version and its content do not fit");
    if (strcmp(inner_name, name) != 0 || !hl_name_valid(name, strlen(name)))
        return hl_error_set(err, -EBADMSG, "it names another image");
    if (registry_unhex(m->sha256, hex) < 0)
        return hl_error_set(err, -EBADMSG, "sha256 is no digest");
    if (n.size <= 0 || !fits_u32(n.owner) || n.registered < 0 || n.memory < 0 || n.deadline < 0 ||
        n.io_size < 0 || !fits_u32(n.min_instances) || !fits_u32(n.max_instances) ||
        !fits_u32(n.max_queue))
        return hl_error_set(err, -EBADMSG, "a number is out of range");
    memcpy(m->name, name, strlen(name) + 1);
    m->size = (uint64_t)n.size;
    m->owner = (uint32_t)n.owner;
    m->is_private = is_private;
    m->registered_ns = (uint64_t)n.registered;
    m->limits.memory = (uint64_t)n.memory;
    m->limits.deadline_ns = (uint64_t)n.deadline;
    m->limits.min_instances = (uint32_t)n.min_instances;
    m->limits.max_instances = (uint32_t)n.max_instances;
    m->limits.max_queue = (uint32_t)n.max_queue;
    m->limits.io_size = (uint64_t)n.io_size;
    r = take_state(m, &state, err);
    return r == 0 && host ? take_host(m, host, err) : r;
}

int manifest_decode(struct manifest *m, const char *name, const char *text, size_t len,
                    struct hl_error *err)
{
    static const char kind[] = REGISTRY_MANIFEST_KIND;
    _cleanup_json_ json_t *json = NULL;
    char check[REGISTRY_HEX_SIZE];
    const char *p = text;
    json_error_t why;
    bool more;

    memset(m, 0, sizeof(*m));
    if (len < sizeof(kind) - 1 || memcmp(p, kind, sizeof(kind) - 1) != 0)
        return hl_error_set(err, -EBADMSG, "it does not begin with '%s'", kind);
    p += sizeof(kind) - 1;
    len -= sizeof(kind) - 1;
    if (len < 2)
        return hl_error_set(err, -EBADMSG, "it is cut short");
    more = p[0] == VERSION_MORE;
    if ((p[0] != VERSION_PLAIN && !more) || p[1] != ' ') {
        if (*p < '0' || *p > '9')
            return hl_error_set(err, -EBADMSG, "its version is no number");
        return hl_error_set(err, -EOPNOTSUPP, "a newer hld wrote it");
    }
    p += 2;
    len -= 2;
    if (len < REGISTRY_HEX_SIZE || p[REGISTRY_HEX_SIZE - 1] != '\n')
        return hl_error_set(err, -EBADMSG, "it is cut short");
    digest(check, p + REGISTRY_HEX_SIZE, len - REGISTRY_HEX_SIZE);
    if (memcmp(check, p, REGISTRY_HEX_SIZE - 1) != 0)
        return hl_error_set(err, -EBADMSG, "its checksum does not match");
    json = json_loadb(p + REGISTRY_HEX_SIZE, len - REGISTRY_HEX_SIZE, JSON_REJECT_DUPLICATES, &why);
    if (!json)
        return hl_error_set(err, -EBADMSG, "%s", why.text);
    return take_fields(m, name, json, more, err);
}
