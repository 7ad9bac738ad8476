; SPDX-License-Identifier: MIT
;
; First instructions of the hand-over test: keep the state that the loader gave, then into C.

bits 64
default rel

section .text.entry progbits alloc exec nowrite align=16
global kernel_entry
extern handover_main

kernel_entry:
	; RSP is undefined, so flags can only be read on a stack of our own.
	lea	rsp, [stack_top]
	pushfq
	pop	rsi
	cld
	call	handover_main
.end:
	hlt
	jmp	.end

section .bss nobits alloc write align=16
	resb	16384
stack_top:

section .note.GNU-stack noalloc noexec nowrite progbits
