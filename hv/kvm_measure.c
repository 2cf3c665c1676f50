/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The floor under every call on kvm: a guest that does nothing but leave, entered again and again
 * with the same register traffic as a real one.
 */

#include "hv/kvm_machine.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

#include "hv/snapshot_internal.h"

#define PROGRAM  HL_ABI_PROGRAM_MIN
#define MEMORY   (PROGRAM + 0x100000u)
#define WARM_UPS 16u

static const uint8_t loop_code[] = {
    0xe6, KVM_PORT_CALL, /* 1: out %al, $port */
    0xeb, 0xfc,          /* jmp 1b */
};

static int loop_snapshot(struct snapshot **out, struct hv_host *host, struct hl_error *err)
{
    struct snapshot_draft draft;
    int r = snapshot_draft_init(&draft, MEMORY, HL_ABI_IO_SIZE, err);

    if (r < 0)
        return r;
    memcpy(draft.memory + PROGRAM, loop_code, sizeof(loop_code));
    draft.prot[PROGRAM / KVM_PAGE] = HV_PROT_READ | HV_PROT_EXEC;
    draft.prot[HL_ABI_HYPERCALL_ADDR / KVM_PAGE] = HV_PROT_READ | HV_PROT_EXEC;
    draft.regs.rip = PROGRAM;
    draft.regs.rax = KVM_HYPERCALL_BIT;
    r = hv_backend_kvm.populate(host, draft.memory, draft.prot, draft.npages, err);
    if (r < 0) {
        snapshot_draft_fini(&draft);
        return r;
    }
    return snapshot_draft_seal(out, &draft, err);
}

static int enter(struct hv_machine *m, struct hl_error *err)
{
    const struct kvm_run *run = m->run;

    int r;

    do
        r = kvm_enter(m);
    while (r == -EINTR);
    if (r < 0)
        return hl_error_set(err, r, "KVM_RUN: %s", strerror(-r));
    if (run->exit_reason != KVM_EXIT_IO || run->io.port != KVM_PORT_CALL)
        return hl_error_set(err, -EPROTO, "unexpected exit %u", run->exit_reason);
    return 0;
}

int kvm_measure_entry(struct hv_host *host, unsigned int n, uint32_t *ns, struct hl_error *err)
{
    struct snapshot *snap = NULL;
    struct hv_machine *m = NULL;
    int r = loop_snapshot(&snap, host, err);

    if (r == 0)
        r = hv_backend_kvm.machine_new(&m, host, MEMORY, err);
    if (r == 0)
        r = hv_backend_kvm.bind(m, snap, err);
    for (unsigned int i = 0; r == 0 && i < n + WARM_UPS; i++) {
        uint64_t start = hv_now_ns(), took;

        r = enter(m, err);
        took = hv_now_ns() - start;
        if (i >= WARM_UPS)
            ns[i - WARM_UPS] = took > UINT32_MAX ? UINT32_MAX : (uint32_t)took;
    }
    hv_backend_kvm.machine_free(m);
    snapshot_unref(snap);
    return r;
}
