/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Guest memory on the host's side. The slot is one private mapping whose address and size never
 * change; binding lays the snapshot's memory files over it, extent by extent, with anonymous memory
 * between them. KVM learns of the new pages from the kernel's memory notifiers.
 *
 * Page tables are the exception. A KVM that shadows them (no hardware paging) has built its own
 * from the contents of the old ones, write-protects those against the guest, and does not see the
 * host replace them. What it built is dropped with the slot, so the slot is deleted and created
 * anew whenever the tables' contents change under it. Hardware paging walks the new tables by
 * itself; there the same step flushes the TLB.
 */

#include "hv/kvm_machine.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

int kvm_slot_set(struct hv_machine *m, bool present)
{
    struct kvm_userspace_memory_region region = {
        .flags = KVM_MEM_LOG_DIRTY_PAGES,
        .memory_size = present ? m->slot_size : 0,
        .userspace_addr = (uintptr_t)m->mem,
    };

    return kvm_ioctl(m->vm_fd, KVM_SET_USER_MEMORY_REGION, &region);
}

int kvm_slot_drop_shadow(struct hv_machine *m)
{
    int r = kvm_slot_set(m, false);

    return r < 0 ? r : kvm_slot_set(m, true);
}

static int map_extents(struct hv_machine *m, struct snapshot *snap)
{
    size_t count;
    const struct snapshot_extent *extents = snapshot_extents(snap, &count);

    memset(m->data, 0, kvm_words(m) * sizeof(*m->data));
    for (size_t i = 0; i < count; i++) {
        uint64_t start = extents[i].start, len = extents[i].len;

        if (start % KVM_PAGE || len % KVM_PAGE || len > m->mem_size || start > m->mem_size - len)
            return -EINVAL;
        if (mmap(m->mem + start, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED,
                 extents[i].fd, (off_t)extents[i].offset) == MAP_FAILED)
            return -errno;
        for (uint64_t page = start / KVM_PAGE; page < (start + len) / KVM_PAGE;) {
            if (page % 64 == 0 && (start + len) / KVM_PAGE - page >= 64) {
                m->data[page / 64] = UINT64_MAX;
                page += 64;
            } else {
                m->data[page / 64] |= 1ull << (page % 64);
                page++;
            }
        }
    }
    return 0;
}

/* All of the slot zero, its pages the system's again. */
int kvm_memory_clear(struct hv_machine *m)
{
    return mmap(m->mem, m->slot_size, PROT_READ | PROT_WRITE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED
               ? -errno
               : 0;
}

/* clean: all of the slot is zero. To map over a large slot costs KVM a look at each of its pages.
 */
int kvm_memory_map(struct hv_machine *m, struct snapshot *snap, bool clean, struct hl_error *err)
{
    int r = clean ? 0 : kvm_memory_clear(m);

    if (r < 0)
        return hl_error_set(err, r, "mapping %llu bytes of guest memory: %s",
                            (unsigned long long)m->slot_size, strerror(-r));
    r = map_extents(m, snap);
    if (r < 0)
        return hl_error_set(err, r, "mapping a snapshot: %s", strerror(-r));
    return 0;
}

static bool in_range(const struct hv_machine *m, hl_gpa addr, size_t len)
{
    return m->snap && addr <= m->mem_size && len <= m->mem_size - addr;
}

int kvm_mem_read(struct hv_machine *m, hl_gpa addr, void *buf, size_t len)
{
    if (!in_range(m, addr, len))
        return -EFAULT;
    memcpy(buf, m->mem + addr, len);
    return 0;
}

int kvm_mem_write(struct hv_machine *m, hl_gpa addr, const void *buf, size_t len)
{
    if (!in_range(m, addr, len) || addr < HL_ABI_HYPERCALL_ADDR)
        return -EFAULT;
    memcpy(m->mem + addr, buf, len);
    kvm_host_wrote(m, addr, len);
    return 0;
}

uint8_t *kvm_io_window(struct hv_machine *m)
{
    return m->mem + HL_ABI_IO_ADDR;
}

void kvm_io_dirty(struct hv_machine *m, size_t offset, size_t len)
{
    if (offset > m->io_size)
        return;
    if (len > m->io_size - offset)
        len = m->io_size - offset;
    kvm_host_wrote(m, HL_ABI_IO_ADDR + offset, len);
}

int kvm_protect(struct hv_machine *m, hl_gpa addr, uint64_t len, enum hv_prot prot)
{
    int r;

    if (addr % KVM_PAGE || len % KVM_PAGE || addr < HL_ABI_IO_ADDR || !in_range(m, addr, len) ||
        ((prot & HV_PROT_WRITE) && (prot & HV_PROT_EXEC)))
        return -EINVAL;
    if (len == 0)
        return 0;
    m->tables_changed = true;
    r = kvm_tables_protect(m->mem, addr / KVM_PAGE, len / KVM_PAGE, prot);
    return r < 0 ? r : kvm_slot_drop_shadow(m);
}
