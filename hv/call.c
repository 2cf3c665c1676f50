/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One call's arguments and result in the I/O window. The window belongs to the guest: it is written
 * front to back without reading, and of a result first the header is copied and checked, then the
 * bytes it points to are copied and the copy is checked. Nothing is read twice. Where a guest that
 * does not run cannot write (backend.h: settled), the window itself is as good as a copy of the
 * bytes, and large results are not copied.
 */
#include "hv/call.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BUFFER_STEP 4096u

bool call_is_counted(enum hl_type type)
{
    return type == HL_TYPE_STRING || type == HL_TYPE_BYTES;
}

static uint64_t align8(uint64_t value)
{
    return (value + 7) & ~7ull;
}

static const char *type_shown(enum hl_type type)
{
    const char *name = hl_type_name(type);

    return name ? name : "of an unknown type";
}

int call_place(struct call_args *out, const struct hl_value *args, size_t nargs, bool bulk,
               struct hl_error *err)
{
    hl_gpa next = HL_ABI_BULK_ADDR;

    out->args = args;
    out->nargs = nargs;
    for (size_t i = 0; i < nargs && i < HL_ABI_MAX_PARAMS; i++) {
        uint64_t len = args[i].descriptor.len;

        out->at[i] = 0;
        if (!bulk || args[i].type != HL_TYPE_DESCRIPTOR || len <= CALL_COPY_MOST)
            continue;
        if (len > UINT32_MAX || len > HL_ABI_BULK_ADDR + HL_ABI_BULK_SIZE - next)
            return hl_error_set(err, -EMSGSIZE,
                                "the arguments' descriptors hold more than the %llu bytes that a "
                                "call takes",
                                HL_ABI_BULK_SIZE - 1);
        out->at[i] = next;
        next += (len + HL_ABI_BULK_UNIT - 1) / HL_ABI_BULK_UNIT * HL_ABI_BULK_UNIT;
    }
    return 0;
}

static int check_value(const struct image_function *fn, size_t i, const struct hl_value *arg,
                       struct hl_error *err)
{
    enum hl_type type = arg->type == HL_TYPE_DESCRIPTOR ? HL_TYPE_BYTES : arg->type;
    char signature[160];

    if (type != fn->sig.params[i]) {
        hl_signature_format(signature, sizeof(signature), fn->name, &fn->sig);
        return hl_error_set(err, -EINVAL, "argument %zu of %s must be %s, not %s", i + 1, signature,
                            type_shown(fn->sig.params[i]), type_shown(type));
    }
    if (type == HL_TYPE_STRING && !hl_utf8_valid(arg->bytes.data, arg->bytes.len))
        return hl_error_set(err, -EINVAL,
                            "argument %zu of %s is a string but not well-formed UTF-8", i + 1,
                            fn->name);
    return 0;
}

static bool has_bytes(const struct hl_value *value)
{
    return value->type == HL_TYPE_DESCRIPTOR || call_is_counted(value->type);
}

static uint64_t bytes_of(const struct hl_value *value)
{
    return value->type == HL_TYPE_DESCRIPTOR ? value->descriptor.len : value->bytes.len;
}

int call_check(const struct image_function *fn, uint64_t io_size, const struct call_args *args,
               uint32_t *size, struct hl_error *err)
{
    uint64_t room = io_size > HL_ABI_RESULT_ROOM ? io_size - HL_ABI_RESULT_ROOM : 0;
    uint64_t total = sizeof(struct hl_abi_call) + args->nargs * sizeof(struct hl_abi_value);
    char signature[160];

    if (args->nargs != fn->sig.nparams) {
        hl_signature_format(signature, sizeof(signature), fn->name, &fn->sig);
        return hl_error_set(err, -EINVAL, "%s takes %u argument%s, %zu given", signature,
                            fn->sig.nparams, fn->sig.nparams == 1 ? "" : "s", args->nargs);
    }
    for (size_t i = 0; i < args->nargs; i++) {
        const struct hl_value *arg = &args->args[i];
        int rc = check_value(fn, i, arg, err);

        if (rc < 0)
            return rc;
        if (has_bytes(arg) && !args->at[i] &&
            (bytes_of(arg) > UINT32_MAX ||
             __builtin_add_overflow(align8(total), bytes_of(arg), &total)))
            total = UINT64_MAX - 8;
    }
    if (total > room)
        return hl_error_set(err, -EMSGSIZE,
                            "the arguments take %" PRIu64 " bytes, more than the %" PRIu64
                            " this image's I/O window of %" PRIu64 " leaves them",
                            total, room, io_size);
    *size = (uint32_t)total;
    return 0;
}

uint64_t call_scalar_bits(const struct hl_value *value)
{
    uint32_t low;
    uint64_t bits;

    switch (value->type) {
    case HL_TYPE_I32:
        return (uint64_t)(int64_t)value->i32;
    case HL_TYPE_U32:
        return value->u32;
    case HL_TYPE_I64:
        return (uint64_t)value->i64;
    case HL_TYPE_U64:
        return value->u64;
    case HL_TYPE_F32:
        memcpy(&low, &value->f32, sizeof(low));
        return low;
    case HL_TYPE_F64:
        memcpy(&bits, &value->f64, sizeof(bits));
        return bits;
    case HL_TYPE_BOOL:
        return value->b ? 1 : 0;
    default:
        return 0;
    }
}

uint64_t call_size_with_entropy(uint32_t size)
{
    return align8(size) + HL_ABI_ENTROPY_SIZE;
}

static int copy_file(uint8_t *to, int fd, size_t len)
{
    size_t done = 0;

    while (done < len) {
        ssize_t n = pread(fd, to + done, len - done, (off_t)done);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return -EIO;
        done += (size_t)n;
    }
    return 0;
}

/* The bytes of arg, at offset at. */
static int write_bytes(uint8_t *window, uint64_t at, const struct hl_value *arg)
{
    if (arg->type == HL_TYPE_DESCRIPTOR)
        return copy_file(window + at, arg->descriptor.fd, arg->descriptor.len);
    if (arg->bytes.len > 0)
        memcpy(window + at, arg->bytes.data, arg->bytes.len);
    return 0;
}

int call_write(uint8_t *window, const struct call_head *head, const struct call_args *args)
{
    const struct hl_abi_call header = {
        .magic = HL_ABI_CALL_MAGIC,
        .function = head->function,
        .nargs = (uint16_t)args->nargs,
        .flags = head->flags,
        .size = head->size,
    };
    struct hl_abi_value values[HL_ABI_MAX_PARAMS] = {0};
    uint64_t at = sizeof(header) + args->nargs * sizeof(values[0]);

    for (size_t i = 0; i < args->nargs; i++) {
        const struct hl_value *arg = &args->args[i];

        if (!has_bytes(arg)) {
            values[i].type = (uint32_t)arg->type;
            values[i].bits = call_scalar_bits(arg);
            continue;
        }
        values[i].type = arg->type == HL_TYPE_STRING ? HL_ABI_STRING : HL_ABI_BYTES;
        values[i].len = (uint32_t)bytes_of(arg);
        if (args->at[i]) {
            values[i].bits = args->at[i] - HL_ABI_IO_ADDR;
            continue;
        }
        at = align8(at);
        values[i].bits = at;
        if (write_bytes(window, at, arg) < 0)
            return -EIO;
        at += values[i].len;
    }
    if (head->entropy)
        memcpy(window + head->size - HL_ABI_ENTROPY_SIZE, head->entropy, HL_ABI_ENTROPY_SIZE);
    memcpy(window, &header, sizeof(header));
    memcpy(window + sizeof(header), values, args->nargs * sizeof(values[0]));
    return 0;
}

static bool in_window(uint64_t offset, uint64_t len, uint64_t io_size)
{
    return offset <= io_size && len <= io_size - offset;
}

bool call_scalar_valid(enum hl_type type, uint64_t bits)
{
    switch (type) {
    case HL_TYPE_I32:
        return (uint64_t)(int64_t)(int32_t)bits == bits;
    case HL_TYPE_U32:
    case HL_TYPE_F32:
        return bits <= UINT32_MAX;
    case HL_TYPE_BOOL:
        return bits <= 1;
    default:
        return true;
    }
}

static int check_bits(enum hl_type type, uint64_t bits, uint32_t len, struct hl_error *err)
{
    if (len != 0)
        return hl_error_set(err, -EPROTO, "its result is %s but has a length of %u",
                            type_shown(type), len);
    if (!call_scalar_valid(type, bits))
        return hl_error_set(err, -EPROTO, "its result 0x%" PRIx64 " is no %s", bits,
                            type_shown(type));
    return 0;
}

static int check_error(const struct hl_abi_result *result, uint64_t io_size, struct hl_error *err)
{
    if (result->text_len > HL_ABI_LOG_MAX)
        return hl_error_set(err, -EPROTO, "its error text has %u bytes, more than %u",
                            result->text_len, HL_ABI_LOG_MAX);
    if (!in_window(result->text, result->text_len, io_size))
        return hl_error_set(err, -EPROTO,
                            "its error text at offset 0x%" PRIx64 " is outside the I/O window",
                            result->text);
    return 0;
}

int call_read_result(const struct image_function *fn, const struct call_window *window,
                     uint64_t offset, struct hl_abi_result *result, struct hl_error *err)
{
    const struct hl_abi_value *value = &result->value;
    uint64_t io_size = window->io_size;

    if (offset % 8 != 0 || !in_window(offset, sizeof(*result), io_size))
        return hl_error_set(err, -EPROTO,
                            "its result at offset 0x%" PRIx64 " is misaligned or outside the I/O "
                            "window",
                            offset);
    memcpy(result, window->data + offset, sizeof(*result));
    if (result->magic != HL_ABI_RESULT_MAGIC)
        return hl_error_set(err, -EPROTO, "its result's magic is 0x%08x", result->magic);
    if (result->error > 1)
        return hl_error_set(err, -EPROTO, "its result's error field is %u", result->error);
    if (result->error)
        return check_error(result, io_size, err);
    if (value->type != (uint32_t)fn->sig.ret)
        return hl_error_set(err, -EPROTO, "%s returned type %u instead of %s", fn->name,
                            value->type, type_shown(fn->sig.ret));
    if (!call_is_counted(fn->sig.ret))
        return check_bits(fn->sig.ret, value->bits, value->len, err);
    if (!in_window(value->bits, value->len, fn->sig.ret == HL_TYPE_BYTES ? window->reach : io_size))
        return hl_error_set(err, -EPROTO,
                            "its result of %u bytes at offset 0x%" PRIx64
                            " is outside the I/O window",
                            value->len, value->bits);
    return 0;
}

void call_buffer_trim(struct call_buffer *buffer, size_t most)
{
    if (buffer->size <= most)
        return;
    free(buffer->data);
    *buffer = (struct call_buffer){0};
}

int call_buffer_take(struct call_buffer *buffer, size_t len)
{
    size_t size = (len / BUFFER_STEP + 1) * BUFFER_STEP;

    if (len < buffer->size)
        return 0;
    call_buffer_trim(buffer, 0);
    buffer->data = malloc(size);
    if (!buffer->data)
        return -ENOMEM;
    buffer->size = size;
    return 0;
}

/* Returns: where len bytes of the window are that no guest changes any more, or NULL. */
static const uint8_t *settle_bytes(const uint8_t *window, uint64_t offset, uint32_t len,
                                   struct call_buffer *buffer)
{
    if (!buffer)
        return window + offset;
    if (call_buffer_take(buffer, len) < 0)
        return NULL;
    return memcpy(buffer->data, window + offset, len);
}

static int take_bytes(const uint8_t *window, uint64_t offset, uint32_t len, bool text,
                      struct hl_value *value, struct call_buffer *buffer, struct hl_error *err)
{
    const uint8_t *bytes = settle_bytes(window, offset, len, buffer);

    if (!bytes)
        return hl_error_set(err, -ENOMEM, "no memory for a result of %u bytes", len);
    if (text && !hl_utf8_valid(bytes, len))
        return hl_error_set(err, -EPROTO, "its text is not well-formed UTF-8");
    value->bytes.data = bytes;
    value->bytes.len = len;
    return 0;
}

void call_scalar_take(struct hl_value *value, uint64_t bits)
{
    uint32_t low = (uint32_t)bits;

    switch (value->type) {
    case HL_TYPE_I32:
        value->i32 = (int32_t)low;
        break;
    case HL_TYPE_U32:
        value->u32 = low;
        break;
    case HL_TYPE_I64:
        value->i64 = (int64_t)bits;
        break;
    case HL_TYPE_U64:
        value->u64 = bits;
        break;
    case HL_TYPE_F32:
        memcpy(&value->f32, &low, sizeof(low));
        break;
    case HL_TYPE_F64:
        memcpy(&value->f64, &bits, sizeof(bits));
        break;
    case HL_TYPE_BOOL:
        value->b = bits != 0;
        break;
    default:
        break;
    }
}

int call_take_value(const struct hl_abi_result *result, const uint8_t *window,
                    struct hl_value *value, struct call_buffer *buffer, struct hl_error *err)
{
    memset(value, 0, sizeof(*value));
    if (result->error) {
        value->type = HL_TYPE_STRING;
        return take_bytes(window, result->text, result->text_len, true, value, buffer, err);
    }
    value->type = (enum hl_type)result->value.type;
    if (call_is_counted(value->type))
        return take_bytes(window, result->value.bits, result->value.len,
                          value->type == HL_TYPE_STRING, value, buffer, err);
    call_scalar_take(value, result->value.bits);
    return 0;
}
