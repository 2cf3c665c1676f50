/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Many connections at once, from one thread: each has one call in flight and starts the next from
 * the callback of the last.
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "client/hlctl/bench.h"

struct load {
    const struct hl_call *call;
    uint64_t to_start, to_finish;
    int code; /* of the first call that failed; err says why */
    struct hl_client_error err;
};

struct lane {
    struct hl_client *client;
    struct load *load;
};

static void start(struct lane *lane);

static void done(void *opaque, uint64_t id, int code, const struct hl_result *result,
                 const struct hl_client_error *err)
{
    struct lane *lane = opaque;
    struct load *load = lane->load;

    (void)id;
    (void)result;
    load->to_finish--;
    if (code < 0 && load->code == 0) {
        load->code = code;
        load->err = *err;
    } else if (code == HL_GUEST_ERROR && load->code == 0) {
        load->code = -EREMOTEIO;
        load->err = (struct hl_client_error){.status = HL_STATUS_UNKNOWN,
                                             .text = "the function returned an error"};
    }
    if (load->code == 0)
        start(lane);
}

static void start(struct lane *lane)
{
    struct load *load = lane->load;
    int r;

    if (load->to_start == 0)
        return;
    load->to_start--;
    r = hl_client_submit(lane->client, load->call, done, lane, NULL, &load->err);
    if (r < 0)
        load->code = r;
}

static int run_lanes(struct load *load, struct lane *lanes, struct pollfd *pfds, unsigned int n)
{
    for (unsigned int i = 0; i < n; i++) {
        pfds[i].fd = hl_client_fd(lanes[i].client);
        start(&lanes[i]);
    }
    while (load->code == 0 && load->to_finish > 0) {
        for (unsigned int i = 0; i < n; i++)
            pfds[i].events = hl_client_events(lanes[i].client);
        if (poll(pfds, n, -1) < 0 && errno != EINTR)
            return -errno;
        for (unsigned int i = 0; i < n && load->code == 0; i++) {
            if (pfds[i].revents && hl_client_process(lanes[i].client, &load->err) < 0)
                load->code = -ECONNRESET;
        }
    }
    return load->code;
}

int bench_load(struct hlctl *ctl, const struct hl_call *call, unsigned int connections,
               uint64_t count, uint64_t *ns)
{
    struct load load = {.call = call, .to_start = count, .to_finish = count};
    struct lane *lanes = calloc(connections, sizeof(*lanes));
    struct pollfd *pfds = calloc(connections, sizeof(*pfds));
    uint64_t begin;
    int r = lanes && pfds ? 0 : -ENOMEM;

    for (unsigned int i = 0; r == 0 && i < connections; i++) {
        lanes[i].load = &load;
        r = hl_client_connect(&lanes[i].client, ctl->socket, &load.err);
        /* One ping each, so that no connection is still being handed over when time starts. */
        if (r == 0)
            hl_client_set_depth(lanes[i].client, ctl->depth);
        if (r == 0)
            r = hl_client_ping(lanes[i].client, NULL, 0, &load.err);
    }
    begin = ctl_now();
    if (r == 0)
        r = run_lanes(&load, lanes, pfds, connections);
    *ns = ctl_now() - begin;
    if (r == -ENOMEM && load.code == 0)
        r = fail_local(ctl, "out of memory");
    else if (r < 0)
        r = fail_with(ctl, &load.err);
    /* Callbacks of calls still running come here. */
    load.to_start = 0;
    for (unsigned int i = 0; lanes && i < connections; i++)
        hl_client_disconnect(lanes[i].client);
    free(lanes);
    free(pfds);
    return r;
}
