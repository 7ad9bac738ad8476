/* SPDX-License-Identifier: MIT */
/*
 * Threads that wait for something to become true.
 *
 *	wait_event(&queue, condition);		the waiter, task context
 *
 *	make the condition true; wake_all(&queue);
 *
 * A waiter is on the queue before it looks at the condition, so a wake-up that comes after the look is not lost. wake_one() takes the
 * thread that has waited longest off the queue; who finds the condition false again (somebody was quicker) waits anew,
 * behind the others. The condition is looked at without a lock, any number of times: it reads what it needs
 * atomically, and where it also takes something, it does so by compare-and-exchange.
 *
 * A waiter whose condition is true at once may be woken nevertheless, between the look and its leave. That wake-up may have been
 * for something else than what it took, which the next in line waits for: so it is passed on. Where it was not, one thread
 * looks in vain.
 */
#ifndef KERNEL_WAIT_QUEUE_H
#define KERNEL_WAIT_QUEUE_H

#include "kernel/base/list.h"
#include "kernel/base/spinlock.h"
#include "kernel/thread.h"

struct wait_queue {
	spinlock_t lock;
	struct list waiters;
};

#define WAIT_QUEUE_INIT(queue) { SPINLOCK_INIT, LIST_INIT((queue).waiters) }

static inline void wait_queue_init(struct wait_queue *queue)
{
	*queue = (struct wait_queue){ .lock = SPINLOCK_INIT };
	list_init(&queue->waiters);
}

/* One thread that waits; on its stack. */
struct waiter {
	struct list node;
	struct thread *thread;
};

#define wait_event(queue, condition)                    \
	do {                                            \
		struct waiter waiter_;                  \
                                                        \
		for (;;) {                              \
			wait_begin((queue), &waiter_);  \
			if (condition)                  \
				break;                  \
			thread_park();                  \
			wait_end((queue), &waiter_);    \
		}                                       \
		if (!wait_end((queue), &waiter_))       \
			wake_one(queue);                \
	} while (0)

/* Be on the queue, and no longer: whether nobody has taken the waiter off it meanwhile. For wait_event(). */
void wait_begin(struct wait_queue *queue, struct waiter *waiter);
bool wait_end(struct wait_queue *queue, struct waiter *waiter);

/* Wake the one that has waited longest, or all. Returns how many. Task context. */
u32 wake_one(struct wait_queue *queue);
u32 wake_all(struct wait_queue *queue);

#endif
