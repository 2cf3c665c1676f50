/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The order matters: capabilities go while the uid is already the final one; the limits come before
 * seccomp, which no longer lets them be raised; Landlock needs no_new_privs and system calls that
 * seccomp then refuses; seccomp is last. A layer that this kernel cannot give is left out of the
 * report and never replaced by a weaker one under the same name. Only Landlock may be missing.
 */
#include "config.h"

#include "daemon/confine.h"

#include <cap-ng.h>
#include <errno.h>
#include <grp.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#ifdef HL_SANITIZED
/* The leak check at exit clones a tracer, which seccomp answers by killing the process; the
 * sanitizer asks this first. Leaks of the engine are looked for in its unconfined unit tests. */
static int confined;
__attribute__((visibility("default"))) int __lsan_is_turned_off(void);
int __lsan_is_turned_off(void)
{
    return confined;
}
#define MARK_CONFINED() (confined = 1)
#else
#define MARK_CONFINED() ((void)0)
#endif

static int drop_capabilities(struct hl_error *err)
{
    capng_clear(CAPNG_SELECT_ALL);
    /* The bounding set needs CAP_SETPCAP to shrink; without it and with no_new_privs no exec can
     * gain from it. */
    if (capng_get_caps_process() == 0 && capng_have_capability(CAPNG_EFFECTIVE, CAP_SETPCAP)) {
        capng_clear(CAPNG_SELECT_ALL);
        if (capng_apply(CAPNG_SELECT_BOUNDS) != 0)
            return hl_error_set(err, -EPERM, "cannot empty the capability bounding set");
    }
    capng_clear(CAPNG_SELECT_ALL);
    if (capng_apply(CAPNG_SELECT_CAPS) != 0)
        return hl_error_set(err, -EPERM, "cannot drop capabilities");
    if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) != 0 && errno != EINVAL)
        return hl_error_set(err, -errno, "cannot clear ambient capabilities: %s", strerror(errno));
    if (capng_get_caps_process() != 0 || capng_have_capabilities(CAPNG_SELECT_CAPS) != CAPNG_NONE)
        return hl_error_set(err, -EPERM, "capabilities are left after dropping them");
    return 0;
}

int confine_become(uid_t uid, gid_t gid, struct hl_error *err)
{
    if (geteuid() != 0) {
        if (geteuid() == uid && getegid() == gid)
            return 0;
        return hl_error_set(err, -EPERM, "cannot become uid %u without being root", uid);
    }
    if (setgroups(0, NULL) != 0)
        return hl_error_set(err, -errno, "setgroups: %s", strerror(errno));
    if (setresgid(gid, gid, gid) != 0)
        return hl_error_set(err, -errno, "setresgid %u: %s", gid, strerror(errno));
    /* Leaving uid 0 empties the capability sets, the bounding set apart, which has to go before. */
    capng_clear(CAPNG_SELECT_ALL);
    if (capng_apply(CAPNG_SELECT_BOUNDS) != 0)
        return hl_error_set(err, -EPERM, "cannot empty the capability bounding set");
    if (setresuid(uid, uid, uid) != 0)
        return hl_error_set(err, -errno, "setresuid %u: %s", uid, strerror(errno));
    return 0;
}

static int set_limit(int resource, rlim_t value, const char *name, struct hl_error *err)
{
    struct rlimit limit = {.rlim_cur = value, .rlim_max = value};
    struct rlimit old;

    if (getrlimit(resource, &old) == 0 && old.rlim_max < value)
        limit.rlim_cur = limit.rlim_max = old.rlim_max;
    if (setrlimit(resource, &limit) != 0)
        return hl_error_set(err, -errno, "%s: %s", name, strerror(errno));
    return 0;
}

static int limit_resources(const struct confine_options *options, struct hl_error *err)
{
    int r = set_limit(RLIMIT_CORE, 0, "RLIMIT_CORE", err);

    /* The limit is of the settings at the start, and those may grow: EFBIG for what is past it, not
     * the end of everybody's calls. */
    signal(SIGXFSZ, SIG_IGN);
    if (r == 0)
        r = set_limit(RLIMIT_NOFILE, options->max_files, "RLIMIT_NOFILE", err);
    if (r == 0)
        r = set_limit(RLIMIT_FSIZE, options->max_file_size, "RLIMIT_FSIZE", err);
    if (r == 0)
        r = set_limit(RLIMIT_MSGQUEUE, 0, "RLIMIT_MSGQUEUE", err);
    return r;
}

static void add_layer(struct confine_report *report, const char *layer)
{
    if (report->count < CONFINE_LAYERS_MAX)
        report->layers[report->count++] = layer;
}

int confine_self(const struct confine_options *options, struct confine_report *report,
                 struct hl_error *err)
{
    int r;

    report->count = 0;
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
        return hl_error_set(err, -errno, "no_new_privs: %s", strerror(errno));
    add_layer(report, "no_new_privs");
    r = drop_capabilities(err);
    if (r < 0)
        return r;
    add_layer(report, "no-capabilities");
    if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0)
        return hl_error_set(err, -errno, "PR_SET_DUMPABLE: %s", strerror(errno));
    add_layer(report, "non-dumpable");
    r = limit_resources(options, err);
    if (r < 0)
        return r;
    add_layer(report, "rlimits");
    r = confine_landlock(options);
    if (r == 0)
        add_layer(report, "landlock");
    else if (r != -ENOSYS && r != -EOPNOTSUPP)
        return hl_error_set(err, r, "Landlock: %s", strerror(-r));
    r = confine_seccomp(options, err);
    if (r < 0)
        return r;
    MARK_CONFINED();
    add_layer(report, "seccomp");
    return 0;
}
