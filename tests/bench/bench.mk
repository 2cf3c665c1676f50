# SPDX-License-Identifier: Apache-2.0
# What contrib/bench runs. bench_hv, the hypervisor's own part, is in it where it is built.
EXTRA_DIST += \
	tests/bench/cases.py \
	tests/bench/daemon.py \
	tests/bench/guest.c \
	tests/bench/job.c \
	tests/bench/job.h \
	tests/bench/machine.py \
	tests/bench/plots.py \
	tests/bench/report.py \
	tests/bench/run.py \
	tests/bench/targets.py \
	tests/bench/work.py

noinst_LTLIBRARIES += libbench.la
libbench_la_SOURCES = tests/bench/support.c tests/bench/support.h
libbench_la_LIBADD = $(JANSSON_LIBS)

noinst_PROGRAMS += tests/bench/codec tests/bench/load tests/bench/rivals
tests_bench_codec_LDADD = libbench.la libproto.la
tests_bench_load_SOURCES = \
	tests/bench/load.c \
	tests/bench/load.h \
	tests/bench/load_beside.c \
	tests/bench/load_images.c \
	tests/bench/load_kind.c \
	tests/bench/load_lanes.c \
	tests/bench/load_open.c \
	tests/bench/load_turns.c
tests_bench_load_LDADD = libbench.la libhlclientall.la -lm
tests_bench_rivals_SOURCES = tests/bench/rivals.c tests/bench/job.h
tests_bench_rivals_LDADD = libbench.la libhlclientall.la -lz

# The same daemon with a count of its allocations.
if !SANITIZED
noinst_PROGRAMS += tests/bench/hld_counted
tests_bench_hld_counted_SOURCES = $(hld_SOURCES) tests/bench/count_malloc.c
tests_bench_hld_counted_CFLAGS = $(AM_CFLAGS) -fno-builtin
tests_bench_hld_counted_LDADD = $(hld_LDADD)
endif

# The rivals' programs and the guest: built as their users would build them, without our flags.
BENCH_OTHERS = tests/bench/guest tests/bench/job_dynamic tests/bench/job_static
noinst_DATA += $(BENCH_OTHERS) tests/guests/bare
CLEANFILES += $(BENCH_OTHERS)
tests/bench/guest: tests/bench/guest.c $(GUEST_PROGRAM_DEPENDS)
	@$(MKDIR_P) $(@D)
	$(AM_V_CCLD)$(GUEST_CC) $(GUEST_CFLAGS) -static $(GUEST_INCLUDE) -o $@ \
		$(top_srcdir)/tests/bench/guest.c guest/libhlguest.a
job_static_CFLAGS = -static
tests/bench/job_dynamic tests/bench/job_static: tests/bench/job.c tests/bench/job.h
	@$(MKDIR_P) $(@D)
	$(AM_V_CCLD)$(GUEST_CC) $(GUEST_CFLAGS) $($(@F)_CFLAGS) -I$(top_srcdir) -o $@ \
		$(top_srcdir)/tests/bench/job.c -lz
