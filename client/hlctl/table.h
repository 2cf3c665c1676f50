/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_HLCTL_TABLE_H
#define HL_HLCTL_TABLE_H

/* Rows of text in columns as wide as they need. */

#include <stddef.h>

#define TABLE_COLUMNS 10

struct table {
    unsigned int ncolumns;
    unsigned int right; /* bit per column that is aligned to the right */
    char *(*rows)[TABLE_COLUMNS];
    size_t nrows;
};

/* Copies ncolumns texts, control characters taken out. Returns: 0 or -ENOMEM. */
int table_add(struct table *table, const char *const *cells);
void table_print(const struct table *table);
void table_fini(struct table *table);

#endif
