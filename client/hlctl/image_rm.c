/* SPDX-License-Identifier: Apache-2.0 */
/* hlctl image rm: forgets images. */
#include "client/hlctl/json.h"

static int run(struct hlctl *ctl)
{
    struct hl_client_error err;
    int r = ctl_connect(ctl);

    for (unsigned int i = 0; r == 0 && i < ctl->nargs; i++) {
        if (hl_client_unregister(ctl->client, ctl->args[i], &err) < 0)
            return fail_image(ctl, ctl->args[i], &err);
        if (ctl->json)
            print_json_line(json_pack("{s:s}", "removed", ctl->args[i]));
    }
    return r;
}

const struct verb verb_image_rm = {
    .name = "image rm",
    .arguments = "NAME...",
    .summary = "Remove images",
    .notes = "Calls already running finish.\n",
    .min_args = 1,
    .max_args = 1000,
    .run = run,
};
