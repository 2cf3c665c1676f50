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
libcontrol_la_LIBADD = libcontrolmessages.la libproto.la

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
libfront_la_CFLAGS = $(AM_CFLAGS) $(INIH_CFLAGS) $(JANSSON_CFLAGS) $(PROTOBUF_C_CFLAGS) \
	$(SODIUM_CFLAGS) $(SYSTEMD_CFLAGS) $(UV_CFLAGS)
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
TESTS += $(FRONT_TESTS)
FRONT_TEST_CFLAGS = $(AM_CFLAGS) $(CHECK_CFLAGS) $(PROTOBUF_C_CFLAGS) $(SODIUM_CFLAGS) $(UV_CFLAGS)
tests_unit_test_configuration_SOURCES = tests/unit/test_configuration.c
tests_unit_test_configuration_CFLAGS = $(FRONT_TEST_CFLAGS) -DSOURCE_DIR='"$(abs_top_srcdir)"'
tests_unit_test_configuration_LDADD = libfront.la $(CHECK_LIBS)
FRONT_RIG = \
	tests/unit/front_rig.c \
	tests/unit/front_rig.h \
	tests/unit/front_stub.c \
	tests/unit/front_stub.h
tests_unit_test_front_SOURCES = $(FRONT_RIG) tests/unit/test_front.c
tests_unit_test_front_CFLAGS = $(FRONT_TEST_CFLAGS)
tests_unit_test_front_LDADD = libfront.la $(CHECK_LIBS)
tests_unit_test_front_images_SOURCES = $(FRONT_RIG) tests/unit/test_front_images.c
tests_unit_test_front_images_CFLAGS = $(FRONT_TEST_CFLAGS)
tests_unit_test_front_images_LDADD = libfront.la $(CHECK_LIBS)
tests_unit_test_kv_store_SOURCES = tests/unit/test_kv_store.c
tests_unit_test_kv_store_CFLAGS = $(FRONT_TEST_CFLAGS)
tests_unit_test_kv_store_LDADD = libfront.la $(CHECK_LIBS)
REGISTRY_RIG = \
	tests/unit/registry_rig.c \
	tests/unit/registry_rig.h \
	tests/unit/tests_run.h
tests_unit_test_registry_SOURCES = $(REGISTRY_RIG) tests/unit/test_registry.c
tests_unit_test_registry_CFLAGS = $(FRONT_TEST_CFLAGS)
tests_unit_test_registry_LDADD = libfront.la $(CHECK_LIBS)
tests_unit_test_registry_snapshot_SOURCES = $(REGISTRY_RIG) tests/unit/test_registry_snapshot.c
tests_unit_test_registry_snapshot_CFLAGS = $(FRONT_TEST_CFLAGS)
tests_unit_test_registry_snapshot_LDADD = libfront.la $(CHECK_LIBS)
tests_unit_test_registry_state_SOURCES = $(REGISTRY_RIG) tests/unit/test_registry_state.c
tests_unit_test_registry_state_CFLAGS = $(FRONT_TEST_CFLAGS)
tests_unit_test_registry_state_LDADD = libfront.la $(CHECK_LIBS)

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
libengine_la_CFLAGS = $(AM_CFLAGS) $(CAPNG_CFLAGS) $(PROTOBUF_C_CFLAGS) $(SECCOMP_CFLAGS) \
	$(SODIUM_CFLAGS) $(UV_CFLAGS)
libengine_la_LIBADD = libcontrol.la libproto.la $(CAPNG_LIBS) $(SECCOMP_LIBS) $(SODIUM_LIBS) \
	$(UV_LIBS)

check_PROGRAMS += tests/unit/test_confine
TESTS += tests/unit/test_confine
tests_unit_test_confine_SOURCES = tests/unit/test_confine.c
tests_unit_test_confine_CFLAGS = $(AM_CFLAGS) $(CHECK_CFLAGS)
tests_unit_test_confine_LDADD = libengine.la $(CHECK_LIBS)

check_PROGRAMS += tests/unit/test_mailbox
TESTS += tests/unit/test_mailbox
tests_unit_test_mailbox_SOURCES = tests/unit/test_mailbox.c
tests_unit_test_mailbox_CFLAGS = $(AM_CFLAGS) $(CHECK_CFLAGS) $(UV_CFLAGS)
tests_unit_test_mailbox_LDADD = libengine.la $(CHECK_LIBS)

ENGINE_TEST_CFLAGS = $(AM_CFLAGS) $(CHECK_CFLAGS) $(PROTOBUF_C_CFLAGS) $(SODIUM_CFLAGS) $(UV_CFLAGS)
ENGINE_TEST_LIBS = libengine.la libhvfake.la libhv.la $(CHECK_LIBS)
ENGINE_RIG = \
	tests/unit/engine_rig.c \
	tests/unit/engine_rig.h \
	tests/unit/engine_tests.c \
	tests/unit/engine_tests.h \
	tests/unit/tests_run.h

check_PROGRAMS += tests/unit/test_engine
TESTS += tests/unit/test_engine
tests_unit_test_engine_SOURCES = $(ENGINE_RIG) tests/unit/test_engine.c
tests_unit_test_engine_CFLAGS = $(ENGINE_TEST_CFLAGS)
tests_unit_test_engine_LDADD = $(ENGINE_TEST_LIBS)

check_PROGRAMS += tests/unit/test_images
TESTS += tests/unit/test_images
tests_unit_test_images_SOURCES = $(ENGINE_RIG) tests/unit/test_images.c
tests_unit_test_images_CFLAGS = $(ENGINE_TEST_CFLAGS)
tests_unit_test_images_LDADD = $(ENGINE_TEST_LIBS)

check_PROGRAMS += tests/unit/test_conn
TESTS += tests/unit/test_conn
tests_unit_test_conn_SOURCES = $(ENGINE_RIG) tests/unit/test_conn.c
tests_unit_test_conn_CFLAGS = $(ENGINE_TEST_CFLAGS)
tests_unit_test_conn_LDADD = $(ENGINE_TEST_LIBS)

check_PROGRAMS += tests/unit/test_descriptors
TESTS += tests/unit/test_descriptors
tests_unit_test_descriptors_SOURCES = $(ENGINE_RIG) tests/unit/test_descriptors.c
tests_unit_test_descriptors_CFLAGS = $(ENGINE_TEST_CFLAGS)
tests_unit_test_descriptors_LDADD = $(ENGINE_TEST_LIBS)

check_PROGRAMS += tests/unit/test_conn_kept
TESTS += tests/unit/test_conn_kept
tests_unit_test_conn_kept_SOURCES = tests/unit/test_conn_kept.c
tests_unit_test_conn_kept_CFLAGS = $(ENGINE_TEST_CFLAGS)
tests_unit_test_conn_kept_LDADD = $(ENGINE_TEST_LIBS)

check_PROGRAMS += tests/unit/test_bulk tests/unit/test_bulk_results
TESTS += tests/unit/test_bulk tests/unit/test_bulk_results
BULK_RIG = $(ENGINE_RIG) tests/unit/bulk_rig.c tests/unit/bulk_rig.h
tests_unit_test_bulk_SOURCES = $(BULK_RIG) tests/unit/test_bulk.c
tests_unit_test_bulk_CFLAGS = $(ENGINE_TEST_CFLAGS)
tests_unit_test_bulk_LDADD = $(ENGINE_TEST_LIBS)
tests_unit_test_bulk_results_SOURCES = $(BULK_RIG) tests/unit/test_bulk_results.c
tests_unit_test_bulk_results_CFLAGS = $(ENGINE_TEST_CFLAGS)
tests_unit_test_bulk_results_LDADD = $(ENGINE_TEST_LIBS)

check_PROGRAMS += tests/unit/test_pool
TESTS += tests/unit/test_pool
tests_unit_test_pool_SOURCES = $(ENGINE_RIG) tests/unit/test_pool.c
tests_unit_test_pool_CFLAGS = $(ENGINE_TEST_CFLAGS)
tests_unit_test_pool_LDADD = $(ENGINE_TEST_LIBS)

SESSION_RIG = $(ENGINE_RIG) \
	tests/unit/session_rig.c \
	tests/unit/session_rig.h

check_PROGRAMS += tests/unit/test_session
TESTS += tests/unit/test_session
tests_unit_test_session_SOURCES = $(SESSION_RIG) tests/unit/test_session.c
tests_unit_test_session_CFLAGS = $(ENGINE_TEST_CFLAGS)
tests_unit_test_session_LDADD = $(ENGINE_TEST_LIBS)

check_PROGRAMS += tests/unit/test_session_turns
TESTS += tests/unit/test_session_turns
tests_unit_test_session_turns_SOURCES = $(SESSION_RIG) tests/unit/test_session_turns.c
tests_unit_test_session_turns_CFLAGS = $(ENGINE_TEST_CFLAGS)
tests_unit_test_session_turns_LDADD = $(ENGINE_TEST_LIBS)

check_PROGRAMS += tests/unit/test_run
TESTS += tests/unit/test_run
tests_unit_test_run_SOURCES = $(ENGINE_RIG) tests/unit/test_run.c
tests_unit_test_run_CFLAGS = $(ENGINE_TEST_CFLAGS)
tests_unit_test_run_LDADD = $(ENGINE_TEST_LIBS)

check_PROGRAMS += tests/unit/test_host
TESTS += tests/unit/test_host
tests_unit_test_host_SOURCES = $(ENGINE_RIG) \
	tests/unit/host_rig.c \
	tests/unit/host_rig.h \
	tests/unit/test_host.c
tests_unit_test_host_CFLAGS = $(ENGINE_TEST_CFLAGS)
tests_unit_test_host_LDADD = $(ENGINE_TEST_LIBS)

check_PROGRAMS += tests/unit/test_offer
TESTS += tests/unit/test_offer
tests_unit_test_offer_SOURCES = $(ENGINE_RIG) \
	tests/unit/host_rig.c \
	tests/unit/host_rig.h \
	tests/unit/test_offer.c
tests_unit_test_offer_CFLAGS = $(ENGINE_TEST_CFLAGS)
tests_unit_test_offer_LDADD = $(ENGINE_TEST_LIBS)

# Front, worker and nursery are one program: main chooses.
sbin_PROGRAMS += hld
hld_SOURCES = daemon/main.c
hld_CFLAGS = $(AM_CFLAGS) $(SODIUM_CFLAGS) $(SYSTEMD_CFLAGS)
hld_LDADD = libfront.la libengine.la libhv.la
