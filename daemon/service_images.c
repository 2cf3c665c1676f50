/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The Images service. A program is registered only after this worker has loaded and started it: the
 * registry is told of programs that work. What the registry decides (names, owners, limits) is
 * decided by the front; the worker relays and shows. Inspect and calls share the way to a program:
 * what Inspect reports is what a call would run.
 */
#include "config.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "daemon/conn.h"
#include "daemon/control_link.h"
#include "daemon/engine.h"
#include "daemon/images.h"
#include "daemon/program.h"
#include "daemon/service.h"
#include "daemon/shard.h"
#include "daemon/upload.h"
#include "hv/timer.h"
#include "proto/convert_policy.h"

#define LIST_MAX 100u

/* A request under way: to the registry, maybe with a program to build first. */
struct job {
    struct shard *shard;
    struct ticket ticket;
    struct control_request control;
    Hl__Control__Register register_;
    Hl__Control__LimitSet limits;
    struct hl_host_policy asked_host; /* as asked for: 0 is the default */
    struct policy_message host;
    Hl__Control__Name name;
    Hl__Control__List list;
    char text[HL_NAME_MAX + 1];
    uv_work_t work;
    struct program_load load;
    struct program *program;
    struct charge upload_charge;
    struct resolve resolve;
    int result;
    struct hl_error err;
};

static struct job *job_new(const struct request *request)
{
    struct job *job = calloc(1, sizeof(*job));

    if (!job) {
        conn_send_status(request->conn, request->stream, HL_STATUS_RESOURCE_EXHAUSTED,
                         "out of memory");
        return NULL;
    }
    if (!ticket_take(&job->ticket, request)) {
        free(job);
        return NULL;
    }
    job->shard = request->conn->shard;
    job->load.fd = job->load.snapshot_fd = -1;
    job->control.shard = job->shard;
    job->control.fd = job->control.snapshot_fd = -1;
    hl__control__request__init(&job->control.request);
    return job;
}

static void job_end(struct job *job)
{
    hl_cleanup_closep(&job->load.fd);
    charge_release(&job->upload_charge);
    program_unref(job->program);
    ticket_drop(&job->ticket);
    free(job);
}

static void job_fail(struct job *job, enum hl_status status, const char *text)
{
    if (job->ticket.conn)
        conn_send_status(job->ticket.conn, job->ticket.stream, status, "%s", text);
    job_end(job);
}

static void job_send(struct job *job, const ProtobufCMessage *message)
{
    if (job->ticket.conn)
        conn_send_message(job->ticket.conn, job->ticket.stream, message);
    job_end(job);
}

/* Returns: whether the registry said yes; job is gone otherwise. */
static bool accepted(struct job *job)
{
    const Hl__Control__Reply *reply = job->control.reply;
    int status = reply ? reply->status : HL_STATUS_UNAVAILABLE;

    hl_cleanup_closep(&job->control.reply_fd);
    if (status == HL_STATUS_OK)
        return true;
    if (status < 0 || status > HL_STATUS_UNAUTHENTICATED)
        status = HL_STATUS_UNKNOWN;
    job_fail(job, (enum hl_status)status, reply ? reply->message : "hld is stopping");
    return false;
}

/* Answers where name is none. */
static bool name_ok(const struct request *request, const char *name)
{
    if (hl_name_valid(name, strlen(name)))
        return true;
    conn_send_status(request->conn, request->stream, HL_STATUS_INVALID_ARGUMENT,
                     "an image's name is 1 to %d of A-Z a-z 0-9 . _ - and starts with none of . -",
                     HL_NAME_MAX);
    return false;
}

/* --- an image as a message -------------------------------------------------------------------- */

struct image_message {
    Hl__V1__Image image;
    Hl__V1__Limits limits;
    struct policy_message host;
    Hl__V1__Function *functions;
    Hl__V1__Function **list;
    Hl__V1__Type *params;
};

static void image_message_fini(struct image_message *m)
{
    free(m->functions);
    free(m->list);
    free(m->params);
}

static int image_message_init(struct image_message *m, const struct program *program)
{
    size_t count = image_function_count(program->img);

    memset(m, 0, sizeof(*m));
    program_entry_to_message(&m->image, &m->limits, &program->entry);
    m->image.snapshot_bytes = snapshot_resident(program->snap);
    m->image.start_ns = program->start_ns;
    policy_to_message(&m->host, &program->entry.host);
    m->image.host = &m->host.policy;
    m->functions = calloc(count + 1, sizeof(*m->functions));
    m->list = calloc(count + 1, sizeof(*m->list));
    m->params = calloc(count * HL_MAX_PARAMS + 1, sizeof(*m->params));
    if (!m->functions || !m->list || !m->params)
        return -ENOMEM;
    for (size_t i = 0; i < count; i++) {
        const struct image_function *f = image_function(program->img, i);
        Hl__V1__Function *out = &m->functions[i];

        hl__v1__function__init(out);
        out->name = (char *)f->name;
        out->ret = (Hl__V1__Type)f->sig.ret;
        out->params = m->params + i * HL_MAX_PARAMS;
        out->n_params = f->sig.nparams;
        for (unsigned int j = 0; j < f->sig.nparams; j++)
            out->params[j] = (Hl__V1__Type)f->sig.params[j];
        m->list[i] = out;
    }
    m->image.functions = m->list;
    m->image.n_functions = count;
    return 0;
}

/* --- Upload ----------------------------------------------------------------------------------- */

static void serve_upload(const struct request *request)
{
    Hl__V1__UploadRequest *message =
        service_decode(request, Hl__V1__UploadRequest, hl__v1__upload_request__descriptor);
    Hl__V1__UploadResponse response = HL__V1__UPLOAD_RESPONSE__INIT;
    struct hl_error err = HL_ERROR_INIT;
    struct upload *upload;
    int r;

    if (!message)
        return;
    r = upload_write(request->conn, message->upload_id, message->offset, message->data.data,
                     message->data.len, &upload, &err);
    if (r < 0) {
        conn_send_status(request->conn, request->stream, hl_status_from_errno(r), "%s", err.text);
        return;
    }
    response.upload_id = upload->id;
    response.received = upload->received;
    conn_send_message(request->conn, request->stream, &response.base);
}

/* --- Register --------------------------------------------------------------------------------- */

/* On shard 0: the registry has the program, so the name stands for it from now on. */
static void on_register_seen(struct control_request *control)
{
    struct job *job = LIST_ENTRY(control, struct job, control);
    const Hl__Control__Reply *reply = control->reply;
    const struct limits built = job->program->entry.limits;
    const struct limits *now = &job->program->entry.limits;

    if (reply->status != HL_STATUS_OK)
        return;
    if (reply->n_entries == 1)
        job->result =
            program_entry_from_control(&job->program->entry, reply->entries[0], &job->err);
    else
        job->result = -EPROTO;
    if (job->result == 0 && now->memory == built.memory && now->io_size == built.io_size &&
        job->program->entry.host.deterministic == job->asked_host.deterministic)
        images_install(job->shard->engine, program_ref(job->program)); /* and saves it */
    else
        images_invalidate(job->shard->engine, job->load.entry.name);
}

static void on_registered(struct control_request *control)
{
    struct job *job = LIST_ENTRY(control, struct job, control);
    Hl__V1__RegisterResponse response = HL__V1__REGISTER_RESPONSE__INIT;
    struct image_message m;

    if (!accepted(job))
        return;
    if (job->result < 0) {
        job_fail(job, HL_STATUS_INTERNAL, "the registry's answer makes no sense");
        return;
    }
    if (image_message_init(&m, job->program) < 0) {
        image_message_fini(&m);
        job_fail(job, HL_STATUS_RESOURCE_EXHAUSTED, "registered, but out of memory to say so");
        return;
    }
    response.image = &m.image;
    job_send(job, &response.base);
    image_message_fini(&m);
}

static void build(uv_work_t *work)
{
    struct job *job = work->data;

    job->result = hv_thread_init();
    if (job->result == 0)
        job->result = program_new(&job->program, &job->load, &job->err);
}

static void on_built(uv_work_t *work, int status)
{
    struct job *job = work->data;

    if (status < 0)
        job->result = status;
    stats_add(&job->shard->stats, job->result < 0 ? STAT_BUILD_FAILURES : STAT_BUILDS, 1);
    if (job->result < 0) {
        job_fail(job, program_status(job->result),
                 job->err.text[0] ? job->err.text : strerror(-job->result));
        return;
    }
    job->register_.sha256.data = job->program->entry.sha256;
    job->register_.sha256.len = PROGRAM_DIGEST_SIZE;
    job->control.request.kind_case = HL__CONTROL__REQUEST__KIND_REGISTER;
    job->control.request.register_ = &job->register_;
    job->control.fd = job->load.fd;
    job->control.seen = on_register_seen;
    job->control.done = on_registered;
    control_link_request(job->shard->engine, &job->control);
}

static int prepare_register(struct job *job, const Hl__V1__RegisterRequest *message,
                            struct upload *upload, struct hl_error *err)
{
    const struct settings *settings = &job->shard->settings;
    struct program_load *load = &job->load;
    struct limits asked;
    int r;

    limits_from_message(&asked, message->limits);
    r = limits_resolve(&load->entry.limits, &asked, settings, err);
    if (r == 0)
        r = policy_from_message(&job->asked_host, message->host, err);
    if (r < 0)
        return r;
    load->entry.host = job->asked_host;
    host_policy_fill(&load->entry.host);
    if (message->sha256.len != 0 && message->sha256.len != PROGRAM_DIGEST_SIZE)
        return hl_error_set(err, -EINVAL, "sha256: %zu bytes, not %d", message->sha256.len,
                            PROGRAM_DIGEST_SIZE);
    memcpy(load->entry.name, message->name, strlen(message->name) + 1);
    load->entry.size = upload->received;
    load->entry.private_ = message->private_;
    load->entry.owner_uid = job->shard->engine->uid;
    load->digest = message->sha256.len > 0 ? PROGRAM_DIGEST_CLAIMED : PROGRAM_DIGEST_UNKNOWN;
    if (load->digest == PROGRAM_DIGEST_CLAIMED)
        memcpy(load->entry.sha256, message->sha256.data, PROGRAM_DIGEST_SIZE);
    load->hv = job->shard->engine->hv;
    load->host = job->shard->engine->host;
    load->budget = &job->shard->engine->budget;
    load->init_deadline_ns = settings->init_deadline_ns;
    r = upload_finish(upload, &load->fd, &job->upload_charge, err);
    if (r < 0)
        return r;
    hl__control__register__init(&job->register_);
    limits_to_control(&job->limits, &asked);
    job->register_.name = load->entry.name;
    job->register_.size = load->entry.size;
    job->register_.private_ = message->private_;
    job->register_.limits = &job->limits;
    policy_to_message(&job->host, &job->asked_host);
    job->register_.host = &job->host.policy;
    return 0;
}

static void serve_register(const struct request *request)
{
    Hl__V1__RegisterRequest *message =
        service_decode(request, Hl__V1__RegisterRequest, hl__v1__register_request__descriptor);
    struct conn *conn = request->conn;
    struct upload *upload;
    struct job *job;
    int r;

    if (!message)
        return;
    /* The upload is gone with this request, whatever comes of it: a connection has few of them. */
    upload = upload_find(conn, message->upload_id);
    if (!name_ok(request, message->name)) {
        if (upload)
            upload_drop(upload);
        return;
    }
    if (!upload) {
        conn_send_status(conn, request->stream, HL_STATUS_NOT_FOUND,
                         "this connection has no upload %" PRIu64, message->upload_id);
        return;
    }
    if (conn->shard->draining) {
        upload_drop(upload);
        conn_send_status(conn, request->stream, HL_STATUS_UNAVAILABLE, "hld is draining");
        return;
    }
    job = job_new(request);
    if (!job) {
        upload_drop(upload);
        return;
    }
    r = prepare_register(job, message, upload, &job->err);
    if (r < 0) {
        if (upload->id != 0)
            upload_drop(upload);
        job_fail(job, hl_status_from_errno(r), job->err.text);
        return;
    }
    job->work.data = job;
    uv_queue_work(&job->shard->loop, &job->work, build, on_built);
}

/* --- Unregister, List, Inspect ---------------------------------------------------------------- */

/* On shard 0. */
static void on_unregister_seen(struct control_request *control)
{
    struct job *job = LIST_ENTRY(control, struct job, control);

    if (control->reply->status == HL_STATUS_OK)
        images_invalidate(job->shard->engine, job->text);
}

static void on_unregistered(struct control_request *control)
{
    struct job *job = LIST_ENTRY(control, struct job, control);
    Hl__V1__UnregisterResponse response = HL__V1__UNREGISTER_RESPONSE__INIT;

    if (accepted(job))
        job_send(job, &response.base);
}

static void serve_unregister(const struct request *request)
{
    Hl__V1__UnregisterRequest *message =
        service_decode(request, Hl__V1__UnregisterRequest, hl__v1__unregister_request__descriptor);
    struct job *job;

    if (!message || !name_ok(request, message->name))
        return;
    job = job_new(request);
    if (!job)
        return;
    memcpy(job->text, message->name, strlen(message->name) + 1);
    hl__control__name__init(&job->name);
    job->name.name = job->text;
    job->control.request.kind_case = HL__CONTROL__REQUEST__KIND_UNREGISTER;
    job->control.request.unregister = &job->name;
    job->control.seen = on_unregister_seen;
    job->control.done = on_unregistered;
    control_link_request(job->shard->engine, &job->control);
}

static void send_list(struct job *job, const Hl__Control__Reply *reply)
{
    Hl__V1__ListResponse response = HL__V1__LIST_RESPONSE__INIT;
    size_t count = reply->n_entries;
    _cleanup_free_ struct program_entry *entries = calloc(count + 1, sizeof(*entries));
    _cleanup_free_ struct image_message *images = calloc(count + 1, sizeof(*images));
    _cleanup_free_ Hl__V1__Image **list = calloc(count + 1, sizeof(*list));

    if (!entries || !images || !list) {
        job_fail(job, HL_STATUS_RESOURCE_EXHAUSTED, "out of memory");
        return;
    }
    for (size_t i = 0; i < count; i++) {
        if (program_entry_from_control(&entries[i], reply->entries[i], &job->err) < 0)
            continue;
        program_entry_to_message(&images[i].image, &images[i].limits, &entries[i]);
        list[response.n_images++] = &images[i].image;
    }
    response.images = list;
    response.more = reply->more;
    job_send(job, &response.base);
}

static void on_listed(struct control_request *control)
{
    struct job *job = LIST_ENTRY(control, struct job, control);

    if (accepted(job))
        send_list(job, job->control.reply);
}

static void serve_list(const struct request *request)
{
    Hl__V1__ListRequest *message =
        service_decode(request, Hl__V1__ListRequest, hl__v1__list_request__descriptor);
    struct job *job;

    if (!message || (message->after[0] != '\0' && !name_ok(request, message->after)))
        return;
    job = job_new(request);
    if (!job)
        return;
    memcpy(job->text, message->after, strlen(message->after) + 1);
    hl__control__list__init(&job->list);
    job->list.after = job->text;
    job->list.limit = message->limit == 0 || message->limit > LIST_MAX ? LIST_MAX : message->limit;
    job->control.request.kind_case = HL__CONTROL__REQUEST__KIND_LIST;
    job->control.request.list = &job->list;
    job->control.done = on_listed;
    control_link_request(job->shard->engine, &job->control);
}

static void on_inspected(struct resolve *resolve)
{
    struct job *job = LIST_ENTRY(resolve, struct job, resolve);
    Hl__V1__InspectResponse response = HL__V1__INSPECT_RESPONSE__INIT;
    char *lines[PROGRAM_LOG_LINES];
    struct image_message m;

    job->program = resolve->program;
    if (!job->program) {
        job_fail(job, resolve->status, resolve->err.text);
        return;
    }
    if (image_message_init(&m, job->program) < 0) {
        image_message_fini(&m);
        job_fail(job, HL_STATUS_RESOURCE_EXHAUSTED, "out of memory");
        return;
    }
    response.image = &m.image;
    response.log = lines;
    response.n_log = program_log_copy(&job->program->log, lines);
    job_send(job, &response.base);
    image_message_fini(&m);
    for (size_t i = 0; i < response.n_log; i++)
        free(lines[i]);
}

static void serve_inspect(const struct request *request)
{
    Hl__V1__InspectRequest *message =
        service_decode(request, Hl__V1__InspectRequest, hl__v1__inspect_request__descriptor);
    struct job *job;

    if (!message || !name_ok(request, message->name))
        return;
    job = job_new(request);
    if (!job)
        return;
    job->resolve.shard = job->shard;
    job->resolve.done = on_inspected;
    memcpy(job->resolve.name, message->name, strlen(message->name) + 1);
    images_resolve(job->shard->engine, &job->resolve);
}

const struct service_method service_images[] = {
    {"Upload", serve_upload}, {"Register", serve_register}, {"Unregister", serve_unregister},
    {"List", serve_list},     {"Inspect", serve_inspect},   {NULL, NULL},
};
