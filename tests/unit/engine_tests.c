/* SPDX-License-Identifier: Apache-2.0 */
/* All global: Check runs each test in a process of its own. */
#include "config.h"

#include "tests/unit/engine_tests.h"

#include <stdlib.h>

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

int tests_run(TCase *tc, const char *name)
{
    Suite *suite = suite_create(name);
    SRunner *runner;
    int failed;

    suite_add_tcase(suite, tc);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
