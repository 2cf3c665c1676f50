/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What stands in guest memory for the machine's own sake, below 1 MiB and closed to ring 3: page
 * tables (one PML4, one PDPT, one page directory: 1 GiB), descriptor tables, the ring-0 stub, and
 * one page that is the guest's to read and execute, the hypercall page. The PDPT also leads to the
 * tables of the bulk window, which are elsewhere (hv/kvm_bulk.c).
 *
 * The tables map guest-virtual to the same guest-physical address. An entry covers 2 MiB where all
 * of it has one permission. Accessed and dirty are set from the start, so the CPU never writes to a
 * table, and tables are as shareable as code.
 *
 * Ring 0 executes in two cases only: the stub, which tells an exception's vector by one out, and on
 * hardware the out behind SYSCALL. Both end in an exit from which the host never lets ring 0 go on.
 * The exception stack is an IST stack at a fixed place, so the host finds the frame without
 * believing RSP.
 *
 * The hypercall page also holds the restore code, which the host starts a ready guest with: it puts
 * every vector register into its initial state and then returns to where the guest waited. The code
 * is the host's and so is the address it is entered at; before it has run, not one instruction of
 * the guest has. The guest cannot write the page, and whoever jumps into it loses his own vector
 * registers. It takes the place of KVM_SET_XSAVE, which costs a quarter of an entry, and it may:
 * a ready guest stands behind a hypercall, which is free to change what the code needs (rcx, rdx).
 */

#include "hv/kvm_machine.h"

#include <errno.h>
#include <string.h>

#define PTE_PRESENT 0x001u
#define PTE_WRITE   0x002u
#define PTE_USER    0x004u
#define PTE_USED    0x060u /* accessed, dirty */
#define PTE_LARGE   0x080u
#define PTE_NX      (1ull << 63)
#define PTE_ADDR    0x000ffffffffff000ull
#define PTE_TABLE   (PTE_PRESENT | PTE_WRITE | PTE_USER | PTE_USED)

#define PAGES_PER_TABLE 512u
#define GATES           32u
#define GATE_STUB_SIZE  8u

/* SDM volume 3, section 3.4.5: code and data segments, accessed already. */
#define GDT_KERNEL_CODE 0x00af9b000000ffffull
#define GDT_KERNEL_DATA 0x00cf93000000ffffull
#define GDT_USER_DATA   0x00cff3000000ffffull
#define GDT_USER_CODE   0x00affb000000ffffull
#define GDT_TSS_BUSY    0x00008b0000000000ull

/* System V function: code in rdi, arguments in rsi rdx rcx. The constant is KVM_HYPERCALL_BIT. */
static const uint8_t hypercall_code[] = {
    0x48, 0xb8,          0,    0, 0, 0, 0, 0, 0, 0x80, /* 0: movabs $1<<63, %rax */
    0x48, 0x09,          0xf8,                         /* 10: or %rdi, %rax */
    0xe6, KVM_PORT_CALL,                               /* 13: out %al, $port */
    0xc3,                                              /* 15: ret */
};

/* SYSCALL enters here, in ring 0 or (without hardware) still in ring 3. */
static const uint8_t syscall_code[] = {
    0xe6, KVM_PORT_CALL, /* out %al, $port */
    0x0f, 0x0b,          /* ud2: the host resumes elsewhere */
};

#define REL32(from, to)                                                                            \
    (uint8_t)((to) - (from)), (uint8_t)(((to) - (from)) >> 8), (uint8_t)(((to) - (from)) >> 16),   \
        (uint8_t)(((to) - (from)) >> 24)

/* FNINIT also clears the x87 pointers, which XRSTOR leaves alone on some processors. XRSTOR takes
 * MXCSR from memory though XSTATE_BV be 0 (SDM volume 1, section 13.8.1), all else is initial. */
static const uint8_t restore_code[] = {
    0x48, 0x89, 0xc1,             /* 0: mov %rax, %rcx */
    0xb8, 0xff, 0xff, 0xff, 0xff, /* 3: mov $-1, %eax */
    0x89, 0xc2,                   /* 8: mov %eax, %edx */
    0xdb, 0xe3,                   /* 10: fninit */
    0x48, 0x0f, 0xae, 0x2d, REL32(KVM_RESTORE_ENTRY + 20u, KVM_RESTORE_AREA), /* 12: xrstor64 */
    0x48, 0x89, 0xc8,          /* 20: mov %rcx, %rax */
    0xb9, 0,    0,    0,    0, /* 23: mov $0, %ecx */
    0xba, 0,    0,    0,    0, /* 28: mov $0, %edx */
    0xc3,                      /* 33: ret */
};

_Static_assert(KVM_SYSCALL_ENTRY + sizeof(syscall_code) <= KVM_RESTORE_ENTRY, "overlap");
_Static_assert(KVM_RESTORE_ENTRY + sizeof(restore_code) <= KVM_RESTORE_PROBE, "overlap");
_Static_assert(KVM_RESTORE_PROBE + sizeof(uint64_t) <= KVM_RESTORE_AREA, "overlap");
_Static_assert(KVM_RESTORE_AREA % 64 == 0, "XRSTOR wants 64");
_Static_assert(sizeof(hypercall_code) - 1 == KVM_HYPERCALL_RET - HL_ABI_HYPERCALL_ADDR, "ret");
_Static_assert(sizeof(hypercall_code) <= KVM_SYSCALL_ENTRY - HL_ABI_HYPERCALL_ADDR, "overlap");
_Static_assert(KVM_TSS_LIMIT + KVM_TSS_ADDR < KVM_GDT_ADDR + KVM_PAGE, "GDT and TSS share a page");
_Static_assert(KVM_PORT_CALL / 8 < 16 && KVM_PORT_FAULT / 8 < 16, "I/O bitmap covers the ports");

static uint64_t load(const uint8_t *low, uint64_t addr)
{
    uint64_t value;

    memcpy(&value, low + addr, sizeof(value));
    return value;
}

static void store(uint8_t *low, uint64_t addr, uint64_t value)
{
    memcpy(low + addr, &value, sizeof(value));
}

static uint64_t leaf(uint64_t page, unsigned int prot)
{
    uint64_t entry = page * KVM_PAGE | PTE_PRESENT | PTE_USER | PTE_USED;

    if (prot == HV_PROT_NONE)
        return 0;
    if (prot & HV_PROT_WRITE)
        entry |= PTE_WRITE;
    if (!(prot & HV_PROT_EXEC))
        entry |= PTE_NX;
    return entry;
}

/* Read-only and without execution at this level already. */
static uint64_t bulk_entry(uint64_t gib)
{
    return (KVM_BULK_TABLES_ADDR + gib * KVM_PAGE) | PTE_PRESENT | PTE_USER | PTE_USED | PTE_NX;
}

static uint64_t bulk_entry_addr(uint64_t gib)
{
    return KVM_PDPT_ADDR + (HL_ABI_BULK_ADDR / KVM_SLOT_MAX + gib) * 8;
}

void kvm_tables_bulk(uint8_t tables[KVM_BULK_TABLES_SIZE])
{
    for (uint64_t i = 0; i < HL_ABI_BULK_SIZE / KVM_LARGE_PAGE; i++)
        store(tables, i * 8,
              (HL_ABI_BULK_ADDR + i * KVM_LARGE_PAGE) | PTE_PRESENT | PTE_USER | PTE_USED |
                  PTE_LARGE | PTE_NX);
}

static void map_own_page(uint8_t *low, uint64_t addr, uint64_t flags)
{
    store(low, KVM_PT_ADDR + addr / KVM_PAGE * 8, addr | PTE_PRESENT | PTE_USED | flags);
}

static void fill_descriptors(uint8_t *low)
{
    uint8_t *tss = low + KVM_TSS_ADDR;
    uint64_t stack = KVM_STACK_TOP;
    uint16_t bitmap = 104;

    memset(low + KVM_GDT_ADDR, 0, KVM_PAGE);
    store(low, KVM_GDT_ADDR + KVM_KERNEL_CS, GDT_KERNEL_CODE);
    store(low, KVM_GDT_ADDR + KVM_KERNEL_SS, GDT_KERNEL_DATA);
    store(low, KVM_GDT_ADDR + (KVM_USER_SS & ~3u), GDT_USER_DATA);
    store(low, KVM_GDT_ADDR + (KVM_USER_CS & ~3u), GDT_USER_CODE);
    store(low, KVM_GDT_ADDR + KVM_TSS_SEL,
          GDT_TSS_BUSY | KVM_TSS_LIMIT | (uint64_t)KVM_TSS_ADDR << 16);

    /* SDM volume 3, section 8.7: RSP0 at 4, IST1 at 36, I/O map base at 102. */
    memcpy(tss + 4, &stack, sizeof(stack));
    memcpy(tss + 36, &stack, sizeof(stack));
    memcpy(tss + 102, &bitmap, sizeof(bitmap));
    memset(tss + bitmap, 0xff, KVM_TSS_LIMIT + 1 - bitmap);
    tss[bitmap + KVM_PORT_CALL / 8] &= (uint8_t) ~(1u << KVM_PORT_CALL % 8);
}

static void fill_stub(uint8_t *low)
{
    uint8_t *idt = low + KVM_IDT_ADDR;

    memset(idt, 0, KVM_PAGE);
    memset(low + KVM_STUB_ADDR, 0xf4 /* hlt */, KVM_PAGE);
    for (unsigned int vector = 0; vector < GATES; vector++) {
        uint32_t target = KVM_STUB_ADDR + vector * GATE_STUB_SIZE;
        /* mov $vector, %al; out %al, $port; hlt */
        const uint8_t code[] = {0xb0, (uint8_t)vector, 0xe6, KVM_PORT_FAULT, 0xf4};
        /* Interrupt gate on IST1; int3 alone may be called from ring 3. */
        uint64_t gate = (target & 0xffffu) | KVM_KERNEL_CS << 16 | 1ull << 32 |
                        (vector == 3 ? 0xeeull : 0x8eull) << 40;

        memcpy(low + target, code, sizeof(code));
        memcpy(idt + vector * 16, &gate, sizeof(gate));
    }
    memset(low + KVM_STACK_ADDR, 0, KVM_PAGE);
}

static void fill_hypercall_page(uint8_t *page)
{
    const uint64_t out = KVM_HYPERCALL_OUT;

    memset(page, 0xcc, KVM_PAGE);
    memcpy(page, hypercall_code, sizeof(hypercall_code));
    memcpy(page + (KVM_SYSCALL_ENTRY - HL_ABI_HYPERCALL_ADDR), syscall_code, sizeof(syscall_code));
    memcpy(page + (KVM_RESTORE_ENTRY - HL_ABI_HYPERCALL_ADDR), restore_code, sizeof(restore_code));
    memcpy(page + (KVM_RESTORE_PROBE - HL_ABI_HYPERCALL_ADDR), &out, sizeof(out));
    memset(page + (KVM_RESTORE_AREA - HL_ABI_HYPERCALL_ADDR), 0, KVM_XSAVE_LEGACY);
    kvm_vectors_fill(page + (KVM_RESTORE_AREA - HL_ABI_HYPERCALL_ADDR));
}

static bool uniform(const uint8_t *prot, size_t first, size_t npages)
{
    if (npages - first < PAGES_PER_TABLE)
        return false;
    return memcmp(prot + first, prot + first + 1, PAGES_PER_TABLE - 1) == 0;
}

/* Tables that an earlier filling has used; they were handed out in order. */
static size_t tables_in_use(const uint8_t *low)
{
    size_t n = 0;

    for (uint64_t i = 0; i < PAGES_PER_TABLE; i++) {
        uint64_t e = load(low, KVM_PD_ADDR + i * 8);

        n += (e & PTE_PRESENT) && !(e & PTE_LARGE);
    }
    return n < KVM_PT_MAX ? n : KVM_PT_MAX;
}

/* Touches no table that it does not need: each would be a page of the snapshot's memory file. */
static int fill_pages(uint8_t *low, const uint8_t *prot, size_t npages, struct hl_error *err)
{
    size_t tables = 0, before = tables_in_use(low);

    memset(low + KVM_PD_ADDR, 0, KVM_PAGE);
    for (size_t first = 0; first < npages; first += PAGES_PER_TABLE) {
        uint64_t entry = KVM_PD_ADDR + first / PAGES_PER_TABLE * 8;
        uint64_t table = KVM_PT_ADDR + tables * KVM_PAGE;
        size_t end = npages - first < PAGES_PER_TABLE ? npages : first + PAGES_PER_TABLE;

        if (first > 0 && uniform(prot, first, npages)) {
            uint64_t e = leaf(first, prot[first]);

            store(low, entry, e ? e | PTE_LARGE : 0);
            continue;
        }
        if (tables == KVM_PT_MAX)
            return hl_error_set(err, -ENOMEM, "page permissions too scattered: more than %u tables",
                                KVM_PT_MAX);
        tables++;
        memset(low + table, 0, KVM_PAGE);
        store(low, entry, table | PTE_TABLE);
        /* The low megabyte is the machine's; nothing in prot opens it. */
        for (size_t page = first ? first : HL_ABI_HYPERCALL_ADDR / KVM_PAGE; page < end; page++)
            store(low, table + (page - first) * 8, leaf(page, prot[page]));
    }
    if (before > tables)
        memset(low + KVM_PT_ADDR + tables * KVM_PAGE, 0, (before - tables) * KVM_PAGE);
    return 0;
}

int kvm_tables_fill(uint8_t *low, const uint8_t *prot, size_t npages, struct hl_error *err)
{
    int r;

    if (npages < HL_ABI_IO_ADDR / KVM_PAGE || npages > KVM_SLOT_MAX / KVM_PAGE)
        return hl_error_set(err, -EINVAL, "memory of %zu pages: kvm takes 2 MiB to 1 GiB", npages);
    for (size_t page = 0; page < npages; page++)
        if ((prot[page] & HV_PROT_WRITE) && (prot[page] & HV_PROT_EXEC))
            return hl_error_set(err, -EINVAL, "page %#zx is both writable and executable", page);

    memset(low + KVM_PML4_ADDR, 0, 2 * KVM_PAGE);
    store(low, KVM_PML4_ADDR, KVM_PDPT_ADDR | PTE_TABLE);
    store(low, KVM_PDPT_ADDR, KVM_PD_ADDR | PTE_TABLE);
    for (uint64_t gib = 0; gib < HL_ABI_BULK_SIZE / KVM_SLOT_MAX; gib++)
        store(low, bulk_entry_addr(gib), bulk_entry(gib));
    r = fill_pages(low, prot, npages, err);
    if (r < 0)
        return r;
    map_own_page(low, KVM_GDT_ADDR, PTE_NX);
    map_own_page(low, KVM_IDT_ADDR, PTE_NX);
    map_own_page(low, KVM_STUB_ADDR, 0);
    map_own_page(low, KVM_STACK_ADDR, PTE_WRITE | PTE_NX);
    fill_descriptors(low);
    fill_stub(low);
    fill_hypercall_page(low + HL_ABI_HYPERCALL_ADDR);
    return 0;
}

/* A 2 MiB entry becomes a table of the same meaning. Tables are handed out in order and never given
 * back, so the first free one is past the last that an entry names. */
static int split(uint8_t *low, uint64_t entry)
{
    uint64_t old = load(low, entry), next = KVM_PT_ADDR;

    for (uint64_t i = 0; i < PAGES_PER_TABLE; i++) {
        uint64_t e = load(low, KVM_PD_ADDR + i * 8);

        if ((e & PTE_PRESENT) && !(e & PTE_LARGE) && (e & PTE_ADDR) >= next)
            next = (e & PTE_ADDR) + KVM_PAGE;
    }
    if (next >= HL_ABI_HYPERCALL_ADDR)
        return -ENOMEM;
    for (uint64_t i = 0; i < PAGES_PER_TABLE; i++)
        store(low, next + i * 8,
              old & PTE_PRESENT ? (old & ~(uint64_t)PTE_LARGE) + i * KVM_PAGE : 0);
    store(low, entry, next | PTE_TABLE);
    return 0;
}

/* low: guest memory of the machine itself. On -ENOMEM part of the range may have changed. */
int kvm_tables_protect(uint8_t *low, uint64_t first, uint64_t count, enum hv_prot prot)
{
    for (uint64_t page = first; page < first + count; page++) {
        uint64_t entry = KVM_PD_ADDR + page / PAGES_PER_TABLE * 8;
        uint64_t e = load(low, entry);
        int r;

        if (page % PAGES_PER_TABLE == 0 && first + count - page >= PAGES_PER_TABLE &&
            (!(e & PTE_PRESENT) || (e & PTE_LARGE))) {
            uint64_t whole = leaf(page, prot);

            store(low, entry, whole ? whole | PTE_LARGE : 0);
            page += PAGES_PER_TABLE - 1;
            continue;
        }
        if (!(e & PTE_PRESENT) || (e & PTE_LARGE)) {
            r = split(low, entry);
            if (r < 0)
                return r;
            e = load(low, entry);
        }
        store(low, (e & PTE_ADDR) + page % PAGES_PER_TABLE * 8, leaf(page, prot));
    }
    return 0;
}

/* Whether memory has the restore code where it belongs, byte for byte. */
bool kvm_tables_restore(const uint8_t *memory)
{
    uint8_t page[KVM_PAGE];

    fill_hypercall_page(page);
    return memcmp(page, memory + HL_ABI_HYPERCALL_ADDR, sizeof(page)) == 0;
}

/* Whether two snapshots' memories have the same tables, so that what the kernel built from one
 * holds for the other. */
bool kvm_tables_same(const uint8_t *a, const uint8_t *b)
{
    if (memcmp(a + KVM_PDPT_ADDR, b + KVM_PDPT_ADDR, KVM_PAGE) != 0 ||
        memcmp(a + KVM_PD_ADDR, b + KVM_PD_ADDR, KVM_PAGE) != 0)
        return false;
    for (uint64_t i = 0; i < PAGES_PER_TABLE; i++) {
        uint64_t e = load(a, KVM_PD_ADDR + i * 8);
        uint64_t table = e & PTE_ADDR;

        if (!(e & PTE_PRESENT) || (e & PTE_LARGE))
            continue;
        if (memcmp(a + table, b + table, KVM_PAGE) != 0)
            return false;
    }
    return true;
}
