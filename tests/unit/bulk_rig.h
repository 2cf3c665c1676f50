/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_TESTS_BULK_RIG_H
#define HL_TESTS_BULK_RIG_H

/* Calls with files beside them, of the fake's image "test". */

#include "tests/unit/engine_tests.h"

#define PAGE     4096u
#define SEALS    (F_SEAL_WRITE | F_SEAL_SHRINK)
#define ROOM     (F_SEAL_SHRINK | F_SEAL_GROW)
#define FDS_MOST 17u

extern int conn;        /* of begin */
extern uint32_t stream; /* the next on it */

struct with {
    const char *function;
    const int *fds;
    unsigned int nfds;
    int index[2]; /* of arguments; -1: none */
    int into;     /* likewise */
    uint64_t number;
    bool has_number;
    int64_t timeout_ns;
    uint64_t call_id;
    const char *session;
};

/* The engine and a connection to it. */
void begin(void);
void stop(void);

/* Files of that many bytes, the last of which is 7; whose memory is there but was never written to,
 * for a result; with holes. */
int file_of(size_t len, int seals);
int allocated(size_t len);
int sparse(size_t len, int seals);

/* at(first of fds, number), and big(len) into it. */
struct with at(const int *fd, uint64_t number);
struct with big(const int *fd, uint32_t len);

/* On any connection, without waiting for what comes of it. */
void send_call(int fd, uint32_t id, const struct with *with);

/* The next call on conn is answered with that status and a text that has `text` in it; with a
 * result, which the caller frees; with this u32. */
void expect(const struct with *with, int code, const char *text);
Hl__V1__InvokeResponse *expect_result(const struct with *with);
void expect_byte(const struct with *with, uint32_t byte);

int count_fds(void); /* that this process has open */

#endif
