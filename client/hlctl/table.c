/* SPDX-License-Identifier: Apache-2.0 */
/* Tables: two spaces between columns, nothing after the last, no lines drawn, so that awk can read
 * them too. */
#include "client/hlctl/table.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/hlctl/text.h"

int table_add(struct table *table, const char *const *cells)
{
    char *(*rows)[TABLE_COLUMNS] =
        reallocarray(table->rows, table->nrows + 1, sizeof(*table->rows));

    if (!rows)
        return -ENOMEM;
    table->rows = rows;
    memset(rows[table->nrows], 0, sizeof(*rows));
    table->nrows++;
    for (unsigned int i = 0; i < table->ncolumns; i++) {
        char cell[256];

        rows[table->nrows - 1][i] = strdup(text_printable(cell, sizeof(cell), cells[i]));
        if (!rows[table->nrows - 1][i])
            return -ENOMEM;
    }
    return 0;
}

static int width(const struct table *table, unsigned int column)
{
    int widest = 0;

    for (size_t i = 0; i < table->nrows; i++) {
        int len = (int)strlen(table->rows[i][column] ? table->rows[i][column] : "");

        widest = len > widest ? len : widest;
    }
    return widest;
}

void table_print(const struct table *table)
{
    int widths[TABLE_COLUMNS];

    for (unsigned int i = 0; i < table->ncolumns; i++)
        widths[i] = width(table, i);
    for (size_t row = 0; row < table->nrows; row++) {
        for (unsigned int i = 0; i < table->ncolumns; i++) {
            const char *cell = table->rows[row][i] ? table->rows[row][i] : "";

            if (table->right >> i & 1)
                printf("%*s", widths[i], cell);
            else if (i + 1 < table->ncolumns)
                printf("%-*s", widths[i], cell);
            else
                printf("%s", cell);
            fputs(i + 1 < table->ncolumns ? "  " : "\n", stdout);
        }
    }
}

void table_fini(struct table *table)
{
    for (size_t row = 0; row < table->nrows; row++) {
        for (unsigned int i = 0; i < table->ncolumns; i++)
            free(table->rows[row][i]);
    }
    free(table->rows);
    table->rows = NULL;
    table->nrows = 0;
}
