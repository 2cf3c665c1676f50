/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Many connections at once, from one thread: on each one request is under way, and its callback
 * starts the next. A window ends at its time; what is under way then is waited for before the next
 * kind's window begins, and counts for neither rate.
 */
#include "config.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "tests/bench/load.h"

#define EVENTS_AT_ONCE 64

struct lanes {
    uint64_t count;
    struct hl_client **clients;
    bool *sending; /* epoll waits for room to send too */
    int epoll;
    uint64_t spin_ns;
};

static void watch(struct lanes *lanes, uint64_t i, int how)
{
    struct epoll_event event = {
        .events = lanes->sending[i] ? EPOLLIN | EPOLLOUT : EPOLLIN,
        .data.u64 = i,
    };

    if (epoll_ctl(lanes->epoll, how, hl_client_fd(lanes->clients[i]), &event) < 0)
        bench_die("epoll_ctl: %s", strerror(errno));
}

struct lanes *lanes_new(const struct load *load, uint64_t connections)
{
    struct lanes *lanes = bench_alloc(sizeof(*lanes));

    lanes->count = connections;
    lanes->spin_ns = load->spin_us == SPIN_DEFAULT ? 0 : load->spin_us * 1000;
    lanes->clients = bench_alloc(connections * sizeof(*lanes->clients));
    lanes->sending = bench_alloc(connections * sizeof(*lanes->sending));
    lanes->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (lanes->epoll < 0)
        bench_die("epoll_create1: %s", strerror(errno));
    for (uint64_t i = 0; i < connections; i++) {
        lanes->clients[i] = load_connect(load);
        watch(lanes, i, EPOLL_CTL_ADD);
    }
    return lanes;
}

struct hl_client *lanes_client(struct lanes *lanes, uint64_t i)
{
    return lanes->clients[i % lanes->count];
}

void lanes_free(struct lanes *lanes)
{
    for (uint64_t i = 0; i < lanes->count; i++)
        hl_client_disconnect(lanes->clients[i]);
    close(lanes->epoll);
    free(lanes->clients);
    free(lanes->sending);
    free(lanes);
}

static int wait_events(struct lanes *lanes, struct epoll_event *events, uint64_t until_ns)
{
    uint64_t now = bench_now(), spin_end = now + lanes->spin_ns, left;
    struct timespec ts;
    int n = 0;

    if (spin_end > until_ns)
        spin_end = until_ns;
    while (n == 0 && now < spin_end) {
        n = epoll_wait(lanes->epoll, events, EVENTS_AT_ONCE, 0);
        now = bench_now();
    }
    if (n != 0)
        return n;
    left = now < until_ns ? until_ns - now : 0;
    ts = (struct timespec){
        .tv_sec = (time_t)(left / 1000000000u),
        .tv_nsec = (long)(left % 1000000000u),
    };
    return epoll_pwait2(lanes->epoll, events, EVENTS_AT_ONCE, until_ns == UINT64_MAX ? NULL : &ts,
                        NULL);
}

/* Requests are sent from callbacks of other connections too, so all are looked at. */
static void watch_all(struct lanes *lanes)
{
    for (uint64_t i = 0; i < lanes->count; i++) {
        bool sending = hl_client_events(lanes->clients[i]) & POLLOUT;

        if (sending != lanes->sending[i]) {
            lanes->sending[i] = sending;
            watch(lanes, i, EPOLL_CTL_MOD);
        }
    }
}

void lanes_process(struct lanes *lanes, uint64_t until_ns)
{
    struct epoll_event events[EVENTS_AT_ONCE];
    struct hl_client_error err;
    int n;

    watch_all(lanes);
    n = wait_events(lanes, events, until_ns);
    if (n < 0 && errno != EINTR)
        bench_die("epoll_pwait2: %s", strerror(errno));
    for (int i = 0; i < n; i++) {
        if (hl_client_process(lanes->clients[events[i].data.u64], &err) < 0)
            bench_die("%s", err.text);
    }
}

/* ---- closed loop ---- */

struct lane {
    struct window *window;
    struct hl_client *client;
    uint64_t start;
};

struct window {
    struct kind *kind;
    uint64_t end, running, in_time;
    bool keep;
    struct lane *lanes;
};

static void start(struct lane *lane);

static void done(void *opaque, uint64_t id, int code, const struct hl_result *result,
                 const struct hl_client_error *err)
{
    struct lane *lane = opaque;
    struct window *window = lane->window;
    uint64_t now = bench_now();

    (void)id;
    window->running--;
    if (window->keep)
        kind_note(window->kind, now - lane->start, code, result, err);
    if (now >= window->end)
        return;
    if (code == 0)
        window->in_time++;
    start(lane);
}

static void start(struct lane *lane)
{
    struct hl_client_error err;

    lane->start = bench_now();
    lane->window->running++;
    if (kind_submit(lane->window->kind, lane->client, done, lane, &err) < 0)
        bench_die("%s: %s", lane->window->kind->spec, err.text);
}

static void run_window(const struct load *load, struct lanes *lanes, struct lane *lane,
                       struct kind *kind, bool keep)
{
    uint64_t begin = bench_now(), own = bench_own_cpu(), server = bench_cpu_of(load->watch);
    struct window window = {
        .kind = kind,
        .end = begin + load->window_ms * NSEC_PER_MSEC,
        .keep = keep,
        .lanes = lane,
    };

    for (uint64_t i = 0; i < lanes->count; i++) {
        lane[i] = (struct lane){.window = &window, .client = lanes->clients[i]};
        start(&lane[i]);
    }
    while (window.running > 0)
        lanes_process(lanes, UINT64_MAX);
    if (!keep)
        return;
    kind->own_cpu += bench_own_cpu() - own;
    kind->server_cpu += bench_cpu_of(load->watch) - server;
    kind->ns += bench_now() - begin;
    samples_add(&kind->windows, window.in_time * 1000 / load->window_ms);
}

/* What the last window of each kind reached, in requests a second. */
static json_t *last_windows(const struct load *load)
{
    json_t *row = json_array();

    for (unsigned int k = 0; k < load->nkinds; k++) {
        const struct samples *windows = &load->kinds[k].windows;

        json_array_append_new(row, json_integer((json_int_t)windows->ns[windows->count - 1]));
    }
    return row;
}

json_t *load_closed(struct load *load)
{
    struct lanes *lanes = lanes_new(load, load->connections);
    struct lane *lane = bench_alloc(lanes->count * sizeof(*lane));
    json_t *kinds = json_array(), *rounds = json_array();

    for (uint64_t r = 0; r <= load->rounds; r++) {
        for (unsigned int k = 0; k < load->nkinds; k++)
            run_window(load, lanes, lane, &load->kinds[k], r > 0); /* the first is to warm up */
        if (r > 0)
            json_array_append_new(rounds, last_windows(load));
    }
    for (unsigned int k = 0; k < load->nkinds; k++)
        json_array_append_new(kinds, kind_json(&load->kinds[k]));
    free(lane);
    lanes_free(lanes);
    return json_pack("{s:I, s:o, s:o}", "connections", (json_int_t)load->connections, "kinds",
                     kinds, "rounds", rounds);
}
