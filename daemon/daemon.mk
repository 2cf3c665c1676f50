# SPDX-License-Identifier: Apache-2.0

# What front and worker share: the control messages, and the log.
noinst_LTLIBRARIES += libcontrolmessages.la
nodist_libcontrolmessages_la_SOURCES = daemon/control.pb-c.c
libcontrolmessages_la_CFLAGS = -g -O2 -fPIC $(SAN) $(PROTOBUF_C_CFLAGS)

noinst_LTLIBRARIES += libcontrol.la
libcontrol_la_SOURCES = \
	daemon/control.c \
	daemon/control.h \
	daemon/log.c \
	daemon/log.h
libcontrol_la_CFLAGS = $(AM_CFLAGS) $(PROTOBUF_C_CFLAGS)
libcontrol_la_LIBADD = libcontrolmessages.la libbase.la $(PROTOBUF_C_LIBS)

check_PROGRAMS += tests/unit/test_control
TESTS += tests/unit/test_control
tests_unit_test_control_SOURCES = tests/unit/test_control.c
tests_unit_test_control_CFLAGS = $(AM_CFLAGS) $(CHECK_CFLAGS) $(PROTOBUF_C_CFLAGS)
tests_unit_test_control_LDADD = libcontrol.la $(CHECK_LIBS)

check_PROGRAMS += tests/unit/test_log
TESTS += tests/unit/test_log
tests_unit_test_log_SOURCES = tests/unit/test_log.c
tests_unit_test_log_CFLAGS = $(AM_CFLAGS) $(CHECK_CFLAGS)
tests_unit_test_log_LDADD = libcontrol.la $(CHECK_LIBS)
