/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a daemon sends to libhlclient: the input comes out of the socket of a client that waits for
 * several answers at once, then the socket ends. Two of the calls take host calls, one answers them
 * and one asks something itself to answer them. Whatever it was, every callback comes once and the
 * connection is lost in the end. The first call has room for a result, which nobody seals. The
 * input is a list of pieces: a byte that says which stream (with 0x40: as data, with 0x80: without
 * a frame header), a length, and so many bytes.
 */
#include "config.h"

#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "client/hlmanage.h"
#include "proto/frame.h"

#define CALLS 3

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void count(void *opaque, uint64_t id, int code, const struct hl_result *result,
                  const struct hl_client_error *err)
{
    (void)id;
    if ((code >= 0) != (result != NULL) || (code < 0) != (err != NULL))
        abort();
    ++*(int *)opaque;
}

static void on_host_call(void *opaque, struct hl_host_call *call)
{
    static const struct hl_value answer = {.type = HL_TYPE_U32, .u32 = 1};

    for (size_t i = 0; i < call->nargs; i++) {
        if (call->args[i].type == HL_TYPE_VOID || call->args[i].type > HL_TYPE_BYTES)
            abort();
    }
    if (opaque)
        hl_client_ping(call->client, "x", 1, NULL);
    hl_host_return(call, &answer);
}

static void send_all(int fd, const uint8_t *data, size_t size)
{
    while (size >= 2) {
        size_t len = data[1] < size - 2 ? data[1] : size - 2;
        struct frame_header header = {.length = (uint32_t)len,
                                      .stream = data[0] % 8 * 2 + 1,
                                      .type = data[0] & 0x40 ? FRAME_DATA : FRAME_RESPONSE};
        uint8_t bytes[FRAME_HEADER_SIZE];

        frame_encode_header(bytes, &header);
        if (!(data[0] & 0x80) && send(fd, bytes, sizeof(bytes), MSG_DONTWAIT) < 0)
            return;
        if (len > 0 && send(fd, data + 2, len, MSG_DONTWAIT) < 0)
            return;
        data += 2 + len;
        size -= 2 + len;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct hl_call call = {.image = "i", .function = "f"};
    static const struct hl_call roomy = {.image = "i", .function = "f", .result_room = 1};
    static int nested;
    static const struct hl_host functions[] = {{"", NULL, on_host_call, NULL},
                                               {"", NULL, on_host_call, &nested}};
    struct hl_image_list list;
    struct hl_client *client;
    int fds[2], seen = 0;

    if (socketpair(AF_UNIX, SOCK_STREAM, 0, fds) < 0)
        return 0;
    if (hl_client_open(&client, fds[0], NULL) < 0)
        abort();
    send_all(fds[1], data, size);
    shutdown(fds[1], SHUT_WR);
    hl_client_submit(client, &roomy, count, &seen, NULL, NULL);
    hl_client_submit_with_host(client, &call, &functions[0], 1, count, &seen, NULL, NULL);
    hl_client_submit_with_host(client, &call, &functions[1], 1, count, &seen, NULL, NULL);
    /* Streams 1, 3 and 5 are the calls', 7 the list's. */
    hl_client_list(client, NULL, 0, &list, NULL);
    while (hl_client_process(client, NULL) == 0)
        ;
    if (seen != CALLS || hl_client_pending(client) != 0)
        abort();
    hl_client_disconnect(client);
    close(fds[1]);
    return 0;
}
