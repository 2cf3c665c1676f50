/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_DAEMON_FRONT_KV_H
#define HL_DAEMON_FRONT_KV_H

/* hl.kv in the front: requests of workers, one after the other for each uid. On the loop's thread.
 */

#include "base/error.h"
#include "daemon/control.pb-c.h"

struct front;
struct front_kv;
struct worker;

/* After the registry is open. Returns: 0 or a negative errno with err. */
int front_kv_new(struct front_kv **out, struct front *front, struct hl_error *err);
void front_kv_free(struct front_kv *kv); /* NULL is allowed; no job is under way */

/* Answers, now or later, and ends the worker's request. */
void front_kv_request(struct front *front, struct worker *worker, uint64_t id,
                      const Hl__Control__Kv *asked);

/* The image is no longer registered: its stores go, before any request that comes after. */
void front_kv_forget(struct front *front, const char *image);

#endif
