; SPDX-License-Identifier: MIT
;
; From one kernel stack to another and back (context.h). To the compiler it is a call: the registers that a call may
; destroy are of no interest, the others are on the stack that is left.

bits 64
default rel

section .text

; void context_swap_stacks(u64 *save_rsp, u64 rsp)
global context_swap_stacks:function (context_swap_stacks.end - context_swap_stacks)
context_swap_stacks:
	push rbp
	push rbx
	push r12
	push r13
	push r14
	push r15
	mov [rdi], rsp
	mov rsp, rsi
	pop r15
	pop r14
	pop r13
	pop r12
	pop rbx
	pop rbp
	ret
.end:

; Where a new context begins: context_init() put the function into RBX, its argument into R12, 0 into RBP (the end of the
; chain of frames), and left RSP 16-byte aligned here.
global context_entry:function (context_entry.end - context_entry)
context_entry:
	mov rdi, r12
	call rbx
	ud2
.end:

section .note.GNU-stack noalloc noexec nowrite progbits
