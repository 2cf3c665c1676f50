/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Loading, building and the snapshot object: what stands where in a loaded program, that the memory
 * file is sealed and holds no more than it must, and what the ready snapshot keeps of start-up.
 */
#include "config.h"

#include <check.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "hv/snapshot_internal.h"
#include "hv/timer.h"
#include "tests/fake/elf.h"
#include "tests/fake/fake.h"
#include "tests/unit/tests_run.h"

#define PAGE   ((uint64_t)HL_ABI_PAGE_SIZE)
#define MEMORY (16ull << 20)

static uint8_t *file;
static size_t file_len;
static struct image *img;
static struct hv_host *host;
static struct snapshot_options options;

static void setup(void)
{
    const struct hv_host_config config = {.kvm_fd = -1, .nursery_fd = -1};

    fake_clear();
    file = fake_elf_new(&file_len);
    ck_assert_int_eq(image_new(&img, file, file_len, NULL), 0);
    ck_assert_int_eq(hv_backend_fake.host_open(&host, &config, NULL), 0);
    options = (struct snapshot_options){
        .memory_size = MEMORY,
        .io_size = HL_ABI_IO_SIZE,
        .deadline_ns = hv_now_ns() + 5000000000u,
        .name = "test-image",
    };
}

static void teardown(void)
{
    ck_assert_int_eq(fake_machines(), 0);
    hv_backend_fake.host_close(host);
    image_free(img);
    free(file);
}

static struct snapshot *load(void)
{
    struct hl_error err = HL_ERROR_INIT;
    struct snapshot *snap = NULL;

    ck_assert_msg(snapshot_load(&snap, &hv_backend_fake, host, img, &options, &err) == 0, "%s",
                  err.text);
    return snap;
}

static struct snapshot *build(void)
{
    struct hl_error err = HL_ERROR_INIT;
    struct snapshot *snap = NULL;

    ck_assert_msg(snapshot_build(&snap, &hv_backend_fake, host, img, &options, &err) == 0, "%s",
                  err.text);
    return snap;
}

static void build_fails(int code, const char *reason)
{
    struct hl_error err = HL_ERROR_INIT;
    struct snapshot *snap = NULL;

    ck_assert_int_eq(snapshot_build(&snap, &hv_backend_fake, host, img, &options, &err), code);
    ck_assert_ptr_null(snap);
    ck_assert_msg(strstr(err.text, reason), "'%s' does not say '%s'", err.text, reason);
}

START_TEST(layout)
{
    struct snapshot *snap = load();
    const struct linux_state *at = snapshot_linux(snap);
    const uint8_t *prot, *memory = snapshot_memory(snap);
    struct hl_abi_info info;
    size_t npages;

    prot = snapshot_prot(snap, &npages);
    ck_assert_uint_eq(npages, MEMORY / PAGE);
    ck_assert_uint_eq(prot[0], HV_PROT_NONE);
    for (uint64_t page = 1; page < HL_ABI_HYPERCALL_ADDR / PAGE; page++)
        ck_assert_uint_eq(prot[page], HV_PROT_NONE);
    ck_assert_uint_eq(prot[HL_ABI_HYPERCALL_ADDR / PAGE], HV_PROT_READ | HV_PROT_EXEC);
    ck_assert_uint_eq(prot[HL_ABI_INFO_ADDR / PAGE], HV_PROT_READ);
    ck_assert_uint_eq(prot[HL_ABI_IO_ADDR / PAGE], HV_PROT_READ | HV_PROT_WRITE);
    ck_assert_uint_eq(prot[0x400], HV_PROT_READ);
    ck_assert_uint_eq(prot[0x402], HV_PROT_READ | HV_PROT_EXEC);
    ck_assert_uint_eq(prot[0x403], HV_PROT_READ | HV_PROT_WRITE);
    ck_assert_uint_eq(at->program_start, FAKE_ELF_BASE);
    ck_assert_uint_eq(at->map_top + PAGE, at->stack_start);
    ck_assert_uint_eq(at->stack_start, MEMORY - MEMORY / 8);
    ck_assert_uint_eq(prot[at->map_top / PAGE], HV_PROT_NONE);
    ck_assert_uint_eq(prot[at->brk_start / PAGE], HV_PROT_READ | HV_PROT_WRITE);
    ck_assert_uint_eq(prot[MEMORY / PAGE - 1], HV_PROT_READ | HV_PROT_WRITE);
    memcpy(&info, memory + HL_ABI_INFO_ADDR, sizeof(info));
    ck_assert_uint_eq(info.magic, HL_ABI_INFO_MAGIC);
    ck_assert_uint_eq(info.memory_size, MEMORY);
    ck_assert_uint_eq(info.io_size, HL_ABI_IO_SIZE);
    ck_assert_int_eq(memcmp(memory + FAKE_TABLE_ADDR, file + PAGE, 24 * 96), 0);
    snapshot_unref(snap);
}
END_TEST

START_TEST(first_stack)
{
    struct snapshot *snap = load();
    const uint8_t *memory = snapshot_memory(snap);
    uint64_t rsp = snapshot_regs(snap)->rsp, argv0, seen[64] = {0};
    const uint64_t *word;

    ck_assert_uint_eq(rsp % 16, 0);
    word = (const uint64_t *)(const void *)(memory + rsp);
    ck_assert_uint_eq(word[0], 1);
    argv0 = word[1];
    ck_assert_str_eq((const char *)memory + argv0, "test-image");
    ck_assert_uint_eq(word[2], 0);
    ck_assert_uint_eq(word[3], 0);
    for (word += 4; word[0] != AT_NULL; word += 2) {
        ck_assert_uint_lt(word[0], 64);
        seen[word[0]] = word[1];
    }
    ck_assert_uint_eq(seen[AT_PAGESZ], PAGE);
    ck_assert_uint_eq(seen[AT_PHDR], FAKE_ELF_BASE + sizeof(Elf64_Ehdr));
    ck_assert_uint_eq(seen[AT_PHNUM], 4);
    ck_assert_uint_eq(seen[AT_PHENT], sizeof(Elf64_Phdr));
    ck_assert_uint_eq(seen[AT_ENTRY], snapshot_regs(snap)->rip);
    ck_assert_uint_eq(seen[AT_EXECFN], argv0);
    ck_assert_uint_ne(seen[AT_MINSIGSTKSZ], 0);
    ck_assert_uint_eq(seen[AT_UID], seen[AT_EUID]);
    ck_assert(!snapshot_page_is_zero(memory + (seen[AT_RANDOM] & ~(PAGE - 1))));
    snapshot_unref(snap);
}
END_TEST

START_TEST(random_bytes_differ)
{
    struct snapshot *a = load(), *b = load();

    ck_assert(memcmp(snapshot_memory(a) + MEMORY - PAGE, snapshot_memory(b) + MEMORY - PAGE, PAGE));
    snapshot_unref(a);
    snapshot_unref(b);
}
END_TEST

START_TEST(position_independent_is_placed)
{
    const struct hl_abi_function one[] = {FAKE_FUNCTION("f", HL_ABI_VOID, 0, 0)};
    struct snapshot *snap;
    size_t len;
    uint8_t *pie = fake_elf_with(one, 1, ET_DYN, &len);

    image_free(img);
    ck_assert_int_eq(image_new(&img, pie, len, NULL), 0);
    options.io_size = 4u << 20;
    snap = load();
    ck_assert_uint_eq(snapshot_linux(snap)->bias, HL_ABI_IO_ADDR + options.io_size);
    ck_assert_uint_eq(snapshot_regs(snap)->rip, snapshot_linux(snap)->bias + 2 * PAGE);
    ck_assert_int_eq(memcmp(snapshot_memory(snap) + snapshot_regs(snap)->rip, "\x0f\x0b", 2), 0);
    snapshot_unref(snap);
    free(pie);
}
END_TEST

START_TEST(limits)
{
    struct hl_error err = HL_ERROR_INIT;
    struct snapshot *snap;
    static const struct {
        uint64_t memory, io;
        int code;
        const char *reason;
    } cases[] = {
        {MEMORY + 1, HL_ABI_IO_SIZE, -EINVAL, "memory of"},
        {2ull << 30, HL_ABI_IO_SIZE, -EINVAL, "memory of"},
        {MEMORY, 0, -EINVAL, "I/O window"},
        {MEMORY, 100, -EINVAL, "I/O window"},
        {MEMORY, 128u << 20, -EINVAL, "I/O window"},
        {MEMORY, 4u << 20, -ENOEXEC, "inside the I/O window"},
        {4u << 20, HL_ABI_IO_SIZE, -EINVAL, "needs"},
        {PAGE, HL_ABI_IO_SIZE, -EINVAL, "needs"},
        {0, HL_ABI_IO_SIZE, -EINVAL, "needs"},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        options.memory_size = cases[i].memory;
        options.io_size = cases[i].io;
        ck_assert_int_eq(snapshot_load(&snap, &hv_backend_fake, host, img, &options, &err),
                         cases[i].code);
        ck_assert_ptr_null(snap);
        ck_assert_msg(strstr(err.text, cases[i].reason), "%s", err.text);
    }
}
END_TEST

/* What the message names is enough, and a page less is not. */
START_TEST(least_memory)
{
    struct hl_error err = HL_ERROR_INIT;
    struct snapshot *snap;
    unsigned long long least;

    options.memory_size = PAGE;
    ck_assert_int_lt(snapshot_load(&snap, &hv_backend_fake, host, img, &options, &err), 0);
    ck_assert_int_eq(sscanf(err.text, "the program needs %llu bytes", &least), 1);
    options.memory_size = least;
    ck_assert_int_eq(snapshot_load(&snap, &hv_backend_fake, host, img, &options, &err), 0);
    snapshot_unref(snap);
    options.memory_size = least - PAGE;
    ck_assert_int_lt(snapshot_load(&snap, &hv_backend_fake, host, img, &options, &err), 0);
}
END_TEST

START_TEST(sealed_and_small)
{
    struct snapshot *snap = load();
    int fd = snapshot_memfd(snap), seals = fcntl(fd, F_GET_SEALS);
    const struct snapshot_extent *extents;
    struct stat st;
    size_t count;

    ck_assert_int_eq(seals, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
    ck_assert_int_eq(pwrite(fd, "x", 1, 0), -1);
    ck_assert_ptr_eq(mmap(NULL, PAGE, PROT_WRITE, MAP_SHARED, fd, 0), MAP_FAILED);
    extents = snapshot_extents(snap, &count);
    ck_assert_uint_gt(count, 1);
    ck_assert_uint_le(count, SNAPSHOT_EXTENTS_MAX);
    for (size_t i = 1; i < count; i++)
        ck_assert_uint_gt(extents[i].start, extents[i - 1].start + extents[i - 1].len);
    ck_assert_uint_lt(snapshot_resident(snap), 1u << 20);
    /* Reading all of it through the host's view must not fill the file. */
    for (uint64_t at = 0; at < MEMORY; at += PAGE)
        (void)*(volatile const uint8_t *)(snapshot_memory(snap) + at);
    ck_assert_int_eq(fstat(fd, &st), 0);
    ck_assert_uint_le((uint64_t)st.st_blocks * 512, snapshot_resident(snap));
    snapshot_unref(snap);
}
END_TEST

START_TEST(many_pages_few_extents)
{
    struct snapshot_draft draft;
    struct snapshot *snap;
    size_t count;

    ck_assert_int_eq(snapshot_draft_init(&draft, MEMORY, HL_ABI_IO_SIZE, NULL), 0);
    /* Every 40th page, and zeros written over all the others. */
    memset(draft.memory, 0, MEMORY);
    for (uint64_t page = 0; page < MEMORY / PAGE; page += 40)
        draft.memory[page * PAGE + 7] = 1;
    ck_assert_int_eq(snapshot_draft_seal(&snap, &draft, NULL), 0);
    snapshot_extents(snap, &count);
    ck_assert_uint_le(count, SNAPSHOT_EXTENTS_MAX);
    for (uint64_t page = 0; page < MEMORY / PAGE; page++)
        ck_assert_int_eq(snapshot_memory(snap)[page * PAGE + 7], page % 40 == 0);
    snapshot_unref(snap);
}
END_TEST

START_TEST(empty_is_allowed)
{
    struct snapshot_draft draft;
    struct snapshot *snap;
    size_t count;

    ck_assert_int_eq(snapshot_draft_init(&draft, MEMORY, HL_ABI_IO_SIZE, NULL), 0);
    ck_assert_int_eq(snapshot_draft_seal(&snap, &draft, NULL), 0);
    snapshot_extents(snap, &count);
    ck_assert_uint_eq(count, 0);
    ck_assert_uint_eq(snapshot_resident(snap), 0);
    ck_assert_int_eq(snapshot_memory(snap)[MEMORY - 1], 0);
    snapshot_unref(snap);
}
END_TEST

/* A start-up that allocates, writes everywhere and protects a page, one exit after the other. */
static hl_gpa mapped;
static int start_up(struct hv_machine *m, uint64_t until_ns, struct hv_exit *exit, void *opaque)
{
    const struct linux_state *at = snapshot_linux(fake_bound(m));
    uint64_t brk[6] = {at->brk_start + 3 * PAGE};
    uint64_t map[6] = {0, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1ull};
    uint64_t relro[6] = {at->brk_start - 2 * PAGE, PAGE, PROT_READ};
    uint64_t unmap[6] = {0, PAGE};

    (void)until_ns;
    (void)opaque;
    switch (fake_step(m)) {
    case 0:
        return fake_exit_syscall(exit, SYS_brk, brk);
    case 1:
        fake_write(m, at->brk_start, "heap", 4);
        fake_write(m, at->brk_start + 3 * PAGE, "past the heap", 13);
        return fake_exit_syscall(exit, SYS_mmap, map);
    case 2:
        mapped = fake_returned(m);
        fake_write(m, mapped, "map", 3);
        fake_write(m, mapped + PAGE, "gone", 4);
        unmap[0] = mapped + PAGE;
        return fake_exit_syscall(exit, SYS_munmap, unmap);
    case 3:
        fake_write(m, relro[0], "relro", 5);
        return fake_exit_syscall(exit, SYS_mprotect, relro);
    case 4:
        /* What it must not have been able to write is taken from the file all the same. */
        fake_write(m, FAKE_TABLE_ADDR, "damage", 6);
        fake_write(m, HL_ABI_INFO_ADDR, "damage", 6);
        fake_write(m, HL_ABI_IO_ADDR, "window", 6);
        fake_write(m, snapshot_regs(fake_bound(m))->rsp - 64, "red zone", 8);
        fake_write(m, at->stack_start, "dead", 4);
        return fake_exit_hypercall(exit, HL_HYPERCALL_READY, 0, 0, 0);
    default:
        return -EIO;
    }
}

START_TEST(ready_keeps_what_was_allocated)
{
    const struct linux_state *at;
    const uint8_t *memory, *prot;
    struct snapshot *snap;

    fake_set_run(start_up, NULL);
    snap = build();
    memory = snapshot_memory(snap);
    prot = snapshot_prot(snap, NULL);
    at = snapshot_linux(snap);
    ck_assert_uint_eq(at->brk, at->brk_start + 3 * PAGE);
    ck_assert_int_eq(memcmp(memory + at->brk_start, "heap", 4), 0);
    ck_assert(snapshot_page_is_zero(memory + at->brk_start + 3 * PAGE));
    ck_assert_uint_eq(mapped, at->map_top - 4 * PAGE);
    ck_assert_int_eq(memcmp(memory + mapped, "map", 3), 0);
    ck_assert(snapshot_page_is_zero(memory + mapped + PAGE));
    ck_assert_int_eq(memcmp(memory + at->brk_start - 2 * PAGE, "relro", 5), 0);
    ck_assert_uint_eq(prot[at->brk_start / PAGE - 2], HV_PROT_READ);
    ck_assert_uint_eq(prot[at->brk_start / PAGE - 1], HV_PROT_READ | HV_PROT_WRITE);
    ck_assert_int_eq(memcmp(memory + FAKE_TABLE_ADDR, file + PAGE, PAGE), 0);
    ck_assert_int_ne(memcmp(memory + HL_ABI_INFO_ADDR, "damage", 6), 0);
    ck_assert(snapshot_page_is_zero(memory + HL_ABI_IO_ADDR));
    ck_assert_int_eq(memcmp(memory + snapshot_regs(snap)->rsp - 64, "red zone", 8), 0);
    ck_assert(snapshot_page_is_zero(memory + at->stack_start));
    ck_assert_uint_eq(snapshot_regs(snap)->rip, FAKE_READY_RIP);
    ck_assert_uint_eq(fake_count(FAKE_PROTECT), 1);
    ck_assert_uint_eq(fake_count(FAKE_POPULATE), 2);
    snapshot_unref(snap);
}
END_TEST

static int end_early(struct hv_machine *m, uint64_t until_ns, struct hv_exit *exit, void *opaque)
{
    const uint64_t args[6] = {7};

    switch (*(int *)opaque) {
    case 0:
        return fake_exit_fault(exit, 14, 2, 0x402000, 0x10);
    case 1:
        return fake_exit_syscall(exit, SYS_exit_group, args);
    case 2:
        fake_write(m, HL_ABI_IO_ADDR, "no\ndatabase", 11);
        return fake_exit_hypercall(exit, HL_HYPERCALL_ABORT, 9, HL_ABI_IO_ADDR, 11);
    case 3:
        return fake_exit_hypercall(exit, HL_HYPERCALL_DONE, 0, 0, 0);
    case 4:
        fake_sleep(m, UINT64_MAX, until_ns);
        return fake_exit_kicked(exit);
    case 5:
        return fake_exit_syscall(exit, SYS_getpid, args); /* for ever */
    case 6:
        return fake_exit_fault(exit, HV_VECTOR_DIED, 0, 0, 0);
    default:
        return -EIO;
    }
}

START_TEST(start_up_that_fails)
{
    static const struct {
        int code;
        const char *reason;
    } cases[] = {
        {-EFAULT, "start-up: page fault (write) at 0x10, rip 0x402000 start+0x0"},
        {-EPROTO, "exited with status 7"},
        {-ECANCELED, "aborted with code 9: no?database"},
        {-EPROTO, "result before READY"},
        {-ETIMEDOUT, "in time"},
        {-ETIMEDOUT, "in time"},
        {-EIO, "without an exception"},
        {-EIO, "Input/output error"},
    };

    for (int i = 0; i < (int)(sizeof(cases) / sizeof(cases[0])); i++) {
        options.deadline_ns =
            hv_now_ns() + (cases[i].code == -ETIMEDOUT ? 50000000u : 20000000000u);
        fake_set_run(end_early, &i);
        /* The fake's code is on the page after its 24 descriptors. */
        build_fails(cases[i].code, cases[i].reason);
    }
}
END_TEST

START_TEST(backend_failures_leak_nothing)
{
    static const enum fake_op all[] = {FAKE_POPULATE, FAKE_MACHINE_NEW, FAKE_BIND,
                                       FAKE_RUN,      FAKE_GET_REGS,    FAKE_MEM_READ};

    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        fake_clear();
        fake_fail(all[i], 1, -EIO);
        build_fails(-EIO, "");
        ck_assert_int_eq(fake_machines(), 0);
    }
    fake_clear();
    fake_fail(FAKE_POPULATE, 2, -ENOMEM);
    build_fails(-ENOMEM, "populate");
}
END_TEST

START_TEST(built_in_guest_gets_ready)
{
    struct snapshot *snap = build(), *again = snapshot_ref(snap);

    snapshot_unref(snap);
    ck_assert_uint_eq(snapshot_regs(again)->rip, FAKE_READY_RIP);
    ck_assert_uint_eq(snapshot_size(again), MEMORY);
    ck_assert_uint_eq(snapshot_io_size(again), HL_ABI_IO_SIZE);
    ck_assert_ptr_nonnull(snapshot_hot(again));
    snapshot_unref(again);
}
END_TEST

int main(void)
{
    TCase *tc = tcase_create("snapshot");

    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, layout);
    tcase_add_test(tc, first_stack);
    tcase_add_test(tc, random_bytes_differ);
    tcase_add_test(tc, position_independent_is_placed);
    tcase_add_test(tc, limits);
    tcase_add_test(tc, least_memory);
    tcase_add_test(tc, sealed_and_small);
    tcase_add_test(tc, many_pages_few_extents);
    tcase_add_test(tc, empty_is_allowed);
    tcase_add_test(tc, ready_keeps_what_was_allocated);
    tcase_add_test(tc, start_up_that_fails);
    tcase_add_test(tc, backend_failures_leak_nothing);
    tcase_add_test(tc, built_in_guest_gets_ready);
    return tests_run(tc, "snapshot");
}
