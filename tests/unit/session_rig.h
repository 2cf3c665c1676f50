/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_TESTS_SESSION_RIG_H
#define HL_TESTS_SESSION_RIG_H

/* What clients of sessions do, against the engine of engine_tests.h. An int that is returned is a
 * status. */

#include "tests/unit/engine_tests.h"

uint32_t next_stream(void);

int open_image(int fd, const char *image, char id[40]);
void open_session(int fd, char id[40]); /* of the image "test" */
int checkpoint(int fd, const char *id, uint64_t *number);
int rollback(int fd, const char *id, uint64_t number);
int forget(int fd, const char *id, uint64_t number);
int close_session(int fd, const char *id);
Hl__V1__ListSessionsResponse *list(int fd); /* the caller frees it */

int call(int fd, const char *id, const char *function);
int delay(int fd, const char *id, uint32_t ms, int64_t timeout_ns);
/* Stores value. Returns: what was there, or minus the status. */
int64_t keep(int fd, const char *id, uint32_t value);

/* Begins a call that goes on until it is let go, and waits until it is the nth that has begun. */
void begin_hold(int fd, const char *id, unsigned int n);
void end_hold(int fd); /* it has to end well */

void await_counter(int fd, const char *name, uint64_t value);

#endif
