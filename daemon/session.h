/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_DAEMON_SESSION_H
#define HL_DAEMON_SESSION_H

/*
 * Sessions: instances that clients of the uid keep from call to call. A session belongs to the
 * shard that opened it, its home, which its id names. Whoever wants something of it makes a use and
 * asks: uses come one after the other, in the order they came to the home. A call gets the session
 * lent, on its own shard; all else is done at the home. Both ways are mails unless it is the same
 * shard.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "base/error.h"
#include "base/list.h"
#include "base/value.h"
#include "daemon/budget.h"
#include "daemon/conn.h"
#include "daemon/mailbox.h"
#include "hv/checkpoint.h"

#define SESSION_ID_LENGTH 34 /* hex digits: the home's number, 128 random bits */

struct call;
struct pool;
struct pooled;
struct shard;

/* What others may know; the home's. */
struct session_info {
    char id[SESSION_ID_LENGTH + 1];
    char image[HL_NAME_MAX + 1];
    uint64_t calls, checkpoints, bytes; /* of the checkpoints */
    uint64_t opened_ns, used_ns;
    bool busy;
    char failed[160]; /* why it takes no call before a rollback, or "" */
};

struct session_commit;

struct session {
    /* the home's */
    struct list link; /* of shard->sessions, longest unused first */
    struct shard *home;
    struct pool *pool;
    struct session_info info;
    struct list uses; /* that wait */
    unsigned int nuses;
    struct session_use *user; /* has it now, or NULL */
    bool closed;              /* gone for clients; ends when nobody has it */
    bool held;                /* someone up the stack goes on with it, and ends it */
    /* the user's */
    struct pooled *pooled; /* NULL: it failed */
    struct history *history;
    struct charge memory; /* of the checkpoints */
    struct checkpoint **checkpoints;
    uint64_t ncheckpoints; /* made so far; number n is at n - 1, NULL when forgotten */
    uint64_t live;         /* of them, not forgotten */
};

enum session_work {
    SESSION_CALL,
    SESSION_CHECKPOINT,
    SESSION_ROLLBACK,
    SESSION_FORGET,
    SESSION_COMMIT,
    SESSION_CLOSE,
};

/* From the heap. done is called on `from` once, and frees it, or (a call that was granted) hands it
 * to session_release later. */
struct session_use {
    struct mail mail;
    struct list link;
    struct shard *from;
    enum session_work work;
    char id[SESSION_ID_LENGTH + 1];
    void (*done)(struct session_use *use);
    struct session *session; /* a call: what it got, or NULL with status and err */
    struct call *call;       /* from's; NULL: it gave up */
    struct ticket ticket;    /* from's */
    uint64_t checkpoint;     /* asked for, or made; 0: as it was opened */
    uint64_t pages, bytes;
    char name[HL_NAME_MAX + 1];    /* commit: of the image */
    bool private_, flatten;        /* likewise */
    struct session_commit *commit; /* while that is made */
    const char *failed;            /* a call that the session does not survive, and why */
    bool called;                   /* a call that had the session's instance */
    bool move;                     /* a rollback into another instance */
    uv_work_t uv;
    int result;
    enum hl_status status;
    struct hl_error err;
};

/* Makes one of p, which has just been taken from its pool. Returns: 0, or -EAGAIN at the limit,
 * -ENOMEM; p is the caller's still. */
int session_new(struct session **out, struct pooled *p, struct hl_error *err);

/* The shard that the id names, or NULL where no session can have it. */
struct shard *session_home(struct shard *shard, const char *id);

/* Whether a use asked for now on this shard, its home, would have to wait. */
bool session_is_busy(struct shard *home, const char *id);

/* On use->from, the id filled in and its home known. */
void session_ask(struct session_use *use, struct shard *home);

/* A call is over, on the shard that had it: p is continued or found broken, the session goes back
 * to its home. */
void session_call_ended(struct pooled *p);
void session_release(struct session_use *use); /* nothing was done with it */

/* Copies of what the shard's sessions are. *out grows; the caller frees it. */
int sessions_list(struct shard *shard, struct session_info **out, size_t *count);

/* On their home: the timer fits the settings; all end. */
void sessions_arm(struct shard *shard);
void sessions_stop(struct shard *shard);

/* session_work.c: what is done at the home; session_worked follows, now or later. */
void session_work_begin(struct session *s, struct session_use *use);
void session_worked(struct session *s, struct session_use *use);
void session_lose_instance(struct session *s, const char *why);
void session_free_checkpoints(struct session *s);

/* session_commit.c: session_worked follows. */
void session_commit(struct session *s, struct session_use *use);

#endif
