/* SPDX-License-Identifier: Apache-2.0 */
/* Snapshots of hand-made guests, and the steps that tests of the kvm backend share. */

#include "tests/unit/kvm_support.h"

#include <stdio.h>
#include <stdlib.h>

#include "hv/kvm_machine.h"

struct hv_host *test_host;
uint64_t test_slot = GUEST_SLOT;

void test_open(void)
{
    struct hv_host_config config = {.kvm_fd = -1, .nursery_fd = -1};
    struct hl_error err = HL_ERROR_INIT;

    if (hv.probe(&err) < 0) {
        printf("SKIP: %s\n", err.text);
        exit(77);
    }
    if (hv.host_open(&test_host, &config, &err) < 0) {
        printf("cannot open the backend: %s\n", err.text);
        exit(1);
    }
}

void test_thread(void)
{
    ck_assert_int_eq(hv_thread_init(), 0);
}

static void set_prot(struct snapshot_draft *draft, uint64_t start, uint64_t end, int prot)
{
    for (uint64_t page = start / HL_ABI_PAGE_SIZE; page < end / HL_ABI_PAGE_SIZE; page++)
        draft->prot[page] = (uint8_t)prot;
}

struct snapshot *test_snapshot(const uint8_t *code, const uint8_t *end,
                               const struct guest_options *options)
{
    struct guest_options none = {0};
    struct snapshot_draft draft;
    struct snapshot *snap = NULL;
    struct hl_error err = HL_ERROR_INIT;
    uint64_t size, start = GUEST_CODE;

    if (!options)
        options = &none;
    size = options->memory ? options->memory : GUEST_MEMORY;
    ck_assert_int_eq(snapshot_draft_init(&draft, size, HL_ABI_IO_SIZE, &err), 0);
    set_prot(&draft, HL_ABI_HYPERCALL_ADDR, HL_ABI_INFO_ADDR, HV_PROT_READ | HV_PROT_EXEC);
    set_prot(&draft, HL_ABI_IO_ADDR, HL_ABI_IO_ADDR + HL_ABI_IO_SIZE, HV_PROT_READ | HV_PROT_WRITE);
    set_prot(&draft, GUEST_CODE, GUEST_RODATA, HV_PROT_READ | HV_PROT_EXEC);
    set_prot(&draft, GUEST_RODATA, GUEST_RODATA + 0x1000, HV_PROT_READ);
    set_prot(&draft, GUEST_STACK - 0x4000, GUEST_STACK, HV_PROT_READ | HV_PROT_WRITE);
    set_prot(&draft, GUEST_DATA, size,
             options->data_prot ? options->data_prot : HV_PROT_READ | HV_PROT_WRITE);
    for (uint64_t i = 0; i < options->scatter; i++)
        draft.prot[(GUEST_DATA + 0x200000 * i) / HL_ABI_PAGE_SIZE + 1 + i % 500] = HV_PROT_READ;
    memcpy(draft.memory + GUEST_CODE, code, (size_t)(end - code));
    memset(draft.memory + GUEST_DATA, 0x5a, HL_ABI_PAGE_SIZE);
    memset(draft.memory + GUEST_RODATA, 0xa5, HL_ABI_PAGE_SIZE);
    draft.regs = options->regs;
    if (!draft.regs.rip)
        draft.regs.rip = options->boot ? GUEST_CODE : KVM_HYPERCALL_RET;
    if (!draft.regs.rsp) {
        memcpy(draft.memory + GUEST_STACK - sizeof(start), &start, sizeof(start));
        draft.regs.rsp = GUEST_STACK - (options->boot ? 0 : sizeof(start));
    }
    ck_assert_msg(hv.populate(test_host, draft.memory, draft.prot, draft.npages, &err) == 0, "%s",
                  err.text);
    if (options->no_restore)
        memset(draft.memory + KVM_RESTORE_ENTRY, 0xcc, 64);
    if (options->no_idt)
        memset(draft.memory + KVM_IDT_ADDR, 0, HL_ABI_PAGE_SIZE);
    ck_assert_msg(snapshot_draft_seal(&snap, &draft, &err) == 0, "%s", err.text);
    return snap;
}

struct hv_machine *test_machine(struct snapshot *snap)
{
    struct hv_machine *m = NULL;
    struct hl_error err = HL_ERROR_INIT;

    ck_assert_msg(hv.machine_new(&m, test_host, test_slot, &err) == 0, "%s", err.text);
    ck_assert_msg(hv.bind(m, snap, &err) == 0, "%s", err.text);
    return m;
}

struct hv_machine *test_bound(const uint8_t *code, const uint8_t *end)
{
    struct snapshot *snap = test_snapshot(code, end, NULL);
    struct hv_machine *m = test_machine(snap);

    snapshot_unref(snap);
    return m;
}

void test_free(struct hv_machine *m)
{
    hv.machine_free(m);
}

struct hv_exit test_run(struct hv_machine *m)
{
    struct hv_exit exit;

    ck_assert_int_eq(hv.run(m, hv_now_ns() + 20000000000u, &exit), 0);
    return exit;
}

void test_expect_hypercall(struct hv_machine *m, uint64_t code)
{
    struct hv_exit exit = test_run(m);

    ck_assert_msg(exit.kind == HV_EXIT_HYPERCALL,
                  "exit %d, vector %u error %#x rip %#lx address %#lx", exit.kind,
                  exit.fault.vector, exit.fault.error_code, exit.fault.rip, exit.fault.address);
    ck_assert_uint_eq(exit.nr, code);
}

void test_expect_fault(struct hv_machine *m, unsigned int vector)
{
    struct hv_exit exit = test_run(m);

    ck_assert_msg(exit.kind == HV_EXIT_FAULT, "exit %d, nr %#lx", exit.kind, exit.nr);
    ck_assert_msg(exit.fault.vector == vector, "vector %u error %#x rip %#lx address %#lx",
                  exit.fault.vector, exit.fault.error_code, exit.fault.rip, exit.fault.address);
}

uint64_t test_reset(struct hv_machine *m, unsigned int skip)
{
    uint64_t pages = 0;

    ck_assert_int_eq(hv.reset(m, skip, &pages), 0);
    return pages;
}

void test_expect_audit(struct hv_machine *m, const char *text)
{
    struct hl_error err = HL_ERROR_INIT;
    int r = hv.audit(m, &err);

    if (!text) {
        ck_assert_msg(r == 0, "%s", err.text);
        return;
    }
    ck_assert_int_eq(r, 1);
    ck_assert_msg(strstr(err.text, text), "%s", err.text);
}
