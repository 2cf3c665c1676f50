# SPDX-License-Identifier: Apache-2.0
"""The report for people: Markdown, the targets first, then every case in a table."""

import re

from cases import kinds
from targets import middle_run, Unmeasured

MIB = 1 << 20


def us(ns):
    """Nanoseconds as microseconds with three digits or all before the point."""
    value = ns / 1e3
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def size(count):
    for unit, name in ((1 << 30, "GiB"), (MIB, "MiB"), (1 << 10, "KiB")):
        if abs(count) >= unit:
            return f"{count / unit:.4g} {name}"
    return f"{count:.0f} B"


def figure(value, unit):
    if unit == "ns":
        return f"{us(value)} µs"
    return f"{value:.0f}" if float(value).is_integer() or abs(value) >= 100 else f"{value:.3g}"


FIGURE = re.compile(r"–|none|[≤≥]? ?[-+.\de]+( %| [KMG]?i?B)?")


def table(head, rows):
    """Words to the left, figures to the right."""
    rows = [[str(cell) for cell in row] for row in rows]
    right = [all(FIGURE.fullmatch(row[i]) for row in rows) for i in range(len(head))]
    lines = ["| " + " | ".join(head) + " |",
             "|" + "|".join("---:" if to_right else "---" for to_right in right) + "|"]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines) + "\n\n"


PERCENTILES = ("min", "p50", "p95", "p99", "p999")
HEAD = ("min", "p50", "p95", "p99", "p99.9")


def spread(samples):
    return [us(samples[key]) if samples.get("n") else "–" for key in PERCENTILES]


def targets(results):
    text, rows = "## Targets\n\n", []
    if results["backend"] != "kvm":
        text += (f"The backend is {results['backend']}; targets are for kvm, so the ratios below "
                 "are not judged.\n\n")
    for entry in results["targets"]:
        ratio = "none" if entry["ratio"] is None else f"{entry['ratio']:.3g}"
        sign = "≤" if entry["bound"] == "most" else "≥"
        made = ", ".join(f"{part['what']} {figure(part['value'], part['unit'])}"
                         for part in entry.get("made_of", []))
        note = entry.get("note") or entry.get("unmeasured", "")
        rows.append([f"`{entry['name']}`: {entry['what']}", ratio, f"{sign} {entry['limit']:g}",
                     entry["verdict"], made or "–", note])
    return text + table(["target", "ratio", "limit", "", "made of", "also"], rows)


def machine(results):
    found, hld = results["machine"], results.get("hld", {})
    settings = ", ".join(f"{key} = {value}" for key, value in
                         hld.get("configuration", {}).items()
                         if key not in ("socket", "state_dir"))
    rows = [["CPU", f"{found['cpu']}, {found['cpus']} of them usable"
             + (", itself a virtual machine" if found["virtual"] else "")],
            ["memory", size(found["memory_bytes"])],
            ["kernel", found["kernel"]],
            ["load average before", " ".join(found["load_before"])],
            ["load average after", " ".join(found.get("load_after", []))],
            ["hld", f"{hld.get('version')}, backend {hld.get('backend')}, "
                    f"{hld.get('shards')} shards"],
            ["confined by", " ".join(hld.get("confinement", []))],
            ["settings not built in", settings],
            ["run", f"{results['level']}, {results['date']}"]]
    return "## Machine\n\n" + table(["", ""], rows)


def latency(rows):
    lines = []
    for row in rows:
        run = row["runs"][len(row["runs"]) // 2]
        for name, label in (("ping", "echo, no VM"), ("call", "call"), ("entry", "bare entry")):
            if name == "entry" and row["bytes"] != 64 or run[name].get("skipped"):
                continue
            polling = "" if row["polls"] else ", client never polls"
            lines.append([f"{label}, {size(row['bytes'])}{polling}", run[name]["latency"]["n"],
                          *spread(run[name]["latency"])])
    first = rows[0]["runs"][0]["call"]
    return ("One connection, one request at a time, µs as the caller sees it.\n\n"
            + table(["", "n", *HEAD], lines)
            + f"Of a 64 B call, the daemon's own account: in the guest and its exits p50 "
            f"{us(first['run']['p50'])} µs, from read to reply {us(first['total']['p50'])} µs.\n\n")


def host_call(found):
    lines = []
    for how, label in (("polls", ""), ("asleep", ", client never polls")):
        try:
            run = middle_run(found[how], "host")
        except Unmeasured:  # no entry to compare with
            run = found[how][0]
        for kind, what in (("ping", "echo, no VM"), ("host", "host call"), ("entry", "bare entry")):
            if not run[kind].get("skipped"):
                lines.append([what + label, run[kind]["latency"]["n"],
                              *spread(run[kind]["latency"])])
        if how == "polls":
            each, inside = run["host"]["each"]["p50"], run["host"]["run"]["p50"]
    return (f"64 B, one connection, µs as the client sees it that makes the call and answers its "
            f"host calls: from one host call to the next, {found['calls']} and one in each call.\n\n"
            + table(["", "n", *HEAD], lines)
            + f"A whole call's time by how many host calls it made: p50 {us(each)} µs, of which in "
            f"the guest and its exits {us(inside)} µs.\n\n")


def bulk(found):
    rows = found["compared"][len(found["compared"]) // 2] + found["others"]
    how = {"memfd": "in a file", "memfds": "in two files by turns", "bytes": "in the message"}
    lines = [[f"{size(row['bytes'])} {how[row['how']]}", row["latency"]["n"],
              *spread(row["latency"])] for row in rows]
    return ("A function that reads one byte of its argument, one connection, one request at a time, "
            "µs as the caller sees it; the first two in turns, each other alone.\n\n"
            + table(["", "n", *HEAD], lines))


def codec(rows):
    return ("Encode and decode once, frame and envelope included, µs; no socket, no daemon.\n\n"
            + table(["payload", "request p50", "response p50", "both"],
                    [[size(row["bytes"]), us(row["request"]["p50"]), us(row["response"]["p50"]),
                      us(row["request"]["p50"] + row["response"]["p50"])] for row in rows]))


def closed(found):
    lines = []
    for row in found["rows"]:
        for name, label in (("ping", "echo, no VM"), ("call", "call")):
            kind = kinds(row)[name]
            lines.append([f"{label}, {row['connections']} connection{'s'[:row['connections'] > 1]}",
                          kind["per_second"]["p50"], us(kind["own_cpu_ns_each"]),
                          us(kind["server_cpu_ns_each"]), *spread(kind["latency"])[1:]])
    counted = found["counters"]
    return ("64 B, every connection waits for its answer; windows of echoes and calls in turns, "
            "rates are medians of them. CPU is time of client and worker for one request, µs; "
            "latency in µs.\n\n"
            + table(["", "per second", "client CPU", "worker CPU", *HEAD[1:]], lines)
            + f"A window's worth of calls over 8 connections: {counted['calls']} calls, "
            f"{counted['resets']} resets, {counted['pages_reset']} pages put back, "
            f"{counted['audits']} audits, {counted['audit_failures']} audit failures.\n\n")


def open_loop(found):
    lines = [[f"{row['share']} %", row["rate"], row["kinds"][0]["errors"],
              *spread(row["kinds"][0]["latency"])[1:], us(row["late"]["p99"])]
             for row in found["rows"]]
    return (f"64 B, 50 connections, exponential gaps; capacity is {found['capacity']} calls/s, the "
            "most of the closed loop. Latency from the time a call was due, µs; the last column is "
            "how late the generator itself was.\n\n"
            + table(["load", "rate", "errors", *HEAD[1:], "late p99"], lines)
            + "".join(f"Errors at {row['share']} %: {row['kinds'][0]['first_error']}\n\n"
                      for row in found["rows"] if row["kinds"][0]["errors"]))


HV_NAMES = {"reset": "reset", "reset_all": "reset that copies everything", "entry": "bare entry",
            "audit": "audit", "shell_new": "new shell", "bind": "bind", "call": "call",
            "first_call": "first call after binding", "bind_first_call": "bind and first call"}
HV_FIGURES = ("name", "dirty_pages", "memory", "n", "min_ns", "p50_ns", "p95_ns")


def hv_label(case):
    """Its name, and whatever else tells it from others of that name."""
    more = [f"{key} {value}".lower().replace("_", " ") for key, value in case.items()
            if key not in HV_FIGURES]
    name = HV_NAMES.get(case["name"], case["name"].replace("_", " "))
    return name + (f" ({', '.join(more)})" if more else "")


def hypervisor(found):
    lines, sizes = [], []
    for case in found["cases"]:
        if "p50_ns" not in case:  # bytes, not times
            sizes += [[f"{case['name']} {key}".replace("_", " "), size(value)]
                      for key, value in case.items()
                      if key == "value" or key.endswith("_bytes")]
            continue
        lines.append([hv_label(case), case.get("dirty_pages", "–"),
                      size(case["memory"]) if "memory" in case else "–", case.get("n", "–"),
                      *[us(case[key]) for key in ("min_ns", "p50_ns", "p95_ns")]])
    text = "Below the daemon, µs.\n\n" + table(
        ["", "dirty pages", "memory", "n", "min", "p50", "p95"], lines)
    return text + (table(["memory of one more", ""], sizes) if sizes else "")


def first_call(found):
    lines = [["first call, caller", *spread(found["first"]["latency"])],
             ["first call, in the daemon", *spread(found["first"]["total"])],
             ["first call, waiting for its instance", *spread(found["first"]["queue"])],
             ["second call, caller", *spread(found["second"]["latency"])],
             ["bare entry", *spread(found["entry"]["latency"])]]
    return (f"{found['first']['latency'].get('n', 0)} images without a warm instance, with time "
            "for shells to be made ready between them, µs.\n\n" + table(["", *HEAD], lines))


def registration(found):
    return ("From the first byte sent until it is registered, and until its function's first "
            "answer, µs.\n\n" + table(["", *HEAD], [["registered", *spread(found["registered"])],
                                            ["first answer", *spread(found["answered"])]]))


def restart(found):
    lines = []
    for i, turn in enumerate(found["turns"]):
        others = sorted(turn["other_first_calls"])
        lines.append([i + 1, f"{turn['listening_ms']:.1f}", f"{turn['answered_ms']:.1f}",
                      f"{others[len(others) // 2] / 1e6:.2f}", f"{others[-1] / 1e6:.2f}",
                      size(turn["front_pss"] or 0), size(turn["worker_pss"] or 0)])
    return (f"{found['images']} images (registered in {found['registered_ms'] / 1e3:.1f} s), hld "
            "stopped and started again; files may be in the page cache. Times in ms from its "
            "start, that of the first answered call with the start of the client in it; then "
            "first calls to other images, and proportional memory.\n\n"
            + table(["restart", "listens", "first answer", "first calls p50", "most", "front",
                     "worker"], lines)
            + "".join(f"While they were registered hld had to be started again, {stop}\n\n"
                      for stop in found["stops"]))


def memory(found):
    lines = [[label, *[size(found[of][key]) for key in ("rss", "pss", "kernel")]]
             for of, label in (("instance", f"idle instance (of {found['turns'][0]['instances']})"),
                               ("image", f"registered image (of {found['turns'][0]['images']})"))]
    return ("What one more holds: resident (RSS) and proportional (PSS) memory of front and "
            "worker, and the kernel's (slabs, stacks, page tables, per-CPU); median of three daemons. "
            "The kernel's is the whole machine's, so other work on it shows.\n\n"
            + table(["", "RSS", "PSS", "kernel"], lines))


def side_rows(name, found):
    for label, side in (("alone", found["alone"]), ("beside", found["beside"])):
        for kind, what in zip(side["kinds"], ("call", "echo, no VM")):
            yield [f"{what}, {label}" + (f" {name}" if label == "beside" else ""),
                   kind["latency"]["n"], kind["errors"], *spread(kind["latency"])[1:]]


def hogs(found):
    lines = [*side_rows(f"{found['loop']['hogs']['clients']} loops of 1 s", found["loop"]),
             *side_rows("64 MiB a call", found["dirty"])]
    return (f"64 B calls at {found['loop']['rate'] // 2} a second and echoes at as many, open "
            "loop, µs; windows alone and beside hogs in turns.\n\n"
            + table(["", "n", "errors", *HEAD[1:]], lines))


WAYS = {"in_process": "in-process, no isolation", "hld": "hld",
        "hld_in_the_guest": "hld, in the guest alone", "spawn_static": "posix_spawn, static",
        "fork_exec": "fork + exec, dynamic", "bubblewrap": "bubblewrap"}


def rivals(found):
    text = ""
    for job in ("gunzip", "echo"):
        measured = found[job]
        floor = measured["ways"]["in_process"]["p50"] or 1
        ours = measured["ways"]["hld"]["p50"] or 1
        lines = [[label, *spread(measured["ways"][way])[:4],
                  f"{measured['ways'][way]['p50'] / floor:.3g}",
                  f"{measured['ways'][way]['p50'] / ours:.3g}"]
                 for way, label in WAYS.items() if way in measured["ways"]]
        text += (f"{job}: {size(measured['input_bytes'])} in, {size(measured['output_bytes'])} out"
                 + (f" ({found['file']})" if job == "gunzip" else "") + ", µs, taken in turns.\n\n"
                 + table(["", *HEAD[:4], "÷ in-process", "÷ hld"], lines))
        if "without_bubblewrap" in measured:
            text += f"bubblewrap does not run here: {measured['without_bubblewrap']}\n\n"
        elif "bubblewrap" not in measured["ways"]:
            text += "bubblewrap is not installed here.\n\n"
    return text


def work(found):
    text = "What one more warm 64 B call costs the worker, beside an echo.\n\n"
    counted = found["allocations"]
    if "failed" in counted:
        text += f"Heap allocations: not counted, {counted['failed']}\n\n"
    else:
        text += table(["heap", "allocations", "frees", "bytes"],
                      [[name.replace("_", " ").replace("ping", "echo, one connection"),
                        *[f"{counted[name][key]:.3f}" for key in ("allocations", "frees", "bytes")]]
                       for name in counted])
    calls = found["system_calls"]
    if "failed" in calls:
        text += f"System calls: not counted, {calls['failed']}\n\n"
    else:
        names = {**calls["call"]["each"], **calls["ping"]["each"]}
        lines = [["all", f"{calls['call']['total']:.2f}", f"{calls['ping']['total']:.2f}"]]
        lines += [[name, *[f"{calls[kind]['each'].get(name, 0):.2f}" for kind in ("call", "ping")]]
                  for name in names]
        text += table(["system calls (strace)", "call", "echo"], lines)
    effort = found["effort"]
    if "failed" in effort:
        return text + f"Effort: not measured, {effort['failed']}\n\n"
    lines = [[name.replace("_ns", ", µs").replace("cpu", "CPU time"),
              *[(us(effort[kind].get(name, 0)) if name.endswith("_ns")
                 else f"{effort[kind].get(name, 0):.3g}") for kind in ("call", "ping")]]
             for name in effort["call"] if name != "calls"]
    return text + table(["effort", "call", "echo"], lines) + f"By {effort['how']}.\n\n"


SECTIONS = (
    ("latency", "Warm calls and their floors", latency, ("latency_by_size.svg",)),
    ("host_call", "Host calls and their floors", host_call, ()),
    ("bulk", "Arguments in files", bulk, ()),
    ("codec", "Protobuf and frames alone", codec, ()),
    ("closed", "Closed loop", closed, ("closed_loop.svg",)),
    ("open", "Open loop", open_loop, ("open_loop.svg",)),
    ("hypervisor", "Reset, shells and binding", hypervisor,
     ("reset_dirty.svg", "reset_memory.svg")),
    ("first_call", "First call to an image", first_call, ()),
    ("registration", "Registration", registration, ()),
    ("restart", "Restart with many images", restart, ()),
    ("memory", "Memory", memory, ()),
    ("hogs", "Short calls beside hogs", hogs, ("hogs.svg",)),
    ("rivals", "The same job by other means", rivals, ("rivals.svg",)),
    ("work", "Work for a call", work, ()),
)


def section(results, name, title, function, drawn):
    found = results["cases"].get(name)
    if found is None:
        return ""
    text = f"## {title}\n\n"
    if isinstance(found, dict) and "failed" in found:
        return text + f"Not measured: {found['failed']}\n\n"
    try:
        text += function(found)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        text += f"report.json has what was measured; this table cannot be made of it: {error!r}\n\n"
    return text + "".join(f"![{plot[:-4]}]({plot})\n\n" for plot in drawn
                          if plot in results.get("plots", []))


def markdown(results):
    text = "# hld benchmark\n\n"
    if results["level"] == "smoke":
        text += "A smoke run: far too short for its figures to mean anything.\n\n"
    text += targets(results) + machine(results)
    for entry in SECTIONS:
        text += section(results, *entry)
    return text.rstrip() + "\n"
