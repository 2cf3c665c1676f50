/* SPDX-License-Identifier: Apache-2.0 */
/* hlctl session …: all but the call, which is in call.c. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "client/hlctl/json.h"
#include "client/hlctl/table.h"
#include "client/hlctl/text.h"
#include "client/hlsession.h"

static int fail_session(const struct hlctl *ctl, const struct hl_client_error *err)
{
    if (err->remote && err->status == HL_STATUS_FAILED_PRECONDITION)
        return fail_saying(ctl, err, "%s (`hlctl session rollback %s 0` goes to its beginning)",
                           err->text, ctl->args[0]);
    return fail_with(ctl, err);
}

static int run_open(struct hlctl *ctl)
{
    char id[HL_SESSION_ID_SIZE];
    struct hl_client_error err;
    int r = ctl_connect(ctl);

    if (r != 0)
        return r;
    if (hl_session_open(ctl->client, ctl->args[0], id, &err) < 0)
        return fail_image(ctl, ctl->args[0], &err);
    if (ctl->json)
        return print_json_line(json_pack("{s:s}", "session", id));
    printf("%s\n", id);
    return EXIT_OK;
}

static int run_checkpoint(struct hlctl *ctl)
{
    struct hl_checkpoint checkpoint;
    struct hl_client_error err;
    int r = ctl_connect(ctl);

    if (r != 0)
        return r;
    if (hl_session_checkpoint(ctl->client, ctl->args[0], &checkpoint, &err) < 0)
        return fail_session(ctl, &err);
    if (ctl->json)
        return print_json_line(
            json_pack("{s:I, s:I, s:I}", "checkpoint", (json_int_t)checkpoint.number, "pages",
                      (json_int_t)checkpoint.pages, "bytes", (json_int_t)checkpoint.bytes));
    printf("%" PRIu64 "\n", checkpoint.number);
    return EXIT_OK;
}

static int run_rollback(struct hlctl *ctl)
{
    struct hl_client_error err;
    uint64_t checkpoint;
    int r;

    if (text_parse_count(ctl->args[1], UINT64_MAX, &checkpoint) < 0)
        return fail_usage(ctl, "'%s' is no checkpoint: a number, or 0 for the beginning",
                          ctl->args[1]);
    r = ctl_connect(ctl);
    if (r != 0)
        return r;
    if (hl_session_rollback(ctl->client, ctl->args[0], checkpoint, &err) < 0)
        return fail_with(ctl, &err);
    if (ctl->json)
        return print_json_line(
            json_pack("{s:s, s:I}", "session", ctl->args[0], "checkpoint", (json_int_t)checkpoint));
    return EXIT_OK;
}

static int run_close(struct hlctl *ctl)
{
    struct hl_client_error err = {0};
    int code = EXIT_OK, r = ctl_connect(ctl);

    if (r != 0)
        return r;
    for (unsigned int i = 0; i < ctl->nargs && err.status != HL_STATUS_UNAVAILABLE; i++) {
        if (hl_session_close(ctl->client, ctl->args[i], &err) < 0)
            r = fail_saying(ctl, &err, "%s: %s", ctl->args[i], err.text);
        else
            r = ctl->json ? print_json_line(json_pack("{s:s}", "closed", ctl->args[i])) : EXIT_OK;
        if (code == EXIT_OK)
            code = r;
    }
    return code;
}

static int add_row(struct table *table, const struct hl_session *s)
{
    char calls[32], checkpoints[32], bytes[32], age[32], idle[32];
    const char *state = s->busy ? "busy" : s->failed[0] ? s->failed : "idle";

    snprintf(calls, sizeof(calls), "%" PRIu64, s->calls);
    snprintf(checkpoints, sizeof(checkpoints), "%" PRIu64, s->checkpoints);
    return table_add(table, (const char *[]){
                                s->id,
                                s->image,
                                calls,
                                checkpoints,
                                text_size(bytes, sizeof(bytes), s->checkpoint_bytes),
                                text_duration(age, sizeof(age), s->age_ns),
                                text_duration(idle, sizeof(idle), s->idle_ns),
                                state,
                            });
}

static json_t *json_session(const struct hl_session *s)
{
    return json_pack("{s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:b, s:s}", "session", s->id, "image",
                     s->image, "calls", (json_int_t)s->calls, "checkpoints",
                     (json_int_t)s->checkpoints, "checkpoint_bytes",
                     (json_int_t)s->checkpoint_bytes, "age_ns", (json_int_t)s->age_ns, "idle_ns",
                     (json_int_t)s->idle_ns, "busy", s->busy, "failed", s->failed);
}

static int print_json(const struct hl_session_list *list)
{
    json_t *array = json_array();

    for (size_t i = 0; i < list->count; i++)
        json_array_append_new(array, json_session(&list->sessions[i]));
    return print_json_line(json_pack("{s:o}", "sessions", array));
}

static int print_table(const struct hlctl *ctl, const struct hl_session_list *list)
{
    struct table table = {.ncolumns = 8, .right = 1 << 2 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 6};
    int r = table_add(&table, (const char *[]){"SESSION", "IMAGE", "CALLS", "CHECKPOINTS", "SIZE",
                                               "AGE", "IDLE", "STATE"});

    for (size_t i = 0; r == 0 && i < list->count; i++)
        r = add_row(&table, &list->sessions[i]);
    if (r < 0)
        r = fail_local(ctl, "out of memory");
    else if (list->count > 0)
        table_print(&table);
    else
        fprintf(stderr, "no sessions; `hlctl session open IMAGE` opens one\n");
    table_fini(&table);
    return r;
}

static int run_ls(struct hlctl *ctl)
{
    struct hl_session_list list;
    struct hl_client_error err;
    int r = ctl_connect(ctl);

    if (r != 0)
        return r;
    if (hl_session_list(ctl->client, &list, &err) < 0)
        return fail_with(ctl, &err);
    return ctl->json ? print_json(&list) : print_table(ctl, &list);
}

const struct verb verb_session_open = {
    .name = "session open",
    .arguments = "IMAGE",
    .summary = "Open a session and print its id",
    .notes = "A session is an instance that stays as its calls leave it. It ends when it is "
             "closed\nor has not been used for some time.\n",
    .min_args = 1,
    .max_args = 1,
    .run = run_open,
};

const struct verb verb_session_checkpoint = {
    .name = "session checkpoint",
    .arguments = "SESSION",
    .summary = "Remember a session's state and print its number",
    .min_args = 1,
    .max_args = 1,
    .run = run_checkpoint,
};

const struct verb verb_session_rollback = {
    .name = "session rollback",
    .arguments = "SESSION CHECKPOINT",
    .summary = "Bring a session's state back, 0 for its beginning",
    .min_args = 2,
    .max_args = 2,
    .run = run_rollback,
};

const struct verb verb_session_close = {
    .name = "session close",
    .arguments = "SESSION...",
    .summary = "Close sessions",
    .notes = "What cannot be closed is told, and the rest is.\n",
    .min_args = 1,
    .max_args = 1000,
    .run = run_close,
};

const struct verb verb_session_ls = {
    .name = "session ls",
    .arguments = "",
    .summary = "List your sessions",
    .run = run_ls,
};
