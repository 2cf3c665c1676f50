/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What workers ask of the front: list, register, unregister here, resolve and save a snapshot in
 * files of their own. A worker runs one uid's clients and may be in their hands, so a request is
 * what a stranger wrote: the uid is the channel's, every field is checked, and a program is
 * believed to be what the front itself has hashed. Reading and syncing files happens on the thread
 * pool; the registry changes one request at a time, taking turns between workers.
 */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "daemon/discard.h"
#include "daemon/front_internal.h"
#include "daemon/front_kv.h"
#include "daemon/registry_snapshot.h"
#include "proto/convert_policy.h"

static void next_change(struct front *front);

void request_free(struct request *request)
{
    struct worker *worker = request->worker;

    discard(request->fd);
    discard(request->snapshot_fd);
    free(request->manifest.host);
    free(request);
    worker_request_done(worker);
}

/* Replies */

struct entry_message {
    Hl__Control__Entry entry;
    Hl__Control__LimitSet limits;
    Hl__Control__State state;
};

static void fill_entry(struct entry_message *message, struct manifest *m,
                       const struct configuration *config)
{
    Hl__Control__Entry *entry = &message->entry;
    Hl__Control__LimitSet *limits = &message->limits;
    Hl__Control__State *state = &message->state;

    hl__control__entry__init(entry);
    settings_fill_limits_in_force(limits, &m->limits, config);
    entry->name = m->name;
    entry->sha256.data = m->sha256;
    entry->sha256.len = sizeof(m->sha256);
    entry->size = m->size;
    entry->owner_uid = m->owner;
    entry->private_ = m->is_private;
    entry->registered_unix_ns = m->registered_ns;
    entry->limits = limits;
    entry->state = m->has_state ? state : NULL;
    hl__control__state__init(state);
    state->parent = m->parent;
    state->root_sha256.data = m->parts[PART_ROOT].sha256;
    state->root_sha256.len = REGISTRY_SHA256_SIZE;
    state->root_size = m->parts[PART_ROOT].size;
    state->pages_sha256.data = m->parts[PART_STATE].sha256;
    state->pages_sha256.len = REGISTRY_SHA256_SIZE;
    state->pages_size = m->parts[PART_STATE].size;
}

static void send_reply(struct worker *worker, Hl__Control__Reply *reply, int fd)
{
    Hl__Control__ToWorker packet = HL__CONTROL__TO_WORKER__INIT;

    packet.kind_case = HL__CONTROL__TO_WORKER__KIND_REPLY;
    packet.reply = reply;
    channel_send(worker, &packet, fd);
}

void request_succeed(struct request *request, struct manifest *m, int fd)
{
    struct worker *worker = request->worker;
    Hl__Control__Reply reply = HL__CONTROL__REPLY__INIT;
    struct entry_message message;
    Hl__Control__Entry *entries = &message.entry;
    struct policy_message host;

    reply.id = request->id;
    reply.snapshot_damaged = request->snapshot_damaged;
    if (m) {
        fill_entry(&message, m, &worker->front->config);
        if (m->host) {
            policy_to_message(&host, m->host);
            message.entry.host = &host.policy;
        }
        reply.entries = &entries;
        reply.n_entries = 1;
    }
    send_reply(worker, &reply, fd);
    request_free(request);
}

static void reply_error(struct worker *worker, uint64_t id, int code, const struct hl_error *err)
{
    Hl__Control__Reply reply = HL__CONTROL__REPLY__INIT;

    reply.id = id;
    reply.status = (int32_t)hl_status_from_errno(code);
    reply.message = (char *)(err->text[0] ? err->text : strerror(-code));
    send_reply(worker, &reply, -1);
}

void request_fail(struct request *request, int code)
{
    reply_error(request->worker, request->id, code, &request->err);
    request_free(request);
}

/* The worker is to send what it left out. */
static void request_need_root(struct request *request)
{
    Hl__Control__Reply reply = HL__CONTROL__REPLY__INIT;

    reply.id = request->id;
    reply.status = HL_STATUS_FAILED_PRECONDITION;
    reply.message = (char *)"the root of its state is not here, or damaged";
    reply.root_needed = true;
    send_reply(request->worker, &reply, -1);
    request_free(request);
}

/* List */

static void list(struct worker *worker, uint64_t id, const Hl__Control__List *asked)
{
    size_t max = asked->limit > 0 && asked->limit < LIST_PAGE_MAX ? asked->limit : LIST_PAGE_MAX;
    struct manifest *found = calloc(max, sizeof(*found));
    struct entry_message *entries = calloc(max, sizeof(*entries));
    Hl__Control__Entry **pointers = calloc(max, sizeof(*pointers));
    Hl__Control__Reply reply = HL__CONTROL__REPLY__INIT;
    struct hl_error err = HL_ERROR_INIT;
    bool more;

    if (found && entries && pointers) {
        reply.id = id;
        reply.n_entries =
            registry_list(worker->front->registry, worker->uid, asked->after, max, found, &more);
        reply.entries = pointers;
        reply.more = more;
        for (size_t i = 0; i < reply.n_entries; i++) {
            fill_entry(&entries[i], &found[i], &worker->front->config);
            pointers[i] = &entries[i].entry;
        }
        send_reply(worker, &reply, -1);
    } else {
        reply_error(worker, id, -ENOMEM, &err);
    }
    free(found);
    free(entries);
    free(pointers);
}

/* Register and unregister */

static void change_work(uv_work_t *work)
{
    struct request *request = work->data;

    registry_change_run(request->change);
}

static void on_changed(uv_work_t *work, int status)
{
    struct request *request = work->data;
    struct front *front = request->front;
    struct manifest now;
    int r;

    (void)status;
    if (registry_change_make_room(request->change)) {
        log_limited(&front->snapshot_log, LOG_LEVEL_WARNING,
                    "the disk is full: all snapshots are removed to make room for image %s",
                    request->manifest.name);
        uv_queue_work(&front->loop, &request->work, change_work, on_changed);
        return;
    }
    front->jobs--;
    front->changing = NULL;
    r = registry_change_end(request->change, &now, &request->err);
    if (r == REGISTRY_ROOT_NEEDED) {
        log_limited(&front->request_log, LOG_LEVEL_WARNING,
                    "the root of image %s is missing or damaged: its worker is asked for it",
                    request->manifest.name);
        request_need_root(request);
    } else if (r < 0) {
        log_limited(&front->request_log, LOG_LEVEL_ERROR, "image %s of uid %u not %s: %s",
                    request->manifest.name, request->worker->uid,
                    request->drop ? "removed" : "registered", request->err.text);
        request_fail(request, r);
    } else {
        log_limited(&front->request_log, LOG_LEVEL_INFO, "image %s %s by uid %u",
                    request->manifest.name, request->drop ? "removed" : "registered",
                    request->worker->uid);
        if (request->drop)
            front_kv_forget(front, request->manifest.name);
        workers_invalidate(front, request->manifest.name);
        request_succeed(request, request->drop ? NULL : &now, -1);
    }
    next_change(front);
    front_check_drained(front);
}

/* Returns: 0; REGISTRY_ROOT_NEEDED; a negative errno. */
static int start_change(struct request *request)
{
    struct front *front = request->front;
    struct registry_quota quota = {
        .max_images = front->config.max_images,
        .max_disk = front->config.max_disk,
    };
    int r;

    if (front->draining)
        return hl_error_set(&request->err, -ESHUTDOWN, "the daemon is stopping");
    if (request->worker->state == WORKER_ENDING)
        return -EPIPE; /* nobody would hear of it */
    if (request->drop)
        r = registry_change_drop(&request->change, front->registry, request->manifest.name,
                                 request->worker->uid, &request->err);
    else if (request->rootless)
        r = registry_change_put_rootless(&request->change, front->registry, &request->manifest,
                                         request->fd, &quota, &request->err);
    else
        r = registry_change_put(&request->change, front->registry, &request->manifest, request->fd,
                                &quota, &request->err);
    if (r != 0)
        return r;
    request->work.data = request;
    /* Fails for a NULL callback alone. */
    uv_queue_work(&front->loop, &request->work, change_work, on_changed);
    front->changing = request;
    front->last_changer = request->worker->uid;
    front->jobs++;
    return 0;
}

/* The oldest request of another worker than the last one, else the oldest. */
static struct request *take_change(struct front *front)
{
    struct request **at = &front->changes, *request;

    while (*at && (*at)->worker->uid == front->last_changer)
        at = &(*at)->next;
    if (!*at)
        at = &front->changes;
    request = *at;
    if (!request)
        return NULL;
    *at = request->next;
    if (front->changes_end == &request->next)
        front->changes_end = at;
    return request;
}

static void next_change(struct front *front)
{
    struct request *request;

    while (!front->changing && (request = take_change(front))) {
        int r = start_change(request);

        if (r == REGISTRY_ROOT_NEEDED)
            request_need_root(request);
        else if (r < 0)
            request_fail(request, r);
    }
}

static void queue_change(struct request *request)
{
    struct front *front = request->front;

    request->next = NULL;
    *front->changes_end = request;
    front->changes_end = &request->next;
    next_change(front);
}

static int take_limits(struct configuration_limits *limits, const Hl__Control__LimitSet *asked,
                       const struct configuration_limits *maxima, struct hl_error *err)
{
    const struct {
        const char *name;
        uint64_t asked, most;
    } checks[] = {
        {"memory", asked ? asked->memory : 0, maxima->memory},
        {"deadline", asked ? asked->deadline_ns : 0, maxima->deadline_ns},
        {"min_instances", asked ? asked->min_instances : 0, maxima->min_instances},
        {"max_instances", asked ? asked->max_instances : 0, maxima->max_instances},
        {"max_queue", asked ? asked->max_queue : 0, maxima->max_queue},
        {"io_size", asked ? asked->io_size : 0, maxima->io_size},
    };

    for (size_t i = 0; i < sizeof(checks) / sizeof(checks[0]); i++) {
        if (checks[i].asked > checks[i].most)
            return hl_error_set(err, -EINVAL,
                                "%s of %" PRIu64 " is more than the limit of %" PRIu64,
                                checks[i].name, checks[i].asked, checks[i].most);
    }
    *limits = (struct configuration_limits){0};
    if (!asked)
        return 0;
    if (asked->max_instances > 0 && asked->min_instances > asked->max_instances)
        return hl_error_set(err, -EINVAL, "min_instances is more than max_instances");
    limits->memory = asked->memory;
    limits->deadline_ns = asked->deadline_ns;
    limits->min_instances = asked->min_instances;
    limits->max_instances = asked->max_instances;
    limits->max_queue = asked->max_queue;
    limits->io_size = asked->io_size;
    return 0;
}

/* What is hashed and copied must not change meanwhile: a sealed memfd of the right size. */
int request_check_file(int fd, uint64_t size, const char *what, struct hl_error *err)
{
    const int needed = F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW;
    struct stat st;
    int seals;

    if (fd < 0)
        return hl_error_set(err, -EINVAL, "the %s is missing", what);
    seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0 || (seals & needed) != needed)
        return hl_error_set(err, -EINVAL, "the %s is not in a sealed memory file", what);
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || (uint64_t)st.st_size != size)
        return hl_error_set(err, -EINVAL, "the %s's size is not the one announced", what);
    return 0;
}

static int take_name(struct manifest *m, const char *name, struct hl_error *err)
{
    size_t len = strlen(name);

    if (!hl_name_valid(name, len))
        return hl_error_set(err, -EINVAL,
                            "an image's name is 1 to %d of A-Z a-z 0-9 . _ -, and begins with "
                            "neither . nor -",
                            HL_NAME_MAX);
    memcpy(m->name, name, len + 1);
    return 0;
}

static int take_policy(struct manifest *m, const Hl__V1__HostPolicy *asked, struct hl_error *err)
{
    int r;

    if (!asked)
        return 0;
    m->host = malloc(sizeof(*m->host));
    if (!m->host)
        return -ENOMEM;
    r = policy_from_message(m->host, asked, err);
    if (r < 0 || host_policy_empty(m->host))
        free(HL_STEAL(m->host));
    return r;
}

/* *total: bytes of the memory file. */
static int take_state(struct manifest *m, const Hl__Control__State *asked, uint64_t *total,
                      struct hl_error *err)
{
    size_t len = asked ? strlen(asked->parent) : 0;

    if (!asked)
        return 0;
    if (!hl_name_valid(asked->parent, len))
        return hl_error_set(err, -EINVAL, "the parent has no image's name");
    if (asked->root_sha256.len != REGISTRY_SHA256_SIZE ||
        asked->pages_sha256.len != REGISTRY_SHA256_SIZE)
        return hl_error_set(err, -EINVAL, "a digest must be %u bytes", REGISTRY_SHA256_SIZE);
    if (asked->root_size == 0 || asked->root_size > CONTROL_SNAPSHOT_MAX ||
        asked->pages_size == 0 || asked->pages_size > CONTROL_SNAPSHOT_MAX)
        return hl_error_set(err, -EMSGSIZE, "a state of that size is not kept");
    m->has_state = true;
    memcpy(m->parent, asked->parent, len + 1);
    memcpy(m->parts[PART_ROOT].sha256, asked->root_sha256.data, REGISTRY_SHA256_SIZE);
    memcpy(m->parts[PART_STATE].sha256, asked->pages_sha256.data, REGISTRY_SHA256_SIZE);
    m->parts[PART_ROOT].size = asked->root_size;
    m->parts[PART_STATE].size = asked->pages_size;
    *total += asked->pages_size + (asked->root_left_out ? 0 : asked->root_size);
    return 0;
}

static int take_register(struct request *request, const Hl__Control__Register *asked)
{
    const struct configuration *config = &request->front->config;
    struct manifest *m = &request->manifest;
    struct hl_error *err = &request->err;
    uint64_t total = asked->size;
    struct timespec now;
    int r = take_name(m, asked->name, err);

    if (r < 0)
        return r;
    if (asked->sha256.len != sizeof(m->sha256))
        return hl_error_set(err, -EINVAL, "sha256 must be %zu bytes", sizeof(m->sha256));
    if (asked->size == 0 || asked->size > config->max_image_size)
        return hl_error_set(err, -EMSGSIZE,
                            "image_size: a program has 1 to %" PRIu64 " bytes, not %" PRIu64,
                            config->max_image_size, asked->size);
    r = take_limits(&m->limits, asked->limits, &config->maxima, err);
    if (r == 0)
        r = take_policy(m, asked->host, err);
    if (r == 0)
        r = take_state(m, asked->state, &total, err);
    if (r == 0)
        r = request_check_file(request->fd, total, "program", err);
    if (r < 0)
        return r;
    clock_gettime(CLOCK_REALTIME, &now);
    memcpy(m->sha256, asked->sha256.data, sizeof(m->sha256));
    request->rootless = asked->state && asked->state->root_left_out;
    m->size = asked->size;
    m->owner = request->worker->uid;
    m->is_private = asked->private_;
    m->registered_ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
    return 0;
}

static int take_save(struct request *request, const Hl__Control__SaveSnapshot *asked)
{
    struct manifest *m = &request->manifest;
    struct hl_error *err = &request->err;
    int r = take_name(m, asked->name, err);

    if (r < 0)
        return r;
    if (asked->sha256.len != sizeof(m->sha256))
        return hl_error_set(err, -EINVAL, "sha256 must be %zu bytes", sizeof(m->sha256));
    if (asked->size == 0 || asked->size > CONTROL_SNAPSHOT_MAX)
        return hl_error_set(err, -EMSGSIZE, "a snapshot of %" PRIu64 " bytes is not kept",
                            asked->size);
    memcpy(m->sha256, asked->sha256.data, sizeof(m->sha256));
    m->registered_ns = asked->registered_unix_ns;
    return request_check_file(request->fd, asked->size, "snapshot", err);
}

/* All kinds */

static void dispatch(struct request *request, const Hl__Control__Request *message)
{
    int r;

    switch (message->kind_case) {
    case HL__CONTROL__REQUEST__KIND_RESOLVE:
        r = take_name(&request->manifest, message->resolve->name, &request->err);
        if (r < 0)
            request_fail(request, r);
        else
            request_resolve(request);
        break;
    case HL__CONTROL__REQUEST__KIND_ROOT:
        request->root = true;
        r = take_name(&request->manifest, message->root->name, &request->err);
        if (r < 0)
            request_fail(request, r);
        else
            request_resolve(request);
        break;
    case HL__CONTROL__REQUEST__KIND_UNREGISTER:
        request->drop = true;
        r = take_name(&request->manifest, message->unregister->name, &request->err);
        if (r < 0)
            request_fail(request, r);
        else
            queue_change(request);
        break;
    case HL__CONTROL__REQUEST__KIND_REGISTER:
        r = take_register(request, message->register_);
        if (r < 0)
            request_fail(request, r);
        else
            queue_change(request);
        break;
    case HL__CONTROL__REQUEST__KIND_SAVE_SNAPSHOT:
        r = take_save(request, message->save_snapshot);
        if (r < 0)
            request_fail(request, r);
        else
            request_save(request, message->save_snapshot->size);
        break;
    case HL__CONTROL__REQUEST__KIND_LIST:
        list(request->worker, request->id, message->list);
        request_free(request);
        break;
    default:
        worker_fail(request->worker, "it sent an unknown request");
        request_free(request);
        break;
    }
}

void request_handle(struct worker *worker, const Hl__Control__Request *message, int taken)
{
    struct request *request = calloc(1, sizeof(*request));
    _cleanup_discard_ int fd = taken;

    if (message->kind_case == HL__CONTROL__REQUEST__KIND_KV) {
        free(request);
        front_kv_request(worker->front, worker, message->id, message->kv);
        return;
    }
    if (!request) {
        struct hl_error err = HL_ERROR_INIT;

        reply_error(worker, message->id, -ENOMEM, &err);
        worker_request_done(worker);
        return;
    }
    request->front = worker->front;
    request->worker = worker;
    request->id = message->id;
    request->fd = request->snapshot_fd = -1;
    if (message->kind_case == HL__CONTROL__REQUEST__KIND_REGISTER ||
        message->kind_case == HL__CONTROL__REQUEST__KIND_SAVE_SNAPSHOT)
        request->fd = hl_steal_fd(&fd);
    dispatch(request, message);
}
