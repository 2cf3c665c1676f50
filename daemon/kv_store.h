/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_DAEMON_KV_STORE_H
#define HL_DAEMON_KV_STORE_H

/*
 * hl.kv on disk: one file for each image and uid whose calls it serves, in the state directory's
 * kv/. A file is small and always whole: a change writes a new one and renames it over the old.
 * These functions touch the disk alone and so may run on any thread, one at a time for a file.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "daemon/registry_io.h"

struct kv_store {
    const struct registry_io *io;
    int dir; /* -1: closed */
};

/* Makes the directory where it is missing. Returns: 0 or a negative errno with err. */
int kv_store_open(struct kv_store *store, const char *state_dir, const struct registry_io *io,
                  struct hl_error *err);
void kv_store_close(struct kv_store *store);

struct kv_bytes {
    uint8_t *data;
    size_t len;
};

/* *value: the caller's to free. Returns: 0; -ENOENT; -EBADMSG for a damaged file; another negative
 * errno. */
int kv_store_get(const struct kv_store *store, const char *image, uint32_t uid, const char *key,
                 struct kv_bytes *value, struct hl_error *err);

/* Afterwards the change is on the disk, or nothing has changed. size: what all keys and values, and
 * eight bytes for each of them, may take. Returns: 0; -EDQUOT; as get. */
int kv_store_put(const struct kv_store *store, const char *image, uint32_t uid, const char *key,
                 const struct kv_bytes *value, uint64_t size, struct hl_error *err);

/* Returns: 0; -ENOENT when there was none; as put. */
int kv_store_delete(const struct kv_store *store, const char *image, uint32_t uid, const char *key,
                    struct hl_error *err);

/* All files of an image, of whatever uid. Failures are logged. */
void kv_store_forget(const struct kv_store *store, const char *image);

/* Files of images that are not known, and what an interrupted change left. */
void kv_store_collect(const struct kv_store *store, bool (*known)(void *opaque, const char *image),
                      void *opaque);

#endif
