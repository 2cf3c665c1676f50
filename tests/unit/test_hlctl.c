/* SPDX-License-Identifier: Apache-2.0 */
/* hlctl without a daemon: options, sizes, times, typed arguments, results in print, percentiles. */
#include "config.h"

#include <check.h>
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/hlctl/bench.h"
#include "client/hlctl/command.h"
#include "client/hlctl/json.h"
#include "client/hlctl/text.h"
#include "client/hlctl/value.h"
#include "tests/unit/tests_run.h"

static struct hlctl ctl;
static char text[256];

static int parse(const struct verb *verb, const char *first, ...)
{
    static char *argv[16];
    va_list ap;
    int argc = 0;

    va_start(ap, first);
    for (const char *arg = first; arg; arg = va_arg(ap, const char *))
        argv[argc++] = (char *)arg;
    va_end(ap);
    ctl = (struct hlctl){.verb = verb};
    return options_parse(&ctl, argc, argv, text, sizeof(text));
}

START_TEST(options_stand_anywhere)
{
    ck_assert_int_eq(parse(&verb_call, "echo", "--deadline", "10ms", "echo", "-o", "json", "hello",
                           "--socket=/s", NULL),
                     0);
    ck_assert_uint_eq(ctl.nargs, 3);
    ck_assert_str_eq(ctl.args[0], "echo");
    ck_assert_str_eq(ctl.args[2], "hello");
    ck_assert_str_eq(option_get(&ctl, "deadline"), "10ms");
    ck_assert_ptr_null(option_get(&ctl, "json"));
    ck_assert(ctl.json);
    ck_assert_str_eq(ctl.socket, "/s");
}
END_TEST

START_TEST(numbers_and_dashes_are_arguments)
{
    ck_assert_int_eq(parse(&verb_call, "i", "f", "-5", "-.5", "-", "-inf", "--json", NULL), 0);
    ck_assert_uint_eq(ctl.nargs, 6);
    ck_assert_str_eq(ctl.args[2], "-5");
    ck_assert_ptr_nonnull(option_get(&ctl, "json"));
    ck_assert_int_eq(parse(&verb_call, "i", "f", "--", "--json", "-x", NULL), 0);
    ck_assert_uint_eq(ctl.nargs, 4);
    ck_assert_ptr_null(option_get(&ctl, "json"));
    ck_assert_int_eq(parse(&verb_call, "i", "f", "", NULL), 0);
    ck_assert_uint_eq(ctl.nargs, 3);
}
END_TEST

START_TEST(wrong_options)
{
    ck_assert_int_eq(parse(&verb_call, "i", "f", "-x", NULL), -1);
    ck_assert_ptr_nonnull(strstr(text, "unknown option '-x'"));
    ck_assert_int_eq(parse(&verb_call, "i", "f", "--deadline", NULL), -1);
    ck_assert_str_eq(text, "option '--deadline' needs a value");
    ck_assert_int_eq(parse(&verb_call, "i", "f", "--json=yes", NULL), -1);
    ck_assert_str_eq(text, "option '--json' takes no value");
    ck_assert_int_eq(parse(&verb_call, "i", "f", "--room=1M", "--room", "1M", NULL), -1);
    ck_assert_str_eq(text, "option '--room' comes twice");
    ck_assert_int_eq(parse(&verb_call, "i", NULL), -1);
    ck_assert_str_eq(text, "usage: hlctl call IMAGE FUNCTION [ARG...]");
    ck_assert_int_eq(parse(&verb_ping, "x", NULL), -1);
    ck_assert_int_eq(parse(&verb_ping, "-o", "yaml", NULL), -1);
    ck_assert_int_eq(parse(&verb_call, "-h", NULL), 1);
}
END_TEST

static const struct {
    const char *text;
    int r;
    uint64_t value;
} sizes[] = {
    {"0", 0, 0},
    {"4096", 0, 4096},
    {"64K", 0, 65536},
    {"64k", 0, 65536},
    {"1MiB", 0, 1 << 20},
    {"1GB", 0, 1 << 30},
    {"5B", 0, 5},
    {"16777215T", 0, 16777215ull << 40},
    {"16777216T", -EINVAL, 0},
    {"18446744073709551616", -EINVAL, 0},
    {"", -EINVAL, 0},
    {"-1", -EINVAL, 0},
    {" 1", -EINVAL, 0},
    {"1X", -EINVAL, 0},
    {"1Mx", -EINVAL, 0},
    {"0x10", -EINVAL, 0},
};

START_TEST(sizes_are_read)
{
    uint64_t value;

    ck_assert_int_eq(text_parse_size(sizes[_i].text, &value), sizes[_i].r);
    if (sizes[_i].r == 0)
        ck_assert_uint_eq(value, sizes[_i].value);
}
END_TEST

static const struct {
    const char *text;
    int r;
    uint64_t ns;
} times[] = {
    {"0", 0, 0},          {"10ms", 0, 10000000},   {"1.5s", 0, 1500000000}, {"200us", 0, 200000},
    {"50ns", 0, 50},      {"2m", 0, 120000000000}, {".5s", 0, 500000000},   {"10", -EINVAL, 0},
    {"ms", -EINVAL, 0},   {"-1s", -EINVAL, 0},     {"1sx", -EINVAL, 0},     {"1e30s", -EINVAL, 0},
    {"nans", -EINVAL, 0}, {"", -EINVAL, 0},
};

START_TEST(times_are_read)
{
    uint64_t ns;

    ck_assert_int_eq(text_parse_duration(times[_i].text, &ns), times[_i].r);
    if (times[_i].r == 0)
        ck_assert_uint_eq(ns, times[_i].ns);
}
END_TEST

static const struct {
    enum hl_type type;
    const char *text;
    int r;
    const char *back; /* as printed again; NULL: as text */
} values[] = {
    {HL_TYPE_I32, "-2147483648", 0, NULL},
    {HL_TYPE_I32, "2147483648", -ERANGE, NULL},
    {HL_TYPE_I32, "0x7fffffff", 0, "2147483647"},
    {HL_TYPE_I32, "-0x10", 0, "-16"},
    {HL_TYPE_I32, "010", 0, "10"},
    {HL_TYPE_I32, "+5", 0, "5"},
    {HL_TYPE_I32, "", -EINVAL, NULL},
    {HL_TYPE_I32, " 1", -EINVAL, NULL},
    {HL_TYPE_I32, "1 ", -EINVAL, NULL},
    {HL_TYPE_I32, "--1", -EINVAL, NULL},
    {HL_TYPE_I32, "0x", -EINVAL, NULL},
    {HL_TYPE_I32, "1.0", -EINVAL, NULL},
    {HL_TYPE_I32, "abc", -EINVAL, NULL},
    {HL_TYPE_U32, "4294967295", 0, NULL},
    {HL_TYPE_U32, "4294967296", -ERANGE, NULL},
    {HL_TYPE_U32, "-1", -ERANGE, NULL},
    {HL_TYPE_U32, "-0", 0, "0"},
    {HL_TYPE_I64, "-9223372036854775808", 0, NULL},
    {HL_TYPE_I64, "9223372036854775808", -ERANGE, NULL},
    {HL_TYPE_U64, "18446744073709551615", 0, NULL},
    {HL_TYPE_U64, "18446744073709551616", -ERANGE, NULL},
    {HL_TYPE_F32, "0.1", 0, NULL},
    {HL_TYPE_F32, "1e39", -ERANGE, NULL},
    {HL_TYPE_F32, "inf", 0, NULL},
    {HL_TYPE_F64, "0.30000000000000004", 0, NULL},
    {HL_TYPE_F64, "-1e300", 0, "-1e+300"},
    {HL_TYPE_F64, "1e400", -ERANGE, NULL},
    {HL_TYPE_F64, "nan", 0, NULL},
    {HL_TYPE_F64, "1,5", -EINVAL, NULL},
    {HL_TYPE_F64, "", -EINVAL, NULL},
    {HL_TYPE_BOOL, "true", 0, NULL},
    {HL_TYPE_BOOL, "0", 0, "false"},
    {HL_TYPE_BOOL, "yes", -EINVAL, NULL},
    {HL_TYPE_VOID, "", -EINVAL, NULL},
};

START_TEST(values_are_read)
{
    struct hl_value value;
    char why[64] = "", back[64];

    ck_assert_int_eq(text_parse_value(values[_i].text, values[_i].type, &value, why, sizeof(why)),
                     values[_i].r);
    ck_assert_int_eq(why[0] != '\0', values[_i].r != 0);
    if (values[_i].r == 0)
        ck_assert_str_eq(text_number(back, sizeof(back), &value),
                         values[_i].back ? values[_i].back : values[_i].text);
}
END_TEST

static const struct {
    struct hl_value value;
    const char *json;
} results[] = {
    {{.type = HL_TYPE_VOID}, "null"},
    {{.type = HL_TYPE_BOOL, .b = true}, "true"},
    {{.type = HL_TYPE_U64, .u64 = UINT64_MAX}, "18446744073709551615"},
    {{.type = HL_TYPE_F64, .f64 = -INFINITY}, "\"-Infinity\""},
    {{.type = HL_TYPE_F32, .f32 = NAN}, "\"NaN\""},
    {{.type = HL_TYPE_F32, .f32 = 0.1f}, "0.1"},
    {{.type = HL_TYPE_STRING, .bytes = {"a\"\0b", 4}}, "\"a\\\"\\u0000b\""},
    {{.type = HL_TYPE_STRING}, "\"\""},
    {{.type = HL_TYPE_BYTES}, "\"\""},
    {{.type = HL_TYPE_BYTES, .bytes = {"f", 1}}, "\"Zg==\""},
    {{.type = HL_TYPE_BYTES, .bytes = {"fo", 2}}, "\"Zm8=\""},
    {{.type = HL_TYPE_BYTES, .bytes = {"foo\xff", 4}}, "\"Zm9v/w==\""},
};

START_TEST(results_as_json)
{
    char *json = value_json(&results[_i].value);

    ck_assert_str_eq(json, results[_i].json);
    free(json);
}
END_TEST

START_TEST(json_that_cannot_be_made_is_a_failure)
{
    ck_assert_int_eq(print_json_line(json_pack("{s:s}", "name", "broken\xff")), EXIT_FAILED);
    ck_assert_int_eq(print_json_line(json_pack("{s:s}", "name", "whole")), EXIT_OK);
}
END_TEST

START_TEST(text_for_terminals)
{
    char buf[8];

    ck_assert_str_eq(text_printable(buf, sizeof(buf), "a\x1b[m"), "a?[m");
    ck_assert_str_eq(text_printable(buf, sizeof(buf), "longer than it"), "longer ");
    ck_assert_str_eq(text_printable(buf, sizeof(buf), "a\u00e9\u20ac"), "a\u00e9\u20ac");
    ck_assert_str_eq(text_printable(buf, sizeof(buf), "a\xc2\x9b[m"), "a??[m");
    ck_assert_str_eq(text_printable(buf, sizeof(buf), "a\x9b[m"), "a?[m");
    ck_assert_str_eq(text_printable(buf, sizeof(buf), "12345\u20ac"), "12345");
    ck_assert_str_eq(text_printable(buf, sizeof(buf), "1234\u20ac5"), "1234\u20ac");
    ck_assert_str_eq(text_printable(buf, sizeof(buf), "123456\x80\x80"), "123456?");
    ck_assert_str_eq(text_printable(buf, sizeof(buf), "123456\xe2"), "123456?");
    ck_assert_str_eq(value_line(buf, sizeof(buf),
                                "\xc2\x9b"
                                "1m",
                                4),
                     "  1m");
    ck_assert_str_eq(value_line(buf, sizeof(buf), "a\nb", 3), "a b");
    ck_assert_str_eq(text_size(buf, sizeof(buf), 1536), "1.5 KiB");
    ck_assert_str_eq(text_duration(buf, sizeof(buf), 999), "999 ns");
    ck_assert_str_eq(text_duration(buf, sizeof(buf), 1234567), "1.23 ms");
    ck_assert_str_eq(text_duration(buf, sizeof(buf), 2000000000), "2 s");
    ck_assert_str_eq(text_duration(buf, sizeof(buf), 0), "0 ns");
}
END_TEST

START_TEST(percentiles)
{
    struct samples samples = {0};
    struct summary s = samples_summary(&samples);

    ck_assert_uint_eq(s.p50, 0);
    for (uint64_t i = 2000; i > 0; i--)
        ck_assert_int_eq(samples_add(&samples, i), 0);
    s = samples_summary(&samples);
    ck_assert_uint_eq(s.p50, 1000);
    ck_assert_uint_eq(s.p95, 1900);
    ck_assert_uint_eq(s.p99, 1980);
    ck_assert_uint_eq(s.min, 1);
    ck_assert_uint_eq(s.max, 2000);
    ck_assert_uint_eq(s.mean, 1000);
    samples_fini(&samples);
    samples_add(&samples, 7);
    ck_assert_uint_eq(samples_summary(&samples).p99, 7);
    samples_fini(&samples);
}
END_TEST

START_TEST(exit_codes)
{
    ck_assert_int_eq(exit_code_of(&(struct hl_client_error){.status = HL_STATUS_UNAVAILABLE}),
                     EXIT_UNREACHABLE);
    ck_assert_int_eq(
        exit_code_of(&(struct hl_client_error){.status = HL_STATUS_UNAVAILABLE, .remote = true}),
        EXIT_TRY_AGAIN);
    ck_assert_int_eq(
        exit_code_of(&(struct hl_client_error){.status = HL_STATUS_RESOURCE_EXHAUSTED}),
        EXIT_TRY_AGAIN);
    ck_assert_int_eq(exit_code_of(&(struct hl_client_error){.status = HL_STATUS_PERMISSION_DENIED}),
                     EXIT_PERMISSION);
    ck_assert_int_eq(exit_code_of(&(struct hl_client_error){.status = HL_STATUS_DEADLINE_EXCEEDED}),
                     EXIT_DEADLINE);
    ck_assert_int_eq(exit_code_of(&(struct hl_client_error){.status = HL_STATUS_ABORTED}),
                     EXIT_FAILED);
}
END_TEST

START_TEST(options_that_come_several_times)
{
    unsigned int cursor = 0;

    ck_assert_int_eq(parse(&verb_call, "--host", "a=1", "echo", "--host=b=2", "f", NULL), 0);
    ck_assert_str_eq(option_next(&ctl, "host", &cursor), "a=1");
    ck_assert_str_eq(option_next(&ctl, "host", &cursor), "b=2");
    ck_assert_ptr_null(option_next(&ctl, "host", &cursor));
    ck_assert_uint_eq(ctl.nargs, 2);
}
END_TEST

static const struct {
    const char *text;
    int r;
} commands_given[] = {
    {"price=cat", 0},
    {"a_63_characters_long_name_aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa=cat", 0},
    {"price=true", EXIT_USAGE}, /* it has one */
    {"a_64_characters_long_name_aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa=cat", EXIT_USAGE},
    {"hl.time=cat", EXIT_USAGE},
    {"-price=cat", EXIT_USAGE},
    {"a b=cat", EXIT_USAGE},
    {"=cat", EXIT_USAGE},
    {"cat", EXIT_USAGE},
    {"hl=", EXIT_USAGE},
    {"hl=a=b", 0},
};

START_TEST(commands_of_host_functions)
{
    static struct commands commands;
    size_t count = 0;

    for (size_t i = 0; i < sizeof(commands_given) / sizeof(commands_given[0]); i++) {
        ck_assert_int_eq(commands_add(&ctl, &commands, commands_given[i].text),
                         commands_given[i].r);
        count += commands_given[i].r == 0;
        ck_assert_uint_eq(commands.count, count);
    }
    ck_assert_str_eq(commands.functions[2].name, "hl");
    ck_assert_str_eq(commands.commands[2].text, "a=b");
}
END_TEST

static const struct {
    const char *json;
    enum hl_type type;
    const char *back; /* as value_json writes it; NULL: refused */
} from_json[] = {
    {"", HL_TYPE_VOID, "null"},
    {" null\n", HL_TYPE_VOID, "null"},
    {"1", HL_TYPE_VOID, NULL},
    {"18446744073709551615\n", HL_TYPE_U64, "18446744073709551615"},
    {"-1", HL_TYPE_U64, NULL},
    {"-5", HL_TYPE_I32, "-5"},
    {"2147483648", HL_TYPE_I32, NULL},
    {"1.5", HL_TYPE_F64, "1.5"},
    {"\"NaN\"", HL_TYPE_F64, "\"NaN\""},
    {"true", HL_TYPE_BOOL, "true"},
    {"\"a\\u0000b\"", HL_TYPE_STRING, "\"a\\u0000b\""},
    {"text", HL_TYPE_STRING, NULL},
    {"7", HL_TYPE_STRING, NULL},
    {"\"\"", HL_TYPE_BYTES, "\"\""},
    {"\"AA==\"", HL_TYPE_BYTES, "\"AA==\""},
    {"\"AAECAw==\"", HL_TYPE_BYTES, "\"AAECAw==\""},
    {"\"/+8=\"", HL_TYPE_BYTES, "\"/+8=\""},
    {"\"AAE\"", HL_TYPE_BYTES, NULL},
    {"\"A===\"", HL_TYPE_BYTES, NULL},
    {"\"????\"", HL_TYPE_BYTES, NULL},
    {"\"open", HL_TYPE_STRING, NULL},
    {"[1]", HL_TYPE_U32, NULL},
    {"1 2", HL_TYPE_U32, NULL},
};

START_TEST(values_from_json)
{
    struct hl_value value;
    void *memory;
    char *back;
    int r = value_from_json(from_json[_i].json, strlen(from_json[_i].json), from_json[_i].type,
                            &value, &memory);

    if (!from_json[_i].back) {
        ck_assert_int_eq(r, -EINVAL);
    } else {
        ck_assert_int_eq(r, 0);
        ck_assert_int_eq(value.type, from_json[_i].type);
        back = value_json(&value);
        ck_assert_str_eq(back, from_json[_i].back);
        free(back);
    }
    free(memory);
}
END_TEST

#define COUNT(array) ((int)(sizeof(array) / sizeof((array)[0])))

int main(void)
{
    TCase *tc = tcase_create("hlctl");

    tcase_add_test(tc, options_stand_anywhere);
    tcase_add_test(tc, numbers_and_dashes_are_arguments);
    tcase_add_test(tc, wrong_options);
    tcase_add_test(tc, options_that_come_several_times);
    tcase_add_test(tc, commands_of_host_functions);
    tcase_add_loop_test(tc, values_from_json, 0, COUNT(from_json));
    tcase_add_loop_test(tc, sizes_are_read, 0, COUNT(sizes));
    tcase_add_loop_test(tc, times_are_read, 0, COUNT(times));
    tcase_add_loop_test(tc, values_are_read, 0, COUNT(values));
    tcase_add_loop_test(tc, results_as_json, 0, COUNT(results));
    tcase_add_test(tc, json_that_cannot_be_made_is_a_failure);
    tcase_add_test(tc, text_for_terminals);
    tcase_add_test(tc, percentiles);
    tcase_add_test(tc, exit_codes);
    return tests_run(tc, "hlctl");
}
