/* SPDX-License-Identifier: Apache-2.0 */
/* Standard input, output and error: /dev/null stands in for a missing one, opened in the direction
 * that it is not for, so that using it is an error still. */
#include "base/standard.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

int hl_standard_open(void)
{
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++) {
        if (fcntl(fd, F_GETFD) >= 0)
            continue;
        /* The lowest free number, and so fd. */
        if (open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY) < 0)
            return -errno;
    }
    return 0;
}
