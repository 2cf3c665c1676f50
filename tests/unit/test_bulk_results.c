/* SPDX-License-Identifier: Apache-2.0 */
/* Files that results go to: what is written, when it is refused, and that nobody takes a page away.
 */
#include "config.h"

#include <check.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/unit/bulk_rig.h"

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
        {allocated((256u << 20) + PAGE), "268435456 (256 MiB) is the most"},
        {sparse(64 * PAGE, ROOM), "posix_fallocate does not do"},
        {allocated(64 * PAGE), "posix_fallocate does not do"},
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

int main(void)
{
    TCase *tc = tests_begin("bulk_results");

    tcase_add_loop_test(tc, test_result, 0, 2);
    tcase_add_test(tc, test_other_results);
    tcase_add_test(tc, test_refused_results);
    tcase_add_test(tc, test_hidden_holes_in_result);
    tcase_add_test(tc, test_result_is_frozen);
    tcase_add_test(tc, test_room_too_small);
    return tests_run(tc, "bulk_results");
}
