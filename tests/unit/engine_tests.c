/* SPDX-License-Identifier: Apache-2.0 */
/* All global: Check runs each test in a process of its own. */
#include "config.h"

#include "tests/unit/engine_tests.h"

struct rig rig;
struct settings settings;
struct limits limits;

const struct rig_call nothing = {.function = "nothing"};

static void prepare(void)
{
    rig_settings(&settings);
    limits = rig_limits();
}

void start(void)
{
    rig_start(&rig, &settings, 0);
    rig_add(&rig, "test", &limits);
    rig_add(&rig, "other", &limits);
}

TCase *tests_begin(const char *name)
{
    TCase *tc = tcase_create(name);

    tcase_set_timeout(tc, 180);
    tcase_add_checked_fixture(tc, prepare, NULL);
    return tc;
}
