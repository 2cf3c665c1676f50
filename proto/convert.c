/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Typed values across the wire. Both directions check UTF-8: what arrives may come from any client,
 * and what leaves from any guest, and generated clients refuse a whole frame for one bad byte.
 */
#include "proto/convert.h"

#include <errno.h>

static void set_bytes(struct hl_value *out, enum hl_type type, const ProtobufCBinaryData *in)
{
    out->type = type;
    out->bytes.data = in->len > 0 ? in->data : NULL;
    out->bytes.len = in->len;
}

int convert_from_proto(struct hl_value *out, const Hl__V1__Value *in, struct hl_error *err)
{
    *out = (struct hl_value){.type = HL_TYPE_VOID};
    switch (in->kind_case) {
    case HL__V1__VALUE__KIND_I32:
        *out = (struct hl_value){.type = HL_TYPE_I32, .i32 = in->i32};
        return 0;
    case HL__V1__VALUE__KIND_U32:
        *out = (struct hl_value){.type = HL_TYPE_U32, .u32 = in->u32};
        return 0;
    case HL__V1__VALUE__KIND_I64:
        *out = (struct hl_value){.type = HL_TYPE_I64, .i64 = in->i64};
        return 0;
    case HL__V1__VALUE__KIND_U64:
        *out = (struct hl_value){.type = HL_TYPE_U64, .u64 = in->u64};
        return 0;
    case HL__V1__VALUE__KIND_F32:
        *out = (struct hl_value){.type = HL_TYPE_F32, .f32 = in->f32};
        return 0;
    case HL__V1__VALUE__KIND_F64:
        *out = (struct hl_value){.type = HL_TYPE_F64, .f64 = in->f64};
        return 0;
    case HL__V1__VALUE__KIND_BOOLEAN:
        *out = (struct hl_value){.type = HL_TYPE_BOOL, .b = in->boolean != 0};
        return 0;
    case HL__V1__VALUE__KIND_TEXT:
        if (!hl_utf8_valid(in->text.data, in->text.len))
            return hl_error_set(err, -EILSEQ, "string is not valid UTF-8");
        set_bytes(out, HL_TYPE_STRING, &in->text);
        return 0;
    case HL__V1__VALUE__KIND_DATA:
        set_bytes(out, HL_TYPE_BYTES, &in->data);
        return 0;
    default:
        return hl_error_set(err, -EINVAL, "value without a kind");
    }
}

static ProtobufCBinaryData borrowed(const struct hl_value *in)
{
    return (ProtobufCBinaryData){.len = in->bytes.len, .data = (uint8_t *)in->bytes.data};
}

int convert_to_proto(Hl__V1__Value *out, const struct hl_value *in)
{
    hl__v1__value__init(out);
    switch (in->type) {
    case HL_TYPE_VOID:
        return 0;
    case HL_TYPE_I32:
        out->kind_case = HL__V1__VALUE__KIND_I32;
        out->i32 = in->i32;
        return 0;
    case HL_TYPE_U32:
        out->kind_case = HL__V1__VALUE__KIND_U32;
        out->u32 = in->u32;
        return 0;
    case HL_TYPE_I64:
        out->kind_case = HL__V1__VALUE__KIND_I64;
        out->i64 = in->i64;
        return 0;
    case HL_TYPE_U64:
        out->kind_case = HL__V1__VALUE__KIND_U64;
        out->u64 = in->u64;
        return 0;
    case HL_TYPE_F32:
        out->kind_case = HL__V1__VALUE__KIND_F32;
        out->f32 = in->f32;
        return 0;
    case HL_TYPE_F64:
        out->kind_case = HL__V1__VALUE__KIND_F64;
        out->f64 = in->f64;
        return 0;
    case HL_TYPE_BOOL:
        out->kind_case = HL__V1__VALUE__KIND_BOOLEAN;
        out->boolean = in->b;
        return 0;
    case HL_TYPE_STRING:
        if (!hl_utf8_valid(in->bytes.data, in->bytes.len))
            return -EILSEQ;
        out->kind_case = HL__V1__VALUE__KIND_TEXT;
        out->text = borrowed(in);
        return 0;
    case HL_TYPE_BYTES:
        out->kind_case = HL__V1__VALUE__KIND_DATA;
        out->data = borrowed(in);
        return 0;
    case HL_TYPE_DESCRIPTOR: /* the caller's to send */
        break;
    }
    return -EINVAL;
}
