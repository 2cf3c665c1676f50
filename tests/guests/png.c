/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A library that the examples do not use, as a user would take it: the macro, pkg-config, and
 * Debian's static libpng. A PNG file in; width, height and a CRC of its pixels as RGBA out.
 */
#include <hlguest.h>

#include <png.h>
#include <stdlib.h>
#include <zlib.h>

HL_FUNCTION(string, describe, (bytes, file))
{
    png_image image = {.version = PNG_IMAGE_VERSION};
    png_bytep pixels;

    if (!png_image_begin_read_from_memory(&image, file.data, file.len))
        hl_fail(1, "%s", image.message);
    image.format = PNG_FORMAT_RGBA;
    pixels = malloc(PNG_IMAGE_SIZE(image));
    if (!pixels)
        hl_fail(2, "no memory for %u x %u", image.width, image.height);
    if (!png_image_finish_read(&image, NULL, pixels, 0, NULL))
        hl_fail(1, "%s", image.message);
    return hl_format("%ux%u %08lx", image.width, image.height,
                     crc32(0, pixels, (uInt)PNG_IMAGE_SIZE(image)));
}
