/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_TESTS_ENGINE_TESTS_H
#define HL_TESTS_ENGINE_TESTS_H

/* What test programs with one engine at a time have in common. */

#include "tests/unit/engine_rig.h"
#include "tests/unit/tests_run.h"

extern struct rig rig;

/* As rig_settings and rig_limits give them before each test, which may change them and start. */
extern struct settings settings;
extern struct limits limits;

/* The engine, with the images "test" and "other". */
void start(void);

extern const struct rig_call nothing; /* a call of it */

/* main: what it adds to the case is for tests_run. */
TCase *tests_begin(const char *name);

#endif
