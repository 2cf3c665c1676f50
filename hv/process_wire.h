/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_HV_PROCESS_WIRE_H
#define HL_HV_PROCESS_WIRE_H

/*
 * What the process backend's parts say to each other, one SOCK_SEQPACKET datagram a message, and
 * where things stand in a guest process. All of it comes from one binary, so there is no version;
 * a receiver checks size, magic and every field all the same, and the worker takes a guest's
 * reports as hostile.
 *
 *   worker → nursery   PROCESS_REQUEST_ZYGOTE with descriptors: the zygote's socket, the memfd
 *                      PROCESS_REQUEST_REPORT with descriptors: a socket for the reply
 *   worker → zygote    PROCESS_REQUEST_GUEST with descriptors: the guest's socket, the I/O window
 *   reply              on the socket that came along; a guest's carries descriptors: its
 *                      /proc/self/mem, its pidfd
 *   guest → worker     struct process_report
 *   worker → guest     struct process_answer; ATTACH with a descriptor: the file
 */

#include <linux/filter.h>
#include <stdint.h>

#include "guest/hl_abi.h"
#include "hv/backend.h"

/* The guest's range is [PROCESS_GUEST_MIN, memory size); the low megabyte is not mapped. */
#define PROCESS_GUEST_MIN HL_ABI_HYPERCALL_ADDR
#define PROCESS_GUEST_MAX 0x40000000u

/* What a guest process has besides: the code of hv/process_guest.c, its constants, its stack. Below
 * AddressSanitizer's shadow (0x7fff8000), above any guest. */
#define PROCESS_TEXT_ADDR   0x60000000u
#define PROCESS_TEXT_SIZE   0x4000u
#define PROCESS_CONFIG_ADDR 0x60010000u
#define PROCESS_CONFIG_SIZE 0x1000u
#define PROCESS_STACK_ADDR  0x60020000u /* two stacks: the zygote's own, then the handlers' */
#define PROCESS_STACK_SIZE  0x10000u    /* of each */
#define PROCESS_END         (PROCESS_STACK_ADDR + 2 * PROCESS_STACK_SIZE)

/* In rax at a SYSCALL instruction: a hypercall, and the handler's own call to start. Linux knows
 * neither. */
#define PROCESS_NR_HYPERCALL 0x484c43u
#define PROCESS_NR_START     0x484c53u
#define PROCESS_NR_URETPROBE 335u

/* Offset of what follows the SYSCALL in the hypercall page. */
#define PROCESS_HYPERCALL_RETURN 10u

#define PROCESS_MAGIC 0x484c5052u

#define PROCESS_EXTENTS_MAX 32
#define PROCESS_RUNS_MAX    1024

enum process_request_kind {
    PROCESS_REQUEST_ZYGOTE = 1,
    PROCESS_REQUEST_REPORT,
    PROCESS_REQUEST_GUEST,
};

struct process_range {
    uint64_t start, len;
    uint32_t prot; /* enum hv_prot; 0 for an extent */
    uint32_t zero;
};

/* A request for a guest or a report is the header alone. */
struct process_request_header {
    uint32_t magic, kind;
    uint64_t memory_size, io_size;
    uint32_t nextents, nruns;
};

struct process_request {
    struct process_request_header header;
    struct process_range ranges[PROCESS_EXTENTS_MAX + PROCESS_RUNS_MAX]; /* extents, then runs */
};

/* Where making a zygote or a guest process failed. */
enum process_step {
    PROCESS_STEP_NONE = 0,
    PROCESS_STEP_REQUEST, /* the request itself does not hold together */
    PROCESS_STEP_FORK,
    PROCESS_STEP_SEALS,
    PROCESS_STEP_MEMORY,
    PROCESS_STEP_RUNTIME,
    PROCESS_STEP_RSEQ,
    PROCESS_STEP_WINDOW,
    PROCESS_STEP_PROC,
    PROCESS_STEP_PIDFD,
    PROCESS_STEP_LIMITS,
    PROCESS_STEP_SIGNALS,
    PROCESS_STEP_HELLO,
};

/* Bits of process_reply.layers. */
enum {
    PROCESS_LAYER_NO_NEW_PRIVS = 1,
    PROCESS_LAYER_NO_CAPABILITIES = 2,
    PROCESS_LAYER_USER_NAMESPACE = 4,
    PROCESS_LAYER_NAMESPACES = 8, /* net, ipc, uts, cgroup */
    PROCESS_LAYER_PID_NAMESPACE = 16,
    PROCESS_LAYER_EMPTY_ROOT = 32,
    PROCESS_LAYER_RLIMITS = 64,
};

struct process_reply {
    uint32_t magic;
    int32_t error; /* 0 or negative errno */
    uint32_t step;
    uint32_t layers; /* to PROCESS_REQUEST_REPORT */
};

enum process_report_kind {
    PROCESS_REPORT_SYSCALL = 1, /* hypercalls too */
    PROCESS_REPORT_FAULT,
};

struct process_report {
    uint32_t magic, kind;
    struct hv_regs regs;
    uint64_t vector, error_code, address;
};

enum process_answer_kind {
    PROCESS_ANSWER_START = 1, /* load regs, clean vector state, go */
    PROCESS_ANSWER_RETURN,    /* value into rax, go */
    PROCESS_ANSWER_PROTECT,   /* addr, len, prot; then wait on */
    PROCESS_ANSWER_SET_FS,    /* value; then wait on */
    PROCESS_ANSWER_ATTACH,    /* addr, len, a file to map there; then wait on */
    PROCESS_ANSWER_DETACH,    /* nothing in the bulk window; then wait on */
};

struct process_answer {
    uint32_t magic, kind;
    uint64_t value, addr, len, prot;
    struct hv_regs regs;
};

#define PROCESS_FILTER_MAX 128

/* At PROCESS_CONFIG_ADDR, read only. */
struct process_config {
    uint64_t memory_size, io_size;
    char mem_path[16]; /* below the directory descriptor of /proc */
    uint32_t filter_len;
    uint32_t zero;
    struct sock_filter filter[PROCESS_FILTER_MAX];
};

_Static_assert(sizeof(struct process_range) == 24, "no padding");
_Static_assert(sizeof(struct process_request_header) == 32, "no padding");
_Static_assert(sizeof(struct process_reply) == 16, "no padding");
_Static_assert(sizeof(struct hv_regs) == 160, "no padding");
_Static_assert(sizeof(struct process_report) == 192, "no padding");
_Static_assert(sizeof(struct process_answer) == 200, "no padding");
_Static_assert(sizeof(struct process_config) <= PROCESS_CONFIG_SIZE, "one page");

/* Section of everything in hv/process_guest.c; the linker names its ends. */
#define PROCESS_SECTION "hv_guest_text"
extern const char __start_hv_guest_text[], __stop_hv_guest_text[];

/* First code of a zygote at its final address, on its own stack, descriptors 0 (worker) and 1
 * (/proc). Never called here: its offset in the section is what counts. */
void process_guest_entry(void) __attribute__((noreturn));

#endif
