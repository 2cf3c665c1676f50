/* SPDX-License-Identifier: Apache-2.0 */
/* hlctl call: one call. Its result goes to standard output as it is, so that pipes work. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "client/hlctl/arguments.h"
#include "client/hlctl/command.h"
#include "client/hlctl/json.h"
#include "client/hlctl/value.h"
#include "client/hlsession.h"

/* hld ends a call at its deadline; only past this does a command not wait for it. */
#define GRACE 1000000000u

static int print_result(const struct hlctl *ctl, const struct hl_result *result)
{
    if (value_print(&result->value, result->fd, isatty(STDOUT_FILENO)) < 0 || fflush(stdout) != 0)
        return fail_local(ctl, "cannot write the result: %s", strerror(errno));
    return EXIT_OK;
}

/* {"result":…,"accounting":{…}}: the result is spliced in as text, because a u64 is no number that
 * the JSON library can hold. */
static int print_result_json(const struct hlctl *ctl, const struct hl_result *result)
{
    json_t *accounting = json_accounting(&result->accounting);
    char *accounting_text = json_dumps(accounting, JSON_COMPACT);
    char *value_text = value_json(&result->value);
    int r = EXIT_OK;

    if (accounting_text && value_text)
        printf("{\"result\":%s,\"accounting\":%s}\n", value_text, accounting_text);
    else
        r = fail_local(ctl, "out of memory");
    free(value_text);
    free(accounting_text);
    json_decref(accounting);
    return r;
}

static int print_guest_error(const struct hlctl *ctl, const struct arguments *arguments,
                             const struct hl_result *result)
{
    const char *text = result->value.bytes.data;
    char line[512];

    value_line(line, sizeof(line), text, result->value.bytes.len);
    fflush(stdout);
    fprintf(stderr, "hlctl: %s returned error %d: %s\n", arguments->call.function, result->code,
            line);
    if (ctl->json)
        print_json_line(json_pack("{s:{s:s, s:i, s:s%}, s:o}", "error", "status", "GUEST_ERROR",
                                  "code", result->code, "message", text, result->value.bytes.len,
                                  "accounting", json_accounting(&result->accounting)));
    return EXIT_FAILED;
}

static int call(struct hlctl *ctl, struct arguments *arguments, struct commands *commands)
{
    struct hl_client_error err;
    struct hl_result result;
    int r;

    arguments->call.timeout_ns = ctl->allowed_ns;
    if (ctl->allowed_ns > 0)
        commands->timeout_ns = ctl->allowed_ns + GRACE;
    if (commands->count > 0)
        r = hl_client_invoke_with_host(ctl->client, &arguments->call, commands->functions,
                                       commands->count, &result, &err);
    else
        r = hl_client_invoke(ctl->client, &arguments->call, &result, &err);

    if (r < 0)
        return fail_with(ctl, &err);
    if (r == HL_GUEST_ERROR)
        return print_guest_error(ctl, arguments, &result);
    return ctl->json ? print_result_json(ctl, &result) : print_result(ctl, &result);
}

static int take_commands(struct hlctl *ctl, struct commands *commands)
{
    const char *text;
    unsigned int cursor = 0;
    int r = 0;

    while (r == 0 && (text = option_next(ctl, "host", &cursor)))
        r = commands_add(ctl, commands, text);
    return r;
}

/* What stands beside the arguments. */
static int take_options(struct hlctl *ctl, struct commands *commands)
{
    int r = take_commands(ctl, commands);

    return r == 0 ? take_deadline(ctl, &ctl->allowed_ns) : r;
}

static int run(struct hlctl *ctl)
{
    struct arguments arguments = {0};
    struct commands commands = {.one_call = true};
    int r = take_options(ctl, &commands);

    if (r == 0)
        r = ctl_connect(ctl);
    if (r == 0)
        r = arguments_take(ctl, &arguments, 0);
    if (r == 0)
        r = call(ctl, &arguments, &commands);
    arguments_fini(&arguments);
    return r;
}

/* The image of the session at ctl->args[0], whose function signatures are those to read arguments
 * by. Returns: 0, or the exit code. */
static int find_session(struct hlctl *ctl, char *image, size_t size)
{
    struct hl_session_list list;
    struct hl_client_error err;
    uint64_t since = ctl_ask(ctl);
    int r = hl_session_list(ctl->client, &list, &err);

    ctl_asked(ctl, since);
    if (r < 0)
        return fail_with(ctl, &err);
    for (size_t i = 0; i < list.count; i++) {
        if (strcmp(list.sessions[i].id, ctl->args[0]) == 0) {
            snprintf(image, size, "%s", list.sessions[i].image);
            return 0;
        }
    }
    err = (struct hl_client_error){.status = HL_STATUS_NOT_FOUND};
    return fail_saying(ctl, &err, "no session '%s'; `hlctl session ls` lists those there are",
                       ctl->args[0]);
}

static int run_in_session(struct hlctl *ctl)
{
    struct arguments arguments = {0};
    struct commands commands = {.one_call = true};
    char image[HL_NAME_MAX + 1];
    char *session = ctl->args[0];
    int r = take_options(ctl, &commands);

    if (r == 0)
        r = ctl_connect(ctl);
    if (r == 0)
        r = find_session(ctl, image, sizeof(image));
    if (r == 0) {
        ctl->args[0] = image;
        r = arguments_take(ctl, &arguments, 0);
    }
    arguments.call.session = session;
    arguments.call.image = NULL;
    if (r == 0)
        r = call(ctl, &arguments, &commands);
    ctl->args[0] = session;
    arguments_fini(&arguments);
    return r;
}

const struct verb verb_session_call = {
    .name = "session call",
    .arguments = "SESSION FUNCTION [ARG...]",
    .summary = "Call a function in a session",
    .notes = "As `hlctl call`, with the state that the calls before left. Arguments are read by "
             "the\nsignatures of the image's current version.\n",
    .min_args = 2,
    .max_args = 2 + 1000,
    .options =
        {
            {"deadline", "TIME", "stop the call after this; the session fails then"},
            {"host", "NAME=COMMAND...", "answer calls outward by running a command"},
            {"json", NULL, "print result and accounting as JSON, bytes in base64"},
            {"room", "SIZE", "take up to so many bytes back, at most 256M"},
        },
    .run = run_in_session,
};

const struct verb verb_call = {
    .name = "call",
    .arguments = "IMAGE FUNCTION [ARG...]",
    .summary = "Call a function",
    .notes =
        "Arguments are read as the types that the function's signature says. For a string or "
        "bytes,\n- is standard input and @FILE what a file holds; a leading @ is written @@. -5 is "
        "an\nargument; before one that looks like an option put --. Strings and bytes are printed "
        "as they\nare, but on a terminal without control characters.\n\nBytes from a large file "
        "are "
        "not copied into the call, and can be more than a message holds,\n4 MiB. So can bytes that "
        "the function returns, with --room.\n\nWith --host, what the function "
        "calls outward under that name is answered by a command of the\nshell: its standard "
        "input has the arguments as JSON, one a line, its standard output is the\nresult as "
        "JSON; bytes are in base64. If it fails, the first line of its standard error is what "
        "the\nfunction gets.\n",
    .min_args = 2,
    .max_args = 2 + 1000,
    .options =
        {
            {"deadline", "TIME", "give up after this, such as 10ms"},
            {"host", "NAME=COMMAND...", "answer calls outward by running a command"},
            {"json", NULL, "print result and accounting as JSON, bytes in base64"},
            {"room", "SIZE", "take up to so many bytes back, at most 256M"},
        },
    .run = run,
};
