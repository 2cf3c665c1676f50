/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From a descriptor to a snapshot. The file behind the descriptor may change under us or shrink, so
 * it is copied into memory of our own first; digest, parser and loader all see that copy. A program
 * that the front hands out is not hashed again here: the front has hashed that very file in the
 * state it is in, nobody but hld can write to it, and hashing would take longer than all the rest
 * of a first call. What a client uploads is.
 *
 * A snapshot that does not fit or is not sound is as good as none: the program is started then. It
 * never costs the image.
 */
#include "config.h"

#include "daemon/program.h"

#include <errno.h>
#include <inttypes.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "hv/timer.h"
#include "hv/world.h"
#include "proto/convert_policy.h"

_Static_assert(PROGRAM_DIGEST_SIZE == HV_SEED_SIZE, "a seed");
_Static_assert(PROGRAM_DIGEST_SIZE == crypto_hash_sha256_BYTES, "SHA-256");

static int read_whole(int fd, uint8_t *to, uint64_t size, struct hl_error *err)
{
    uint64_t done = 0;
    uint8_t more;

    while (done < size) {
        ssize_t n = pread(fd, to + done, size - done, (off_t)done);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return hl_error_set(err, -errno, "reading the program: %s", strerror(errno));
        if (n == 0)
            return hl_error_set(err, -EBADMSG,
                                "the program is %" PRIu64 " bytes and not the %" PRIu64 " it was",
                                done, size);
        done += (uint64_t)n;
    }
    if (pread(fd, &more, 1, (off_t)size) == 1)
        return hl_error_set(err, -EBADMSG, "the program is over the %" PRIu64 " bytes it was",
                            size);
    return 0;
}

static int copy_program(struct program *program, const struct program_load *load,
                        struct hl_error *err)
{
    uint8_t digest[PROGRAM_DIGEST_SIZE];
    int r;

    if (load->entry.size == 0)
        return hl_error_set(err, -ENOEXEC, "the program is empty");
    program->elf =
        mmap(NULL, load->entry.size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (program->elf == MAP_FAILED) {
        program->elf = NULL;
        return hl_error_set(err, -ENOMEM, "no memory for a program of %" PRIu64 " bytes",
                            load->entry.size);
    }
    program->elf_size = load->entry.size;
    r = read_whole(load->fd, program->elf, load->entry.size, err);
    if (r < 0)
        return r;
    mprotect(program->elf, load->entry.size, PROT_READ);
    if (load->digest == PROGRAM_DIGEST_CHECKED)
        return 0;
    crypto_hash_sha256(digest, program->elf, load->entry.size);
    if (load->digest == PROGRAM_DIGEST_CLAIMED &&
        memcmp(digest, load->entry.sha256, sizeof(digest)) != 0)
        return hl_error_set(err, -EBADMSG, "the program's SHA-256 is not what it should be");
    memcpy(program->entry.sha256, digest, sizeof(digest));
    return 0;
}

/* While it starts it may fill all of its memory; afterwards it is what its snapshot keeps. */
static int charge_start(struct program *program, struct budget *budget, struct hl_error *err)
{
    uint64_t bytes = program->entry.size + program->entry.limits.memory;

    if (charge_set(&program->memory, budget, BUDGET_PROGRAMS, bytes))
        return 0;
    return hl_error_set(err, -ENOBUFS,
                        "no room for another program now: its start-up may take %" PRIu64 " bytes",
                        bytes);
}

struct snapshot_key program_key(const struct program_entry *entry, const struct snapshot_key *key)
{
    struct snapshot_key own = *key;

    _Static_assert(sizeof(own.program) == PROGRAM_DIGEST_SIZE, "SHA-256");
    memset(own.name, 0, sizeof(own.name));
    memcpy(own.name, entry->name, strlen(entry->name));
    memcpy(own.program, entry->sha256, sizeof(own.program));
    return own;
}

struct snapshot_key program_state_key(const struct program_entry *entry,
                                      const struct snapshot_key *key)
{
    struct snapshot_key own = {.version = "state"};

    memcpy(own.program, entry->sha256, sizeof(own.program));
    memcpy(own.host, key->host, sizeof(own.host));
    return own;
}

/* The pages that came along over the root. There is no other way to make it. */
static int load_state(struct program *program, const struct program_load *load,
                      const struct snapshot_options *options, struct hl_error *err)
{
    const struct snapshot_key key = program_state_key(&program->entry, load->key);
    struct snapshot *root = load->root ? snapshot_ref(load->root) : NULL;
    int r = 0;

    if (!root)
        r = snapshot_file_load(&root, load->root_fd, load->hv, load->host, program->img, options,
                               &key, err);
    if (r == 0)
        r = snapshot_file_load_over(&program->snap, load->snapshot_fd, root, load->hv, load->host,
                                    program->img, options, &key, err);
    snapshot_unref(root);
    program->loaded = r == 0;
    return r == -ESTALE ? hl_error_set(err, r,
                                       "its state was made on another kind of processor or "
                                       "backend, or with other limits")
                        : r;
}

/* Returns: whether the snapshot that came along is the program's now. */
static bool load_snapshot(struct program *program, struct program_load *load,
                          const struct snapshot_options *options)
{
    struct snapshot_key key;

    load->snapshot_result = 0;
    if (load->snapshot_fd < 0)
        return false;
    key = program_key(&program->entry, load->key);
    load->snapshot_result =
        snapshot_file_load(&program->snap, load->snapshot_fd, load->hv, load->host, program->img,
                           options, &key, &load->snapshot_err);
    program->loaded = load->snapshot_result == 0;
    return program->loaded;
}

static int build_snapshot(struct program *program, const struct program_load *load,
                          const struct snapshot_options *options, struct hl_error *err)
{
    int r = snapshot_build(&program->snap, load->hv, load->host, program->img, options, err);

    if (r == -ETIMEDOUT)
        return hl_error_wrap(err, r, "it takes longer than init_deadline, %g s",
                             (double)load->init_deadline_ns / 1e9);
    return r;
}

int program_new(struct program **out, struct program_load *load, struct hl_error *err)
{
    struct program *program = calloc(1, sizeof(*program));
    struct snapshot_options options;
    uint64_t start = 0;
    int r;

    if (!program)
        return hl_error_set(err, -ENOMEM, "out of memory");
    atomic_init(&program->refs, 1);
    pthread_mutex_init(&program->log.lock, NULL);
    pthread_mutex_init(&program->root_lock, NULL);
    program->entry = load->entry;
    r = charge_start(program, load->budget, err);
    if (r == 0)
        r = copy_program(program, load, err);
    if (r == 0)
        r = image_new(&program->img, program->elf, program->entry.size, err);
    if (r == 0) {
        program->tends_long = calloc(image_function_count(program->img) + 1, 1);
        r = program->tends_long ? 0 : -ENOMEM;
    }
    if (r == 0) {
        start = hv_now_ns();
        options = (struct snapshot_options){
            .memory_size = program->entry.limits.memory,
            .io_size = program->entry.limits.io_size,
            .deadline_ns = start + load->init_deadline_ns,
            .name = program->entry.name,
            .log = program_log_line,
            .opaque = &program->log,
            .deterministic = program->entry.host.deterministic ? program->entry.sha256 : NULL,
        };
        if (program->entry.has_state)
            r = load_state(program, load, &options, err);
        else if (!load_snapshot(program, load, &options))
            r = build_snapshot(program, load, &options, err);
    }
    if (r < 0) {
        program_unref(program);
        return r;
    }
    (void)charge_set(&program->memory, load->budget, BUDGET_PROGRAMS,
                     program->entry.size + snapshot_resident(program->snap));
    program->start_ns = hv_now_ns() - start;
    *out = program;
    return 0;
}

enum hl_status program_status(int code)
{
    switch (code) {
    case -ECANCELED: /* the guest gave its start-up up; nobody cancelled anything */
        return HL_STATUS_ABORTED;
    case -ETIMEDOUT: /* of the start-up, not of the request */
    case -ESTALE:
        return HL_STATUS_FAILED_PRECONDITION;
    default:
        return hl_status_from_errno(code);
    }
}

struct program *program_ref(struct program *program)
{
    atomic_fetch_add_explicit(&program->refs, 1, memory_order_relaxed);
    return program;
}

void program_unref(struct program *program)
{
    if (!program || atomic_fetch_sub_explicit(&program->refs, 1, memory_order_acq_rel) != 1)
        return;
    snapshot_unref(program->snap);
    if (program->img)
        image_free(program->img);
    if (program->elf)
        munmap(program->elf, program->elf_size);
    for (size_t i = 0; i < PROGRAM_LOG_LINES; i++)
        free(program->log.lines[i]);
    pthread_mutex_destroy(&program->log.lock);
    pthread_mutex_destroy(&program->root_lock);
    free(program->tends_long);
    charge_release(&program->memory);
    free(program);
}

static int entry_state(struct program_entry *out, const Hl__Control__State *in)
{
    if (!hl_name_valid(in->parent, strlen(in->parent)) ||
        in->root_sha256.len != PROGRAM_DIGEST_SIZE)
        return -EPROTO;
    out->has_state = true;
    memcpy(out->parent, in->parent, strlen(in->parent) + 1);
    memcpy(out->root_sha256, in->root_sha256.data, PROGRAM_DIGEST_SIZE);
    out->root_size = in->root_size;
    out->state_size = in->pages_size;
    return 0;
}

int program_entry_from_control(struct program_entry *out, const Hl__Control__Entry *in,
                               struct hl_error *err)
{
    memset(out, 0, sizeof(*out));
    if (!hl_name_valid(in->name, strlen(in->name)))
        return hl_error_set(err, -EPROTO, "the registry names an image as none may be named");
    if (in->sha256.len != PROGRAM_DIGEST_SIZE || !in->limits)
        return hl_error_set(err, -EPROTO, "the registry's entry lacks a digest or limits");
    memcpy(out->name, in->name, strlen(in->name) + 1);
    memcpy(out->sha256, in->sha256.data, PROGRAM_DIGEST_SIZE);
    out->size = in->size;
    out->owner_uid = in->owner_uid;
    out->private_ = in->private_;
    out->registered_unix_ns = in->registered_unix_ns;
    limits_from_control(&out->limits, in->limits);
    if (in->state && entry_state(out, in->state) < 0)
        return hl_error_set(err, -EPROTO, "the registry's entry has a state that is none");
    if (out->limits.memory == 0 || out->limits.io_size == 0 || out->limits.max_instances == 0 ||
        out->limits.deadline_ns == 0)
        return hl_error_set(err, -EPROTO, "the registry's entry has a limit of 0");
    if (policy_from_message(&out->host, in->host, err) < 0)
        return -EPROTO;
    host_policy_fill(&out->host);
    return 0;
}

void program_log_line(void *opaque, int level, const char *text, size_t len)
{
    static const char *const levels[] = {"error", "warning", "info", "debug"};
    const char *word = level >= 0 && level < 4 ? levels[level] : "info";
    struct program_log *log = opaque;
    int kept = len > PROGRAM_LOG_LENGTH ? PROGRAM_LOG_LENGTH : (int)len;
    char *line, *old;

    if (!hl_utf8_valid(text, (size_t)kept)) {
        /* a cut in the middle of a character, or bytes that are none */
        while (kept > 0 && !hl_utf8_valid(text, (size_t)kept) && (int)len - kept < 4)
            kept--;
        if (!hl_utf8_valid(text, (size_t)kept)) {
            text = "(a line that is not UTF-8)";
            kept = (int)strlen(text);
        }
    }
    if (asprintf(&line, "%s: %.*s", word, kept, text) < 0)
        return;
    atomic_fetch_add_explicit(&log->total, 1, memory_order_relaxed);
    pthread_mutex_lock(&log->lock);
    old = log->lines[log->next];
    log->lines[log->next] = line;
    log->next = (log->next + 1) % PROGRAM_LOG_LINES;
    if (log->count < PROGRAM_LOG_LINES)
        log->count++;
    pthread_mutex_unlock(&log->lock);
    free(old);
}

size_t program_log_copy(struct program_log *log, char *lines[PROGRAM_LOG_LINES])
{
    size_t n = 0;

    pthread_mutex_lock(&log->lock);
    for (unsigned int i = 0; i < log->count; i++) {
        unsigned int at = (log->next + PROGRAM_LOG_LINES - log->count + i) % PROGRAM_LOG_LINES;
        char *copy = strdup(log->lines[at]);

        if (copy)
            lines[n++] = copy;
    }
    pthread_mutex_unlock(&log->lock);
    return n;
}

void program_entry_to_message(Hl__V1__Image *out, Hl__V1__Limits *limits,
                              const struct program_entry *entry)
{
    hl__v1__image__init(out);
    out->name = (char *)entry->name;
    out->sha256.data = (uint8_t *)entry->sha256;
    out->sha256.len = PROGRAM_DIGEST_SIZE;
    out->size = entry->size;
    out->owner_uid = entry->owner_uid;
    out->private_ = entry->private_;
    out->registered_unix_ns = entry->registered_unix_ns;
    out->parent = (char *)entry->parent;
    out->state_bytes = entry->state_size;
    out->root_bytes = entry->root_size;
    limits_to_message(limits, &entry->limits);
    out->limits = limits;
}
