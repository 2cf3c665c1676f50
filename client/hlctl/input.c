/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Arguments that are files or standard input. Small ones are read and go in the message; bytes that
 * are more go by descriptor, and however many they are no more of them than a piece is in this
 * process. Only reading tells how much a pipe holds, so what was read by then is put in front.
 */
#include "config.h"

#include "client/hlctl/input.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/io.h"

#define PIECE 65536u
#define SEALS (F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)

/* Up to size bytes, fewer only at the end. Returns: how many, or a negative errno. */
static ssize_t read_up_to(int fd, uint8_t *data, size_t size)
{
    size_t len = 0;

    while (len < size) {
        ssize_t n = read(fd, data + len, size - len);

        if (n < 0 && errno != EINTR)
            return -errno;
        if (n == 0)
            break;
        if (n > 0)
            len += (size_t)n;
    }
    return (ssize_t)len;
}

/* The first bytes, then what else fd has, into a memfd. */
static int collect(int memfd, int fd, const uint8_t *first, size_t len, uint64_t *size)
{
    _cleanup_free_ uint8_t *piece = malloc(PIECE);
    int r = hl_write_all(memfd, first, len);

    *size = len;
    if (!piece)
        return -ENOMEM;
    while (r == 0) {
        ssize_t n = read_up_to(fd, piece, PIECE);

        if (n <= 0)
            return (int)n;
        *size += (size_t)n;
        r = *size > UINT32_MAX ? -EFBIG : hl_write_all(memfd, piece, (size_t)n);
    }
    return r;
}

static int from_stream(const struct hlctl *ctl, int fd, const char *name, const uint8_t *first,
                       size_t len, struct hl_value *value)
{
    _cleanup_close_ int memfd = memfd_create("hlctl-argument", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    uint64_t size = 0;
    int r = memfd < 0 ? -errno : collect(memfd, fd, first, len, &size);

    if (r == 0 && fcntl(memfd, F_ADD_SEALS, SEALS) < 0)
        r = -errno;
    if (r == -EFBIG)
        return fail_local(ctl, "%s holds more than %u bytes, the most a function can take", name,
                          UINT32_MAX);
    if (r < 0)
        return fail_local(ctl, "cannot read %s: %s", name, strerror(-r));
    *value = (struct hl_value){.type = HL_TYPE_DESCRIPTOR,
                               .descriptor = {(size_t)size, hl_steal_fd(&memfd)}};
    return 0;
}

static int from_file(const struct hlctl *ctl, int fd, const char *name, struct hl_value *value)
{
    struct hl_client_error err;

    if (hl_descriptor_from_file(fd, value, &err) < 0)
        return fail_local(ctl, "%s: %s", name, err.text);
    return 0;
}

int input_take(const struct hlctl *ctl, int fd, const char *name, enum hl_type type, size_t left,
               struct hl_value *value, uint8_t **memory)
{
    size_t most = type == HL_TYPE_BYTES && left > INPUT_BULK_MIN ? INPUT_BULK_MIN : left + 1;
    struct stat st;
    ssize_t n;

    *memory = NULL;
    if (type == HL_TYPE_BYTES && fstat(fd, &st) == 0 && S_ISREG(st.st_mode) &&
        st.st_size >= (off_t)most && lseek(fd, 0, SEEK_CUR) == 0)
        return from_file(ctl, fd, name, value);
    *memory = malloc(most);
    if (!*memory)
        return fail_local(ctl, "out of memory");
    n = read_up_to(fd, *memory, most);
    if (n < 0)
        return fail_local(ctl, "cannot read %s: %s", name, strerror((int)-n));
    if ((size_t)n == most && type == HL_TYPE_BYTES)
        return from_stream(ctl, fd, name, *memory, most, value);
    if ((size_t)n == most)
        return fail_local(ctl,
                          "%s holds more than %zu bytes, the most of a string that a message can "
                          "carry; only bytes can be larger",
                          name, left);
    *value = (struct hl_value){.type = type, .bytes = {*memory, (size_t)n}};
    return 0;
}
