/* SPDX-License-Identifier: Apache-2.0 */
/* Arguments into the window and each field of a result out of it, at the edges of what is allowed.
 */
#include "config.h"

#include <check.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "hv/call.h"
#include "tests/unit/tests_run.h"

#define IO_SIZE 65536u

static uint8_t window[IO_SIZE] __attribute__((aligned(8)));
static const struct call_window usual = {.data = window, .io_size = IO_SIZE, .reach = IO_SIZE};

/* What a window with this result at offset 64 gives. */
static int read_back(enum hl_type ret, const struct hl_abi_result *result, struct hl_value *value,
                     struct call_buffer *buffer, struct hl_error *err)
{
    struct image_function fn = {.name = "f", .sig = {.ret = ret}};
    struct hl_abi_result copy;
    int rc;

    memcpy(window + 64, result, sizeof(*result));
    rc = call_read_result(&fn, &usual, 64, &copy, err);
    return rc < 0 ? rc : call_take_value(&copy, window, value, buffer, err);
}

START_TEST(result_fields)
{
    static const struct {
        enum hl_type ret;
        struct hl_abi_result result;
        const char *reason; /* NULL: it is fine */
    } cases[] = {
        {HL_TYPE_I32, {.value = {HL_ABI_I32, 0, UINT64_MAX}}, NULL},
        {HL_TYPE_I32, {.value = {HL_ABI_I32, 0, 0xffffffff}}, "no i32"},
        {HL_TYPE_U32, {.value = {HL_ABI_U32, 0, 0xffffffff}}, NULL},
        {HL_TYPE_U32, {.value = {HL_ABI_U32, 0, 1ull << 32}}, "no u32"},
        {HL_TYPE_F32, {.value = {HL_ABI_F32, 0, 1ull << 32}}, "no f32"},
        {HL_TYPE_BOOL, {.value = {HL_ABI_BOOL, 0, 2}}, "no bool"},
        {HL_TYPE_BOOL, {.value = {HL_ABI_BOOL, 1, 1}}, "length"},
        {HL_TYPE_VOID, {.value = {HL_ABI_VOID, 0, 7}}, NULL},
        {HL_TYPE_VOID, {.value = {HL_ABI_VOID, 7, 0}}, "length"},
        {HL_TYPE_BYTES, {.value = {HL_ABI_BYTES, IO_SIZE, 0}}, NULL},
        {HL_TYPE_BYTES, {.value = {HL_ABI_BYTES, 1, IO_SIZE}}, "outside"},
        {HL_TYPE_BYTES, {.value = {HL_ABI_BYTES, 0, IO_SIZE}}, NULL},
        {HL_TYPE_BYTES, {.value = {HL_ABI_STRING, 0, 0}}, "returned type"},
        {HL_TYPE_BYTES, {.error = 1, .code = -1}, NULL},
        {HL_TYPE_BYTES, {.error = 1, .text = IO_SIZE - 3, .text_len = 4}, "outside"},
        {HL_TYPE_BYTES, {.error = 1, .text_len = HL_ABI_LOG_MAX + 1}, "error text has 4097"},
        {HL_TYPE_BYTES, {.error = 1, .text = UINT64_MAX, .text_len = 2}, "outside"},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct hl_abi_result result = cases[i].result;
        struct hl_error err = HL_ERROR_INIT;
        struct hl_value value;
        struct call_buffer buffer = {0};
        int rc;

        result.magic = HL_ABI_RESULT_MAGIC;
        rc = read_back(cases[i].ret, &result, &value, &buffer, &err);
        ck_assert_msg(rc == (cases[i].reason ? -EPROTO : 0), "case %zu: %d", i, rc);
        if (cases[i].reason)
            ck_assert_msg(strstr(err.text, cases[i].reason), "case %zu: %s", i, err.text);
        call_buffer_trim(&buffer, 0);
        ck_assert_ptr_null(buffer.data);
    }
}
END_TEST

/* One buffer for results of all lengths: it grows, and is given back past a size. */
START_TEST(result_memory)
{
    static const uint32_t lengths[] = {0, 1, 4095, 4096, 4097, 100, 60000};
    struct hl_abi_result result = {.magic = HL_ABI_RESULT_MAGIC, .value = {.type = HL_ABI_BYTES}};
    struct call_buffer buffer = {0};
    struct hl_error err = HL_ERROR_INIT;
    struct hl_value value;
    size_t size = 0;

    for (size_t i = 0; i < sizeof(window); i++)
        window[i] = (uint8_t)(i * 7 + i / 256);
    for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
        result.value.bits = 1000;
        result.value.len = lengths[i];
        ck_assert_int_eq(read_back(HL_TYPE_BYTES, &result, &value, &buffer, &err), 0);
        ck_assert_uint_eq(value.bytes.len, lengths[i]);
        ck_assert_ptr_nonnull(value.bytes.data);
        ck_assert_int_eq(memcmp(value.bytes.data, window + 1000, lengths[i]), 0);
        ck_assert_uint_ge(buffer.size, size);
        size = buffer.size;
    }
    call_buffer_trim(&buffer, size);
    ck_assert_uint_eq(buffer.size, size);
    call_buffer_trim(&buffer, size - 1);
    ck_assert_uint_eq(buffer.size, 0);
    ck_assert_ptr_null(buffer.data);
}
END_TEST

START_TEST(result_places)
{
    static const uint64_t bad[] = {4,        IO_SIZE - 32,   IO_SIZE,        IO_SIZE + 8,
                                   1u << 31, UINT64_MAX - 7, UINT64_MAX - 39};
    struct image_function fn = {.name = "f", .sig = {.ret = HL_TYPE_VOID}};
    struct hl_abi_result result = {.magic = HL_ABI_RESULT_MAGIC}, copy;

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        ck_assert_int_eq(call_read_result(&fn, &usual, bad[i], &copy, NULL), -EPROTO);
    memcpy(window + IO_SIZE - sizeof(result), &result, sizeof(result));
    ck_assert_int_eq(call_read_result(&fn, &usual, IO_SIZE - 40, &copy, NULL), 0);
}
END_TEST

START_TEST(a_call_as_written)
{
    const struct image_function fn = {
        .name = "f",
        .sig = {.ret = HL_TYPE_VOID,
                .nparams = 4,
                .params = {HL_TYPE_I32, HL_TYPE_STRING, HL_TYPE_F32, HL_TYPE_BYTES}}};
    const struct hl_value args[] = {
        {.type = HL_TYPE_I32, .i32 = -2},
        {.type = HL_TYPE_STRING, .bytes = {"abc", 3}},
        {.type = HL_TYPE_F32, .f32 = 1.0f},
        {.type = HL_TYPE_BYTES, .bytes = {"0123456789", 10}},
    };
    struct hl_abi_value values[4];
    struct hl_abi_call header;
    struct call_args placed;
    uint32_t size;

    memset(window, 0, sizeof(window));
    ck_assert_int_eq(call_place(&placed, args, 4, true, NULL), 0);
    ck_assert_int_eq(call_check(&fn, IO_SIZE, &placed, &size, NULL), 0);
    ck_assert_int_eq(call_write(window, &(struct call_head){.function = 7, .size = size}, &placed),
                     0);
    memcpy(&header, window, sizeof(header));
    memcpy(values, window + sizeof(header), sizeof(values));
    ck_assert_uint_eq(header.magic, HL_ABI_CALL_MAGIC);
    ck_assert_uint_eq(header.function, 7);
    ck_assert_uint_eq(header.nargs, 4);
    ck_assert_uint_eq(header.size, 16 + 4 * 16 + 8 + 10);
    ck_assert_uint_eq(size, header.size);
    ck_assert_uint_eq(values[0].bits, (uint64_t)-2);
    ck_assert_uint_eq(values[1].bits, 80);
    ck_assert_uint_eq(values[1].len, 3);
    ck_assert_uint_eq(values[2].bits, 0x3f800000);
    ck_assert_uint_eq(values[3].bits, 88);
    ck_assert_int_eq(memcmp(window + 80,
                            "abc\0\0\0\0\0"
                            "0123456789\0",
                            19),
                     0);
    /* The largest window that does not hold it, and the smallest that does. */
    ck_assert_int_eq(call_check(&fn, size + HL_ABI_RESULT_ROOM - 1, &placed, &size, NULL),
                     -EMSGSIZE);
    ck_assert_int_eq(call_check(&fn, size + HL_ABI_RESULT_ROOM, &placed, &size, NULL), 0);
    ck_assert_int_eq(call_check(&fn, 8, &placed, &size, NULL), -EMSGSIZE);
}
END_TEST

/* Bytes of a LARGE call may be past the window, text and other results not. */
START_TEST(test_reach)
{
    const struct call_window far = {.data = window, .io_size = IO_SIZE, .reach = 10 * IO_SIZE};
    struct image_function fn = {.name = "f", .sig = {.ret = HL_TYPE_BYTES}};
    struct hl_abi_result result = {
        .magic = HL_ABI_RESULT_MAGIC,
        .value = {.type = HL_ABI_BYTES, .len = IO_SIZE, .bits = 9 * IO_SIZE},
    };
    struct hl_abi_result copy;

    memcpy(window, &result, sizeof(result));
    ck_assert_int_eq(call_read_result(&fn, &usual, 0, &copy, NULL), -EPROTO);
    ck_assert_int_eq(call_read_result(&fn, &far, 0, &copy, NULL), 0);
    result.value.bits++;
    memcpy(window, &result, sizeof(result));
    ck_assert_int_eq(call_read_result(&fn, &far, 0, &copy, NULL), -EPROTO);
    result.value.bits = UINT64_MAX;
    memcpy(window, &result, sizeof(result));
    ck_assert_int_eq(call_read_result(&fn, &far, 0, &copy, NULL), -EPROTO);
    result.value.bits = 9 * IO_SIZE;
    result.value.type = HL_ABI_STRING;
    fn.sig.ret = HL_TYPE_STRING;
    memcpy(window, &result, sizeof(result));
    ck_assert_int_eq(call_read_result(&fn, &far, 0, &copy, NULL), -EPROTO);
}
END_TEST

/* A small file is copied like bytes, a large one only where there is no bulk window. */
START_TEST(test_descriptors)
{
    const struct image_function fn = {
        .name = "f",
        .sig = {.ret = HL_TYPE_VOID,
                .nparams = 4,
                .params = {HL_TYPE_BYTES, HL_TYPE_BYTES, HL_TYPE_BYTES, HL_TYPE_BYTES}}};
    int fd = memfd_create("test", MFD_CLOEXEC);
    struct hl_value args[] = {
        {.type = HL_TYPE_DESCRIPTOR, .descriptor = {CALL_COPY_MOST + 1, fd}},
        {.type = HL_TYPE_DESCRIPTOR, .descriptor = {5, fd}},
        {.type = HL_TYPE_DESCRIPTOR, .descriptor = {HL_ABI_BULK_UNIT + 1, fd}},
        {.type = HL_TYPE_DESCRIPTOR, .descriptor = {HL_ABI_BULK_UNIT, fd}},
    };
    const uint64_t bulk = HL_ABI_BULK_ADDR, unit = HL_ABI_BULK_UNIT;
    struct hl_abi_value values[4];
    struct call_head head = {0};
    struct call_args placed;
    struct hl_error err = HL_ERROR_INIT;

    ck_assert_int_eq(write(fd, "hello", 5), 5);
    ck_assert_int_eq(call_place(&placed, args, 4, true, NULL), 0);
    ck_assert_uint_eq(placed.at[0], bulk);
    ck_assert_uint_eq(placed.at[1], 0);
    ck_assert_uint_eq(placed.at[2], bulk + unit);
    ck_assert_uint_eq(placed.at[3], bulk + 3 * unit);
    ck_assert_int_eq(call_check(&fn, IO_SIZE, &placed, &head.size, NULL), 0);
    ck_assert_uint_eq(head.size, 16 + 4 * 16 + 5);
    ck_assert_int_eq(call_write(window, &head, &placed), 0);
    memcpy(values, window + sizeof(struct hl_abi_call), sizeof(values));
    ck_assert_uint_eq(values[0].type, HL_ABI_BYTES);
    ck_assert_uint_eq(values[0].bits, bulk - HL_ABI_IO_ADDR);
    ck_assert_uint_eq(values[0].len, CALL_COPY_MOST + 1);
    ck_assert_uint_eq(values[1].bits, 80);
    ck_assert_int_eq(memcmp(window + 80, "hello", 5), 0);
    ck_assert_uint_eq(values[3].bits, bulk + 3 * unit - HL_ABI_IO_ADDR);

    args[1].descriptor.len = 6; /* more than there is */
    ck_assert_int_eq(call_place(&placed, args, 4, true, NULL), 0);
    ck_assert_int_eq(call_check(&fn, IO_SIZE, &placed, &head.size, NULL), 0);
    ck_assert_int_eq(call_write(window, &head, &placed), -EIO);

    ck_assert_int_eq(call_place(&placed, args, 4, false, NULL), 0);
    ck_assert_uint_eq(placed.at[0], 0);
    ck_assert_int_eq(call_check(&fn, IO_SIZE, &placed, &head.size, &err), -EMSGSIZE);

    args[0].descriptor.len = args[2].descriptor.len = 3ull << 30;
    ck_assert_int_eq(call_place(&placed, args, 4, true, &err), -EMSGSIZE);
    args[2].descriptor.len = 1ull << 30;
    args[3].descriptor.len = 0;
    ck_assert_int_eq(call_place(&placed, args, 4, true, &err), 0);
    args[0].descriptor.len = UINT32_MAX;
    ck_assert_int_eq(call_place(&placed, args, 1, true, &err), 0);
    args[0].descriptor.len++;
    ck_assert_int_eq(call_place(&placed, args, 1, true, &err), -EMSGSIZE);
    close(fd);
}
END_TEST

int main(void)
{
    TCase *tc = tcase_create("call");

    tcase_add_test(tc, result_fields);
    tcase_add_test(tc, result_places);
    tcase_add_test(tc, result_memory);
    tcase_add_test(tc, a_call_as_written);
    tcase_add_test(tc, test_reach);
    tcase_add_test(tc, test_descriptors);
    return tests_run(tc, "call");
}
