/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Images: what registering one takes until its first answer, and what the first call takes to an
 * image that has no warm instance. So that no two images share anything, each is a program of its
 * own: the same file with its number behind it, where no ELF loader looks.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/bench/load.h"

struct variants {
    uint8_t *program;
    size_t size;
    char name[HL_NAME_MAX + 1];
};

static void variants_init(struct variants *variants, const struct load *load)
{
    uint8_t *program;

    if (!load->program || !load->prefix)
        bench_die("--program and --prefix are needed");
    program = bench_read_file(load->program, &variants->size);
    variants->program = realloc(program, variants->size + 64);
    if (!variants->program)
        bench_die("out of memory");
    memset(variants->program + variants->size, 0, 64);
}

static void variant_name(struct variants *variants, const struct load *load, uint64_t i)
{
    snprintf(variants->name, sizeof(variants->name), "%s-%llu", load->prefix,
             (unsigned long long)i);
}

/* Returns: 0 or a negative errno with err filled. */
static int try_register(struct variants *variants, const struct load *load,
                        struct hl_client *client, uint64_t i, struct hl_client_error *err)
{
    struct hl_registration registration = {.name = variants->name};

    variant_name(variants, load, i);
    snprintf((char *)variants->program + variants->size, 64, "%s", variants->name);
    return hl_client_register(client, &registration, variants->program, variants->size + 64, NULL,
                              err);
}

static void variant_register(struct variants *variants, const struct load *load,
                             struct hl_client *client, uint64_t i)
{
    struct hl_client_error err;

    if (try_register(variants, load, client, i, &err) < 0)
        bench_die("%s: %s", variants->name, err.text);
}

static struct kind *only_kind(struct load *load)
{
    if (load->nkinds != 1 || load->kinds[0].type != KIND_CALL)
        bench_die("one call:…: is needed; its image is replaced");
    return &load->kinds[0];
}

/* A daemon in use: what is measured next is not how long two sleeping threads take to wake up. */
static void wake_up(struct kind *ping, struct hl_client *client)
{
    for (int i = 0; i < 100; i++)
        kind_run(ping, client, false);
}

json_t *load_first(struct load *load)
{
    struct kind *first = only_kind(load), next, entry, ping;
    const char *image = first->call.image;
    struct hl_client *client = load_connect(load);
    struct variants variants;
    json_t *object;

    variants_init(&variants, load);
    kind_parse(&next, first->spec);
    kind_parse(&entry, "entry");
    kind_parse(&ping, "ping:64");
    for (uint64_t i = 0; i < load->count; i++)
        variant_register(&variants, load, client, i);
    for (uint64_t i = 0; i < load->count; i++) {
        struct hl_call call = next.call;

        bench_sleep_until(bench_now() + load->gap_ms * NSEC_PER_MSEC);
        kind_entries(&entry, client, 20, true);
        wake_up(&ping, client);
        variant_name(&variants, load, i);
        first->call.image = variants.name;
        kind_run(first, client, true);
        next.call.image = variants.name;
        kind_run(&next, client, true);
        next.call = call;
    }
    first->call.image = image;
    hl_client_disconnect(client);
    free(variants.program);
    object = json_pack("{s:o, s:o, s:o}", "first", kind_json(first), "second", kind_json(&next),
                       "entry", kind_json(&entry));
    kind_fini(&next);
    kind_fini(&entry);
    kind_fini(&ping);
    return object;
}

json_t *load_register(struct load *load)
{
    struct kind *kind = only_kind(load);
    const char *image = kind->call.image;
    struct hl_client *client = load_connect(load);
    struct samples registered = {0}, answered = {0};
    struct variants variants;
    json_t *object;

    variants_init(&variants, load);
    for (uint64_t i = 0; i < load->count; i++) {
        uint64_t start = bench_now();

        variant_register(&variants, load, client, i);
        samples_add(&registered, bench_now() - start);
        kind->call.image = variants.name;
        kind_run(kind, client, true);
        samples_add(&answered, bench_now() - start);
        bench_sleep_until(bench_now() + load->gap_ms * NSEC_PER_MSEC);
    }
    kind->call.image = image;
    hl_client_disconnect(client);
    free(variants.program);
    object = json_pack("{s:o, s:o, s:o}", "registered", samples_json(&registered), "answered",
                       samples_json(&answered), "call", kind_json(kind));
    samples_fini(&registered);
    samples_fini(&answered);
    return object;
}

json_t *load_many(struct load *load)
{
    struct hl_client *client = load_connect(load);
    struct variants variants;
    struct hl_client_error err = {.text = ""};
    uint64_t begin = bench_now(), i = load->first;

    variants_init(&variants, load);
    while (i < load->count && try_register(&variants, load, client, i, &err) == 0)
        i++;
    hl_client_disconnect(client);
    free(variants.program);
    return json_pack("{s:I, s:I, s:s}", "registered", (json_int_t)i, "ns",
                     (json_int_t)(bench_now() - begin), "failed", i < load->count ? err.text : "");
}
