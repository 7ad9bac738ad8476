/* SPDX-License-Identifier: MIT */
/* HPET: see hpet.h. Registers are 64 bits wide and accessed in halves, as not every chipset takes more at once. */
#include "arch/x86_64/hpet.h"

#include "kernel/base/bits.h"

#define CAPABILITIES 0x000u	/* low half; the high one is the period */
#define PERIOD 0x004u		/* of a tick, in femtoseconds */
#define CONFIGURATION 0x010u
#define COUNTER 0x0f0u
#define TIMER(n) (0x100u + 0x20u * (n))
#define TIMER_LINES(n) (TIMER(n) + 4u)		/* lines it can reach */
#define TIMER_COMPARATOR(n) (TIMER(n) + 8u)

#define CAP_LAST_TIMER(cap) ((cap) >> 8 & 0x1f)
#define CONF_ENABLE 0x1u
#define CONF_LEGACY 0x2u

#define TIMER_LEVEL (1u << 1)
#define TIMER_ENABLE (1u << 2)
#define TIMER_PERIODIC (1u << 3)
#define TIMER_CAN_REPEAT (1u << 4)
#define TIMER_SET_VALUE (1u << 6)
#define TIMER_32BIT (1u << 8)
#define TIMER_LINE(line) ((line) << 9)
#define TIMER_LINE_MASK (0x1fu << 9)
#define TIMER_FSB (1u << 14)

#define FEMTOSECONDS 1000000000000000ull
#define PERIOD_MAX 100000000u	/* 100 ns: more is no HPET (2.3.4) */

static volatile u8 *hpet;
static u64 frequency;
static u32 repeater;	/* the timer that hpet_can_repeat() found */
static u32 repeater_line;

static u32 get(u32 reg)
{
	return *(volatile u32 *)(hpet + reg);
}

static void set(u32 reg, u32 value)
{
	*(volatile u32 *)(hpet + reg) = value;
}

bool hpet_init(volatile void *registers)
{
	u32 period;

	if (!registers)
		return false;
	hpet = registers;
	period = get(PERIOD);
	if (!period || period > PERIOD_MAX) {
		hpet = NULL;
		return false;
	}
	frequency = FEMTOSECONDS / period;
	set(CONFIGURATION, get(CONFIGURATION) & ~(CONF_ENABLE | CONF_LEGACY));
	for (u32 n = 0; n <= CAP_LAST_TIMER(get(CAPABILITIES)); n++)
		set(TIMER(n), get(TIMER(n)) & ~(TIMER_ENABLE | TIMER_FSB));
	set(CONFIGURATION, get(CONFIGURATION) | CONF_ENABLE);
	return true;
}

bool hpet_present(void)
{
	return hpet;
}

u64 hpet_frequency(void)
{
	return frequency;
}

u32 hpet_read(void)
{
	return get(COUNTER);
}

bool hpet_can_repeat(u64 lines, u32 *line)
{
	for (u32 n = 0; hpet && n <= CAP_LAST_TIMER(get(CAPABILITIES)); n++) {
		u64 reach = lines & get(TIMER_LINES(n));

		if (!(get(TIMER(n)) & TIMER_CAN_REPEAT) || !reach)
			continue;
		repeater = n;
		repeater_line = *line = log2_floor(reach);
		return true;
	}
	return false;
}

/*
 * A repeating comparator takes two writes after "set value": where to begin, and the distance (2.3.9.2.2). The counter stands
 * still meanwhile.
 */
void hpet_repeat(u32 ticks)
{
	u32 conf = get(TIMER(repeater)) & ~(TIMER_LEVEL | TIMER_FSB | TIMER_LINE_MASK);

	conf |= TIMER_LINE(repeater_line) | TIMER_ENABLE | TIMER_PERIODIC | TIMER_SET_VALUE | TIMER_32BIT;
	set(CONFIGURATION, get(CONFIGURATION) & ~CONF_ENABLE);
	set(TIMER(repeater), conf);
	set(TIMER_COMPARATOR(repeater), get(COUNTER) + ticks);
	set(TIMER_COMPARATOR(repeater), ticks);
	set(CONFIGURATION, get(CONFIGURATION) | CONF_ENABLE);
}

void hpet_repeat_stop(void)
{
	set(TIMER(repeater), get(TIMER(repeater)) & ~(TIMER_ENABLE | TIMER_PERIODIC));
}
