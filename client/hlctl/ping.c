/* SPDX-License-Identifier: Apache-2.0 */
/* hlctl ping: whether hld answers, and how fast. */
#include <stdio.h>
#include <time.h>

#include "client/hlctl/json.h"
#include "client/hlctl/text.h"

static uint64_t now(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static int run(struct hlctl *ctl)
{
    struct hl_client_error err;
    uint64_t start, took = 0;
    char text[32];
    int r = ctl_connect(ctl);

    if (r != 0)
        return r;
    /* The first answer includes the start of a worker; the second is what a ping takes. */
    for (int i = 0; i < 2; i++) {
        start = now();
        if (hl_client_ping(ctl->client, "ping", 4, &err) < 0)
            return fail_with(ctl, &err);
        took = now() - start;
    }
    if (ctl->json)
        return print_json_line(json_pack("{s:I}", "ping_ns", (json_int_t)took));
    printf("hld answers in %s\n", text_duration(text, sizeof(text), took));
    return EXIT_OK;
}

const struct verb verb_ping = {
    .name = "ping",
    .arguments = "",
    .summary = "See whether hld answers",
    .run = run,
};
