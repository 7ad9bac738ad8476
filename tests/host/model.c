/* SPDX-License-Identifier: MIT */
/* The flat model: see model.h. */
#include "tests/host/model.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "kernel/base/errno.h"
#include "kernel/base/panic.h"
#include "mm/arch.h"

static void *room(u64 size)
{
	void *p = mmap(NULL, MAX(size, PAGE_SIZE), PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	assert(p != MAP_FAILED);
	return p;
}

void model_init(struct model *m, u64 max_frames, u64 max_pfn, u64 va, u64 nr_pages)
{
	memset(m, 0, sizeof(*m));
	m->max_frames = (u32)max_frames;
	m->max_pfn = max_pfn;
	m->va = va;
	m->nr_pages = nr_pages;
	m->frames = room(max_frames * sizeof(*m->frames));
	m->index = room(max_pfn * sizeof(*m->index));
	m->pages = room(nr_pages * sizeof(*m->pages));
}

void model_free(struct model *m)
{
	munmap(m->frames, MAX(m->max_frames * sizeof(*m->frames), PAGE_SIZE));
	munmap(m->index, MAX(m->max_pfn * sizeof(*m->index), PAGE_SIZE));
	munmap(m->pages, MAX(m->nr_pages * sizeof(*m->pages), PAGE_SIZE));
}

void model_add(struct model *m, u64 pfn, u64 nr, bool exec_class)
{
	for (u64 i = 0; i < nr; i++) {
		assert(m->nr_frames < m->max_frames && pfn + i < m->max_pfn && !m->index[pfn + i]);
		m->frames[m->nr_frames] = (struct model_frame){ (u32)(pfn + i), true, true, exec_class, 0, 0 };
		m->index[pfn + i] = ++m->nr_frames;
	}
}

struct model_frame *model_frame(struct model *m, u64 pfn)
{
	return pfn < m->max_pfn && m->index[pfn] ? &m->frames[m->index[pfn] - 1] : NULL;
}

/* The page of the area at va, or NULL. */
static struct model_page *page_at(struct model *m, u64 va)
{
	return va >= m->va && va - m->va < m->nr_pages << PAGE_SHIFT ? &m->pages[(va - m->va) >> PAGE_SHIFT]
								     : NULL;
}

static struct model_frame *frame_of(struct model *m, const struct model_page *p)
{
	return p && p->frame ? &m->frames[p->frame - 1] : NULL;
}

static bool in_direct(u64 va)
{
	return range_has(kernel_space.direct, va);
}

bool model_at(struct model *m, u64 va, struct model_view *out)
{
	struct model_page *p = page_at(m, va);
	struct model_frame *f = p		? frame_of(m, p)
				: in_direct(va) ? model_frame(m, va_to_phys(va).raw >> PAGE_SHIFT)
						: NULL;

	*out = (struct model_view){ 0 };
	if (!p && !f)
		return false;
	if (f)
		*out = p ? (struct model_view){ true, p->w, p->x, f->pfn }
			 : (struct model_view){ f->direct, f->direct && f->direct_w, false, f->pfn };
	return true;
}

/* ---- set_memory ---- */

/* What becomes of W and X. */
static void rights_after(enum memory_rights rights, bool *w, bool *x)
{
	if (rights == MEMORY_RO || rights == MEMORY_ROX)
		*w = false;
	if (rights == MEMORY_RW)
		*w = true;
	if (rights == MEMORY_X || rights == MEMORY_ROX)
		*x = true;
	if (rights == MEMORY_NX)
		*x = false;
}

/* Whether one page of the direct map may change so. */
static int allowed_direct(const struct model_frame *f, enum memory_rights rights)
{
	if (rights == MEMORY_X || rights == MEMORY_ROX)
		return -EPERM;
	if (rights == MEMORY_RW && !f->direct_w && f->x)
		return -EPERM;
	return 0;
}

static int allowed_alias(const struct model_frame *f, const struct model_page *p, enum memory_rights rights)
{
	bool w = p->w, x = p->x;

	rights_after(rights, &w, &x);
	if (w && x)
		return -EPERM;
	if (x && !p->x) {
		if (!f->exec_class || f->w > p->w)
			return -EPERM;
		if (rights != MEMORY_ROX && f->direct && f->direct_w)
			return -EPERM;
	}
	if (w && !p->w && f->x)
		return -EPERM;
	return 0;
}

static int check_set_memory(struct model *m, u64 va, u64 nr, enum memory_rights rights)
{
	bool direct = in_direct(va);
	int refused = 0;

	if (va & (PAGE_SIZE - 1) || !nr || nr >= 1ull << 40 || va < 1ull << 63)
		return -EINVAL;
	if (va + (nr << PAGE_SHIFT) <= va || va + (nr << PAGE_SHIFT) > -PAGE_SIZE)
		return -EINVAL;
	for (u64 i = 0; i < nr; i++) {
		u64 at = va + (i << PAGE_SHIFT);
		struct model_page *p = page_at(m, at);
		struct model_frame *f =
			direct ? model_frame(m, va_to_phys(at).raw >> PAGE_SHIFT) : frame_of(m, p);

		if (!f || (direct && !f->direct))
			return -EFAULT;		/* said before a refusal, wherever the hole is */
		if (!refused)
			refused = direct ? allowed_direct(f, rights) : allowed_alias(f, p, rights);
	}
	return refused;
}

int model_set_memory(struct model *m, u64 va, u64 nr, enum memory_rights rights)
{
	int rc = check_set_memory(m, va, nr, rights);
	bool direct = in_direct(va);

	for (u64 i = 0; !rc && i < nr; i++) {
		u64 at = va + (i << PAGE_SHIFT);
		struct model_page *p = page_at(m, at);
		struct model_frame *f =
			direct ? model_frame(m, va_to_phys(at).raw >> PAGE_SHIFT) : frame_of(m, p);
		bool none = false;

		if (direct) {
			rights_after(rights, &f->direct_w, &none);
			continue;
		}
		f->w -= p->w;
		f->x -= p->x;
		rights_after(rights, &p->w, &p->x);
		f->w += p->w;
		f->x += p->x;
		if (rights == MEMORY_RO || rights == MEMORY_ROX || rights == MEMORY_RW)
			f->direct_w = rights == MEMORY_RW;
	}
	return rc;
}

/* ---- The direct map ---- */

int model_set_direct(struct model *m, u64 pfn, u64 nr, bool valid)
{
	if (!nr || pfn + nr < pfn)
		return -EINVAL;
	for (u64 i = 0; i < nr; i++)
		if (!model_frame(m, pfn + i))
			return -ERANGE;
	for (u64 i = 0; i < nr; i++) {
		struct model_frame *f = model_frame(m, pfn + i);

		f->direct = valid;
		f->direct_w = valid && !f->x;
	}
	return 0;
}

/* ---- Mapping ---- */

int model_map(struct model *m, u64 va, const u64 *pfns, u64 nr, bool w, bool x)
{
	if (va & (PAGE_SIZE - 1) || !nr)
		return -EINVAL;
	for (u64 i = 0; i < nr; i++)
		if (page_at(m, va + (i << PAGE_SHIFT))->frame)
			return -EBUSY;
	for (u64 i = 0; i < nr; i++) {
		struct model_frame *f = model_frame(m, pfns[i]);

		if ((w && x) || (w && f->x) || (x && (!f->exec_class || f->w || (f->direct && f->direct_w))))
			return -EPERM;
	}
	for (u64 i = 0; i < nr; i++) {
		struct model_frame *f = model_frame(m, pfns[i]);

		*page_at(m, va + (i << PAGE_SHIFT)) = (struct model_page){ m->index[pfns[i]], w, x };
		f->w += w;
		f->x += x;
	}
	return 0;
}

int model_unmap(struct model *m, u64 va, u64 nr)
{
	if (va & (PAGE_SIZE - 1) || !nr)
		return -EINVAL;
	for (u64 i = 0; i < nr; i++) {
		struct model_page *p = page_at(m, va + (i << PAGE_SHIFT));
		struct model_frame *f = frame_of(m, p);

		if (!f)
			continue;
		f->w -= p->w;
		f->x -= p->x;
		*p = (struct model_page){ 0 };
	}
	return 0;
}
