/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Kinds of requests. An echo without a VM is to differ from a call in nothing but the VM, so its
 * payload is the encoding of the very value that a call of that size answers with, and its response
 * is decoded as a call's: PingResponse has in field 1 what InvokeResponse has there.
 */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "client/client.h"
#include "proto/service.h"
#include "tests/bench/load.h"

#define MAX_PAYLOAD (64u << 20)
#define MAX_ENTRIES 10000u
#define HOST_NAME   "echo"

static struct hl_value take_bytes(size_t len)
{
    uint8_t *data = bench_alloc(len);

    /* Not zeros: those might be cheaper to move on the way. */
    for (size_t i = 0; i < len; i++)
        data[i] = (uint8_t)(i * 7 + 1);
    return (struct hl_value){.type = HL_TYPE_BYTES, .bytes = {data, len}};
}

/* In a file whose memory is there. */
static struct hl_value take_file(size_t len)
{
    int fd = memfd_create("bench", MFD_CLOEXEC | MFD_ALLOW_SEALING);

    if (fd < 0 || posix_fallocate(fd, 0, (off_t)len) != 0 ||
        fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK) < 0)
        bench_die("a file of %zu bytes: %s", len, strerror(errno));
    return (struct hl_value){.type = HL_TYPE_DESCRIPTOR, .descriptor = {len, fd}};
}

/* Into other: what alternates with the argument, for those that do. */
static struct hl_value parse_argument(const char *text, struct hl_value *other)
{
    const char *value = strchr(text, '=');
    size_t size;

    if (!value)
        bench_die("argument '%s' is not TYPE=VALUE", text);
    value++;
    if (strncmp(text, "bytes=", 6) == 0)
        return take_bytes(bench_number("bytes", value, MAX_PAYLOAD));
    if (strncmp(text, "memfd=", 6) == 0)
        return take_file(bench_number("memfd", value, UINT32_MAX));
    if (strncmp(text, "memfds=", 7) == 0) {
        *other = take_file(bench_number("memfds", value, UINT32_MAX));
        return take_file(other->descriptor.len);
    }
    if (strncmp(text, "u32=", 4) == 0)
        return (struct hl_value){.type = HL_TYPE_U32,
                                 .u32 = (uint32_t)bench_number("u32", value, UINT32_MAX)};
    if (strncmp(text, "file=", 5) == 0) {
        const void *data = bench_read_file(value, &size);

        return (struct hl_value){.type = HL_TYPE_BYTES, .bytes = {data, size}};
    }
    bench_die("argument '%s': bytes=, memfd=, memfds=, u32= and file= are known", text);
}

static void parse_call(struct kind *kind, char *text)
{
    char *word, *rest = text;

    kind->call.args = kind->args;
    if (kind->type == KIND_HOST)
        kind->args[kind->call.nargs++] = (struct hl_value){.type = HL_TYPE_U32};
    kind->call.image = strsep(&rest, ":");
    kind->call.function = rest ? strsep(&rest, ":") : NULL;
    if (!kind->call.function)
        bench_die("'%s' has no IMAGE:FUNCTION", kind->spec);
    while (rest && (word = strsep(&rest, ":"))) {
        if (kind->call.nargs == KIND_ARGS)
            bench_die("'%s': at most %u arguments", kind->spec, KIND_ARGS);
        kind->args[kind->call.nargs] = parse_argument(word, &kind->others[kind->call.nargs]);
        kind->call.nargs++;
    }
}

/* A Value with len bytes in it, as on the wire. */
static void make_payload(struct kind *kind, size_t len)
{
    struct hl_value value = take_bytes(len);
    Hl__V1__Value message = HL__V1__VALUE__INIT;

    message.kind_case = HL__V1__VALUE__KIND_DATA;
    message.data = (ProtobufCBinaryData){.len = len, .data = (uint8_t *)value.bytes.data};
    kind->payload_len = protobuf_c_message_get_packed_size(&message.base);
    kind->payload = bench_alloc(kind->payload_len);
    protobuf_c_message_pack(&message.base, kind->payload);
    free((void *)value.bytes.data);
}

void kind_parse(struct kind *kind, const char *spec)
{
    *kind = (struct kind){.spec = spec};
    if (strcmp(spec, "entry") == 0) {
        kind->type = KIND_ENTRY;
    } else if (strncmp(spec, "ping:", 5) == 0) {
        kind->type = KIND_PING;
        make_payload(kind, bench_number("ping", spec + 5, MAX_PAYLOAD));
    } else if (strncmp(spec, "call:", 5) == 0 || strncmp(spec, "host:", 5) == 0) {
        char *copy = strdup(spec + 5);

        if (!copy)
            bench_die("out of memory");
        kind->type = spec[0] == 'c' ? KIND_CALL : KIND_HOST;
        parse_call(kind, copy);
    } else {
        bench_die("'%s' is no ping:, call:, host: or entry", spec);
    }
}

void kind_note(struct kind *kind, uint64_t ns, int code, const struct hl_result *result,
               const struct hl_client_error *err)
{
    kind->requests++;
    if (code != 0) {
        if (kind->errors++ == 0)
            snprintf(kind->first_error, sizeof(kind->first_error), "%s",
                     code < 0 && err ? err->text : "the function returned an error");
        return;
    }
    samples_add(&kind->latency, ns);
    if (kind->type == KIND_CALL && result) {
        samples_add(&kind->run, result->accounting.run_ns);
        samples_add(&kind->queue, result->accounting.queue_ns);
        samples_add(&kind->total, result->accounting.total_ns);
    }
}

void kind_entries(struct kind *kind, struct hl_client *client, uint64_t n, bool keep)
{
    struct hl_client_error err;
    const uint32_t *ns;
    size_t count;
    int r;

    if (kind->skipped)
        return;
    r = hl_client_measure_entry(client, (uint32_t)(n < MAX_ENTRIES ? n : MAX_ENTRIES), &ns, &count,
                                &err);
    if (r < 0 && err.remote &&
        (err.status == HL_STATUS_UNIMPLEMENTED || err.status == HL_STATUS_FAILED_PRECONDITION)) {
        kind->skipped = true;
        return;
    }
    if (r < 0)
        bench_die("entry: %s", err.text);
    for (size_t i = 0; keep && i < count; i++)
        kind_note(kind, ns[i], 0, NULL, NULL);
}

void kind_run(struct kind *kind, struct hl_client *client, bool keep)
{
    struct hl_client_error err;
    struct hl_result result = {.code = 0};
    uint64_t start = bench_now(), end;
    int r;

    if (kind->type == KIND_PING)
        r = hl_client_ping(client, kind->payload, kind->payload_len, &err);
    else
        r = hl_client_invoke(client, &kind->call, &result, &err);
    end = bench_now();
    if (r < 0 && !err.remote)
        bench_die("%s: %s", kind->spec, err.text);
    if (keep)
        kind_note(kind, end - start, r, &result, &err);
    for (size_t i = 0; i < kind->call.nargs; i++) {
        struct hl_value next = kind->others[i];

        if (next.type == HL_TYPE_DESCRIPTOR) {
            kind->others[i] = kind->args[i];
            kind->args[i] = next;
        }
    }
}

struct host_calls {
    struct kind *kind;
    uint64_t last; /* when the one before came */
    bool keep;
};

/* From one to the next is a round trip: this answer to the daemon, into the guest, the guest's next
 * host call out and to here. */
static void on_host_call(void *opaque, struct hl_host_call *call)
{
    struct host_calls *calls = opaque;
    uint64_t now = bench_now();

    if (calls->keep && calls->last > 0)
        kind_note(calls->kind, now - calls->last, 0, NULL, NULL);
    calls->last = now;
    if (hl_host_return(call, call->nargs > 0 ? &call->args[0] : NULL) < 0)
        bench_die("%s: a host call could not be answered", calls->kind->spec);
}

void kind_host_calls(struct kind *kind, struct hl_client *client, uint64_t n, bool keep)
{
    struct host_calls calls = {.kind = kind, .keep = keep};
    const struct hl_host function = {.name = HOST_NAME, .cb = on_host_call, .opaque = &calls};
    struct hl_result result = {.code = 0};
    struct hl_client_error err;
    uint64_t start = bench_now();
    int r;

    kind->args[0].u32 = (uint32_t)n + 1; /* the first one ends no round trip */
    r = hl_client_invoke_with_host(client, &kind->call, &function, 1, &result, &err);
    if (r != 0)
        bench_die("%s: %s", kind->spec, r < 0 ? err.text : (const char *)result.value.bytes.data);
    if (!keep)
        return;
    samples_add(&kind->each, (bench_now() - start) / (n + 1));
    samples_add(&kind->run, result.accounting.run_ns / (n + 1));
}

static int submit_ping(struct kind *kind, struct hl_client *client, hl_done_cb cb, void *opaque,
                       struct hl_client_error *err)
{
    Hl__V1__PingRequest request = HL__V1__PING_REQUEST__INIT;
    struct pending *p;
    int r = pending_new(&p, client, PENDING_CALL, err);

    if (r < 0)
        return r;
    p->cb = cb;
    p->opaque = opaque;
    request.payload = (ProtobufCBinaryData){.len = kind->payload_len, .data = kind->payload};
    return request_send(client, p, SERVICE_DAEMON, "Ping", 0, &request.base, err);
}

int kind_submit(struct kind *kind, struct hl_client *client, hl_done_cb cb, void *opaque,
                struct hl_client_error *err)
{
    if (kind->type == KIND_PING)
        return submit_ping(kind, client, cb, opaque, err);
    if (kind->type != KIND_CALL)
        bench_die("%s: only in turns", kind->spec);
    return hl_client_submit(client, &kind->call, cb, opaque, NULL, err);
}

static void merge(struct samples *samples, const struct samples *from)
{
    for (size_t i = 0; i < from->count; i++)
        samples_add(samples, from->ns[i]);
}

void kind_merge(struct kind *kind, const struct kind *from)
{
    if (kind->errors == 0 && from->errors > 0)
        snprintf(kind->first_error, sizeof(kind->first_error), "%s", from->first_error);
    kind->requests += from->requests;
    kind->errors += from->errors;
    merge(&kind->latency, &from->latency);
    merge(&kind->run, &from->run);
    merge(&kind->queue, &from->queue);
    merge(&kind->total, &from->total);
}

json_t *kind_json(struct kind *kind)
{
    json_t *object = json_pack("{s:s, s:I, s:I, s:o}", "kind", kind->spec, "requests",
                               (json_int_t)kind->requests, "errors", (json_int_t)kind->errors,
                               "latency", samples_json(&kind->latency));

    if (kind->errors > 0)
        json_object_set_new(object, "first_error", json_string(kind->first_error));
    if (kind->skipped)
        json_object_set_new(object, "skipped", json_string("this backend has no bare entry"));
    if (kind->type == KIND_CALL) {
        json_object_set_new(object, "run", samples_json(&kind->run));
        json_object_set_new(object, "queue", samples_json(&kind->queue));
        json_object_set_new(object, "total", samples_json(&kind->total));
    }
    if (kind->type == KIND_HOST) {
        json_object_set_new(object, "each", samples_json(&kind->each));
        json_object_set_new(object, "run", samples_json(&kind->run));
    }
    if (kind->windows.count > 0)
        json_object_set_new(object, "per_second", samples_json(&kind->windows));
    if (kind->ns > 0 && kind->requests > 0) {
        json_object_set_new(object, "own_cpu_ns_each",
                            json_integer((json_int_t)(kind->own_cpu / kind->requests)));
        json_object_set_new(object, "server_cpu_ns_each",
                            json_integer((json_int_t)(kind->server_cpu / kind->requests)));
    }
    return object;
}

void kind_fini(struct kind *kind)
{
    for (size_t i = 0; i < kind->call.nargs; i++) {
        if (kind->args[i].type == HL_TYPE_BYTES)
            free((void *)kind->args[i].bytes.data);
        if (kind->args[i].type == HL_TYPE_DESCRIPTOR)
            close(kind->args[i].descriptor.fd);
        if (kind->others[i].type == HL_TYPE_DESCRIPTOR)
            close(kind->others[i].descriptor.fd);
    }
    free((char *)kind->call.image); /* what the spec was split in */
    free(kind->payload);
    samples_fini(&kind->latency);
    samples_fini(&kind->run);
    samples_fini(&kind->queue);
    samples_fini(&kind->total);
    samples_fini(&kind->windows);
    samples_fini(&kind->each);
}

struct hl_client *load_connect(const struct load *load)
{
    struct hl_client_error err;
    struct hl_client *client;

    if (hl_client_connect(&client, load->socket, &err) < 0 ||
        hl_client_ping(client, NULL, 0, &err) < 0)
        bench_die("%s", err.text);
    if (load->spin_us != SPIN_DEFAULT)
        hl_client_set_spin(client, load->spin_us * 1000);
    return client;
}
