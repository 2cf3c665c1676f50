/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HLTYPES_H
#define HLTYPES_H

/*
 * What hld's own parts and its clients both speak of: typed values, signatures, status codes.
 * Installed beside hlclient.h; needs nothing else of hld. The type numbers are those of the guest
 * ABI and of the wire, so that no table translates.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define HL_PUBLIC __attribute__((visibility("default")))

#define HL_MAX_PARAMS 16
#define HL_NAME_MAX   63 /* of an image or a function, without the NUL */

enum hl_type {
    HL_TYPE_VOID = 0,
    HL_TYPE_I32 = 1,
    HL_TYPE_U32 = 2,
    HL_TYPE_I64 = 3,
    HL_TYPE_U64 = 4,
    HL_TYPE_F32 = 5,
    HL_TYPE_F64 = 6,
    HL_TYPE_BOOL = 7,
    HL_TYPE_STRING = 8, /* UTF-8, length-counted, may hold NUL bytes */
    HL_TYPE_BYTES = 9,

    /* Not in signatures: bytes that are in a file, as an argument or a result of type bytes. */
    HL_TYPE_DESCRIPTOR = 32,
};

/* An argument or a result of a call. */
struct hl_value {
    enum hl_type type;
    union {
        int32_t i32;
        uint32_t u32;
        int64_t i64;
        uint64_t u64;
        float f32;
        double f64;
        bool b;
        struct {
            const void *data; /* borrowed; never NUL-terminated by contract */
            size_t len;
        } bytes; /* HL_TYPE_STRING and HL_TYPE_BYTES */
        struct {
            size_t len;
            int fd;   /* borrowed: a memfd sealed against writing and shrinking */
        } descriptor; /* HL_TYPE_DESCRIPTOR: its first len bytes */
    };
};

struct hl_signature {
    enum hl_type ret;
    unsigned int nparams;
    enum hl_type params[HL_MAX_PARAMS];
};

/* "i32" … "bytes", "void"; NULL for a number that is no type. Static strings. */
HL_PUBLIC const char *hl_type_name(enum hl_type type);

/* Returns: the type of that name, or -EINVAL. */
HL_PUBLIC int hl_type_parse(const char *name);

/* Writes "add(i32, i32) -> i32" into buf, always NUL-terminated.
 * Returns: the length it would have had, as snprintf does. */
HL_PUBLIC int hl_signature_format(char *buf, size_t size, const char *name,
                                  const struct hl_signature *sig);

/* Who serves a host function, what a guest calls outward. */
enum hl_provider {
    HL_PROVIDER_CLIENT = 0,  /* whoever calls the image */
    HL_PROVIDER_SERVICE = 1, /* a connection that offers the name */
    HL_PROVIDER_BUILTIN = 2, /* hld itself: the names that begin with "hl." */
};

struct hl_host_function {
    char name[HL_NAME_MAX + 1];
    struct hl_signature sig;
    enum hl_provider provider;
};

/* An image's policy: what its guest may call outward, and how much. 0 is the default of each. */
#define HL_HOST_FUNCTIONS_MAX 32
#define HL_HOST_DEPTH_MAX     16
struct hl_host_policy {
    unsigned int nfunctions;
    struct hl_host_function functions[HL_HOST_FUNCTIONS_MAX];
    uint32_t max_calls; /* of one call; 0: no bound */
    uint32_t rate;      /* a second, of all its calls in one worker */
    uint32_t depth;     /* how deep in host calls the image may be called */
    uint64_t kv_size;   /* bytes of its hl.kv store */
    bool deterministic; /* time and randomness are the same in every call */
};

/* "lookup(string, u32) -> bytes @service", spaces as one likes; without "@" it is the client's, and
 * a name that begins with "hl." is hld's own, whose signature may be left out.
 * Returns: 0, or -EINVAL with why (size bytes) saying what is wrong. */
HL_PUBLIC int hl_host_function_parse(struct hl_host_function *out, const char *text, char *why,
                                     size_t size);
/* Writes what parse reads. Returns: the length it would have had, as snprintf does. */
HL_PUBLIC int hl_host_function_format(char *buf, size_t size,
                                      const struct hl_host_function *function);

/* google.rpc.Code, https://github.com/googleapis/googleapis/blob/master/google/rpc/code.proto */
enum hl_status {
    HL_STATUS_OK = 0,
    HL_STATUS_CANCELLED = 1,
    HL_STATUS_UNKNOWN = 2,
    HL_STATUS_INVALID_ARGUMENT = 3,
    HL_STATUS_DEADLINE_EXCEEDED = 4,
    HL_STATUS_NOT_FOUND = 5,
    HL_STATUS_ALREADY_EXISTS = 6,
    HL_STATUS_PERMISSION_DENIED = 7,
    HL_STATUS_RESOURCE_EXHAUSTED = 8,
    HL_STATUS_FAILED_PRECONDITION = 9,
    HL_STATUS_ABORTED = 10,
    HL_STATUS_OUT_OF_RANGE = 11,
    HL_STATUS_UNIMPLEMENTED = 12,
    HL_STATUS_INTERNAL = 13,
    HL_STATUS_UNAVAILABLE = 14,
    HL_STATUS_DATA_LOSS = 15,
    HL_STATUS_UNAUTHENTICATED = 16,
};

/* "NOT_FOUND" and so on; "UNKNOWN" for a number outside the set. Static strings. */
HL_PUBLIC const char *hl_status_name(int status);

#ifdef __cplusplus
}
#endif

#endif
