/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Packets of the control channel as a worker taken over by its guest would send them. They go
 * through a real socket, because what comes with a packet is part of what is checked.
 */
#include "config.h"

#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/control.h"
#include "daemon/control.pb-c.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void receive(const uint8_t *data, size_t size, const ProtobufCMessageDescriptor *type)
{
    ProtobufCMessage *message = NULL;
    int fds[2], passed = -1;

    if (size == 0 || size > CONTROL_PACKET_MAX ||
        socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) < 0)
        return;
    if (send(fds[0], data, size, 0) == (ssize_t)size &&
        control_recv(fds[1], type, &message, &passed) == 1) {
        if (!message || message->descriptor != type || passed != -1)
            abort();
        protobuf_c_message_free_unpacked(message, NULL);
    }
    close(fds[0]);
    close(fds[1]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    receive(data, size, &hl__control__to_front__descriptor);
    receive(data, size, &hl__control__to_worker__descriptor);
    return 0;
}
