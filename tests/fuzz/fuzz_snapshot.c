/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A hostile snapshot file. Random bytes alone never get past the identity, so inputs are patches
 * (offset, length, bytes) on a good file, in its header and tables and a little behind. What loads
 * must pass the same check again when it is written, and hold to what no page may be.
 */
#include "config.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "hv/snapshot_file.h"
#include "hv/snapshot_internal.h"
#include "hv/snapshot_layout.h"
#include "tests/fake/elf.h"
#include "tests/fake/fake.h"

#define PAGE   ((uint64_t)HL_ABI_PAGE_SIZE)
#define MEMORY (8ull << 20)
#define SEALS  (F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW)

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct hv_host *host;
static struct image *img;
static uint8_t *good;
static uint64_t good_size;
static const struct snapshot_options options = {.memory_size = MEMORY, .io_size = 64 * PAGE};
static const struct snapshot_key key = {.version = "1", .name = "fuzz"};

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    const struct hv_host_config config = {.kvm_fd = -1, .nursery_fd = -1};
    struct snapshot *snap;
    size_t len;
    uint8_t *elf = fake_elf_new(&len);
    int fd;

    (void)argc;
    (void)argv;
    if (hv_backend_fake.host_open(&host, &config, NULL) < 0 ||
        image_new(&img, elf, len, NULL) < 0 ||
        snapshot_load(&snap, &hv_backend_fake, host, img, &options, NULL) < 0 ||
        snapshot_file_write(&fd, &good_size, snap, &hv_backend_fake, &key, NULL) < 0)
        abort();
    good = malloc(good_size);
    if (!good || pread(fd, good, good_size, 0) != (ssize_t)good_size)
        abort();
    close(fd);
    snapshot_unref(snap);
    return 0;
}

static void patch(uint8_t *file, size_t len, const uint8_t *data, size_t size)
{
    while (size >= 3) {
        size_t at = ((size_t)data[0] | (size_t)data[1] << 8) % len, n = 1 + data[2] % 16;

        data += 3;
        size -= 3;
        n = n > size ? size : n;
        n = n > len - at ? len - at : n;
        memcpy(file + at, data, n);
        data += n;
        size -= n;
    }
}

static void look_at(struct snapshot *snap)
{
    const struct snapshot_extent *extents;
    size_t npages, count;
    const uint8_t *prot = snapshot_prot(snap, &npages);
    uint64_t size;
    int fd;

    for (size_t page = 0; page < npages; page++) {
        if ((prot[page] & HV_PROT_WRITE) && (prot[page] & HV_PROT_EXEC))
            abort();
        if (page < HL_ABI_HYPERCALL_ADDR / PAGE && prot[page] != HV_PROT_NONE)
            abort();
    }
    for (uint64_t addr = HL_ABI_IO_ADDR; addr < HL_ABI_IO_ADDR + options.io_size; addr += PAGE) {
        if (!snapshot_page_is_zero(snapshot_memory(snap) + addr))
            abort();
    }
    extents = snapshot_extents(snap, &count);
    for (size_t i = 0; i < count; i++) {
        if (extents[i].start + extents[i].len > MEMORY)
            abort();
    }
    if (snapshot_file_write(&fd, &size, snap, &hv_backend_fake, &key, NULL) < 0)
        abort();
    close(fd);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct hv_backend hv = hv_backend_fake;
    struct hl_error err = HL_ERROR_INIT;
    struct snapshot *snap;
    uint8_t *file;
    int fd;

    if (size == 0)
        return 0;
    hv.single_file = data[0] & 1;
    file = malloc(good_size);
    fd = memfd_create("fuzz", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (!file || fd < 0)
        abort();
    memcpy(file, good, good_size);
    patch(file, 2 * PAGE < good_size ? 2 * PAGE : good_size, data + 1, size - 1);
    if (write(fd, file, good_size) != (ssize_t)good_size || fcntl(fd, F_ADD_SEALS, SEALS) < 0)
        abort();
    if (snapshot_file_load(&snap, fd, &hv, host, img, &options, &key, &err) == 0) {
        look_at(snap);
        snapshot_unref(snap);
    } else if (err.code == 0 || err.text[0] == '\0') {
        abort(); /* a refusal says why */
    }
    close(fd);
    free(file);
    return 0;
}
