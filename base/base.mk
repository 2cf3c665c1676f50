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

check_PROGRAMS += tests/unit/test_base
