/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_HV_IMAGE_INTERNAL_H
#define HL_HV_IMAGE_INTERNAL_H

/* What the parts of hv/ that parse and load an image share. */

#include <stdbool.h>

#include "hv/backend.h"
#include "hv/image.h"

#define IMAGE_SEGMENTS_MAX 64
#define IMAGE_ALIGN_MAX    0x200000u

struct image_segment {
    uint64_t vaddr, memsz; /* as in the file: a static-pie program starts at or near 0 */
    uint64_t offset, filesz;
    enum hv_prot prot;
};

struct image {
    const uint8_t *elf; /* borrowed */
    size_t len;
    bool relocatable; /* static-pie: goes where the loader likes */
    uint64_t entry, align, start, end;
    uint64_t phdr_vaddr; /* 0: the program headers are in no segment */
    unsigned int phnum;
    struct image_segment segments[IMAGE_SEGMENTS_MAX]; /* ascending, no page in common */
    size_t nsegments;
    struct image_function *functions;
    size_t nfunctions;
    uint64_t symbols, nsymbols; /* offset and number of the file's Elf64_Sym, within the file */
    uint64_t names, names_len;  /* their string table, likewise */
};

/* Copies size bytes at offset of the file. Returns: 0, -ENOEXEC past its end. */
int image_read(const struct image *img, uint64_t offset, void *out, size_t size);

/* Finds the symbols; a damaged symbol table is none: it only serves messages. */
void image_find_symbols(struct image *img);

#endif
