/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Debian's static SQLite in a guest: a database in memory, filled before the snapshot, queried per
 * call. A query may also write; the next call finds the database as it was. The last statement's
 * rows come back as a JSON array of objects, built in the I/O window.
 */
#include <hlguest.h>

#include <math.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define ORDERS 5000

static sqlite3 *db;

struct writer {
    char *start, *next, *end;
};

static int set_up(void)
{
    static const char sql[] =
        "pragma temp_store = memory;"
        "create table orders(id integer primary key, customer text, quantity integer,"
        " cents integer);"
        "with recursive n(i) as (select 1 union all select i + 1 from n where i < %d)"
        " insert into orders select i, 'customer-' || (i %% 97), i %% 10 + 1, i * 37 %% 1000"
        " from n;"
        "create index orders_customer on orders(customer);";
    char text[sizeof(sql) + 16];

    snprintf(text, sizeof(text), sql, ORDERS);
    sqlite3_config(SQLITE_CONFIG_SINGLETHREAD);
    if (sqlite3_open(":memory:", &db) != SQLITE_OK ||
        sqlite3_exec(db, text, NULL, NULL, NULL) != SQLITE_OK)
        hl_fail(HL_FAIL_INIT, "database: %s", sqlite3_errmsg(db));
    return 0;
}
HL_INIT(set_up);

static void put(struct writer *w, const char *text, size_t len)
{
    if (len > (size_t)(w->end - w->next))
        hl_fail(HL_FAIL_RESULT_SIZE, "rows do not fit %zu bytes", (size_t)(w->end - w->start));
    memcpy(w->next, text, len);
    w->next += len;
}

__attribute__((format(printf, 2, 3))) static void put_format(struct writer *w, const char *fmt, ...)
{
    char text[64];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    put(w, text, strlen(text));
}

static void put_string(struct writer *w, const char *text, size_t len)
{
    struct hl_string s = {text, len};

    if (!hl_string_valid(s))
        hl_fail(SQLITE_MISMATCH, "text that is not UTF-8");
    put(w, "\"", 1);
    for (size_t i = 0; i < len; i++) {
        if (text[i] == '"' || text[i] == '\\')
            put_format(w, "\\%c", text[i]);
        else if ((unsigned char)text[i] < 0x20)
            put_format(w, "\\u%04x", (unsigned char)text[i]);
        else
            put(w, &text[i], 1);
    }
    put(w, "\"", 1);
}

static void put_column(struct writer *w, sqlite3_stmt *stmt, int column)
{
    const uint8_t *blob;

    switch (sqlite3_column_type(stmt, column)) {
    case SQLITE_INTEGER:
        put_format(w, "%lld", sqlite3_column_int64(stmt, column));
        break;
    case SQLITE_FLOAT:
        if (isfinite(sqlite3_column_double(stmt, column)))
            put_format(w, "%.17g", sqlite3_column_double(stmt, column));
        else
            put(w, "null", 4);
        break;
    case SQLITE_TEXT:
        put_string(w, (const char *)sqlite3_column_text(stmt, column),
                   (size_t)sqlite3_column_bytes(stmt, column));
        break;
    case SQLITE_BLOB: /* as hexadecimal digits */
        blob = sqlite3_column_blob(stmt, column);
        put(w, "\"", 1);
        for (int i = 0; i < sqlite3_column_bytes(stmt, column); i++)
            put_format(w, "%02x", blob[i]);
        put(w, "\"", 1);
        break;
    default:
        put(w, "null", 4);
        break;
    }
}

static void put_row(struct writer *w, sqlite3_stmt *stmt)
{
    put(w, "{", 1);
    for (int i = 0; i < sqlite3_column_count(stmt); i++) {
        const char *name = sqlite3_column_name(stmt, i);

        if (i > 0)
            put(w, ",", 1);
        put_string(w, name, strlen(name));
        put(w, ":", 1);
        put_column(w, stmt, i);
    }
    put(w, "}", 1);
}

static void run(struct writer *w, sqlite3_stmt *stmt)
{
    int code;

    w->next = w->start;
    put(w, "[", 1);
    while ((code = sqlite3_step(stmt)) == SQLITE_ROW) {
        if (w->next > w->start + 1)
            put(w, ",", 1);
        put_row(w, stmt);
    }
    if (code != SQLITE_DONE)
        hl_fail(code, "%s", sqlite3_errmsg(db));
    put(w, "]", 1);
    sqlite3_finalize(stmt);
}

HL_FUNCTION(string, query, (string, sql))
{
    struct hl_string result;
    struct writer w;
    size_t room = hl_result_room();
    const char *next = sql.data, *end = sql.data + sql.len;

    w.start = w.next = hl_alloc_result(room);
    w.end = w.start + room;
    put(&w, "[]", 2);
    while (next < end) {
        sqlite3_stmt *stmt;
        int code = sqlite3_prepare_v2(db, next, (int)(end - next), &stmt, &next);

        if (code != SQLITE_OK)
            hl_fail(code, "%s", sqlite3_errmsg(db));
        if (!stmt) /* blanks or a comment */
            continue;
        run(&w, stmt);
    }
    result.data = w.start;
    result.len = (size_t)(w.next - w.start);
    return result;
}
