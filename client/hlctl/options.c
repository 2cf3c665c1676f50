/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Arguments. Options may stand before and after the others; what looks like a negative number, and
 * a single dash, are arguments, because functions take such; "--" ends the options.
 */
#include <stdio.h>
#include <string.h>

#include "client/hlctl/hlctl.h"

static bool is_option(const char *arg)
{
    if (arg[0] != '-' || arg[1] == '\0')
        return false;
    if (strchr("0123456789.", arg[1]))
        return false;
    return strcmp(arg, "-inf") != 0 && strcmp(arg, "-nan") != 0;
}

static int find(const struct verb *verb, const char *name, size_t len)
{
    for (int i = 0; verb && i < MAX_OPTIONS && verb->options[i].name; i++) {
        if (strlen(verb->options[i].name) == len && strncmp(verb->options[i].name, name, len) == 0)
            return i;
    }
    return -1;
}

static bool matches(const char *arg, size_t len, const char *name)
{
    return strlen(name) == len && strncmp(arg, name, len) == 0;
}

const char *option_get(const struct hlctl *ctl, const char *name)
{
    int i = find(ctl->verb, name, strlen(name));

    return i < 0 ? NULL : ctl->values[i];
}

static bool is_listed(const struct option *option)
{
    size_t len = option->value ? strlen(option->value) : 0;

    return len > 3 && strcmp(option->value + len - 3, "...") == 0;
}

const char *option_next(const struct hlctl *ctl, const char *name, unsigned int *cursor)
{
    int i = find(ctl->verb, name, strlen(name));

    while (*cursor < ctl->nlisted) {
        unsigned int at = (*cursor)++;

        if (ctl->listed[at].option == i)
            return ctl->listed[at].value;
    }
    return NULL;
}

static int set_output(struct hlctl *ctl, const char *value, char *text, size_t size)
{
    if (strcmp(value, "json") != 0 && strcmp(value, "table") != 0) {
        snprintf(text, size, "output is 'table' or 'json', not '%s'", value);
        return -1;
    }
    ctl->json = strcmp(value, "json") == 0;
    return 0;
}

bool options_want_json(const struct verb *verb, int argc, char **argv)
{
    bool json = false;

    for (int i = 0; i < argc && strcmp(argv[i], "--") != 0; i++) {
        size_t len = strcspn(argv[i], "=");
        const char *value = argv[i][len] == '=' ? argv[i] + len + 1 : argv[i + 1];

        if (value && (matches(argv[i], len, "--output") || matches(argv[i], len, "-o")))
            json = strcmp(value, "json") == 0;
        if (strcmp(argv[i], "--json") == 0 && find(verb, "json", 4) >= 0)
            return true;
    }
    return json;
}

/* The option at argv[*i], with its value from the same or the next argument. */
static int take_option(struct hlctl *ctl, int argc, char **argv, int *i, char *text, size_t size)
{
    const char *arg = argv[*i];
    size_t len = strcspn(arg, "=");
    const char *value = arg[len] == '=' ? arg + len + 1 : NULL;
    bool socket = matches(arg, len, "--socket") || matches(arg, len, "-s");
    bool output = matches(arg, len, "--output") || matches(arg, len, "-o");
    bool takes = socket || output;
    int own = arg[1] == '-' && !takes ? find(ctl->verb, arg + 2, len - 2) : -1;

    if (matches(arg, len, "--help") || matches(arg, len, "-h"))
        return 1;
    if (!takes && own >= 0) {
        takes = ctl->verb->options[own].value != NULL;
    } else if (!takes) {
        snprintf(text, size, "unknown option '%s'; to pass it as an argument put -- before", arg);
        return -1;
    }
    if (takes && !value) {
        if (*i + 1 >= argc) {
            snprintf(text, size, "option '%s' needs a value", arg);
            return -1;
        }
        value = argv[++*i];
    } else if (!takes && value) {
        snprintf(text, size, "option '%.*s' takes no value", (int)len, arg);
        return -1;
    }
    if (own >= 0 && takes && !is_listed(&ctl->verb->options[own]) && ctl->values[own]) {
        snprintf(text, size, "option '%.*s' comes twice", (int)len, arg);
        return -1;
    }
    if (own >= 0 && is_listed(&ctl->verb->options[own])) {
        if (ctl->nlisted == MAX_LISTED) {
            snprintf(text, size, "option '%.*s' comes too often", (int)len, arg);
            return -1;
        }
        ctl->listed[ctl->nlisted].option = own;
        ctl->listed[ctl->nlisted++].value = value;
    }
    if (output)
        return set_output(ctl, value, text, size);
    if (socket)
        ctl->socket = value;
    else
        ctl->values[own] = takes ? value : "";
    return 0;
}

int options_parse(struct hlctl *ctl, int argc, char **argv, char *text, size_t size)
{
    const struct verb *verb = ctl->verb;
    bool only_arguments = false;
    int kept = 0;

    for (int i = 0; i < argc; i++) {
        int r;

        if (!only_arguments && strcmp(argv[i], "--") == 0) {
            only_arguments = true;
            continue;
        }
        if (only_arguments || !is_option(argv[i])) {
            argv[kept++] = argv[i];
            continue;
        }
        r = take_option(ctl, argc, argv, &i, text, size);
        if (r != 0)
            return r;
    }
    ctl->args = argv;
    ctl->nargs = (unsigned int)kept;
    if (verb && verb->max_args > 2 && ctl->nargs > verb->max_args) {
        snprintf(text, size, "%u arguments; hlctl %s takes %u at most", ctl->nargs, verb->name,
                 verb->max_args);
        return -1;
    }
    if (verb && (ctl->nargs < verb->min_args || ctl->nargs > verb->max_args)) {
        snprintf(text, size, "usage: hlctl %s%s%s", verb->name, *verb->arguments ? " " : "",
                 verb->arguments);
        return -1;
    }
    return 0;
}
