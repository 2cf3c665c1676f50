/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The Linux subset on a fake machine: what each call answers, that pointers obey the guest's own
 * permissions, that memory handed out again is zero, and that nothing makes memory executable.
 */
#include "config.h"

#include <asm/prctl.h>
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/uio.h>
#include <time.h>

#include "hv/guest.h"
#include "hv/snapshot_internal.h"
#include "hv/timer.h"
#include "tests/fake/elf.h"
#include "tests/fake/fake.h"
#include "tests/unit/tests_run.h"

#define PAGE   ((uint64_t)HL_ABI_PAGE_SIZE)
#define MEMORY (16ull << 20)
#define RW     (PROT_READ | PROT_WRITE)
#define ANON   (MAP_PRIVATE | MAP_ANONYMOUS)

static uint8_t *file;
static struct image *img;
static struct hv_host *host;
static struct snapshot *snap;
static struct hv_machine *m;
static struct guest g;
static const struct linux_state *at;
static hl_gpa scratch; /* a writable page of the program's bss */
static char logged[8192];
static int last_level;

static void on_log(void *opaque, int level, const char *text, size_t len)
{
    (void)opaque;
    last_level = level;
    strncat(logged, "[", sizeof(logged) - strlen(logged) - 1);
    if (len < sizeof(logged) - strlen(logged) - 1)
        strncat(logged, text, len);
    strncat(logged, "]", sizeof(logged) - strlen(logged) - 1);
}

static void start(bool starting)
{
    guest_fini(&g);
    ck_assert_int_eq(hv_backend_fake.bind(m, snap, NULL), 0);
    guest_init(&g, &hv_backend_fake, m, snap, img, starting);
    g.log = on_log;
    logged[0] = '\0';
}

static void setup(void)
{
    const struct hv_host_config config = {.kvm_fd = -1, .nursery_fd = -1};
    const struct snapshot_options options = {
        .memory_size = MEMORY, .io_size = HL_ABI_IO_SIZE, .name = "t"};
    size_t len;

    fake_clear();
    file = fake_elf_new(&len);
    ck_assert_int_eq(image_new(&img, file, len, NULL), 0);
    ck_assert_int_eq(hv_backend_fake.host_open(&host, &config, NULL), 0);
    ck_assert_int_eq(snapshot_load(&snap, &hv_backend_fake, host, img, &options, NULL), 0);
    ck_assert_int_eq(hv_backend_fake.machine_new(&m, host, MEMORY, NULL), 0);
    at = snapshot_linux(snap);
    scratch = at->brk_start - PAGE;
    start(false);
}

static void teardown(void)
{
    guest_fini(&g);
    memset(&g, 0, sizeof(g));
    hv_backend_fake.machine_free(m);
    snapshot_unref(snap);
    hv_backend_fake.host_close(host);
    image_free(img);
    free(file);
}

/* A call as the guest makes it, up to the point where it would go on. */
#define CALL(nr, ...) call(nr, (const uint64_t[6]){__VA_ARGS__})
static int64_t call(uint64_t nr, const uint64_t args[6])
{
    int64_t result = guest_syscall(&g, nr, args);
    int rc;

    do {
        rc = space_settle(&g.space, 0);
    } while (rc > 0);
    ck_assert_int_eq(rc, 0);
    return result;
}

static hl_gpa map(uint64_t len)
{
    int64_t addr = CALL(SYS_mmap, 0, len, RW, ANON, -1ull, 0);

    ck_assert_int_gt(addr, 0);
    return (hl_gpa)addr;
}

static bool is_zero(hl_gpa start_at, uint64_t len)
{
    for (uint64_t i = 0; i < len; i++) {
        if (fake_memory(m)[start_at + i] != 0)
            return false;
    }
    return true;
}

START_TEST(heap_grows_and_shrinks)
{
    hl_gpa heap = at->brk_start;

    ck_assert_int_eq(CALL(SYS_brk, 0), (int64_t)heap);
    ck_assert_int_eq(CALL(SYS_brk, heap + 5000), (int64_t)heap + 5000);
    ck_assert_int_eq(CALL(SYS_brk, heap - 1), (int64_t)heap + 5000);
    ck_assert_int_eq(CALL(SYS_brk, at->map_top + 1), (int64_t)heap + 5000);
    ck_assert_int_eq(CALL(SYS_brk, UINT64_MAX), (int64_t)heap + 5000);
    fake_write(m, heap, "kept", 4);
    fake_write(m, heap + PAGE, "lost", 4);
    ck_assert_int_eq(CALL(SYS_brk, heap + 100), (int64_t)heap + 100);
    ck_assert_int_eq(CALL(SYS_brk, heap + 2 * PAGE), (int64_t)(heap + 2 * PAGE));
    ck_assert_int_eq(memcmp(fake_memory(m) + heap, "kept", 4), 0);
    ck_assert(is_zero(heap + PAGE, PAGE));
    /* All of it was there before: no table was edited. */
    ck_assert_uint_eq(fake_count(FAKE_PROTECT), 0);
}
END_TEST

START_TEST(heap_and_mappings_share)
{
    hl_gpa a = map(PAGE), top = at->map_top;

    ck_assert_uint_eq(a, top - PAGE);
    ck_assert_int_eq(CALL(SYS_brk, top), (int64_t)at->brk_start);
    ck_assert_int_eq(CALL(SYS_brk, a), (int64_t)a);
    ck_assert_int_eq(CALL(SYS_mmap, 0, PAGE, RW, ANON, -1ull, 0), -ENOMEM);
    ck_assert_int_eq(CALL(SYS_munmap, a, PAGE), 0);
    ck_assert_int_eq(CALL(SYS_brk, top), (int64_t)top);
    ck_assert_int_eq(CALL(SYS_brk, at->brk_start), (int64_t)at->brk_start);
    ck_assert_uint_eq(map(top - at->brk_start), at->brk_start);
    ck_assert_int_eq(CALL(SYS_brk, at->brk_start + 1), (int64_t)at->brk_start);
}
END_TEST

START_TEST(mappings)
{
    hl_gpa a = map(3 * PAGE), b = map(1);

    ck_assert_uint_eq(a, at->map_top - 3 * PAGE);
    ck_assert_uint_eq(b, a - PAGE);
    fake_write(m, a, "secret", 6);
    fake_write(m, a + PAGE, "secret", 6);
    ck_assert_int_eq(CALL(SYS_munmap, a, 2 * PAGE), 0);
    ck_assert_uint_eq(map(2 * PAGE), a);
    ck_assert(is_zero(a, 2 * PAGE));
    ck_assert_int_eq(CALL(SYS_munmap, a + 1, PAGE), -EINVAL);
    ck_assert_int_eq(CALL(SYS_munmap, a, 0), -EINVAL);
    ck_assert_int_eq(CALL(SYS_munmap, a, UINT64_MAX), -EINVAL);
    ck_assert_int_eq(CALL(SYS_munmap, a, UINT64_MAX & ~(PAGE - 1)), -EINVAL);
    ck_assert_int_eq(CALL(SYS_munmap, at->map_top, PAGE), -EINVAL);
    ck_assert_int_eq(CALL(SYS_munmap, HL_ABI_INFO_ADDR, PAGE), -EINVAL);
    ck_assert_int_eq(CALL(SYS_munmap, 0, PAGE), -EINVAL);
    ck_assert_uint_eq(fake_count(FAKE_PROTECT), 0);
}
END_TEST

START_TEST(mappings_refused)
{
    static const struct {
        uint64_t addr, len, prot, flags;
        int64_t result;
    } cases[] = {
        {0, 0, RW, ANON, -EINVAL},
        {0, PAGE, RW, MAP_PRIVATE, -EBADF},
        {0, PAGE, PROT_READ | PROT_EXEC, ANON, -EACCES},
        {0, PAGE, RW | PROT_EXEC, ANON, -EACCES},
        {0, MEMORY + 1, RW, ANON, -ENOMEM},
        {0, UINT64_MAX, RW, ANON, -ENOMEM},
        {0, MEMORY, RW, ANON, -ENOMEM},
        {0, PAGE, RW, ANON | MAP_HUGETLB, -EINVAL},
        {1, PAGE, RW, ANON | MAP_FIXED, -EINVAL},
        {0, PAGE, RW, ANON | MAP_FIXED, -ENOMEM},
        {HL_ABI_HYPERCALL_ADDR, PAGE, RW, ANON | MAP_FIXED, -ENOMEM},
        {HL_ABI_IO_ADDR, PAGE, RW, ANON | MAP_FIXED, -ENOMEM},
        {FAKE_ELF_BASE, PAGE, RW, ANON | MAP_FIXED, -ENOMEM},
        {MEMORY - PAGE, PAGE, RW, ANON | MAP_FIXED, -ENOMEM},
        {UINT64_MAX & ~(PAGE - 1), 2 * PAGE, RW, ANON | MAP_FIXED, -ENOMEM},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        ck_assert_msg(CALL(SYS_mmap, cases[i].addr, cases[i].len, cases[i].prot, cases[i].flags,
                           -1ull, 0) == cases[i].result,
                      "case %zu", i);
    ck_assert_int_eq(CALL(SYS_mremap, at->map_top - PAGE, PAGE, 2 * PAGE, 1), -ENOMEM);
    ck_assert_uint_eq(g.counters.unknown_syscalls, 0);
}
END_TEST

START_TEST(fixed_mappings)
{
    hl_gpa a = map(4 * PAGE);

    fake_write(m, a, "old", 3);
    ck_assert_int_eq(CALL(SYS_mmap, a, PAGE, RW, ANON | MAP_FIXED_NOREPLACE, -1ull, 0), -EEXIST);
    ck_assert_int_eq(CALL(SYS_mmap, a, PAGE, RW, ANON | MAP_FIXED, -1ull, 0), (int64_t)a);
    ck_assert(is_zero(a, PAGE));
    ck_assert_int_eq(CALL(SYS_mmap, a - 9 * PAGE, PAGE, RW, ANON | MAP_FIXED_NOREPLACE, -1ull, 0),
                     (int64_t)(a - 9 * PAGE));
    ck_assert_uint_eq(map(8 * PAGE), a - 8 * PAGE);
    ck_assert_uint_eq(map(PAGE), a - 10 * PAGE);
    /* musl puts a closed page in its heap that way. */
    ck_assert_int_eq(CALL(SYS_brk, at->brk_start + 2 * PAGE), (int64_t)(at->brk_start + 2 * PAGE));
    fake_write(m, at->brk_start, "old", 3);
    ck_assert_int_eq(CALL(SYS_mmap, at->brk_start, PAGE, PROT_NONE, ANON | MAP_FIXED, -1ull, 0),
                     (int64_t)at->brk_start);
    ck_assert(is_zero(at->brk_start, PAGE));
}
END_TEST

START_TEST(advice)
{
    hl_gpa a = map(2 * PAGE);

    fake_write(m, a, "x", 1);
    fake_write(m, a + PAGE, "y", 1);
    ck_assert_int_eq(CALL(SYS_madvise, a, 2 * PAGE, MADV_FREE), 0);
    ck_assert(!is_zero(a, PAGE));
    ck_assert_int_eq(CALL(SYS_madvise, a, 1, MADV_DONTNEED), 0);
    ck_assert(is_zero(a, PAGE));
    ck_assert(!is_zero(a + PAGE, PAGE));
    ck_assert_int_eq(CALL(SYS_madvise, a + 1, PAGE, MADV_DONTNEED), -EINVAL);
    ck_assert_int_eq(CALL(SYS_madvise, a - PAGE, PAGE, MADV_DONTNEED), -ENOMEM);
    ck_assert_int_eq(CALL(SYS_madvise, HL_ABI_INFO_ADDR, PAGE, MADV_DONTNEED), -ENOMEM);
    ck_assert_int_eq(CALL(SYS_madvise, scratch, PAGE, MADV_DONTNEED), -EINVAL);
    ck_assert_int_eq(CALL(SYS_madvise, a, UINT64_MAX, MADV_DONTNEED), -ENOMEM);
}
END_TEST

START_TEST(zeroing_watches_the_clock)
{
    hl_gpa a = map(8ull << 20);

    for (uint64_t i = 0; i < 8ull << 20; i += PAGE)
        fake_write(m, a + i, "z", 1);
    ck_assert_int_eq(guest_syscall(&g, SYS_madvise, (uint64_t[6]){a, 8ull << 20, MADV_DONTNEED}),
                     0);
    ck_assert_int_eq(space_settle(&g.space, 0), 1);
    ck_assert(!is_zero(a, 8ull << 20));
    ck_assert_int_eq(space_settle(&g.space, UINT64_MAX), 0);
    ck_assert(is_zero(a, 8ull << 20));
}
END_TEST

START_TEST(protection)
{
    hl_gpa a = map(2 * PAGE), text = FAKE_ELF_BASE + 2 * PAGE;

    ck_assert_int_eq(CALL(SYS_mprotect, a, PAGE, RW), 0);
    ck_assert_uint_eq(fake_count(FAKE_PROTECT), 0);
    ck_assert_int_eq(CALL(SYS_mprotect, a + PAGE, PAGE, PROT_READ), 0);
    ck_assert_uint_eq(fake_count(FAKE_PROTECT), 1);
    ck_assert_int_eq(CALL(SYS_getrandom, a + PAGE, 8, 0), -EFAULT);
    ck_assert_int_eq(CALL(SYS_mprotect, a, PAGE, PROT_READ | PROT_EXEC), -EACCES);
    ck_assert_int_eq(CALL(SYS_mprotect, a, PAGE, RW | PROT_EXEC), -EACCES);
    ck_assert_int_eq(CALL(SYS_mprotect, a, PAGE, 0x01000000 | RW), -EINVAL);
    ck_assert_int_eq(CALL(SYS_mprotect, a + 1, PAGE, RW), -EINVAL);
    ck_assert_int_eq(CALL(SYS_mprotect, a - PAGE, PAGE, RW), -ENOMEM);
    ck_assert_int_eq(CALL(SYS_mprotect, at->map_top, PAGE, RW), -ENOMEM);
    ck_assert_int_eq(CALL(SYS_mprotect, HL_ABI_HYPERCALL_ADDR, PAGE, RW), -ENOMEM);
    ck_assert_int_eq(CALL(SYS_mprotect, HL_ABI_INFO_ADDR, PAGE, RW), -ENOMEM);
    ck_assert_int_eq(CALL(SYS_mprotect, 0x1000, PAGE, RW), -ENOMEM);
    ck_assert_int_eq(CALL(SYS_mprotect, a, UINT64_MAX, RW), -ENOMEM);
    ck_assert_int_eq(CALL(SYS_mprotect, UINT64_MAX & ~(PAGE - 1), PAGE, RW), -ENOMEM);
    ck_assert_int_eq(CALL(SYS_mprotect, a, 0, RW), 0);
    /* Code: what is there is no change; made writable it can never be code again. */
    ck_assert_int_eq(CALL(SYS_mprotect, text, PAGE, PROT_READ | PROT_EXEC), 0);
    ck_assert_uint_eq(fake_count(FAKE_PROTECT), 1);
    ck_assert_int_eq(CALL(SYS_mprotect, text, PAGE, RW), 0);
    ck_assert_uint_eq(fake_count(FAKE_PROTECT), 2);
    ck_assert_int_eq(CALL(SYS_mprotect, text, PAGE, PROT_READ | PROT_EXEC), -EACCES);
    ck_assert_int_eq(CALL(SYS_mprotect, scratch, PAGE, PROT_READ), 0);
    ck_assert_uint_eq(fake_count(FAKE_PROTECT), 3);
    ck_assert_int_eq(CALL(SYS_clock_gettime, CLOCK_MONOTONIC, scratch), -EFAULT);
}
END_TEST

START_TEST(monotonic_clock_is_not_behind_ready)
{
    const uint64_t day = 86400;
    struct timespec before, seen;

    start(false);
    clock_gettime(CLOCK_MONOTONIC, &before);
    snapshot_set_clock(g.snap, ((uint64_t)before.tv_sec + day) * 1000000000u + 999999999u);
    for (uint64_t id = CLOCK_MONOTONIC; id <= CLOCK_BOOTTIME;
         id += CLOCK_BOOTTIME - CLOCK_MONOTONIC) {
        ck_assert_int_eq(CALL(SYS_clock_gettime, id, scratch), 0);
        memcpy(&seen, fake_memory(m) + scratch, sizeof(seen));
        ck_assert_int_ge(seen.tv_sec, before.tv_sec + (time_t)day);
        ck_assert_int_lt(seen.tv_sec, before.tv_sec + (time_t)day + 3600);
        ck_assert_int_lt(seen.tv_nsec, 1000000000);
    }
    ck_assert_int_eq(CALL(SYS_clock_gettime, CLOCK_REALTIME, scratch), 0);
    memcpy(&seen, fake_memory(m) + scratch, sizeof(seen));
    ck_assert_int_lt(seen.tv_sec, time(NULL) + 3600);
}
END_TEST

START_TEST(protection_is_undone_by_mapping)
{
    hl_gpa a;

    start(true);
    a = map(2 * PAGE);
    ck_assert_int_eq(CALL(SYS_mprotect, a, PAGE, PROT_NONE), 0);
    ck_assert_uint_eq(fake_count(FAKE_PROTECT), 1);
    ck_assert_int_eq(CALL(SYS_clock_gettime, CLOCK_MONOTONIC, a), -EFAULT);
    ck_assert_int_eq(CALL(SYS_write, 1, a, 4), -EFAULT);
    /* Mapped again it is open again. */
    ck_assert_int_eq(CALL(SYS_munmap, a, PAGE), 0);
    ck_assert_int_eq(CALL(SYS_mmap, a, PAGE, RW, ANON | MAP_FIXED, -1ull, 0), (int64_t)a);
    ck_assert_uint_eq(fake_count(FAKE_PROTECT), 2);
    ck_assert_int_eq(CALL(SYS_clock_gettime, CLOCK_MONOTONIC, a), 0);
    /* Page tables are finite. */
    fake_fail(FAKE_PROTECT, 1, -ENOMEM);
    ck_assert_int_eq(CALL(SYS_mprotect, a, PAGE, PROT_READ), -ENOMEM);
    ck_assert_int_eq(CALL(SYS_clock_gettime, CLOCK_MONOTONIC, a), 0);
    ck_assert(!g.failed);
    fake_fail(FAKE_PROTECT, 1, -EIO);
    ck_assert_int_eq(CALL(SYS_mprotect, a, PAGE, PROT_READ), -EIO);
    ck_assert(g.failed);
    ck_assert_int_eq(g.failure.end, INSTANCE_END_DIED);
}
END_TEST

START_TEST(pointers_obey_permissions)
{
    static const hl_gpa closed[] = {0,
                                    0x1000,
                                    0x2ff8,
                                    HL_ABI_HYPERCALL_ADDR,
                                    HL_ABI_INFO_ADDR,
                                    FAKE_ELF_BASE,
                                    FAKE_ELF_BASE + 2 * PAGE,
                                    MEMORY - 4,
                                    MEMORY,
                                    1ull << 40,
                                    UINT64_MAX - 3,
                                    UINT64_MAX};

    for (size_t i = 0; i < sizeof(closed) / sizeof(closed[0]); i++) {
        hl_gpa addr = closed[i];

        ck_assert_int_eq(CALL(SYS_clock_gettime, CLOCK_REALTIME, addr), -EFAULT);
        ck_assert_int_eq(CALL(SYS_getrandom, addr, 16, 0), -EFAULT);
        ck_assert_int_eq(CALL(SYS_uname, addr), -EFAULT);
        ck_assert_int_eq(CALL(SYS_fstat, 1, addr), -EFAULT);
        if (addr != 0)
            ck_assert_int_eq(CALL(SYS_rt_sigaction, 2, 0, addr, 8), -EFAULT);
    }
    ck_assert_int_eq(CALL(SYS_write, 1, 0x1000, 8), -EFAULT);
    ck_assert_int_eq(CALL(SYS_write, 1, UINT64_MAX - 3, 8), -EFAULT);
    ck_assert_int_eq(CALL(SYS_write, 1, MEMORY - 4, 8), -EFAULT);
    ck_assert_int_eq(CALL(SYS_write, 1, HL_ABI_INFO_ADDR, 8), 8);
    ck_assert_uint_eq(fake_count(FAKE_MEM_WRITE), 0);
}
END_TEST

START_TEST(output)
{
    struct iovec iov[3] = {{(void *)(uintptr_t)scratch, 5},
                           {(void *)(uintptr_t)(scratch + 8), 3},
                           {(void *)(uintptr_t)0x1000, 3}};

    fake_write(m, scratch, "one\ntwo\nx\x1b\xff\xc3\xa4\n", 15);
    ck_assert_int_eq(CALL(SYS_write, 1, scratch, 6), 6);
    ck_assert_str_eq(logged, "[one]");
    ck_assert_int_eq(CALL(SYS_write, 1, scratch + 6, 8), 8);
    ck_assert_str_eq(logged, "[one][two][x??\xc3\xa4]");
    ck_assert_int_eq(last_level, HL_ABI_LOG_INFO);
    logged[0] = '\0';
    fake_write(m, scratch, "abcde___f\n_", 11);
    fake_write(m, scratch + 64, iov, sizeof(iov));
    ck_assert_int_eq(CALL(SYS_writev, 2, scratch + 64, 2), 8);
    ck_assert_str_eq(logged, "[abcdef]");
    ck_assert_int_eq(last_level, HL_ABI_LOG_WARNING);
    ck_assert_int_eq(CALL(SYS_writev, 2, scratch + 64, 3), 8);
    ck_assert_int_eq(CALL(SYS_writev, 2, scratch + 64 + 32, 1), -EFAULT);
    ck_assert_int_eq(CALL(SYS_writev, 2, 0x1000, 1), -EFAULT);
    ck_assert_int_eq(CALL(SYS_writev, 2, scratch + 64, 1u << 20), -EINVAL);
    ck_assert_int_eq(CALL(SYS_write, 0, scratch, 1), -EBADF);
    ck_assert_int_eq(CALL(SYS_write, 3, scratch, 1), -EBADF);
}
END_TEST

START_TEST(output_is_bounded)
{
    hl_gpa a = map(1u << 20);
    char lines[64];

    /* A line without an end is cut; a write without an end is short. */
    for (uint64_t i = 0; i < 1u << 20; i += 64)
        fake_write(m, a + i, "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
                   64);
    ck_assert_int_eq(CALL(SYS_write, 1, a, 1u << 20), 64 << 10);
    ck_assert_uint_eq(g.counters.log_lines, 63);
    memset(lines, '\n', sizeof(lines));
    for (size_t i = 0; i < sizeof(lines); i += 2)
        lines[i] = 'l';
    fake_write(m, a, lines, sizeof(lines));
    logged[0] = '\0';
    for (int i = 0; i < 100; i++) {
        ck_assert_int_eq(CALL(SYS_write, 1, a, sizeof(lines)), sizeof(lines));
        logged[4096] = '\0';
    }
    start(false);
    fake_write(m, scratch, "l\n", 2);
    for (int i = 0; i < 1000; i++)
        ck_assert_int_eq(CALL(SYS_write, 1, scratch, 2), 2);
    ck_assert_uint_eq(strlen(logged), 256 * 3 + strlen("[(further log lines of this call are "
                                                       "dropped)]"));
}
END_TEST

START_TEST(descriptors)
{
    struct winsize size;
    struct stat st;

    ck_assert_int_eq(CALL(SYS_fstat, 1, scratch), 0);
    memcpy(&st, fake_memory(m) + scratch, sizeof(st));
    ck_assert(S_ISCHR(st.st_mode));
    fake_write(m, scratch + 512, "\0/etc/passwd", 13);
    ck_assert_int_eq(CALL(SYS_newfstatat, 2, scratch + 512, scratch, AT_EMPTY_PATH), 0);
    ck_assert_int_eq(CALL(SYS_newfstatat, 9, scratch + 512, scratch, AT_EMPTY_PATH), -EBADF);
    ck_assert_int_eq(CALL(SYS_newfstatat, 2, scratch + 513, scratch, 0), -ENOENT);
    ck_assert_int_eq(CALL(SYS_openat, AT_FDCWD, scratch + 513, 0), -ENOENT);
    ck_assert_int_eq(CALL(SYS_readlinkat, AT_FDCWD, scratch + 513, scratch, 8), -ENOENT);
    ck_assert_int_eq(CALL(SYS_ioctl, 1, TIOCGWINSZ, scratch), 0);
    memcpy(&size, fake_memory(m) + scratch, sizeof(size));
    ck_assert_uint_eq(size.ws_col, 80);
    ck_assert_int_eq(CALL(SYS_ioctl, 1, TIOCSTI, scratch), -ENOTTY);
    ck_assert_int_eq(CALL(SYS_ioctl, 3, TIOCGWINSZ, scratch), -EBADF);
    ck_assert_int_eq(CALL(SYS_read, 0, scratch, 8), 0);
    ck_assert_int_eq(CALL(SYS_read, 5, scratch, 8), -EBADF);
    ck_assert_int_eq(CALL(SYS_lseek, 0, 0, 0), -ESPIPE);
    ck_assert_int_eq(CALL(SYS_close, 4), -EBADF);
    ck_assert_int_eq(CALL(SYS_fcntl, 1, F_GETFL), O_RDWR);
}
END_TEST

START_TEST(own_process)
{
    struct rlimit limit;
    uint64_t base;

    ck_assert_int_eq(CALL(SYS_arch_prctl, ARCH_SET_FS, 0x12345000), 0);
    ck_assert_uint_eq(fake_fs_base(m), 0x12345000);
    ck_assert_int_eq(CALL(SYS_arch_prctl, ARCH_GET_FS, scratch), 0);
    memcpy(&base, fake_memory(m) + scratch, sizeof(base));
    ck_assert_uint_eq(base, 0x12345000);
    ck_assert_int_eq(CALL(SYS_arch_prctl, ARCH_SET_FS, 1ull << 47), -EPERM);
    ck_assert_int_eq(CALL(SYS_arch_prctl, ARCH_SET_GS, 0), -EINVAL);
    ck_assert_int_eq(CALL(SYS_set_tid_address, scratch), 1);
    ck_assert_int_eq(CALL(SYS_set_robust_list, scratch, 24), 0);
    ck_assert_int_eq(CALL(SYS_rseq, scratch, 32, 0, 0), -ENOSYS);
    ck_assert_int_eq(CALL(SYS_prlimit64, 0, RLIMIT_STACK, 0, scratch), 0);
    memcpy(&limit, fake_memory(m) + scratch, sizeof(limit));
    ck_assert_uint_eq(limit.rlim_cur, MEMORY / 8);
    ck_assert_int_eq(CALL(SYS_prlimit64, 0, RLIMIT_STACK, scratch, 0), -EPERM);
    ck_assert_int_eq(CALL(SYS_prlimit64, 77, RLIMIT_STACK, 0, scratch), -ESRCH);
    ck_assert_int_eq(CALL(SYS_prlimit64, 0, 99, 0, scratch), -EINVAL);
    ck_assert_int_eq(CALL(SYS_futex, scratch, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, 1), 0);
    ck_assert_int_eq(CALL(SYS_futex, scratch, FUTEX_WAIT, 0), -EAGAIN);
    ck_assert_int_eq(CALL(SYS_sched_getaffinity, 0, 128, scratch), 8);
    ck_assert_int_eq(CALL(SYS_tgkill, 1, 1, 0), 0);
    ck_assert_uint_eq(g.counters.unknown_syscalls, 0);
    ck_assert(!g.failed);
}
END_TEST

START_TEST(unknown_calls_are_counted)
{
    static const uint64_t unknown[] = {SYS_socket, SYS_clone, SYS_execve,         SYS_ptrace,
                                       SYS_fork,   SYS_bpf,   SYS_io_uring_setup, 100000,
                                       0x40000000, UINT64_MAX};

    for (size_t i = 0; i < sizeof(unknown) / sizeof(unknown[0]); i++)
        ck_assert_int_eq(CALL(unknown[i], 0), -ENOSYS);
    ck_assert_uint_eq(g.counters.unknown_syscalls, sizeof(unknown) / sizeof(unknown[0]));
}
END_TEST

START_TEST(ends)
{
    CALL(SYS_exit_group, 0x1ff);
    ck_assert(g.failed);
    ck_assert_int_eq(g.failure.end, INSTANCE_END_EXIT);
    ck_assert_int_eq(g.failure.code, 255);
    start(false);
    ck_assert_int_eq(CALL(SYS_tgkill, 1, 1, 999), -EINVAL);
    CALL(SYS_tgkill, 1, 1, 6);
    ck_assert_int_eq(g.failure.code, 134);
    ck_assert_str_eq(g.failure.text, "ended itself with signal 6 (SIGABRT)");
}
END_TEST

START_TEST(time_and_entropy)
{
    hl_gpa a = map(128 * 1024);
    struct timespec before, ts, after;

    clock_gettime(CLOCK_MONOTONIC, &before);
    ck_assert_int_eq(CALL(SYS_clock_gettime, CLOCK_MONOTONIC, scratch), 0);
    clock_gettime(CLOCK_MONOTONIC, &after);
    memcpy(&ts, fake_memory(m) + scratch, sizeof(ts));
    ck_assert_int_ge(ts.tv_sec, before.tv_sec);
    ck_assert_int_le(ts.tv_sec, after.tv_sec);
    ck_assert_int_eq(CALL(SYS_clock_gettime, 99, scratch), -EINVAL);
    ck_assert_int_eq(CALL(SYS_clock_gettime, UINT64_MAX, scratch), -EINVAL);
    ck_assert_int_eq(CALL(SYS_getrandom, a, 128 * 1024, 0), 64 * 1024);
    ck_assert(memcmp(fake_memory(m) + a, fake_memory(m) + a + 1024, 1024) != 0);
    ck_assert(!is_zero(a + 64 * 1024 - 64, 64));
    ck_assert(is_zero(a + 64 * 1024, 64 * 1024));
    ck_assert_int_eq(CALL(SYS_getrandom, a, 16, 0x80), -EINVAL);
    /* Across into the closed page: what fitted is told. */
    ck_assert_int_eq(CALL(SYS_getrandom, at->map_top - 2048, 4096, 0), 2048);
}
END_TEST

START_TEST(reset_forgets)
{
    hl_gpa a = map(PAGE);

    CALL(SYS_brk, at->brk_start + PAGE);
    CALL(SYS_mprotect, scratch, PAGE, PROT_READ);
    fake_write(m, scratch - PAGE, "half a line", 11);
    CALL(SYS_write, 1, scratch - PAGE, 11);
    guest_reset(&g);
    ck_assert_uint_eq(map(PAGE), a);
    ck_assert_int_eq(CALL(SYS_brk, 0), (int64_t)at->brk_start);
    ck_assert(space_allows(&g.space, scratch, 8, true));
    guest_log_flush(&g);
    ck_assert_str_eq(logged, "");
}
END_TEST

int main(void)
{
    TCase *tc = tcase_create("syscall");

    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, heap_grows_and_shrinks);
    tcase_add_test(tc, heap_and_mappings_share);
    tcase_add_test(tc, mappings);
    tcase_add_test(tc, mappings_refused);
    tcase_add_test(tc, fixed_mappings);
    tcase_add_test(tc, advice);
    tcase_add_test(tc, zeroing_watches_the_clock);
    tcase_add_test(tc, protection);
    tcase_add_test(tc, monotonic_clock_is_not_behind_ready);
    tcase_add_test(tc, protection_is_undone_by_mapping);
    tcase_add_test(tc, pointers_obey_permissions);
    tcase_add_test(tc, output);
    tcase_add_test(tc, output_is_bounded);
    tcase_add_test(tc, descriptors);
    tcase_add_test(tc, own_process);
    tcase_add_test(tc, unknown_calls_are_counted);
    tcase_add_test(tc, ends);
    tcase_add_test(tc, time_and_entropy);
    tcase_add_test(tc, reset_forgets);
    return tests_run(tc, "syscall");
}
