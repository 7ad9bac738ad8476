; SPDX-License-Identifier: MIT
;
; Entry of all 256 vectors: make the stack look the same for each (struct trap_frame, trap.h), call
; trap_handler(), restore what it left in the frame, return.
;
; The CPU aligns RSP to 16 before it pushes its five words (SDM 3A 6.14.2); with error code, vector and fifteen
; registers that makes 176 bytes, so RSP is aligned again at the call.

bits 64
default rel

extern trap_handler
extern trap_clears_ac

section .text

trap_common:
	push rax
	push rbx
	push rcx
	push rdx
	push rsi
	push rdi
	push rbp
	push r8
	push r9
	push r10
	push r11
	push r12
	push r13
	push r14
	push r15
	cld
	; An exception does not clear RFLAGS.AC by itself: SMAP would be off in the handler.
	cmp byte [trap_clears_ac], 0
	je .call
	clac
.call:
	mov rdi, rsp
	call trap_handler
	pop r15
	pop r14
	pop r13
	pop r12
	pop r11
	pop r10
	pop r9
	pop r8
	pop rbp
	pop rdi
	pop rsi
	pop rdx
	pop rcx
	pop rbx
	pop rax
	add rsp, 16
	iretq

; Vectors for which the CPU pushes an error code: #DF #TS #NP #SS #GP #PF #AC #CP #VC #SX.
%macro has_error_code 1
	%assign has 0
	%if %1 == 8 || (%1 >= 10 && %1 <= 14) || %1 == 17 || %1 == 21 || %1 == 29 || %1 == 30
		%assign has 1
	%endif
%endmacro

%assign vector 0
%rep 256
align 16
trap_stub_%+vector:
	has_error_code vector
	%if has == 0
	push 0
	%endif
	push vector
	jmp trap_common
	%assign vector vector + 1
%endrep

; bool trap_try_call(struct trap_catch *catch, void (*fn)(void *), void *arg). The first word of the catch is
; RSP for the landing; the registers C expects to survive a call are on the stack there.
global trap_try_call:function (trap_try_call.end - trap_try_call)
trap_try_call:
	push rbp
	mov rbp, rsp
	push rbx
	push r12
	push r13
	push r14
	push r15
	sub rsp, 8
	mov [rdi], rsp
	mov rdi, rdx
	call rsi
	mov eax, 1
	jmp trap_try_return
global trap_try_landing
trap_try_landing:
	xor eax, eax
trap_try_return:
	add rsp, 8
	pop r15
	pop r14
	pop r13
	pop r12
	pop rbx
	pop rbp
	ret
trap_try_call.end:

section .rodata
align 8
global trap_stubs:data (trap_stubs.end - trap_stubs)
trap_stubs:
%assign vector 0
%rep 256
	dq trap_stub_%+vector
	%assign vector vector + 1
%endrep
.end:

section .note.GNU-stack noalloc noexec nowrite progbits
