/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A hostile program file, as an upload brings it. Random bytes alone never get past the ELF magic,
 * so most inputs are a list of patches (offset, length, bytes) on a well-formed file; those whose
 * first byte is odd are taken as the file itself.
 */
#include "config.h"

#include <stdlib.h>
#include <string.h>

#include "hv/image.h"
#include "tests/fake/elf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void patch(uint8_t *file, size_t len, const uint8_t *data, size_t size)
{
    while (size >= 3) {
        size_t at = ((size_t)data[0] | (size_t)data[1] << 8) % len, n = data[2] % 9;

        data += 3;
        size -= 3;
        n = n > size ? size : n;
        n = n > len - at ? len - at : n;
        memcpy(file + at, data, n);
        data += n;
        size -= n;
    }
}

static void read_all(const struct image *image)
{
    char text[128];

    for (size_t i = 0; i < image_function_count(image); i++) {
        const struct image_function *function = image_function(image, i);

        hl_signature_format(text, sizeof(text), function->name, &function->sig);
        if (!hl_name_valid(function->name, strlen(function->name)))
            abort();
        if (image_find_function(image, function->name, strlen(function->name)) < 0)
            abort();
    }
    for (uint64_t address = 0; address < 0x500000; address += 0x3fff)
        image_symbol(image, address, text, sizeof(text));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct image *image;
    struct hl_error err = HL_ERROR_INIT;
    uint8_t *file;
    size_t len;

    if (size == 0)
        return 0;
    if (data[0] & 1) {
        file = malloc(size);
        if (!file)
            return 0;
        len = size - 1;
        memcpy(file, data + 1, len);
    } else {
        file = fake_elf_new(&len);
        patch(file, len, data + 1, size - 1);
    }
    if (image_new(&image, file, len, &err) == 0) {
        read_all(image);
        image_free(image);
    } else if (err.code == 0 || err.text[0] == '\0') {
        abort(); /* a refusal says why */
    }
    free(file);
    return 0;
}
