/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Resets against dirty pages and against the size of the guest, on a hand-made guest that writes as
 * many pages as it is told and touches nothing else. "reset_all" is what a reset would cost that
 * knows nothing of what was written: it exists here alone.
 */
#include "config.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hv/instance.h"
#include "hv/kvm_machine.h"
#include "hv/snapshot_internal.h"
#include "tests/bench/bench_hv.h"

#define hv (&hv_backend_kvm)

#define MIB        (1ull << 20)
#define MEMORY     (64 * MIB)
#define SMALLEST   (2 * MIB + MIB / 4) /* below 2 MiB nothing is the guest's */
#define DATA_PAGES 16u                 /* not zero in the snapshot */
#define PER_ROUND  8u
#define SETTLE     12u /* calls until the hot set and its limit are what they will be */

/* Data has large pages of its own where there is room for that. */
static const struct layout {
    uint32_t io_size, code, stack, data; /* the stack is read only: nothing is ever pushed */
} usual = {HL_ABI_IO_SIZE, 0x400000, 0x401000, 0x600000},
  smallest = {0x10000, 0x210000, 0x211000, 0x212000};

static const uint8_t writer_code[] = {
    0x89, 0xc1,                                              /* mov %eax, %ecx */
    0xbb, 0x00,          0x00, 0x00, 0x00,                   /* mov $data, %ebx */
    0xe3, 0x0f,                                              /* jrcxz 2f */
    0x48, 0xff,          0x43, 0x08,                         /* 1: incq 8(%rbx) */
    0x48, 0x81,          0xc3, 0x00, 0x10, 0, 0,             /* add $0x1000, %rbx */
    0xff, 0xc9,                                              /* dec %ecx */
    0x75, 0xf1,                                              /* jnz 1b */
    0x48, 0xb8,          1,    0,    0,    0, 0, 0, 0, 0x80, /* 2: movabs $1 << 63 | 1, %rax */
    0xe6, KVM_PORT_CALL,                                     /* out %al, $port */
};

/* Where the constants of mov and add stand. */
#define WRITER_DATA 3u
#define WRITER_STEP 16u

static void allow(struct snapshot_draft *draft, uint64_t start, uint64_t end, int prot)
{
    memset(draft->prot + start / KVM_PAGE, prot, (end - start) / KVM_PAGE);
}

/* Waits behind a hypercall and, entered, writes as many pages of its data as set_return says, each
 * stride pages from the last. */
static struct snapshot *writer(uint64_t memory, uint32_t stride)
{
    const struct layout *at = memory < 8 * MIB ? &smallest : &usual;
    const uint64_t start = at->code;
    const uint32_t step = stride * KVM_PAGE;
    struct snapshot_draft draft;
    struct snapshot *snap;
    struct hl_error err = HL_ERROR_INIT;

    bench_must(snapshot_draft_init(&draft, memory, at->io_size, &err), "snapshot", &err);
    allow(&draft, HL_ABI_HYPERCALL_ADDR, HL_ABI_INFO_ADDR, HV_PROT_READ | HV_PROT_EXEC);
    allow(&draft, HL_ABI_IO_ADDR, HL_ABI_IO_ADDR + at->io_size, HV_PROT_READ | HV_PROT_WRITE);
    allow(&draft, at->code, at->stack, HV_PROT_READ | HV_PROT_EXEC);
    allow(&draft, at->stack, at->stack + KVM_PAGE, HV_PROT_READ);
    allow(&draft, at->data, memory, HV_PROT_READ | HV_PROT_WRITE);
    memcpy(draft.memory + at->code, writer_code, sizeof(writer_code));
    memcpy(draft.memory + at->code + WRITER_DATA, &at->data, sizeof(at->data));
    memcpy(draft.memory + at->code + WRITER_STEP, &step, sizeof(step));
    memcpy(draft.memory + at->stack, &start, sizeof(start)); /* where the hypercall returns to */
    memset(draft.memory + at->data, 0x5a, DATA_PAGES * (size_t)KVM_PAGE);
    draft.regs.rip = KVM_HYPERCALL_RET;
    draft.regs.rsp = at->stack;
    bench_must(hv->populate(bench_host, draft.memory, draft.prot, draft.npages, &err), "tables",
               &err);
    bench_must(snapshot_draft_seal(&snap, &draft, &err), "snapshot", &err);
    return snap;
}

static struct hv_machine *machine(uint64_t memory, uint32_t stride)
{
    struct hl_error err = HL_ERROR_INIT;
    struct snapshot *snap = writer(memory, stride);
    struct hv_machine *m;

    bench_must(hv->machine_new(&m, bench_host, shell_class(memory), &err), "machine", &err);
    bench_must(hv->bind(m, snap, &err), "bind", &err);
    snapshot_unref(snap);
    return m;
}

static uint64_t call(struct hv_machine *m, uint64_t pages)
{
    uint64_t start = hv_now_ns();
    struct hv_exit exit;

    hv->set_return(m, pages);
    do
        bench_must(hv->run(m, UINT64_MAX, &exit), "run", NULL);
    while (exit.kind == HV_EXIT_KICKED);
    if (exit.kind != HV_EXIT_HYPERCALL) {
        fprintf(stderr, "bench_hv: the guest failed: vector %u at %#" PRIx64 "\n",
                exit.fault.vector, exit.fault.rip);
        abort();
    }
    return hv_now_ns() - start;
}

static uint64_t reset(struct hv_machine *m)
{
    uint64_t pages, start = hv_now_ns();

    if (hv->reset(m, 0, &pages) != 0)
        bench_die("reset", NULL);
    return hv_now_ns() - start;
}

struct reset_case {
    uint64_t pages;
    struct hv_machine *m;
    struct series *call, *reset;
};

static void reset_case_init(struct reset_case *c, uint64_t pages, uint64_t memory, uint32_t stride)
{
    c->m = machine(memory, stride);
    c->pages = pages;
    c->call = series_new("\"name\": \"call\", \"dirty_pages\": %" PRIu64 ", \"stride\": %" PRIu32
                         ", \"memory\": %" PRIu64,
                         pages, stride, memory);
    c->reset = series_new("\"name\": \"reset\", \"dirty_pages\": %" PRIu64 ", \"stride\": %" PRIu32
                          ", \"memory\": %" PRIu64,
                          pages, stride, memory);
    for (unsigned int i = 0; i < SETTLE; i++) {
        call(c->m, c->pages);
        reset(c->m);
    }
}

static void reset_case_round(struct reset_case *c)
{
    unsigned int times = c->pages > 256 ? 2 : PER_ROUND;

    call(c->m, c->pages); /* the caches are another's */
    reset(c->m);
    for (unsigned int i = 0; i < times; i++) {
        series_add(c->call, call(c->m, c->pages));
        series_add(c->reset, reset(c->m));
    }
}

static void measure_resets(void)
{
    static const struct {
        uint64_t pages, memory;
        uint32_t stride;
    } wanted[] = {
        {1, MEMORY, 1},      {4, MEMORY, 1},    {10, MEMORY, 1},   {64, MEMORY, 1},
        {256, MEMORY, 1},    {1024, MEMORY, 1}, {4096, MEMORY, 1}, {1024, MEMORY, 2},
        {4096, MEMORY, 2},   {10, SMALLEST, 1}, {10, 16 * MIB, 1}, {10, 256 * MIB, 1},
        {10, 1024 * MIB, 1},
    };
    enum { CASES = sizeof(wanted) / sizeof(wanted[0]) };
    struct reset_case cases[CASES];
    struct series *entry = series_new("\"name\": \"entry\"");

    for (size_t i = 0; i < CASES; i++)
        reset_case_init(&cases[i], wanted[i].pages, wanted[i].memory, wanted[i].stride);
    for (unsigned int round = 0; round < bench_rounds; round++) {
        bench_entry(entry);
        for (size_t i = 0; i < CASES; i++)
            reset_case_round(&cases[i]);
    }
    for (size_t i = 0; i < CASES; i++)
        hv->machine_free(cases[i].m);
    series_print_all();
}

static uint64_t audit(struct hv_machine *m)
{
    struct hl_error err = HL_ERROR_INIT;
    uint64_t start = hv_now_ns();

    if (hv->audit(m, &err) != 0)
        bench_die("audit", &err);
    return hv_now_ns() - start;
}

/* All memory of the guest from the snapshot, written or not; what is zero there is zeroed. */
static uint64_t reset_all(struct hv_machine *m)
{
    uint64_t start = hv_now_ns(), at = HL_ABI_IO_ADDR;
    const struct snapshot_extent *extents;
    size_t count;

    extents = snapshot_extents(m->snap, &count);
    for (size_t i = 0; i < count; i++) {
        if (extents[i].start < at)
            continue;
        memset(m->mem + at, 0, extents[i].start - at);
        memcpy(m->mem + extents[i].start, snapshot_memory(m->snap) + extents[i].start,
               extents[i].len);
        at = extents[i].start + extents[i].len;
    }
    memset(m->mem + at, 0, m->mem_size - at);
    return hv_now_ns() - start;
}

static void measure_whole(uint64_t memory)
{
    static const char about[] = "\"dirty_pages\": 10, \"memory\":";
    struct series *whole = series_new("\"name\": \"reset_all\", %s %" PRIu64, about, memory);
    struct series *audits = series_new("\"name\": \"audit\", %s %" PRIu64, about, memory);
    struct hv_machine *m = machine(memory, 1);

    for (unsigned int i = 0; i < bench_rounds; i++) {
        call(m, 10);
        reset(m);
        series_add(audits, audit(m));
    }
    reset_all(m); /* makes all of it present */
    for (unsigned int i = 0; i < bench_rounds / 15 + 3; i++) {
        call(m, 10);
        series_add(whole, reset_all(m));
        reset(m); /* the registers */
    }
    hv->machine_free(m);
    series_print_all();
}

void bench_resets(void)
{
    static const uint64_t sizes[] = {SMALLEST, 16 * MIB, 64 * MIB, 256 * MIB, 1024 * MIB};

    measure_resets();
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
        if (bench_bytes("/proc/meminfo", "MemAvailable") >
            2 * sizes[i]) /* else it would measure swapping */
            measure_whole(sizes[i]);
}
