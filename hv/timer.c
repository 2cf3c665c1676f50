/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Kicks and deadlines. A kick from another thread must not fall into the gap between "nothing to
 * do, enter the guest" and the entry: the kicker stores `pending` and then looks which thread runs;
 * the runner stores its thread and then looks at `pending`. Either the kicker sees the thread and
 * sends the signal, or the runner sees the kick. From there the signal handler, on the runner's own
 * thread, sets *flag, which the entry itself looks at with signals held off (kvm's immediate_exit).
 *
 * The handler decides by what is due, not by why the signal came: a signal that arrives late, in
 * the run of another machine, interrupts that run but sets no flag, and the run goes on.
 */

#include "hv/timer.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

#define NEVER    UINT64_MAX
#define FLOOR_NS 50000u  /* the shortest run that a time in the past gives */
#define AHEAD_NS 300000u /* a timer due this soon for a run that is over is moved on */
#define NS_PER_S 1000000000u
#define MAX_S    (1u << 30) /* of a timer; later counts as never */

/* Initial-exec, so that the handler never finds its thread's block yet to be allocated. */
#define THREAD_LOCAL _Thread_local __attribute__((tls_model("initial-exec")))

struct thread_state {
    bool ready;
    pid_t tid;
    timer_t timer;
    volatile uint64_t armed_ns; /* NEVER: not armed */
    struct hv_kick *volatile current;
};

static THREAD_LOCAL struct thread_state self;

uint64_t hv_now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

static void arm(uint64_t until_ns)
{
    struct itimerspec spec = {
        .it_value = {.tv_sec = (time_t)(until_ns / NS_PER_S),
                     .tv_nsec = (long)(until_ns % NS_PER_S)},
    };

    if (until_ns / NS_PER_S >= MAX_S) {
        self.armed_ns = NEVER;
        return;
    }
    /* Before the call: the signal may come before it returns, and it clears armed_ns. */
    self.armed_ns = until_ns;
    timer_settime(self.timer, TIMER_ABSTIME, &spec, NULL);
}

static bool is_due(struct hv_kick *kick)
{
    return atomic_load(&kick->pending) || hv_now_ns() >= kick->until_ns;
}

static void on_signal(int sig, siginfo_t *info, void *context)
{
    int saved = errno;
    struct hv_kick *kick = self.current;

    (void)sig;
    (void)context;
    if (info->si_code == SI_TIMER)
        self.armed_ns = NEVER;
    if (kick) {
        if (is_due(kick))
            *kick->flag = 1;
        else if (kick->until_ns < self.armed_ns)
            arm(kick->until_ns);
    }
    errno = saved;
}

static int install_error;

static void install(void)
{
    struct sigaction action = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_RESTART};

    sigfillset(&action.sa_mask);
    if (sigaction(HV_KICK_SIGNAL, &action, NULL) < 0)
        install_error = -errno;
}

int hv_thread_init(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = HV_KICK_SIGNAL};
    sigset_t set;
    int r;

    if (self.ready)
        return 0;
    pthread_once(&once, install);
    if (install_error < 0)
        return install_error;

    self.tid = (pid_t)syscall(SYS_gettid);
    self.armed_ns = NEVER;
    self.current = NULL;
    event.sigev_notify_thread_id = self.tid;
    if (timer_create(CLOCK_MONOTONIC, &event, &self.timer) < 0)
        return -errno;

    /* libuv's pool threads start with every signal blocked. */
    sigemptyset(&set);
    sigaddset(&set, HV_KICK_SIGNAL);
    r = pthread_sigmask(SIG_UNBLOCK, &set, NULL);
    if (r != 0) {
        timer_delete(self.timer);
        return -r;
    }
    self.ready = true;
    return 0;
}

void hv_thread_fini(void)
{
    if (!self.ready)
        return;
    self.ready = false;
    timer_delete(self.timer);
}

void hv_kick_init(struct hv_kick *kick, volatile uint8_t *flag)
{
    kick->flag = flag;
    kick->until_ns = NEVER;
    atomic_store(&kick->pending, 0);
    atomic_store(&kick->thread, 0);
}

void hv_kick_send(struct hv_kick *kick)
{
    pid_t tid;

    atomic_store(&kick->pending, 1);
    tid = atomic_load(&kick->thread);
    if (tid != 0)
        syscall(SYS_tgkill, getpid(), tid, HV_KICK_SIGNAL);
}

void hv_kick_begin(struct hv_kick *kick, uint64_t until_ns)
{
    uint64_t now = hv_now_ns(), armed_ns = self.armed_ns;
    bool move_on;

    if (until_ns < now + FLOOR_NS)
        until_ns = now + FLOOR_NS;
    /* What is armed was for an earlier run. Its signal would do no harm but cost this run an exit,
     * so it is moved on when it is near; far from it, the next runs will be shorter than that. */
    move_on = until_ns < armed_ns || armed_ns < now + AHEAD_NS;
    *kick->flag = 0;
    kick->until_ns = until_ns;
    /* Before arming: should the timer fire in between, the handler arms it again for this run. */
    atomic_signal_fence(memory_order_seq_cst);
    self.current = kick;
    atomic_signal_fence(memory_order_seq_cst);
    if (move_on || until_ns < self.armed_ns)
        arm(until_ns);

    atomic_store(&kick->thread, self.tid);
    if (atomic_load(&kick->pending))
        *kick->flag = 1;
}

bool hv_kick_due(struct hv_kick *kick)
{
    /* Cleared first: a signal after this line sets it again. */
    *kick->flag = 0;
    atomic_signal_fence(memory_order_seq_cst);
    if (atomic_exchange(&kick->pending, 0))
        return true;
    return kick->until_ns != NEVER && hv_now_ns() >= kick->until_ns;
}

void hv_kick_end(struct hv_kick *kick)
{
    atomic_store(&kick->thread, 0);
    self.current = NULL;
    atomic_signal_fence(memory_order_seq_cst);
}
