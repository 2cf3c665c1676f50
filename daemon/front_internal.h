/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_DAEMON_FRONT_INTERNAL_H
#define HL_DAEMON_FRONT_INTERNAL_H

/* What the files of the front share: inside of front.h. Everything belongs to the loop's thread. */

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>
#include <uv.h>

#include "base/list.h"
#include "daemon/control.pb-c.h"
#include "daemon/front.h"
#include "daemon/log.h"
#include "daemon/registry.h"

#define WORKER_QUEUE_MAX   1024u /* packets, and connections, that a worker has not taken yet */
#define WORKER_REST_MAX    1024u /* packets of a dead worker that are looked through */
#define WORKER_PACKETS_MAX 256u  /* of one worker in a turn */
#define WORKER_START_MS    10000u
#define WORKER_KILL_MS     5000u /* from the channel's end to SIGKILL */
#define LIST_PAGE_MAX      100u

struct front_listener {
    uv_poll_t poll;
    uv_timer_t pause; /* out of descriptors: accept again a little later */
    int fd;
    bool polling;
    bool own; /* made by us, to be removed by us */
    dev_t device;
    ino_t inode;
};

enum worker_state {
    WORKER_STARTING, /* channel open, not confined yet */
    WORKER_SERVING,
    WORKER_ENDING, /* channel closed: no connection goes there any more */
};

/* A connection until its worker says that it has it: for the next worker, should this one die. */
struct handed {
    struct handed *next;
    struct ucred peer;
    int fd;
};

struct packet {
    struct packet *next;
    int fd;
    bool fd_handed; /* and so not this packet's to close */
    size_t size;
    uint8_t data[];
};

struct worker {
    struct worker *next;
    struct front *front;
    uint32_t uid;
    enum worker_state state;
    uint64_t started_ms;
    uv_process_t process;
    bool running;
    bool asked; /* we wanted its end */
    uv_poll_t channel;
    int fd;
    uv_timer_t timer; /* starting: gives up; serving: idle; ending: kills */
    unsigned int handles;
    struct packet *queue, **queue_end;
    unsigned int queued;
    struct handed *handed, **handed_end;
    uint64_t sent;        /* Connection messages, those in the queue too */
    uint64_t delivered;   /* of those, into the channel */
    uint64_t received;    /* of those, as its last Idle said */
    uint32_t connections; /* open, as its last Idle said */
    uint32_t sessions;    /* likewise */
    unsigned int requests;
};

struct crash { /* of a uid's workers, one after the other */
    struct crash *next;
    uint32_t uid;
    unsigned int count;
    uint64_t last_ms;
};

struct front_kv; /* front_kv.c */

/* What a worker asked for. */
struct request {
    struct request *next;
    uv_work_t work;
    struct front *front;
    struct worker *worker;
    uint64_t id;
    bool drop;
    bool rootless;            /* put: the root does not stand in fd */
    bool root;                /* resolve: the root of the name's state, and no more */
    struct manifest manifest; /* put and save: what is asked for; drop and resolve: the name */
    int fd; /* put and save: from the worker; resolve: the program, for the worker */
    struct registry_change *change;
    struct registry_entry entry; /* resolve: what is being looked at */
    struct registry_stamp stamp;
    bool check;      /* resolve: the program, on the thread pool */
    int snapshot_fd; /* resolve: for the worker, or -1 */
    uint64_t snapshot_size;
    int snapshot_result, part_result;
    bool snapshot_damaged;
    char temp[REGISTRY_TEMP_SIZE]; /* save */
    int result;
    struct hl_error err;
};

struct front {
    uv_loop_t loop;
    struct configuration config;
    const struct front_options *options;
    struct registry *registry;
    struct front_kv *kv;
    struct front_listener listener;
    uv_signal_t terminate, interrupt, hangup, child;
    uv_timer_t watchdog, drain, status, discard;
    bool status_sent;
    bool draining;
    bool at_once; /* a second signal */

    struct worker *workers;
    unsigned int worker_count; /* not ending */
    struct crash *crashes;

    struct request *changes, **changes_end; /* waiting for the registry, in order */
    struct request *changing;
    uint32_t last_changer;
    unsigned int jobs; /* on the thread pool */

    bool scrubbing;
    uv_timer_t scrub_pause;
    uint8_t scrubbed[REGISTRY_SHA256_SIZE]; /* the last one */

    struct request *saves, **saves_end; /* waiting to be written, in order */
    bool saving;
    struct list snapshots; /* struct kept, last used first */
    unsigned int snapshot_count;
    uint64_t snapshot_bytes;

    struct log_limit refused_log, busy_log, worker_log, request_log, snapshot_log;
};

/* front.c */
void front_check_drained(struct front *front);

/* front_notify.c */
void front_status(struct front *front); /* something that the status line tells has changed */
void front_notify_start(struct front *front);

/* front_listen.c */
void front_refuse(int connection); /* takes it; the client sees its end at once */
static inline void front_refusep(int *connection)
{
    if (*connection >= 0)
        front_refuse(*connection);
}
#define _cleanup_refuse_ __attribute__((cleanup(front_refusep)))
int listener_open(struct front *front, struct hl_error *err);
void listener_close(struct front *front); /* stops accepting, removes a socket of ours */

/* front_worker.c */
void worker_hand_over(struct front *front, const struct ucred *peer, int fd); /* takes fd */
void worker_request_done(struct worker *worker);
void worker_watch_idle(struct worker *worker); /* its counts have changed */
void worker_end(struct worker *worker);        /* by itself; killed if it takes long */
void workers_invalidate(struct front *front, const char *name);
void workers_reload(struct front *front);
void workers_drain(struct front *front);
void workers_kill(struct front *front);
void worker_fail(struct worker *worker, const char *why);

/* front_channel.c */
/* Takes fd. */
void channel_send(struct worker *worker, const Hl__Control__ToWorker *message, int fd);
/* Takes fd, unless it is handed: then the worker's list has it. */
void channel_queue(struct worker *worker, const Hl__Control__ToWorker *message, int fd,
                   bool fd_handed);
void channel_watch(struct worker *worker); /* what is waited for has changed */
void channel_drop(struct worker *worker);  /* what is queued */
/* Returns: the kind of the packet that was read and served, or 0. */
int channel_read(struct worker *worker);
void channel_read_rest(struct worker *worker); /* of one that is ending */

/* front_crash.c */
void crash_note(struct worker *worker);
uint64_t crash_delay(struct front *front, uint32_t uid); /* ms until one may start; 0: now */
void crashes_free(struct front *front);

/* front_request.c */
void request_handle(struct worker *worker, const Hl__Control__Request *message, int fd);
void request_free(struct request *request);           /* with its descriptors */
void request_fail(struct request *request, int code); /* frees it */

/* Answers, with the entry of m unless that is NULL; takes fd and frees request. */
void request_succeed(struct request *request, struct manifest *m, int fd);

/* A sealed memory file of size bytes. what: for the message. Returns: 0, -EINVAL. */
int request_check_file(int fd, uint64_t size, const char *what, struct hl_error *err);

/* front_resolve.c: consumes request, whose name is set. */
void request_resolve(struct request *request);
void requests_scrub_start(struct front *front); /* checks programs one by one in the background */

/* front_snapshot.c */
void request_save(struct request *request, uint64_t size); /* consumes request */

/* Copies in memory, for the next worker. take: a descriptor of the caller's, or -1. */
int snapshots_take(struct front *front, const struct registry_entry *entry);
void snapshots_keep(struct front *front, const struct registry_entry *entry, int fd, uint64_t size);
void snapshots_free(struct front *front);

/* front_settings.c */
struct settings_message {
    Hl__Control__Settings settings;
    Hl__Control__LimitSet defaults, maxima;
};
void settings_fill(struct settings_message *message, const struct front *front);

/* An image's: as asked for, or the defaults, and never more than the maxima. */
void settings_fill_limits_in_force(Hl__Control__LimitSet *out,
                                   const struct configuration_limits *asked,
                                   const struct configuration *config);

#endif
