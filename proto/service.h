/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_PROTO_SERVICE_H
#define HL_PROTO_SERVICE_H

/* Names on the wire that hl.proto gives to its services and to the details of a status. */

#define SERVICE_FUNCTIONS "hl.v1.Functions"
#define SERVICE_HOST      "hl.v1.HostFunctions"
#define SERVICE_IMAGES    "hl.v1.Images"
#define SERVICE_DAEMON    "hl.v1.Daemon"
#define SERVICE_SESSIONS  "hl.v1.Sessions"

#define DETAIL_GUEST_FAULT "type.googleapis.com/hl.v1.GuestFault"
#define DETAIL_ACCOUNTING  "type.googleapis.com/hl.v1.Accounting"

#endif
