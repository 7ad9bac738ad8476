; SPDX-License-Identifier: MIT
;
; The last instructions of the loader: from the firmware's tables to the boot root, and to the kernel.
;
; The boot root maps [jump_start, jump_end) one to one, and of everything else that the loader knows nothing:
; behind the write of CR3 there is no stack, no data and no way back. The state the kernel is entered with is
; written in boot_info.h. Intel SDM volume 3A: 2.5 (CR0, CR4), 2.2.1 (EFER), 4.10.4 (what a write flushes).

bits 64
default rel

MSR_EFER	equ 0xc0000080
EFER_NXE	equ 11			; bit number
CR0_WP		equ 1 << 16
CR4_PGE		equ 1 << 7
CR4_PCIDE	equ 1 << 17
CR4_CET		equ 1 << 23

section .text

global jump_to_kernel:function hidden
global jump_start:data hidden
global jump_end:data hidden

; void jump_to_kernel(u64 root, u64 entry, u64 info, bool nx)
;	rdi: physical address for CR3	rsi: entry point	rdx: handed to the kernel in RDI
;	ecx: the CPU has NX
align 64
jump_start:
jump_to_kernel:
	cli
	cld
	mov	r8, rdx
	; NX must be on before the first entry that says so: until then the bit is reserved.
	test	cl, cl
	jz	.no_nx
	mov	ecx, MSR_EFER
	rdmsr
	bts	eax, EFER_NXE
	wrmsr
.no_nx:
	; Clearing PGE flushes the firmware's global entries, which the write of CR3 would keep. Shadow stacks
	; and process-context ids are for the kernel to begin with, if it wants them.
	mov	rax, cr4
	and	rax, ~(CR4_PGE | CR4_PCIDE | CR4_CET)
	mov	cr4, rax
	mov	rax, cr0
	or	rax, CR0_WP
	mov	cr0, rax
	mov	cr3, rdi
	mov	rdi, r8
	xor	ebp, ebp		; a backtrace ends here
	jmp	rsi
jump_end:

section .note.GNU-stack noalloc noexec nowrite progbits
