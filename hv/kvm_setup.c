/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a vCPU gets once, before any snapshot: CPUID, XCR0, MSRs, control registers, segments. The
 * rule for CPUID: everything the host supports, except what reset does not put back (protection
 * keys, AMX, CET, user interrupts, processor trace) and what a guest in ring 3 could only be misled
 * by (virtualisation, paravirtual clocks). Natively running ring 3 sees the host's CPUID whatever
 * is set here, and PKRU is ring 3's to write where the host has it switched on: so reset clears it
 * wherever the kernel lets it. XRSTOR in ring 3 reaches what XCR0 has, and no further: where PKRU
 * is to be cleared as well, vector registers are reset by the ioctl alone.
 */

#include "hv/kvm_machine.h"

#include <cpuid.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "hv/features.h"

#define CPUID_ENTRIES 256u

#define XCR0_BASE   0x7u  /* x87, SSE, AVX */
#define XCR0_AVX512 0xe0u /* opmask, ZMM: all or none */
#define XCR0_PKRU   0x200u

#define CR0_FLAGS 0x80050033u /* PG AM WP NE ET MP PE */
#define CR4_BASE  0x50620u    /* OSXSAVE FSGSBASE OSXMMEXCPT OSFXSR PAE */
#define CR4_FSGS  0x10000u
#define CR4_XSAVE 0x40000u
#define CR4_UMIP  0x800u
#define EFER_BITS 0xd01u /* NXE LMA LME SCE */

#define MSR_SYSENTER_CS 0x174u
#define MSR_STAR        0xc0000081u
#define MSR_LSTAR       0xc0000082u
#define MSR_CSTAR       0xc0000083u
#define MSR_FMASK       0xc0000084u
#define MSR_KERNEL_GS   0xc0000102u

#define XSAVE_FCW     0u
#define XSAVE_MXCSR   24u
#define XSAVE_BV      512u
#define XSAVE_BV_BASE 0x3u /* x87 and SSE given, all else initial */

static int check_one(int fd, uintptr_t cap, const char *name, int want, struct hl_error *err)
{
    int r = kvm_ioctl(fd, KVM_CHECK_EXTENSION, (const void *)cap);

    if (r < 0)
        return hl_error_set(err, r, "/dev/kvm: %s: %s", name, strerror(-r));
    if ((r & want) != want || r == 0)
        return hl_error_set(err, -EOPNOTSUPP, "/dev/kvm: this kernel's KVM has no %s", name);
    return 0;
}

int kvm_check_extensions(int kvm_fd, struct hl_error *err)
{
    static const struct {
        uintptr_t cap;
        const char *name;
        int want;
    } needed[] = {
        {KVM_CAP_USER_MEMORY, "KVM_CAP_USER_MEMORY", 0},
        {KVM_CAP_EXT_CPUID, "KVM_CAP_EXT_CPUID", 0},
        {KVM_CAP_VCPU_EVENTS, "KVM_CAP_VCPU_EVENTS", 0},
        {KVM_CAP_DEBUGREGS, "KVM_CAP_DEBUGREGS", 0},
        {KVM_CAP_XSAVE, "KVM_CAP_XSAVE", 0},
        {KVM_CAP_XCRS, "KVM_CAP_XCRS", 0},
        {KVM_CAP_SYNC_REGS, "KVM_CAP_SYNC_REGS", KVM_SYNC_ALL},
        {KVM_CAP_IMMEDIATE_EXIT, "KVM_CAP_IMMEDIATE_EXIT", 0},
        {KVM_CAP_DIRTY_LOG_RING, "KVM_CAP_DIRTY_LOG_RING", 0},
    };
    int version = kvm_ioctl(kvm_fd, KVM_GET_API_VERSION, NULL);
    int r = 0;

    if (version < 0)
        return hl_error_set(err, version, "/dev/kvm: not a KVM device: %s", strerror(-version));
    if (version != KVM_API_VERSION)
        return hl_error_set(err, -EOPNOTSUPP, "/dev/kvm: API version %d, wanted %d", version,
                            KVM_API_VERSION);
    for (size_t i = 0; i < sizeof(needed) / sizeof(needed[0]) && r == 0; i++)
        r = check_one(kvm_fd, needed[i].cap, needed[i].name, needed[i].want, err);
    return r;
}

/* Whether the host's own ring 3 may write PKRU. */
static bool host_has_pku(void)
{
    unsigned int a, b, c, d;

    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (c & 1u << 4);
}

static void filter_xsave(struct hv_host *host, struct kvm_cpuid_entry2 *e)
{
    uint64_t supported = e->eax | (uint64_t)e->edx << 32;

    host->xcr0 = supported & XCR0_BASE;
    if ((supported & XCR0_AVX512) == XCR0_AVX512)
        host->xcr0 |= XCR0_AVX512;
    host->xsave_mask = host->xcr0;
    if (host_has_pku())
        host->xsave_mask |= supported & XCR0_PKRU;
    host->restores = host->xsave_mask == host->xcr0;
    e->eax = (uint32_t)host->xsave_mask;
    e->edx = 0;
}

/* Bit numbers as in the SDM, volume 2, CPUID. */
static void filter_entry(struct hv_host *host, struct kvm_cpuid_entry2 *e)
{
    if (e->function == 1) {
        e->ecx &= ~(1u << 3 | 1u << 5 | 1u << 15 | 1u << 24); /* MONITOR VMX PDCM TSC-deadline */
    } else if (e->function == 7 && e->index == 0) {
        host->has_umip = e->ecx & 1u << 2;
        host->has_fsgsbase = e->ebx & 1u;
        e->ebx &= ~(1u << 2 | 1u << 25);                    /* SGX, processor trace */
        e->ecx &= ~(1u << 3 | 1u << 4 | 1u << 5 | 1u << 7); /* PKU OSPKE WAITPKG CET_SS */
        e->edx &= ~(1u << 5 | 1u << 20 | 1u << 22 | 1u << 24 | 1u << 25); /* UINTR CET_IBT AMX */
    } else if (e->function == 7 && e->index == 1) {
        e->eax &= ~(1u << 21);                      /* AMX-FP16 */
        e->edx &= ~(1u << 8 | 1u << 18 | 1u << 21); /* AMX-COMPLEX CET_SSS APX */
    } else if (e->function == 0xd && e->index == 0) {
        filter_xsave(host, e);
    } else if (e->function == 0xd && e->index == 1) {
        e->eax &= ~(1u << 3 | 1u << 4); /* XSAVES and its MSR, XFD */
        e->ecx = e->edx = 0;
    } else if (e->function == 0xa || e->function == 0x14 || e->function == 0x1d ||
               e->function == 0x1e || (e->function & 0xffffff00u) == 0x40000000u) {
        e->eax = e->ebx = e->ecx = e->edx = 0;
    } else if (e->function == 0x80000001u) {
        e->ecx &= ~(1u << 2); /* SVM */
    }
}

int kvm_setup_host(struct hv_host *host, struct hl_error *err)
{
    struct kvm_cpuid2 *cpuid;
    int r;

    cpuid = calloc(1, sizeof(*cpuid) + CPUID_ENTRIES * sizeof(cpuid->entries[0]));
    if (!cpuid)
        return -ENOMEM;
    cpuid->nent = CPUID_ENTRIES;
    host->cpuid = cpuid;
    r = kvm_ioctl(host->kvm_fd, KVM_GET_SUPPORTED_CPUID, cpuid);
    if (r < 0)
        return hl_error_set(err, r, "KVM_GET_SUPPORTED_CPUID: %s", strerror(-r));
    for (uint32_t i = 0; i < cpuid->nent; i++)
        filter_entry(host, &cpuid->entries[i]);
    if (!(host->xcr0 & 1u << 1))
        return hl_error_set(err, -EOPNOTSUPP, "/dev/kvm: guests would have no XSAVE");

    host->run_size = kvm_ioctl(host->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, NULL);
    if (host->run_size < (int)sizeof(struct kvm_run))
        return hl_error_set(err, -EOPNOTSUPP, "KVM_GET_VCPU_MMAP_SIZE: %d", host->run_size);
    return 0;
}

void kvm_features(struct hv_host *host, struct hv_features *out)
{
    for (uint32_t i = 0; i < host->cpuid->nent; i++) {
        const struct kvm_cpuid_entry2 *e = &host->cpuid->entries[i];
        const struct hv_feature feature = {
            .leaf = e->function,
            .subleaf = e->index,
            .eax = e->eax,
            .ebx = e->ebx,
            .ecx = e->ecx,
            .edx = e->edx,
        };

        hv_features_add(out, &feature);
    }
}

static struct kvm_segment segment(uint16_t selector, uint8_t type, uint8_t dpl, bool code)
{
    return (struct kvm_segment){
        .limit = 0xffffffffu,
        .selector = selector,
        .type = type,
        .present = 1,
        .dpl = dpl,
        .db = !code,
        .s = 1,
        .l = code,
        .g = 1,
    };
}

void kvm_user_segments(struct kvm_sregs *sregs)
{
    sregs->cs = segment(KVM_USER_CS, 11, 3, true);
    sregs->ss = segment(KVM_USER_SS, 3, 3, false);
}

static void fill_sregs(const struct hv_host *host, struct kvm_sregs *sregs)
{
    struct kvm_segment null_data = segment(0, 3, 3, false);

    kvm_user_segments(sregs);
    null_data.unusable = 1;
    null_data.present = 0;
    sregs->ds = sregs->es = sregs->fs = sregs->gs = null_data;
    sregs->ldt = (struct kvm_segment){.type = 2, .unusable = 1};
    sregs->tr = (struct kvm_segment){.base = KVM_TSS_ADDR,
                                     .limit = KVM_TSS_LIMIT,
                                     .selector = KVM_TSS_SEL,
                                     .type = 11,
                                     .present = 1};
    sregs->gdt = (struct kvm_dtable){.base = KVM_GDT_ADDR, .limit = KVM_GDT_LIMIT};
    sregs->idt = (struct kvm_dtable){.base = KVM_IDT_ADDR, .limit = KVM_IDT_LIMIT};
    sregs->cr0 = CR0_FLAGS;
    sregs->cr2 = 0;
    sregs->cr3 = KVM_PML4_ADDR;
    sregs->cr4 = CR4_BASE;
    if (!host->has_fsgsbase)
        sregs->cr4 &= ~(uint64_t)CR4_FSGS;
    if (host->has_umip)
        sregs->cr4 |= CR4_UMIP;
    sregs->efer = EFER_BITS;
    memset(sregs->interrupt_bitmap, 0, sizeof(sregs->interrupt_bitmap));
}

static int set_msrs(struct hv_machine *m, struct hl_error *err)
{
    int r;

    m->msrs = (struct kvm_msr_set){
        .head.nmsrs = KVM_MSRS,
        .entries =
            {
                /* SYSCALL: CS and SS of ring 0 from bits 32 up; of ring 3 from 48 up. */
                {.index = MSR_STAR, .data = (uint64_t)KVM_KERNEL_CS << 32 | (uint64_t)0x23 << 48},
                {.index = MSR_LSTAR, .data = KVM_SYSCALL_ENTRY},
                {.index = MSR_CSTAR, .data = 0},
                {.index = MSR_FMASK, .data = KVM_USER_RFLAGS | 0x200u},
                {.index = MSR_KERNEL_GS, .data = 0},
                {.index = MSR_SYSENTER_CS, .data = 0},
            },
    };
    r = kvm_ioctl(m->vcpu_fd, KVM_SET_MSRS, &m->msrs);
    if (r < 0)
        return hl_error_set(err, r, "KVM_SET_MSRS: %s", strerror(-r));
    if (r != (int)KVM_MSRS)
        return hl_error_set(err, -EOPNOTSUPP, "KVM_SET_MSRS: MSR %#x refused",
                            m->msrs.entries[r].index);
    r = kvm_read_msrs(m, &m->msrs);
    return r < 0 ? hl_error_set(err, r, "KVM_GET_MSRS: %s", strerror(-r)) : 0;
}

int kvm_read_msrs(struct hv_machine *m, struct kvm_msr_set *msrs)
{
    int r;

    *msrs = m->msrs;
    r = kvm_ioctl(m->vcpu_fd, KVM_GET_MSRS, msrs);
    if (r < 0)
        return r;
    return r == (int)KVM_MSRS ? 0 : -EPROTO;
}

int kvm_clear_debug(struct hv_machine *m)
{
    struct kvm_debugregs regs = {.dr6 = KVM_DR6_INIT, .dr7 = KVM_DR7_INIT};

    return kvm_ioctl(m->vcpu_fd, KVM_SET_DEBUGREGS, &regs);
}

/* The initial state; area is zeroed. */
void kvm_vectors_fill(uint8_t *area)
{
    uint16_t fcw = 0x37f;
    uint32_t mxcsr = 0x1f80;

    memcpy(area + XSAVE_FCW, &fcw, sizeof(fcw));
    memcpy(area + XSAVE_MXCSR, &mxcsr, sizeof(mxcsr));
}

/* x87 and SSE are given and not left to XSTATE_BV = 0: the kernel takes MXCSR from the buffer only
 * with one of their bits set. Likewise PKRU. */
int kvm_clear_vectors(struct hv_machine *m)
{
    uint8_t *area = m->xsave_init;
    uint64_t bv = XSAVE_BV_BASE | (m->host->xsave_mask & XCR0_PKRU);

    kvm_vectors_fill(area);
    memcpy(area + XSAVE_BV, &bv, sizeof(bv));
    return kvm_ioctl(m->vcpu_fd, KVM_SET_XSAVE, area);
}

int kvm_setup_vcpu(struct hv_machine *m, struct hl_error *err)
{
    struct hv_host *host = m->host;
    struct kvm_xcrs xcrs = {.nr_xcrs = 1};
    int r;

    r = kvm_ioctl(m->vcpu_fd, KVM_SET_CPUID2, host->cpuid);
    if (r < 0)
        return hl_error_set(err, r, "KVM_SET_CPUID2: %s", strerror(-r));
    r = kvm_ioctl(m->vcpu_fd, KVM_GET_SREGS, &m->base_sregs);
    fill_sregs(host, &m->base_sregs);
    if (r == 0)
        r = kvm_ioctl(m->vcpu_fd, KVM_SET_SREGS, &m->base_sregs);
    /* As the kernel tells them from now on: unusable segments lose their other fields. */
    if (r == 0)
        r = kvm_ioctl(m->vcpu_fd, KVM_GET_SREGS, &m->base_sregs);
    if (r < 0)
        return hl_error_set(err, r, "KVM_SET_SREGS: %s", strerror(-r));
    xcrs.xcrs[0].value = host->xcr0;
    r = kvm_ioctl(m->vcpu_fd, KVM_SET_XCRS, &xcrs);
    if (r < 0)
        return hl_error_set(err, r, "KVM_SET_XCRS %#llx: %s", (unsigned long long)host->xcr0,
                            strerror(-r));
    r = set_msrs(m, err);
    if (r < 0)
        return r;
    r = kvm_clear_vectors(m);
    if (r == 0)
        r = kvm_clear_debug(m);
    if (r < 0)
        return hl_error_set(err, r, "vector and debug registers: %s", strerror(-r));
    m->run->kvm_valid_regs = KVM_SYNC_ALL;
    return 0;
}
