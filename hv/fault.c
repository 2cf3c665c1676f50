/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A fault in one line for people: "page fault (write) at 0x0, rip 0x401234 null_write+0x4". Vectors
 * and the error code of a page fault are those of the Intel SDM, volume 3, chapter 6.
 */
#include <inttypes.h>
#include <stdio.h>

#include "hv/guest.h"

#define VECTOR_GENERAL_PROTECTION 13
#define VECTOR_PAGE_FAULT         14
#define PAGE_FAULT_WRITE          0x02u
#define PAGE_FAULT_FETCH          0x10u

static const char *vector_name(uint8_t vector)
{
    static const char *const names[] = {
        [0] = "division error",
        [1] = "debug trap",
        [3] = "breakpoint",
        [4] = "overflow trap",
        [5] = "bound range exceeded",
        [6] = "invalid instruction",
        [7] = "no coprocessor",
        [8] = "double fault",
        [10] = "invalid TSS",
        [11] = "segment not present",
        [12] = "stack segment fault",
        [VECTOR_GENERAL_PROTECTION] = "general protection fault",
        [VECTOR_PAGE_FAULT] = "page fault",
        [16] = "floating-point error",
        [17] = "alignment check",
        [18] = "machine check",
        [19] = "SIMD floating-point error",
        [21] = "control protection fault",
    };

    return vector < sizeof(names) / sizeof(names[0]) ? names[vector] : NULL;
}

static const char *access_name(uint32_t error_code)
{
    if (error_code & PAGE_FAULT_FETCH)
        return "execute";
    return error_code & PAGE_FAULT_WRITE ? "write" : "read";
}

void fault_describe(struct instance_failure *failure, const struct image *img,
                    const struct linux_state *at)
{
    const struct hv_fault *fault = &failure->fault;
    const char *name = vector_name(fault->vector);
    char what[64];

    failure->symbol[0] = '\0';
    if (fault->rip >= at->bias)
        image_symbol(img, fault->rip - at->bias, failure->symbol, sizeof(failure->symbol));
    if (fault->vector == HV_VECTOR_DIED) {
        snprintf(failure->text, sizeof(failure->text), "the machine ended without an exception");
        return;
    }
    if (fault->vector == VECTOR_PAGE_FAULT)
        snprintf(what, sizeof(what), "page fault (%s) at 0x%" PRIx64 "%s",
                 access_name(fault->error_code), fault->address,
                 fault->address >= at->map_top && fault->address < at->stack_start
                     ? " (stack overflow)"
                     : "");
    else if (name)
        snprintf(what, sizeof(what), "%s", name);
    else
        snprintf(what, sizeof(what), "exception %u", fault->vector);
    snprintf(failure->text, sizeof(failure->text), "%s, rip 0x%" PRIx64 "%s%s", what, fault->rip,
             failure->symbol[0] ? " " : "", failure->symbol);
}
