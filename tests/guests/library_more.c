/* SPDX-License-Identifier: Apache-2.0 */
/* Every type as parameter and result, in a second object of library.c's program, with
 * names that C and its library use themselves. */
#include <hlguest.h>

#include <stdlib.h>

HL_FUNCTION(i32, div, (i32, a))
{
    return a;
}

HL_FUNCTION(u32, abs, (u32, a))
{
    return a;
}

HL_FUNCTION(i64, exit, (i64, a))
{
    return a;
}

HL_FUNCTION(u64, u64, (u64, a))
{
    return a;
}

HL_FUNCTION(f32, f32, (f32, a))
{
    return a;
}

HL_FUNCTION(f64, f64, (f64, a))
{
    return a;
}

HL_FUNCTION(_Bool, truth, (_Bool, a))
{
    return a;
}

HL_FUNCTION(string, string, (string, a))
{
    return a;
}

HL_FUNCTION(bytes, bytes, (bytes, a))
{
    return a;
}

HL_FUNCTION(void, int)
{
}

HL_FUNCTION(void, a_name_of_sixty_three_bytes_is_the_longest_that_fits_in_any_one)
{
}

HL_FUNCTION(string, sixteen, (i32, a), (i32, b), (i32, c), (i32, d), (i32, e), (i32, f), (i32, g),
            (i32, h), (i32, i), (i32, j), (i32, k), (i32, l), (i32, m), (i32, n), (i32, o),
            (bytes, p))
{
    return hl_format("%d %d %d %d %d %d %d %d %d %d %d %d %d %d %d %zu", a, b, c, d, e, f, g, h, i,
                     j, k, l, m, n, o, p.len);
}
