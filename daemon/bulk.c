/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a client sends here it may go on changing, unless the kernel keeps it from that. So an
 * argument has to be sealed against writing and shrinking: its bytes are then the same to the check
 * and to the guest, and no access to them can fail for want of a page. Nobody seals a file on a
 * disk, so only memfds pass.
 *
 * The kernel charges a page to whoever touches it first. A file with holes would have hld's control
 * group pay for a client's memory, as long as that client keeps it, so files have to be there
 * already. For a result that is made certain: once it is mapped here it is sealed against further
 * ways to write, which are the ways to punch a hole too, and then looked through. For an argument
 * the number of its blocks has to do, since to look through a large file takes longer than a call.
 * A client could hide holes behind blocks past the file's end, at the cost of having those itself;
 * it shows afterwards, and is the last descriptor that is taken from it.
 */
#include "config.h"

#include "daemon/bulk.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "daemon/conn.h"
#include "daemon/discard.h"
#include "daemon/engine.h"
#include "daemon/shard.h"
#include "guest/hl_abi.h"

#define DESCRIPTORS_OF_CALL (HL_MAX_PARAMS + 1u)
#define PAGE                HL_ABI_PAGE_SIZE

/* Of a result. To look through a file and to unmap it takes a shard about a millisecond for each
 * 64 MiB. */
#define ROOM_MAX (256u << 20)

#define ARGUMENT_SEALS (F_SEAL_WRITE | F_SEAL_SHRINK)
#define RESULT_SEALS   (F_SEAL_SHRINK | F_SEAL_GROW)

struct file {
    int fd;
    bool is_argument;
    uint64_t size, blocks;
};

struct bulk {
    struct engine *engine;
    struct charge charge, descriptors_charge;
    struct file files[DESCRIPTORS_OF_CALL];
    unsigned int count;
    unsigned int into; /* of files: the result's */
    void *room;
    size_t room_size;
};

HL_DEFINE_CLEANUP(struct bulk *, bulk_free)

void bulk_free(struct bulk *bulk)
{
    if (!bulk)
        return;
    if (bulk->room)
        munmap(bulk->room, bulk->room_size);
    for (unsigned int i = 0; i < bulk->count; i++) {
        struct file *file = &bulk->files[i];
        struct stat st;

        if (file->is_argument && hl_fstat(file->fd, &st) == 0 &&
            (uint64_t)st.st_blocks > file->blocks &&
            !atomic_exchange(&bulk->engine->bulk_distrusted, true))
            log_warning("a client of uid %u has hidden holes in a descriptor: no more are taken",
                        bulk->engine->uid);
        discard(hl_steal_fd(&file->fd));
    }
    charge_release(&bulk->charge);
    charge_release(&bulk->descriptors_charge);
    free(bulk);
}

static uint64_t whole_pages(uint64_t size)
{
    return (size + PAGE - 1) & ~(uint64_t)(PAGE - 1);
}

/* Memory that is allocated and was not written to is still a hole where a result goes. */
static int has_holes(unsigned int index, bool is_argument, struct hl_error *err)
{
    if (is_argument)
        return hl_error_set(err, -EINVAL,
                            "descriptor %u has holes: its memory must be there, so write all of it "
                            "or call posix_fallocate",
                            index);
    return hl_error_set(err, -EINVAL,
                        "the room for the result (descriptor %u) has holes: all of it must have "
                        "been written to, with zeros or anything else; posix_fallocate does not do",
                        index);
}

/* Fills in what the file is. */
static int check_file(struct file *file, unsigned int index, int seals, struct hl_error *err)
{
    int have = fcntl(file->fd, F_GET_SEALS);
    struct stat st;

    if (have < 0 || hl_fstat(file->fd, &st) < 0 || !S_ISREG(st.st_mode))
        return hl_error_set(err, -EINVAL, "descriptor %u is not a memfd", index);
    if ((have & seals) != seals)
        return hl_error_set(err, -EINVAL,
                            "descriptor %u is not sealed against %s: see F_ADD_SEALS, fcntl(2)",
                            index,
                            !(have & F_SEAL_SHRINK)   ? "shrinking (F_SEAL_SHRINK)"
                            : seals == ARGUMENT_SEALS ? "writing (F_SEAL_WRITE)"
                                                      : "growing (F_SEAL_GROW)");
    if (st.st_size < 0 || (uint64_t)st.st_size > UINT32_MAX)
        return hl_error_set(err, -EINVAL, "descriptor %u has %jd bytes, more than %" PRIu32, index,
                            (intmax_t)st.st_size, UINT32_MAX);
    file->size = (uint64_t)st.st_size;
    file->blocks = (uint64_t)st.st_blocks;
    if (file->blocks * 512 < whole_pages(file->size))
        return has_holes(index, seals == ARGUMENT_SEALS, err);
    return 0;
}

/* --- the result's file ---------------------------------------------------------------------- */

/* A file of huge pages cannot be mapped from its second small page on; nor is it known to have no
 * holes. */
static bool of_usual_pages(int fd)
{
    void *probe = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, PAGE);

    return probe != MAP_FAILED && munmap(probe, PAGE) == 0;
}

static int map_room(struct bulk *bulk, unsigned int index, struct hl_error *err)
{
    struct file *file = &bulk->files[index];
    void *room;

    if (file->size > ROOM_MAX)
        return hl_error_set(err, -EINVAL,
                            "room for a result of %" PRIu64 " bytes: %u (256 MiB) is the most",
                            file->size, ROOM_MAX);
    if (file->size == 0 || file->size % PAGE)
        return hl_error_set(err, -EINVAL,
                            "room for a result of %" PRIu64 " bytes: it must be a multiple of %u",
                            file->size, PAGE);
    if (!of_usual_pages(file->fd))
        return hl_error_set(err, -EINVAL, "the room for the result is made of huge pages");
    room = mmap(NULL, file->size, PROT_READ | PROT_WRITE, MAP_SHARED, file->fd, 0);
    if (room == MAP_FAILED)
        return hl_error_set(err, -EINVAL,
                            "the room for the result cannot be mapped to be written: %s",
                            strerror(errno));
    bulk->room = room;
    bulk->room_size = file->size;
    bulk->into = index;
    if (fcntl(file->fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE) < 0)
        return hl_error_set(err, -EINVAL, "the room for the result cannot be sealed: %s",
                            strerror(errno));
    if (lseek(file->fd, 0, SEEK_HOLE) != (off_t)file->size)
        return has_holes(index, false, err);
    return 0;
}

void *bulk_result(const struct bulk *bulk, size_t *room)
{
    *room = bulk ? bulk->room_size : 0;
    return bulk ? bulk->room : NULL;
}

int bulk_seal_result(struct bulk *bulk, size_t len, Hl__V1__Descriptor *out, struct hl_error *err)
{
    munmap(bulk->room, bulk->room_size);
    bulk->room = NULL;
    if (fcntl(bulk->files[bulk->into].fd, F_ADD_SEALS, F_SEAL_WRITE) < 0)
        return hl_error_set(err, -EBUSY,
                            "the room for the result cannot be sealed: is it mapped to be written "
                            "elsewhere?");
    hl__v1__descriptor__init(out);
    out->index = bulk->into;
    out->length = len;
    return 0;
}

/* --- all that a request names --------------------------------------------------------------- */

static unsigned int past(const Hl__V1__Descriptor *named, unsigned int count)
{
    if (named->index >= DESCRIPTORS_OF_CALL)
        return DESCRIPTORS_OF_CALL + 1;
    return named->index + 1 > count ? named->index + 1 : count;
}

/* Returns: how many descriptors belong to the request, which may be too many. */
static unsigned int count_named(const Hl__V1__InvokeRequest *message)
{
    unsigned int count = 0;

    for (size_t i = 0; i < message->n_args; i++) {
        if (message->args[i]->kind_case == HL__V1__VALUE__KIND_DESCRIPTOR)
            count = past(message->args[i]->descriptor, count);
    }
    return message->result_into ? past(message->result_into, count) : count;
}

static int check_arguments(struct bulk *bulk, const Hl__V1__InvokeRequest *message,
                           struct hl_error *err)
{
    uint64_t total = 0;

    for (size_t i = 0; i < message->n_args; i++) {
        unsigned int index;
        struct file *file;
        int r = 0;

        if (message->args[i]->kind_case != HL__V1__VALUE__KIND_DESCRIPTOR)
            continue;
        index = message->args[i]->descriptor->index;
        file = &bulk->files[index];
        if (!file->is_argument)
            r = check_file(file, index, ARGUMENT_SEALS, err);
        if (r < 0)
            return hl_error_wrap(err, r, "argument %zu", i + 1);
        file->is_argument = true;
        if (__builtin_add_overflow(total, file->size, &total))
            total = UINT64_MAX;
    }
    if (message->result_into) {
        unsigned int index = message->result_into->index;
        int r = check_file(&bulk->files[index], index, RESULT_SEALS, err);

        if (r == 0)
            r = map_room(bulk, index, err);
        if (r < 0)
            return r;
        total += bulk->room_size;
    }
    if (!charge_set(&bulk->charge, &bulk->engine->budget, BUDGET_BULK, total))
        return hl_error_set(err, -ENOBUFS,
                            "descriptors of %" PRIu64 " bytes are more than bulk_budget has left",
                            total);
    return 0;
}

static int take(struct bulk *bulk, struct conn *conn, unsigned int count, struct hl_error *err)
{
    int fds[DESCRIPTORS_OF_CALL];
    int r;

    if (atomic_load_explicit(&bulk->engine->bulk_distrusted, memory_order_relaxed))
        return hl_error_set(err, -EPERM,
                            "no descriptors are taken from this uid: one had hidden holes");
    r = conn_take_descriptors(conn, fds, count);
    if (r == -ENOBUFS)
        return hl_error_set(err, r, "no room for the request's descriptors now");
    if (r < 0)
        return hl_error_set(err, -EINVAL,
                            "the request names %u descriptors, and fewer came with it", count);
    for (unsigned int i = 0; i < count; i++)
        bulk->files[i].fd = fds[i];
    bulk->count = count;
    if (!charge_set(&bulk->descriptors_charge, &bulk->engine->budget, BUDGET_DESCRIPTORS, count))
        return hl_error_set(err, -ENOBUFS, "calls have too many descriptors now");
    return 0;
}

int bulk_take(struct bulk **out, const struct request *request,
              const Hl__V1__InvokeRequest *message, struct hl_error *err)
{
    _cleanup_(bulk_freep) struct bulk *bulk = NULL;
    unsigned int count = count_named(message);
    int r;

    *out = NULL;
    if (count == 0)
        return 0;
    if (count > DESCRIPTORS_OF_CALL)
        return hl_error_set(err, -EINVAL, "a call takes %u descriptors at most",
                            DESCRIPTORS_OF_CALL);
    bulk = calloc(1, sizeof(*bulk));
    if (!bulk)
        return hl_error_set(err, -ENOMEM, "no memory for descriptors");
    bulk->engine = request->conn->shard->engine;
    r = take(bulk, request->conn, count, err);
    if (r == 0)
        r = check_arguments(bulk, message, err);
    if (r < 0)
        return r;
    *out = HL_STEAL(bulk);
    return 0;
}

int bulk_argument(const struct bulk *bulk, const Hl__V1__Descriptor *named, struct hl_value *out,
                  struct hl_error *err)
{
    const struct file *file;

    if (!bulk || named->index >= bulk->count || !bulk->files[named->index].is_argument)
        return hl_error_set(err, -EINVAL, "descriptor %u did not come with the request",
                            named->index);
    file = &bulk->files[named->index];
    *out = (struct hl_value){
        .type = HL_TYPE_DESCRIPTOR,
        .descriptor = {.len = file->size, .fd = file->fd},
    };
    return 0;
}
