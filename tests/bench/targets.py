# SPDX-License-Identifier: Apache-2.0
"""The targets: each a ratio of two figures of this run, with what it is made of."""

import statistics

from cases import GIB, MIB, kinds

NO_ALLOCATIONS = 0.001  # a call in a thousand may be the one that tidies up


class Unmeasured(Exception):
    """A target whose case gave no figure; the text says why."""


def case(results, name, *path):
    found = results["cases"].get(name, {"failed": "not asked for"})
    for key in ("", *path):
        if key:
            found = found.get(key, {"failed": f"{name} has no {key}"})
        if isinstance(found, dict) and "failed" in found:
            raise Unmeasured(found["failed"])
    return found


def p50(samples, what):
    if samples.get("n", 0) == 0:
        raise Unmeasured(f"no samples of {what}")
    return samples["p50"]


def with_floors(run, kind, figure="p50"):
    """A run's kind of request, echo and entry."""
    entry = run["entry"]
    if entry.get("skipped"):
        raise Unmeasured(entry["skipped"])
    return [run[name]["latency"][figure] for name in (kind, "ping", "entry")]


def over_floors(run, kind, figure="p50"):
    time, ping, entry = with_floors(run, kind, figure)
    return time / (ping + entry)


def middle_run(runs, kind):
    """The run whose ratio is the median one."""
    return sorted(runs, key=lambda run: over_floors(run, kind))[len(runs) // 2]


def warm_echo(results):
    rows = case(results, "latency")
    usual, asleep = [next(row for row in rows if row["bytes"] == 64 and row["polls"] == polls)
                     for polls in (True, False)]
    return beside_floors(usual["runs"], asleep["runs"], "call", "call")


def host_call(results):
    found = case(results, "host_call")
    return beside_floors(found["polls"], found["asleep"], "host", "host call")


def beside_floors(usual, asleep, kind, name):
    run = middle_run(usual, kind)
    time, ping, entry = with_floors(run, kind)
    note = (f"of least times {over_floors(run, kind, 'min'):.2f}; with a client that never "
            f"polls {statistics.median(over_floors(other, kind) for other in asleep):.2f}")
    return over_floors(run, kind), [(f"{name} p50", time, "ns"), ("echo p50", ping, "ns"),
                                    ("bare entry p50", entry, "ns")], note


def bulk_argument(results):
    pairs = []
    for small, large in case(results, "bulk", "compared"):
        for row in (small, large):
            if row["errors"]:
                raise Unmeasured(row.get("first_error", "calls failed"))
        pairs.append((large["latency"], small["latency"]))
    large, small = sorted(pairs, key=lambda pair: pair[0]["p50"] / pair[1]["p50"])[len(pairs) // 2]
    return (large["p50"] / small["p50"],
            [("1 GiB p50", large["p50"], "ns"), ("4 KiB p50", small["p50"], "ns")],
            f"of least times {large['min'] / small['min']:.2f}")


def middle(pairs):
    """The pair whose ratio, first by second, is the median one."""
    return sorted(pairs, key=lambda pair: pair[0] / pair[1])[len(pairs) // 2]


def calls_per_second(results):
    rows = case(results, "closed")["rows"]
    row = max(rows, key=lambda row: row["connections"])
    calls, echoes = middle([(second, first) for first, second in row["rounds"] if first])
    note = ""
    latency = case(results, "latency")[0]["runs"][0]
    if not latency["entry"].get("skipped"):
        entry, found = latency["entry"]["latency"]["p50"], kinds(row)
        floor, spent = [found[name]["own_cpu_ns_each"] + found[name]["server_cpu_ns_each"]
                        for name in ("ping", "call")]
        note = (f"CPU time of client and worker: {floor / 1e3:.1f} us an echo, {spent / 1e3:.1f} "
                f"us a call; an echo and a bare entry of {entry / 1e3:.1f} us together allow "
                f"{floor / (floor + entry):.2f} when CPUs are what there is too little of")
    return calls / echoes, [("calls/s", calls, ""), ("echoes/s", echoes, "")], note


def hv_cases(results, name):
    """Those of that name; of entries, those measured beside resets come first."""
    found = [entry for entry in case(results, "hypervisor")["cases"] if entry["name"] == name]
    return sorted(found, key=lambda entry: "beside" in entry)


def reset_10_pages(results):
    entry = hv_cases(results, "entry")
    resets = [found for found in hv_cases(results, "reset") if found["dirty_pages"] == 10]
    if not entry or not resets:
        raise Unmeasured("bench_hv gave no reset of 10 pages, or no entry")
    # The size nearest to the default of 64 MiB.
    reset = min(resets, key=lambda found: abs(found["memory"] - 64 * MIB))
    return (reset["p50_ns"] / entry[0]["p50_ns"],
            [("reset p50", reset["p50_ns"], "ns"), ("bare entry p50", entry[0]["p50_ns"], "ns")],
            f"{reset['memory'] // MIB} MiB of guest memory")


def reset_guest_size(results):
    resets = {(found["dirty_pages"], found["memory"]): found
              for found in hv_cases(results, "reset")}
    for pages in sorted({key[0] for key in resets}, key=lambda pages: abs(pages - 10)):
        sizes = sorted(key[1] for key in resets if key[0] == pages)
        if len(sizes) > 1 and sizes[-1] >= GIB:
            small, large = [resets[pages, sizes[i]]["p50_ns"] for i in (0, -1)]
            return (large / small,
                    [(f"{sizes[-1] // MIB} MiB p50", large, "ns"),
                     (f"{sizes[0] / MIB:g} MiB p50", small, "ns")], f"{pages} dirty pages")
    raise Unmeasured("bench_hv gave no reset of a guest of 1 GiB")


def first_call(results):
    found = case(results, "first_call")
    if found["entry"].get("skipped"):
        raise Unmeasured(found["entry"]["skipped"])
    first, entry = p50(found["first"]["total"], "first calls"), found["entry"]["latency"]["p50"]
    caller = found["first"]["latency"]["p50"]
    return (first / entry,
            [("first call p50", first, "ns"), ("bare entry p50", entry, "ns")],
            f"from read to reply, both without a socket; as the caller sees it {caller / entry:.1f}, "
            f"whose second call takes {found['second']['latency']['p50'] / 1e3:.0f} us")


def beside(name):
    def target(results):
        found = case(results, "hogs", name)
        alone, loaded = found["alone"], found["beside"]
        failed = loaded["kinds"][0]
        if failed["errors"] or not failed["latency"]["n"]:
            raise Unmeasured(f"short calls failed: {failed.get('first_error')}")
        call, echo = [middle([(b[k], a[k]) for b, a in
                              zip(loaded["windows_p99"], alone["windows_p99"]) if a[k]])
                      for k in (0, 1)]
        return call[0] / call[1], [("p99 beside", call[0], "ns"), ("p99 alone", call[1], "ns")], (
            f"hogs: {found['hogs']['clients']}; an echo without a VM at the same time "
            f"{echo[0] / echo[1]:.2f}")
    return target


def heap_allocations(results):
    found = case(results, "work", "allocations")
    worst = max(("one_connection", "eight_connections"),
                key=lambda name: found[name]["allocations"])
    return (found[worst]["allocations"],
            [("allocations", found[worst]["allocations"] * found[worst]["calls"], ""),
             ("calls", found[worst]["calls"], "")], worst.replace("_", " "))


def gunzip(results):
    ways = case(results, "rivals", "gunzip")["ways"]
    ours, floor = p50(ways["hld"], "hld"), p50(ways["in_process"], "in-process")
    return ours / floor, [("hld p50", ours, "ns"), ("in-process p50", floor, "ns")], (
        f"of least times {ways['hld']['min'] / ways['in_process']['min']:.2f}; "
        f"{ways['hld_in_the_guest']['p50'] / floor:.2f} in the guest alone")


# Name, what it is, function, limit, whether the limit is the most or the least.
TARGETS = (
    ("warm_echo", "warm echo 64 B p50 / (no-VM echo p50 + bare entry-exit p50), 1 connection",
     warm_echo, 1.3, "most"),
    ("host_call", "host call answered by the caller p50 / (no-VM echo p50 + bare entry-exit p50)",
     host_call, 1.3, "most"),
    ("calls_per_second", "calls/s with full reset / no-VM echo calls/s, 50 connections",
     calls_per_second, 0.5, "least"),
    ("reset_10_pages", "reset at 10 dirty pages / bare entry-exit", reset_10_pages, 0.15, "most"),
    ("reset_guest_size", "reset, guest of 1 GiB / of 2.25 MiB, the smallest, same dirty pages",
     reset_guest_size, 1.2, "most"),
    ("first_call", "first call without a warm instance / bare entry-exit", first_call, 10, "most"),
    ("beside_loops", "short calls' p99 beside 1 s loops / alone", beside("loop"), 3, "most"),
    ("beside_dirty", "short calls' p99 beside a guest that dirties 64 MiB a call / alone",
     beside("dirty"), 3, "most"),
    ("heap_allocations", "heap allocations per warm call", heap_allocations, 0, "most"),
    ("bulk_argument", "call that reads one byte of 1 GiB in a file / of 4 KiB in a file",
     bulk_argument, 2, "most"),
    ("gunzip", "gunzip of a 1 MiB file through hld / in-process, no isolation", gunzip, 1.25,
     "most"),
)


def verdict(ratio, limit, bound, backend):
    if backend != "kvm":
        return "unjudged"
    if ratio is None:
        return "missed"
    if bound == "least":
        return "met" if ratio >= limit else "missed"
    return "met" if ratio <= (limit or NO_ALLOCATIONS) else "missed"


def judge(results):
    judged = []
    for name, what, function, limit, bound in TARGETS:
        entry = {"name": name, "what": what, "limit": limit, "bound": bound, "ratio": None}
        try:
            ratio, made_of, note = function(results)
            entry.update(ratio=ratio, note=note,
                         made_of=[{"what": part, "value": value, "unit": unit}
                                  for part, value, unit in made_of])
        except Unmeasured as error:
            entry["unmeasured"] = str(error)
        except (LookupError, TypeError, ValueError, StopIteration, ArithmeticError) as error:
            entry["unmeasured"] = f"the case's figures are not whole: {error!r}"
        entry["verdict"] = verdict(entry["ratio"], limit, bound, results["backend"])
        judged.append(entry)
    return judged


def line(entry):
    ratio = "none" if entry["ratio"] is None else f"{entry['ratio']:.3g}"
    return f"target {entry['name']} ratio {ratio} limit {entry['limit']:g} {entry['verdict']}"
