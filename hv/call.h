/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_HV_CALL_H
#define HL_HV_CALL_H

/* Arguments into the I/O window and results out of it, by the rules of guest/hl_abi.h. */

#include "base/error.h"
#include "base/value.h"
#include "guest/hl_abi.h"
#include "hv/backend.h"
#include "hv/image.h"

/* Arguments, and where those in descriptors are to be: at[i] in the bulk window, or 0: in the I/O
 * window like others, copied. */
struct call_args {
    const struct hl_value *args;
    size_t nargs;
    hl_gpa at[HL_ABI_MAX_PARAMS];
};

/* Finds at for args; bulk: whether the guest has a bulk window. What is small is copied, which
 * takes less time than to map it. Returns: 0; -EINVAL for too many; -EMSGSIZE. */
#define CALL_COPY_MOST 16384u
int call_place(struct call_args *out, const struct hl_value *args, size_t nargs, bool bulk,
               struct hl_error *err);

/* Checks args against fn. Returns: 0 with *size, the bytes the call takes in the I/O window;
 * -EINVAL, -EMSGSIZE. */
int call_check(const struct image_function *fn, uint64_t io_size, const struct call_args *args,
               uint32_t *size, struct hl_error *err);

struct call_head {
    uint32_t function;      /* its index */
    uint16_t flags;         /* HL_ABI_CALL_… */
    uint32_t size;          /* call_check's, or call_size_with_entropy's of that */
    const uint8_t *entropy; /* HL_ABI_ENTROPY_SIZE bytes for the end of it, or NULL */
};

uint64_t call_size_with_entropy(uint32_t size);

/* Writes the call to the start of the window; args passed call_check. Returns: 0; -EIO when a
 * descriptor that is to be copied has fewer bytes than its value says. */
int call_write(uint8_t *window, const struct call_head *head, const struct call_args *args);

/* Copies the result's header from offset and checks the copy: afterwards its ranges lie within the
 * window, or those of bytes within reach, from the window's start as well, and its value is one of
 * fn's type. reach: io_size unless the call is LARGE. Returns: 0, -EPROTO with err saying what is
 * wrong. */
struct call_window {
    const uint8_t *data;
    uint64_t io_size, reach;
};
int call_read_result(const struct image_function *fn, const struct call_window *window,
                     uint64_t offset, struct hl_abi_result *result, struct hl_error *err);

/* Memory for the bytes of one result after the other; all zero at first. */
struct call_buffer {
    uint8_t *data;
    size_t size;
};
#define CALL_BUFFER_KEPT (64u << 10)                            /* between calls */
void call_buffer_trim(struct call_buffer *buffer, size_t most); /* frees what is larger */

/* More than len bytes; what was in it is gone. Returns: 0, -ENOMEM. */
int call_buffer_take(struct call_buffer *buffer, size_t len);

/* The value of a result that call_read_result passed. Strings and bytes, and the text of an error,
 * are copied into buffer, which grows as needed; or, with buffer NULL, stay in the window, which
 * nobody writes meanwhile. Returns: 0, -ENOMEM, -EPROTO. */
int call_take_value(const struct hl_abi_result *result, const uint8_t *window,
                    struct hl_value *value, struct call_buffer *buffer, struct hl_error *err);

/* Values as struct hl_abi_value has them. */
bool call_is_counted(enum hl_type type); /* strings and bytes */
uint64_t call_scalar_bits(const struct hl_value *value);
bool call_scalar_valid(enum hl_type type, uint64_t bits);     /* extended as the type says */
void call_scalar_take(struct hl_value *value, uint64_t bits); /* value->type is set */

#endif
