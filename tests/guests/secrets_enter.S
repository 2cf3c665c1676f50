/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The two moments that matter for what registers carry from one call to the next: right after READY
 * returned, before any code could touch them, and right before DONE.
 */
#include "tests/guests/secrets.h"

	.text
	.globl	secrets_serve
	.type	secrets_serve, @function
secrets_serve:
	sub	$8, %rsp
	mov	$1, %edi
	xor	%esi, %esi
	xor	%edx, %edx
	xor	%ecx, %ecx
	mov	$0x100000, %eax
	call	*%rax
	/* The address that READY returned to stays on the stack: a call whose memory was not reset,
	 * which tests bring about, starts all the same. */
	sub	$64, %rsp
	/* Nothing but rax holds anything of the program's now: all else is stored. */
	push	%rax
	lea	register_dump(%rip), %rax
	mov	%rcx, 8(%rax)
	mov	%rdx, 16(%rax)
	mov	%rbx, 24(%rax)
	mov	%rbp, 40(%rax)
	mov	%rsi, 48(%rax)
	mov	%rdi, 56(%rax)
	mov	%r8, 64(%rax)
	mov	%r9, 72(%rax)
	mov	%r10, 80(%rax)
	mov	%r11, 88(%rax)
	mov	%r12, 96(%rax)
	mov	%r13, 104(%rax)
	mov	%r14, 112(%rax)
	mov	%r15, 120(%rax)
	mov	%rax, %rdi
	pop	(%rdi)
	pushfq
	pop	DUMP_FLAGS(%rdi)
	cld
	mov	register_features(%rip), %ebx
	test	$FEATURE_FSGSBASE, %ebx
	jz	1f
	rdfsbase %rax
	mov	%rax, DUMP_FLAGS+8(%rdi)
	rdgsbase %rax
	mov	%rax, DUMP_FLAGS+16(%rdi)
1:	fxsave64 DUMP_FX(%rdi)
	test	$FEATURE_AVX, %ebx
	jz	2f
	.irp	n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
	vmovdqu	%ymm\n, DUMP_YMM + \n * 32(%rdi)
	.endr
2:	test	$FEATURE_AVX512, %ebx
	jz	3f
	.irp	n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31
	vmovdqu64 %zmm\n, DUMP_ZMM + \n * 64(%rdi)
	.endr
	.irp	n, 0, 1, 2, 3, 4, 5, 6, 7
	kmovq	%k\n, DUMP_MASK + \n * 8(%rdi)
	.endr
3:	test	$FEATURE_XSAVE, %ebx
	jz	4f
	mov	$-1, %eax
	mov	$-1, %edx
	xsave64	DUMP_XSAVE(%rdi)
4:	call	hl_dispatch
	ud2
	.size	secrets_serve, . - secrets_serve

	.globl	secrets_done
	.type	secrets_done, @function
secrets_done:
	mov	%rdi, %rsi
	lea	register_dump(%rip), %rax
	mov	register_features(%rip), %ebx
	fxrstor64 DUMP_FX(%rax)
	test	$FEATURE_AVX, %ebx
	jz	2f
	.irp	n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
	vmovdqu	DUMP_YMM + \n * 32(%rax), %ymm\n
	.endr
2:	test	$FEATURE_AVX512, %ebx
	jz	3f
	.irp	n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31
	vmovdqu64 DUMP_ZMM + \n * 64(%rax), %zmm\n
	.endr
	.irp	n, 0, 1, 2, 3, 4, 5, 6, 7
	kmovq	DUMP_MASK + \n * 8(%rax), %k\n
	.endr
3:	test	$FEATURE_FSGSBASE, %ebx
	jz	4f
	mov	DUMP_FLAGS+16(%rax), %rbx
	wrgsbase %rbx
4:	mov	8(%rax), %rcx
	mov	16(%rax), %rdx
	mov	24(%rax), %rbx
	mov	40(%rax), %rbp
	mov	64(%rax), %r8
	mov	72(%rax), %r9
	mov	80(%rax), %r10
	mov	88(%rax), %r11
	mov	96(%rax), %r12
	mov	104(%rax), %r13
	mov	112(%rax), %r14
	mov	120(%rax), %r15
	mov	$2, %edi
	mov	$0x100000, %eax
	call	*%rax
	ud2
	.size	secrets_done, . - secrets_done

	.section .note.GNU-stack, "", @progbits
