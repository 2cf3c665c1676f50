/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The smallest guest. echo's result is its argument's own bytes, so nothing is copied inside the
 * guest.
 */
#include <hlguest.h>

HL_FUNCTION(bytes, echo, (bytes, data))
{
    return data;
}

HL_FUNCTION(string, hello, (string, name))
{
    return hl_format("hello, %.*s", (int)name.len, name.data);
}
