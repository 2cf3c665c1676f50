/* SPDX-License-Identifier: Apache-2.0 */
/* Front and worker each take a policy for what a stranger wrote. */
#include "config.h"

#include "daemon/policy.h"

#include <errno.h>
#include <string.h>

void policy_to_control(struct policy_packet *out, const struct hl_host_policy *in)
{
    hl__control__host_policy__init(&out->policy);
    out->policy.functions = out->pointers;
    out->policy.n_functions = in->nfunctions;
    out->policy.max_calls = in->max_calls;
    out->policy.rate = in->rate;
    out->policy.depth = in->depth;
    out->policy.kv_size = in->kv_size;
    out->policy.deterministic = in->deterministic;
    for (unsigned int i = 0; i < in->nfunctions; i++) {
        const struct hl_host_function *f = &in->functions[i];
        Hl__Control__HostFunction *packet = &out->functions[i];

        hl__control__host_function__init(packet);
        packet->name = (char *)f->name;
        packet->ret = (uint32_t)f->sig.ret;
        packet->provider = (uint32_t)f->provider;
        packet->n_params = f->sig.nparams;
        packet->params = out->params[i];
        for (unsigned int j = 0; j < f->sig.nparams; j++)
            out->params[i][j] = (uint32_t)f->sig.params[j];
        out->pointers[i] = packet;
    }
}

static int take_function(struct hl_host_function *out, const Hl__Control__HostFunction *in,
                         struct hl_error *err)
{
    size_t len = strlen(in->name);

    if (len > HL_NAME_MAX || in->n_params > HL_MAX_PARAMS)
        return hl_error_set(err, -EINVAL, "a host function's name or signature is too long");
    memcpy(out->name, in->name, len + 1);
    out->sig.ret = (enum hl_type)in->ret;
    out->sig.nparams = (unsigned int)in->n_params;
    for (size_t i = 0; i < in->n_params; i++)
        out->sig.params[i] = (enum hl_type)in->params[i];
    out->provider = (enum hl_provider)in->provider;
    return 0;
}

int policy_from_control(struct hl_host_policy *out, const Hl__Control__HostPolicy *in,
                        struct hl_error *err)
{
    int r = 0;

    memset(out, 0, sizeof(*out));
    if (!in)
        return 0;
    if (in->n_functions > HL_HOST_FUNCTIONS_MAX)
        return hl_error_set(err, -EINVAL, "%zu host functions; an image may have %d at most",
                            in->n_functions, HL_HOST_FUNCTIONS_MAX);
    out->nfunctions = (unsigned int)in->n_functions;
    out->max_calls = in->max_calls;
    out->rate = in->rate;
    out->depth = in->depth;
    out->kv_size = in->kv_size;
    out->deterministic = in->deterministic != 0;
    for (unsigned int i = 0; r == 0 && i < out->nfunctions; i++)
        r = take_function(&out->functions[i], in->functions[i], err);
    return r < 0 ? r : host_policy_check(out, err);
}
