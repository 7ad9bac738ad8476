; SPDX-License-Identifier: MIT
;
; Where the loader enters (boot/boot_info.h has the state it promises), and the switch from one stack to
; another. Both are things C cannot say: it needs a stack, and cannot leave one.

bits 64
default rel

extern arch_early_init
extern kernel_main

FIRST_STACK_SIZE equ 32 * 1024

section .bss
align 16
first_stack:
	resb FIRST_STACK_SIZE
first_stack_top:

section .text

; RDI = struct boot_info *. Does not return.
global kernel_entry:function (kernel_entry.end - kernel_entry)
kernel_entry:
	cli
	lea rsp, [first_stack_top]
	push 0				; every flag off: direction, alignment check, nested task
	popfq
	mov rbx, rdi
	xor ebp, ebp			; the end of the chain of frames
	lea rdi, [first_stack]
	lea rsi, [first_stack_top]
	call arch_early_init
	mov rdi, rbx
	call kernel_main
	ud2
.end:

; void stack_switch_call(void *top, void (*fn)(void *), void *arg): go on in fn on another stack, for good.
; top is 16-byte aligned. The old stack is not touched again.
global stack_switch_call:function (stack_switch_call.end - stack_switch_call)
stack_switch_call:
	mov rsp, rdi
	xor ebp, ebp
	mov rdi, rdx
	call rsi
	ud2
.end:

section .note.GNU-stack noalloc noexec nowrite progbits
