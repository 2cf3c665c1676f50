/* SPDX-License-Identifier: Apache-2.0 */
/* Arguments: from the message to values of the signature's types, or to an error that names the one
 * that is wrong. */
#include "config.h"

#include "daemon/arguments.h"

#include <errno.h>
#include <string.h>

#include "daemon/bulk.h"
#include "daemon/program.h"
#include "hv/instance.h"
#include "proto/convert.h"

int arguments_decode(struct arguments *out, const struct program *program,
                     const Hl__V1__InvokeRequest *request, const struct bulk *bulk,
                     struct hl_error *err)
{
    int r = image_find_function(program->img, request->function, strlen(request->function));

    if (r < 0)
        return hl_error_set(err, -ENOENT, "image '%s' has no function '%.*s'", program->entry.name,
                            HL_NAME_MAX, request->function);
    out->function = (size_t)r;
    out->nargs = request->n_args;
    /* A wrong number of them is for the check to say. */
    for (size_t i = 0; i < request->n_args && i < HL_MAX_PARAMS; i++) {
        if (request->args[i]->kind_case == HL__V1__VALUE__KIND_DESCRIPTOR)
            r = bulk_argument(bulk, request->args[i]->descriptor, &out->args[i], err);
        else
            r = convert_from_proto(&out->args[i], request->args[i], err);
        if (r < 0)
            return hl_error_wrap(err, r, "argument %zu", i + 1);
    }
    return instance_check_args(program->img, out->function, program->snap, out->args, out->nargs,
                               err);
}
