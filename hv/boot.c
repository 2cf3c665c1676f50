/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A program laid out in memory as Linux's execve would leave it: segments, zeroed bss, a stack with
 * arguments and the auxiliary vector, entry registers. Relocations of a static-pie program are left
 * to its own start-up code, as Linux leaves them.
 *
 * From bottom to top: the backend's low megabyte, hypercall and info page, the I/O window, the
 * program, the heap growing up, anonymous mappings growing down, a closed page, the stack. All
 * between the program and the closed page is readable and writable from the start, so that growing
 * the heap never edits a page table (hv/space.c says what follows from that).
 */
#include "config.h"

#include "hv/snapshot_internal.h"

#include <cpuid.h>
#include <elf.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/auxv.h>

#include "base/cleanup.h"
#include "guest/hl_abi.h"
#include "hv/image_internal.h"

#define PAGE            ((uint64_t)HL_ABI_PAGE_SIZE)
#define STACK_MAX       (8ull << 20)
#define PROGRAM_ALIGN   (2ull << 20) /* of a static-pie program: whole large pages */
#define GUEST_ID        65534        /* uid and gid as the guest sees them */
#define NAME_SHOWN      255
#define RFLAGS_AT_ENTRY 0x202 /* IF and the bit that is always set */

static uint64_t align_up(uint64_t value, uint64_t align)
{
    return (value + align - 1) & ~(align - 1);
}

static int check_options(const struct snapshot_options *options, struct hl_error *err)
{
    if (options->io_size == 0 || options->io_size % PAGE != 0 ||
        options->io_size > HL_ABI_IO_SIZE_MAX)
        return hl_error_set(err, -EINVAL,
                            "I/O window of %" PRIu64 " bytes: page multiples up to %u are allowed",
                            options->io_size, HL_ABI_IO_SIZE_MAX);
    if (options->memory_size % PAGE != 0 || options->memory_size > HV_MEMORY_MAX)
        return hl_error_set(err, -EINVAL,
                            "memory of %" PRIu64 " bytes: page multiples up to %llu are allowed",
                            options->memory_size, HV_MEMORY_MAX);
    return 0;
}

static uint64_t stack_of(uint64_t memory_size)
{
    uint64_t size = memory_size / 8 & ~(PAGE - 1);

    return size < STACK_MAX ? size : STACK_MAX;
}

/* Where the program fits with the stack that comes with so much. */
static uint64_t least_memory(const struct linux_state *at)
{
    uint64_t below = align_up(at->brk_start, PAGE) + PAGE;
    uint64_t size = below + (below / 7 < STACK_MAX ? below / 7 & ~(PAGE - 1) : STACK_MAX) - PAGE;

    while (below + stack_of(size) > size)
        size += PAGE;
    return size;
}

int snapshot_place(struct linux_state *at, const struct image *img,
                   const struct snapshot_options *options, struct hl_error *err)
{
    uint64_t io_end = HL_ABI_IO_ADDR + options->io_size;
    uint64_t stack_size = stack_of(options->memory_size);
    int rc = check_options(options, err);

    if (rc < 0)
        return rc;
    *at = (struct linux_state){0};
    if (img->relocatable)
        at->bias = align_up(io_end, PROGRAM_ALIGN > img->align ? PROGRAM_ALIGN : img->align);
    else if (img->start < io_end)
        return hl_error_set(err, -ENOEXEC,
                            "linked at 0x%" PRIx64
                            ", inside the I/O window, which ends at 0x%" PRIx64
                            "; link with -static-pie or use a smaller window",
                            img->start, io_end);
    at->program_start = img->start + at->bias;
    at->brk_start = at->brk = img->end + at->bias;
    if (at->brk_start + PAGE + stack_size > options->memory_size || stack_size < PAGE)
        return hl_error_set(err, -EINVAL,
                            "the program needs %" PRIu64 " bytes of memory at least, before it "
                            "allocates any, and its limit is %" PRIu64,
                            least_memory(at), options->memory_size);
    at->stack_start = options->memory_size - stack_size;
    at->map_top = at->stack_start - PAGE;
    return 0;
}

static void permit(struct snapshot_draft *draft, hl_gpa start, hl_gpa end, enum hv_prot prot)
{
    memset(draft->prot + start / PAGE, (int)prot,
           (align_up(end, PAGE) - start / PAGE * PAGE) / PAGE);
}

static void load_segments(struct snapshot_draft *draft, const struct image *img)
{
    const struct linux_state *at = &draft->linux_state;

    permit(draft, HL_ABI_HYPERCALL_ADDR, HL_ABI_HYPERCALL_ADDR + PAGE, HV_PROT_READ | HV_PROT_EXEC);
    permit(draft, HL_ABI_INFO_ADDR, HL_ABI_INFO_ADDR + PAGE, HV_PROT_READ);
    permit(draft, HL_ABI_IO_ADDR, HL_ABI_IO_ADDR + draft->io_size, HV_PROT_READ | HV_PROT_WRITE);
    permit(draft, at->brk_start, at->map_top, HV_PROT_READ | HV_PROT_WRITE);
    permit(draft, at->stack_start, draft->size, HV_PROT_READ | HV_PROT_WRITE);
    for (size_t i = 0; i < img->nsegments; i++) {
        const struct image_segment *seg = &img->segments[i];
        hl_gpa start = seg->vaddr + at->bias;

        permit(draft, start, start + seg->memsz, seg->prot);
        memcpy(draft->memory + start, img->elf + seg->offset, seg->filesz);
    }
}

void snapshot_write_info(uint8_t *memory, const struct hv_backend *hv,
                         const struct snapshot_options *options)
{
    struct hl_abi_info info = {
        .magic = HL_ABI_INFO_MAGIC,
        .version = HL_ABI_VERSION,
        .flags = HL_ABI_INFO_HOST_CALL | (hv->attach ? HL_ABI_INFO_BULK : 0),
        .memory_size = options->memory_size,
        .io_addr = HL_ABI_IO_ADDR,
        .io_size = options->io_size,
    };

    memcpy(memory + HL_ABI_INFO_ADDR, &info, sizeof(info));
}

/* AT_HWCAP is CPUID leaf 1, EDX, as the kernel has it; AT_HWCAP2 would announce instructions that
 * not every backend enables. */
static uint64_t hwcap(void)
{
    unsigned int eax, ebx, ecx, edx;

    return __get_cpuid(1, &eax, &ebx, &ecx, &edx) ? edx : 0;
}

static uint64_t minimal_signal_stack(void)
{
    unsigned long size = getauxval(AT_MINSIGSTKSZ);

    return size > 0 ? size : 2048;
}

/* Writes size bytes below *top. Returns: their guest address. */
static hl_gpa push(struct snapshot_draft *draft, hl_gpa *top, const void *data, size_t size)
{
    *top -= size;
    memcpy(draft->memory + *top, data, size);
    return *top;
}

/* The System V ABI's process stack: argc, argv, envp, auxv, then what they point to. */
static int write_stack(struct snapshot_draft *draft, const struct image *img,
                       const struct snapshot_options *options, struct hl_error *err)
{
    const struct linux_state *at = &draft->linux_state;
    char shown[NAME_SHOWN + 1] = {0};
    uint8_t seed[16];
    hl_gpa top = draft->size - 16, seed_at, name_at, platform_at;
    struct world world;

    world_init(&world, options->deterministic, true);
    if (world_random(&world, seed, sizeof(seed)) < 0)
        return hl_error_wrap(err, -EIO, "random bytes for a program's start");
    strncpy(shown, options->name ? options->name : "guest", NAME_SHOWN);
    name_at = push(draft, &top, shown, strlen(shown) + 1);
    platform_at = push(draft, &top, "x86_64", sizeof("x86_64"));
    seed_at = push(draft, &top, seed, sizeof(seed));
    {
        const uint64_t words[] = {
            1,
            name_at,
            0, /* argc, argv */
            0, /* envp */
            AT_PHDR,
            img->phdr_vaddr ? img->phdr_vaddr + at->bias : 0,
            AT_PHENT,
            sizeof(Elf64_Phdr),
            AT_PHNUM,
            img->phnum,
            AT_PAGESZ,
            PAGE,
            AT_BASE,
            0,
            AT_FLAGS,
            0,
            AT_ENTRY,
            img->entry + at->bias,
            AT_UID,
            GUEST_ID,
            AT_EUID,
            GUEST_ID,
            AT_GID,
            GUEST_ID,
            AT_EGID,
            GUEST_ID,
            AT_SECURE,
            0,
            AT_CLKTCK,
            100,
            AT_HWCAP,
            hwcap(),
            AT_HWCAP2,
            0,
            AT_MINSIGSTKSZ,
            minimal_signal_stack(),
            AT_PLATFORM,
            platform_at,
            AT_RANDOM,
            seed_at,
            AT_EXECFN,
            name_at,
            AT_NULL,
            0,
        };

        top = (top - sizeof(words)) & ~15ull;
        memcpy(draft->memory + top, words, sizeof(words));
    }
    draft->regs.rsp = top;
    return 0;
}

int snapshot_load(struct snapshot **out, const struct hv_backend *hv, struct hv_host *host,
                  const struct image *img, const struct snapshot_options *options,
                  struct hl_error *err)
{
    _cleanup_(snapshot_draft_fini) struct snapshot_draft draft = SNAPSHOT_DRAFT_INIT;
    struct linux_state at = {0};
    int rc;

    *out = NULL;
    rc = snapshot_place(&at, img, options, err);
    if (rc == 0)
        rc = snapshot_draft_init(&draft, options->memory_size, options->io_size, err);
    if (rc < 0)
        return rc;
    draft.linux_state = at;
    load_segments(&draft, img);
    snapshot_write_info(draft.memory, hv, options);
    rc = write_stack(&draft, img, options, err);
    if (rc < 0)
        return rc;
    draft.regs.rip = img->entry + at.bias;
    draft.regs.rflags = RFLAGS_AT_ENTRY;
    rc = hv->populate(host, draft.memory, draft.prot, draft.npages, err);
    if (rc < 0)
        return rc;
    return snapshot_draft_seal(out, &draft, err);
}
