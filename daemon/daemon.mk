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

# The worker, apart from its start: what unit tests drive without a daemon.
noinst_LTLIBRARIES += libengine.la
libengine_la_SOURCES = \
	daemon/answer.c \
	daemon/answer.h \
	daemon/budget.c \
	daemon/budget.h \
	daemon/call.c \
	daemon/call.h \
	daemon/confine.c \
	daemon/confine.h \
	daemon/conn.c \
	daemon/conn.h \
	daemon/control_link.c \
	daemon/control_link.h \
	daemon/deadlines.c \
	daemon/deadlines.h \
	daemon/engine.c \
	daemon/engine.h \
	daemon/images.c \
	daemon/images.h \
	daemon/landlock.c \
	daemon/mailbox.c \
	daemon/mailbox.h \
	daemon/pool.c \
	daemon/pool.h \
	daemon/program.c \
	daemon/program.h \
	daemon/seccomp.c \
	daemon/service.c \
	daemon/service.h \
	daemon/service_daemon.c \
	daemon/service_images.c \
	daemon/settings.c \
	daemon/settings.h \
	daemon/shard.c \
	daemon/shard.h \
	daemon/stats.c \
	daemon/stats.h \
	daemon/upload.c \
	daemon/upload.h \
	daemon/worker.c \
	daemon/worker.h
libengine_la_CFLAGS = $(AM_CFLAGS) $(CAPNG_CFLAGS) $(PROTOBUF_C_CFLAGS) $(SECCOMP_CFLAGS) \
	$(SODIUM_CFLAGS) $(UV_CFLAGS)
libengine_la_LIBADD = libcontrol.la libproto.la $(CAPNG_LIBS) $(SECCOMP_LIBS) $(SODIUM_LIBS) \
	$(UV_LIBS)

check_PROGRAMS += tests/unit/test_confine
TESTS += tests/unit/test_confine
tests_unit_test_confine_SOURCES = tests/unit/test_confine.c
tests_unit_test_confine_CFLAGS = $(AM_CFLAGS) $(CHECK_CFLAGS)
tests_unit_test_confine_LDADD = libengine.la $(CHECK_LIBS)
