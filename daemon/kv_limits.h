/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_DAEMON_KV_LIMITS_H
#define HL_DAEMON_KV_LIMITS_H

/* What the store takes, as worker and front both check it: a request is one control packet. */

#define KV_KEY_MAX   255u
#define KV_VALUE_MAX 32768u

#endif
