/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A guest without any library, written from doc/guest-abi.md: `checksum(bytes) -> u32` adds up the
 * bytes, `add(i64, i64) -> i64` its arguments; an argument of no bytes is an error with a text.
 */
	.section hl_functions, "a", @progbits
	.balign	8
	.long	0x4e464c48		/* "HLFN" */
	.short	1			/* ABI version */
	.byte	1			/* parameters */
	.byte	2			/* u32 */
	.byte	9			/* bytes */
	.zero	15
	.quad	0
	.ascii	"checksum"
	.zero	56

	.long	0x4e464c48
	.short	1
	.byte	2
	.byte	3			/* i64 */
	.byte	3, 3
	.zero	14
	.quad	0
	.ascii	"add"
	.zero	61

	.set	HYPERCALL, 0x100000
	.set	WINDOW, 0x200000

	.text
	.globl	_start
_start:
	mov	$1, %edi		/* READY */
	mov	$HYPERCALL, %eax
	call	*%rax

	/* The result goes behind the call. */
	mov	WINDOW+12, %esi		/* the call's size */
	add	$7, %esi
	and	$-8, %esi
	lea	WINDOW(%rsi), %rbx
	movl	$0x53524c48, (%rbx)	/* "HLRS" */
	movl	$0, 4(%rbx)
	movl	$0, 12(%rbx)		/* len */
	cmpl	$0, WINDOW+4		/* which function */
	jne	add

	mov	WINDOW+16+4, %ecx	/* first argument's length */
	test	%ecx, %ecx
	jz	empty
	mov	WINDOW+16+8, %rdx	/* its offset */
	xor	%eax, %eax
1:	movzbl	WINDOW(%rdx), %r8d
	add	%r8d, %eax
	inc	%rdx
	dec	%ecx
	jnz	1b
	movl	$2, 8(%rbx)
	mov	%rax, 16(%rbx)
	jmp	done

add:	mov	WINDOW+16+8, %rax
	add	WINDOW+32+8, %rax
	movl	$3, 8(%rbx)
	mov	%rax, 16(%rbx)
	jmp	done

empty:	movl	$1, 4(%rbx)		/* error */
	movl	$22, 24(%rbx)		/* code */
	movl	$8, 28(%rbx)		/* text's length */
	movq	$0, 32(%rbx)		/* at the window's start: the call is of no more use */
	lea	text(%rip), %rax
	mov	(%rax), %rcx
	mov	%rcx, WINDOW
	mov	8(%rax), %rcx
	mov	%rcx, WINDOW+8

done:	mov	$2, %edi		/* DONE, rsi the result's offset */
	mov	$HYPERCALL, %eax
	call	*%rax
	ud2

	.section .rodata
text:	.ascii	"no bytes\0\0\0\0\0\0\0\0"

	.section .note.GNU-stack, "", @progbits
