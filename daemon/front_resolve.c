/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A name becomes a program, and a snapshot where there is one.
 *
 * A worker gets the program's file itself and believes that it is what the entry says, so that must
 * be known here and not only once: the file is read and hashed when nobody has done so since the
 * start, and again whenever it is not in the state that was hashed (another inode, or changed
 * since). Nobody but hld and root can change it, so this is against damage, not against an attack.
 *
 * A snapshot is handed out as a sealed copy in memory, made and checked on the thread pool. It goes
 * in a packet of its own before the Reply, since a packet carries one descriptor.
 *
 * In the background every program is read once, to find damage before somebody calls it. That has
 * all the time in the world: after each it rests several times as long as the reading took, so that
 * the first calls after a start have the disk and the processors nearly to themselves.
 */
#include "config.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "daemon/front_internal.h"
#include "daemon/registry_snapshot.h"

#define SCRUB_RESTS 4u /* times as long as it worked */

static void resolve(struct request *request);

static void send_snapshot(struct request *request)
{
    Hl__Control__Snapshot message = HL__CONTROL__SNAPSHOT__INIT;
    Hl__Control__ToWorker packet = HL__CONTROL__TO_WORKER__INIT;

    if (request->snapshot_fd < 0)
        return;
    message.id = request->id;
    packet.kind_case = HL__CONTROL__TO_WORKER__KIND_SNAPSHOT;
    packet.snapshot = &message;
    channel_send(request->worker, &packet, hl_steal_fd(&request->snapshot_fd));
}

/* Consumes request, whose entry and descriptors are filled. */
static void finish(struct request *request, int r)
{
    if (r < 0) {
        request_fail(request, r);
        return;
    }
    send_snapshot(request);
    request_succeed(request, &request->entry.manifest, hl_steal_fd(&request->fd));
}

static void look_work(uv_work_t *work)
{
    struct request *request = work->data;
    const struct registry_store *store = registry_store(request->front->registry);
    const struct manifest *m = &request->entry.manifest;

    if (request->root) {
        request->part_result =
            registry_store_copy(store, &m->parts[PART_ROOT], &request->fd, &request->err);
        return;
    }
    if (request->check)
        request->result = registry_store_program(store, m->sha256, m->size, true, &request->fd,
                                                 &request->stamp, &request->err);
    if (request->result == 0 && m->has_state)
        request->part_result =
            registry_store_copy(store, &m->parts[PART_STATE], &request->snapshot_fd, &request->err);
    if (request->result == 0 && request->entry.snapshot > 0 && request->snapshot_fd < 0) {
        struct hl_error *err = &request->err;

        request->snapshot_result =
            registry_snapshot_read(store, m, &request->snapshot_fd, &request->snapshot_size, err);
    }
}

/* What the thread pool found out about the program. */
static void note_program(struct request *request)
{
    struct registry *registry = request->front->registry;
    const struct manifest *m = &request->entry.manifest;

    if (request->result == 0) {
        registry_set_blob(registry, m->sha256, request->entry.blob, BLOB_GOOD, &request->stamp);
    } else if (request->result == -EBADMSG) {
        registry_set_blob(registry, m->sha256, request->entry.blob, BLOB_DAMAGED, NULL);
        log_error("image %s cannot be called: %s", m->name, request->err.text);
    }
}

static void note_snapshot(struct request *request)
{
    struct front *front = request->front;
    const struct registry_entry *entry = &request->entry;
    int r = request->snapshot_result;

    if (r == 0) {
        if (request->snapshot_size > 0) /* read now, not taken from those that are kept */
            snapshots_keep(front, entry, request->snapshot_fd, request->snapshot_size);
        return;
    }
    if (r == -EBADMSG) {
        request->snapshot_damaged = true;
        log_error("the snapshot of image %s is damaged and will be made again: %s",
                  entry->manifest.name, request->err.text);
    }
    if (r == -EBADMSG || r == -ENOENT)
        registry_snapshot_drop(front->registry, entry->manifest.name, entry->snapshot_version);
    else
        log_limited(&front->snapshot_log, LOG_LEVEL_WARNING,
                    "the snapshot of image %s cannot be read: %s", entry->manifest.name,
                    strerror(-r));
    request->err = (struct hl_error)HL_ERROR_INIT;
}

static void on_looked(uv_work_t *work, int status)
{
    struct request *request = work->data;
    struct front *front = request->front;
    const struct manifest *m = &request->entry.manifest;
    struct registry_entry now;

    (void)status;
    front->jobs--;
    if (request->check)
        note_program(request);
    if (request->result == 0)
        note_snapshot(request);
    if (request->result == 0 && request->part_result < 0) {
        request->result = request->part_result;
        log_error("image %s cannot be called: %s", m->name, request->err.text);
    }
    if (registry_find(front->registry, m->name, request->worker->uid, &now, NULL) < 0 ||
        now.generation != request->entry.generation) {
        /* Its Invalidate was sent already: this answer would be the old one, and stay. */
        hl_cleanup_closep(&request->fd);
        hl_cleanup_closep(&request->snapshot_fd);
        request->fd = request->snapshot_fd = -1;
        resolve(request);
    } else {
        if (request->result < 0)
            hl_error_wrap(&request->err, request->result, "image '%s'", m->name);
        finish(request, request->result);
    }
    front_check_drained(front);
}

/* Whether the file of the entry's program, opened here, is one that was hashed and is as it was.
 * Returns: 1 when it has to be hashed; 0; a negative errno. */
static int open_program(struct request *request)
{
    struct front *front = request->front;
    const struct registry_entry *entry = &request->entry;
    const struct manifest *m = &entry->manifest;
    struct registry_stamp now;
    int r;

    if (entry->blob == BLOB_DAMAGED)
        return hl_error_set(&request->err, -EBADMSG,
                            "image '%s' is damaged on the daemon's disk: register it again",
                            m->name);
    if (entry->blob == BLOB_UNCHECKED)
        return 1;
    r = registry_store_program(registry_store(front->registry), m->sha256, m->size, false,
                               &request->fd, &now, &request->err);
    if (r == -EBADMSG) {
        registry_set_blob(front->registry, m->sha256, BLOB_GOOD, BLOB_DAMAGED, NULL);
        log_error("image %s cannot be called: %s", m->name, request->err.text);
    }
    if (r < 0 || registry_stamp_same(&now, &entry->stamp))
        return r;
    close(hl_steal_fd(&request->fd));
    return 1;
}

/* Consumes request. */
static void resolve(struct request *request)
{
    struct front *front = request->front;
    struct registry_entry *entry = &request->entry;
    int r;

    request->err = (struct hl_error)HL_ERROR_INIT;
    request->result = request->snapshot_result = request->part_result = 0;
    request->snapshot_size = 0;
    r = registry_find(front->registry, request->manifest.name, request->worker->uid, entry,
                      &request->err);
    if (r == 0 && request->root && !entry->manifest.has_state)
        r = hl_error_set(&request->err, -EINVAL, "image '%s' has no root", entry->manifest.name);
    if (r == 0 && !request->root)
        r = open_program(request);
    if (r < 0) {
        finish(request, r);
        return;
    }
    request->check = r > 0;
    if (front->config.max_snapshot_disk == 0 || entry->manifest.has_state)
        entry->snapshot = 0;
    if (entry->snapshot > 0)
        request->snapshot_fd = snapshots_take(front, entry);
    if (!request->check && !request->root && !entry->manifest.has_state &&
        (entry->snapshot == 0 || request->snapshot_fd >= 0)) {
        finish(request, 0);
        return;
    }
    request->work.data = request;
    /* Fails for a NULL callback alone. */
    uv_queue_work(&front->loop, &request->work, look_work, on_looked);
    front->jobs++;
}

void request_resolve(struct request *request)
{
    resolve(request);
}

/* The background check */

struct scrub {
    uv_work_t work;
    struct front *front;
    uint64_t size, took_ns;
    struct registry_stamp stamp;
    int result;
    struct hl_error err;
};

static void scrub_next(uv_timer_t *timer);

static void scrub_work(uv_work_t *work)
{
    struct scrub *scrub = work->data;
    uint64_t begin = uv_hrtime();
    int fd = -1;

    scrub->result =
        registry_store_program(registry_store(scrub->front->registry), scrub->front->scrubbed,
                               scrub->size, true, &fd, &scrub->stamp, &scrub->err);
    if (fd >= 0)
        close(fd);
    scrub->took_ns = uv_hrtime() - begin;
}

static void on_scrubbed(uv_work_t *work, int status)
{
    struct scrub *scrub = work->data;
    struct front *front = scrub->front;

    (void)status;
    front->jobs--;
    front->scrubbing = false;
    if (scrub->result == 0) {
        registry_set_blob(front->registry, front->scrubbed, BLOB_UNCHECKED, BLOB_GOOD,
                          &scrub->stamp);
    } else if (scrub->result == -EBADMSG) {
        registry_set_blob(front->registry, front->scrubbed, BLOB_UNCHECKED, BLOB_DAMAGED, NULL);
        log_error("an image cannot be called: %s", scrub->err.text);
    }
    if (scrub->result == 0 || scrub->result == -EBADMSG)
        uv_timer_start(&front->scrub_pause, scrub_next, 1 + SCRUB_RESTS * scrub->took_ns / 1000000u,
                       0);
    free(scrub);
    front_check_drained(front);
}

static void scrub_next(uv_timer_t *timer)
{
    struct front *front = timer->data;
    struct scrub *scrub;

    if (front->scrubbing || front->draining)
        return;
    scrub = calloc(1, sizeof(*scrub));
    if (!scrub)
        return;
    if (!registry_next_unchecked(front->registry, front->scrubbed, &scrub->size)) {
        free(scrub);
        return;
    }
    scrub->front = front;
    scrub->work.data = scrub;
    uv_queue_work(&front->loop, &scrub->work, scrub_work, on_scrubbed);
    front->scrubbing = true;
    front->jobs++;
}

void requests_scrub_start(struct front *front)
{
    scrub_next(&front->scrub_pause);
}
