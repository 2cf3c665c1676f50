/* SPDX-License-Identifier: Apache-2.0 */
/* Errors, names, signatures and UTF-8. */
#include <check.h>
#include <errno.h>
#include <string.h>

#include "base/error.h"
#include "base/host_policy.h"
#include "base/spin.h"
#include "base/value.h"
#include "tests/unit/tests_run.h"

START_TEST(error_wraps_outwards)
{
    struct hl_error err = HL_ERROR_INIT;

    ck_assert_int_eq(hl_error_set(&err, -ENOENT, "no image '%s'", "x"), -ENOENT);
    ck_assert_int_eq(hl_error_wrap(&err, -ENOENT, "call %d", 7), -ENOENT);
    ck_assert_str_eq(err.text, "call 7: no image 'x'");
}
END_TEST

START_TEST(error_wrap_without_message_uses_errno)
{
    struct hl_error err = HL_ERROR_INIT;

    hl_error_wrap(&err, -EACCES, "open %s", "/x");
    ck_assert_str_eq(err.text, "open /x: Permission denied");
    ck_assert_int_eq(hl_error_set(NULL, -EIO, "ignored"), -EIO);
}
END_TEST

START_TEST(error_text_is_truncated)
{
    struct hl_error err = HL_ERROR_INIT;
    char long_text[2 * HL_ERROR_TEXT_MAX];

    memset(long_text, 'a', sizeof(long_text) - 1);
    long_text[sizeof(long_text) - 1] = '\0';
    hl_error_set(&err, -EIO, "%s", long_text);
    hl_error_wrap(&err, -EIO, "%s", long_text);
    ck_assert_uint_eq(strlen(err.text), HL_ERROR_TEXT_MAX - 1);
}
END_TEST

START_TEST(status_mapping)
{
    ck_assert_int_eq(hl_status_from_errno(0), HL_STATUS_OK);
    ck_assert_int_eq(hl_status_from_errno(-ETIMEDOUT), HL_STATUS_DEADLINE_EXCEEDED);
    ck_assert_int_eq(hl_status_from_errno(ENOENT), HL_STATUS_NOT_FOUND);
    ck_assert_int_eq(hl_status_from_errno(-EFAULT), HL_STATUS_ABORTED);
    ck_assert_int_eq(hl_status_from_errno(-EXDEV), HL_STATUS_INTERNAL);
    ck_assert_str_eq(hl_status_name(HL_STATUS_RESOURCE_EXHAUSTED), "RESOURCE_EXHAUSTED");
    ck_assert_str_eq(hl_status_name(-1), "UNKNOWN");
    ck_assert_str_eq(hl_status_name(99), "UNKNOWN");
}
END_TEST

START_TEST(type_names_round_trip)
{
    for (int t = HL_TYPE_VOID; t <= HL_TYPE_BYTES; t++)
        ck_assert_int_eq(hl_type_parse(hl_type_name((enum hl_type)t)), t);
    ck_assert_ptr_null(hl_type_name((enum hl_type)10));
    ck_assert_int_eq(hl_type_parse("int"), -EINVAL);
}
END_TEST

START_TEST(signature_is_readable)
{
    struct hl_signature sig = {.ret = HL_TYPE_I32, .nparams = 2, {HL_TYPE_I32, HL_TYPE_BYTES}};
    char buf[64];

    hl_signature_format(buf, sizeof(buf), "f", &sig);
    ck_assert_str_eq(buf, "f(i32, bytes) -> i32");
    ck_assert_int_eq(hl_signature_format(buf, 4, "f", &sig), 20);
    ck_assert_str_eq(buf, "f(i");
}
END_TEST

START_TEST(names)
{
    char longest[HL_NAME_MAX + 1];

    memset(longest, 'n', sizeof(longest));
    ck_assert(hl_name_valid("echo-2.b_X", 10));
    ck_assert(hl_name_valid(longest, HL_NAME_MAX));
    ck_assert(!hl_name_valid(longest, HL_NAME_MAX + 1));
    ck_assert(!hl_name_valid("", 0));
    ck_assert(!hl_name_valid("..", 2));
    ck_assert(!hl_name_valid("-x", 2));
    ck_assert(!hl_name_valid("a/b", 3));
    ck_assert(!hl_name_valid("a\0b", 3));
}
END_TEST

START_TEST(utf8)
{
    ck_assert(hl_utf8_valid("", 0));
    ck_assert(hl_utf8_valid("a\0\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80", 11));
    ck_assert(!hl_utf8_valid("\xc0\x80", 2));
    ck_assert(!hl_utf8_valid("\xed\xa0\x80", 3));
    ck_assert(!hl_utf8_valid("\xe2\x82", 2));
    ck_assert(!hl_utf8_valid("\xf4\x90\x80\x80", 4));
    ck_assert(!hl_utf8_valid("\x80", 1));
}
END_TEST

#define US 1000ull

/* Polls while waits are short, soon stops when they are long, tries again now and then. */
START_TEST(test_spin)
{
    struct spin spin = {0};
    uint64_t now = 1;
    int polled = 0;

    ck_assert_uint_eq(spin_window(&spin, 0, now), 0);
    for (int i = 0; i < 20; i++) {
        ck_assert_uint_eq(spin_window(&spin, 50 * US, now), 50 * US);
        spin_learn(&spin, 50 * US, 10 * US);
    }
    spin_learn(&spin, 50 * US, 3600000000 * US); /* one long wait is no more than a few */
    ck_assert_uint_eq(spin.average_ns <= 60 * US, true);
    for (int i = 0; i < 20; i++)
        spin_learn(&spin, 50 * US, 300 * US);
    for (int i = 0; i < 640; i++) {
        polled += spin_window(&spin, 50 * US, now) > 0;
        spin_learn(&spin, 50 * US, 300 * US);
    }
    ck_assert_int_eq(polled, 10);
    spin_learn(&spin, 50 * US, 20 * US);
    ck_assert_uint_eq(spin_window(&spin, 50 * US, now), 50 * US);
}
END_TEST

/* Whoever loses the CPU while polling leaves it to others for a while, longer each time. */
START_TEST(test_spin_disturbed)
{
    struct spin spin = {0};
    uint64_t now = 1000000 * US;

    ck_assert(spin_look(&spin, now, now + 2 * US));
    ck_assert_uint_gt(spin_window(&spin, 50 * US, now), 0);
    ck_assert(!spin_look(&spin, now, now + 200 * US));
    ck_assert_uint_eq(spin_window(&spin, 50 * US, now + 9000 * US), 0);
    ck_assert_uint_gt(spin_window(&spin, 50 * US, now + 11000 * US), 0);
    now += 11000 * US;
    ck_assert(!spin_look(&spin, now, now + 200 * US));
    ck_assert_uint_eq(spin_window(&spin, 50 * US, now + 19000 * US), 0);
    for (int i = 0; i < 100; i++)
        ck_assert(!spin_look(&spin, now, now + 200 * US));
    ck_assert_uint_gt(spin_window(&spin, 50 * US, now + 1100000 * US), 0);
    spin_learn(&spin, 50 * US, 10 * US); /* it paid: the next pause is short again */
    ck_assert(!spin_look(&spin, now, now + 200 * US));
    ck_assert_uint_gt(spin_window(&spin, 50 * US, now + 11000 * US), 0);
}
END_TEST

/* --- policies of host functions -------------------------------------------------------------- */

static const struct {
    const char *text, *back; /* NULL: it is refused */
} functions[] = {
    {"f()", "f() -> void @client"},
    {" f ( u32 , string ) -> bytes @ service ", "f(u32, string) -> bytes @service"},
    {"a.b-c_9(i32,u32,i64,u64,f32,f64,bool,string,bytes)->f64@client",
     "a.b-c_9(i32, u32, i64, u64, f32, f64, bool, string, bytes) -> f64 @client"},
    {"hl.time", "hl.time() -> i64 @builtin"},
    {"hl.time() -> i64", "hl.time() -> i64 @builtin"},
    {"hl.kv.put(string, bytes) @builtin", "hl.kv.put(string, bytes) -> void @builtin"},
    {"", NULL},
    {"f", NULL},
    {"f(", NULL},
    {"f(u32", NULL},
    {"f(u32,)", NULL},
    {"f(,u32)", NULL},
    {"f(void)", NULL},
    {"f(u33)", NULL},
    {"f() ->", NULL},
    {"f() -> u33", NULL},
    {"f() @", NULL},
    {"f() @nobody", NULL},
    {"f() @builtin", NULL},
    {"f() -> u32 x", NULL},
    {".f()", NULL},
    {"-f()", NULL},
    {"f/g()", NULL},
    {"hl.time() -> u64", NULL},
    {"hl.time @client", NULL},
    {"hl.secret() -> u64", NULL},
    {"f(u32,u32,u32,u32,u32,u32,u32,u32,u32,u32,u32,u32,u32,u32,u32,u32,u32)", NULL},
    {"a123456789b123456789c123456789d123456789e123456789f123456789g123()", NULL},
};

START_TEST(host_functions_in_text)
{
    struct hl_host_function function;
    char why[128] = "", back[256];
    int r = hl_host_function_parse(&function, functions[_i].text, why, sizeof(why));

    if (!functions[_i].back) {
        ck_assert_int_eq(r, -EINVAL);
        ck_assert_str_ne(why, "");
        return;
    }
    ck_assert_msg(r == 0, "%s", why);
    hl_host_function_format(back, sizeof(back), &function);
    ck_assert_str_eq(back, functions[_i].back);
    ck_assert_int_eq(hl_host_function_parse(&function, back, why, sizeof(why)), 0);
}
END_TEST

START_TEST(host_policies)
{
    struct hl_host_policy policy = {0};
    struct hl_error err = HL_ERROR_INIT;
    char why[64];

    ck_assert(host_policy_empty(&policy));
    ck_assert_int_eq(host_policy_check(&policy, &err), 0);
    host_policy_fill(&policy);
    ck_assert_int_eq(host_policy_check(&policy, &err), 0);
    ck_assert_uint_eq(policy.depth, HOST_DEPTH_DEFAULT);
    policy = (struct hl_host_policy){.nfunctions = 2};
    hl_host_function_parse(&policy.functions[0], "f()", why, sizeof(why));
    hl_host_function_parse(&policy.functions[1], "f(u32)", why, sizeof(why));
    ck_assert_int_eq(host_policy_check(&policy, &err), -EINVAL);
    policy.functions[1].name[0] = 'g';
    ck_assert_int_eq(host_policy_check(&policy, &err), 0);
    ck_assert_ptr_eq(host_policy_find(&policy, "g"), &policy.functions[1]);
    ck_assert_ptr_null(host_policy_find(&policy, "h"));
    memset(policy.functions[1].name, 'x', sizeof(policy.functions[1].name)); /* no end */
    ck_assert_int_eq(host_policy_check(&policy, &err), -EINVAL);
    policy.nfunctions = HL_HOST_FUNCTIONS_MAX + 1;
    ck_assert_int_eq(host_policy_check(&policy, &err), -EINVAL);
    policy = (struct hl_host_policy){.rate = HOST_RATE_MAX + 1};
    ck_assert_int_eq(host_policy_check(&policy, &err), -EINVAL);
    policy = (struct hl_host_policy){.depth = HL_HOST_DEPTH_MAX + 1};
    ck_assert_int_eq(host_policy_check(&policy, &err), -EINVAL);
    policy = (struct hl_host_policy){.kv_size = HOST_KV_SIZE_MAX + 1};
    ck_assert_int_eq(host_policy_check(&policy, &err), -EINVAL);
}
END_TEST

int main(void)
{
    TCase *tc = tcase_create("base");

    tcase_add_test(tc, error_wraps_outwards);
    tcase_add_test(tc, error_wrap_without_message_uses_errno);
    tcase_add_test(tc, error_text_is_truncated);
    tcase_add_test(tc, status_mapping);
    tcase_add_test(tc, type_names_round_trip);
    tcase_add_test(tc, signature_is_readable);
    tcase_add_test(tc, names);
    tcase_add_test(tc, utf8);
    tcase_add_loop_test(tc, host_functions_in_text, 0,
                        (int)(sizeof(functions) / sizeof(functions[0])));
    tcase_add_test(tc, host_policies);
    tcase_add_test(tc, test_spin);
    tcase_add_test(tc, test_spin_disturbed);
    return tests_run(tc, "base");
}
