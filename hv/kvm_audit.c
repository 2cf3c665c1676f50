/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The audit: what a reset should have done, looked at without believing the reset. It knows nothing
 * of the dirty log or of hot sets; it compares all of memory with the snapshot, and asks the kernel
 * for every register by ioctl, past the shared page that the reset writes to.
 *
 * Vector registers are reset by code that the next entry starts with (hv/kvm_tables.c). So that
 * very code is run, from the very address the reset has put in rip, on a stack in its own read-only
 * page that makes it return to an `out`; then the kernel is asked for what it left, and the
 * registers go back where they were. Had the reset left rip elsewhere, nothing would be run, and
 * vectors be found as the call left them.
 *
 * Memory that was never touched is not touched by looking: mincore tells which anonymous pages
 * exist, and those that do not are zero.
 */

#include "hv/kvm_machine.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#define CHUNK 512u /* pages a look; kvm_words makes the slot a multiple of it */

/* XSAVE area: FCW 0, MXCSR 24, MXCSR mask 28 to 31, bytes for software 464 to 511, then the header
 * up to 575 (SDM volume 1, section 13.4). */
#define XSAVE_MASK       28u
#define XSAVE_MASK_END   32u
#define XSAVE_SOFT       464u
#define XSAVE_HEADER_END 576u

static int differs(struct hl_error *err, const char *what)
{
    hl_error_set(err, -EBADMSG, "audit: %s differs from the snapshot", what);
    return 1;
}

static int failed(struct hl_error *err, const char *what, int code)
{
    hl_error_set(err, code, "audit: %s: %s", what, strerror(-code));
    return 1;
}

/* Returns: 0, or 1 with err filled. */
static int ask(struct hv_machine *m, unsigned long request, void *arg, const char *what,
               struct hl_error *err)
{
    int r = kvm_ioctl(m->vcpu_fd, request, arg);

    return r < 0 ? failed(err, what, r) : 0;
}

/* Lets the kernel take what is in the shared page without entering the guest. */
int kvm_flush_registers(struct hv_machine *m)
{
    int r;

    m->run->immediate_exit = 1;
    r = kvm_enter(m);
    m->run->immediate_exit = 0;
    if (r == 0)
        return -EPROTO; /* it ran */
    return r == -EINTR ? 0 : r;
}

static bool is_zero(const uint8_t *p, size_t len)
{
    static const uint8_t zeros[KVM_PAGE];

    for (; len > sizeof(zeros); p += sizeof(zeros), len -= sizeof(zeros))
        if (memcmp(p, zeros, sizeof(zeros)) != 0)
            return false;
    return memcmp(p, zeros, len) == 0;
}

static int audit_memory(struct hv_machine *m, struct hl_error *err)
{
    const uint8_t *want = snapshot_memory(m->snap);
    unsigned char present[CHUNK];

    for (uint64_t page = 0; page < m->slot_size / KVM_PAGE; page++) {
        const uint8_t *have = m->mem + page * KVM_PAGE;
        bool same = true;

        if (page % CHUNK == 0 &&
            mincore(m->mem + page * KVM_PAGE, (size_t)CHUNK * KVM_PAGE, present) < 0)
            return failed(err, "mincore", -errno);
        if (kvm_bit(m->data, page))
            same = memcmp(have, want + page * KVM_PAGE, KVM_PAGE) == 0;
        else if (present[page % CHUNK] & 1)
            same = is_zero(have, KVM_PAGE);
        if (!same) {
            hl_error_set(err, -EBADMSG, "audit: memory page %#llx differs from the snapshot",
                         (unsigned long long)(page * KVM_PAGE));
            return 1;
        }
    }
    return 0;
}

static int audit_general(struct hv_machine *m, struct hl_error *err)
{
    struct kvm_regs regs = {0}, want = m->ready_regs;
    struct kvm_sregs sregs = {0};

    if (ask(m, KVM_GET_REGS, &regs, "KVM_GET_REGS", err))
        return 1;
    if (regs.rip == snapshot_regs(m->snap)->rip)
        want.rip = regs.rip; /* past the restore code: audit_vectors will see */
    if (memcmp(&regs, &want, sizeof(regs)) != 0)
        return differs(err, "a general register");
    if (ask(m, KVM_GET_SREGS, &sregs, "KVM_GET_SREGS", err))
        return 1;
    if (memcmp(&sregs, &m->ready_sregs, sizeof(sregs)) != 0)
        return differs(err, "a segment or control register");
    return 0;
}

/* The restore code, from rip, which is its entry. */
static int run_restore(struct hv_machine *m, struct hl_error *err)
{
    struct kvm_regs *regs = &m->run->s.regs.regs, want = *regs;
    int r = kvm_run_restore(m);

    if (r < 0)
        return failed(err, "running the restore code", r);
    want.rsp = KVM_RESTORE_PROBE;
    want.rflags = KVM_FIXED_RFLAGS;
    want.rcx = want.rdx = 0;
    want.rsp += sizeof(uint64_t);
    want.rip = regs->rip; /* before or behind the out, or neither */
    if (memcmp(regs, &want, sizeof(want)) != 0)
        return differs(err, "a general register after the restore code");
    return 0;
}

static int audit_vectors(struct hv_machine *m, struct hl_error *err)
{
    uint8_t *area = m->xsave_audit;
    bool large = m->xsave_size > sizeof(struct kvm_xsave);
    uint16_t fcw;
    uint32_t mxcsr;

    if (ask(m, large ? KVM_GET_XSAVE2 : KVM_GET_XSAVE, area, "KVM_GET_XSAVE", err))
        return 1;
    memcpy(&fcw, area, sizeof(fcw));
    memcpy(&mxcsr, area + 24, sizeof(mxcsr));
    if (fcw != 0x37f)
        return differs(err, "the x87 control word");
    if (mxcsr != 0x1f80)
        return differs(err, "MXCSR");
    if (!is_zero(area + 2, 22) || !is_zero(area + XSAVE_MASK_END, XSAVE_SOFT - XSAVE_MASK_END))
        return differs(err, "an x87 or XMM register");
    if (!is_zero(area + XSAVE_HEADER_END, m->xsave_size - XSAVE_HEADER_END))
        return differs(err, "an extended vector register");
    return 0;
}

static int audit_events(struct hv_machine *m, struct hl_error *err)
{
    struct kvm_vcpu_events events = {0};
    struct kvm_debugregs debug = {0};
    struct kvm_xcrs xcrs = {0};

    if (ask(m, KVM_GET_VCPU_EVENTS, &events, "KVM_GET_VCPU_EVENTS", err))
        return 1;
    if (events.exception.injected || events.exception.pending || events.interrupt.injected ||
        events.interrupt.soft || events.interrupt.shadow || events.nmi.injected ||
        events.nmi.pending || events.nmi.masked)
        return differs(err, "a pending event");
    if (ask(m, KVM_GET_DEBUGREGS, &debug, "KVM_GET_DEBUGREGS", err))
        return 1;
    if (!is_zero((const uint8_t *)debug.db, sizeof(debug.db)) || debug.dr6 != KVM_DR6_INIT ||
        debug.dr7 != KVM_DR7_INIT)
        return differs(err, "a debug register");
    if (ask(m, KVM_GET_XCRS, &xcrs, "KVM_GET_XCRS", err))
        return 1;
    if (xcrs.nr_xcrs < 1 || xcrs.xcrs[0].value != m->host->xcr0)
        return differs(err, "XCR0");
    return 0;
}

static int audit_msrs(struct hv_machine *m, struct hl_error *err)
{
    struct kvm_msr_set now;
    int r = kvm_read_msrs(m, &now);

    if (r < 0)
        return failed(err, "KVM_GET_MSRS", r);
    for (uint32_t i = 0; i < now.head.nmsrs; i++)
        if (now.entries[i].data != m->msrs.entries[i].data) {
            hl_error_set(err, -EBADMSG, "audit: MSR %#x differs from the snapshot",
                         now.entries[i].index);
            return 1;
        }
    return 0;
}

int kvm_audit(struct hv_machine *m, struct hl_error *err)
{
    int r;

    if (!m->snap) {
        hl_error_set(err, -EINVAL, "audit of an unbound machine");
        return 1;
    }
    r = kvm_flush_registers(m);
    if (r < 0) {
        hl_error_set(err, r, "audit: entering without running: %s", strerror(-r));
        return 1;
    }
    r = m->nkept > 0 ? differs(err, "the bulk window") : audit_general(m, err);
    if (r == 0)
        r = audit_events(m, err);
    if (r == 0)
        r = audit_msrs(m, err);
    if (r == 0)
        r = audit_memory(m, err);
    if (r == 0 && m->run->s.regs.regs.rip == KVM_RESTORE_ENTRY) {
        r = run_restore(m, err);
        kvm_reset_registers(m);
    }
    return r == 0 ? audit_vectors(m, err) : r;
}
