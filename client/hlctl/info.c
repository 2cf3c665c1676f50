/* SPDX-License-Identifier: Apache-2.0 */
/* hlctl info: which hld this is, what runs the calls, and what holds it. */
#include <stdio.h>

#include "client/hlctl/image.h"
#include "client/hlctl/text.h"

static json_t *json_info(const struct hl_info *info)
{
    json_t *confinement = json_array();

    for (size_t i = 0; i < info->nconfinement; i++)
        json_array_append_new(confinement, json_string(info->confinement[i]));
    return json_pack("{s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:o, s:o, s:o, s:b}", "version",
                     info->version, "backend", info->backend, "abi_version",
                     (json_int_t)info->abi_version, "shards", (json_int_t)info->shards, "uid",
                     (json_int_t)info->uid, "uptime_ns", (json_int_t)info->uptime_ns, "max_message",
                     (json_int_t)info->max_message, "defaults", json_limits(&info->defaults),
                     "maxima", json_limits(&info->maxima), "confinement", confinement, "draining",
                     info->draining);
}

static void print_info(const struct hl_info *info)
{
    char text[256];

    printf("%-11s %s\n", "version", text_printable(text, sizeof(text), info->version));
    printf("%-11s %s\n", "backend", text_printable(text, sizeof(text), info->backend));
    printf("%-11s %u\n", "guest ABI", info->abi_version);
    printf("%-11s %u\n", "shards", info->shards);
    printf("%-11s %s (%u)\n", "you are", user_text(text, sizeof(text), info->uid), info->uid);
    printf("%-11s %s\n", "up", text_duration(text, sizeof(text), info->uptime_ns));
    printf("%-11s %s\n", "message", text_size(text, sizeof(text), info->max_message));
    limits_print("defaults", &info->defaults);
    limits_print("maxima", &info->maxima);
    printf("%-11s", "confined by");
    for (size_t i = 0; i < info->nconfinement; i++)
        printf("%s %s", i ? "," : "", text_printable(text, sizeof(text), info->confinement[i]));
    printf("%s\n", info->nconfinement ? "" : " nothing");
    if (info->draining)
        printf("draining: no new calls are taken\n");
}

static int run(struct hlctl *ctl)
{
    struct hl_client_error err;
    struct hl_info info;
    int r = ctl_connect(ctl);

    if (r != 0)
        return r;
    if (hl_client_info(ctl->client, &info, &err) < 0)
        return fail_with(ctl, &err);
    if (ctl->json)
        return print_json_line(json_info(&info));
    print_info(&info);
    return EXIT_OK;
}

const struct verb verb_info = {
    .name = "info",
    .arguments = "",
    .summary = "Show the daemon: version, backend, limits, confinement",
    .run = run,
};
