/* SPDX-License-Identifier: Apache-2.0 */
/* The server's side of the client's tests: plain blocking reads and writes. */
#include "config.h"

#include "tests/unit/fake_server.h"

#include <check.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

static void *serve(void *opaque)
{
    struct fake_server *server = opaque;

    server->script(server);
    /* The client sees the end now; the descriptor is closed when nobody can use it any more. */
    shutdown(server->fd, SHUT_RDWR);
    return NULL;
}

void fake_start(struct fake_server *server, void (*script)(struct fake_server *),
                struct hl_client **client)
{
    int fds[2];

    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    server->fd = fds[0];
    server->script = script;
    arena_init(&server->arena, 1 << 16, 1 << 30);
    ck_assert_int_eq(hl_client_open(client, fds[1], NULL), 0);
    ck_assert_int_eq(pthread_create(&server->thread, NULL, serve, server), 0);
}

void fake_stop(struct fake_server *server, struct hl_client *client)
{
    hl_client_disconnect(client);
    pthread_join(server->thread, NULL);
    close(server->fd);
    arena_fini(&server->arena);
}

/* What comes with these bytes goes into got; NULL: nothing may. */
static ssize_t read_some(int fd, uint8_t *buf, size_t len, struct got *got)
{
    union {
        struct cmsghdr align;
        uint8_t bytes[CMSG_SPACE(sizeof(got->fds))];
    } control;
    struct iovec iov = {.iov_base = buf, .iov_len = len};
    struct msghdr message = {.msg_iov = &iov,
                             .msg_iovlen = 1,
                             .msg_control = control.bytes,
                             .msg_controllen = sizeof(control.bytes)};
    ssize_t n = recvmsg(fd, &message, MSG_CMSG_CLOEXEC);
    struct cmsghdr *cmsg = n > 0 ? CMSG_FIRSTHDR(&message) : NULL;

    if (cmsg && (!got || cmsg->cmsg_type != SCM_RIGHTS || message.msg_flags & MSG_CTRUNC))
        abort();
    if (cmsg) {
        memcpy(got->fds, CMSG_DATA(cmsg), cmsg->cmsg_len - CMSG_LEN(0));
        got->nfds = (unsigned int)((cmsg->cmsg_len - CMSG_LEN(0)) / sizeof(int));
    }
    return n;
}

static bool read_all(int fd, uint8_t *buf, size_t len)
{
    while (len > 0) {
        ssize_t n = read_some(fd, buf, len, NULL);

        if (n <= 0)
            return false;
        buf += n;
        len -= (size_t)n;
    }
    return true;
}

bool fake_read(struct fake_server *server, struct got *got)
{
    uint8_t bytes[FRAME_HEADER_SIZE];
    struct envelope_request request;
    struct frame_header header;
    uint8_t *payload;

    *got = (struct got){0};
    if (read_some(server->fd, bytes, 1, got) != 1 ||
        !read_all(server->fd, bytes + 1, sizeof(bytes) - 1)) {
        fake_close(got);
        return false;
    }
    if (frame_decode(bytes, sizeof(bytes), &header) < 0 || header.type != FRAME_REQUEST)
        abort();
    payload = arena_alloc(&server->arena, header.length + 1);
    if (!payload || !read_all(server->fd, payload, header.length) ||
        envelope_decode_request(&request, payload, header.length) < 0)
        abort();
    got->stream = header.stream;
    got->timeout_nano = request.timeout_nano;
    snprintf(got->method, sizeof(got->method), "%.*s", (int)request.method.len,
             (const char *)request.method.data);
    got->len = request.payload.len;
    got->payload = payload;
    if (got->len > 0)
        memmove(payload, request.payload.data, got->len);
    return true;
}

void fake_close(struct got *got)
{
    while (got->nfds > 0)
        close(got->fds[--got->nfds]);
}

unsigned int fake_count_fds(void)
{
    DIR *dir = opendir("/proc/self/fd");
    unsigned int n = 0;

    while (readdir(dir))
        n++;
    closedir(dir);
    return n;
}

int fake_memfd(const void *data, size_t len, int seals)
{
    int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);

    if (fd < 0 || write(fd, data, len) != (ssize_t)len || fcntl(fd, F_ADD_SEALS, seals) < 0)
        abort();
    return fd;
}

struct hl_value fake_value(const char *text)
{
    return (struct hl_value){
        .type = HL_TYPE_DESCRIPTOR,
        .descriptor = {strlen(text), fake_memfd(text, strlen(text), F_SEAL_WRITE | F_SEAL_SHRINK)},
    };
}

bool fake_holds(int fd, const void *data, size_t len)
{
    uint8_t *copy = malloc(len + 1);
    bool same = copy && pread(fd, copy, len + 1, 0) == (ssize_t)len && memcmp(copy, data, len) == 0;

    free(copy);
    return same;
}

void fake_write(struct fake_server *server, const void *data, size_t len)
{
    const uint8_t *p = data;

    while (len > 0) {
        ssize_t n = send(server->fd, p, len, MSG_NOSIGNAL);

        if (n <= 0)
            return;
        p += n;
        len -= (size_t)n;
    }
}

static void send_buffer(struct fake_server *server, struct buffer *buf)
{
    fake_write(server, buffer_data(buf), buf->len);
    buffer_fini(buf);
}

void fake_answer(struct fake_server *server, uint32_t stream, const ProtobufCMessage *message)
{
    struct buffer buf = {0};

    if (envelope_encode_response(&buf, stream, message) < 0)
        abort();
    send_buffer(server, &buf);
}

void fake_status(struct fake_server *server, uint32_t stream, enum hl_status status,
                 const char *text, const struct envelope_detail *details, size_t ndetails)
{
    struct buffer buf = {0};

    if (envelope_encode_status(&buf, stream, status, text, details, ndetails) < 0)
        abort();
    send_buffer(server, &buf);
}

void fake_result(struct fake_server *server, uint32_t stream, const char *text)
{
    Hl__V1__InvokeResponse response = HL__V1__INVOKE_RESPONSE__INIT;
    Hl__V1__Accounting accounting = HL__V1__ACCOUNTING__INIT;
    Hl__V1__Value value = HL__V1__VALUE__INIT;

    accounting.run_ns = 1234;
    accounting.backend = "fake";
    value.kind_case = HL__V1__VALUE__KIND_TEXT;
    value.text = (ProtobufCBinaryData){.len = strlen(text), .data = (uint8_t *)text};
    response.outcome_case = HL__V1__INVOKE_RESPONSE__OUTCOME_RESULT;
    response.result = &value;
    response.accounting = &accounting;
    fake_answer(server, stream, &response.base);
}

void fake_answer_void(struct fake_server *server, uint32_t stream)
{
    Hl__V1__InvokeResponse response = HL__V1__INVOKE_RESPONSE__INIT;

    fake_answer(server, stream, &response.base);
}

void fake_answer_descriptor(struct fake_server *server, uint32_t stream, uint32_t index,
                            uint64_t length)
{
    Hl__V1__InvokeResponse response = HL__V1__INVOKE_RESPONSE__INIT;
    Hl__V1__Descriptor descriptor = HL__V1__DESCRIPTOR__INIT;
    Hl__V1__Value value = HL__V1__VALUE__INIT;

    descriptor.index = index;
    descriptor.length = length;
    value.kind_case = HL__V1__VALUE__KIND_DESCRIPTOR;
    value.descriptor = &descriptor;
    response.outcome_case = HL__V1__INVOKE_RESPONSE__OUTCOME_RESULT;
    response.result = &value;
    fake_answer(server, stream, &response.base);
}

void fake_put_result(const struct got *got, uint32_t index, const char *text, int seals)
{
    if (index >= got->nfds || pwrite(got->fds[index], text, strlen(text), 0) < 0 ||
        (seals && fcntl(got->fds[index], F_ADD_SEALS, seals) < 0))
        abort();
}

void fake_header(struct fake_server *server, uint32_t length, uint32_t stream, uint8_t type)
{
    struct frame_header header = {.length = length, .stream = stream, .type = type};
    uint8_t bytes[FRAME_HEADER_SIZE];

    frame_encode_header(bytes, &header);
    fake_write(server, bytes, sizeof(bytes));
}

const void *fake_decode(struct fake_server *server, const struct got *got,
                        const ProtobufCMessageDescriptor *type)
{
    ProtobufCMessage *message;

    if (arena_unpack(&server->arena, type, got->payload, got->len, &message) < 0)
        abort();
    return message;
}
