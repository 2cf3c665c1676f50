/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Files that hld reads at its start: a manifest of the registry (with its checksum made right, or
 * nothing behind it would ever be reached) and hld.conf. What a manifest says must survive being
 * written again.
 */
#include "config.h"

#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/host_policy.h"
#include "daemon/configuration.h"
#include "daemon/registry_manifest.h"

#define HEADER "hld-manifest 2 "

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    return sodium_init() < 0 ? -1 : 0;
}

static void decode(const char *text, size_t len)
{
    struct manifest manifest, again;
    struct hl_error err = HL_ERROR_INIT;
    char *back;
    size_t size;

    if (manifest_decode(&manifest, "a", text, len, &err) != 0) {
        if (err.text[0] == '\0')
            abort(); /* a refusal says why */
        return;
    }
    if (manifest_encode(&manifest, &back, &size) != 0) {
        free(manifest.host);
        return;
    }
    if (manifest_decode(&again, "a", back, size, &err) != 0 || again.size != manifest.size ||
        memcmp(again.sha256, manifest.sha256, sizeof(again.sha256)) != 0)
        abort();
    if (manifest.host && !again.host && !host_policy_empty(manifest.host))
        abort();
    free(manifest.host);
    free(again.host);
    free(back);
}

static void decode_with_checksum(char version, const uint8_t *data, size_t size)
{
    uint8_t digest[crypto_hash_sha256_BYTES];
    char hex[2 * sizeof(digest) + 1];
    size_t len = strlen(HEADER) + 2 * sizeof(digest) + 1 + size;
    char *text = malloc(len + 1);

    if (!text)
        return;
    crypto_hash_sha256(digest, data, size);
    sodium_bin2hex(hex, sizeof(hex), digest, sizeof(digest));
    snprintf(text, len + 1, HEADER "%s\n", hex);
    text[strlen(HEADER) - 2] = version;
    memcpy(text + len - size, data, size);
    text[len] = '\0';
    decode(text, len);
    free(text);
}

/* A good manifest with some bytes replaced: random bytes alone are never JSON. */
static void decode_patched(const uint8_t *data, size_t size)
{
    static struct hl_host_policy host = {
        .nfunctions = 2,
        .functions = {{"f", {HL_TYPE_BYTES, 2, {HL_TYPE_STRING, HL_TYPE_U64}}, HL_PROVIDER_CLIENT},
                      {"hl.time", {HL_TYPE_I64, 0, {0}}, HL_PROVIDER_BUILTIN}},
    };
    struct manifest manifest = {.name = "a", .size = 4096, .owner = 1000, .registered_ns = 1};
    bool with_host = size > 0 && data[0] % 2 == 1;
    char *text, *json;
    size_t len, at;

    manifest.host = with_host ? &host : NULL;
    if (size < 3 || manifest_encode(&manifest, &text, &len) != 0)
        return;
    json = strchr(text, '\n') + 1;
    len -= (size_t)(json - text);
    at = ((size_t)data[0] | (size_t)data[1] << 8) % len;
    size = size - 2 < len - at ? size - 2 : len - at;
    memcpy(json + at, data + 2, size);
    decode_with_checksum(with_host ? '2' : '1', (const uint8_t *)json, len);
    free(text);
}

static void ignore(void *opaque, const char *line)
{
    size_t *reports = opaque;

    (*reports)++;
    if (strchr(line, '\n'))
        abort(); /* one line a problem, whatever the file holds */
}

static void configure(const uint8_t *data, size_t size)
{
    static struct configuration config;
    size_t reports = 0;
    char path[64];
    int fd = memfd_create("hld.conf", MFD_CLOEXEC);

    if (fd < 0)
        return;
    if (write(fd, data, size) == (ssize_t)size) {
        snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        configuration_init(&config);
        if (configuration_load(&config, path, false, ignore, &reports) < 0 && reports == 0)
            abort();
    }
    close(fd);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    decode((const char *)data, size);
    decode_with_checksum('1', data, size);
    decode_with_checksum('2', data, size);
    decode_patched(data, size);
    configure(data, size);
    return 0;
}
