/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_ABI_H
#define HL_ABI_H

/*
 * The guest ABI, version 1: everything a guest program and its host agree on. Guest library and
 * host compile this one file; doc/guest-abi.md says the same in prose. A guest address is an
 * integer here, never a pointer, because the host must not follow it. All numbers are
 * little-endian; all structs are laid out without implicit padding, which the assertions at the end
 * hold to.
 *
 * Memory is one linear range [0, memory size). What stands where:
 *   0x000000  never mapped
 *   0x001000  the machine's own tables, closed to the guest (backend's business)
 *   0x100000  hypercall page, read and execute, filled by the backend
 *   0x101000  info page, read only: struct hl_abi_info
 *   0x200000  I/O window, read and write, info.io_size bytes
 *   above     the program, its heap (brk), anonymous mappings, the stack below the end of memory
 * Apart from it, at 0x100000000, is the bulk window, read only: arguments that are too large to be
 * copied, each on pages of its own, for the time of their call. Nothing else can be read there.
 *
 * The hypercall page starts with a function, called by the System V convention:
 *   uint64_t hypercall(uint64_t code, uint64_t a, uint64_t b, uint64_t c);
 * It clobbers what that convention lets a function clobber.
 */

#include <stdint.h>

#define HL_ABI_VERSION 1

#define HL_ABI_PAGE_SIZE      4096u
#define HL_ABI_HYPERCALL_ADDR 0x100000u
#define HL_ABI_INFO_ADDR      0x101000u
#define HL_ABI_IO_ADDR        0x200000u
#define HL_ABI_IO_SIZE        0x100000u  /* default size of the window: 1 MiB */
#define HL_ABI_IO_SIZE_MAX    0x4000000u /* 64 MiB */
#define HL_ABI_PROGRAM_MIN                                                                         \
    0x300000u /* lowest address a program may be linked at with the                                \
                 default window; IO_ADDR + io_size in general */

#define HL_ABI_BULK_ADDR 0x100000000ull
#define HL_ABI_BULK_SIZE 0x100000000ull
#define HL_ABI_BULK_UNIT 0x200000ull /* where an argument may begin */

/* Hypercall codes. Those that say so do not return to the guest. */
enum {
    /* Initialisation is over: this point becomes the snapshot. Returns, once per call, with a
     * struct hl_abi_call at HL_ABI_IO_ADDR; the return value is its size in bytes. */
    HL_HYPERCALL_READY = 1,
    /* The call is over. a: offset of a struct hl_abi_result in the I/O window. Does not return. */
    HL_HYPERCALL_DONE = 2,
    /* Log line. a: level (enum below), b: address, c: length (cut at HL_ABI_LOG_MAX). Returns 0. */
    HL_HYPERCALL_LOG = 3,
    /* Initialisation failed: a: code, b: address of a text, c: its length (cut at
     * HL_ABI_LOG_MAX). After READY it ends the call as a guest fault. Does not return. */
    HL_HYPERCALL_ABORT = 4,
    /* Calls a function of the host. a: address of a struct hl_abi_host_call, b: its length, values
     * and bytes included. Returns 0 when there is an answer in the buffer that it names, be it a
     * result or an error; else a negative errno: -EFAULT (-14) the struct cannot be read or the
     * buffer not be written; -EINVAL (-22) the name is none; -EILSEQ (-84) a string is not UTF-8;
     * -EMSGSIZE (-90) the call is larger than io_size, or the buffer smaller than an answer's
     * header. A call that breaks the rules of the struct ends the program. */
    HL_HYPERCALL_HOST_CALL = 5,
};

#define HL_ABI_LOG_MAX 4096u

enum {
    HL_ABI_LOG_ERROR = 0,
    HL_ABI_LOG_WARNING = 1,
    HL_ABI_LOG_INFO = 2,
    HL_ABI_LOG_DEBUG = 3,
};

/* Value types, as in descriptors and in struct hl_abi_value. */
enum {
    HL_ABI_VOID = 0,
    HL_ABI_I32 = 1,
    HL_ABI_U32 = 2,
    HL_ABI_I64 = 3,
    HL_ABI_U64 = 4,
    HL_ABI_F32 = 5,
    HL_ABI_F64 = 6,
    HL_ABI_BOOL = 7,
    HL_ABI_STRING = 8, /* UTF-8 */
    HL_ABI_BYTES = 9,
};

#define HL_ABI_MAX_PARAMS    16
#define HL_ABI_NAME_SIZE     64 /* NUL included */
#define HL_ABI_MAX_FUNCTIONS 1024

#define HL_ABI_INFO_MAGIC      0x4f464e494c48ull /* "HLINFO" */
#define HL_ABI_FUNCTION_MAGIC  0x4e464c48u       /* "HLFN" */
#define HL_ABI_CALL_MAGIC      0x4c434c48u       /* "HLCL" */
#define HL_ABI_RESULT_MAGIC    0x53524c48u       /* "HLRS" */
#define HL_ABI_HOST_CALL_MAGIC 0x43484c48u       /* "HLHC" */

/* ELF section that holds the descriptors, an array of struct hl_abi_function and nothing else. A
 * function's index in the array is the number by which a call names it. */
#define HL_ABI_SECTION "hl_functions"

/* flags of struct hl_abi_info. */
#define HL_ABI_INFO_HOST_CALL 1u /* the host knows HL_HYPERCALL_HOST_CALL */
#define HL_ABI_INFO_BULK      2u /* arguments may stand in the bulk window */

struct hl_abi_info {
    uint64_t magic;   /* HL_ABI_INFO_MAGIC */
    uint32_t version; /* HL_ABI_VERSION of the host */
    uint32_t flags;   /* HL_ABI_INFO_…; others are to be ignored */
    uint64_t memory_size;
    uint64_t io_addr; /* HL_ABI_IO_ADDR */
    uint64_t io_size;
};

struct hl_abi_function {
    uint32_t magic;                    /* HL_ABI_FUNCTION_MAGIC */
    uint16_t version;                  /* HL_ABI_VERSION the guest was built for */
    uint8_t nparams;                   /* at most HL_ABI_MAX_PARAMS */
    uint8_t ret;                       /* type, HL_ABI_VOID allowed */
    uint8_t params[HL_ABI_MAX_PARAMS]; /* types; those past nparams are 0 */
    uint64_t handler;                  /* the guest's own business; the host ignores it */
    char name[HL_ABI_NAME_SIZE];       /* [A-Za-z0-9._-]+, NUL-terminated, zero-padded */
};

/* One argument or result. Scalars stand in bits: integers sign- or zero-extended to 64 bits, f32 in
 * the low 32, f64 as it is, bool as 0 or 1; len is 0. For strings and bytes, bits is the offset of
 * the first byte from HL_ABI_IO_ADDR and len the count; that of a bytes argument in the bulk window
 * counts from there as well. */
struct hl_abi_value {
    uint32_t type;
    uint32_t len;
    uint64_t bits;
};

/* Bytes that the host leaves free in the window behind a call, so that a result always has room. */
#define HL_ABI_RESULT_ROOM 64

/* flags of struct hl_abi_call; others are to be ignored. */
#define HL_ABI_CALL_FIRST   1u /* the first call since memory became what the snapshot holds */
#define HL_ABI_CALL_ENTROPY 2u /* the last HL_ABI_ENTROPY_SIZE bytes of the call are random */
#define HL_ABI_CALL_LARGE   4u /* bytes that the function returns may be outside of the window */

#define HL_ABI_ENTROPY_SIZE 32

/* Written by the host at HL_ABI_IO_ADDR before READY returns: this header, nargs values, then the
 * bytes of strings and bytes arguments, each at a multiple of 8, then, with a FIRST call that
 * leaves room for it, fresh random bytes. */
struct hl_abi_call {
    uint32_t magic;    /* HL_ABI_CALL_MAGIC */
    uint32_t function; /* index of the descriptor */
    uint16_t nargs;
    uint16_t flags; /* HL_ABI_CALL_… */
    uint32_t size;  /* all of it together: at most io_size - HL_ABI_RESULT_ROOM */
    struct hl_abi_value args[];
};

/* Written by the guest anywhere in the window, at a multiple of 8. What a result points to may be
 * anywhere in the window too, an argument's bytes included; where the call is LARGE, bytes may be
 * behind it, in any memory that the program can read but the bulk window. */
struct hl_abi_result {
    uint32_t magic;            /* HL_ABI_RESULT_MAGIC */
    uint32_t error;            /* 0: value holds the result. 1: code and text hold an error */
    struct hl_abi_value value; /* type must be the function's */
    int32_t code;              /* the guest's own error number */
    uint32_t text_len;         /* UTF-8, at most HL_ABI_LOG_MAX */
    uint64_t text;             /* offset in the window */
};

/* A call of a host function: this header, nargs values, then bytes. It may stand anywhere in the
 * guest's memory, at any alignment. The bits of a string or bytes argument are the offset of its
 * first byte from the header's. The host copies all of it before anything else, so that the buffer
 * for the answer may overlap it.
 *
 * The answer begins with a struct hl_abi_result, whose offsets count from the buffer's start. Its
 * error is 0, or one of google.rpc.Code; then code is the number that the function's provider gave
 * (with UNKNOWN, 2) and the text may have been cut to the room there was. */
struct hl_abi_host_call {
    uint32_t magic; /* HL_ABI_HOST_CALL_MAGIC */
    uint32_t nargs; /* at most HL_ABI_MAX_PARAMS */
    uint64_t out;   /* address of the buffer, which the guest must be able to write */
    uint64_t size;  /* of the buffer; of one larger than io_size only so much is used */
    char name[HL_ABI_NAME_SIZE]; /* [A-Za-z0-9._-]+, NUL-terminated */
    struct hl_abi_value args[];
};

_Static_assert(sizeof(struct hl_abi_info) == 40, "ABI");
_Static_assert(sizeof(struct hl_abi_function) == 96, "ABI");
_Static_assert(sizeof(struct hl_abi_value) == 16, "ABI");
_Static_assert(sizeof(struct hl_abi_call) == 16, "ABI");
_Static_assert(sizeof(struct hl_abi_result) == 40, "ABI");
_Static_assert(sizeof(struct hl_abi_host_call) == 88, "ABI");

#endif
