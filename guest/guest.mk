# SPDX-License-Identifier: Apache-2.0
# Guests are another target than hld: their own compiler, none of hld's flags, no sanitizer.
GUEST_WARNINGS = -Wall -Wextra -Wshadow -Wconversion -Wno-sign-conversion -Wstrict-prototypes \
	-Wmissing-prototypes $(WERROR)
GUEST_CFLAGS = -std=gnu11 -O2 -g $(GUEST_WARNINGS)

# One archive for static and static-pie programs of any C library: position-independent, and
# without what asks the C library for more than C (stack protector, fortified calls).
GUEST_LIBRARY_CFLAGS = $(GUEST_CFLAGS) -fPIE -fno-stack-protector -U_FORTIFY_SOURCE \
	-ffunction-sections -fdata-sections
GUEST_LIBRARY_FILES = \
	guest/host.c \
	guest/init.c \
	guest/main.c \
	guest/random.c \
	guest/restore.c \
	guest/result.c \
	guest/seed.c \
	guest/serve.c \
	guest/text.c
GUEST_HEADER_FILES = \
	guest/hl_abi.h \
	guest/hlguest.h \
	guest/hlguest_host.h \
	guest/hlguest_macros.h \
	guest/hlguest_values.h
GUEST_LIBRARY_OBJECTS = $(GUEST_LIBRARY_FILES:.c=.guest.o)
GUEST_LIBRARY_INSIDE = guest/chacha.h guest/serve.h
EXTRA_DIST += $(GUEST_LIBRARY_FILES) $(GUEST_LIBRARY_INSIDE)
CLEANFILES += $(GUEST_LIBRARY_OBJECTS) guest/libhlguest.a

%.guest.o: %.c $(GUEST_HEADER_FILES) $(GUEST_LIBRARY_INSIDE)
	@$(MKDIR_P) $(@D)
	$(AM_V_CC)$(GUEST_CC) $(GUEST_LIBRARY_CFLAGS) -c -o $@ $<

guest/libhlguest.a: $(GUEST_LIBRARY_OBJECTS)
	$(AM_V_GEN)rm -f $@ && $(AR) rcs $@ $(GUEST_LIBRARY_OBJECTS)

guestlibdir = $(libdir)
guestlib_DATA = guest/libhlguest.a
# A directory of their own: musl-gcc does not look where the distribution's headers are.
guestincludedir = $(includedir)/hlguest
guestinclude_HEADERS = $(GUEST_HEADER_FILES)
pkgconfig_DATA += guest/hlguest.pc

GUEST_PROGRAM_DEPENDS = $(GUEST_HEADER_FILES) guest/libhlguest.a
GUEST_INCLUDE = -I$(top_srcdir)/guest

GUEST_EXAMPLES = \
	guest/examples/adder \
	guest/examples/echo \
	guest/examples/gunzip \
	guest/examples/hostdemo \
	guest/examples/lua \
	guest/examples/sqlite
gunzip_LIBS = $(ZLIB_LIBS)
lua_CFLAGS = $(LUA_CFLAGS)
lua_LIBS = $(LUA_LIBS)
sqlite_LIBS = $(SQLITE_LIBS)
EXTRA_DIST += $(GUEST_EXAMPLES:=.c)
CLEANFILES += $(GUEST_EXAMPLES)
noinst_DATA += $(GUEST_EXAMPLES)

$(GUEST_EXAMPLES): %: %.c $(GUEST_PROGRAM_DEPENDS)
	@$(MKDIR_P) $(@D)
	$(AM_V_CCLD)$(GUEST_CC) $(GUEST_CFLAGS) -static $(GUEST_INCLUDE) $($(@F)_CFLAGS) -o $@ $< \
		guest/libhlguest.a $($(@F)_LIBS)

# Guests on real machines.
GUEST_UNIT_TESTS = \
	tests/unit/test_guests \
	tests/unit/test_host_guests \
	tests/unit/test_hostile \
	tests/unit/test_library \
	tests/unit/test_state
check_PROGRAMS += $(GUEST_UNIT_TESTS)
check_LTLIBRARIES += libprogramrig.la
libprogramrig_la_SOURCES = tests/unit/program.c tests/unit/program.h
GUEST_TEST_LIBS = libprogramrig.la libhv.la $(CHECK_LIBS)
tests_unit_test_guests_LDADD = $(GUEST_TEST_LIBS)
tests_unit_test_host_guests_LDADD = $(GUEST_TEST_LIBS)
tests_unit_test_hostile_LDADD = $(GUEST_TEST_LIBS)
tests_unit_test_library_LDADD = $(GUEST_TEST_LIBS)
tests_unit_test_state_LDADD = $(GUEST_TEST_LIBS)
TESTS += tests/unit/test_hlguest_pc.sh
EXTRA_DIST += tests/unit/test_hlguest_pc.sh tests/data/gradient.png

include tests/guests/guests.mk
