/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A C library picks its string and math routines once, in start-up, by CPUID and XCR0; so do
 * libraries that dispatch by themselves. All leaves that name instructions are here. What is left
 * out changes without changing what may be executed: APIC ids and counts of neighbours (they differ
 * from CPU to CPU), OSXSAVE (the kernel's business, and its effect is XCR0's), the size of the
 * current XSAVE area, cache sizes and frequencies (they tune, and a copy tuned for another cache is
 * still a right copy).
 */
#include "hv/features.h"

#include <cpuid.h>
#include <sys/auxv.h>

#define ALL     0xffffffffu
#define OSXSAVE (1u << 27)

#define FEATURE_XCR0   0xf0000000u
#define FEATURE_KERNEL 0xf0000001u

/* Bits that count. Subleaves 0 to `subleaves` of a leaf have the same; SDM volume 2, CPUID. */
static const struct interest {
    uint32_t leaf, subleaves;
    uint32_t eax, ebx, ecx, edx;
} interests[] = {
    {0x00000000, 0, ALL, ALL, ALL, ALL}, {0x00000001, 0, ALL, 0x0000ff00, ~OSXSAVE, ALL},
    {0x00000007, 2, ALL, ALL, ALL, ALL}, {0x0000000d, 1, ALL, 0, ALL, ALL},
    {0x00000019, 0, ALL, ALL, ALL, ALL}, {0x00000024, 0, ALL, ALL, ALL, ALL},
    {0x80000000, 0, ALL, 0, 0, 0},       {0x80000001, 0, ALL, ALL, ALL, ALL},
    {0x80000007, 0, 0, 0, 0, ALL},       {0x80000008, 0, ALL, ALL, 0, 0},
    {FEATURE_XCR0, 0, ALL, 0, 0, ALL},   {FEATURE_KERNEL, 0, ALL, 0, 0, 0},
};

#define INTERESTS (sizeof(interests) / sizeof(interests[0]))

void hv_features_add(struct hv_features *out, const struct hv_feature *feature)
{
    for (size_t i = 0; i < INTERESTS && out->count < HV_FEATURES_MAX; i++) {
        const struct interest *in = &interests[i];

        if (feature->leaf != in->leaf || feature->subleaf > in->subleaves)
            continue;
        out->list[out->count++] = (struct hv_feature){
            .leaf = feature->leaf,
            .subleaf = feature->subleaf,
            .eax = feature->eax & in->eax,
            .ebx = feature->ebx & in->ebx,
            .ecx = feature->ecx & in->ecx,
            .edx = feature->edx & in->edx,
        };
        return;
    }
}

static void read_leaf(struct hv_features *out, uint32_t leaf, uint32_t subleaf)
{
    struct hv_feature f = {.leaf = leaf, .subleaf = subleaf};

    if (__get_cpuid_count(leaf, subleaf, &f.eax, &f.ebx, &f.ecx, &f.edx))
        hv_features_add(out, &f);
}

static void read_xcr0(struct hv_features *out)
{
    struct hv_feature f = {.leaf = FEATURE_XCR0};
    unsigned int a, b, c, d;

    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & OSXSAVE))
        return;
    __asm__ volatile("xgetbv" : "=a"(f.eax), "=d"(f.edx) : "c"(0));
    hv_features_add(out, &f);
}

void hv_features_read(struct hv_features *out)
{
    const struct hv_feature kernel = {.leaf = FEATURE_KERNEL,
                                      .eax = (uint32_t)getauxval(AT_MINSIGSTKSZ)};

    *out = (struct hv_features){0};
    for (size_t i = 0; i < INTERESTS; i++) {
        for (uint32_t sub = 0; interests[i].leaf < FEATURE_XCR0 && sub <= interests[i].subleaves;
             sub++)
            read_leaf(out, interests[i].leaf, sub);
    }
    read_xcr0(out);
    hv_features_add(out, &kernel);
}
