/* SPDX-License-Identifier: Apache-2.0 */
/* hlctl image add: sends a program and registers it. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "client/hlctl/image.h"
#include "client/hlctl/text.h"

static int take_size(struct hlctl *ctl, const char *name, uint64_t *out)
{
    const char *value = option_get(ctl, name);

    if (value && text_parse_size(value, out) < 0)
        return fail_usage(ctl, "--%s: '%s' is no size; write 65536, 64K, 64M or 1G", name, value);
    return 0;
}

static int take_count(struct hlctl *ctl, const char *name, uint32_t *out)
{
    const char *value = option_get(ctl, name);
    uint64_t count = 0;

    if (value && text_parse_count(value, UINT32_MAX, &count) < 0)
        return fail_usage(ctl, "--%s: '%s' is no number", name, value);
    *out = (uint32_t)count;
    return 0;
}

static int take_options(struct hlctl *ctl, struct hl_registration *reg)
{
    const char *deadline = option_get(ctl, "deadline");
    int r;

    reg->is_private = option_get(ctl, "private") != NULL;
    if (deadline && text_parse_duration(deadline, &reg->limits.deadline_ns) < 0)
        return fail_usage(ctl, "--deadline: '%s' is no time; write 500us, 100ms or 2s", deadline);
    r = take_size(ctl, "memory", &reg->limits.memory);
    if (r == 0)
        r = take_size(ctl, "io-size", &reg->limits.io_size);
    if (r == 0)
        r = take_count(ctl, "min", &reg->limits.min_instances);
    if (r == 0)
        r = take_count(ctl, "max", &reg->limits.max_instances);
    if (r == 0)
        r = take_count(ctl, "queue", &reg->limits.max_queue);
    return r;
}

/* What the guest may call outward. */
static int take_policy(struct hlctl *ctl, struct hl_host_policy *host)
{
    const char *text;
    unsigned int cursor = 0;
    char why[128];
    int r;

    while ((text = option_next(ctl, "allow", &cursor))) {
        if (host->nfunctions == HL_HOST_FUNCTIONS_MAX)
            return fail_usage(ctl, "--allow: at most %d host functions", HL_HOST_FUNCTIONS_MAX);
        if (hl_host_function_parse(&host->functions[host->nfunctions], text, why, sizeof(why)) < 0)
            return fail_usage(ctl, "--allow: '%s': %s", text, why);
        host->nfunctions++;
    }
    host->deterministic = option_get(ctl, "deterministic") != NULL;
    r = take_count(ctl, "host-calls", &host->max_calls);
    if (r == 0)
        r = take_count(ctl, "host-rate", &host->rate);
    if (r == 0)
        r = take_count(ctl, "host-depth", &host->depth);
    if (r == 0)
        r = take_size(ctl, "kv-size", &host->kv_size);
    return r;
}

static int run(struct hlctl *ctl)
{
    const char *file = ctl->args[0];
    const char *slash = strrchr(file, '/');
    struct hl_host_policy host = {0};
    struct hl_registration reg = {.name = option_get(ctl, "name"), .host = &host};
    const struct hl_image *image;
    struct hl_client_error err;
    _cleanup_close_ int fd = -1;
    int r;

    if (!reg.name)
        reg.name = slash ? slash + 1 : file;
    r = take_options(ctl, &reg);
    if (r == 0)
        r = take_policy(ctl, &host);
    if (r != 0)
        return r;
    fd = open(file, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return fail_local(ctl, "cannot open %s: %s", file, strerror(errno));
    r = ctl_connect(ctl);
    if (r != 0)
        return r;
    r = hl_client_register_fd(ctl->client, &reg, fd, &image, &err);
    if (r < 0)
        return err.remote ? fail_saying(ctl, &err, "%s: %s", file, err.text) : fail_with(ctl, &err);
    if (ctl->json)
        return print_json_line(json_image(image));
    image_print_summary(image);
    return EXIT_OK;
}

const struct verb verb_image_add = {
    .name = "image add",
    .arguments = "FILE",
    .summary = "Register a guest program",
    .notes = "FILE is a static ELF program linked with libhlguest. Its start-up runs once now; "
             "every call\nbegins from where that ended. A name of yours that is taken switches to "
             "the new program.\n\nIt can call outward what --allow names, each time another "
             "function, and nothing else. Providers\nare @client, whoever calls the image; "
             "@service, whoever offers the name; and hld itself, for\nhl.time, "
             "hl.time.monotonic, hl.random, hl.log, hl.kv.get, hl.kv.put and hl.kv.delete.\n",
    .min_args = 1,
    .max_args = 1,
    .options =
        {
            {"name", "NAME", "name of the image, else that of the file"},
            {"memory", "SIZE", "guest memory, such as 64M"},
            {"deadline", "TIME", "of calls that bring none, such as 100ms"},
            {"min", "N", "instances kept warm"},
            {"max", "N", "instances at most"},
            {"queue", "N", "calls waiting at most"},
            {"io-size", "SIZE", "room for a call's arguments or result"},
            {"private", NULL, "only you may call it"},
            {"allow", "FUNCTION...", "what it may call outward: 'name(types) -> type @provider'"},
            {"host-calls", "N", "calls outward of one call at most"},
            {"host-rate", "N", "calls outward a second at most"},
            {"host-depth", "N", "how deep it may be called in calls outward"},
            {"kv-size", "SIZE", "room for what hl.kv keeps"},
            {"deterministic", NULL, "time and randomness are the same in every call"},
        },
    .run = run,
};
