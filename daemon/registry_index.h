/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_DAEMON_REGISTRY_INDEX_H
#define HL_DAEMON_REGISTRY_INDEX_H

/* The registry's sorted arrays: inside of registry.h. */

#include <stddef.h>
#include <stdint.h>

#include "daemon/registry.h"

struct index_blob {
    uint8_t sha256[REGISTRY_SHA256_SIZE];
    uint64_t size;
    enum blob_state state;
    struct registry_stamp stamp; /* the file that was found good; none while nobody read it */
    size_t references;           /* entries that stand for it */
};

struct index_entry {
    struct manifest manifest; /* host is the entry's */
    enum entry_state state;
    uint64_t generation;
    struct index_blob *blob;                  /* NULL unless state is ENTRY_USABLE */
    struct index_blob *parts[MANIFEST_PARTS]; /* NULL without a state */
    uint64_t snapshot;                        /* bytes of its file; 0: none */
    uint64_t snapshot_version;                /* changes whenever that is another */
};

struct index_array {
    void **items;
    size_t count, size;
};

struct index {
    struct index_array entries; /* struct index_entry, by name */
    struct index_array blobs;   /* struct index_blob, by digest */
};

struct registry {
    struct registry_store store;
    struct index index;
    uint64_t generation;
    uint64_t snapshot_versions;
    bool changing;
};

/* Room for one more image with all its files, so that index_add and index_add_blob cannot fail. */
int index_reserve(struct index *index);
void index_fini(struct index *index);
void index_entry_free(struct index_entry *entry); /* NULL is allowed */

struct index_entry *index_find(const struct index *index, const char *name);
struct index_blob *index_find_blob(const struct index *index,
                                   const uint8_t sha256[REGISTRY_SHA256_SIZE]);

/* Position of the first entry whose name comes after name. */
size_t index_after(const struct index *index, const char *name);

/* Position of the first program whose digest comes after sha256. */
size_t index_blob_after(const struct index *index, const uint8_t sha256[REGISTRY_SHA256_SIZE]);

void index_add(struct index *index, struct index_entry *entry);
void index_add_blob(struct index *index, struct index_blob *blob);

/* Returns: what was taken out, the caller's now; NULL when the name is unknown. */
struct index_entry *index_remove(struct index *index, const char *name);
void index_remove_blob(struct index *index, struct index_blob *blob);

#endif
