# SPDX-License-Identifier: Apache-2.0
# Guests of the tests, built by `make check`.
TEST_GUEST_CFLAGS = $(GUEST_CFLAGS) -I$(top_srcdir) $(GUEST_INCLUDE)
TEST_GUEST_INCLUDES = tests/guests/hostile.h tests/guests/secrets.h guest/serve.h
EXTRA_DIST += $(TEST_GUEST_INCLUDES)

HOSTILE_FILES = \
	tests/guests/hostile.c \
	tests/guests/hostile_abi.c \
	tests/guests/hostile_linux.c
tests/guests/hostile: $(HOSTILE_FILES) $(TEST_GUEST_INCLUDES) $(GUEST_PROGRAM_DEPENDS)
	@$(MKDIR_P) $(@D)
	$(AM_V_CCLD)$(GUEST_CC) $(TEST_GUEST_CFLAGS) -static -o $@ \
		$(top_srcdir)/tests/guests/hostile.c $(top_srcdir)/tests/guests/hostile_abi.c \
		$(top_srcdir)/tests/guests/hostile_linux.c guest/libhlguest.a

SECRETS_FILES = tests/guests/secrets.c tests/guests/secrets_enter.S
secrets_fsgsbase_CFLAGS = -DWITH_FSGSBASE
SECRETS_GUESTS = tests/guests/secrets tests/guests/secrets_fsgsbase
$(SECRETS_GUESTS): $(SECRETS_FILES) $(TEST_GUEST_INCLUDES) $(GUEST_PROGRAM_DEPENDS)
	@$(MKDIR_P) $(@D)
	$(AM_V_CCLD)$(GUEST_CC) $(TEST_GUEST_CFLAGS) -static $($(@F)_CFLAGS) -o $@ \
		$(top_srcdir)/tests/guests/secrets.c $(top_srcdir)/tests/guests/secrets_enter.S \
		guest/libhlguest.a

# One program for each hostile start-up.
STARTUP_GUESTS = \
	tests/guests/start_abort \
	tests/guests/start_code \
	tests/guests/start_done \
	tests/guests/start_exit \
	tests/guests/start_fail \
	tests/guests/start_fault \
	tests/guests/start_flood \
	tests/guests/start_hog \
	tests/guests/start_hypercall \
	tests/guests/start_loop \
	tests/guests/start_wild_abort
$(STARTUP_GUESTS): tests/guests/startup.c $(TEST_GUEST_INCLUDES) $(GUEST_PROGRAM_DEPENDS)
	@$(MKDIR_P) $(@D)
	$(AM_V_CCLD)$(GUEST_CC) $(TEST_GUEST_CFLAGS) -static -DSTARTUP=$(@F) -o $@ \
		$(top_srcdir)/tests/guests/startup.c guest/libhlguest.a

# Two objects, in ways of compiling and linking that might lose or pad the function table.
LIBRARY_FILES = tests/guests/library.c tests/guests/library_more.c
LIBRARY_GUESTS = \
	tests/guests/library \
	tests/guests/library_lto \
	tests/guests/library_plain \
	tests/guests/library_sections
library_CFLAGS = -O2
library_lto_CFLAGS = -O2 -flto=auto
library_plain_CFLAGS = -O0 -fno-pie -no-pie
library_sections_CFLAGS = -O3 -fdata-sections -ffunction-sections -Wl,--gc-sections \
	-fstack-protector-all -D_FORTIFY_SOURCE=2
$(LIBRARY_GUESTS): $(LIBRARY_FILES) $(GUEST_PROGRAM_DEPENDS)
	@$(MKDIR_P) $(@D)
	$(AM_V_CCLD)$(GUEST_CC) $(TEST_GUEST_CFLAGS) $($(@F)_CFLAGS) -static -o $@ \
		$(top_srcdir)/tests/guests/library.c $(top_srcdir)/tests/guests/library_more.c \
		guest/libhlguest.a
if HAVE_MUSL_GCC
LIBRARY_MUSL_GUEST = tests/guests/library_musl
tests/guests/library_musl: $(LIBRARY_FILES) $(GUEST_PROGRAM_DEPENDS)
	@$(MKDIR_P) $(@D)
	$(AM_V_CCLD)$(MUSL_GCC) $(TEST_GUEST_CFLAGS) -static -o $@ \
		$(top_srcdir)/tests/guests/library.c $(top_srcdir)/tests/guests/library_more.c \
		guest/libhlguest.a
endif

SINGLE_GUESTS = tests/guests/host_early tests/guests/large tests/guests/outward tests/guests/plain \
	tests/guests/restore tests/guests/returns tests/guests/state
if HAVE_LIBPNG
SINGLE_GUESTS += tests/guests/png
png_CFLAGS = $(LIBPNG_CFLAGS)
png_LIBS = $(LIBPNG_LIBS)
endif
$(SINGLE_GUESTS): %: %.c $(GUEST_PROGRAM_DEPENDS)
	@$(MKDIR_P) $(@D)
	$(AM_V_CCLD)$(GUEST_CC) $(TEST_GUEST_CFLAGS) -static $($(@F)_CFLAGS) -o $@ $< \
		guest/libhlguest.a $($(@F)_LIBS)

tests/guests/large_slow: tests/guests/large.c $(GUEST_PROGRAM_DEPENDS)
	@$(MKDIR_P) $(@D)
	$(AM_V_CCLD)$(GUEST_CC) $(TEST_GUEST_CFLAGS) -static -DSLOW_START -o $@ $< guest/libhlguest.a

tests/guests/bare: tests/guests/bare.S
	@$(MKDIR_P) $(@D)
	$(AM_V_CCLD)$(GUEST_CC) -static -nostdlib -o $@ $<

# The same archive in the other kinds of program, found as a user finds it.
VARIANT_GUESTS = tests/guests/echo_pie tests/guests/large_slow
# (Debian's musl-gcc links -static-pie as a dynamic program.)
if HAVE_MUSL_GCC
VARIANT_GUESTS += tests/guests/echo_musl tests/guests/adder_musl tests/guests/hostdemo_musl
VARIANT_GUESTS += tests/guests/restore_musl
tests/guests/restore_musl: tests/guests/restore.c $(GUEST_PROGRAM_DEPENDS)
	@$(MKDIR_P) $(@D)
	$(AM_V_CCLD)$(MUSL_GCC) $(GUEST_CFLAGS) -static $< $(HLGUEST_FLAGS) -o $@
endif
HLGUEST_FLAGS = $$(PKG_CONFIG_PATH=guest $(PKG_CONFIG) --cflags --libs --static hlguest)
tests/guests/%_pie: guest/examples/%.c $(GUEST_PROGRAM_DEPENDS)
	@$(MKDIR_P) $(@D)
	$(AM_V_CCLD)$(GUEST_CC) $(GUEST_CFLAGS) -static-pie -fPIE $< $(HLGUEST_FLAGS) -o $@
tests/guests/%_musl: guest/examples/%.c $(GUEST_PROGRAM_DEPENDS)
	@$(MKDIR_P) $(@D)
	$(AM_V_CCLD)$(MUSL_GCC) $(GUEST_CFLAGS) -static $< $(HLGUEST_FLAGS) -o $@

EXTRA_DIST += $(LIBRARY_FILES) $(HOSTILE_FILES) $(SECRETS_FILES) tests/guests/startup.c tests/guests/plain.c \
	tests/guests/host_early.c tests/guests/large.c tests/guests/outward.c tests/guests/restore.c tests/guests/returns.c \
	tests/guests/state.c tests/guests/png.c tests/guests/bare.S
TEST_GUESTS = tests/guests/hostile $(LIBRARY_GUESTS) $(LIBRARY_MUSL_GUEST) $(SECRETS_GUESTS) tests/guests/bare $(STARTUP_GUESTS) \
	$(SINGLE_GUESTS) $(VARIANT_GUESTS)
check_DATA = $(TEST_GUESTS)
CLEANFILES += $(TEST_GUESTS)
