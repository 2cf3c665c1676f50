/* SPDX-License-Identifier: Apache-2.0 */
/* Field by field; what a message says is copied within bounds first and checked as a whole then. */
#include "proto/convert_policy.h"

#include <errno.h>
#include <string.h>

void policy_to_message(struct policy_message *out, const struct hl_host_policy *in)
{
    hl__v1__host_policy__init(&out->policy);
    out->policy.functions = out->pointers;
    out->policy.n_functions = in->nfunctions;
    out->policy.max_calls = in->max_calls;
    out->policy.rate = in->rate;
    out->policy.depth = in->depth;
    out->policy.kv_size = in->kv_size;
    out->policy.deterministic = in->deterministic;
    for (unsigned int i = 0; i < in->nfunctions; i++) {
        const struct hl_host_function *f = &in->functions[i];
        Hl__V1__HostFunction *message = &out->functions[i];

        hl__v1__host_function__init(message);
        message->name = (char *)f->name;
        message->ret = (Hl__V1__Type)f->sig.ret;
        message->provider = (Hl__V1__HostProvider)f->provider;
        message->n_params = f->sig.nparams;
        message->params = out->params[i];
        for (unsigned int j = 0; j < f->sig.nparams; j++)
            out->params[i][j] = (Hl__V1__Type)f->sig.params[j];
        out->pointers[i] = message;
    }
}

static int take_function(struct hl_host_function *out, const Hl__V1__HostFunction *in,
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

int policy_from_message(struct hl_host_policy *out, const Hl__V1__HostPolicy *in,
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
