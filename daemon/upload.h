/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_DAEMON_UPLOAD_H
#define HL_DAEMON_UPLOAD_H

/* Programs on their way in: a memfd each, few to a connection, charged as they grow. */

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

struct charge;
struct conn;
struct upload;

/* id 0 starts one. offset must be what was received so far; what grows past the largest program
 * is dropped. Returns: 0 with *out; -ENOENT, -EINVAL, -ENOBUFS, … with err. */
int upload_write(struct conn *conn, uint64_t id, uint64_t offset, const void *data, size_t len,
                 struct upload **out, struct hl_error *err);

struct upload *upload_find(struct conn *conn, uint64_t id); /* NULL for none */

void upload_drop(struct upload *upload);

/* Seals what was received; *fd and *charge are the caller's, the upload is over. */
int upload_finish(struct upload *upload, int *fd, struct charge *charge, struct hl_error *err);

#endif
