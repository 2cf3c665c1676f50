/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Time and randomness as a guest gets them: true ones that differ, made-up ones that do not, and
 * what a call brings of them.
 */
#include "config.h"

#include <check.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "guest/chacha.h"
#include "guest/hl_abi.h"
#include "hv/instance.h"
#include "hv/timer.h"
#include "tests/fake/elf.h"
#include "tests/fake/fake.h"
#include "tests/unit/tests_run.h"

#define MEMORY  (16ull << 20)
#define IO_SIZE (64u << 10)
#define SECOND  1000000000ull
#define MANY    3000

static const uint8_t seed_a[HV_SEED_SIZE] = {1}, seed_b[HV_SEED_SIZE] = {2};

/* RFC 8439, section 2.3.2. */
START_TEST(the_rfcs_block)
{
    static const uint8_t expected[HL_CHACHA_BLOCK] = {
        0x10, 0xf1, 0xe7, 0xe4, 0xd1, 0x3b, 0x59, 0x15, 0x50, 0x0f, 0xdd, 0x1f, 0xa3,
        0x20, 0x71, 0xc4, 0xc7, 0xd1, 0xf4, 0xc7, 0x33, 0xc0, 0x68, 0x03, 0x04, 0x22,
        0xaa, 0x9a, 0xc3, 0xd4, 0x6c, 0x4e, 0xd2, 0x82, 0x64, 0x46, 0x07, 0x9f, 0xaa,
        0x09, 0x14, 0xc2, 0xd7, 0x05, 0xd9, 0x8b, 0x02, 0xa2, 0xb5, 0x12, 0x9c, 0xd1,
        0xde, 0x16, 0x4e, 0xb9, 0xcb, 0xd0, 0x83, 0xe8, 0xa2, 0x50, 0x3c, 0x4e};
    static const uint32_t nonce[3] = {0x09000000, 0x4a000000, 0};
    uint8_t key[HL_CHACHA_KEY], block[HL_CHACHA_BLOCK];

    for (size_t i = 0; i < sizeof(key); i++)
        key[i] = (uint8_t)i;
    hl_chacha_block(block, key, 1, nonce);
    ck_assert_int_eq(memcmp(block, expected, sizeof(block)), 0);
}
END_TEST

static int compare(const void *a, const void *b)
{
    return memcmp(a, b, 16);
}

static void *draw(void *to)
{
    struct world w;

    world_init(&w, NULL, false);
    for (size_t i = 0; i < MANY; i++)
        ck_assert_int_eq(world_random(&w, (uint8_t *)to + i * 16, 16), 0);
    return NULL;
}

/* No sixteen bytes twice, within a thread and between two: more than a block of them. */
START_TEST(true_bytes_differ)
{
    static uint8_t drawn[2 * MANY][16];
    static const uint8_t zeros[16];
    pthread_t thread;

    ck_assert_int_eq(pthread_create(&thread, NULL, draw, drawn[MANY]), 0);
    draw(drawn[0]);
    pthread_join(thread, NULL);
    qsort(drawn, 2 * MANY, 16, compare);
    ck_assert_int_ne(memcmp(drawn[0], zeros, 16), 0);
    for (size_t i = 1; i < 2 * MANY; i++)
        ck_assert_int_ne(memcmp(drawn[i - 1], drawn[i], 16), 0);
}
END_TEST

START_TEST(large_requests)
{
    static uint8_t a[100000], b[100000];
    struct world w;

    world_init(&w, NULL, false);
    ck_assert_int_eq(world_random(&w, a, sizeof(a)), 0);
    ck_assert_int_eq(world_random(&w, b, sizeof(b)), 0);
    for (size_t i = 0; i + 16 <= sizeof(a); i += 16)
        ck_assert_int_ne(memcmp(a + i, b + i, 16), 0);
    world_init(&w, seed_a, false);
    ck_assert_int_eq(world_random(&w, a, sizeof(a)), 0);
    world_reset(&w);
    ck_assert_int_eq(world_random(&w, b, sizeof(b)), 0);
    ck_assert_int_eq(memcmp(a, b, sizeof(a)), 0);
}
END_TEST

START_TEST(made_up_bytes)
{
    uint8_t first[32], second[32], other[32];
    struct world w;

    world_init(&w, seed_a, false);
    world_random(&w, first, 32);
    world_random(&w, second, 32);
    ck_assert_int_ne(memcmp(first, second, 32), 0);
    world_reset(&w);
    world_random(&w, other, 32);
    ck_assert_int_eq(memcmp(first, other, 32), 0);
    world_random(&w, other, 32);
    ck_assert_int_eq(memcmp(second, other, 32), 0);
    world_init(&w, seed_b, false);
    world_random(&w, other, 32);
    ck_assert_int_ne(memcmp(first, other, 32), 0);
    world_init(&w, seed_a, true);
    world_random(&w, other, 32);
    ck_assert_int_ne(memcmp(first, other, 32), 0);
}
END_TEST

START_TEST(made_up_time)
{
    struct timespec ts, before;
    struct world w;

    world_init(&w, seed_a, false);
    ck_assert_int_eq(world_time(&w, CLOCK_REALTIME, &before), 0);
    ck_assert_int_eq(before.tv_sec, WORLD_EPOCH_S + WORLD_CALLS_S);
    ck_assert_int_eq(before.tv_nsec, 0);
    for (int i = 1; i <= 2500; i++) {
        ck_assert_int_eq(world_time(&w, CLOCK_REALTIME, &ts), 0);
        ck_assert_int_eq((ts.tv_sec - before.tv_sec) * 1000 + ts.tv_nsec / 1000000, i);
    }
    ck_assert_int_eq(world_time(&w, CLOCK_MONOTONIC, &ts), 0);
    ck_assert_int_eq(ts.tv_sec, WORLD_CALLS_S + 2);
    ck_assert_int_eq(ts.tv_nsec, 501000000);
    world_init(&w, seed_a, true);
    ck_assert_int_eq(world_time(&w, CLOCK_REALTIME, &ts), 0);
    ck_assert_int_eq(ts.tv_sec, WORLD_EPOCH_S);
}
END_TEST

START_TEST(true_time)
{
    struct timespec ts, now;
    struct world w;

    world_init(&w, NULL, false);
    clock_gettime(CLOCK_REALTIME, &now);
    ck_assert_int_eq(world_time(&w, CLOCK_REALTIME, &ts), 0);
    ck_assert_int_ge(ts.tv_sec, now.tv_sec);
    clock_gettime(CLOCK_MONOTONIC, &now);
    ck_assert_int_eq(world_time(&w, CLOCK_MONOTONIC, &ts), 0);
    ck_assert_int_ge(ts.tv_sec, now.tv_sec);
    ck_assert_int_lt(world_time(&w, (clockid_t)4711, &ts), 0);
}
END_TEST

/* ---- calls ---- */

struct rig {
    uint8_t *file;
    struct image *img;
    struct hv_host *host;
    struct snapshot *snap;
    struct instance *inst;
};

static struct snapshot *build(struct rig *rig, const uint8_t *seed)
{
    const struct snapshot_options options = {.memory_size = MEMORY,
                                             .io_size = IO_SIZE,
                                             .deadline_ns = hv_now_ns() + 5 * SECOND,
                                             .name = "t",
                                             .deterministic = seed};
    struct snapshot *snap;

    ck_assert_int_eq(snapshot_build(&snap, &hv_backend_fake, rig->host, rig->img, &options, NULL),
                     0);
    return snap;
}

static void bind_instance(struct rig *rig)
{
    struct shell *shell;

    instance_free(rig->inst);
    ck_assert_int_eq(shell_new(&shell, &hv_backend_fake, rig->host, shell_class(MEMORY), NULL), 0);
    ck_assert_int_eq(instance_bind(&rig->inst, shell, rig->snap, rig->img, NULL), 0);
}

static struct rig rig_open(void)
{
    const struct hv_host_config config = {.kvm_fd = -1, .nursery_fd = -1};
    struct rig rig = {0};
    size_t len;

    fake_clear();
    rig.file = fake_elf_new(&len);
    ck_assert_int_eq(image_new(&rig.img, rig.file, len, NULL), 0);
    ck_assert_int_eq(hv_backend_fake.host_open(&rig.host, &config, NULL), 0);
    rig.snap = build(&rig, NULL);
    bind_instance(&rig);
    return rig;
}

static void rig_close(struct rig *rig)
{
    instance_free(rig->inst);
    snapshot_unref(rig->snap);
    hv_backend_fake.host_close(rig->host);
    image_free(rig->img);
    free(rig->file);
}

static struct instance_result call(struct rig *rig, const char *name, uint8_t bytes[34])
{
    int function = image_find_function(rig->img, name, strlen(name));
    struct instance_result r;
    uint64_t pages;

    ck_assert_int_ge(function, 0);
    ck_assert_int_eq(instance_begin(rig->inst, (size_t)function, NULL, 0, NULL), 0);
    ck_assert_int_eq(instance_run(rig->inst, UINT64_MAX), INSTANCE_DONE);
    ck_assert_int_eq(instance_result(rig->inst, &r, NULL), 0);
    if (r.value.type == HL_TYPE_BYTES) {
        ck_assert_uint_eq(r.value.bytes.len, 34);
        memcpy(bytes, r.value.bytes.data, 34);
    }
    ck_assert_int_eq(instance_reset(rig->inst, true, &pages, NULL), 0);
    return r;
}

START_TEST(entropy_is_fresh)
{
    static const uint8_t zeros[32];
    struct rig rig = rig_open();
    uint8_t got[3][34];

    for (int i = 0; i < 3; i++) {
        if (i == 2)
            bind_instance(&rig);
        call(&rig, "entropy", got[i]);
        ck_assert_uint_eq(got[i][0], HL_ABI_CALL_FIRST | HL_ABI_CALL_ENTROPY);
        ck_assert_int_ne(memcmp(got[i] + 2, zeros, 32), 0);
        for (int j = 0; j < i; j++)
            ck_assert_int_ne(memcmp(got[i] + 2, got[j] + 2, 32), 0);
    }
    rig_close(&rig);
}
END_TEST

static struct hl_abi_call seen;

static int look(struct hv_machine *m, uint64_t until_ns, struct hv_exit *exit, void *opaque)
{
    (void)opaque;
    memcpy(&seen, fake_memory(m) + HL_ABI_IO_ADDR, sizeof(seen));
    return fake_run(m, until_ns, exit);
}

/* Arguments that leave no room for it come without; nothing else changes. */
START_TEST(entropy_gives_way)
{
    const size_t most = IO_SIZE - 32 - HL_ABI_RESULT_ROOM;
    static uint8_t bytes[IO_SIZE];
    struct rig rig = rig_open();

    fake_set_run(look, NULL);
    for (size_t less = 0; less <= 48; less++) {
        const struct hl_value arg = {.type = HL_TYPE_BYTES, .bytes = {bytes, most - less}};
        bool room = less >= HL_ABI_ENTROPY_SIZE;
        uint64_t pages;

        ck_assert_int_eq(instance_begin(rig.inst, 0, &arg, 1, NULL), 0);
        ck_assert_int_eq(instance_run(rig.inst, UINT64_MAX), INSTANCE_DONE);
        ck_assert_uint_eq(seen.flags, HL_ABI_CALL_FIRST | (room ? HL_ABI_CALL_ENTROPY : 0));
        ck_assert_uint_le(seen.size, IO_SIZE - HL_ABI_RESULT_ROOM);
        if (!room)
            ck_assert_uint_eq(seen.size, 32 + most - less);
        ck_assert_int_eq(instance_reset(rig.inst, true, &pages, NULL), 0);
    }
    fake_set_run(NULL, NULL);
    rig_close(&rig);
}
END_TEST

START_TEST(made_up_calls)
{
    struct rig rig = rig_open();
    uint8_t first[34], again[34];

    instance_set_deterministic(rig.inst, seed_a);
    call(&rig, "entropy", first);
    call(&rig, "entropy", again);
    ck_assert_int_eq(memcmp(first, again, 34), 0);
    for (int i = 0; i < 2; i++)
        ck_assert_int_eq(call(&rig, "time", NULL).value.i64, WORLD_EPOCH_S + WORLD_CALLS_S);
    bind_instance(&rig); /* true again */
    call(&rig, "entropy", again);
    ck_assert_int_ne(memcmp(first, again, 34), 0);
    instance_set_deterministic(rig.inst, seed_a);
    call(&rig, "entropy", again);
    ck_assert_int_eq(memcmp(first, again, 34), 0);
    instance_set_deterministic(rig.inst, seed_b);
    call(&rig, "entropy", again);
    ck_assert_int_ne(memcmp(first, again, 34), 0);
    instance_set_deterministic(rig.inst, NULL);
    call(&rig, "entropy", first);
    call(&rig, "entropy", again);
    ck_assert_int_ne(memcmp(first, again, 34), 0);
    rig_close(&rig);
}
END_TEST

static bool equal(const struct snapshot *a, const struct snapshot *b)
{
    return memcmp(snapshot_memory(a), snapshot_memory(b), MEMORY) == 0;
}

START_TEST(made_up_start_up)
{
    struct rig rig = rig_open();
    struct snapshot *a = build(&rig, seed_a), *same = build(&rig, seed_a);
    struct snapshot *b = build(&rig, seed_b), *other = build(&rig, NULL);

    ck_assert(equal(a, same));
    ck_assert(!equal(a, b));
    ck_assert(!equal(a, other));
    ck_assert(!equal(rig.snap, other));
    snapshot_unref(a);
    snapshot_unref(same);
    snapshot_unref(b);
    snapshot_unref(other);
    rig_close(&rig);
}
END_TEST

int main(void)
{
    TCase *tc = tcase_create("world");

    tcase_add_test(tc, the_rfcs_block);
    tcase_add_test(tc, true_bytes_differ);
    tcase_add_test(tc, large_requests);
    tcase_add_test(tc, made_up_bytes);
    tcase_add_test(tc, made_up_time);
    tcase_add_test(tc, true_time);
    tcase_add_test(tc, entropy_is_fresh);
    tcase_add_test(tc, entropy_gives_way);
    tcase_add_test(tc, made_up_calls);
    tcase_add_test(tc, made_up_start_up);
    return tests_run(tc, "world");
}
