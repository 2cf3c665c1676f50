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

/* All zeros but for what is wanted. */
struct hl_call {
    const char *image;
    const char *function;
    const struct hl_value *args;
    size_t nargs;
    uint64_t timeout_ns; /* 0: the image's deadline */
    const char *session; /* NULL, or the one it runs in (hlsession.h); image may be NULL then */
    size_t result_room;  /* 0: bytes come in a message, which holds 4 MiB. Else so many, up to
                            HL_RESULT_ROOM_MAX, can come in memory that the library takes for it
                            now, rounded up to pages */
};

#define HL_RESULT_ROOM_MAX (256u << 20)

/* What is large need not go through a message. An argument for a parameter of type bytes can be
 * HL_TYPE_DESCRIPTOR: all of a memfd that nobody can change any more, for it has at least the seals
 * F_SEAL_WRITE and F_SEAL_SHRINK; len is its size. The function finds it in its memory without a
 * copy. The descriptor is borrowed until the function that makes the call returns. */

/* Makes such an argument of what a file holds from its beginning to its end, or a pipe until its
 * end; where it is a memfd with those seals already, of that. A regular file's position is neither
 * used nor changed; one that changes meanwhile is what was found there. The caller closes
 * out->descriptor.fd. Returns: -EFBIG for 4 GiB and more; another negative errno. */
HL_PUBLIC int hl_descriptor_from_file(int file, struct hl_value *out, struct hl_client_error *err);

/* What invoke returns when the function itself answered with an error. */
#define HL_GUEST_ERROR 1

struct hl_result {
    struct hl_value value; /* with HL_GUEST_ERROR its text, a string */
    int32_t code;          /* with HL_GUEST_ERROR, the function's own number */
    struct hl_accounting accounting;
    int fd; /* -1, or with result_room the sealed memfd that value's bytes are the first of; valid
               as long as they are, dup() it to keep it */
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

/* ---- host functions: what a guest calls outward, as far as its image's policy allows ---- */

/* A guest's call, for the time of its callback. */
struct hl_host_call {
    struct hl_client *client;
    const char *image, *function;
    const struct hl_value *args;
    size_t nargs;
    enum hl_type ret; /* what the image's policy says it returns */
    uint32_t depth;   /* calls made on another client to answer it need hl_client_set_depth; those
                         made   on this client within the callback are as deep by themselves */
};

/* Answers with hl_host_return or hl_host_fail; without either the function returned nothing. It may
 * use any function of this client but hl_client_process and hl_client_disconnect, and so call
 * functions that call back in turn. While it waits for those, callbacks of other calls wait for it:
 * host calls of theirs, for they run one at a time, are not served, and hold their instances. What
 * such a function hands out is valid until the callback's end at most. */
typedef void (*hl_host_cb)(void *opaque, struct hl_host_call *call);

struct hl_host {
    const char *name;
    const struct hl_signature *sig; /* arguments that do not fit are refused; NULL: takes any */
    hl_host_cb cb;
    void *opaque;
};

/* result: NULL or HL_TYPE_VOID for nothing; copied. Returns: 0; -EALREADY when it is answered;
 * -EILSEQ, -EINVAL for what is no value; -EMSGSIZE for what no message holds; a negative errno once
 * the connection is lost. */
HL_PUBLIC int hl_host_return(struct hl_host_call *call, const struct hl_value *result);
/* What the guest gets for an error. code: the function's own, with HL_STATUS_UNKNOWN. text: one
 * line, or NULL. Returns: as hl_host_return. */
HL_PUBLIC int hl_host_fail(struct hl_host_call *call, enum hl_status status, int32_t code,
                           const char *text);

/* As hl_client_invoke and hl_client_submit. functions, and what it points to, is borrowed until the
 * call's end. */
HL_PUBLIC int hl_client_invoke_with_host(struct hl_client *client, const struct hl_call *call,
                                         const struct hl_host *functions, size_t count,
                                         struct hl_result *result, struct hl_client_error *err);
HL_PUBLIC int hl_client_submit_with_host(struct hl_client *client, const struct hl_call *call,
                                         const struct hl_host *functions, size_t count,
                                         hl_done_cb cb, void *opaque, uint64_t *id,
                                         struct hl_client_error *err);

/* Calls from now on are made to answer a host call of another client that said so; 0: to answer
 * none. hld bounds how deep calls may be nested so. */
HL_PUBLIC void hl_client_set_depth(struct hl_client *client, uint32_t depth);

struct hl_offer {
    const struct hl_host *functions; /* borrowed until the offer's end */
    size_t nfunctions;
    const char *image;   /* NULL: any whose policy has the function from a service */
    uint32_t max_queue;  /* host calls that were not answered yet; 0: hld's default */
    uint64_t timeout_ns; /* for an answer; 0: hld's default */
};

/* Provides host functions to calls of this client's uid, whoever makes them, and returns when that
 * is in force; callbacks come from hl_client_process and from blocking functions. ended (may be
 * NULL) comes once, when it is over: code 0 after hl_client_withdraw, else why. */
HL_PUBLIC int hl_client_offer(struct hl_client *client, const struct hl_offer *offer,
                              hl_done_cb ended, void *opaque, uint64_t *id,
                              struct hl_client_error *err);
/* Ends it; host calls that were not answered get UNAVAILABLE. Returns: -ENOENT when there is none.
 */
HL_PUBLIC int hl_client_withdraw(struct hl_client *client, uint64_t id);

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
