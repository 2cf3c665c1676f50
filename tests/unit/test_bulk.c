/* SPDX-License-Identifier: Apache-2.0 */
/* Descriptors beside calls: which are taken and which refused, where they end, and that none stays.
 */
#include "config.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "guest/hl_abi.h"
#include "proto/buffer.h"
#include "tests/fake/fake.h"
#include "tests/unit/engine_tests.h"

#define PAGE     4096u
#define SEALS    (F_SEAL_WRITE | F_SEAL_SHRINK)
#define ROOM     (F_SEAL_SHRINK | F_SEAL_GROW)
#define FDS_MOST 17u

static int conn;
static uint32_t stream;

static void begin(void)
{
    stream = 1;
    limits.io_size = 1u << 20;
    start();
    conn = rig_connect(&rig);
}

static void stop(void)
{
    close(conn);
    rig_stop(&rig);
}

/* --- files ---------------------------------------------------------------------------------- */

static int file_of(size_t len, int seals)
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
static int allocated(size_t len)
{
    int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);

    ck_assert_int_eq(posix_fallocate(fd, 0, (off_t)len), 0);
    ck_assert_int_eq(fcntl(fd, F_ADD_SEALS, ROOM), 0);
    return fd;
}

static int sparse(size_t len, int seals)
{
    int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);

    ck_assert_int_eq(ftruncate(fd, (off_t)len), 0);
    ck_assert_int_eq(pwrite(fd, "x", 1, (off_t)len / 2), 1);
    ck_assert_int_eq(fcntl(fd, F_ADD_SEALS, seals), 0);
    return fd;
}

/* --- requests with them --------------------------------------------------------------------- */

struct with {
    const char *function;
    const int *fds;
    unsigned int nfds;
    int index[2]; /* of arguments; -1: none */
    int into;     /* likewise */
    uint64_t number;
    bool has_number;
    int64_t timeout_ns;
    uint64_t call_id;
    const char *session;
};

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

static void send_call(int fd, uint32_t id, const struct with *with)
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

static void expect(const struct with *with, int code, const char *text)
{
    struct rig_response response = answer(with);

    ck_assert_msg(response.envelope.code == code, "%d %s", response.envelope.code,
                  response.message);
    ck_assert_msg(strstr(response.message, text) != NULL, "%s", response.message);
    rig_response_free(&response);
}

static Hl__V1__InvokeResponse *expect_result(const struct with *with)
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
static struct with at(const int *fd, uint64_t number)
{
    return (struct with){.function = "at",
                         .fds = fd,
                         .nfds = 1,
                         .index = {0, -1},
                         .into = -1,
                         .number = number,
                         .has_number = true};
}

static void expect_byte(const struct with *with, uint32_t byte)
{
    Hl__V1__InvokeResponse *message = expect_result(with);

    ck_assert_int_eq(message->result->kind_case, HL__V1__VALUE__KIND_U32);
    ck_assert_uint_eq(message->result->u32, byte);
    hl__v1__invoke_response__free_unpacked(message, NULL);
}

static int count_fds(void)
{
    int n = 0;

    for (int fd = 0; fd < 1024; fd++)
        n += fcntl(fd, F_GETFD) >= 0;
    return n;
}

/* --- arguments ------------------------------------------------------------------------------ */

START_TEST(test_argument)
{
    const size_t sizes[] = {1, PAGE, 20000, (1u << 20) - 1, 8u << 20};
    int before;

    begin();
    ck_assert_int_eq(rig_call(conn, stream, &nothing), 0);
    stream += 2;
    before = count_fds();
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        int fd = file_of(sizes[i], SEALS);
        struct with with = at(&fd, sizes[i] - 1);

        expect_byte(&with, 7);
        close(fd);
    }
    ck_assert_int_eq(rig_call(conn, stream, &nothing), 0);
    ck_assert_int_eq(count_fds(), before); /* the last one's went with its instance's reset */
    stream += 2;
    stop();
}
END_TEST

START_TEST(test_which_one)
{
    int fds[3] = {file_of(PAGE, SEALS), file_of(20000, SEALS), file_of(3 * PAGE, SEALS)};
    struct with with = at(fds, 0);

    begin();
    with.nfds = 3;
    with.index[0] = 1;
    with.number = 19999;
    expect_byte(&with, 7);
    with.index[0] = 2;
    with.number = 3 * PAGE - 1;
    expect_byte(&with, 7);
    with.number = 3 * PAGE;
    expect(&with, HL_STATUS_ABORTED, "");
    with.index[0] = 0;
    with.number = 0;
    expect_byte(&with, 0);
    stop();
    for (int i = 0; i < 3; i++)
        close(fds[i]);
}
END_TEST

START_TEST(test_empty_file)
{
    int fd = file_of(0, SEALS);
    struct with with = at(&fd, 0);

    begin();
    with.function = "echo";
    with.has_number = false;
    hl__v1__invoke_response__free_unpacked(expect_result(&with), NULL);
    stop();
    close(fd);
}
END_TEST

START_TEST(test_refused_arguments)
{
    int pipe_ends[2], fd;
    struct with with;
    const struct {
        int fd;
        const char *text;
    } bad[] = {
        {file_of(PAGE, 0), "F_SEAL_SHRINK"},
        {file_of(PAGE, F_SEAL_WRITE), "F_SEAL_SHRINK"},
        {file_of(PAGE, F_SEAL_SHRINK), "F_SEAL_WRITE"},
        {file_of(PAGE, F_SEAL_SHRINK | F_SEAL_FUTURE_WRITE), "F_SEAL_WRITE"},
        {sparse(64 * PAGE, SEALS), "holes"},
        {open("/dev/null", O_RDONLY | O_CLOEXEC), "not a memfd"},
        {open("/proc/self/exe", O_RDONLY | O_CLOEXEC), "not a memfd"},
        {open("/", O_PATH | O_CLOEXEC), "not a memfd"},
    };

    ck_assert_int_eq(pipe(pipe_ends), 0);
    begin();
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        with = at(&bad[i].fd, 0);
        expect(&with, HL_STATUS_INVALID_ARGUMENT, bad[i].text);
        expect(&with, HL_STATUS_INVALID_ARGUMENT, "argument 1");
        close(bad[i].fd);
    }
    with = at(&pipe_ends[0], 0);
    expect(&with, HL_STATUS_INVALID_ARGUMENT, "not a memfd");
    fd = file_of(PAGE, SEALS);
    with = at(&fd, 0);
    with.nfds = 0;
    expect(&with, HL_STATUS_INVALID_ARGUMENT, "fewer came");
    with.nfds = 1;
    with.index[0] = 1;
    expect(&with, HL_STATUS_INVALID_ARGUMENT, "names 2 descriptors");
    with.index[0] = FDS_MOST;
    expect(&with, HL_STATUS_INVALID_ARGUMENT, "17");
    with = at(&fd, 0);
    with.function = "echo_string";
    with.has_number = false;
    expect(&with, HL_STATUS_INVALID_ARGUMENT, "must be string, not bytes");
    with = at(&fd, PAGE - 1);
    expect_byte(&with, 7); /* none of it did any harm */
    stop();
    close(fd);
    close(pipe_ends[0]);
    close(pipe_ends[1]);
}
END_TEST

START_TEST(test_budget)
{
    int large = file_of(8u << 20, SEALS), small = file_of(PAGE, SEALS);
    struct with with = at(&large, 0);

    settings.bulk_budget = (8u << 20) - 1;
    begin();
    expect(&with, HL_STATUS_RESOURCE_EXHAUSTED, "bulk_budget");
    with = at(&small, 0);
    for (int i = 0; i < 20; i++)
        expect_byte(&with, 0);
    stop();
    settings.bulk_budget = 0;
    begin();
    expect(&with, HL_STATUS_RESOURCE_EXHAUSTED, "bulk_budget");
    stop();
    close(large);
    close(small);
}
END_TEST

/* Blocks behind its end make up for the holes in it, and a guest comes upon those. */
START_TEST(test_hidden_holes)
{
    int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING), good = file_of(PAGE, SEALS);
    struct with with = at(&fd, 50 * PAGE);
    struct with fine = at(&good, 0);

    ck_assert_int_eq(ftruncate(fd, 100 * PAGE), 0);
    ck_assert_int_eq(fallocate(fd, FALLOC_FL_KEEP_SIZE, 200 * PAGE, 100 * PAGE), 0);
    ck_assert_int_eq(fcntl(fd, F_ADD_SEALS, SEALS), 0);
    begin();
    expect_byte(&fine, 0);
    expect_byte(&with, 0);
    ck_assert_int_eq(rig_call(conn, stream, &nothing), 0);
    stream += 2;
    expect(&fine, HL_STATUS_PERMISSION_DENIED, "holes");
    stop();
    close(fd);
    close(good);
}
END_TEST

/* --- results -------------------------------------------------------------------------------- */

static struct with big(const int *fd, uint32_t len)
{
    return (struct with){.function = "big",
                         .fds = fd,
                         .nfds = 1,
                         .index = {-1, -1},
                         .into = 0,
                         .number = len,
                         .has_number = true};
}

START_TEST(test_result)
{
    const uint32_t sizes[] = {0, 1, PAGE, 900000};

    settings.quantum_ns = _i ? MS : 1; /* in one go, or piece by piece on a long-run thread */
    begin();
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        int fd = file_of(900 * 1024, ROOM);
        struct with with = big(&fd, sizes[i]);
        Hl__V1__InvokeResponse *message = expect_result(&with);
        uint8_t *data = mmap(NULL, 900 * 1024, PROT_READ, MAP_SHARED, fd, 0);

        ck_assert_int_eq(message->result->kind_case, HL__V1__VALUE__KIND_DESCRIPTOR);
        ck_assert_uint_eq(message->result->descriptor->index, 0);
        ck_assert_uint_eq(message->result->descriptor->length, sizes[i]);
        for (uint32_t at = 0; at < sizes[i]; at++)
            ck_assert_uint_eq(data[at], 'x');
        ck_assert_uint_eq(data[sizes[i]], 0);
        ck_assert_int_eq(fcntl(fd, F_GET_SEALS) & F_SEAL_WRITE, F_SEAL_WRITE);
        hl__v1__invoke_response__free_unpacked(message, NULL);
        munmap(data, 900 * 1024);
        close(fd);
    }
    stop();
}
END_TEST

/* Errors and what is no bytes come in the message, and the file stays as it was. */
START_TEST(test_other_results)
{
    int fds[2] = {file_of(20 * PAGE, SEALS), file_of(PAGE, ROOM)};
    struct with with = at(fds, 20 * PAGE - 1);

    begin();
    with.nfds = 2;
    with.into = 1;
    expect_byte(&with, 7);
    close(fds[1]);
    fds[1] = file_of(PAGE, ROOM);
    with.number = 20 * PAGE;
    expect(&with, HL_STATUS_ABORTED, "");
    stop();
    close(fds[0]);
    close(fds[1]);
}
END_TEST

START_TEST(test_refused_results)
{
    const struct {
        int fd;
        const char *text;
    } bad[] = {
        {file_of(PAGE, 0), "F_SEAL_SHRINK"},
        {file_of(PAGE, F_SEAL_SHRINK), "F_SEAL_GROW"},
        {file_of(PAGE, ROOM | F_SEAL_WRITE), "cannot be mapped"},
        {file_of(PAGE, ROOM | F_SEAL_SEAL), "cannot be sealed"},
        {file_of(100, ROOM), "multiple"},
        {file_of(0, ROOM), "multiple"},
        {allocated((256u << 20) + PAGE), "268435456"},
        {sparse(64 * PAGE, ROOM), "holes"},
        {open("/proc/self/exe", O_RDONLY | O_CLOEXEC), "not a memfd"},
    };
    struct with with;

    begin();
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        with = big(&bad[i].fd, 10);
        expect(&with, HL_STATUS_INVALID_ARGUMENT, bad[i].text);
        close(bad[i].fd);
    }
    stop();
}
END_TEST

START_TEST(test_hidden_holes_in_result)
{
    int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    struct with with = big(&fd, 10);

    ck_assert_int_eq(ftruncate(fd, 100 * PAGE), 0);
    ck_assert_int_eq(fallocate(fd, FALLOC_FL_KEEP_SIZE, 200 * PAGE, 100 * PAGE), 0);
    ck_assert_int_eq(fcntl(fd, F_ADD_SEALS, ROOM), 0);
    begin();
    expect(&with, HL_STATUS_INVALID_ARGUMENT, "holes");
    stop();
    close(fd);
}
END_TEST

/* No way to take a page away under the copying: not once hld has looked. */
START_TEST(test_result_is_frozen)
{
    int fd = file_of(100 * PAGE, ROOM);
    uint8_t *mine = mmap(NULL, 100 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    struct with with = big(&fd, 10);

    begin();
    expect(&with, HL_STATUS_FAILED_PRECONDITION, "mapped to be written elsewhere");
    ck_assert_int_lt(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, PAGE), 0);
    ck_assert_int_lt(madvise(mine, PAGE, MADV_REMOVE), 0);
    ck_assert_int_lt(ftruncate(fd, 0), 0);
    ck_assert_uint_eq(mine[0], 'x');
    munmap(mine, 100 * PAGE);
    ck_assert_int_eq(rig_call(conn, stream, &nothing), 0);
    stream += 2;
    ck_assert_uint_eq(rig_counter(conn, stream, "instances_destroyed"), 0);
    stop();
    close(fd);
}
END_TEST

START_TEST(test_room_too_small)
{
    int fd = file_of(PAGE, ROOM);
    struct with with = big(&fd, PAGE + 1);

    begin();
    expect(&with, HL_STATUS_RESOURCE_EXHAUSTED, "4097 bytes");
    ck_assert_int_eq(rig_call(conn, stream, &nothing), 0);
    stream += 2;
    ck_assert_uint_eq(rig_counter(conn, stream, "instances_destroyed"), 0);
    stop();
    close(fd);
}
END_TEST

/* --- calls that wait, end early, or are in sessions ----------------------------------------- */

/* Holds the one instance; the next call waits. */
static void occupy(void)
{
    rig_invoke(conn, stream, &(struct rig_call){.function = "spin", .call_id = 1});
    stream += 2;
}

static void expect_code(int code)
{
    struct rig_response response;

    ck_assert(rig_receive(conn, &response));
    ck_assert_msg(response.envelope.code == code, "%d %s", response.envelope.code,
                  response.message);
    rig_response_free(&response);
}

START_TEST(test_waiting)
{
    int fd = file_of(20 * PAGE, SEALS), before;
    struct with with = at(&fd, 20 * PAGE - 1);

    limits.max_instances = 1;
    begin();
    ck_assert_int_eq(rig_call(conn, stream, &nothing), 0);
    stream += 2;
    before = count_fds();
    occupy();
    send_call(conn, stream, &with); /* gets its turn */
    with.timeout_ns = 50 * MS;
    send_call(conn, stream + 2, &with); /* runs out of time */
    with.timeout_ns = 0;
    with.call_id = 3;
    send_call(conn, stream + 4, &with); /* is cancelled */
    stream += 6;
    expect_code(HL_STATUS_DEADLINE_EXCEEDED);
    rig_cancel(conn, stream, 3);
    expect_code(HL_STATUS_CANCELLED);
    expect_code(0);
    ck_assert_int_eq(count_fds(), before + 1);
    stream += 2;
    rig_cancel(conn, stream, 1);
    stream += 2;
    expect_code(HL_STATUS_CANCELLED);
    expect_code(0);
    expect_code(0);
    ck_assert_int_eq(rig_call(conn, stream, &nothing), 0);
    ck_assert_int_eq(count_fds(), before);
    stop();
    close(fd);
}
END_TEST

/* The client goes while its result is on the way into its file, on another thread. */
START_TEST(test_client_goes)
{
    settings.quantum_ns = 1;
    begin();
    for (int round = 0; round < 50; round++) {
        int fd = file_of(900 * 1024, ROOM), other = rig_connect(&rig);
        struct with with = big(&fd, 900000);

        send_call(other, 1, &with);
        usleep((useconds_t)round * 200);
        close(other);
        close(fd);
    }
    ck_assert_int_eq(rig_call(conn, stream, &nothing), 0);
    stop();
}
END_TEST

START_TEST(test_in_a_session)
{
    Hl__V1__OpenSessionRequest open_request = HL__V1__OPEN_SESSION_REQUEST__INIT;
    Hl__V1__OpenSessionResponse *opened;
    struct rig_response response;
    int fd = file_of(20 * PAGE, SEALS);
    struct with with = at(&fd, 20 * PAGE - 1);

    begin();
    open_request.image = (char *)"test";
    rig_request(conn, stream, "hl.v1.Sessions", "Open", 0, &open_request.base);
    stream += 2;
    ck_assert(rig_receive(conn, &response));
    opened = hl__v1__open_session_response__unpack(NULL, response.envelope.payload.len,
                                                   response.envelope.payload.data);
    rig_response_free(&response);
    with.session = opened->session;
    for (int i = 0; i < 5; i++)
        expect_byte(&with, 7);
    with.nfds = 0;
    expect(&with, HL_STATUS_INVALID_ARGUMENT, "fewer came");
    with.nfds = 1;
    expect_byte(&with, 7); /* the session is none the worse for it */
    hl__v1__open_session_response__free_unpacked(opened, NULL);
    stop();
    close(fd);
}
END_TEST

int main(void)
{
    TCase *tc = tests_begin("bulk");

    tcase_add_test(tc, test_argument);
    tcase_add_test(tc, test_which_one);
    tcase_add_test(tc, test_empty_file);
    tcase_add_test(tc, test_refused_arguments);
    tcase_add_test(tc, test_budget);
    tcase_add_test(tc, test_hidden_holes);
    tcase_add_loop_test(tc, test_result, 0, 2);
    tcase_add_test(tc, test_other_results);
    tcase_add_test(tc, test_refused_results);
    tcase_add_test(tc, test_hidden_holes_in_result);
    tcase_add_test(tc, test_result_is_frozen);
    tcase_add_test(tc, test_room_too_small);
    tcase_add_test(tc, test_waiting);
    tcase_add_test(tc, test_client_goes);
    tcase_add_test(tc, test_in_a_session);
    return tests_run(tc, "bulk");
}
