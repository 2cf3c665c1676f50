/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The machine of the fake backend. Dirty pages are tracked in bitmaps by whoever writes, guest and
 * host apart, so that leaving out a part of the reset leaves exactly that part behind for the audit
 * to find, and so that reset and audit cost what was written and not the size of memory.
 */
#include "config.h"

#include "tests/fake/fake.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "guest/hl_abi.h"
#include "tests/fake/fake_internal.h"

#define PAGE         HL_ABI_PAGE_SIZE
#define HOLD_LOOK_NS 1000000u /* how often a call of hold looks whether it may go */

struct hv_host {
    int unused;
};

static pthread_mutex_t control_lock = PTHREAD_MUTEX_INITIALIZER;
static struct {
    unsigned int nth;
    int code;
    uint64_t count;
} ops[FAKE_OP_COUNT];
static fake_run_cb run_cb;
static void *run_opaque;
static atomic_int machines;
static atomic_bool holding;
static atomic_uint held;

void fake_fail(enum fake_op op, unsigned int nth, int code)
{
    pthread_mutex_lock(&control_lock);
    ops[op].nth = code == 0 ? 0 : nth;
    ops[op].code = code;
    pthread_mutex_unlock(&control_lock);
}

uint64_t fake_count(enum fake_op op)
{
    uint64_t count;

    pthread_mutex_lock(&control_lock);
    count = ops[op].count;
    pthread_mutex_unlock(&control_lock);
    return count;
}

int fake_machines(void)
{
    return atomic_load(&machines);
}

void fake_hold(bool on)
{
    atomic_store(&holding, on);
}

unsigned int fake_held(void)
{
    return atomic_load(&held);
}

bool fake_hold_call(struct hv_machine *m, uint64_t until_ns)
{
    if (m->wake_ns == 0) {
        m->wake_ns = 1;
        atomic_fetch_add(&held, 1);
    }
    while (atomic_load(&holding)) {
        if (!fake_sleep(m, fake_now_ns() + HOLD_LOOK_NS, until_ns))
            return false;
    }
    return true;
}

void fake_clear(void)
{
    atomic_store(&holding, true);
    atomic_store(&held, 0);
    pthread_mutex_lock(&control_lock);
    memset(ops, 0, sizeof(ops));
    run_cb = NULL;
    run_opaque = NULL;
    pthread_mutex_unlock(&control_lock);
}

void fake_set_run(fake_run_cb on_run, void *opaque)
{
    pthread_mutex_lock(&control_lock);
    run_cb = on_run;
    run_opaque = opaque;
    pthread_mutex_unlock(&control_lock);
}

/* Counts a call of op. Returns: the code it must fail with, or 0. */
static int enter(enum fake_op op)
{
    int code = 0;

    pthread_mutex_lock(&control_lock);
    ops[op].count++;
    if (ops[op].nth > 0 && --ops[op].nth == 0)
        code = ops[op].code;
    pthread_mutex_unlock(&control_lock);
    return code;
}

static int probe(struct hl_error *err)
{
    int code = enter(FAKE_PROBE);

    return code < 0 ? hl_error_set(err, code, "fake: made to fail") : 0;
}

static int host_open(struct hv_host **out, const struct hv_host_config *config,
                     struct hl_error *err)
{
    int code = enter(FAKE_HOST_OPEN);

    (void)config;
    *out = NULL;
    if (code < 0)
        return hl_error_set(err, code, "fake: host_open made to fail");
    *out = calloc(1, sizeof(**out));
    return *out ? 0 : -ENOMEM;
}

static void host_close(struct hv_host *host)
{
    free(host);
}

static int populate(struct hv_host *host, uint8_t *low, const uint8_t *prot, size_t npages,
                    struct hl_error *err)
{
    int code = enter(FAKE_POPULATE);

    (void)host;
    if (code < 0)
        return hl_error_set(err, code, "fake: populate made to fail");
    for (size_t i = 0; i < npages; i++) {
        if ((prot[i] & HV_PROT_WRITE) && (prot[i] & HV_PROT_EXEC))
            return hl_error_set(err, -EINVAL, "fake: page %zu is writable and executable", i);
    }
    low[HL_ABI_HYPERCALL_ADDR] = 0xc3; /* ret */
    return 0;
}

static void machine_free(struct hv_machine *m);
static void detach(struct hv_machine *m);

static int machine_new(struct hv_machine **out, struct hv_host *host, uint64_t slot_size,
                       struct hl_error *err)
{
    int code = enter(FAKE_MACHINE_NEW);
    size_t words = slot_size / PAGE / 64 + 1;
    pthread_condattr_t attr;
    struct hv_machine *m;

    (void)host;
    *out = NULL;
    if (code < 0)
        return hl_error_set(err, code, "fake: machine_new made to fail");
    m = calloc(1, sizeof(*m));
    if (!m)
        return -ENOMEM;
    atomic_fetch_add(&machines, 1);
    pthread_mutex_init(&m->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&m->cond, &attr);
    pthread_condattr_destroy(&attr);
    m->slot_size = slot_size;
    m->prot = calloc(slot_size / PAGE, 1);
    m->by_guest = calloc(words, sizeof(uint64_t));
    m->by_host = calloc(words, sizeof(uint64_t));
    m->ever = calloc(words, sizeof(uint64_t));
    m->since = calloc(words, sizeof(uint64_t));
    m->memory = mmap(NULL, slot_size, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (m->memory == MAP_FAILED)
        m->memory = NULL;
    if (!m->memory || !m->prot || !m->by_guest || !m->by_host || !m->ever || !m->since) {
        machine_free(m);
        return -ENOMEM;
    }
    *out = m;
    return 0;
}

static void machine_free(struct hv_machine *m)
{
    if (!m)
        return;
    if (m->memory)
        munmap(m->memory, m->slot_size);
    detach(m);
    snapshot_unref(m->snap);
    pthread_mutex_destroy(&m->lock);
    pthread_cond_destroy(&m->cond);
    free(m->prot);
    free(m->by_guest);
    free(m->by_host);
    free(m->ever);
    free(m->since);
    free(m);
    atomic_fetch_sub(&machines, 1);
}

static void detach(struct hv_machine *m)
{
    for (unsigned int i = 0; i < m->nfiles; i++)
        munmap(m->files[i].data, m->files[i].len);
    m->nfiles = 0;
}

static int attach(struct hv_machine *m, hl_gpa addr, int fd, uint64_t len)
{
    int code = enter(FAKE_ATTACH);
    void *data;

    if (code < 0)
        return code;
    if (m->nfiles == HL_ABI_MAX_PARAMS || addr % HL_ABI_BULK_UNIT || addr < HL_ABI_BULK_ADDR)
        return -EINVAL;
    data = mmap(NULL, len, PROT_READ, MAP_PRIVATE, fd, 0);
    if (data == MAP_FAILED)
        return -errno;
    m->files[m->nfiles++] = (struct fake_file){.addr = addr, .data = data, .len = len};
    return 0;
}

static void set_registers(struct hv_machine *m)
{
    detach(m);
    m->phase = snapshot_regs(m->snap)->rip == FAKE_READY_RIP ? FAKE_IN_CALL : FAKE_AT_START;
    m->step = 0;
    m->wake_ns = 0;
    m->fs_base = snapshot_regs(m->snap)->fs_base;
}

static int bind_snapshot(struct hv_machine *m, struct snapshot *snap, struct hl_error *err)
{
    int code = enter(FAKE_BIND);
    size_t count, words = m->slot_size / PAGE / 64 + 1;
    const struct snapshot_extent *extents;

    if (code < 0)
        return hl_error_set(err, code, "fake: bind made to fail");
    if (snapshot_size(snap) > m->slot_size)
        return hl_error_set(err, -EINVAL, "fake: snapshot larger than the slot");
    snapshot_ref(snap);
    snapshot_unref(m->snap);
    m->snap = snap;
    m->size = snapshot_size(snap);
    m->io_size = snapshot_io_size(snap);
    madvise(m->memory, m->slot_size, MADV_DONTNEED);
    extents = snapshot_extents(snap, &count);
    for (size_t i = 0; i < count; i++)
        memcpy(m->memory + extents[i].start, snapshot_memory(snap) + extents[i].start,
               extents[i].len);
    memcpy(m->prot, snapshot_prot(snap, NULL), m->size / PAGE);
    memset(m->by_guest, 0, words * sizeof(uint64_t));
    memset(m->by_host, 0, words * sizeof(uint64_t));
    memset(m->ever, 0, words * sizeof(uint64_t));
    memset(m->since, 0, words * sizeof(uint64_t));
    m->prot_changed = false;
    set_registers(m);
    return 0;
}

static int unbind(struct hv_machine *m)
{
    int code = enter(FAKE_UNBIND);

    if (code < 0)
        return code;
    detach(m);
    snapshot_unref(m->snap);
    m->snap = NULL;
    m->size = m->io_size = 0;
    madvise(m->memory, m->slot_size, MADV_DONTNEED);
    return 0;
}

static void mark(struct hv_machine *m, uint64_t *bits, hl_gpa addr, size_t len)
{
    if (len == 0)
        return;
    for (uint64_t page = addr / PAGE; page <= (addr + len - 1) / PAGE; page++) {
        bits[page / 64] |= 1ull << (page % 64);
        m->ever[page / 64] |= 1ull << (page % 64);
        m->since[page / 64] |= 1ull << (page % 64);
    }
}

static bool in_bounds(const struct hv_machine *m, hl_gpa addr, size_t len)
{
    return addr <= m->size && len <= m->size - addr;
}

static int run(struct hv_machine *m, uint64_t until_ns, struct hv_exit *exit)
{
    int code = enter(FAKE_RUN);
    fake_run_cb cb;
    void *opaque;

    memset(exit, 0, sizeof(*exit));
    if (code < 0)
        return code;
    pthread_mutex_lock(&control_lock);
    cb = run_cb;
    opaque = run_opaque;
    pthread_mutex_unlock(&control_lock);
    return cb ? cb(m, until_ns, exit, opaque) : fake_run(m, until_ns, exit);
}

static void set_return(struct hv_machine *m, uint64_t value)
{
    m->returned = value;
}

static int get_regs(struct hv_machine *m, struct hv_regs *regs)
{
    int code = enter(FAKE_GET_REGS);

    if (code < 0)
        return code;
    *regs = *snapshot_regs(m->snap);
    regs->rip = FAKE_READY_RIP;
    regs->fs_base = m->fs_base;
    return 0;
}

static int set_fs_base(struct hv_machine *m, uint64_t base)
{
    int code = enter(FAKE_SET_FS_BASE);

    if (code == 0)
        m->fs_base = base;
    return code;
}

static void kick(struct hv_machine *m)
{
    pthread_mutex_lock(&m->lock);
    m->kicked = true;
    pthread_cond_broadcast(&m->cond);
    pthread_mutex_unlock(&m->lock);
}

static int mem_read(struct hv_machine *m, hl_gpa addr, void *buf, size_t len)
{
    int code = enter(FAKE_MEM_READ);

    if (code < 0)
        return code;
    if (!in_bounds(m, addr, len))
        return -EFAULT;
    memcpy(buf, m->memory + addr, len);
    return 0;
}

static int mem_write(struct hv_machine *m, hl_gpa addr, const void *buf, size_t len)
{
    int code = enter(FAKE_MEM_WRITE);

    if (code < 0)
        return code;
    if (!in_bounds(m, addr, len))
        return -EFAULT;
    memcpy(m->memory + addr, buf, len);
    mark(m, m->by_host, addr, len);
    return 0;
}

static uint8_t *io_window(struct hv_machine *m)
{
    return m->memory + HL_ABI_IO_ADDR;
}

static void io_dirty(struct hv_machine *m, size_t offset, size_t len)
{
    mark(m, m->by_host, HL_ABI_IO_ADDR + offset, len);
}

static int protect(struct hv_machine *m, hl_gpa addr, uint64_t len, enum hv_prot prot)
{
    int code = enter(FAKE_PROTECT);

    if (code < 0)
        return code;
    if (addr % PAGE != 0 || len % PAGE != 0 || !in_bounds(m, addr, len) || addr < HL_ABI_IO_ADDR)
        return -EINVAL;
    memset(m->prot + addr / PAGE, (int)prot, len / PAGE);
    m->prot_changed = true;
    return 0;
}

static uint64_t restore(struct hv_machine *m, uint64_t *bits)
{
    uint64_t pages = 0;

    for (uint64_t page = 0; page < m->size / PAGE; page++) {
        if (!(bits[page / 64] >> (page % 64) & 1))
            continue;
        memcpy(m->memory + page * PAGE, snapshot_memory(m->snap) + page * PAGE, PAGE);
        pages++;
    }
    memset(bits, 0, (m->size / PAGE / 64 + 1) * sizeof(*bits));
    return pages;
}

static int reset(struct hv_machine *m, unsigned int skip, uint64_t *pages)
{
    int code = enter(FAKE_RESET);

    *pages = 0;
    if (code != 0)
        return code;
    if (m->prot_changed)
        return 1;
    if (!(skip & HV_SKIP_MEMORY))
        *pages += restore(m, m->by_guest);
    if (!(skip & HV_SKIP_IO))
        *pages += restore(m, m->by_host);
    if (!(skip & HV_SKIP_REGS))
        set_registers(m);
    pthread_mutex_lock(&m->lock);
    m->kicked = false;
    pthread_mutex_unlock(&m->lock);
    return 0;
}

static int rewind_registers(struct hv_machine *m)
{
    int code = enter(FAKE_REWIND);

    if (code != 0)
        return code;
    set_registers(m);
    pthread_mutex_lock(&m->lock);
    m->kicked = false;
    pthread_mutex_unlock(&m->lock);
    return 0;
}

static int collect(struct hv_machine *m, void (*written)(void *opaque, uint64_t page), void *opaque)
{
    int code = enter(FAKE_COLLECT);

    if (code != 0)
        return code;
    for (uint64_t page = 0; page < m->size / PAGE; page++) {
        if (m->since[page / 64] >> (page % 64) & 1)
            written(opaque, page);
    }
    memset(m->since, 0, (m->size / PAGE / 64 + 1) * sizeof(*m->since));
    return 0;
}

static int audit(struct hv_machine *m, struct hl_error *err)
{
    int code = enter(FAKE_AUDIT);

    if (code != 0)
        return hl_error_set(err, -EBADMSG, "fake: audit made to fail"), code;
    for (uint64_t page = 0; page < m->size / PAGE; page++) {
        if ((m->ever[page / 64] >> (page % 64) & 1) &&
            memcmp(m->memory + page * PAGE, snapshot_memory(m->snap) + page * PAGE, PAGE) != 0)
            return hl_error_set(err, -EBADMSG, "page 0x%llx differs",
                                (unsigned long long)page * PAGE),
                   1;
    }
    if (m->step != 0)
        return hl_error_set(err, -EBADMSG, "registers differ"), 1;
    return 0;
}

static int measure_entry(struct hv_host *host, unsigned int n, uint32_t *ns, struct hl_error *err)
{
    (void)host;
    (void)err;
    for (unsigned int i = 0; i < n; i++)
        ns[i] = 1000;
    return 0;
}

const struct hv_backend hv_backend_fake = {
    .name = "fake",
    .probe = probe,
    .host_open = host_open,
    .host_close = host_close,
    .populate = populate,
    .machine_new = machine_new,
    .machine_free = machine_free,
    .bind = bind_snapshot,
    .unbind = unbind,
    .run = run,
    .set_return = set_return,
    .get_regs = get_regs,
    .set_fs_base = set_fs_base,
    .kick = kick,
    .mem_read = mem_read,
    .mem_write = mem_write,
    .io_window = io_window,
    .io_dirty = io_dirty,
    .attach = attach,
    .protect = protect,
    .reset = reset,
    .rewind = rewind_registers,
    .collect = collect,
    .audit = audit,
    .measure_entry = measure_entry,
};

int fake_exit_hypercall(struct hv_exit *exit, uint64_t nr, uint64_t a, uint64_t b, uint64_t c)
{
    *exit = (struct hv_exit){.kind = HV_EXIT_HYPERCALL, .nr = nr, .args = {a, b, c}};
    return 0;
}

int fake_exit_syscall(struct hv_exit *exit, uint64_t nr, const uint64_t args[6])
{
    *exit = (struct hv_exit){.kind = HV_EXIT_SYSCALL, .nr = nr};
    memcpy(exit->args, args, sizeof(exit->args));
    return 0;
}

int fake_exit_fault(struct hv_exit *exit, uint8_t vector, uint32_t error_code, uint64_t rip,
                    uint64_t address)
{
    *exit = (struct hv_exit){
        .kind = HV_EXIT_FAULT,
        .fault = {.vector = vector, .error_code = error_code, .rip = rip, .address = address}};
    return 0;
}

int fake_exit_kicked(struct hv_exit *exit)
{
    *exit = (struct hv_exit){.kind = HV_EXIT_KICKED};
    return 0;
}

uint64_t fake_now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

bool fake_sleep(struct hv_machine *m, uint64_t wake_ns, uint64_t until_ns)
{
    uint64_t end = wake_ns < until_ns ? wake_ns : until_ns;
    struct timespec ts = {.tv_sec = (time_t)(end / 1000000000u),
                          .tv_nsec = (long)(end % 1000000000u)};
    bool kicked;

    pthread_mutex_lock(&m->lock);
    while (!m->kicked && fake_now_ns() < end) {
        if (end == UINT64_MAX)
            pthread_cond_wait(&m->cond, &m->lock);
        else
            pthread_cond_timedwait(&m->cond, &m->lock, &ts);
    }
    kicked = m->kicked;
    m->kicked = false;
    pthread_mutex_unlock(&m->lock);
    return !kicked && wake_ns <= until_ns;
}

const uint8_t *fake_memory(const struct hv_machine *m)
{
    return m->memory;
}

void fake_write(struct hv_machine *m, hl_gpa addr, const void *data, size_t len)
{
    if (!in_bounds(m, addr, len)) {
        fprintf(stderr, "fake_write past the end of memory\n");
        abort();
    }
    memcpy(m->memory + addr, data, len);
    mark(m, m->by_guest, addr, len);
}

uint64_t fake_returned(const struct hv_machine *m)
{
    return m->returned;
}

uint64_t fake_fs_base(const struct hv_machine *m)
{
    return m->fs_base;
}

bool fake_at_start(const struct hv_machine *m)
{
    return m->phase == FAKE_AT_START;
}

unsigned int fake_step(struct hv_machine *m)
{
    return m->step++;
}

struct snapshot *fake_bound(const struct hv_machine *m)
{
    return m->snap;
}
