/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HLGUEST_VALUES_H
#define HLGUEST_VALUES_H

/*
 * Arguments and results as C has them, out of and into struct hl_abi_value: one macro a type, by
 * the type's name. Included by hlguest_macros.h; nothing here is for direct use.
 */

/* Arguments out of a call. */
static inline float hl_get_f32_(const struct hl_abi_value *v)
{
    uint32_t bits = (uint32_t)v->bits;
    float f;

    __builtin_memcpy(&f, &bits, sizeof(f));
    return f;
}

static inline double hl_get_f64_(const struct hl_abi_value *v)
{
    double d;

    __builtin_memcpy(&d, &v->bits, sizeof(d));
    return d;
}

static inline struct hl_string hl_get_string_(const struct hl_abi_value *v)
{
    struct hl_string s = {(const char *)(uintptr_t)(HL_ABI_IO_ADDR + v->bits), v->len};

    return s;
}

static inline struct hl_bytes hl_get_bytes_(const struct hl_abi_value *v)
{
    struct hl_bytes b = {(const void *)(uintptr_t)(HL_ABI_IO_ADDR + v->bits), v->len};

    return b;
}

#define HL_GET_i32(v)    ((int32_t)(v)->bits)
#define HL_GET_u32(v)    ((uint32_t)(v)->bits)
#define HL_GET_i64(v)    ((int64_t)(v)->bits)
#define HL_GET_u64(v)    ((v)->bits)
#define HL_GET_f32(v)    hl_get_f32_(v)
#define HL_GET_f64(v)    hl_get_f64_(v)
#define HL_GET_bool(v)   ((v)->bits != 0)
#define HL_GET__Bool(v)  HL_GET_bool(v)
#define HL_GET_string(v) hl_get_string_(v)
#define HL_GET_bytes(v)  hl_get_bytes_(v)

/* Results into the window. */
void hl_put_data_(struct hl_abi_value *v, uint32_t type, const void *data, size_t len);

static inline void hl_put_(struct hl_abi_value *v, uint32_t type, uint64_t bits)
{
    v->type = type;
    v->len = 0;
    v->bits = bits;
}

static inline void hl_put_f32_(struct hl_abi_value *v, float f)
{
    uint32_t bits;

    __builtin_memcpy(&bits, &f, sizeof(bits));
    hl_put_(v, HL_ABI_F32, bits);
}

static inline void hl_put_f64_(struct hl_abi_value *v, double d)
{
    uint64_t bits;

    __builtin_memcpy(&bits, &d, sizeof(bits));
    hl_put_(v, HL_ABI_F64, bits);
}

static inline void hl_put_string_(struct hl_abi_value *v, struct hl_string s)
{
    hl_put_data_(v, HL_ABI_STRING, s.data, s.len);
}

static inline void hl_put_bytes_(struct hl_abi_value *v, struct hl_bytes b)
{
    hl_put_data_(v, HL_ABI_BYTES, b.data, b.len);
}

#define HL_PUT_void(v, call)   ((call), hl_put_((v), HL_ABI_VOID, 0))
#define HL_PUT_i32(v, call)    hl_put_((v), HL_ABI_I32, (uint64_t)(int64_t)(call))
#define HL_PUT_u32(v, call)    hl_put_((v), HL_ABI_U32, (call))
#define HL_PUT_i64(v, call)    hl_put_((v), HL_ABI_I64, (uint64_t)(call))
#define HL_PUT_u64(v, call)    hl_put_((v), HL_ABI_U64, (call))
#define HL_PUT_f32(v, call)    hl_put_f32_((v), (call))
#define HL_PUT_f64(v, call)    hl_put_f64_((v), (call))
#define HL_PUT_bool(v, call)   hl_put_((v), HL_ABI_BOOL, (call) ? 1 : 0)
#define HL_PUT__Bool(v, call)  HL_PUT_bool(v, call)
#define HL_PUT_string(v, call) hl_put_string_((v), (call))
#define HL_PUT_bytes(v, call)  hl_put_bytes_((v), (call))

#endif
