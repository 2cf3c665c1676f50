/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Debian's static zlib in a guest: a .gz file in, its bytes out. inflate writes straight into the
 * I/O window, and its state was allocated before the snapshot, so a call allocates nothing; unless
 * what comes out is larger than the window, and the caller takes that.
 */
#include <hlguest.h>

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

enum { FAIL_CORRUPT = 1, FAIL_TOO_LARGE = 2 };

static z_stream stream;
static uint8_t *heap; /* output too large for the window, or NULL */

static int set_up(void)
{
    /* 16: a gzip header, not a zlib one. */
    if (inflateInit2(&stream, 16 + MAX_WBITS) != Z_OK)
        hl_fail(HL_FAIL_INIT, "inflateInit2: %s", stream.msg ? stream.msg : "failed");
    return 0;
}
HL_INIT(set_up);

/* The output so far in twice as much room. */
static void grow(const uint8_t *window, size_t *room)
{
    uint8_t *more = hl_result_large() && *room <= UINT_MAX / 2 ? realloc(heap, *room * 2) : NULL;

    if (!more)
        hl_fail(FAIL_TOO_LARGE, "more than %zu bytes", *room);
    if (!heap)
        memcpy(more, window, *room);
    stream.next_out = more + *room;
    stream.avail_out = (uInt)*room;
    *room *= 2;
    heap = more;
}

/* What a call before left, in a session. */
static void start_over(void)
{
    if (inflateReset(&stream) != Z_OK)
        hl_fail(FAIL_CORRUPT, "inflateReset: %s", stream.msg ? stream.msg : "failed");
    free(heap);
    heap = NULL;
}

HL_FUNCTION(bytes, gunzip, (bytes, file))
{
    size_t room = hl_result_room();
    uint8_t *window = hl_alloc_result(room), *out;
    int code;

    start_over();
    stream.next_in = (Bytef *)file.data;
    stream.avail_in = (uInt)file.len;
    stream.next_out = window;
    stream.avail_out = room < UINT_MAX ? (uInt)room : UINT_MAX;
    do { /* a .gz file may hold several members, one behind the other */
        while ((code = inflate(&stream, Z_FINISH)) != Z_STREAM_END && stream.avail_out == 0)
            grow(window, &room);
        if (code != Z_STREAM_END)
            hl_fail(FAIL_CORRUPT, "not a whole .gz file: %s",
                    stream.msg            ? stream.msg
                    : code == Z_BUF_ERROR ? "it ends early"
                                          : zError(code));
    } while (stream.avail_in > 0 && inflateReset(&stream) == Z_OK);
    out = heap ? heap : window;
    return hl_bytes_of(out, (size_t)(stream.next_out - out));
}
