# SPDX-License-Identifier: Apache-2.0
EXTRA_DIST += \
	contrib/install-packages \
	contrib/packages.txt \
	contrib/packages-test.txt \
	contrib/quickstart \
	contrib/test
