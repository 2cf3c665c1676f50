# SPDX-License-Identifier: Apache-2.0
EXTRA_DIST += \
	tests/fuzz/run \
	tests/go/main.go \
	tests/integration/client_test.c \
	tests/integration/harness.py \
	tests/integration/host_test.c \
	tests/integration/run.py \
	tests/integration/test_bulk.py \
	tests/integration/test_cli.py \
	tests/integration/test_clients.py \
	tests/integration/test_examples.py \
	tests/integration/test_host.py \
	tests/integration/test_hostile.py \
	tests/integration/test_lifecycle.py \
	tests/integration/test_limits.py \
	tests/integration/test_sessions.py \
	tests/integration/test_snapshots.py \
	tests/integration/test_soak.py \
	tests/integration/test_systemd.py \
	tests/integration/test_users.py \
	tests/integration/test_wire.py \
	tests/integration/wire.py

if FUZZ
FUZZ_TARGETS = \
	tests/fuzz/fuzz_client \
	tests/fuzz/fuzz_control \
	tests/fuzz/fuzz_files \
	tests/fuzz/fuzz_guest \
	tests/fuzz/fuzz_image \
	tests/fuzz/fuzz_snapshot \
	tests/fuzz/fuzz_wire
noinst_PROGRAMS += $(FUZZ_TARGETS)
# Only in the targets themselves: what the libraries have of it is the instrumentation.
FUZZ_LINK = $(AM_LDFLAGS) -fsanitize=fuzzer
endif
fuzz-targets: $(BUILT_SOURCES)
	$(MAKE) $(AM_MAKEFLAGS) $(FUZZ_TARGETS)
.PHONY: fuzz-targets

tests_fuzz_fuzz_client_LDADD = libhlclientall.la
tests_fuzz_fuzz_client_LDFLAGS = $(FUZZ_LINK)
tests_fuzz_fuzz_control_LDADD = libcontrol.la
tests_fuzz_fuzz_control_LDFLAGS = $(FUZZ_LINK)
tests_fuzz_fuzz_files_LDADD = libfront.la
tests_fuzz_fuzz_files_LDFLAGS = $(FUZZ_LINK)
tests_fuzz_fuzz_guest_LDADD = libhv.la
tests_fuzz_fuzz_guest_LDFLAGS = $(FUZZ_LINK)
tests_fuzz_fuzz_image_LDADD = libhvfake.la libhv.la
tests_fuzz_fuzz_image_LDFLAGS = $(FUZZ_LINK)
tests_fuzz_fuzz_snapshot_LDADD = libhvfake.la libhv.la
tests_fuzz_fuzz_snapshot_LDFLAGS = $(FUZZ_LINK)
tests_fuzz_fuzz_wire_LDADD = libproto.la
tests_fuzz_fuzz_wire_LDFLAGS = $(FUZZ_LINK)
include tests/bench/bench.mk
