/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HLGUEST_MACROS_H
#define HLGUEST_MACROS_H

/*
 * The works behind HL_FUNCTION: type names to C types, a parameter list to its count, its types and
 * the expressions that read it from a call. Included by hlguest.h; nothing here is for direct use.
 *
 * A parameter is the pair (type, name). `bool` may be a macro for _Bool, expanded or not on its way
 * here, so both spellings are known.
 */

/* struct hl_abi_function as the program fills it: the handler is a pointer here, so that the
 * compiler needs no cast to place it. */
struct hl_function_entry {
    uint32_t magic;
    uint16_t version;
    uint8_t nparams;
    uint8_t ret;
    uint8_t params[HL_ABI_MAX_PARAMS];
    void (*handler)(const struct hl_abi_value *args, struct hl_abi_value *result);
    char name[HL_ABI_NAME_SIZE];
};

_Static_assert(sizeof(struct hl_function_entry) == sizeof(struct hl_abi_function), "ABI");
_Static_assert(offsetof(struct hl_function_entry, params) ==
                   offsetof(struct hl_abi_function, params),
               "ABI");
_Static_assert(offsetof(struct hl_function_entry, name) == offsetof(struct hl_abi_function, name),
               "ABI");

/* The explicit alignment keeps compilers from choosing a larger one, which would leave gaps between
 * entries; used and retain keep them through optimisation and --gc-sections, no_reorder in the
 * order of the source, which is the order that people see. */
#ifdef __has_attribute
#if __has_attribute(retain)
#define HL_RETAIN_ , retain
#endif
#if __has_attribute(no_reorder)
#define HL_ORDER_ , no_reorder
#endif
#endif
#ifndef HL_RETAIN_
#define HL_RETAIN_
#endif
#ifndef HL_ORDER_
#define HL_ORDER_
#endif
#define HL_ENTRY_ATTRIBUTES_                                                                       \
    __attribute__((section(HL_ABI_SECTION), used, aligned(8) HL_RETAIN_ HL_ORDER_))

/* Type names to C types and ABI numbers. */
#define HL_C_void   void
#define HL_C_i32    int32_t
#define HL_C_u32    uint32_t
#define HL_C_i64    int64_t
#define HL_C_u64    uint64_t
#define HL_C_f32    float
#define HL_C_f64    double
#define HL_C_bool   bool
#define HL_C__Bool  bool
#define HL_C_string struct hl_string
#define HL_C_bytes  struct hl_bytes

#define HL_ABI_void   HL_ABI_VOID
#define HL_ABI_i32    HL_ABI_I32
#define HL_ABI_u32    HL_ABI_U32
#define HL_ABI_i64    HL_ABI_I64
#define HL_ABI_u64    HL_ABI_U64
#define HL_ABI_f32    HL_ABI_F32
#define HL_ABI_f64    HL_ABI_F64
#define HL_ABI_bool   HL_ABI_BOOL
#define HL_ABI__Bool  HL_ABI_BOOL
#define HL_ABI_string HL_ABI_STRING
#define HL_ABI_bytes  HL_ABI_BYTES

#include "hlguest_values.h"

/* How many parameters there are, 0 to 16. A first argument stands in front of them, here and below,
 * because `, ##__VA_ARGS__` drops its comma in strict ISO modes only behind a named parameter. */
#define HL_COUNT_(first, ...)                                                                      \
    HL_COUNT_PICK_(first, ##__VA_ARGS__, HL_TOO_MANY_PARAMETERS, HL_TOO_MANY_PARAMETERS,           \
                   HL_TOO_MANY_PARAMETERS, HL_TOO_MANY_PARAMETERS, 16, 15, 14, 13, 12, 11, 10, 9,  \
                   8, 7, 6, 5, 4, 3, 2, 1, 0, _)
#define HL_COUNT_PICK_(_0, _1, _2, _3, _4, _5, _6, _7, _8, _9, _10, _11, _12, _13, _14, _15, _16,  \
                       _17, _18, _19, _20, n, ...)                                                 \
    n

#define HL_PASTE_(a, b)  HL_PASTE2_(a, b)
#define HL_PASTE2_(a, b) a##b

/* What one pair turns into. */
#define HL_PARAM_PAIR_(type, name) HL_C_##type name
#define HL_TYPE_PAIR_(type, name)  HL_ABI_##type
#define HL_NAME_PAIR_(type, name)  HL_GET_##type
#define HL_PARAM_1_(i, pair)       HL_PARAM_PAIR_ pair
#define HL_TYPE_1_(i, pair)        HL_TYPE_PAIR_ pair
#define HL_ARG_1_(i, pair)         HL_ARG_2_(HL_NAME_PAIR_ pair, i)
#define HL_ARG_2_(get, i)          HL_ARG_3_(get, i)
#define HL_ARG_3_(get, i)          get(hl_args + i)

#define HL_PARAMS_(first, ...)                                                                     \
    HL_PASTE_(HL_EACH_, HL_COUNT_(first, ##__VA_ARGS__))(HL_PARAM_1_, void, ##__VA_ARGS__)
#define HL_TYPES_(first, ...)                                                                      \
    HL_PASTE_(HL_EACH_, HL_COUNT_(first, ##__VA_ARGS__))(HL_TYPE_1_, 0, ##__VA_ARGS__)
#define HL_ARGS_(first, ...)                                                                       \
    HL_PASTE_(HL_EACH_, HL_COUNT_(first, ##__VA_ARGS__))(HL_ARG_1_, , ##__VA_ARGS__)

/* each(index, pair) for each pair, with commas between; none without any. */
#define HL_EACH_0(each, none)                none
#define HL_EACH_1(each, none, a)             each(0, a)
#define HL_EACH_2(each, none, a, b)          each(0, a), each(1, b)
#define HL_EACH_3(each, none, a, b, c)       each(0, a), each(1, b), each(2, c)
#define HL_EACH_4(each, none, a, b, c, d)    each(0, a), each(1, b), each(2, c), each(3, d)
#define HL_EACH_5(each, none, a, b, c, d, e) HL_EACH_4(each, none, a, b, c, d), each(4, e)
#define HL_EACH_6(each, none, a, b, c, d, e, f)                                                    \
    HL_EACH_4(each, none, a, b, c, d), each(4, e), each(5, f)
#define HL_EACH_7(each, none, a, b, c, d, e, f, g)                                                 \
    HL_EACH_4(each, none, a, b, c, d), each(4, e), each(5, f), each(6, g)
#define HL_EACH_8(each, none, a, b, c, d, e, f, g, h)                                              \
    HL_EACH_4(each, none, a, b, c, d), each(4, e), each(5, f), each(6, g), each(7, h)
#define HL_EACH_9(each, none, a, b, c, d, e, f, g, h, i)                                           \
    HL_EACH_8(each, none, a, b, c, d, e, f, g, h), each(8, i)
#define HL_EACH_10(each, none, a, b, c, d, e, f, g, h, i, j)                                       \
    HL_EACH_8(each, none, a, b, c, d, e, f, g, h), each(8, i), each(9, j)
#define HL_EACH_11(each, none, a, b, c, d, e, f, g, h, i, j, k)                                    \
    HL_EACH_8(each, none, a, b, c, d, e, f, g, h), each(8, i), each(9, j), each(10, k)
#define HL_EACH_12(each, none, a, b, c, d, e, f, g, h, i, j, k, l)                                 \
    HL_EACH_8(each, none, a, b, c, d, e, f, g, h), each(8, i), each(9, j), each(10, k), each(11, l)
#define HL_EACH_13(each, none, a, b, c, d, e, f, g, h, i, j, k, l, m)                              \
    HL_EACH_12(each, none, a, b, c, d, e, f, g, h, i, j, k, l), each(12, m)
#define HL_EACH_14(each, none, a, b, c, d, e, f, g, h, i, j, k, l, m, n)                           \
    HL_EACH_12(each, none, a, b, c, d, e, f, g, h, i, j, k, l), each(12, m), each(13, n)
#define HL_EACH_15(each, none, a, b, c, d, e, f, g, h, i, j, k, l, m, n, o)                        \
    HL_EACH_12(each, none, a, b, c, d, e, f, g, h, i, j, k, l), each(12, m), each(13, n),          \
        each(14, o)
#define HL_EACH_16(each, none, a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p)                     \
    HL_EACH_12(each, none, a, b, c, d, e, f, g, h, i, j, k, l), each(12, m), each(13, n),          \
        each(14, o), each(15, p)

#endif
