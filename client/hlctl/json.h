/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_HLCTL_JSON_H
#define HL_HLCTL_JSON_H

/* Pieces of JSON that results and failures share. */

#include <jansson.h>

#include "client/hlctl/hlctl.h"

json_t *json_accounting(const struct hl_accounting *accounting);
/* Prints and frees root; NULL is what could not be made, such as from text that is no UTF-8.
 * Returns: EXIT_OK, or EXIT_FAILED, which is said. */
int print_json_line(json_t *root);

#endif
