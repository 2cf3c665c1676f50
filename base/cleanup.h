/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_BASE_CLEANUP_H
#define HL_BASE_CLEANUP_H

/* Cleanup attributes: `_cleanup_free_ char *s = NULL;`, `_cleanup_close_ int fd = -1;`. */

#include <stdlib.h>
#include <unistd.h>

#define _cleanup_(fn)   __attribute__((cleanup(fn)))
#define _cleanup_free_  _cleanup_(hl_cleanup_freep)
#define _cleanup_close_ _cleanup_(hl_cleanup_closep)

/* For a type with `void fn(T *)` that takes NULL: HL_DEFINE_CLEANUP(struct image *, image_free). */
#define HL_DEFINE_CLEANUP(type, fn)                                                                \
    static inline void fn##p(type *p)                                                              \
    {                                                                                              \
        if (*p)                                                                                    \
            fn(*p);                                                                                \
    }

static inline void hl_cleanup_freep(void *p)
{
    free(*(void **)p);
}

static inline void hl_cleanup_closep(int *fd)
{
    if (*fd >= 0)
        close(*fd);
}

/* Hands a resource to the caller, past its cleanup. */
#define HL_STEAL(p)                                                                                \
    ({                                                                                             \
        __typeof__(p) _stolen = (p);                                                               \
        (p) = NULL;                                                                                \
        _stolen;                                                                                   \
    })

static inline int hl_steal_fd(int *fd)
{
    int stolen = *fd;

    *fd = -1;
    return stolen;
}

#endif
