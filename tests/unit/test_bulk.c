/* SPDX-License-Identifier: Apache-2.0 */
/* Files as arguments: which are taken and which refused, where they end, and that none stays. */
#include "config.h"

#include <check.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/unit/bulk_rig.h"

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
        {sparse(64 * PAGE, SEALS), "call posix_fallocate"},
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
    tcase_add_test(tc, test_waiting);
    tcase_add_test(tc, test_client_goes);
    tcase_add_test(tc, test_in_a_session);
    return tests_run(tc, "bulk");
}
