/* SPDX-License-Identifier: Apache-2.0 */
/* hlctl image inspect: one image, its functions, its latest log lines. */
#include "client/hlctl/image.h"

static int run(struct hlctl *ctl)
{
    const struct hl_image *image;
    struct hl_client_error err;
    int r = ctl_connect(ctl);

    if (r != 0)
        return r;
    if (hl_client_inspect(ctl->client, ctl->args[0], &image, &err) < 0)
        return fail_image(ctl, ctl->args[0], &err);
    if (ctl->json)
        return print_json_line(json_image(image));
    image_print(image);
    return EXIT_OK;
}

const struct verb verb_image_inspect = {
    .name = "image inspect",
    .arguments = "NAME",
    .summary = "Show an image, its functions and its log",
    .min_args = 1,
    .max_args = 1,
    .run = run,
};
