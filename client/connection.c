/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One connection: bytes out, frames in, each handed to the request that waits for its stream. A
 * connection breaks in one place, client_break, and only while reading; what fails in writing is
 * left for the reader to find, because hld may have answered before it closed. What hld sends is
 * checked like anybody's: sizes, types, stream ids, the envelope.
 */
#include "config.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "client/client.h"
#include "proto/frame.h"

#define READ_SIZE     16384u
#define READS_AT_ONCE 64u
#define BUFFER_KEEP   (256u << 10) /* an empty buffer larger than that is given back */
#define ARENA_FIRST   16384u
#define ARENA_MAX     (64u << 20)
#define DEFAULT_WAIT  (60 * NSEC_PER_SEC)
#define SEND_BUFFER   (512 << 10) /* the kernel doubles it */
#define DEFAULT_SPIN  50000u

uint64_t client_now(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * NSEC_PER_SEC + (uint64_t)ts.tv_nsec;
}

const char *hl_client_default_socket(void)
{
    const char *path = secure_getenv("HLD_SOCKET");

    return path && *path ? path : HL_DEFAULT_SOCKET;
}

int hl_client_open(struct hl_client **out, int fd, struct hl_client_error *err)
{
    struct hl_client *client = calloc(1, sizeof(*client));

    if (!client) {
        close(fd);
        return failure_local(err, -ENOMEM, HL_STATUS_RESOURCE_EXHAUSTED, "out of memory");
    }
    /* Where it is no such socket, or less is allowed, large requests go in more pieces. */
    (void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &(int){SEND_BUFFER}, sizeof(int));
    client->fd = fd;
    client->next_stream = 1;
    client->timeout_ns = DEFAULT_WAIT;
    client->spin_ns = DEFAULT_SPIN;
    arena_init(&client->base_arena, ARENA_FIRST, ARENA_MAX);
    client->arena = &client->base_arena;
    client->handed = ROOM_NONE;
    arena_init(&client->callback_arena, ARENA_FIRST, ARENA_MAX);
    *out = client;
    return 0;
}

int hl_client_connect(struct hl_client **out, const char *path, struct hl_client_error *err)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    _cleanup_close_ int fd = -1;
    int code;

    *out = NULL;
    if (!path)
        path = hl_client_default_socket();
    if (strlen(path) >= sizeof(addr.sun_path))
        return failure_local(err, -ENAMETOOLONG, HL_STATUS_INVALID_ARGUMENT,
                             "socket path is longer than %zu bytes: %s", sizeof(addr.sun_path) - 1,
                             path);
    memcpy(addr.sun_path, path, strlen(path));
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0) {
        code = -errno;
        return failure_local(err, code,
                             code == -EACCES || code == -EPERM ? HL_STATUS_PERMISSION_DENIED
                                                               : HL_STATUS_UNAVAILABLE,
                             "cannot connect to %s: %s", path, strerror(-code));
    }
    return hl_client_open(out, hl_steal_fd(&fd), err);
}

void hl_client_disconnect(struct hl_client *client)
{
    struct hl_client_error reason;

    if (!client)
        return;
    if (!client->broken)
        client->broken = -ECANCELED;
    failure_local(&reason, -ECANCELED, HL_STATUS_CANCELLED, "disconnected");
    pending_fail_all(client, &reason);
    host_drop_events(client);
    close(client->fd);
    pending_fini(client);
    parcel_drop_all(client);
    room_fini(&client->handed);
    buffer_fini(&client->in);
    buffer_fini(&client->out);
    arena_fini(&client->base_arena);
    arena_fini(&client->callback_arena);
    free(client);
}

void hl_client_set_spin(struct hl_client *client, uint64_t ns)
{
    client->spin_ns = ns;
    client->spin = (struct spin){0};
}

void hl_client_set_timeout(struct hl_client *client, uint64_t ns)
{
    client->timeout_ns = ns;
}

void hl_client_set_depth(struct hl_client *client, uint32_t depth)
{
    client->depth = depth;
}

int hl_client_fd(const struct hl_client *client)
{
    return client->fd;
}

short hl_client_events(const struct hl_client *client)
{
    return (short)(client->out.len > 0 ? POLLIN | POLLOUT : POLLIN);
}

size_t hl_client_pending(const struct hl_client *client)
{
    return client->ncalls;
}

static int client_break(struct hl_client *client, int code, const char *what)
{
    client->broken = code;
    failure_local(&client->failure, code, HL_STATUS_UNAVAILABLE, "connection to hld lost: %s",
                  what);
    buffer_consume(&client->out, client->out.len);
    buffer_consume(&client->in, client->in.len);
    parcel_drop_all(client);
    pending_fail_all(client, &client->failure);
    return code;
}

void client_flush(struct hl_client *client)
{
    while (client->out.len > 0) {
        ssize_t n = client->parcels ? parcel_send(client)
                                    : send(client->fd, buffer_data(&client->out), client->out.len,
                                           MSG_NOSIGNAL | MSG_DONTWAIT);

        if (n >= 0) {
            buffer_consume(&client->out, (size_t)n);
            client->sent += (size_t)n;
            continue;
        }
        if (errno == EINTR)
            continue;
        if (errno == EAGAIN)
            return;
        /* The reader finds what hld said before it closed, then the end. */
        client->send_error = errno;
        buffer_consume(&client->out, client->out.len);
        parcel_drop_all(client);
        shutdown(client->fd, SHUT_WR);
    }
    buffer_trim(&client->out, BUFFER_KEEP);
}

/* One whole frame. Returns: 0 or what broke the connection. */
static int dispatch(struct hl_client *client, const struct frame_header *header,
                    const uint8_t *payload)
{
    struct envelope_response response;
    struct pending *p;

    p = pending_find(client, header->stream);
    if (header->type == FRAME_DATA && p) {
        int r = host_take_data(client, p, header, payload);

        return r < 0 ? client_break(client, r, "it sent data that is no host call") : 0;
    }
    if (header->type != FRAME_RESPONSE)
        return client_break(client, -EPROTO, "it sent a frame that is no response");
    if (!p || (p->done && p->kind == PENDING_WAIT && !p->offers) || p->late)
        return client_break(client, -EPROTO, "it answered what was not asked");
    if (envelope_decode_response(&response, payload, header->length) < 0)
        return client_break(client, -EPROTO, "it sent a malformed response");
    if ((p->hosting > 0 && p->kind != PENDING_WAIT) || (p->offers && p->done))
        return host_keep_response(p, payload, header->length) < 0
                   ? client_break(client, -ENOMEM, "out of memory")
                   : 0;
    switch (p->kind) {
    case PENDING_WAIT:
        p->code = request_decode(p->arena, &response, p->type, &p->message, p->err);
        p->done = true;
        return 0;
    case PENDING_CALL:
    case PENDING_OFFER:
        call_complete(client, p, &response);
        return 0;
    case PENDING_DROP:
        pending_remove(client, p);
        return 0;
    }
    return 0;
}

/* All whole frames received. *want: how many bytes to ask for next. */
static int dispatch_all(struct hl_client *client, size_t *want)
{
    struct frame_header header;
    int r;

    *want = READ_SIZE;
    while (client->in.len > 0) {
        size_t size;

        r = frame_decode(buffer_data(&client->in), client->in.len, &header);
        if (r < 0)
            return client_break(client, r, "it sent a malformed frame");
        size = FRAME_HEADER_SIZE + (size_t)header.length;
        if (r == 0) {
            if (client->in.len >= FRAME_HEADER_SIZE && size - client->in.len > READ_SIZE)
                *want = size - client->in.len;
            return 0;
        }
        r = dispatch(client, &header, buffer_data(&client->in) + FRAME_HEADER_SIZE);
        if (r < 0)
            return r;
        buffer_consume(&client->in, size);
    }
    buffer_trim(&client->in, BUFFER_KEEP);
    return 0;
}

/* One wait for p, or for the next host call on the way there. */
struct wait {
    const struct pending *p;
    uint64_t start, window; /* how long it is polled, from start on */
};

static void wait_begin(struct hl_client *client, struct wait *wait, uint64_t now)
{
    wait->start = now;
    wait->window = spin_window(&client->spin, client->spin_ns, now);
}

static void wait_end(struct hl_client *client, const struct wait *wait)
{
    if (client->spin_ns > 0)
        spin_learn(&client->spin, client->spin_ns, client_now() - wait->start);
}

/* A host call is as much what was waited for as a response is: what its callback takes is no
 * waiting, and then another wait begins. */
static void serve_events(struct hl_client *client, struct wait *wait)
{
    bool waited = wait && client->events;

    if (waited)
        wait_end(client, wait);
    host_serve_events(client, wait ? wait->p : NULL);
    if (waited)
        wait_begin(client, wait, client_now());
}

/* Reads and dispatches what is there, until what wait (unless NULL) is for is done. flags:
 * MSG_DONTWAIT, or 0 to block for the first bytes. Returns: 0 or what broke the connection. */
static int receive(struct hl_client *client, struct wait *wait, int flags)
{
    size_t want = READ_SIZE;

    for (unsigned int i = 0; i < READS_AT_ONCE && !(wait && wait->p->done); i++) {
        uint8_t *room = buffer_reserve(&client->in, want);
        ssize_t n;
        int r;

        if (!room)
            return client_break(client, -ENOMEM, "out of memory");
        n = recv(client->fd, room, want, flags);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            return 0;
        if (n < 0)
            return client_break(client, -errno, strerror(errno));
        if (n == 0)
            return client_break(client, -ECONNRESET,
                                client->send_error == ETOOMANYREFS
                                    ? "too many descriptors of this user are on their way"
                                    : "hld closed it");
        buffer_commit(&client->in, (size_t)n);
        r = dispatch_all(client, &want);
        if (r < 0)
            return r;
        serve_events(client, wait);
        flags = MSG_DONTWAIT;
    }
    return 0;
}

/* Returns: 0, or -ETIMEDOUT at the deadline. */
static int sleep_until_ready(struct hl_client *client, uint64_t now, uint64_t deadline_ns)
{
    struct pollfd pfd = {.fd = client->fd, .events = hl_client_events(client)};
    uint64_t left = deadline_ns - now;
    struct timespec ts = {.tv_sec = (time_t)(left / NSEC_PER_SEC),
                          .tv_nsec = (long)(left % NSEC_PER_SEC)};

    if (now >= deadline_ns)
        return -ETIMEDOUT;
    ppoll(&pfd, 1, deadline_ns == UINT64_MAX ? NULL : &ts, NULL);
    return 0;
}

int client_wait(struct hl_client *client, const struct pending *p, uint64_t deadline_ns)
{
    uint64_t now = client_now(), then;
    struct wait wait = {.p = p};
    int flags = MSG_DONTWAIT;
    int r;

    wait_begin(client, &wait, now);
    for (;;) {
        client_flush(client);
        /* With nothing to send and no end to the wait, recv itself does the waiting. */
        if (now - wait.start >= wait.window) {
            if (deadline_ns == UINT64_MAX && client->out.len == 0)
                flags = 0;
            else if ((r = sleep_until_ready(client, now, deadline_ns)) < 0)
                return r;
        }
        receive(client, &wait, flags);
        if (p->done)
            break;
        flags = MSG_DONTWAIT;
        then = now;
        now = client_now();
        if (then >= wait.start && now - wait.start < wait.window &&
            !spin_look(&client->spin, then, now))
            wait.window = 0;
    }
    wait_end(client, &wait);
    return 0;
}

int hl_client_process(struct hl_client *client, struct hl_client_error *err)
{
    int r = client->hosting > 0
                ? failure_local(err, -EDEADLK, HL_STATUS_FAILED_PRECONDITION,
                                "process cannot be called from a host function's callback")
                : request_begin(client, err);

    if (r < 0)
        return r;
    client_flush(client);
    r = receive(client, NULL, MSG_DONTWAIT);
    if (r < 0 && err)
        *err = client->failure;
    return r;
}
