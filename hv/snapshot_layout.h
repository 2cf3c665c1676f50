/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_HV_SNAPSHOT_LAYOUT_H
#define HL_HV_SNAPSHOT_LAYOUT_H

/* The bytes of a snapshot's file: inside of hv/snapshot_file.h, and for what tests it. */

#include <stddef.h>
#include <stdint.h>

#include "hv/snapshot_file.h"

#define SNAPSHOT_FILE_MAGIC    "hldsnap"
#define SNAPSHOT_FILE_RUNS_MAX 1024u /* of each list; as many as the process backend can take */

struct snapshot_file_extent {
    uint64_t start, len;
};

struct snapshot_file_run {
    uint32_t pages, value;
};

struct snapshot_file_header {
    char magic[8];
    uint32_t format, abi;
    char version[SNAPSHOT_VERSION_MAX + 1];
    char backend[16];
    char name[64];
    uint8_t program[SNAPSHOT_KEY_SIZE];
    uint8_t host[SNAPSHOT_KEY_SIZE];
    uint64_t memory_size, io_size;
    struct hv_regs regs;
    struct linux_state linux_state;
    uint64_t ready_ns; /* the guest's monotonic clock */
    uint64_t data_offset;
    uint32_t nextents, nprot, nused, zero;
    /* then: nextents of struct snapshot_file_extent, nprot runs of permissions, nused runs of 0 and
     * 1, each list of runs covering all of memory */
};

_Static_assert(HL_NAME_MAX < 64, "name");
_Static_assert(sizeof(struct snapshot_file_extent) == 16 && sizeof(struct snapshot_file_run) == 8,
               "no padding");
_Static_assert(sizeof(struct hv_regs) == 160 && sizeof(struct linux_state) == 48, "no padding");
_Static_assert(offsetof(struct snapshot_file_header, memory_size) == 192, "no padding");
_Static_assert(sizeof(struct snapshot_file_header) == 448, "no padding");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the file is as memory is");

#endif
