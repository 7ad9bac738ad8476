/* SPDX-License-Identifier: MIT */
/*
 * Made-up functions. See codegen.h. Encodings by SDM volume 2, in their 32-bit forms: EAX is all that they work on, ECX is
 * the only other register, and both are the caller's to lose.
 */
#include "tests/codegen.h"

#include "kernel/base/bits.h"
#include "kernel/base/panic.h"
#include "kernel/base/string.h"

/* Instructions that change EAX, and what they make of it. `imm` are the bytes behind the opcode. */
enum change {
	ADD,	/* add eax, imm32 */
	SUB,	/* sub eax, imm32 */
	XOR,	/* xor eax, imm32 */
	ROL,	/* rol eax, imm8 */
	MUL,	/* imul eax, eax, imm8 */
	LEA,	/* lea eax, [rax + disp8] */
	NOT,	/* not eax */
	INC,	/* inc eax */
	VIA,	/* mov ecx, imm32; add eax, ecx */
	SKIP,	/* jmp over imm bytes that are no code */
	CHANGES,
};

static const struct {
	u8 opcode_length, imm;
	u8 opcode[3];
} forms[CHANGES] = {
	[ADD] = { 1, 4, { 0x05 } },
	[SUB] = { 1, 4, { 0x2d } },
	[XOR] = { 1, 4, { 0x35 } },
	[ROL] = { 2, 1, { 0xc1, 0xc0 } },
	[MUL] = { 2, 1, { 0x6b, 0xc0 } },
	[LEA] = { 2, 1, { 0x8d, 0x40 } },
	[NOT] = { 2, 0, { 0xf7, 0xd0 } },
	[INC] = { 2, 0, { 0xff, 0xc0 } },
	[VIA] = { 1, 4, { 0xb9 } },
	[SKIP] = { 2, 4, { 0xeb, 0x04 } },
};
static const u8 add_eax_ecx[] = { 0x01, 0xc8 };

static u32 apply(enum change change, u32 eax, u32 imm)
{
	u32 extended = (u32)(i32)(i8)imm;

	switch (change) {
	case ADD:
	case VIA:
		return eax + imm;
	case SUB:
		return eax - imm;
	case XOR:
		return eax ^ imm;
	case ROL:
		return imm % 32 ? eax << imm % 32 | eax >> (32 - imm % 32) : eax;
	case MUL:
		return eax * extended;
	case LEA:
		return eax + extended;
	case NOT:
		return ~eax;
	case INC:
		return eax + 1;
	default:
		return eax;
	}
}

static u64 put(u8 *buf, u64 at, const void *bytes, u64 n)
{
	memcpy(buf + at, bytes, n);
	return at + n;
}

static u64 put_change(u8 *buf, u64 at, enum change change, u32 imm)
{
	at = put(buf, at, forms[change].opcode, forms[change].opcode_length);
	at = put(buf, at, &imm, forms[change].imm);
	return change == VIA ? put(buf, at, add_eax_ecx, sizeof(add_eax_ecx)) : at;
}

static u64 length_of(enum change change)
{
	return forms[change].opcode_length + forms[change].imm + (change == VIA ? sizeof(add_eax_ecx) : 0);
}

/* The call pushes 8 bytes: with one more push the stack is aligned for the callee. */
static u64 put_call(u8 *buf, u64 at, u64 va, codegen_callee callee)
{
	static const u8 before[] = { 0x55, 0x89, 0xc7, 0xe8 };	/* push rbp; mov edi, eax; call rel32 */
	static const u8 after[] = { 0x5d };			/* pop rbp */
	u32 distance;

	at = put(buf, at, before, sizeof(before));
	distance = (u32)((u64)callee - (va + at + sizeof(distance)));
	at = put(buf, at, &distance, sizeof(distance));
	return put(buf, at, after, sizeof(after));
}

void codegen_function(struct rng *rng, u8 *buf, u64 size, u64 va, codegen_callee callee, u32 *before)
{
	const u64 end = callee ? 10 : 1;	/* the call, and RET */
	u32 eax = (u32)rng_next(rng);
	u64 at = 1;

	assert(size >= CODEGEN_MIN);
	buf[0] = 0xb8;				/* mov eax, imm32 */
	at = put(buf, at, &eax, sizeof(eax));
	while (at + length_of(INC) + end <= size) {
		enum change change = (enum change)rng_below(rng, CHANGES);
		u32 imm = (u32)rng_next(rng);

		if (at + length_of(change) + end > size)
			change = INC;
		if (change == MUL)
			imm |= 1;		/* an even factor would forget bits */
		eax = apply(change, eax, imm);
		at = put_change(buf, at, change, imm);
	}
	while (at + end < size)
		buf[at++] = 0x90;		/* nop */
	if (callee)
		at = put_call(buf, at, va, callee);
	buf[at++] = 0xc3;			/* ret */
	assert(at == size);
	*before = eax;
}
