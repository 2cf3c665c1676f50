/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_HV_KVM_MACHINE_H
#define HL_HV_KVM_MACHINE_H

/* What the files of the kvm backend share. Nothing else includes this. */

#include <errno.h>
#include <linux/kvm.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/ioctl.h>

#include "base/error.h"
#include "guest/hl_abi.h"
#include "hv/backend.h"
#include "hv/snapshot.h"
#include "hv/timer.h"

/* Guest addresses of the machine's own tables; hv/kvm_tables.c says what each is. */
#define KVM_PML4_ADDR  0x1000u
#define KVM_PDPT_ADDR  0x2000u
#define KVM_PD_ADDR    0x3000u
#define KVM_GDT_ADDR   0x4000u
#define KVM_TSS_ADDR   0x4100u
#define KVM_IDT_ADDR   0x5000u
#define KVM_STUB_ADDR  0x6000u
#define KVM_STACK_ADDR 0x7000u
#define KVM_STACK_TOP  0x8000u
#define KVM_PT_ADDR    0x8000u /* page tables, up to the hypercall page */
#define KVM_PT_MAX     ((HL_ABI_HYPERCALL_ADDR - KVM_PT_ADDR) / KVM_PAGE)

/* Page directories of the bulk window, in front of it and not part of a snapshot. */
#define KVM_BULK_TABLES_SIZE (HL_ABI_BULK_SIZE / KVM_SLOT_MAX * KVM_PAGE)
#define KVM_BULK_TABLES_ADDR (HL_ABI_BULK_ADDR - KVM_BULK_TABLES_SIZE)

#define KVM_TSS_LIMIT 0x78u /* 104 bytes, 16 of I/O bitmap (ports 0 to 127), the closing 0xff */
#define KVM_GDT_LIMIT 0x4fu
#define KVM_IDT_LIMIT 0x1ffu /* 32 gates */

/* Linux's selectors. A KVM without hardware under it runs ring 3 on the host's own GDT, so what the
 * guest sees in its segment registers is the same on every kind. */
#define KVM_KERNEL_CS 0x10u
#define KVM_KERNEL_SS 0x18u
#define KVM_USER_SS   0x2bu
#define KVM_USER_CS   0x33u
#define KVM_TSS_SEL   0x40u

#define KVM_PORT_CALL  0x48u /* the one port open to ring 3 */
#define KVM_PORT_FAULT 0x49u /* ring 0's report of an exception, vector in al */

/* In the hypercall page. */
#define KVM_HYPERCALL_OUT (HL_ABI_HYPERCALL_ADDR + 13u)
#define KVM_HYPERCALL_RET (HL_ABI_HYPERCALL_ADDR + 15u)
#define KVM_SYSCALL_ENTRY (HL_ABI_HYPERCALL_ADDR + 32u)
#define KVM_RESTORE_ENTRY (HL_ABI_HYPERCALL_ADDR + 64u)
#define KVM_RESTORE_PROBE (HL_ABI_HYPERCALL_ADDR + 128u) /* a stack whose top is HYPERCALL_OUT */
#define KVM_RESTORE_AREA  (HL_ABI_HYPERCALL_ADDR + 256u) /* KVM_XSAVE_LEGACY bytes */
#define KVM_HYPERCALL_BIT (1ull << 63)

/* XSAVE area: FXSAVE area and header (SDM volume 1, section 13.4). */
#define KVM_XSAVE_LEGACY 576u

#define KVM_PAGE       4096u
#define KVM_LARGE_PAGE 0x200000u
#define KVM_SLOT_MAX   0x40000000u /* one page directory */

#define KVM_USER_RFLAGS  0x244dd5u /* CF PF AF ZF SF TF DF OF NT AC ID: what popf sets in ring 3 */
#define KVM_FIXED_RFLAGS 0x202u    /* bit 1 and IF */
#define KVM_RFLAGS_TF    0x100u

#define KVM_SYNC_ALL (KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS | KVM_SYNC_X86_EVENTS)

#define KVM_DR6_INIT 0xffff0ff0u
#define KVM_DR7_INIT 0x400u

#define KVM_MSRS 6u

/* struct kvm_msrs with room for those that a guest could conceivably reach. */
struct kvm_msr_set {
    struct kvm_msrs head;
    struct kvm_msr_entry entries[KVM_MSRS];
};

struct hv_host {
    int kvm_fd;
    bool owns_fd;
    int run_size;        /* of struct kvm_run's mapping */
    uint64_t xcr0;       /* what guests get */
    uint64_t xsave_mask; /* what reset may write: xcr0, and PKRU where ring 3 has it natively */
    bool has_umip, has_fsgsbase;
    bool restores; /* ring 3 can reset all of xsave_mask by itself */
    struct kvm_cpuid2 *cpuid;
    struct snapshot *empty; /* a guest without a program */
    int bulk_tables;        /* memfd, or -1: no bulk windows */
};

/* Pages in a row that are restored in the same way. */
struct kvm_span {
    uint32_t first, count;
    bool zero; /* zero in the snapshot: cleared, not copied */
};

/* A file in the bulk window: bytes from its start, with the mapping's size; who it is. */
struct kvm_file {
    uint64_t at, size, len;
    uint64_t dev, ino;
};

struct hv_machine {
    struct hv_host *host;
    int vm_fd, vcpu_fd;
    struct kvm_run *run;
    uint8_t *mem; /* slot_size bytes */
    uint64_t slot_size;
    size_t xsave_size;
    uint8_t *xsave_init;         /* xsave_size bytes */
    uint8_t *xsave_audit;        /* as many, for the audit to look at */
    struct kvm_sregs base_sregs; /* of any machine before its snapshot's bases */

    struct kvm_msr_set msrs;

    struct snapshot *snap; /* NULL: a shell */
    uint64_t mem_size, io_size;
    struct kvm_regs ready_regs; /* of the snapshot; rip KVM_RESTORE_ENTRY where restores */
    bool restores;              /* the restore code resets vectors, not an ioctl */
    struct kvm_sregs ready_sregs;
    struct hv_kick kick;
    bool tables_changed; /* by protect: not resettable, and no table comparison at the next bind */
    bool collected;      /* hot no longer has all that differs from the snapshot: not resettable */
    bool debug_touched;  /* the trap flag was seen: DR6 may have changed */

    uint8_t *bulk; /* hv/kvm_bulk.c: the window's place, NULL while it has none */
    int bulk_region;
    uint64_t bulk_slot; /* bytes of the window that KVM knows of */
    struct kvm_file files[HL_ABI_MAX_PARAMS];
    unsigned int nfiles; /* that are mapped */
    unsigned int nkept;  /* of those, the coming call's: it is entered with no others */

    struct kvm_dirty_gfn *ring; /* hv/kvm_ring.c */
    uint32_t ring_next;         /* first entry not taken, modulo their number */
    uint32_t ring_taken;        /* entries taken and not given back */

    /* One bit a page, slot_size / KVM_PAGE of them; hv/kvm_reset.c. */
    uint64_t *hot, *data, *host_map;
    uint64_t hot_words[KVM_SLOT_MAX / KVM_PAGE / 64 / 64]; /* one bit a word of hot: not 0 */
    bool hot_grown;                                        /* since spans were made */
    uint32_t *host_pages; /* host_count of those that host_map has */
    uint32_t host_count;
    struct kvm_span *spans; /* of hot */
    uint32_t span_count;
    uint32_t hot_count, hot_limit;
    uint32_t resets;   /* since hot was emptied */
    uint32_t retained; /* pages no longer in hot that are private copies still */
    uint8_t *state;    /* the allocation behind all of these */
    size_t state_size;
};

static inline size_t kvm_words(const struct hv_machine *m)
{
    return (size_t)(m->slot_size / KVM_PAGE / 64);
}

static inline bool kvm_bit(const uint64_t *map, uint64_t page)
{
    return map[page / 64] >> (page % 64) & 1;
}

/* ioctl, again when a signal came in between: creating a VM or a slot gives up with EINTR, and the
 * kick timer may be ticking. Not for KVM_RUN. Returns: the ioctl's value, or a negative errno. */
static inline int kvm_ioctl(int fd, unsigned long request, const void *arg)
{
    int r;

    do
        r = ioctl(fd, request, arg);
    while (r < 0 && errno == EINTR);
    return r < 0 ? -errno : r;
}

/* kvm.c */
int kvm_enter(struct hv_machine *m); /* Returns: 0 when the guest left; -EINTR, or another errno */
int kvm_run_restore(struct hv_machine *m);

/* kvm_setup.c */
int kvm_setup_host(struct hv_host *host, struct hl_error *err);
int kvm_setup_vcpu(struct hv_machine *m, struct hl_error *err);
int kvm_check_extensions(int kvm_fd, struct hl_error *err);
void kvm_features(struct hv_host *host, struct hv_features *out);
void kvm_user_segments(struct kvm_sregs *sregs);
void kvm_vectors_fill(uint8_t *area);
int kvm_clear_vectors(struct hv_machine *m);
int kvm_clear_debug(struct hv_machine *m);
int kvm_read_msrs(struct hv_machine *m, struct kvm_msr_set *msrs);

/* kvm_tables.c */
int kvm_tables_fill(uint8_t *low, const uint8_t *prot, size_t npages, struct hl_error *err);
int kvm_tables_protect(uint8_t *low, uint64_t first, uint64_t count, enum hv_prot prot);
bool kvm_tables_restore(const uint8_t *memory);
bool kvm_tables_same(const uint8_t *a, const uint8_t *b);
void kvm_tables_bulk(uint8_t tables[KVM_BULK_TABLES_SIZE]);

/* kvm_memory.c */
int kvm_slot_set(struct hv_machine *m, bool present);
int kvm_slot_drop_shadow(struct hv_machine *m);
int kvm_memory_clear(struct hv_machine *m);
int kvm_memory_map(struct hv_machine *m, struct snapshot *snap, bool clean, struct hl_error *err);
int kvm_mem_read(struct hv_machine *m, hl_gpa addr, void *buf, size_t len);
int kvm_mem_write(struct hv_machine *m, hl_gpa addr, const void *buf, size_t len);
uint8_t *kvm_io_window(struct hv_machine *m);
void kvm_io_dirty(struct hv_machine *m, size_t offset, size_t len);
int kvm_protect(struct hv_machine *m, hl_gpa addr, uint64_t len, enum hv_prot prot);

/* kvm_bulk.c */
int kvm_bulk_tables(int *out); /* memfd with the window's tables */
int kvm_attach(struct hv_machine *m, hl_gpa addr, int fd, uint64_t len);
int kvm_bulk_settle(struct hv_machine *m); /* unmaps what is not the coming call's */
int kvm_bulk_detach(struct hv_machine *m);
int kvm_bulk_unbind(struct hv_machine *m);
void kvm_bulk_free(struct hv_machine *m); /* after the VM */

/* kvm_ring.c */
int kvm_ring_enable(struct hv_machine *m, struct hl_error *err);
int kvm_ring_map(struct hv_machine *m, struct hl_error *err);
void kvm_ring_unmap(struct hv_machine *m);
int kvm_ring_take(struct hv_machine *m, bool keep); /* keep: into the hot set */
bool kvm_ring_nearly_full(const struct hv_machine *m);
int kvm_ring_give_back(struct hv_machine *m); /* protects the pages of all entries taken */

/* kvm_reset.c */
int kvm_reset_new(struct hv_machine *m);
void kvm_reset_free(struct hv_machine *m);
int kvm_reset_bind(struct hv_machine *m);
int kvm_reset_forget(struct hv_machine *m);
void kvm_hot_add(struct hv_machine *m, uint64_t page);
void kvm_reset_registers(struct hv_machine *m);
void kvm_host_wrote(struct hv_machine *m, hl_gpa addr, size_t len);
int kvm_reset(struct hv_machine *m, unsigned int skip, uint64_t *pages);
int kvm_rewind(struct hv_machine *m);
int kvm_collect(struct hv_machine *m, void (*written)(void *opaque, uint64_t page), void *opaque);

/* kvm_audit.c */
int kvm_flush_registers(struct hv_machine *m);
int kvm_audit(struct hv_machine *m, struct hl_error *err);

/* kvm_measure.c */
int kvm_measure_entry(struct hv_host *host, unsigned int n, uint32_t *ns, struct hl_error *err);

#endif
