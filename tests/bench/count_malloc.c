/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Linked into a variant of hld that is never installed: counts what is asked of the heap, in a file
 * that whoever measures maps too. The file stands beside the program and is named after it and the
 * process; it is opened before main, because a worker that has confined itself opens nothing.
 * glibc's own allocator does the work under the names that it exports for this.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <malloc.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define PUBLIC __attribute__((visibility("default")))

struct counts {
    _Atomic uint64_t allocations, frees, bytes;
};

extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t n, size_t size);
extern void *__libc_realloc(void *p, size_t size);
extern void *__libc_memalign(size_t alignment, size_t size);
extern void __libc_free(void *p);

static struct counts until_open;
static struct counts *counts = &until_open;

__attribute__((constructor)) static void open_counts(void)
{
    char exe[PATH_MAX], path[PATH_MAX + 32];
    ssize_t n = readlink("/proc/self/exe", exe, sizeof(exe) - 1);
    void *map;
    int fd;

    if (n <= 0)
        return;
    exe[n] = '\0';
    snprintf(path, sizeof(path), "%s.%ld", exe, (long)getpid());
    fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (fd < 0)
        return;
    if (ftruncate(fd, sizeof(*counts)) == 0) {
        map = mmap(NULL, sizeof(*counts), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (map != MAP_FAILED)
            counts = map;
    }
    close(fd);
}

static void *count(void *p, size_t size)
{
    atomic_fetch_add_explicit(&counts->allocations, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&counts->bytes, size, memory_order_relaxed);
    return p;
}

PUBLIC void *malloc(size_t size)
{
    return count(__libc_malloc(size), size);
}

PUBLIC void *calloc(size_t n, size_t size)
{
    return count(__libc_calloc(n, size), n * size);
}

PUBLIC void *realloc(void *p, size_t size)
{
    return count(__libc_realloc(p, size), size);
}

PUBLIC void *memalign(size_t alignment, size_t size)
{
    return count(__libc_memalign(alignment, size), size);
}

PUBLIC void *aligned_alloc(size_t alignment, size_t size)
{
    return count(__libc_memalign(alignment, size), size);
}

PUBLIC int posix_memalign(void **out, size_t alignment, size_t size)
{
    void *p = count(__libc_memalign(alignment, size), size);

    if (!p)
        return ENOMEM;
    *out = p;
    return 0;
}

PUBLIC void free(void *p)
{
    if (p)
        atomic_fetch_add_explicit(&counts->frees, 1, memory_order_relaxed);
    __libc_free(p);
}
