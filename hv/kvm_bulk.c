/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The bulk window: files that a guest reads without anybody copying them, in a slot of their own,
 * which a machine gets with its first one and keeps until it is unbound. What the slot lies over is
 * address space of this process where usually nothing is mapped. A file is mapped there for the
 * time of a call, which costs the same for any size, because nothing has to be taken away for it:
 * KVM would have to be told of that, page by page. It is told when the file goes, after the call.
 * Where nothing is mapped the guest's access fails, and the guest with it. A reset only notes that
 * the files are no call's any more. Whoever calls again with the same ones finds them, with what
 * KVM has come to know of their pages; others go before the guest is entered, or when somebody
 * finds the time (relax).
 *
 * So the place must be one that no mmap without an address ever gets. Linux looks for those from
 * the top of the address space down, or from a third of it up (legacy layout), and what lies below
 * that third would be the last thing it came to: the windows are there, 8 GiB apart, and above what
 * AddressSanitizer uses.
 *
 * The guest's page tables for the window are the same in all guests: they stand in front of the
 * window in the same slot, a mapping of one file. A snapshot has only the four entries that lead to
 * them, in a page that it needs anyway.
 */

#include "config.h"

#include "hv/kvm_machine.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/io.h"

#define SLOT        1u
#define REGIONS_AT  0x180000000000ull
#define REGION_SIZE 0x200000000ull
#define REGIONS     1024u /* up to 0x1a0000000000 */

#define SEALS (F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)

/* A mapping's length is a multiple of it: of a file of huge pages it could not be taken away in
 * parts. */
#define UNIT HL_ABI_BULK_UNIT

static _Atomic uint64_t taken[REGIONS / 64];

/* Returns: its number, or -ENOBUFS. */
static int region_take(void)
{
    for (unsigned int i = 0; i < REGIONS / 64; i++) {
        uint64_t bits = atomic_load(&taken[i]);

        while (bits != UINT64_MAX) {
            unsigned int bit = (unsigned int)__builtin_ctzll(~bits);

            if (atomic_compare_exchange_weak(&taken[i], &bits, bits | 1ull << bit))
                return (int)(i * 64 + bit);
        }
    }
    return -ENOBUFS;
}

static void region_give_back(int region)
{
    atomic_fetch_and(&taken[region / 64], ~(1ull << (region % 64)));
}

/* The window's place; the tables end where it begins, and nothing is in front of them. */
static uint8_t *region_window(int region)
{
    return (uint8_t *)(uintptr_t)(REGIONS_AT + (uint64_t)region * REGION_SIZE + REGION_SIZE / 2);
}

int kvm_bulk_tables(int *out)
{
    uint8_t tables[KVM_BULK_TABLES_SIZE];
    _cleanup_close_ int fd = memfd_create("hld-bulk-tables", MFD_CLOEXEC | MFD_ALLOW_SEALING);

    if (fd < 0)
        return -errno;
    kvm_tables_bulk(tables);
    if (ftruncate(fd, sizeof(tables)) < 0)
        return -errno;
    if (pwrite(fd, tables, sizeof(tables), 0) != (ssize_t)sizeof(tables))
        return -EIO;
    if (fcntl(fd, F_ADD_SEALS, SEALS) < 0)
        return -errno;
    *out = hl_steal_fd(&fd);
    return 0;
}

static int set_slot(struct hv_machine *m, uint64_t window)
{
    struct kvm_userspace_memory_region region = {
        .slot = SLOT,
        .flags = KVM_MEM_READONLY,
        .guest_phys_addr = KVM_BULK_TABLES_ADDR,
        .memory_size = window > 0 ? KVM_BULK_TABLES_SIZE + window : 0,
        .userspace_addr = (uintptr_t)(m->bulk - KVM_BULK_TABLES_SIZE),
    };
    int r = kvm_ioctl(m->vm_fd, KVM_SET_USER_MEMORY_REGION, &region);

    if (r == 0)
        m->bulk_slot = window;
    return r;
}

static int enter_region(struct hv_machine *m)
{
    int region = region_take();
    uint8_t *window, *tables;

    if (region < 0)
        return region;
    window = region_window(region);
    tables = mmap(window - KVM_BULK_TABLES_SIZE, KVM_BULK_TABLES_SIZE, PROT_READ,
                  MAP_PRIVATE | MAP_FIXED_NOREPLACE, m->host->bulk_tables, 0);
    if (tables == MAP_FAILED) {
        int r = -errno;

        region_give_back(region);
        return r == -EEXIST ? -ENOBUFS : r;
    }
    m->bulk = window;
    m->bulk_region = region;
    return 0;
}

/* The slot is at least as large as the window has to be; a larger one takes the place of one that
 * is too small, whose translations go with it. */
static int make_room(struct hv_machine *m, uint64_t end)
{
    uint64_t size = UNIT;
    int r = 0;

    while (size < end)
        size *= 2;
    if (m->bulk_slot >= size)
        return 0;
    if (!m->bulk)
        r = enter_region(m);
    if (r == 0 && m->bulk_slot > 0)
        r = set_slot(m, 0);
    return r < 0 ? r : set_slot(m, size);
}

static int identify(struct kvm_file *file, int fd)
{
    struct stat st;
    int r = hl_fstat(fd, &st);

    if (r < 0)
        return r;
    file->dev = st.st_dev;
    file->ino = st.st_ino;
    return 0;
}

/* The file that the call before had at the same place, mapped still. A mapped file's numbers are
 * nobody else's. */
static bool is_kept(const struct hv_machine *m, const struct kvm_file *file)
{
    return m->nkept < m->nfiles && memcmp(&m->files[m->nkept], file, sizeof(*file)) == 0;
}

static uint64_t end_of(const struct hv_machine *m, unsigned int n)
{
    return n > 0 ? m->files[n - 1].at + m->files[n - 1].size : 0;
}

int kvm_bulk_settle(struct hv_machine *m)
{
    uint64_t start = end_of(m, m->nkept), end = end_of(m, m->nfiles);

    if (m->nkept == m->nfiles)
        return 0;
    if (munmap(m->bulk + start, end - start) < 0)
        return -errno;
    m->nfiles = m->nkept;
    return 0;
}

int kvm_bulk_detach(struct hv_machine *m)
{
    m->nkept = 0;
    return kvm_bulk_settle(m);
}

static int map_file(struct hv_machine *m, const struct kvm_file *file, int fd)
{
    int r = kvm_bulk_settle(m);
    void *got;

    if (r == 0)
        r = make_room(m, file->at + file->size);
    if (r < 0)
        return r;
    /* Private: kernels before 6.7 refuse a shared mapping of what is sealed. */
    got = mmap(m->bulk + file->at, file->size, PROT_READ, MAP_PRIVATE | MAP_FIXED_NOREPLACE, fd, 0);
    if (got == MAP_FAILED)
        return errno == EEXIST ? -ENOBUFS : -errno;
    m->files[m->nfiles++] = *file;
    m->nkept = m->nfiles;
    return 0;
}

int kvm_attach(struct hv_machine *m, hl_gpa addr, int fd, uint64_t len)
{
    struct kvm_file file = {.at = addr - HL_ABI_BULK_ADDR, .len = len};
    int r;

    if (!m->snap || addr < HL_ABI_BULK_ADDR || file.at % UNIT || file.at < end_of(m, m->nkept) ||
        len == 0 || file.at >= HL_ABI_BULK_SIZE || len > HL_ABI_BULK_SIZE - file.at ||
        m->nkept == HL_ABI_MAX_PARAMS)
        return -EINVAL;
    if (m->host->bulk_tables < 0)
        return -EOPNOTSUPP;
    file.size = (len + UNIT - 1) / UNIT * UNIT;
    r = identify(&file, fd);
    if (r < 0)
        return r;
    if (!is_kept(m, &file))
        return map_file(m, &file, fd);
    m->nkept++;
    return 0;
}

static void leave_region(struct hv_machine *m)
{
    if (munmap(m->bulk - KVM_BULK_TABLES_SIZE, KVM_BULK_TABLES_SIZE + HL_ABI_BULK_SIZE) == 0)
        region_give_back(m->bulk_region);
    m->bulk = NULL;
    m->bulk_slot = 0;
    m->nfiles = m->nkept = 0;
}

int kvm_bulk_unbind(struct hv_machine *m)
{
    int r = m->bulk_slot > 0 ? set_slot(m, 0) : 0;

    if (r == 0 && m->bulk)
        leave_region(m);
    return r;
}

void kvm_bulk_free(struct hv_machine *m)
{
    if (m->bulk)
        leave_region(m);
}
