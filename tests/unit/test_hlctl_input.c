/* SPDX-License-Identifier: Apache-2.0 */
/* hlctl's arguments that are files or standard input, small and large, and large results. */
#include "config.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "client/hlctl/arguments.h"
#include "client/hlctl/input.h"
#include "client/hlctl/value.h"
#include "tests/unit/fake_server.h"
#include "tests/unit/tests_run.h"

static struct hlctl ctl;
static uint8_t data[6u << 20];

static void fill_data(void)
{
    for (size_t i = 0; i < sizeof(data); i++)
        data[i] = (uint8_t)('a' + (i * 7 + i / 4096) % 26);
}

/* A file that begins with size bytes of data, and its name. */
static char *a_file(size_t size)
{
    char *path = strdup("/tmp/test_hlctl.XXXXXX");
    int fd = mkstemp(path);

    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(write(fd, data, size), (ssize_t)size);
    close(fd);
    return path;
}

static void remove_file(char *path)
{
    unlink(path);
    free(path);
}

/* ---- one argument ---- */

struct feed {
    int fd;
    size_t size;
};

static void *feed(void *opaque)
{
    struct feed *feed = opaque;
    size_t at = 0;

    while (at < feed->size) {
        size_t piece = feed->size - at < 10007 ? feed->size - at : 10007;
        ssize_t n = write(feed->fd, data + at, piece);

        if (n < 0)
            break;
        at += (size_t)n;
    }
    close(feed->fd);
    return NULL;
}

static const struct {
    enum hl_type type;
    size_t size, left;
    enum hl_type as; /* VOID: refused */
} inputs[] = {
    {HL_TYPE_BYTES, 0, INPUT_MESSAGE_MAX, HL_TYPE_BYTES},
    {HL_TYPE_BYTES, 5, INPUT_MESSAGE_MAX, HL_TYPE_BYTES},
    {HL_TYPE_BYTES, INPUT_BULK_MIN - 1, INPUT_MESSAGE_MAX, HL_TYPE_BYTES},
    {HL_TYPE_BYTES, INPUT_BULK_MIN, INPUT_MESSAGE_MAX, HL_TYPE_DESCRIPTOR},
    {HL_TYPE_BYTES, INPUT_BULK_MIN + 1, INPUT_MESSAGE_MAX, HL_TYPE_DESCRIPTOR},
    {HL_TYPE_BYTES, sizeof(data), INPUT_MESSAGE_MAX, HL_TYPE_DESCRIPTOR},
    {HL_TYPE_BYTES, 1000, 1000, HL_TYPE_BYTES},
    {HL_TYPE_BYTES, 1001, 1000, HL_TYPE_DESCRIPTOR},
    {HL_TYPE_BYTES, 1, 0, HL_TYPE_DESCRIPTOR},
    {HL_TYPE_STRING, 5, INPUT_MESSAGE_MAX, HL_TYPE_STRING},
    {HL_TYPE_STRING, INPUT_BULK_MIN, INPUT_MESSAGE_MAX, HL_TYPE_STRING},
    {HL_TYPE_STRING, INPUT_MESSAGE_MAX, INPUT_MESSAGE_MAX, HL_TYPE_STRING},
    {HL_TYPE_STRING, INPUT_MESSAGE_MAX + 1, INPUT_MESSAGE_MAX, HL_TYPE_VOID},
    {HL_TYPE_STRING, 11, 10, HL_TYPE_VOID},
};

static void check_input(int fd, int i, const uint8_t *expected, size_t size)
{
    struct hl_value value = {.type = HL_TYPE_VOID};
    uint8_t *memory = NULL;
    int r = input_take(&ctl, fd, "'f'", inputs[i].type, inputs[i].left, &value, &memory);

    ck_assert_int_eq(r, inputs[i].as == HL_TYPE_VOID ? EXIT_FAILED : 0);
    ck_assert_int_eq(value.type, inputs[i].as);
    if (value.type == HL_TYPE_DESCRIPTOR) {
        ck_assert_uint_eq(value.descriptor.len, size);
        ck_assert(fake_holds(value.descriptor.fd, expected, size));
        ck_assert_int_eq(descriptor_check(&value, (char[128]){0}, 128), 0);
        close(value.descriptor.fd);
    } else if (r == 0) {
        ck_assert_uint_eq(value.bytes.len, size);
        ck_assert(size == 0 || memcmp(value.bytes.data, expected, size) == 0);
    }
    free(memory);
}

START_TEST(files_and_pipes)
{
    size_t size = inputs[_i].size;
    char *path = a_file(size);
    unsigned int before = fake_count_fds();
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    pthread_t thread;
    struct feed to;
    int fds[2];

    check_input(fd, _i, data, size);
    close(fd);
    ck_assert_int_eq(pipe2(fds, O_CLOEXEC), 0);
    to = (struct feed){fds[1], size};
    pthread_create(&thread, NULL, feed, &to);
    check_input(fds[0], _i, data, size);
    close(fds[0]);
    pthread_join(thread, NULL);
    ck_assert_uint_eq(fake_count_fds(), before);
    remove_file(path);
}
END_TEST

/* What somebody read from standard input before is not the argument's. */
START_TEST(file_from_where_it_stands)
{
    char *path = a_file(sizeof(data));
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    ck_assert_int_eq(lseek(fd, 1000, SEEK_SET), 1000);
    check_input(fd, 5, data + 1000, sizeof(data) - 1000);
    close(fd);
    remove_file(path);
}
END_TEST

/* ---- a command line ---- */

/* Says that the image has f(bytes, string, bytes). */
static void inspect_script(struct fake_server *server)
{
    Hl__V1__Function f = HL__V1__FUNCTION__INIT;
    Hl__V1__Image image = HL__V1__IMAGE__INIT;
    Hl__V1__InspectResponse response = HL__V1__INSPECT_RESPONSE__INIT;
    Hl__V1__Type params[] = {HL__V1__TYPE__BYTES, HL__V1__TYPE__STRING, HL__V1__TYPE__BYTES};
    Hl__V1__Function *functions[] = {&f};
    struct got got;

    f.name = "f";
    f.params = params;
    f.n_params = 3;
    image.name = "i";
    image.functions = functions;
    image.n_functions = 1;
    response.image = &image;
    while (fake_read(server, &got))
        fake_answer(server, got.stream, &response.base);
}

static int take(struct arguments *arguments, const char *a, const char *b, const char *c,
                const char *room)
{
    static char *argv[8];
    struct fake_server server = {0};
    char text[256];
    int r, argc = 0;

    argv[argc++] = "i";
    argv[argc++] = "f";
    argv[argc++] = (char *)a;
    argv[argc++] = (char *)b;
    argv[argc++] = (char *)c;
    if (room) {
        argv[argc++] = "--room";
        argv[argc++] = (char *)room;
    }
    ctl = (struct hlctl){.verb = &verb_call};
    ck_assert_int_eq(options_parse(&ctl, argc, argv, text, sizeof(text)), 0);
    fake_start(&server, inspect_script, &ctl.client);
    r = arguments_take(&ctl, arguments, 0);
    fake_stop(&server, ctl.client);
    ctl = (struct hlctl){0};
    return r;
}

START_TEST(command_lines)
{
    char *small = a_file(9), *large = a_file(INPUT_BULK_MIN), name[2][64];
    unsigned int before = fake_count_fds();
    struct arguments arguments;
    const struct hl_value *v = arguments.values;

    snprintf(name[0], sizeof(name[0]), "@%s", small);
    snprintf(name[1], sizeof(name[1]), "@%s", large);
    ck_assert_int_eq(take(&arguments, name[0], name[1], name[1], "64M"), 0);
    ck_assert_uint_eq(arguments.call.result_room, 64 << 20);
    ck_assert_int_eq(v[0].type, HL_TYPE_BYTES);
    ck_assert_uint_eq(v[0].bytes.len, 9);
    ck_assert_mem_eq(v[0].bytes.data, data, 9);
    ck_assert_int_eq(v[1].type, HL_TYPE_STRING);
    ck_assert_uint_eq(v[1].bytes.len, INPUT_BULK_MIN);
    ck_assert_int_eq(v[2].type, HL_TYPE_DESCRIPTOR);
    ck_assert_uint_eq(v[2].descriptor.len, INPUT_BULK_MIN);
    arguments_fini(&arguments);

    ck_assert_int_eq(take(&arguments, "@@name", "@@", "text", NULL), 0);
    ck_assert_uint_eq(arguments.call.result_room, 0);
    ck_assert_mem_eq(v[0].bytes.data, "@name", 6);
    ck_assert_mem_eq(v[1].bytes.data, "@", 2);
    arguments_fini(&arguments);

    /* What was taken before something went wrong is given back too. */
    ck_assert_int_eq(take(&arguments, name[1], "x", "@/nonexistent", NULL), EXIT_FAILED);
    arguments_fini(&arguments);
    ck_assert_int_eq(take(&arguments, name[1], "x", "@", NULL), EXIT_USAGE);
    arguments_fini(&arguments);
    ck_assert_int_eq(take(&arguments, "x", "x", "x", "256M"), 0);
    arguments_fini(&arguments);
    ck_assert_uint_eq(fake_count_fds(), before);
    remove_file(small);
    remove_file(large);
}
END_TEST

START_TEST(standard_input)
{
    char *path = a_file(INPUT_BULK_MIN);
    struct arguments arguments;
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    ck_assert_int_eq(dup2(fd, STDIN_FILENO), STDIN_FILENO);
    ck_assert_int_eq(take(&arguments, _i ? "-" : "@-", "x", "y", NULL), 0);
    ck_assert_int_eq(arguments.values[0].type, HL_TYPE_DESCRIPTOR);
    ck_assert(fake_holds(arguments.values[0].descriptor.fd, data, INPUT_BULK_MIN));
    arguments_fini(&arguments);
    ck_assert_int_eq(take(&arguments, "-", "x", "@-", NULL), EXIT_USAGE);
    arguments_fini(&arguments);
    close(fd);
    remove_file(path);
}
END_TEST

static const char *const bad_rooms[] = {"", "0", "x", "64X", "-1", "5G", "4294967297"};

START_TEST(rooms_that_are_none)
{
    struct arguments arguments;

    ck_assert_int_eq(take(&arguments, "a", "b", "c", bad_rooms[_i]), EXIT_USAGE);
    arguments_fini(&arguments);
}
END_TEST

/* ---- results ---- */

static const struct {
    size_t len;
    bool file; /* the bytes are in one */
    int flags; /* of standard output: the kernel does not copy to a file that is appended to */
} outputs[] = {
    {0, true, 0},
    {5, false, 0},
    {5, true, 0},
    {sizeof(data), true, 0},
    {sizeof(data), true, O_APPEND},
    {sizeof(data), false, O_APPEND},
};

START_TEST(results_to_files)
{
    struct hl_value value = {.type = HL_TYPE_BYTES, .bytes = {data, outputs[_i].len}};
    int from = outputs[_i].file ? fake_memfd(data, sizeof(data), F_SEAL_WRITE) : -1;
    char *path = a_file(0);
    int to = open(path, O_RDWR | O_CLOEXEC | outputs[_i].flags);
    int kept = dup(STDOUT_FILENO);
    char *back;

    fflush(stdout);
    ck_assert_int_eq(dup2(to, STDOUT_FILENO), STDOUT_FILENO);
    printf("before ");
    ck_assert_int_eq(value_print(&value, from, false), 0);
    fflush(stdout);
    dup2(kept, STDOUT_FILENO);
    ck_assert_int_eq(lseek(to, 0, SEEK_END), (off_t)(7 + outputs[_i].len));
    back = malloc(7 + outputs[_i].len);
    ck_assert_int_eq(pread(to, back, 7 + outputs[_i].len, 0), (ssize_t)(7 + outputs[_i].len));
    ck_assert(memcmp(back, "before ", 7) == 0 && memcmp(back + 7, data, outputs[_i].len) == 0);
    free(back);
    if (from >= 0)
        close(from);
    close(kept);
    close(to);
    remove_file(path);
}
END_TEST

#define COUNT(array) ((int)(sizeof(array) / sizeof((array)[0])))

int main(void)
{
    TCase *tc = tcase_create("hlctl, input");

    tcase_set_timeout(tc, 60);
    tcase_add_checked_fixture(tc, fill_data, NULL);
    tcase_add_loop_test(tc, files_and_pipes, 0, COUNT(inputs));
    tcase_add_test(tc, file_from_where_it_stands);
    tcase_add_test(tc, command_lines);
    tcase_add_loop_test(tc, standard_input, 0, 2);
    tcase_add_loop_test(tc, rooms_that_are_none, 0, COUNT(bad_rooms));
    tcase_add_loop_test(tc, results_to_files, 0, COUNT(outputs));
    return tests_run(tc, "hlctl, input");
}
