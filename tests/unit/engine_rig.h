/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_TESTS_ENGINE_RIG_H
#define HL_TESTS_ENGINE_RIG_H

/*
 * An engine with everything around it replaced: the fake backend below, a thread that plays the
 * front on the control channel, and clients on socket pairs. No daemon, no files, no hypervisor.
 */

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/host_policy.h"
#include "daemon/control.pb-c.h"
#include "daemon/engine.h"
#include "proto/envelope.h"
#include "proto/frame.h"
#include "proto/hl.pb-c.h"

#define MS 1000000ull

#define RIG_UID 1000u /* the worker's */

struct rig_image {
    char name[64];
    struct limits limits;
    int fd; /* of the program */
    uint8_t sha256[32];
    uint64_t size;
    struct hl_host_policy host; /* empty unless rig_allow was called */
    uint32_t owner;
    bool has_snapshot; /* in: */
    int snapshot_fd;
};

struct rig {
    struct engine *engine;
    struct hv_host *host;
    pthread_t engine_thread, front_thread;
    bool drained;
    int control; /* the front's end */
    int result;  /* of engine_run */

    pthread_mutex_t lock; /* for what follows */
    struct rig_image images[64];
    size_t nimages;
    uint32_t idle_connections;
    uint64_t idle_received;
    uint32_t idle_sessions;

    atomic_uint resolves, registers, saves; /* requests so far */
    atomic_bool silent;                     /* requests get no reply */
    atomic_int refuse;                      /* status for the next requests, 0: serve them */
};

/* Settings that tests change before rig_start. */
void rig_settings(struct settings *settings);
struct limits rig_limits(void);

void rig_start(struct rig *rig, const struct settings *settings, unsigned int reset_skip);
void rig_add(struct rig *rig, const char *name, const struct limits *limits); /* the fake program */
void rig_add_raw(struct rig *rig, const char *name, const struct limits *limits, const void *data,
                 size_t len);
/* The image, which was added and is not resolved yet, may call these outward: texts for
 * hl_host_function_parse, up to a NULL. bounds: the rest of its policy, or NULL. */
void rig_allow(struct rig *rig, const char *name, const char *const *functions,
               const struct hl_host_policy *bounds);
/* What a Resolve of the image brings along; saving replaces it. */
void rig_snapshot(struct rig *rig, const char *name, const void *data, size_t len);
void rig_invalidate(struct rig *rig, const char *name);
void rig_reload(struct rig *rig, const struct settings *settings);
void rig_drain(struct rig *rig, uint64_t limit_ns);

/* Drains, waits for the engine's end and checks that nothing is left: machines, descriptors. */
void rig_stop(struct rig *rig);

/* Closes the control channel instead of draining. */
void rig_abandon(struct rig *rig);

int rig_connect(struct rig *rig);

/* One argument at most, by kind. */
struct rig_call {
    const char *image, *function;
    enum { NO_ARG, ARG_BYTES, ARG_U32, ARG_TWO_I32, ARG_STRING, ARG_CODE_TEXT } kind;
    const void *data;
    size_t len;
    uint32_t u32;
    int32_t i32[2];
    int64_t timeout_ns;
    uint64_t call_id;
    const char *session; /* NULL: in none */
};

void rig_send(int fd, const void *data, size_t len);
void rig_request(int fd, uint32_t stream, const char *service, const char *method,
                 int64_t timeout_ns, const ProtobufCMessage *message);
void rig_invoke(int fd, uint32_t stream, const struct rig_call *call);
void rig_cancel(int fd, uint32_t stream, uint64_t call_id);

/* A whole response frame. */
struct rig_response {
    uint32_t stream;
    struct envelope_response envelope;
    char message[512];
    uint8_t *frame;
};

/* Waits up to 20 s. Returns: whether a response came; false at the end of the connection. */
bool rig_receive(int fd, struct rig_response *out);
void rig_response_free(struct rig_response *response);

/* A whole frame of any type: header and payload, which the caller frees. Waits like rig_receive. */
bool rig_receive_frame(int fd, struct frame_header *header, uint8_t **payload);

/* Sends and receives; the status code. */
int rig_call(int fd, uint32_t stream, const struct rig_call *call);
/* The same with the decoded response, which the caller frees; NULL for a status. */
Hl__V1__InvokeResponse *rig_invoke_response(int fd, uint32_t stream, const struct rig_call *call);

/* How many programs the worker keeps. */
size_t rig_programs(int fd, uint32_t stream);

uint64_t rig_counter(int fd, uint32_t stream, const char *name);
/* Waits until it has that value; *stream counts on. */
void rig_await_counter(int fd, uint32_t *stream, const char *name, uint64_t value);

/* Waits until n calls of hold (tests/fake/fake.h) have begun. */
void rig_await_held(unsigned int n);

/* Whether the peer closed it within 20 s. */
bool rig_closed(int fd);

#endif
