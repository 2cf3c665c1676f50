/* SPDX-License-Identifier: Apache-2.0 */
/* The main of a program that has none. In an archive, so a program's own takes its place. */
#include "hlguest.h"

int main(void);

__attribute__((weak)) int main(void)
{
    hl_serve();
}
