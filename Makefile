# SPDX-License-Identifier: MIT
#
# Everything is built here, without recursion; objects go below build/. `make help` lists the targets.
#
#   CC=clang	build with clang instead of gcc; objects and results below build/clang/
#   DEBUG=1	kernel with CONFIG_DEBUG=1; below build/debug/ or build/clang-debug/
#   V=1		show the commands
#
# Sources are found by folder: a new file needs no line here.

MAKEFLAGS += --no-builtin-rules
.SUFFIXES:
.DELETE_ON_ERROR:

ifeq ($(origin CC),default)
CC := gcc
endif
LD := ld
OBJCOPY := objcopy
AR := ar
NASM := nasm
HOST_CC ?= $(CC)

DEBUG ?= 0
ICOUNT ?= 1
CPUS ?= 1
SEED ?= 1
TIMEOUT ?=
ifneq ($(filter-out 0 1,$(DEBUG)),)
$(error DEBUG=$(DEBUG): it is 0 or 1)
endif
ifneq ($(filter-out 0 1,$(ICOUNT)),)
$(error ICOUNT=$(ICOUNT): it is 0 or 1)
endif

ifeq ($(V),1)
Q :=
say = @:
else
Q := @
say = @printf '  %-8s %s\n'
endif

# The folder of this compiler and configuration. The default one is build/ itself.
CC_NAME := $(notdir $(firstword $(CC)))
CC_DIR := $(if $(filter-out gcc,$(CC_NAME)),$(CC_NAME))
VARIANT := $(CC_DIR)$(if $(filter 1,$(DEBUG)),$(if $(CC_DIR),-)debug)
B := build$(if $(VARIANT),/$(VARIANT))
HB := build$(if $(CC_DIR),/$(CC_DIR))/host

# ---------------------------------------------------------------------------------------------------------
# Packages: one check per run of make, for what the goals need (tools/setup says what it would install).

GOALS := $(or $(MAKECMDGOALS),help)
SETUP_SETS := build \
	$(if $(filter run monitor debug qcheck test soak bench,$(GOALS)),run) \
	$(if $(filter host-test tsan qcheck fuzz,$(GOALS)),host) \
	$(if $(filter test soak,$(GOALS)),test) \
	$(if $(filter bench bench-build,$(GOALS)),bench) \
	$(if $(filter image usb,$(GOALS)),image) \
	$(if $(findstring clang,$(CC_NAME))$(filter fuzz,$(GOALS)),clang)

.PHONY: setup
setup:
	@tools/setup $(SETUP_SETS)

# ---------------------------------------------------------------------------------------------------------
# Flags

# -Wdate-time: nothing may depend on when it was built.
WARN := -Wall -Wextra -Werror -Wdate-time -Wstrict-prototypes -Wmissing-prototypes -Wshadow
# Paths in the results do not depend on where the tree lies.
REPRO := '-ffile-prefix-map=$(CURDIR)=.'
COMMON := -std=gnu11 -g -fno-strict-aliasing -fno-omit-frame-pointer -I. $(WARN) $(REPRO) -MMD -MP

KERNEL_CFLAGS := $(COMMON) -ffreestanding -O2 -mcmodel=kernel -mno-red-zone -mgeneral-regs-only \
	-fno-pic -fno-pie -fno-stack-protector -fcf-protection=none -fno-asynchronous-unwind-tables \
	-DCONFIG_DEBUG=$(DEBUG) -DCONFIG_PLANT=0
NASMFLAGS := -f elf64 -g -F dwarf -Werror
KERNEL_LDFLAGS := -m elf_x86_64 -nostdlib -static -z max-page-size=0x200000 -z noexecstack \
	--build-id=sha1 --orphan-handling=error --fatal-warnings

HOST_CFLAGS := $(COMMON) -O2 -pthread -fsanitize=address,undefined -fno-sanitize-recover=all \
	-DCONFIG_DEBUG=1 -DCONFIG_PLANT=1

# ---------------------------------------------------------------------------------------------------------
# Sources

KERNEL_C := $(sort $(wildcard kernel/*.c kernel/base/*.c mm/*.c arch/x86_64/*.c tests/*.c tests/lab/*.c \
	tests/machine/*.c))
KERNEL_ASM := $(sort $(wildcard arch/x86_64/*.asm))
# The loader, what it shares with the kernel, and those of its parts that do not know the firmware.
BOOT_C := $(sort $(wildcard boot/*.c)) kernel/base/crc32.c kernel/base/fmt.c kernel/base/log_ring.c kernel/base/string.c
BOOT_ASM := $(sort $(wildcard boot/*.asm))
BOOT_PURE_C := boot/cmdline.c boot/elf_load.c boot/memmap.c boot/paging.c boot/rights.c
# What of the kernel reads what others wrote, or reaches a device through functions it is given, and touches nothing else.
KERNEL_PURE_C := kernel/acpi.c kernel/line_editor.c kernel/serial.c
MM_C := $(sort $(wildcard mm/*.c) $(filter-out kernel/base/string.c,$(wildcard kernel/base/*.c)))
FUZZ_C := $(sort $(wildcard tests/host/fuzz_*.c))
HOST_C := $(sort $(MM_C) $(BOOT_PURE_C) $(KERNEL_PURE_C) $(wildcard tests/*.c tests/lab/*.c) \
	$(filter-out $(FUZZ_C),$(wildcard tests/host/*.c)))

KERNEL_OBJ := $(KERNEL_C:%.c=$(B)/obj/%.o) $(KERNEL_ASM:%.asm=$(B)/obj/%.asm.o)
BOOT_OBJ := $(BOOT_C:%.c=$(B)/efi/%.o) $(BOOT_ASM:%.asm=$(B)/efi/%.asm.o)
HOST_OBJ := $(HOST_C:%.c=$(HB)/obj/%.o)

.PHONY: all
all: esp

# ---------------------------------------------------------------------------------------------------------
# Kernel

$(B)/obj/%.o: %.c Makefile | setup
	$(say) CC '$< [$(B)]'
	@mkdir -p $(@D)
	$(Q)$(CC) $(KERNEL_CFLAGS) -c -o $@ $<

$(B)/obj/%.asm.o: %.asm tools/assemble Makefile | setup
	$(say) NASM $<
	@mkdir -p $(@D)
	$(Q)tools/assemble $(NASM) $< $@ $(NASMFLAGS)

$(B)/kernel.elf: $(KERNEL_OBJ) linker.ld
	$(say) LD $@
	$(Q)$(LD) $(KERNEL_LDFLAGS) -T linker.ld -o $@ $(KERNEL_OBJ)

# ---------------------------------------------------------------------------------------------------------
# Loader (GNU-EFI)

EFI_LIB := /usr/lib
EFI_CFLAGS := $(COMMON) -O2 -ffreestanding -fpic -fshort-wchar -mno-red-zone -mgeneral-regs-only \
	-fno-stack-protector -fcf-protection=none -fno-asynchronous-unwind-tables -fvisibility=hidden \
	-DGNU_EFI_USE_MS_ABI -DCONFIG_DEBUG=$(DEBUG) -isystem /usr/include/efi -isystem /usr/include/efi/x86_64

EFI_LD := $(LD) -shared -Bsymbolic -nostdlib -z nocombreloc -z noexecstack --no-undefined --fatal-warnings -T boot/efi.lds
EFI_COPY := $(OBJCOPY) --strip-all --target=efi-app-x86_64 --subsystem=10 --section-alignment=4096 --file-alignment=512

$(B)/efi/%.o: %.c Makefile | setup
	$(say) CC '$< [$(B)]'
	@mkdir -p $(@D)
	$(Q)$(CC) $(EFI_CFLAGS) -c -o $@ $<

$(B)/efi/%.asm.o: %.asm tools/assemble Makefile | setup
	$(say) NASM $<
	@mkdir -p $(@D)
	$(Q)tools/assemble $(NASM) $< $@ $(NASMFLAGS)

$(B)/efi/loader.so: $(BOOT_OBJ) boot/efi.lds Makefile
	$(say) LD $@
	$(Q)$(EFI_LD) -o $@ $(EFI_LIB)/crt0-efi-x86_64.o $(BOOT_OBJ) -L $(EFI_LIB) -lgnuefi

# pe-finish checks the image's sections before it says in the header that their rights may be enforced.
$(B)/esp/EFI/BOOT/BOOTX64.EFI: $(B)/efi/loader.so tools/pe-finish
	$(say) EFI $@
	@mkdir -p $(@D)
	$(Q)$(EFI_COPY) $< $(<:.so=.pe)
	$(Q)tools/pe-finish $(<:.so=.pe) $@

# Firmware with rights of memory, around OVMF that has none (tests/qemu/boot_rights.py).
STRICT_OBJ := $(addprefix $(B)/efi/,tests/qemu/strict/strict.o boot/console.o boot/rights.o kernel/base/fmt.o kernel/base/string.o)

$(B)/strict.efi: $(STRICT_OBJ) boot/efi.lds tools/pe-finish Makefile
	$(say) EFI $@
	$(Q)$(EFI_LD) -o $(B)/efi/strict.so $(EFI_LIB)/crt0-efi-x86_64.o $(STRICT_OBJ) -L $(EFI_LIB) -lgnuefi
	$(Q)$(EFI_COPY) $(B)/efi/strict.so $(B)/efi/strict.pe
	$(Q)tools/pe-finish $(B)/efi/strict.pe $@

# A kernel that only checks the hand-over (tests/qemu/boot_*.py).
HANDOVER := tests/qemu/handover
HANDOVER_OBJ := $(addprefix $(B)/obj/,$(HANDOVER)/start.asm.o $(HANDOVER)/handover.o kernel/base/crc32.o \
	kernel/base/fmt.o kernel/base/log_ring.o kernel/base/string.o)

$(B)/handover.elf: $(HANDOVER_OBJ) $(HANDOVER)/handover.ld
	$(say) LD $@
	$(Q)$(LD) -m elf_x86_64 -nostdlib -static -z max-page-size=0x1000 -z noexecstack --fatal-warnings \
		-T $(HANDOVER)/handover.ld -o $@ $(HANDOVER_OBJ)

# ---------------------------------------------------------------------------------------------------------
# The EFI system partition as a folder, and as a disk image

CMDLINE ?=

$(B)/esp/tangram/kernel.elf: $(B)/kernel.elf
	@mkdir -p $(@D)
	$(Q)cp $< $@

# Rewritten only when CMDLINE is another one.
$(B)/esp/tangram/cmdline.txt: FORCE
	@mkdir -p $(@D)
	@printf '%s\n' '$(CMDLINE)' | cmp -s - $@ || printf '%s\n' '$(CMDLINE)' > $@

ESP_FILES := $(B)/esp/EFI/BOOT/BOOTX64.EFI $(B)/esp/tangram/kernel.elf $(B)/esp/tangram/cmdline.txt

$(B)/tangram.img: $(ESP_FILES) tools/mkimage
	$(say) IMAGE $@
	$(Q)tools/mkimage $(B)/esp $@

# ---------------------------------------------------------------------------------------------------------
# Hosted: the same mm/ as a Linux program, with sanitizers

$(HB)/obj/%.o: %.c Makefile | setup
	$(say) HOSTCC '$< [$(HB)]'
	@mkdir -p $(@D)
	$(Q)$(HOST_CC) $(HOST_CFLAGS) -c -o $@ $<

# The same with ThreadSanitizer, for the tests in which virtual CPUs are threads. It does not see the simulation of what CPUs
# remember: locks in there must not order what it watches.
# (No memset of the compiler's own making: what it becomes is not seen.)
TSAN_CFLAGS := $(filter-out -fsanitize=%,$(HOST_CFLAGS)) -fno-builtin -DHOST_ARENA=0x1000000000ull
TSAN_BLIND := $(HB)/tsan/tests/host/sim_tlb.o $(HB)/tsan/tests/host/store_log.o
TSAN_OBJ := $(HOST_C:%.c=$(HB)/tsan/%.o)

$(filter-out $(TSAN_BLIND),$(TSAN_OBJ)): TSAN_FLAG := -fsanitize=thread

$(HB)/tsan/%.o: %.c Makefile | setup
	$(say) TSANCC '$< [$(HB)]'
	@mkdir -p $(@D)
	$(Q)$(HOST_CC) $(TSAN_CFLAGS) $(TSAN_FLAG) -c -o $@ $<

$(HB)/host-test-tsan: $(TSAN_OBJ)
	$(say) TSANLD $@
	$(Q)$(HOST_CC) $(TSAN_CFLAGS) -fsanitize=thread -o $@ $(TSAN_OBJ)

$(HB)/host-test: $(HOST_OBJ)
	$(say) HOSTLD $@
	$(Q)$(HOST_CC) $(HOST_CFLAGS) -o $@ $(HOST_OBJ)

# Fuzzing of what reads untrusted input: one program for each tests/host/fuzz_*.c, by clang's libFuzzer.
FUZZ_CFLAGS := $(filter-out -MMD -MP,$(COMMON)) -O1 -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all \
	-DCONFIG_DEBUG=1
FUZZ_SECONDS ?= 60
FUZZ := $(FUZZ_C:tests/host/%.c=build/fuzz/%)
FUZZ_PARTS := $(BOOT_PURE_C) $(KERNEL_PURE_C) kernel/base/fmt.c

build/fuzz/%: tests/host/%.c $(FUZZ_PARTS) $(wildcard boot/*.h kernel/*.h kernel/base/*.h tests/host/*.h) Makefile | setup
	$(say) FUZZCC $@
	@mkdir -p $(@D)
	$(Q)clang $(FUZZ_CFLAGS) -o $@ $< $(FUZZ_PARTS)

# Benchmarks: what PEERS measures, by the same harness. No sanitizers, release configuration.
BENCH := build/host
BENCH_DIR := tests/host/bench
# DWARF 4: the valgrind of Debian 12 does not read all of clang's DWARF 5.
BENCH_CFLAGS := -std=gnu11 -O2 -gdwarf-4 -fno-strict-aliasing -I. -I$(BENCH_DIR) -MMD -MP $(REPRO) \
	-DCONFIG_DEBUG=0 -DCONFIG_PLANT=0
BENCH_WARN := $(WARN)
BENCH_A_CC := clang
BENCH_B_CC := gcc

# bench_compile(name, compiler): objects of every source below build/host/bench-NAME/
define bench_compile
$(BENCH)/bench-$(1)/%.o: %.c Makefile | setup
	$$(say) BENCHCC '$$< [$(2)]'
	@mkdir -p $$(@D)
	$$(Q)$(2) $$(BENCH_CFLAGS) $$(BENCH_WARN) -c -o $$@ $$<

$(BENCH)/bench-$(1)/libmm.a: $(MM_C:%.c=$(BENCH)/bench-$(1)/%.o)
	$$(say) AR $$@
	@rm -f $$@
	$$(Q)$$(AR) rcs $$@ $$^
endef
$(eval $(call bench_compile,a,$(BENCH_A_CC)))
$(eval $(call bench_compile,b,$(BENCH_B_CC)))

# The harness is dense by habit and not held to the kernel's warnings.
$(BENCH)/bench-%/tests/host/bench/bench_a.o $(BENCH)/bench-%/tests/host/bench/bench_b.o: BENCH_WARN := -Wall

A_OBJ := $(BENCH)/bench-a/$(BENCH_DIR)
B_OBJ := $(BENCH)/bench-b/$(BENCH_DIR)

$(BENCH)/bench_a-tangram: $(A_OBJ)/bench_a.o $(A_OBJ)/pf_tangram.o $(A_OBJ)/arch_bench.o $(BENCH)/bench-a/libmm.a
	$(say) BENCHLD $@
	$(Q)$(BENCH_A_CC) -O2 -pthread -o $@ $^

$(BENCH)/bench_b-tangram: $(B_OBJ)/bench_b.o $(B_OBJ)/pt_tangram.o $(B_OBJ)/arch_bench.o $(BENCH)/bench-b/libmm.a
	$(say) BENCHLD $@
	$(Q)$(BENCH_B_CC) -O2 -pthread -o $@ $^

# The textbook buddy, plain, locked and with a stack per CPU: baselines for (a).
BASELINES := buddy buddy-lock buddy-pcp
BASELINE_buddy-lock := -DLOCKED
BASELINE_buddy-pcp := -DPCP
$(BASELINES:%=$(BENCH)/bench_a-%): $(BENCH)/bench_a-%: $(BENCH_DIR)/impl_buddy.c $(A_OBJ)/bench_a.o
	$(say) BENCHCC $@
	$(Q)$(BENCH_A_CC) -std=gnu11 -O2 -gdwarf-4 -I$(BENCH_DIR) -pthread $(BASELINE_$*) -o $@ $^

BENCH_PROGRAMS := $(BENCH)/bench_a-tangram $(BENCH)/bench_b-tangram $(BASELINES:%=$(BENCH)/bench_a-%)

# ---------------------------------------------------------------------------------------------------------
# Targets for people

.PHONY: help run monitor test host-test tsan qcheck soak image esp usb debug bench bench-build fuzz check-layers clean FORCE
.DEFAULT_GOAL := help
FORCE:

help:
	@printf '%s\n' \
	'make run        boot under QEMU, one CPU, instructions counted; the report on this terminal' \
	'                (ICOUNT=0: the quick look. CPUS=4: so many, not counted. APPEND="key=value ...": more of the' \
	'                command line, as kernel/cmdline.h has it)' \
	'make test       every test: hosted, tools, the QEMU matrix; at most 20 minutes on 2 cores' \
	'make soak       the same with the full counts' \
	'make qcheck     build, check-layers, host-test and one QEMU boot: under two minutes' \
	'make host-test  mm/ as a Linux program: model, random operations, sanitizers' \
	'make tsan       virtual CPUs as threads, under ThreadSanitizer' \
	'make fuzz       libFuzzer (clang) on what reads ACPI tables, command lines and ELF files, for FUZZ_SECONDS=60 in all' \
	'make bench      costs beside those of others (docs/peers.csv): callgrind and QEMU icount' \
	'make esp        build/esp/: the EFI system partition as a folder' \
	'make image      build/tangram.img: a GPT disk image for a USB stick or a virtual machine' \
	'make usb        the image, and how to write it to a stick; DEV=/dev/sdX: looks at that disk, asks, writes, reads back' \
	'make monitor    boot, and take commands on this terminal: walk page tables, split, run tests (docs/monitor.md)' \
	'make debug      boot and wait for gdb on port 1234' \
	'make clean      remove build/' \
	'' \
	'CC=clang, DEBUG=1, V=1 as usual; build/kernel.elf has the symbols.'

esp: $(ESP_FILES) $(B)/handover.elf $(B)/strict.efi
image: $(B)/tangram.img

RUN_QEMU := tools/run-qemu --build $(B) $(if $(TIMEOUT),--timeout $(TIMEOUT))

run: esp
	$(Q)$(RUN_QEMU) --cpus $(CPUS) $(if $(filter 1-1,$(ICOUNT)-$(CPUS)),--icount) --log $(B)/run.log \
		--result $(B)/run.json --append 'seed=$(SEED) kaslr=off $(APPEND)'; status=$$?; \
		echo "the log is $(B)/run.log; as a page with plots: tools/report $(B)/run.log --html $(B)/run.html" >&2; exit $$status

# At once, unless SUITE says what is to run before.
SUITE ?= none

monitor: esp
	$(Q)$(RUN_QEMU) --cpus $(CPUS) --monitor --log $(B)/monitor.log \
		--append 'suite=$(SUITE) lab=off seed=$(SEED) kaslr=off $(APPEND)'

debug: esp
	$(Q)$(RUN_QEMU) --cpus $(CPUS) --debug --append 'seed=$(SEED) kaslr=off $(APPEND)'

host-test: $(HB)/host-test
	$(Q)$(HB)/host-test --seed $(SEED)

tsan: $(HB)/host-test-tsan
	$(Q)$(HB)/host-test-tsan --suite 'threads*' --seed $(SEED)

# The time is shared by the programs; what fails is left in build/fuzz/ for a second run of the program on it.
fuzz: $(FUZZ)
	$(Q)for program in $(FUZZ); do \
		mkdir -p $$program.corpus; \
		$$program -max_total_time=$$(($(FUZZ_SECONDS) / $(words $(FUZZ)))) -print_final_stats=1 -timeout=10 \
			-verbosity=0 -artifact_prefix=build/fuzz/ $$program.corpus || exit 1; \
	done

check-layers: | setup
	$(Q)tools/check-layers

qcheck: check-layers esp $(HB)/host-test
	$(Q)tools/run-tests quick

test soak: | setup
	$(Q)tools/run-tests $@

bench-build: $(BENCH_PROGRAMS)

bench: bench-build esp
	$(Q)tools/bench --build $(B)

usb: image
	@tools/usb $(B)/tangram.img $(if $(DEV),'$(DEV)') $(if $(filter 1,$(FIXED)),--fixed) $(if $(ERASE),--erase '$(ERASE)')

clean:
	$(Q)rm -rf build

-include $(HANDOVER_OBJ:.o=.d) $(KERNEL_OBJ:.o=.d) $(BOOT_OBJ:.o=.d) $(STRICT_OBJ:.o=.d) $(HOST_OBJ:.o=.d) $(TSAN_OBJ:.o=.d)
-include $(wildcard $(BENCH)/bench-*/*/*.d $(BENCH)/bench-*/*/*/*.d $(BENCH)/bench-*/*/*/*/*.d)
