/* SPDX-License-Identifier: Apache-2.0 */
/* A static program that is no guest at all. */
#include <stdio.h>

int main(void)
{
    puts("hello");
    return 0;
}
