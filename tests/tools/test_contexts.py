#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""
docs/contexts.md says what tests/machine/suite_contexts.c tries: the same functions, in the same contexts. And both have every
function that the headers of mm/ declare to allocate or free memory.
"""
import os
import re
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SUITE = "tests/machine/suite_contexts.c"
PAGE = "docs/contexts.md"
COLUMNS = ["task", "interrupts off", "lock held", "IRQ", "NMI", "panic"]
SETS = {
    "IN_TASK": {"task"},
    "LOCKS_ONLY": {"task", "interrupts off", "lock held"},
    "ANYWHERE": set(COLUMNS),
}

HEADERS = ["buddy", "kmalloc", "slab", "unmapped", "execmem", "vmalloc", "vm_area", "dma_buffer", "guest_memory", "account",
           "depot", "bootmem"]

# Words of a name, or what it returns, that make a function one that allocates.
ALLOCATES = {"alloc", "bulk", "vmalloc", "take", "charge", "open", "get", "put", "reserve", "vmap", "ioremap"}
MEMORY = {"void *", "struct page *", "struct vm_area *"}
FREES = {"free", "kfree", "vfree", "give", "uncharge", "close", "unmap", "vunmap", "iounmap", "release", "reset"}

# Those that do not, whatever they look like, or that nobody calls by this name: why.
OTHERS = {
    "alloc_slow": "the slow path of alloc_pages()", "page_stack_take": "the usual one",
    "free_block": "the slow path of free_pages()",
    "alloc_site_find": "looks up a place in the source",
    "buddy_free_frames": "a figure", "bootmem_free_bytes": "a figure",
    "account_set_page": "of the page allocator", "account_uncharge_page": "of the page allocator",
    "depot_get": "looks up a stack",
    "claim_vm_area": "looks up an area, for vfree() and the like", "unclaim_vm_area": "undoes that",
    "find_vm_area": "looks up an area", "find_vm_area_guard": "looks up an area",
    "buddy_reset": "hosted tests", "unmapped_reset": "hosted tests", "bootmem_reset": "hosted tests",
}
BOOT = {"bootmem_alloc", "bootmem_reserve", "bootmem_release"}   # there is one context


def read(path):
    with open(os.path.join(ROOT, path), encoding="utf-8") as file:
        return file.read()


def of_suite(text):
    rows = re.findall(r'^\t\{ "([^"]+)", try_\w+, (\w+) \},$', text, re.M)
    return {name: SETS[where] for name, where in rows}


def tables(text):
    """The rows of each table, its heads and the line below them left out."""
    found = re.findall(r"(?:^\|.*\n)+", text, re.M)
    return [[[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()] for table in found]


def of_page(text):
    head, _, *rows = tables(text)[0]
    assert head == ["Function"] + COLUMNS, head
    table = {}
    for cells in rows:
        assert set(cells[1:]) <= {"yes", "no"} and len(cells) == len(COLUMNS) + 1, cells
        table[cells[0].strip("`")] = {c for c, answer in zip(COLUMNS, cells[1:]) if answer == "yes"}
    return table


def frees_of_page(text):
    """What frees, and what each is for."""
    head, _, *rows = tables(text)[1]
    assert head == ["Function", "of"], head
    return {name.strip("`"): set(re.findall("`([^`]+)`", of)) for name, of in rows}


def declared(text):
    """The functions and macros of a header: each name, and what it returns (macros: nothing)."""
    text = re.sub(r"/\*.*?\*/", " ", text, flags=re.S)
    names = {name: "" for name in re.findall(r"^#define ([a-z]\w*)\(", text, re.M)}
    text = re.sub(r"^#(?:.*\\\n)*.*$", "", text, flags=re.M)
    pattern = r"^(?:static |inline |extern |const |__\w+ )*((?:struct |enum |unsigned )?\w+\s+\**)\s*(\w+)\([^;{}]*\)[^;{}]*[;{]"
    for kind, name in re.findall(pattern, text, re.M):
        names.setdefault(name, " ".join(kind.split()))
    return names


def public(name, names):
    """What stands behind a macro has no row of its own: it takes what the macro adds."""
    behind = re.sub("_(at|for)$", "", name)
    return name not in OTHERS and name not in BOOT and (behind == name or behind not in names)


def allocators(names):
    return {name for name, kind in names.items() if public(name, names) and not FREES & set(name.split("_"))
            and (ALLOCATES & set(name.split("_")) or kind in MEMORY)}


def freers(names):
    return {name for name in names if public(name, names) and FREES & set(name.split("_"))}


def of_headers(change=lambda header, text: text):
    names = {}
    for header in HEADERS:
        names.update(declared(change(header, read(f"mm/{header}.h"))))
    return names


class Contexts(unittest.TestCase):
    def setUp(self):
        self.suite_text = read(SUITE)
        self.suite = of_suite(self.suite_text)
        self.page_text = read(PAGE)
        self.page = of_page(self.page_text)
        self.frees = frees_of_page(self.page_text)

    def test_page_says_what_is_tried(self):
        self.assertGreater(len(self.suite), 15)
        self.assertEqual(self.page, self.suite)

    def test_a_wrong_cell_is_seen(self):
        wrong = self.page_text.replace("| `vmalloc` | yes | no |", "| `vmalloc` | yes | yes |")
        self.assertNotEqual(wrong, self.page_text)
        self.assertNotEqual(of_page(wrong), self.suite)

    def test_every_declared_function_has_a_row(self):
        names = of_headers()
        self.assertGreater(len(names), 100)
        self.assertEqual(sorted(allocators(names) - set(self.page)), [])
        self.assertEqual(sorted(freers(names) - set(self.frees)), [])

    def test_every_row_is_declared(self):
        """But for rows of a function with a flag, and of threads, which are not mm/'s."""
        names = of_headers()
        rows = {re.sub(r"\(.*", "", name) for name in self.page} | set(self.frees)
        self.assertEqual(sorted(rows - set(names)), ["thread_join", "thread_start"])
        self.assertEqual(sorted((set(OTHERS) | BOOT) - set(names)), [])
        for name in BOOT:
            self.assertIn(f"`{name}`", self.page_text)

    def test_a_new_function_is_seen(self):
        for header, line, names_of in [
                ("buddy", "struct page *alloc_pages_far(unsigned order);", allocators),
                ("buddy", "#define alloc_pages_near(order) alloc_pages_near_at((order), __FILE__)", allocators),
                ("execmem", "void *\nexecmem_somewhere(u64 size,\n\t\t  u64 align) __must_check;", allocators),
                ("guest_memory", "int guest_memory_take_more(struct guest_memory *g) __must_check;", allocators),
                ("vmalloc", "static inline void *vzalloc(u64 size)\n{\n\treturn vmalloc(size);\n}", allocators),
                ("slab", "void slab_free_all(struct slab_cache *cache);", freers)]:
            before = names_of(of_headers())
            after = names_of(of_headers(lambda at, text, h=header, l=line: text + l + "\n" if at == h else text))
            self.assertEqual(len(after - before), 1, line)
            self.assertFalse((after - before) & (set(self.page) | set(self.frees)), line)

    def test_what_is_freed_has_been_allocated(self):
        freed = set().union(*self.frees.values())
        self.assertEqual(freed, set(self.page))

    def test_both_are_called_where_they_are_tried(self):
        for name in list(self.page) + list(self.frees):
            self.assertRegex(self.suite_text, r"\b%s\(" % re.sub(r"\(.*", "", name))


if __name__ == "__main__":
    unittest.main()
