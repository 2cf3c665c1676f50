/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_TESTS_TESTS_RUN_H
#define HL_TESTS_TESTS_RUN_H

#include <check.h>
#include <stdlib.h>

/* What a test program's main ends with. Returns: the status for exit. */
static inline int suite_run(Suite *suite)
{
    SRunner *runner = srunner_create(suite);
    int failed;

    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

/* The same with a single case. */
static inline int tests_run(TCase *tc, const char *name)
{
    Suite *suite = suite_create(name);

    suite_add_tcase(suite, tc);
    return suite_run(suite);
}

#endif
