/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HL_BENCH_JOB_H
#define HL_BENCH_JOB_H

/* The jobs that hld's rivals do: the same loops as in guest/examples/gunzip.c and echo.c, on the
 * same zlib, as a function and as a program (job.c) that reads standard input to its end. */

#include <limits.h>
#include <string.h>
#include <zlib.h>

/* Once; its cost is in no rival's time but that of programs, which start anew for every job. */
static inline int job_init(z_stream *stream)
{
    return inflateInit2(stream, 16 + MAX_WBITS) == Z_OK ? 0 : -1;
}

/* Returns: how many bytes are in out, -1 for no whole .gz file or one that does not fit. */
static inline long job_gunzip(z_stream *stream, const void *in, size_t len, void *out, size_t room)
{
    if (inflateReset(stream) != Z_OK)
        return -1;
    stream->next_in = (Bytef *)in;
    stream->avail_in = (uInt)len;
    stream->next_out = out;
    stream->avail_out = room < UINT_MAX ? (uInt)room : UINT_MAX;
    do {
        if (inflate(stream, Z_FINISH) != Z_STREAM_END)
            return -1;
    } while (stream->avail_in > 0 && inflateReset(stream) == Z_OK);
    return (long)((unsigned char *)stream->next_out - (unsigned char *)out);
}

static inline long job_echo(const void *in, size_t len, void *out, size_t room)
{
    if (len > room)
        return -1;
    memcpy(out, in, len);
    return (long)len;
}

#define JOB_ROOM (2u << 20)

#endif
