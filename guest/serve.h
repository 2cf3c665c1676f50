/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_GUEST_SERVE_H
#define HL_GUEST_SERVE_H

/*
 * The library's inside: the steps of hl_serve, and where a call's result stands in the window.
 */

#include "hlguest.h"

/* Right behind the call, in the window and not in the program's data: a call then writes to no page
 * but those it would write to anyway. HL_ABI_RESULT_ROOM holds it whatever the call's size. */
struct hl_frame {
    struct hl_abi_result result;
    uint64_t used;       /* bytes of the window taken, from its start */
    uint64_t host_error; /* guest/host.c: of the last host function, 0 for none */
    uint64_t large;      /* guest/result.c: whether this call has results outside the window */
};
_Static_assert(sizeof(struct hl_frame) <= HL_ABI_RESULT_ROOM, "there is room for it");

static inline const struct hl_abi_info *hl_info(void)
{
    return (const struct hl_abi_info *)HL_ABI_INFO_ADDR;
}

static inline struct hl_abi_call *hl_call(void)
{
    return (struct hl_abi_call *)HL_ABI_IO_ADDR;
}

static inline uint64_t hl_hypercall(uint64_t code, uint64_t a, uint64_t b, uint64_t c)
{
    uint64_t (*call)(uint64_t, uint64_t, uint64_t, uint64_t) =
        (uint64_t(*)(uint64_t, uint64_t, uint64_t, uint64_t))HL_ABI_HYPERCALL_ADDR;

    return call(code, a, b, c);
}

/* All of start-up: ends the program if it fails. */
void hl_prepare(void);

/* Runs the call that stands in the window and leaves its result. */
_Noreturn void hl_dispatch(void);

/* The current call's; ends the call when there is none. */
struct hl_frame *hl_frame(void);

/* Whether start-up is over. */
extern bool hl_ready;

#endif
