/* SPDX-License-Identifier: MIT */
/*
 * Bugs that can be planted, so that the tests can show that they would be caught (negative controls).
 *
 * Only a build with CONFIG_PLANT=1 (the hosted tests) contains them; everywhere else PLANTED() is the
 * constant 0 and its branch is gone.
 */
#ifndef MM_PLANT_H
#define MM_PLANT_H

#ifndef CONFIG_PLANT
#define CONFIG_PLANT 0
#endif

enum mm_plant {
	PLANT_NONE,
	PLANT_NO_FLUSH,			/* generations advance, nothing is invalidated */
	PLANT_FREE_EARLY,		/* an unhooked table is freed before the flush */
	PLANT_FLUSH_FIRST_ONLY,		/* only the first leaf of a range is invalidated */
	PLANT_PAT_NOT_MOVED,		/* a 2M leaf is split with PAT left in bit 12 */
	PLANT_BREAKS_OFF_BY_ONE,	/* a store of one entry forgets the pair behind it */
	PLANT_SPLIT_BY_UNMAP,		/* a split goes through an absent entry */
	PLANT_COLLAPSE_UNFLUSHED,	/* a table is collapsed although its change is still in flight */
	PLANT_TEMP_NO_FLUSH,		/* a slot of a temporary root is cleared and not forgotten */
	PLANT_UM_STAYS_MAPPED,		/* a refill of the unmapped cache leaves the leaf where it is */
	PLANT_UM_NO_SCRUB,		/* a page freed to it keeps its content */
	PLANT_UM_BUDDY_STAYS,		/* two of its blocks become one, and the second stays on its list */
	PLANT_TEMP_LEFT_MAPPED,		/* a temporary mapping stays behind */
	PLANT_EXECMEM_NO_INT3,		/* freed text is left as it is */
	PLANT_EXECMEM_MAP_UNFILLED,	/* text is mapped executable with what its frames held before: zeros, say */
	PLANT_EXECMEM_BOUNDS,		/* execmem_fill() lets one byte too many through */
	PLANT_NO_SERIALISE,		/* memory of freed text is used again, and other CPUs are not asked to forget it */
	PLANT_EXECMEM_ONE_RETURN,	/* of the blocks that a free empties only one goes back */
	PLANT_DEFERRED_LOST,		/* who lets the lock of a node go forgets what was deferred meanwhile */
	PLANT_NMI_IN_RESERVE,		/* an interrupter takes from a reserve that is being worked on */
	PLANT_ACPI_CHECKSUM,		/* a table counts whatever its checksum */
	PLANT_ACPI_SHAPE,		/* a table is read up to the entry that does not fit */
	PLANT_ACCOUNT_LEAKS,		/* an allocation that fails keeps its charge */
	PLANT_ACCOUNT_KEEPS_REFUSED,	/* a limit that refuses leaves the charge on the accounts below */
	PLANT_DEPOT_TWICE,		/* who loses the race for a list's head does not look at what came before him */
	PLANT_SLAB_DOUBLE_FREE,		/* whether an object is free already is not looked at */
	PLANT_SLAB_DEFERRED_LOST,	/* who lets a cache's lock go does not look for what was deferred */
	PLANT_UM_DEFERRED_LOST,		/* who lets the lock of a node's unmapped pages go forgets what was deferred */
	PLANT_UM_DEFERRED_TWICE,	/* ... gives it back twice */
	PLANTS,
	/* Races, which only CPUs that are threads run into. */
	PLANT_RACE_GEN = PLANTS,	/* a CPU records a generation that came after its flush */
	PLANT_RACE_WALK,		/* a walk without lock reads entries without acquire */
	PLANT_RACE_FIND,		/* an area is looked up with the tree unlocked */
	PLANT_RACES_END,
};

#if CONFIG_PLANT
extern int mm_plant;	/* the one that is planted now; defined in mm/pgtable.c */
#define PLANTED(which) (mm_plant == (which))
#else
#define PLANTED(which) 0
#endif

#endif
