/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What workers ask of the front: resolve, list, register, unregister. A worker runs one uid's
 * clients and may be in their hands, so a request is what a stranger wrote: the uid is the
 * channel's, every field is checked, and a program is believed to be what the front itself has
 * hashed. Reading and syncing files happens on the thread pool; the registry changes one request at
 * a time, taking turns between workers.
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
#include "daemon/front_internal.h"

struct request {
    struct request *next;
    uv_work_t work;
    struct front *front;
    struct worker *worker;
    uint64_t id;
    bool drop;
    struct manifest manifest; /* put: what is asked for; drop and resolve: the name */
    int program_fd;           /* put: from the worker; resolve: for the worker */
    struct registry_change *change;
    struct registry_entry entry; /* resolve: what is being checked */
    int result;
    struct hl_error err;
};

static void next_change(struct front *front);
static void resolve(struct request *request);

static void request_free(struct request *request)
{
    struct worker *worker = request->worker;

    if (request->program_fd >= 0)
        close(request->program_fd);
    free(request);
    worker_request_done(worker);
}

/* Replies */

static void fill_entry(Hl__Control__Entry *entry, Hl__Control__LimitSet *limits, struct manifest *m,
                       const struct configuration *config)
{
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
}

static void send_reply(struct worker *worker, Hl__Control__Reply *reply, int fd)
{
    Hl__Control__ToWorker packet = HL__CONTROL__TO_WORKER__INIT;

    packet.kind_case = HL__CONTROL__TO_WORKER__KIND_REPLY;
    packet.reply = reply;
    worker_send(worker, &packet, fd);
}

/* With the entry of m unless that is NULL; takes fd. */
static void reply_ok(struct worker *worker, uint64_t id, struct manifest *m, int fd)
{
    Hl__Control__Reply reply = HL__CONTROL__REPLY__INIT;
    Hl__Control__LimitSet limits;
    Hl__Control__Entry entry, *entries = &entry;

    reply.id = id;
    if (m) {
        fill_entry(&entry, &limits, m, &worker->front->config);
        reply.entries = &entries;
        reply.n_entries = 1;
    }
    send_reply(worker, &reply, fd);
}

static void reply_error(struct worker *worker, uint64_t id, int code, const struct hl_error *err)
{
    Hl__Control__Reply reply = HL__CONTROL__REPLY__INIT;

    reply.id = id;
    reply.status = (int32_t)hl_status_from_errno(code);
    reply.message = (char *)(err->text[0] ? err->text : strerror(-code));
    send_reply(worker, &reply, -1);
}

/* List */

static void list(struct worker *worker, uint64_t id, const Hl__Control__List *asked)
{
    size_t max = asked->limit > 0 && asked->limit < LIST_PAGE_MAX ? asked->limit : LIST_PAGE_MAX;
    struct manifest *found = calloc(max, sizeof(*found));
    Hl__Control__LimitSet *limits = calloc(max, sizeof(*limits));
    Hl__Control__Entry *entries = calloc(max, sizeof(*entries));
    Hl__Control__Entry **pointers = calloc(max, sizeof(*pointers));
    Hl__Control__Reply reply = HL__CONTROL__REPLY__INIT;
    struct hl_error err = HL_ERROR_INIT;
    bool more;

    if (found && limits && entries && pointers) {
        reply.id = id;
        reply.n_entries =
            registry_list(worker->front->registry, worker->uid, asked->after, max, found, &more);
        reply.entries = pointers;
        reply.more = more;
        for (size_t i = 0; i < reply.n_entries; i++) {
            fill_entry(&entries[i], &limits[i], &found[i], &worker->front->config);
            pointers[i] = &entries[i];
        }
        send_reply(worker, &reply, -1);
    } else {
        reply_error(worker, id, -ENOMEM, &err);
    }
    free(found);
    free(limits);
    free(entries);
    free(pointers);
}

/* Resolve */

/* Consumes request, whose entry is filled, and fd. */
static void finish_resolve(struct request *request, int r, int fd)
{
    if (r < 0)
        reply_error(request->worker, request->id, r, &request->err);
    else
        reply_ok(request->worker, request->id, &request->entry.manifest, fd);
    request_free(request);
}

static void check_work(uv_work_t *work)
{
    struct request *request = work->data;
    const struct manifest *m = &request->entry.manifest;

    request->result = registry_store_program(registry_store(request->front->registry), m->sha256,
                                             m->size, true, &request->program_fd, &request->err);
}

static void on_checked(uv_work_t *work, int status)
{
    struct request *request = work->data;
    struct front *front = request->front;
    const struct manifest *m = &request->entry.manifest;
    struct registry_entry now;
    int fd = request->program_fd, r = request->result;

    (void)status;
    front->jobs--;
    request->program_fd = -1;
    if (r == 0)
        registry_set_blob(front->registry, m->sha256, BLOB_UNCHECKED, BLOB_GOOD);
    if (r == -EBADMSG) {
        registry_set_blob(front->registry, m->sha256, BLOB_UNCHECKED, BLOB_DAMAGED);
        log_error("image %s cannot be called: %s", m->name, request->err.text);
    }
    if (registry_find(front->registry, m->name, request->worker->uid, &now, NULL) < 0 ||
        now.generation != request->entry.generation) {
        /* Its Invalidate was sent already: this answer would be the old one, and stay. */
        if (fd >= 0)
            close(fd);
        resolve(request);
    } else {
        if (r < 0)
            hl_error_wrap(&request->err, r, "image '%s'", m->name);
        finish_resolve(request, r, fd);
    }
    front_check_drained(front);
}

/* Consumes request. */
static void resolve(struct request *request)
{
    struct front *front = request->front;
    struct hl_error *err = &request->err;
    struct registry_entry *entry = &request->entry;
    const struct manifest *m = &entry->manifest;
    int fd = -1, r;

    *err = (struct hl_error)HL_ERROR_INIT;
    r = registry_find(front->registry, request->manifest.name, request->worker->uid, entry, err);
    if (r == 0 && entry->blob == BLOB_UNCHECKED) {
        request->work.data = request;
        r = uv_queue_work(&front->loop, &request->work, check_work, on_checked);
        if (r == 0) {
            front->jobs++;
            return;
        }
    } else if (r == 0 && entry->blob == BLOB_DAMAGED) {
        r = hl_error_set(err, -EBADMSG,
                         "image '%s' is damaged on the daemon's disk: register it again", m->name);
    } else if (r == 0) {
        r = registry_store_program(registry_store(front->registry), m->sha256, m->size, false, &fd,
                                   err);
        if (r == -EBADMSG) {
            registry_set_blob(front->registry, m->sha256, BLOB_GOOD, BLOB_DAMAGED);
            log_error("image %s cannot be called: %s", m->name, err->text);
        }
    }
    finish_resolve(request, r, fd);
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
    front->jobs--;
    front->changing = NULL;
    r = registry_change_end(request->change, &now, &request->err);
    if (r < 0) {
        log_limited(&front->request_log, LOG_LEVEL_ERROR, "image %s of uid %u not %s: %s",
                    request->manifest.name, request->worker->uid,
                    request->drop ? "removed" : "registered", request->err.text);
        reply_error(request->worker, request->id, r, &request->err);
    } else {
        log_limited(&front->request_log, LOG_LEVEL_INFO, "image %s %s by uid %u",
                    request->manifest.name, request->drop ? "removed" : "registered",
                    request->worker->uid);
        workers_invalidate(front, request->manifest.name);
        reply_ok(request->worker, request->id, request->drop ? NULL : &now, -1);
    }
    request_free(request);
    next_change(front);
    front_check_drained(front);
}

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
    else
        r = registry_change_put(&request->change, front->registry, &request->manifest,
                                request->program_fd, &quota, &request->err);
    if (r < 0)
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

        if (r < 0) {
            reply_error(request->worker, request->id, r, &request->err);
            request_free(request);
        }
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

/* A program must not change while it is hashed and copied: a sealed memfd of the right size. */
static int check_program(int fd, uint64_t size, struct hl_error *err)
{
    const int needed = F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW;
    struct stat st;
    int seals;

    if (fd < 0)
        return hl_error_set(err, -EINVAL, "the program is missing");
    seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0 || (seals & needed) != needed)
        return hl_error_set(err, -EINVAL, "the program is not in a sealed memory file");
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || (uint64_t)st.st_size != size)
        return hl_error_set(err, -EINVAL, "the program's size is not the one announced");
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

static int take_register(struct request *request, const Hl__Control__Register *asked)
{
    const struct configuration *config = &request->front->config;
    struct manifest *m = &request->manifest;
    struct hl_error *err = &request->err;
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
        r = check_program(request->program_fd, asked->size, err);
    if (r < 0)
        return r;
    clock_gettime(CLOCK_REALTIME, &now);
    memcpy(m->sha256, asked->sha256.data, sizeof(m->sha256));
    m->size = asked->size;
    m->owner = request->worker->uid;
    m->is_private = asked->private_;
    m->registered_ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
    return 0;
}

/* All kinds */

static void fail(struct request *request, int code)
{
    reply_error(request->worker, request->id, code, &request->err);
    request_free(request);
}

static void dispatch(struct request *request, const Hl__Control__Request *message)
{
    int r;

    switch (message->kind_case) {
    case HL__CONTROL__REQUEST__KIND_RESOLVE:
        r = take_name(&request->manifest, message->resolve->name, &request->err);
        if (r < 0)
            fail(request, r);
        else
            resolve(request);
        break;
    case HL__CONTROL__REQUEST__KIND_UNREGISTER:
        request->drop = true;
        r = take_name(&request->manifest, message->unregister->name, &request->err);
        if (r < 0)
            fail(request, r);
        else
            queue_change(request);
        break;
    case HL__CONTROL__REQUEST__KIND_REGISTER:
        r = take_register(request, message->register_);
        if (r < 0)
            fail(request, r);
        else
            queue_change(request);
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
    _cleanup_close_ int fd = taken;

    if (!request) {
        struct hl_error err = HL_ERROR_INIT;

        reply_error(worker, message->id, -ENOMEM, &err);
        worker_request_done(worker);
        return;
    }
    request->front = worker->front;
    request->worker = worker;
    request->id = message->id;
    request->program_fd = -1;
    if (message->kind_case == HL__CONTROL__REQUEST__KIND_REGISTER)
        request->program_fd = hl_steal_fd(&fd);
    dispatch(request, message);
}

/* The background check */

struct scrub {
    uv_work_t work;
    struct front *front;
    uint8_t sha256[REGISTRY_SHA256_SIZE];
    uint64_t size;
    int result;
    struct hl_error err;
};

static void scrub_work(uv_work_t *work)
{
    struct scrub *scrub = work->data;
    int fd = -1;

    scrub->result = registry_store_program(registry_store(scrub->front->registry), scrub->sha256,
                                           scrub->size, true, &fd, &scrub->err);
    if (fd >= 0)
        close(fd);
}

static void on_scrubbed(uv_work_t *work, int status)
{
    struct scrub *scrub = work->data;
    struct front *front = scrub->front;

    (void)status;
    front->jobs--;
    front->scrubbing = false;
    if (scrub->result == 0) {
        registry_set_blob(front->registry, scrub->sha256, BLOB_UNCHECKED, BLOB_GOOD);
    } else if (scrub->result == -EBADMSG) {
        registry_set_blob(front->registry, scrub->sha256, BLOB_UNCHECKED, BLOB_DAMAGED);
        log_error("an image cannot be called: %s", scrub->err.text);
    }
    if (scrub->result == 0 || scrub->result == -EBADMSG)
        requests_scrub(front);
    free(scrub);
    front_check_drained(front);
}

void requests_scrub(struct front *front)
{
    struct scrub *scrub;

    if (front->scrubbing || front->draining)
        return;
    scrub = calloc(1, sizeof(*scrub));
    if (!scrub)
        return;
    if (!registry_next_unchecked(front->registry, scrub->sha256, &scrub->size)) {
        free(scrub);
        return;
    }
    scrub->front = front;
    scrub->work.data = scrub;
    uv_queue_work(&front->loop, &scrub->work, scrub_work, on_scrubbed);
    front->scrubbing = true;
    front->jobs++;
}
