/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_BASE_HOST_POLICY_H
#define HL_BASE_HOST_POLICY_H

/* What an image's guest may call outward, as every boundary checks it. The structs are in
 * base/hltypes.h. */

#include "base/error.h"

#define HOST_RATE_DEFAULT    10000u
#define HOST_RATE_MAX        1000000u
#define HOST_DEPTH_DEFAULT   4u
#define HOST_KV_SIZE_DEFAULT (1u << 20)
#define HOST_KV_SIZE_MAX     (16u << 20)
#define HOST_BUILTIN_PREFIX  "hl."

/* One that hld itself provides; name, sig and provider are filled. NULL where there is none. */
const struct hl_host_function *host_builtin_find(const char *name);

/* Names, types, counts and bounds; a name that comes twice. Returns: 0, or -EINVAL with err. */
int host_policy_check(const struct hl_host_policy *policy, struct hl_error *err);

/* Whether it says anything that no policy at all does not. */
bool host_policy_empty(const struct hl_host_policy *policy);

/* With the defaults in place of zeros. */
void host_policy_fill(struct hl_host_policy *policy);

const struct hl_host_function *host_policy_find(const struct hl_host_policy *policy,
                                                const char *name);

#endif
