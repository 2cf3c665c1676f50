/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The loop around one guest: enter, look at the exit, serve it, enter again. What the guest says is
 * taken from the exit once and checked there; texts are copied out and made printable before
 * anybody above sees them, so that no consumer of a log has to remember whose words these are.
 *
 * The clock is looked at after each exit that the loop serves itself: a guest that does nothing but
 * cheap system calls is stopped at until_ns like one that computes.
 */
#include "config.h"

#include "hv/guest.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "guest/hl_abi.h"
#include "hv/snapshot_internal.h"
#include "hv/timer.h"

#define LOG_LINES_MAX 256u /* of one call; then one more that says so */

void guest_init(struct guest *g, const struct hv_backend *hv, struct hv_machine *machine,
                struct snapshot *snap, const struct image *img, bool starting)
{
    memset(g, 0, sizeof(*g));
    g->hv = hv;
    g->machine = machine;
    g->snap = snap;
    g->img = img;
    g->starting = starting;
    g->fs_base = snapshot_regs(snap)->fs_base;
    space_init(&g->space, hv, machine, snap);
    world_init(&g->world, NULL, starting);
}

void guest_fini(struct guest *g)
{
    space_fini(&g->space);
    call_buffer_trim(&g->host_call.buffer, 0);
}

void guest_reset(struct guest *g)
{
    space_reset(&g->space);
    world_reset(&g->world);
    guest_continue(g);
}

void guest_continue(struct guest *g)
{
    call_buffer_trim(&g->host_call.buffer, CALL_BUFFER_KEPT);
    g->fs_base = snapshot_regs(g->snap)->fs_base;
    g->failed = false;
    g->line_len = 0;
    g->result = 0;
}

/* Bytes of the well-formed, printable character at text, or 0. */
static size_t printable_at(const char *text, size_t len)
{
    unsigned char c = (unsigned char)text[0];

    if (c < 0x80)
        return (c >= ' ' && c != 0x7f) || c == '\t' ? 1 : 0;
    if (c == 0xc2 && len > 1 && (unsigned char)text[1] < 0xa0)
        return 0; /* U+0080 to U+009F are control characters as well */
    for (size_t n = 2; n <= 4 && n <= len; n++) {
        if (hl_utf8_valid(text, n))
            return n;
    }
    return 0;
}

static void make_printable(char *text, size_t len)
{
    for (size_t i = 0; i < len;) {
        size_t n = printable_at(text + i, len - i);

        if (n == 0)
            text[i++] = '?';
        i += n;
    }
}

void guest_fail(struct guest *g, enum instance_end end, int code, const char *fmt, ...)
{
    va_list ap;

    if (g->failed)
        return;
    g->failed = true;
    memset(&g->failure, 0, sizeof(g->failure));
    g->failure.end = end;
    g->failure.code = code;
    va_start(ap, fmt);
    vsnprintf(g->failure.text, sizeof(g->failure.text), fmt, ap);
    va_end(ap);
    make_printable(g->failure.text, strlen(g->failure.text));
}

int guest_copy_in(struct guest *g, hl_gpa addr, void *buf, uint64_t len)
{
    if (!space_allows(&g->space, addr, len, false))
        return -EFAULT;
    return g->hv->mem_read(g->machine, addr, buf, len) < 0 ? -EFAULT : 0;
}

int guest_copy_out(struct guest *g, hl_gpa addr, const void *buf, uint64_t len)
{
    if (!space_allows(&g->space, addr, len, true))
        return -EFAULT;
    return g->hv->mem_write(g->machine, addr, buf, len) < 0 ? -EFAULT : 0;
}

void guest_log_flush(struct guest *g)
{
    static const char note[] = "(further log lines of this call are dropped)";

    if (g->line_len == 0)
        return;
    make_printable(g->line, g->line_len);
    if (g->log && g->counters.log_lines < LOG_LINES_MAX)
        g->log(g->log_opaque, g->line_level, g->line, g->line_len);
    else if (g->log && g->counters.log_lines == LOG_LINES_MAX)
        g->log(g->log_opaque, HL_ABI_LOG_WARNING, note, sizeof(note) - 1);
    instance_count(&g->counters.log_lines);
    g->line_len = 0;
}

void guest_log(struct guest *g, int level, const char *text, size_t len)
{
    if (g->line_level != level)
        guest_log_flush(g);
    g->line_level = level;
    for (size_t i = 0; i < len; i++) {
        if (text[i] == '\n') {
            guest_log_flush(g);
            continue;
        }
        if (g->line_len == sizeof(g->line))
            guest_log_flush(g);
        g->line[g->line_len++] = text[i];
    }
}

/* Returns: what the hypercall returns. */
static int64_t serve_log(struct guest *g, const uint64_t args[3])
{
    char text[HL_ABI_LOG_MAX];
    size_t len = args[2] < sizeof(text) ? args[2] : sizeof(text);
    int level = args[0] <= HL_ABI_LOG_DEBUG ? (int)args[0] : HL_ABI_LOG_DEBUG;

    if (guest_copy_in(g, args[1], text, len) < 0)
        return -EFAULT;
    guest_log_flush(g);
    guest_log(g, level, text, len);
    guest_log_flush(g);
    return 0;
}

static void serve_abort(struct guest *g, const uint64_t args[3])
{
    char text[sizeof(g->failure.text)] = "";
    size_t len = args[2] < sizeof(text) - 1 ? args[2] : sizeof(text) - 1;

    if (guest_copy_in(g, args[1], text, len) < 0)
        len = 0;
    text[len] = '\0';
    guest_fail(g, INSTANCE_END_ABORT, (int)(int32_t)args[0], "aborted with code %d%s%s",
               (int)(int32_t)args[0], text[0] ? ": " : "", text);
}

/* Returns: 0 to go on, or the state to stop in. */
static enum guest_state serve_hypercall(struct guest *g, const struct hv_exit *exit)
{
    switch (exit->nr) {
    case HL_HYPERCALL_READY:
        if (g->starting)
            return GUEST_READY;
        guest_fail(g, INSTANCE_END_PROTOCOL, 0, "announced READY in the middle of a call");
        return GUEST_FAILED;
    case HL_HYPERCALL_DONE:
        if (!g->starting) {
            g->result = exit->args[0];
            return GUEST_DONE;
        }
        guest_fail(g, INSTANCE_END_PROTOCOL, 0, "announced a result before READY");
        return GUEST_FAILED;
    case HL_HYPERCALL_LOG:
        g->hv->set_return(g->machine, (uint64_t)serve_log(g, exit->args));
        return 0;
    case HL_HYPERCALL_ABORT:
        serve_abort(g, exit->args);
        return GUEST_FAILED;
    case HL_HYPERCALL_HOST_CALL:
        return guest_host_call(g, exit->args[0], exit->args[1]);
    default:
        guest_fail(g, INSTANCE_END_PROTOCOL, 0, "unknown hypercall %" PRIu64, exit->nr);
        return GUEST_FAILED;
    }
}

static enum guest_state serve_exit(struct guest *g, const struct hv_exit *exit)
{
    switch (exit->kind) {
    case HV_EXIT_HYPERCALL:
        instance_count(&g->counters.exits);
        return serve_hypercall(g, exit);
    case HV_EXIT_SYSCALL:
        instance_count(&g->counters.exits);
        instance_count(&g->counters.syscalls);
        g->hv->set_return(g->machine, (uint64_t)guest_syscall(g, exit->nr, exit->args));
        return g->failed ? GUEST_FAILED : 0;
    case HV_EXIT_KICKED:
        return GUEST_KICKED;
    case HV_EXIT_FAULT:
        instance_count(&g->counters.exits);
        guest_fail(g, INSTANCE_END_FAULT, 0, "fault");
        g->failure.fault = exit->fault;
        fault_describe(&g->failure, g->img, snapshot_linux(g->snap));
        if (exit->fault.vector == HV_VECTOR_DIED)
            g->failure.end = INSTANCE_END_DIED;
        return GUEST_FAILED;
    }
    guest_fail(g, INSTANCE_END_DIED, 0, "the machine left for an unknown reason (%d)",
               (int)exit->kind);
    return GUEST_FAILED;
}

static enum guest_state run_until_stop(struct guest *g, uint64_t until_ns)
{
    for (;;) {
        enum guest_state state;
        struct hv_exit exit;
        int rc = space_settle(&g->space, until_ns);

        if (rc > 0)
            return GUEST_KICKED;
        if (rc == 0)
            rc = g->hv->run(g->machine, until_ns, &exit);
        if (rc < 0) {
            guest_fail(g, INSTANCE_END_DIED, 0, "the machine failed: %s", strerror(-rc));
            return GUEST_FAILED;
        }
        state = serve_exit(g, &exit);
        if (state != 0)
            return state;
        if (hv_now_ns() >= until_ns)
            return GUEST_KICKED;
    }
}

enum guest_state guest_run(struct guest *g, uint64_t until_ns)
{
    enum guest_state state;

    if (g->failed)
        return GUEST_FAILED;
    state = run_until_stop(g, until_ns);
    if (state != GUEST_KICKED && state != GUEST_HOST_CALL)
        guest_log_flush(g);
    return state;
}
