/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From program to ready snapshot: run its start-up on a machine of its own and keep what it left.
 * What is kept is what the guest could have meant to keep: pages it could write in its program, its
 * heap, its mappings and the live part of its stack. What it could not write comes from the boot
 * snapshot instead of the machine. The I/O window starts every call as zeros, and so does memory
 * outside the heap and the mappings.
 */
#include "config.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "guest/hl_abi.h"
#include "hv/guest.h"
#include "hv/snapshot_internal.h"
#include "hv/timer.h"

#define PAGE     ((uint64_t)HL_ABI_PAGE_SIZE)
#define RED_ZONE 128u          /* System V ABI: live bytes below the stack pointer */
#define COPY_MAX (256u * 1024) /* read from the machine at once */
#define LAST_MAX 160u          /* of a line, in an error's text */

HL_DEFINE_CLEANUP(struct snapshot *, snapshot_unref)

struct starting {
    const struct hv_backend *hv;
    struct hv_host *host;
    struct hv_machine *machine;
    struct guest guest;
    instance_log_cb log;
    void *log_opaque;
    char last[LAST_MAX + 1]; /* of what it logged or printed */
};

static void starting_fini(struct starting *st)
{
    guest_fini(&st->guest);
    if (st->machine)
        st->hv->machine_free(st->machine);
}

/* What went wrong is mostly in the last thing that the program said. */
static void on_line(void *opaque, int level, const char *text, size_t len)
{
    struct starting *st = opaque;
    size_t kept = len < LAST_MAX ? len : LAST_MAX;

    while (kept > 0 && kept < len && ((unsigned char)text[kept] & 0xc0) == 0x80)
        kept--; /* whole characters */
    memcpy(st->last, text, kept);
    st->last[kept] = '\0';
    if (st->log)
        st->log(st->log_opaque, level, text, len);
}

static int tell_last_line(struct starting *st, int code, struct hl_error *err)
{
    char why[HL_ERROR_TEXT_MAX];

    guest_log_flush(&st->guest);
    if (!err || !st->last[0])
        return code;
    memcpy(why, err->text, sizeof(why));
    return hl_error_set(err, code, "%.*s; it said last: %s", (int)(sizeof(why) - LAST_MAX - 32),
                        why, st->last);
}

/* Copies pages that are not zero; buf has COPY_MAX bytes. */
static int copy_range(struct starting *st, struct snapshot_draft *draft, hl_gpa start, hl_gpa end,
                      uint8_t *buf)
{
    while (start < end) {
        uint64_t len = end - start < COPY_MAX ? end - start : COPY_MAX;
        int rc = st->hv->mem_read(st->machine, start, buf, len);

        if (rc < 0)
            return rc;
        for (uint64_t at = 0; at < len; at += PAGE) {
            if (!snapshot_page_is_zero(buf + at))
                memcpy(draft->memory + start + at, buf + at, PAGE);
        }
        start += len;
    }
    return 0;
}

/* Where the bytes of a page come from. */
enum source { FROM_NOWHERE, FROM_BOOT, FROM_MACHINE };

static enum source source_of(const struct starting *st, uint64_t page, hl_gpa stack_from)
{
    const struct space *space = &st->guest.space;
    const struct linux_state *at = snapshot_linux(st->guest.snap);
    hl_gpa addr = page * PAGE;

    if (addr == HL_ABI_INFO_ADDR)
        return FROM_BOOT;
    if (addr < at->program_start)
        return FROM_NOWHERE;
    if (addr < at->brk_start)
        return space_prot(space)[page] & (HV_PROT_WRITE | SPACE_WAS_WRITABLE) ? FROM_MACHINE
                                                                              : FROM_BOOT;
    if (addr < space->brk)
        return FROM_MACHINE;
    if (addr >= at->stack_start)
        return addr >= stack_from ? FROM_MACHINE : FROM_NOWHERE;
    return space_used(space)[page / 64] >> (page % 64) & 1 ? FROM_MACHINE : FROM_NOWHERE;
}

static int copy_memory(struct starting *st, struct snapshot_draft *draft)
{
    _cleanup_free_ uint8_t *buf = aligned_alloc(PAGE, COPY_MAX);
    hl_gpa stack_from = 0;
    int rc = 0;

    if (!buf)
        return -ENOMEM;
    if (draft->regs.rsp >= draft->linux_state.stack_start && draft->regs.rsp < draft->size)
        stack_from = (draft->regs.rsp - RED_ZONE) & ~(PAGE - 1);
    for (uint64_t page = 0, next; rc == 0 && page < draft->npages; page = next) {
        enum source source = source_of(st, page, stack_from);
        hl_gpa start = page * PAGE, end;

        next = page + 1;
        while (next < draft->npages && source_of(st, next, stack_from) == source)
            next++;
        end = next * PAGE;
        if (source == FROM_MACHINE)
            rc = copy_range(st, draft, start, end, buf);
        else if (source == FROM_BOOT)
            for (hl_gpa addr = start; addr < end; addr += PAGE) {
                const uint8_t *bytes = snapshot_memory(st->guest.snap) + addr;

                if (!snapshot_page_is_zero(bytes))
                    memcpy(draft->memory + addr, bytes, PAGE);
            }
    }
    return rc;
}

/* Permissions as start-up left them; free memory is readable and writable again (hv/space.c). */
static void copy_permissions(const struct starting *st, struct snapshot_draft *draft)
{
    const struct space *space = &st->guest.space;
    hl_gpa heap_end = (space->brk + PAGE - 1) & ~(PAGE - 1);

    memcpy(draft->used, space_used(space), (draft->npages / 64 + 1) * sizeof(uint64_t));
    for (uint64_t page = 0; page < draft->npages; page++) {
        hl_gpa addr = page * PAGE;
        uint8_t prot = space_prot(space)[page] & (uint8_t)~SPACE_WAS_WRITABLE;

        if (addr >= heap_end && addr < draft->linux_state.map_top &&
            !(draft->used[page / 64] >> (page % 64) & 1))
            prot = HV_PROT_READ | HV_PROT_WRITE;
        draft->prot[page] = prot;
    }
}

static int capture(struct snapshot **out, struct starting *st, struct hl_error *err)
{
    _cleanup_(snapshot_draft_fini) struct snapshot_draft draft = SNAPSHOT_DRAFT_INIT;
    const struct snapshot *boot = st->guest.snap;
    int rc = snapshot_draft_init(&draft, snapshot_size(boot), snapshot_io_size(boot), err);

    if (rc < 0)
        return rc;
    rc = st->hv->get_regs(st->machine, &draft.regs);
    if (rc < 0)
        return hl_error_wrap(err, rc, "reading the registers at READY");
    draft.linux_state = *snapshot_linux(boot);
    draft.linux_state.brk = st->guest.space.brk;
    copy_permissions(st, &draft);
    rc = copy_memory(st, &draft);
    if (rc < 0)
        return hl_error_wrap(err, rc, "reading the memory at READY");
    rc = st->hv->populate(st->host, draft.memory, draft.prot, draft.npages, err);
    if (rc < 0)
        return rc;
    return snapshot_draft_seal(out, &draft, err);
}

/* Why there was no READY, as an errno for those who called for a snapshot. */
static int failure_code(enum instance_end end)
{
    switch (end) {
    case INSTANCE_END_FAULT:
        return -EFAULT;
    case INSTANCE_END_ABORT:
        return -ECANCELED;
    case INSTANCE_END_EXIT:
    case INSTANCE_END_PROTOCOL:
        return -EPROTO;
    default:
        return -EIO;
    }
}

static int run_to_ready(struct guest *g, uint64_t deadline_ns, struct hl_error *err)
{
    for (;;) {
        switch (guest_run(g, deadline_ns)) {
        case GUEST_READY:
            return 0;
        case GUEST_KICKED:
            if (hv_now_ns() < deadline_ns)
                break;
            return hl_error_set(err, -ETIMEDOUT, "start-up did not announce READY in time");
        default:
            return hl_error_set(err, failure_code(g->failure.end), "start-up: %s", g->failure.text);
        }
    }
}

int snapshot_build(struct snapshot **out, const struct hv_backend *hv, struct hv_host *host,
                   const struct image *img, const struct snapshot_options *options,
                   struct hl_error *err)
{
    _cleanup_(snapshot_unrefp) struct snapshot *boot = NULL;
    _cleanup_(starting_fini) struct starting st = {.hv = hv, .host = host};
    int rc;

    *out = NULL;
    rc = hv_thread_init();
    if (rc < 0)
        return hl_error_wrap(err, rc, "the thread's timer");
    rc = snapshot_load(&boot, hv, host, img, options, err);
    if (rc == 0)
        rc = hv->machine_new(&st.machine, host, shell_class(options->memory_size), err);
    if (rc == 0)
        rc = hv->bind(st.machine, boot, err);
    if (rc < 0)
        return rc;
    guest_init(&st.guest, hv, st.machine, boot, img, true);
    world_init(&st.guest.world, options->deterministic, true);
    st.guest.world.at.blocks = 1; /* AT_RANDOM has taken one */
    st.log = options->log;
    st.log_opaque = options->opaque;
    st.guest.log = on_line;
    st.guest.log_opaque = &st;
    rc = run_to_ready(&st.guest, options->deadline_ns, err);
    if (rc < 0)
        return tell_last_line(&st, rc, err);
    return capture(out, &st, err);
}
