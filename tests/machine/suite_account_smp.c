/* SPDX-License-Identifier: MIT */
/*
 * Accounts charged by all CPUs at once (SPEC PA5): the sums are exact at the end, no limit is ever exceeded, and an NMI that finds
 * its CPU in the middle of a charge makes charges of its own.
 */
#include "arch/x86_64/apic.h"
#include "arch/x86_64/ipi.h"
#include "kernel/base/atomic.h"
#include "kernel/thread.h"
#include "mm/account.h"
#include "tests/machine/crew.h"
#include "tests/test.h"

#define ROUNDS 20000u		/* of each CPU */
#define HELD_MAX 48u
#define LIMIT 900u

static struct account top, below[2];

static struct {
	u64 seed;
	u64 charged, refused;	/* frames and charges, all CPUs */
	u64 exceeded;		/* times somebody saw more than the limit */
	u64 held[2];		/* frames still charged, by account */
	bool nmis;		/* CPUs shoot NMIs at each other */
	u64 nmi_charges, nmi_refused;
} m;

static void charge_and_uncharge(void *arg)
{
	u32 cpu = arch_this_cpu()->id, cpus = *(const u32 *)arg;
	struct rng rng = { m.seed + cpu };
	u32 held[HELD_MAX] = { 0 };

	for (u32 i = 0; i < ROUNDS; i++) {
		u32 *h = &held[rng_below(&rng, HELD_MAX)], which = (u32)(h - held) % 2;

		if (*h) {
			account_uncharge(&below[which], *h);
			fetch_add(&m.held[which], -(u64)*h);
			*h = 0;
		} else {
			u32 frames = 1 + (u32)rng_below(&rng, rng_below(&rng, 4) ? 2 : 30);

			if (account_charge(&below[which], frames)) {
				fetch_add(&m.refused, 1);
			} else {
				*h = frames;
				fetch_add(&m.held[which], frames);
				fetch_add(&m.charged, frames);
			}
		}
		if (load_relaxed(&top.usage) > LIMIT)
			fetch_add(&m.exceeded, 1);
		if (m.nmis && i % 8 == 0)
			ipi_nmi((u32)rng_below(&rng, cpus));
	}
	/* What is left stays charged: the sums are compared with something in them. */
}

static void open_tree(void)
{
	m.seed = test_rng().state;
	m.charged = m.refused = m.exceeded = m.held[0] = m.held[1] = m.nmi_charges = m.nmi_refused = 0;
	CHECK_EQ(account_open(&top, "top", NULL, LIMIT), 0);
	CHECK_EQ(account_open(&below[0], "a", &top, LIMIT / 2), 0);
	CHECK_EQ(account_open(&below[1], "b", &top, ACCOUNT_NO_LIMIT), 0);
}

static void check_sums(void)
{
	CHECK_EQ(account_charged(&below[0]), m.held[0]);
	CHECK_EQ(account_charged(&below[1]), m.held[1]);
	CHECK_EQ(account_charged(&top), m.held[0] + m.held[1]);
	account_drain();
	CHECK_EQ(below[0].usage, m.held[0]);
	CHECK_EQ(below[1].usage, m.held[1]);
	CHECK_EQ(top.usage, m.held[0] + m.held[1]);
	CHECK_EQ(m.exceeded, 0);
	CHECK(m.charged > 0);
	account_uncharge(&below[0], m.held[0]);
	account_uncharge(&below[1], m.held[1]);
	CHECK_EQ(account_close(&below[0]), 0);
	CHECK_EQ(account_close(&below[1]), 0);
	CHECK_EQ(account_close(&top), 0);
}

TEST_ID(account_smp, all_cpus_charge_one_tree, "PA5")
{
	u32 ids[CREW_MAX], cpus = crew_cpus(ids);

	open_tree();
	m.nmis = false;
	CHECK_EQ(thread_run_on_all(charge_and_uncharge, &cpus), 0);
	test_note("cpus=%u charged=%llu refused=%llu by_limit=%llu", cpus, (unsigned long long)m.charged,
		  (unsigned long long)m.refused,
		  (unsigned long long)(top.refused + below[0].refused + below[1].refused));
	CHECK_EQ(top.refused + below[0].refused + below[1].refused, m.refused);
	check_sums();
}

/* ---- NMIs in the middle of it ---- */

static void on_nmi(const struct trap_frame *frame)
{
	struct account *a = &below[arch_this_cpu()->id % 2];
	u64 charged = 0;

	(void)frame;
	for (u32 i = 0; i < 3; i++)
		charged += !account_charge(a, 1 + i % 2) ? 1 + i % 2 : 0;
	fetch_add(charged ? &m.nmi_charges : &m.nmi_refused, 1);
	if (charged)
		account_uncharge(a, charged);
}

TEST_ID(account_smp, nmis_charge_in_the_middle, "PA3 PA5")
{
	u32 ids[CREW_MAX], cpus = crew_cpus(ids);
	nmi_handler_fn old;

	if (!apic_present())
		SKIP("no local APIC to send NMIs");
	open_tree();
	m.nmis = true;
	old = nmi_set_handler(on_nmi);
	CHECK_EQ(thread_run_on_all(charge_and_uncharge, &cpus), 0);
	nmi_set_handler(old);
	test_note("cpus=%u nmis=%llu refused_in_nmi=%llu", cpus, (unsigned long long)(m.nmi_charges + m.nmi_refused),
		  (unsigned long long)m.nmi_refused);
	CHECK(m.nmi_charges > 100);
	check_sums();
}

/* ---- The last frame of a limit ---- */

static u64 taken;

static void charge_until_refused(void *arg)
{
	(void)arg;
	while (!account_charge(&top, 1))
		fetch_add(&taken, 1);
}

/* Page by page from every CPU: what the CPUs charge ahead is called back, so not one frame of the limit is left over. */
TEST_ID(account_smp, the_limit_is_used_up, "PA5")
{
	CHECK_EQ(account_open(&top, "top", NULL, 20011), 0);
	taken = 0;
	CHECK_EQ(thread_run_on_all(charge_until_refused, NULL), 0);
	CHECK_EQ(taken, 20011);
	CHECK_EQ(account_charged(&top), 20011);
	account_uncharge(&top, taken);
	CHECK_EQ(account_close(&top), 0);
}
