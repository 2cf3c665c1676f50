# SPDX-License-Identifier: Apache-2.0
EXTRA_DIST += \
	contrib/bench \
	contrib/install-packages \
	contrib/packages.txt \
	contrib/packages-bench.txt \
	contrib/packages-test.txt \
	contrib/quickstart \
	contrib/test

# What systemd and people's /etc get.
EXTRA_DIST += \
	contrib/systemd/hld.service.in \
	contrib/systemd/hld.socket \
	contrib/systemd/hld.sysusers \
	contrib/systemd/hld.tmpfiles
dist_doc_DATA = contrib/hld.conf
systemdsystemunit_DATA = \
	contrib/systemd/hld.service \
	contrib/systemd/hld.socket
CLEANFILES += contrib/systemd/hld.service
contrib/systemd/hld.service: contrib/systemd/hld.service.in Makefile
	@$(MKDIR_P) $(@D)
	$(AM_V_GEN)$(SED) 's,[@]sbindir[@],$(sbindir),' $(top_srcdir)/contrib/systemd/hld.service.in >$@

sysusersdir = $(prefix)/lib/sysusers.d
tmpfilesdir = $(prefix)/lib/tmpfiles.d
install-data-local:
	$(MKDIR_P) "$(DESTDIR)$(sysusersdir)" "$(DESTDIR)$(tmpfilesdir)"
	$(INSTALL_DATA) $(top_srcdir)/contrib/systemd/hld.sysusers "$(DESTDIR)$(sysusersdir)/hld.conf"
	$(INSTALL_DATA) $(top_srcdir)/contrib/systemd/hld.tmpfiles "$(DESTDIR)$(tmpfilesdir)/hld.conf"
uninstall-local:
	rm -f "$(DESTDIR)$(sysusersdir)/hld.conf" "$(DESTDIR)$(tmpfilesdir)/hld.conf"
