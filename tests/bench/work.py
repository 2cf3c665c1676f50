# SPDX-License-Identifier: Apache-2.0
"""What a warm call makes the worker do: heap allocations, system calls, instructions or CPU time.

Allocations are counted by a build of hld with counters in it; the difference of a long run and a
short one, so that connecting and warming up are in neither. System calls are strace's count. Where
the machine has no counter of instructions, CPU time stands for them.
"""

import collections
import os
import re
import shutil
import signal
import struct
import subprocess
import time

from daemon import Daemon, Failed, Skipped
from machine import read

CALL = "call:bench:echo:bytes=64"
PING = "ping:64"


def per_call(bench, _):
    found = {"allocations": part(allocations, bench)}
    with Daemon(bench, "work") as daemon:
        daemon.add(bench.program("tests/bench/guest"), "bench", memory="128M")
        found["system_calls"] = part(system_calls, bench, daemon)
        found["effort"] = part(effort, bench, daemon)
    return found


def part(function, *arguments):
    """Parts fail one by one: not every machine has every tool."""
    try:
        return function(*arguments)
    except Skipped as error:
        return {"failed": str(error), "skipped": True}
    except (Failed, OSError) as error:
        return {"failed": str(error)}


def read_counts(path):
    with open(path, "rb") as file:
        return struct.unpack("QQQ", file.read(24))


def calls_so_far(daemon):
    return daemon.ctl("stats")["counters"]["calls"]


def allocations(bench):
    built = bench.program("tests/bench/hld_counted", required=False)
    if not built:
        raise Skipped("this build has no hld_counted (sanitizers have an allocator of their own)")
    program = shutil.copy(built, os.path.join(bench.work, "hld_counted"))
    count, found = bench.sizes["calls"], {}
    with Daemon(bench, "counted", program) as daemon:
        daemon.add(bench.program("tests/bench/guest"), "bench", memory="128M")
        path = f"{program}.{daemon.worker()}"
        for name, kind, mode in (("one_connection", CALL, "turns"), ("ping", PING, "turns"),
                                 ("eight_connections", CALL, "closed")):
            runs = []
            for scale in (4, 1, 4, 4):  # the first warms up
                before = (read_counts(path), calls_so_far(daemon))
                if mode == "turns":
                    daemon.load("turns", kind, warmup=0, count=count * scale)
                else:
                    daemon.load("closed", kind, connections=8, rounds=1, window=100 * scale)
                time.sleep(0.2)  # the connections' end
                after = (read_counts(path), calls_so_far(daemon))
                calls = count * scale if kind == PING else after[1] - before[1]
                runs.append((calls, [b - a for a, b in zip(before[0], after[0])]))
            (short, few), *long_runs = runs[1:]
            # The fewer of two: a machine made meanwhile is no part of a call.
            long, many = min(long_runs, key=lambda run: (run[1][0] - few[0]) / (run[0] - short))
            found[name] = {"calls": long - short,
                           **{key: (many[i] - few[i]) / (long - short)
                              for i, key in enumerate(("allocations", "frees", "bytes"))}}
    return found


def count_calls(log):
    """System call → how often, from strace's lines; ioctl by what it asks for."""
    found = collections.Counter()
    with open(log, encoding="utf-8", errors="replace") as file:
        for line in file:
            call = re.match(r"\d+ +(?:ioctl\(\d+, (\w+)|(\w+)\()", line)
            if call:
                found[call.group(1) or call.group(2)] += 1
    return found


def trace(bench, daemon, run):
    """The worker's system calls during run()."""
    log, said = os.path.join(bench.work, "calls"), os.path.join(bench.work, "strace")
    with open(said, "wb") as out:
        strace = subprocess.Popen(["strace", "-f", "-o", log, "-p", str(daemon.worker())],
                                  stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    try:
        end = time.monotonic() + 10
        while "attached" not in read(said):
            if strace.poll() is not None or time.monotonic() > end:
                raise Skipped(f"strace: {read(said).strip()[-200:]}")
            time.sleep(0.05)
        time.sleep(0.1)  # all threads
        measured = run()
        strace.send_signal(signal.SIGINT)
        strace.wait(30)
    finally:
        if strace.poll() is None:
            strace.kill()
            strace.wait()
    return measured, count_calls(log)


def system_calls(bench, daemon):
    if not bench.tool("strace"):
        raise Skipped("no strace here")
    count, found = bench.sizes["traced"], {}
    for name, kind in (("call", CALL), ("ping", PING)):
        daemon.load("turns", kind, count=100)
        few, many = [trace(bench, daemon,
                           lambda n=n: daemon.load("turns", kind, warmup=0, count=n))[1]
                     for n in (count, 3 * count)]
        each = {key: (many[key] - few[key]) / (2 * count) for key in many}
        found[name] = {"calls": 2 * count, "total": sum(each.values()),
                       "each": {key: value for key, value in
                                sorted(each.items(), key=lambda item: -item[1]) if value >= 0.005}}
    return found


def ticks(pid):
    """User and system time of a process in seconds, in steps of a scheduler tick."""
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
        words = file.read().rpartition(")")[2].split()
    return [int(word) / os.sysconf("SC_CLK_TCK") for word in words[11:13]]


def perf(bench, pid, run):
    """Counts by perf during run(), those that this machine has."""
    out = os.path.join(bench.work, "perf")
    events = "instructions:u,instructions:k,cycles:u,cycles:k,task-clock,context-switches"
    command = ["perf", "stat", "-x", ";", "-o", out, "-e", events, "-p", str(pid)]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)
    time.sleep(0.3)
    try:
        measured = run()
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.wait(30)
    found = {}
    for line in open(out, encoding="utf-8", errors="replace"):
        words = line.split(";")
        if len(words) > 2 and re.fullmatch(r"[\d.]+", words[0]):
            found[words[2]] = float(words[0])
    return measured, found


def effort(bench, daemon):
    """Instructions where they can be counted, else CPU time, of the worker for one call."""
    pid, count, found = daemon.worker(), bench.sizes["calls"] * 2, {}
    for name, kind in (("call", CALL), ("ping", PING)):
        def run():
            return daemon.load("turns", kind, warmup=0, count=count)
        run()
        before, counted = ticks(pid), {}
        if bench.tool("perf"):
            counted = perf(bench, pid, run)[1]
        else:
            run()
        user, system = [(b - a) / count * 1e9 for a, b in zip(before, ticks(pid))]
        found[name] = {"calls": count, "user_ns": user, "system_ns": system,
                       **{key: value / count for key, value in counted.items()}}
        if "task-clock" in counted:  # in milliseconds
            found[name]["cpu_ns"] = found[name].pop("task-clock") * 1e6
    found["how"] = ("perf stat" if any("instructions" in key for key in found["call"])
                    else "CPU time from /proc in ticks; this machine counts no instructions for "
                    "perf")
    return found
