/* SPDX-License-Identifier: Apache-2.0 */
/* The hook of a program without HL_RESTORE. In an archive, so a program's own takes its place. */
#include "hlguest.h"

HL_RESTORE(NULL);
