/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The guest library's own edges: results from everywhere, errors from anywhere, a main of the
 * program's own. library_more.c has more functions, in a second object.
 */
#include <hlguest.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int initialised, mains;
static char global[] = "from a variable";

static int set_up(void)
{
    initialised++;
    printf("one line\nand half a");
    return 0;
}
HL_INIT(set_up);

HL_FUNCTION(string, state)
{
    return hl_format("%d %d", initialised, mains);
}

HL_FUNCTION(u64, room, (bytes, filler))
{
    (void)filler;
    return hl_result_room();
}

HL_FUNCTION(bytes, all_of_the_room)
{
    size_t len = hl_result_room();
    uint8_t *room = hl_alloc_result(len);

    memset(room, 0xab, len);
    return hl_bytes_of(room, len);
}

HL_FUNCTION(bytes, more_than_the_room)
{
    return hl_bytes_of(hl_alloc_result(hl_result_room() + 1), 1);
}

HL_FUNCTION(bytes, in_two_parts)
{
    char *first = hl_alloc_result(3), *second = hl_alloc_result(3);

    memcpy(first, "abc", 3);
    memcpy(second, "def", 3);
    return hl_bytes_of(first, (size_t)(second + 3 - first));
}

HL_FUNCTION(bytes, of_malloc, (u32, len))
{
    char *block = malloc(len);

    if (!block)
        hl_fail(12, "no memory");
    memset(block, 'm', len);
    return hl_bytes_of(block, len);
}

HL_FUNCTION(bytes, alphabet, (u32, len))
{
    char *part = hl_alloc_bytes(len / 2), *whole = hl_alloc_bytes(len);

    for (uint32_t i = 0; i < len / 2; i++)
        part[i] = (char)('a' + i % 26);
    memset(whole, '.', len);
    memcpy(whole, part, len / 2);
    return hl_bytes_of(whole, len);
}

HL_FUNCTION(string, of_literal)
{
    return hl_string_of("from a literal");
}

HL_FUNCTION(string, of_variable)
{
    global[0] = 'F';
    return hl_string_of(global);
}

HL_FUNCTION(bytes, part_of_argument, (bytes, data), (u32, from), (u32, len))
{
    return hl_bytes_of((const char *)data.data + from, len);
}

HL_FUNCTION(bytes, null_result)
{
    return hl_bytes_of(NULL, 0);
}

HL_FUNCTION(string, copied, (string, text))
{
    char *copy = hl_string_copy(text);

    return hl_string_of(copy);
}

static void depth(int n)
{
    if (n == mains - 1)
        hl_fail(77, "from the depth");
    if (n > 0)
        depth(n - 1);
    printf("never\n");
}

HL_FUNCTION(void, fail_in_depth)
{
    depth(50);
}

HL_FUNCTION(i32, fail_quoting, (bytes, text))
{
    hl_fail(-99, "%.*s", (int)text.len, (const char *)text.data);
}

HL_FUNCTION(i32, fail_at_length, (u32, len))
{
    hl_fail(1, "%*s", (int)len, "x");
}

HL_FUNCTION(bool, is_utf8, (bytes, text))
{
    struct hl_string s = {text.data, text.len};

    return hl_string_valid(s);
}

int main(void)
{
    mains++;
    hl_serve();
}
