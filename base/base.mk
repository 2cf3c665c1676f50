# SPDX-License-Identifier: Apache-2.0
noinst_LTLIBRARIES += libbase.la
libbase_la_SOURCES = \
	base/cleanup.h \
	base/error.c \
	base/error.h \
	base/hltypes.h \
	base/host_policy.c \
	base/host_policy.h \
	base/io.c \
	base/io.h \
	base/list.h \
	base/spin.c \
	base/spin.h \
	base/standard.c \
	base/standard.h \
	base/value.c \
	base/value.h
libbase_la_CFLAGS = $(AM_CFLAGS) -fPIC

check_PROGRAMS += tests/unit/test_base
TESTS += tests/unit/test_base
tests_unit_test_base_SOURCES = tests/unit/test_base.c
tests_unit_test_base_CFLAGS = $(AM_CFLAGS) $(CHECK_CFLAGS)
tests_unit_test_base_LDADD = libbase.la $(CHECK_LIBS)
