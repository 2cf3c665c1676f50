/* SPDX-License-Identifier: Apache-2.0 */
/* hlctl offer: host functions for others, until a signal ends it, and with it the connection. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>

#include "client/hlctl/command.h"
#include "client/hlctl/text.h"

#define TIMEOUT_DEFAULT 30000000000ull

struct ending {
    bool over;
    int code;
    struct hl_client_error err;
};

static void on_ended(void *opaque, uint64_t id, int code, const struct hl_result *result,
                     const struct hl_client_error *err)
{
    struct ending *ending = opaque;

    (void)id;
    (void)result;
    ending->over = true;
    ending->code = code;
    if (err)
        ending->err = *err;
}

static int serve(struct hlctl *ctl, const struct hl_offer *offer)
{
    struct ending ending = {0};
    struct hl_client_error err;
    int r = hl_client_offer(ctl->client, offer, on_ended, &ending, NULL, &err);

    if (r < 0)
        return fail_with(ctl, &err);
    if (!ctl->json) {
        printf("offering\n");
        fflush(stdout);
    }
    while (!ending.over) {
        struct pollfd pfd = {
            .fd = hl_client_fd(ctl->client),
            .events = hl_client_events(ctl->client),
        };

        if (poll(&pfd, 1, -1) < 0 && errno != EINTR)
            return fail_local(ctl, "cannot wait for host calls");
        hl_client_process(ctl->client, NULL);
    }
    return ending.code < 0 ? fail_with(ctl, &ending.err) : EXIT_OK;
}

static int run(struct hlctl *ctl)
{
    struct commands commands = {0};
    struct hl_offer offer = {.functions = commands.functions, .image = option_get(ctl, "image")};
    const char *queue = option_get(ctl, "queue"), *timeout = option_get(ctl, "timeout");
    uint64_t count = 0;
    int r = 0;

    for (unsigned int i = 0; r == 0 && i < ctl->nargs; i++)
        r = commands_add(ctl, &commands, ctl->args[i]);
    if (r != 0)
        return r;
    if (queue && text_parse_count(queue, UINT32_MAX, &count) < 0)
        return fail_usage(ctl, "--queue: '%s' is no number", queue);
    if (timeout && text_parse_duration(timeout, &offer.timeout_ns) < 0)
        return fail_usage(ctl, "--timeout: '%s' is no time; write 500us, 100ms or 2s", timeout);
    if (offer.timeout_ns == 0)
        offer.timeout_ns = TIMEOUT_DEFAULT;
    commands.timeout_ns = offer.timeout_ns;
    offer.max_queue = (uint32_t)count;
    offer.nfunctions = commands.count;
    r = ctl_connect(ctl);
    return r == 0 ? serve(ctl, &offer) : r;
}

const struct verb verb_offer = {
    .name = "offer",
    .arguments = "NAME=COMMAND...",
    .summary = "Provide host functions to your calls",
    .notes = "Calls outward of images whose policy has the name from @service are answered by "
             "commands of the\nshell, as with call --host, until this is interrupted. It prints "
             "'offering' once it does.\n",
    .min_args = 1,
    .max_args = HL_HOST_FUNCTIONS_MAX,
    .options =
        {
            {"image", "NAME", "to this image alone"},
            {"queue", "N", "host calls waiting at most"},
            {"timeout", "TIME", "for an answer; then its command is killed (30s)"},
        },
    .run = run,
};
