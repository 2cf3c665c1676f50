/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Snapshots kept beside their images. What is in one is a worker's word, so the question is whose.
 * It is kept when it comes from a worker of the image's owner, for the image as it is registered
 * now: the owner chooses what the image does anyway, and a worker that is in somebody else's hands
 * can register any program as its uid, so it gains nothing. Other uids' workers hand nothing in.
 * Whoever gets one takes it for as hostile as a program (hv/snapshot_file.c).
 *
 * Saving is nobody's wait: the worker has answered its client before. One is written at a time, so
 * that those who save leave the thread pool to those who call. A snapshot that cannot be kept (no
 * room, no disk, the image changed meanwhile) is a line in the log and no more.
 *
 * The copies in memory that workers got are kept for the next worker for a while, so that workers
 * of many uids share one. A large one is not: it would be memory of the front's that no uid pays
 * for. Each worker gets a copy of its own then, and counts it among its programs.
 */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "daemon/front_internal.h"
#include "daemon/registry_snapshot.h"

#define KEPT_MAX   256u
#define KEPT_BYTES (64u << 20)

struct kept {
    struct list link;
    char name[HL_NAME_MAX + 1];
    uint64_t generation, version; /* of the entry and its snapshot */
    uint64_t size;
    int fd;
};

static void drop(struct front *front, struct kept *kept)
{
    list_remove(&kept->link);
    front->snapshot_count--;
    front->snapshot_bytes -= kept->size;
    close(kept->fd);
    free(kept);
}

int snapshots_take(struct front *front, const struct registry_entry *entry)
{
    LIST_FOREACH(l, &front->snapshots)
    {
        struct kept *kept = LIST_ENTRY(l, struct kept, link);

        if (strcmp(kept->name, entry->manifest.name) != 0)
            continue;
        if (kept->generation != entry->generation || kept->version != entry->snapshot_version) {
            drop(front, kept);
            return -1;
        }
        list_remove(&kept->link);
        list_push_front(&front->snapshots, &kept->link);
        return fcntl(kept->fd, F_DUPFD_CLOEXEC, 0);
    }
    return -1;
}

void snapshots_keep(struct front *front, const struct registry_entry *entry, int fd, uint64_t size)
{
    struct kept *kept = size <= KEPT_BYTES ? calloc(1, sizeof(*kept)) : NULL;

    if (!kept)
        return;
    kept->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (kept->fd < 0) {
        free(kept);
        return;
    }
    memcpy(kept->name, entry->manifest.name, sizeof(kept->name));
    kept->generation = entry->generation;
    kept->version = entry->snapshot_version;
    kept->size = size;
    list_push_front(&front->snapshots, &kept->link);
    front->snapshot_count++;
    front->snapshot_bytes += size;
    while (front->snapshot_count > KEPT_MAX || front->snapshot_bytes > KEPT_BYTES)
        drop(front, LIST_ENTRY(front->snapshots.prev, struct kept, link));
}

void snapshots_free(struct front *front)
{
    while (!list_empty(&front->snapshots))
        drop(front, LIST_ENTRY(front->snapshots.next, struct kept, link));
}

/* Saving */

static void next_save(struct front *front);

static int admit(struct request *request)
{
    struct front *front = request->front;

    if (front->draining)
        return hl_error_set(&request->err, -ESHUTDOWN, "the daemon is stopping");
    return registry_snapshot_admit(front->registry, &request->manifest, request->worker->uid,
                                   request->snapshot_size, front->config.max_snapshot_disk,
                                   &request->err);
}

/* Consumes request. */
static void finish(struct request *request, int r)
{
    if (r == 0) {
        request_succeed(request, NULL, -1);
        return;
    }
    if (r != -ENOENT && r != -ESHUTDOWN && request->front->config.max_snapshot_disk > 0)
        log_limited(&request->front->snapshot_log, LOG_LEVEL_WARNING,
                    "a snapshot of image %s from uid %u is not kept: %s", request->manifest.name,
                    request->worker->uid, request->err.text);
    request_fail(request, r);
}

static void save_work(uv_work_t *work)
{
    struct request *request = work->data;

    request->result =
        registry_snapshot_write(registry_store(request->front->registry), &request->manifest,
                                request->fd, request->snapshot_size, request->temp, &request->err);
}

static void on_saved(uv_work_t *work, int status)
{
    struct request *request = work->data;
    struct front *front = request->front;
    int r = request->result;

    (void)status;
    front->jobs--;
    front->saving = false;
    if (r == 0)
        r = registry_snapshot_put(front->registry, &request->manifest, request->worker->uid,
                                  request->snapshot_size, front->config.max_snapshot_disk,
                                  request->temp, &request->err);
    finish(request, r);
    next_save(front);
    front_check_drained(front);
}

static void next_save(struct front *front)
{
    while (front->saves && !front->saving) {
        struct request *request = front->saves;
        int r = admit(request);

        front->saves = request->next;
        if (!front->saves)
            front->saves_end = &front->saves;
        if (r < 0) {
            finish(request, r);
            continue;
        }
        request->work.data = request;
        /* Fails for a NULL callback alone. */
        uv_queue_work(&front->loop, &request->work, save_work, on_saved);
        front->saving = true;
        front->jobs++;
    }
}

void request_save(struct request *request, uint64_t size)
{
    struct front *front = request->front;

    request->snapshot_size = size;
    request->next = NULL;
    *front->saves_end = request;
    front->saves_end = &request->next;
    next_save(front);
}
