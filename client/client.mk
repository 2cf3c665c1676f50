# SPDX-License-Identifier: Apache-2.0
include_HEADERS += base/hltypes.h client/hlclient.h client/hlmanage.h client/hlsession.h
pkgconfig_DATA += client/hlclient.pc
EXTRA_DIST += client/libhlclient.map

# Everything of the library, with all its symbols: the library proper and the unit tests link it.
noinst_LTLIBRARIES += libhlclientall.la
libhlclientall_la_SOURCES = \
	client/bulk.h \
	client/call.c \
	client/client.h \
	client/connection.c \
	client/daemon.c \
	client/descriptor.c \
	client/failure.c \
	client/host.c \
	client/images.c \
	client/parcel.c \
	client/pending.c \
	client/request.c \
	client/room.c \
	client/sessions.c
libhlclientall_la_LIBADD = libproto.la

lib_LTLIBRARIES += libhlclient.la
libhlclient_la_SOURCES =
libhlclient_la_LIBADD = libhlclientall.la
libhlclient_la_LDFLAGS = -shared -version-info 0:0:0 -pthread $(SAN) -Wl,-z,relro,-z,now \
	-Wl,--version-script=$(top_srcdir)/client/libhlclient.map
libhlclient_la_DEPENDENCIES = libhlclientall.la client/libhlclient.map

# In the static library only the public symbols can be seen either, so that none of ours meets one
# of its user's.
staticlibdir = $(libdir)
staticlib_DATA = libhlclient.a
libhlclient.a: libhlclientall.la
	$(AM_V_GEN)rm -f $@ && $(LD) -r -o libhlclient-static.o \
		--whole-archive .libs/libhlclientall.a && \
		$(OBJCOPY) --localize-hidden libhlclient-static.o && \
		$(AR) cr $@ libhlclient-static.o && $(RANLIB) $@
CLEANFILES += libhlclient.a libhlclient-static.o

# hlctl: its parts as a library too, for the unit tests.
noinst_LTLIBRARIES += libhlctl.la
libhlctl_la_SOURCES = \
	client/hlctl/arguments.c \
	client/hlctl/arguments.h \
	client/hlctl/bench.c \
	client/hlctl/bench.h \
	client/hlctl/bench_load.c \
	client/hlctl/bench_samples.c \
	client/hlctl/call.c \
	client/hlctl/command.c \
	client/hlctl/command.h \
	client/hlctl/failure.c \
	client/hlctl/hlctl.h \
	client/hlctl/image.c \
	client/hlctl/image.h \
	client/hlctl/image_add.c \
	client/hlctl/image_commit.c \
	client/hlctl/image_inspect.c \
	client/hlctl/image_ls.c \
	client/hlctl/image_rm.c \
	client/hlctl/info.c \
	client/hlctl/input.c \
	client/hlctl/input.h \
	client/hlctl/json.h \
	client/hlctl/offer.c \
	client/hlctl/options.c \
	client/hlctl/ping.c \
	client/hlctl/session.c \
	client/hlctl/stats.c \
	client/hlctl/table.c \
	client/hlctl/table.h \
	client/hlctl/text.c \
	client/hlctl/text.h \
	client/hlctl/value.c \
	client/hlctl/value.h
libhlctl_la_LIBADD = libbase.la $(JANSSON_LIBS)

bin_PROGRAMS += hlctl
hlctl_SOURCES = client/hlctl/main.c
hlctl_LDADD = libhlctl.la libhlclient.la -lm

dist_man_MANS += doc/hlctl.1 doc/hlclient.3
bashcompletiondir = $(datadir)/bash-completion/completions
dist_bashcompletion_DATA = contrib/completions/hlctl

CLIENT_TESTS = \
	tests/unit/test_client \
	tests/unit/test_client_broken \
	tests/unit/test_client_bulk \
	tests/unit/test_client_descriptor \
	tests/unit/test_client_host \
	tests/unit/test_client_manage \
	tests/unit/test_client_parcel \
	tests/unit/test_hlctl \
	tests/unit/test_hlctl_input
check_PROGRAMS += $(CLIENT_TESTS)
check_LTLIBRARIES += libclientrig.la
libclientrig_la_SOURCES = tests/unit/fake_server.c tests/unit/fake_server.h
CLIENT_TEST_LIBS = libclientrig.la libhlclientall.la $(CHECK_LIBS)
tests_unit_test_client_LDADD = $(CLIENT_TEST_LIBS)
tests_unit_test_client_broken_LDADD = $(CLIENT_TEST_LIBS)
tests_unit_test_client_bulk_LDADD = $(CLIENT_TEST_LIBS)
tests_unit_test_client_descriptor_LDADD = $(CLIENT_TEST_LIBS)
tests_unit_test_client_host_LDADD = $(CLIENT_TEST_LIBS)
tests_unit_test_client_manage_LDADD = $(CLIENT_TEST_LIBS)
tests_unit_test_client_parcel_LDADD = $(CLIENT_TEST_LIBS)
tests_unit_test_hlctl_LDADD = libhlctl.la $(CLIENT_TEST_LIBS) -lm
tests_unit_test_hlctl_input_LDADD = libhlctl.la $(CLIENT_TEST_LIBS) -lm
