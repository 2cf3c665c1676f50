/* SPDX-License-Identifier: Apache-2.0 */
/* hlctl image ls: all images, page by page. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "client/hlctl/image.h"
#include "client/hlctl/table.h"
#include "client/hlctl/text.h"

static int add_row(struct table *table, const struct hl_image *image)
{
    char size[32], owner[64], memory[32], deadline[32], when[32], sha256[65];

    sha256_text(sha256, image->sha256);
    sha256[12] = '\0';
    return table_add(table,
                     (const char *[]){
                         image->name,
                         text_size(size, sizeof(size), image->size),
                         text_size(memory, sizeof(memory), image->limits.memory),
                         text_duration(deadline, sizeof(deadline), image->limits.deadline_ns),
                         user_text(owner, sizeof(owner), image->owner_uid),
                         image->is_private ? "private" : "public",
                         time_text(when, sizeof(when), image->registered_unix_ns),
                         sha256,
                     });
}

/* Every page, into rows and array. Returns: 0 or a negative errno with err filled. */
static int collect(struct hlctl *ctl, struct table *table, json_t *array,
                   struct hl_client_error *err)
{
    char after[HL_NAME_MAX + 1] = "";
    struct hl_image_list list;
    int r;

    do {
        r = hl_client_list(ctl->client, after, 0, &list, err);
        if (r < 0)
            return r;
        for (size_t i = 0; i < list.count; i++) {
            json_array_append_new(array, json_image(&list.images[i]));
            r = add_row(table, &list.images[i]);
            if (r < 0)
                return r;
        }
        if (list.more)
            snprintf(after, sizeof(after), "%s", list.images[list.count - 1].name);
    } while (list.more);
    return 0;
}

static int run(struct hlctl *ctl)
{
    struct table table = {.ncolumns = 8, .right = 1 << 1 | 1 << 2 | 1 << 3};
    json_t *array = json_array();
    struct hl_client_error err = {.status = HL_STATUS_RESOURCE_EXHAUSTED, .text = "out of memory"};
    int r = ctl_connect(ctl);

    if (r != 0)
        goto out;
    r = table_add(&table, (const char *[]){"NAME", "SIZE", "MEMORY", "DEADLINE", "OWNER", "ACCESS",
                                           "REGISTERED", "SHA256"});
    if (r == 0)
        r = collect(ctl, &table, array, &err);
    if (r < 0) {
        r = fail_with(ctl, &err);
        goto out;
    }
    if (ctl->json)
        r = print_json_line(json_pack("{s:O}", "images", array));
    else if (table.nrows > 1)
        table_print(&table);
    else
        fprintf(stderr, "no images yet; `hlctl image add FILE` registers one\n");
out:
    json_decref(array);
    table_fini(&table);
    return r;
}

const struct verb verb_image_ls = {
    .name = "image ls",
    .arguments = "",
    .summary = "List the images",
    .run = run,
};
