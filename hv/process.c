/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The process backend, for hosts without a hypervisor: the guest runs natively, in a process that
 * has its memory, one socket and a handful of harmless system calls (hv/process_guest.c,
 * hv/process_filter.c), and each call gets a new one. It isolates less than kvm does: the kernel's
 * system call entry and its signal delivery are within the guest's reach.
 *
 * The worker shares nothing with the guest process but the I/O window and a socket, both of which
 * the guest may fill with anything, at any time, even while it is said to be waiting. A report is
 * one datagram of fixed size, taken once and checked; memory is read and written through
 * /proc/PID/mem, by copying. Nothing waits for a guest without an end: answers that need none are
 * sent without asking, and the wait for an exit ends at until_ns.
 *
 * KICKED stops the process, so that a suspended call takes no CPU.
 */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "hv/nursery.h"
#include "hv/process_machine.h"
#include "hv/process_socket.h"
#include "hv/timer.h"

#define PAGE HL_ABI_PAGE_SIZE

#define NS_PER_S 1000000000u
#define FLOOR_NS 50000u /* the shortest run after KICKED, whatever until_ns says */

#define VECTOR_PAGE_FAULT  14
#define PAGE_FAULT_PRESENT 1u

static int process_probe(struct hl_error *err)
{
    const uint32_t action = SECCOMP_RET_TRAP;
    _cleanup_close_ int mem = -1;

    if (syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action) < 0)
        return hl_error_set(err, -errno, "seccomp filters: %s", strerror(errno));
    mem = open("/proc/self/mem", O_RDWR | O_CLOEXEC);
    if (mem < 0)
        return hl_error_set(err, -errno, "/proc/self/mem: %s", strerror(errno));
    return 0;
}

static int process_host_open(struct hv_host **out, const struct hv_host_config *config,
                             struct hl_error *err)
{
    struct nursery_report report;
    struct hv_host *host;
    int rc;

    *out = NULL;
    if (config->nursery_fd < 0)
        return hl_error_set(err, -EINVAL, "the process backend needs a nursery");
    rc = nursery_report(config->nursery_fd, &report, err);
    if (rc < 0)
        return rc;
    host = calloc(1, sizeof(*host));
    if (!host)
        return -ENOMEM;
    host->nursery_fd = config->nursery_fd;
    pthread_mutex_init(&host->mutex, NULL);
    *out = host;
    return 0;
}

static void process_host_close(struct hv_host *host)
{
    if (!host)
        return;
    pthread_mutex_destroy(&host->mutex);
    free(host);
}

static int process_populate(struct hv_host *host, uint8_t *low, const uint8_t *prot, size_t npages,
                            struct hl_error *err)
{
    static const uint8_t code[] = {
        0x49,
        0x89,
        0xca, /* mov %rcx, %r10 */
        0xb8,
        PROCESS_NR_HYPERCALL & 0xff,      /* mov $PROCESS_NR_HYPERCALL, %eax */
        PROCESS_NR_HYPERCALL >> 8 & 0xff, /* … */
        PROCESS_NR_HYPERCALL >> 16 & 0xff,
        0x00, /* … */
        0x0f,
        0x05, /* syscall */
        0xc3, /* ret, at PROCESS_HYPERCALL_RETURN */
    };
    _Static_assert(sizeof(code) == PROCESS_HYPERCALL_RETURN + 1, "the ret is last");

    (void)host;
    (void)prot;
    (void)npages;
    (void)err;
    memset(low + HL_ABI_HYPERCALL_ADDR, 0xcc, PAGE);
    memcpy(low + HL_ABI_HYPERCALL_ADDR, code, sizeof(code));
    return 0;
}

static void process_machine_free(struct hv_machine *m)
{
    if (!m)
        return;
    process_end(m);
    process_leave_zygote(m);
    if (m->window)
        munmap(m->window, m->io_size);
    if (m->kick_fd >= 0)
        close(m->kick_fd);
    snapshot_unref(m->snap);
    free(m);
}

static int process_machine_new(struct hv_machine **out, struct hv_host *host, uint64_t slot_size,
                               struct hl_error *err)
{
    struct hv_machine *m = calloc(1, sizeof(*m));

    *out = NULL;
    if (!m)
        return -ENOMEM;
    m->host = host;
    m->slot_size = slot_size;
    m->sock = m->mem = m->pidfd = m->window_fd = -1;
    m->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (m->kick_fd < 0) {
        int code = -errno;

        process_machine_free(m);
        return hl_error_wrap(err, code, "eventfd");
    }
    *out = m;
    return 0;
}

static void forget_kick(struct hv_machine *m)
{
    uint64_t count;

    if (atomic_exchange(&m->kicked, false) && read(m->kick_fd, &count, sizeof(count)) < 0)
        return; /* the kicker has not come to its write: an early wake-up of the next run */
}

static int process_bind(struct hv_machine *m, struct snapshot *snap, struct hl_error *err)
{
    struct snapshot *old = m->snap;
    uint64_t size = snapshot_size(snap);
    int rc;

    if (size > m->slot_size || size <= HL_ABI_IO_ADDR ||
        snapshot_io_size(snap) > size - HL_ABI_IO_ADDR)
        return hl_error_set(err, -EINVAL, "snapshot of %llu bytes does not fit a slot of %llu",
                            (unsigned long long)size, (unsigned long long)m->slot_size);
    m->snap = snapshot_ref(snap);
    forget_kick(m);
    rc = process_start(m, true, err);
    snapshot_unref(old);
    return rc;
}

int process_tell(struct hv_machine *m, const struct process_answer *answer, int fd)
{
    int rc = process_send(m->sock, answer, sizeof(*answer), &fd, fd >= 0);

    /* A process that is gone shows as the end of its socket: the same to the one who waits. */
    return rc == -EPIPE ? 0 : rc;
}

/* What makes the guest go on. */
static int resume(struct hv_machine *m)
{
    struct process_answer answer = {.magic = PROCESS_MAGIC};
    int rc = 0;

    if (m->state == PROCESS_FRESH) {
        answer.kind = PROCESS_ANSWER_START;
        answer.regs = m->regs;
        rc = process_tell(m, &answer, -1);
    } else if (m->state == PROCESS_WAITING) {
        answer.kind = PROCESS_ANSWER_RETURN;
        answer.value = m->regs.rax;
        rc = process_tell(m, &answer, -1);
    } else if (m->stopped) {
        syscall(SYS_pidfd_send_signal, m->pidfd, SIGCONT, NULL, 0);
        m->stopped = false;
    }
    if (rc == 0)
        m->state = PROCESS_RUNNING;
    return rc;
}

/* Waits for a report. Returns: 1 there is one; 0 kicked or until_ns; a negative errno. */
static int wait_for_report(struct hv_machine *m, uint64_t until_ns)
{
    struct pollfd fds[2] = {{.fd = m->sock, .events = POLLIN},
                            {.fd = m->kick_fd, .events = POLLIN}};

    for (;;) {
        uint64_t now = hv_now_ns(), left = until_ns > now ? until_ns - now : 0;
        struct timespec timeout = {.tv_sec = (time_t)(left / NS_PER_S),
                                   .tv_nsec = (long)(left % NS_PER_S)};
        int n = ppoll(fds, 2, until_ns == UINT64_MAX ? NULL : &timeout, NULL);

        if (n < 0 && errno != EINTR)
            return -errno;
        if (n <= 0) {
            if (n == 0 && left == 0)
                return 0;
            continue;
        }
        if (fds[1].revents) {
            uint64_t count;

            if (atomic_exchange(&m->kicked, false))
                return 0;
            /* Left over from a kick that was told already. */
            if (read(m->kick_fd, &count, sizeof(count)) < 0 && errno != EAGAIN)
                return -errno;
        }
        if (fds[0].revents)
            return 1;
    }
}

static bool page_is_present(const struct hv_machine *m, uint64_t address)
{
    const uint8_t *prot = m->prot ? m->prot : snapshot_prot(m->snap, NULL);

    if (address >= snapshot_size(m->snap))
        return process_is_attached(m, address);
    return address >= PROCESS_GUEST_MIN && prot[address / PAGE] != HV_PROT_NONE;
}

/* Pages come one by one, at their first use, in a process; all at once in a virtual machine. What
 * the guest's own permissions say is what is told. */
static uint32_t fault_error_code(const struct hv_machine *m, const struct process_report *report)
{
    uint32_t code = (uint32_t)report->error_code;

    if (report->vector != VECTOR_PAGE_FAULT)
        return code;
    return (code & ~PAGE_FAULT_PRESENT) |
           (page_is_present(m, report->address) ? PAGE_FAULT_PRESENT : 0);
}

static void tell_died(struct hv_machine *m, struct hv_exit *exit)
{
    exit->kind = HV_EXIT_FAULT;
    exit->fault = (struct hv_fault){.vector = HV_VECTOR_DIED};
    process_end(m);
    m->state = PROCESS_OVER;
}

/* A report is the guest's word, be it the handler's or made up: every value in it is one that a
 * guest could have had in its registers. */
static void decode(struct hv_machine *m, const struct process_report *report, struct hv_exit *exit)
{
    const struct hv_regs *regs = &report->regs;

    m->regs = *regs;
    if (report->kind == PROCESS_REPORT_FAULT && report->vector < HV_VECTOR_DIED) {
        exit->kind = HV_EXIT_FAULT;
        exit->fault.vector = (uint8_t)report->vector;
        exit->fault.error_code = fault_error_code(m, report);
        exit->fault.rip = regs->rip;
        exit->fault.address = report->vector == VECTOR_PAGE_FAULT ? report->address : 0;
        m->state = PROCESS_OVER;
    } else if (report->kind != PROCESS_REPORT_SYSCALL) {
        tell_died(m, exit);
    } else if (regs->rax == PROCESS_NR_HYPERCALL &&
               regs->rip == HL_ABI_HYPERCALL_ADDR + PROCESS_HYPERCALL_RETURN) {
        exit->kind = HV_EXIT_HYPERCALL;
        exit->nr = regs->rdi;
        exit->args[0] = regs->rsi;
        exit->args[1] = regs->rdx;
        exit->args[2] = regs->r10;
        m->state = PROCESS_WAITING;
    } else {
        exit->kind = HV_EXIT_SYSCALL;
        exit->nr = regs->rax;
        exit->args[0] = regs->rdi;
        exit->args[1] = regs->rsi;
        exit->args[2] = regs->rdx;
        exit->args[3] = regs->r10;
        exit->args[4] = regs->r8;
        exit->args[5] = regs->r9;
        m->state = PROCESS_WAITING;
    }
}

static void take_report(struct hv_machine *m, struct hv_exit *exit)
{
    struct process_report report;
    /* MSG_TRUNC: the datagram's own length, however much of it there was room for. */
    ssize_t n = recv(m->sock, &report, sizeof(report), MSG_DONTWAIT | MSG_TRUNC);

    if (n != sizeof(report) || report.magic != PROCESS_MAGIC)
        tell_died(m, exit);
    else
        decode(m, &report, exit);
}

static int kicked(struct hv_machine *m, struct hv_exit *exit)
{
    exit->kind = HV_EXIT_KICKED;
    m->progress = false;
    if (m->state == PROCESS_RUNNING && !m->stopped) {
        if (syscall(SYS_pidfd_send_signal, m->pidfd, SIGSTOP, NULL, 0) < 0 && errno != ESRCH)
            return -errno;
        m->stopped = true;
    }
    return 0;
}

static int process_run(struct hv_machine *m, uint64_t until_ns, struct hv_exit *exit)
{
    uint64_t floor_ns;
    int rc = process_await(m, NULL);

    memset(exit, 0, sizeof(*exit));
    if (rc < 0)
        return rc;
    if (m->state == PROCESS_OVER)
        return -ESHUTDOWN;
    /* A run gets somewhere unless the one before did. */
    if (until_ns != UINT64_MAX) {
        floor_ns = hv_now_ns() + FLOOR_NS;
        if (until_ns < floor_ns - FLOOR_NS && m->progress)
            return kicked(m, exit);
        if (until_ns < floor_ns)
            until_ns = floor_ns;
    }
    rc = resume(m);
    if (rc < 0)
        return rc;
    rc = wait_for_report(m, until_ns);
    if (rc < 0)
        return rc;
    if (rc == 0)
        return kicked(m, exit);
    m->progress = true;
    take_report(m, exit);
    return 0;
}

static void process_set_return(struct hv_machine *m, uint64_t value)
{
    m->regs.rax = value;
}

static int process_get_regs(struct hv_machine *m, struct hv_regs *regs)
{
    if (m->state != PROCESS_WAITING && m->state != PROCESS_FRESH)
        return -EINVAL;
    *regs = m->regs;
    return 0;
}

static int process_set_fs_base(struct hv_machine *m, uint64_t base)
{
    const struct process_answer answer = {
        .magic = PROCESS_MAGIC, .kind = PROCESS_ANSWER_SET_FS, .value = base};
    bool canonical = (uint64_t)((int64_t)(base << 16) >> 16) == base;
    int rc = process_await(m, NULL);

    if (rc < 0)
        return rc;
    /* Linux refuses the upper half, and the handler would end over it. */
    if (!canonical || base >> 63)
        return -EINVAL;
    m->regs.fs_base = base;
    return m->state == PROCESS_WAITING ? process_tell(m, &answer, -1) : 0;
}

static void process_kick(struct hv_machine *m)
{
    const uint64_t one = 1;

    atomic_store(&m->kicked, true);
    /* Cannot fail but for a counter that is full, which is as readable as it gets. */
    if (write(m->kick_fd, &one, sizeof(one)) < 0)
        return;
}

static bool within(const struct hv_machine *m, hl_gpa addr, uint64_t len)
{
    uint64_t size = m->snap ? snapshot_size(m->snap) : 0;

    return addr <= size && len <= size - addr;
}

static int process_mem_read(struct hv_machine *m, hl_gpa addr, void *buf, size_t len)
{
    uint8_t *to = buf;
    int rc = process_await(m, NULL);

    if (rc < 0)
        return rc;
    if (!within(m, addr, len))
        return -EFAULT;
    /* The low megabyte is not there; nothing of it can be written either. */
    while (len > 0 && addr < PROCESS_GUEST_MIN) {
        size_t part = PROCESS_GUEST_MIN - addr < len ? PROCESS_GUEST_MIN - addr : len;

        memset(to, 0, part);
        addr += part;
        to += part;
        len -= part;
    }
    while (len > 0) {
        ssize_t n = pread(m->mem, to, len, (off_t)addr);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n == 0 ? -ESRCH : -errno;
        addr += (size_t)n;
        to += n;
        len -= (size_t)n;
    }
    return 0;
}

static int process_mem_write(struct hv_machine *m, hl_gpa addr, const void *buf, size_t len)
{
    const uint8_t *from = buf;
    int rc = process_await(m, NULL);

    if (rc < 0)
        return rc;
    if (!within(m, addr, len) || addr < PROCESS_GUEST_MIN)
        return -EFAULT;
    while (len > 0) {
        ssize_t n = pwrite(m->mem, from, len, (off_t)addr);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n == 0 ? -ESRCH : -errno;
        addr += (size_t)n;
        from += n;
        len -= (size_t)n;
    }
    return 0;
}

static uint8_t *process_io_window(struct hv_machine *m)
{
    return m->window;
}

static void process_io_dirty(struct hv_machine *m, size_t offset, size_t len)
{
    (void)m;
    (void)offset;
    (void)len;
}

static int process_protect(struct hv_machine *m, hl_gpa addr, uint64_t len, enum hv_prot prot)
{
    const struct process_answer answer = {
        .magic = PROCESS_MAGIC,
        .kind = PROCESS_ANSWER_PROTECT,
        .addr = addr,
        .len = len,
        .prot = (prot ? PROT_READ : PROT_NONE) | (prot & HV_PROT_WRITE ? PROT_WRITE : 0),
    };
    const uint8_t *before;
    size_t npages;
    int rc = process_await(m, NULL);

    if (rc < 0)
        return rc;
    if (addr % PAGE || len % PAGE || addr < PROCESS_GUEST_MIN || !within(m, addr, len))
        return -EINVAL;
    if (prot & HV_PROT_EXEC)
        return -EACCES;
    if (len == 0)
        return 0;
    if (!m->prot) {
        before = snapshot_prot(m->snap, &npages);
        m->prot = malloc(npages);
        if (!m->prot)
            return -ENOMEM;
        memcpy(m->prot, before, npages);
    }
    memset(m->prot + addr / PAGE, (int)prot, len / PAGE);
    return process_tell(m, &answer, -1);
}

/* A process is replaced as a whole; leaving out a part of that means leaving the process, with
 * nothing but its registers put back. */
static int process_reset(struct hv_machine *m, unsigned int skip, uint64_t *pages)
{
    *pages = 0;
    if (m->state != PROCESS_WAITING && m->state != PROCESS_FRESH && m->state != PROCESS_STARTING)
        return 1;
    m->progress = false;
    if (skip != 0) {
        if (!(skip & HV_SKIP_REGS))
            m->regs = *snapshot_regs(m->snap);
        if (m->state == PROCESS_WAITING)
            m->state = PROCESS_FRESH;
        return process_detach(m);
    }
    return process_start(m, false, NULL);
}

/* The same process goes on: its handler waits for an answer, and START sets all registers. */
static int process_rewind(struct hv_machine *m)
{
    int rc;

    if (m->state != PROCESS_WAITING && m->state != PROCESS_FRESH && m->state != PROCESS_STARTING)
        return 1;
    rc = process_detach(m);
    if (rc < 0)
        return rc;
    m->progress = false;
    m->regs = *snapshot_regs(m->snap);
    if (m->state == PROCESS_WAITING)
        m->state = PROCESS_FRESH;
    forget_kick(m);
    return 0;
}

/* Nobody tells what the process writes. */
static int process_collect(struct hv_machine *m, void (*written)(void *opaque, uint64_t page),
                           void *opaque)
{
    uint64_t end = m->snap ? snapshot_size(m->snap) / PAGE : 0;

    for (uint64_t page = HL_ABI_IO_ADDR / PAGE; page < end; page++)
        written(opaque, page);
    return 0;
}

const struct hv_backend hv_backend_process = {
    .name = "process",
    .single_file = true,
    .probe = process_probe,
    .host_open = process_host_open,
    .host_close = process_host_close,
    .populate = process_populate,
    .machine_new = process_machine_new,
    .machine_free = process_machine_free,
    .bind = process_bind,
    .run = process_run,
    .set_return = process_set_return,
    .get_regs = process_get_regs,
    .set_fs_base = process_set_fs_base,
    .kick = process_kick,
    .mem_read = process_mem_read,
    .mem_write = process_mem_write,
    .io_window = process_io_window,
    .io_dirty = process_io_dirty,
    .attach = process_attach,
    .protect = process_protect,
    .reset = process_reset,
    .rewind = process_rewind,
    .collect = process_collect,
    .audit = process_audit,
    .measure_entry = process_measure_entry,
};
