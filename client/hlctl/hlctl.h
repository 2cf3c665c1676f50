/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_HLCTL_H
#define HL_HLCTL_H

/* What the verbs of hlctl share: parsed arguments, the connection, ways to fail. */

#include <stdbool.h>
#include <stdint.h>

#include "client/hlmanage.h"

enum exit_code {
    EXIT_OK = 0,
    EXIT_FAILED = 1,
    EXIT_USAGE = 2,
    EXIT_UNREACHABLE = 69, /* EX_UNAVAILABLE of sysexits.h */
    EXIT_TRY_AGAIN = 75,   /* EX_TEMPFAIL */
    EXIT_PERMISSION = 77,  /* EX_NOPERM */
    EXIT_DEADLINE = 124,   /* as timeout(1) */
};

#define MAX_OPTIONS 16
#define MAX_LISTED  64 /* values of options that may come several times */

struct option {
    const char *name;  /* without the dashes */
    const char *value; /* what it takes, for the help; NULL for nothing; one that ends in "..." may
                          come several times: option_next */
    const char *help;
};

struct hlctl;

struct verb {
    const char *name;      /* "image add" */
    const char *arguments; /* "FILE", for the help */
    const char *summary;
    const char *notes; /* NULL, or more help */
    unsigned int min_args, max_args;
    struct option options[MAX_OPTIONS];
    int (*run)(struct hlctl *ctl); /* returns the exit code */
};

extern const struct verb verb_bench, verb_call, verb_image_add, verb_image_commit,
    verb_image_inspect, verb_image_ls, verb_image_rm, verb_info, verb_offer, verb_ping,
    verb_session_call, verb_session_checkpoint, verb_session_close, verb_session_ls,
    verb_session_open, verb_session_rollback, verb_stats;

struct hlctl {
    const char *socket; /* NULL: the default */
    bool json;
    const struct verb *verb;
    char **args;
    unsigned int nargs;
    const char *values[MAX_OPTIONS]; /* of the verb's options; "" for one that takes none */
    struct {
        int option;
        const char *value;
    } listed[MAX_LISTED];
    unsigned int nlisted;
    struct hl_client *client;
    uint32_t depth;      /* of calls, as the environment says */
    uint64_t allowed_ns; /* for all that hld is asked from now on; 0: no bound */
};

/* ---- options.c ---- */

/* Sorts argv (after the verb) into ctl; a global option may stand anywhere. Returns: 0, 1 when help
 * was asked for, -1 with text saying what is wrong. */
int options_parse(struct hlctl *ctl, int argc, char **argv, char *text, size_t size);
/* Whether the command line (NULL behind it) asks for JSON, whatever else is wrong with it: what is
 * wrong comes in JSON too then. verb: NULL while it is not known. */
bool options_want_json(const struct verb *verb, int argc, char **argv);
/* The value of an option of the verb, NULL when it was not given. */
const char *option_get(const struct hlctl *ctl, const char *name);

/* The values of one that may come several times, in order; *cursor is 0 at first. Returns: NULL
 * after the last. */
const char *option_next(const struct hlctl *ctl, const char *name, unsigned int *cursor);

/* ---- failure.c ---- */

/* Prints one line and returns its exit code. */
int fail_with(const struct hlctl *ctl, const struct hl_client_error *err);
/* The same with something in place of err's text. */
int fail_saying(const struct hlctl *ctl, const struct hl_client_error *err, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
int fail_usage(const struct hlctl *ctl, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
int fail_local(const struct hlctl *ctl, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
enum exit_code exit_code_of(const struct hl_client_error *err);

/* Nanoseconds of CLOCK_MONOTONIC. */
uint64_t ctl_now(void);
/* Around a question of a command that allows hld so much time in all. ctl_ask returns when it
 * began.
 */
uint64_t ctl_ask(const struct hlctl *ctl);
void ctl_asked(struct hlctl *ctl, uint64_t since);
/* How deep in host calls our calls are; set for commands that answer one. */
#define DEPTH_VARIABLE "HLD_DEPTH"
/* Connects; calls are as deep as DEPTH_VARIABLE says. Returns: 0, or the exit code, having printed
 * why. */
int ctl_connect(struct hlctl *ctl);
/* NOT_FOUND of an image by name, told so that it helps; anything else as fail_with does. */
int fail_image(const struct hlctl *ctl, const char *name, const struct hl_client_error *err);

#endif
