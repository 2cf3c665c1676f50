/* SPDX-License-Identifier: Apache-2.0 */
/* A guest whose main ends instead of serving. */
#include <hlguest.h>

HL_FUNCTION(i32, one)
{
    return 1;
}

int main(void)
{
    return 0;
}
