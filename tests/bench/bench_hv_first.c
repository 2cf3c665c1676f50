/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A call to an image that has no warm instance: a shell, bound and entered for the first time. On a
 * real guest, the echo example. "shell" is "new" for one that was never bound, "used" for one that
 * another image has given back; "hints" says whether earlier calls of the image had shown which
 * pages it writes. And what an instance that waits takes of the host's memory.
 */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "guest/hl_abi.h"
#include "hv/instance.h"
#include "hv/timer.h"
#include "tests/bench/bench_hv.h"

#define MEMINFO  "/proc/meminfo"
#define MEMORY   (64ull << 20)
#define IDLE     64u
#define WARM     8u
#define START_NS 10000000000ull

static struct image *img;
static size_t echo;
static uint8_t *elf;

static void load(void)
{
    _cleanup_close_ int fd = open(bench_guest, O_RDONLY | O_CLOEXEC);
    struct hl_error err = HL_ERROR_INIT;
    struct stat st;
    size_t len;
    int index;

    if (fd < 0 || fstat(fd, &st) < 0)
        bench_die(bench_guest, NULL);
    len = (size_t)st.st_size;
    elf = malloc(len);
    if (!elf || read(fd, elf, len) != (ssize_t)len)
        bench_die(bench_guest, NULL);
    bench_must(image_new(&img, elf, len, &err), bench_guest, &err);
    index = image_find_function(img, "echo", 4);
    if (index < 0) {
        errno = ENOENT;
        bench_die("a function echo", NULL);
    }
    echo = (size_t)index;
}

static struct snapshot *snapshot(void)
{
    struct snapshot_options options = {.memory_size = MEMORY,
                                       .io_size = HL_ABI_IO_SIZE,
                                       .deadline_ns = hv_now_ns() + START_NS,
                                       .name = "echo"};
    struct hl_error err = HL_ERROR_INIT;
    struct snapshot *snap;

    bench_must(snapshot_build(&snap, &hv_backend_kvm, bench_host, img, &options, &err), "start-up",
               &err);
    return snap;
}

static struct shell *shell(void)
{
    struct hl_error err = HL_ERROR_INIT;
    struct shell *shell;

    bench_must(shell_new(&shell, &hv_backend_kvm, bench_host, shell_class(MEMORY), &err), "shell",
               &err);
    return shell;
}

static struct instance *bind(struct shell *shell, struct snapshot *snap)
{
    struct hl_error err = HL_ERROR_INIT;
    struct instance *inst;

    bench_must(instance_bind(&inst, shell, snap, img, &err), "bind", &err);
    return inst;
}

static void call(struct instance *inst)
{
    static const char text[64] = "sixty-four bytes";
    struct hl_value arg = {.type = HL_TYPE_BYTES, .bytes = {text, sizeof(text)}};
    struct instance_result result;
    struct hl_error err = HL_ERROR_INIT;
    enum instance_state state;

    bench_must(instance_begin(inst, echo, &arg, 1, &err), "begin", &err);
    do
        state = instance_run(inst, UINT64_MAX);
    while (state == INSTANCE_KICKED);
    if (state != INSTANCE_DONE) {
        hl_error_set(&err, -EFAULT, "%s", instance_failure(inst)->text);
        bench_die("call", &err);
    }
    bench_must(instance_result(inst, &result, &err), "result", &err);
    if (result.value.bytes.len != sizeof(text) || memcmp(result.value.bytes.data, text, 64) != 0)
        abort();
}

static void reset(struct instance *inst)
{
    struct hl_error err = HL_ERROR_INIT;
    uint64_t pages;

    if (instance_reset(inst, false, &pages, &err) != 0)
        bench_die("reset", &err);
}

struct first {
    struct series *bind, *call, *both;
};

static void first_init(struct first *f, const char *shell, const char *hints)
{
    static const char *const names[] = {"bind", "first_call", "bind_first_call"};
    struct series **to[] = {&f->bind, &f->call, &f->both};

    for (size_t i = 0; i < 3; i++)
        *to[i] = series_new("\"name\": \"%s\", \"shell\": \"%s\", \"hints\": %s", names[i], shell,
                            hints);
}

static struct instance *first(struct first *f, struct shell *shell, struct snapshot *snap)
{
    uint64_t start = hv_now_ns(), bound, done;
    struct instance *inst = bind(shell, snap);

    bound = hv_now_ns();
    call(inst);
    done = hv_now_ns();
    series_add(f->bind, bound - start);
    series_add(f->call, done - bound);
    series_add(f->both, done - start);
    return inst;
}

struct cases {
    struct first fresh, used, unknown;
    struct series *entry, *shell, *unbind, *warm, *reset, *build;
};

static struct shell *unbind(struct cases *c, struct instance *inst)
{
    uint64_t start = hv_now_ns();
    struct shell *shell = instance_unbind(inst);

    if (!shell)
        bench_die("unbind", NULL);
    series_add(c->unbind, hv_now_ns() - start);
    return shell;
}

static void first_round(struct cases *c, struct snapshot *snaps[2])
{
    uint64_t start = hv_now_ns();
    struct shell *sh = shell();
    struct snapshot *snap;
    struct instance *inst;

    series_add(c->shell, hv_now_ns() - start);
    inst = first(&c->fresh, sh, snaps[0]);
    reset(inst);
    for (unsigned int i = 0; i < WARM; i++) {
        start = hv_now_ns();
        call(inst);
        series_add(c->warm, hv_now_ns() - start);
        start = hv_now_ns();
        reset(inst);
        series_add(c->reset, hv_now_ns() - start);
    }
    inst = first(&c->used, unbind(c, inst), snaps[1]);
    reset(inst);
    start = hv_now_ns();
    snap = snapshot();
    series_add(c->build, hv_now_ns() - start);
    inst = first(&c->unknown, unbind(c, inst), snap);
    instance_free(inst);
    snapshot_unref(snap);
    bench_entry(c->entry);
}

void bench_first(void)
{
    struct cases c = {.entry = series_new("\"name\": \"entry\", \"beside\": \"first_call\"")};
    struct snapshot *snaps[2];

    load();
    first_init(&c.fresh, "new", "true");
    first_init(&c.used, "used", "true");
    first_init(&c.unknown, "used", "false");
    c.shell = series_new("\"name\": \"shell_new\"");
    c.unbind = series_new("\"name\": \"unbind\"");
    c.warm = series_new("\"name\": \"warm_call\"");
    c.reset = series_new("\"name\": \"warm_reset\"");
    c.build = series_new("\"name\": \"snapshot_build\"");
    for (size_t i = 0; i < 2; i++) {
        struct instance *inst;

        snaps[i] = snapshot();
        inst = bind(shell(), snaps[i]);
        call(inst);
        reset(inst); /* from here on it is known what the image writes */
        instance_free(inst);
    }
    for (unsigned int i = 0; i < bench_rounds; i++)
        first_round(&c, snaps);
    snapshot_unref(snaps[0]);
    snapshot_unref(snaps[1]);
    series_print_all();
}

/* Each member of /proc/self/smaps_rollup or /proc/meminfo: what IDLE instances added, for one. */
struct usage {
    uint64_t pss, slab, tables, vmalloc, percpu, free;
};

static struct usage usage_now(void)
{
    return (struct usage){
        .pss = bench_bytes("/proc/self/smaps_rollup", "Pss"),
        .slab = bench_bytes(MEMINFO, "Slab"),
        .tables = bench_bytes(MEMINFO, "PageTables") + bench_bytes(MEMINFO, "SecPageTables"),
        .vmalloc = bench_bytes(MEMINFO, "VmallocUsed"),
        .percpu = bench_bytes(MEMINFO, "Percpu"),
        .free = bench_bytes(MEMINFO, "MemFree"),
    };
}

static long long each(uint64_t before, uint64_t after)
{
    return ((long long)after - (long long)before) / (long long)IDLE;
}

void bench_idle(void)
{
    struct instance *idle[IDLE];
    struct snapshot *snap = snapshot();
    struct usage before = usage_now(), after;
    char text[400];

    for (size_t i = 0; i < IDLE; i++) {
        idle[i] = bind(shell(), snap);
        call(idle[i]);
        reset(idle[i]);
    }
    after = usage_now();
    snprintf(text, sizeof(text),
             "\"name\": \"idle_instance\", \"n\": %u, \"memory\": %llu, \"pss_bytes\": %lld, "
             "\"slab_bytes\": %lld, \"page_table_bytes\": %lld, \"vmalloc_bytes\": %lld, "
             "\"percpu_bytes\": %lld, \"free_memory_drop_bytes\": %lld",
             IDLE, MEMORY, each(before.pss, after.pss), each(before.slab, after.slab),
             each(before.tables, after.tables), each(before.vmalloc, after.vmalloc),
             each(before.percpu, after.percpu), each(after.free, before.free));
    bench_print(text);
    for (size_t i = 0; i < IDLE; i++)
        instance_free(idle[i]);
    snapshot_unref(snap);
    image_free(img);
    free(elf);
}
