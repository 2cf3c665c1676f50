/* SPDX-License-Identifier: Apache-2.0 */
/* Makes the ELF files of elf.h: each part on a page of its own, so that file offsets and addresses
 * agree and a test can find what it wants to damage. */
#include "config.h"

#include "tests/fake/elf.h"

#include <elf.h>
#include <stdlib.h>
#include <string.h>

#define PAGE  HL_ABI_PAGE_SIZE
#define TABLE PAGE /* file offset of the descriptors */

static const char names[] = "\0" HL_ABI_SECTION "\0.symtab\0.strtab\0.shstrtab";
static const char strings[] = "\0start";

enum { NAME_FUNCTIONS = 1, NAME_SYMTAB = 14, NAME_STRTAB = 22, NAME_SHSTRTAB = 30 };

static void put_segments(uint8_t *file, uint64_t base, uint64_t code, uint64_t data)
{
    const Elf64_Phdr segments[] = {
        {.p_type = PT_LOAD,
         .p_flags = PF_R,
         .p_offset = 0,
         .p_vaddr = base,
         .p_filesz = code,
         .p_memsz = code,
         .p_align = PAGE},
        {.p_type = PT_LOAD,
         .p_flags = PF_R | PF_X,
         .p_offset = code,
         .p_vaddr = base + code,
         .p_filesz = 16,
         .p_memsz = 16,
         .p_align = PAGE},
        {.p_type = PT_LOAD,
         .p_flags = PF_R | PF_W,
         .p_offset = data,
         .p_vaddr = base + data,
         .p_filesz = 64,
         .p_memsz = 3 * PAGE,
         .p_align = PAGE},
        {.p_type = PT_GNU_STACK, .p_flags = PF_R | PF_W},
    };

    memcpy(file + sizeof(Elf64_Ehdr), segments, sizeof(segments));
}

/* Section headers, then what they describe, from offset `at`. */
static void put_sections(uint8_t *file, uint64_t at, uint64_t base, uint64_t code, size_t table)
{
    const Elf64_Sym symbols[] = {
        {0},
        {.st_name = 1, .st_info = ELF64_ST_INFO(STB_GLOBAL, STT_FUNC), .st_value = base + code},
    };
    const uint64_t sym_at = at + 5 * sizeof(Elf64_Shdr);
    const uint64_t str_at = sym_at + sizeof(symbols);
    const uint64_t names_at = str_at + sizeof(strings);
    const Elf64_Shdr sections[5] = {
        {0},
        {.sh_name = NAME_FUNCTIONS,
         .sh_type = SHT_PROGBITS,
         .sh_flags = SHF_ALLOC,
         .sh_addr = base + TABLE,
         .sh_offset = TABLE,
         .sh_size = table},
        {.sh_name = NAME_SYMTAB,
         .sh_type = SHT_SYMTAB,
         .sh_offset = sym_at,
         .sh_size = sizeof(symbols),
         .sh_link = 3,
         .sh_entsize = sizeof(Elf64_Sym)},
        {.sh_name = NAME_STRTAB,
         .sh_type = SHT_STRTAB,
         .sh_offset = str_at,
         .sh_size = sizeof(strings)},
        {.sh_name = NAME_SHSTRTAB,
         .sh_type = SHT_STRTAB,
         .sh_offset = names_at,
         .sh_size = sizeof(names)},
    };

    memcpy(file + at, sections, sizeof(sections));
    memcpy(file + sym_at, symbols, sizeof(symbols));
    memcpy(file + str_at, strings, sizeof(strings));
    memcpy(file + names_at, names, sizeof(names));
}

uint8_t *fake_elf_with(const struct hl_abi_function *functions, size_t count, uint16_t type,
                       size_t *len)
{
    size_t table = count * sizeof(*functions);
    uint64_t code = (TABLE + table + PAGE - 1) / PAGE * PAGE, data = code + PAGE;
    uint64_t base = type == ET_EXEC ? FAKE_ELF_BASE : 0;
    Elf64_Ehdr header = {
        .e_ident = {ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS64, ELFDATA2LSB, EV_CURRENT},
        .e_type = type,
        .e_machine = EM_X86_64,
        .e_version = EV_CURRENT,
        .e_entry = base + code,
        .e_phoff = sizeof(Elf64_Ehdr),
        .e_shoff = data + PAGE,
        .e_ehsize = sizeof(Elf64_Ehdr),
        .e_phentsize = sizeof(Elf64_Phdr),
        .e_phnum = 4,
        .e_shentsize = sizeof(Elf64_Shdr),
        .e_shnum = 5,
        .e_shstrndx = 4,
    };
    uint8_t *file;

    *len = data + 2 * PAGE;
    file = calloc(1, *len);
    if (!file)
        return NULL;
    memcpy(file, &header, sizeof(header));
    put_segments(file, base, code, data);
    if (table > 0)
        memcpy(file + TABLE, functions, table);
    memcpy(file + code, "\x0f\x0b", 2);
    memcpy(file + data, "data", 4);
    put_sections(file, header.e_shoff, base, code, table);
    return file;
}

uint8_t *fake_elf_new(size_t *len)
{
    static const struct hl_abi_function functions[] = {
        FAKE_FUNCTION("echo", HL_ABI_BYTES, 1, HL_ABI_BYTES),
        FAKE_FUNCTION("echo_string", HL_ABI_STRING, 1, HL_ABI_STRING),
        FAKE_FUNCTION("add", HL_ABI_I32, 2, HL_ABI_I32, HL_ABI_I32),
        FAKE_FUNCTION("nothing", HL_ABI_VOID, 0, 0),
        FAKE_FUNCTION("same_i32", HL_ABI_I32, 1, HL_ABI_I32),
        FAKE_FUNCTION("same_u32", HL_ABI_U32, 1, HL_ABI_U32),
        FAKE_FUNCTION("same_i64", HL_ABI_I64, 1, HL_ABI_I64),
        FAKE_FUNCTION("same_u64", HL_ABI_U64, 1, HL_ABI_U64),
        FAKE_FUNCTION("same_f32", HL_ABI_F32, 1, HL_ABI_F32),
        FAKE_FUNCTION("same_f64", HL_ABI_F64, 1, HL_ABI_F64),
        FAKE_FUNCTION("same_bool", HL_ABI_BOOL, 1, HL_ABI_BOOL),
        FAKE_FUNCTION("big", HL_ABI_BYTES, 1, HL_ABI_U32),
        FAKE_FUNCTION("fail", HL_ABI_VOID, 2, HL_ABI_I32, HL_ABI_STRING),
        FAKE_FUNCTION("log", HL_ABI_VOID, 1, HL_ABI_STRING),
        FAKE_FUNCTION("print", HL_ABI_VOID, 1, HL_ABI_BYTES),
        FAKE_FUNCTION("dirty", HL_ABI_VOID, 1, HL_ABI_U32),
        FAKE_FUNCTION("keep", HL_ABI_U32, 1, HL_ABI_U32),
        FAKE_FUNCTION("delay", HL_ABI_VOID, 1, HL_ABI_U32),
        FAKE_FUNCTION("hold", HL_ABI_VOID, 0, 0),
        FAKE_FUNCTION("spin", HL_ABI_VOID, 0, 0),
        FAKE_FUNCTION("syscalls", HL_ABI_VOID, 0, 0),
        FAKE_FUNCTION("fault", HL_ABI_VOID, 0, 0),
        FAKE_FUNCTION("exit", HL_ABI_VOID, 1, HL_ABI_I32),
        FAKE_FUNCTION("abort", HL_ABI_VOID, 1, HL_ABI_STRING),
        FAKE_FUNCTION("bad_result", HL_ABI_STRING, 1, HL_ABI_U32),
        FAKE_FUNCTION("die", HL_ABI_VOID, 0, 0),
        FAKE_FUNCTION("host_call", HL_ABI_BYTES, 2, HL_ABI_STRING, HL_ABI_BYTES),
        FAKE_FUNCTION("host_calls", HL_ABI_U64, 1, HL_ABI_U32),
        FAKE_FUNCTION("host_insist", HL_ABI_BYTES, 2, HL_ABI_STRING, HL_ABI_BYTES),
        FAKE_FUNCTION("host_raw", HL_ABI_I64, 3, HL_ABI_BYTES, HL_ABI_U64, HL_ABI_U64),
        FAKE_FUNCTION("entropy", HL_ABI_BYTES, 0, 0),
        FAKE_FUNCTION("time", HL_ABI_I64, 0, 0),
        FAKE_FUNCTION("at", HL_ABI_U32, 2, HL_ABI_BYTES, HL_ABI_U64),
    };

    return fake_elf_with(functions, sizeof(functions) / sizeof(functions[0]), ET_EXEC, len);
}
