/* SPDX-License-Identifier: MIT */
/*
 * Wait queues. See wait_queue.h.
 *
 * A waiter is woken with the lock held, and takes the lock before it goes on: so who wakes it is done with it by then, and with the
 * queue, too, which may lie on the waiter's stack.
 */
#include "kernel/wait_queue.h"

void wait_begin(struct wait_queue *queue, struct waiter *waiter)
{
	waiter->thread = thread_current();
	spin_lock(&queue->lock);
	list_add_tail(&waiter->node, &queue->waiters);
	spin_unlock(&queue->lock);
	/* Being on the queue comes before the look at the condition, as the change of it before the look at the queue. */
	fence_full();
}

bool wait_end(struct wait_queue *queue, struct waiter *waiter)
{
	bool queued;

	spin_lock(&queue->lock);
	queued = !list_empty(&waiter->node);
	list_del(&waiter->node);
	spin_unlock(&queue->lock);
	return queued;
}

static u32 wake(struct wait_queue *queue, u32 max)
{
	u32 nr = 0;

	fence_full();
	spin_lock(&queue->lock);
	for (; nr < max && !list_empty(&queue->waiters); nr++) {
		struct waiter *waiter = list_entry(queue->waiters.next, struct waiter, node);

		list_del(&waiter->node);
		thread_unpark(waiter->thread);
	}
	spin_unlock(&queue->lock);
	return nr;
}

u32 wake_one(struct wait_queue *queue)
{
	return wake(queue, 1);
}

u32 wake_all(struct wait_queue *queue)
{
	return wake(queue, UINT32_MAX);
}
