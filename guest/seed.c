/* SPDX-License-Identifier: Apache-2.0 */
/* On its own, so that only programs which call it link the C library's generators. */
#include "hlguest.h"

#include <stdlib.h>

void hl_seed_rand(void)
{
    unsigned int seeds[2];

    hl_random(seeds, sizeof(seeds));
    srand(seeds[0]);
    srandom(seeds[1]); /* the same generator in some C libraries, another in others */
}
