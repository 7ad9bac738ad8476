/* SPDX-License-Identifier: MIT */
/* Expected faults: each access must fault with this vector, error code and address, and the kernel goes on. */
#include "arch/x86_64/trap.h"

#include "arch/x86_64/cpu.h"
#include "arch/x86_64/insn.h"
#include "arch/x86_64/percpu.h"
#include "kernel/base/string.h"
#include "kernel/stack.h"
#include "mm/buddy.h"
#include "mm/pgtable.h"
#include "mm/vm_area.h"
#include "tests/test.h"

extern u8 _text_start[], _rodata_start[];

#define NON_CANONICAL 0x0000800000000000ull
#define NON_CANONICAL_57 0x0100000000000000ull
#define RET 0xc3

/* In assembly, as the compiler takes accesses near 0 for mistakes. */
static void read_it(void *arg)
{
	u8 value;

	__asm__ volatile("movb (%1), %0" : "=q"(value) : "r"(arg) : "memory");
}

static void write_it(void *arg)
{
	__asm__ volatile("movb $0x5a, (%0)" : : "r"(arg) : "memory");
}

static void call_it(void *arg)
{
	__asm__ volatile("call *%0" : : "r"(arg) : "memory", "cc", "rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11");
}

/* fn(va) must be a page fault with this error code, at va. */
static bool page_faults(void (*fn)(void *arg), u64 va, u32 error)
{
	struct trap_record r;

	if (trap_try(fn, (void *)va, &r))
		return CHECK(!"it did not fault");
	CHECK_EQ(r.vector, TRAP_PAGE_FAULT);
	CHECK_EQ(r.cr2, va);
	return CHECK_EQ(r.error, error);
}

TEST_ID(trap, write_to_text, "BT3")
{
	u8 before = _text_start[0];

	page_faults(write_it, (u64)_text_start, PF_PRESENT | PF_WRITE);
	CHECK_EQ(_text_start[0], before);
}

TEST_ID(trap, write_to_rodata, "BT3")
{
	page_faults(write_it, (u64)_rodata_start, PF_PRESENT | PF_WRITE);
}

TEST_ID(trap, image_alias_in_direct_map_is_read_only, "PT1")
{
	static const void *const parts[] = { _text_start, _rodata_start };

	for (unsigned i = 0; i < ARRAY_SIZE(parts); i++) {
		struct pt_slot slot = pt_walk(&kernel_space, (u64)parts[i], PT_4K);
		u64 pa = pte_leaf_pa(slot.value, slot.level).raw + ((u64)parts[i] & (pt_span(slot.level) - 1));
		u8 *alias = phys_to_virt(phys(pa));

		CHECK(memcmp(alias, parts[i], 64) == 0);
		page_faults(write_it, (u64)alias, PF_PRESENT | PF_WRITE);
	}
}

TEST_ID(trap, execute_data, "BT3")
{
	static u8 code[16] = { RET };
	u8 on_stack[16] = { RET };
	u64 stack_va = (u64)on_stack;

	if (!cpu_has(CPU_NX))
		SKIP("no NX");
	__asm__ volatile("" : "+r"(stack_va) : : "memory");
	page_faults(call_it, (u64)code, PF_PRESENT | PF_FETCH);
	page_faults(call_it, stack_va, PF_PRESENT | PF_FETCH);
}

TEST_ID(trap, execute_direct_map, "PT1")
{
	struct page *page = alloc_page(0);

	REQUIRE(page);
	*(volatile u8 *)page_to_virt(page) = RET;
	if (cpu_has(CPU_NX))
		page_faults(call_it, (u64)page_to_virt(page), PF_PRESENT | PF_FETCH);
	CHECK_EQ(*(volatile u8 *)page_to_virt(page), RET);
	free_page(page);
}

TEST_ID(trap, null_pointer, "BT3")
{
	page_faults(read_it, 0, 0);
	page_faults(write_it, 8, PF_WRITE);
	page_faults(call_it, 0, cpu_has(CPU_NX) || cpu_has(CPU_SMEP) ? PF_FETCH : 0);
}

TEST_ID(trap, non_canonical_address, "BT3")
{
	struct trap_record r;

	REQUIRE(!trap_try(read_it, (void *)(arch_mm.levels == 5 ? NON_CANONICAL_57 : NON_CANONICAL), &r));
	CHECK_EQ(r.vector, TRAP_GENERAL_PROTECTION);
	CHECK_EQ(r.error, 0);
	CHECK_EQ(r.cr2, 0);
}

TEST_ID(trap, stack_guard_page, "BT3 VA1")
{
	struct range stack = cpu_local()->stacks[CPU_STACK_TASK];
	u64 sp = (u64)__builtin_frame_address(0);

	CHECK(range_has(stack, sp));
	page_faults(write_it, stack.start - 8, PF_WRITE);
	page_faults(read_it, stack.end, 0);
	CHECK(stack_is_overflow(stack.start - 8) && !stack_is_overflow(stack.end));
	for (unsigned i = 0; i < CPU_STACKS; i++) {
		struct range s = cpu_local()->stacks[i];
		struct vm_area *area = find_vm_area_guard(s.start - 1);

		page_faults(read_it, s.start - 1, 0);
		page_faults(read_it, s.end, 0);
		CHECK(area && area->start == s.start);
	}
}

static __noinline u64 recurse(u64 depth)
{
	volatile u8 page[1024];

	page[0] = (u8)depth;
	return depth ? recurse(depth - 1) + page[0] : 0;
}

static void overflow(void *arg)
{
	*(volatile u64 *)arg = recurse(MIB);
}

/* The page fault cannot be pushed: a double fault, on its own stack. Twice, as that stack must be reusable. */
TEST_ID(trap, stack_overflow_is_a_double_fault, "BT3")
{
	u64 sink = 0;

	for (unsigned i = 0; i < 2; i++) {
		struct trap_record r;

		REQUIRE(!trap_try(overflow, &sink, &r));
		CHECK_EQ(r.vector, TRAP_DOUBLE_FAULT);
		CHECK(stack_is_overflow(r.cr2));
	}
	CHECK_EQ(sink, 0);
}

/* ---- Other vectors ---- */

static void int3(void *arg)
{
	(void)arg;
	__asm__ volatile("int3");
}

static void ud2(void *arg)
{
	(void)arg;
	__asm__ volatile("ud2");
}

static void divide(void *arg)
{
	__asm__ volatile("divl %0" : : "r"(*(u32 *)arg), "a"(1), "d"(0) : "cc");
}

static void use_fpu(void *arg)
{
	(void)arg;
	__asm__ volatile("fninit");
}

static void bad_selector(void *arg)
{
	__asm__ volatile("movl %0, %%es" : : "r"(*(u32 *)arg));
}

TEST_ID(trap, other_exceptions, "BT3")
{
	static u32 zero, selector = 0x7f8;
	static const struct {
		void (*fn)(void *arg);
		void *arg;
		u32 vector, error;
		bool behind;	/* a trap: RIP is that of the next instruction */
	} rows[] = {
		{ int3, NULL, TRAP_BREAKPOINT, 0, true },
		{ ud2, NULL, TRAP_INVALID_OPCODE, 0, false },
		{ divide, &zero, TRAP_DIVIDE, 0, false },
		{ bad_selector, &selector, TRAP_GENERAL_PROTECTION, 0x7f8, false },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		struct trap_record r;

		REQUIRE(!trap_try(rows[i].fn, rows[i].arg, &r));
		CHECK_EQ(r.vector, rows[i].vector);
		CHECK_EQ(r.error, rows[i].error);
		CHECK(r.rip - (u64)rows[i].fn < 64);
		CHECK_EQ(((const u8 *)r.rip)[-1] == 0xcc, rows[i].behind);
	}
}

TEST_ID(trap, fpu_switched_off, "BT3")
{
	struct trap_record r;
	bool returned;

	insn_write_cr0(insn_read_cr0() | CR0_TS);
	returned = trap_try(use_fpu, NULL, &r);
	insn_write_cr0(insn_read_cr0() & ~CR0_TS);
	REQUIRE(!returned);
	CHECK_EQ(r.vector, TRAP_NO_FPU);
}

/* ---- The mechanism ---- */

static void inner_and_outer(void *arg)
{
	struct trap_record inner;

	if (!trap_try(ud2, NULL, &inner) && inner.vector == TRAP_INVALID_OPCODE)
		++*(unsigned *)arg;
	read_it((void *)0x10);
	*(unsigned *)arg += 100;
}

TEST_ID(trap, nested, "BT3")
{
	struct trap_record r;
	unsigned steps = 0;

	REQUIRE(!trap_try(inner_and_outer, &steps, &r));
	CHECK_EQ(steps, 1);
	CHECK_EQ(r.vector, TRAP_PAGE_FAULT);
	CHECK_EQ(r.cr2, 0x10);
	CHECK(!cpu_local()->catch);
}

static void count(void *arg)
{
	++*(unsigned *)arg;
}

TEST_ID(trap, no_fault_returns_true, "BT3")
{
	struct trap_record r = { 1, 2, 3, 4 };
	unsigned calls = 0;

	CHECK(trap_try(count, &calls, &r));
	CHECK_EQ(calls, 1);
	CHECK_EQ(r.vector, 1);	/* left alone */
}

TEST_ID(trap, interrupts_stay_as_they_were, "BT3")
{
	u64 flags;

	CHECK(arch_irqs_enabled());
	CHECK(!trap_try(ud2, NULL, NULL));
	CHECK(arch_irqs_enabled());
	flags = arch_irq_save();
	CHECK(!arch_irqs_enabled());
	CHECK(!trap_try(ud2, NULL, NULL));
	CHECK(!arch_irqs_enabled());
	arch_irq_restore(flags);
	CHECK(arch_irqs_enabled());
}

TEST_ID(trap, safe_reads, "RP4")
{
	u64 value = 1, source = 0x123456789abcdef0ull;

	CHECK(trap_read_u64((u64)&source, &value));
	CHECK_EQ(value, source);
	CHECK(!trap_read_u64(0x18, &value));
	CHECK_EQ(value, source);
	CHECK(trap_rdmsr(MSR_EFER, &value) && (value & 0x500) == 0x500);	/* LME, LMA */
}

/* A vector of the IDT by software, with a pattern in every register: all must be the same behind it. */
#define REGISTERS_SURVIVE(n)                                                                              \
	({                                                                                                \
		u64 bad_;                                                                                 \
		__asm__ volatile("pushq %%rbx; pushq %%rbp\n\t"                                           \
				 "movq $0x11, %%rax; movq $0x22, %%rbx; movq $0x33, %%rcx; movq $0x44, %%rdx\n\t"   \
				 "movq $0x55, %%rsi; movq $0x66, %%rdi; movq $0x77, %%rbp; movq $0x88, %%r8\n\t"    \
				 "movq $0x99, %%r9; movq $0xaa, %%r10; movq $0xbb, %%r11; movq $0xcc, %%r12\n\t"    \
				 "movq $0xdd, %%r13; movq $0xee, %%r14; movq $0xff, %%r15\n\t"                      \
				 "int $" #n "\n\t"                                                        \
				 "xorq $0x11, %%rax; xorq $0x22, %%rbx; orq %%rbx, %%rax; xorq $0x33, %%rcx\n\t"    \
				 "orq %%rcx, %%rax; xorq $0x44, %%rdx; orq %%rdx, %%rax; xorq $0x55, %%rsi\n\t"     \
				 "orq %%rsi, %%rax; xorq $0x66, %%rdi; orq %%rdi, %%rax; xorq $0x77, %%rbp\n\t"     \
				 "orq %%rbp, %%rax; xorq $0x88, %%r8; orq %%r8, %%rax; xorq $0x99, %%r9\n\t"        \
				 "orq %%r9, %%rax; xorq $0xaa, %%r10; orq %%r10, %%rax; xorq $0xbb, %%r11\n\t"      \
				 "orq %%r11, %%rax; xorq $0xcc, %%r12; orq %%r12, %%rax; xorq $0xdd, %%r13\n\t"     \
				 "orq %%r13, %%rax; xorq $0xee, %%r14; orq %%r14, %%rax; xorq $0xff, %%r15\n\t"     \
				 "orq %%r15, %%rax\n\t"                                                   \
				 "popq %%rbp; popq %%rbx"                                                 \
				 : "=&a"(bad_)                                                            \
				 :                                                                        \
				 : "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", \
				   "cc", "memory");                                                       \
		bad_ == 0;                                                                                \
	})

TEST_ID(trap, stray_interrupts_are_counted_and_harmless, "BT3")
{
	u64 before = cpu_local()->stray_interrupts;

	CHECK(REGISTERS_SURVIVE(32));
	CHECK(REGISTERS_SURVIVE(128));
	CHECK(REGISTERS_SURVIVE(255));
	CHECK_EQ(cpu_local()->stray_interrupts, before + 3);
	cpu_local()->stray_interrupts = before;
}

/* On its own stack, whatever the current one is worth. */
TEST_ID(trap, nmi_is_counted, "BT3")
{
	u64 before = cpu_local()->nmis;

	CHECK(REGISTERS_SURVIVE(2));
	CHECK_EQ(cpu_local()->nmis, before + 1);
	cpu_local()->nmis = before;
}

TEST_ID(trap, nothing_arrives_uninvited, "BT3")
{
	CHECK(arch_irqs_enabled());
	CHECK_EQ(cpu_local()->stray_interrupts, 0);
	CHECK_EQ(cpu_local()->nmis, 0);
}

TEST_ID(trap, page_fault_errors_in_words, "BT3")
{
	static const struct {
		u64 error;
		const char *text;
	} rows[] = {
		{ 0, "supervisor read from an absent page" },
		{ PF_WRITE, "supervisor write to an absent page" },
		{ PF_PRESENT | PF_WRITE, "supervisor write to a present page" },
		{ PF_PRESENT | PF_FETCH, "supervisor fetch from a present page" },
		{ PF_USER | PF_PRESENT | PF_RESERVED, "user read from a present page, reserved bit set in an entry" },
		{ PF_PRESENT | PF_PKEY, "supervisor read from a present page, protection key" },
		{ PF_PRESENT | PF_SHADOW_STACK, "supervisor read from a present page, shadow stack" },
		{ PF_PRESENT | PF_WRITE | PF_SGX, "supervisor write to a present page, SGX access control" },
	};
	char text[128];

	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++)
		CHECK(strcmp(trap_describe_page_fault(rows[i].error, text, sizeof(text)), rows[i].text) == 0);
	CHECK(strcmp(trap_name(14), "page fault") == 0 && strcmp(trap_name(15), "reserved exception") == 0);
}

/* ---- User pages in the kernel's reach ---- */

#define USER_VA 0x400000ull

struct user_page {
	struct pt_space space;
	u64 cpu_gen[MAX_CPUS];
	struct page *frame;
};

static struct user_page user;

static int user_map(u64 attrs)
{
	struct pt_change change = { .op = PT_OP_MAP,
				    .va = range_len(USER_VA, PAGE_SIZE),
				    .pa = page_to_phys(user.frame),
				    .set = (PTE_P | PTE_U | PTE_A | PTE_D | attrs) & arch_mm.pte_mask };
	struct tlb_batch batch;
	int rc;

	tlb_batch_init(&batch, &user.space);
	rc = pt_change(&user.space, &change, &batch);
	tlb_batch_finish(&batch);
	return rc;
}

/* A space with one user page, and this CPU in it, for as long as fn runs. */
static void in_user_space(u64 attrs, void (*fn)(void))
{
	struct page *frame = alloc_page(ALLOC_ZERO);
	int rc;

	REQUIRE(frame);
	user.frame = frame;
	*(volatile u8 *)page_to_virt(frame) = RET;
	rc = pt_space_init(&user.space, "trap test", PT_SPACE_USER, phys(0), user.cpu_gen);
	if (CHECK_EQ(rc, 0)) {
		page_set_class(page_to_pfn(frame), 1, PAGE_USER);
		if (CHECK_EQ(user_map(attrs), 0)) {
			u64 flags = arch_irq_save();

			tlb_space_enter(&user.space);
			arch_switch_root(user.space.root);
			fn();
			arch_switch_root(kernel_space.root);
			tlb_space_leave(&user.space);
			arch_irq_restore(flags);
		}
		pt_space_destroy(&user.space);
		page_set_class(page_to_pfn(frame), 1, PAGE_KERNEL);
	}
	free_page(frame);
}

static void smap_checks(void)
{
	u8 value;

	page_faults(read_it, USER_VA, PF_PRESENT);
	page_faults(write_it, USER_VA, PF_PRESENT | PF_WRITE);
	insn_stac();
	value = *(volatile u8 *)USER_VA;
	insn_clac();
	CHECK_EQ(value, RET);
	page_faults(read_it, USER_VA, PF_PRESENT);
}

TEST_ID(trap, smap, "BT3")
{
	if (!cpu_has(CPU_SMAP))
		SKIP("no SMAP");
	in_user_space(PTE_W | PTE_NX, smap_checks);
}

static void smep_checks(void)
{
	page_faults(call_it, USER_VA, PF_PRESENT | PF_FETCH);
}

TEST_ID(trap, smep, "BT3")
{
	if (!cpu_has(CPU_SMEP))
		SKIP("no SMEP");
	in_user_space(0, smep_checks);
}

/* A trap gives RFLAGS.AC back as it was, and takes nothing of it along. */
static void ac_in_a_trap(void)
{
	struct trap_record r;
	bool returned;

	insn_stac();
	returned = trap_try(ud2, NULL, &r);
	CHECK(insn_read_flags() & RFLAGS_AC);
	insn_clac();
	CHECK(!returned);
	page_faults(read_it, USER_VA, PF_PRESENT);
}

TEST_ID(trap, smap_override_ends_with_clac, "BT3")
{
	if (!cpu_has(CPU_SMAP))
		SKIP("no SMAP");
	in_user_space(PTE_W | PTE_NX, ac_in_a_trap);
}
