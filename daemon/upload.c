/* SPDX-License-Identifier: Apache-2.0 */
/* Uploads. The memfd is sealed before anyone reads it, so that what is checked stays what was sent
 * even for the front, to which the descriptor goes. */
#include "config.h"

#include "daemon/upload.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "daemon/conn.h"
#include "daemon/engine.h"
#include "daemon/shard.h"

struct upload *upload_find(struct conn *conn, uint64_t id)
{
    for (size_t i = 0; id != 0 && i < CONN_UPLOADS_MAX; i++) {
        if (conn->uploads[i].id == id)
            return &conn->uploads[i];
    }
    return NULL;
}

static int start(struct conn *conn, struct upload **out, struct hl_error *err)
{
    for (size_t i = 0; i < CONN_UPLOADS_MAX; i++) {
        struct upload *upload = &conn->uploads[i];

        if (upload->id != 0)
            continue;
        upload->fd = memfd_create("hld-upload", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        if (upload->fd < 0)
            return hl_error_set(err, -errno, "memfd_create: %s", strerror(errno));
        upload->id = ++conn->next_upload;
        upload->received = 0;
        *out = upload;
        return 0;
    }
    return hl_error_set(err, -EAGAIN, "a connection has at most %d uploads", CONN_UPLOADS_MAX);
}

static int write_whole(int fd, const uint8_t *data, size_t len, uint64_t offset)
{
    while (len > 0) {
        ssize_t n = pwrite(fd, data, len, (off_t)offset);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -EIO;
        data += n;
        offset += (uint64_t)n;
        len -= (size_t)n;
    }
    return 0;
}

void upload_drop(struct upload *upload)
{
    hl_cleanup_closep(&upload->fd);
    charge_release(&upload->charge);
    upload->id = 0;
    upload->fd = -1;
}

int upload_write(struct conn *conn, uint64_t id, uint64_t offset, const void *data, size_t len,
                 struct upload **out, struct hl_error *err)
{
    struct shard *shard = conn->shard;
    uint64_t max = shard->settings.max_image_size;
    struct upload *upload = upload_find(conn, id);
    int r;

    if (id != 0 && !upload)
        return hl_error_set(err, -ENOENT, "this connection has no upload %" PRIu64, id);
    if (offset != (upload ? upload->received : 0))
        return hl_error_set(err, -EINVAL, "offset %" PRIu64 ": the next byte is %" PRIu64, offset,
                            upload ? upload->received : 0);
    if (len > max || offset > max - len) {
        if (upload)
            upload_drop(upload);
        return hl_error_set(err, -EINVAL, "the program is over max_image_size, %" PRIu64 " bytes",
                            max);
    }
    if (!upload) {
        r = start(conn, &upload, err);
        if (r < 0)
            return r;
    }
    if (!charge_set(&upload->charge, &shard->engine->budget, BUDGET_CLIENT_BYTES, offset + len)) {
        upload_drop(upload);
        return hl_error_set(err, -ENOBUFS, "no room for another upload now");
    }
    r = write_whole(upload->fd, data, len, offset);
    if (r < 0) {
        upload_drop(upload);
        return hl_error_set(err, r, "writing the upload: %s", strerror(-r));
    }
    upload->received = offset + len;
    *out = upload;
    return 0;
}

int upload_finish(struct upload *upload, int *fd, struct charge *charge, struct hl_error *err)
{
    const int seals = F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;

    if (fcntl(upload->fd, F_ADD_SEALS, seals) < 0) {
        int r = -errno;

        upload_drop(upload);
        return hl_error_set(err, r, "sealing the upload: %s", strerror(-r));
    }
    *fd = upload->fd;
    *charge = upload->charge;
    upload->charge = (struct charge){0};
    upload->fd = -1;
    upload->id = 0;
    return 0;
}
