/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a hostile guest leaves in its memory for the host to take: a call of a host function, and a
 * result in a window, whose function is the input's first byte.
 */
#include "config.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/value.h"
#include "hv/call.h"
#include "hv/host_call.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool good)
{
    if (!good)
        abort();
}

static void check_value(const struct hl_value *value, const uint8_t *start, size_t size)
{
    const uint8_t *data = value->bytes.data;

    check(hl_type_name(value->type) != NULL);
    if (!call_is_counted(value->type))
        return;
    check(value->bytes.len <= size && data >= start && data - start <= (ptrdiff_t)size &&
          value->bytes.len <= size - (size_t)(data - start));
    check(value->type != HL_TYPE_STRING || hl_utf8_valid(data, value->bytes.len));
}

static void host_call(const uint8_t *data, size_t size)
{
    const uint32_t magic = HL_ABI_HOST_CALL_MAGIC; /* or few inputs would get any further */
    struct host_call call = {.buffer = {.data = malloc(size + 1), .size = size + 1}};
    struct hl_error err = HL_ERROR_INIT;
    int rc;

    check(call.buffer.data != NULL);
    memcpy(call.buffer.data, data, size);
    if (size >= sizeof(magic))
        memcpy(call.buffer.data, &magic, sizeof(magic));
    rc = host_call_decode(&call, size, &err);
    check(rc == 0 || rc == -EINVAL || rc == -EILSEQ || (rc == -EPROTO && err.text[0]));
    if (rc == 0) {
        size_t len = strnlen(call.shown.name, sizeof(call.shown.name));

        check(len > 0 && len < sizeof(call.shown.name) && call.shown.nargs <= HL_ABI_MAX_PARAMS);
        for (size_t i = 0; i < call.shown.nargs; i++)
            check_value(&call.shown.args[i], call.buffer.data, size);
    }
    free(call.buffer.data);
}

static void result(const uint8_t *data, size_t size, enum hl_type type)
{
    const struct call_window window = {.data = data, .io_size = size, .reach = size};
    const struct image_function fn = {.name = "f", .sig = {.ret = type}};
    struct call_buffer buffer = {0};
    struct hl_abi_result header;
    struct hl_value value;

    if (call_read_result(&fn, &window, 0, &header, NULL) == 0 &&
        call_take_value(&header, data, &value, &buffer, NULL) == 0)
        check_value(&value, buffer.data, buffer.size);
    call_buffer_trim(&buffer, 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    host_call(data, size);
    if (size > 0)
        result(data + 1, size - 1, (enum hl_type)(data[0] % (HL_TYPE_BYTES + 1)));
    return 0;
}
