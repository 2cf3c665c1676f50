/* SPDX-License-Identifier: Apache-2.0 */
/* Images, limits and signatures in print. */
#include "client/hlctl/image.h"

#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "client/hlctl/text.h"

json_t *json_limits(const struct hl_limits *limits)
{
    return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I}", "memory", (json_int_t)limits->memory,
                     "deadline_ns", (json_int_t)limits->deadline_ns, "min_instances",
                     (json_int_t)limits->min_instances, "max_instances",
                     (json_int_t)limits->max_instances, "max_queue", (json_int_t)limits->max_queue,
                     "io_size", (json_int_t)limits->io_size);
}

static json_t *json_function(const struct hl_function *function)
{
    json_t *params = json_array();

    for (unsigned int i = 0; i < function->sig.nparams; i++)
        json_array_append_new(params, json_string(hl_type_name(function->sig.params[i])));
    return json_pack("{s:s, s:o, s:s}", "name", function->name, "params", params, "returns",
                     hl_type_name(function->sig.ret));
}

static json_t *json_host(const struct hl_host_policy *host)
{
    json_t *allow = json_array();

    for (unsigned int i = 0; host && i < host->nfunctions; i++) {
        char text[512];

        hl_host_function_format(text, sizeof(text), &host->functions[i]);
        json_array_append_new(allow, json_string(text));
    }
    if (!host)
        return json_pack("{s:o}", "allow", allow);
    return json_pack("{s:o, s:I, s:I, s:I, s:I, s:b}", "allow", allow, "max_calls",
                     (json_int_t)host->max_calls, "rate", (json_int_t)host->rate, "depth",
                     (json_int_t)host->depth, "kv_size", (json_int_t)host->kv_size, "deterministic",
                     (int)host->deterministic);
}

json_t *json_image(const struct hl_image *image)
{
    json_t *functions = json_array();
    json_t *log = json_array();
    char sha256[65];

    sha256_text(sha256, image->sha256);
    for (size_t i = 0; i < image->nfunctions; i++)
        json_array_append_new(functions, json_function(&image->functions[i]));
    for (size_t i = 0; i < image->nlog; i++)
        json_array_append_new(log, json_string(image->log[i]));
    return json_pack("{s:s, s:s, s:I, s:I, s:b, s:I, s:o, s:o, s:I, s:I, s:o, s:s, s:I, s:I, s:o}",
                     "name", image->name, "sha256", sha256, "size", (json_int_t)image->size,
                     "owner_uid", (json_int_t)image->owner_uid, "private", image->is_private,
                     "registered_unix_ns", (json_int_t)image->registered_unix_ns, "limits",
                     json_limits(&image->limits), "functions", functions, "snapshot_bytes",
                     (json_int_t)image->snapshot_bytes, "start_ns", (json_int_t)image->start_ns,
                     "log", log, "parent", image->parent, "state_bytes",
                     (json_int_t)image->state_bytes, "root_bytes", (json_int_t)image->root_bytes,
                     "host", json_host(image->host));
}

void sha256_text(char out[65], const uint8_t sha256[32])
{
    for (int i = 0; i < 32; i++)
        snprintf(out + 2 * i, 3, "%02x", sha256[i]);
}

char *user_text(char *buf, size_t size, uint32_t uid)
{
    const struct passwd *user = getpwuid(uid);

    if (user)
        snprintf(buf, size, "%s", user->pw_name);
    else
        snprintf(buf, size, "%u", uid);
    return buf;
}

char *time_text(char *buf, size_t size, uint64_t unix_ns)
{
    time_t seconds = (time_t)(unix_ns / 1000000000u);
    struct tm tm;

    if (unix_ns == 0 || !localtime_r(&seconds, &tm) || strftime(buf, size, "%F %T", &tm) == 0)
        snprintf(buf, size, "-");
    return buf;
}

static void print_functions(const struct hl_image *image)
{
    for (size_t i = 0; i < image->nfunctions; i++) {
        char signature[256];

        hl_signature_format(signature, sizeof(signature), image->functions[i].name,
                            &image->functions[i].sig);
        printf("  %s\n", text_clean(signature, strlen(signature), '?'));
    }
}

static void print_host(const struct hl_host_policy *host)
{
    char size[32], calls[48] = "";

    if (!host || (host->nfunctions == 0 && !host->deterministic))
        return;
    if (host->max_calls > 0)
        snprintf(calls, sizeof(calls), ", %u in a call", host->max_calls);
    printf("%-11s %u a second%s, %u deep, kv %s%s\n", "host calls", host->rate, calls, host->depth,
           text_size(size, sizeof(size), host->kv_size),
           host->deterministic ? ", deterministic" : "");
    for (unsigned int i = 0; i < host->nfunctions; i++) {
        char text[512];

        hl_host_function_format(text, sizeof(text), &host->functions[i]);
        printf("  %s\n", text);
    }
}

void limits_print(const char *label, const struct hl_limits *limits)
{
    char memory[32], deadline[32], io[32];

    printf("%-11s %s memory, %s deadline, %s io, instances min %u max %u, queue %u\n", label,
           text_size(memory, sizeof(memory), limits->memory),
           text_duration(deadline, sizeof(deadline), limits->deadline_ns),
           text_size(io, sizeof(io), limits->io_size), limits->min_instances, limits->max_instances,
           limits->max_queue);
}

void image_print_summary(const struct hl_image *image)
{
    char sha256[65], size[32], start[32], name[64];

    sha256_text(sha256, image->sha256);
    printf("%s  %s  sha256 %.12s  started in %s\n", text_printable(name, sizeof(name), image->name),
           text_size(size, sizeof(size), image->size), sha256,
           text_duration(start, sizeof(start), image->start_ns));
    print_functions(image);
}

void image_print(const struct hl_image *image)
{
    char text[256], sha256[65];

    sha256_text(sha256, image->sha256);
    printf("%-11s %s\n", "name", text_printable(text, sizeof(text), image->name));
    printf("%-11s %s\n", "sha256", sha256);
    printf("%-11s %s\n", "size", text_size(text, sizeof(text), image->size));
    printf("%-11s %s%s\n", "owner", user_text(text, sizeof(text), image->owner_uid),
           image->is_private ? ", private" : "");
    printf("%-11s %s\n", "registered", time_text(text, sizeof(text), image->registered_unix_ns));
    if (image->parent[0])
        printf("%-11s %s, %s of its own\n", "parent",
               text_printable(sha256, sizeof(sha256), image->parent),
               text_size(text, sizeof(text), image->state_bytes));
    limits_print("limits", &image->limits);
    printf("%-11s %s\n", "snapshot", text_size(text, sizeof(text), image->snapshot_bytes));
    printf("%-11s %s\n", "start-up", text_duration(text, sizeof(text), image->start_ns));
    print_host(image->host);
    printf("functions\n");
    print_functions(image);
    if (image->nlog > 0)
        printf("log\n");
    for (size_t i = 0; i < image->nlog; i++) {
        char line[4200];

        printf("  %s\n", text_printable(line, sizeof(line), image->log[i]));
    }
}
