/* SPDX-License-Identifier: Apache-2.0 */
/* The front's tests' own worker: single-threaded, blocking, and as badly behaved as it is told. */
#include "config.h"

#include "tests/unit/front_stub.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sodium.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/control.h"
#include "daemon/control.pb-c.h"
#include "proto/convert_policy.h"

#define CLIENTS_MAX 300

struct stub {
    int channel;
    uint32_t uid;
    int clients[CLIENTS_MAX];
    unsigned int count;
    uint64_t received, next_id;
    bool draining;
    bool asked; /* for a change: its own Invalidate must come before the Reply */
    bool told;
    bool late; /* connections are not told of for now */
    bool slow;
    int snapshot;           /* that came before the Reply, or -1 */
    uint64_t registered_ns; /* of the last entry of a Reply */
};

static void stub_named(struct stub *stub, int kind, const char *line);

static void stub_send(struct stub *stub, Hl__Control__ToFront *packet, int fd)
{
    if (control_send(stub->channel, &packet->base, fd) < 0)
        _exit(3);
}

static void stub_idle(struct stub *stub)
{
    Hl__Control__Idle idle = HL__CONTROL__IDLE__INIT;
    Hl__Control__ToFront packet = HL__CONTROL__TO_FRONT__INIT;

    idle.connections = stub->count;
    idle.received = stub->received;
    packet.kind_case = HL__CONTROL__TO_FRONT__KIND_IDLE;
    packet.idle = &idle;
    stub_send(stub, &packet, -1);
}

static void stub_request(struct stub *stub, Hl__Control__Request *request, int fd)
{
    Hl__Control__ToFront packet = HL__CONTROL__TO_FRONT__INIT;

    request->id = ++stub->next_id;
    stub->asked = request->kind_case == HL__CONTROL__REQUEST__KIND_REGISTER ||
                  request->kind_case == HL__CONTROL__REQUEST__KIND_UNREGISTER;
    stub->told = false;
    packet.kind_case = HL__CONTROL__TO_FRONT__KIND_REQUEST;
    packet.request = request;
    stub_send(stub, &packet, fd);
}

static int memory_file(const char *content, size_t size, bool sealed)
{
    int fd = memfd_create("program", MFD_CLOEXEC | MFD_ALLOW_SEALING);

    if (fd < 0 || write(fd, content, size) != (ssize_t)size)
        _exit(4);
    if (sealed)
        fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW);
    return fd;
}

/* Tells of the last connection as late as can be: behind many packets, and then dies. */
static void stub_tell_late(struct stub *stub)
{
    stub->received--;
    for (int i = 0; i < 100; i++)
        stub_idle(stub);
    stub->received++;
    stub_idle(stub);
    _exit(7);
}

/* Fills the channel with answers that it does not read; then, when the client says so, claims to
 * have received one connection more than it has. */
static void stub_claim(struct stub *stub, int client)
{
    char line[64] = "R -";

    for (int i = 0; i < 1000; i++)
        stub_named(stub, HL__CONTROL__REQUEST__KIND_RESOLVE, line);
    if (write(client, "full", 4) != 4)
        _exit(9);
    fcntl(client, F_SETFL, 0);
    if (read(client, line, sizeof(line)) <= 0)
        _exit(10);
    stub->received++;
    stub_idle(stub);
    pause(); /* until it is killed for that */
}

/* "r NAME FLAGS CONTENT": p private, u unsealed, s wrong sha, z wrong size, n no descriptor,
 * m too much memory, k may use hl.kv.get and hl.kv.put, K a policy with one function twice */
static void stub_register(struct stub *stub, const char *line)
{
    Hl__Control__Request request = HL__CONTROL__REQUEST__INIT;
    Hl__Control__Register asked = HL__CONTROL__REGISTER__INIT;
    Hl__Control__LimitSet limits = HL__CONTROL__LIMIT_SET__INIT;
    static struct hl_host_policy policy;
    static struct policy_message host;
    char name[128] = "", flags[16] = "", content[4096] = "";
    uint8_t sha256[32];
    int fd;

    sscanf(line, "r %127s %15s %4095s", name, flags, content);
    crypto_hash_sha256(sha256, (const uint8_t *)content, strlen(content));
    sha256[0] ^= strchr(flags, 's') ? 1 : 0;
    asked.name = name;
    asked.size = strlen(content) + (strchr(flags, 'z') ? 1 : 0);
    asked.sha256.data = sha256;
    asked.sha256.len = sizeof(sha256);
    asked.private_ = strchr(flags, 'p') != NULL;
    limits.memory = strchr(flags, 'm') ? UINT64_MAX : 16u << 20;
    asked.limits = &limits;
    if (strchr(flags, 'k') || strchr(flags, 'K')) {
        char why[64];

        policy.nfunctions = 2;
        hl_host_function_parse(&policy.functions[0], "hl.kv.get", why, sizeof(why));
        hl_host_function_parse(&policy.functions[1], strchr(flags, 'k') ? "hl.kv.put" : "hl.kv.get",
                               why, sizeof(why));
        policy_to_message(&host, &policy);
        asked.host = &host.policy;
    }
    request.kind_case = HL__CONTROL__REQUEST__KIND_REGISTER;
    request.register_ = &asked;
    fd = memory_file(content, strlen(content), !strchr(flags, 'u'));
    stub_request(stub, &request, strchr(flags, 'n') ? -1 : fd);
    close(fd);
}

static void take_digest(ProtobufCBinaryData *to, uint8_t sha256[32], const char *content)
{
    crypto_hash_sha256(sha256, (const uint8_t *)content, strlen(content));
    to->data = sha256;
    to->len = 32;
}

/* "S NAME FLAGS PROGRAM ROOT PAGES", of a session: p private, l the root is left out, w it is there
 * all the same */
static void stub_register_state(struct stub *stub, const char *line)
{
    Hl__Control__Request request = HL__CONTROL__REQUEST__INIT;
    Hl__Control__Register asked = HL__CONTROL__REGISTER__INIT;
    Hl__Control__LimitSet limits = HL__CONTROL__LIMIT_SET__INIT;
    Hl__Control__State state = HL__CONTROL__STATE__INIT;
    char name[128] = "", flags[16] = "", program[256] = "", root[256] = "", pages[256] = "";
    char content[1024];
    uint8_t digests[3][32];
    int fd, n;

    sscanf(line, "S %127s %15s %255s %255s %255s", name, flags, program, root, pages);
    asked.name = name;
    asked.size = strlen(program);
    take_digest(&asked.sha256, digests[0], program);
    asked.private_ = strchr(flags, 'p') != NULL;
    limits.memory = 16u << 20;
    asked.limits = &limits;
    asked.state = &state;
    state.parent = name;
    state.root_size = strlen(root);
    take_digest(&state.root_sha256, digests[1], root);
    state.pages_size = strlen(pages);
    take_digest(&state.pages_sha256, digests[2], pages);
    state.root_left_out = strchr(flags, 'l') || strchr(flags, 'w');
    n = snprintf(content, sizeof(content), "%s%s%s", program, strchr(flags, 'l') ? "" : root,
                 pages);
    request.kind_case = HL__CONTROL__REQUEST__KIND_REGISTER;
    request.register_ = &asked;
    fd = memory_file(content, (size_t)n, true);
    stub_request(stub, &request, fd);
    close(fd);
}

/* "K OP IMAGE KEY VALUE" */
static void stub_kv(struct stub *stub, const char *line)
{
    Hl__Control__Request request = HL__CONTROL__REQUEST__INIT;
    Hl__Control__Kv asked = HL__CONTROL__KV__INIT;
    char image[128] = "", key[512] = "", value[2048] = "";
    int op = 0;

    sscanf(line, "K %d %127s %511s %2047s", &op, image, key, value);
    asked.image = image;
    asked.op = (Hl__Control__Kv__Op)op;
    asked.key = key;
    asked.value.data = (uint8_t *)value;
    asked.value.len = strlen(value);
    request.kind_case = HL__CONTROL__REQUEST__KIND_KV;
    request.kv = &asked;
    stub_request(stub, &request, -1);
}

static void stub_named(struct stub *stub, int kind, const char *line)
{
    Hl__Control__Request request = HL__CONTROL__REQUEST__INIT;
    Hl__Control__Name asked = HL__CONTROL__NAME__INIT;
    Hl__Control__List list = HL__CONTROL__LIST__INIT;

    asked.name = (char *)line + 2;
    request.kind_case = kind;
    if (kind == HL__CONTROL__REQUEST__KIND_LIST) {
        list.after = (char *)line + 2;
        list.limit = 2;
        request.list = &list;
    } else if (kind == HL__CONTROL__REQUEST__KIND_RESOLVE) {
        request.resolve = &asked;
    } else {
        request.unregister = &asked;
    }
    stub_request(stub, &request, -1);
}

/* "k NAME FLAGS PROGRAM SNAPSHOT", of the image of the last entry heard of: u unsealed, z wrong
 * size, n no descriptor, t another time, b very big */
static void stub_save(struct stub *stub, const char *line)
{
    Hl__Control__Request request = HL__CONTROL__REQUEST__INIT;
    Hl__Control__SaveSnapshot asked = HL__CONTROL__SAVE_SNAPSHOT__INIT;
    char name[128] = "", flags[16] = "", program[1024] = "", content[1024] = "";
    uint8_t sha256[32];
    int fd;

    sscanf(line, "k %127s %15s %1023s %1023s", name, flags, program, content);
    crypto_hash_sha256(sha256, (const uint8_t *)program, strlen(program));
    asked.name = name;
    asked.sha256.data = sha256;
    asked.sha256.len = sizeof(sha256);
    asked.registered_unix_ns = stub->registered_ns + (strchr(flags, 't') ? 1 : 0);
    asked.size = strlen(content) + (strchr(flags, 'z') ? 1 : 0);
    if (strchr(flags, 'b'))
        asked.size = UINT64_MAX;
    request.kind_case = HL__CONTROL__REQUEST__KIND_SAVE_SNAPSHOT;
    request.save_snapshot = &asked;
    fd = memory_file(content, strlen(content), !strchr(flags, 'u'));
    stub_request(stub, &request, strchr(flags, 'n') ? -1 : fd);
    close(fd);
}

/* What a client told the worker to do; anything else is echoed. */
static void stub_obey(struct stub *stub, int client, char *line)
{
    Hl__Control__Idle idle = HL__CONTROL__IDLE__INIT;
    Hl__Control__ToFront packet = HL__CONTROL__TO_FRONT__INIT;

    switch (line[0]) {
    case 'q':
        _exit(line[1] == '0' ? 0 : 7);
    case 'i': /* an impossible count */
        idle.received = 1000;
        packet.kind_case = HL__CONTROL__TO_FRONT__KIND_IDLE;
        packet.idle = &idle;
        stub_send(stub, &packet, -1);
        break;
    case 'c':
        stub_claim(stub, client);
        break;
    case 'g': /* no message at all */
        if (send(stub->channel, "\xff\xff\xff", 3, 0) < 0)
            _exit(5);
        break;
    case 'w': /* done with this client, and so much to tell before that */
        for (int i = 0; i < 100; i++)
            stub_idle(stub);
        shutdown(client, SHUT_RDWR);
        break;
    case 'z': /* done with this client, and slow to look for the next */
        shutdown(client, SHUT_RDWR);
        stub->slow = true;
        break;
    case 'h': /* reads nothing any more */
        pause();
        break;
    case 'd':
        stub->late = true;
        break;
    case 'D':
        stub_tell_late(stub);
        break;
    case 'r':
        stub_register(stub, line);
        break;
    case 'S':
        stub_register_state(stub, line);
        break;
    case 'k':
        stub_save(stub, line);
        break;
    case 'K':
        stub_kv(stub, line);
        break;
    case 'R':
        stub_named(stub, HL__CONTROL__REQUEST__KIND_RESOLVE, line);
        break;
    case 'M': /* many of them, without waiting for an answer */
        for (int i = 0; i < 50; i++)
            stub_named(stub, HL__CONTROL__REQUEST__KIND_RESOLVE, line);
        break;
    case 'U':
        stub_named(stub, HL__CONTROL__REQUEST__KIND_UNREGISTER, line);
        break;
    case 'L':
        stub_named(stub, HL__CONTROL__REQUEST__KIND_LIST, line);
        break;
    case 'p':
        dprintf(client, "%d", getpid());
        break;
    default:
        if (write(client, line, strlen(line)) < 0)
            break;
    }
}

/* "+CONTENT" of a snapshot, "*" for one that was damaged. Returns: how many bytes. */
static int stub_tell_snapshot(struct stub *stub, const Hl__Control__Reply *reply, char *text)
{
    int n = 0;

    if (reply->n_entries == 1)
        stub->registered_ns = reply->entries[0]->registered_unix_ns;
    if (reply->snapshot_damaged)
        text[n++] = '*';
    if (stub->snapshot >= 0) {
        int seals = fcntl(stub->snapshot, F_GET_SEALS);
        ssize_t got = pread(stub->snapshot, text + n + 1, 64, 0);

        text[n] = (seals & F_SEAL_WRITE) && (seals & F_SEAL_SHRINK) ? '+' : '!';
        n += 1 + (int)got;
        close(stub->snapshot);
        stub->snapshot = -1;
    }
    return n;
}

static void stub_reply(struct stub *stub, const Hl__Control__Reply *reply, int fd)
{
    char text[4096];
    int n = snprintf(text, sizeof(text), "%d %s", reply->status, reply->message);

    if (reply->root_needed)
        n += snprintf(text + n, sizeof(text) - (size_t)n, " (needed)");
    if (stub->asked && stub->told != (reply->status == 0))
        n += snprintf(text + n, sizeof(text) - (size_t)n, "wrong Invalidate");
    stub->asked = false;
    for (size_t i = 0; i < reply->n_entries; i++) {
        const Hl__Control__Entry *entry = reply->entries[i];

        n += snprintf(text + n, sizeof(text) - (size_t)n, "%s:%u", entry->name, entry->owner_uid);
        /* As it was asked for, and the built-in default. */
        if (entry->limits->memory != 16u << 20 || entry->limits->max_instances != 8)
            n += snprintf(text + n, sizeof(text) - (size_t)n, " with other limits");
    }
    n += snprintf(text + n, sizeof(text) - (size_t)n, "%.*s", (int)reply->value.len,
                  (const char *)reply->value.data);
    if (reply->more)
        n += snprintf(text + n, sizeof(text) - (size_t)n, "+");
    if (fd >= 0) {
        ssize_t got = pread(fd, text + n + 1, 64, 0);
        bool writable = (fcntl(fd, F_GETFL) & O_ACCMODE) != O_RDONLY;

        text[n] = writable ? '!' : '=';
        n += 1 + (int)got;
    }
    n += stub_tell_snapshot(stub, reply, text + n);
    if (stub->count > 0 && write(stub->clients[stub->count - 1], text, (size_t)n) < 0)
        return;
}

static void stub_packet(struct stub *stub, const Hl__Control__ToWorker *packet, int fd)
{
    Hl__Control__Ready ready = HL__CONTROL__READY__INIT;
    Hl__Control__ToFront answer = HL__CONTROL__TO_FRONT__INIT;
    char *how[] = {(char *)"a stub\nof a test"};
    char text[128];

    switch (packet->kind_case) {
    case HL__CONTROL__TO_WORKER__KIND_WELCOME:
        stub->uid = packet->welcome->uid;
        ready.confinement = how;
        ready.n_confinement = 1;
        answer.kind_case = HL__CONTROL__TO_FRONT__KIND_READY;
        answer.ready = &ready;
        stub_send(stub, &answer, -1);
        break;
    case HL__CONTROL__TO_WORKER__KIND_CONNECTION:
        stub->received++;
        stub->clients[stub->count++] = fd;
        if (!stub->late)
            stub_idle(stub);
        snprintf(text, sizeof(text), "uid %u", stub->uid);
        if (write(fd, text, strlen(text)) < 0)
            break;
        break;
    case HL__CONTROL__TO_WORKER__KIND_TAKEN:
        close(fd);
        break;
    case HL__CONTROL__TO_WORKER__KIND_REPLY:
        stub_reply(stub, packet->reply, fd);
        break;
    case HL__CONTROL__TO_WORKER__KIND_SNAPSHOT:
        if (stub->snapshot >= 0)
            _exit(8);
        stub->snapshot = fd;
        break;
    case HL__CONTROL__TO_WORKER__KIND_INVALIDATE:
        stub->told = true;
        if (stub->asked)
            break;
        snprintf(text, sizeof(text), "invalid %s", packet->invalidate->name);
        if (stub->count > 0 && write(stub->clients[0], text, strlen(text)) < 0)
            break;
        break;
    case HL__CONTROL__TO_WORKER__KIND_RELOAD:
        snprintf(text, sizeof(text), "quantum %llu",
                 (unsigned long long)packet->reload->quantum_ns);
        if (stub->count > 0 && write(stub->clients[0], text, strlen(text)) < 0)
            break;
        break;
    case HL__CONTROL__TO_WORKER__KIND_DRAIN:
        stub->draining = true;
        if (stub->count == 0)
            _exit(0);
        break;
    default:
        _exit(6);
    }
}

static void stub_client(struct stub *stub, unsigned int index)
{
    char line[4096];
    ssize_t n = read(stub->clients[index], line, sizeof(line) - 1);

    if (n > 0) {
        line[n] = '\0';
        stub_obey(stub, stub->clients[index], line);
        return;
    }
    if (n < 0 && errno == EAGAIN)
        return;
    close(stub->clients[index]);
    stub->clients[index] = stub->clients[--stub->count];
    stub_idle(stub);
    if (stub->slow)
        usleep(400000);
    stub->slow = false;
    if (stub->draining && stub->count == 0)
        _exit(0);
}

int front_stub_main(int channel)
{
    struct stub stub = {.channel = channel, .snapshot = -1};

    for (;;) {
        struct pollfd fds[CLIENTS_MAX + 1];
        unsigned int count = stub.count;
        ProtobufCMessage *message;
        int fd;

        fds[0] = (struct pollfd){.fd = channel, .events = POLLIN};
        for (unsigned int i = 0; i < count; i++)
            fds[i + 1] = (struct pollfd){.fd = stub.clients[i], .events = POLLIN};
        poll(fds, count + 1, -1);
        for (unsigned int i = count; i > 0; i--) {
            if (fds[i].revents)
                stub_client(&stub, i - 1);
        }
        if (!fds[0].revents)
            continue;
        if (control_recv(channel, &hl__control__to_worker__descriptor, &message, &fd) != 1)
            return 0;
        stub_packet(&stub, (Hl__Control__ToWorker *)message, fd);
        protobuf_c_message_free_unpacked(message, NULL);
    }
}
