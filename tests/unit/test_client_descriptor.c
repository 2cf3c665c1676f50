/* SPDX-License-Identifier: Apache-2.0 */
/* Arguments made of files: whatever kind of file it is and whatever happens to it meanwhile, what
 * comes of it is sealed and holds what was found. */
#include "config.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/unit/fake_server.h"
#include "tests/unit/tests_run.h"

#define NEEDED (F_SEAL_WRITE | F_SEAL_SHRINK)

/* A file of size bytes without a name, on a disk where there is one. */
static int a_file(const void *data, size_t size)
{
    char path[] = "/var/tmp/test_descriptor.XXXXXX";
    int fd = mkostemp(path, O_CLOEXEC);

    ck_assert_int_ge(fd, 0);
    unlink(path);
    ck_assert_int_eq(write(fd, data, size), (ssize_t)size);
    return fd;
}

static void check_sealed(const struct hl_value *value)
{
    struct stat st;

    ck_assert_int_eq(value->type, HL_TYPE_DESCRIPTOR);
    ck_assert_int_eq(fcntl(value->descriptor.fd, F_GET_SEALS) & NEEDED, NEEDED);
    ck_assert_int_eq(fcntl(value->descriptor.fd, F_GETFD), FD_CLOEXEC);
    ck_assert_int_eq(fstat(value->descriptor.fd, &st), 0);
    ck_assert_uint_eq((uint64_t)st.st_size, value->descriptor.len);
    ck_assert_int_eq(descriptor_check(value, (char[128]){0}, 128), 0);
}

START_TEST(regular_files)
{
    static const size_t sizes[] = {0, 1, 4096, 300001, 9 << 20};
    size_t size = sizes[_i];
    uint8_t *data = malloc(size + 1);
    struct hl_value value;
    int fd;

    for (size_t i = 0; i < size; i++)
        data[i] = (uint8_t)(i * 7 + i / 4096);
    fd = a_file(data, size);
    ck_assert_int_eq(lseek(fd, (off_t)(size / 2), SEEK_SET), (off_t)(size / 2));
    ck_assert_int_eq(hl_descriptor_from_file(fd, &value, NULL), 0);
    check_sealed(&value);
    ck_assert_uint_eq(value.descriptor.len, size);
    ck_assert(fake_holds(value.descriptor.fd, data, size));
    /* All of it, and the position is nobody's business. */
    ck_assert_int_eq(lseek(fd, 0, SEEK_CUR), (off_t)(size / 2));
    close(value.descriptor.fd);
    close(fd);
    free(data);
}
END_TEST

static void *write_to(void *opaque)
{
    int fd = *(int *)opaque;

    for (int i = 0; i < 1000; i++)
        ck_assert_int_eq(write(fd, "0123456789", 10), 10);
    close(fd);
    return NULL;
}

START_TEST(pipes)
{
    struct hl_value value;
    pthread_t thread;
    int fds[2];

    ck_assert_int_eq(pipe2(fds, O_CLOEXEC), 0);
    pthread_create(&thread, NULL, write_to, &fds[1]);
    ck_assert_int_eq(hl_descriptor_from_file(fds[0], &value, NULL), 0);
    pthread_join(thread, NULL);
    check_sealed(&value);
    ck_assert_uint_eq(value.descriptor.len, 10000);
    close(value.descriptor.fd);
    close(fds[0]);
}
END_TEST

/* Files whose size is not what they hold, and which the kernel may not copy by itself. */
START_TEST(files_of_proc)
{
    char data[4096];
    int fd = open("/proc/self/status", O_RDONLY | O_CLOEXEC);
    ssize_t n = pread(fd, data, sizeof(data), 0);
    struct hl_value value;

    ck_assert_int_gt(n, 0);
    ck_assert_int_eq(hl_descriptor_from_file(fd, &value, NULL), 0);
    check_sealed(&value);
    ck_assert_uint_ge(value.descriptor.len, (size_t)n / 2);
    close(value.descriptor.fd);
    close(fd);
    fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    ck_assert_int_eq(hl_descriptor_from_file(fd, &value, NULL), 0);
    ck_assert_uint_eq(value.descriptor.len, 0);
    close(value.descriptor.fd);
    close(fd);
}
END_TEST

START_TEST(memfds)
{
    static const int seals[] = {0, F_SEAL_WRITE, F_SEAL_SHRINK | F_SEAL_GROW, NEEDED,
                                NEEDED | F_SEAL_GROW};
    int fd = fake_memfd("in memory", 9, seals[_i]);
    struct stat from, to;
    struct hl_value value;

    ck_assert_int_eq(hl_descriptor_from_file(fd, &value, NULL), 0);
    check_sealed(&value);
    ck_assert(fake_holds(value.descriptor.fd, "in memory", 9));
    ck_assert_int_ne(value.descriptor.fd, fd);
    /* Only what can still change is copied. */
    ck_assert_int_eq(fstat(fd, &from), 0);
    ck_assert_int_eq(fstat(value.descriptor.fd, &to), 0);
    ck_assert_int_eq(from.st_ino == to.st_ino, (seals[_i] & NEEDED) == NEEDED);
    close(value.descriptor.fd);
    close(fd);
}
END_TEST

START_TEST(what_cannot_be)
{
    unsigned int before = fake_count_fds();
    struct hl_client_error err;
    struct hl_value value;
    int fd = a_file("x", 1);

    ck_assert_int_eq(ftruncate(fd, 1ll << 32), 0);
    ck_assert_int_eq(hl_descriptor_from_file(fd, &value, &err), -EFBIG);
    ck_assert_str_eq(err.text,
                     "the file has more than 4294967295 bytes, the most a function can take");
    close(fd);
    ck_assert_int_eq(hl_descriptor_from_file(-1, &value, &err), -EBADF);
    ck_assert_int_eq(value.type, HL_TYPE_VOID);
    fd = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    ck_assert_int_eq(hl_descriptor_from_file(fd, &value, &err), -EISDIR);
    ck_assert_ptr_nonnull(strstr(err.text, "cannot copy the file"));
    ck_assert_int_eq(hl_descriptor_from_file(fd, &value, NULL), -EISDIR);
    close(fd);
    ck_assert_uint_eq(fake_count_fds(), before);
}
END_TEST

#define MOST (4u << 20)

struct unsteady {
    int fd;
    atomic_bool stop;
};

static void *change_size(void *opaque)
{
    struct unsteady *unsteady = opaque;

    for (unsigned int i = 0; !atomic_load(&unsteady->stop); i++)
        ck_assert_int_eq(ftruncate(unsteady->fd, (off_t)(i * 12345 % MOST)), 0);
    return NULL;
}

START_TEST(files_that_change_meanwhile)
{
    struct unsteady unsteady = {.fd = a_file("x", 1)};
    pthread_t thread;

    pthread_create(&thread, NULL, change_size, &unsteady);
    for (int i = 0; i < 100; i++) {
        struct hl_value value;

        ck_assert_int_eq(hl_descriptor_from_file(unsteady.fd, &value, NULL), 0);
        check_sealed(&value);
        ck_assert_uint_le(value.descriptor.len, MOST);
        close(value.descriptor.fd);
    }
    atomic_store(&unsteady.stop, true);
    pthread_join(thread, NULL);
    close(unsteady.fd);
}
END_TEST

int main(void)
{
    TCase *tc = tcase_create("client, descriptors");

    tcase_set_timeout(tc, 60);
    tcase_add_loop_test(tc, regular_files, 0, 5);
    tcase_add_test(tc, pipes);
    tcase_add_test(tc, files_of_proc);
    tcase_add_loop_test(tc, memfds, 0, 5);
    tcase_add_test(tc, what_cannot_be);
    tcase_add_test(tc, files_that_change_meanwhile);
    return tests_run(tc, "client, descriptors");
}
