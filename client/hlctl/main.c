/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hlctl: the verbs, in one table, and the help made from it. A signal ends the program as it ends
 * any: the connection closes with it, and hld stops the call that was running. Not SIGPIPE: output
 * that cannot be written is a failure that is told, wherever it was going.
 */
#include "config.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "base/standard.h"
#include "client/hlctl/hlctl.h"

static const struct verb *const verbs[] = {
    &verb_call,
    &verb_image_add,
    &verb_image_commit,
    &verb_image_ls,
    &verb_image_inspect,
    &verb_image_rm,
    &verb_session_open,
    &verb_session_call,
    &verb_session_checkpoint,
    &verb_session_rollback,
    &verb_session_close,
    &verb_session_ls,
    &verb_offer,
    &verb_bench,
    &verb_info,
    &verb_stats,
    &verb_ping,
};

#define NVERBS (sizeof(verbs) / sizeof(verbs[0]))

static const char global_help[] =
    "Options of every command:\n"
    "  --socket PATH, -s PATH  where hld listens (else $HLD_SOCKET, else " HL_DEFAULT_SOCKET ")\n"
    "  --output FORMAT, -o FORMAT\n"
    "                          table, for people, or json, for programs\n"
    "  --help, -h              help about the command\n";

static void help_all(void)
{
    printf("Usage: hlctl COMMAND [ARGUMENT...]\n\n"
           "Registers programs with hld and calls their functions, each call in a micro-VM of its "
           "own.\n\nCommands:\n");
    for (size_t i = 0; i < NVERBS; i++) {
        char line[64];

        snprintf(line, sizeof(line), "%s %s", verbs[i]->name, verbs[i]->arguments);
        printf("  %-37s %s\n", line, verbs[i]->summary);
    }
    printf("  %-37s %s\n\n", "help [COMMAND]", "this, or help about one command");
    printf("%s  --version               the version of hlctl\n\n", global_help);
    printf("Exit status: 0 done, 1 failed, 2 usage, 69 hld cannot be reached, 75 try again later,\n"
           "77 no permission, 124 deadline exceeded.\n");
}

static void help_verb(const struct verb *verb)
{
    printf("Usage: hlctl %s%s%s%s\n\n%s.\n", verb->name, *verb->arguments ? " " : "",
           verb->arguments, verb->options[0].name ? " [OPTION...]" : "", verb->summary);
    if (verb->notes)
        printf("\n%s", verb->notes);
    if (verb->options[0].name)
        printf("\nOptions:\n");
    for (int i = 0; i < MAX_OPTIONS && verb->options[i].name; i++) {
        const struct option *option = &verb->options[i];
        char line[64];

        snprintf(line, sizeof(line), "--%s%s%s", option->name, option->value ? " " : "",
                 option->value ? option->value : "");
        printf("  %-23s %s\n", line, option->help);
    }
    printf("\n%s", global_help);
}

/* The verb that argv begins with, one word or two. */
static const struct verb *find_verb(int argc, char **argv, int *words)
{
    for (size_t i = 0; i < NVERBS && argc > 0; i++) {
        const char *name = verbs[i]->name;
        const char *space = strchr(name, ' ');
        size_t first = space ? (size_t)(space - name) : strlen(name);

        if (strlen(argv[0]) != first || strncmp(argv[0], name, first) != 0)
            continue;
        *words = space ? 2 : 1;
        if (!space || (argc > 1 && strcmp(argv[1], space + 1) == 0))
            return verbs[i];
    }
    return NULL;
}

static bool is_help(const char *word)
{
    return strcmp(word, "help") == 0 || strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0;
}

/* Whether commands of two words begin with this one. */
static bool is_group(const char *word)
{
    return strcmp(word, "image") == 0 || strcmp(word, "session") == 0;
}

static int unknown(const struct hlctl *ctl, int argc, char **argv)
{
    bool group = is_group(argv[0]);

    if (group && argc == 1 && argv[0][0] == 'i')
        return fail_usage(ctl, "image add, image commit, image ls, image inspect or image rm?");
    if (group && argc == 1)
        return fail_usage(ctl, "session open, call, checkpoint, rollback, close or ls?");
    return fail_usage(ctl, "no command '%s%s%s'; `hlctl help` lists those there are", argv[0],
                      group ? " " : "", group ? argv[1] : "");
}

static int help(const struct hlctl *ctl, int argc, char **argv)
{
    const struct verb *verb;
    int words;

    if (argc == 0 || (argc == 1 && is_group(argv[0]))) {
        help_all();
        return EXIT_OK;
    }
    verb = find_verb(argc, argv, &words);
    if (!verb)
        return unknown(ctl, argc, argv);
    help_verb(verb);
    return EXIT_OK;
}

/* Options before the verb: only the global ones. Returns: how many arguments they took, or -1 with
 * *code set. */
static int leading_options(struct hlctl *ctl, int argc, char **argv, int *code)
{
    char text[256];
    int i = 0;

    while (i < argc && argv[i][0] == '-') {
        bool two = !strchr(argv[i], '=') && i + 1 < argc;

        if (is_help(argv[i])) {
            *code = help(ctl, argc - i - 1, argv + i + 1);
            return -1;
        }
        if (strcmp(argv[i], "--version") == 0) {
            printf("hlctl %s\n", PACKAGE_VERSION);
            *code = EXIT_OK;
            return -1;
        }
        if (options_parse(ctl, two ? 2 : 1, argv + i, text, sizeof(text)) < 0) {
            *code = fail_usage(ctl, "%s", text);
            return -1;
        }
        i += two ? 2 : 1;
    }
    return i;
}

static int run_verb(struct hlctl *ctl, int argc, char **argv)
{
    char text[256];
    int words, r;

    ctl->verb = find_verb(argc, argv, &words);
    if (!ctl->verb) {
        if (argc > 1 && is_group(argv[0]) && is_help(argv[1]))
            return help(ctl, 0, argv);
        return unknown(ctl, argc, argv);
    }
    ctl->json |= options_want_json(ctl->verb, argc - words, argv + words);
    r = options_parse(ctl, argc - words, argv + words, text, sizeof(text));
    if (r > 0) {
        help_verb(ctl->verb);
        return EXIT_OK;
    }
    if (r < 0)
        return fail_usage(ctl, "%s", text);
    r = ctl->verb->run(ctl);
    hl_client_disconnect(ctl->client);
    return r;
}

static int run(struct hlctl *ctl, int argc, char **argv)
{
    int code = EXIT_USAGE;
    int skip;

    ctl->json = options_want_json(NULL, argc, argv);
    skip = leading_options(ctl, argc, argv, &code);
    if (skip < 0)
        return code;
    argc -= skip;
    argv += skip;
    if (argc == 0)
        return fail_usage(ctl, "a command is missing; `hlctl help` lists those there are");
    if (strcmp(argv[0], "help") == 0)
        return help(ctl, argc - 1, argv + 1);
    return run_verb(ctl, argc, argv);
}

int main(int argc, char **argv)
{
    struct hlctl ctl = {0};
    int code;

    signal(SIGPIPE, SIG_IGN);
    if (hl_standard_open() < 0)
        return EXIT_FAILED;
    code = run(&ctl, argc - 1, argv + 1);
    if ((fflush(stdout) != 0 || ferror(stdout)) && code == EXIT_OK) {
        ctl.json = false; /* there is nowhere to print it */
        return fail_local(&ctl, "cannot write the output");
    }
    return code;
}
