/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What systemd is told about a running front (sd_notify(3)). States that it waits for are sent by
 * sd_notify itself; status lines and the watchdog's beat go here, without ever waiting: a service
 * manager that is busy must not hold up connections.
 */
#include "config.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "daemon/front_internal.h"

#define STATUS_MS 500u /* status lines come no closer than this */

static void try_notify(const char *state)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    const char *path = getenv("NOTIFY_SOCKET");
    _cleanup_close_ int fd = -1;
    size_t len = path ? strlen(path) : 0;

    if (len < 2 || len >= sizeof(address.sun_path) || (path[0] != '/' && path[0] != '@'))
        return;
    memcpy(address.sun_path, path, len);
    if (path[0] == '@')
        address.sun_path[0] = '\0';
    fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || sendto(fd, state, strlen(state), MSG_DONTWAIT | MSG_NOSIGNAL,
                         (const struct sockaddr *)&address,
                         (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len)) < 0)
        return; /* the next one says as much */
}

static void on_status_time(uv_timer_t *timer)
{
    struct front *front = timer->data;
    unsigned int count = front->worker_count;
    size_t images = registry_count(front->registry);
    char text[128];

    snprintf(text, sizeof(text), "STATUS=%s %u user%s, %zu image%s registered",
             front->draining ? "Stopping; still serving" : "Serving", count, count == 1 ? "" : "s",
             images, images == 1 ? "" : "s");
    try_notify(text);
}

void front_status(struct front *front)
{
    if (!uv_is_closing((uv_handle_t *)&front->status) &&
        !uv_is_active((uv_handle_t *)&front->status))
        uv_timer_start(&front->status, on_status_time, front->status_sent ? STATUS_MS : 0, 0);
    front->status_sent = true;
}

static void on_watchdog(uv_timer_t *timer)
{
    (void)timer;
    try_notify("WATCHDOG=1");
}

void front_notify_start(struct front *front)
{
    uint64_t usec = 0;

    if (sd_watchdog_enabled(0, &usec) <= 0 || usec == 0)
        return;
    /* sd_watchdog_enabled(3): at half the time at the latest. */
    uv_timer_start(&front->watchdog, on_watchdog, 0, usec / 2000u > 0 ? usec / 2000u : 1);
}
