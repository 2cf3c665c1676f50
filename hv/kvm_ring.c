/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which pages a guest has written, from KVM's dirty ring: an entry for each page at the moment it
 * becomes writable to the guest, and no other until it is write-protected again. That happens to
 * the pages of the entries taken when the ring is given back (KVM_RESET_DIRTY_RINGS), and to any
 * page that the host's kernel moves; then it is told twice, which does no harm.
 *
 * So entries are taken after a call, at the cost of looking at one word when there is none, and the
 * ring is given back seldom: a page once told stays in the hot set (hv/kvm_reset.c). A bitmap of
 * the whole slot would have to be copied and compared every time, at a cost that grows with the
 * guest.
 *
 * The ring is kernel memory, 16 bytes an entry. RING_ENTRIES is the power of two that holds the
 * largest hot set once, the second telling of some of it, and the part the kernel keeps free (64,
 * and 512 more where the processor logs by itself): 128 KiB, a fifth of what a VM costs the kernel
 * anyway. When a call fills it all the same, KVM_RUN says so, and goes on once there is room.
 */

#include "hv/kvm_machine.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#define RING_ENTRIES 8192u
#define RING_SIZE    (RING_ENTRIES * sizeof(struct kvm_dirty_gfn))
#define STALLS_MAX   64u

/* Before the vCPU is created. */
int kvm_ring_enable(struct hv_machine *m, struct hl_error *err)
{
    struct kvm_enable_cap cap = {.cap = KVM_CAP_DIRTY_LOG_RING, .args = {RING_SIZE}};
    int r = kvm_ioctl(m->vm_fd, KVM_ENABLE_CAP, &cap);

    return r < 0 ? hl_error_set(err, r, "KVM_CAP_DIRTY_LOG_RING: %s", strerror(-r)) : 0;
}

int kvm_ring_map(struct hv_machine *m, struct hl_error *err)
{
    void *ring = mmap(NULL, RING_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, m->vcpu_fd,
                      (off_t)KVM_DIRTY_LOG_PAGE_OFFSET * KVM_PAGE);

    if (ring == MAP_FAILED)
        return hl_error_set(err, -errno, "mapping the dirty ring: %s", strerror(errno));
    m->ring = ring;
    return 0;
}

void kvm_ring_unmap(struct hv_machine *m)
{
    if (m->ring)
        munmap(m->ring, RING_SIZE);
}

/* Entries are the kernel's until it sets DIRTY, ours until we set RESET. */
int kvm_ring_take(struct hv_machine *m, bool keep)
{
    for (;;) {
        struct kvm_dirty_gfn *entry = &m->ring[m->ring_next % RING_ENTRIES];
        uint32_t flags = __atomic_load_n(&entry->flags, __ATOMIC_ACQUIRE);

        if ((flags & KVM_DIRTY_GFN_F_MASK) != KVM_DIRTY_GFN_F_DIRTY)
            return 0;
        if (entry->slot != 0 || entry->offset >= m->slot_size / KVM_PAGE)
            return -EPROTO;
        if (keep)
            kvm_hot_add(m, entry->offset);
        __atomic_store_n(&entry->flags, KVM_DIRTY_GFN_F_RESET, __ATOMIC_RELEASE);
        m->ring_next++;
        m->ring_taken++;
    }
}

bool kvm_ring_nearly_full(const struct hv_machine *m)
{
    return m->ring_taken > RING_ENTRIES / 8 * 7;
}

/* A signal makes the kernel stop in the middle, with what it has done so far. */
int kvm_ring_give_back(struct hv_machine *m)
{
    unsigned int stalls = 0;

    while (m->ring_taken > 0) {
        int r = kvm_ioctl(m->vm_fd, KVM_RESET_DIRTY_RINGS, NULL);

        if (r < 0)
            return r;
        if ((uint32_t)r > m->ring_taken || (r == 0 && ++stalls > STALLS_MAX))
            return -EPROTO;
        m->ring_taken -= (uint32_t)r;
    }
    return 0;
}
