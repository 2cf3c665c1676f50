/* SPDX-License-Identifier: Apache-2.0 */
/* hlctl image commit: a session's state becomes an image. */
#include "client/hlctl/json.h"
#include "client/hlctl/text.h"
#include "client/hlsession.h"

#include <stdio.h>

static int run(struct hlctl *ctl)
{
    const char *number = option_get(ctl, "checkpoint");
    uint64_t checkpoint = 0, bytes;
    struct hl_client_error err;
    char size[32];
    int r;

    if (number && text_parse_count(number, UINT64_MAX, &checkpoint) < 0)
        return fail_usage(ctl, "--checkpoint: '%s' is no number", number);
    if (number && checkpoint == 0)
        return fail_usage(ctl, "--checkpoint: they count from 1; without the option it is the "
                               "state of now, and the beginning is the image itself");
    r = ctl_connect(ctl);
    if (r != 0)
        return r;
    if (hl_session_commit(ctl->client, ctl->args[0], checkpoint, ctl->args[1],
                          option_get(ctl, "private") != NULL, option_get(ctl, "flatten") != NULL,
                          &bytes, &err) < 0)
        return fail_with(ctl, &err);
    if (ctl->json)
        return print_json_line(
            json_pack("{s:s, s:I}", "name", ctl->args[1], "state_bytes", (json_int_t)bytes));
    printf("%s  %s of its own\n", ctl->args[1], text_size(size, sizeof(size), bytes));
    return EXIT_OK;
}

const struct verb verb_image_commit = {
    .name = "image commit",
    .arguments = "SESSION NAME",
    .summary = "Make an image of a session's state",
    .notes = "Calls of the image begin with what the session's calls left. What it has in common "
             "with\nthe root of the image that the session was opened by is stored once.\n",
    .min_args = 2,
    .max_args = 2,
    .options =
        {
            {"flatten", NULL, "store all of it, sharing nothing with the images before"},
            {"checkpoint", "N", "the state of this checkpoint; otherwise that of now"},
            {"private", NULL, "only you may call it"},
        },
    .run = run,
};
