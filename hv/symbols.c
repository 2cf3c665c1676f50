/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The symbols of an image, for one purpose: a fault report that names the function. A symbol table
 * that is damaged is treated as absent, and a name is shown only in printable characters and cut
 * at a length. Names stay in the file; each was checked to lie within its string table.
 */
#include <elf.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hv/image_internal.h"

#define SYMBOLS_MAX 262144u
#define NAME_SHOWN  96

/* Whether the section's bytes are within the file. */
static bool section_fits(const struct image *img, const Elf64_Shdr *section)
{
    return section->sh_offset <= img->len && section->sh_size <= img->len - section->sh_offset;
}

static bool in_code(const struct image *img, uint64_t addr)
{
    for (size_t i = 0; i < img->nsegments; i++) {
        const struct image_segment *seg = &img->segments[i];

        if ((seg->prot & HV_PROT_EXEC) && addr >= seg->vaddr && addr - seg->vaddr < seg->memsz)
            return true;
    }
    return false;
}

static void add_symbols(struct image *img, const Elf64_Shdr *table, const Elf64_Shdr *strings,
                        size_t count)
{
    const char *names = (const char *)img->elf + strings->sh_offset;

    for (size_t i = 0; i < count; i++) {
        struct image_symbol *symbol = &img->symbols[img->nsymbols];
        Elf64_Sym sym;

        memcpy(&sym, img->elf + table->sh_offset + i * sizeof(sym), sizeof(sym));
        if (ELF64_ST_TYPE(sym.st_info) != STT_FUNC || sym.st_name == 0 ||
            sym.st_name >= strings->sh_size || !in_code(img, sym.st_value))
            continue;
        symbol->addr = sym.st_value;
        symbol->name = names + sym.st_name;
        symbol->len = strings->sh_size - sym.st_name;
        symbol->len = strnlen(symbol->name, symbol->len < NAME_SHOWN ? symbol->len : NAME_SHOWN);
        if (symbol->len > 0)
            img->nsymbols++;
    }
}

static int compare_symbols(const void *a, const void *b)
{
    const struct image_symbol *x = a, *y = b;

    if (x->addr != y->addr)
        return x->addr < y->addr ? -1 : 1;
    return (x->name > y->name) - (x->name < y->name);
}

int image_read_symbols(struct image *img)
{
    Elf64_Shdr table, strings;
    Elf64_Ehdr eh;

    if (image_read(img, 0, &eh, sizeof(eh)) < 0)
        return 0;
    for (unsigned int i = 0; i < eh.e_shnum; i++) {
        size_t count;

        if (image_read(img, eh.e_shoff + i * sizeof(table), &table, sizeof(table)) < 0)
            return 0;
        if (table.sh_type != SHT_SYMTAB || table.sh_link >= eh.e_shnum)
            continue;
        if (image_read(img, eh.e_shoff + table.sh_link * sizeof(strings), &strings,
                       sizeof(strings)) < 0)
            return 0;
        count = table.sh_size / sizeof(Elf64_Sym);
        if (!section_fits(img, &table) || !section_fits(img, &strings) || count == 0 ||
            count > SYMBOLS_MAX)
            return 0;
        img->symbols = calloc(count, sizeof(*img->symbols));
        if (!img->symbols)
            return -ENOMEM;
        add_symbols(img, &table, &strings, count);
        if (img->nsymbols > 0)
            qsort(img->symbols, img->nsymbols, sizeof(*img->symbols), compare_symbols);
        return 0;
    }
    return 0;
}

void image_symbol(const struct image *img, uint64_t addr, char *buf, size_t size)
{
    char name[NAME_SHOWN + 1];
    size_t low = 0, high = img->nsymbols;
    const struct image_symbol *symbol;

    if (size > 0)
        buf[0] = '\0';
    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (img->symbols[middle].addr <= addr)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == 0 || !in_code(img, addr))
        return;
    symbol = &img->symbols[low - 1];
    for (size_t i = 0; i < symbol->len; i++)
        name[i] = symbol->name[i] > ' ' && symbol->name[i] <= '~' ? symbol->name[i] : '?';
    name[symbol->len] = '\0';
    snprintf(buf, size, "%s+0x%llx", name, (unsigned long long)(addr - symbol->addr));
}
