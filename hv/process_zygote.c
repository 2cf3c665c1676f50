/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From a child of the nursery to a zygote: the snapshot's memory mapped at the guest's addresses
 * with the guest's permissions, the runtime copied to its place, and a jump to it from which
 * nothing returns, since the runtime's first act is to unmap this code. Each page of the snapshot
 * is a private mapping of the sealed memory file and none is touched here, so that a fork has next
 * to nothing to copy.
 *
 * The request is checked here and not in the nursery: what goes wrong costs this process alone.
 */
#include "config.h"

#include "hv/process_zygote.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/rseq.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/rseq.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "hv/process_socket.h"

#define PAGE HL_ABI_PAGE_SIZE

#define SEALS (F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW)

static bool is_range(uint64_t start, uint64_t len, uint64_t end)
{
    return start % PAGE == 0 && len % PAGE == 0 && len > 0 && start < end && len <= end - start;
}

int process_request_check(const struct process_request *request, size_t len)
{
    const struct process_request_header *header = &request->header;
    uint64_t at = 0;
    size_t count;

    if (len < sizeof(*header) || header->magic != PROCESS_MAGIC ||
        header->kind != PROCESS_REQUEST_ZYGOTE || header->nextents > PROCESS_EXTENTS_MAX ||
        header->nruns > PROCESS_RUNS_MAX)
        return -EINVAL;
    count = (size_t)header->nextents + header->nruns;
    if (len != sizeof(*header) + count * sizeof(request->ranges[0]))
        return -EINVAL;
    if (header->memory_size > PROCESS_GUEST_MAX || header->io_size > HL_ABI_IO_SIZE_MAX ||
        !is_range(0, header->memory_size, PROCESS_GUEST_MAX) ||
        !is_range(HL_ABI_IO_ADDR, header->io_size, header->memory_size))
        return -EINVAL;
    for (size_t i = 0; i < count; i++) {
        const struct process_range *range = &request->ranges[i];

        if (i == header->nextents)
            at = 0;
        if (!is_range(range->start, range->len, header->memory_size) || range->start < at ||
            range->start < PROCESS_GUEST_MIN || range->zero != 0)
            return -EINVAL;
        if (range->prot > (HV_PROT_EXEC | HV_PROT_READ)) /* never write and execute */
            return -EINVAL;
        at = range->start + range->len;
    }
    return 0;
}

static int check_memory_file(int memfd, uint64_t size)
{
    struct stat st;
    int seals = fcntl(memfd, F_GET_SEALS);

    if (seals < 0 || fstat(memfd, &st) < 0)
        return -errno;
    return (seals & SEALS) == SEALS && (uint64_t)st.st_size == size ? 0 : -EPERM;
}

static void *at(uint64_t address)
{
    return (void *)(uintptr_t)address;
}

static int linux_prot(uint32_t prot)
{
    return (prot ? PROT_READ : PROT_NONE) | (prot & HV_PROT_WRITE ? PROT_WRITE : 0) |
           (prot & HV_PROT_EXEC ? PROT_EXEC : 0);
}

static int map_fresh(uint64_t start, uint64_t len, int prot)
{
    void *got = mmap(at(start), len, prot,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);

    if (got == MAP_FAILED)
        return -errno;
    return got == at(start) ? 0 : -EEXIST;
}

static int map_memory(const struct process_request *request, int memfd)
{
    const struct process_request_header *header = &request->header;
    const struct process_range *range = request->ranges;
    uint64_t len = header->memory_size - PROCESS_GUEST_MIN;
    int rc = map_fresh(PROCESS_GUEST_MIN, len, PROT_NONE);

    if (rc < 0)
        return rc;
    for (uint32_t i = 0; i < header->nextents; i++, range++) {
        if (mmap(at(range->start), range->len, PROT_NONE, MAP_PRIVATE | MAP_NORESERVE | MAP_FIXED,
                 memfd, (off_t)range->start) == MAP_FAILED)
            return -errno;
    }
    for (uint32_t i = 0; i < header->nruns; i++, range++) {
        if (mprotect(at(range->start), range->len, linux_prot(range->prot)) < 0)
            return -errno;
    }
    /* A call that touches a byte is not to pay for two zeroed megabytes. Kernels without huge pages
     * refuse this, rightly. */
    madvise(at(PROCESS_GUEST_MIN), len, MADV_NOHUGEPAGE);
    return 0;
}

static int map_runtime(const struct process_request_header *header)
{
    size_t text_len = (size_t)(__stop_hv_guest_text - __start_hv_guest_text);
    struct process_config config = {
        .memory_size = header->memory_size, .io_size = header->io_size, .mem_path = "self/mem"};
    int rc = map_fresh(PROCESS_TEXT_ADDR, PROCESS_TEXT_SIZE, PROT_READ | PROT_WRITE);

    if (rc == 0)
        rc = map_fresh(PROCESS_CONFIG_ADDR, PROCESS_CONFIG_SIZE, PROT_READ | PROT_WRITE);
    if (rc == 0)
        rc = map_fresh(PROCESS_STACK_ADDR, 2 * PROCESS_STACK_SIZE, PROT_READ | PROT_WRITE);
    if (rc < 0)
        return rc;
    if (text_len > PROCESS_TEXT_SIZE)
        return -E2BIG;
    config.filter_len = (uint32_t)process_filter(config.filter);
    memcpy(at(PROCESS_TEXT_ADDR), __start_hv_guest_text, text_len);
    memcpy(at(PROCESS_CONFIG_ADDR), &config, sizeof(config));
    if (mprotect(at(PROCESS_TEXT_ADDR), PROCESS_TEXT_SIZE, PROT_READ | PROT_EXEC) < 0 ||
        mprotect(at(PROCESS_CONFIG_ADDR), PROCESS_CONFIG_SIZE, PROT_READ) < 0)
        return -errno;
    return 0;
}

/* libc has the kernel write to its thread block at every preemption; with the block unmapped that
 * would be the end of the process. */
static int drop_rseq(void)
{
    unsigned int len = __rseq_size < 32 ? 32 : (__rseq_size + 31) / 32 * 32;
    char *area = (char *)__builtin_thread_pointer() + __rseq_offset;

    if (__rseq_size == 0)
        return 0;
    return syscall(SYS_rseq, area, len, RSEQ_FLAG_UNREGISTER, RSEQ_SIG) < 0 ? -errno : 0;
}

/* Descriptors 0 and 1 and no others. */
static int arrange(int sock, int proc)
{
    int high_proc = fcntl(proc, F_DUPFD, 2);

    if (high_proc < 0 || dup2(sock, 0) < 0 || dup2(high_proc, 1) < 0 ||
        syscall(SYS_close_range, 2u, ~0u, 0u) < 0)
        return -errno;
    return 0;
}

static void __attribute__((noreturn)) refuse(int sock, int error, uint32_t step)
{
    struct process_reply reply = {.magic = PROCESS_MAGIC, .error = error, .step = step};

    process_send(sock, &reply, sizeof(reply), NULL, 0);
    _exit(1);
}

void process_zygote_become(const struct process_request *request, size_t len, int sock, int memfd,
                           int proc)
{
    uint64_t entry = PROCESS_TEXT_ADDR + (uint64_t)((const char *)(uintptr_t)process_guest_entry -
                                                    __start_hv_guest_text);
    uint64_t stack = PROCESS_STACK_ADDR + PROCESS_STACK_SIZE - 8; /* as after a call */
    int rc;

    prctl(PR_SET_NAME, "hld-zygote");
    if (process_request_check(request, len) < 0)
        refuse(sock, -EINVAL, PROCESS_STEP_REQUEST);
    rc = check_memory_file(memfd, request->header.memory_size);
    if (rc < 0)
        refuse(sock, rc, PROCESS_STEP_SEALS);
    rc = map_memory(request, memfd);
    if (rc < 0)
        refuse(sock, rc, PROCESS_STEP_MEMORY);
    rc = map_runtime(&request->header);
    if (rc < 0)
        refuse(sock, rc, PROCESS_STEP_RUNTIME);
    rc = drop_rseq();
    if (rc < 0)
        refuse(sock, rc, PROCESS_STEP_RSEQ);
    rc = arrange(sock, proc);
    if (rc < 0)
        refuse(sock, rc, PROCESS_STEP_RUNTIME);
    __asm__ volatile("mov %0, %%rsp\n"
                     "xor %%ebp, %%ebp\n"
                     "jmp *%1\n"
                     :
                     : "r"(stack), "r"(entry)
                     : "memory");
    __builtin_unreachable();
}
