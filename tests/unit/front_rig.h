/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_TESTS_FRONT_RIG_H
#define HL_TESTS_FRONT_RIG_H

/*
 * A front in a process of its own, with a worker that is this same program run with "--worker"
 * (front_stub.c), and what a client of it does.
 */

#include <check.h>
#include <sys/types.h>

#include "daemon/configuration.h"

extern char dir[];                            /* of this test alone */
extern struct configuration config, reloaded; /* in force; what a reload finds */
extern int reload_result;
extern pid_t front_pid;
extern int notify_fd;

/* Around each test. */
void set_up(void);
void tear_down(void);

void start_front(int listen_fd); /* -1: it makes a socket of its own */
void start(void);                /* the same, and waits until it serves */
int wait_front(void);            /* its exit status, or 128 and the signal */
int stop_front(void);
void await_notify(const char *text); /* a notification that has text in it */

/* Each returns a descriptor, or a negative errno. */
int dial(void);
int dial_and_greet(void);
int dial_as(uid_t uid); /* another uid's; root alone can */

const char *hear(int fd); /* what the other side sent next; "" at its end */
void say(int fd, const char *text);
const char *ask(int fd, const char *text);

/* main of a test program. */
int front_rig_main(int argc, char **argv, Suite *suite);

#endif
