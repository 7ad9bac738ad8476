; SPDX-License-Identifier: MIT
;
; What another CPU runs first: from real mode, where INIT and STARTUP leave it (SDM 3A 8.4, 9.1), to 64-bit mode in the kernel.
;
; This is copied to a page below 1 MiB, mapped there for reading and executing only; the page behind it is the data, whose
; layout is struct ap_start_data (smp.c checks it). The STARTUP sets CS to the page, so the code needs no address of its own;
; far jumps go through pointers in the data. One CPU is let in at a time: it must have the APIC id that the data names and
; take the ticket; any other, one that answers a call from long ago, halts here for good.

GDT_POINTER equ 0
FAR_32 equ 8
FAR_64 equ 16
AP_CR0 equ 56
AP_CR3 equ 60
AP_CR4 equ 64
AP_EFER equ 68
AP_ID equ 72
AP_ID_LEAF equ 76
AP_TICKET equ 80
AP_STACK equ 88
AP_ENTRY equ 96
AP_ARG equ 104

DATA_SELECTOR equ 0x18
PAGE equ 4096
MSR_EFER equ 0xc0000080

section .rodata
align 16
global ap_start_code:data (ap_start_code.end - ap_start_code)
ap_start_code:

bits 16
	cli
	cld
	mov ax, cs
	movzx ebx, ax
	shl ebx, 4
	add ebx, PAGE			; linear address of the data
	add ax, PAGE / 16
	mov ds, ax
	o32 lgdt [GDT_POINTER]
	mov eax, cr0
	or al, 1			; PE
	mov cr0, eax
	o32 jmp far [FAR_32]

bits 32
.protected:
	mov ax, DATA_SELECTOR
	mov ds, ax
	mov es, ax
	mov ss, ax
	mov eax, [ebx + AP_CR4]
	mov cr4, eax
	mov eax, [ebx + AP_CR3]
	mov cr3, eax
	mov ecx, MSR_EFER
	mov eax, [ebx + AP_EFER]
	xor edx, edx
	wrmsr
	mov eax, [ebx + AP_CR0]
	mov cr0, eax			; paging on: 64-bit mode, but for CS
	jmp far [ebx + FAR_64]

bits 64
.long:
	mov esi, ebx
	mov eax, [rsi + AP_ID_LEAF]
	xor ecx, ecx
	cpuid
	cmp dword [rsi + AP_ID_LEAF], 1
	jne .known			; leaf 0BH: EDX is the id
	mov edx, ebx
	shr edx, 24			; leaf 1: the upper byte of EBX
.known:
	cmp edx, [rsi + AP_ID]
	jne .park
	mov eax, 1
	xor edi, edi
	lock cmpxchg [rsi + AP_TICKET], edi
	jne .park
	mov rsp, [rsi + AP_STACK]
	mov rdi, [rsi + AP_ARG]
	xor ebp, ebp			; the end of the chain of frames
	call [rsi + AP_ENTRY]
.park:
	cli
	hlt
	jmp .park
.end:

global ap_start_protected:data
ap_start_protected: dq ap_start_code.protected - ap_start_code
global ap_start_long:data
ap_start_long: dq ap_start_code.long - ap_start_code
global ap_start_size:data
ap_start_size: dq ap_start_code.end - ap_start_code

section .note.GNU-stack noalloc noexec nowrite progbits
