/* SPDX-License-Identifier: Apache-2.0 */
/* hlctl stats: the counters of the caller's worker, and its images. */
#include <inttypes.h>
#include <stdio.h>

#include "client/hlctl/json.h"
#include "client/hlctl/table.h"

static json_t *json_stats(const struct hl_stats *stats)
{
    json_t *counters = json_object();
    json_t *images = json_array();

    for (size_t i = 0; i < stats->ncounters; i++)
        json_object_set_new(counters, stats->counters[i].name,
                            json_integer((json_int_t)stats->counters[i].value));
    for (size_t i = 0; i < stats->nimages; i++) {
        const struct hl_image_stats *image = &stats->images[i];

        json_array_append_new(
            images, json_pack("{s:s, s:I, s:I, s:I, s:I, s:I}", "name", image->name, "calls",
                              (json_int_t)image->calls, "errors", (json_int_t)image->errors, "warm",
                              (json_int_t)image->warm, "running", (json_int_t)image->running,
                              "queued", (json_int_t)image->queued));
    }
    return json_pack("{s:o, s:o}", "counters", counters, "images", images);
}

static void print_counters(const struct hl_stats *stats)
{
    struct table table = {.ncolumns = 2, .right = 1 << 1};

    for (size_t i = 0; i < stats->ncounters; i++) {
        char value[24];

        snprintf(value, sizeof(value), "%" PRIu64, stats->counters[i].value);
        table_add(&table, (const char *[]){stats->counters[i].name, value});
    }
    table_print(&table);
    table_fini(&table);
}

static void print_images(const struct hl_stats *stats)
{
    struct table table = {.ncolumns = 6, .right = 0x3e};

    if (stats->nimages == 0)
        return;
    table_add(&table, (const char *[]){"IMAGE", "CALLS", "ERRORS", "WARM", "RUNNING", "QUEUED"});
    for (size_t i = 0; i < stats->nimages; i++) {
        const struct hl_image_stats *image = &stats->images[i];
        const uint64_t numbers[] = {image->calls, image->errors, image->warm, image->running,
                                    image->queued};
        char texts[5][24];

        for (int n = 0; n < 5; n++)
            snprintf(texts[n], sizeof(texts[n]), "%" PRIu64, numbers[n]);
        table_add(&table,
                  (const char *[]){image->name, texts[0], texts[1], texts[2], texts[3], texts[4]});
    }
    putchar('\n');
    table_print(&table);
    table_fini(&table);
}

static int run(struct hlctl *ctl)
{
    struct hl_client_error err;
    struct hl_stats stats;
    int r = ctl_connect(ctl);

    if (r != 0)
        return r;
    if (hl_client_stats(ctl->client, &stats, &err) < 0)
        return fail_with(ctl, &err);
    if (ctl->json)
        return print_json_line(json_stats(&stats));
    print_counters(&stats);
    print_images(&stats);
    return EXIT_OK;
}

const struct verb verb_stats = {
    .name = "stats",
    .arguments = "",
    .summary = "Show counters of your worker, and its images",
    .run = run,
};
