/* SPDX-License-Identifier: Apache-2.0 */
/* Calls whose arguments or results are in files: mapped, copied, refused; results that go out in
 * pieces; and what is left when something fails on the way. */
#include "config.h"

#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "guest/hl_abi.h"
#include "hv/call.h"
#include "hv/instance.h"
#include "hv/timer.h"
#include "tests/fake/elf.h"
#include "tests/fake/fake.h"
#include "tests/unit/tests_run.h"

#define MEMORY (16u << 20)
#define IO     (2u << 20)
#define LARGE  (CALL_COPY_MOST + 1u)

static struct hv_host *host;
static struct image *img;
static struct snapshot *snap;
static struct instance *inst;
static uint8_t *elf;

static void setup(void)
{
    const struct hv_host_config config = {.kvm_fd = -1, .nursery_fd = -1};
    const struct snapshot_options options = {
        .memory_size = MEMORY, .io_size = IO, .deadline_ns = UINT64_MAX, .name = "fake"};
    struct shell *shell;
    size_t len;

    fake_clear();
    elf = fake_elf_new(&len);
    ck_assert_int_eq(image_new(&img, elf, len, NULL), 0);
    ck_assert_int_eq(hv_backend_fake.host_open(&host, &config, NULL), 0);
    ck_assert_int_eq(snapshot_build(&snap, &hv_backend_fake, host, img, &options, NULL), 0);
    ck_assert_int_eq(shell_new(&shell, &hv_backend_fake, host, MEMORY, NULL), 0);
    ck_assert_int_eq(instance_bind(&inst, shell, snap, img, NULL), 0);
}

static void teardown(void)
{
    instance_free(inst);
    ck_assert_int_eq(fake_machines(), 0);
    snapshot_unref(snap);
    hv_backend_fake.host_close(host);
    image_free(img);
    free(elf);
}

/* A file of len bytes, the last of which is 7. */
static struct hl_value file_of(size_t len)
{
    int fd = memfd_create("test", MFD_CLOEXEC);

    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(ftruncate(fd, (off_t)len), 0);
    if (len > 0)
        ck_assert_int_eq(pwrite(fd, "\007", 1, (off_t)len - 1), 1);
    return (struct hl_value){.type = HL_TYPE_DESCRIPTOR, .descriptor = {len, fd}};
}

static int begin_at(struct hl_value file, uint64_t i, struct hl_error *err)
{
    const struct hl_value args[] = {file, {.type = HL_TYPE_U64, .u64 = i}};
    int r = instance_begin(inst, (size_t)image_find_function(img, "at", 2), args, 2, err);

    close(file.descriptor.fd);
    return r;
}

static void reset(void)
{
    struct hl_error err = HL_ERROR_INIT;
    uint64_t pages;

    ck_assert_msg(instance_reset(inst, true, &pages, &err) == 0, "%s", err.text);
}

static void expect_last_byte(size_t len)
{
    struct instance_result result;
    struct hl_error err = HL_ERROR_INIT;

    ck_assert_msg(begin_at(file_of(len), len - 1, &err) == 0, "%s", err.text);
    ck_assert_int_eq(instance_run(inst, UINT64_MAX), INSTANCE_DONE);
    ck_assert_int_eq(instance_result(inst, &result, &err), 0);
    ck_assert_uint_eq(result.value.u32, 7);
    reset();
}

START_TEST(test_arguments)
{
    expect_last_byte(1);
    expect_last_byte(CALL_COPY_MOST);
    ck_assert_uint_eq(fake_count(FAKE_ATTACH), 0);
    expect_last_byte(LARGE);
    expect_last_byte(2 * IO); /* more than the window */
    ck_assert_uint_eq(fake_count(FAKE_ATTACH), 2);
}
END_TEST

START_TEST(test_no_bulk_window)
{
    const int codes[] = {-EOPNOTSUPP, -ENOBUFS};
    struct hl_error err = HL_ERROR_INIT;

    for (int i = 0; i < 2; i++) {
        fake_fail(FAKE_ATTACH, 1, codes[i]);
        expect_last_byte(LARGE);
        fake_fail(FAKE_ATTACH, 1, codes[i]);
        ck_assert_int_eq(begin_at(file_of(2 * IO), 0, &err), -EMSGSIZE);
        ck_assert_ptr_nonnull(strstr(err.text, "2097152"));
        expect_last_byte(LARGE); /* nothing was lost by it */
    }
}
END_TEST

START_TEST(test_attach_fails)
{
    struct hl_error err = HL_ERROR_INIT;
    uint64_t pages;

    fake_fail(FAKE_ATTACH, 1, -EIO);
    ck_assert_int_eq(begin_at(file_of(LARGE), 0, &err), -EIO);
    ck_assert_int_eq(instance_begin(inst, 0, NULL, 0, &err), -EBUSY);
    ck_assert_int_eq(instance_reset(inst, false, &pages, &err), 1);
}
END_TEST

/* Its value says more than it has: the owner of the value was to check. */
START_TEST(test_short_file)
{
    struct hl_value file = file_of(100);
    struct hl_error err = HL_ERROR_INIT;
    uint64_t pages;

    file.descriptor.len = 101;
    ck_assert_int_eq(begin_at(file, 0, &err), -EIO);
    ck_assert_int_eq(instance_reset(inst, false, &pages, &err), 1);
}
END_TEST

START_TEST(test_wrong_types)
{
    struct hl_value file = file_of(10);
    struct hl_error err = HL_ERROR_INIT;
    int function = image_find_function(img, "echo_string", 11);

    ck_assert_int_eq(instance_begin(inst, (size_t)function, &file, 1, &err), -EINVAL);
    ck_assert_msg(strstr(err.text, "must be string, not bytes") != NULL, "%s", err.text);
    ck_assert_int_eq(instance_check_args(img, (size_t)function, snap, &file, 1, &err), -EINVAL);
    close(file.descriptor.fd);
}
END_TEST

static void begin_big(uint32_t n, void *to, size_t room)
{
    const struct hl_value arg = {.type = HL_TYPE_U32, .u32 = n};

    instance_result_into(inst, to, room);
    ck_assert_int_eq(
        instance_begin(inst, (size_t)image_find_function(img, "big", 3), &arg, 1, NULL), 0);
}

START_TEST(test_result_in_pieces)
{
    size_t room = IO - 8192;
    char *to = calloc(1, room + 1);
    struct instance_result result;
    enum instance_state state;
    int kicks = 0;

    begin_big((uint32_t)room, to, room);
    while ((state = instance_run(inst, hv_now_ns())) == INSTANCE_KICKED)
        kicks++;
    ck_assert_int_eq(state, INSTANCE_DONE);
    ck_assert_int_ge(kicks, 1);
    ck_assert_int_eq(instance_result(inst, &result, NULL), 0);
    ck_assert_int_eq(result.value.type, HL_TYPE_DESCRIPTOR);
    ck_assert_uint_eq(result.value.descriptor.len, room);
    for (size_t i = 0; i < room; i++)
        ck_assert_int_eq(to[i], 'x');
    ck_assert_int_eq(to[room], '\0');
    reset();

    /* Stopped in the middle, it is not used again. */
    begin_big((uint32_t)room, to, room);
    ck_assert_int_eq(instance_run(inst, 0), INSTANCE_KICKED);
    ck_assert_int_eq(instance_reset(inst, false, &(uint64_t){0}, NULL), 1);
    free(to);
}
END_TEST

START_TEST(test_result_room)
{
    char to[64] = "";
    struct instance_result result;
    struct hl_error err = HL_ERROR_INIT;

    begin_big(65, to, 64);
    ck_assert_int_eq(instance_run(inst, UINT64_MAX), INSTANCE_DONE);
    ck_assert_int_eq(instance_result(inst, &result, &err), -EMSGSIZE);
    ck_assert_ptr_nonnull(strstr(err.text, "65 bytes"));
    ck_assert_ptr_nonnull(strstr(err.text, "64"));
    ck_assert_int_eq(to[0], '\0');
    reset();
    begin_big(0, to, 64);
    ck_assert_int_eq(instance_run(inst, UINT64_MAX), INSTANCE_DONE);
    ck_assert_int_eq(instance_result(inst, &result, &err), 0);
    ck_assert_uint_eq(result.value.descriptor.len, 0);
    reset();
    expect_last_byte(10); /* the next call has no such room, and other results none at all */
}
END_TEST

/* What the guest tells of its result when it gets to run. */
static struct hl_abi_result told;

static int tell(struct hv_machine *m, uint64_t until_ns, struct hv_exit *exit, void *opaque)
{
    struct hl_abi_call call;

    (void)until_ns;
    (void)opaque;
    memcpy(&call, fake_memory(m) + HL_ABI_IO_ADDR, sizeof(call));
    ck_assert(call.flags & HL_ABI_CALL_LARGE);
    fake_write(m, HL_ABI_IO_ADDR + 64, &told, sizeof(told));
    fake_write(m, 0x900000, "behind the window", 17);
    return fake_exit_hypercall(exit, HL_HYPERCALL_DONE, 64, 0, 0);
}

static enum instance_state run_telling(uint64_t addr, uint32_t len, void *to, size_t room)
{
    told = (struct hl_abi_result){
        .magic = HL_ABI_RESULT_MAGIC,
        .value = {.type = HL_ABI_BYTES, .len = len, .bits = addr - HL_ABI_IO_ADDR},
    };
    fake_set_run(tell, NULL);
    begin_big(1, to, room);
    return instance_run(inst, UINT64_MAX);
}

START_TEST(test_result_behind_the_window)
{
    char to[64];
    struct instance_result result;

    ck_assert_int_eq(run_telling(0x900000, 17, to, sizeof(to)), INSTANCE_DONE);
    ck_assert_int_eq(instance_result(inst, &result, NULL), 0);
    ck_assert_uint_eq(result.value.descriptor.len, 17);
    ck_assert_int_eq(memcmp(to, "behind the window", 17), 0);
    reset();
    fake_set_run(NULL, NULL);
}
END_TEST

/* A broken result is that, wherever it was to go. */
START_TEST(test_result_broken)
{
    static const struct {
        uint64_t addr;
        uint32_t len;
    } bad[] = {
        {MEMORY - 16, 17},
        {MEMORY, 1},
        {0x1000, 1},
        {HL_ABI_HYPERCALL_ADDR, 8},
        {0, 8},
        {UINT64_MAX, 1},
        {1ull << 63, 1},
        {HL_ABI_BULK_ADDR, 8},
        {HL_ABI_IO_ADDR + 8, UINT32_MAX},
    };
    char to[64];

    ck_assert_int_eq(run_telling(bad[_i].addr, bad[_i].len, to, sizeof(to)), INSTANCE_FAULT);
    ck_assert_int_eq(instance_failure(inst)->end, INSTANCE_END_PROTOCOL);
    fake_set_run(NULL, NULL);
}
END_TEST

int main(void)
{
    TCase *tc = tcase_create("instance_files");

    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, test_arguments);
    tcase_add_test(tc, test_no_bulk_window);
    tcase_add_test(tc, test_attach_fails);
    tcase_add_test(tc, test_short_file);
    tcase_add_test(tc, test_wrong_types);
    tcase_add_test(tc, test_result_in_pieces);
    tcase_add_test(tc, test_result_room);
    tcase_add_test(tc, test_result_behind_the_window);
    tcase_add_loop_test(tc, test_result_broken, 0, 9);
    return tests_run(tc, "instance_files");
}
