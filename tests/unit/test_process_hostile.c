/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The process backend under attack: guests that try every system call from where the filter is
 * open, speak on their own socket, wreck the runtime; zygotes, nurseries and workers that end in
 * the middle; requests that do not hold together. And what is left of all that: nothing.
 */
#include "config.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "hv/nursery.h"
#include "hv/process_socket.h"
#include "hv/process_zygote.h"
#include "hv/timer.h"
#include "tests/unit/process_rig.h"

static size_t count_fds(void)
{
    DIR *dir = opendir("/proc/self/fd");
    size_t count = 0;

    ck_assert_ptr_nonnull(dir);
    while (readdir(dir))
        count++;
    closedir(dir);
    return count;
}

/* Processes whose ancestors include this one. */
static size_t count_descendants(pid_t of)
{
    size_t count = 0;
    DIR *dir = opendir("/proc");
    struct dirent *entry;

    ck_assert_ptr_nonnull(dir);
    while ((entry = readdir(dir))) {
        pid_t pid = atoi(entry->d_name);
        char parent[32];

        if (pid <= 0 || pid == of)
            continue;
        while (pid > 1 && pid != of) {
            status_of(pid, "PPid:", parent, sizeof(parent));
            pid = atoi(parent);
        }
        count += pid == of;
    }
    closedir(dir);
    return count;
}

static void wait_for_descendants(size_t want)
{
    for (int i = 0; i < 2000 && count_descendants(getpid()) != want; i++)
        usleep(10000);
    ck_assert_uint_eq(count_descendants(getpid()), want);
}

static void assert_refused(struct hv_machine *m, uint64_t nr, const uint64_t args[6])
{
    struct hv_exit exit = through_runtime(m, nr, args);
    uint64_t pages;

    ck_assert_msg(exit.kind == HV_EXIT_SYSCALL && (exit.nr == nr || nr == 336),
                  "call %lu: exit %d vector %u", nr, exit.kind, exit.fault.vector);
    ck_assert_int_eq(hv->reset(m, 0, &pages), 0);
}

/* The filter, from the one place where it is open: no number does anything but those that the
 * runtime needs, and those with no arguments but its own. */
START_TEST(test_filter)
{
    struct hv_machine *m = machine_of(guest_through_runtime);
    const uint64_t none[6] = {0};
    uint64_t io = HL_ABI_IO_ADDR;

    for (uint64_t nr = 0; nr <= 600; nr++) {
        if (nr == SYS_recvmsg || nr == SYS_rt_sigreturn || nr == SYS_exit_group ||
            nr == SYS_mprotect || nr == NR_UPROBE)
            continue;
        assert_refused(m, nr, none); /* sendto and arch_prctl for their arguments */
        if (nr % 50 == 0)
            assert_refused(m, nr | 0x40000000, none);
    }
    assert_refused(m, SYS_kill, (const uint64_t[6]){(uint64_t)getpid(), SIGKILL});
    assert_refused(m, SYS_kill, (const uint64_t[6]){0, SIGSTOP});
    assert_refused(m, SYS_recvfrom, (const uint64_t[6]){0, io, 8});
    assert_refused(m, SYS_recvmsg, (const uint64_t[6]){1, io});
    assert_refused(m, SYS_recvmsg, (const uint64_t[6]){0, io, MSG_PEEK});
    assert_refused(m, SYS_recvmsg, (const uint64_t[6]){0, io, MSG_ERRQUEUE});
    assert_refused(m, SYS_sendto, (const uint64_t[6]){2, io, 8, MSG_NOSIGNAL});
    assert_refused(m, SYS_sendto, (const uint64_t[6]){0, io, 8, MSG_NOSIGNAL, io, 16});
    assert_refused(m, SYS_mprotect, (const uint64_t[6]){TEST_DATA, PAGE, PROT_READ | PROT_EXEC});
    assert_refused(m, SYS_mprotect, (const uint64_t[6]){TEST_DATA, PAGE, PROT_READ | PROT_GROWSUP});
    assert_refused(m, SYS_mprotect, (const uint64_t[6]){PROCESS_TEXT_ADDR, PAGE, PROT_READ});
    assert_refused(m, SYS_mprotect, (const uint64_t[6]){TEST_DATA + (1ull << 32), PAGE, PROT_READ});
    assert_refused(m, SYS_mprotect, (const uint64_t[6]){TEST_DATA, 1ull << 32, PROT_READ});
    assert_refused(m, SYS_arch_prctl, (const uint64_t[6]){0x1005, io});
    assert_refused(m, SYS_mremap, (const uint64_t[6]){TEST_DATA, PAGE, 2 * PAGE, MREMAP_MAYMOVE});
    hv->machine_free(m);
}
END_TEST

/* What the filter lets through does what it says and no more. */
START_TEST(test_allowed)
{
    struct hv_machine *m = machine_of(guest_through_runtime);
    const uint64_t open_all[6] = {0, PROCESS_GUEST_MAX, PROT_READ | PROT_WRITE};
    const uint64_t open_page[6] = {TEST_TEXT, PAGE, PROT_READ | PROT_WRITE};
    const uint64_t none[6] = {0};
    struct hv_exit exit;
    uint64_t pages;

    exit = through_runtime(m, SYS_mprotect, open_page);
    ck_assert_int_eq(exit.kind, HV_EXIT_FAULT); /* the hlt */
    ck_assert_uint_eq(exit.fault.vector, 13);
    ck_assert_uint_eq(m->regs.rax, 0);
    ck_assert_int_eq(hv->bind(m, m->snap, NULL), 0);
    exit = through_runtime(m, SYS_mprotect, open_all);
    ck_assert_uint_eq(m->regs.rax, (uint64_t)-ENOMEM);
    ck_assert_int_eq(hv->bind(m, m->snap, NULL), 0);
    exit = through_runtime(m, SYS_exit_group, none);
    ck_assert_int_eq(exit.kind, HV_EXIT_FAULT);
    ck_assert_uint_eq(exit.fault.vector, HV_VECTOR_DIED);
    ck_assert_int_eq(hv->reset(m, 0, &pages), 1);
    ck_assert_int_eq(hv->bind(m, m->snap, NULL), 0);
    exit = through_runtime(m, SYS_rt_sigreturn, none);
    ck_assert_int_eq(exit.kind, HV_EXIT_FAULT);
    hv->machine_free(m);
}
END_TEST

/* What a guest writes to its own socket. */
START_TEST(test_forged_reports)
{
    struct process_report report = {.magic = PROCESS_MAGIC, .kind = PROCESS_REPORT_SYSCALL};
    struct hv_machine *m = machine_of(guest_through_runtime);
    const uint64_t at = HL_ABI_IO_ADDR + 4096;
    const struct {
        uint32_t magic, kind;
        uint64_t vector, len;
        bool good;
    } cases[] = {
        {PROCESS_MAGIC, PROCESS_REPORT_SYSCALL, 0, sizeof(report), true},
        {PROCESS_MAGIC, PROCESS_REPORT_SYSCALL, 0, sizeof(report) - 1, false},
        {PROCESS_MAGIC, PROCESS_REPORT_SYSCALL, 0, sizeof(report) + 1, false},
        {PROCESS_MAGIC, PROCESS_REPORT_SYSCALL, 0, 0, false},
        {PROCESS_MAGIC, PROCESS_REPORT_SYSCALL, 0, 32768, false},
        {PROCESS_MAGIC + 1, PROCESS_REPORT_SYSCALL, 0, sizeof(report), false},
        {PROCESS_MAGIC, 0, 0, sizeof(report), false},
        {PROCESS_MAGIC, 77, 0, sizeof(report), false},
        {PROCESS_MAGIC, PROCESS_REPORT_FAULT, 14, sizeof(report), true},
        {PROCESS_MAGIC, PROCESS_REPORT_FAULT, 255, sizeof(report), false},
        {PROCESS_MAGIC, PROCESS_REPORT_FAULT, UINT64_MAX, sizeof(report), false},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct hv_exit exit;

        report.magic = cases[i].magic;
        report.kind = cases[i].kind;
        report.vector = cases[i].vector;
        report.address = UINT64_MAX; /* beyond every table */
        report.regs.rax = 4242;
        memcpy(hv->io_window(m) + 4096, &report, sizeof(report));
        exit = through_runtime(m, SYS_sendto,
                               (const uint64_t[6]){0, at, cases[i].len, MSG_NOSIGNAL, 0, 0});
        if (!cases[i].good) {
            ck_assert_int_eq(exit.kind, HV_EXIT_FAULT);
            ck_assert_uint_eq(exit.fault.vector, HV_VECTOR_DIED);
            ck_assert_int_eq(m->pidfd, -1); /* killed at once */
        } else if (cases[i].kind == PROCESS_REPORT_SYSCALL) {
            ck_assert_int_eq(exit.kind, HV_EXIT_SYSCALL);
            ck_assert_uint_eq(exit.nr, 4242);
        } else {
            ck_assert_int_eq(exit.kind, HV_EXIT_FAULT);
            ck_assert_uint_eq(exit.fault.vector, cases[i].vector);
        }
        ck_assert_int_eq(hv->bind(m, m->snap, NULL), 0);
    }
    hv->machine_free(m);
}
END_TEST

/* The guest swallows the host's answer itself and says nothing: the host waits no longer than it
 * means to. */
START_TEST(test_silence)
{
    struct hv_machine *m = machine_of(guest_through_runtime);
    struct hv_exit exit;

    guest_receives(m);
    ck_assert_int_eq(hv->run(m, hv_now_ns() + SECOND / 50, &exit), 0);
    ck_assert_int_eq(exit.kind, HV_EXIT_KICKED);
    ck_assert_int_eq(hv->run(m, hv_now_ns() + SECOND / 50, &exit), 0);
    ck_assert_int_eq(exit.kind, HV_EXIT_KICKED);
    hv->machine_free(m);
}
END_TEST

START_TEST(test_broken_runtime)
{
    struct hv_machine *m = machine_of(guest_break_runtime);
    struct hv_exit exit = run(m);

    /* The next frame is built anew: the guest has only spoilt its own past. */
    ck_assert_int_eq(exit.kind, HV_EXIT_HYPERCALL);
    hv->machine_free(m);
}
END_TEST

/* All that a guest process has: one socket, its memory, the runtime's pages, no privilege. */
START_TEST(test_confinement)
{
    struct hv_machine *m = machine_of(guest_hypercalls);
    char path[64], line[256], value[64];
    struct dirent *entry;
    size_t fds = 0;
    pid_t pid;
    FILE *maps;
    DIR *dir;

    run(m);
    pid = pid_of(m);
    ck_assert_int_gt(pid, 1);
    status_of(pid, "Seccomp:", value, sizeof(value));
    ck_assert_str_eq(value, "2");
    status_of(pid, "NoNewPrivs:", value, sizeof(value));
    ck_assert_str_eq(value, "1");
    status_of(pid, "CapEff:", value, sizeof(value));
    ck_assert_str_eq(value, "0000000000000000");
    status_of(pid, "CapPrm:", value, sizeof(value));
    ck_assert_str_eq(value, "0000000000000000");

    snprintf(path, sizeof(path), "/proc/%d/fd", pid);
    dir = opendir(path);
    if (dir) { /* as root alone */
        while ((entry = readdir(dir))) {
            if (entry->d_name[0] == '.')
                continue;
            ck_assert_str_eq(entry->d_name, "0");
            fds++;
        }
        closedir(dir);
        ck_assert_uint_eq(fds, 1);
    }
    snprintf(path, sizeof(path), "/proc/%d/maps", pid);
    maps = fopen(path, "re");
    while (maps && fgets(line, sizeof(line), maps)) {
        unsigned long start = 0, end = 0;

        ck_assert_int_eq(sscanf(line, "%lx-%lx", &start, &end), 2);
        if (strstr(line, "[vsyscall]"))
            continue;
        ck_assert_msg((start >= PROCESS_GUEST_MIN && end <= TEST_SIZE) ||
                          (start >= PROCESS_TEXT_ADDR && end <= PROCESS_END),
                      "%s", line);
        ck_assert_msg(!strstr(line, "wx"), "%s", line);
    }
    if (maps)
        fclose(maps);
    hv->machine_free(m);
}
END_TEST

START_TEST(test_nothing_left)
{
    struct snapshot *snap = snapshot_of(guest_secrets);
    struct hv_machine *m;
    size_t fds, processes;
    int cycles = 1000;

#ifdef HL_SANITIZED
    cycles = 200;
#endif
    processes = count_descendants(getpid());
    fds = count_fds();
    for (int i = 0; i < cycles; i++) {
        uint64_t pages;

        if (i % 10 == 0)
            ck_assert_int_eq(hv->machine_new(&m, host, TEST_SIZE, NULL), 0);
        if (i % 10 == 0 || i % 10 == 5)
            ck_assert_int_eq(hv->bind(m, snap, NULL), 0);
        ck_assert_int_eq(run(m).kind, HV_EXIT_HYPERCALL);
        if (i % 3 == 0)
            ck_assert_int_eq(hv->reset(m, 0, &pages), 0);
        else
            ck_assert_int_eq(hv->bind(m, snap, NULL), 0);
        if (i % 10 == 9)
            hv->machine_free(m);
    }
    ck_assert_uint_eq(count_fds(), fds);
    wait_for_descendants(processes);
    snapshot_unref(snap);
}
END_TEST

/* A guest in an endless loop, and the worker's side of everything closed. */
START_TEST(test_end_of_nursery)
{
    struct hl_error err = HL_ERROR_INIT;
    struct hv_machine *m = machine_of(guest_spin), *other;
    struct snapshot *snap = snapshot_of(guest_hypercalls);
    struct hv_exit exit;

    ck_assert_int_eq(hv->run(m, hv_now_ns() + 1000000, &exit), 0);
    ck_assert_int_eq(exit.kind, HV_EXIT_KICKED);
    ck_assert_int_eq(kill(nursery_pid, SIGKILL), 0);
    ck_assert_int_eq(waitpid(nursery_pid, NULL, 0), nursery_pid);
    exit = run(m);
    ck_assert_int_eq(exit.kind, HV_EXIT_FAULT);
    ck_assert_uint_eq(exit.fault.vector, HV_VECTOR_DIED);
    wait_for_descendants(0);

    ck_assert_int_eq(hv->machine_new(&other, host, TEST_SIZE, NULL), 0);
    ck_assert_int_lt(hv->bind(other, snap, &err), 0);
    ck_assert_str_ne(err.text, "");
    ck_assert_int_eq(hv->run(other, 0, &exit), -EINVAL);
    hv->machine_free(other);
    hv->machine_free(m);
    snapshot_unref(snap);
    hv->host_close(host);
    close(nursery_fd);
}
END_TEST

START_TEST(test_worker_gone)
{
    struct hv_machine *m = machine_of(guest_spin);
    struct hv_exit exit;

    ck_assert_int_eq(hv->run(m, hv_now_ns() + 1000000, &exit), 0);
    /* What the end of the worker closes, in the order that kills least by itself. */
    close(m->zygote->sock);
    m->zygote->sock = open("/dev/null", 0);
    close(nursery_fd);
    ck_assert_int_eq(waitpid(nursery_pid, NULL, 0), nursery_pid);
    wait_for_descendants(0);
    hv->machine_free(m);
    hv->host_close(host);
}
END_TEST

static pid_t parent_of(pid_t pid)
{
    char value[32];

    status_of(pid, "PPid:", value, sizeof(value));
    return atoi(value);
}

/* Kills m's zygote, and waits until that has killed m's process. */
static void kill_zygote(struct hv_machine *m)
{
    struct pollfd gone = {.fd = m->pidfd, .events = POLLIN};

    ck_assert_int_eq(kill(parent_of(pid_of(m)), SIGKILL), 0);
    ck_assert_int_eq(poll(&gone, 1, 10000), 1);
}

START_TEST(test_killed_zygote)
{
    struct hv_machine *m = machine_of(guest_hypercalls);
    struct hv_exit exit;
    uint64_t pages;

    run(m);
    kill_zygote(m);
    exit = run(m);
    ck_assert_int_eq(exit.kind, HV_EXIT_FAULT);
    ck_assert_uint_eq(exit.fault.vector, HV_VECTOR_DIED);
    /* A new bind makes a new one. */
    ck_assert_int_eq(hv->bind(m, m->snap, NULL), 0);
    ck_assert_int_eq(run(m).kind, HV_EXIT_HYPERCALL);

    /* Between reset and run: what was written to the window meanwhile comes along. */
    kill_zygote(m);
    ck_assert_int_eq(hv->reset(m, 0, &pages), 0);
    set_word(m, 0, 1);
    ck_assert_int_eq(run(m).kind, HV_EXIT_HYPERCALL);
    ck_assert_int_eq(hv->mem_read(m, HL_ABI_IO_ADDR, &pages, sizeof(pages)), 0);
    ck_assert_uint_eq(pages, 1);
    hv->machine_free(m);
}
END_TEST

/* A zygote that does not answer costs patience, not the thread. */
START_TEST(test_stopped_zygote)
{
    struct hl_error err = HL_ERROR_INIT;
    struct hv_machine *m = machine_of(guest_hypercalls), *other;
    uint64_t start;
    pid_t zygote;

    zygote = parent_of(pid_of(m));
    ck_assert_int_eq(kill(zygote, SIGSTOP), 0);
    ck_assert_int_eq(hv->machine_new(&other, host, TEST_SIZE, NULL), 0);
    start = hv_now_ns();
    (void)hv->bind(other, m->snap, &err);
    ck_assert_uint_ge(hv_now_ns() - start, PROCESS_PATIENCE_MS / 2 * 1000000ull);
    ck_assert_int_eq(hv->bind(other, m->snap, &err), 0);
    ck_assert_int_eq(run(other).kind, HV_EXIT_HYPERCALL);
    hv->machine_free(other);
    hv->machine_free(m);
    kill(zygote, SIGKILL);
}
END_TEST

START_TEST(test_requests)
{
    static struct process_request good, bad;
    const size_t len = sizeof(good.header) + 2 * sizeof(good.ranges[0]);

    good.header = (struct process_request_header){.magic = PROCESS_MAGIC,
                                                  .kind = PROCESS_REQUEST_ZYGOTE,
                                                  .memory_size = TEST_SIZE,
                                                  .io_size = PAGE,
                                                  .nextents = 1,
                                                  .nruns = 1};
    good.ranges[0] = (struct process_range){.start = TEST_TEXT, .len = PAGE};
    good.ranges[1] = (struct process_range){.start = TEST_TEXT, .len = PAGE, .prot = 5};
    ck_assert_int_eq(process_request_check(&good, len), 0);
    ck_assert_int_lt(process_request_check(&good, len - 1), 0);
    ck_assert_int_lt(process_request_check(&good, len + 24), 0);
    ck_assert_int_lt(process_request_check(&good, 8), 0);
#define REFUSED(change)                                                                            \
    do {                                                                                           \
        bad = good;                                                                                \
        bad.change;                                                                                \
        ck_assert_msg(process_request_check(&bad, len) < 0, #change);                              \
    } while (0)
    REFUSED(header.magic++);
    REFUSED(header.memory_size = 2 * PROCESS_GUEST_MAX);
    REFUSED(header.memory_size++);
    REFUSED(header.memory_size = HL_ABI_IO_ADDR);
    REFUSED(header.io_size = 0);
    REFUSED(header.io_size = TEST_SIZE);
    REFUSED(header.io_size = -(uint64_t)PAGE);
    REFUSED(header.nextents = UINT32_MAX);
    REFUSED(header.nruns = UINT32_MAX);
    REFUSED(ranges[0].start = TEST_SIZE);
    REFUSED(ranges[0].start = 0);
    REFUSED(ranges[0].start++);
    REFUSED(ranges[0].len = 0);
    REFUSED(ranges[0].len = -(uint64_t)PAGE);
    REFUSED(ranges[0].len = TEST_SIZE);
    REFUSED(ranges[1].prot = HV_PROT_WRITE | HV_PROT_EXEC);
    REFUSED(ranges[1].prot = 7);
    REFUSED(ranges[1].zero = 1);
}
END_TEST

/* A memory file that somebody could still write to or cut short is none. */
START_TEST(test_unsealed)
{
    struct process_request request = {.header = {.magic = PROCESS_MAGIC,
                                                 .kind = PROCESS_REQUEST_ZYGOTE,
                                                 .memory_size = TEST_SIZE,
                                                 .io_size = PAGE}};
    struct process_reply reply;
    int ends[2], memfd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);

    ck_assert_int_ge(memfd, 0);
    ck_assert_int_eq(ftruncate(memfd, TEST_SIZE), 0);
    ck_assert_int_eq(process_socketpair(ends), 0);
    ck_assert_int_eq(process_send(nursery_fd, &request, sizeof(request.header),
                                  (const int[]){ends[1], memfd}, 2),
                     0);
    ck_assert_int_eq(process_receive_reply(ends[0], &reply, NULL), 0);
    ck_assert_int_eq(reply.error, -EPERM);
    ck_assert_uint_eq(reply.step, PROCESS_STEP_SEALS);
    /* Noise is dropped, and the nursery goes on. */
    ck_assert_int_eq(process_send(nursery_fd, "noise", 5, NULL, 0), 0);
    ck_assert_int_eq(process_send(nursery_fd, &request, sizeof(request), NULL, 0), 0);
    ck_assert_int_eq(nursery_report(nursery_fd, &(struct nursery_report){0}, NULL), 0);
    close(ends[0]);
    close(ends[1]);
    close(memfd);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("process-hostile");
    TCase *tc = tcase_create("hostile"), *ends = tcase_create("ends");

    tcase_add_checked_fixture(tc, rig_setup, rig_teardown);
    tcase_set_timeout(tc, 120);
    tcase_add_test(tc, test_filter);
    tcase_add_test(tc, test_allowed);
    tcase_add_test(tc, test_forged_reports);
    tcase_add_test(tc, test_silence);
    tcase_add_test(tc, test_broken_runtime);
    tcase_add_test(tc, test_confinement);
    tcase_add_test(tc, test_nothing_left);
    tcase_add_test(tc, test_killed_zygote);
    tcase_add_test(tc, test_stopped_zygote);
    tcase_add_test(tc, test_requests);
    tcase_add_test(tc, test_unsealed);
    suite_add_tcase(s, tc);
    tcase_add_checked_fixture(ends, rig_setup, NULL);
    tcase_set_timeout(ends, 120);
    tcase_add_test(ends, test_end_of_nursery);
    tcase_add_test(ends, test_worker_gone);
    suite_add_tcase(s, ends);
    return s;
}

int main(int argc, char **argv)
{
    return rig_main(argc, argv, suite());
}
