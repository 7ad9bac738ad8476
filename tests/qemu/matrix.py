# SPDX-License-Identifier: MIT
"""
The machines that `make test` boots, a row each (tools/run-tests runs them; tools/run-qemu judges them).

options: those of tools/run-qemu. variant: which build (tools/run-tests VARIANTS). sample: the suites that `make test` runs there,
where another row differs in little; `make soak` runs all of them. soak_only: the row is for that alone. expect: key of a
`# counter` line -> a test of its last value; each is a test of its own. same_as: another row whose log must be the same
from the KTAP on, to the byte. seconds: a limit of its own, where that of every row is too short.
"""

NO_1G = "max,-pdpe1gb"


def some(value):
    return value > 0


def none(value):
    return value == 0


def two(value):
    return value == 2


def three(value):
    return value == 3


class Row:
    def __init__(self, name, variant="release", expect=None, append="", sample=None, same_as=None, costs=False, soak_only=False,
                 seconds=None, **options):
        self.name = name
        self.variant = variant
        self.expect = expect or {}
        self.append = append
        self.sample = sample
        self.same_as = same_as
        self.costs = costs          # compared with docs/costs.csv
        self.soak_only = soak_only
        self.seconds = seconds      # limit of its own
        self.options = options


WITH_1G = {"direct_map_1g": some, "direct_map_2m": some}
WITHOUT_1G = {"direct_map_1g": none, "direct_map_2m": some}
# Several CPUs: they asked each other to flush, and each answered.
SHOT = {"nr_tlb_remote_flush": some, "nr_tlb_remote_flush_received": some, "tlb_frames_quarantined": none}

# What goes by nodes.
NUMA = "suite=buddy,nolock,nodes,bulk,nmi_pages,account*,slab,unmapped_n*,nmi_unmapped"

# What was loaded and is there: the image, the command line, the tables of the firmware, the console, the CPUs.
BOOTED = "image,cmdline,acpi,console,cpu,smp.all_*"
# What changes mappings, or looks at them; what asks for features of the CPU; what needs several of them.
MAPPINGS = "directmap,set_memory,pgtable,random,w_xor_x,image,bootmem,unmapped*,execmem*,vmalloc,ioremap,lab*,runner,steering,trace"
FEATURES = "cpu,trap,image,directmap,set_memory,w_xor_x,execmem*,mtrr,runner,console,secrets"
# What counts frames while the page owner takes some of its own.
FRAMES = "buddy,nolock,nodes,bulk,depot,page_owner*,unmapped,slab,kmalloc,account"
COUNTED = "suite=costs*,pgtable,tlb_batch kaslr=off"
CONCURRENT = "smp,thread,concurrent,tlb*,log,nmi_*,*_smp,contexts,trace"

ROWS = [
    # Instructions are counted: the goals for them are asserted, two runs are the same run, and nothing is dearer than it was.
    Row("costs", icount=True, memory="4G", append=f"lab=off {COUNTED}"),
    Row("costs-again", icount=True, memory="4G", append=f"lab=off {COUNTED}", same_as="costs", costs=True),

    # Sizes, with and without 1G leaves. 512 MiB on q35 has none anyway.
    Row("4g", memory="4G", append="lab=full", expect=WITH_1G),
    Row("4g-no1g", memory="4G", cpu=NO_1G, append="lab=off", expect=WITHOUT_1G),
    Row("512m", memory="512M", append="lab=off", sample=MAPPINGS, expect=WITHOUT_1G),
    Row("512m-lab", memory="512M", append="suite=lab*", expect=WITHOUT_1G, soak_only=True),
    Row("512m-no1g", memory="512M", cpu=NO_1G, append="lab=off", expect=WITHOUT_1G, sample="directmap,set_memory,image,unmapped"),
    Row("12g", memory="12G", append="lab=off", expect=WITH_1G, sample="directmap,set_memory,random,bootmem,buddy,image,unmapped"),
    Row("12g-no1g", memory="12G", cpu=NO_1G, expect=WITHOUT_1G, soak_only=True),

    # Builds, and other machines. qemu64 lacks SMEP, SMAP, UMIP and 1G pages.
    Row("debug", variant="debug", memory="2G", append="lab=off", expect={"direct_map_2m": some}),
    Row("clang", variant="clang", append="lab=off", extra=["-vga", "std"], expect=WITH_1G),
    Row("clang-debug", variant="clang-debug", append="bbm=on", soak_only=True),
    Row("bare", cpu="max,-nx,-pge,-pat,-mtrr,-pdpe1gb,-smep,-smap,-umip", append="lab=off", expect=WITHOUT_1G),
    Row("qemu64", cpu="qemu64", append="lab=off", expect=WITHOUT_1G, sample=FEATURES),
    Row("no-nx", cpu="max,-nx", append="lab=off", sample=FEATURES),
    Row("deferred", append="lab=off collapse=deferred", sample=MAPPINGS),
    Row("collapse-off", append="lab=off collapse=off um=off", sample=MAPPINGS),
    # Every fill of a thousand is looked at half-way here.
    Row("execmem-tail", append="lab=off execmem=huge+tail suite=execmem*,costs.execmem*,image"),
    Row("bbm", append="lab=off bbm=on um=1g", sample=MAPPINGS),
    Row("page-owner", memory="2G", append="lab=off page_owner=on", sample=FRAMES),
    Row("soak-storm", memory="4G", append="lab=off soak=on suite=steering,nmi_*", soak_only=True, seconds=7200),

    # All CPUs. Each is a thread of QEMU's: with more of them than cores, everything takes its turn, so the lab runs in rows of
    # its own, with less memory to age.
    Row("2cpu", cpus=2, append="lab=off", expect={**WITH_1G, **SHOT}),
    Row("2cpu-no1g", cpus=2, memory="2G", cpu=NO_1G, append="lab=off", expect={**WITHOUT_1G, **SHOT}, soak_only=True),
    Row("3cpu", cpus=3, append="lab=off", expect={**WITH_1G, **SHOT}),
    Row("3cpu-no1g", cpus=3, memory="2G", cpu=NO_1G, append="lab=off", expect={**WITHOUT_1G, **SHOT}, soak_only=True),
    Row("4cpu", cpus=4, append="lab=off", expect={**WITH_1G, **SHOT}),
    Row("4cpu-no1g", cpus=4, memory="2G", cpu=NO_1G, append="lab=off", expect={**WITHOUT_1G, **SHOT}),
    Row("8cpu", cpus=8, append="lab=off", expect={**WITH_1G, **SHOT}),
    Row("8cpu-no1g", cpus=8, memory="2G", cpu=NO_1G, append="lab=off", expect={**WITHOUT_1G, **SHOT}, soak_only=True),
    Row("4cpu-debug", variant="debug", cpus=4, memory="2G", append="lab=off", expect=SHOT, sample=CONCURRENT),
    # A rendezvous for each split: what has many of them waits for the soak.
    Row("4cpu-bbm", cpus=4, memory="2G", expect=SHOT,
        append="lab=off bbm=on suite=bbm,temp_map,tlb*,concurrent,smp"),
    Row("4cpu-trace", cpus=4, memory="2G", append="lab=off trace=on collapse=deferred", expect=SHOT, soak_only=True),
    Row("4cpu-clang-debug", variant="clang-debug", cpus=4, append="lab=off bbm=on", expect=SHOT, soak_only=True),
    # The full counts of what needs all CPUs: hours on two cores.
    Row("4cpu-soak", cpus=4, append="lab=off soak=on suite=tlb*,smp,thread,log", soak_only=True, seconds=10800, expect=SHOT),
    Row("2cpu-soak-storm", cpus=2, memory="2G", append="lab=off soak=on suite=nmi_*", soak_only=True, seconds=14400),
    Row("8cpu-soak-storm", cpus=8, memory="2G", append="lab=off soak=on suite=nmi_*", soak_only=True, seconds=14400),
    Row("4cpu-soak-storm", cpus=4, memory="2G", append="lab=off soak=on suite=nmi_*", soak_only=True, seconds=14400),
    Row("4cpu-soak-concurrent", cpus=4, append="lab=off soak=on suite=concurrent", soak_only=True, seconds=21600, expect=SHOT),
    Row("2cpu-lab", cpus=2, memory="1G", append="suite=lab_cpus", expect=SHOT, soak_only=True),
    Row("4cpu-lab", cpus=4, memory="1G", append="suite=lab_cpus", expect=SHOT),
    Row("8cpu-lab", cpus=8, memory="1G", append="suite=lab_cpus", expect=SHOT, soak_only=True),

    # Nodes of unequal size, one without CPUs, one without memory. Without an HPET, NMI storms are the PIT's.
    Row("numa2", memory="4G", cpus=2, numa="1G,3G", append=f"lab=off {NUMA}", expect={"nodes": two, "buddy_deferred_now": none}),
    Row("numa3", memory="4G", cpus=4, numa="512M,3072M-,512M", append=f"lab=off {NUMA}",
        expect={"nodes": three, "buddy_deferred_now": none}),
    Row("numa3-bare", memory="2G", cpus=3, numa="1536M,0,512M-", machine="q35,hpet=off", append=f"lab=off {NUMA}",
        expect={"nodes": three, "buddy_deferred_now": none}),

    # The disk image, as each kind of disk; with one and four CPUs, with and without a screen.
    Row("media-usb", media="usb", cpus=4, extra=["-vga", "std"], append="lab=off", sample=BOOTED),
    Row("media-ehci", media="ehci", extra=["-vga", "none"], append="lab=off", sample=BOOTED),
    Row("media-sata", media="sata", cpus=4, extra=["-vga", "none"], append="lab=off", sample=BOOTED),
    Row("media-nvme", media="nvme", extra=["-vga", "std"], append="lab=off", sample=BOOTED),
    Row("media-usb-1cpu", media="usb", extra=["-vga", "none"], append="lab=off", soak_only=True),
    Row("media-ehci-4cpu", media="ehci", cpus=4, extra=["-vga", "std"], append="lab=off", soak_only=True),
    Row("media-sata-1cpu", media="sata", extra=["-vga", "std"], append="lab=off", soak_only=True),
    Row("media-nvme-4cpu", media="nvme", cpus=4, extra=["-vga", "none"], append="lab=off", soak_only=True),
]
