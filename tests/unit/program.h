/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TESTS_UNIT_PROGRAM_H
#define TESTS_UNIT_PROGRAM_H

/*
 * Real guest programs on a real backend, for unit tests: loads one from the build tree, calls its
 * functions, and makes a new instance whenever a call has used one up. Failures of the machinery
 * itself end the test.
 */

#include <check.h>
#include <stdbool.h>

#include "hv/instance.h"
#include "hv/snapshot_file.h"

struct program {
    void *elf;
    size_t elf_len;
    struct image *img;
    struct snapshot *snap;
    struct instance *inst; /* NULL between a call that used it up and the next */
    unsigned int skip;     /* enum hv_reset_skip, for new instances */
    bool audit;            /* after every reset */
    bool keep;             /* no resets: calls find what the ones before left */
    unsigned int made;     /* instances so far */
    int reset;             /* what the last reset returned */
    char log[8192];        /* lines of the last call, each with its newline */
    /* Answers a call of a host function, on p->inst; NULL: all are denied. */
    void (*answer)(struct program *p, const struct instance_host_call *call);
    void *opaque;        /* answer's own */
    const uint8_t *seed; /* of made-up time and randomness, for start-up and new instances */
};

/* How a call went. */
struct outcome {
    enum instance_state state;
    struct instance_result result;   /* INSTANCE_DONE; -EPROTO for one that was no result */
    struct instance_failure failure; /* INSTANCE_FAULT */
    struct instance_counters counters;
    void *storage; /* of the result's bytes */
    int refused;   /* instance_begin's error */
    struct hl_error err;
};

/* A test program's main: runs what add_case adds, once for each backend that works here, and on kvm
 * once more with snapshots that were written to a file and loaded again. open and
 * close are a checked fixture's setup and teardown. */
int programs_main(int argc, char **argv, const char *name,
                  void (*add_case)(Suite *suite, const char *backend, void (*open)(void)));
void programs_close(void);

extern const struct hv_backend *program_hv;

/* file: under the build directory. Returns what snapshot_build or image_new did; on 0 the program
 * is ready. */
int program_try(struct program *p, const char *file, uint64_t memory_size, unsigned int ms,
                struct hl_error *err);
void program_load(struct program *p, const char *file); /* 64 MiB, audited, must work */
void program_load_seeded(struct program *p, const char *file, const uint8_t *seed); /* likewise */
void program_load_sized(struct program *p, const char *file, uint64_t memory_size,
                        uint64_t io_size); /* likewise */
void program_free(struct program *p);
void program_renew(struct program *p); /* a new instance, where there is none */
/* A file of history_commit takes the place of p's snapshot. Returns: as snapshot_file_load_over. */
int program_become(struct program *p, int fd, const struct snapshot_key *key, struct hl_error *err);
struct instance *program_instance(struct program *p); /* made if there is none */

struct outcome program_call(struct program *p, const char *function, unsigned int ms,
                            const struct hl_value *args, size_t nargs);
void outcome_free(struct outcome *o);

#define CALL_MS(p, function, ms, ...)                                                              \
    program_call(p, function, ms, (const struct hl_value[]){__VA_ARGS__},                          \
                 sizeof((const struct hl_value[]){__VA_ARGS__}) / sizeof(struct hl_value))
#define CALL(p, function, ...) CALL_MS(p, function, 10000, __VA_ARGS__)
#define CALL0(p, function)     program_call(p, function, 10000, NULL, 0)

#define I32(v)      ((struct hl_value){.type = HL_TYPE_I32, .i32 = (v)})
#define U32(v)      ((struct hl_value){.type = HL_TYPE_U32, .u32 = (v)})
#define I64(v)      ((struct hl_value){.type = HL_TYPE_I64, .i64 = (v)})
#define U64(v)      ((struct hl_value){.type = HL_TYPE_U64, .u64 = (v)})
#define F32(v)      ((struct hl_value){.type = HL_TYPE_F32, .f32 = (v)})
#define F64(v)      ((struct hl_value){.type = HL_TYPE_F64, .f64 = (v)})
#define BOOL(v)     ((struct hl_value){.type = HL_TYPE_BOOL, .b = (v)})
#define STR(v)      ((struct hl_value){.type = HL_TYPE_STRING, .bytes = {(v), strlen(v)}})
#define BYTES(p, n) ((struct hl_value){.type = HL_TYPE_BYTES, .bytes = {(p), (n)}})

/* What most calls should come to; each frees the outcome. */
void expect_bytes(struct outcome o, const void *data, size_t len);
void expect_string(struct outcome o, const char *text);
void expect_error(struct outcome o, int code, const char *part_of_text);
void expect_i64(struct outcome o, int64_t value); /* any integer type, and bool */
void expect_void(struct outcome o);
void expect_end(struct outcome o, enum instance_end end);

#endif
