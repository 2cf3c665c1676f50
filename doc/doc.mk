# SPDX-License-Identifier: Apache-2.0
dist_man_MANS += doc/hld.8 doc/hld.conf.5
EXTRA_DIST += doc/architecture.md doc/benchmarks.md doc/guest-abi.md doc/security.md
