/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The bulk window of a guest process: files that the guest maps itself, by its handler. The worker
 * sends each with a message and waits for nothing, as with every answer that needs none; what goes
 * wrong over there ends the process, so that no guest goes on without its argument.
 *
 * A guest that has taken over its handler can leave such messages unread, and the files in them are
 * kept by the kernel for as long. How many is bounded here, at the one place where it costs nothing
 * to a call without files.
 */
#include "config.h"

#include <errno.h>
#include <linux/sockios.h>
#include <sys/ioctl.h>

#include "hv/process_machine.h"

#define PAGE HL_ABI_PAGE_SIZE

/* Of unread messages, as the kernel counts their memory: 1 to 1.3 KiB each. A guest that reads them
 * at all has at most those of one call waiting, and what took the files of the call before away. */
#define UNREAD_MAX 32768

static bool too_much_unread(const struct hv_machine *m)
{
    int unread = 0;

    return ioctl(m->sock, SIOCOUTQ, &unread) < 0 || unread > UNREAD_MAX;
}

int process_attach(struct hv_machine *m, hl_gpa addr, int fd, uint64_t len)
{
    const struct process_answer answer = {
        .magic = PROCESS_MAGIC, .kind = PROCESS_ANSWER_ATTACH, .addr = addr, .len = len};
    uint64_t at = addr - HL_ABI_BULK_ADDR;
    int rc = process_await(m, NULL);

    if (rc < 0)
        return rc;
    if ((m->state != PROCESS_FRESH && m->state != PROCESS_WAITING) || at >= HL_ABI_BULK_SIZE ||
        at % HL_ABI_BULK_UNIT || len == 0 || len > UINT32_MAX || len > HL_ABI_BULK_SIZE - at)
        return -EINVAL;
    if (m->nbulk > 0 && addr < m->bulk[m->nbulk - 1].end)
        return -EINVAL;
    if (m->nbulk == PROCESS_BULK_MAX || too_much_unread(m))
        return -ENOBUFS;
    rc = process_tell(m, &answer, fd);
    if (rc < 0)
        return rc == -ETOOMANYREFS || rc == -EAGAIN ? -ENOBUFS : rc;
    m->bulk[m->nbulk].start = addr;
    m->bulk[m->nbulk].end = addr + (len + PAGE - 1) / PAGE * PAGE;
    m->nbulk++;
    return 0;
}

int process_detach(struct hv_machine *m)
{
    const struct process_answer answer = {.magic = PROCESS_MAGIC, .kind = PROCESS_ANSWER_DETACH};
    int rc = m->nbulk > 0 ? process_tell(m, &answer, -1) : 0;

    if (rc == 0)
        m->nbulk = 0;
    return rc;
}

bool process_is_attached(const struct hv_machine *m, hl_gpa addr)
{
    for (unsigned int i = 0; i < m->nbulk; i++) {
        if (addr >= m->bulk[i].start && addr < m->bulk[i].end)
            return true;
    }
    return false;
}
