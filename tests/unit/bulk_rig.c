/* SPDX-License-Identifier: Apache-2.0 */
#include "config.h"

#include "tests/unit/bulk_rig.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "proto/buffer.h"

int conn;
uint32_t stream;

void begin(void)
{
    stream = 1;
    limits.io_size = 1u << 20;
    start();
    conn = rig_connect(&rig);
}

void stop(void)
{
    close(conn);
    rig_stop(&rig);
}

/* --- files ---------------------------------------------------------------------------------- */

int file_of(size_t len, int seals)
{
    int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);

    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(ftruncate(fd, (off_t)len), 0);
    if (len > 0) {
        uint8_t *all = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

        memset(all, 0, len);
        all[len - 1] = 7;
        munmap(all, len);
    }
    if (seals)
        ck_assert_int_eq(fcntl(fd, F_ADD_SEALS, seals), 0);
    return fd;
}

/* Its memory is there, but nobody has written to it. */
int allocated(size_t len)
{
    int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);

    ck_assert_int_eq(posix_fallocate(fd, 0, (off_t)len), 0);
    ck_assert_int_eq(fcntl(fd, F_ADD_SEALS, ROOM), 0);
    return fd;
}

int sparse(size_t len, int seals)
{
    int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);

    ck_assert_int_eq(ftruncate(fd, (off_t)len), 0);
    ck_assert_int_eq(pwrite(fd, "x", 1, (off_t)len / 2), 1);
    ck_assert_int_eq(fcntl(fd, F_ADD_SEALS, seals), 0);
    return fd;
}

/* --- requests with them --------------------------------------------------------------------- */

static void send_beside(int fd, const struct buffer *buf, const int *fds, unsigned int nfds)
{
    union {
        struct cmsghdr header;
        char room[CMSG_SPACE(64 * sizeof(int))];
    } control = {0};
    struct iovec iov = {buffer_data(buf), buf->len};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};

    if (nfds > 0) {
        msg.msg_control = &control;
        msg.msg_controllen = CMSG_SPACE(nfds * sizeof(int));
        control.header.cmsg_level = SOL_SOCKET;
        control.header.cmsg_type = SCM_RIGHTS;
        control.header.cmsg_len = CMSG_LEN(nfds * sizeof(int));
        memcpy(CMSG_DATA(&control.header), fds, nfds * sizeof(int));
    }
    ck_assert_int_eq(sendmsg(fd, &msg, MSG_NOSIGNAL), (ssize_t)buf->len);
}

void send_call(int fd, uint32_t id, const struct with *with)
{
    Hl__V1__InvokeRequest request = HL__V1__INVOKE_REQUEST__INIT;
    Hl__V1__Value values[3] = {HL__V1__VALUE__INIT, HL__V1__VALUE__INIT, HL__V1__VALUE__INIT};
    Hl__V1__Value *args[3] = {&values[0], &values[1], &values[2]};
    Hl__V1__Descriptor named[2] = {HL__V1__DESCRIPTOR__INIT, HL__V1__DESCRIPTOR__INIT};
    Hl__V1__Descriptor into = HL__V1__DESCRIPTOR__INIT;
    struct buffer buf = {0};

    request.image = (char *)"test";
    request.function = (char *)with->function;
    request.call_id = with->call_id;
    if (with->session)
        request.session = (char *)with->session;
    request.args = args;
    for (int i = 0; i < 2 && with->index[i] >= 0; i++) {
        named[i].index = (uint32_t)with->index[i];
        values[request.n_args].kind_case = HL__V1__VALUE__KIND_DESCRIPTOR;
        values[request.n_args++].descriptor = &named[i];
    }
    if (with->has_number) {
        values[request.n_args].kind_case =
            strcmp(with->function, "big") == 0 ? HL__V1__VALUE__KIND_U32 : HL__V1__VALUE__KIND_U64;
        values[request.n_args++].u64 = with->number;
    }
    if (with->into >= 0) {
        into.index = (uint32_t)with->into;
        request.result_into = &into;
    }
    ck_assert_int_eq(envelope_encode_request(&buf, id,
                                             with->session ? "hl.v1.Sessions" : "hl.v1.Functions",
                                             "Invoke", with->timeout_ns, &request.base),
                     0);
    send_beside(fd, &buf, with->fds, with->nfds);
    buffer_fini(&buf);
}

static struct rig_response answer(const struct with *with)
{
    struct rig_response response;

    send_call(conn, stream, with);
    ck_assert(rig_receive(conn, &response));
    ck_assert_uint_eq(response.stream, stream);
    stream += 2;
    return response;
}

void expect(const struct with *with, int code, const char *text)
{
    struct rig_response response = answer(with);

    ck_assert_msg(response.envelope.code == code, "%d %s", response.envelope.code,
                  response.message);
    ck_assert_msg(strstr(response.message, text) != NULL, "%s", response.message);
    rig_response_free(&response);
}

Hl__V1__InvokeResponse *expect_result(const struct with *with)
{
    struct rig_response response = answer(with);
    Hl__V1__InvokeResponse *message;

    ck_assert_msg(response.envelope.code == 0, "%d %s", response.envelope.code, response.message);
    message = hl__v1__invoke_response__unpack(NULL, response.envelope.payload.len,
                                              response.envelope.payload.data);
    ck_assert_ptr_nonnull(message);
    ck_assert_int_eq(message->outcome_case, HL__V1__INVOKE_RESPONSE__OUTCOME_RESULT);
    rig_response_free(&response);
    return message;
}

/* at(fds[0], number) with one file. */
struct with at(const int *fd, uint64_t number)
{
    return (struct with){.function = "at",
                         .fds = fd,
                         .nfds = 1,
                         .index = {0, -1},
                         .into = -1,
                         .number = number,
                         .has_number = true};
}

void expect_byte(const struct with *with, uint32_t byte)
{
    Hl__V1__InvokeResponse *message = expect_result(with);

    ck_assert_int_eq(message->result->kind_case, HL__V1__VALUE__KIND_U32);
    ck_assert_uint_eq(message->result->u32, byte);
    hl__v1__invoke_response__free_unpacked(message, NULL);
}

int count_fds(void)
{
    int n = 0;

    for (int fd = 0; fd < 1024; fd++)
        n += fcntl(fd, F_GETFD) >= 0;
    return n;
}

struct with big(const int *fd, uint32_t len)
{
    return (struct with){.function = "big",
                         .fds = fd,
                         .nfds = 1,
                         .index = {-1, -1},
                         .into = 0,
                         .number = len,
                         .has_number = true};
}
