/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_TESTS_FAKE_SERVER_H
#define HL_TESTS_FAKE_SERVER_H

/*
 * hld's end of a connection, played by a thread of the test: a script reads requests and answers as
 * it likes, wrongly too.
 */

#include <pthread.h>

#include "client/client.h"
#include "proto/frame.h"
#include "proto/service.h"

#define FAKE_FDS (HL_MAX_PARAMS + 1)

/* A request as it came, its payload not decoded. */
struct got {
    uint32_t stream;
    char method[32];
    int64_t timeout_nano;
    uint8_t *payload;
    size_t len;
    unsigned int nfds; /* that came with the frame's first byte; no others may */
    int fds[FAKE_FDS]; /* the script's to close: fake_close */
};

struct fake_server {
    int fd; /* the server's end */
    void (*script)(struct fake_server *server);
    pthread_t thread;
    struct arena arena; /* what the script has read */
    unsigned int seed;
};

/* Starts the script and connects a client to it. */
void fake_start(struct fake_server *server, void (*script)(struct fake_server *),
                struct hl_client **client);
/* Disconnects and waits for the script's end. */
void fake_stop(struct fake_server *server, struct hl_client *client);

/* The next request. Returns: false at the client's end. */
bool fake_read(struct fake_server *server, struct got *got);
void fake_close(struct got *got);
/* How many descriptors this process has. */
unsigned int fake_count_fds(void);
/* A memfd of those bytes with those seals. */
int fake_memfd(const void *data, size_t len, int seals);
/* One that can go as an argument; the test closes it. */
struct hl_value fake_value(const char *text);
/* Whether a memfd holds those bytes and nothing else. */
bool fake_holds(int fd, const void *data, size_t len);
void fake_write(struct fake_server *server, const void *data, size_t len);
void fake_answer(struct fake_server *server, uint32_t stream, const ProtobufCMessage *message);
void fake_status(struct fake_server *server, uint32_t stream, enum hl_status status,
                 const char *text, const struct envelope_detail *details, size_t ndetails);
/* A result of that string, with accounting. */
void fake_result(struct fake_server *server, uint32_t stream, const char *text);
void fake_answer_void(struct fake_server *server, uint32_t stream);
/* A result that is in the descriptor of that index, or is said to be. */
void fake_answer_descriptor(struct fake_server *server, uint32_t stream, uint32_t index,
                            uint64_t length);
/* Writes it into what came with a request and seals it so. */
void fake_put_result(const struct got *got, uint32_t index, const char *text, int seals);
/* A bare frame header. */
void fake_header(struct fake_server *server, uint32_t length, uint32_t stream, uint8_t type);
/* Decodes a request's payload. */
const void *fake_decode(struct fake_server *server, const struct got *got,
                        const ProtobufCMessageDescriptor *type);

#endif
