/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HLCLIENT_H
#define HLCLIENT_H

/*
 * libhlclient: calls functions of registered images in hld.
 *
 * A struct hl_client is one connection and belongs to one thread at a time; different clients
 * share nothing, and the library has no global state. It never raises SIGPIPE, starts no thread
 * and never reconnects: once a connection is lost every function says so, and the caller
 * disconnects and connects again if it wants to; so too after the 2^31 requests that a connection
 * can carry.
 *
 * Functions return 0 or a negative errno and, where they take one, fill err (which may be NULL).
 * Whatever a function hands out through a pointer (results, images, lists and the strings in them)
 * belongs to the client and is valid until the next function called on it.
 */

#include "hltypes.h"

#ifdef __cplusplus
extern "C" {
#endif

#define HL_DEFAULT_SOCKET "/run/hld/hld.sock"

struct hl_client;

/* Where the time of a call went. */
struct hl_accounting {
    uint64_t queue_ns; /* read from the socket until the instance was entered */
    uint64_t run_ns;   /* in the guest and its exits */
    uint64_t total_ns; /* read from the socket until the reply was made */
    uint32_t exits;
    uint64_t pages_reset; /* by the reset before this call */
    uint64_t instance_age_ns;
    uint64_t instance_calls;
    char backend[16]; /* "kvm", "process" */
};

/* What the guest did wrong, with status ABORTED. */
struct hl_fault {
    uint32_t vector; /* x86 exception vector, 255 when the machine died without one */
    uint32_t error_code;
    uint64_t rip;
    uint64_t address; /* of a page fault */
    char symbol[128]; /* nearest, "name+0x1c", or "" */
    char reason[256];
};

struct hl_client_error {
    enum hl_status status;
    int code;    /* the negative errno that the function returned */
    bool remote; /* hld answered so; otherwise this side found it */
    bool has_fault;
    bool has_accounting;
    char text[512]; /* one line */
    struct hl_fault fault;
    struct hl_accounting accounting;
};

/* ---- connection ---- */

/* path: NULL for $HLD_SOCKET (ignored in set-user-ID programs), else HL_DEFAULT_SOCKET. */
HL_PUBLIC int hl_client_connect(struct hl_client **out, const char *path,
                                struct hl_client_error *err);
/* The path that connect takes for NULL. */
HL_PUBLIC const char *hl_client_default_socket(void);
/* On a connected stream socket of the caller's, which is taken, on failure too. */
HL_PUBLIC int hl_client_open(struct hl_client **out, int fd, struct hl_client_error *err);
/* Calls still running are stopped; their callbacks come with CANCELLED before this returns. Not to
 * be called from a callback. NULL is allowed. */
HL_PUBLIC void hl_client_disconnect(struct hl_client *client);

/* How long a blocking function polls the socket before it sleeps: 50 us unless set, 0 is never.
 * Sleeping and being woken on another CPU can take longer than a call. It stops by itself while
 * replies take longer than that, or while others want the CPU. */
HL_PUBLIC void hl_client_set_spin(struct hl_client *client, uint64_t ns);
/* How long a blocking function other than invoke waits for its reply; 0 is for ever, the default
 * a minute. */
HL_PUBLIC void hl_client_set_timeout(struct hl_client *client, uint64_t ns);

/* ---- calls ---- */

struct hl_call {
    const char *image;
    const char *function;
    const struct hl_value *args;
    size_t nargs;
    uint64_t timeout_ns; /* 0: the image's deadline */
};

/* What invoke returns when the function itself answered with an error. */
#define HL_GUEST_ERROR 1

struct hl_result {
    struct hl_value value; /* with HL_GUEST_ERROR its text, a string */
    int32_t code;          /* with HL_GUEST_ERROR, the function's own number */
    struct hl_accounting accounting;
};

/* Calls and waits. hld stops the call at its deadline; should no answer come even then, this gives
 * up a second later with the same status. Callbacks of submitted calls may come meanwhile.
 * Returns: 0; HL_GUEST_ERROR; a negative errno. */
HL_PUBLIC int hl_client_invoke(struct hl_client *client, const struct hl_call *call,
                               struct hl_result *result, struct hl_client_error *err);

/* code is what invoke would have returned; result is NULL and err set when it is negative. Both
 * are valid within the callback, which may submit and cancel but not block or disconnect. */
typedef void (*hl_done_cb)(void *opaque, uint64_t id, int code, const struct hl_result *result,
                           const struct hl_client_error *err);

/* Starts a call, copying what it needs, and returns at once; cb comes exactly once, from process,
 * from a blocking function or from disconnect. *id (unless NULL) is the one to cancel it by.
 * Returns: -EAGAIN when too much is on its way already: process first. */
HL_PUBLIC int hl_client_submit(struct hl_client *client, const struct hl_call *call, hl_done_cb cb,
                               void *opaque, uint64_t *id, struct hl_client_error *err);
/* Asks hld to stop a submitted call. Its callback still comes, with CANCELLED or with whatever was
 * faster. Returns: -ENOENT when no such call is running. */
HL_PUBLIC int hl_client_cancel(struct hl_client *client, uint64_t id);

/* The descriptor to poll, and the events (POLLIN, POLLOUT) to wait for now. */
HL_PUBLIC int hl_client_fd(const struct hl_client *client);
HL_PUBLIC short hl_client_events(const struct hl_client *client);
/* Sends and receives what goes without blocking, and delivers completions. Returns: a negative
 * errno once the connection is lost; every callback has been called by then. */
HL_PUBLIC int hl_client_process(struct hl_client *client, struct hl_client_error *err);
/* Submitted calls whose callback is still to come. */
HL_PUBLIC size_t hl_client_pending(const struct hl_client *client);

#ifdef __cplusplus
}
#endif

#endif
