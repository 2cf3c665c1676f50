/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One entry for each name that was asked for and is being resolved, is ready, or failed a moment
 * ago. An entry that is invalidated leaves the table at once, whatever it is doing: whoever waits
 * for it asked before the switch and gets the old version, whoever asks afterwards makes a new
 * entry. Programs are built on libuv's thread pool, since that takes milliseconds and runs the
 * guest's start-up. A failed build is remembered for a second, so that calls of a broken image do
 * not build it over and over; that a name is unknown is not remembered at all.
 *
 * A program that nobody uses costs its bytes, two descriptors and some mappings. So there are never
 * more than a number of them, and no more bytes than the budget says; the one that was called the
 * longest time ago goes first. Whoever calls it again has it loaded again.
 */
#include "config.h"

#include "daemon/images.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "daemon/control_link.h"
#include "daemon/engine.h"
#include "daemon/program.h"
#include "daemon/roots.h"
#include "daemon/saves.h"
#include "daemon/shard.h"
#include "hv/timer.h"

#define BUCKETS         1024u
#define FAILURE_KEPT_NS 1000000000ull

/* Descriptors and mappings of programs that are kept: a snapshot has up to two memory files, and up
 * to SNAPSHOT_EXTENTS_MAX + SNAPSHOT_LOW_EXTENTS_MAX = 36 extents with as many gaps, mapped once
 * for the host and once in each instance. 512 programs and 256 instances at the worst are 56,000
 * mappings of the 65,530 that a process may have (vm.max_map_count). Where descriptors are scarcer,
 * programs get their share of them. */
#define PROGRAMS_MAX   512u
#define PROGRAMS_LEAST 16u
#define FILES_SHARE    8u

enum entry_state {
    ENTRY_ASKING, /* the registry */
    ENTRY_BUILDING,
    ENTRY_READY,
    ENTRY_FAILED,
};

struct entry {
    struct list link; /* of a bucket; alone when it was invalidated */
    struct engine *engine;
    char name[HL_NAME_MAX + 1];
    _Atomic enum entry_state state;
    bool counted;        /* in images->programs */
    struct list waiters; /* struct resolve */
    struct program *program;
    enum hl_status status;
    struct hl_error err;
    uint64_t failed_ns;
    struct control_request request;
    Hl__Control__Name request_name;
    uv_work_t work;
    struct program_load load;
    struct root_user root_user; /* of an image with a state */
    bool loads_root;            /* for others too */
    int result;
};

struct images {
    struct engine *engine;
    pthread_mutex_t lock; /* of who stands in the buckets; shard 0 alone changes it, others look */
    struct list buckets[BUCKETS];
    unsigned int programs, programs_max; /* entries being built or ready */
    struct snapshot_key key;             /* of this worker's snapshots */
    struct saves saves;
    struct roots roots;
};

static struct list *bucket(struct images *images, const char *name)
{
    uint32_t hash = 2166136261u;

    for (const char *p = name; *p; p++)
        hash = (hash ^ (uint8_t)*p) * 16777619u;
    return &images->buckets[hash % BUCKETS];
}

static struct entry *find(struct images *images, const char *name)
{
    LIST_FOREACH(l, bucket(images, name))
    {
        struct entry *entry = LIST_ENTRY(l, struct entry, link);

        if (strcmp(entry->name, name) == 0)
            return entry;
    }
    return NULL;
}

static void leave_table(struct entry *entry)
{
    struct images *images = entry->engine->images;

    pthread_mutex_lock(&images->lock);
    list_remove(&entry->link);
    pthread_mutex_unlock(&images->lock);
}

struct program *images_ready(struct engine *engine, const char *name)
{
    struct images *images = engine->images;
    struct program *program = NULL;
    struct entry *entry;

    pthread_mutex_lock(&images->lock);
    entry = find(images, name);
    if (entry && atomic_load(&entry->state) == ENTRY_READY)
        program = program_ref(entry->program);
    pthread_mutex_unlock(&images->lock);
    return program;
}

static void entry_free(struct entry *entry)
{
    if (entry->counted)
        entry->engine->images->programs--;
    leave_table(entry);
    program_unref(entry->program);
    free(entry);
}

/* --- answers -------------------------------------------------------------------------------- */

static void deliver_answer(struct mail *mail, void *owner)
{
    struct resolve *resolve = LIST_ENTRY(mail, struct resolve, mail);

    (void)owner;
    resolve->done(resolve);
}

static void answer(struct resolve *resolve, const struct entry *entry)
{
    resolve->program = entry->program ? program_ref(entry->program) : NULL;
    resolve->status = entry->status;
    resolve->err = entry->err;
    mailbox_post(&resolve->shard->mailbox, &resolve->mail, deliver_answer);
}

static void answer_all(struct entry *entry)
{
    struct list *l;

    while ((l = list_pop_front(&entry->waiters)))
        answer(LIST_ENTRY(l, struct resolve, link), entry);
}

/* The entry is decided: its waiters are told, and it stays only where that is of use. */
static void settle(struct entry *entry, enum entry_state state)
{
    struct shard *shard = &entry->engine->shards[0];

    bool built = entry->state == ENTRY_BUILDING;

    entry->state = state;
    entry->failed_ns = hv_now_ns();
    if (state == ENTRY_FAILED && entry->counted) {
        entry->counted = false;
        entry->engine->images->programs--;
    }
    answer_all(entry);
    if (list_empty(&entry->link) || (state == ENTRY_FAILED && !built))
        entry_free(entry);
    shard_check_quiet(shard);
}

static void fail(struct entry *entry, enum hl_status status, const char *text)
{
    entry->status = status;
    hl_error_set(&entry->err, -1, "%s", text);
    settle(entry, ENTRY_FAILED);
}

/* --- building ------------------------------------------------------------------------------- */

static void build(uv_work_t *work)
{
    struct entry *entry = work->data;

    entry->result = hv_thread_init();
    if (entry->result == 0)
        entry->result = program_new(&entry->program, &entry->load, &entry->err);
}

/* What it was to be made of. root: NULL unless it was loaded. */
static void drop_load(struct entry *entry, struct snapshot *root)
{
    hl_cleanup_closep(&entry->load.fd);
    hl_cleanup_closep(&entry->load.snapshot_fd);
    if (!entry->load.entry.has_state)
        return;
    hl_cleanup_closep(&entry->load.root_fd);
    snapshot_unref(entry->load.root);
    entry->load.fd = entry->load.snapshot_fd = entry->load.root_fd = -1;
    entry->load.root = NULL;
    if (entry->loads_root)
        roots_loaded(&entry->engine->images->roots, &entry->root_user, root);
    entry->loads_root = false;
}

/* What came of the snapshot that was kept, and whether the program had to be started. */
static void note_snapshot(struct entry *entry)
{
    struct shard *shard = &entry->engine->shards[0];
    int r = entry->load.snapshot_result;

    if (entry->result < 0)
        stats_add(&shard->stats, STAT_BUILD_FAILURES, 1);
    else
        stats_add(&shard->stats, entry->program->loaded ? STAT_SNAPSHOTS_LOADED : STAT_BUILDS, 1);
    if (r == 0 || r == -ESTALE)
        return;
    stats_add(&shard->stats, STAT_SNAPSHOTS_REFUSED, 1);
    log_limited(&shard->log_limit, LOG_LEVEL_WARNING,
                "image %s: its snapshot is not used and made again: %s", entry->name,
                entry->load.snapshot_err.text[0] ? entry->load.snapshot_err.text : strerror(-r));
}

static void on_built(uv_work_t *work, int status)
{
    struct entry *entry = work->data;
    struct shard *shard = &entry->engine->shards[0];

    shard->works--;
    if (status < 0)
        entry->result = status;
    drop_load(entry, entry->result == 0 ? snapshot_root(entry->program->snap) : NULL);
    note_snapshot(entry);
    if (entry->result < 0) {
        entry->status = program_status(entry->result);
        hl_error_wrap(&entry->err, entry->result, "image '%s'", entry->name);
        log_limited(&shard->log_limit, LOG_LEVEL_WARNING, "%s", entry->err.text);
        settle(entry, ENTRY_FAILED);
    } else {
        atomic_store(&entry->program->used_ms, uv_now(&shard->loop));
        if (!list_empty(&entry->link))
            saves_add(&entry->engine->images->saves, entry->program, SAVES_BUILT);
        settle(entry, ENTRY_READY);
    }
}

/* Whose programs may go. */
enum spare {
    SPARE_UNUSED, /* those that serve nobody */
    SPARE_IDLE,   /* with idle instances at most */
};

/* Whether the entry is one: for a failed one, has no memory. */
static bool is_spare(const struct entry *entry, enum spare spare)
{
    struct program *program = entry->program;

    if (entry->state == ENTRY_FAILED)
        return hv_now_ns() - entry->failed_ns > FAILURE_KEPT_NS;
    if (entry->state != ENTRY_READY || atomic_load(&program->queued) > 0)
        return false;
    return atomic_load(&program->instances) <=
           (spare == SPARE_IDLE ? atomic_load(&program->warm) : 0);
}

/* The spare one to go first: what failed, then the longest unused. */
static struct entry *find_spare(struct images *images, enum spare spare, const struct program *keep)
{
    struct entry *oldest = NULL;
    uint64_t oldest_ms = UINT64_MAX;

    for (unsigned int i = 0; i < BUCKETS; i++) {
        LIST_FOREACH(l, &images->buckets[i])
        {
            struct entry *entry = LIST_ENTRY(l, struct entry, link);
            uint64_t used_ms;

            if (!is_spare(entry, spare) || (keep && entry->program == keep))
                continue;
            used_ms = entry->program ? atomic_load(&entry->program->used_ms) : 0;
            if (used_ms < oldest_ms) {
                oldest = entry;
                oldest_ms = used_ms;
            }
        }
    }
    return oldest;
}

/* Programs go until there is room: whoever asks for one again has it made anew. */
static void drop_programs(struct images *images, uint64_t need, unsigned int most, enum spare spare,
                          const struct program *keep)
{
    struct budget *budget = &images->engine->budget;
    uint64_t used = budget_used(budget, BUDGET_PROGRAMS) + need;
    uint64_t limit = atomic_load(&budget->limit[BUDGET_PROGRAMS]);

    while (used > limit || images->programs > most) {
        struct entry *entry = find_spare(images, SPARE_UNUSED, keep);
        char name[sizeof(entry->name)];
        uint64_t bytes;

        if (!entry && spare == SPARE_IDLE)
            entry = find_spare(images, spare, keep);
        if (!entry)
            return;
        bytes = entry->program ? entry->program->memory.amount : 0;
        used -= bytes < used ? bytes : used;
        memcpy(name, entry->name, sizeof(name)); /* the entry goes */
        images_invalidate(images->engine, name);
    }
}

static void count(struct entry *entry)
{
    entry->counted = true;
    entry->engine->images->programs++;
}

/* For another one's start-up. What is used counts however much that is. */
static void make_room(struct images *images, uint64_t need)
{
    drop_programs(images, 2 * need, images->programs_max - 1, SPARE_UNUSED, NULL);
}

/* With load.fd, load.snapshot_fd, and where there is a state load.root or load.root_fd. */
static void start_build(struct entry *entry)
{
    struct engine *engine = entry->engine;
    struct shard *shard = &engine->shards[0];

    make_room(engine->images, entry->load.entry.limits.memory);
    count(entry);
    entry->state = ENTRY_BUILDING;
    entry->load.digest = PROGRAM_DIGEST_CHECKED;
    entry->load.key = &engine->images->key;
    entry->load.hv = engine->hv;
    entry->load.host = engine->host;
    entry->load.budget = &engine->budget;
    entry->load.init_deadline_ns = shard->settings.init_deadline_ns;
    entry->work.data = entry;
    shard->works++;
    uv_queue_work(&shard->loop, &entry->work, build, on_built);
}

/* --- asking --------------------------------------------------------------------------------- */

static void on_reply(struct control_request *request);

static void send_ask(struct entry *entry)
{
    entry->request.fd = entry->request.snapshot_fd = -1;
    entry->request.done = on_reply;
    hl__control__request__init(&entry->request.request);
    hl__control__name__init(&entry->request_name);
    entry->request_name.name = entry->name;
    entry->request.request.kind_case = HL__CONTROL__REQUEST__KIND_RESOLVE;
    entry->request.request.resolve = &entry->request_name;
    control_link_request(entry->engine, &entry->request);
}

/* The root was asked for by the image's name, which may stand for another one since. */
static bool is_of_another(const struct entry *entry, const Hl__Control__Reply *reply)
{
    const Hl__Control__State *state =
        reply && reply->n_entries == 1 ? reply->entries[0]->state : NULL;

    if (reply && reply->status == HL_STATUS_INVALID_ARGUMENT)
        return true; /* one without a root */
    return reply && reply->status == HL_STATUS_OK &&
           (!state || state->root_sha256.len != ROOT_DIGEST_SIZE ||
            memcmp(state->root_sha256.data, entry->load.entry.root_sha256, ROOT_DIGEST_SIZE) != 0);
}

static void on_root_reply(struct control_request *request)
{
    struct entry *entry = LIST_ENTRY(request, struct entry, request);
    const Hl__Control__Reply *reply = request->reply;
    bool another = is_of_another(entry, reply);

    entry->load.root_fd = request->reply_fd;
    hl_cleanup_closep(&request->snapshot_fd);
    if (reply && reply->status == HL_STATUS_OK && entry->load.root_fd >= 0 && !another) {
        start_build(entry);
        return;
    }
    drop_load(entry, NULL);
    if (another) {
        send_ask(entry);
        return;
    }
    if (!reply)
        fail(entry, HL_STATUS_UNAVAILABLE, "hld is stopping");
    else
        fail(entry,
             reply->status > 0 && reply->status <= HL_STATUS_UNAUTHENTICATED
                 ? (enum hl_status)reply->status
                 : HL_STATUS_INTERNAL,
             reply->message);
}

static void on_root(struct root_user *user, struct snapshot *root)
{
    struct entry *entry = LIST_ENTRY(user, struct entry, root_user);

    if (root) {
        entry->load.root = root;
        start_build(entry);
        return;
    }
    entry->loads_root = true;
    entry->request.done = on_root_reply;
    entry->request.fd = entry->request.snapshot_fd = -1;
    hl__control__request__init(&entry->request.request);
    entry->request.request.kind_case = HL__CONTROL__REQUEST__KIND_ROOT;
    entry->request.request.root = &entry->request_name;
    control_link_request(entry->engine, &entry->request);
}

static void on_reply(struct control_request *request)
{
    struct entry *entry = LIST_ENTRY(request, struct entry, request);
    const struct settings *settings = &entry->engine->shards[0].settings;
    const Hl__Control__Reply *reply = request->reply;
    _cleanup_close_ int fd = request->reply_fd, snapshot_fd = request->snapshot_fd;

    if (reply && reply->snapshot_damaged)
        stats_add(&entry->engine->shards[0].stats, STAT_SNAPSHOTS_REFUSED, 1);
    if (!reply) {
        fail(entry, HL_STATUS_UNAVAILABLE, "hld is stopping");
        return;
    }
    if (reply->status != HL_STATUS_OK) {
        fail(entry,
             reply->status > 0 && reply->status <= HL_STATUS_UNAUTHENTICATED
                 ? (enum hl_status)reply->status
                 : HL_STATUS_UNKNOWN,
             reply->message);
        return;
    }
    memset(&entry->load, 0, sizeof(entry->load)); /* of an answer before, which was too old */
    entry->load.fd = entry->load.snapshot_fd = entry->load.root_fd = -1;
    if (reply->n_entries != 1 || fd < 0 ||
        program_entry_from_control(&entry->load.entry, reply->entries[0], &entry->err) < 0 ||
        strcmp(entry->load.entry.name, entry->name) != 0) {
        fail(entry, HL_STATUS_INTERNAL, "the registry's answer makes no sense");
        return;
    }
    if (entry->load.entry.size > settings->max_image_size) {
        fail(entry, HL_STATUS_FAILED_PRECONDITION, "the program is over max_image_size");
        return;
    }
    entry->load.fd = hl_steal_fd(&fd);
    entry->load.snapshot_fd = hl_steal_fd(&snapshot_fd);
    entry->load.root_fd = -1;
    if (!entry->load.entry.has_state) {
        start_build(entry);
    } else if (entry->load.snapshot_fd < 0) {
        drop_load(entry, NULL);
        fail(entry, HL_STATUS_INTERNAL, "the registry's answer lacks the image's state");
    } else {
        memcpy(entry->root_user.sha256, entry->load.entry.root_sha256, ROOT_DIGEST_SIZE);
        entry->root_user.go = on_root;
        roots_want(&entry->engine->images->roots, &entry->root_user);
    }
}

static struct entry *entry_new(struct images *images, const char *name)
{
    struct entry *entry = calloc(1, sizeof(*entry));

    if (!entry)
        return NULL;
    entry->engine = images->engine;
    memcpy(entry->name, name, strlen(name) + 1);
    list_init(&entry->waiters);
    list_init(&entry->link);
    pthread_mutex_lock(&images->lock);
    list_push_front(bucket(images, name), &entry->link);
    pthread_mutex_unlock(&images->lock);
    return entry;
}

static struct entry *ask(struct images *images, const char *name)
{
    struct entry *entry = entry_new(images, name);

    if (!entry)
        return NULL;
    entry->state = ENTRY_ASKING;
    entry->request.shard = &images->engine->shards[0];
    send_ask(entry);
    return entry;
}

static void on_resolve(struct mail *mail, void *owner)
{
    struct resolve *resolve = LIST_ENTRY(mail, struct resolve, mail);
    struct images *images = ((struct shard *)owner)->engine->images;
    struct entry *entry = find(images, resolve->name);
    struct entry none = {.status = HL_STATUS_RESOURCE_EXHAUSTED};

    if (entry && entry->state == ENTRY_FAILED && hv_now_ns() - entry->failed_ns > FAILURE_KEPT_NS) {
        entry_free(entry);
        entry = NULL;
    }
    if (!entry)
        entry = ask(images, resolve->name);
    if (!entry)
        answer(resolve, &none);
    else if (entry->state == ENTRY_READY || entry->state == ENTRY_FAILED)
        answer(resolve, entry);
    else
        list_push_back(&entry->waiters, &resolve->link);
}

void images_resolve(struct engine *engine, struct resolve *resolve)
{
    mailbox_post(&engine->shards[0].mailbox, &resolve->mail, on_resolve);
}

/* --- changes -------------------------------------------------------------------------------- */

void images_invalidate(struct engine *engine, const char *name)
{
    struct entry *entry = find(engine->images, name);

    if (entry) {
        bool busy = entry->state == ENTRY_ASKING || entry->state == ENTRY_BUILDING;

        leave_table(entry);
        if (!busy)
            entry_free(entry);
    }
    for (unsigned int i = 0; i < engine->nshards; i++) {
        if (shard_post_invalidation(&engine->shards[i], name) < 0)
            log_error("out of memory: image %s stays at its old version", name);
    }
}

void images_install(struct engine *engine, struct program *program)
{
    struct entry *entry;

    images_invalidate(engine, program->entry.name);
    make_room(engine->images, program->entry.limits.memory);
    entry = entry_new(engine->images, program->entry.name);
    if (!entry) {
        program_unref(program); /* the first call builds it again */
        return;
    }
    count(entry);
    entry->program = program;
    entry->state = ENTRY_READY; /* from here on shards may find it */
    atomic_store(&program->used_ms, uv_now(&engine->shards[0].loop));
    saves_add(&engine->images->saves, program, SAVES_BUILT);
}

void images_make_room(struct engine *engine, uint64_t bytes, const struct program *keep)
{
    struct images *images = engine->images;

    roots_drop_unused(&images->roots);
    if (bytes <= atomic_load(&engine->budget.limit[BUDGET_PROGRAMS]))
        drop_programs(images, bytes, UINT_MAX, SPARE_IDLE, keep);
}

void images_note_parent(struct engine *engine, struct program *program)
{
    saves_add(&engine->images->saves, program, SAVES_PARENT);
}

size_t images_list(struct images *images, struct program ***out)
{
    size_t n = 0, max = 0;

    *out = NULL;
    for (unsigned int i = 0; i < BUCKETS; i++) {
        LIST_FOREACH(l, &images->buckets[i])
        {
            max++;
        }
    }
    if (max > 0)
        *out = malloc(max * sizeof(struct program *));
    if (!*out)
        return 0;
    for (unsigned int i = 0; i < BUCKETS; i++) {
        LIST_FOREACH(l, &images->buckets[i])
        {
            struct entry *entry = LIST_ENTRY(l, struct entry, link);

            if (entry->state == ENTRY_READY) /* before, it is the thread pool's */
                (*out)[n++] = program_ref(entry->program);
        }
    }
    return n;
}

/* --- life ----------------------------------------------------------------------------------- */

/* What all snapshots of this worker have in common. */
static void set_key(struct snapshot_key *key, const struct engine *engine)
{
    struct hv_features features;

    memcpy(key->version, engine->version, strnlen(engine->version, sizeof(key->version) - 1));
    snapshot_host_features(&features, engine->hv, engine->host);
    crypto_generichash(key->host, sizeof(key->host), (const uint8_t *)features.list,
                       features.count * sizeof(features.list[0]), NULL, 0);
}

static unsigned int count_programs(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur / FILES_SHARE >= PROGRAMS_MAX)
        return PROGRAMS_MAX;
    limit.rlim_cur /= FILES_SHARE;
    return limit.rlim_cur < PROGRAMS_LEAST ? PROGRAMS_LEAST : (unsigned int)limit.rlim_cur;
}

const struct snapshot_key *images_key(const struct engine *engine)
{
    return &engine->images->key;
}

int images_new(struct images **out, struct engine *engine)
{
    struct images *images = calloc(1, sizeof(*images));

    if (!images)
        return -ENOMEM;
    images->engine = engine;
    pthread_mutex_init(&images->lock, NULL);
    images->programs_max = count_programs();
    set_key(&images->key, engine);
    saves_init(&images->saves, engine, &images->key);
    roots_init(&images->roots, &engine->budget);
    for (unsigned int i = 0; i < BUCKETS; i++)
        list_init(&images->buckets[i]);
    *out = images;
    return 0;
}

void images_stop(struct engine *engine)
{
    control_link_stop(engine->control);
}

void images_free(struct images *images)
{
    if (!images)
        return;
    saves_fini(&images->saves);
    for (unsigned int i = 0; i < BUCKETS; i++) {
        while (!list_empty(&images->buckets[i]))
            entry_free(LIST_ENTRY(images->buckets[i].next, struct entry, link));
    }
    roots_fini(&images->roots);
    pthread_mutex_destroy(&images->lock);
    free(images);
}
