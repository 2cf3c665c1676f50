/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sessions of the fake backend: calls that find what the one before left, and checkpoints against a
 * model, with writes of guest and host, heap, mappings and permissions at random; every charge and
 * operation is made to fail once.
 */
#include "config.h"

#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "hv/checkpoint.h"
#include "hv/guest.h"
#include "hv/page_tree.h"
#include "hv/timer.h"
#include "tests/fake/elf.h"
#include "tests/fake/fake.h"
#include "tests/unit/tests_run.h"

#define MEMORY  (16ull << 20)
#define IO_SIZE (64u << 10)
#define PAGE    HL_ABI_PAGE_SIZE
#define SECOND  1000000000ull

static uint8_t *file;
static struct image *img;
static struct hv_host *host;
static struct snapshot *snap;
static struct instance *inst;
static struct history *history;
static uint64_t charged, charge_limit;
static uint64_t seed;

static bool charge(void *opaque, uint64_t bytes)
{
    ck_assert_ptr_eq(opaque, &charged);
    if (bytes > charged && bytes > charge_limit)
        return false;
    charged = bytes;
    return true;
}

static uint32_t any(uint32_t below)
{
    seed = seed * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)(seed >> 33) % below;
}

static void bind_instance(void)
{
    struct hl_error err = HL_ERROR_INIT;
    struct shell *shell;

    instance_free(inst);
    ck_assert_int_eq(shell_new(&shell, &hv_backend_fake, host, shell_class(MEMORY), &err), 0);
    ck_assert_msg(instance_bind(&inst, shell, snap, img, &err) == 0, "%s", err.text);
}

static void setup(void)
{
    const struct hv_host_config config = {.kvm_fd = -1, .nursery_fd = -1};
    struct snapshot_options options = {.memory_size = MEMORY,
                                       .io_size = IO_SIZE,
                                       .deadline_ns = hv_now_ns() + 5 * SECOND,
                                       .name = "t"};
    size_t len;

    fake_clear();
    seed = 1;
    charged = 0;
    charge_limit = UINT64_MAX;
    file = fake_elf_new(&len);
    ck_assert_int_eq(image_new(&img, file, len, NULL), 0);
    ck_assert_int_eq(hv_backend_fake.host_open(&host, &config, NULL), 0);
    ck_assert_int_eq(snapshot_build(&snap, &hv_backend_fake, host, img, &options, NULL), 0);
    bind_instance();
    ck_assert_int_eq(history_new(&history, snap, charge, &charged), 0);
}

static void teardown(void)
{
    history_free(history);
    ck_assert_uint_eq(charged, 0);
    instance_free(inst);
    inst = NULL;
    ck_assert_int_eq(fake_machines(), 0);
    snapshot_unref(snap);
    hv_backend_fake.host_close(host);
    image_free(img);
    free(file);
}

static struct checkpoint *checkpoint(void)
{
    struct hl_error err = HL_ERROR_INIT;
    struct checkpoint *c;
    uint64_t pages;

    ck_assert_msg(history_checkpoint(history, inst, &c, &pages, &err) == 0, "%s", err.text);
    return c;
}

static void rollback(const struct checkpoint *c)
{
    struct hl_error err = HL_ERROR_INIT;
    uint64_t pages;

    ck_assert_msg(history_rollback(history, inst, c, &pages, &err) == 0, "%s", err.text);
}

static enum instance_state call(const char *name, const struct hl_value *arg,
                                struct instance_result *result)
{
    struct hl_error err = HL_ERROR_INIT;
    int function = image_find_function(img, name, strlen(name));
    enum instance_state state;

    ck_assert_msg(instance_begin(inst, (size_t)function, arg, arg ? 1 : 0, &err) == 0, "%s",
                  err.text);
    state = instance_run(inst, hv_now_ns() + 20 * SECOND);
    if (state == INSTANCE_DONE)
        ck_assert_int_eq(instance_result(inst, result, &err), 0);
    return state;
}

static uint32_t keep(uint32_t value)
{
    const struct hl_value arg = {.type = HL_TYPE_U32, .u32 = value};
    struct instance_result result;

    ck_assert_int_eq(call("keep", &arg, &result), INSTANCE_DONE);
    ck_assert_int_eq(instance_continue(inst), 0);
    return result.value.u32;
}

/* --- calls ---------------------------------------------------------------------------------- */

START_TEST(state_stays)
{
    ck_assert_uint_eq(keep(1), 0);
    ck_assert_uint_eq(keep(2), 1);
    ck_assert_uint_eq(keep(3), 2);
    ck_assert_int_eq(instance_continue(inst), 0); /* without a call: nothing happens */
    ck_assert_uint_eq(keep(4), 3);
}
END_TEST

START_TEST(reset_still_resets)
{
    struct instance_result result;
    const struct hl_value arg = {.type = HL_TYPE_U32, .u32 = 9};
    struct hl_error err = HL_ERROR_INIT;
    uint64_t pages;

    keep(1);
    ck_assert_int_eq(call("keep", &arg, &result), INSTANCE_DONE);
    ck_assert_msg(instance_reset(inst, true, &pages, &err) == 0, "%s", err.text);
    ck_assert_uint_eq(keep(1), 0);
}
END_TEST

START_TEST(broken_guests_do_not_continue)
{
    static const char *const ends[] = {"fault", "die"};
    struct instance_result result;
    struct checkpoint *c;
    struct hl_error err = HL_ERROR_INIT;
    uint64_t pages;

    for (size_t i = 0; i < sizeof(ends) / sizeof(ends[0]); i++) {
        ck_assert_int_eq(call(ends[i], NULL, &result), INSTANCE_FAULT);
        ck_assert_int_eq(instance_continue(inst), 1);
        ck_assert_int_eq(history_checkpoint(history, inst, &c, &pages, &err), -EBUSY);
        bind_instance();
    }
    /* In the middle of a call. */
    ck_assert_int_eq(
        instance_begin(inst, (size_t)image_find_function(img, "spin", 4), NULL, 0, &err), 0);
    ck_assert_int_eq(instance_run(inst, hv_now_ns()), INSTANCE_KICKED);
    ck_assert_int_eq(instance_continue(inst), 1);
    ck_assert_int_eq(history_checkpoint(history, inst, &c, &pages, &err), -EBUSY);
}
END_TEST

START_TEST(a_rewind_that_fails_breaks_it)
{
    struct instance_result result;
    const struct hl_value arg = {.type = HL_TYPE_U32, .u32 = 9};
    struct hl_error err = HL_ERROR_INIT;

    ck_assert_int_eq(call("keep", &arg, &result), INSTANCE_DONE);
    fake_fail(FAKE_REWIND, 1, -EIO);
    ck_assert_int_eq(instance_continue(inst), -EIO);
    ck_assert_int_eq(instance_begin(inst, 3, NULL, 0, &err), -EBUSY);
}
END_TEST

/* --- checkpoints ---------------------------------------------------------------------------- */

START_TEST(back_and_forth)
{
    struct checkpoint *a, *b;

    keep(1);
    a = checkpoint();
    keep(2);
    b = checkpoint();
    keep(3);
    rollback(a);
    ck_assert_uint_eq(keep(4), 1);
    rollback(b); /* of a branch that was left */
    ck_assert_uint_eq(keep(5), 2);
    rollback(NULL);
    ck_assert_uint_eq(keep(6), 0);
    checkpoint_free(history, b);
    rollback(a);
    ck_assert_uint_eq(keep(7), 1);
    checkpoint_free(history, a);
}
END_TEST

START_TEST(another_instance_becomes_what_one_was)
{
    struct hl_error err = HL_ERROR_INIT;
    struct checkpoint *a;
    uint64_t pages;

    keep(1);
    a = checkpoint();
    keep(2);
    bind_instance();
    ck_assert_msg(history_move(history, inst, a, &pages, &err) == 0, "%s", err.text);
    ck_assert_uint_eq(keep(3), 1);
    bind_instance();
    ck_assert_msg(history_move(history, inst, NULL, &pages, &err) == 0, "%s", err.text);
    ck_assert_uint_eq(keep(4), 0);
    rollback(a);
    ck_assert_uint_eq(keep(5), 1);
    checkpoint_free(history, a);
}
END_TEST

START_TEST(unchanged_pages_cost_nothing)
{
    struct hl_error err = HL_ERROR_INIT;
    struct checkpoint *a, *b, *c;
    uint64_t pages, one;

    keep(1);
    keep(1);
    a = checkpoint();
    one = history_bytes(history);
    keep(1); /* the same call, the same value */
    ck_assert_int_eq(history_checkpoint(history, inst, &b, &pages, &err), 0);
    ck_assert_uint_eq(pages, 0);
    ck_assert_uint_lt(history_bytes(history) - one, 256);
    keep(2);
    ck_assert_int_gt(history_written(history, inst), 0);
    ck_assert_int_eq(history_checkpoint(history, inst, &c, &pages, &err), 0);
    ck_assert_uint_gt(pages, 0);
    ck_assert_uint_lt(pages, 4);
    checkpoint_free(history, a);
    checkpoint_free(history, b);
    checkpoint_free(history, c);
    ck_assert_uint_gt(history_bytes(history), 0); /* what the instance stands on */
}
END_TEST

START_TEST(a_refused_charge_changes_nothing)
{
    struct hl_error err = HL_ERROR_INIT;
    struct checkpoint *a, *b;
    const struct hl_value arg = {.type = HL_TYPE_U32, .u32 = 500};
    struct instance_result result;
    uint64_t pages;

    keep(1);
    a = checkpoint();
    keep(2);
    ck_assert_int_eq(call("dirty", &arg, &result), INSTANCE_DONE);
    ck_assert_int_eq(instance_continue(inst), 0);
    charge_limit = charged + (512u << 10); /* of two million */
    ck_assert_int_eq(history_checkpoint(history, inst, &b, &pages, &err), -ENOMEM);
    ck_assert_ptr_null(b);
    charge_limit = UINT64_MAX;
    b = checkpoint();
    rollback(a);
    ck_assert_uint_eq(keep(9), 1);
    rollback(b);
    ck_assert_int_eq(memcmp(fake_memory(instance_at_rest(inst)->machine) +
                                snapshot_linux(snap)->brk_start + 499 * PAGE,
                            "secret", 6),
                     0);
    checkpoint_free(history, a);
    checkpoint_free(history, b);
}
END_TEST

START_TEST(operations_that_fail)
{
    struct hl_error err = HL_ERROR_INIT;
    struct checkpoint *a, *b;
    uint64_t pages;

    keep(1);
    a = checkpoint();
    keep(2);
    fake_fail(FAKE_MEM_READ, 1, -EIO);
    ck_assert_int_eq(history_checkpoint(history, inst, &b, &pages, &err), -EIO);
    b = checkpoint();
    fake_fail(FAKE_MEM_WRITE, 1, -EIO);
    ck_assert_int_eq(history_rollback(history, inst, a, &pages, &err), -EIO);
    ck_assert_int_eq(history_rollback(history, inst, a, &pages, &err), -EBUSY); /* it is broken */
    bind_instance();
    fake_fail(FAKE_COLLECT, 2, -EIO);
    ck_assert_int_eq(history_move(history, inst, a, &pages, &err), -EIO);
    bind_instance();
    ck_assert_int_eq(history_move(history, inst, b, &pages, &err), 0);
    ck_assert_uint_eq(keep(3), 2);
    checkpoint_free(history, a);
    checkpoint_free(history, b);
}
END_TEST

static int64_t time_seen(void)
{
    struct instance_result result;

    ck_assert_int_eq(call("time", NULL, &result), INSTANCE_DONE);
    ck_assert_int_eq(instance_continue(inst), 0);
    return result.value.i64;
}

static void drawn(uint8_t bytes[16])
{
    ck_assert_int_eq(world_random(&instance_at_rest(inst)->world, bytes, 16), 0);
}

/* What calls after a checkpoint see, and do once more after a rollback: a second of looks. */
static void look_and_draw(int64_t times[1200], uint8_t bytes[16])
{
    for (int i = 0; i < 1200; i++)
        times[i] = time_seen();
    drawn(bytes);
}

START_TEST(a_made_up_world_goes_back)
{
    static const uint8_t world_seed[HV_SEED_SIZE] = {5};
    struct hl_error err = HL_ERROR_INIT;
    int64_t times[4][1200];
    uint8_t bytes[4][16];
    struct checkpoint *a;
    uint64_t pages;

    instance_set_deterministic(inst, world_seed);
    look_and_draw(times[0], bytes[0]);
    a = checkpoint();
    look_and_draw(times[1], bytes[1]);
    rollback(a);
    look_and_draw(times[2], bytes[2]);
    rollback(NULL);
    look_and_draw(times[3], bytes[3]);
    ck_assert_int_ne(times[0][1199], times[1][1199]);
    ck_assert_int_ne(memcmp(bytes[0], bytes[1], 16), 0);
    ck_assert_int_eq(memcmp(times[1], times[2], sizeof(times[0])), 0);
    ck_assert_int_eq(memcmp(bytes[1], bytes[2], 16), 0);
    ck_assert_int_eq(memcmp(times[0], times[3], sizeof(times[0])), 0);
    ck_assert_int_eq(memcmp(bytes[0], bytes[3], 16), 0);
    bind_instance();
    instance_set_deterministic(inst, world_seed);
    ck_assert_int_eq(history_move(history, inst, a, &pages, &err), 0);
    look_and_draw(times[2], bytes[2]);
    ck_assert_int_eq(memcmp(times[1], times[2], sizeof(times[0])), 0);
    ck_assert_int_eq(memcmp(bytes[1], bytes[2], 16), 0);
    checkpoint_free(history, a);
}
END_TEST

/* --- against a model ------------------------------------------------------------------------ */

#define CELLS       300u
#define CHECKPOINTS 1000u

struct books {
    hl_gpa brk;
    uint8_t prot[MEMORY / PAGE];
    uint64_t used[MEMORY / PAGE / 64 + 1];
};

struct model {
    uint64_t cells[CELLS];
    struct books books;
};

static hl_gpa cell_addr[CELLS];
static struct model *models;
static struct model now;
static uint8_t *expected;

/* Cells in the window, the program's data, the heap, the stack; several of a page at times. */
static void place_cells(void)
{
    const struct linux_state *at = snapshot_linux(snap);

    for (unsigned int i = 0; i < CELLS; i++) {
        hl_gpa base = i % 4 == 0 ? HL_ABI_IO_ADDR : i % 4 == 1 ? at->stack_start : at->brk_start;
        uint64_t room = i % 4 == 0   ? IO_SIZE
                        : i % 4 == 1 ? MEMORY - at->stack_start
                                     : (at->map_top - at->brk_start) / 2;

        cell_addr[i] = base + any((uint32_t)(room / 8)) * 8ull;
        for (unsigned int j = 0; j < i; j++) {
            if (cell_addr[j] == cell_addr[i])
                cell_addr[i--] = 0; /* once more */
        }
    }
}

static void save_books(struct books *books)
{
    const struct space *s = &instance_at_rest(inst)->space;

    books->brk = s->brk;
    memcpy(books->prot, space_prot(s), sizeof(books->prot));
    memcpy(books->used, space_used(s), sizeof(books->used));
}

static void write_some(void)
{
    struct guest *g = instance_at_rest(inst);
    unsigned int n = any(20);

    for (unsigned int i = 0; i < n; i++) {
        unsigned int cell = any(CELLS);
        uint64_t value = any(8) == 0 ? 0 : any(1000);

        now.cells[cell] = value;
        memcpy(expected + cell_addr[cell], &value, sizeof(value));
        if (any(2))
            fake_write(g->machine, cell_addr[cell], &value, sizeof(value));
        else
            ck_assert_int_eq(g->hv->mem_write(g->machine, cell_addr[cell], &value, sizeof(value)),
                             0);
    }
}

/* What a guest asks of its memory; nothing here writes to it. */
static void change_books(void)
{
    struct space *s = &instance_at_rest(inst)->space;
    const struct linux_state *at = snapshot_linux(snap);
    hl_gpa page = at->stack_start + any(16) * PAGE;

    switch (any(6)) {
    case 0:
        space_brk(s, at->brk + any(64) * PAGE);
        break;
    case 1:
        space_mprotect(s, page, PAGE, any(2) ? PROT_READ : PROT_READ | PROT_WRITE);
        break;
    case 2:
        space_mmap(s, 0, (1 + any(8)) * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS);
        s->settle_at = s->settle_end; /* zeroing is hv/space.c's and tested there */
        break;
    default:
        break;
    }
    save_books(&now.books);
}

static void check_books(void)
{
    static struct books have;

    save_books(&have);
    ck_assert_uint_eq(have.brk, now.books.brk);
    ck_assert_mem_eq(have.prot, now.books.prot, sizeof(have.prot));
    ck_assert_mem_eq(have.used, now.books.used, sizeof(have.used));
}

static void check_memory(bool all)
{
    const uint8_t *memory = fake_memory(instance_at_rest(inst)->machine);

    for (unsigned int i = 0; i < CELLS; i++)
        ck_assert_int_eq(memcmp(memory + cell_addr[i], &now.cells[i], 8), 0);
    if (all)
        ck_assert(memcmp(memory, expected, MEMORY) == 0);
    check_books();
}

static void go_back(const struct model *to, const struct checkpoint *c)
{
    rollback(c);
    now = *to;
    for (unsigned int i = 0; i < CELLS; i++)
        memcpy(expected + cell_addr[i], &now.cells[i], 8);
}

START_TEST(a_thousand_checkpoints)
{
    struct checkpoint **all = calloc(CHECKPOINTS, sizeof(*all));
    uint64_t most = 0;

    models = calloc(CHECKPOINTS, sizeof(*models));
    expected = malloc(MEMORY);
    ck_assert(all && models && expected);
    memcpy(expected, snapshot_memory(snap), MEMORY);
    seed = (uint64_t)_i + 77;
    place_cells();
    for (unsigned int i = 0; i < CELLS; i++)
        memcpy(&now.cells[i], expected + cell_addr[i], 8);
    save_books(&now.books);
    for (unsigned int n = 0; n < CHECKPOINTS; n++) {
        for (unsigned int rounds = any(3); rounds > 0; rounds--) {
            write_some();
            change_books();
        }
        models[n] = now;
        all[n] = checkpoint();
        if (any(3) == 0) {
            unsigned int k = any(n + 1);

            if (any(2))
                write_some();
            if (all[k])
                go_back(&models[k], all[k]);
        }
        if (any(4) == 0) { /* some go, in no order */
            unsigned int k = any(n + 1);

            checkpoint_free(history, all[k]);
            all[k] = NULL;
        }
        if (history_bytes(history) > most)
            most = history_bytes(history);
        if (instance_at_rest(inst) && n % 16 == 0)
            check_memory(true);
        else
            check_books();
    }
    for (unsigned int n = 0; n < CHECKPOINTS; n++) {
        if (!all[n])
            continue;
        go_back(&models[n], all[n]);
        check_memory(n % 16 == 0);
        checkpoint_free(history, all[n]);
    }
    /* Some pages and nodes for each, far from all of memory. */
    ck_assert_uint_lt(most, CHECKPOINTS * 200ull * 1024);
    free(all);
    free(models);
    free(expected);
}
END_TEST

/* --- the tree ------------------------------------------------------------------------------- */

static void count_key(void *opaque, uint32_t key)
{
    (void)key;
    ++*(unsigned int *)opaque;
}

START_TEST(versions_share)
{
    struct page_store store = {0};
    struct page_node *a = NULL, *b;
    _Alignas(8) uint8_t page[PAGE] = {1};
    unsigned int differ = 0;
    uint64_t bytes;

    for (uint32_t key = 0; key < 5000; key++)
        ck_assert_int_eq(page_tree_put(&store, &a, key * 200, page), 0);
    bytes = store.bytes;
    b = page_tree_ref(a);
    page[0] = 2;
    ck_assert_int_eq(page_tree_put(&store, &b, 400, page), 0);
    ck_assert_int_eq(page_tree_put(&store, &b, 600, (const uint8_t[PAGE]){0}), 0);
    ck_assert_int_eq(page_tree_put(&store, &b, 601, page), 0);
    ck_assert_uint_lt(store.bytes - bytes, 6 * PAGE);
    ck_assert_uint_eq(page_tree_find(a, 400)[0], 1);
    ck_assert_uint_eq(page_tree_find(b, 400)[0], 2);
    ck_assert_uint_eq(page_tree_find(a, 600)[0], 1);
    ck_assert_uint_eq(page_tree_find(b, 600)[0], 0);
    ck_assert_ptr_null(page_tree_find(a, 601));
    ck_assert_ptr_eq(page_tree_find(a, 800), page_tree_find(b, 800));
    page_tree_diff(a, b, count_key, &differ);
    ck_assert_uint_eq(differ, 3);
    page_tree_diff(NULL, a, count_key, &differ);
    ck_assert_uint_eq(differ, 5003);
    ck_assert_int_eq(page_tree_put(&store, &a, PAGE_TREE_KEYS, page), -EINVAL);
    page_tree_unref(&store, a);
    ck_assert_uint_eq(page_tree_find(b, 800)[0], 1);
    page_tree_unref(&store, b);
    ck_assert_uint_eq(store.bytes, 0);
}
END_TEST

int main(void)
{
    TCase *tcase = tcase_create("fake");

    tcase_set_timeout(tcase, 120);
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_add_test(tcase, state_stays);
    tcase_add_test(tcase, reset_still_resets);
    tcase_add_test(tcase, broken_guests_do_not_continue);
    tcase_add_test(tcase, a_rewind_that_fails_breaks_it);
    tcase_add_test(tcase, back_and_forth);
    tcase_add_test(tcase, another_instance_becomes_what_one_was);
    tcase_add_test(tcase, a_made_up_world_goes_back);
    tcase_add_test(tcase, unchanged_pages_cost_nothing);
    tcase_add_test(tcase, a_refused_charge_changes_nothing);
    tcase_add_test(tcase, operations_that_fail);
    tcase_add_loop_test(tcase, a_thousand_checkpoints, 0, 3);
    tcase_add_test(tcase, versions_share);
    return tests_run(tcase, "checkpoint");
}
