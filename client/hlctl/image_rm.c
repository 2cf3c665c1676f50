/* SPDX-License-Identifier: Apache-2.0 */
/* hlctl image rm: forgets images. */
#include "client/hlctl/json.h"

static int run(struct hlctl *ctl)
{
    struct hl_client_error err = {0};
    int code = EXIT_OK, r = ctl_connect(ctl);

    if (r != 0)
        return r;
    for (unsigned int i = 0; i < ctl->nargs && err.status != HL_STATUS_UNAVAILABLE; i++) {
        if (hl_client_unregister(ctl->client, ctl->args[i], &err) < 0)
            r = fail_image(ctl, ctl->args[i], &err);
        else
            r = ctl->json ? print_json_line(json_pack("{s:s}", "removed", ctl->args[i])) : EXIT_OK;
        if (code == EXIT_OK)
            code = r;
    }
    return code;
}

const struct verb verb_image_rm = {
    .name = "image rm",
    .arguments = "NAME...",
    .summary = "Remove images",
    .notes = "Calls already running finish. What cannot be removed is told, and the rest is.\n",
    .min_args = 1,
    .max_args = 1000,
    .run = run,
};
