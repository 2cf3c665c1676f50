/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A worker from its start to its end, in one order that is also the order of losing power: settings
 * come first; then the uid is left; then what needs to fork or to open something (the process
 * backend's nursery, the hypervisor) is done; then the process confines itself; and only then do
 * threads start and is the front told that clients may come.
 */
#include "config.h"

#include "daemon/worker.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "daemon/confine.h"
#include "daemon/control.h"
#include "daemon/control.pb-c.h"
#include "daemon/discard.h"
#include "daemon/engine.h"
#include "daemon/log.h"
#include "daemon/settings.h"
#include "hv/nursery.h"

#define WELCOME_PATIENCE_MS 30000

/* Everything opened on the way, to be closed on the way back. */
struct start {
    Hl__Control__ToWorker *message;
    const Hl__Control__Welcome *welcome;
    int passed_fd; /* /dev/kvm, or -1 */
    int nursery_fd;
    pid_t nursery;
    struct settings settings;
    const struct hv_backend *hv;
    struct hv_host *host;
    struct confine_report report;
};

static int read_welcome(struct start *start, int control_fd, struct hl_error *err)
{
    struct pollfd pfd = {.fd = control_fd, .events = POLLIN};
    ProtobufCMessage *message;
    int r;

    do {
        if (poll(&pfd, 1, WELCOME_PATIENCE_MS) <= 0)
            return hl_error_set(err, -ETIMEDOUT, "no welcome from the front");
        r = control_recv(control_fd, &hl__control__to_worker__descriptor, &message,
                         &start->passed_fd);
    } while (r == -EAGAIN);
    if (r <= 0)
        return hl_error_set(err, r < 0 ? r : -ECONNRESET, "reading the welcome: %s",
                            r < 0 ? strerror(-r) : "the front is gone");
    start->message = (Hl__Control__ToWorker *)message;
    if (start->message->kind_case != HL__CONTROL__TO_WORKER__KIND_WELCOME)
        return hl_error_set(err, -EPROTO, "the first message is not the welcome");
    start->welcome = start->message->welcome;
    return settings_from_control(&start->settings, start->welcome->settings, err);
}

static int open_backend(struct start *start, struct hl_error *err)
{
    struct hv_host_config config = {.kvm_fd = start->passed_fd, .nursery_fd = -1};
    int r;

    start->hv = hv_backend_find(start->settings.backend, err);
    if (!start->hv)
        return err->code < 0 ? err->code : -EINVAL;
    if (start->hv == &hv_backend_process) {
        r = nursery_spawn("/proc/self/exe", &start->nursery_fd, &start->nursery, err);
        if (r < 0)
            return hl_error_wrap(err, r, "starting the nursery");
        config.nursery_fd = start->nursery_fd;
    }
    r = start->hv->host_open(&start->host, &config, err);
    return r < 0 ? hl_error_wrap(err, r, "backend %s", start->hv->name) : 0;
}

/* Descriptors for: each connection; what clients send beside their calls; each VM (VM and vCPU, or
 * socket, memory, pidfd, eventfd and the window on its way for `process`); two files of a snapshot
 * and a zygote for each program that is kept (images.c), and some on their way; what libc and libuv
 * hold. Less where the system allows less. */
static uint64_t files_needed(const struct settings *settings)
{
    uint64_t n = settings->max_connections * 3ull + ENGINE_DESCRIPTORS_MAX + settings->max_vms * 6 +
                 2048 + 256;
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_max != RLIM_INFINITY &&
        n > limit.rlim_max)
        return limit.rlim_max;
    return n;
}

static int confine(struct start *start, struct hl_error *err)
{
    const struct settings *settings = &start->settings;
    uint64_t largest = settings->maxima.memory;
    struct confine_options options = {
        .max_files = files_needed(settings),
        .guest_processes = start->hv == &hv_backend_process,
    };

    if (largest < settings->max_image_size)
        largest = settings->max_image_size;
    options.max_file_size = largest + settings->maxima.io_size;
    return confine_self(&options, &start->report, err);
}

static int start_engine(struct start *start, struct engine **engine, int control_fd,
                        struct hl_error *err)
{
    const struct engine_config config = {
        .hv = start->hv,
        .host = start->host,
        .control_fd = control_fd,
        .uid = start->welcome->uid,
        .version = start->welcome->version,
        .settings = start->settings,
        .confinement = start->report,
    };

    return engine_new(engine, &config, err);
}

static int serve(struct start *start, int control_fd, struct hl_error *err)
{
    _cleanup_close_ int control = control_fd;
    struct engine *engine;
    char who[32];
    int r = read_welcome(start, control, err);

    if (r < 0)
        return r;
    snprintf(who, sizeof(who), "worker of uid %u", start->welcome->uid);
    log_init(who);
    if (start->welcome->run_uid != 0) {
        r = confine_become(start->welcome->run_uid, start->welcome->run_gid, err);
        if (r < 0)
            return r;
    }
    r = open_backend(start, err);
    if (r < 0)
        return r;
    r = confine(start, err);
    if (r < 0)
        return r;
    if (fcntl(control, F_SETFL, O_NONBLOCK) < 0)
        return hl_error_set(err, -errno, "the control channel: %s", strerror(errno));
    r = discard_use_thread();
    if (r < 0)
        return hl_error_set(err, r, "cannot make a thread: %s", strerror(-r));
    r = start_engine(start, &engine, hl_steal_fd(&control), err);
    if (r < 0)
        return r;
    r = engine_run(engine);
    engine_free(engine);
    return r < 0 ? hl_error_set(err, r, "the engine: %s", strerror(-r)) : 0;
}

int worker_main(int control_fd)
{
    struct start start = {.passed_fd = -1, .nursery_fd = -1};
    struct hl_error err = HL_ERROR_INIT;
    int r;

    log_init("worker");
    prctl(PR_SET_NAME, "hld-worker"); /* for ps and top, which would say "exe" */
    signal(SIGPIPE, SIG_IGN);
    if (sodium_init() < 0) {
        log_error("libsodium cannot start");
        close(control_fd);
        return 1;
    }
    r = serve(&start, control_fd, &err);
    if (r < 0)
        log_error("%s", err.text[0] ? err.text : strerror(-r));
    if (start.host)
        start.hv->host_close(start.host);
    hl_cleanup_closep(&start.nursery_fd);
    hl_cleanup_closep(&start.passed_fd);
    if (start.message)
        hl__control__to_worker__free_unpacked(start.message, NULL);
    return r < 0 ? 1 : 0;
}
