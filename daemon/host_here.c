/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Host calls that need nobody else: those that the policy refuses, and the functions that hld
 * provides by itself. They are answered on the thread that runs the guest, be it the call's shard,
 * another one or a long-run thread, so they touch the instance, its program's policy and the
 * program's atomics alone. The bounds come first: each call counts, whatever becomes of it, since a
 * refusal costs the host what an answer does. Then the order of the checks is the order of what
 * they tell: a name that is not in the policy is denied whatever else is wrong with the call.
 *
 * The rate is kept as one number, the time at which the calls so far would have been due had they
 * come evenly (the generic cell rate algorithm): a second's worth may come at once.
 */
#include "config.h"

#include "daemon/host.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/cleanup.h"
#include "daemon/pooled.h"
#include "daemon/program.h"
#include "hv/timer.h"

#define NSEC_PER_SEC 1000000000ull
#define RANDOM_MAX   65536u

void host_begin(struct pooled *p)
{
    const struct program_entry *entry = &p->program->entry;
    uint8_t seed[PROGRAM_DIGEST_SIZE];

    p->host_calls = 0;
    atomic_store_explicit(&p->host_denied, 0, memory_order_relaxed);
    memcpy(seed, entry->sha256, sizeof(seed));
    seed[0] ^= 1; /* other bytes than the guest's own getrandom gives */
    world_init(&p->world, entry->host.deterministic ? seed : NULL, false);
}

void host_refuse(struct instance *inst, enum hl_status status, const char *fmt, ...)
{
    char text[256];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    instance_host_fail(inst, status, 0, text, strlen(text));
}

static bool within_rate(struct program *program, uint64_t now)
{
    uint64_t each = NSEC_PER_SEC / program->entry.host.rate;
    uint64_t due = atomic_load_explicit(&program->host_due_ns, memory_order_relaxed);
    uint64_t next;

    do {
        next = (due > now ? due : now) + each;
        if (next > now + NSEC_PER_SEC)
            return false;
    } while (!atomic_compare_exchange_weak_explicit(&program->host_due_ns, &due, next,
                                                    memory_order_relaxed, memory_order_relaxed));
    return true;
}

/* Returns: the number of the argument that is wrong, from 1; 0 when all fit. */
static size_t wrong_argument(const struct hl_host_function *f,
                             const struct instance_host_call *asked)
{
    for (size_t i = 0; i < asked->nargs; i++) {
        if (asked->args[i].type != f->sig.params[i])
            return i + 1;
    }
    return 0;
}

static bool arguments_fit(struct instance *inst, const struct hl_host_function *f,
                          const struct instance_host_call *asked)
{
    char signature[256];
    size_t wrong;

    if (asked->nargs != f->sig.nparams) {
        hl_signature_format(signature, sizeof(signature), f->name, &f->sig);
        host_refuse(inst, HL_STATUS_INVALID_ARGUMENT, "%s: %zu arguments given", signature,
                    asked->nargs);
        return false;
    }
    wrong = wrong_argument(f, asked);
    if (wrong == 0)
        return true;
    hl_signature_format(signature, sizeof(signature), f->name, &f->sig);
    host_refuse(inst, HL_STATUS_INVALID_ARGUMENT, "%s: argument %zu is %s", signature, wrong,
                hl_type_name(asked->args[wrong - 1].type));
    return false;
}

/* Refuses what is one too many. */
static bool within_bounds(struct pooled *p)
{
    const struct hl_host_policy *policy = &p->program->entry.host;

    if (policy->max_calls > 0 && p->host_calls >= policy->max_calls) {
        host_refuse(p->inst, HL_STATUS_RESOURCE_EXHAUSTED, "a call may make %u host calls",
                    policy->max_calls);
        return false;
    }
    if (!within_rate(p->program, hv_now_ns())) {
        host_refuse(p->inst, HL_STATUS_RESOURCE_EXHAUSTED,
                    "calls of image '%s' may make %u host calls a second", p->program->entry.name,
                    policy->rate);
        return false;
    }
    p->host_calls++;
    return true;
}

bool host_answer_here(struct pooled *p)
{
    const struct instance_host_call *asked = instance_host_call(p->inst);
    const struct hl_host_function *f = host_policy_find(&p->program->entry.host, asked->name);

    if (!f)
        instance_count(&p->host_denied);
    if (!within_bounds(p))
        return true;
    if (!f) {
        host_refuse(p->inst, HL_STATUS_PERMISSION_DENIED, "image '%s' may not call '%s'",
                    p->program->entry.name, asked->name);
        return true;
    }
    if (!arguments_fit(p->inst, f, asked))
        return true;
    return f->provider == HL_PROVIDER_BUILTIN && host_builtin(p, f, asked);
}

/* --- hld's own ------------------------------------------------------------------------------ */

static void answer(struct instance *inst, const struct hl_value *result)
{
    struct hl_error err = HL_ERROR_INIT;

    if (instance_host_return(inst, result, &err) < 0)
        host_refuse(inst, HL_STATUS_RESOURCE_EXHAUSTED, "%s", err.text);
}

static void answer_time(struct pooled *p, clockid_t clock)
{
    struct hl_value value = {.type = HL_TYPE_I64};
    struct timespec ts = {0};

    world_time(&p->world, clock, &ts);
    value.i64 = (int64_t)ts.tv_sec * (int64_t)NSEC_PER_SEC + ts.tv_nsec;
    answer(p->inst, &value);
}

static void answer_random(struct pooled *p, uint32_t size)
{
    _cleanup_free_ void *data = NULL;
    struct hl_value value = {.type = HL_TYPE_BYTES};

    if (size > RANDOM_MAX) {
        host_refuse(p->inst, HL_STATUS_INVALID_ARGUMENT, "at most %u random bytes at a time",
                    RANDOM_MAX);
        return;
    }
    data = malloc(size + 1u);
    if (!data || world_random(&p->world, data, size) < 0) {
        host_refuse(p->inst, HL_STATUS_RESOURCE_EXHAUSTED, "no random bytes now");
        return;
    }
    value.bytes.data = data;
    value.bytes.len = size;
    answer(p->inst, &value);
}

bool host_builtin(struct pooled *p, const struct hl_host_function *f,
                  const struct instance_host_call *asked)
{
    const struct hl_value *arg = asked->args;

    if (strcmp(f->name, "hl.time") == 0) {
        answer_time(p, CLOCK_REALTIME);
    } else if (strcmp(f->name, "hl.time.monotonic") == 0) {
        answer_time(p, CLOCK_MONOTONIC);
    } else if (strcmp(f->name, "hl.random") == 0) {
        answer_random(p, arg->u32);
    } else if (strcmp(f->name, "hl.log") == 0) {
        program_log_line(&p->program->log, 2, arg->bytes.len ? arg->bytes.data : "",
                         arg->bytes.len);
        answer(p->inst, NULL);
    } else {
        return false;
    }
    return true;
}
