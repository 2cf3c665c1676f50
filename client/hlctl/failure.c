/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Ways to fail: one line on standard error that says what and what to do, the exit status for it,
 * and with -o json the same as an object on standard output.
 */
#include "client/hlctl/json.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "client/hlctl/text.h"

enum exit_code exit_code_of(const struct hl_client_error *err)
{
    switch (err->status) {
    case HL_STATUS_UNAVAILABLE:
        return err->remote ? EXIT_TRY_AGAIN : EXIT_UNREACHABLE;
    case HL_STATUS_RESOURCE_EXHAUSTED:
        return EXIT_TRY_AGAIN;
    case HL_STATUS_PERMISSION_DENIED:
    case HL_STATUS_UNAUTHENTICATED:
        return EXIT_PERMISSION;
    case HL_STATUS_DEADLINE_EXCEEDED:
        return EXIT_DEADLINE;
    default:
        return EXIT_FAILED;
    }
}

/* What names and texts of others are in it has not been looked at yet. */
static void print_line(const char *text)
{
    char line[1024];

    fflush(stdout);
    fprintf(stderr, "hlctl: %s\n", text_printable(line, sizeof(line), text));
}

static json_t *hex_number(uint64_t value)
{
    char text[24];

    snprintf(text, sizeof(text), "0x%llx", (unsigned long long)value);
    return json_string(text);
}

json_t *json_accounting(const struct hl_accounting *accounting)
{
    return json_pack(
        "{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:s}", "queue_ns", (json_int_t)accounting->queue_ns,
        "run_ns", (json_int_t)accounting->run_ns, "total_ns", (json_int_t)accounting->total_ns,
        "exits", (json_int_t)accounting->exits, "pages_reset", (json_int_t)accounting->pages_reset,
        "instance_age_ns", (json_int_t)accounting->instance_age_ns, "instance_calls",
        (json_int_t)accounting->instance_calls, "backend", accounting->backend);
}

static void print_json(const struct hl_client_error *err, const char *text)
{
    json_t *error = json_object();
    json_t *root = json_object();
    char line[1024];

    json_object_set_new(error, "status", json_string(hl_status_name(err->status)));
    json_object_set_new(error, "message", json_string(text_printable(line, sizeof(line), text)));
    if (err->has_fault) {
        json_t *fault =
            json_pack("{s:I, s:I, s:o, s:o, s:s, s:s}", "vector", (json_int_t)err->fault.vector,
                      "error_code", (json_int_t)err->fault.error_code, "rip",
                      hex_number(err->fault.rip), "address", hex_number(err->fault.address),
                      "symbol", err->fault.symbol, "reason", err->fault.reason);

        json_object_set_new(error, "fault", fault);
    }
    json_object_set_new(root, "error", error);
    if (err->has_accounting)
        json_object_set_new(root, "accounting", json_accounting(&err->accounting));
    print_json_line(root);
}

int print_json_line(json_t *root)
{
    int r = EXIT_FAILED;

    if (!root)
        print_line("hld's answer holds text that is no UTF-8");
    else if (json_dumpf(root, stdout, JSON_COMPACT) < 0 || putchar('\n') == EOF)
        print_line("cannot write the output");
    else
        r = EXIT_OK;
    json_decref(root);
    return r;
}

static int report(const struct hlctl *ctl, const struct hl_client_error *err, const char *text)
{
    if (ctl->json)
        print_json(err, text);
    print_line(text);
    return exit_code_of(err);
}

int fail_with(const struct hlctl *ctl, const struct hl_client_error *err)
{
    return report(ctl, err, err->text);
}

int fail_saying(const struct hlctl *ctl, const struct hl_client_error *err, const char *fmt, ...)
{
    char text[1024];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    return report(ctl, err, text);
}

int fail_usage(const struct hlctl *ctl, const char *fmt, ...)
{
    const struct hl_client_error err = {.status = HL_STATUS_INVALID_ARGUMENT};
    char text[1024];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    report(ctl, &err, text);
    return EXIT_USAGE;
}

int fail_local(const struct hlctl *ctl, const char *fmt, ...)
{
    const struct hl_client_error err = {.status = HL_STATUS_UNKNOWN};
    char text[1024];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    return report(ctl, &err, text);
}

int fail_image(const struct hlctl *ctl, const char *name, const struct hl_client_error *err)
{
    if (err->remote && err->status == HL_STATUS_NOT_FOUND)
        return fail_saying(ctl, err, "no image '%s'; `hlctl image ls` lists those there are", name);
    return fail_with(ctl, err);
}

uint64_t ctl_now(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

uint64_t ctl_ask(const struct hlctl *ctl)
{
    if (ctl->allowed_ns > 0)
        hl_client_set_timeout(ctl->client, ctl->allowed_ns);
    return ctl_now();
}

void ctl_asked(struct hlctl *ctl, uint64_t since)
{
    uint64_t spent = ctl_now() - since;

    if (ctl->allowed_ns > 0)
        ctl->allowed_ns = spent < ctl->allowed_ns ? ctl->allowed_ns - spent : 1;
}

static int take_depth(struct hlctl *ctl)
{
    const char *text = getenv(DEPTH_VARIABLE);
    uint64_t depth = 0;

    if (text && *text && text_parse_count(text, UINT32_MAX, &depth) < 0)
        return fail_usage(ctl, DEPTH_VARIABLE ": '%s' is no number", text);
    ctl->depth = (uint32_t)depth;
    return 0;
}

int ctl_connect(struct hlctl *ctl)
{
    struct hl_client_error err;
    const char *path = ctl->socket ? ctl->socket : hl_client_default_socket();
    int r = take_depth(ctl);

    if (r != 0)
        return r;
    if (hl_client_connect(&ctl->client, path, &err) == 0) {
        hl_client_set_depth(ctl->client, ctl->depth);
        return 0;
    }
    if (err.status == HL_STATUS_PERMISSION_DENIED)
        return fail_saying(ctl, &err, "%s; your user must be allowed to write to it (ls -l %s)",
                           err.text, path);
    if (err.status == HL_STATUS_UNAVAILABLE)
        return fail_saying(
            ctl, &err, "%s; is hld running? --socket or HLD_SOCKET name another socket", err.text);
    return fail_with(ctl, &err);
}
