/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The listening socket. One of our own is given its mode and group before it listens, so that
 * nobody can connect in between; a stale one is told from a live one by connecting to it. What the
 * peer is, the kernel says (SO_PEERCRED), once, here.
 */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "daemon/discard.h"
#include "daemon/front_internal.h"

#define ACCEPTS_A_TURN 64
#define BACKLOG        511
/* The kernel doubles it. A reply of a megabyte goes out at once, instead of in pieces with two
 * wake-ups for each; clients that do not read cost that much each, of the kernel's memory. */
#define SEND_BUFFER (512 << 10)
#define PAUSE_MS    100

static bool in_list(const struct configuration_ids *list, uint32_t id)
{
    for (uint32_t i = 0; i < list->count; i++) {
        if (list->id[i] == id)
            return true;
    }
    return false;
}

/* Whether one of the peer's supplementary groups is on the list. */
static bool groups_allowed(const struct configuration_ids *list, int fd)
{
    socklen_t size = 64 * sizeof(gid_t);
    _cleanup_free_ gid_t *groups = malloc(size);
    int r = groups ? getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, groups, &size) : 0;

    if (r < 0 && errno == ERANGE) {
        free(groups);
        groups = malloc(size); /* the call said how much it needs */
        r = groups ? getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, groups, &size) : 0;
    }
    for (size_t i = 0; groups && r == 0 && i < size / sizeof(gid_t); i++) {
        if (in_list(list, groups[i]))
            return true;
    }
    return false;
}

static bool allowed(const struct configuration *config, const struct ucred *peer, int fd)
{
    if (config->allow_uids.count == 0 && config->allow_gids.count == 0)
        return true;
    if (in_list(&config->allow_uids, peer->uid))
        return true;
    if (config->allow_gids.count == 0)
        return false;
    return in_list(&config->allow_gids, peer->gid) || groups_allowed(&config->allow_gids, fd);
}

void front_refuse(int connection)
{
    shutdown(connection, SHUT_RDWR);
    discard(connection);
}

static void take_connection(struct front *front, int taken)
{
    _cleanup_refuse_ int fd = taken;
    socklen_t size = sizeof(struct ucred);
    struct ucred peer;

    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0)
        return;
    (void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &(int){SEND_BUFFER}, sizeof(int));
    if (!allowed(&front->config, &peer, fd)) {
        log_limited(&front->refused_log, LOG_LEVEL_NOTICE,
                    "connection refused: uid %u (pid %d) is on no allow list", peer.uid, peer.pid);
        return;
    }
    worker_hand_over(front, &peer, hl_steal_fd(&fd));
}

static void on_pause_over(uv_timer_t *timer);

static void on_connection(uv_poll_t *poll, int status, int events)
{
    struct front *front = poll->data;

    (void)events;
    if (status < 0)
        return;
    for (int i = 0; i < ACCEPTS_A_TURN; i++) {
        int fd = accept4(front->listener.fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

        if (fd >= 0) {
            take_connection(front, fd);
            continue;
        }
        if (errno == EINTR || errno == ECONNABORTED)
            continue;
        if (errno != EAGAIN) {
            /* The waiting connection would wake the loop again at once. */
            log_limited(&front->busy_log, LOG_LEVEL_ERROR, "cannot accept a connection: %s",
                        strerror(errno));
            uv_poll_stop(&front->listener.poll);
            uv_timer_start(&front->listener.pause, on_pause_over, PAUSE_MS, 0);
        }
        return;
    }
}

static void on_pause_over(uv_timer_t *timer)
{
    struct front *front = timer->data;

    uv_poll_start(&front->listener.poll, UV_READABLE, on_connection);
}

/* Returns: 0 when nothing is in the way any more. */
static int remove_stale(const struct sockaddr_un *address, struct hl_error *err)
{
    _cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    const char *path = address->sun_path;
    struct stat st;

    if (fd < 0)
        return hl_error_set(err, -errno, "socket: %s", strerror(errno));
    if (lstat(path, &st) < 0)
        return errno == ENOENT ? 0 : hl_error_set(err, -errno, "%s: %s", path, strerror(errno));
    if (!S_ISSOCK(st.st_mode))
        return hl_error_set(err, -EEXIST, "%s exists and is no socket", path);
    if (connect(fd, (const struct sockaddr *)address, sizeof(*address)) == 0 || errno == EAGAIN)
        return hl_error_set(err, -EADDRINUSE, "another hld is serving %s", path);
    if (errno != ECONNREFUSED)
        return hl_error_set(err, -errno, "%s: %s", path, strerror(errno));
    if (unlink(path) < 0 && errno != ENOENT)
        return hl_error_set(err, -errno, "%s: cannot remove the old socket: %s", path,
                            strerror(errno));
    return 0;
}

/* The group of a socket of ours. A group that was asked for must work; the built-in one may not. */
static int set_group(const struct configuration *config, struct hl_error *err)
{
    bool asked = config->socket_group[0] != '\0';
    const char *name = asked ? config->socket_group : "hld";
    const struct group *group = getgrnam(name);

    if (!group)
        return asked ? hl_error_set(err, -ENOENT, "socket_group: no group '%s'", name) : 0;
    if (lchown(config->socket, (uid_t)-1, group->gr_gid) < 0 && asked)
        return hl_error_set(err, -errno, "%s: cannot be given to group '%s': %s", config->socket,
                            name, strerror(errno));
    return 0;
}

static void make_parent(const char *path)
{
    char parent[CONFIGURATION_SOCKET_MAX];
    const char *slash = strrchr(path, '/');

    if (!slash || slash == path)
        return;
    memcpy(parent, path, (size_t)(slash - path));
    parent[slash - path] = '\0';
    mkdir(parent, 0755); /* what is wrong with it, bind will say */
}

static int make_socket(struct front *front, struct hl_error *err)
{
    const struct configuration *config = &front->config;
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    _cleanup_close_ int fd = -1;
    struct stat st;
    mode_t mask;
    int r;

    memcpy(address.sun_path, config->socket, sizeof(address.sun_path));
    make_parent(config->socket);
    r = remove_stale(&address, err);
    if (r < 0)
        return r;
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return hl_error_set(err, -errno, "socket: %s", strerror(errno));
    mask = umask(0777);
    r = bind(fd, (const struct sockaddr *)&address, sizeof(address)) < 0 ? -errno : 0;
    umask(mask);
    if (r < 0)
        return hl_error_set(err, r, "%s: %s", config->socket, strerror(-r));
    r = set_group(config, err);
    if (r == 0 &&
        (lstat(config->socket, &st) < 0 || chmod(config->socket, (mode_t)config->socket_mode) < 0 ||
         listen(fd, BACKLOG) < 0))
        r = hl_error_set(err, -errno, "%s: %s", config->socket, strerror(errno));
    if (r < 0) {
        unlink(config->socket);
        return r;
    }
    front->listener.own = true;
    front->listener.device = st.st_dev;
    front->listener.inode = st.st_ino;
    front->listener.fd = hl_steal_fd(&fd);
    return 0;
}

int listener_open(struct front *front, struct hl_error *err)
{
    struct front_listener *l = &front->listener;
    int r = 0;

    if (front->options->listen_fd >= 0)
        l->fd = front->options->listen_fd;
    else
        r = make_socket(front, err);
    if (r < 0)
        return r;
    uv_timer_init(&front->loop, &l->pause);
    r = uv_poll_init(&front->loop, &l->poll, l->fd);
    if (r == 0) {
        l->poll.data = l->pause.data = front;
        l->polling = true;
        r = uv_poll_start(&l->poll, UV_READABLE, on_connection);
    }
    return r < 0 ? hl_error_set(err, r, "cannot watch the socket: %s", strerror(-r)) : 0;
}

void listener_close(struct front *front)
{
    struct front_listener *l = &front->listener;
    struct stat st;

    if (l->polling) {
        uv_close((uv_handle_t *)&l->poll, NULL);
        uv_close((uv_handle_t *)&l->pause, NULL);
    }
    l->polling = false;
    if (l->own && lstat(front->config.socket, &st) == 0 && st.st_dev == l->device &&
        st.st_ino == l->inode)
        unlink(front->config.socket);
    l->own = false;
    discard(hl_steal_fd(&l->fd)); /* with what waits to be accepted */
}
