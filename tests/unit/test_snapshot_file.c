/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The file of a snapshot: what goes in comes out again, in place and copied; what was made for
 * something else is told from what does not hold together; and no file makes a snapshot that a
 * guest could not have brought about by running.
 */
#include "config.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "hv/snapshot_file.h"
#include "hv/snapshot_internal.h"
#include "hv/snapshot_layout.h"
#include "hv/timer.h"
#include "tests/fake/elf.h"
#include "tests/fake/fake.h"
#include "tests/unit/tests_run.h"

#define PAGE   ((uint64_t)HL_ABI_PAGE_SIZE)
#define MEMORY (16ull << 20)
#define SEALS  (F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW)

static uint8_t *elf;
static size_t elf_len;
static struct image *img;
static struct hv_host *host;
static struct hv_backend copying; /* the fake, but with all memory in one file */
static struct snapshot_options options;
static struct snapshot_key key;
static struct snapshot *built;
static hl_gpa mapped;

/* The file as written, to be changed by a test. */
static uint8_t *file;
static size_t file_size;
static struct snapshot_file_header *header;
static struct snapshot_file_extent *extents;
static struct snapshot_file_run *prot, *used;

static int start_up(struct hv_machine *m, uint64_t until_ns, struct hv_exit *exit, void *opaque)
{
    const struct linux_state *at = snapshot_linux(fake_bound(m));
    uint64_t brk[6] = {at->brk_start + 3 * PAGE + 5};
    uint64_t map[6] = {0, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1ull};
    uint64_t relro[6] = {at->brk_start - 2 * PAGE, PAGE, PROT_READ};

    (void)until_ns;
    (void)opaque;
    switch (fake_step(m)) {
    case 0:
        return fake_exit_syscall(exit, SYS_brk, brk);
    case 1:
        fake_write(m, at->brk_start, "heap", 4);
        return fake_exit_syscall(exit, SYS_mmap, map);
    case 2:
        mapped = fake_returned(m);
        fake_write(m, mapped, "map", 3);
        return fake_exit_syscall(exit, SYS_mprotect, relro);
    default:
        return fake_exit_hypercall(exit, HL_HYPERCALL_READY, 0, 0, 0);
    }
}

static void read_file(int fd, size_t size)
{
    free(file);
    file = malloc(size);
    file_size = size;
    ck_assert_int_eq(pread(fd, file, size, 0), (ssize_t)size);
    header = (struct snapshot_file_header *)(void *)file;
    extents = (struct snapshot_file_extent *)(void *)(header + 1);
    prot = (struct snapshot_file_run *)(void *)(extents + header->nextents);
    used = prot + header->nprot;
}

static void setup(void)
{
    const struct hv_host_config config = {.kvm_fd = -1, .nursery_fd = -1};
    struct hl_error err = HL_ERROR_INIT;
    uint64_t size;
    int fd;

    fake_clear();
    copying = hv_backend_fake;
    copying.single_file = true;
    elf = fake_elf_new(&elf_len);
    ck_assert_int_eq(image_new(&img, elf, elf_len, NULL), 0);
    ck_assert_int_eq(hv_backend_fake.host_open(&host, &config, NULL), 0);
    options = (struct snapshot_options){
        .memory_size = MEMORY,
        .io_size = HL_ABI_IO_SIZE,
        .deadline_ns = hv_now_ns() + 5000000000u,
        .name = "test-image",
    };
    key = (struct snapshot_key){.version = "1.2", .name = "test-image"};
    memset(key.program, 1, sizeof(key.program));
    memset(key.host, 2, sizeof(key.host));
    fake_set_run(start_up, NULL);
    ck_assert_msg(snapshot_build(&built, &hv_backend_fake, host, img, &options, &err) == 0, "%s",
                  err.text);
    ck_assert_msg(snapshot_file_write(&fd, &size, built, &hv_backend_fake, &key, &err) == 0, "%s",
                  err.text);
    ck_assert_int_eq(fcntl(fd, F_GET_SEALS) & SEALS, SEALS);
    read_file(fd, size);
    close(fd);
}

static void teardown(void)
{
    snapshot_unref(built);
    ck_assert_int_eq(fake_machines(), 0);
    hv_backend_fake.host_close(host);
    image_free(img);
    free(elf);
    free(file);
    file = NULL;
}

static int memory_file(const void *data, size_t len, int seals)
{
    int fd = memfd_create("snapshot", MFD_CLOEXEC | MFD_ALLOW_SEALING);

    ck_assert_int_eq(write(fd, data, len), (ssize_t)len);
    ck_assert_int_eq(fcntl(fd, F_ADD_SEALS, seals), 0);
    return fd;
}

static int load_with(struct snapshot **snap, const struct hv_backend *hv, size_t len,
                     struct hl_error *err)
{
    _cleanup_close_ int fd = memory_file(file, len, SEALS);

    *err = (struct hl_error)HL_ERROR_INIT;
    return snapshot_file_load(snap, fd, hv, host, img, &options, &key, err);
}

/* What loading the file says; a snapshot that comes of it is dropped. */
static int load(void)
{
    struct hl_error err;
    struct snapshot *snap;
    int rc = load_with(&snap, &hv_backend_fake, file_size, &err);

    ck_assert((rc == 0) == (snap != NULL));
    ck_assert(rc == 0 || err.text[0] != '\0');
    snapshot_unref(snap);
    return rc;
}

static void same(struct snapshot *snap)
{
    size_t npages;
    const uint8_t *theirs = snapshot_prot(snap, &npages);

    ck_assert_uint_eq(npages, MEMORY / PAGE);
    ck_assert_uint_eq(snapshot_io_size(snap), HL_ABI_IO_SIZE);
    ck_assert_int_eq(memcmp(theirs, built->prot, npages), 0);
    ck_assert_int_eq(memcmp(snap->used, built->used, npages / 8), 0);
    ck_assert_int_eq(memcmp(snapshot_memory(snap), snapshot_memory(built), MEMORY), 0);
    ck_assert_int_eq(
        memcmp(snapshot_linux(snap), snapshot_linux(built), sizeof(header->linux_state)), 0);
    ck_assert_uint_eq(snapshot_regs(snap)->rip, snapshot_regs(built)->rip);
    ck_assert_uint_eq(snapshot_regs(snap)->rsp, snapshot_regs(built)->rsp);
    ck_assert_int_eq(memcmp(snapshot_memory(snap) + mapped, "map", 3), 0);
}

START_TEST(round_trip)
{
    const struct hv_backend *const backends[] = {&hv_backend_fake, &copying};
    const struct snapshot_extent *list;
    struct snapshot *snap;
    struct hl_error err;
    size_t count;

    for (int i = 0; i < 2; i++) {
        int rc = load_with(&snap, backends[i], file_size, &err);

        ck_assert_msg(rc == 0, "%s", err.text);
        same(snap);
        list = snapshot_extents(snap, &count);
        for (size_t j = 0; j < count; j++) {
            ck_assert(backends[i] == &hv_backend_fake || list[j].offset == list[j].start);
            ck_assert(backends[i] == &hv_backend_fake || list[j].fd == snapshot_memfd(snap));
            ck_assert_int_eq(fcntl(list[j].fd, F_GET_SEALS) & SEALS, SEALS);
        }
        snapshot_unref(snap);
    }
}
END_TEST

/* What is loaded can be stored again, byte by byte the same. */
START_TEST(again)
{
    struct hl_error err;
    struct snapshot *snap;
    uint64_t size;
    uint8_t *first;
    size_t first_size = file_size;
    int fd;

    ck_assert_int_eq(load_with(&snap, &hv_backend_fake, file_size, &err), 0);
    ck_assert_int_eq(snapshot_file_write(&fd, &size, snap, &hv_backend_fake, &key, &err), 0);
    first = HL_STEAL(file);
    read_file(fd, size);
    ck_assert_uint_eq(first_size, file_size);
    ck_assert_int_eq(memcmp(first, file, file_size), 0);
    free(first);
    close(fd);
    snapshot_unref(snap);
}
END_TEST

/* A loaded snapshot runs: its machines are at READY, with what start-up left in memory. */
START_TEST(binds)
{
    struct hv_machine *m = NULL;
    struct snapshot *snap;
    struct hl_error err;

    ck_assert_int_eq(load_with(&snap, &hv_backend_fake, file_size, &err), 0);
    ck_assert_int_eq(hv_backend_fake.machine_new(&m, host, MEMORY, &err), 0);
    ck_assert_int_eq(hv_backend_fake.bind(m, snap, &err), 0);
    ck_assert_int_eq(memcmp(fake_memory(m) + mapped, "map", 3), 0);
    ck_assert_uint_eq(fake_memory(m)[HL_ABI_HYPERCALL_ADDR], 0xc3);
    hv_backend_fake.machine_free(m);
    snapshot_unref(snap);
}
END_TEST

/* A machine that was restarted counts from the start again; guests do not see it. */
START_TEST(clock_goes_on)
{
    const uint64_t day = 86400ull * 1000000000u;
    struct snapshot *snap;
    struct hl_error err;

    for (int i = 0; i < 2; i++) {
        header->ready_ns = hv_now_ns() + day;
        ck_assert_int_eq(load_with(&snap, i ? &copying : &hv_backend_fake, file_size, &err), 0);
        ck_assert_uint_le(snapshot_clock_ahead(snap), day);
        ck_assert_uint_gt(snapshot_clock_ahead(snap), day - day / 24);
        snapshot_unref(snap);
        header->ready_ns = 1;
        ck_assert_int_eq(load_with(&snap, i ? &copying : &hv_backend_fake, file_size, &err), 0);
        ck_assert_uint_eq(snapshot_clock_ahead(snap), 0);
        snapshot_unref(snap);
    }
    header->ready_ns = 1ull << 62;
    ck_assert_int_eq(load(), -EBADMSG);
    ck_assert_uint_eq(snapshot_clock_ahead(built), 0);
}
END_TEST

START_TEST(made_for_something_else)
{
    struct snapshot_key good = key;

    key.version[0]++;
    ck_assert_int_eq(load(), -ESTALE);
    key = good;
    key.name[2]++;
    ck_assert_int_eq(load(), -ESTALE);
    key = good;
    key.program[31]++;
    ck_assert_int_eq(load(), -ESTALE);
    key = good;
    key.host[0]++;
    ck_assert_int_eq(load(), -ESTALE);
    key = good;
    options.memory_size += PAGE;
    ck_assert_int_eq(load(), -ESTALE);
    options.memory_size = MEMORY;
    options.io_size -= PAGE;
    ck_assert_int_eq(load(), -ESTALE);
    options.io_size = HL_ABI_IO_SIZE;
    copying.name = "other";
    {
        struct snapshot *snap;
        struct hl_error err;

        ck_assert_int_eq(load_with(&snap, &copying, file_size, &err), -ESTALE);
    }
    ck_assert_int_eq(load(), 0);
}
END_TEST

/* Each byte of the header stands for something. */
START_TEST(every_byte_of_the_header)
{
    for (size_t i = 0; i < sizeof(*header); i++) {
        size_t regs = offsetof(struct snapshot_file_header, regs);
        int rc;

        file[i] ^= 0x80;
        rc = load();
        /* General registers may hold anything: they are the guest's. */
        if (i < regs || i >= regs + offsetof(struct hv_regs, rip))
            ck_assert_msg(rc == -ESTALE || rc == -EBADMSG || i >= regs, "byte %zu: %d", i, rc);
        else
            ck_assert_int_eq(rc, 0);
        if (i >= offsetof(struct snapshot_file_header, data_offset))
            ck_assert_int_eq(rc, -EBADMSG);
        if (i < 8)
            ck_assert_int_eq(rc, -EBADMSG);
        else if (i < regs)
            ck_assert_int_eq(rc, -ESTALE);
        file[i] ^= 0x80;
    }
}
END_TEST

START_TEST(every_length)
{
    struct snapshot *snap;
    struct hl_error err;

    for (size_t len = 0; len < file_size; len += len < header->data_offset ? 1 : 512)
        ck_assert_int_eq(load_with(&snap, &hv_backend_fake, len, &err), -EBADMSG);
    file = realloc(file, file_size + PAGE);
    memset(file + file_size, 0, PAGE);
    ck_assert_int_eq(load_with(&snap, &hv_backend_fake, file_size + PAGE, &err), -EBADMSG);
    ck_assert_int_eq(load_with(&snap, &hv_backend_fake, file_size + 1, &err), -EBADMSG);
}
END_TEST

START_TEST(seals)
{
    const int lacking[] = {0, SEALS & ~F_SEAL_WRITE, SEALS & ~F_SEAL_SHRINK, SEALS & ~F_SEAL_GROW};
    struct snapshot *snap;
    int null = open("/dev/null", O_RDONLY | O_CLOEXEC);

    for (size_t i = 0; i < sizeof(lacking) / sizeof(lacking[0]); i++) {
        _cleanup_close_ int fd = memory_file(file, file_size, lacking[i]);

        ck_assert_int_eq(
            snapshot_file_load(&snap, fd, &hv_backend_fake, host, img, &options, &key, NULL),
            -EBADMSG);
    }
    ck_assert_int_eq(
        snapshot_file_load(&snap, null, &hv_backend_fake, host, img, &options, &key, NULL),
        -EBADMSG);
    close(null);
}
END_TEST

#define REFUSED(change)                                                                            \
    do {                                                                                           \
        uint8_t *good = malloc(file_size);                                                         \
        memcpy(good, file, file_size);                                                             \
        change;                                                                                    \
        ck_assert_int_eq(load(), -EBADMSG);                                                        \
        memcpy(file, good, file_size);                                                             \
        free(good);                                                                                \
        ck_assert_int_eq(load(), 0);                                                               \
    } while (0)

START_TEST(hostile_registers)
{
    REFUSED(header->regs.rip = MEMORY);
    REFUSED(header->regs.rip = UINT64_MAX);
    REFUSED(header->regs.rip = 0x1000);                        /* the machine's own */
    REFUSED(header->regs.rip = header->linux_state.brk_start); /* data */
    REFUSED(header->regs.rflags |= 1u << 12);                  /* IOPL */
    REFUSED(header->regs.rflags |= 1u << 8);                   /* TF */
    REFUSED(header->regs.rflags |= 1u << 17);                  /* VM */
    REFUSED(header->regs.rflags &= ~0x200ull);                 /* IF */
    REFUSED(header->regs.fs_base = 1ull << 47);
    REFUSED(header->regs.gs_base = 0xffff800000000000ull);
    header->regs.rsp = UINT64_MAX; /* a guest may */
    ck_assert_int_eq(load(), 0);
}
END_TEST

START_TEST(hostile_places)
{
    struct linux_state *at = &header->linux_state;

    REFUSED(at->program_start = 0x1000);
    REFUSED(at->program_start += PAGE);
    REFUSED(at->bias = PAGE);
    REFUSED(at->brk_start -= PAGE);
    REFUSED(at->brk = at->brk_start - 1);
    REFUSED(at->brk = at->map_top + 1);
    REFUSED(at->brk = UINT64_MAX);
    REFUSED(at->map_top += PAGE);
    REFUSED(at->stack_start = MEMORY);
    at->brk = at->brk_start;
    ck_assert_int_eq(load(), 0);
}
END_TEST

START_TEST(hostile_extents)
{
    ck_assert_uint_ge(header->nextents, 2);
    REFUSED(extents[0].start = 0);
    REFUSED(extents[0].start = HL_ABI_IO_ADDR);
    REFUSED(extents[0].start = header->linux_state.program_start - PAGE);
    REFUSED(extents[0].start += 1);
    REFUSED(extents[0].start = UINT64_MAX - PAGE + 1);
    REFUSED(extents[0].len = 0);
    REFUSED(extents[0].len -= 1);
    REFUSED(extents[0].len = UINT64_MAX - PAGE + 1);
    REFUSED(extents[0].len += PAGE);
    REFUSED(extents[1].start = extents[0].start);
    REFUSED(extents[1].start = extents[0].start + extents[0].len - PAGE);
    REFUSED(extents[header->nextents - 1].start = MEMORY);
    REFUSED(extents[header->nextents - 1].start =
                MEMORY - extents[header->nextents - 1].len + PAGE);
    REFUSED(header->nextents = SNAPSHOT_EXTENTS_MAX + 1);
    REFUSED(header->nextents = UINT32_MAX);
    REFUSED(header->nextents--);
    REFUSED(header->data_offset += PAGE);
    REFUSED(header->data_offset = 0);
    REFUSED(header->data_offset = UINT64_MAX);
}
END_TEST

/* A run of one page becomes something else, in place of the run it is cut from. */
static void set_page(struct snapshot_file_run *runs, uint32_t *count, uint64_t page, uint32_t value)
{
    uint32_t all[MEMORY / PAGE], n = 0;
    size_t room = header->data_offset - sizeof(*header) - header->nextents * sizeof(*extents);

    for (uint32_t i = 0; i < *count; i++) {
        for (uint32_t j = 0; j < runs[i].pages; j++)
            all[n++] = runs[i].value;
    }
    ck_assert_uint_eq(n, MEMORY / PAGE);
    all[page] = value;
    /* The other list moves: it is kept aside and put back behind or in front. */
    {
        bool is_prot = runs == prot;
        uint32_t nother = is_prot ? header->nused : header->nprot;
        struct snapshot_file_run other[64], mine[64] = {0};
        uint32_t m = 0;

        ck_assert_uint_lt(nother, 64);
        memcpy(other, is_prot ? used : prot, nother * sizeof(other[0]));
        for (uint32_t i = 0; i < n; i++) {
            if (m == 0 || mine[m - 1].value != all[i])
                mine[m++].value = all[i];
            mine[m - 1].pages++;
        }
        ck_assert_uint_le((m + nother) * sizeof(mine[0]), room);
        *count = m;
        used = prot + header->nprot;
        memcpy(is_prot ? prot : used, mine, m * sizeof(mine[0]));
        memcpy(is_prot ? used : prot, other, nother * sizeof(other[0]));
    }
}

#define PAGE_REFUSED(runs, count, page, value)                                                     \
    REFUSED(set_page(runs, &header->count, (page) / PAGE, value));                                 \
    used = prot + header->nprot

START_TEST(hostile_permissions)
{
    const struct linux_state at = header->linux_state;
    const uint32_t wx = HV_PROT_READ | HV_PROT_WRITE | HV_PROT_EXEC;

    PAGE_REFUSED(prot, nprot, at.program_start, wx);
    PAGE_REFUSED(prot, nprot, at.brk_start, wx);
    PAGE_REFUSED(prot, nprot, at.stack_start, wx);
    PAGE_REFUSED(prot, nprot, at.stack_start, HV_PROT_WRITE | HV_PROT_EXEC);
    PAGE_REFUSED(prot, nprot, at.stack_start, 8);
    PAGE_REFUSED(prot, nprot, at.stack_start, 0x80); /* SPACE_WAS_WRITABLE */
    PAGE_REFUSED(prot, nprot, at.stack_start, 0x101);
    PAGE_REFUSED(prot, nprot, at.stack_start, UINT32_MAX);
    PAGE_REFUSED(prot, nprot, 0, HV_PROT_READ);
    PAGE_REFUSED(prot, nprot, PAGE, HV_PROT_READ | HV_PROT_WRITE); /* page tables */
    PAGE_REFUSED(prot, nprot, HL_ABI_HYPERCALL_ADDR, HV_PROT_READ | HV_PROT_WRITE);
    PAGE_REFUSED(prot, nprot, HL_ABI_INFO_ADDR, HV_PROT_READ | HV_PROT_WRITE);
    PAGE_REFUSED(prot, nprot, HL_ABI_INFO_ADDR + PAGE, HV_PROT_READ);
    PAGE_REFUSED(prot, nprot, HL_ABI_IO_ADDR, HV_PROT_READ | HV_PROT_EXEC);
    PAGE_REFUSED(prot, nprot, HL_ABI_IO_ADDR, HV_PROT_NONE);
    PAGE_REFUSED(prot, nprot, at.map_top, HV_PROT_READ | HV_PROT_WRITE);
    PAGE_REFUSED(prot, nprot, at.map_top - 5 * PAGE, HV_PROT_READ | HV_PROT_EXEC); /* free */
    PAGE_REFUSED(used, nused, at.program_start, 1);
    PAGE_REFUSED(used, nused, at.brk_start, 1);
    PAGE_REFUSED(used, nused, at.stack_start, 1);
    PAGE_REFUSED(used, nused, at.map_top, 1);
    PAGE_REFUSED(used, nused, at.map_top - 5 * PAGE, 2);
    set_page(prot, &header->nprot, at.stack_start / PAGE, HV_PROT_NONE); /* a guest may */
    ck_assert_int_eq(load(), 0);
}
END_TEST

START_TEST(hostile_runs)
{
    REFUSED(prot[0].pages++);
    REFUSED(prot[0].pages--);
    REFUSED(prot[0].pages = UINT32_MAX);
    REFUSED(used[0].pages++);
    REFUSED(used[0].pages = UINT32_MAX);
    REFUSED(header->nprot = SNAPSHOT_FILE_RUNS_MAX + 1);
    REFUSED(header->nprot = UINT32_MAX);
    REFUSED(header->nused = UINT32_MAX);
    REFUSED(header->nprot = 0);
    REFUSED(header->nused = 0);
}
END_TEST

/* Whatever comes of it, a snapshot that loads is one that can be stored: it passes the check. */
START_TEST(random_changes)
{
    uint8_t *good = malloc(file_size);
    struct snapshot *snap;
    struct hl_error err;
    unsigned int loaded = 0;

    memcpy(good, file, file_size);
    srandom(1);
    for (int round = 0; round < 3000; round++) {
        size_t head = header->data_offset;

        for (long i = random() % 4; i >= 0; i--)
            file[(size_t)random() % head] = (uint8_t)random();
        if (load_with(&snap, round % 2 ? &copying : &hv_backend_fake, file_size, &err) == 0) {
            uint64_t size;
            int fd;

            loaded++;
            ck_assert_int_eq(snapshot_file_write(&fd, &size, snap, &hv_backend_fake, &key, &err),
                             0);
            close(fd);
            snapshot_unref(snap);
        }
        memcpy(file, good, file_size);
    }
    ck_assert_uint_gt(loaded, 0);
    free(good);
}
END_TEST

START_TEST(failures_leak_nothing)
{
    struct snapshot *snap;
    struct hl_error err;

    fake_fail(FAKE_POPULATE, 1, -ENOMEM);
    ck_assert_int_eq(load_with(&snap, &hv_backend_fake, file_size, &err), -ENOMEM);
    fake_fail(FAKE_POPULATE, 1, -ENOMEM);
    ck_assert_int_eq(load_with(&snap, &copying, file_size, &err), -ENOMEM);
    ck_assert_int_eq(load(), 0);
}
END_TEST

/* More changes of permission than the format holds. */
START_TEST(too_scattered_to_store)
{
    struct snapshot_draft draft;
    struct snapshot *snap;
    struct hl_error err = HL_ERROR_INIT;
    uint64_t size;
    int fd = -1;

    ck_assert_int_eq(snapshot_draft_init(&draft, MEMORY, HL_ABI_IO_SIZE, NULL), 0);
    for (size_t page = 0; page < MEMORY / PAGE; page++)
        draft.prot[page] = page % 2 ? HV_PROT_READ : HV_PROT_NONE;
    ck_assert_int_eq(snapshot_draft_seal(&snap, &draft, NULL), 0);
    ck_assert_int_eq(snapshot_file_write(&fd, &size, snap, &hv_backend_fake, &key, &err),
                     -EOPNOTSUPP);
    ck_assert_int_eq(fd, -1);
    snapshot_unref(snap);
}
END_TEST

/* The same on every CPU, or a snapshot would fit or not by chance. */
START_TEST(features)
{
    struct hv_features a, b;

    snapshot_host_features(&a, &hv_backend_fake, host);
    snapshot_host_features(&b, &hv_backend_fake, host);
    ck_assert_uint_gt(a.count, 5);
    ck_assert_uint_eq(a.count, b.count);
    ck_assert_int_eq(memcmp(a.list, b.list, a.count * sizeof(a.list[0])), 0);
    b = (struct hv_features){0};
    hv_features_add(&b, &(struct hv_feature){.leaf = 1, .ebx = 0xff00ff00, .ecx = 1u << 27});
    hv_features_add(&b, &(struct hv_feature){.leaf = 0xb, .edx = 7});
    ck_assert_uint_eq(b.count, 1);
    ck_assert_uint_eq(b.list[0].ebx, 0xff00);
    ck_assert_uint_eq(b.list[0].ecx, 0);
}
END_TEST

int main(void)
{
    TCase *tc = tcase_create("snapshot_file");

    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 120);
    tcase_add_test(tc, round_trip);
    tcase_add_test(tc, again);
    tcase_add_test(tc, binds);
    tcase_add_test(tc, clock_goes_on);
    tcase_add_test(tc, made_for_something_else);
    tcase_add_test(tc, every_byte_of_the_header);
    tcase_add_test(tc, every_length);
    tcase_add_test(tc, seals);
    tcase_add_test(tc, hostile_registers);
    tcase_add_test(tc, hostile_places);
    tcase_add_test(tc, hostile_extents);
    tcase_add_test(tc, hostile_permissions);
    tcase_add_test(tc, hostile_runs);
    tcase_add_test(tc, random_changes);
    tcase_add_test(tc, failures_leak_nothing);
    tcase_add_test(tc, too_scattered_to_store);
    tcase_add_test(tc, features);
    return tests_run(tc, "snapshot_file");
}
