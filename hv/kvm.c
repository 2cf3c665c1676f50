/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The kvm backend: machines on /dev/kvm. A machine is a VM with one slot and one vCPU, no
 * interrupt controller, its guest in ring 3 for good (hv/kvm_tables.c says what ring 0 holds).
 *
 * The guest leaves by `out` on one port. What it wants is in rax: with bit 63 a hypercall, without
 * a system call that came by way of SYSCALL. Registers travel in the kvm_run page in both
 * directions (KVM_CAP_SYNC_REGS), so a call needs no ioctl but KVM_RUN. The guest may do the same
 * `out` from any place of its own with any registers; all it can gain is to be resumed elsewhere in
 * ring 3. RIP after an `out` is never trusted (some kernels have advanced it, some do so on the
 * next entry): it is set, from constants or from the rcx that SYSCALL left.
 *
 * On hardware SYSCALL has entered ring 0 when it reaches the `out`; without hardware paging it has
 * not. The way back sets ring 3's segments wherever they are not there already.
 */

#include "hv/kvm_machine.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "hv/snapshot_internal.h"

#define VECTORS_WITH_ERROR_CODE 0x60227d00u  /* 8 10-14 17 21 29 30 */
#define TSS_ADDR_OUTSIDE        0xfffbd000ul /* where old Intel CPUs keep a real-mode TSS */

static int open_device(struct hl_error *err)
{
    int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);

    if (fd < 0)
        return hl_error_set(err, -errno, "/dev/kvm: %s", strerror(errno));
    return fd;
}

static int kvm_probe(struct hl_error *err)
{
    _cleanup_close_ int fd = open_device(err);
    _cleanup_close_ int vm = -1;
    int r;

    if (fd < 0)
        return fd;
    r = kvm_check_extensions(fd, err);
    if (r < 0)
        return r;
    vm = kvm_ioctl(fd, KVM_CREATE_VM, NULL);
    if (vm < 0)
        return hl_error_set(err, vm, "/dev/kvm: KVM_CREATE_VM: %s", strerror(-vm));
    return 0;
}

static void kvm_host_close(struct hv_host *host)
{
    if (!host)
        return;
    if (host->owns_fd && host->kvm_fd >= 0)
        close(host->kvm_fd);
    snapshot_unref(host->empty);
    hl_cleanup_closep(&host->bulk_tables);
    free(host->cpuid);
    free(host);
}

HL_DEFINE_CLEANUP(struct hv_host *, kvm_host_close)

/* The machine's own pages and no program. */
static int empty_guest(struct snapshot **out, struct hl_error *err)
{
    _cleanup_(snapshot_draft_fini) struct snapshot_draft draft = SNAPSHOT_DRAFT_INIT;
    int r = snapshot_draft_init(&draft, HL_ABI_IO_ADDR, 0, err);

    if (r < 0)
        return r;
    draft.prot[HL_ABI_HYPERCALL_ADDR / KVM_PAGE] = HV_PROT_READ | HV_PROT_EXEC;
    draft.regs.rip = KVM_RESTORE_ENTRY;
    r = kvm_tables_fill(draft.memory, draft.prot, draft.npages, err);
    return r < 0 ? r : snapshot_draft_seal(out, &draft, err);
}

static int kvm_host_open(struct hv_host **out, const struct hv_host_config *config,
                         struct hl_error *err)
{
    _cleanup_(kvm_host_closep) struct hv_host *host = calloc(1, sizeof(*host));
    int r;

    *out = NULL;
    if (!host)
        return -ENOMEM;
    host->bulk_tables = -1;
    host->owns_fd = config->kvm_fd < 0;
    host->kvm_fd = host->owns_fd ? open_device(err) : config->kvm_fd;
    if (host->kvm_fd < 0)
        return host->kvm_fd;
    r = kvm_check_extensions(host->kvm_fd, err);
    if (r == 0)
        r = kvm_setup_host(host, err);
    if (r == 0)
        r = empty_guest(&host->empty, err);
    if (r < 0)
        return r;
    if (kvm_ioctl(host->kvm_fd, KVM_CHECK_EXTENSION, (const void *)KVM_CAP_READONLY_MEM) > 0)
        r = kvm_bulk_tables(&host->bulk_tables);
    if (r < 0)
        return hl_error_set(err, r, "tables of the bulk window: %s", strerror(-r));
    *out = HL_STEAL(host);
    return 0;
}

static int kvm_populate(struct hv_host *host, uint8_t *low, const uint8_t *prot, size_t npages,
                        struct hl_error *err)
{
    (void)host;
    return kvm_tables_fill(low, prot, npages, err);
}

static void kvm_machine_free(struct hv_machine *m)
{
    if (!m)
        return;
    kvm_ring_unmap(m);
    if (m->run)
        munmap(m->run, (size_t)m->host->run_size);
    if (m->vcpu_fd >= 0)
        close(m->vcpu_fd);
    if (m->vm_fd >= 0)
        close(m->vm_fd);
    if (m->mem)
        munmap(m->mem, m->slot_size);
    kvm_bulk_free(m);
    kvm_reset_free(m);
    free(m->xsave_init);
    snapshot_unref(m->snap);
    free(m);
}

HL_DEFINE_CLEANUP(struct hv_machine *, kvm_machine_free)

static int create_vm(struct hv_machine *m, struct hl_error *err)
{
    int size, r;

    m->vm_fd = kvm_ioctl(m->host->kvm_fd, KVM_CREATE_VM, NULL);
    if (m->vm_fd < 0)
        return hl_error_set(err, m->vm_fd, "KVM_CREATE_VM: %s", strerror(-m->vm_fd));
    r = kvm_ring_enable(m, err);
    if (r < 0)
        return r;
    (void)kvm_ioctl(m->vm_fd, KVM_SET_TSS_ADDR, (const void *)TSS_ADDR_OUTSIDE);
    size = kvm_ioctl(m->vm_fd, KVM_CHECK_EXTENSION, (const void *)KVM_CAP_XSAVE2);
    m->xsave_size = size > (int)sizeof(struct kvm_xsave) ? (size_t)size : sizeof(struct kvm_xsave);
    m->xsave_init = calloc(2, m->xsave_size);
    if (!m->xsave_init)
        return -ENOMEM;
    m->xsave_audit = m->xsave_init + m->xsave_size;
    return 0;
}

static int create_vcpu(struct hv_machine *m, struct hl_error *err)
{
    void *run;
    int r;

    m->vcpu_fd = kvm_ioctl(m->vm_fd, KVM_CREATE_VCPU, NULL);
    if (m->vcpu_fd < 0)
        return hl_error_set(err, m->vcpu_fd, "KVM_CREATE_VCPU: %s", strerror(-m->vcpu_fd));
    run = mmap(NULL, (size_t)m->host->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, m->vcpu_fd, 0);
    if (run == MAP_FAILED)
        return hl_error_set(err, -errno, "mapping kvm_run: %s", strerror(errno));
    m->run = run;
    r = kvm_ring_map(m, err);
    return r < 0 ? r : kvm_setup_vcpu(m, err);
}

static int create_memory(struct hv_machine *m, struct hl_error *err)
{
    void *mem = mmap(NULL, m->slot_size, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    int r;

    if (mem == MAP_FAILED)
        return hl_error_set(err, -errno, "guest memory of %llu bytes: %s",
                            (unsigned long long)m->slot_size, strerror(errno));
    m->mem = mem;
    r = kvm_reset_new(m);
    if (r == 0)
        r = kvm_slot_set(m, true);
    if (r < 0)
        return hl_error_set(err, r, "memory slot: %s", strerror(-r));
    return 0;
}

static void take_registers(struct hv_machine *m, const struct hv_regs *regs)
{
    m->ready_regs = (struct kvm_regs){
        .rax = regs->rax,
        .rbx = regs->rbx,
        .rcx = regs->rcx,
        .rdx = regs->rdx,
        .rsi = regs->rsi,
        .rdi = regs->rdi,
        .rsp = regs->rsp,
        .rbp = regs->rbp,
        .r8 = regs->r8,
        .r9 = regs->r9,
        .r10 = regs->r10,
        .r11 = regs->r11,
        .r12 = regs->r12,
        .r13 = regs->r13,
        .r14 = regs->r14,
        .r15 = regs->r15,
        .rip = regs->rip,
        .rflags = (regs->rflags & KVM_USER_RFLAGS) | KVM_FIXED_RFLAGS,
    };
    /* A guest that waits behind a hypercall goes by way of the code that resets its vectors. */
    m->restores = m->host->restores && regs->rip == KVM_HYPERCALL_RET &&
                  kvm_tables_restore(snapshot_memory(m->snap));
    if (m->restores)
        m->ready_regs.rip = KVM_RESTORE_ENTRY;
    m->ready_sregs = m->base_sregs;
    m->ready_sregs.fs.base = regs->fs_base;
    m->ready_sregs.gs.base = regs->gs_base;
}

static bool canonical(uint64_t addr)
{
    return (uint64_t)((int64_t)(addr << 16) >> 16) == addr;
}

static int check_snapshot(const struct hv_machine *m, struct snapshot *snap, struct hl_error *err)
{
    const struct hv_regs *regs = snapshot_regs(snap);
    uint64_t size = snapshot_size(snap), io = snapshot_io_size(snap);

    if (size > m->slot_size || size % KVM_PAGE || size < HL_ABI_IO_ADDR || io % KVM_PAGE ||
        io > size - HL_ABI_IO_ADDR)
        return hl_error_set(err, -EINVAL, "snapshot of %llu bytes does not fit a slot of %llu",
                            (unsigned long long)size, (unsigned long long)m->slot_size);
    if (!canonical(regs->fs_base) || !canonical(regs->gs_base) || regs->rip >= size)
        return hl_error_set(err, -EINVAL, "snapshot's registers are out of range");
    return 0;
}

static int kvm_bind(struct hv_machine *m, struct snapshot *snap, struct hl_error *err)
{
    struct snapshot *old = m->snap;
    bool drop =
        m->tables_changed ||
        (old && old != snap && !kvm_tables_same(snapshot_memory(old), snapshot_memory(snap)));
    bool clean = !old && !m->tables_changed; /* a shell, not one that a failed bind has left */
    int r = check_snapshot(m, snap, err);

    if (r < 0)
        return r;
    m->tables_changed = true; /* until all of this has succeeded */
    m->mem_size = snapshot_size(snap);
    m->io_size = snapshot_io_size(snap);
    r = kvm_bulk_detach(m);
    if (r < 0)
        return hl_error_set(err, r, "detaching files: %s", strerror(-r));
    r = kvm_memory_map(m, snap, clean, err);
    if (r < 0)
        return r;
    m->snap = snapshot_ref(snap);
    if (drop)
        r = kvm_slot_drop_shadow(m);
    if (r == 0)
        r = kvm_reset_bind(m);
    if (r == 0 && m->debug_touched)
        r = kvm_clear_debug(m);
    take_registers(m, snapshot_regs(snap));
    if (r == 0 && !m->restores)
        r = kvm_clear_vectors(m);
    snapshot_unref(old);
    if (r < 0)
        return hl_error_set(err, r, "binding a machine: %s", strerror(-r));

    m->debug_touched = false;
    memset(&m->run->s.regs.sregs, 0, sizeof(m->run->s.regs.sregs)); /* unknown: differs */
    kvm_reset_registers(m);
    hv_kick_init(&m->kick, &m->run->immediate_exit);
    m->tables_changed = false;
    return 0;
}

int kvm_enter(struct hv_machine *m)
{
    int r = 0;

    while (r == 0) {
        if (ioctl(m->vcpu_fd, KVM_RUN, 0) < 0)
            return -errno;
        if (m->run->exit_reason != KVM_EXIT_DIRTY_RING_FULL)
            return 0;
        r = kvm_ring_take(m, true);
        if (r == 0)
            r = m->ring_taken > 0 ? kvm_ring_give_back(m) : -EPROTO;
    }
    return r;
}

/* From rip, which is the restore code's entry, to the `out` that it returns to by way of a stack of
 * its own. Returns: 0; -EPROTO when it went elsewhere. */
int kvm_run_restore(struct hv_machine *m)
{
    struct kvm_regs *regs = &m->run->s.regs.regs;
    int r;

    regs->rsp = KVM_RESTORE_PROBE;
    regs->rflags = KVM_FIXED_RFLAGS; /* a trap flag of the guest's would stop it */
    m->run->kvm_dirty_regs |= KVM_SYNC_X86_REGS;
    do
        r = kvm_enter(m);
    while (r == -EINTR);
    if (r == 0 && (m->run->exit_reason != KVM_EXIT_IO || m->run->io.port != KVM_PORT_CALL))
        r = -EPROTO;
    return r;
}

/* Off any call's path, so all is put back at once. The slot is made anew, and with it go the
 * translations of this image's tables: the next bind need not compare them. */
static int kvm_unbind(struct hv_machine *m)
{
    struct snapshot *snap = HL_STEAL(m->snap);
    int r = kvm_slot_set(m, false);

    if (r == 0)
        r = kvm_bulk_unbind(m);
    if (r == 0)
        r = kvm_memory_clear(m);
    if (r == 0)
        r = kvm_slot_set(m, true);
    if (r == 0)
        r = kvm_reset_forget(m);
    if (r == 0)
        r = kvm_clear_vectors(m);
    if (r == 0)
        r = kvm_clear_debug(m);
    m->mem_size = m->io_size = 0;
    m->ready_regs = (struct kvm_regs){.rflags = KVM_FIXED_RFLAGS};
    m->ready_sregs = m->base_sregs;
    memset(&m->run->s.regs.sregs, 0, sizeof(m->run->s.regs.sregs)); /* unknown: differs */
    kvm_reset_registers(m);
    if (r == 0)
        r = kvm_flush_registers(m);
    m->debug_touched = m->tables_changed = m->restores = false;
    snapshot_unref(snap);
    return r;
}

/* A vCPU's first entry is dearer than all later ones, so it is made here, ahead of need, in a
 * guest that holds nothing but the machine's own pages. */
static int enter_once(struct hv_machine *m, struct hl_error *err)
{
    int r = kvm_bind(m, m->host->empty, err);

    if (r < 0)
        return r;
    r = kvm_run_restore(m);
    if (r == 0)
        r = kvm_unbind(m);
    return r < 0 ? hl_error_set(err, r, "a machine's first entry: %s", strerror(-r)) : 0;
}

static int kvm_machine_new(struct hv_machine **out, struct hv_host *host, uint64_t slot_size,
                           struct hl_error *err)
{
    _cleanup_(kvm_machine_freep) struct hv_machine *m = NULL;
    int r;

    *out = NULL;
    if (slot_size == 0 || slot_size % KVM_LARGE_PAGE || slot_size > KVM_SLOT_MAX)
        return hl_error_set(err, -EINVAL,
                            "slot of %llu bytes: kvm takes multiples of 2 MiB to 1 GiB",
                            (unsigned long long)slot_size);
    m = calloc(1, sizeof(*m));
    if (!m)
        return -ENOMEM;
    m->host = host;
    m->vm_fd = m->vcpu_fd = -1;
    m->slot_size = slot_size;
    r = create_vm(m, err);
    if (r == 0)
        r = create_memory(m, err);
    if (r == 0)
        r = create_vcpu(m, err);
    if (r == 0)
        r = enter_once(m, err);
    if (r < 0)
        return r;
    hv_kick_init(&m->kick, &m->run->immediate_exit);
    *out = HL_STEAL(m);
    return 0;
}

static void died(struct hv_machine *m, struct hv_exit *exit)
{
    exit->kind = HV_EXIT_FAULT;
    m->debug_touched = true;
    exit->fault.vector = HV_VECTOR_DIED;
    exit->fault.error_code = m->run->exit_reason;
    exit->fault.rip = m->run->s.regs.regs.rip;
    if (m->run->exit_reason == KVM_EXIT_MMIO)
        exit->fault.address = m->run->mmio.phys_addr;
}

/* The frame lies below the top of the exception stack: SS RSP RFLAGS CS RIP, then the error code
 * where the vector has one (SDM volume 3, section 6.14.2). */
static void fault(struct hv_machine *m, struct hv_exit *exit)
{
    const struct kvm_sync_regs *sync = &m->run->s.regs;
    uint64_t error_code = 0;

    exit->kind = HV_EXIT_FAULT;
    m->debug_touched = true;
    exit->fault.vector = (uint8_t)sync->regs.rax;
    memcpy(&exit->fault.rip, m->mem + KVM_STACK_TOP - 40, sizeof(exit->fault.rip));
    if (exit->fault.vector < 32 && VECTORS_WITH_ERROR_CODE >> exit->fault.vector & 1)
        memcpy(&error_code, m->mem + KVM_STACK_TOP - 48, sizeof(error_code));
    exit->fault.error_code = (uint32_t)error_code;
    if (exit->fault.vector == 14)
        exit->fault.address = sync->sregs.cr2;
}

/* Sets what the next entry finds; rax is set_return's. */
static void resume_at(struct hv_machine *m, uint64_t rip, uint64_t rflags)
{
    struct kvm_sync_regs *sync = &m->run->s.regs;

    sync->regs.rip = rip;
    sync->regs.rflags = (rflags & KVM_USER_RFLAGS) | KVM_FIXED_RFLAGS;
    m->run->kvm_dirty_regs |= KVM_SYNC_X86_REGS;
    if (rflags & KVM_RFLAGS_TF)
        m->debug_touched = true;
    if (sync->sregs.cs.dpl != 3 || sync->sregs.ss.dpl != 3) {
        kvm_user_segments(&sync->sregs);
        m->run->kvm_dirty_regs |= KVM_SYNC_X86_SREGS;
    }
}

static void left_by_port(struct hv_machine *m, struct hv_exit *exit)
{
    const struct kvm_regs *regs = &m->run->s.regs.regs;

    /* Codes have 32 bits, so that a negative number of a system call is none. */
    if (regs->rax >> 32 == KVM_HYPERCALL_BIT >> 32) {
        exit->kind = HV_EXIT_HYPERCALL;
        exit->nr = regs->rax & ~KVM_HYPERCALL_BIT;
        exit->args[0] = regs->rsi;
        exit->args[1] = regs->rdx;
        exit->args[2] = regs->rcx;
        resume_at(m, KVM_HYPERCALL_RET, regs->rflags);
        return;
    }
    exit->kind = HV_EXIT_SYSCALL;
    exit->nr = regs->rax;
    exit->args[0] = regs->rdi;
    exit->args[1] = regs->rsi;
    exit->args[2] = regs->rdx;
    exit->args[3] = regs->r10;
    exit->args[4] = regs->r8;
    exit->args[5] = regs->r9;
    /* Only an `out` of the guest's own has an rcx that is no address: going there is a fault. */
    if (regs->rcx >= m->mem_size) {
        exit->kind = HV_EXIT_FAULT;
        exit->fault = (struct hv_fault){.vector = 13, .rip = regs->rcx};
        return;
    }
    resume_at(m, regs->rcx, regs->r11);
}

static void decode(struct hv_machine *m, struct hv_exit *exit)
{
    const struct kvm_run *run = m->run;

    memset(exit, 0, sizeof(*exit));
    if (run->s.regs.events.exception.pending || run->s.regs.events.exception.injected)
        m->debug_touched = true;
    if (run->exit_reason != KVM_EXIT_IO || run->io.direction != KVM_EXIT_IO_OUT ||
        run->io.size != 1 || run->io.count != 1)
        died(m, exit);
    else if (run->io.port == KVM_PORT_CALL)
        left_by_port(m, exit);
    else if (run->io.port == KVM_PORT_FAULT)
        fault(m, exit);
    else
        died(m, exit);
}

static int machine_run(struct hv_machine *m, uint64_t until_ns, struct hv_exit *exit)
{
    int r;

    if (!m->snap)
        return -EINVAL;
    r = kvm_bulk_settle(m);
    if (r < 0)
        return r;
    hv_kick_begin(&m->kick, until_ns);
    for (;;) {
        r = kvm_enter(m);
        if (r != -EINTR)
            break;
        if (hv_kick_due(&m->kick)) {
            hv_kick_end(&m->kick);
            memset(exit, 0, sizeof(*exit));
            exit->kind = HV_EXIT_KICKED;
            return 0;
        }
    }
    hv_kick_end(&m->kick);
    if (r == -EFAULT && m->bulk_slot > 0) {
        /* Where no file is, or a page of one that cannot be had. */
        memset(exit, 0, sizeof(*exit));
        died(m, exit);
        return 0;
    }
    if (r == 0)
        decode(m, exit);
    return r;
}

static void kvm_set_return(struct hv_machine *m, uint64_t value)
{
    m->run->s.regs.regs.rax = value;
    m->run->kvm_dirty_regs |= KVM_SYNC_X86_REGS;
}

static int kvm_get_regs(struct hv_machine *m, struct hv_regs *regs)
{
    const struct kvm_regs *from = &m->run->s.regs.regs;

    if (!m->snap)
        return -EINVAL;
    *regs = (struct hv_regs){
        .rax = from->rax,
        .rbx = from->rbx,
        .rcx = from->rcx,
        .rdx = from->rdx,
        .rsi = from->rsi,
        .rdi = from->rdi,
        .rsp = from->rsp,
        .rbp = from->rbp,
        .r8 = from->r8,
        .r9 = from->r9,
        .r10 = from->r10,
        .r11 = from->r11,
        .r12 = from->r12,
        .r13 = from->r13,
        .r14 = from->r14,
        .r15 = from->r15,
        .rip = from->rip,
        .rflags = from->rflags,
        .fs_base = m->run->s.regs.sregs.fs.base,
        .gs_base = m->run->s.regs.sregs.gs.base,
    };
    return 0;
}

static int kvm_set_fs_base(struct hv_machine *m, uint64_t base)
{
    if (!m->snap || !canonical(base))
        return -EINVAL;
    m->run->s.regs.sregs.fs.base = base;
    m->run->kvm_dirty_regs |= KVM_SYNC_X86_SREGS;
    return 0;
}

static void kvm_kick(struct hv_machine *m)
{
    hv_kick_send(&m->kick);
}

const struct hv_backend hv_backend_kvm = {
    .name = "kvm",
    .settled = true,
    .features = kvm_features,
    .probe = kvm_probe,
    .host_open = kvm_host_open,
    .host_close = kvm_host_close,
    .populate = kvm_populate,
    .machine_new = kvm_machine_new,
    .machine_free = kvm_machine_free,
    .bind = kvm_bind,
    .unbind = kvm_unbind,
    .run = machine_run,
    .set_return = kvm_set_return,
    .get_regs = kvm_get_regs,
    .set_fs_base = kvm_set_fs_base,
    .kick = kvm_kick,
    .mem_read = kvm_mem_read,
    .mem_write = kvm_mem_write,
    .io_window = kvm_io_window,
    .io_dirty = kvm_io_dirty,
    .attach = kvm_attach,
    .relax = kvm_bulk_settle,
    .protect = kvm_protect,
    .reset = kvm_reset,
    .rewind = kvm_rewind,
    .collect = kvm_collect,
    .audit = kvm_audit,
    .measure_entry = kvm_measure_entry,
};
