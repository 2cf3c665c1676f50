# SPDX-License-Identifier: Apache-2.0
noinst_LTLIBRARIES += libhv.la
libhv_la_SOURCES =
libhv_la_LIBADD = libbase.la

# common to all backends
libhv_la_SOURCES += \
	hv/backend.c \
	hv/backend.h \
	hv/boot.c \
	hv/build.c \
	hv/call.c \
	hv/call.h \
	hv/checkpoint.c \
	hv/checkpoint.h \
	hv/checkpoint_internal.h \
	hv/commit.c \
	hv/fault.c \
	hv/features.c \
	hv/features.h \
	hv/guest.c \
	hv/guest.h \
	hv/host_call.c \
	hv/host_call.h \
	hv/image.c \
	hv/image.h \
	hv/image_internal.h \
	hv/instance.c \
	hv/instance.h \
	hv/page_tree.c \
	hv/page_tree.h \
	hv/snapshot.c \
	hv/snapshot.h \
	hv/snapshot_file.c \
	hv/snapshot_file.h \
	hv/snapshot_internal.h \
	hv/snapshot_layout.h \
	hv/space.c \
	hv/space.h \
	hv/symbols.c \
	hv/syscall.c \
	hv/world.c \
	hv/world.h

# kvm, and what both backends kick with
libhv_la_SOURCES += \
	hv/kvm.c \
	hv/kvm_audit.c \
	hv/kvm_bulk.c \
	hv/kvm_machine.h \
	hv/kvm_measure.c \
	hv/kvm_memory.c \
	hv/kvm_reset.c \
	hv/kvm_ring.c \
	hv/kvm_setup.c \
	hv/kvm_tables.c \
	hv/timer.c \
	hv/timer.h

check_PROGRAMS += tests/unit/test_timer

KVM_TESTS = \
	tests/unit/test_kvm_bind \
	tests/unit/test_kvm_bulk \
	tests/unit/test_kvm_exits \
	tests/unit/test_kvm_reset \
	tests/unit/test_kvm_vectors
check_PROGRAMS += $(KVM_TESTS)
check_LTLIBRARIES += libkvmrig.la
libkvmrig_la_SOURCES = tests/unit/kvm_support.c tests/unit/kvm_support.h
KVM_TEST_LIBS = libkvmrig.la libhv.la $(CHECK_LIBS)
tests_unit_test_kvm_bind_LDADD = $(KVM_TEST_LIBS)
tests_unit_test_kvm_bulk_LDADD = $(KVM_TEST_LIBS)
tests_unit_test_kvm_exits_LDADD = $(KVM_TEST_LIBS)
tests_unit_test_kvm_reset_LDADD = $(KVM_TEST_LIBS)
tests_unit_test_kvm_vectors_LDADD = $(KVM_TEST_LIBS)

# the backend that tests script
check_LTLIBRARIES += libhvfake.la
libhvfake_la_SOURCES = \
	tests/fake/elf.c \
	tests/fake/elf.h \
	tests/fake/fake.c \
	tests/fake/fake.h \
	tests/fake/fake_internal.h \
	tests/fake/guest.c

check_PROGRAMS += \
	tests/unit/test_backend \
	tests/unit/test_call \
	tests/unit/test_checkpoint \
	tests/unit/test_host_call \
	tests/unit/test_image \
	tests/unit/test_instance \
	tests/unit/test_instance_files \
	tests/unit/test_snapshot \
	tests/unit/test_snapshot_file \
	tests/unit/test_syscall \
	tests/unit/test_world

# what the machine costs by itself
noinst_PROGRAMS += tests/bench/bench_hv
tests_bench_bench_hv_SOURCES = \
	tests/bench/bench_hv.c \
	tests/bench/bench_hv.h \
	tests/bench/bench_hv_first.c \
	tests/bench/bench_hv_reset.c
tests_bench_bench_hv_LDADD = libhv.la

# process
libhv_la_SOURCES += \
	hv/nursery.c \
	hv/nursery.h \
	hv/process.c \
	hv/process_audit.c \
	hv/process_bulk.c \
	hv/process_filter.c \
	hv/process_machine.h \
	hv/process_socket.c \
	hv/process_socket.h \
	hv/process_start.c \
	hv/process_wire.h \
	hv/process_zygote.c \
	hv/process_zygote.h

# what runs in a guest process: no libc, no constants, nothing that a compiler adds
noinst_LTLIBRARIES += libhvguest.la
libhvguest_la_SOURCES = hv/process_guest.c
libhvguest_la_CFLAGS = $(AM_CFLAGS) $(FREESTANDING_CFLAGS)
libhv_la_LIBADD += libhvguest.la
FREESTANDING_CFLAGS = -fPIC -ffreestanding -fno-sanitize=all -fno-stack-protector \
	-U_FORTIFY_SOURCE $(NO_LOOP_CALLS) -fno-tree-vectorize \
	-fno-jump-tables -mgeneral-regs-only -fno-asynchronous-unwind-tables

PROCESS_TESTS = \
	tests/unit/test_process \
	tests/unit/test_process_bulk \
	tests/unit/test_process_hostile
check_PROGRAMS += $(PROCESS_TESTS)
check_LTLIBRARIES += libprocessguests.la libprocessrig.la
libprocessguests_la_SOURCES = tests/unit/process_guests.c tests/unit/process_guests.h
libprocessguests_la_CFLAGS = $(AM_CFLAGS) $(FREESTANDING_CFLAGS)
libprocessrig_la_SOURCES = tests/unit/process_rig.c tests/unit/process_rig.h
PROCESS_TEST_LIBS = libprocessrig.la libprocessguests.la libhv.la $(CHECK_LIBS)
tests_unit_test_process_LDADD = $(PROCESS_TEST_LIBS)
tests_unit_test_process_bulk_LDADD = $(PROCESS_TEST_LIBS)
tests_unit_test_process_hostile_LDADD = $(PROCESS_TEST_LIBS)
TESTS += tests/unit/test_process_code.sh
EXTRA_DIST += tests/unit/test_process_code.sh
