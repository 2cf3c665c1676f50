/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_DAEMON_SHARE_H
#define HL_DAEMON_SHARE_H

/* How shards share what all of them together may have only so much of. */

#include <stdatomic.h>
#include <stdint.h>

struct pool;
struct pooled;
struct shard;

/* The pool's calls go without: the other shards are asked. The caller tries once more afterwards,
 * for what was given back before they could know. */
void share_starve(struct pool *pool);

/* The pool waits for nothing any more. */
void share_forget(struct pool *pool);

/* Something was given back: tells those who wait for it. wanted: of the program it was an instance
 * of, or NULL. */
void share_wake(struct shard *shard, _Atomic uint64_t *wanted);

/* Another shard that wants an instance of this program, or NULL. It is taken off the list. */
struct shard *share_wanted_by(struct shard *shard, _Atomic uint64_t *wanted);

/* Gives p, which is in no list, to another shard. */
void share_hand_over(struct pooled *p, struct shard *to);

#endif
