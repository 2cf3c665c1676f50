/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_HV_IMAGE_H
#define HL_HV_IMAGE_H

/*
 * A guest program as read from its ELF file, without running anything of it: loadable segments, the
 * function table, the symbols that a fault report names. The file is hostile: every offset, count
 * and size is checked against the file before use, and a refusal says which field and why.
 */

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/value.h"

struct image;

struct image_function {
    char name[HL_NAME_MAX + 1];
    struct hl_signature sig;
};

/* Reads the len bytes at elf, which are borrowed until image_free. Accepts ELF64 x86-64
 * little-endian ET_EXEC, and ET_DYN that is static-pie (no PT_INTERP). Refuses segments that are
 * both writable and executable, that overlap, or that lie below HL_ABI_PROGRAM_MIN. A program
 * without any function is refused. Returns: 0, -ENOEXEC with the reason, -ENOMEM. */
int image_new(struct image **out, const void *elf, size_t len, struct hl_error *err);
void image_free(struct image *img);

size_t image_function_count(const struct image *img);
const struct image_function *image_function(const struct image *img, size_t index);

/* Returns: the index, or -ENOENT. */
int image_find_function(const struct image *img, const char *name, size_t len);

/* Nearest function at or below addr in the same segment, an address as the file has it (a
 * static-pie program's less the bias of its loading): "name+0x1c" into buf, "" when there is none
 * or addr is not code. */
void image_symbol(const struct image *img, uint64_t addr, char *buf, size_t size);

#endif
