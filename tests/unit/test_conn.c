/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What clients may do to their sockets: frames of every wrong kind, in pieces, too slowly, too many
 * at once, unread, half closed. Each costs that connection at most; a second connection is called
 * on after each to show that.
 */
#include "config.h"

#include <check.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/conn.h"
#include "proto/frame.h"
#include "tests/fake/fake.h"
#include "tests/unit/engine_tests.h"

static int witness;
static uint32_t witness_stream;

static void prepare(void)
{
    settings.slow_sender_ns = 60000 * MS;
}

static void begin(void)
{
    start();
    witness = rig_connect(&rig);
    witness_stream = 1;
    ck_assert_int_eq(rig_call(witness, witness_stream, &nothing), 0);
}

static uint64_t counter(const char *name)
{
    return rig_counter(witness, witness_stream += 2, name);
}

static void finish(void)
{
    ck_assert_int_eq(rig_call(witness, witness_stream += 2, &nothing), 0);
    close(witness);
    rig_stop(&rig);
}

static void send_frame(int fd, uint32_t length, uint32_t stream, uint8_t type, uint8_t flags,
                       const void *payload, size_t len)
{
    struct frame_header header = {.length = length, .stream = stream, .type = type, .flags = flags};
    uint8_t *frame = malloc(FRAME_HEADER_SIZE + len);

    frame_encode_header(frame, &header);
    if (len > 0)
        memcpy(frame + FRAME_HEADER_SIZE, payload, len);
    rig_send(fd, frame, FRAME_HEADER_SIZE + len);
    free(frame);
}

static int receive_code(int fd, uint32_t stream)
{
    struct rig_response response;
    int code;

    ck_assert_msg(rig_receive(fd, &response), "the connection was closed");
    ck_assert_uint_eq(response.stream, stream);
    code = response.envelope.code;
    rig_response_free(&response);
    return code;
}

/* --- malformed ------------------------------------------------------------------------------ */

static void send_malformed(int fd, int kind)
{
    switch (kind) {
    case 0:
        send_frame(fd, FRAME_PAYLOAD_MAX + 1, 1, FRAME_REQUEST, 0, "x", 1);
        break;
    case 1:
        send_frame(fd, 0, 0, FRAME_REQUEST, 0, NULL, 0);
        break;
    case 2:
        send_frame(fd, 0, 1, 77, 0, NULL, 0);
        break;
    case 3:
        send_frame(fd, 0, 1, FRAME_RESPONSE, 0, NULL, 0);
        break;
    default:
        rig_send(fd, "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", 12);
    }
}

START_TEST(test_malformed)
{
    int fd;

    begin();
    fd = rig_connect(&rig);
    send_malformed(fd, _i);
    ck_assert(rig_closed(fd));
    close(fd);
    ck_assert_uint_eq(counter("malformed"), 1);
    finish();
}
END_TEST

START_TEST(test_random)
{
    begin();
    srand(11);
    for (int i = 0; i < 50; i++) {
        int fd = rig_connect(&rig);
        uint8_t junk[512];

        for (size_t j = 0; j < sizeof(junk); j++)
            junk[j] = (uint8_t)rand();
        if (i % 2) { /* a good header, so that more of it is looked at */
            const struct frame_header header = {.length = 200, .stream = 1, .type = FRAME_REQUEST};

            frame_encode_header(junk, &header);
        }
        rig_send(fd, junk, sizeof(junk));
        shutdown(fd, SHUT_WR);
        ck_assert(rig_closed(fd));
        close(fd);
    }
    finish();
}
END_TEST

/* Whole frames that ask for nonsense are answered and cost nothing. */
START_TEST(test_refused)
{
    Hl__V1__PingRequest ping = HL__V1__PING_REQUEST__INIT;
    int fd;

    begin();
    fd = rig_connect(&rig);
    send_frame(fd, 3, 1, FRAME_REQUEST, 0, "\xff\xff\xff", 3);
    ck_assert_int_eq(receive_code(fd, 1), HL_STATUS_INVALID_ARGUMENT);
    rig_request(fd, 3, "hl.v1.Nothing", "Invoke", 0, &ping.base);
    ck_assert_int_eq(receive_code(fd, 3), HL_STATUS_UNIMPLEMENTED);
    rig_request(fd, 5, "hl.v1.Daemon", "Invoke", 0, &ping.base);
    ck_assert_int_eq(receive_code(fd, 5), HL_STATUS_UNIMPLEMENTED);
    rig_request(fd, 6, "hl.v1.Daemon", "Ping", 0, &ping.base);
    ck_assert_int_eq(receive_code(fd, 6), HL_STATUS_INVALID_ARGUMENT);
    rig_request(fd, 5, "hl.v1.Daemon", "Ping", 0, &ping.base);
    ck_assert_int_eq(receive_code(fd, 5), HL_STATUS_INVALID_ARGUMENT);
    send_frame(fd, 1, 7, FRAME_REQUEST, 2, "x", 1);
    ck_assert_int_eq(receive_code(fd, 7), HL_STATUS_INVALID_ARGUMENT);
    send_frame(fd, 1, 7, FRAME_DATA, 0, "x", 1);  /* the stream is over: nobody cares */
    send_frame(fd, 1, 99, FRAME_DATA, 0, "x", 1); /* there is no such stream */
    ck_assert_int_eq(receive_code(fd, 99), HL_STATUS_INVALID_ARGUMENT);
    ck_assert_int_eq(rig_call(fd, 9, &nothing), 0);
    close(fd);
    ck_assert_uint_eq(counter("malformed"), 0);
    finish();
}
END_TEST

/* A small message that would unpack to a hundred megabytes. */
START_TEST(test_amplification)
{
    const size_t count = 1000000, head = 16;
    uint8_t *message = malloc(head + 2 * count);
    Hl__V1__PingRequest carrier = HL__V1__PING_REQUEST__INIT;
    ProtobufCMessageUnknownField *unknown = calloc(1, sizeof(*unknown));
    size_t n = 0;
    int fd;

    /* image = "test", function = "nothing", and a million empty args; carried as the bytes of
     * fields that PingRequest does not know, which protobuf-c writes out as they are. */
    n += (size_t)sprintf((char *)message, "\x0a\x04test\x12\x07nothing");
    message[n++] = 0x1a;
    message[n++] = 0;
    for (size_t i = 1; i < count; i++) {
        message[n++] = 0x1a;
        message[n++] = 0;
    }
    unknown->tag = 1;
    unknown->wire_type = PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED;
    unknown->data = message + 1; /* behind the first tag */
    unknown->len = n - 1;
    carrier.base.unknown_fields = unknown;
    carrier.base.n_unknown_fields = 1;
    begin();
    fd = rig_connect(&rig);
    rig_request(fd, 1, "hl.v1.Functions", "Invoke", 0, &carrier.base);
    ck_assert_int_eq(receive_code(fd, 1), HL_STATUS_INVALID_ARGUMENT);
    ck_assert_int_eq(rig_call(fd, 3, &nothing), 0);
    close(fd);
    free(unknown);
    free(message);
    finish();
}
END_TEST

/* --- pieces, pace, amounts ------------------------------------------------------------------ */

START_TEST(test_byte_by_byte)
{
    Hl__V1__PingRequest ping = HL__V1__PING_REQUEST__INIT;
    struct buffer buf = {0};
    int fd;

    begin();
    fd = rig_connect(&rig);
    ck_assert_int_eq(envelope_encode_request(&buf, 1, "hl.v1.Daemon", "Ping", 0, &ping.base), 0);
    for (size_t i = 0; i < buf.len; i++)
        rig_send(fd, buffer_data(&buf) + i, 1);
    ck_assert_int_eq(receive_code(fd, 1), 0);
    buffer_fini(&buf);
    close(fd);
    finish();
}
END_TEST

/* Many requests in one write; all are answered, in order. */
START_TEST(test_pipelined)
{
    enum { COUNT = 300 };
    Hl__V1__PingRequest ping = HL__V1__PING_REQUEST__INIT;
    struct buffer buf = {0};
    int fd;

    begin();
    fd = rig_connect(&rig);
    for (uint32_t i = 0; i < COUNT; i++)
        ck_assert_int_eq(
            envelope_encode_request(&buf, 2 * i + 1, "hl.v1.Daemon", "Ping", 0, &ping.base), 0);
    rig_send(fd, buffer_data(&buf), buf.len);
    for (uint32_t i = 0; i < COUNT; i++)
        ck_assert_int_eq(receive_code(fd, 2 * i + 1), 0);
    buffer_fini(&buf);
    close(fd);
    finish();
}
END_TEST

/* A frame that ends the connection, with more behind it when the turn's time is up. */
START_TEST(test_ended_with_more_to_serve)
{
    struct frame_header header = {.stream = 1, .type = FRAME_RESPONSE};
    uint8_t frames[2 * FRAME_HEADER_SIZE];

    settings.quantum_ns = 100;
    begin();
    frame_encode_header(frames, &header);
    header.type = FRAME_REQUEST;
    frame_encode_header(frames + FRAME_HEADER_SIZE, &header);
    for (int i = 0; i < 20; i++) {
        int fd = rig_connect(&rig);

        rig_send(fd, frames, sizeof(frames));
        ck_assert(rig_closed(fd));
        close(fd);
    }
    ck_assert_uint_eq(counter("malformed"), 20);
    finish();
}
END_TEST

START_TEST(test_large_frames)
{
    const size_t sizes[] = {1, 16384, 65536, 1 << 20, (4 << 20) - 100};
    uint8_t *data = calloc(1, 4 << 20);
    int fd;

    begin();
    fd = rig_connect(&rig);
    for (uint32_t i = 0; i < 5; i++) {
        Hl__V1__PingRequest ping = HL__V1__PING_REQUEST__INIT;

        ping.payload.data = data;
        ping.payload.len = sizes[i];
        rig_request(fd, 4 * i + 1, "hl.v1.Daemon", "Ping", 0, &ping.base);
        ck_assert_int_eq(receive_code(fd, 4 * i + 1), 0);
        ck_assert_int_eq(rig_call(fd, 4 * i + 3, &nothing), 0);
    }
    free(data);
    close(fd);
    finish();
}
END_TEST

START_TEST(test_slow_sender)
{
    int fd, idle;

    settings.slow_sender_ns = 100 * MS;
    begin();
    fd = rig_connect(&rig);
    idle = rig_connect(&rig);
    send_frame(fd, 1000, 1, FRAME_REQUEST, 0, "only this", 9);
    ck_assert(rig_closed(fd));
    close(fd);
    ck_assert_uint_eq(counter("slow"), 1);
    ck_assert_int_eq(rig_call(idle, 1, &nothing), 0); /* saying nothing is no offence */
    close(idle);
    finish();
}
END_TEST

/* A client that asks and asks and never reads. */
START_TEST(test_not_reading)
{
    uint8_t *data = calloc(1, 1 << 20);
    Hl__V1__PingRequest ping = HL__V1__PING_REQUEST__INIT;
    struct buffer buf = {0};
    uint64_t sent = 0;
    int fd;

    settings.slow_sender_ns = 100 * MS;
    begin();
    fd = rig_connect(&rig);
    fcntl(fd, F_SETFL, O_NONBLOCK);
    ping.payload.data = data;
    ping.payload.len = 1 << 20;
    for (uint32_t i = 0; i < 64; i++)
        ck_assert_int_eq(
            envelope_encode_request(&buf, 2 * i + 1, "hl.v1.Daemon", "Ping", 0, &ping.base), 0);
    for (;;) {
        struct pollfd pfd = {.fd = fd, .events = POLLOUT};
        ssize_t n;

        if (poll(&pfd, 1, 20000) != 1 || (pfd.revents & (POLLHUP | POLLERR)))
            break;
        n = send(fd, buffer_data(&buf) + sent, buf.len - sent, MSG_NOSIGNAL);
        if (n < 0)
            break;
        sent += (uint64_t)n;
    }
    ck_assert_uint_lt(sent, 16u << 20); /* it was stopped being read, then closed */
    ck_assert_uint_eq(counter("slow"), 1);
    buffer_fini(&buf);
    free(data);
    close(fd);
    finish();
}
END_TEST

/* A slow reader that does read gets everything. */
START_TEST(test_reading_late)
{
    enum { COUNT = 5 };
    uint8_t *data = calloc(1, 1 << 20);
    Hl__V1__PingRequest ping = HL__V1__PING_REQUEST__INIT;
    int fd;

    begin();
    fd = rig_connect(&rig);
    ping.payload.data = data;
    ping.payload.len = 200000;
    for (uint32_t i = 0; i < COUNT; i++) {
        rig_request(fd, 2 * i + 1, "hl.v1.Daemon", "Ping", 0, &ping.base);
        if (i == 3)
            usleep(50000);
    }
    for (uint32_t i = 0; i < COUNT; i++)
        ck_assert_int_eq(receive_code(fd, 2 * i + 1), 0);
    free(data);
    close(fd);
    finish();
}
END_TEST

/* --- half a connection ---------------------------------------------------------------------- */

START_TEST(test_half_close)
{
    const struct rig_call slow = {.function = "delay", .kind = ARG_U32, .u32 = 100};
    int fd;

    begin();
    fd = rig_connect(&rig);
    rig_invoke(fd, 1, &slow);
    shutdown(fd, SHUT_WR);
    ck_assert_int_eq(receive_code(fd, 1), 0); /* the answer still comes */
    ck_assert(rig_closed(fd));
    close(fd);
    finish();
}
END_TEST

START_TEST(test_half_close_then_gone)
{
    const struct rig_call spin = {.function = "spin"};
    int fd;

    begin();
    fd = rig_connect(&rig);
    rig_invoke(fd, 1, &spin);
    shutdown(fd, SHUT_WR);
    usleep(50000);
    close(fd);
    for (int i = 0; i < 1000 && counter("abandoned") == 0; i++)
        usleep(5000);
    ck_assert_uint_eq(counter("abandoned"), 1);
    finish();
}
END_TEST

START_TEST(test_half_close_idle)
{
    int fd;

    begin();
    fd = rig_connect(&rig);
    ck_assert_int_eq(rig_call(fd, 1, &nothing), 0);
    shutdown(fd, SHUT_WR);
    ck_assert(rig_closed(fd));
    close(fd);
    fd = rig_connect(&rig);
    send_frame(fd, 1000, 1, FRAME_REQUEST, 0, "cut off", 7);
    shutdown(fd, SHUT_WR);
    ck_assert(rig_closed(fd));
    close(fd);
    finish();
}
END_TEST

/* --- counting ------------------------------------------------------------------------------- */

START_TEST(test_max_connections)
{
    int fds[3];

    settings.max_connections = 3; /* the witness is one */
    begin();
    for (int i = 0; i < 3; i++)
        fds[i] = rig_connect(&rig);
    ck_assert_int_eq(rig_call(fds[0], 1, &nothing), 0);
    ck_assert_int_eq(rig_call(fds[1], 1, &nothing), 0);
    ck_assert(rig_closed(fds[2]));
    ck_assert_uint_eq(counter("connections_refused"), 1);
    for (int i = 0; i < 3; i++)
        close(fds[i]);
    finish();
}
END_TEST

/* Requests that wait for the front, which says nothing: some are let in, the rest is refused. */
START_TEST(test_unanswered)
{
    enum { COUNT = 200 };
    Hl__V1__ListRequest list = HL__V1__LIST_REQUEST__INIT;
    unsigned int refused = 0;
    int fd;

    begin();
    atomic_store(&rig.silent, true);
    fd = rig_connect(&rig);
    for (uint32_t i = 0; i < COUNT; i++)
        rig_request(fd, 2 * i + 1, "hl.v1.Images", "List", 0, &list.base);
    for (; refused < COUNT - CONN_TICKETS_MAX; refused++) {
        struct rig_response response;

        ck_assert(rig_receive(fd, &response));
        ck_assert_int_eq(response.envelope.code, HL_STATUS_RESOURCE_EXHAUSTED);
        rig_response_free(&response);
    }
    close(fd);
    atomic_store(&rig.silent, false);
    finish();
}
END_TEST

static void wait_idle(uint32_t connections, uint64_t received)
{
    for (int i = 0; i < 2000; i++) {
        bool there;

        pthread_mutex_lock(&rig.lock);
        there = rig.idle_connections == connections && rig.idle_received == received;
        pthread_mutex_unlock(&rig.lock);
        if (there)
            return;
        usleep(5000);
    }
    ck_abort_msg("no Idle of %u connections, %lu received", connections, (unsigned long)received);
}

START_TEST(test_idle)
{
    int fds[5];

    begin();
    for (int i = 0; i < 5; i++)
        fds[i] = rig_connect(&rig);
    for (int i = 0; i < 5; i++)
        close(fds[i]);
    wait_idle(1, 6);
    close(witness);
    wait_idle(0, 6);
    rig_stop(&rig);
}
END_TEST

int main(void)
{
    TCase *tc = tests_begin("conn");

    tcase_add_checked_fixture(tc, prepare, NULL);
    tcase_add_loop_test(tc, test_malformed, 0, 5);
    tcase_add_test(tc, test_random);
    tcase_add_test(tc, test_refused);
    tcase_add_test(tc, test_amplification);
    tcase_add_test(tc, test_byte_by_byte);
    tcase_add_test(tc, test_pipelined);
    tcase_add_test(tc, test_ended_with_more_to_serve);
    tcase_add_test(tc, test_large_frames);
    tcase_add_test(tc, test_slow_sender);
    tcase_add_test(tc, test_not_reading);
    tcase_add_test(tc, test_reading_late);
    tcase_add_test(tc, test_half_close);
    tcase_add_test(tc, test_half_close_then_gone);
    tcase_add_test(tc, test_half_close_idle);
    tcase_add_test(tc, test_max_connections);
    tcase_add_test(tc, test_unanswered);
    tcase_add_test(tc, test_idle);
    return tests_run(tc, "conn");
}
