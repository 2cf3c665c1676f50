/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_DAEMON_SERVICE_H
#define HL_DAEMON_SERVICE_H

/* From a request frame to the method it names. Each service is a table of its own. */

#include <stddef.h>
#include <stdint.h>

struct conn;
struct frame_header;
struct request;

struct service_method {
    const char *name;
    void (*serve)(const struct request *request);
};

extern const struct service_method service_functions[];
extern const struct service_method service_host[];
extern const struct service_method service_images[];
extern const struct service_method service_daemon[];
extern const struct service_method service_sessions[];

/* payload: of the frame, borrowed. Answers, now or later. */
void service_serve(struct conn *conn, const struct frame_header *header, const uint8_t *payload);

/* Decodes the request into the shard's arena, where it stays until the next frame; answers
 * INVALID_ARGUMENT where it cannot. Returns: NULL then. */
#define service_decode(request, type, descriptor) ((type *)service_unpack(request, &(descriptor)))
void *service_unpack(const struct request *request, const void *descriptor);

#endif
