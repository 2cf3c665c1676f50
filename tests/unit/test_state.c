/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A guest that keeps its state from call to call, on real machines: each kind of memory stays,
 * registers do not, checkpoints bring back exactly what was, on the same machine and on another.
 */
#include "config.h"

#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "guest/hl_abi.h"
#include "hv/checkpoint.h"
#include "hv/guest.h"
#include "tests/unit/program.h"

#define MEMORY (32ull << 20)
#define PAGE   HL_ABI_PAGE_SIZE
#define CELLS  2048u

static struct program p;
static struct history *history;
static uint64_t seed;

static uint32_t any(uint32_t below)
{
    seed = seed * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)(seed >> 33) % below;
}

static void begin(void)
{
    seed = 5;
    program_load_sized(&p, "tests/guests/state", MEMORY, 256u << 10);
    p.keep = true;
    ck_assert_int_eq(history_new(&history, p.snap, NULL, NULL), 0);
}

static void end(void)
{
    history_free(history);
    program_free(&p);
}

static struct checkpoint *checkpoint(uint64_t *pages)
{
    struct hl_error err = HL_ERROR_INIT;
    struct checkpoint *c;
    uint64_t n;

    ck_assert_msg(history_checkpoint(history, program_instance(&p), &c, pages ? pages : &n, &err) ==
                      0,
                  "%s", err.text);
    return c;
}

static void rollback(const struct checkpoint *c)
{
    struct hl_error err = HL_ERROR_INIT;
    uint64_t pages;

    ck_assert_msg(history_rollback(history, p.inst, c, &pages, &err) == 0, "%s", err.text);
}

static void move(const struct checkpoint *c)
{
    struct hl_error err = HL_ERROR_INIT;
    uint64_t pages;

    ck_assert_msg(history_move(history, program_instance(&p), c, &pages, &err) == 0, "%s",
                  err.text);
}

static void memory(uint8_t *to)
{
    struct guest *g = instance_at_rest(p.inst);

    ck_assert_int_eq(g->hv->mem_read(g->machine, HL_ABI_IO_ADDR, to, MEMORY - HL_ABI_IO_ADDR), 0);
}

START_TEST(calls_find_what_was_left)
{
    struct outcome o;

    begin();
    expect_i64(CALL0(&p, "count"), 1001);
    expect_i64(CALL0(&p, "count"), 1002);
    o = CALL0(&p, "doubled");
    ck_assert_double_eq(o.result.value.f64, 2.0);
    expect_i64(CALL(&p, "poke", U32(7), U64(70)), 0);
    expect_i64(CALL(&p, "poke", U32(7), U64(71)), 70);
    expect_i64(CALL(&p, "allocate", U32(100)), 1);
    expect_i64(CALL(&p, "allocate", U32(100000)), 3);
    expect_i64(CALL(&p, "allocate", U32(1000000)), 6);
    expect_i64(CALL0(&p, "release"), 2);
    expect_i64(CALL(&p, "allocate", U32(1000000)), 6);
    expect_i64(CALL(&p, "map", U32(10)), 0);
    expect_i64(CALL(&p, "map", U32(20)), 0); /* the same place, zero all the same */
    expect_i64(CALL0(&p, "touch"), 8);
    expect_bytes(CALL(&p, "echo", BYTES("abc", 3)), "abc", 3);
    ck_assert_uint_eq(p.made, 1);
    end();
}
END_TEST

START_TEST(errors_of_its_own_change_what_they_change)
{
    begin();
    for (int i = 0; i < 3; i++)
        expect_error(CALL(&p, "fails", I32(12)), 12, "asked");
    expect_i64(CALL(&p, "peek", U32(0)), 3);
    ck_assert_uint_eq(p.made, 1);
    end();
}
END_TEST

START_TEST(permissions_stay_and_go_back)
{
    struct checkpoint *open_, *closed;

    begin();
    expect_i64(CALL(&p, "map", U32(4)), 0);
    open_ = checkpoint(NULL);
    expect_void(CALL(&p, "writable", BOOL(false)));
    closed = checkpoint(NULL);
    rollback(open_);
    expect_i64(CALL0(&p, "touch"), 8);
    rollback(closed);
    expect_end(CALL0(&p, "touch"), INSTANCE_END_FAULT);
    ck_assert_ptr_null(p.inst);
    move(closed); /* another machine */
    expect_void(CALL(&p, "writable", BOOL(true)));
    expect_i64(CALL0(&p, "touch"), 8);
    rollback(closed);
    expect_end(CALL0(&p, "touch"), INSTANCE_END_FAULT);
    move(open_);
    expect_i64(CALL0(&p, "touch"), 8);
    checkpoint_free(history, open_);
    checkpoint_free(history, closed);
    end();
}
END_TEST

START_TEST(a_crash_is_survived_by_its_checkpoints)
{
    struct checkpoint *c;

    begin();
    expect_i64(CALL0(&p, "count"), 1001);
    expect_i64(CALL(&p, "allocate", U32(300000)), 1);
    c = checkpoint(NULL);
    expect_i64(CALL0(&p, "count"), 1002);
    expect_end(CALL0(&p, "crash"), INSTANCE_END_FAULT);
    move(c);
    expect_i64(CALL0(&p, "count"), 1002);
    expect_i64(CALL(&p, "allocate", U32(300000)), 3);
    ck_assert_int_eq(program_call(&p, "spin", 5, NULL, 0).state, INSTANCE_KICKED);
    move(NULL);
    expect_i64(CALL0(&p, "count"), 1001);
    ck_assert_uint_eq(p.made, 3);
    checkpoint_free(history, c);
    end();
}
END_TEST

/* Where the hypervisor tells what was written, that is what a checkpoint looks at. */
START_TEST(a_checkpoint_costs_what_was_written)
{
    struct checkpoint *c[4];
    uint64_t pages;

    begin();
    expect_i64(CALL(&p, "fill", U32(0), U32(1000), U64(1)), 0);
    c[0] = checkpoint(&pages);
    ck_assert_uint_ge(pages, 1000);
    ck_assert_uint_lt(pages, 1020);
    expect_i64(CALL0(&p, "count"), 1001);
    if (program_hv == &hv_backend_kvm)
        ck_assert_int_lt(history_written(history, p.inst), 20);
    c[1] = checkpoint(&pages);
    ck_assert_uint_lt(pages, 20);
    expect_i64(CALL(&p, "poke", U32(3), U64(9)), 4);
    c[2] = checkpoint(&pages);
    ck_assert_uint_ge(pages, 1);
    ck_assert_uint_lt(pages, 20);
    rollback(c[1]);
    if (program_hv == &hv_backend_kvm)
        ck_assert_int_eq(history_written(history, p.inst), 0);
    c[3] = checkpoint(&pages);
    ck_assert_uint_eq(pages, 0);
    for (int i = 0; i < 4; i++)
        checkpoint_free(history, c[i]);
    ck_assert_uint_eq(p.made, 1);
    end();
}
END_TEST

/* More pages than the dirty ring has entries, over and over. */
START_TEST(large_states)
{
    struct checkpoint *c;
    uint8_t *then = malloc(MEMORY), *now = malloc(MEMORY);

    ck_assert(then && now);
    begin();
    expect_i64(CALL(&p, "fill", U32(0), U32(CELLS), U64(100)), 0);
    expect_i64(CALL(&p, "map", U32(3000)), 0);
    c = checkpoint(NULL);
    memory(then);
    for (uint64_t i = 0; i < 6; i++) {
        expect_i64(CALL(&p, "fill", U32(0), U32(CELLS), U64(1000 * (i + 1))), CELLS);
        expect_i64(CALL(&p, "map", U32(3000)), 0);
    }
    rollback(c);
    memory(now);
    ck_assert(memcmp(then, now, MEMORY - HL_ABI_IO_ADDR) == 0);
    expect_i64(CALL(&p, "peek", U32(CELLS - 1)), 100 + CELLS - 1);
    checkpoint_free(history, c);
    free(then);
    free(now);
    end();
}
END_TEST

/* --- snapshots of states -------------------------------------------------------------------- */

static const struct snapshot_key key = {.version = "state"};

/* What was committed is what calls of the new snapshot begin with, each of them. */
START_TEST(a_state_becomes_a_snapshot)
{
    struct hl_error err = HL_ERROR_INIT;
    struct checkpoint *c;
    uint64_t size;
    int fd;

    begin();
    expect_i64(CALL0(&p, "count"), 1001);
    expect_i64(CALL(&p, "fill", U32(100), U32(200), U64(7)), 0);
    expect_i64(CALL(&p, "allocate", U32(300000)), 1);
    expect_i64(CALL(&p, "map", U32(10)), 0);
    expect_void(CALL(&p, "writable", BOOL(false)));
    expect_i64(CALL(&p, "allocate", U32(2000000)), 3);
    expect_i64(CALL0(&p, "release"), 1); /* leaves memory that is free and not zero */
    c = checkpoint(NULL);
    expect_i64(CALL0(&p, "count"), 1002);
    ck_assert_msg(history_commit(&fd, &size, history, c, HISTORY_DIFFERENT, p.snap, program_hv,
                                 &key, NULL, NULL, &err) == 0,
                  "%s", err.text);
    ck_assert_uint_lt(size, 2000u * PAGE);
    checkpoint_free(history, c);
    history_free(history);
    history = NULL;
    ck_assert_msg(program_become(&p, fd, &key, &err) == 0, "%s", err.text);
    close(fd);
    p.keep = false;
    for (int i = 0; i < 3; i++) {
        expect_i64(CALL0(&p, "count"), 1002);
        expect_i64(CALL(&p, "peek", U32(150)), 157);
        expect_i64(CALL(&p, "allocate", U32(2000000)), 3);
    }
    expect_end(CALL0(&p, "touch"), INSTANCE_END_FAULT);
    expect_i64(CALL(&p, "map", U32(20)), 0);
    end();
}
END_TEST

/* From there on as from any: sessions, checkpoints, and another commit over the same root. */
START_TEST(states_of_states)
{
    struct hl_error err = HL_ERROR_INIT;
    struct snapshot *root;
    struct checkpoint *c;
    uint64_t size, first = 0;
    int fd;

    begin();
    root = snapshot_ref(p.snap);
    for (uint32_t i = 1; i < 5; i++) {
        struct snapshot *own = p.snap;

        expect_i64(CALL0(&p, "count"), 1000 + i);
        expect_i64(CALL(&p, "poke", U32(i), U64(i)), 0);
        c = checkpoint(NULL);
        ck_assert_int_eq(history_commit(&fd, &size, history, c, HISTORY_DIFFERENT, root, program_hv,
                                        &key, NULL, NULL, &err),
                         0);
        first = first == 0 ? size : first;
        ck_assert_uint_lt(size, first + i * 8 * PAGE);
        checkpoint_free(history, c);
        history_free(history);
        /* It lies over the root and not over the one before. */
        p.snap = snapshot_ref(root);
        ck_assert_msg(program_become(&p, fd, &key, &err) == 0, "%s", err.text);
        snapshot_unref(own);
        close(fd);
        ck_assert_int_eq(history_new(&history, p.snap, NULL, NULL), 0);
    }
    for (uint32_t i = 1; i < 5; i++)
        expect_i64(CALL(&p, "peek", U32(i)), i);
    snapshot_unref(root);
    end();
}
END_TEST

/* --- against a model ------------------------------------------------------------------------ */

#define CHECKPOINTS 1000u
#define USED        200u /* cells */

static uint64_t (*models)[USED];
static uint64_t now[USED];

static void some_calls(void)
{
    for (uint32_t n = any(4); n > 0; n--) {
        uint32_t cell = any(USED);
        uint64_t value = any(1000);

        expect_i64(CALL(&p, "poke", U32(cell * (CELLS / USED)), U64(value)), (int64_t)now[cell]);
        now[cell] = value;
    }
    if (any(20) == 0)
        (void)CALL(&p, "map", U32(1 + any(30)));
}

START_TEST(a_thousand_checkpoints)
{
    unsigned int count = program_hv == &hv_backend_kvm ? CHECKPOINTS : CHECKPOINTS / 10;
    struct checkpoint **all = calloc(count, sizeof(*all));
    uint8_t *whole = malloc(MEMORY), *have = malloc(MEMORY);
    unsigned int marked = 0;

    begin();
    models = calloc(count, sizeof(*models));
    ck_assert(all && models && whole && have);
    memset(now, 0, sizeof(now));
    for (unsigned int n = 0; n < count; n++) {
        some_calls();
        all[n] = checkpoint(NULL);
        memcpy(models[n], now, sizeof(now));
        if (n % 50 == 0) {
            marked = n;
            memory(whole);
        }
        if (n % 50 == 40) { /* byte for byte */
            rollback(all[marked]);
            memcpy(now, models[marked], sizeof(now));
            memory(have);
            ck_assert(memcmp(whole, have, MEMORY - HL_ABI_IO_ADDR) == 0);
        } else if (any(3) == 0) {
            unsigned int k = any(n + 1);

            if (any(2))
                some_calls();
            rollback(all[k]);
            memcpy(now, models[k], sizeof(now));
        }
        if (any(50) == 0) { /* the machine is lost */
            expect_end(CALL0(&p, "crash"), INSTANCE_END_FAULT);
            move(all[n / 2]);
            memcpy(now, models[n / 2], sizeof(now));
        }
    }
    for (unsigned int n = 0; n < count; n += 7) {
        rollback(all[n]);
        for (uint32_t i = 0; i < USED; i += 19)
            expect_i64(CALL(&p, "peek", U32(i * (CELLS / USED))), (int64_t)models[n][i]);
    }
    for (unsigned int n = 0; n < count; n++)
        checkpoint_free(history, all[n]);
    free(all);
    free(models);
    free(whole);
    free(have);
    end();
}
END_TEST

static void add_case(Suite *suite, const char *backend, void (*open)(void))
{
    TCase *tcase = tcase_create(backend);

    tcase_set_timeout(tcase, 240);
    tcase_add_checked_fixture(tcase, open, programs_close);
    tcase_add_test(tcase, calls_find_what_was_left);
    tcase_add_test(tcase, errors_of_its_own_change_what_they_change);
    tcase_add_test(tcase, permissions_stay_and_go_back);
    tcase_add_test(tcase, a_crash_is_survived_by_its_checkpoints);
    tcase_add_test(tcase, a_checkpoint_costs_what_was_written);
    tcase_add_test(tcase, large_states);
    tcase_add_test(tcase, a_state_becomes_a_snapshot);
    tcase_add_test(tcase, states_of_states);
    tcase_add_test(tcase, a_thousand_checkpoints);
    suite_add_tcase(suite, tcase);
}

int main(int argc, char **argv)
{
    return programs_main(argc, argv, "state", add_case);
}
