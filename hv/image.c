/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ELF files of guests. Nothing of the file is believed: a header is copied out with its bounds
 * checked, the copy is checked, and what later code needs is kept in struct image, so that the
 * loader does not look at the file's own numbers again.
 *
 * A request for an executable stack (PT_GNU_STACK) is ignored: a guest's stack never is. Segments
 * must ascend and have no page in common, so that each page has the permissions of one segment.
 */
#include "hv/image_internal.h"

#include <elf.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "guest/hl_abi.h"
#include "hv/snapshot_internal.h"

#define PAGE     HL_ABI_PAGE_SIZE
#define PAGE_OFF (HL_ABI_PAGE_SIZE - 1)

_Static_assert((int)HL_ABI_VOID == (int)HL_TYPE_VOID, "types");
_Static_assert((int)HL_ABI_I32 == (int)HL_TYPE_I32 && (int)HL_ABI_U32 == (int)HL_TYPE_U32, "types");
_Static_assert((int)HL_ABI_I64 == (int)HL_TYPE_I64 && (int)HL_ABI_U64 == (int)HL_TYPE_U64, "types");
_Static_assert((int)HL_ABI_F32 == (int)HL_TYPE_F32 && (int)HL_ABI_F64 == (int)HL_TYPE_F64, "types");
_Static_assert((int)HL_ABI_BOOL == (int)HL_TYPE_BOOL, "types");
_Static_assert((int)HL_ABI_STRING == (int)HL_TYPE_STRING, "types");
_Static_assert((int)HL_ABI_BYTES == (int)HL_TYPE_BYTES, "types");
_Static_assert(HL_ABI_MAX_PARAMS == HL_MAX_PARAMS && HL_ABI_NAME_SIZE == HL_NAME_MAX + 1, "names");

HL_DEFINE_CLEANUP(struct image *, image_free)

int image_read(const struct image *img, uint64_t offset, void *out, size_t size)
{
    if (offset > img->len || size > img->len - offset)
        return -ENOEXEC;
    memcpy(out, img->elf + offset, size);
    return 0;
}

static int check_identity(const Elf64_Ehdr *eh, struct hl_error *err)
{
    if (memcmp(eh->e_ident, ELFMAG, SELFMAG) != 0)
        return hl_error_set(err, -ENOEXEC, "not an ELF file");
    if (eh->e_ident[EI_CLASS] != ELFCLASS64)
        return hl_error_set(err, -ENOEXEC, "ELF class %u: only 64-bit programs run here",
                            eh->e_ident[EI_CLASS]);
    if (eh->e_ident[EI_DATA] != ELFDATA2LSB)
        return hl_error_set(err, -ENOEXEC, "ELF data encoding %u: not little-endian",
                            eh->e_ident[EI_DATA]);
    if (eh->e_ident[EI_VERSION] != EV_CURRENT || eh->e_version != EV_CURRENT)
        return hl_error_set(err, -ENOEXEC, "ELF version %u is unknown", eh->e_version);
    if (eh->e_ident[EI_OSABI] != ELFOSABI_SYSV && eh->e_ident[EI_OSABI] != ELFOSABI_GNU)
        return hl_error_set(err, -ENOEXEC, "ELF OS ABI %u: only Linux programs run here",
                            eh->e_ident[EI_OSABI]);
    if (eh->e_machine != EM_X86_64)
        return hl_error_set(err, -ENOEXEC, "ELF machine %u: only x86-64 programs run here",
                            eh->e_machine);
    if (eh->e_type != ET_EXEC && eh->e_type != ET_DYN)
        return hl_error_set(err, -ENOEXEC, "ELF type %u: not a program", eh->e_type);
    if (eh->e_ehsize != sizeof(Elf64_Ehdr))
        return hl_error_set(err, -ENOEXEC, "ELF header size %u", eh->e_ehsize);
    if (eh->e_phentsize != sizeof(Elf64_Phdr))
        return hl_error_set(err, -ENOEXEC, "program header size %u", eh->e_phentsize);
    if (eh->e_phnum == 0 || eh->e_phnum > IMAGE_SEGMENTS_MAX)
        return hl_error_set(err, -ENOEXEC, "%u program headers; 1 to %d are allowed", eh->e_phnum,
                            IMAGE_SEGMENTS_MAX);
    return 0;
}

static enum hv_prot prot_from_flags(uint32_t flags)
{
    unsigned int prot = HV_PROT_NONE;

    if (flags & PF_R)
        prot |= HV_PROT_READ;
    if (flags & PF_W)
        prot |= HV_PROT_READ | HV_PROT_WRITE;
    if (flags & PF_X)
        prot |= HV_PROT_READ | HV_PROT_EXEC;
    return (enum hv_prot)prot;
}

static int check_load(const struct image *img, const Elf64_Phdr *ph, unsigned int i,
                      struct hl_error *err)
{
    uint64_t file_end, end;

    if ((ph->p_flags & PF_W) && (ph->p_flags & PF_X))
        return hl_error_set(err, -ENOEXEC, "segment %u is both writable and executable", i);
    if (ph->p_filesz > ph->p_memsz)
        return hl_error_set(err, -ENOEXEC,
                            "segment %u: %" PRIu64 " bytes in the file but %" PRIu64 " in memory",
                            i, ph->p_filesz, ph->p_memsz);
    if (__builtin_add_overflow(ph->p_offset, ph->p_filesz, &file_end) || file_end > img->len)
        return hl_error_set(err, -ENOEXEC,
                            "segment %u: file offset %" PRIu64 " size %" PRIu64
                            " is past the end of the file (%zu)",
                            i, ph->p_offset, ph->p_filesz, img->len);
    if (__builtin_add_overflow(ph->p_vaddr, ph->p_memsz, &end) || end > HV_MEMORY_MAX)
        return hl_error_set(err, -ENOEXEC,
                            "segment %u: address 0x%" PRIx64 " size 0x%" PRIx64
                            " is past the largest memory",
                            i, ph->p_vaddr, ph->p_memsz);
    if (!img->relocatable && ph->p_vaddr < HL_ABI_PROGRAM_MIN)
        return hl_error_set(err, -ENOEXEC,
                            "segment %u: address 0x%" PRIx64 " is below 0x%x, where programs start",
                            i, ph->p_vaddr, HL_ABI_PROGRAM_MIN);
    if (ph->p_align & (ph->p_align - 1))
        return hl_error_set(err, -ENOEXEC,
                            "segment %u: alignment %" PRIu64 " is not a power of two", i,
                            ph->p_align);
    if (ph->p_align > IMAGE_ALIGN_MAX)
        return hl_error_set(err, -ENOEXEC, "segment %u: alignment %" PRIu64 " is above %u", i,
                            ph->p_align, IMAGE_ALIGN_MAX);
    if ((ph->p_vaddr & PAGE_OFF) != (ph->p_offset & PAGE_OFF))
        return hl_error_set(err, -ENOEXEC,
                            "segment %u: address 0x%" PRIx64 " and file offset 0x%" PRIx64
                            " differ within the page",
                            i, ph->p_vaddr, ph->p_offset);
    return 0;
}

static int add_segment(struct image *img, const Elf64_Phdr *ph, unsigned int i,
                       struct hl_error *err)
{
    struct image_segment *seg = &img->segments[img->nsegments];
    int rc = check_load(img, ph, i, err);

    if (rc < 0 || ph->p_memsz == 0)
        return rc;
    if (img->nsegments == 0)
        img->start = ph->p_vaddr & ~(uint64_t)PAGE_OFF;
    else if ((ph->p_vaddr & ~(uint64_t)PAGE_OFF) < img->end)
        return hl_error_set(err, -ENOEXEC,
                            "segment %u: address 0x%" PRIx64 " overlaps or precedes the segment "
                            "before it",
                            i, ph->p_vaddr);
    seg->vaddr = ph->p_vaddr;
    seg->memsz = ph->p_memsz;
    seg->offset = ph->p_offset;
    seg->filesz = ph->p_filesz;
    seg->prot = prot_from_flags(ph->p_flags);
    img->end = (ph->p_vaddr + ph->p_memsz + PAGE_OFF) & ~(uint64_t)PAGE_OFF;
    if (ph->p_align > img->align)
        img->align = ph->p_align;
    img->nsegments++;
    return 0;
}

/* Where the file's bytes [offset, offset + size) are loaded, or 0. */
static uint64_t loaded_at(const struct image *img, uint64_t offset, uint64_t size)
{
    for (size_t i = 0; i < img->nsegments; i++) {
        const struct image_segment *seg = &img->segments[i];

        if (offset >= seg->offset && offset - seg->offset <= seg->filesz &&
            size <= seg->filesz - (offset - seg->offset))
            return seg->vaddr + (offset - seg->offset);
    }
    return 0;
}

static const struct image_segment *segment_at(const struct image *img, uint64_t addr)
{
    for (size_t i = 0; i < img->nsegments; i++) {
        const struct image_segment *seg = &img->segments[i];

        if (addr >= seg->vaddr && addr - seg->vaddr < seg->memsz)
            return seg;
    }
    return NULL;
}

static int read_segments(struct image *img, const Elf64_Ehdr *eh, struct hl_error *err)
{
    const struct image_segment *seg;

    img->align = PAGE;
    img->phnum = eh->e_phnum;
    for (unsigned int i = 0; i < eh->e_phnum; i++) {
        Elf64_Phdr ph;
        uint64_t at;
        int rc;

        if (__builtin_add_overflow(eh->e_phoff, i * sizeof(ph), &at) ||
            image_read(img, at, &ph, sizeof(ph)) < 0)
            return hl_error_set(err, -ENOEXEC, "program header %u is past the end of the file", i);
        if (ph.p_type == PT_INTERP)
            return hl_error_set(err, -ENOEXEC,
                                "a dynamic program (it asks for an interpreter); link with -static "
                                "or -static-pie");
        if (ph.p_type != PT_LOAD)
            continue;
        rc = add_segment(img, &ph, i, err);
        if (rc < 0)
            return rc;
    }
    if (img->nsegments == 0)
        return hl_error_set(err, -ENOEXEC, "nothing to load: no PT_LOAD segment");
    seg = segment_at(img, img->entry);
    if (!seg || !(seg->prot & HV_PROT_EXEC))
        return hl_error_set(err, -ENOEXEC, "entry point 0x%" PRIx64 " is in no executable segment",
                            img->entry);
    img->phdr_vaddr = loaded_at(img, eh->e_phoff, eh->e_phnum * sizeof(Elf64_Phdr));
    return 0;
}

static int parse_function(struct image_function *out, const struct hl_abi_function *in,
                          struct hl_error *err)
{
    size_t len = strnlen(in->name, sizeof(in->name));

    if (in->magic != HL_ABI_FUNCTION_MAGIC)
        return hl_error_set(err, -ENOEXEC, "magic 0x%08x is not a descriptor's", in->magic);
    if (in->version != HL_ABI_VERSION)
        return hl_error_set(err, -ENOEXEC, "built for version %u of the guest ABI, this is %d",
                            in->version, HL_ABI_VERSION);
    if (!hl_name_valid(in->name, len))
        return hl_error_set(err, -ENOEXEC, "its name is not 1 to %d characters of [A-Za-z0-9._-]",
                            HL_NAME_MAX);
    memcpy(out->name, in->name, len);
    if (in->nparams > HL_ABI_MAX_PARAMS)
        return hl_error_set(err, -ENOEXEC, "'%s' has %u parameters, more than %d", out->name,
                            in->nparams, HL_ABI_MAX_PARAMS);
    if (!hl_type_name(in->ret))
        return hl_error_set(err, -ENOEXEC, "'%s' returns the unknown type %u", out->name, in->ret);
    out->sig.ret = (enum hl_type)in->ret;
    out->sig.nparams = in->nparams;
    for (unsigned int i = 0; i < HL_ABI_MAX_PARAMS; i++) {
        if (i >= in->nparams && in->params[i] != 0)
            return hl_error_set(err, -ENOEXEC, "'%s': a type past its last parameter", out->name);
        if (i < in->nparams && (in->params[i] == HL_ABI_VOID || !hl_type_name(in->params[i])))
            return hl_error_set(err, -ENOEXEC, "'%s': parameter %u has the unknown type %u",
                                out->name, i + 1, in->params[i]);
        out->sig.params[i] = (enum hl_type)in->params[i];
    }
    return 0;
}

static int read_functions(struct image *img, const Elf64_Shdr *section, struct hl_error *err)
{
    size_t count = section->sh_size / sizeof(struct hl_abi_function);

    if (img->functions)
        return hl_error_set(err, -ENOEXEC, "section " HL_ABI_SECTION " appears twice");
    if (section->sh_type != SHT_PROGBITS)
        return hl_error_set(err, -ENOEXEC, "section " HL_ABI_SECTION " has type %u, not PROGBITS",
                            section->sh_type);
    if (section->sh_size == 0 || section->sh_size % sizeof(struct hl_abi_function) != 0)
        return hl_error_set(err, -ENOEXEC,
                            "section " HL_ABI_SECTION ": size %" PRIu64
                            " is no multiple of a descriptor's",
                            section->sh_size);
    if (count > HL_ABI_MAX_FUNCTIONS)
        return hl_error_set(err, -ENOEXEC, "%zu functions, more than %d", count,
                            HL_ABI_MAX_FUNCTIONS);
    if (section->sh_offset > img->len || section->sh_size > img->len - section->sh_offset)
        return hl_error_set(err, -ENOEXEC,
                            "section " HL_ABI_SECTION " is past the end of the file");
    img->functions = calloc(count, sizeof(*img->functions));
    if (!img->functions)
        return hl_error_set(err, -ENOMEM, "no memory for %zu functions", count);
    for (size_t i = 0; i < count; i++) {
        struct hl_abi_function in;
        int rc = image_read(img, section->sh_offset + i * sizeof(in), &in, sizeof(in));

        if (rc == 0)
            rc = parse_function(&img->functions[i], &in, err);
        if (rc < 0)
            return hl_error_wrap(err, rc, "function %zu", i);
        if (image_find_function(img, img->functions[i].name, strlen(img->functions[i].name)) >= 0)
            return hl_error_set(err, -ENOEXEC, "function '%s' appears twice",
                                img->functions[i].name);
        img->nfunctions = i + 1;
    }
    return 0;
}

static bool section_is_named(const struct image *img, const Elf64_Shdr *names,
                             const Elf64_Shdr *section, const char *name)
{
    size_t size = strlen(name) + 1;
    uint64_t at;

    if (section->sh_name > names->sh_size || size > names->sh_size - section->sh_name ||
        __builtin_add_overflow(names->sh_offset, section->sh_name, &at) || at > img->len ||
        size > img->len - at)
        return false;
    return memcmp(img->elf + at, name, size) == 0;
}

static int read_sections(struct image *img, const Elf64_Ehdr *eh, struct hl_error *err)
{
    Elf64_Shdr section, names;
    uint64_t end;

    if (eh->e_shnum == 0 || eh->e_shoff == 0)
        return hl_error_set(err, -ENOEXEC,
                            "no section headers, so no functions; was the file cut by sstrip?");
    if (eh->e_shentsize != sizeof(Elf64_Shdr))
        return hl_error_set(err, -ENOEXEC, "section header size %u", eh->e_shentsize);
    if (__builtin_add_overflow(eh->e_shoff, eh->e_shnum * sizeof(Elf64_Shdr), &end) ||
        end > img->len)
        return hl_error_set(err, -ENOEXEC, "section headers are past the end of the file");
    if (eh->e_shstrndx >= eh->e_shnum)
        return hl_error_set(err, -ENOEXEC, "section name table %u of %u", eh->e_shstrndx,
                            eh->e_shnum);
    if (image_read(img, eh->e_shoff + eh->e_shstrndx * sizeof(names), &names, sizeof(names)) < 0)
        return hl_error_set(err, -ENOEXEC, "section name table is past the end of the file");
    for (unsigned int i = 0; i < eh->e_shnum; i++) {
        int rc;

        if (image_read(img, eh->e_shoff + i * sizeof(section), &section, sizeof(section)) < 0 ||
            !section_is_named(img, &names, &section, HL_ABI_SECTION))
            continue;
        rc = read_functions(img, &section, err);
        if (rc < 0)
            return rc;
    }
    if (img->nfunctions == 0)
        return hl_error_set(err, -ENOEXEC,
                            "no functions: section " HL_ABI_SECTION
                            " is missing; declare some with HL_FUNCTION");
    return 0;
}

int image_new(struct image **out, const void *elf, size_t len, struct hl_error *err)
{
    _cleanup_(image_freep) struct image *img = calloc(1, sizeof(*img));
    Elf64_Ehdr eh;
    int rc;

    *out = NULL;
    if (!img)
        return hl_error_set(err, -ENOMEM, "no memory for an image");
    img->elf = elf;
    img->len = len;
    if (image_read(img, 0, &eh, sizeof(eh)) < 0)
        return hl_error_set(err, -ENOEXEC, "%zu bytes are too few for an ELF file", len);
    rc = check_identity(&eh, err);
    if (rc < 0)
        return rc;
    img->relocatable = eh.e_type == ET_DYN;
    img->entry = eh.e_entry;
    rc = read_segments(img, &eh, err);
    if (rc == 0)
        rc = read_sections(img, &eh, err);
    if (rc < 0)
        return rc;
    image_find_symbols(img);
    *out = HL_STEAL(img);
    return 0;
}

void image_free(struct image *img)
{
    if (!img)
        return;
    free(img->functions);
    free(img);
}

size_t image_function_count(const struct image *img)
{
    return img->nfunctions;
}

const struct image_function *image_function(const struct image *img, size_t index)
{
    return index < img->nfunctions ? &img->functions[index] : NULL;
}

int image_find_function(const struct image *img, const char *name, size_t len)
{
    if (len > HL_NAME_MAX)
        return -ENOENT;
    for (size_t i = 0; i < img->nfunctions; i++) {
        if (memcmp(img->functions[i].name, name, len) == 0 && img->functions[i].name[len] == '\0')
            return (int)i;
    }
    return -ENOENT;
}
