/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hld: arguments, and the order of the start.
 *
 *   hld            the front: configuration → backend → worker's user → systemd's socket → serve
 *   hld --worker   one uid's calls (started by the front, channel on descriptor 3)
 *   hld --nursery  guest processes of the process backend (started by a worker, socket on 3)
 */
#include "config.h"

#include <errno.h>
#include <getopt.h>
#include <pwd.h>
#include <signal.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include "base/standard.h"
#include "daemon/configuration.h"
#include "daemon/front.h"
#include "daemon/log.h"
#include "daemon/registry_io.h"
#include "daemon/worker.h"
#include "hv/backend.h"
#include "hv/nursery.h"

#define CHANNEL_FD 3

enum {
    EXIT_USAGE = 2,
};

static const char usage_text[] =
    "Usage: hld [OPTION]...\n"
    "Serves calls of isolated guest functions on a Unix socket.\n"
    "\n"
    "  --config FILE      read FILE instead of " CONFIGURATION_DEFAULT_PATH "\n"
    "  --socket PATH      listen on PATH\n"
    "  --state-dir DIR    keep registered images in DIR\n"
    "  --backend NAME     auto, kvm or process\n"
    "  --check-config     check the configuration, say OK or what is wrong, and exit\n"
    "  --help             show this text and exit\n"
    "  --version          show the version and exit\n"
    "\n"
    "Options win over the configuration file. See hld(8) and hld.conf(5).\n";

struct arguments {
    const char *config; /* NULL: the default file, which may be missing */
    const char *socket, *state_dir, *backend;
    bool check;
};

static int printed(void)
{
    if (fflush(stdout) == 0 && !ferror(stdout))
        return EXIT_SUCCESS;
    fputs("hld: cannot write the output\n", stderr);
    return EXIT_FAILURE;
}

static void print_line(void *opaque, const char *line)
{
    fprintf(opaque, "%s\n", line);
}

static void log_line(void *opaque, const char *line)
{
    (void)opaque;
    log_error("%s", line);
}

/* Returns: -1 to go on, else the exit status. */
static int parse_arguments(int argc, char **argv, struct arguments *arguments)
{
    static const struct option options[] = {
        {"config", required_argument, NULL, 'c'},    {"socket", required_argument, NULL, 's'},
        {"state-dir", required_argument, NULL, 'd'}, {"backend", required_argument, NULL, 'b'},
        {"check-config", no_argument, NULL, 'C'},    {"help", no_argument, NULL, 'h'},
        {"version", no_argument, NULL, 'V'},         {NULL, 0, NULL, 0},
    };
    int option;

    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (option) {
        case 'c':
            arguments->config = optarg;
            break;
        case 's':
            arguments->socket = optarg;
            break;
        case 'd':
            arguments->state_dir = optarg;
            break;
        case 'b':
            arguments->backend = optarg;
            break;
        case 'C':
            arguments->check = true;
            break;
        case 'h':
            fputs(usage_text, stdout);
            return printed();
        case 'V':
            puts(PACKAGE_NAME " " PACKAGE_VERSION);
            return printed();
        default:
            fputs("Try 'hld --help'.\n", stderr);
            return EXIT_USAGE;
        }
    }
    if (optind < argc) {
        fprintf(stderr, "hld: unexpected argument '%s'\nTry 'hld --help'.\n", argv[optind]);
        return EXIT_USAGE;
    }
    return -1;
}

/* The file, then the options over it. A relative path of an option stays where hld was started. */
static int load(const struct arguments *arguments, struct configuration *config,
                configuration_report report, void *opaque)
{
    const char *path = arguments->config ? arguments->config : CONFIGURATION_DEFAULT_PATH;
    const struct {
        const char *option, *name, *value;
    } overrides[] = {
        {"--socket", "socket", arguments->socket},
        {"--state-dir", "state_dir", arguments->state_dir},
        {"--backend", "backend", arguments->backend},
    };
    struct hl_error err = HL_ERROR_INIT;
    char line[HL_ERROR_TEXT_MAX + 32];
    int r;

    configuration_init(config);
    r = configuration_load(config, path, !arguments->config, report, opaque);
    for (size_t i = 0; i < sizeof(overrides) / sizeof(overrides[0]); i++) {
        if (!overrides[i].value ||
            configuration_set(config, "daemon", overrides[i].name, overrides[i].value, &err) == 0)
            continue;
        snprintf(line, sizeof(line), "%s: %s", overrides[i].option, err.text);
        report(opaque, line);
        r = -EINVAL;
    }
    return r < 0 ? r : configuration_check(config, path, report, opaque);
}

static int reload(void *opaque, struct configuration *next)
{
    return load(opaque, next, log_line, NULL);
}

/* Relative paths become absolute, so that a reload from another directory means the same. */
static const char *absolute(const char *path)
{
    char *cwd, *joined = NULL;

    if (!path || path[0] == '/' || path[0] == '\0')
        return path;
    cwd = get_current_dir_name();
    if (!cwd || asprintf(&joined, "%s/%s", cwd, path) < 0)
        joined = NULL;
    free(cwd);
    return joined ? joined : path;
}

static int find_backend(const char *name, const char **resolved, struct hl_error *err)
{
    const struct hv_backend *backend = hv_backend_find(name, err);
    int r;

    if (!backend)
        return hl_error_wrap(err, -ENODEV, "backend %s", name);
    r = backend->probe(err);
    if (r < 0)
        return hl_error_wrap(err, r, "backend %s", backend->name);
    *resolved = backend->name;
    return 0;
}

/* Whom workers become when hld runs as root. */
static int find_worker_user(const char *name, struct front_options *options, struct hl_error *err)
{
    const struct passwd *user;

    if (geteuid() != 0)
        return 0;
    user = getpwnam(name[0] ? name : "hld");
    if (!user && !name[0])
        user = getpwnam("nobody");
    if (!user)
        return hl_error_set(err, -ENOENT, "worker_user: no user '%s'", name[0] ? name : "nobody");
    if (user->pw_uid == 0)
        return hl_error_set(err, -EINVAL, "worker_user: workers cannot run as root");
    options->run_uid = user->pw_uid;
    options->run_gid = user->pw_gid;
    return 0;
}

static int take_systemd_socket(struct front_options *options, struct hl_error *err)
{
    int count = sd_listen_fds(1);

    if (count < 0)
        return hl_error_set(err, count, "sd_listen_fds: %s", strerror(-count));
    if (count == 0)
        return 0;
    if (count > 1)
        return hl_error_set(err, -EINVAL, "systemd passed %d sockets; hld serves one", count);
    if (sd_is_socket_unix(SD_LISTEN_FDS_START, SOCK_STREAM, 1, NULL, 0) <= 0)
        return hl_error_set(err, -EINVAL, "systemd passed no listening Unix stream socket");
    options->listen_fd = SD_LISTEN_FDS_START;
    return 0;
}

static int check_paths(const struct configuration *config, bool own_socket, struct hl_error *err)
{
    if (own_socket && !config->socket[0])
        return hl_error_set(err, -EINVAL, "where to listen? Neither --socket nor XDG_RUNTIME_DIR");
    if (!config->state_dir[0])
        return hl_error_set(err, -EINVAL, "where to keep images? Neither --state-dir nor HOME");
    return 0;
}

/* Descriptors are what connections cost: as many as we may have. */
static void raise_descriptors(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

static int serve(struct arguments *arguments)
{
    struct configuration *config = malloc(sizeof(*config));
    struct hl_error err = HL_ERROR_INIT;
    struct front_options options = {
        .config = config,
        .worker_exe = "/proc/self/exe",
        .version = PACKAGE_VERSION,
        .listen_fd = -1,
        .reload = reload,
        .opaque = arguments,
        .registry_io = &registry_io_system,
    };
    int r;

    if (!config)
        return EXIT_FAILURE;
    raise_descriptors();
    if (load(arguments, config, log_line, NULL) < 0) {
        free(config);
        return EXIT_FAILURE;
    }
    r = find_backend(config->backend, &options.backend, &err);
    if (r == 0)
        r = find_worker_user(config->worker_user, &options, &err);
    if (r == 0)
        r = take_systemd_socket(&options, &err);
    if (r == 0)
        r = check_paths(config, options.listen_fd < 0, &err);
    if (r == 0)
        r = front_run(&options, &err);
    if (r < 0)
        log_error("%s", err.text[0] ? err.text : strerror(-r));
    free(config);
    return r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}

static int check_config(const struct arguments *arguments)
{
    struct configuration *config = malloc(sizeof(*config));
    int r = config ? load(arguments, config, print_line, stderr) : -ENOMEM;

    free(config);
    if (r < 0)
        return EXIT_FAILURE;
    puts("OK");
    return printed();
}

int main(int argc, char **argv)
{
    struct arguments arguments = {0};
    int status;

    signal(SIGPIPE, SIG_IGN);
    if (hl_standard_open() < 0 || sodium_init() < 0)
        return EXIT_FAILURE;
    log_init(NULL);
    if (argc == 2 && strcmp(argv[1], "--worker") == 0)
        return worker_main(CHANNEL_FD);
    if (argc == 2 && strcmp(argv[1], "--nursery") == 0)
        return nursery_main(CHANNEL_FD);
    status = parse_arguments(argc, argv, &arguments);
    if (status >= 0)
        return status;
    arguments.config = absolute(arguments.config);
    arguments.socket = absolute(arguments.socket);
    arguments.state_dir = absolute(arguments.state_dir);
    return arguments.check ? check_config(&arguments) : serve(&arguments);
}
