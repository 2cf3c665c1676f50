# SPDX-License-Identifier: Apache-2.0
"""Plots, by gnuplot. Each is a script with its data in it, kept beside the picture."""

import os
import shutil
import subprocess

from cases import kinds

COLOURS = ("#1f6fb4", "#d1601f", "#2d8a4e", "#7a4fa3", "#8a8a8a")
HEAD = """set terminal svg size 860,520 font "Helvetica,14" background rgb "white"
set output "{output}"
set title "{title}" font ",17"
set xlabel "{x}"
set ylabel "{y}"
set grid xtics ytics linecolor rgb "#dddddd" linewidth 1
set border 3 linecolor rgb "#555555"
set tics nomirror
set key outside right center reverse Left samplen 2 spacing 1.3
set lmargin 14
"""
MIB = 1 << 20


def us(ns):
    return ns / 1e3


def lines(output, title, x, y, series, settings):
    """series: [(name, [(x, y)…])…]. Returns the script."""
    script = HEAD.format(output=output, title=title, x=x, y=y) + settings
    for i, (_, points) in enumerate(series):
        script += f"$data{i} << END\n" + "".join(f"{a} {b}\n" for a, b in points) + "END\n"
    return script + "plot " + ", ".join(
        f"$data{i} using 1:2 with linespoints title \"{name}\" linewidth 2.5 pointtype 7 "
        f"pointsize 0.7 linecolor rgb \"{COLOURS[i % len(COLOURS)]}\""
        for i, (name, _) in enumerate(series)) + "\n"


def log_y(series):
    """A range of whole decades around the data."""
    values = [value for _, points in series for _, value in points if value > 0]
    low, high = 1e-3, 1e-3
    while low * 10 <= min(values):
        low *= 10
    while high < max(values):
        high *= 10
    form = "%.0f" if low > 0.5 else "%g"
    return f"set logscale y 10\nset yrange [{low:g}:{high:g}]\nset format y \"{form}\"\n"


def latency_by_size(results, output):
    rows = [row for row in results["cases"]["latency"] if row["polls"]]
    runs = [(row["bytes"], row["runs"][len(row["runs"]) // 2]) for row in rows]
    series = [(f"call {label}", [(size, us(run["call"]["latency"][key])) for size, run in runs])
              for key, label in (("p999", "p99.9"), ("p99", "p99"), ("p95", "p95"), ("p50", "p50"))]
    series.append(("echo, no VM, p50",
                   [(size, us(run["ping"]["latency"]["p50"])) for size, run in runs]))
    return lines(output, "Warm call by payload size, 1 connection", "payload", "latency, µs",
                 series, log_y(series) + "set logscale x 2\nset xrange [40:2000000]\n"
                 'set xtics ("64 B" 64, "4 KiB" 4096, "64 KiB" 65536, "1 MiB" 1048576)\n')


def closed_loop(results, output):
    rows = results["cases"]["closed"]["rows"]
    series = [(label, [(row["connections"], kinds(row)[name]["per_second"]["p50"]) for row in rows])
              for name, label in (("ping", "echo, no VM"), ("call", "call with reset"))]
    ticks = ", ".join(str(row["connections"]) for row in rows)
    return lines(output, "Closed loop, 64 B", "connections", "requests per second", series,
                 f"set logscale x 2\nset xrange [0.9:60]\nset xtics ({ticks})\n{log_y(series)}")


def open_loop(results, output):
    rows = results["cases"]["open"]["rows"]
    series = [(label, [(row["share"], us(row["kinds"][0]["latency"][key])) for row in rows
                       if row["kinds"][0]["latency"]["n"]])
              for key, label in (("p999", "p99.9"), ("p99", "p99"), ("p95", "p95"), ("p50", "p50"))]
    capacity = results["cases"]["open"]["capacity"]
    return lines(output, "Open loop, 64 B, from the time a call was due",
                 f"load, % of {capacity} calls/s", "latency, µs", series,
                 log_y(series) + "set xrange [20:95]\nset xtics (25, 50, 75, 90)\n")


def hv(results, name):
    found = [entry for entry in results["cases"]["hypervisor"]["cases"] if entry["name"] == name]
    return sorted(found, key=lambda entry: "beside" in entry)


def curve(entries, by, fixed, value=None):
    """(by, p50) of the entries whose other dimension is what it is for most of them."""
    entries = [entry for entry in entries if by in entry]
    if value is None and any(fixed in entry for entry in entries):
        values = [entry.get(fixed) for entry in entries]
        value = max(set(values), key=lambda v: (values.count(v), -(v or 0)))
    return value, sorted({entry[by]: us(entry["p50_ns"]) for entry in entries
                          if value is None or entry.get(fixed) == value}.items())


def reset_curves(results, output, by, fixed, title, x, settings):
    series, said = [], None
    for name, label in (("reset", "reset"), ("reset_all", "copies everything")):
        value, points = curve(hv(results, name), by, fixed, said if name == "reset_all" else None)
        if not points and name == "reset_all":
            value, points = curve(hv(results, name), by, fixed)
        if said is None:
            said = value
        if len(points) == 1 and series:  # what it copies does not depend on what was written
            points = [(series[0][1][i][0], points[0][1]) for i in (0, -1)]
        if points:
            series.append((label, points))
    if not series:
        return None
    entry = hv(results, "entry")
    if entry:
        left, right = series[0][1][0][0], series[0][1][-1][0]
        series.append(("bare entry", [(left, us(entry[0]["p50_ns"])),
                                      (right, us(entry[0]["p50_ns"]))]))
    of = f", guest of {said // MIB} MiB" if fixed == "memory" and said else (
        f", {said} dirty pages" if said is not None else "")
    return lines(output, title + of, x, "time, µs", series, log_y(series) + settings)


def reset_dirty(results, output):
    return reset_curves(results, output, "dirty_pages", "memory", "Reset by pages written",
                        "pages written by the call", "set logscale x 2\n")


def reset_memory(results, output):
    script = reset_curves(results, output, "memory", "dirty_pages", "Reset by guest memory",
                          "guest memory, MiB", "set logscale x 2\nset xtics rotate by 0\n")
    return script and script.replace("using 1:2", f"using ($1/{MIB}):2")


def bars(output, title, y, groups, series, values, settings):
    """values: a row a group of (p50, p99) a series; the line on a bar goes up to its p99."""
    script = HEAD.format(output=output, title=title, x="", y=y) + settings
    script += "set boxwidth 0.8 relative\nset style fill solid 0.85 noborder\nset grid noxtics\n"
    script += "set bmargin 4\n"
    width = len(series) + 1
    ticks = ", ".join(f'"{name}" {i * width + (len(series) - 1) / 2}'
                      for i, name in enumerate(groups))
    script += f"set xtics ({ticks}) scale 0\nset xrange [-1:{len(groups) * width - 1}]\n"
    for j, _ in enumerate(series):
        script += f"$data{j} << END\n" + "".join(
            f"{i * width + j} {row[j][0]} {max(row[j][1], row[j][0])}\n"
            for i, row in enumerate(values) if row[j]) + "END\n"
    parts = []
    for j, name in enumerate(series):
        parts.append(f"$data{j} using 1:2:(0.8) with boxes linecolor rgb \"{COLOURS[j]}\" "
                     f"title \"{name}\"")
    for j, _ in enumerate(series):
        parts.append(f"$data{j} using 1:2:(0):($3-$2) with vectors nohead linewidth 2 "
                     "linecolor rgb \"#222222\" notitle")
    return script + "plot " + ", \\\n    ".join(parts) + "\n"


def above(values):
    """A logarithmic scale for bars: from a decade below the least to above the most."""
    every = [value for row in values for pair in row if pair for value in pair if value > 0]
    return log_y([("", [(0, min(every) / 3), (0, max(every))])])


def hogs(results, output):
    found = results["cases"]["hogs"]
    values = [[(us(side["kinds"][k]["latency"]["p50"]), us(side["kinds"][k]["latency"]["p99"]))
               for side in (found[name]["alone"], found[name]["beside"])]
              for name in ("loop", "dirty") for k in (0, 1)]
    return bars(output, "Short requests alone and beside hogs (bar p50, line to p99)",
                "latency, µs", ("call,\\n1 s loops", "echo without VM,\\n1 s loops",
                "call,\\n64 MiB a call",
                 "echo without VM,\\n64 MiB a call"),
                ("alone", "beside hogs"), values, above(values))


def rivals(results, output):
    found = results["cases"]["rivals"]
    ways = [("in_process", "in-process,\\nno isolation"), ("hld", "hld"),
            ("spawn_static", "posix\\\\_spawn,\\nstatic"), ("fork_exec", "fork + exec,\\ndynamic"),
            ("bubblewrap", "bubblewrap")]
    ways = [(way, label) for way, label in ways if way in found["gunzip"]["ways"]]
    values = [[(us(found[job]["ways"][way]["p50"]), us(found[job]["ways"][way]["p99"]))
               if way in found[job]["ways"] else None for job in ("gunzip", "echo")]
              for way, _ in ways]
    return bars(output, "The same job by other means (bar p50, line to p99)", "time, µs",
                [label for _, label in ways], ("gunzip to 1 MiB", "echo of 1 KiB"), values,
                above(values))


PLOTS = (("latency_by_size", latency_by_size), ("closed_loop", closed_loop),
         ("open_loop", open_loop), ("reset_dirty", reset_dirty), ("reset_memory", reset_memory),
         ("hogs", hogs), ("rivals", rivals))


def draw(results, directory):
    """Draws what was measured; returns the names of the pictures that there are now."""
    drawn = []
    for name, function in PLOTS:
        picture, script = name + ".svg", os.path.join(directory, name + ".gp")
        if os.path.exists(os.path.join(directory, picture)):
            os.unlink(os.path.join(directory, picture))
        try:
            text = function(results, picture)
        except (KeyError, IndexError, TypeError, ValueError):
            continue  # its case was not measured; the report says so there
        if not text:
            continue
        with open(script, "w", encoding="utf-8") as file:
            file.write(text)
        if not shutil.which("gnuplot"):
            continue
        done = subprocess.run(["gnuplot", name + ".gp"], cwd=directory, capture_output=True,
                              check=False)
        if done.returncode == 0:
            drawn.append(picture)
        else:
            print(f"gnuplot, {name}: {done.stderr.decode(errors='replace').strip()}")
    return drawn
