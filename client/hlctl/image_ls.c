/* SPDX-License-Identifier: Apache-2.0 */
/* hlctl image ls: all images, page by page. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/hlctl/image.h"
#include "client/hlctl/table.h"
#include "client/hlctl/text.h"

/* Images of a list that is printed as a tree: copies, since a page is gone with the next. */
struct node {
    char name[HL_NAME_MAX + 1], parent[HL_NAME_MAX + 1];
    uint8_t sha256[32];
    uint64_t registered;
    char cells[7][64];
};

struct listing {
    struct table table;
    json_t *array;
    bool tree;
    struct node *nodes;
    size_t count;
};

static int add_node(struct listing *listing, const struct hl_image *image,
                    const char *const cells[7])
{
    struct node *grown = realloc(listing->nodes, (listing->count + 1) * sizeof(*grown));
    struct node *node;

    if (!grown)
        return -ENOMEM;
    listing->nodes = grown;
    node = &grown[listing->count++];
    memset(node, 0, sizeof(*node));
    snprintf(node->name, sizeof(node->name), "%s", image->name);
    snprintf(node->parent, sizeof(node->parent), "%s", image->parent);
    memcpy(node->sha256, image->sha256, sizeof(node->sha256));
    node->registered = image->registered_unix_ns;
    for (size_t i = 0; i < 7; i++)
        snprintf(node->cells[i], sizeof(node->cells[i]), "%s", cells[i]);
    return 0;
}

/* A name may have been given anew since; then it is of another program, or younger than what was
 * made of the one before. */
static bool made_of(const struct node *child, const struct node *parent)
{
    return strcmp(child->parent, parent->name) == 0 && child->registered > parent->registered &&
           memcmp(child->sha256, parent->sha256, sizeof(child->sha256)) == 0;
}

static bool has_parent(const struct listing *listing, const struct node *node)
{
    for (size_t i = 0; i < listing->count; i++) {
        if (made_of(node, &listing->nodes[i]))
            return true;
    }
    return false;
}

static int add_family(struct listing *listing, const struct node *node, unsigned int depth)
{
    char name[256];
    const char *cells[8] = {name};
    int r;

    snprintf(name, sizeof(name), "%*s%s", (int)(depth < 60 ? 2 * depth : 120), "", node->name);
    for (size_t i = 0; i < 7; i++)
        cells[i + 1] = node->cells[i];
    r = table_add(&listing->table, cells);
    for (size_t i = 0; r == 0 && i < listing->count; i++) {
        if (made_of(&listing->nodes[i], node))
            r = add_family(listing, &listing->nodes[i], depth + 1);
    }
    return r;
}

static int add_tree(struct listing *listing)
{
    int r = 0;

    for (size_t i = 0; r == 0 && i < listing->count; i++) {
        if (!has_parent(listing, &listing->nodes[i]))
            r = add_family(listing, &listing->nodes[i], 0);
    }
    return r;
}

static int add_row(struct listing *listing, const struct hl_image *image)
{
    char size[32], owner[64], memory[32], deadline[32], when[32], sha256[65];

    const char *cells[8];

    sha256_text(sha256, image->sha256);
    sha256[12] = '\0';
    cells[0] = image->name;
    cells[1] = text_size(size, sizeof(size), image->parent[0] ? image->state_bytes : image->size);
    cells[2] = text_size(memory, sizeof(memory), image->limits.memory);
    cells[3] = text_duration(deadline, sizeof(deadline), image->limits.deadline_ns);
    cells[4] = user_text(owner, sizeof(owner), image->owner_uid);
    cells[5] = image->is_private ? "private" : "public";
    cells[6] = time_text(when, sizeof(when), image->registered_unix_ns);
    cells[7] = sha256;
    if (listing->tree)
        return add_node(listing, image, cells + 1);
    return table_add(&listing->table, cells);
}

/* Every page, into rows and array. Returns: 0 or a negative errno with err filled. */
static int collect(struct hlctl *ctl, struct listing *listing, struct hl_client_error *err)
{
    char after[HL_NAME_MAX + 1] = "";
    struct hl_image_list list;
    int r;

    do {
        r = hl_client_list(ctl->client, after, 0, &list, err);
        if (r < 0)
            return r;
        for (size_t i = 0; i < list.count; i++) {
            json_array_append_new(listing->array, json_image(&list.images[i]));
            r = add_row(listing, &list.images[i]);
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
    struct listing listing = {
        .table = {.ncolumns = 8, .right = 1 << 1 | 1 << 2 | 1 << 3},
        .tree = option_get(ctl, "tree") != NULL,
        .array = json_array(),
    };
    struct hl_client_error err = {.status = HL_STATUS_RESOURCE_EXHAUSTED, .text = "out of memory"};
    int r = ctl_connect(ctl);

    if (r != 0)
        goto out;
    r = table_add(&listing.table, (const char *[]){"NAME", "SIZE", "MEMORY", "DEADLINE", "OWNER",
                                                   "ACCESS", "REGISTERED", "SHA256"});
    if (r == 0)
        r = collect(ctl, &listing, &err);
    if (r == 0 && listing.tree)
        r = add_tree(&listing);
    if (r < 0) {
        r = fail_with(ctl, &err);
        goto out;
    }
    if (ctl->json)
        r = print_json_line(json_pack("{s:O}", "images", listing.array));
    else if (listing.table.nrows > 1)
        table_print(&listing.table);
    else
        fprintf(stderr, "no images yet; `hlctl image add FILE` registers one\n");
out:
    json_decref(listing.array);
    table_fini(&listing.table);
    free(listing.nodes);
    return r;
}

const struct verb verb_image_ls = {
    .name = "image ls",
    .arguments = "",
    .summary = "List the images",
    .notes = "The size of an image that was made from a session is what is stored for it alone.\n",
    .options = {{"tree", NULL, "those made from sessions below those they were made of"}},
    .run = run,
};
