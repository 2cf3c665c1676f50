/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_HV_FEATURES_H
#define HL_HV_FEATURES_H

/*
 * What this host's processor and kernel tell a guest of themselves: whatever a program's start-up
 * may have chosen code by. A snapshot holds such choices, so it must not run where the list is
 * another one. Plain numbers, to be compared or hashed; the same on every CPU of a host.
 */

#include <stddef.h>
#include <stdint.h>

#define HV_FEATURES_MAX 64u

struct hv_feature {
    uint32_t leaf, subleaf; /* of CPUID; past 0xf0000000: numbers of our own */
    uint32_t eax, ebx, ecx, edx;
};

struct hv_features {
    size_t count;
    struct hv_feature list[HV_FEATURES_MAX];
};

/* What instructions tell that nothing can intercept for a guest of every backend. */
void hv_features_read(struct hv_features *out);

/* One more leaf, as some hypervisor has it. What is of no interest in it is left out. */
void hv_features_add(struct hv_features *out, const struct hv_feature *feature);

#endif
