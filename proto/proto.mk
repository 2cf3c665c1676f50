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
# messages alone, so the services are left out of what it sees.
%.pb-c.c %.pb-c.h: %.proto
	@$(MKDIR_P) gen/$(@D) $(@D)
	$(AM_V_GEN)$(SED) '/^service /,/^}/d' $< >gen/$*.proto && \
		$(PROTOC_C) --proto_path=gen --c_out=. gen/$*.proto
CLEANFILES += gen/proto/hl.proto gen/proto/envelope.proto gen/daemon/control.proto

# Generated code is not held to our warnings.
noinst_LTLIBRARIES += libmessages.la
nodist_libmessages_la_SOURCES = proto/hl.pb-c.c proto/envelope.pb-c.c
libmessages_la_CFLAGS = -g -O2 -fPIC $(SAN) $(PROTOBUF_C_CFLAGS)

libproto_la_SOURCES = proto/frame.c proto/frame.h
libproto_la_CFLAGS = $(AM_CFLAGS) -fPIC $(PROTOBUF_C_CFLAGS)
libproto_la_LIBADD = libmessages.la libbase.la $(PROTOBUF_C_LIBS)
