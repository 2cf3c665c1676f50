/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_HV_SNAPSHOT_FILE_H
#define HL_HV_SNAPSHOT_FILE_H

/*
 * A snapshot as a file: little-endian, one header with its tables, padded to a page, then the pages
 * of each extent, in order, so that they can be mapped as they stand. It holds what a guest could
 * have brought about by itself and nothing else: memory above the I/O window, permissions,
 * registers. What is the machine's (page tables, descriptor tables, hypercall and info page) is
 * made anew by whoever loads it.
 *
 * The content is hostile. Whether it is what was written is not told here: whoever keeps such files
 * keeps a digest beside them.
 */

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/value.h"
#include "hv/backend.h"
#include "hv/features.h"
#include "hv/image.h"
#include "hv/snapshot.h"

/* Another number whenever another meaning: of the file, or of what a machine at READY is. */
#define SNAPSHOT_FILE_FORMAT 1u
#define SNAPSHOT_KEY_SIZE    32u
#define SNAPSHOT_VERSION_MAX 31u

/* What a snapshot was made of and for. All of it is compared. */
struct snapshot_key {
    char version[SNAPSHOT_VERSION_MAX + 1]; /* of this software; cut where it is longer */
    char name[HL_NAME_MAX + 1];             /* argv[0] of the start-up */
    uint8_t program[SNAPSHOT_KEY_SIZE];     /* SHA-256 of the ELF file */
    uint8_t host[SNAPSHOT_KEY_SIZE];        /* digest of snapshot_host_features */
};

/* What key.host is to be a digest of, in the backend's words too. */
void snapshot_host_features(struct hv_features *out, const struct hv_backend *hv,
                            struct hv_host *host);

/* *fd: a sealed memory file, the caller's; *size: its bytes. Returns: 0; -EOPNOTSUPP for a snapshot
 * that the format cannot hold (its permissions change too often); -ENOMEM, -EFBIG, … */
int snapshot_file_write(int *fd, uint64_t *size, const struct snapshot *snap,
                        const struct hv_backend *hv, const struct snapshot_key *key,
                        struct hl_error *err);

/* The same for a file that has only pages that differ from root's, a snapshot of the same program
 * and size, which the new one refers to and shares memory with. root NULL: as below. */
int snapshot_file_load_over(struct snapshot **out, int fd, struct snapshot *root,
                            const struct hv_backend *hv, struct hv_host *host,
                            const struct image *img, const struct snapshot_options *options,
                            const struct snapshot_key *key, struct hl_error *err);

/* fd: a memory file, borrowed; it must be sealed against writing, shrinking and growing. The
 * snapshot may keep a reference to it and use its pages as they are. options: memory_size, io_size.
 * Returns: 0; -ESTALE for the snapshot of another program, host, version or size; -EBADMSG with the
 * reason for one that does not hold together; -ENOMEM, -EMFILE. */
int snapshot_file_load(struct snapshot **out, int fd, const struct hv_backend *hv,
                       struct hv_host *host, const struct image *img,
                       const struct snapshot_options *options, const struct snapshot_key *key,
                       struct hl_error *err);

#endif
