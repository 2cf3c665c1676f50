/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The shortest way from a guest's file to a call's outcome. Each program has at most one instance;
 * it is used again for as long as the call left it usable and its reset succeeded.
 */
#include "config.h"

#include "tests/unit/program.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "base/cleanup.h"
#include "guest/hl_abi.h"
#include "hv/nursery.h"
#include "hv/snapshot_file.h"
#include "hv/timer.h"
#include "tests/unit/tests_run.h"

#define MEMORY_SIZE (64ull << 20)

const struct hv_backend *program_hv;
static struct hv_host *host;
static int kvm_fd = -1, nursery_fd = -1;
static pid_t nursery_pid;
static bool kept; /* programs run from a snapshot that was a file in between */

static bool usable(const struct hv_backend *hv)
{
    struct hl_error err = HL_ERROR_INIT;

    if (hv->probe(&err) == 0)
        return true;
    fprintf(stderr, "not run on %s: %s\n", hv->name, err.text);
    return false;
}

static void open_host(const struct hv_backend *hv, const struct hv_host_config *config)
{
    struct hl_error err = HL_ERROR_INIT;

    program_hv = hv;
    ck_assert_int_eq(hv_thread_init(), 0);
    ck_assert_msg(hv->host_open(&host, config, &err) == 0, "%s", err.text);
}

static void open_kvm(void)
{
    struct hv_host_config config = {.kvm_fd = -1, .nursery_fd = -1};

    config.kvm_fd = kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    ck_assert_int_ge(kvm_fd, 0);
    open_host(&hv_backend_kvm, &config);
}

static void open_kvm_kept(void)
{
    open_kvm();
    kept = true;
}

static void open_process(void)
{
    struct hv_host_config config = {.kvm_fd = -1, .nursery_fd = -1};
    struct hl_error err = HL_ERROR_INIT;

    ck_assert_msg(nursery_spawn("/proc/self/exe", &nursery_fd, &nursery_pid, &err) == 0, "%s",
                  err.text);
    config.nursery_fd = nursery_fd;
    open_host(&hv_backend_process, &config);
}

void programs_close(void)
{
    program_hv->host_close(host);
    hv_thread_fini();
    if (kvm_fd >= 0)
        close(kvm_fd);
    if (nursery_fd >= 0) {
        close(nursery_fd);
        waitpid(nursery_pid, NULL, 0);
    }
    kvm_fd = nursery_fd = -1;
    kept = false;
}

static void read_file(struct program *p, const char *file)
{
    _cleanup_close_ int fd = open(file, O_RDONLY | O_CLOEXEC);
    struct stat st;

    ck_assert_msg(fd >= 0 && fstat(fd, &st) == 0, "%s: %s", file, strerror(errno));
    p->elf_len = (size_t)st.st_size;
    p->elf = malloc(p->elf_len);
    ck_assert_ptr_nonnull(p->elf);
    ck_assert_int_eq(read(fd, p->elf, p->elf_len), (ssize_t)p->elf_len);
}

static void keep_log(void *opaque, int level, const char *text, size_t len)
{
    struct program *p = opaque;
    size_t used = strlen(p->log);

    snprintf(p->log + used, sizeof(p->log) - used, "%d %.*s\n", level, (int)len, text);
}

static int keep_and_load(struct program *p, const struct snapshot_options *options,
                         struct hl_error *err)
{
    const struct snapshot_key key = {.version = "test", .name = "program"};
    struct snapshot *loaded;
    _cleanup_close_ int fd = -1;
    uint64_t size;
    int rc = snapshot_file_write(&fd, &size, p->snap, program_hv, &key, err);

    if (rc == 0)
        rc = snapshot_file_load(&loaded, fd, program_hv, host, p->img, options, &key, err);
    if (rc < 0)
        return rc;
    snapshot_unref(p->snap);
    p->snap = loaded;
    return 0;
}

static int build(struct program *p, const char *file, uint64_t memory_size, uint64_t io_size,
                 unsigned int ms, const uint8_t *seed, struct hl_error *err)
{
    struct snapshot_options options = {
        .memory_size = memory_size,
        .io_size = io_size,
        .deadline_ns = hv_now_ns() + ms * 1000000ull,
        .name = file,
        .log = keep_log,
        .opaque = p,
        .deterministic = seed,
    };
    int rc;

    memset(p, 0, sizeof(*p));
    p->seed = seed;
    p->audit = true;
    read_file(p, file);
    rc = image_new(&p->img, p->elf, p->elf_len, err);
    if (rc == 0)
        rc = snapshot_build(&p->snap, program_hv, host, p->img, &options, err);
    return rc == 0 && kept ? keep_and_load(p, &options, err) : rc;
}

int program_try(struct program *p, const char *file, uint64_t memory_size, unsigned int ms,
                struct hl_error *err)
{
    return build(p, file, memory_size, HL_ABI_IO_SIZE, ms, NULL, err);
}

static void must_load(struct program *p, const char *file, uint64_t memory_size, uint64_t io_size,
                      const uint8_t *seed)
{
    struct hl_error err = HL_ERROR_INIT;

    ck_assert_msg(build(p, file, memory_size, io_size, 10000, seed, &err) == 0, "%s: %s", file,
                  err.text);
}

void program_load_seeded(struct program *p, const char *file, const uint8_t *seed)
{
    must_load(p, file, MEMORY_SIZE, HL_ABI_IO_SIZE, seed);
}

void program_load_sized(struct program *p, const char *file, uint64_t memory_size, uint64_t io_size)
{
    must_load(p, file, memory_size, io_size, NULL);
}

void program_load(struct program *p, const char *file)
{
    program_load_sized(p, file, MEMORY_SIZE, HL_ABI_IO_SIZE);
}

void program_free(struct program *p)
{
    instance_free(p->inst);
    snapshot_unref(p->snap);
    image_free(p->img);
    free(p->elf);
    memset(p, 0, sizeof(*p));
}

void program_renew(struct program *p)
{
    struct hl_error err = HL_ERROR_INIT;
    struct shell *shell;

    ck_assert_msg(shell_new(&shell, program_hv, host, shell_class(snapshot_size(p->snap)), &err) ==
                      0,
                  "%s", err.text);
    ck_assert_msg(instance_bind(&p->inst, shell, p->snap, p->img, &err) == 0, "%s", err.text);
    instance_set_log(p->inst, keep_log, p);
    instance_set_skip(p->inst, p->skip);
    if (p->seed)
        instance_set_deterministic(p->inst, p->seed);
    p->made++;
}

/* The result's own are gone after the reset. */
static void keep_bytes(struct outcome *o)
{
    struct hl_value *value = &o->result.value;

    if (value->type != HL_TYPE_STRING && value->type != HL_TYPE_BYTES)
        return;
    o->storage = malloc(value->bytes.len + 1);
    ck_assert_ptr_nonnull(o->storage);
    memcpy(o->storage, value->bytes.data, value->bytes.len);
    value->bytes.data = o->storage;
}

static void finish(struct program *p, struct outcome *o)
{
    uint64_t pages;

    if (o->state == INSTANCE_DONE) {
        o->refused = instance_result(p->inst, &o->result, &o->err);
        if (o->refused == 0)
            keep_bytes(o);
        if (o->refused == 0 && p->keep)
            p->reset = instance_continue(p->inst);
        else if (o->refused == 0)
            p->reset = instance_reset(p->inst, p->audit, &pages, &o->err);
        ck_assert_msg(p->reset >= 0, "%s", o->err.text);
        if (o->refused == 0 && p->reset == 0)
            return;
    } else if (o->state == INSTANCE_FAULT) {
        o->failure = *instance_failure(p->inst);
    }
    instance_free(p->inst);
    p->inst = NULL;
}

static enum instance_state run(struct program *p, uint64_t until_ns)
{
    static const char denied[] = "not in the policy";

    for (;;) {
        enum instance_state state = instance_run(p->inst, until_ns);

        if (state != INSTANCE_HOST_CALL)
            return state;
        if (p->answer)
            p->answer(p, instance_host_call(p->inst));
        else
            instance_host_fail(p->inst, HL_STATUS_PERMISSION_DENIED, 0, denied, sizeof(denied) - 1);
    }
}

int program_become(struct program *p, int fd, const struct snapshot_key *key, struct hl_error *err)
{
    struct snapshot_options options = {.memory_size = snapshot_size(p->snap),
                                       .io_size = snapshot_io_size(p->snap),
                                       .name = "committed"};
    struct snapshot *child;
    int rc =
        snapshot_file_load_over(&child, fd, p->snap, program_hv, host, p->img, &options, key, err);

    if (rc < 0)
        return rc;
    instance_free(p->inst);
    p->inst = NULL;
    snapshot_unref(p->snap);
    p->snap = child;
    return 0;
}

struct instance *program_instance(struct program *p)
{
    if (!p->inst)
        program_renew(p);
    return p->inst;
}

struct outcome program_call(struct program *p, const char *function, unsigned int ms,
                            const struct hl_value *args, size_t nargs)
{
    struct outcome o = {.err = HL_ERROR_INIT};
    int index = image_find_function(p->img, function, strlen(function));

    ck_assert_msg(index >= 0, "no function %s", function);
    program_instance(p);
    p->log[0] = '\0';
    o.refused = instance_begin(p->inst, (size_t)index, args, nargs, &o.err);
    if (o.refused < 0)
        return o;
    o.state = run(p, hv_now_ns() + ms * 1000000ull);
    o.counters = *instance_counters(p->inst);
    finish(p, &o);
    return o;
}

void outcome_free(struct outcome *o)
{
    free(o->storage);
    o->storage = NULL;
}

static const char *tell(const struct outcome *o)
{
    static char text[1024];

    if (o->refused < 0)
        snprintf(text, sizeof(text), "refused: %s", o->err.text);
    else if (o->state == INSTANCE_KICKED)
        snprintf(text, sizeof(text), "still running at its deadline");
    else if (o->state == INSTANCE_FAULT)
        snprintf(text, sizeof(text), "ended (%d): %s", (int)o->failure.end, o->failure.text);
    else if (o->result.is_error)
        snprintf(text, sizeof(text), "error %d: %.*s", o->result.code,
                 (int)o->result.value.bytes.len, (const char *)o->result.value.bytes.data);
    else
        snprintf(text, sizeof(text), "a %s", hl_type_name(o->result.value.type));
    return text;
}

static void expect_result(const struct outcome *o, enum hl_type type)
{
    ck_assert_msg(o->refused == 0 && o->state == INSTANCE_DONE && !o->result.is_error &&
                      o->result.value.type == type,
                  "wanted a %s, got %s", hl_type_name(type), tell(o));
}

void expect_bytes(struct outcome o, const void *data, size_t len)
{
    expect_result(&o, HL_TYPE_BYTES);
    ck_assert_uint_eq(o.result.value.bytes.len, len);
    ck_assert_int_eq(memcmp(o.result.value.bytes.data, data, len), 0);
    outcome_free(&o);
}

void expect_string(struct outcome o, const char *text)
{
    expect_result(&o, HL_TYPE_STRING);
    ck_assert_msg(o.result.value.bytes.len == strlen(text) &&
                      memcmp(o.result.value.bytes.data, text, strlen(text)) == 0,
                  "wanted '%s', got '%.*s'", text, (int)o.result.value.bytes.len,
                  (const char *)o.result.value.bytes.data);
    outcome_free(&o);
}

void expect_error(struct outcome o, int code, const char *part)
{
    const char *text = o.result.value.bytes.data;

    ck_assert_msg(o.refused == 0 && o.state == INSTANCE_DONE && o.result.is_error,
                  "wanted error %d, got %s", code, tell(&o));
    ck_assert_msg(o.result.code == code &&
                      memmem(text, o.result.value.bytes.len, part, strlen(part)),
                  "wanted error %d with '%s', got %s", code, part, tell(&o));
    outcome_free(&o);
}

void expect_i64(struct outcome o, int64_t value)
{
    const struct hl_value *v = &o.result.value;
    int64_t got = v->type == HL_TYPE_I32    ? v->i32
                  : v->type == HL_TYPE_U32  ? v->u32
                  : v->type == HL_TYPE_BOOL ? v->b
                                            : v->i64;

    ck_assert_msg(o.refused == 0 && o.state == INSTANCE_DONE && !o.result.is_error,
                  "wanted %lld, got %s", (long long)value, tell(&o));
    ck_assert_int_eq(got, value);
}

void expect_void(struct outcome o)
{
    expect_result(&o, HL_TYPE_VOID);
}

void expect_end(struct outcome o, enum instance_end end)
{
    ck_assert_msg(o.refused == 0 && o.state == INSTANCE_FAULT && o.failure.end == end,
                  "wanted end %d, got %s", (int)end, tell(&o));
    ck_assert_msg(o.failure.text[0] != '\0', "a failure without a text");
}

int programs_main(int argc, char **argv, const char *name,
                  void (*add_case)(Suite *suite, const char *backend, void (*open)(void)))
{
    bool kvm, process;
    Suite *suite;

    if (argc == 2 && strcmp(argv[1], "--nursery") == 0)
        return nursery_main(3);
    kvm = usable(&hv_backend_kvm);
    process = usable(&hv_backend_process);
    if (!kvm && !process)
        return 77;
    suite = suite_create(name);
    if (kvm)
        add_case(suite, "kvm", open_kvm);
    if (kvm)
        add_case(suite, "kvm, kept", open_kvm_kept);
    if (process)
        add_case(suite, "process", open_process);
    return suite_run(suite);
}
