/* SPDX-License-Identifier: Apache-2.0 */
/* What the tests of the process backend stand on; the program is its own nursery. */
#include "config.h"

#include "tests/unit/process_rig.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "hv/nursery.h"
#include "hv/snapshot_internal.h"
#include "hv/timer.h"
#include "tests/unit/tests_run.h"

const struct hv_backend *const hv = &hv_backend_process;
struct hv_host *host;
int nursery_fd = -1;
pid_t nursery_pid;

void rig_setup(void)
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

void rig_teardown(void)
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

struct snapshot *snapshot_of(void (*guest)(void))
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

struct hv_machine *machine_of(void (*guest)(void))
{
    struct hl_error err = HL_ERROR_INIT;
    struct snapshot *snap = snapshot_of(guest);
    struct hv_machine *m;

    ck_assert_int_eq(hv->machine_new(&m, host, TEST_SIZE, NULL), 0);
    ck_assert_msg(hv->bind(m, snap, &err) == 0, "%s", err.text);
    snapshot_unref(snap);
    return m;
}

struct hv_exit run(struct hv_machine *m)
{
    struct hv_exit exit;

    ck_assert_int_eq(hv->run(m, hv_now_ns() + 20 * SECOND, &exit), 0);
    return exit;
}

void set_word(struct hv_machine *m, unsigned int index, uint64_t value)
{
    memcpy(hv->io_window(m) + index * sizeof(value), &value, sizeof(value));
}

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

void set_call(struct hv_machine *m, uint64_t nr, const uint64_t args[6])
{
    set_word(m, 0, nr);
    for (unsigned int i = 0; i < 6; i++)
        set_word(m, i + 1, args[i]);
    set_word(m, 7, runtime_syscall());
}

struct hv_exit through_runtime(struct hv_machine *m, uint64_t nr, const uint64_t args[6])
{
    set_call(m, nr, args);
    return run(m);
}

void guest_receives(struct hv_machine *m)
{
    const uint64_t io = HL_ABI_IO_ADDR, size = PAGE;
    struct iovec iov = {.iov_base = (void *)(uintptr_t)(io + 3 * size), .iov_len = size};
    struct msghdr msg = {.msg_iov = (void *)(uintptr_t)(io + 2 * size),
                         .msg_iovlen = 1,
                         .msg_control = (void *)(uintptr_t)(io + 4 * size),
                         .msg_controllen = size};

    memcpy(hv->io_window(m) + size, &msg, sizeof(msg));
    memcpy(hv->io_window(m) + 2 * size, &iov, sizeof(iov));
    set_call(m, SYS_recvmsg, (const uint64_t[6]){0, io + size});
}

void guest_again(struct hv_machine *m)
{
    m->regs = *snapshot_regs(m->snap);
    m->state = PROCESS_FRESH;
}

pid_t pid_of(const struct hv_machine *m)
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

void status_of(pid_t pid, const char *name, char *value, size_t size)
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

int rig_main(int argc, char **argv, Suite *suite)
{

    if (argc == 2 && strcmp(argv[1], "--nursery") == 0)
        return nursery_main(3);
    return suite_run(suite);
}
