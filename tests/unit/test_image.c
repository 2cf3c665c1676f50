/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The ELF parser: a well-formed file gives its functions and symbols; each field damaged on purpose
 * is refused with a reason that names it; and thousands of random damages never make it read
 * outside the file (run under AddressSanitizer, which the file's own allocation makes exact).
 */
#include "config.h"

#include <check.h>
#include <elf.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "hv/image.h"
#include "tests/fake/elf.h"
#include "tests/unit/tests_run.h"

#define PAGE HL_ABI_PAGE_SIZE

static uint8_t *file;
static size_t file_len;

static void setup(void)
{
    file = fake_elf_new(&file_len);
    ck_assert_ptr_nonnull(file);
}

static void teardown(void)
{
    free(file);
}

static Elf64_Ehdr *header(void)
{
    return (Elf64_Ehdr *)(void *)file;
}

static Elf64_Phdr *segment(unsigned int i)
{
    return (Elf64_Phdr *)(void *)(file + sizeof(Elf64_Ehdr)) + i;
}

static Elf64_Shdr *section(unsigned int i)
{
    return (Elf64_Shdr *)(void *)(file + header()->e_shoff) + i;
}

static struct hl_abi_function *function(unsigned int i)
{
    return (struct hl_abi_function *)(void *)(file + PAGE) + i;
}

static void refused(const char *reason)
{
    struct hl_error err = HL_ERROR_INIT;
    struct image *img = NULL;
    int rc = image_new(&img, file, file_len, &err);

    image_free(img);
    ck_assert_int_eq(rc, -ENOEXEC);
    ck_assert_ptr_null(img);
    ck_assert_msg(strstr(err.text, reason), "'%s' does not say '%s'", err.text, reason);
}

START_TEST(functions_and_symbols)
{
    struct hl_error err = HL_ERROR_INIT;
    struct image *img = NULL;
    char text[64];
    int add;

    ck_assert_msg(image_new(&img, file, file_len, &err) == 0, "%s", err.text);
    ck_assert_uint_eq(image_function_count(img), 33);
    add = image_find_function(img, "add", 3);
    ck_assert_int_eq(add, 2);
    ck_assert_int_eq(image_find_function(img, "ad", 2), -ENOENT);
    ck_assert_int_eq(image_find_function(img, "", 0), -ENOENT);
    ck_assert_ptr_null(image_function(img, 33));
    hl_signature_format(text, sizeof(text), image_function(img, 2)->name,
                        &image_function(img, 2)->sig);
    ck_assert_str_eq(text, "add(i32, i32) -> i32");
    image_symbol(img, header()->e_entry + 4, text, sizeof(text));
    ck_assert_str_eq(text, "start+0x4");
    image_symbol(img, header()->e_entry - 1, text, sizeof(text));
    ck_assert_str_eq(text, "");
    image_symbol(img, header()->e_entry + PAGE, text, sizeof(text));
    ck_assert_str_eq(text, "");
    image_free(img);
}
END_TEST

START_TEST(position_independent)
{
    const struct hl_abi_function one[] = {FAKE_FUNCTION("f", HL_ABI_VOID, 0, 0)};
    struct image *img = NULL;

    free(file);
    file = fake_elf_with(one, 1, ET_DYN, &file_len);
    ck_assert_int_eq(image_new(&img, file, file_len, NULL), 0);
    image_free(img);
}
END_TEST

START_TEST(identity)
{
    static const struct {
        size_t offset;
        uint8_t value;
        const char *reason;
    } cases[] = {
        {0, 'x', "not an ELF file"},
        {EI_CLASS, ELFCLASS32, "64-bit"},
        {EI_DATA, ELFDATA2MSB, "endian"},
        {EI_VERSION, 2, "version"},
        {EI_OSABI, ELFOSABI_FREEBSD, "ABI"},
        {16, ET_REL, "not a program"},
        {18, EM_386, "x86-64"},
        {20, 7, "version"},
        {52, 63, "header size"},
        {54, 55, "program header size"},
        {56, 0, "program headers"},
        {56, 65, "program headers"},
        {58, 63, "section header size"},
        {60, 0, "no section headers"},
        {62, 5, "section name table"},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        uint8_t kept = file[cases[i].offset];

        file[cases[i].offset] = cases[i].value;
        refused(cases[i].reason);
        file[cases[i].offset] = kept;
    }
    file_len = 63;
    refused("too few");
}
END_TEST

START_TEST(segments)
{
    Elf64_Phdr kept[4];

    memcpy(kept, segment(0), sizeof(kept));
#define DAMAGE(statement, reason)                                                                  \
    do {                                                                                           \
        statement;                                                                                 \
        refused(reason);                                                                           \
        memcpy(segment(0), kept, sizeof(kept));                                                    \
    } while (0)
    DAMAGE(segment(1)->p_flags = PF_R | PF_W | PF_X, "both writable and executable");
    DAMAGE(segment(2)->p_filesz = 1ull << 20, "in memory");
    DAMAGE(segment(2)->p_offset = file_len & ~(PAGE - 1ull), "past the end of the file");
    DAMAGE(segment(2)->p_offset = UINT64_MAX & ~(PAGE - 1ull), "past the end of the file");
    DAMAGE(segment(2)->p_memsz = UINT64_MAX, "past the largest memory");
    DAMAGE(segment(2)->p_memsz = 1ull << 30, "past the largest memory");
    DAMAGE(segment(2)->p_vaddr = UINT64_MAX & ~(PAGE - 1ull), "past the largest memory");
    DAMAGE(segment(0)->p_vaddr = 0x100000, "below");
    DAMAGE(segment(1)->p_align = 3, "power of two");
    DAMAGE(segment(1)->p_align = 1ull << 40, "alignment");
    DAMAGE(segment(1)->p_vaddr += 8, "differ within the page");
    DAMAGE(segment(2)->p_vaddr = segment(1)->p_vaddr, "overlaps or precedes");
    DAMAGE(segment(2)->p_vaddr = segment(0)->p_vaddr, "overlaps or precedes");
    DAMAGE(segment(0)->p_memsz = 1u << 20, "overlaps or precedes");
    DAMAGE(segment(3)->p_type = PT_INTERP, "dynamic program");
    DAMAGE(segment(0)->p_type = segment(1)->p_type = segment(2)->p_type = PT_NULL, "no PT_LOAD");
    DAMAGE(segment(1)->p_flags = PF_R, "entry point");
#undef DAMAGE
    header()->e_phoff = file_len - 8;
    refused("program header 0");
    header()->e_phoff = UINT64_MAX - 8;
    refused("program header");
}
END_TEST

START_TEST(executable_stack_is_ignored)
{
    struct image *img = NULL;

    segment(3)->p_flags = PF_R | PF_W | PF_X;
    ck_assert_int_eq(image_new(&img, file, file_len, NULL), 0);
    image_free(img);
}
END_TEST

START_TEST(function_section)
{
    Elf64_Shdr kept = *section(1);

    section(1)->sh_name = 0;
    refused("no functions");
    section(1)->sh_name = UINT32_MAX;
    refused("no functions");
    *section(1) = kept;
    section(1)->sh_type = SHT_NOBITS;
    refused("PROGBITS");
    *section(1) = kept;
    section(1)->sh_size = 0;
    refused("multiple");
    section(1)->sh_size = sizeof(struct hl_abi_function) + 1;
    refused("multiple");
    section(1)->sh_size = sizeof(struct hl_abi_function) * 1025;
    refused("1025 functions");
    *section(1) = kept;
    section(1)->sh_offset = file_len - 8;
    refused("past the end");
    section(1)->sh_offset = UINT64_MAX - 8;
    refused("past the end");
    *section(1) = kept;
    section(2)->sh_name = kept.sh_name;
    refused("twice");
    header()->e_shoff = file_len - 8;
    refused("section headers are past the end");
    header()->e_shoff = UINT64_MAX - 8;
    refused("section headers are past the end");
}
END_TEST

START_TEST(descriptors)
{
    struct hl_abi_function kept = *function(2);

#define DAMAGE(statement, reason)                                                                  \
    do {                                                                                           \
        statement;                                                                                 \
        refused(reason);                                                                           \
        *function(2) = kept;                                                                       \
    } while (0)
    DAMAGE(function(2)->magic ^= 1, "function 2: magic");
    DAMAGE(function(2)->version = 2, "version 2");
    DAMAGE(function(2)->nparams = 17, "17 parameters");
    DAMAGE(function(2)->ret = 10, "unknown type 10");
    DAMAGE(function(2)->params[1] = 77, "parameter 2 has the unknown type 77");
    DAMAGE(function(2)->params[0] = HL_ABI_VOID, "parameter 1");
    DAMAGE(function(2)->params[5] = HL_ABI_I32, "past its last parameter");
    DAMAGE(function(2)->name[0] = '\0', "its name");
    DAMAGE(function(2)->name[1] = '\n', "its name");
    DAMAGE(memset(function(2)->name, 'a', HL_ABI_NAME_SIZE), "its name");
    DAMAGE(strcpy(function(2)->name, "echo"), "'echo' appears twice");
#undef DAMAGE
}
END_TEST

START_TEST(hostile_symbols)
{
    Elf64_Sym *symbol = (Elf64_Sym *)(void *)(file + section(2)->sh_offset) + 1;
    struct image *img = NULL;
    char text[256];

    /* A name up to the end of the file without a NUL. */
    section(3)->sh_size = file_len - section(3)->sh_offset;
    memset(file + section(3)->sh_offset + 1, '\x1b', section(3)->sh_size - 1);
    symbol->st_name = 1;
    /* The section names were overwritten as well: put them elsewhere. */
    memcpy(file + file_len - 16, "\0" HL_ABI_SECTION, sizeof(HL_ABI_SECTION) + 1);
    section(4)->sh_offset = file_len - 16;
    section(4)->sh_size = 16;
    section(1)->sh_name = 1;
    ck_assert_int_eq(image_new(&img, file, file_len, NULL), 0);
    image_symbol(img, header()->e_entry, text, sizeof(text));
    ck_assert(strncmp(text, "????????", 8) == 0);
    ck_assert_uint_lt(strlen(text), 120);
    ck_assert_ptr_null(strchr(text, '\x1b'));
    image_free(img);
}
END_TEST

START_TEST(damaged_symbols_are_none)
{
    Elf64_Shdr kept = *section(2);
    const struct {
        uint64_t offset, size;
        uint32_t link;
    } cases[] = {{UINT64_MAX - 8, 48, 3},
                 {kept.sh_offset, UINT64_MAX, 3},
                 {kept.sh_offset, 48, 99},
                 {kept.sh_offset, 0, 3}};

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct image *img = NULL;
        char text[64] = "x";

        section(2)->sh_offset = cases[i].offset;
        section(2)->sh_size = cases[i].size;
        section(2)->sh_link = cases[i].link;
        ck_assert_int_eq(image_new(&img, file, file_len, NULL), 0);
        image_symbol(img, header()->e_entry, text, sizeof(text));
        ck_assert_str_eq(text, "");
        image_free(img);
    }
}
END_TEST

/* Small and interesting numbers as well as any: most checks are about bounds. */
static uint64_t odd_number(void)
{
    static const uint64_t numbers[] = {0,          1,          0xff,       0xfff,     0x1000,
                                       0x7fffffff, 0xffffffff, 1ull << 63, UINT64_MAX};
    unsigned int pick = (unsigned int)random() % 16;

    if (pick < sizeof(numbers) / sizeof(numbers[0]))
        return numbers[pick];
    return (uint64_t)random() << 32 | (uint64_t)random();
}

START_TEST(random_damage)
{
    unsigned int accepted = 0;

    srandom(1);
    for (int round = 0; round < 20000; round++) {
        /* A copy of exactly the length, so that reading past it is seen. */
        size_t len = random() % 8 == 0 ? (size_t)random() % file_len : file_len;
        uint8_t *copy = malloc(len > 0 ? len : 1);
        struct image *img = NULL;
        int rc;

        memcpy(copy, file, len);
        for (int n = (int)random() % 4; n >= 0; n--) {
            static const size_t sizes[] = {1, 2, 4, 8};
            size_t size = sizes[random() % 4], at;
            uint64_t value = odd_number();
            size_t zones[] = {0, sizeof(Elf64_Ehdr), header()->e_shoff, PAGE};

            at = zones[random() % 4] + (size_t)random() % 320;
            if (at + size <= len)
                memcpy(copy + at, &value, size);
        }
        rc = image_new(&img, copy, len, NULL);
        ck_assert(rc == 0 || rc == -ENOEXEC);
        if (rc == 0) {
            char text[128];

            accepted++;
            for (size_t i = 0; i < image_function_count(img); i++)
                ck_assert(hl_name_valid(image_function(img, i)->name,
                                        strlen(image_function(img, i)->name)));
            image_symbol(img, odd_number(), text, sizeof(text));
            image_symbol(img, FAKE_ELF_BASE + (uint64_t)random() % 0x10000, text, sizeof(text));
        }
        image_free(img);
        free(copy);
    }
    /* Neither everything nor nothing gets through, or the damage is of the wrong kind. */
    ck_assert_uint_gt(accepted, 100);
    ck_assert_uint_lt(accepted, 19000);
}
END_TEST

int main(void)
{
    TCase *tc = tcase_create("image");

    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, functions_and_symbols);
    tcase_add_test(tc, position_independent);
    tcase_add_test(tc, identity);
    tcase_add_test(tc, segments);
    tcase_add_test(tc, executable_stack_is_ignored);
    tcase_add_test(tc, function_section);
    tcase_add_test(tc, descriptors);
    tcase_add_test(tc, hostile_symbols);
    tcase_add_test(tc, damaged_symbols_are_none);
    tcase_add_test(tc, random_damage);
    return tests_run(tc, "image");
}
