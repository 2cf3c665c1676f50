/* SPDX-License-Identifier: Apache-2.0 */
/* The rig. Its front does what a front does with the registry, out of a table; everything blocks
 * with a timeout, so that a test that would hang fails instead. */
#include "config.h"

#include "tests/unit/engine_rig.h"

#include <check.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/control.h"
#include "hv/timer.h"
#include "proto/convert_policy.h"
#include "proto/frame.h"
#include "tests/fake/elf.h"
#include "tests/fake/fake.h"

#define PATIENCE_MS 20000

#ifdef __SANITIZE_THREAD__
/* ThreadSanitizer does not see libuv, which it is not built into, close a descriptor, and takes the
 * number's next use for a race. */
const char *__tsan_default_suppressions(void);
__attribute__((visibility("default"))) const char *__tsan_default_suppressions(void)
{
    return "race:rig_connect\n";
}
#endif

void rig_settings(struct settings *settings)
{
    Hl__Control__Settings none = HL__CONTROL__SETTINGS__INIT;

    none.backend = (char *)"fake";
    ck_assert_int_eq(settings_from_control(settings, &none, NULL), 0);
    settings->shards = 1;
    settings->shells = 0;
    settings->audit_every = 1;
    settings->max_sessions = 64;
    settings->bulk_budget = 64u << 20;
}

struct limits rig_limits(void)
{
    return (struct limits){.memory = 16u << 20,
                           .deadline_ns = 10000 * MS,
                           .io_size = 1u << 20,
                           .max_instances = 4,
                           .max_queue = 16};
}

/* --- the front ------------------------------------------------------------------------------ */

static void entry_of(Hl__Control__Entry *entry, Hl__Control__LimitSet *limits,
                     struct policy_message *host, struct rig_image *image)
{
    hl__control__entry__init(entry);
    limits_to_control(limits, &image->limits);
    entry->name = image->name;
    entry->sha256.data = image->sha256;
    entry->sha256.len = sizeof(image->sha256);
    entry->size = image->size;
    entry->owner_uid = image->owner;
    entry->limits = limits;
    policy_to_message(host, &image->host);
    entry->host = &host->policy;
}

static struct rig_image *find_image(struct rig *rig, const char *name)
{
    for (size_t i = 0; i < rig->nimages; i++) {
        if (strcmp(rig->images[i].name, name) == 0)
            return &rig->images[i];
    }
    return NULL;
}

static void send_reply(struct rig *rig, Hl__Control__Reply *reply, int fd)
{
    Hl__Control__ToWorker message = HL__CONTROL__TO_WORKER__INIT;

    message.kind_case = HL__CONTROL__TO_WORKER__KIND_REPLY;
    message.reply = reply;
    control_send(rig->control, &message.base, fd);
}

static void drop_snapshot(struct rig_image *image)
{
    if (image->has_snapshot)
        close(image->snapshot_fd);
    image->has_snapshot = false;
}

static void keep_snapshot(struct rig_image *image, int fd)
{
    drop_snapshot(image);
    image->snapshot_fd = dup(fd);
    image->has_snapshot = true;
}

static void send_snapshot(struct rig *rig, uint64_t id, const struct rig_image *image)
{
    Hl__Control__ToWorker message = HL__CONTROL__TO_WORKER__INIT;
    Hl__Control__Snapshot snapshot = HL__CONTROL__SNAPSHOT__INIT;

    snapshot.id = id;
    message.kind_case = HL__CONTROL__TO_WORKER__KIND_SNAPSHOT;
    message.snapshot = &snapshot;
    control_send(rig->control, &message.base, image->snapshot_fd);
}

static void register_image(struct rig *rig, const Hl__Control__Register *in, int fd)
{
    struct rig_image *image = find_image(rig, in->name);
    struct limits asked;
    struct settings settings;

    if (!image)
        image = &rig->images[rig->nimages++];
    else
        close(image->fd);
    snprintf(image->name, sizeof(image->name), "%s", in->name);
    memcpy(image->sha256, in->sha256.data, sizeof(image->sha256));
    image->size = in->size;
    image->fd = dup(fd);
    rig_settings(&settings);
    limits_from_control(&asked, in->limits);
    ck_assert_int_eq(limits_resolve(&image->limits, &asked, &settings, NULL), 0);
    rig->registers++;
}

static void serve_request(struct rig *rig, const Hl__Control__Request *request, int fd)
{
    Hl__Control__Reply reply = HL__CONTROL__REPLY__INIT;
    Hl__Control__Entry entry, *entries[1] = {&entry};
    Hl__Control__LimitSet limits;
    struct policy_message host;
    struct rig_image *image = NULL;
    int out = -1;

    reply.id = request->id;
    if (request->kind_case == HL__CONTROL__REQUEST__KIND_RESOLVE) {
        rig->resolves++;
        image = find_image(rig, request->resolve->name);
        out = image ? image->fd : -1;
        if (image && image->has_snapshot && !rig->silent && rig->refuse == 0)
            send_snapshot(rig, request->id, image);
    } else if (request->kind_case == HL__CONTROL__REQUEST__KIND_SAVE_SNAPSHOT && fd >= 0) {
        rig->saves++;
        image = find_image(rig, request->save_snapshot->name);
        if (image)
            keep_snapshot(image, fd);
    } else if (request->kind_case == HL__CONTROL__REQUEST__KIND_REGISTER && fd >= 0) {
        register_image(rig, request->register_, fd);
        image = find_image(rig, request->register_->name);
    } else if (request->kind_case == HL__CONTROL__REQUEST__KIND_UNREGISTER) {
        image = find_image(rig, request->unregister->name);
        if (image)
            image->name[0] = '\0';
    }
    if (rig->silent)
        return;
    if (rig->refuse != 0 || !image) {
        reply.status = rig->refuse ? rig->refuse : HL_STATUS_NOT_FOUND;
        reply.message = (char *)"refused by the rig";
    } else {
        entry_of(&entry, &limits, &host, image);
        reply.entries = entries;
        reply.n_entries = 1;
    }
    send_reply(rig, &reply, reply.status ? -1 : out);
}

static void *front(void *opaque)
{
    struct rig *rig = opaque;

    for (;;) {
        ProtobufCMessage *message;
        Hl__Control__ToFront *to_front;
        int fd = -1;

        if (control_recv(rig->control, &hl__control__to_front__descriptor, &message, &fd) <= 0)
            return NULL;
        to_front = (Hl__Control__ToFront *)message;
        pthread_mutex_lock(&rig->lock);
        if (to_front->kind_case == HL__CONTROL__TO_FRONT__KIND_IDLE) {
            rig->idle_connections = to_front->idle->connections;
            rig->idle_received = to_front->idle->received;
            rig->idle_sessions = to_front->idle->sessions;
        } else if (to_front->kind_case == HL__CONTROL__TO_FRONT__KIND_REQUEST) {
            serve_request(rig, to_front->request, fd);
        }
        pthread_mutex_unlock(&rig->lock);
        protobuf_c_message_free_unpacked(message, NULL);
        if (fd >= 0)
            close(fd);
    }
}

static void to_worker(struct rig *rig, Hl__Control__ToWorker *message, int fd)
{
    ck_assert_int_eq(control_send(rig->control, &message->base, fd), 0);
}

/* --- life ----------------------------------------------------------------------------------- */

static void *run_engine(void *opaque)
{
    struct rig *rig = opaque;

    rig->result = engine_run(rig->engine);
    return NULL;
}

void rig_start(struct rig *rig, const struct settings *settings, unsigned int reset_skip)
{
    struct hv_host_config host_config = {-1, -1};
    struct engine_config config = {.hv = &hv_backend_fake,
                                   .uid = RIG_UID,
                                   .version = "test",
                                   .settings = *settings,
                                   .reset_skip = reset_skip};
    struct hl_error err = HL_ERROR_INIT;
    int pair[2];

    memset(rig, 0, sizeof(*rig));
    signal(SIGPIPE, SIG_IGN);
    fake_clear();
    ck_assert_int_ge(sodium_init(), 0);
    pthread_mutex_init(&rig->lock, NULL);
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
    fcntl(pair[1], F_SETFL, O_NONBLOCK);
    rig->control = pair[0];
    ck_assert_int_eq(hv_backend_fake.host_open(&rig->host, &host_config, &err), 0);
    config.host = rig->host;
    config.control_fd = pair[1];
    ck_assert_msg(engine_new(&rig->engine, &config, &err) == 0, "%s", err.text);
    pthread_create(&rig->front_thread, NULL, front, rig);
    pthread_create(&rig->engine_thread, NULL, run_engine, rig);
}

void rig_snapshot(struct rig *rig, const char *name, const void *data, size_t len)
{
    int fd = memfd_create("snapshot", MFD_CLOEXEC | MFD_ALLOW_SEALING);

    ck_assert_int_eq(write(fd, data, len), (ssize_t)len);
    ck_assert_int_eq(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW), 0);
    pthread_mutex_lock(&rig->lock);
    keep_snapshot(find_image(rig, name), fd);
    pthread_mutex_unlock(&rig->lock);
    close(fd);
}

void rig_add_raw(struct rig *rig, const char *name, const struct limits *limits, const void *data,
                 size_t len)
{
    struct rig_image *image;

    pthread_mutex_lock(&rig->lock);
    image = find_image(rig, name);
    if (!image)
        image = &rig->images[rig->nimages++];
    else
        close(image->fd);
    snprintf(image->name, sizeof(image->name), "%s", name);
    image->limits = *limits;
    image->size = len;
    image->fd = memfd_create(name, MFD_CLOEXEC);
    ck_assert_int_eq(write(image->fd, data, len), (ssize_t)len);
    crypto_hash_sha256(image->sha256, data, len);
    pthread_mutex_unlock(&rig->lock);
}

void rig_add(struct rig *rig, const char *name, const struct limits *limits)
{
    size_t len;
    uint8_t *elf = fake_elf_new(&len);

    rig_add_raw(rig, name, limits, elf, len);
    free(elf);
}

void rig_allow(struct rig *rig, const char *name, const char *const *functions,
               const struct hl_host_policy *bounds)
{
    struct hl_host_policy *host;
    char why[128];

    pthread_mutex_lock(&rig->lock);
    host = &find_image(rig, name)->host;
    if (bounds)
        *host = *bounds;
    for (; *functions; functions++)
        ck_assert_msg(hl_host_function_parse(&host->functions[host->nfunctions++], *functions, why,
                                             sizeof(why)) == 0,
                      "%s: %s", *functions, why);
    pthread_mutex_unlock(&rig->lock);
}

void rig_invalidate(struct rig *rig, const char *name)
{
    Hl__Control__ToWorker message = HL__CONTROL__TO_WORKER__INIT;
    Hl__Control__Invalidate invalidate = HL__CONTROL__INVALIDATE__INIT;

    invalidate.name = (char *)name;
    message.kind_case = HL__CONTROL__TO_WORKER__KIND_INVALIDATE;
    message.invalidate = &invalidate;
    to_worker(rig, &message, -1);
}

void rig_reload(struct rig *rig, const struct settings *settings)
{
    Hl__Control__ToWorker message = HL__CONTROL__TO_WORKER__INIT;
    Hl__Control__Settings reload = HL__CONTROL__SETTINGS__INIT;
    Hl__Control__LimitSet defaults, maxima;

    limits_to_control(&defaults, &settings->defaults);
    limits_to_control(&maxima, &settings->maxima);
    reload.backend = (char *)settings->backend;
    reload.quantum_ns = settings->quantum_ns;
    reload.max_deadline_ns = settings->max_deadline_ns;
    reload.max_vms = settings->max_vms;
    reload.session_idle_ns = settings->session_idle_ns;
    reload.max_sessions = settings->max_sessions;
    reload.bulk_budget = settings->bulk_budget;
    reload.defaults = &defaults;
    reload.maxima = &maxima;
    message.kind_case = HL__CONTROL__TO_WORKER__KIND_RELOAD;
    message.reload = &reload;
    to_worker(rig, &message, -1);
}

void rig_drain(struct rig *rig, uint64_t limit_ns)
{
    Hl__Control__ToWorker message = HL__CONTROL__TO_WORKER__INIT;
    Hl__Control__Drain drain = HL__CONTROL__DRAIN__INIT;

    drain.limit_ns = limit_ns;
    message.kind_case = HL__CONTROL__TO_WORKER__KIND_DRAIN;
    message.drain = &drain;
    to_worker(rig, &message, -1);
}

void rig_abandon(struct rig *rig)
{
    shutdown(rig->control, SHUT_RDWR);
    rig->drained = true;
}

void rig_stop(struct rig *rig)
{
    if (!rig->drained)
        rig_drain(rig, 10000 * MS);
    pthread_join(rig->engine_thread, NULL);
    ck_assert_int_eq(rig->result, 0);
    ck_assert_uint_eq(budget_used(&rig->engine->budget, BUDGET_VMS), 0);
    ck_assert_uint_eq(budget_used(&rig->engine->budget, BUDGET_GUEST_MEMORY), 0);
    ck_assert_uint_eq(budget_used(&rig->engine->budget, BUDGET_CLIENT_BYTES), 0);
    engine_free(rig->engine);
    shutdown(rig->control, SHUT_RDWR);
    pthread_join(rig->front_thread, NULL);
    close(rig->control);
    for (size_t i = 0; i < rig->nimages; i++) {
        close(rig->images[i].fd);
        drop_snapshot(&rig->images[i]);
    }
    hv_backend_fake.host_close(rig->host);
    pthread_mutex_destroy(&rig->lock);
    ck_assert_int_eq(fake_machines(), 0);
}

int rig_connect(struct rig *rig)
{
    Hl__Control__ToWorker message = HL__CONTROL__TO_WORKER__INIT;
    Hl__Control__Connection connection = HL__CONTROL__CONNECTION__INIT;
    int pair[2];

    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    message.kind_case = HL__CONTROL__TO_WORKER__KIND_CONNECTION;
    message.connection = &connection;
    to_worker(rig, &message, pair[1]);
    close(pair[1]);
    return pair[0];
}

/* --- requests ------------------------------------------------------------------------------- */

void rig_send(int fd, const void *data, size_t len)
{
    const uint8_t *p = data;

    while (len > 0) {
        struct pollfd pfd = {.fd = fd, .events = POLLOUT};
        ssize_t n;

        ck_assert_int_eq(poll(&pfd, 1, PATIENCE_MS), 1);
        n = send(fd, p, len, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            continue;
        if (n < 0)
            return; /* the test looks at what comes back */
        p += n;
        len -= (size_t)n;
    }
}

void rig_request(int fd, uint32_t stream, const char *service, const char *method,
                 int64_t timeout_ns, const ProtobufCMessage *message)
{
    struct buffer buf = {0};

    ck_assert_int_eq(envelope_encode_request(&buf, stream, service, method, timeout_ns, message),
                     0);
    rig_send(fd, buffer_data(&buf), buf.len);
    buffer_fini(&buf);
}

void rig_invoke(int fd, uint32_t stream, const struct rig_call *call)
{
    Hl__V1__InvokeRequest request = HL__V1__INVOKE_REQUEST__INIT;
    Hl__V1__Value values[2] = {HL__V1__VALUE__INIT, HL__V1__VALUE__INIT};
    Hl__V1__Value *args[2] = {&values[0], &values[1]};
    ProtobufCBinaryData data = {call->len, (uint8_t *)call->data};

    if (call->session)
        request.session = (char *)call->session;
    if (call->image || !call->session)
        request.image = (char *)(call->image ? call->image : "test");
    request.function = (char *)call->function;
    request.call_id = call->call_id;
    request.args = args;
    request.n_args = call->kind == NO_ARG ? 0 : 1;
    switch (call->kind) {
    case ARG_BYTES:
        values[0].kind_case = HL__V1__VALUE__KIND_DATA;
        values[0].data = data;
        break;
    case ARG_STRING:
        values[0].kind_case = HL__V1__VALUE__KIND_TEXT;
        values[0].text = data;
        break;
    case ARG_U32:
        values[0].kind_case = HL__V1__VALUE__KIND_U32;
        values[0].u32 = call->u32;
        break;
    case ARG_TWO_I32:
        request.n_args = 2;
        for (int i = 0; i < 2; i++) {
            values[i].kind_case = HL__V1__VALUE__KIND_I32;
            values[i].i32 = call->i32[i];
        }
        break;
    case ARG_CODE_TEXT:
        request.n_args = 2;
        values[0].kind_case = HL__V1__VALUE__KIND_I32;
        values[0].i32 = call->i32[0];
        values[1].kind_case = HL__V1__VALUE__KIND_TEXT;
        values[1].text = data;
        break;
    default:
        break;
    }
    rig_request(fd, stream, call->session ? "hl.v1.Sessions" : "hl.v1.Functions", "Invoke",
                call->timeout_ns, &request.base);
}

void rig_cancel(int fd, uint32_t stream, uint64_t call_id)
{
    Hl__V1__CancelRequest request = HL__V1__CANCEL_REQUEST__INIT;

    request.call_id = call_id;
    rig_request(fd, stream, "hl.v1.Functions", "Cancel", 0, &request.base);
}

static bool receive_all(int fd, uint8_t *to, size_t len)
{
    while (len > 0) {
        struct pollfd pfd = {.fd = fd, .events = POLLIN};
        ssize_t n;

        ck_assert_msg(poll(&pfd, 1, PATIENCE_MS) == 1, "nothing came");
        n = recv(fd, to, len, 0);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        to += n;
        len -= (size_t)n;
    }
    return true;
}

bool rig_receive_frame(int fd, struct frame_header *header, uint8_t **payload)
{
    uint8_t head[FRAME_HEADER_SIZE];

    if (!receive_all(fd, head, sizeof(head)))
        return false;
    ck_assert_int_ge(frame_decode(head, sizeof(head), header), 0);
    *payload = malloc(header->length + 1u);
    ck_assert(receive_all(fd, *payload, header->length));
    return true;
}

bool rig_receive(int fd, struct rig_response *out)
{
    struct frame_header header;

    memset(out, 0, sizeof(*out));
    if (!rig_receive_frame(fd, &header, &out->frame))
        return false;
    ck_assert_int_eq(header.type, FRAME_RESPONSE);
    out->stream = header.stream;
    ck_assert_int_eq(envelope_decode_response(&out->envelope, out->frame, header.length), 0);
    snprintf(out->message, sizeof(out->message), "%.*s", (int)out->envelope.message.len,
             (const char *)out->envelope.message.data);
    return true;
}

void rig_response_free(struct rig_response *response)
{
    free(response->frame);
    response->frame = NULL;
}

int rig_call(int fd, uint32_t stream, const struct rig_call *call)
{
    struct rig_response response;
    int code;

    rig_invoke(fd, stream, call);
    ck_assert_msg(rig_receive(fd, &response), "the connection was closed");
    ck_assert_uint_eq(response.stream, stream);
    code = response.envelope.code;
    rig_response_free(&response);
    return code;
}

Hl__V1__InvokeResponse *rig_invoke_response(int fd, uint32_t stream, const struct rig_call *call)
{
    struct rig_response response;
    Hl__V1__InvokeResponse *message = NULL;

    rig_invoke(fd, stream, call);
    ck_assert_msg(rig_receive(fd, &response), "the connection was closed");
    ck_assert_uint_eq(response.stream, stream);
    if (response.envelope.code == 0)
        message = hl__v1__invoke_response__unpack(NULL, response.envelope.payload.len,
                                                  response.envelope.payload.data);
    rig_response_free(&response);
    return message;
}

static Hl__V1__StatsResponse *get_stats(int fd, uint32_t stream)
{
    Hl__V1__StatsRequest request = HL__V1__STATS_REQUEST__INIT;
    Hl__V1__StatsResponse *stats;
    struct rig_response response;

    rig_request(fd, stream, "hl.v1.Daemon", "Stats", 0, &request.base);
    ck_assert(rig_receive(fd, &response));
    stats = hl__v1__stats_response__unpack(NULL, response.envelope.payload.len,
                                           response.envelope.payload.data);
    ck_assert_ptr_nonnull(stats);
    rig_response_free(&response);
    return stats;
}

size_t rig_programs(int fd, uint32_t stream)
{
    Hl__V1__StatsResponse *stats = get_stats(fd, stream);
    size_t n = stats->n_images;

    hl__v1__stats_response__free_unpacked(stats, NULL);
    return n;
}

uint64_t rig_counter(int fd, uint32_t stream, const char *name)
{
    Hl__V1__StatsResponse *stats = get_stats(fd, stream);
    uint64_t value = UINT64_MAX;

    for (size_t i = 0; i < stats->n_counters; i++) {
        if (strcmp(stats->counters[i]->key, name) == 0)
            value = stats->counters[i]->value;
    }
    hl__v1__stats_response__free_unpacked(stats, NULL);
    ck_assert_msg(value != UINT64_MAX, "no counter %s", name);
    return value;
}

void rig_await_counter(int fd, uint32_t *stream, const char *name, uint64_t value)
{
    for (int i = 0; i < 1000; i++) {
        *stream += 2;
        if (rig_counter(fd, *stream, name) == value)
            return;
        usleep(5000);
    }
    ck_abort_msg("%s never became %lu", name, (unsigned long)value);
}

void rig_await_held(unsigned int n)
{
    for (int i = 0; i < 4 * PATIENCE_MS && fake_held() < n; i++)
        usleep(250);
    ck_assert_uint_eq(fake_held(), n);
}

bool rig_closed(int fd)
{
    struct pollfd pfd = {.fd = fd, .events = POLLIN};
    char buf[4096];

    for (;;) {
        if (poll(&pfd, 1, PATIENCE_MS) != 1)
            return false;
        if (recv(fd, buf, sizeof(buf), 0) <= 0)
            return true;
    }
}
