/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_TESTS_FRONT_STUB_H
#define HL_TESTS_FRONT_STUB_H

/* A worker that does what its clients tell it, by the first letter of what they send: break the
 * protocol, die, ask the front for something. channel: as a worker's. Returns: at the front's end.
 */
int front_stub_main(int channel);

#endif
