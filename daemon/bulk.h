/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_DAEMON_BULK_H
#define HL_DAEMON_BULK_H

/*
 * Descriptors of one call: files whose bytes are its arguments, and one that its result goes to.
 * They are the client's memory and the client's to pay for: nothing is allocated here by reading or
 * writing them. Owned by the shard of the call, then of the instance that has begun it, and free
 * again once that instance is not running.
 */

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/value.h"
#include "proto/hl.pb-c.h"

struct bulk;
struct engine;
struct request;

/* The descriptors that message names, which came with the frame being served, checked and charged.
 * *out: NULL where it names none. Returns: 0; -EINVAL for a descriptor that is missing or not such
 * as proto/hl.proto says; -ENOBUFS past [engine] bulk_budget; another negative errno. */
int bulk_take(struct bulk **out, const struct request *request,
              const Hl__V1__InvokeRequest *message, struct hl_error *err);
void bulk_free(struct bulk *bulk); /* NULL is allowed */

/* As an argument. Returns: 0, or -EINVAL for one that was not taken. */
int bulk_argument(const struct bulk *bulk, const Hl__V1__Descriptor *named, struct hl_value *out,
                  struct hl_error *err);

/* Where the result goes: *room bytes, or NULL where it goes into the message. bulk: may be NULL. */
void *bulk_result(const struct bulk *bulk, size_t *room);

/* The result is there: from now on nobody changes it. Returns: 0 with what to tell the client in
 * out; -EBUSY where somebody still could. */
int bulk_seal_result(struct bulk *bulk, size_t len, Hl__V1__Descriptor *out, struct hl_error *err);

#endif
