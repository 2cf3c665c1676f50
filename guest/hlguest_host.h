/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HLGUEST_HOST_H
#define HLGUEST_HOST_H

/*
 * Calling functions outside of the machine. Included by hlguest.h. The works behind
 * HL_HOST_FUNCTION are at the end.
 */

/* Any value, for hl_host_call. A string or bytes that a host function gave lies in the I/O window
 * and is there until the function returns. */
struct hl_value {
    uint32_t type; /* HL_ABI_VOID, HL_ABI_I32 … HL_ABI_BYTES */
    union {
        int32_t i32;
        uint32_t u32;
        int64_t i64;
        uint64_t u64;
        float f32;
        double f64;
        bool boolean;
        struct hl_string string;
        struct hl_bytes bytes;
    };
};

/* Calls a function outside of the machine, by its name, if the image's policy allows it; the call's
 * deadline runs on. The bytes of arguments are copied to the free room of the I/O window, and so
 * are a string or bytes in the answer. result: NULL when it is of no interest.
 * Returns: 0, or a status (the HL_HOST_… below among them): hl_host_error says more.
 * HL_HOST_FUNCTION makes a typed C function of it. */
int hl_host_call(const char *name, struct hl_value *result, const struct hl_value *args,
                 size_t nargs);

/* What became of the last call of a host function; good until the next. */
struct hl_host_error {
    int status;            /* 0: it succeeded */
    int32_t code;          /* with HL_HOST_UNKNOWN: what the function's provider gave */
    struct hl_string text; /* UTF-8 */
};
struct hl_host_error hl_host_error(void);

/* Statuses are those of google.rpc.Code; these are the ones to expect. */
enum {
    HL_HOST_OK = 0,
    HL_HOST_CANCELLED = 1,
    HL_HOST_UNKNOWN = 2,            /* the function failed: an error of its provider's own */
    HL_HOST_INVALID_ARGUMENT = 3,   /* wrong types or number of arguments, a bad name or string */
    HL_HOST_DEADLINE_EXCEEDED = 4,  /* the provider took too long */
    HL_HOST_PERMISSION_DENIED = 7,  /* not in the image's policy, or called before READY */
    HL_HOST_RESOURCE_EXHAUSTED = 8, /* too large, or too often */
    HL_HOST_UNIMPLEMENTED = 12,     /* a host that has no such thing */
    HL_HOST_INTERNAL = 13,
    HL_HOST_UNAVAILABLE = 14, /* nobody provides it now */
};

/* HL_HOST_FUNCTION(result type, name in C, "name", (type, parameter)...) defines
 *     static inline int name(type *result, type parameter, ...)
 * which calls the host function: hl_host_call with types checked by the compiler. Without the first
 * parameter where the result type is void. */
#define HL_HOST_FUNCTION(ret, c_name, host_name, ...)                                              \
    __attribute__((unused)) static inline int c_name(HL_HOST_PARAMS_(ret, _, ##__VA_ARGS__))       \
    {                                                                                              \
        const struct hl_value hl_args[] = {HL_HOST_VALUES_(_, ##__VA_ARGS__)};                     \
        struct hl_value hl_answer;                                                                 \
        int hl_status = hl_host_call_typed_(host_name, HL_ABI_##ret, &hl_answer, hl_args,          \
                                            HL_COUNT_(_, ##__VA_ARGS__));                          \
                                                                                                   \
        if (hl_status == 0)                                                                        \
            HL_HOST_TAKE_##ret(hl_result, hl_answer);                                              \
        return hl_status;                                                                          \
    }                                                                                              \
    struct hl_value /* takes the semicolon */

/* Values of a type: hl_value_u32(7). */
#define HL_VALUE_MAKER_(name, abi, c_type, field)                                                  \
    static inline struct hl_value hl_value_##name(c_type v)                                        \
    {                                                                                              \
        struct hl_value value;                                                                     \
                                                                                                   \
        value.type = abi;                                                                          \
        value.field = v;                                                                           \
        return value;                                                                              \
    }

HL_VALUE_MAKER_(i32, HL_ABI_I32, int32_t, i32)
HL_VALUE_MAKER_(u32, HL_ABI_U32, uint32_t, u32)
HL_VALUE_MAKER_(i64, HL_ABI_I64, int64_t, i64)
HL_VALUE_MAKER_(u64, HL_ABI_U64, uint64_t, u64)
HL_VALUE_MAKER_(f32, HL_ABI_F32, float, f32)
HL_VALUE_MAKER_(f64, HL_ABI_F64, double, f64)
HL_VALUE_MAKER_(boolean, HL_ABI_BOOL, bool, boolean)
HL_VALUE_MAKER_(string, HL_ABI_STRING, struct hl_string, string)
HL_VALUE_MAKER_(bytes, HL_ABI_BYTES, struct hl_bytes, bytes)

/* From here on nothing is for direct use. */
static inline struct hl_value hl_value_void_(void)
{
    struct hl_value value;

    value.type = HL_ABI_VOID;
    value.u64 = 0;
    return value;
}

/* As hl_host_call; an answer of another type than the one wanted is an error. */
int hl_host_call_typed_(const char *name, uint32_t type, struct hl_value *result,
                        const struct hl_value *args, size_t nargs);

#define HL_VALUE_i32(v)    hl_value_i32(v)
#define HL_VALUE_u32(v)    hl_value_u32(v)
#define HL_VALUE_i64(v)    hl_value_i64(v)
#define HL_VALUE_u64(v)    hl_value_u64(v)
#define HL_VALUE_f32(v)    hl_value_f32(v)
#define HL_VALUE_f64(v)    hl_value_f64(v)
#define HL_VALUE_bool(v)   hl_value_boolean(v)
#define HL_VALUE__Bool(v)  hl_value_boolean(v)
#define HL_VALUE_string(v) hl_value_string(v)
#define HL_VALUE_bytes(v)  hl_value_bytes(v)

#define HL_HOST_TAKE_void(out, value)   ((void)(value))
#define HL_HOST_TAKE_i32(out, value)    (*(out) = (value).i32)
#define HL_HOST_TAKE_u32(out, value)    (*(out) = (value).u32)
#define HL_HOST_TAKE_i64(out, value)    (*(out) = (value).i64)
#define HL_HOST_TAKE_u64(out, value)    (*(out) = (value).u64)
#define HL_HOST_TAKE_f32(out, value)    (*(out) = (value).f32)
#define HL_HOST_TAKE_f64(out, value)    (*(out) = (value).f64)
#define HL_HOST_TAKE_bool(out, value)   (*(out) = (value).boolean)
#define HL_HOST_TAKE__Bool(out, value)  HL_HOST_TAKE_bool(out, value)
#define HL_HOST_TAKE_string(out, value) (*(out) = (value).string)
#define HL_HOST_TAKE_bytes(out, value)  (*(out) = (value).bytes)

/* The result's parameter, and what stands in a list of parameters that is empty without it. */
#define HL_HOST_OUT_void(comma)
#define HL_HOST_OUT_i32(comma)    int32_t *hl_result comma
#define HL_HOST_OUT_u32(comma)    uint32_t *hl_result comma
#define HL_HOST_OUT_i64(comma)    int64_t *hl_result comma
#define HL_HOST_OUT_u64(comma)    uint64_t *hl_result comma
#define HL_HOST_OUT_f32(comma)    float *hl_result comma
#define HL_HOST_OUT_f64(comma)    double *hl_result comma
#define HL_HOST_OUT_bool(comma)   bool *hl_result comma
#define HL_HOST_OUT__Bool(comma)  bool *hl_result comma
#define HL_HOST_OUT_string(comma) struct hl_string *hl_result comma
#define HL_HOST_OUT_bytes(comma)  struct hl_bytes *hl_result comma
#define HL_HOST_NONE_void         void
#define HL_HOST_NONE_i32
#define HL_HOST_NONE_u32
#define HL_HOST_NONE_i64
#define HL_HOST_NONE_u64
#define HL_HOST_NONE_f32
#define HL_HOST_NONE_f64
#define HL_HOST_NONE_bool
#define HL_HOST_NONE__Bool
#define HL_HOST_NONE_string
#define HL_HOST_NONE_bytes

#define HL_COMMA_0
#define HL_COMMA_1  ,
#define HL_COMMA_2  ,
#define HL_COMMA_3  ,
#define HL_COMMA_4  ,
#define HL_COMMA_5  ,
#define HL_COMMA_6  ,
#define HL_COMMA_7  ,
#define HL_COMMA_8  ,
#define HL_COMMA_9  ,
#define HL_COMMA_10 ,
#define HL_COMMA_11 ,
#define HL_COMMA_12 ,
#define HL_COMMA_13 ,
#define HL_COMMA_14 ,
#define HL_COMMA_15 ,
#define HL_COMMA_16 ,

#define HL_HOST_PARAMS_(ret, first, ...)                                                           \
    HL_HOST_OUT_##ret(HL_PASTE_(HL_COMMA_, HL_COUNT_(first, ##__VA_ARGS__))) HL_PASTE_(            \
        HL_EACH_, HL_COUNT_(first, ##__VA_ARGS__))(HL_PARAM_1_, HL_HOST_NONE_##ret, ##__VA_ARGS__)
#define HL_HOST_VALUE_PAIR_(type, name) HL_VALUE_##type(name)
#define HL_HOST_VALUE_1_(i, pair)       HL_HOST_VALUE_PAIR_ pair
#define HL_HOST_VALUES_(first, ...)                                                                \
    HL_PASTE_(HL_EACH_, HL_COUNT_(first, ##__VA_ARGS__))                                           \
    (HL_HOST_VALUE_1_, hl_value_void_(), ##__VA_ARGS__)

#endif
