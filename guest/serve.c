/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One call's way through a guest: READY returns with the call in the I/O window, the function's
 * wrapper reads its arguments there and leaves the result behind them, DONE ends it. Nothing else
 * happens on that way: no system call, no allocation, no write to a page that the call would not
 * write anyway, because every one of them would be paid for by each call.
 *
 * What makes calls cheap is done before READY: the allocator has its first heap, and output that
 * start-up left in stdio's buffers is written once instead of being part of every call.
 */
#include "serve.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

extern const struct hl_function_entry __start_hl_functions[] __attribute__((visibility("hidden")));
extern const struct hl_function_entry __stop_hl_functions[] __attribute__((visibility("hidden")));

bool hl_ready;

/* Started as an ordinary program the info page does not exist, and reading it would be a crash
 * that explains nothing. The kernel's copy of an invalid signal set says so instead: hld answers
 * this call without looking at its arguments. */
static void check_host(void)
{
    static const char text[] = "this is a guest program of hld: hlctl image add NAME FILE\n";
    const struct hl_abi_info *info = hl_info();

    if (syscall(SYS_rt_sigprocmask, 0, info, NULL, 8) != 0) {
        (void)!write(STDERR_FILENO, text, sizeof(text) - 1);
        _exit(2);
    }
    if (info->magic != HL_ABI_INFO_MAGIC || info->version < HL_ABI_VERSION)
        hl_fail(HL_FAIL_INIT, "built for guest ABI %d, this host has %u", HL_ABI_VERSION,
                info->version);
}

void hl_prepare(void)
{
    void *volatile first;
    int code;

    check_host();
    code = hl_init_hook ? hl_init_hook() : 0;
    if (code != 0)
        hl_fail(code, "initialisation failed with code %d", code);
    first = malloc(1);
    free(first);
    fflush(NULL);
    hl_ready = true;
}

_Noreturn void hl_dispatch(void)
{
    struct hl_abi_call *call = hl_call();
    uint64_t offset = ((uint64_t)call->size + 7) & ~7ull;
    struct hl_frame *frame = (struct hl_frame *)(HL_ABI_IO_ADDR + offset);

    frame->used = offset + sizeof(*frame);
    frame->host_error = 0;
    frame->large = 0;
    if (hl_restore_hook && call->flags & HL_ABI_CALL_FIRST)
        hl_restore_hook();
    __start_hl_functions[call->function].handler(call->args, &frame->result.value);
    frame->result.magic = HL_ABI_RESULT_MAGIC;
    frame->result.error = 0;
    frame->result.text_len = 0;
    hl_hypercall(HL_HYPERCALL_DONE, offset, 0, 0);
    __builtin_trap();
}

_Noreturn void hl_serve(void)
{
    hl_prepare();
    hl_hypercall(HL_HYPERCALL_READY, 0, 0, 0);
    hl_dispatch();
}
