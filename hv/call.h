/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_HV_CALL_H
#define HL_HV_CALL_H

/* Arguments into the I/O window and results out of it, by the rules of guest/hl_abi.h. */

#include "base/error.h"
#include "base/value.h"
#include "guest/hl_abi.h"
#include "hv/image.h"

/* Checks args against fn. Returns: 0 with *size, the bytes the call takes in the window; -EINVAL,
 * -EMSGSIZE. */
int call_check(const struct image_function *fn, uint64_t io_size, const struct hl_value *args,
               size_t nargs, uint32_t *size, struct hl_error *err);

/* Writes the call to the start of the window; args passed call_check with that size. */
void call_write(uint8_t *window, uint32_t index, const struct hl_value *args, size_t nargs,
                uint32_t size);

/* Copies the result's header from offset and checks the copy: afterwards its ranges lie within the
 * window and its value is one of fn's type. Returns: 0, -EPROTO with err saying what is wrong. */
int call_read_result(const struct image_function *fn, const uint8_t *window, uint64_t io_size,
                     uint64_t offset, struct hl_abi_result *result, struct hl_error *err);

/* Memory for the bytes of one result after the other; all zero at first. */
struct call_buffer {
    uint8_t *data;
    size_t size;
};
void call_buffer_trim(struct call_buffer *buffer, size_t most); /* frees what is larger */

/* The value of a result that call_read_result passed. Strings and bytes, and the text of an error,
 * are copied into buffer, which grows as needed; or, with buffer NULL, stay in the window, which
 * nobody writes meanwhile. Returns: 0, -ENOMEM, -EPROTO. */
int call_take_value(const struct hl_abi_result *result, const uint8_t *window,
                    struct hl_value *value, struct call_buffer *buffer, struct hl_error *err);

#endif
