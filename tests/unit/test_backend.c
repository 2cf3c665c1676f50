/* SPDX-License-Identifier: Apache-2.0 */
/* Which backend a name gives, and that "auto" is never the process backend. */
#include "config.h"

#include <check.h>
#include <string.h>

#include "hv/backend.h"
#include "tests/unit/tests_run.h"

START_TEST(by_name)
{
    struct hl_error err = HL_ERROR_INIT;

    ck_assert_ptr_eq(hv_backend_find("kvm", &err), &hv_backend_kvm);
    ck_assert_ptr_eq(hv_backend_find("process", &err), &hv_backend_process);
    ck_assert_ptr_null(hv_backend_find("kvm2", &err));
    ck_assert_str_eq(err.text, "unknown backend 'kvm2': kvm, process and auto are known");
    ck_assert_ptr_null(hv_backend_find("", NULL));
}
END_TEST

START_TEST(automatic)
{
    struct hl_error err = HL_ERROR_INIT;
    const struct hv_backend *found = hv_backend_find("auto", &err);

    if (hv_backend_kvm.probe(NULL) == 0) {
        ck_assert_ptr_eq(found, &hv_backend_kvm);
        return;
    }
    ck_assert_ptr_null(found);
    ck_assert_ptr_nonnull(strstr(err.text, "ask for backend = process"));
}
END_TEST

int main(void)
{
    TCase *tc = tcase_create("backend");

    tcase_add_test(tc, by_name);
    tcase_add_test(tc, automatic);
    return tests_run(tc, "backend");
}
