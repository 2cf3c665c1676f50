/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A job as a program: `job gunzip` or `job echo`, from standard input to standard output, both
 * whole in memory, which is the fastest way when they fit.
 */
#include <unistd.h>

#include "tests/bench/job.h"

static unsigned char in[JOB_ROOM], out[JOB_ROOM];

int main(int argc, char **argv)
{
    z_stream stream = {0};
    size_t len = 0, written = 0;
    long n = 1, size;

    while (len < sizeof(in) && n > 0) {
        n = read(STDIN_FILENO, in + len, sizeof(in) - len);
        if (n > 0)
            len += (size_t)n;
    }
    if (n < 0 || argc != 2)
        return 1;
    if (strcmp(argv[1], "gunzip") == 0)
        size = job_init(&stream) < 0 ? -1 : job_gunzip(&stream, in, len, out, sizeof(out));
    else
        size = job_echo(in, len, out, sizeof(out));
    while (size > 0 && written < (size_t)size) {
        n = write(STDOUT_FILENO, out + written, (size_t)size - written);
        if (n <= 0)
            return 1;
        written += (size_t)n;
    }
    return size < 0;
}
