/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Policies of host functions. The same text names a function on the command line and in a manifest,
 * and every process that a policy passes through checks it again. Names with the prefix "hl." are
 * kept for hld: they have one signature and one provider each.
 */
#include "base/host_policy.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/value.h"

#define BUILTIN(function_name, returns, count, ...)                                                \
    {                                                                                              \
        .name = HOST_BUILTIN_PREFIX function_name,                                                 \
        .sig = {.ret = HL_TYPE_##returns, .nparams = (count), .params = {__VA_ARGS__}},            \
        .provider = HL_PROVIDER_BUILTIN,                                                           \
    }

static const struct hl_host_function builtins[] = {
    BUILTIN("time", I64, 0),
    BUILTIN("time.monotonic", I64, 0),
    BUILTIN("random", BYTES, 1, HL_TYPE_U32),
    BUILTIN("log", VOID, 1, HL_TYPE_STRING),
    BUILTIN("kv.get", BYTES, 1, HL_TYPE_STRING),
    BUILTIN("kv.put", VOID, 2, HL_TYPE_STRING, HL_TYPE_BYTES),
    BUILTIN("kv.delete", BOOL, 1, HL_TYPE_STRING),
};

static const char *const provider_names[] = {
    [HL_PROVIDER_CLIENT] = "client",
    [HL_PROVIDER_SERVICE] = "service",
    [HL_PROVIDER_BUILTIN] = "builtin",
};

#define PROVIDERS (sizeof(provider_names) / sizeof(provider_names[0]))

const struct hl_host_function *host_builtin_find(const char *name)
{
    for (size_t i = 0; i < sizeof(builtins) / sizeof(builtins[0]); i++) {
        if (strcmp(builtins[i].name, name) == 0)
            return &builtins[i];
    }
    return NULL;
}

static bool is_reserved(const char *name)
{
    return strncmp(name, HOST_BUILTIN_PREFIX, strlen(HOST_BUILTIN_PREFIX)) == 0;
}

static bool same_signature(const struct hl_signature *a, const struct hl_signature *b)
{
    if (a->ret != b->ret || a->nparams != b->nparams)
        return false;
    for (unsigned int i = 0; i < a->nparams; i++) {
        if (a->params[i] != b->params[i])
            return false;
    }
    return true;
}

static int check_function(const struct hl_host_function *f, struct hl_error *err)
{
    const struct hl_host_function *builtin;

    if (strnlen(f->name, sizeof(f->name)) == sizeof(f->name) ||
        !hl_name_valid(f->name, strlen(f->name)))
        return hl_error_set(err, -EINVAL,
                            "a host function's name is 1 to %d of A-Z a-z 0-9 . _ - and starts "
                            "with none of . -",
                            HL_NAME_MAX);
    if (f->sig.nparams > HL_MAX_PARAMS || !hl_type_name(f->sig.ret))
        return hl_error_set(err, -EINVAL, "host function '%s': no such signature", f->name);
    for (unsigned int i = 0; i < f->sig.nparams; i++) {
        if (f->sig.params[i] == HL_TYPE_VOID || !hl_type_name(f->sig.params[i]))
            return hl_error_set(err, -EINVAL, "host function '%s': parameter %u has no type",
                                f->name, i + 1);
    }
    if ((size_t)f->provider >= PROVIDERS)
        return hl_error_set(err, -EINVAL, "host function '%s': no such provider", f->name);
    if (!is_reserved(f->name)) {
        if (f->provider == HL_PROVIDER_BUILTIN)
            return hl_error_set(err, -EINVAL, "host function '%s' is none of hld's own", f->name);
        return 0;
    }
    builtin = host_builtin_find(f->name);
    if (!builtin || f->provider != HL_PROVIDER_BUILTIN)
        return hl_error_set(err, -EINVAL,
                            "host function '%s': names that begin with " HOST_BUILTIN_PREFIX
                            " are hld's own%s",
                            f->name, builtin ? "" : ", and this is none of them");
    if (!same_signature(&builtin->sig, &f->sig))
        return hl_error_set(err, -EINVAL, "host function '%s' has another signature", f->name);
    return 0;
}

static int check_bounds(const struct hl_host_policy *policy, struct hl_error *err)
{
    if (policy->nfunctions > HL_HOST_FUNCTIONS_MAX)
        return hl_error_set(err, -EINVAL, "%u host functions; an image may have %d at most",
                            policy->nfunctions, HL_HOST_FUNCTIONS_MAX);
    if (policy->rate > HOST_RATE_MAX)
        return hl_error_set(err, -EINVAL, "host calls: a rate of %u is more than the limit of %u",
                            policy->rate, HOST_RATE_MAX);
    if (policy->depth > HL_HOST_DEPTH_MAX)
        return hl_error_set(err, -EINVAL, "host calls: a depth of %u is more than the limit of %d",
                            policy->depth, HL_HOST_DEPTH_MAX);
    if (policy->kv_size > HOST_KV_SIZE_MAX)
        return hl_error_set(err, -EINVAL, "kv_size of %llu is more than the limit of %u",
                            (unsigned long long)policy->kv_size, HOST_KV_SIZE_MAX);
    return 0;
}

int host_policy_check(const struct hl_host_policy *policy, struct hl_error *err)
{
    int r = check_bounds(policy, err);

    for (unsigned int i = 0; r == 0 && i < policy->nfunctions; i++) {
        r = check_function(&policy->functions[i], err);
        if (r == 0 && host_policy_find(policy, policy->functions[i].name) != &policy->functions[i])
            r = hl_error_set(err, -EINVAL, "host function '%s' comes twice",
                             policy->functions[i].name);
    }
    return r;
}

bool host_policy_empty(const struct hl_host_policy *policy)
{
    return policy->nfunctions == 0 && policy->max_calls == 0 && policy->rate == 0 &&
           policy->depth == 0 && policy->kv_size == 0 && !policy->deterministic;
}

void host_policy_fill(struct hl_host_policy *policy)
{
    if (policy->rate == 0)
        policy->rate = HOST_RATE_DEFAULT;
    if (policy->depth == 0)
        policy->depth = HOST_DEPTH_DEFAULT;
    if (policy->kv_size == 0)
        policy->kv_size = HOST_KV_SIZE_DEFAULT;
}

const struct hl_host_function *host_policy_find(const struct hl_host_policy *policy,
                                                const char *name)
{
    for (unsigned int i = 0; i < policy->nfunctions; i++) {
        if (strcmp(policy->functions[i].name, name) == 0)
            return &policy->functions[i];
    }
    return NULL;
}

/* ---- text ---- */

static const char *skip_space(const char *p)
{
    return p + strspn(p, " \t");
}

/* A word of letters, digits and . _ - at *p. Returns: its length, 0 where there is none or it is
 * too long. */
static size_t take_word(const char **p, char *word, size_t size)
{
    static const char letters[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._";
    const char *start = skip_space(*p);
    size_t len = 0;

    /* "->" ends a word, "-" in the middle does not */
    while (start[len] &&
           (strchr(letters, start[len]) || (start[len] == '-' && start[len + 1] != '>')))
        len++;
    if (len >= size)
        return 0;
    memcpy(word, start, len);
    word[len] = '\0';
    *p = skip_space(start + len);
    return len;
}

static int take_type(const char **p, enum hl_type *type)
{
    char word[16];
    int r;

    if (take_word(p, word, sizeof(word)) == 0)
        return -EINVAL;
    r = hl_type_parse(word);
    if (r < 0)
        return r;
    *type = (enum hl_type)r;
    return 0;
}

/* "(types)", and "-> type" maybe. Returns: NULL, or what was wanted. */
static const char *take_signature(const char **p, struct hl_signature *sig)
{
    sig->ret = HL_TYPE_VOID;
    *p = skip_space(*p + 1);
    while (**p != ')' || sig->nparams > 0) {
        if (sig->nparams == HL_MAX_PARAMS)
            return "it has too many parameters";
        if (take_type(p, &sig->params[sig->nparams]) < 0 ||
            sig->params[sig->nparams] == HL_TYPE_VOID)
            return "a parameter is one of i32 u32 i64 u64 f32 f64 bool string bytes";
        sig->nparams++;
        if (**p == ')')
            break;
        if (**p != ',')
            return "after a parameter comes , or )";
        *p = skip_space(*p + 1);
    }
    *p = skip_space(*p + 1);
    if (strncmp(*p, "->", 2) != 0)
        return NULL;
    *p += 2;
    return take_type(p, &sig->ret) < 0
               ? "the result is one of void i32 u32 i64 u64 f32 f64 bool string bytes"
               : NULL;
}

static const char *take_provider(const char **p, struct hl_host_function *out)
{
    char word[16];

    if (**p != '@')
        return NULL;
    ++*p;
    if (take_word(p, word, sizeof(word)) > 0) {
        for (size_t i = 0; i < PROVIDERS; i++) {
            if (strcmp(word, provider_names[i]) == 0) {
                out->provider = (enum hl_provider)i;
                return NULL;
            }
        }
    }
    return "the provider is @client, @service or @builtin";
}

static const char *parse(struct hl_host_function *out, const char *p)
{
    const struct hl_host_function *builtin;
    const char *wrong = NULL;

    *out = (struct hl_host_function){.provider = HL_PROVIDER_CLIENT};
    if (take_word(&p, out->name, sizeof(out->name)) == 0)
        return "it begins with the name of a function";
    builtin = host_builtin_find(out->name);
    if (builtin)
        *out = *builtin;
    if (*p == '(') {
        out->sig = (struct hl_signature){.nparams = 0};
        wrong = take_signature(&p, &out->sig);
    } else if (!builtin) {
        wrong = "after the name come the types, such as (string, u32) -> bytes";
    }
    if (!wrong)
        wrong = take_provider(&p, out);
    if (!wrong && *p)
        wrong = "there is something after its end";
    return wrong;
}

int hl_host_function_parse(struct hl_host_function *out, const char *text, char *why, size_t size)
{
    const char *wrong = parse(out, text);
    struct hl_error err = HL_ERROR_INIT;

    if (!wrong && check_function(out, &err) < 0)
        wrong = err.text;
    if (!wrong)
        return 0;
    snprintf(why, size, "%s", wrong);
    return -EINVAL;
}

int hl_host_function_format(char *buf, size_t size, const struct hl_host_function *function)
{
    char signature[HL_NAME_MAX + HL_MAX_PARAMS * 8 + 32];
    const char *provider =
        (size_t)function->provider < PROVIDERS ? provider_names[function->provider] : "?";

    hl_signature_format(signature, sizeof(signature), function->name, &function->sig);
    return snprintf(buf, size, "%s @%s", signature, provider);
}
