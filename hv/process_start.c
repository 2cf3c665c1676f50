/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where a machine's processes come from. One zygote per snapshot, made by the nursery when the
 * first machine is bound to it and ended with the last; one guest process per call, forked by the
 * zygote. A guest's socket and I/O window are made here and sent along with the request, so every
 * answer comes on a socket of its own and no thread waits for another's.
 *
 * The first message of a guest process is sent before any guest code runs: it alone may bring
 * descriptors. Each process gets a window of its own, because the one before may still be on
 * its way out on another CPU.
 */
#include "config.h"

#include "hv/process_machine.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "hv/process_socket.h"

#define PAGE HL_ABI_PAGE_SIZE

static int failed(const struct process_reply *reply, const char *what, struct hl_error *err)
{
    return hl_error_set(err, reply->error, "%s: %s: %s", what, process_step_name(reply->step),
                        strerror(-reply->error));
}

/* Extents above the low megabyte; the I/O window is each process's own. */
static void add_extents(struct process_request *request, const struct snapshot *snap)
{
    size_t count;
    const struct snapshot_extent *extents = snapshot_extents(snap, &count);
    uint32_t n = 0;

    for (size_t i = 0; i < count && n < PROCESS_EXTENTS_MAX; i++) {
        hl_gpa start = extents[i].start, end = start + extents[i].len;

        if (start < PROCESS_GUEST_MIN)
            start = PROCESS_GUEST_MIN;
        if (start < end)
            request->ranges[n++] = (struct process_range){.start = start, .len = end - start};
    }
    request->header.nextents = n;
}

/* Runs of pages with one permission. Returns: 0, or -E2BIG. */
static int add_runs(struct process_request *request, const struct snapshot *snap)
{
    struct process_range *runs = request->ranges + request->header.nextents;
    size_t npages;
    const uint8_t *prot = snapshot_prot(snap, &npages);
    uint32_t n = 0;

    for (size_t page = PROCESS_GUEST_MIN / PAGE, next; page < npages; page = next) {
        for (next = page + 1; next < npages && prot[next] == prot[page]; next++)
            ;
        if (prot[page] == HV_PROT_NONE)
            continue;
        if (n == PROCESS_RUNS_MAX)
            return -E2BIG;
        runs[n++] = (struct process_range){
            .start = page * PAGE, .len = (next - page) * PAGE, .prot = prot[page]};
    }
    request->header.nruns = n;
    return 0;
}

static int ask_for_zygote(int nursery, struct snapshot *snap, int *sock, struct hl_error *err)
{
    _cleanup_free_ struct process_request *request = calloc(1, sizeof(*request));
    struct process_reply reply = {0};
    size_t count;
    int ends[2];
    int rc = request ? process_socketpair(ends) : -ENOMEM;
    _cleanup_close_ int ours = rc == 0 ? ends[0] : -1, theirs = rc == 0 ? ends[1] : -1;

    if (rc < 0)
        return hl_error_wrap(err, rc, "a socket for a zygote");
    if (snapshot_size(snap) > PROCESS_GUEST_MAX)
        return hl_error_set(err, -E2BIG, "guest memory above 1 GiB");
    request->header = (struct process_request_header){.magic = PROCESS_MAGIC,
                                                      .kind = PROCESS_REQUEST_ZYGOTE,
                                                      .memory_size = snapshot_size(snap),
                                                      .io_size = snapshot_io_size(snap)};
    add_extents(request, snap);
    if (add_runs(request, snap) < 0)
        return hl_error_set(err, -E2BIG, "memory permissions change more than %d times",
                            PROCESS_RUNS_MAX);
    count = (size_t)request->header.nextents + request->header.nruns;
    rc = process_send(nursery, request, sizeof(request->header) + count * sizeof(*request->ranges),
                      (const int[]){theirs, snapshot_memfd(snap)}, 2);
    if (rc == 0) {
        close(hl_steal_fd(&theirs));
        rc = process_receive_reply(ours, &reply, NULL);
    }
    if (rc < 0)
        return hl_error_wrap(err, rc, "the nursery makes no zygote");
    if (reply.error < 0)
        return failed(&reply, "zygote", err);
    *sock = hl_steal_fd(&ours);
    return 0;
}

/* With the mutex held. */
static void zygote_release(struct hv_host *host, struct zygote *zygote)
{
    if (--zygote->users > 0)
        return;
    for (struct zygote **at = &host->zygotes; *at; at = &(*at)->next) {
        if (*at == zygote) {
            *at = zygote->next;
            break;
        }
    }
    close(zygote->sock);
    snapshot_unref(zygote->snap);
    free(zygote);
}

/* With the mutex held. */
static int zygote_take(struct hv_machine *m, struct hl_error *err)
{
    struct hv_host *host = m->host;
    struct zygote *zygote;
    int rc;

    for (zygote = host->zygotes; zygote; zygote = zygote->next) {
        if (zygote->snap == m->snap && !zygote->dead)
            break;
    }
    if (!zygote) {
        zygote = calloc(1, sizeof(*zygote));
        if (!zygote)
            return -ENOMEM;
        rc = ask_for_zygote(host->nursery_fd, m->snap, &zygote->sock, err);
        if (rc < 0) {
            free(zygote);
            return rc;
        }
        zygote->snap = snapshot_ref(m->snap);
        zygote->next = host->zygotes;
        host->zygotes = zygote;
    }
    zygote->users++;
    m->zygote = zygote;
    return 0;
}

void process_leave_zygote(struct hv_machine *m)
{
    if (!m->zygote)
        return;
    pthread_mutex_lock(&m->host->mutex);
    zygote_release(m->host, m->zygote);
    pthread_mutex_unlock(&m->host->mutex);
    m->zygote = NULL;
}

static int ensure_zygote(struct hv_machine *m, struct hl_error *err)
{
    int rc = 0;

    if (m->zygote && m->zygote->snap != m->snap)
        process_leave_zygote(m);
    if (m->zygote)
        return 0;
    pthread_mutex_lock(&m->host->mutex);
    rc = zygote_take(m, err);
    pthread_mutex_unlock(&m->host->mutex);
    return rc;
}

/* So that the next to come asks for a new one. */
static void give_up_zygote(struct hv_machine *m)
{
    if (!m->zygote)
        return;
    pthread_mutex_lock(&m->host->mutex);
    m->zygote->dead = true;
    zygote_release(m->host, m->zygote);
    pthread_mutex_unlock(&m->host->mutex);
    m->zygote = NULL;
}

/* Zeros, and what the snapshot has there. At the old address where there is one. */
static int new_window(struct hv_machine *m)
{
    uint64_t io_size = snapshot_io_size(m->snap), end = HL_ABI_IO_ADDR + io_size;
    _cleanup_close_ int fd = memfd_create("hld-window", MFD_CLOEXEC);
    size_t count;
    const struct snapshot_extent *extents = snapshot_extents(m->snap, &count);
    void *window;

    if (fd < 0 || ftruncate(fd, (off_t)io_size) < 0)
        return -errno;
    if (m->window && m->io_size != io_size) {
        munmap(m->window, m->io_size);
        m->window = NULL;
    }
    window = mmap(m->window, io_size, PROT_READ | PROT_WRITE,
                  MAP_SHARED | (m->window ? MAP_FIXED : 0), fd, 0);
    if (window == MAP_FAILED)
        return -errno;
    m->window = window;
    m->io_size = io_size;
    m->window_fd = hl_steal_fd(&fd);
    for (size_t i = 0; i < count; i++) {
        hl_gpa from = extents[i].start, to = from + extents[i].len;

        from = from < HL_ABI_IO_ADDR ? HL_ABI_IO_ADDR : from;
        to = to > end ? end : to;
        if (from < to)
            memcpy(m->window + (from - HL_ABI_IO_ADDR), snapshot_memory(m->snap) + from, to - from);
    }
    return 0;
}

static int ask_for_process(struct hv_machine *m, struct hl_error *err)
{
    const struct process_request_header header = {.magic = PROCESS_MAGIC,
                                                  .kind = PROCESS_REQUEST_GUEST};
    int ends[2];
    int rc = process_socketpair(ends);
    _cleanup_close_ int ours = ends[0], theirs = ends[1];

    if (rc < 0)
        return hl_error_wrap(err, rc, "a socket for a guest process");
    rc = ensure_zygote(m, err);
    if (rc < 0)
        return rc;
    rc = process_send(m->zygote->sock, &header, sizeof(header), (const int[]){theirs, m->window_fd},
                      2);
    if (rc < 0)
        return hl_error_wrap(err, rc, "the zygote is gone");
    m->sock = hl_steal_fd(&ours);
    m->state = PROCESS_STARTING;
    return 0;
}

static int receive_hello(struct hv_machine *m, struct hl_error *err)
{
    struct process_reply reply = {0};
    int fds[2];
    int rc = process_receive_reply(m->sock, &reply, fds);

    if (rc < 0)
        return hl_error_wrap(err, rc, "the zygote makes no guest process");
    m->mem = fds[0];
    m->pidfd = fds[1];
    if (reply.error < 0)
        return failed(&reply, "guest process", err);
    if (fds[0] < 0 || fds[1] < 0)
        return hl_error_set(err, -EPROTO, "guest process came without descriptors");
    close(hl_steal_fd(&m->window_fd));
    m->state = PROCESS_FRESH;
    return 0;
}

/* Closes what a process has, not the window and not the descriptor that a next one gets it by. */
static void drop_process(struct hv_machine *m)
{
    if (m->pidfd >= 0)
        syscall(SYS_pidfd_send_signal, m->pidfd, SIGKILL, NULL, 0);
    /* A process that waits for an answer ends at this by itself. */
    if (m->sock >= 0)
        close(m->sock);
    if (m->mem >= 0)
        close(m->mem);
    if (m->pidfd >= 0)
        close(m->pidfd);
    m->sock = m->mem = m->pidfd = -1;
    m->stopped = false;
    m->state = PROCESS_UNBOUND;
}

/* Not for good: the next to come asks for a new zygote. */
static void fail_start(struct hv_machine *m)
{
    drop_process(m);
    give_up_zygote(m);
}

static int start_once(struct hv_machine *m, bool wait, struct hl_error *err)
{
    int rc = ask_for_process(m, err);

    if (rc == 0 && wait)
        rc = receive_hello(m, err);
    if (rc < 0)
        fail_start(m);
    return rc;
}

int process_start(struct hv_machine *m, bool wait, struct hl_error *err)
{
    struct hl_error first = HL_ERROR_INIT;
    bool had_zygote;
    int rc;

    process_end(m);
    m->regs = *snapshot_regs(m->snap);
    rc = new_window(m);
    if (rc < 0)
        return hl_error_wrap(err, rc, "an I/O window");
    had_zygote = m->zygote && m->zygote->snap == m->snap;
    rc = start_once(m, wait, had_zygote ? &first : err);
    /* One that was there already may have died meanwhile. */
    if (rc < 0 && had_zygote)
        rc = start_once(m, wait, err);
    return rc;
}

int process_await(struct hv_machine *m, struct hl_error *err)
{
    if (m->state == PROCESS_UNBOUND)
        return hl_error_set(err, -EINVAL, "the machine is bound to nothing");
    if (m->state != PROCESS_STARTING || receive_hello(m, NULL) == 0)
        return 0;
    fail_start(m);
    return start_once(m, true, err);
}

void process_end(struct hv_machine *m)
{
    drop_process(m);
    if (m->window_fd >= 0)
        close(m->window_fd);
    m->window_fd = -1;
    free(m->prot);
    m->prot = NULL;
    m->nbulk = 0;
}
