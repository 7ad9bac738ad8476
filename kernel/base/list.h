/* SPDX-License-Identifier: MIT */
/* Circular doubly linked lists, the node embedded in the object. */
#ifndef KERNEL_BASE_LIST_H
#define KERNEL_BASE_LIST_H

#include "kernel/base/types.h"

struct list {
	struct list *next;
	struct list *prev;
};

#define LIST_INIT(name) { &(name), &(name) }

static inline void list_init(struct list *head)
{
	head->next = head;
	head->prev = head;
}

static inline bool list_empty(const struct list *head)
{
	return head->next == head;
}

static inline void list_insert_between(struct list *node, struct list *prev, struct list *next)
{
	node->prev = prev;
	node->next = next;
	prev->next = node;
	next->prev = node;
}

static inline void list_add(struct list *node, struct list *head)
{
	list_insert_between(node, head, head->next);
}

static inline void list_add_tail(struct list *node, struct list *head)
{
	list_insert_between(node, head->prev, head);
}

static inline void list_del(struct list *node)
{
	node->prev->next = node->next;
	node->next->prev = node->prev;
	list_init(node);
}

#define list_entry(node, type, member) container_of(node, type, member)

#define list_for_each(node, head) \
	for (struct list *node = (head)->next; node != (head); node = node->next)

/* The same, and the node may be deleted in the loop's body. */
#define list_for_each_safe(node, head)                                              \
	for (struct list *node = (head)->next, *node##_next = node->next; node != (head); \
	     node = node##_next, node##_next = node->next)

#endif
