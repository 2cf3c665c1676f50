/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The process backend with guests in machine code: exits, faults with the numbers that a virtual
 * machine reports, kicks, reset, and guests that attack what confines them. Runs anywhere; the
 * program is its own nursery.
 */
#include "config.h"

#include <check.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <poll.h>
#include <pthread.h>
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
#include "hv/process_machine.h"
#include "hv/process_socket.h"
#include "hv/process_zygote.h"
#include "hv/snapshot_internal.h"
#include "hv/timer.h"
#include "tests/unit/process_guests.h"

#define PAGE   HL_ABI_PAGE_SIZE
#define SECOND 1000000000ull

#define NR_UPROBE 336 /* refused by the kernel, past every filter (hv/process_filter.c) */

static const struct hv_backend *const hv = &hv_backend_process;
static struct hv_host *host;
static int nursery_fd = -1;
static pid_t nursery_pid;

static void setup(void)
{
    struct hl_error err = HL_ERROR_INIT;
    struct hv_host_config config = {.kvm_fd = -1};

    ck_assert_int_eq(hv_thread_init(), 0);
    ck_assert_msg(hv->probe(&err) == 0, "%s", err.text);
    ck_assert_msg(nursery_spawn("/proc/self/exe", &nursery_fd, &nursery_pid, &err) == 0, "%s",
                  err.text);
    config.nursery_fd = nursery_fd;
    ck_assert_msg(hv->host_open(&host, &config, &err) == 0, "%s", err.text);
}

static void teardown(void)
{
    int status;

    hv->host_close(host);
    close(nursery_fd);
    ck_assert_int_eq(waitpid(nursery_pid, &status, 0), nursery_pid);
}

static void set_prot(struct snapshot_draft *draft, uint64_t start, uint64_t end, uint8_t prot)
{
    memset(draft->prot + start / PAGE, prot, (end - start) / PAGE);
}

static struct snapshot *snapshot_of(void (*guest)(void))
{
    struct snapshot_draft draft;
    struct snapshot *snap;
    size_t len = (size_t)(__stop_test_guests_text - __start_test_guests_text);

    ck_assert_int_eq(snapshot_draft_init(&draft, TEST_SIZE, TEST_IO_SIZE, NULL), 0);
    ck_assert_uint_le(len, TEST_TEXT_END - TEST_TEXT);
    memcpy(draft.memory + TEST_TEXT, __start_test_guests_text, len);
    memcpy(draft.memory + TEST_DATA, "initial", 8);
    set_prot(&draft, HL_ABI_HYPERCALL_ADDR, HL_ABI_HYPERCALL_ADDR + PAGE,
             HV_PROT_READ | HV_PROT_EXEC);
    set_prot(&draft, HL_ABI_INFO_ADDR, HL_ABI_INFO_ADDR + PAGE, HV_PROT_READ);
    set_prot(&draft, HL_ABI_IO_ADDR, HL_ABI_IO_ADDR + TEST_IO_SIZE, HV_PROT_READ | HV_PROT_WRITE);
    set_prot(&draft, TEST_TEXT, TEST_TEXT_END, HV_PROT_READ | HV_PROT_EXEC);
    set_prot(&draft, TEST_DATA, TEST_DATA_END, HV_PROT_READ | HV_PROT_WRITE);
    set_prot(&draft, TEST_STACK, TEST_SIZE, HV_PROT_READ | HV_PROT_WRITE);
    draft.regs.rip =
        TEST_TEXT + (uint64_t)((const char *)(uintptr_t)guest - __start_test_guests_text);
    draft.regs.rsp = TEST_SIZE - 8;
    draft.regs.rflags = 0x202;
    ck_assert_int_eq(hv->populate(host, draft.memory, draft.prot, draft.npages, NULL), 0);
    ck_assert_int_eq(snapshot_draft_seal(&snap, &draft, NULL), 0);
    return snap;
}

/* Bound to a snapshot that it alone refers to. */
static struct hv_machine *machine_of(void (*guest)(void))
{
    struct hl_error err = HL_ERROR_INIT;
    struct snapshot *snap = snapshot_of(guest);
    struct hv_machine *m;

    ck_assert_int_eq(hv->machine_new(&m, host, TEST_SIZE, NULL), 0);
    ck_assert_msg(hv->bind(m, snap, &err) == 0, "%s", err.text);
    snapshot_unref(snap);
    return m;
}

static struct hv_exit run(struct hv_machine *m)
{
    struct hv_exit exit;

    ck_assert_int_eq(hv->run(m, hv_now_ns() + 20 * SECOND, &exit), 0);
    return exit;
}

static void set_word(struct hv_machine *m, unsigned int index, uint64_t value)
{
    memcpy(hv->io_window(m) + index * sizeof(value), &value, sizeof(value));
}

/* The guest process's number as /proc knows it. */
static pid_t pid_of(const struct hv_machine *m)
{
    char path[64], line[128];
    int pid = -1;
    FILE *file;

    snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", m->pidfd);
    file = fopen(path, "re");
    ck_assert_ptr_nonnull(file);
    while (fgets(line, sizeof(line), file))
        (void)sscanf(line, "Pid: %d", &pid);
    fclose(file);
    return pid;
}

/* The rest of the line in /proc/PID/status that starts with name. */
static void status_of(pid_t pid, const char *name, char *value, size_t size)
{
    char path[64], line[256];
    FILE *file;

    value[0] = '\0';
    snprintf(path, sizeof(path), "/proc/%d/status", pid);
    file = fopen(path, "re");
    if (!file)
        return;
    while (fgets(line, sizeof(line), file)) {
        if (strncmp(line, name, strlen(name)) == 0) {
            line[strcspn(line, "\n")] = '\0';
            snprintf(value, size, "%s", line + strlen(name) + strspn(line + strlen(name), "\t "));
        }
    }
    fclose(file);
}

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
    for (int i = 0; i < 500 && count_descendants(getpid()) != want; i++)
        usleep(10000);
    ck_assert_uint_eq(count_descendants(getpid()), want);
}

START_TEST(test_hypercall)
{
    struct hv_machine *m = machine_of(guest_hypercalls);
    struct hv_exit exit = run(m);
    struct hv_regs regs;

    ck_assert_int_eq(exit.kind, HV_EXIT_HYPERCALL);
    ck_assert_uint_eq(exit.nr, 7);
    ck_assert_uint_eq(exit.args[0], 1);
    ck_assert_uint_eq(exit.args[1], 2);
    ck_assert_uint_eq(exit.args[2], 3);
    ck_assert_int_eq(hv->get_regs(m, &regs), 0);
    ck_assert_uint_eq(regs.rip, HL_ABI_HYPERCALL_ADDR + PROCESS_HYPERCALL_RETURN);
    ck_assert_uint_lt(regs.rsp, TEST_SIZE);
    ck_assert_uint_ge(regs.rsp, TEST_STACK);
    for (uint64_t i = 1; i < 100; i++) {
        hv->set_return(m, i << 40);
        exit = run(m);
        ck_assert_int_eq(exit.kind, HV_EXIT_HYPERCALL);
        ck_assert_uint_eq(exit.nr, 8);
        ck_assert_uint_eq(exit.args[0], i << 40);
        ck_assert_uint_eq(exit.args[2], (i << 40) + 2);
    }
    hv->machine_free(m);
}
END_TEST

/* Every number comes out, none is carried out. */
START_TEST(test_syscalls)
{
    struct hv_machine *m = machine_of(guest_syscalls);

    for (uint64_t nr = 0; nr <= 600; nr++) {
        struct hv_exit exit = run(m);

        if (nr == NR_UPROBE && exit.kind == HV_EXIT_HYPERCALL) {
            ck_assert_uint_eq(exit.args[1], (uint64_t)-ENXIO);
            continue;
        }
        ck_assert_int_eq(exit.kind, HV_EXIT_SYSCALL);
        ck_assert_uint_eq(exit.nr, nr);
        for (uint64_t i = 0; i < 6; i++)
            ck_assert_uint_eq(exit.args[i], 11 + i);
        hv->set_return(m, nr + 1000);
    }
    hv->machine_free(m);
}
END_TEST

#define ANY UINT64_MAX

static const struct {
    const char *name;
    void (*guest)(void);
    uint64_t vector, error_code, address;
} faults[] = {
    {"null write", guest_null_write, 14, 6, 0},
    {"read of a closed page", guest_unmapped_read, 14, 4, TEST_CLOSED + 8},
    {"write to code", guest_write_code, 14, 7, TEST_TEXT},
    {"execute data", guest_execute_data, 14, 0x15, TEST_DATA},
    {"stack overflow", guest_stack_overflow, 14, 6, TEST_STACK - 8},
    {"kernel read", guest_kernel_read, 14, 4, 0xffffffff81000000},
    {"vsyscall", guest_vsyscall, 14, 0x14, TEST_VSYSCALL},
    {"ud2", guest_ud2, 6, 0, 0},
    {"division", guest_divide, 0, 0, 0},
    {"hlt", guest_hlt, 13, 0, 0},
    {"out", guest_out, 13, 0, 0},
    {"non-canonical", guest_noncanonical, 13, 0, 0},
    {"int3", guest_int3, 3, 0, 0},
    {"int 0x80", guest_int80, 13, 0x402, 0},
    {"SIMD", guest_simd, 19, 0, 0},
    {"alignment", guest_alignment, 17, 0, 0},
};

START_TEST(test_fault)
{
    struct hv_machine *m = machine_of(faults[_i].guest);
    struct hv_exit exit = run(m);
    uint64_t pages;

    ck_assert_int_eq(exit.kind, HV_EXIT_FAULT);
    ck_assert_msg(exit.fault.vector == faults[_i].vector, "%s: vector %u", faults[_i].name,
                  exit.fault.vector);
    ck_assert_msg(exit.fault.error_code == faults[_i].error_code, "%s: error code 0x%x",
                  faults[_i].name, exit.fault.error_code);
    ck_assert_msg(exit.fault.address == faults[_i].address, "%s: address 0x%lx", faults[_i].name,
                  exit.fault.address);
    if (faults[_i].vector == 14 && faults[_i].error_code & 0x10) /* fetching */
        ck_assert_uint_eq(exit.fault.rip, faults[_i].address);
    else
        ck_assert(exit.fault.rip >= TEST_TEXT && exit.fault.rip < TEST_TEXT_END);
    ck_assert_int_lt(hv->run(m, hv_now_ns() + SECOND, &exit), 0);
    ck_assert_int_eq(hv->reset(m, 0, &pages), 1);
    hv->machine_free(m);
}
END_TEST

static void *kick_later(void *m)
{
    usleep(20000);
    hv->kick(m);
    return NULL;
}

START_TEST(test_kick)
{
    struct hv_machine *m = machine_of(guest_spin);
    struct hv_exit exit;
    uint64_t until, before, after;
    pthread_t thread;
    char state[32];

    until = hv_now_ns() + 5000000;
    ck_assert_int_eq(hv->run(m, until, &exit), 0);
    ck_assert_int_eq(exit.kind, HV_EXIT_KICKED);
    ck_assert_uint_ge(hv_now_ns(), until);

    /* Stopped while nobody runs it; a time in the past still gets it somewhere. */
    for (int i = 0; i < 100; i++) {
        status_of(pid_of(m), "State:", state, sizeof(state));
        if (state[0] == 'T')
            break;
        usleep(10000);
    }
    ck_assert_int_eq(state[0], 'T');
    ck_assert_int_eq(hv->mem_read(m, TEST_DATA, &before, sizeof(before)), 0);
    usleep(2000);
    ck_assert_int_eq(hv->mem_read(m, TEST_DATA, &after, sizeof(after)), 0);
    ck_assert_uint_eq(before, after);
    for (int i = 0; i < 1000 && after == before; i++) {
        ck_assert_int_eq(hv->run(m, 1, &exit), 0);
        ck_assert_int_eq(exit.kind, HV_EXIT_KICKED);
        ck_assert_int_eq(hv->mem_read(m, TEST_DATA, &after, sizeof(after)), 0);
    }
    ck_assert_uint_ne(before, after);

    ck_assert_int_eq(pthread_create(&thread, NULL, kick_later, m), 0);
    ck_assert_int_eq(hv->run(m, UINT64_MAX, &exit), 0);
    ck_assert_int_eq(exit.kind, HV_EXIT_KICKED);
    pthread_join(thread, NULL);

    /* Before a run: told once. */
    hv->kick(m);
    ck_assert_int_eq(hv->run(m, UINT64_MAX, &exit), 0);
    ck_assert_int_eq(exit.kind, HV_EXIT_KICKED);
    until = hv_now_ns() + 5000000;
    ck_assert_int_eq(hv->run(m, until, &exit), 0);
    ck_assert_uint_ge(hv_now_ns(), until);
    hv->machine_free(m);
}
END_TEST

START_TEST(test_kick_loses_no_exit)
{
    struct hv_machine *m = machine_of(guest_hypercalls);
    struct hv_exit exit = run(m);

    for (uint64_t i = 1; i < 200; i++) {
        hv->set_return(m, i);
        hv->kick(m);
        ck_assert_int_eq(hv->run(m, UINT64_MAX, &exit), 0);
        ck_assert_int_eq(exit.kind, HV_EXIT_KICKED);
        exit = run(m);
        ck_assert_int_eq(exit.kind, HV_EXIT_HYPERCALL);
        ck_assert_uint_eq(exit.args[0], i);
    }
    hv->machine_free(m);
}
END_TEST

START_TEST(test_memory)
{
    struct hv_machine *m = machine_of(guest_hypercalls);
    uint8_t buf[2 * PAGE], zeros[PAGE] = {0};
    const uint64_t top = TEST_SIZE;

    ck_assert_int_eq(hv->mem_read(m, TEST_DATA, buf, sizeof(buf)), 0);
    ck_assert_str_eq((char *)buf, "initial");
    ck_assert_int_eq(hv->mem_write(m, TEST_DATA + PAGE - 4, "across a page", 14), 0);
    ck_assert_int_eq(hv->mem_read(m, TEST_DATA + PAGE - 4, buf, 14), 0);
    ck_assert_str_eq((char *)buf, "across a page");
    /* Permissions do not matter to the host, bounds do. */
    ck_assert_int_eq(hv->mem_write(m, TEST_CLOSED, "x", 1), 0);
    ck_assert_int_eq(hv->mem_write(m, TEST_TEXT, "x", 1), 0);
    ck_assert_int_eq(hv->mem_read(m, top - 1, buf, 1), 0);
    ck_assert_int_eq(hv->mem_read(m, top - 1, buf, 2), -EFAULT);
    ck_assert_int_eq(hv->mem_read(m, UINT64_MAX, buf, 2), -EFAULT);
    ck_assert_int_eq(hv->mem_read(m, PROCESS_CONFIG_ADDR, buf, 2), -EFAULT);
    ck_assert_int_eq(hv->mem_write(m, PROCESS_TEXT_ADDR, buf, 2), -EFAULT);
    ck_assert_int_eq(hv->mem_write(m, 0x1000, buf, 2), -EFAULT);
    memset(buf, 1, sizeof(buf));
    ck_assert_int_eq(hv->mem_read(m, PROCESS_GUEST_MIN - PAGE, buf, sizeof(buf)), 0);
    ck_assert_mem_eq(buf, zeros, PAGE);
    ck_assert_int_eq(buf[PAGE], 0x49); /* the hypercall page */
    hv->machine_free(m);
}
END_TEST

/* What one call leaves behind is not there for the next; nor is it if the reset left it. */
START_TEST(test_secrets)
{
    struct hl_error err = HL_ERROR_INIT;
    struct hv_machine *m = machine_of(guest_secrets);
    const unsigned int skips[] = {HV_SKIP_MEMORY, HV_SKIP_IO, HV_SKIP_REGS, HV_SKIP_VECTOR};
    uint64_t pages = 1;
    struct hv_exit exit;

    for (int i = 0; i < 5; i++) {
        exit = run(m);
        ck_assert_int_eq(exit.kind, HV_EXIT_HYPERCALL);
        ck_assert_uint_eq(exit.args[0], 0);
        ck_assert_int_eq(hv->reset(m, 0, &pages), 0);
        ck_assert_uint_eq(pages, 0);
        ck_assert_msg(hv->audit(m, &err) == 0, "%s", err.text);
    }
    for (int i = 0; i < 4; i++) {
        exit = run(m);
        ck_assert_int_eq(hv->reset(m, skips[i], &pages), 0);
        ck_assert_int_eq(hv->audit(m, &err), 1);
        if (skips[i] != HV_SKIP_REGS) {
            exit = run(m);
            ck_assert_int_eq(exit.kind, HV_EXIT_HYPERCALL);
            ck_assert_uint_gt(exit.args[0], 0);
        }
        ck_assert_int_eq(hv->reset(m, 0, &pages), 0);
        ck_assert_msg(hv->audit(m, &err) == 0, "%s", err.text);
    }
    hv->machine_free(m);
}
END_TEST

START_TEST(test_protect)
{
    struct hv_machine *m = machine_of(guest_protect);
    struct hv_exit exit = run(m);
    uint64_t pages;

    ck_assert_int_eq(exit.kind, HV_EXIT_HYPERCALL);
    ck_assert_int_eq(hv->protect(m, TEST_DATA, PAGE, HV_PROT_EXEC | HV_PROT_READ), -EACCES);
    ck_assert_int_eq(hv->protect(m, TEST_DATA + 1, PAGE, HV_PROT_READ), -EINVAL);
    ck_assert_int_eq(hv->protect(m, TEST_SIZE, PAGE, HV_PROT_READ), -EINVAL);
    ck_assert_int_eq(hv->protect(m, TEST_DATA, PAGE, HV_PROT_READ), 0);
    exit = run(m);
    ck_assert_int_eq(exit.kind, HV_EXIT_HYPERCALL);
    ck_assert_uint_eq(exit.args[0], 1);
    exit = run(m);
    ck_assert_int_eq(exit.kind, HV_EXIT_FAULT);
    ck_assert_uint_eq(exit.fault.vector, 14);
    ck_assert_uint_eq(exit.fault.error_code, 7);
    ck_assert_uint_eq(exit.fault.address, TEST_DATA);
    hv->machine_free(m);

    /* Gone with the process. */
    m = machine_of(guest_protect);
    exit = run(m);
    ck_assert_int_eq(hv->protect(m, TEST_DATA, PAGE, HV_PROT_NONE), 0);
    ck_assert_int_eq(hv->reset(m, 0, &pages), 0);
    for (unsigned int i = 1; i <= 3; i++) {
        exit = run(m);
        ck_assert_int_eq(exit.kind, HV_EXIT_HYPERCALL);
        ck_assert_uint_eq(exit.nr, i);
    }
    hv->machine_free(m);
}
END_TEST

START_TEST(test_thread_pointer)
{
    struct hv_machine *m = machine_of(guest_thread_pointer);
    const uint64_t value = 0x1234567890abcdef;
    struct hv_regs regs;
    struct hv_exit exit;

    /* Before the first entry, and between exits. */
    ck_assert_int_eq(hv->mem_write(m, TEST_DATA, &value, sizeof(value)), 0);
    ck_assert_int_eq(hv->set_fs_base(m, TEST_DATA), 0);
    exit = run(m);
    ck_assert_int_eq(exit.kind, HV_EXIT_HYPERCALL);
    ck_assert_uint_eq(exit.args[0], value);
    ck_assert_int_eq(hv->mem_write(m, TEST_DATA + 64, "87654321", 8), 0);
    ck_assert_int_eq(hv->set_fs_base(m, TEST_DATA + 64), 0);
    ck_assert_int_eq(hv->set_fs_base(m, 1ull << 62), -EINVAL);
    exit = run(m);
    ck_assert_uint_eq(exit.args[0], 0x3132333435363738);
    ck_assert_int_eq(hv->get_regs(m, &regs), 0);
    ck_assert_uint_eq(regs.fs_base, TEST_DATA + 64);
    hv->machine_free(m);
}
END_TEST

/* The address of the SYSCALL in the runtime that a hlt follows. */
static uint64_t runtime_syscall(void)
{
    const char *at = __start_hv_guest_text;

    while (memcmp(at, "\x0f\x05\xf4", 3) != 0) {
        at++;
        ck_assert(at < __stop_hv_guest_text);
    }
    return PROCESS_TEXT_ADDR + (uint64_t)(at - __start_hv_guest_text);
}

/* One call by the runtime's own hand, with these arguments. */
static struct hv_exit through_runtime(struct hv_machine *m, uint64_t nr, const uint64_t args[6])
{
    set_word(m, 0, nr);
    for (unsigned int i = 0; i < 6; i++)
        set_word(m, i + 1, args[i]);
    set_word(m, 7, runtime_syscall());
    return run(m);
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
        if (nr == SYS_recvfrom || nr == SYS_rt_sigreturn || nr == SYS_exit_group ||
            nr == SYS_mprotect || nr == NR_UPROBE)
            continue;
        assert_refused(m, nr, none); /* sendto and arch_prctl for their arguments */
        if (nr % 50 == 0)
            assert_refused(m, nr | 0x40000000, none);
    }
    assert_refused(m, SYS_kill, (const uint64_t[6]){(uint64_t)getpid(), SIGKILL});
    assert_refused(m, SYS_kill, (const uint64_t[6]){0, SIGSTOP});
    assert_refused(m, SYS_recvfrom, (const uint64_t[6]){1, io, 8});
    assert_refused(m, SYS_recvfrom, (const uint64_t[6]){0, io, 8, MSG_PEEK});
    assert_refused(m, SYS_recvfrom, (const uint64_t[6]){0, io, 8, 0, io, io});
    assert_refused(m, SYS_sendto, (const uint64_t[6]){2, io, 8, MSG_NOSIGNAL});
    assert_refused(m, SYS_sendto, (const uint64_t[6]){0, io, 8, MSG_NOSIGNAL, io, 16});
    assert_refused(m, SYS_mprotect, (const uint64_t[6]){TEST_DATA, PAGE, PROT_READ | PROT_EXEC});
    assert_refused(m, SYS_mprotect, (const uint64_t[6]){TEST_DATA, PAGE, PROT_READ | PROT_GROWSUP});
    assert_refused(m, SYS_mprotect, (const uint64_t[6]){PROCESS_TEXT_ADDR, PAGE, PROT_READ});
    assert_refused(m, SYS_mprotect, (const uint64_t[6]){TEST_DATA + (1ull << 32), PAGE, PROT_READ});
    assert_refused(m, SYS_mprotect, (const uint64_t[6]){TEST_DATA, 1ull << 32, PROT_READ});
    assert_refused(m, SYS_arch_prctl, (const uint64_t[6]){0x1005, io});
    assert_refused(m, SYS_munmap, (const uint64_t[6]){TEST_DATA, PAGE});
    assert_refused(m, SYS_mremap, (const uint64_t[6]){TEST_DATA, PAGE, 2 * PAGE, MREMAP_MAYMOVE});
    assert_refused(m, SYS_close, (const uint64_t[6]){0});
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
    const uint64_t args[6] = {0, HL_ABI_IO_ADDR + 4096, 4096, 0, 0, 0};
    struct hv_exit exit;

    set_word(m, 0, SYS_recvfrom);
    for (unsigned int i = 0; i < 6; i++)
        set_word(m, i + 1, args[i]);
    set_word(m, 7, runtime_syscall());
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

static void *shard(void *snap)
{
    for (int i = 0; i < 30; i++) {
        struct hv_machine *m;

        ck_assert_int_eq(hv->machine_new(&m, host, TEST_SIZE, NULL), 0);
        ck_assert_int_eq(hv->bind(m, snap, NULL), 0);
        ck_assert_int_eq(run(m).kind, HV_EXIT_HYPERCALL);
        hv->machine_free(m);
    }
    return NULL;
}

START_TEST(test_threads)
{
    struct snapshot *snap = snapshot_of(guest_hypercalls);
    pthread_t threads[4];

    for (int i = 0; i < 4; i++)
        ck_assert_int_eq(pthread_create(&threads[i], NULL, shard, snap), 0);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    snapshot_unref(snap);
}
END_TEST

START_TEST(test_measure)
{
    uint32_t ns[100];
    uint64_t sum = 0, start = hv_now_ns();

    ck_assert_int_eq(hv->measure_entry(host, 100, ns, NULL), 0);
    for (int i = 0; i < 100; i++)
        sum += ns[i];
    ck_assert_uint_gt(sum, 0);
    ck_assert_uint_le(sum, hv_now_ns() - start);
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
    ck_assert_int_eq(
        process_send(nursery_fd, &request, sizeof(request.header), (const int[]){ends[1], memfd}),
        0);
    ck_assert_int_eq(process_receive_reply(ends[0], &reply, NULL), 0);
    ck_assert_int_eq(reply.error, -EPERM);
    ck_assert_uint_eq(reply.step, PROCESS_STEP_SEALS);
    /* Noise is dropped, and the nursery goes on. */
    ck_assert_int_eq(process_send(nursery_fd, "noise", 5, NULL), 0);
    ck_assert_int_eq(process_send(nursery_fd, &request, sizeof(request), NULL), 0);
    ck_assert_int_eq(nursery_report(nursery_fd, &(struct nursery_report){0}, NULL), 0);
    close(ends[0]);
    close(ends[1]);
    close(memfd);
}
END_TEST

/* Prints, and asserts nothing about, what things cost here. */
START_TEST(test_cost)
{
    struct hv_machine *m = machine_of(guest_hypercalls);
    uint64_t start = hv_now_ns(), bind_ns = UINT64_MAX, call_ns = UINT64_MAX;
    uint64_t exit_ns = UINT64_MAX, total, pages;
    struct nursery_report report;

    for (int i = 0; i < 100; i++) {
        start = hv_now_ns();
        ck_assert_int_eq(hv->bind(m, m->snap, NULL), 0);
        total = hv_now_ns() - start;
        bind_ns = total < bind_ns ? total : bind_ns;
        run(m);
        hv->set_return(m, 1);
        start = hv_now_ns();
        run(m);
        total = hv_now_ns() - start;
        exit_ns = total < exit_ns ? total : exit_ns;
        ck_assert_int_eq(hv->reset(m, 0, &pages), 0);
        ck_assert_int_eq(process_await(m, NULL), 0);
        start = hv_now_ns();
        run(m);
        total = hv_now_ns() - start;
        call_ns = total < call_ns ? total : call_ns;
    }
    printf("fork to ready %lu us, first entry to exit %lu us, exit and answer %lu us\n",
           bind_ns / 1000, call_ns / 1000, exit_ns / 1000);
    ck_assert_int_eq(nursery_report(nursery_fd, &report, NULL), 0);
    printf("layers:");
    for (size_t i = 0; i < report.count; i++)
        printf(" %s", report.layers[i]);
    printf("\n");
    hv->machine_free(m);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("process");
    TCase *tc = tcase_create("process");
    TCase *ends = tcase_create("ends");

    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 120);
    tcase_add_test(tc, test_hypercall);
    tcase_add_test(tc, test_syscalls);
    tcase_add_loop_test(tc, test_fault, 0, sizeof(faults) / sizeof(faults[0]));
    tcase_add_test(tc, test_kick);
    tcase_add_test(tc, test_kick_loses_no_exit);
    tcase_add_test(tc, test_memory);
    tcase_add_test(tc, test_secrets);
    tcase_add_test(tc, test_protect);
    tcase_add_test(tc, test_thread_pointer);
    tcase_add_test(tc, test_filter);
    tcase_add_test(tc, test_allowed);
    tcase_add_test(tc, test_forged_reports);
    tcase_add_test(tc, test_silence);
    tcase_add_test(tc, test_broken_runtime);
    tcase_add_test(tc, test_confinement);
    tcase_add_test(tc, test_nothing_left);
    tcase_add_test(tc, test_killed_zygote);
    tcase_add_test(tc, test_stopped_zygote);
    tcase_add_test(tc, test_threads);
    tcase_add_test(tc, test_measure);
    tcase_add_test(tc, test_requests);
    tcase_add_test(tc, test_unsealed);
    tcase_add_test(tc, test_cost);
    suite_add_tcase(s, tc);
    tcase_add_checked_fixture(ends, setup, NULL);
    tcase_set_timeout(ends, 120);
    tcase_add_test(ends, test_end_of_nursery);
    tcase_add_test(ends, test_worker_gone);
    suite_add_tcase(s, ends);
    return s;
}

int main(int argc, char **argv)
{
    SRunner *runner;
    int failed;

    if (argc == 2 && strcmp(argv[1], "--nursery") == 0)
        return nursery_main(3);
    runner = srunner_create(suite());
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
