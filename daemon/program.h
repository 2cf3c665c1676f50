/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_DAEMON_PROGRAM_H
#define HL_DAEMON_PROGRAM_H

/*
 * A program: one version of a registered image in this worker, loaded, started and snapshotted. It
 * never changes once it is made, so shards share it by reference count; the numbers in it that
 * count what the shards have of it are atomics.
 */

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/host_policy.h"
#include "base/value.h"
#include "daemon/budget.h"
#include "daemon/control.pb-c.h"
#include "daemon/settings.h"
#include "hv/image.h"
#include "hv/snapshot.h"
#include "hv/snapshot_file.h"
#include "proto/hl.pb-c.h"

#define PROGRAM_DIGEST_SIZE 32
#define PROGRAM_LOG_LINES   128
#define PROGRAM_LOG_LENGTH  512 /* bytes of a line that are kept */

/* What the registry says of an image. */
struct program_entry {
    char name[HL_NAME_MAX + 1];
    uint8_t sha256[PROGRAM_DIGEST_SIZE];
    uint64_t size;
    uint32_t owner_uid;
    bool private_;
    uint64_t registered_unix_ns;
    struct limits limits;
    struct hl_host_policy host; /* defaults filled in */
    bool has_state;             /* made from a session: */
    char parent[HL_NAME_MAX + 1];
    uint8_t root_sha256[PROGRAM_DIGEST_SIZE];
    uint64_t root_size, state_size;
};

/* The image's latest log lines: a ring, with a lock, since only guests that log come here. */
struct program_log {
    pthread_mutex_t lock;
    unsigned int next, count;
    char *lines[PROGRAM_LOG_LINES];
    _Atomic uint64_t total;
};

struct program {
    atomic_uint refs;
    struct program_entry entry;
    void *elf; /* mapping of elf_size bytes that img borrows */
    size_t elf_size;
    struct image *img;
    struct snapshot *snap;
    struct charge memory; /* of BUDGET_PROGRAMS */
    uint64_t start_ns;    /* what its start-up took, or loading what was left of one */
    bool loaded;          /* snap came as a file */
    bool saved;           /* shard 0's: it was handed to the front, or is about to be (saves.c) */
    struct program_log log;

    /* The file of what images made of its sessions lie over (commit.c): it takes as long to find
     * out as the root is large. */
    pthread_mutex_t root_lock;
    bool root_known;
    uint8_t root_sha256[PROGRAM_DIGEST_SIZE];
    uint64_t root_size;

    atomic_uint instances; /* of all shards; at most entry.limits.max_instances */
    atomic_uint queued;    /* calls waiting; at most entry.limits.max_queue */
    atomic_uint running, warm;
    atomic_uchar *tends_long; /* a number a function: how long its calls have been (call.c) */
    _Atomic uint64_t calls, errors;
    _Atomic uint64_t used_ms;     /* when an instance was last taken for a call; a shard's clock */
    _Atomic uint64_t wanted;      /* shards that wait for an instance, one bit each */
    _Atomic uint64_t host_due_ns; /* when its host calls so far fit its rate (host.c) */
};

enum program_digest {
    PROGRAM_DIGEST_UNKNOWN, /* entry.sha256 is filled in */
    PROGRAM_DIGEST_CLAIMED, /* by a client: compared */
    PROGRAM_DIGEST_CHECKED, /* by the front, of the file that fd is */
};

struct program_load {
    struct program_entry entry; /* size is checked */
    enum program_digest digest;
    int fd;                /* borrowed; where the program is read from */
    int snapshot_fd;       /* borrowed; a snapshot that may fit (hv/snapshot_file.h), or -1 */
    struct snapshot *root; /* of an entry with a state: borrowed, or NULL and then */
    int root_fd;           /* where it is read from, borrowed */
    const struct snapshot_key
        *key; /* version and host of snapshots here; NULL without snapshot_fd */
    const struct hv_backend *hv;
    struct hv_host *host;
    struct budget *budget;
    uint64_t init_deadline_ns; /* from now */
    /* What came of snapshot_fd: 0; -ESTALE where it did not fit, or why it was refused. */
    int snapshot_result;
    struct hl_error snapshot_err;
};

/* Reads and checks a program and loads its snapshot, or starts it where there is none that can be
 * used; blocks for milliseconds and runs untrusted code, so not on a shard. Returns: 0; what
 * image_new and snapshot_build return; -EBADMSG for another digest; -ENOBUFS where the budget has
 * no room for its start-up. */
int program_new(struct program **out, struct program_load *load, struct hl_error *err);

/* The same for files that are kept for good, whatever version of hld wrote them. */
struct snapshot_key program_state_key(const struct program_entry *entry,
                                      const struct snapshot_key *key);

/* key for this program, from one for this worker. */
struct snapshot_key program_key(const struct program_entry *entry, const struct snapshot_key *key);

/* The status for what program_new returned. */
enum hl_status program_status(int code);

struct program *program_ref(struct program *program);
void program_unref(struct program *program); /* NULL is allowed */

/* Returns: 0, or -EPROTO for an entry the front should not have sent. */
int program_entry_from_control(struct program_entry *out, const Hl__Control__Entry *in,
                               struct hl_error *err);

/* instance_log_cb and snapshot_options.log; opaque: struct program_log. Any thread. */
void program_log_line(void *opaque, int level, const char *text, size_t len);

/* The lines, oldest first, copies of the caller's. Returns: how many. */
size_t program_log_copy(struct program_log *log, char *lines[PROGRAM_LOG_LINES]);

/* The image as clients see it. out borrows from entry; limits is the caller's space. */
void program_entry_to_message(Hl__V1__Image *out, Hl__V1__Limits *limits,
                              const struct program_entry *entry);

#endif
