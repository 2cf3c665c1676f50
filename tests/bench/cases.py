# SPDX-License-Identifier: Apache-2.0
"""The cases, each a function of the run that returns what it measured as plain objects.

Whatever is compared is measured in turns by the same process in the same minute: machines that are
shared are noisy, and a ratio of two figures from different minutes is a ratio of noises.
"""

import glob
import gzip
import os
import statistics
import time

import work
from daemon import Daemon, Failed, Skipped, run_json
from machine import kernel_memory, rollup

SIZES = (64, 4096, 65536, 1 << 20)
CONNECTIONS = (1, 2, 8, 50)
SHARES = (25, 50, 75, 90)
ECHO = "call:bench:echo:bytes="
HOST_CALLS = 100  # of one call
MIB, GIB = 1 << 20, 1 << 30


def kinds(measured):
    """The kinds of a run by what they are."""
    return {kind["kind"].split(":")[0]: kind for kind in measured["kinds"]}


def add_bench(daemon):
    """The benchmark's guest, with room for 64 MiB of its own and arguments of a mebibyte."""
    daemon.add(daemon.bench.program("tests/bench/guest"), "bench", memory="128M", io_size="2M",
               deadline="60s")


def latency(bench, daemon):
    """A warm echo beside its floors, by payload size; polling as libhlclient does, and never."""
    rows = []
    for size in SIZES:
        count = max(bench.sizes["calls"] // (1 if size < 65536 else 4 if size == 65536 else 20), 20)
        for polls in (True, False):
            spin = {} if polls else {"spin": 0}
            repeats = bench.sizes["repeats"] if size == 64 else 1
            runs = [kinds(daemon.load("turns", f"ping:{size}", f"{ECHO}{size}", "entry",
                                      count=count, warmup=max(count // 10, 10), **spin,
                                      round=50 if size < 65536 else 10))
                    for _ in range(repeats)]
            runs.sort(key=lambda run: run["call"]["latency"]["p50"]
                      / run["ping"]["latency"]["p50"])  # the middle one is shown
            rows.append({"bytes": size, "polls": polls, "runs": runs})
    return rows


def host_call(bench, daemon):
    """Host calls that the calling client answers, beside their floors, each timed by itself from
    one to the next; the client polling as libhlclient does, and never."""
    daemon.add(bench.program("tests/bench/guest"), "outward", memory="128M", io_size="2M",
               deadline="60s", allow="echo(bytes) -> bytes @client", host_rate=1000000)
    count, found = bench.sizes["calls"], {"calls": HOST_CALLS}
    for how, spin, repeats in (("polls", {}, bench.sizes["repeats"]), ("asleep", {"spin": 0}, 1)):
        found[how] = [kinds(daemon.load("turns", "ping:64", "host:outward:outward:bytes=64",
                                        "entry", count=count, warmup=max(count // 10, 10), **spin,
                                        round=HOST_CALLS))
                      for _ in range(repeats)]
    return found


def bulk(bench, daemon):
    """Calls of a function that reads one byte of its argument, which comes in a file or in the
    message, by size. The two that the target compares take turns with nothing else: a slow kind
    would leave client and worker asleep for whichever comes next."""
    def measure(specs):
        count = max(bench.sizes["calls"] // 8, 20)
        measured = daemon.load("turns", *[f"call:bench:last:{spec}" for spec in specs], count=count,
                               warmup=max(count // 10, 10), round=10)
        return [{"how": kind["kind"].split(":")[-1].split("=")[0],
                 "bytes": int(kind["kind"].split("=")[-1]), **kind} for kind in measured["kinds"]]

    return {"compared": [measure(("memfd=4096", f"memfd={GIB}"))
                         for _ in range(bench.sizes["repeats"])],
            "others": [row for how, size in (("memfd", 65536), ("memfd", MIB), ("memfds", 65536),
                                             ("memfds", GIB), ("bytes", 65536), ("bytes", MIB))
                       for row in measure((f"{how}={size}",))]}


def codec(bench, _):
    """Protobuf and frames alone."""
    return run_json([bench.program("tests/bench/codec"), *map(str, SIZES)])["cases"]


def closed(bench, daemon):
    """Calls a second over connections that each wait for their answer, echo and call in turns."""
    rows = []
    for connections in CONNECTIONS:
        longest = connections == max(CONNECTIONS)
        rows.append(daemon.load("closed", "ping:64", f"{ECHO}64", connections=connections,
                                window=bench.sizes["window"] if longest
                                else bench.sizes["window"] // 2,
                                rounds=bench.sizes["rounds"], watch=daemon.worker()))
    before = daemon.ctl("stats")["counters"]
    daemon.load("closed", f"{ECHO}64", connections=8, window=bench.sizes["window"], rounds=1)
    after = daemon.ctl("stats")["counters"]
    done = {name: after.get(name, 0) - before.get(name, 0)
            for name in ("calls", "resets", "pages_reset", "audits", "audit_failures")}
    return {"rows": rows, "counters": done}


def open_loop(bench, daemon):
    """Latency from the intended send time at shares of what the closed loop reached."""
    measured = bench.results["cases"].get("closed", {})
    if "rows" not in measured:
        raise Failed("needs the closed loop's capacity")
    capacity = max(kinds(row)["call"]["per_second"]["p50"] for row in measured["rows"])
    rows = []
    for share in SHARES:
        row = daemon.load("open", f"{ECHO}64", connections=50, exponential=True,
                          rate=max(capacity * share // 100, 1), seconds=bench.sizes["seconds"],
                          watch=daemon.worker())
        rows.append({"share": share, **row})
    return {"capacity": capacity, "rows": rows}


def hogs(bench, daemon):
    """Short calls alone and beside guests that loop, and beside guests that dirty 64 MiB a call."""
    shards = daemon.ctl("info")["shards"]
    found = {"shards": shards}
    for name, hog, clients in (("loop", "call:bench:spin:u32=1000", shards),
                               ("dirty", "call:bench:dirty64m", 1)):
        found[name] = daemon.load("beside", f"{ECHO}64", "ping:64", hog=hog, hogs=clients,
                                  rate=bench.sizes["short_rate"], window=bench.sizes["beside"],
                                  # in turns: the call on one connection, the echo on the other
                                  rounds=bench.sizes["beside_rounds"], connections=2)
    return found


def first_call(bench, daemon):
    """The first call to each of several images; none of them has a warm instance."""
    return daemon.load("first", "call:x:echo:bytes=64", prefix="first", gap=30,
                       program=bench.program("guest/examples/echo"), count=bench.sizes["images"])


def registration(bench, daemon):
    """From the first byte of a program sent to the first answer of its function."""
    return daemon.load("register", "call:x:echo:bytes=64", prefix="register", gap=20,
                       program=bench.program("guest/examples/echo"), count=bench.sizes["images"])


def register_many(daemon, prefix, program, count):
    """Registers them all, whatever that takes. Returns how long it took and how often hld had to
    be started again because it could not take more, with its reason."""
    done, took, stops = 0, 0, []
    while True:
        made = daemon.load("many", prefix=prefix, program=program, count=count, first=done,
                           timeout=3600)
        took += made["ns"]
        if not made["failed"]:
            return took, stops
        if made["registered"] == done:
            raise Failed(f"image {done} of {count}: {made['failed']}")
        done = made["registered"]
        stops.append(f"after {done} images: {made['failed']}")
        daemon.stop()
        daemon.start()


def restart(bench, _):
    """hld with many images, stopped and started again: when it answers its first call."""
    count, found = bench.sizes["many"], []
    with Daemon(bench, "restart") as daemon:
        took, stops = register_many(daemon, "many", bench.program("tests/guests/bare"), count)
        for turn in range(3):
            daemon.stop()
            begin = time.monotonic()
            daemon.start()
            listening = time.monotonic() - begin
            image = f"many-{count * (turn + 1) // 4}"
            call = daemon.load("turns", f"call:{image}:checksum:bytes=64", warmup=0, count=1)
            answered = time.monotonic() - begin
            others = [daemon.load("turns", f"call:many-{i}:checksum:bytes=64", warmup=0, count=1)
                      for i in range(turn, count, max(count // 10, 1))]
            front, worker = rollup(daemon.process.pid), rollup(daemon.worker())
            found.append({
                "listening_ms": listening * 1e3, "answered_ms": answered * 1e3,
                "first_call": kinds(call)["call"]["latency"]["p50"],
                "other_first_calls": [kinds(other)["call"]["latency"]["p50"] for other in others],
                "front_pss": front and front["Pss"], "worker_pss": worker and worker["Pss"]})
    return {"images": count, "registered_ms": took / 1e6, "stops": stops, "turns": found}


def footprint(daemon):
    """Memory of front and worker, and the kernel's."""
    processes = [rollup(daemon.process.pid), rollup(daemon.worker())]
    if None in processes:
        raise Skipped("memory of other users' processes is root's to see")
    return {"pss": sum(process["Pss"] for process in processes),
            "rss": sum(process["Rss"] for process in processes), "kernel": kernel_memory()}


def settle(daemon, image, wanted):
    """Waits for so many warm instances, while they grow; returns how many there are."""
    end, warm = time.monotonic() + 1.5, -1
    while time.monotonic() < end and warm < wanted:
        before, warm = warm, sum(entry["warm"] for entry in daemon.ctl("stats")["images"]
                                 if entry["name"] == image)
        if warm != before:
            end = time.monotonic() + 1.5
        time.sleep(0.1)
    time.sleep(0.3)
    return warm


def memory(bench, _):
    """What an idle instance and a registered image hold, user and kernel memory."""
    instances, images, found = bench.sizes["instances"], bench.sizes["images"], []
    echo = bench.program("guest/examples/echo")
    for turn in range(3):
        with Daemon(bench, f"memory{turn}") as daemon:
            daemon.add(echo, "one")
            daemon.load("turns", "call:one:echo:bytes=64", count=20, warmup=0)
            before = (settle(daemon, "one", 1), footprint(daemon))
            daemon.add(echo, "one", min=instances, max=instances)
            daemon.load("turns", "call:one:echo:bytes=64", count=20, warmup=0)
            after = (settle(daemon, "one", instances), footprint(daemon))
            made = daemon.load("many", prefix="image", program=echo, count=images)
            if made["failed"]:
                raise Failed(f"image {made['registered']} of {images}: {made['failed']}")
            time.sleep(0.3)
            registered = footprint(daemon)
        grown = after[0] - before[0]
        if grown <= 0:
            raise Failed(f"{after[0]} instances are warm where {instances} were asked for")
        found.append({
            "instances": grown, "images": images,
            "instance": {key: (after[1][key] - before[1][key]) / grown for key in after[1]},
            "image": {key: (registered[key] - after[1][key]) / images for key in registered}})
    middle = {of: {key: statistics.median(turn[of][key] for turn in found)
                   for key in found[0][of]} for of in ("instance", "image")}
    return {"turns": found, **middle}


def real_file(bench):
    """The file that is compressed: C files of this project, one behind the other, a mebibyte of
    them: the same bytes wherever the same version is measured."""
    plain, path = b"", os.path.join(bench.work, "sources")
    for folder in ("base", "client", "daemon", "guest", "hv", "proto", "tests"):
        for name in sorted(glob.glob(os.path.join(bench.source, folder, "**", "*.[ch]"),
                                     recursive=True)):
            with open(name, "rb") as file:
                plain += file.read()
    plain = plain[:1 << 20]
    with open(path, "wb") as file:
        file.write(plain)
    with open(path + ".gz", "wb") as file:
        file.write(gzip.compress(plain, 9, mtime=0))
    return path


def rivals(bench, daemon):
    """The same job by what a user would do instead."""
    path, found = real_file(bench), {}
    small = os.path.join(bench.work, "small")
    with open(path, "rb") as file, open(small, "wb") as out:
        out.write(file.read(1024))
    daemon.add(bench.program("guest/examples/gunzip"), "gunzip", io_size="2M")
    bwrap = bench.tool("bwrap")
    for job, image, given, expected in (("gunzip", "gunzip", path + ".gz", path),
                                        ("echo", "bench", small, small)):
        words = ["--image", image, "--job", job, "--input", given, "--expected", expected,
                 "--dynamic", bench.program("tests/bench/job_dynamic"),
                 "--static", bench.program("tests/bench/job_static"),
                 "--count", str(bench.sizes["jobs"])]
        try:
            found[job] = daemon.tool("rivals", *words, *(["--bwrap", bwrap] if bwrap else []))
        except Failed as error:
            if not bwrap or "bwrap" not in str(error):
                raise
            found[job] = {**daemon.tool("rivals", *words), "without_bubblewrap": str(error)}
    found["file"] = "C files of this project, one behind the other"
    return found


def hypervisor(bench, _):
    """Reset, binding and first calls below the daemon, by the machine itself."""
    if bench.backend != "kvm":
        raise Skipped(f"it is about kvm, and this is {bench.backend}")
    program = bench.program("tests/bench/bench_hv", required=False)
    if not program:
        raise Skipped("tests/bench/bench_hv is not built here")
    return run_json([program, *bench.sizes["hv"], "--guest",
                     bench.program("guest/examples/echo")], timeout=1800)


# Name, function, whether it shares the run's daemon. The order is that of running.
CASES = (
    ("latency", latency, True),
    ("host_call", host_call, True),
    ("bulk", bulk, True),
    ("codec", codec, False),
    ("closed", closed, True),
    ("open", open_loop, True),
    ("hypervisor", hypervisor, False),
    ("first_call", first_call, True),
    ("registration", registration, True),
    ("rivals", rivals, True),
    ("hogs", hogs, True),
    ("work", work.per_call, False),
    ("memory", memory, False),
    ("restart", restart, False),
)
