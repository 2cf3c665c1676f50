/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Images as the engine sees them, on the fake backend: new versions of a name, programs that are
 * broken or damaged, snapshots that are kept, more images than stay loaded, registering.
 */
#include "config.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "tests/fake/elf.h"
#include "tests/fake/fake.h"
#include "tests/unit/engine_tests.h"

/* --- versions ------------------------------------------------------------------------------- */

START_TEST(test_new_version)
{
    const struct hl_abi_function other = FAKE_FUNCTION("echo", HL_ABI_BYTES, 1, HL_ABI_BYTES);
    struct rig_response response;
    uint8_t *elf;
    size_t len;
    int fd;

    start();
    fd = rig_connect(&rig);
    ck_assert_int_eq(rig_call(fd, 1, &nothing), 0);
    rig_invoke(fd, 3, &(struct rig_call){.function = "hold"});
    rig_await_held(1);
    elf = fake_elf_with(&other, 1, 2 /* ET_EXEC */, &len);
    rig_add_raw(&rig, "test", &limits, elf, len);
    free(elf);
    rig_invalidate(&rig, "test");
    for (uint32_t stream = 5;; stream += 2) { /* until the switch has arrived */
        int code = rig_call(fd, stream, &nothing);

        if (code == HL_STATUS_NOT_FOUND)
            break; /* the new version has no such function */
        ck_assert_int_eq(code, 0);
    }
    fake_hold(false);
    ck_assert(rig_receive(fd, &response)); /* finished on the old version */
    ck_assert_uint_eq(response.stream, 3);
    ck_assert_int_eq(response.envelope.code, 0);
    rig_response_free(&response);
    ck_assert_uint_eq(rig.resolves, 2);
    close(fd);
    rig_stop(&rig);
}
END_TEST

START_TEST(test_broken_image)
{
    uint32_t stream = 1;
    int fd;

    start();
    rig_add_raw(&rig, "broken", &limits, "not an ELF file", 15);
    fd = rig_connect(&rig);
    for (; stream < 20; stream += 2)
        ck_assert_int_eq(
            rig_call(fd, stream, &(struct rig_call){.image = "broken", .function = "nothing"}),
            HL_STATUS_INVALID_ARGUMENT);
    ck_assert_uint_lt(rig.resolves, 10); /* a failed build is remembered for a while */
    rig_invalidate(&rig, "broken");
    rig_add(&rig, "broken", &limits);
    while (rig_call(fd, stream, &(struct rig_call){.image = "broken", .function = "nothing"}) != 0)
        stream += 2;
    close(fd);
    rig_stop(&rig);
}
END_TEST

START_TEST(test_damaged_image)
{
    int fd;

    start();
    rig.images[0].size++;
    fd = rig_connect(&rig);
    ck_assert_int_eq(rig_call(fd, 1, &nothing), HL_STATUS_DATA_LOSS);
    close(fd);
    rig_stop(&rig);
}
END_TEST

/* --- snapshots that are kept ------------------------------------------------------------------ */

START_TEST(test_snapshot_is_saved_and_loaded)
{
    uint32_t stream = 1;
    int fd;

    start();
    rig.images[0].owner = RIG_UID;
    fd = rig_connect(&rig);
    ck_assert_int_eq(rig_call(fd, stream, &nothing), 0);
    rig_await_counter(fd, &stream, "snapshots_saved", 1);
    for (uint64_t i = 1; i < 4; i++) {
        rig_invalidate(&rig, "test");
        rig_await_counter(fd, &stream, "now_vms", 0);
        ck_assert_int_eq(rig_call(fd, stream += 2, &nothing), 0);
        ck_assert_uint_eq(rig_counter(fd, stream += 2, "snapshots_loaded"), i);
    }
    ck_assert_uint_eq(rig_counter(fd, stream += 2, "builds"), 1);
    ck_assert_uint_eq(rig_counter(fd, stream += 2, "snapshots_saved"), 1);
    close(fd);
    rig_stop(&rig);
}
END_TEST

/* Whatever comes as a snapshot, the call is answered, by a program that was started here. */
START_TEST(test_snapshot_that_is_refused)
{
    static const char *const contents[] = {"", "no snapshot at all, and not the size of one"};
    uint32_t stream = 1;
    int fd;

    start();
    rig.images[0].owner = RIG_UID;
    fd = rig_connect(&rig);
    for (uint64_t i = 0; i < 2; i++) {
        rig_snapshot(&rig, "test", contents[i], strlen(contents[i]));
        ck_assert_int_eq(rig_call(fd, stream += 2, &nothing), 0);
        ck_assert_uint_eq(rig_counter(fd, stream += 2, "snapshots_refused"), i + 1);
        ck_assert_uint_eq(rig_counter(fd, stream += 2, "builds"), i + 1);
        rig_await_counter(fd, &stream, "snapshots_saved", i + 1); /* in its place */
        rig_invalidate(&rig, "test");
        rig_await_counter(fd, &stream, "now_vms", 0);
    }
    /* One that was good elsewhere does not fit here, which is no defect. */
    pthread_mutex_lock(&rig.lock);
    rig.images[0].limits.memory += 4u << 20;
    pthread_mutex_unlock(&rig.lock);
    ck_assert_int_eq(rig_call(fd, stream += 2, &nothing), 0);
    ck_assert_uint_eq(rig_counter(fd, stream += 2, "builds"), 3);
    ck_assert_uint_eq(rig_counter(fd, stream += 2, "snapshots_refused"), 2);
    ck_assert_uint_eq(rig_counter(fd, stream += 2, "snapshots_loaded"), 0);
    close(fd);
    rig_stop(&rig);
}
END_TEST

START_TEST(test_snapshot_of_others_is_not_saved)
{
    uint32_t stream = 1;
    int fd;

    start();
    fd = rig_connect(&rig);
    ck_assert_int_eq(rig_call(fd, stream, &nothing), 0);
    rig_invalidate(&rig, "test");
    rig_await_counter(fd, &stream, "now_vms", 0);
    ck_assert_int_eq(rig_call(fd, stream += 2, &nothing), 0);
    ck_assert_uint_eq(rig_counter(fd, stream += 2, "builds"), 2);
    ck_assert_uint_eq(atomic_load(&rig.saves), 0);
    close(fd);
    rig_stop(&rig);
}
END_TEST

/* More images than may be kept at a time: each is called, descriptors stay bounded, and one that
 * was called a moment ago is there still. */
START_TEST(test_many_images)
{
    enum { COUNT = 60 };
    struct rlimit old, low;
    char name[16];
    struct rig_call call = {.image = name, .function = "nothing"};
    uint32_t stream = 1;
    unsigned int resolves;
    int fd;

    ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &old), 0);
    low = old;
    low.rlim_cur = 160; /* for 20 of them */
    settings.max_vms = 2;
    ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &low), 0);
    start();
    ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &old), 0); /* the rig's front holds files too */
    for (int i = 0; i < COUNT; i++) {
        snprintf(name, sizeof(name), "image%d", i);
        rig_add(&rig, name, &limits);
    }
    fd = rig_connect(&rig);
    for (int i = 0; i < COUNT; i++) {
        snprintf(name, sizeof(name), "image%d", i);
        ck_assert_int_eq(rig_call(fd, stream += 2, &call), 0);
        ck_assert_uint_le(rig_programs(fd, stream += 2), 20);
    }
    ck_assert_uint_eq(atomic_load(&rig.resolves), COUNT);
    ck_assert_uint_ge(rig_programs(fd, stream += 2), 18);
    resolves = atomic_load(&rig.resolves);
    for (int i = COUNT - 10; i < COUNT; i++) {
        snprintf(name, sizeof(name), "image%d", i);
        ck_assert_int_eq(rig_call(fd, stream += 2, &call), 0);
    }
    ck_assert_uint_eq(atomic_load(&rig.resolves), resolves);
    close(fd);
    rig_stop(&rig);
}
END_TEST

/* --- registering ---------------------------------------------------------------------------- */

static int upload(int fd, uint32_t stream, uint64_t id, uint64_t offset, const uint8_t *data,
                  size_t len, uint64_t *out)
{
    Hl__V1__UploadRequest request = HL__V1__UPLOAD_REQUEST__INIT;
    Hl__V1__UploadResponse *reply;
    struct rig_response response;
    int code;

    request.upload_id = id;
    request.offset = offset;
    request.data.data = (uint8_t *)data;
    request.data.len = len;
    rig_request(fd, stream, "hl.v1.Images", "Upload", 0, &request.base);
    ck_assert(rig_receive(fd, &response));
    code = response.envelope.code;
    if (code == 0) {
        reply = hl__v1__upload_response__unpack(NULL, response.envelope.payload.len,
                                                response.envelope.payload.data);
        ck_assert_uint_eq(reply->received, offset + len);
        *out = reply->upload_id;
        hl__v1__upload_response__free_unpacked(reply, NULL);
    }
    rig_response_free(&response);
    return code;
}

START_TEST(test_register)
{
    Hl__V1__RegisterRequest request = HL__V1__REGISTER_REQUEST__INIT;
    Hl__V1__RegisterResponse *reply;
    struct rig_response response;
    uint64_t id, other;
    uint8_t *elf;
    size_t len;
    int fd;

    start();
    elf = fake_elf_new(&len);
    fd = rig_connect(&rig);
    ck_assert_int_eq(upload(fd, 1, 0, 0, elf, 100, &id), 0);
    ck_assert_int_eq(upload(fd, 3, id, 99, elf + 100, 100, &other), HL_STATUS_INVALID_ARGUMENT);
    ck_assert_int_eq(upload(fd, 5, id, 100, elf + 100, len - 100, &id), 0);
    ck_assert_int_eq(upload(fd, 7, 0, 0, elf, 10, &other), 0);
    ck_assert_int_eq(upload(fd, 9, 0, 0, elf, 10, &other), HL_STATUS_RESOURCE_EXHAUSTED);
    ck_assert_int_eq(upload(fd, 11, 99, 0, elf, 10, &other), HL_STATUS_NOT_FOUND);
    request.name = (char *)"fresh";
    request.upload_id = id;
    rig_request(fd, 13, "hl.v1.Images", "Register", 0, &request.base);
    ck_assert(rig_receive(fd, &response));
    ck_assert_msg(response.envelope.code == 0, "%s", response.message);
    reply = hl__v1__register_response__unpack(NULL, response.envelope.payload.len,
                                              response.envelope.payload.data);
    ck_assert_str_eq(reply->image->name, "fresh");
    ck_assert_uint_eq(reply->image->size, len);
    ck_assert_uint_gt(reply->image->n_functions, 5);
    ck_assert_uint_gt(reply->image->snapshot_bytes, 0);
    hl__v1__register_response__free_unpacked(reply, NULL);
    rig_response_free(&response);
    ck_assert_uint_eq(rig.registers, 1);
    ck_assert_int_eq(rig_call(fd, 15, &(struct rig_call){.image = "fresh", .function = "nothing"}),
                     0);
    ck_assert_uint_eq(rig_counter(fd, 17, "builds"), 1); /* not built again for its first call */
    free(elf);
    close(fd);
    rig_stop(&rig);
}
END_TEST

/* The front tells every worker but the one that asked. */
START_TEST(test_unregister)
{
    Hl__V1__UnregisterRequest request = HL__V1__UNREGISTER_REQUEST__INIT;
    struct rig_response response;
    int fd;

    start();
    fd = rig_connect(&rig);
    ck_assert_int_eq(rig_call(fd, 1, &nothing), 0);
    request.name = (char *)"test";
    rig_request(fd, 3, "hl.v1.Images", "Unregister", 0, &request.base);
    ck_assert(rig_receive(fd, &response));
    ck_assert_int_eq(response.envelope.code, 0);
    rig_response_free(&response);
    ck_assert_int_eq(rig_call(fd, 5, &nothing), HL_STATUS_NOT_FOUND);
    close(fd);
    rig_stop(&rig);
}
END_TEST

START_TEST(test_register_refused)
{
    Hl__V1__RegisterRequest request = HL__V1__REGISTER_REQUEST__INIT;
    Hl__V1__Limits too_much = HL__V1__LIMITS__INIT;
    struct rig_response response;
    uint32_t stream = 1;
    int fd;

    start();
    fd = rig_connect(&rig);
    too_much.memory = 1ull << 50;
    for (int i = 0; i < 4; i++) {
        uint64_t id;
        uint8_t *elf;
        size_t len;

        elf = fake_elf_new(&len);
        ck_assert_int_eq(
            upload(fd, stream, 0, 0, i == 0 ? (const uint8_t *)"junk" : elf, i == 0 ? 4 : len, &id),
            0);
        free(elf);
        request.name = (char *)(i == 1 ? "-bad-" : "fresh");
        request.upload_id = id;
        request.limits = i == 2 ? &too_much : NULL;
        rig.refuse = i == 3 ? HL_STATUS_PERMISSION_DENIED : 0;
        rig_request(fd, stream + 2, "hl.v1.Images", "Register", 0, &request.base);
        ck_assert(rig_receive(fd, &response));
        ck_assert_int_eq(response.envelope.code,
                         i == 3 ? HL_STATUS_PERMISSION_DENIED : HL_STATUS_INVALID_ARGUMENT);
        rig_response_free(&response);
        stream += 4;
        if (i == 1 || i == 2) { /* the uploads that were not used up stay */
            close(fd);
            fd = rig_connect(&rig);
            stream = 1;
        }
    }
    ck_assert_uint_eq(rig.registers, 1); /* the rig registers before it refuses */
    close(fd);
    rig_stop(&rig);
}
END_TEST

START_TEST(test_inspect)
{
    const struct rig_call log = {.function = "log", .kind = ARG_STRING, .data = "a line", .len = 6};
    Hl__V1__InspectRequest request = HL__V1__INSPECT_REQUEST__INIT;
    Hl__V1__InspectResponse *reply;
    struct rig_response response;
    int fd;

    start();
    fd = rig_connect(&rig);
    ck_assert_int_eq(rig_call(fd, 1, &log), 0);
    ck_assert_int_eq(rig_call(fd, 3, &(struct rig_call){.function = "fault"}), HL_STATUS_ABORTED);
    request.name = (char *)"test";
    rig_request(fd, 5, "hl.v1.Images", "Inspect", 0, &request.base);
    ck_assert(rig_receive(fd, &response));
    reply = hl__v1__inspect_response__unpack(NULL, response.envelope.payload.len,
                                             response.envelope.payload.data);
    ck_assert_ptr_nonnull(reply);
    ck_assert_uint_eq(reply->n_log, 2);
    ck_assert_ptr_nonnull(strstr(reply->log[0], "a line"));
    ck_assert_uint_gt(reply->image->n_functions, 5);
    hl__v1__inspect_response__free_unpacked(reply, NULL);
    rig_response_free(&response);
    close(fd);
    rig_stop(&rig);
}
END_TEST

int main(void)
{
    TCase *tc = tests_begin("images");

    tcase_add_test(tc, test_new_version);
    tcase_add_test(tc, test_broken_image);
    tcase_add_test(tc, test_damaged_image);
    tcase_add_test(tc, test_snapshot_is_saved_and_loaded);
    tcase_add_test(tc, test_snapshot_that_is_refused);
    tcase_add_test(tc, test_snapshot_of_others_is_not_saved);
    tcase_add_test(tc, test_many_images);
    tcase_add_test(tc, test_register);
    tcase_add_test(tc, test_unregister);
    tcase_add_test(tc, test_register_refused);
    tcase_add_test(tc, test_inspect);
    return tests_run(tc, "images");
}
