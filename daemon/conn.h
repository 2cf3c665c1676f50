/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_DAEMON_CONN_H
#define HL_DAEMON_CONN_H

/*
 * A client's connection: frames in, replies out, and what the engine owes it. Owned by one shard's
 * thread. After conn_close the memory stays until libuv has let go of its handles; calls and
 * tickets are cut off at once.
 */

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <uv.h>

#include "base/list.h"
#include "daemon/budget.h"
#include "daemon/descriptors.h"
#include "proto/buffer.h"
#include "proto/envelope.h"

#define CONN_UPLOADS_MAX 2
#define CONN_TICKETS_MAX 64 /* requests answered later, calls apart */

#define CONN_BUFFER_SIZE 16384u /* of each direction, usually */
#define CONN_BUFFER_KEPT 65536u /* larger ones go back after CONN_SMALL_MANY frames that */
#define CONN_SMALL_MANY  16u    /* would have done without */
#define CONN_MORE_MOST   4u
#define CONN_WRITE_HIGH  (1u << 20) /* unwritten; past it the client is not read from */

#define CONN_STREAMS_MAX 1024u /* open at a time */

struct call_stream;
struct shard;

/* A program being sent in pieces (service_images.c). */
struct upload {
    uint64_t id; /* 0: free */
    int fd;      /* memfd */
    uint64_t received;
    struct charge charge;
};

struct conn {
    struct shard *shard;
    struct list link;       /* of the shard's connections */
    struct list ready_link; /* of those with a whole frame in the buffer */
    int fd;
    uv_poll_t poll;
    int polled; /* enum uv_poll_event: waited for now */
    uv_timer_t timer;
    int open_handles;
    bool closing;
    bool eof;          /* the client sends no more */
    bool reading;      /* as bytes come */
    bool corked;       /* a frame is being served: replies may be held back */
    unsigned int more; /* whole frames behind that one, up to CONN_MORE_MOST */

    uint8_t *buf; /* frames: [start, end) is not yet served */
    size_t start, end, cap;
    size_t discard;                         /* bytes of a refused frame still to come */
    unsigned int small_reads, small_writes; /* in a row, since the last large one */
    struct charge buf_charge;
    uint64_t read_ns;    /* when the newest bytes came */
    uint64_t partial_ns; /* since when a frame is incomplete, 0: none is */
    uint32_t last_stream;

    struct descriptors descriptors; /* that came and belong to frames not served yet */
    struct charge descriptors_charge;
    uint64_t received; /* bytes so far */
    uint64_t lost_at;  /* descriptors that came by then had to be closed, 0: none were */

    struct buffer out;  /* not written yet */
    bool late;          /* the socket took no more: it is waited for */
    uint64_t corked_ns; /* since when frames are served whose replies are held back */
    size_t write_bytes; /* in out, as charged */
    struct charge write_charge;
    uint64_t stalled_ns; /* since when nothing was written though there was something, or 0 */

    struct list calls;
    unsigned int waiting;       /* of them in a queue */
    uint64_t round_pool, round; /* of the last one that left a queue: its pool's id, its turn */
    struct list streams;        /* open ones */
    unsigned int nstreams;
    unsigned int asked; /* host calls that this client, a provider, has not answered yet */
    struct list tickets;
    unsigned int ntickets;
    struct upload uploads[CONN_UPLOADS_MAX];
    uint64_t next_upload;
};

/* A request, as handlers get it. Everything is borrowed until the handler returns. */
struct request {
    struct conn *conn;
    uint32_t stream;
    uint64_t read_ns;
    int64_t timeout_ns;       /* 0: none given */
    bool remote_open;         /* the client will send data on the stream */
    struct call_stream *host; /* of InvokeWithHost (call_stream.h): payload is its first message */
    const uint8_t *payload;
    size_t len;
};

/* A reply owed by something that finishes later, maybe on another thread; conn becomes NULL when
 * the connection is gone. Its shard is not quiet until it is dropped. */
struct ticket {
    struct list link;
    struct shard *shard;
    struct conn *conn;
    uint32_t stream;
};

/* A stream on which messages go both ways until its response; part of whatever it belongs to. The
 * connection stays as long as on_data and on_end run, the stream need not. */
struct stream {
    struct list link;  /* of conn->streams; alone once it is closed */
    struct conn *conn; /* NULL once it is closed */
    uint32_t id;
    bool remote_closed; /* the client says no more on it */
    void (*on_data)(struct stream *stream, const uint8_t *message, size_t len);
    void (*on_end)(struct stream *stream);    /* remote_closed is true from now on */
    void (*on_closed)(struct stream *stream); /* the connection is gone, and so the stream */
};

/* Takes fd, on failure too. Returns: 0 or a negative errno. */
int conn_open(struct shard *shard, int fd);
void conn_close(struct conn *conn);

/* Serves the next whole frame in the buffer. Returns: whether there is another one to serve. */
bool conn_serve(struct conn *conn);

/* The timer fits what the client is waited for. */
void conn_watch(struct conn *conn);

/* The socket is waited for as reading and late say. */
void conn_poll(struct conn *conn);

/* conn_write.c: the socket takes more again. */
void conn_writable(struct conn *conn);

/* The first n descriptors that came with the frame being served, whose owner the caller becomes.
 * Others are closed when it has been served. Returns: 0; -ENODATA when fewer came; -ENOBUFS when
 * there was no room for those that came. */
int conn_take_descriptors(struct conn *conn, int *fds, unsigned int n);

/* conn_descriptors.c, for conn.c: what came with the newest bytes; a frame was served, and what is
 * left of its own is for nobody; nor is any of it. */
void conn_keep_descriptors(struct conn *conn, struct msghdr *msg);
void conn_drop_descriptors(struct conn *conn);
void conn_forget_descriptors(struct conn *conn);

/* These are no-ops on a connection that is closing, and close one that cannot take the reply. */
void conn_send_message(struct conn *conn, uint32_t stream, const ProtobufCMessage *message);
void conn_send_status(struct conn *conn, uint32_t stream, enum hl_status status, const char *fmt,
                      ...) __attribute__((format(printf, 4, 5)));
void conn_send_details(struct conn *conn, uint32_t stream, enum hl_status status, const char *text,
                       const struct envelope_detail *details, size_t ndetails);

/* A message on an open stream. Returns: 0, or -EMSGSIZE for one that no frame carries, with nothing
 * sent. */
int conn_send_data(struct conn *conn, uint32_t stream, const ProtobufCMessage *message);
int conn_send_data_packed(struct conn *conn, uint32_t stream, const void *packed, size_t len);

/* Writes what was held back: all of it, or (push) only when no other frame of the connection is
 * about to be served or it was held back for long; a call pushes before its instance is reset. */
void conn_flush(struct conn *conn);
void conn_push(struct conn *conn);

/* Whether calls, tickets or bytes are still under way to the client, or answers from it. */
bool conn_owed(const struct conn *conn);

/* Closes a half-closed connection once nothing is owed to it. */
void conn_check_done(struct conn *conn);

/* The stream of request, open from now on. Returns: whether it could be; the request is answered if
 * not. */
bool stream_open(struct stream *stream, const struct request *request);
void stream_close(struct stream *stream); /* says nothing to the client; may be called twice */

/* Returns: whether there was one to take; the request is answered if not. */
bool ticket_take(struct ticket *ticket, const struct request *request);
void ticket_drop(struct ticket *ticket);

#endif
