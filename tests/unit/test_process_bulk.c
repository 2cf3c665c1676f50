/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The process backend's bulk window: files where they should be and nowhere else, for one call; and
 * guests that take the descriptors themselves, with what they can do with them then.
 */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "hv/process_socket.h"
#include "hv/timer.h"
#include "tests/unit/process_rig.h"

#define BULK HL_ABI_BULK_ADDR
#define UNIT HL_ABI_BULK_UNIT
#define GIB  (1ull << 30)

#define SEALS (F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)

/* Of size bytes, with these in front and at the end. */
static int file_of(uint64_t size, uint8_t first, uint8_t last)
{
    int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);

    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(ftruncate(fd, (off_t)size), 0);
    ck_assert_int_eq(pwrite(fd, &last, 1, (off_t)size - 1), 1);
    ck_assert_int_eq(pwrite(fd, &first, 1, 0), 1);
    ck_assert_int_eq(fcntl(fd, F_ADD_SEALS, SEALS), 0);
    return fd;
}

/* Up to where the guest asks for an address. */
static struct hv_machine *asking(void (*guest)(void))
{
    struct hv_machine *m = machine_of(guest);
    struct hv_exit exit = run(m);

    ck_assert_int_eq(exit.kind, HV_EXIT_HYPERCALL);
    ck_assert_uint_eq(exit.nr, 1);
    return m;
}

static void assert_reads(struct hv_machine *m, uint64_t at, uint8_t value)
{
    struct hv_exit exit;

    hv->set_return(m, at);
    exit = run(m);
    ck_assert_int_eq(exit.kind, HV_EXIT_HYPERCALL);
    ck_assert_uint_eq(exit.nr, 2);
    ck_assert_uint_eq(exit.args[0], value);
}

static void assert_faults(struct hv_machine *m, uint64_t at, uint32_t error_code)
{
    struct hv_exit exit;

    hv->set_return(m, at);
    exit = run(m);
    ck_assert_int_eq(exit.kind, HV_EXIT_FAULT);
    ck_assert_uint_eq(exit.fault.vector, 14);
    ck_assert_msg(exit.fault.error_code == error_code, "0x%x", exit.fault.error_code);
    ck_assert_uint_eq(exit.fault.address, at);
    ck_assert_int_eq(hv->attach(m, BULK + 8 * UNIT, 0, 1), -EINVAL); /* nothing for the dead */
}

START_TEST(test_bytes)
{
    struct hv_machine *m = asking(guest_read_at);
    int fd = file_of(2 * PAGE + 100, 11, 22);

    ck_assert_int_eq(hv->attach(m, BULK, fd, 2 * PAGE + 100), 0);
    close(fd); /* was borrowed */
    assert_reads(m, BULK, 11);
    assert_reads(m, BULK + PAGE, 0);
    assert_reads(m, BULK + 2 * PAGE + 99, 22);
    assert_reads(m, BULK + 2 * PAGE + 100, 0);
    assert_reads(m, BULK + 3 * PAGE - 1, 0);
    assert_faults(m, BULK + 3 * PAGE, 4);
    hv->machine_free(m);
}
END_TEST

/* Of a longer file its beginning alone, by pages. */
START_TEST(test_part)
{
    struct hv_machine *m = asking(guest_read_at);
    int fd = file_of(2 * PAGE, 11, 22);

    ck_assert_int_eq(hv->attach(m, BULK, fd, 1), 0);
    assert_reads(m, BULK, 11);
    assert_faults(m, BULK + PAGE, 4);
    close(fd);
    hv->machine_free(m);
}
END_TEST

/* As many as a call can have, told before the guest runs at all and read in any order. */
START_TEST(test_many)
{
    struct hv_machine *m = machine_of(guest_read_at);
    int fds[PROCESS_BULK_MAX];

    for (unsigned int i = 0; i < PROCESS_BULK_MAX; i++) {
        fds[i] = file_of(PAGE, (uint8_t)i, 0);
        ck_assert_int_eq(hv->attach(m, BULK + 3 * i * UNIT, fds[i], PAGE), 0);
    }
    ck_assert_int_eq(hv->attach(m, BULK + 1024 * UNIT, fds[0], PAGE), -ENOBUFS);
    run(m);
    for (unsigned int i = PROCESS_BULK_MAX; i-- > 0;)
        assert_reads(m, BULK + 3 * i * UNIT, (uint8_t)i);
    assert_faults(m, BULK + UNIT, 4); /* between two */
    for (unsigned int i = 0; i < PROCESS_BULK_MAX; i++)
        close(fds[i]);
    hv->machine_free(m);
}
END_TEST

START_TEST(test_refused)
{
    struct hv_machine *m = asking(guest_read_at);
    const uint64_t end = BULK + HL_ABI_BULK_SIZE;
    int fd = file_of(4 * UNIT, 11, 22);
    struct hv_exit exit;

    ck_assert_int_eq(hv->attach(m, BULK, fd, 0), -EINVAL);
    ck_assert_int_eq(hv->attach(m, 0, fd, PAGE), -EINVAL);
    ck_assert_int_eq(hv->attach(m, TEST_DATA, fd, PAGE), -EINVAL);
    ck_assert_int_eq(hv->attach(m, BULK - UNIT, fd, 2 * UNIT), -EINVAL);
    ck_assert_int_eq(hv->attach(m, BULK + PAGE, fd, PAGE), -EINVAL);
    ck_assert_int_eq(hv->attach(m, end, fd, PAGE), -EINVAL);
    ck_assert_int_eq(hv->attach(m, end - UNIT, fd, UNIT + 1), -EINVAL);
    ck_assert_int_eq(hv->attach(m, BULK, fd, HL_ABI_BULK_SIZE + 1), -EINVAL);
    ck_assert_int_eq(hv->attach(m, BULK, fd, UINT64_MAX), -EINVAL);
    ck_assert_int_eq(hv->attach(m, BULK + UNIT, 999, PAGE), -EBADF);
    ck_assert_int_eq(hv->attach(m, BULK + UNIT, fd, UNIT + 1), 0);
    ck_assert_int_eq(hv->attach(m, BULK, fd, PAGE), -EINVAL);
    ck_assert_int_eq(hv->attach(m, BULK + UNIT, fd, PAGE), -EINVAL);
    ck_assert_int_eq(hv->attach(m, BULK + 2 * UNIT, fd, PAGE), -EINVAL);
    ck_assert_int_eq(hv->attach(m, end - UNIT, fd, UNIT), 0);
    /* None of this did it any harm. */
    assert_reads(m, BULK + UNIT, 11);
    assert_reads(m, end - UNIT, 11);
    assert_reads(m, end - 1, 0);
    assert_faults(m, BULK, 4);
    hv->machine_free(m);

    /* While it runs. */
    m = machine_of(guest_spin);
    ck_assert_int_eq(hv->run(m, hv_now_ns(), &exit), 0);
    ck_assert_int_eq(hv->attach(m, BULK, fd, PAGE), -EINVAL);
    hv->machine_free(m);
    close(fd);
}
END_TEST

START_TEST(test_read_only)
{
    struct hv_machine *m = asking(guest_write_at);
    int fd = file_of(PAGE, 0xc3, 22); /* ret */
    uint8_t byte;

    ck_assert_int_eq(hv->attach(m, BULK, fd, PAGE), 0);
    assert_faults(m, BULK, 7);
    hv->machine_free(m);
    m = asking(guest_jump_to);
    ck_assert_int_eq(hv->attach(m, BULK, fd, PAGE), 0);
    assert_faults(m, BULK, 0x15);
    hv->machine_free(m);
    m = asking(guest_jump_to);
    assert_faults(m, BULK, 0x14);
    hv->machine_free(m);
    ck_assert_int_eq(pread(fd, &byte, 1, 0), 1);
    ck_assert_uint_eq(byte, 0xc3);
    close(fd);
}
END_TEST

static void assert_rests(const struct hv_machine *m)
{
    char path[64], target[64];

    snprintf(path, sizeof(path), "/proc/%d/fd/0", pid_of(m));
    if (readlink(path, target, sizeof(target)) > 0) { /* as root alone */
        path[strlen(path) - 1] = '1';
        ck_assert_int_eq(readlink(path, target, sizeof(target)), -1);
        ck_assert_int_eq(errno, ENOENT);
    }
}

/* The same process goes on without what it had, and with something else in its place. */
START_TEST(test_rewind)
{
    struct hv_machine *m = machine_of(guest_read_at);
    int fd = file_of(PAGE, 11, 22), other = file_of(PAGE, 33, 44);
    pid_t pid = pid_of(m);
    struct hv_exit exit;

    for (int i = 0; i < 100; i++) {
        ck_assert_int_eq(hv->attach(m, BULK, i % 2 ? fd : other, PAGE), 0);
        ck_assert_int_eq(hv->attach(m, BULK + UNIT, i % 2 ? other : fd, PAGE), 0);
        if (i % 5 < 3) {
            run(m);
            assert_rests(m);
            assert_reads(m, BULK, i % 2 ? 11 : 33);
            assert_reads(m, BULK + UNIT, i % 2 ? 33 : 11);
        }
        ck_assert_int_eq(hv->rewind(m), 0);
    }
    ck_assert_int_eq(pid_of(m), pid);
    ck_assert_int_eq(hv->attach(m, BULK, fd, PAGE), 0);
    run(m);
    assert_reads(m, BULK, 11);
    ck_assert_int_eq(hv->rewind(m), 0);
    exit = run(m);
    ck_assert_int_eq(exit.kind, HV_EXIT_HYPERCALL);
    assert_faults(m, BULK, 4);
    hv->machine_free(m);
    close(fd);
    close(other);
}
END_TEST

START_TEST(test_reset)
{
    struct hl_error err = HL_ERROR_INIT;
    struct hv_machine *m = machine_of(guest_read_at);
    const unsigned int skips[] = {0, HV_SKIP_MEMORY, 0};
    int fd = file_of(PAGE, 11, 22);
    uint64_t pages;

    for (int i = 0; i < 3; i++) {
        run(m);
        ck_assert_int_eq(hv->attach(m, BULK, fd, PAGE), 0);
        assert_reads(m, BULK, 11);
        ck_assert_int_eq(hv->reset(m, skips[i], &pages), 0);
        if (skips[i] == 0)
            ck_assert_msg(hv->audit(m, &err) == 0, "%s", err.text);
        ck_assert_int_eq(hv->attach(m, BULK + UNIT, fd, PAGE), 0);
        run(m);
        assert_reads(m, BULK + UNIT, 11);
        assert_faults(m, BULK, 4);
        ck_assert_int_eq(hv->bind(m, m->snap, NULL), 0);
        run(m);
        assert_faults(m, BULK + UNIT, 4);
        ck_assert_int_eq(hv->bind(m, m->snap, NULL), 0);
    }
    close(fd);
    hv->machine_free(m);
}
END_TEST

/* The window full, and a byte of each end of what nobody copied. */
START_TEST(test_large)
{
    struct hv_machine *m = asking(guest_read_at);
    int fd = file_of(GIB, 11, 22);

    for (uint64_t i = 0; i < 4; i++)
        ck_assert_int_eq(hv->attach(m, BULK + i * GIB, fd, GIB), 0);
    for (uint64_t i = 0; i < 4; i++) {
        assert_reads(m, BULK + i * GIB, 11);
        assert_reads(m, BULK + (i + 1) * GIB - 1, 22);
    }
    close(fd);
    hv->machine_free(m);
}
END_TEST

/* Where the file has no page after all. */
START_TEST(test_no_page)
{
    struct hv_machine *m = asking(guest_read_at);
    int fd = file_of(PAGE, 11, 22);

    ck_assert_int_eq(hv->attach(m, BULK, fd, 2 * PAGE), 0);
    assert_reads(m, BULK, 11);
    assert_faults(m, BULK + PAGE, 5);
    close(fd);
    hv->machine_free(m);
}
END_TEST

static void assert_dies(struct hv_machine *m)
{
    struct hv_exit exit = run(m);

    ck_assert_int_eq(exit.kind, HV_EXIT_FAULT);
    ck_assert_uint_eq(exit.fault.vector, HV_VECTOR_DIED);
    ck_assert_int_eq(hv->bind(m, m->snap, NULL), 0);
}

/* What cannot be mapped, and messages that no worker sends: the guest does not go on. */
START_TEST(test_no_argument)
{
    const struct process_answer detach = {.magic = PROCESS_MAGIC, .kind = PROCESS_ANSWER_DETACH};
    const struct process_answer attach = {
        .magic = PROCESS_MAGIC, .kind = PROCESS_ANSWER_ATTACH, .addr = BULK, .len = PAGE};
    struct hv_machine *m = machine_of(guest_read_at);
    int ends[2], fd = file_of(PAGE, 11, 22), dir = open("/", O_RDONLY | O_CLOEXEC);

    ck_assert_int_eq(hv->attach(m, BULK, dir, PAGE), 0);
    assert_dies(m);
    ck_assert_int_eq(process_socketpair(ends), 0);
    ck_assert_int_eq(hv->attach(m, BULK, ends[0], PAGE), 0);
    assert_dies(m);
    ck_assert_int_eq(process_tell(m, &attach, -1), 0);
    assert_dies(m);
    ck_assert_int_eq(process_tell(m, &detach, fd), 0);
    assert_dies(m);
    ck_assert_int_eq(process_send(m->sock, &attach, sizeof(attach), (const int[]){fd, fd}, 2), 0);
    assert_dies(m);
    ck_assert_int_eq(process_send(m->sock, &attach, sizeof(attach) - 1, &fd, 1), 0);
    assert_dies(m);
    close(ends[0]);
    close(ends[1]);
    close(dir);
    close(fd);
    hv->machine_free(m);
}
END_TEST

/* The result of a call that the filter lets through: rax at the hlt behind it. */
static uint64_t allowed(struct hv_machine *m, uint64_t nr, const uint64_t args[6])
{
    struct hv_exit exit = through_runtime(m, nr, args);
    uint64_t result = m->regs.rax;

    ck_assert_int_eq(exit.kind, HV_EXIT_FAULT);
    ck_assert_uint_eq(exit.fault.vector, 13);
    guest_again(m);
    return result;
}

static void refused(struct hv_machine *m, uint64_t nr, const uint64_t args[6])
{
    struct hv_exit exit = through_runtime(m, nr, args);

    ck_assert_int_eq(exit.kind, HV_EXIT_SYSCALL);
    ck_assert_uint_eq(exit.nr, nr);
    guest_again(m);
}

/* The guest takes the descriptor for itself, as number 1. */
static void take_file(struct hv_machine *m, int fd)
{
    const struct process_answer attach = {.magic = PROCESS_MAGIC, .kind = PROCESS_ANSWER_ATTACH};
    struct hv_exit exit;

    guest_receives(m);
    ck_assert_int_eq(hv->run(m, hv_now_ns() + SECOND / 50, &exit), 0);
    ck_assert_int_eq(exit.kind, HV_EXIT_KICKED);
    ck_assert_int_eq(process_tell(m, &attach, fd), 0);
    exit = run(m);
    ck_assert_int_eq(exit.kind, HV_EXIT_FAULT);
    ck_assert_uint_eq(m->regs.rax, sizeof(attach));
    guest_again(m);
}

static const uint64_t map_page[6] = {BULK, PAGE, PROT_READ, MAP_PRIVATE | MAP_FIXED, 1, 0};
static const uint64_t close_file[6] = {1};

/* It reads its own argument, and can map it into the window and past its end, up to the window's
 * size in all. */
START_TEST(test_taken)
{
    struct hv_machine *m = machine_of(guest_through_runtime);
    const uint64_t last = BULK + HL_ABI_BULK_SIZE - PAGE, rest = HL_ABI_BULK_SIZE - PAGE;
    const uint64_t past[6] = {last, rest, PROT_READ, MAP_PRIVATE | MAP_FIXED, 1, 0};
    const uint64_t more[6] = {BULK + PAGE, PAGE, PROT_READ, MAP_PRIVATE | MAP_FIXED, 1, 0};
    const uint64_t window[6] = {BULK, HL_ABI_BULK_SIZE};
    int fd = file_of(PAGE, 11, 22);

    ck_assert_uint_eq(allowed(m, SYS_mmap, map_page), (uint64_t)-EBADF);
    ck_assert_uint_eq(allowed(m, SYS_close, close_file), (uint64_t)-EBADF);
    ck_assert_uint_eq(allowed(m, SYS_munmap, window), 0);
    take_file(m, fd);
    ck_assert_uint_eq(allowed(m, SYS_mmap, map_page), BULK);
    ck_assert_uint_eq(allowed(m, SYS_mmap, past), last);
    ck_assert_uint_eq(allowed(m, SYS_mmap, more), (uint64_t)-ENOMEM);
    ck_assert_uint_eq(allowed(m, SYS_munmap, window), 0);
    ck_assert_uint_eq(allowed(m, SYS_mmap, more), BULK + PAGE);
    ck_assert_uint_eq(allowed(m, SYS_close, close_file), 0);
    ck_assert_uint_eq(allowed(m, SYS_mmap, more), (uint64_t)-EBADF);
    /* With that put back in order it is as good as any. */
    ck_assert_int_eq(hv->attach(m, BULK, fd, PAGE), 0);
    ck_assert_uint_eq(allowed(m, SYS_mmap, map_page), (uint64_t)-EBADF);
    assert_rests(m);
    close(fd);
    hv->machine_free(m);
}
END_TEST

/* A number that is taken is none for the next file: its handler ends the guest. */
START_TEST(test_kept)
{
    struct hv_machine *m = machine_of(guest_through_runtime);
    int fd = file_of(PAGE, 11, 22), other = file_of(PAGE, 33, 44);

    take_file(m, fd);
    ck_assert_int_eq(hv->attach(m, BULK, other, PAGE), 0);
    assert_dies(m);
    /* Nor if it takes that one by itself as well. */
    take_file(m, fd);
    take_file(m, other);
    ck_assert_uint_eq(allowed(m, SYS_close, close_file), 0);
    ck_assert_uint_eq(allowed(m, SYS_close, close_file), (uint64_t)-EBADF);
    close(fd);
    close(other);
    hv->machine_free(m);
}
END_TEST

/* With a descriptor in hand: nothing else can be asked for. */
START_TEST(test_filter)
{
    struct hv_machine *m = machine_of(guest_through_runtime);
    const uint64_t fixed = MAP_PRIVATE | MAP_FIXED, high = 1ull << 32;
    int fd = file_of(PAGE, 11, 22);

    take_file(m, fd);
    refused(m, SYS_mmap, (const uint64_t[6]){TEST_DATA, PAGE, PROT_READ, fixed, 1, 0});
    refused(m, SYS_mmap, (const uint64_t[6]){PROCESS_TEXT_ADDR, PAGE, PROT_READ, fixed, 1, 0});
    refused(m, SYS_mmap, (const uint64_t[6]){2 * high, PAGE, PROT_READ, fixed, 1, 0});
    refused(m, SYS_mmap, (const uint64_t[6]){BULK, high, PROT_READ, fixed, 1, 0});
    refused(m, SYS_mmap, (const uint64_t[6]){BULK, PAGE, PROT_NONE, fixed, 1, 0});
    refused(m, SYS_mmap, (const uint64_t[6]){BULK, PAGE, PROT_READ | PROT_WRITE, fixed, 1, 0});
    refused(m, SYS_mmap, (const uint64_t[6]){BULK, PAGE, PROT_READ | PROT_EXEC, fixed, 1, 0});
    refused(m, SYS_mmap, (const uint64_t[6]){BULK, PAGE, PROT_READ | high, fixed, 1, 0});
    refused(m, SYS_mmap, (const uint64_t[6]){BULK, PAGE, PROT_READ, MAP_PRIVATE, 1, 0});
    refused(m, SYS_mmap, (const uint64_t[6]){BULK, PAGE, PROT_READ, MAP_SHARED | MAP_FIXED, 1, 0});
    refused(m, SYS_mmap,
            (const uint64_t[6]){BULK, PAGE, PROT_READ, fixed | MAP_ANONYMOUS, (uint64_t)-1, 0});
    refused(m, SYS_mmap, (const uint64_t[6]){BULK, PAGE, PROT_READ, fixed | MAP_ANONYMOUS, 1, 0});
    refused(m, SYS_mmap, (const uint64_t[6]){BULK, PAGE, PROT_READ, fixed | MAP_POPULATE, 1, 0});
    refused(m, SYS_mmap, (const uint64_t[6]){BULK, PAGE, PROT_READ, fixed | high, 1, 0});
    refused(m, SYS_mmap, (const uint64_t[6]){BULK, PAGE, PROT_READ, fixed, 0, 0});
    refused(m, SYS_mmap, (const uint64_t[6]){BULK, PAGE, PROT_READ, fixed, 2, 0});
    refused(m, SYS_mmap, (const uint64_t[6]){BULK, PAGE, PROT_READ, fixed, 1, PAGE});
    refused(m, SYS_mmap, (const uint64_t[6]){BULK, PAGE, PROT_READ, fixed, 1, high});
    ck_assert_uint_eq(allowed(m, SYS_mmap, map_page), BULK);
    refused(m, SYS_mprotect, (const uint64_t[6]){BULK, PAGE, PROT_READ | PROT_WRITE});
    refused(m, SYS_munmap, (const uint64_t[6]){TEST_DATA, PAGE});
    refused(m, SYS_munmap, (const uint64_t[6]){BULK, PAGE});
    refused(m, SYS_munmap, (const uint64_t[6]){0, HL_ABI_BULK_SIZE});
    refused(m, SYS_munmap, (const uint64_t[6]){BULK, 2 * HL_ABI_BULK_SIZE});
    refused(m, SYS_munmap, (const uint64_t[6]){BULK + PAGE, HL_ABI_BULK_SIZE});
    refused(m, SYS_close, (const uint64_t[6]){0});
    refused(m, SYS_close, (const uint64_t[6]){2});
    refused(m, SYS_read, (const uint64_t[6]){1, HL_ABI_IO_ADDR, 1});
    refused(m, SYS_pwrite64, (const uint64_t[6]){1, HL_ABI_IO_ADDR, 1});
    refused(m, SYS_fcntl, (const uint64_t[6]){1, F_GETFD});
    refused(m, SYS_dup, (const uint64_t[6]){1});
    refused(m, SYS_sendmsg, (const uint64_t[6]){0, HL_ABI_IO_ADDR + PAGE, MSG_NOSIGNAL});
    close(fd);
    hv->machine_free(m);
}
END_TEST

/* A guest that reads nothing is sent a call's files, but not those of call after call. */
START_TEST(test_unread)
{
    struct hv_machine *m = asking(guest_read_at);
    int rc = 0, fd = file_of(PAGE, 11, 22);
    unsigned int count = 0;

    ck_assert_int_eq(kill(pid_of(m), SIGSTOP), 0);
    ck_assert_int_eq(hv->attach(m, BULK, fd, PAGE), 0);
    ck_assert_int_eq(hv->rewind(m), 0);
    for (uint64_t i = 0; i < PROCESS_BULK_MAX; i++)
        ck_assert_int_eq(hv->attach(m, BULK + i * UNIT, fd, PAGE), 0);
    ck_assert_int_eq(hv->rewind(m), 0);
    while (rc == 0 && count < 1000) {
        rc = hv->attach(m, BULK, fd, PAGE);
        if (rc == 0)
            count++;
        ck_assert_int_eq(hv->rewind(m), 0);
    }
    ck_assert_int_eq(rc, -ENOBUFS);
    ck_assert_uint_le(count, PROCESS_BULK_MAX);
    ck_assert_int_eq(kill(pid_of(m), SIGCONT), 0);
    for (int i = 0; i < 500 && rc == -ENOBUFS; i++) {
        usleep(10000);
        rc = hv->attach(m, BULK, fd, PAGE);
    }
    ck_assert_int_eq(rc, 0);
    run(m);
    assert_reads(m, BULK, 11);
    close(fd);
    hv->machine_free(m);
}
END_TEST

/* Prints, and asserts nothing about, what it costs: the telling, and a call that reads a byte. */
START_TEST(test_cost)
{
    static const uint64_t sizes[] = {0, PAGE, GIB};
    struct hv_machine *m = machine_of(guest_read_at);

    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        int fd = file_of(sizes[i] > 0 ? sizes[i] : PAGE, 11, 22);
        uint64_t told = UINT64_MAX, call = UINT64_MAX, end = UINT64_MAX;

        for (int j = 0; j < 1000; j++) {
            uint64_t start = hv_now_ns(), took;

            if (sizes[i] > 0)
                ck_assert_int_eq(hv->attach(m, BULK, fd, sizes[i]), 0);
            took = hv_now_ns() - start;
            told = took < told ? took : told;
            run(m);
            assert_reads(m, sizes[i] > 0 ? BULK : TEST_DATA, sizes[i] > 0 ? 11 : 'i');
            took = hv_now_ns() - start;
            call = took < call ? took : call;
            start = hv_now_ns();
            ck_assert_int_eq(hv->rewind(m), 0);
            took = hv_now_ns() - start;
            end = took < end ? took : end;
        }
        printf(
            "file of %lu KiB: told in %lu.%lu us, with two exits %lu.%lu us, rewind %lu.%lu us\n",
            sizes[i] / 1024, told / 1000, told / 100 % 10, call / 1000, call / 100 % 10, end / 1000,
            end / 100 % 10);
        close(fd);
    }
    hv->machine_free(m);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("process-bulk");
    TCase *tc = tcase_create("bulk");

    tcase_add_checked_fixture(tc, rig_setup, rig_teardown);
    tcase_set_timeout(tc, 120);
    tcase_add_test(tc, test_bytes);
    tcase_add_test(tc, test_part);
    tcase_add_test(tc, test_many);
    tcase_add_test(tc, test_refused);
    tcase_add_test(tc, test_read_only);
    tcase_add_test(tc, test_rewind);
    tcase_add_test(tc, test_reset);
    tcase_add_test(tc, test_large);
    tcase_add_test(tc, test_no_page);
    tcase_add_test(tc, test_no_argument);
    tcase_add_test(tc, test_taken);
    tcase_add_test(tc, test_kept);
    tcase_add_test(tc, test_filter);
    tcase_add_test(tc, test_unread);
    tcase_add_test(tc, test_cost);
    suite_add_tcase(s, tc);
    return s;
}

int main(int argc, char **argv)
{
    return rig_main(argc, argv, suite());
}
