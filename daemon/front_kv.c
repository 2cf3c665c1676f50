/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A worker's request names an image, and that is all it has to say about whose data it wants: the
 * store is that of the image for the channel's uid, and only if the image may be called by that uid
 * and its policy names the function. So a worker in the hands of its guests reaches what guests of
 * its own uid could reach, and no other uid's data.
 *
 * Files are touched on the thread pool, a few at a time and one at a time for a uid, so that
 * changes of a store follow each other. That an image goes is a job too, which waits for those
 * before it and which those after it wait for.
 */
#include "config.h"

#include "daemon/front_kv.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/host_policy.h"
#include "base/list.h"
#include "base/value.h"
#include "daemon/front_internal.h"
#include "daemon/kv_limits.h"
#include "daemon/kv_store.h"

#define RUNNING_MAX 2u /* of the thread pool's four */

struct front_kv {
    struct front *front;
    struct kv_store store;
    struct list jobs; /* in the order they came, those that run among them */
    unsigned int running;
};

struct kv_job {
    struct list link;
    uv_work_t work;
    struct front *front;
    bool running, forget;
    char image[HL_NAME_MAX + 1];
    /* unless forget */
    struct worker *worker;
    uint64_t id;
    uint32_t uid;
    Hl__Control__Kv__Op op;
    char key[KV_KEY_MAX + 1];
    struct kv_bytes value; /* PUT: the new one; GET: what was found */
    uint64_t size;
    int result;
    struct hl_error err;
};

static void start_jobs(struct front_kv *kv);

static void job_free(struct kv_job *job)
{
    list_remove(&job->link);
    free(job->value.data);
    free(job);
}

static void reply(struct worker *worker, uint64_t id, int code, const struct hl_error *err,
                  const struct kv_bytes *value)
{
    Hl__Control__ToWorker packet = HL__CONTROL__TO_WORKER__INIT;
    Hl__Control__Reply answer = HL__CONTROL__REPLY__INIT;

    answer.id = id;
    if (code < 0) {
        answer.status = (int32_t)hl_status_from_errno(code);
        answer.message = (char *)(err->text[0] ? err->text : strerror(-code));
    } else if (value) {
        answer.value.data = value->data;
        answer.value.len = value->len;
    }
    packet.kind_case = HL__CONTROL__TO_WORKER__KIND_REPLY;
    packet.reply = &answer;
    channel_send(worker, &packet, -1);
    worker_request_done(worker);
}

static void job_end(struct kv_job *job)
{
    reply(job->worker, job->id, job->result, &job->err,
          job->op == HL__CONTROL__KV__OP__GET ? &job->value : NULL);
    job_free(job);
}

/* --- running -------------------------------------------------------------------------------- */

static void job_work(uv_work_t *work)
{
    struct kv_job *job = work->data;
    const struct kv_store *store = &job->front->kv->store;

    if (job->forget)
        kv_store_forget(store, job->image);
    else if (job->op == HL__CONTROL__KV__OP__GET)
        job->result = kv_store_get(store, job->image, job->uid, job->key, &job->value, &job->err);
    else if (job->op == HL__CONTROL__KV__OP__PUT)
        job->result =
            kv_store_put(store, job->image, job->uid, job->key, &job->value, job->size, &job->err);
    else
        job->result = kv_store_delete(store, job->image, job->uid, job->key, &job->err);
}

static void on_worked(uv_work_t *work, int status)
{
    struct kv_job *job = work->data;
    struct front *front = job->front;

    (void)status;
    front->jobs--;
    front->kv->running--;
    if (job->result == -EBADMSG)
        log_limited(&front->request_log, LOG_LEVEL_ERROR, "kv of image %s for uid %u: %s",
                    job->image, job->uid, job->err.text);
    if (job->forget)
        job_free(job);
    else
        job_end(job);
    start_jobs(front->kv);
    front_check_drained(front);
}

static const char *function_of(Hl__Control__Kv__Op op)
{
    switch (op) {
    case HL__CONTROL__KV__OP__GET:
        return "hl.kv.get";
    case HL__CONTROL__KV__OP__PUT:
        return "hl.kv.put";
    default:
        return "hl.kv.delete";
    }
}

/* By what is registered now. */
static int check_policy(struct kv_job *job)
{
    struct registry_entry entry;
    struct hl_host_policy policy;
    int r = registry_find(job->front->registry, job->image, job->uid, &entry, &job->err);

    if (r < 0)
        return r;
    if (!entry.manifest.host || !host_policy_find(entry.manifest.host, function_of(job->op)))
        return hl_error_set(&job->err, -EACCES, "image '%s' may not call '%s'", job->image,
                            function_of(job->op));
    policy = *entry.manifest.host;
    host_policy_fill(&policy);
    job->size = policy.kv_size;
    return 0;
}

/* Whether a job before it must be over first. */
static bool must_wait(const struct front_kv *kv, const struct kv_job *job)
{
    LIST_FOREACH(l, &kv->jobs)
    {
        const struct kv_job *other = LIST_ENTRY(l, struct kv_job, link);

        if (other == job)
            return false;
        if (other->forget || job->forget || other->uid == job->uid)
            return true;
    }
    return false;
}

/* Returns: whether it runs; it is gone otherwise. */
static bool start_job(struct kv_job *job)
{
    job->result = job->forget ? 0 : check_policy(job);
    if (job->result < 0) {
        job_end(job);
        return false;
    }
    job->running = true;
    job->work.data = job;
    /* Fails for a NULL callback alone. */
    uv_queue_work(&job->front->loop, &job->work, job_work, on_worked);
    job->front->jobs++;
    job->front->kv->running++;
    return true;
}

static void start_jobs(struct front_kv *kv)
{
    LIST_FOREACH(l, &kv->jobs)
    {
        struct kv_job *job = LIST_ENTRY(l, struct kv_job, link);

        if (kv->running >= RUNNING_MAX)
            return;
        if (!job->running && !must_wait(kv, job))
            (void)start_job(job);
    }
}

/* --- asking --------------------------------------------------------------------------------- */

static int take(struct kv_job *job, const Hl__Control__Kv *asked, struct hl_error *err)
{
    size_t image_len = strlen(asked->image), key_len = strlen(asked->key);

    if (!hl_name_valid(asked->image, image_len) || key_len == 0 || key_len > KV_KEY_MAX ||
        asked->value.len > KV_VALUE_MAX || asked->op > HL__CONTROL__KV__OP__DELETE)
        return hl_error_set(err, -EINVAL, "no such request");
    memcpy(job->image, asked->image, image_len + 1);
    memcpy(job->key, asked->key, key_len + 1);
    job->op = asked->op;
    if (job->op != HL__CONTROL__KV__OP__PUT)
        return 0;
    job->value.data = malloc(asked->value.len + 1);
    if (!job->value.data)
        return -ENOMEM;
    if (asked->value.len > 0)
        memcpy(job->value.data, asked->value.data, asked->value.len);
    job->value.len = asked->value.len;
    return 0;
}

void front_kv_request(struct front *front, struct worker *worker, uint64_t id,
                      const Hl__Control__Kv *asked)
{
    struct kv_job *job = calloc(1, sizeof(*job));
    struct hl_error err = HL_ERROR_INIT;
    int r = job ? 0 : -ENOMEM;

    if (r == 0) {
        list_init(&job->link);
        r = take(job, asked, &err);
    }
    if (r < 0) {
        if (job)
            job_free(job);
        reply(worker, id, r, &err, NULL);
        return;
    }
    job->front = front;
    job->worker = worker;
    job->id = id;
    job->uid = worker->uid;
    list_push_back(&front->kv->jobs, &job->link);
    start_jobs(front->kv);
}

void front_kv_forget(struct front *front, const char *image)
{
    struct kv_job *job = calloc(1, sizeof(*job));

    if (!job) { /* the loop waits for the disk this once */
        kv_store_forget(&front->kv->store, image);
        return;
    }
    job->front = front;
    job->forget = true;
    memcpy(job->image, image, strlen(image) + 1);
    list_push_back(&front->kv->jobs, &job->link);
    start_jobs(front->kv);
}

/* --- life ----------------------------------------------------------------------------------- */

static bool is_known(void *opaque, const char *image)
{
    return registry_knows(opaque, image);
}

int front_kv_new(struct front_kv **out, struct front *front, struct hl_error *err)
{
    struct front_kv *kv = calloc(1, sizeof(*kv));
    int r;

    if (!kv)
        return -ENOMEM;
    kv->front = front;
    kv->store.dir = -1;
    list_init(&kv->jobs);
    r = kv_store_open(&kv->store, front->config.state_dir, front->options->registry_io, err);
    if (r < 0) {
        front_kv_free(kv);
        return r;
    }
    kv_store_collect(&kv->store, is_known, front->registry);
    *out = kv;
    return 0;
}

void front_kv_free(struct front_kv *kv)
{
    if (!kv)
        return;
    while (!list_empty(&kv->jobs))
        job_free(LIST_ENTRY(kv->jobs.next, struct kv_job, link));
    kv_store_close(&kv->store);
    free(kv);
}
