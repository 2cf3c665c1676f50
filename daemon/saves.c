/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A program that was started here is worth keeping, for the next worker and the next start of hld.
 * Writing it down takes the time of copying it, so it happens on the thread pool, after whoever
 * waited for the program has been told, and one at a time. When more are waiting than a few, new
 * ones are let go: they cost memory while they wait, and whoever builds one again has another
 * chance. The front decides whether it keeps one; here only what it would certainly refuse is not
 * sent, such as other people's.
 *
 * A large snapshot may take longer to load than the program takes to start, and then is not worth
 * its place on the disk. It is all the same when an image was made of a session of this program:
 * started again, the program may leave other bytes, and images made of that one would lie over a
 * root of their own.
 */
#include "config.h"

#include "daemon/saves.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <uv.h>

#include "base/cleanup.h"
#include "daemon/control.h"
#include "daemon/control_link.h"
#include "daemon/engine.h"
#include "daemon/images.h"
#include "daemon/program.h"
#include "daemon/shard.h"

#define WAITING_MAX 64u

/* Past this size it counts how long the start-up took. The front copies a file and its checksum in
 * about a nanosecond a byte. */
#define LARGE       (64u << 20)
#define NS_PER_BYTE 1u

struct save {
    struct list link;
    struct saves *saves;
    struct program *program;
    enum saves_why why;
    struct charge memory; /* of the copy */
    uv_work_t work;
    struct control_request control;
    Hl__Control__SaveSnapshot message;
    uint64_t size;
    int result;
};

static void next(struct saves *saves);

static void save_free(struct save *save)
{
    hl_cleanup_closep(&save->control.fd);
    charge_release(&save->memory);
    program_unref(save->program);
    free(save);
}

static void end(struct save *save)
{
    struct saves *saves = save->saves;
    struct shard *shard = &saves->engine->shards[0];

    save_free(save);
    saves->busy = false;
    shard->works--;
    next(saves);
    shard_check_quiet(shard);
}

static void on_saved(struct control_request *control)
{
    struct save *save = LIST_ENTRY(control, struct save, control);
    struct shard *shard = &save->saves->engine->shards[0];

    hl_cleanup_closep(&control->reply_fd);
    if (control->reply && control->reply->status == HL_STATUS_OK)
        stats_add(&shard->stats, STAT_SNAPSHOTS_SAVED, 1);
    else
        save->program->saved = false;
    end(save);
}

static void write_work(uv_work_t *work)
{
    struct save *save = work->data;
    struct saves *saves = save->saves;
    const struct snapshot_key key = program_key(&save->program->entry, saves->key);

    save->result = snapshot_file_write(&save->control.fd, &save->size, save->program->snap,
                                       saves->engine->hv, &key, NULL);
}

static void on_written(uv_work_t *work, int status)
{
    struct save *save = work->data;
    const struct program_entry *entry = &save->program->entry;
    Hl__Control__SaveSnapshot *message = &save->message;

    if (status < 0 || save->result < 0 || save->size > CONTROL_SNAPSHOT_MAX) {
        save->program->saved = false;
        end(save);
        return;
    }
    hl__control__save_snapshot__init(message);
    message->name = (char *)entry->name;
    message->sha256.data = (uint8_t *)entry->sha256;
    message->sha256.len = sizeof(entry->sha256);
    message->registered_unix_ns = entry->registered_unix_ns;
    message->size = save->size;
    hl__control__request__init(&save->control.request);
    save->control.request.kind_case = HL__CONTROL__REQUEST__KIND_SAVE_SNAPSHOT;
    save->control.request.save_snapshot = message;
    save->control.shard = &save->saves->engine->shards[0];
    save->control.done = on_saved;
    control_link_request(save->saves->engine, &save->control);
}

static void drop_waiting(struct saves *saves)
{
    struct list *l;

    while ((l = list_pop_front(&saves->waiting)))
        save_free(LIST_ENTRY(l, struct save, link));
    saves->count = 0;
}

/* For the copy. Only a parent's is worth that other programs go for it. */
static bool charge(struct save *save)
{
    struct engine *engine = save->saves->engine;
    uint64_t bytes = snapshot_resident(save->program->snap);

    if (charge_set(&save->memory, &engine->budget, BUDGET_PROGRAMS, bytes))
        return true;
    if (save->why != SAVES_PARENT)
        return false;
    images_make_room(engine, bytes, save->program);
    return charge_set(&save->memory, &engine->budget, BUDGET_PROGRAMS, bytes);
}

static void next(struct saves *saves)
{
    struct shard *shard = &saves->engine->shards[0];
    struct save *save = NULL;

    if (shard->draining)
        drop_waiting(saves);
    while (!saves->busy && !list_empty(&saves->waiting)) {
        save = LIST_ENTRY(list_pop_front(&saves->waiting), struct save, link);
        saves->count--;
        saves->busy = charge(save);
        if (!saves->busy) {
            save->program->saved = false;
            save_free(HL_STEAL(save));
        }
    }
    if (!save)
        return;
    save->work.data = save;
    shard->works++;
    uv_queue_work(&shard->loop, &save->work, write_work, on_written);
}

static bool is_worth_it(const struct program *program)
{
    uint64_t bytes = snapshot_resident(program->snap);

    return bytes <= LARGE || program->start_ns > bytes * NS_PER_BYTE;
}

void saves_add(struct saves *saves, struct program *program, enum saves_why why)
{
    struct save *save;

    if (program->loaded || program->saved || program->entry.owner_uid != saves->engine->uid ||
        (why == SAVES_BUILT && !is_worth_it(program)) || saves->count >= WAITING_MAX)
        return;
    save = calloc(1, sizeof(*save));
    if (!save)
        return;
    save->saves = saves;
    save->program = program_ref(program);
    save->why = why;
    program->saved = true;
    save->control.fd = save->control.snapshot_fd = -1;
    list_push_back(&saves->waiting, &save->link);
    saves->count++;
    next(saves);
}

void saves_init(struct saves *saves, struct engine *engine, const struct snapshot_key *key)
{
    *saves = (struct saves){.engine = engine, .key = key};
    list_init(&saves->waiting);
}

void saves_fini(struct saves *saves)
{
    drop_waiting(saves);
}
