/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The symbols of an image, for one purpose: a fault report that names the function. A symbol table
 * that is damaged is treated as absent, and a name is shown only in printable characters and cut
 * at a length. Faults are rare and images are many, so nothing is kept of the table but where it
 * stands in the file: a fault reads it from one end to the other.
 */
#include <elf.h>
#include <stdio.h>
#include <string.h>

#include "hv/image_internal.h"

#define SYMBOLS_MAX 262144u
#define NAME_SHOWN  96

/* Whether the section's bytes are within the file. */
static bool section_fits(const struct image *img, const Elf64_Shdr *section)
{
    return section->sh_offset <= img->len && section->sh_size <= img->len - section->sh_offset;
}

/* The code that addr is in, or NULL. */
static const struct image_segment *code_at(const struct image *img, uint64_t addr)
{
    for (size_t i = 0; i < img->nsegments; i++) {
        const struct image_segment *seg = &img->segments[i];

        if ((seg->prot & HV_PROT_EXEC) && addr >= seg->vaddr && addr - seg->vaddr < seg->memsz)
            return seg;
    }
    return NULL;
}

void image_find_symbols(struct image *img)
{
    Elf64_Shdr table, strings;
    Elf64_Ehdr eh;

    if (image_read(img, 0, &eh, sizeof(eh)) < 0)
        return;
    for (unsigned int i = 0; i < eh.e_shnum; i++) {
        if (image_read(img, eh.e_shoff + i * sizeof(table), &table, sizeof(table)) < 0)
            return;
        if (table.sh_type != SHT_SYMTAB || table.sh_link >= eh.e_shnum)
            continue;
        if (image_read(img, eh.e_shoff + table.sh_link * sizeof(strings), &strings,
                       sizeof(strings)) < 0 ||
            !section_fits(img, &table) || !section_fits(img, &strings) ||
            table.sh_size / sizeof(Elf64_Sym) > SYMBOLS_MAX)
            return;
        img->symbols = table.sh_offset;
        img->nsymbols = table.sh_size / sizeof(Elf64_Sym);
        img->names = strings.sh_offset;
        img->names_len = strings.sh_size;
        return;
    }
}

/* The last function from low to addr; of several at one address the one named first in the string
 * table, so that the answer is always the same. Returns: false when there is none. */
static bool find_symbol(const struct image *img, uint64_t low, uint64_t addr, Elf64_Sym *found)
{
    bool any = false;

    for (uint64_t i = 0; i < img->nsymbols; i++) {
        Elf64_Sym sym;

        memcpy(&sym, img->elf + img->symbols + i * sizeof(sym), sizeof(sym));
        if (ELF64_ST_TYPE(sym.st_info) != STT_FUNC || sym.st_value < low || sym.st_value > addr ||
            sym.st_name == 0 || sym.st_name >= img->names_len ||
            img->elf[img->names + sym.st_name] == '\0')
            continue;
        if (any && (sym.st_value < found->st_value ||
                    (sym.st_value == found->st_value && sym.st_name >= found->st_name)))
            continue;
        *found = sym;
        any = true;
    }
    return any;
}

void image_symbol(const struct image *img, uint64_t addr, char *buf, size_t size)
{
    char name[NAME_SHOWN + 1];
    const struct image_segment *code = code_at(img, addr);
    Elf64_Sym symbol = {0};
    size_t len = 0;

    if (size > 0)
        buf[0] = '\0';
    if (!code || !find_symbol(img, code->vaddr, addr, &symbol))
        return;
    for (; len < NAME_SHOWN && len < img->names_len - symbol.st_name; len++) {
        char c = (char)img->elf[img->names + symbol.st_name + len];

        if (c == '\0')
            break;
        name[len] = c > ' ' && c <= '~' ? c : '?';
    }
    name[len] = '\0';
    snprintf(buf, size, "%s+0x%llx", name, (unsigned long long)(addr - symbol.st_value));
}
