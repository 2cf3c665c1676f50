/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_TESTS_PROCESS_GUESTS_H
#define HL_TESTS_PROCESS_GUESTS_H

/* Guests in machine code for tests/unit/test_process.c, and where they find things. */

#include <stdint.h>

#define TEST_SECTION "test_guests_text"
extern const char __start_test_guests_text[], __stop_test_guests_text[];

#define TEST_IO_SIZE  0x10000u
#define TEST_TEXT     0x300000u
#define TEST_TEXT_END 0x310000u
#define TEST_CLOSED   0x310000u /* a page without permissions */
#define TEST_DATA     0x320000u
#define TEST_DATA_END 0x340000u
#define TEST_STACK    0x3f0000u /* a closed page below */
#define TEST_SIZE     0x400000u
#define TEST_VSYSCALL 0xffffffffff600000ull
#define TEST_SECRET   0x5ec4e75ec4e75ec4ull

void guest_hypercalls(void);
void guest_syscalls(void);
void guest_spin(void);
void guest_null_write(void);
void guest_unmapped_read(void);
void guest_write_code(void);
void guest_execute_data(void);
void guest_ud2(void);
void guest_divide(void);
void guest_hlt(void);
void guest_out(void);
void guest_int3(void);
void guest_int80(void);
void guest_noncanonical(void);
void guest_kernel_read(void);
void guest_vsyscall(void);
void guest_simd(void);
void guest_alignment(void);
void guest_stack_overflow(void);
void guest_secrets(void);
void guest_through_runtime(void);
void guest_protect(void);
void guest_read_at(void);
void guest_write_at(void);
void guest_jump_to(void);
void guest_thread_pointer(void);
void guest_break_runtime(void);

#endif
