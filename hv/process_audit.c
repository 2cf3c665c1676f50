/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The process backend's check of itself, and its floor. The audit reads a fresh process through
 * the same descriptor as everything else and compares all of its memory with the snapshot, byte by
 * byte; registers are compared as the start message will carry them. Vector state is not read: the
 * start message always loads the initial one.
 */
#include "config.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "hv/process_machine.h"
#include "hv/snapshot_internal.h"
#include "hv/timer.h"

#define PAGE     HL_ABI_PAGE_SIZE
#define COPY_MAX (256u * 1024)

/* Where the measured program stands, in how much memory. */
#define PROGRAM_ADDR 0x300000u
#define PROGRAM_SIZE 0x400000u
#define PATIENCE_NS  1000000000u

HL_DEFINE_CLEANUP(struct snapshot *, snapshot_unref)

static void machine_free(struct hv_machine **m)
{
    hv_backend_process.machine_free(*m);
}

static int compare_registers(const struct hv_machine *m, struct hl_error *err)
{
    const struct hv_regs *want = snapshot_regs(m->snap);

    if (memcmp(&m->regs, want, sizeof(*want)) == 0)
        return 0;
    hl_error_set(err, -EBADMSG, "registers differ from the snapshot (rip 0x%llx for 0x%llx)",
                 (unsigned long long)m->regs.rip, (unsigned long long)want->rip);
    return 1;
}

static int compare_memory(struct hv_machine *m, struct hl_error *err)
{
    _cleanup_free_ uint8_t *buf = malloc(COPY_MAX);
    const uint8_t *want = snapshot_memory(m->snap);
    uint64_t size = snapshot_size(m->snap);

    if (!buf) {
        hl_error_set(err, -ENOMEM, "no memory for the audit");
        return 1;
    }
    for (hl_gpa addr = PROCESS_GUEST_MIN; addr < size; addr += COPY_MAX) {
        size_t len = size - addr < COPY_MAX ? size - addr : COPY_MAX;
        int rc = hv_backend_process.mem_read(m, addr, buf, len);

        if (rc < 0) {
            hl_error_wrap(err, rc, "reading guest memory at 0x%llx", (unsigned long long)addr);
            return 1;
        }
        if (memcmp(buf, want + addr, len) == 0)
            continue;
        for (size_t at = 0; at < len; at++) {
            if (buf[at] != want[addr + at]) {
                hl_error_set(err, -EBADMSG, "byte at 0x%llx is 0x%02x, 0x%02x in the snapshot",
                             (unsigned long long)(addr + at), buf[at], want[addr + at]);
                return 1;
            }
        }
    }
    return 0;
}

int process_audit(struct hv_machine *m, struct hl_error *err)
{
    int rc = process_await(m, err);

    if (rc < 0)
        return 1;
    rc = compare_registers(m, err);
    return rc != 0 ? rc : compare_memory(m, err);
}

static int measured_program(struct snapshot **out, struct hv_host *host, struct hl_error *err)
{
    static const uint8_t code[] = {0xb8, 0x27, 0x00, 0x00, 0x00, /* mov $39, %eax */
                                   0x0f, 0x05,                   /* syscall */
                                   0xeb, 0xf7};                  /* jmp to the mov */
    _cleanup_(snapshot_draft_fini) struct snapshot_draft draft = SNAPSHOT_DRAFT_INIT;
    int rc = snapshot_draft_init(&draft, PROGRAM_SIZE, PAGE, err);

    if (rc < 0)
        return rc;
    memcpy(draft.memory + PROGRAM_ADDR, code, sizeof(code));
    draft.prot[HL_ABI_HYPERCALL_ADDR / PAGE] = HV_PROT_READ | HV_PROT_EXEC;
    draft.prot[HL_ABI_IO_ADDR / PAGE] = HV_PROT_READ | HV_PROT_WRITE;
    draft.prot[PROGRAM_ADDR / PAGE] = HV_PROT_READ | HV_PROT_EXEC;
    draft.regs.rip = PROGRAM_ADDR;
    rc = hv_backend_process.populate(host, draft.memory, draft.prot, draft.npages, err);
    if (rc < 0)
        return rc;
    return snapshot_draft_seal(out, &draft, err);
}

int process_measure_entry(struct hv_host *host, unsigned int n, uint32_t *ns, struct hl_error *err)
{
    const struct hv_backend *hv = &hv_backend_process;
    _cleanup_(snapshot_unrefp) struct snapshot *snap = NULL;
    _cleanup_(machine_free) struct hv_machine *m = NULL;
    int rc = measured_program(&snap, host, err);

    if (rc == 0)
        rc = hv->machine_new(&m, host, PROGRAM_SIZE, err);
    if (rc == 0)
        rc = hv->bind(m, snap, err);
    if (rc < 0)
        return rc;
    for (unsigned int i = 0; i <= n; i++) { /* the first one starts it */
        uint64_t start = hv_now_ns(), took;
        struct hv_exit exit;

        rc = hv->run(m, start + PATIENCE_NS, &exit);
        took = hv_now_ns() - start;
        if (rc == 0 && exit.kind != HV_EXIT_SYSCALL)
            rc = -EIO;
        if (rc < 0)
            return hl_error_wrap(err, rc, "measuring a guest process");
        if (i > 0)
            ns[i - 1] = took < UINT32_MAX ? (uint32_t)took : UINT32_MAX;
        hv->set_return(m, 0);
    }
    return 0;
}
