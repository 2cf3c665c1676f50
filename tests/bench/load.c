/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The load generator: one mode a run, what it measured as one line of JSON on standard output.
 *
 *   load MODE --socket PATH [OPTION...] KIND...
 *
 * Modes and kinds are in load.h.
 */
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/bench/load.h"

#define MAX_NUMBER 1000000000u

static const struct {
    const char *name;
    json_t *(*run)(struct load *load);
} modes[] = {
    {"turns", load_turns},   {"closed", load_closed}, {"open", load_open},
    {"beside", load_beside}, {"first", load_first},   {"register", load_register},
    {"many", load_many},
};

static const struct option options[] = {
    {"socket", required_argument, NULL, 'S'},
    {"count", required_argument, NULL, 'c'},
    {"warmup", required_argument, NULL, 'w'},
    {"round", required_argument, NULL, 'r'},
    {"connections", required_argument, NULL, 'n'},
    {"window", required_argument, NULL, 'W'},
    {"rounds", required_argument, NULL, 'R'},
    {"rate", required_argument, NULL, 'a'},
    {"seconds", required_argument, NULL, 's'},
    {"spin", required_argument, NULL, 'p'},
    {"gap", required_argument, NULL, 'g'},
    {"exponential", no_argument, NULL, 'e'},
    {"watch", required_argument, NULL, 'P'},
    {"prefix", required_argument, NULL, 'x'},
    {"program", required_argument, NULL, 'f'},
    {"hog", required_argument, NULL, 'h'},
    {"hogs", required_argument, NULL, 'H'},
    {"first", required_argument, NULL, 'F'},
    {NULL, 0, NULL, 0},
};

static void take_number(struct load *load, int option, uint64_t value)
{
    switch (option) {
    case 'c':
        load->count = value;
        break;
    case 'w':
        load->warmup = value;
        break;
    case 'r':
        load->round = value;
        break;
    case 'n':
        load->connections = value;
        break;
    case 'W':
        load->window_ms = value;
        break;
    case 'R':
        load->rounds = value;
        break;
    case 'a':
        load->rate = value;
        break;
    case 's':
        load->seconds = value;
        break;
    case 'p':
        load->spin_us = value;
        break;
    case 'g':
        load->gap_ms = value;
        break;
    case 'P':
        load->watch = (long)value;
        break;
    case 'H':
        load->hogs = value;
        break;
    case 'F':
        load->first = value;
        break;
    default:
        break;
    }
}

static void take_options(struct load *load, int argc, char **argv)
{
    int option, index = 0;

    while ((option = getopt_long(argc, argv, "", options, &index)) != -1) {
        switch (option) {
        case 'S':
            load->socket = optarg;
            break;
        case 'x':
            load->prefix = optarg;
            break;
        case 'f':
            load->program = optarg;
            break;
        case 'h':
            load->hog = optarg;
            break;
        case 'e':
            load->exponential = true;
            break;
        case '?':
            exit(2);
        default:
            take_number(load, option, bench_number(options[index].name, optarg, MAX_NUMBER));
        }
    }
    if (load->round == 0 || load->connections == 0 || load->window_ms == 0 || load->rate == 0)
        bench_die("--round, --connections, --window and --rate are at least 1");
}

static const char *mode_names(void)
{
    static char text[128];

    for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++)
        snprintf(text + strlen(text), sizeof(text) - strlen(text), "%s%s", i ? "|" : "",
                 modes[i].name);
    return text;
}

int main(int argc, char **argv)
{
    struct load load = {
        .count = 1000,
        .warmup = 100,
        .round = 50,
        .connections = 1,
        .window_ms = 1000,
        .rounds = 3,
        .rate = 1000,
        .seconds = 2,
        .gap_ms = 20,
        .spin_us = SPIN_DEFAULT,
        .hogs = 1,
    };
    int status;

    signal(SIGPIPE, SIG_IGN);
    take_options(&load, argc, argv);
    if (optind >= argc)
        bench_die("usage: load %s --socket PATH [OPTION...] KIND...", mode_names());
    load.mode = argv[optind++];
    for (; optind < argc; optind++) {
        if (load.nkinds == MAX_KINDS)
            bench_die("at most %u kinds", MAX_KINDS);
        kind_parse(&load.kinds[load.nkinds++], argv[optind]);
    }
    for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++) {
        if (strcmp(load.mode, modes[i].name) != 0)
            continue;
        if (load.nkinds == 0 && modes[i].run != load_many)
            bench_die("%s: no kind of request", load.mode);
        status = bench_print(modes[i].run(&load));
        for (unsigned int k = 0; k < load.nkinds; k++)
            kind_fini(&load.kinds[k]);
        return status;
    }
    bench_die("'%s' is none of %s", load.mode, mode_names());
}
