/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Arguments of a call. The signature comes from hld, so "7" is a number or a text as the function
 * wants it, and what does not fit is refused here with the signature beside it. For strings and
 * bytes, "-" is standard input and "@name" what a file holds; a leading "@" is written twice.
 */
#include "client/hlctl/arguments.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "client/hlctl/input.h"
#include "client/hlctl/text.h"

static int wrong(const struct hlctl *ctl, const struct arguments *arguments, const char *what)
{
    char signature[256];

    hl_signature_format(signature, sizeof(signature), arguments->call.function, &arguments->sig);
    return fail_usage(ctl, "%s; the function is %s", what, signature);
}

static int unknown_function(const struct hlctl *ctl, const struct hl_image *image,
                            const char *function)
{
    char names[512] = "";
    size_t len = 0;

    for (size_t i = 0; i < image->nfunctions; i++) {
        int n = snprintf(names + len, sizeof(names) - len, "%s%s", i ? ", " : "",
                         image->functions[i].name);

        if (n < 0 || (size_t)n >= sizeof(names) - len) {
            snprintf(names + (len > sizeof(names) - 6 ? sizeof(names) - 6 : len), 6, ", ...");
            break;
        }
        len += (size_t)n;
    }
    return fail_saying(ctl, &(struct hl_client_error){.status = HL_STATUS_NOT_FOUND},
                       "image '%s' has no function '%s'; it has %s", ctl->args[0], function, names);
}

/* What is left of a message for the arguments after this one. */
static void spend(struct arguments *arguments, const struct hl_value *value)
{
    if (value->type == HL_TYPE_STRING || value->type == HL_TYPE_BYTES)
        arguments->left -= value->bytes.len < arguments->left ? value->bytes.len : arguments->left;
}

/* The file that text names after its "@", or for "-" and "@-" standard input. */
static int take_file(const struct hlctl *ctl, struct arguments *arguments, unsigned int i,
                     const char *path)
{
    bool standard = strcmp(path, "-") == 0;
    _cleanup_close_ int file = -1;
    struct hl_value *value = &arguments->values[i];
    char name[256];
    int r;

    if (standard && arguments->read_input)
        return fail_usage(ctl, "only one argument can be '-', standard input");
    arguments->read_input |= standard;
    snprintf(name, sizeof(name), standard ? "standard input" : "'%s'", path);
    if (!standard && (file = open(path, O_RDONLY | O_CLOEXEC)) < 0)
        return fail_local(ctl, "argument %u: cannot open %s: %s", i + 1, name, strerror(errno));
    r = input_take(ctl, standard ? STDIN_FILENO : file, name, arguments->sig.params[i],
                   arguments->left, value, &arguments->memory[i]);
    if (r == 0)
        spend(arguments, value);
    return r;
}

static int take_one(const struct hlctl *ctl, struct arguments *arguments, unsigned int i)
{
    const char *text = ctl->args[2 + i];
    enum hl_type type = arguments->sig.params[i];
    struct hl_value *value = &arguments->values[i];
    bool counted = type == HL_TYPE_STRING || type == HL_TYPE_BYTES;
    char why[64], what[256], shown[65];

    if (counted && strcmp(text, "-") == 0)
        return take_file(ctl, arguments, i, text);
    if (counted && strcmp(text, "@") == 0)
        return fail_usage(ctl, "argument %u: '@' needs a file name; write '@@' for itself", i + 1);
    if (counted && text[0] == '@') {
        text++;
        if (text[0] != '@')
            return take_file(ctl, arguments, i, text);
    }
    if (text_parse_value(text, type, value, why, sizeof(why)) == 0) {
        spend(arguments, value);
        return 0;
    }
    snprintf(what, sizeof(what), "argument %u: '%s' is no %s: %s", i + 1,
             text_printable(shown, sizeof(shown), text), hl_type_name(type), why);
    return wrong(ctl, arguments, what);
}

static int find_function(struct hlctl *ctl, struct arguments *arguments)
{
    const struct hl_image *image;
    struct hl_client_error err;
    uint64_t since = ctl_ask(ctl);
    int r = hl_client_inspect(ctl->client, ctl->args[0], &image, &err);

    ctl_asked(ctl, since);
    if (r < 0)
        return fail_image(ctl, ctl->args[0], &err);
    for (size_t i = 0; i < image->nfunctions; i++) {
        if (strcmp(image->functions[i].name, ctl->args[1]) == 0) {
            arguments->sig = image->functions[i].sig;
            return 0;
        }
    }
    return unknown_function(ctl, image, ctl->args[1]);
}

static int make_up_all(const struct hlctl *ctl, struct arguments *arguments, size_t len)
{
    char why[64];

    arguments->memory[0] = malloc(len);
    if (!arguments->memory[0])
        return fail_local(ctl, "out of memory");
    memset(arguments->memory[0], 'x', len);
    for (unsigned int i = 0; i < arguments->sig.nparams; i++) {
        struct hl_value *value = &arguments->values[i];

        text_parse_value("1", arguments->sig.params[i], value, why, sizeof(why));
        if (value->type >= HL_TYPE_STRING) {
            value->bytes.data = arguments->memory[0];
            value->bytes.len = len;
        }
    }
    arguments->call.nargs = arguments->sig.nparams;
    return 0;
}

int take_deadline(const struct hlctl *ctl, uint64_t *ns)
{
    const char *text = option_get(ctl, "deadline");

    if (text && text_parse_duration(text, ns) < 0)
        return fail_usage(ctl, "--deadline: '%s' is no time; write 500us, 100ms or 2s", text);
    return 0;
}

static int take_room(const struct hlctl *ctl, struct hl_call *call)
{
    const char *room = option_get(ctl, "room");
    uint64_t size = 0;

    if (room && (text_parse_size(room, &size) < 0 || size == 0 || size > HL_RESULT_ROOM_MAX))
        return fail_usage(ctl, "--room: '%s' is no size up to 256M; write 64M", room);
    call->result_room = (size_t)size;
    return 0;
}

int arguments_take(struct hlctl *ctl, struct arguments *arguments, size_t make_up)
{
    unsigned int given = ctl->nargs - 2;
    char what[128];
    int r;

    *arguments = (struct arguments){
        .call = {.image = ctl->args[0], .function = ctl->args[1], .nargs = given},
        .left = INPUT_MESSAGE_MAX,
    };
    arguments->call.args = arguments->values;
    r = take_room(ctl, &arguments->call);
    if (r == 0)
        r = find_function(ctl, arguments);
    if (r != 0)
        return r;
    if (given == 0 && make_up > 0)
        return make_up_all(ctl, arguments, make_up);
    if (given != arguments->sig.nparams) {
        snprintf(what, sizeof(what), "%u argument%s given, %u wanted", given, given == 1 ? "" : "s",
                 arguments->sig.nparams);
        return wrong(ctl, arguments, what);
    }
    for (unsigned int i = 0; r == 0 && i < given; i++)
        r = take_one(ctl, arguments, i);
    return r;
}

void arguments_fini(struct arguments *arguments)
{
    for (unsigned int i = 0; i < HL_MAX_PARAMS; i++) {
        free(arguments->memory[i]);
        if (arguments->values[i].type == HL_TYPE_DESCRIPTOR)
            close(arguments->values[i].descriptor.fd);
    }
    *arguments = (struct arguments){0};
}
