/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Arguments of a call. The signature comes from hld, so "7" is a number or a text as the function
 * wants it, and what does not fit is refused here with the signature beside it. For strings and
 * bytes, "-" is standard input; a leading "@" is kept for a meaning of its own and has to be
 * doubled for now.
 */
#include "client/hlctl/arguments.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "client/hlctl/text.h"

#define INPUT_MAX (4u << 20) /* a message holds no more */

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

/* All of standard input. Returns: 0, or the exit code. */
static int read_input(const struct hlctl *ctl, struct arguments *arguments, struct hl_value *value)
{
    size_t len = 0;

    if (arguments->input)
        return fail_usage(ctl, "only one argument can be '-', standard input");
    arguments->input = malloc(INPUT_MAX + 1);
    if (!arguments->input)
        return fail_local(ctl, "out of memory");
    while (len <= INPUT_MAX) {
        ssize_t n = read(STDIN_FILENO, arguments->input + len, INPUT_MAX + 1 - len);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return fail_local(ctl, "cannot read standard input: %s", strerror(errno));
        if (n == 0)
            break;
        len += (size_t)n;
    }
    if (len > INPUT_MAX)
        return fail_local(ctl,
                          "standard input holds more than %u bytes, the most a message can carry",
                          INPUT_MAX);
    value->bytes.data = arguments->input;
    value->bytes.len = len;
    return 0;
}

static int take_one(const struct hlctl *ctl, struct arguments *arguments, unsigned int i)
{
    const char *text = ctl->args[2 + i];
    enum hl_type type = arguments->sig.params[i];
    struct hl_value *value = &arguments->values[i];
    bool counted = type == HL_TYPE_STRING || type == HL_TYPE_BYTES;
    char why[64], what[256];

    if (counted && strcmp(text, "-") == 0) {
        value->type = type;
        return read_input(ctl, arguments, value);
    }
    if (counted && text[0] == '@') {
        if (text[1] != '@')
            return fail_usage(ctl, "argument %u: a leading '@' is reserved; write '@@%s' for it",
                              i + 1, text + 1);
        text++;
    }
    if (text_parse_value(text, type, value, why, sizeof(why)) == 0)
        return 0;
    snprintf(what, sizeof(what), "argument %u: '%.64s' is no %s: %s", i + 1, text,
             hl_type_name(type), why);
    return wrong(ctl, arguments, what);
}

static int find_function(struct hlctl *ctl, struct arguments *arguments)
{
    const struct hl_image *image;
    struct hl_client_error err;

    if (hl_client_inspect(ctl->client, ctl->args[0], &image, &err) < 0)
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

    arguments->input = malloc(len);
    if (!arguments->input)
        return fail_local(ctl, "out of memory");
    memset(arguments->input, 'x', len);
    for (unsigned int i = 0; i < arguments->sig.nparams; i++) {
        struct hl_value *value = &arguments->values[i];

        text_parse_value("1", arguments->sig.params[i], value, why, sizeof(why));
        if (value->type >= HL_TYPE_STRING) {
            value->bytes.data = arguments->input;
            value->bytes.len = len;
        }
    }
    arguments->call.nargs = arguments->sig.nparams;
    return 0;
}

int arguments_take(struct hlctl *ctl, struct arguments *arguments, size_t make_up)
{
    const char *deadline = option_get(ctl, "deadline");
    unsigned int given = ctl->nargs - 2;
    char what[128];
    int r;

    *arguments = (struct arguments){
        .call = {.image = ctl->args[0], .function = ctl->args[1], .nargs = given},
    };
    arguments->call.args = arguments->values;
    if (deadline && text_parse_duration(deadline, &arguments->call.timeout_ns) < 0)
        return fail_usage(ctl, "--deadline: '%s' is no time; write 500us, 100ms or 2s", deadline);
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
    for (unsigned int i = 0; i < given; i++) {
        r = take_one(ctl, arguments, i);
        if (r != 0)
            return r;
    }
    return 0;
}

void arguments_fini(struct arguments *arguments)
{
    free(arguments->input);
    arguments->input = NULL;
}
