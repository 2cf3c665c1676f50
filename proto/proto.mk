# SPDX-License-Identifier: Apache-2.0
noinst_LTLIBRARIES += libproto.la

PROTO_GENERATED = \
	proto/hl.pb-c.c proto/hl.pb-c.h \
	proto/envelope.pb-c.c proto/envelope.pb-c.h \
	daemon/control.pb-c.c daemon/control.pb-c.h
BUILT_SOURCES += $(PROTO_GENERATED)
CLEANFILES += $(PROTO_GENERATED)
EXTRA_DIST += proto/hl.proto proto/envelope.proto daemon/control.proto

# protoc-c turns a method called Register into a C keyword; hld dispatches by name and needs the
# messages alone, so the services are left out of what it sees. Its strings end at the first NUL;
# Value.text may hold one, so the C code takes it as bytes, which is the same on the wire.
%.pb-c.c %.pb-c.h: %.proto proto/proto.mk
	@$(MKDIR_P) gen/$(@D) $(@D)
	$(AM_V_GEN)$(SED) -e '/^service /,/^}/d' -e 's/string text = 8;/bytes text = 8;/' $< >gen/$*.proto && \
		$(PROTOC_C) --proto_path=gen --c_out=. gen/$*.proto
daemon/control.pb-c.c daemon/control.pb-c.h: proto/hl.pb-c.h
CLEANFILES += gen/proto/hl.proto gen/proto/envelope.proto gen/daemon/control.proto

# Generated code is not held to our warnings.
noinst_LTLIBRARIES += libmessages.la
nodist_libmessages_la_SOURCES = proto/hl.pb-c.c proto/envelope.pb-c.c
libmessages_la_CFLAGS = -g -O2 -fvisibility=hidden $(SAN) $(PROTOBUF_C_CFLAGS)

libproto_la_SOURCES = \
	proto/arena.c \
	proto/arena.h \
	proto/buffer.c \
	proto/buffer.h \
	proto/convert.c \
	proto/convert.h \
	proto/convert_policy.c \
	proto/convert_policy.h \
	proto/envelope.c \
	proto/envelope.h \
	proto/frame.c \
	proto/frame.h \
	proto/service.h
libproto_la_LIBADD = libmessages.la libbase.la $(PROTOBUF_C_LIBS)

check_PROGRAMS += \
	tests/unit/test_convert \
	tests/unit/test_envelope \
	tests/unit/test_frame
