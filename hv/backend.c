/* SPDX-License-Identifier: Apache-2.0 */
/* Which backends there are, by name. "auto" never means the process backend: it isolates less, so
 * it has to be asked for. */
#include "hv/backend.h"

#include <errno.h>
#include <string.h>

const struct hv_backend *hv_backend_find(const char *name, struct hl_error *err)
{
    static const struct hv_backend *const backends[] = {&hv_backend_kvm, &hv_backend_process};
    bool automatic = strcmp(name, "auto") == 0;

    for (size_t i = 0; i < sizeof(backends) / sizeof(backends[0]); i++) {
        if (strcmp(name, backends[i]->name) == 0)
            return backends[i];
    }
    if (!automatic) {
        hl_error_set(err, -EINVAL, "unknown backend '%s': kvm, process and auto are known", name);
        return NULL;
    }
    if (hv_backend_kvm.probe(err) == 0)
        return &hv_backend_kvm;
    hl_error_wrap(err, -ENODEV,
                  "no usable hypervisor; where weaker isolation will do, ask for "
                  "backend = process");
    return NULL;
}
