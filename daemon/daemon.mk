# SPDX-License-Identifier: Apache-2.0

# What front and worker share: the control messages, and the log.
noinst_LTLIBRARIES += libcontrolmessages.la
nodist_libcontrolmessages_la_SOURCES = daemon/control.pb-c.c
libcontrolmessages_la_CFLAGS = -g -O2 $(SAN) $(PROTOBUF_C_CFLAGS)

noinst_LTLIBRARIES += libcontrol.la
libcontrol_la_SOURCES = \
	daemon/control.c \
	daemon/control.h \
	daemon/discard.c \
	daemon/discard.h \
	daemon/log.c \
	daemon/log.h
libcontrol_la_LIBADD = libcontrolmessages.la libproto.la

# The front, apart from main: what unit tests drive with a worker of their own.
noinst_LTLIBRARIES += libfront.la
libfront_la_SOURCES = \
	daemon/configuration.c \
	daemon/configuration.h \
	daemon/configuration_defaults.c \
	daemon/configuration_keys.c \
	daemon/configuration_keys.h \
	daemon/front.c \
	daemon/front.h \
	daemon/front_channel.c \
	daemon/front_crash.c \
	daemon/front_internal.h \
	daemon/front_kv.c \
	daemon/front_kv.h \
	daemon/front_listen.c \
	daemon/front_notify.c \
	daemon/front_request.c \
	daemon/front_resolve.c \
	daemon/front_settings.c \
	daemon/front_snapshot.c \
	daemon/front_spawn.c \
	daemon/front_spawn.h \
	daemon/front_worker.c \
	daemon/kv_limits.h \
	daemon/kv_store.c \
	daemon/kv_store.h \
	daemon/registry.c \
	daemon/registry.h \
	daemon/registry_index.c \
	daemon/registry_index.h \
	daemon/registry_io.c \
	daemon/registry_io.h \
	daemon/registry_load.c \
	daemon/registry_manifest.c \
	daemon/registry_manifest.h \
	daemon/registry_snapshot.c \
	daemon/registry_snapshot.h \
	daemon/registry_store.c \
	daemon/registry_store.h
libfront_la_LIBADD = libcontrol.la $(INIH_LIBS) $(JANSSON_LIBS) $(SODIUM_LIBS) $(SYSTEMD_LIBS) \
	$(UV_LIBS)

FRONT_TESTS = \
	tests/unit/test_configuration \
	tests/unit/test_front \
	tests/unit/test_front_images \
	tests/unit/test_kv_store \
	tests/unit/test_registry \
	tests/unit/test_registry_snapshot \
	tests/unit/test_registry_state
check_PROGRAMS += $(FRONT_TESTS)
check_LTLIBRARIES += libfrontrig.la libregistryrig.la
libfrontrig_la_SOURCES = \
	tests/unit/front_rig.c \
	tests/unit/front_rig.h \
	tests/unit/front_stub.c \
	tests/unit/front_stub.h
libregistryrig_la_SOURCES = tests/unit/registry_rig.c tests/unit/registry_rig.h
FRONT_TEST_LIBS = libfront.la $(CHECK_LIBS)
tests_unit_test_configuration_LDADD = $(FRONT_TEST_LIBS)
tests_unit_test_front_LDADD = libfrontrig.la $(FRONT_TEST_LIBS)
tests_unit_test_front_images_LDADD = libfrontrig.la $(FRONT_TEST_LIBS)
tests_unit_test_kv_store_LDADD = $(FRONT_TEST_LIBS)
tests_unit_test_registry_LDADD = libregistryrig.la $(FRONT_TEST_LIBS)
tests_unit_test_registry_snapshot_LDADD = libregistryrig.la $(FRONT_TEST_LIBS)
tests_unit_test_registry_state_LDADD = libregistryrig.la $(FRONT_TEST_LIBS)

# The worker, apart from its start: what unit tests drive without a daemon.
noinst_LTLIBRARIES += libengine.la
libengine_la_SOURCES = \
	daemon/answer.c \
	daemon/answer.h \
	daemon/arguments.c \
	daemon/arguments.h \
	daemon/budget.c \
	daemon/bulk.c \
	daemon/bulk.h \
	daemon/budget.h \
	daemon/call.c \
	daemon/call.h \
	daemon/call_end.c \
	daemon/call_internal.h \
	daemon/call_queue.c \
	daemon/call_session.c \
	daemon/call_stream.c \
	daemon/call_stream.h \
	daemon/commit.c \
	daemon/commit.h \
	daemon/confine.c \
	daemon/confine.h \
	daemon/conn.c \
	daemon/conn.h \
	daemon/conn_descriptors.c \
	daemon/conn_owed.c \
	daemon/conn_write.c \
	daemon/control_link.c \
	daemon/control_link.h \
	daemon/deadlines.c \
	daemon/deadlines.h \
	daemon/descriptors.c \
	daemon/descriptors.h \
	daemon/engine.c \
	daemon/engine.h \
	daemon/host.c \
	daemon/host.h \
	daemon/host_here.c \
	daemon/images.c \
	daemon/images.h \
	daemon/landlock.c \
	daemon/mailbox.c \
	daemon/mailbox.h \
	daemon/kv.c \
	daemon/kv.h \
	daemon/kv_limits.h \
	daemon/offer.c \
	daemon/offer.h \
	daemon/offer_stream.c \
	daemon/offer_stream.h \
	daemon/pool.c \
	daemon/pool.h \
	daemon/pooled.c \
	daemon/pooled.h \
	daemon/program.c \
	daemon/program.h \
	daemon/roots.c \
	daemon/roots.h \
	daemon/run.c \
	daemon/run.h \
	daemon/saves.c \
	daemon/saves.h \
	daemon/seccomp.c \
	daemon/service.c \
	daemon/service.h \
	daemon/service_daemon.c \
	daemon/service_functions.c \
	daemon/service_images.c \
	daemon/service_sessions.c \
	daemon/session.c \
	daemon/session.h \
	daemon/session_commit.c \
	daemon/session_work.c \
	daemon/settings.c \
	daemon/settings.h \
	daemon/shard.c \
	daemon/shard.h \
	daemon/share.c \
	daemon/share.h \
	daemon/stats.c \
	daemon/stats.h \
	daemon/upload.c \
	daemon/upload.h \
	daemon/worker.c \
	daemon/worker.h
libengine_la_LIBADD = libcontrol.la libproto.la $(CAPNG_LIBS) $(SECCOMP_LIBS) $(SODIUM_LIBS) \
	$(UV_LIBS)

check_LTLIBRARIES += libenginerig.la
libenginerig_la_SOURCES = \
	tests/unit/bulk_rig.c \
	tests/unit/bulk_rig.h \
	tests/unit/engine_rig.c \
	tests/unit/engine_rig.h \
	tests/unit/engine_tests.c \
	tests/unit/engine_tests.h \
	tests/unit/host_rig.c \
	tests/unit/host_rig.h \
	tests/unit/session_rig.c \
	tests/unit/session_rig.h \
	tests/unit/tests_run.h
check_PROGRAMS += \
	tests/unit/test_bulk \
	tests/unit/test_bulk_results \
	tests/unit/test_confine \
	tests/unit/test_conn \
	tests/unit/test_conn_kept \
	tests/unit/test_control \
	tests/unit/test_descriptors \
	tests/unit/test_discard \
	tests/unit/test_engine \
	tests/unit/test_host \
	tests/unit/test_images \
	tests/unit/test_log \
	tests/unit/test_mailbox \
	tests/unit/test_offer \
	tests/unit/test_pool \
	tests/unit/test_run \
	tests/unit/test_session \
	tests/unit/test_session_turns

# Front, worker and nursery are one program: main chooses.
sbin_PROGRAMS += hld
hld_SOURCES = daemon/main.c
hld_LDADD = libfront.la libengine.la libhv.la
