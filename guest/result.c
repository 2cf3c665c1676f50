/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Results that are more than a number. One that lies in the I/O window already is named by its
 * offset, so that a function which returns its argument or what hl_alloc_result gave copies
 * nothing; anything else is copied into the window, behind the call.
 */
#include "serve.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ALIGNMENT 16u

/* In front of a result in malloc's memory. */
struct large {
    struct large *next;
} __attribute__((aligned(ALIGNMENT)));

static struct large *larges;

struct hl_frame *hl_frame(void)
{
    uint64_t offset = ((uint64_t)hl_call()->size + 7) & ~7ull;

    if (!hl_ready || offset + sizeof(struct hl_frame) > hl_info()->io_size)
        hl_fail(HL_FAIL_RESULT_SIZE, "no call in the I/O window to give a result to");
    return (struct hl_frame *)(HL_ABI_IO_ADDR + offset);
}

static uint64_t free_offset(const struct hl_frame *frame)
{
    uint64_t used = (frame->used + ALIGNMENT - 1) & ~(uint64_t)(ALIGNMENT - 1);

    return used < hl_info()->io_size ? used : hl_info()->io_size;
}

size_t hl_result_room(void)
{
    return hl_info()->io_size - free_offset(hl_frame());
}

void *hl_alloc_result(size_t len)
{
    struct hl_frame *frame = hl_frame();
    uint64_t offset = free_offset(frame);
    uint64_t room = hl_info()->io_size - offset;

    if (len > room)
        hl_fail(HL_FAIL_RESULT_SIZE, "result of %zu bytes: the I/O window has room for %llu", len,
                (unsigned long long)room);
    frame->used = offset + len;
    return (void *)(HL_ABI_IO_ADDR + offset);
}

void hl_result_release(size_t mark)
{
    struct hl_frame *frame = hl_frame();
    uint64_t io_size = hl_info()->io_size;
    uint64_t start = (uintptr_t)(frame + 1) - HL_ABI_IO_ADDR;
    uint64_t used = mark < io_size ? io_size - mark : 0;

    if (used >= start && used < frame->used)
        frame->used = used;
}

bool hl_result_large(void)
{
    return hl_ready && hl_call()->flags & HL_ABI_CALL_LARGE;
}

/* Those of an earlier call, which an instance that is a session's still has. */
static void free_larges(void)
{
    while (larges) {
        struct large *large = larges;

        larges = large->next;
        free(large);
    }
}

void *hl_alloc_bytes(size_t len)
{
    struct hl_frame *frame = hl_frame();
    struct large *large;

    if (len <= hl_result_room() || !hl_result_large())
        return hl_alloc_result(len);
    if (!frame->large)
        free_larges();
    large = len <= UINT32_MAX ? malloc(sizeof(*large) + len) : NULL;
    if (!large)
        hl_fail(HL_FAIL_RESULT_SIZE, "no memory for a result of %zu bytes", len);
    frame->large = 1;
    large->next = larges;
    larges = large;
    return large + 1;
}

/* Whether the host takes it from where it is. */
static bool may_stay(uint32_t type, const void *data, size_t len)
{
    uint64_t addr = (uintptr_t)data;

    return type == HL_ABI_BYTES && hl_result_large() && addr > HL_ABI_IO_ADDR &&
           addr < hl_info()->memory_size && len <= UINT32_MAX;
}

void hl_put_data_(struct hl_abi_value *v, uint32_t type, const void *data, size_t len)
{
    uint64_t io_size = hl_info()->io_size;
    uint64_t offset = (uintptr_t)data - HL_ABI_IO_ADDR; /* wraps to a large one below the window */

    if (len == 0) {
        offset = 0;
    } else if (may_stay(type, data, len)) {
        /* where it is */
    } else if (offset >= io_size || len > io_size - offset) {
        void *copy = hl_alloc_result(len);

        memcpy(copy, data, len);
        offset = (uintptr_t)copy - HL_ABI_IO_ADDR;
    }
    v->type = type;
    v->len = (uint32_t)len;
    v->bits = offset;
}

struct hl_string hl_format(const char *fmt, ...)
{
    struct hl_string s = {NULL, 0};
    va_list ap;
    char *room;
    int n;

    va_start(ap, fmt);
    n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    if (n < 0)
        hl_fail(HL_FAIL_RESULT_SIZE, "hl_format: result cannot be formatted");
    room = hl_alloc_result((size_t)n + 1);
    va_start(ap, fmt);
    vsnprintf(room, (size_t)n + 1, fmt, ap);
    va_end(ap);
    s.data = room;
    s.len = (size_t)n;
    return s;
}

char *hl_string_copy(struct hl_string s)
{
    char *copy = malloc(s.len + 1);

    if (!copy)
        hl_fail(HL_FAIL_RESULT_SIZE, "no memory for a string of %zu bytes", s.len);
    memcpy(copy, s.data, s.len);
    copy[s.len] = '\0';
    return copy;
}
