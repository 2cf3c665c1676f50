# SPDX-License-Identifier: Apache-2.0
"""The benchmark: every case in one go, then the targets, a line each.

    run.py --build DIR --output DIR [--quick | --smoke] [--backend auto|kvm|process] [--strict]
           [--case NAME]...

contrib/bench builds first and then runs this; doc/benchmarks.md says what is measured. Results are
report.json, report.md and SVG plots. A case that fails is in the report with its reason, and so are
the targets that needed it. The exit status is 0 when everything ran, 1 when a case failed or, with
--strict, a target was missed.
"""

import argparse
import datetime
import json
import os
import shutil
import signal
import sys
import tempfile
import time

sys.dont_write_bytecode = True

# pylint: disable=wrong-import-position
import cases
import machine
import plots
import report
import targets
from daemon import Daemon, Failed, Skipped

# How much of everything: calls for a latency's percentiles, windows in milliseconds, and so on.
SIZES = {
    "full": {"calls": 20000, "repeats": 5, "window": 1000, "rounds": 7, "seconds": 10,
             "short_rate": 1000, "beside": 3000, "beside_rounds": 5, "images": 100, "many": 10000,
             "instances": 30, "jobs": 200, "traced": 2000, "hv": []},
    "quick": {"calls": 3000, "repeats": 3, "window": 500, "rounds": 3, "seconds": 2,
              "short_rate": 1000, "beside": 1000, "beside_rounds": 3, "images": 40, "many": 500,
              "instances": 16, "jobs": 40, "traced": 300, "hv": ["--quick"]},
    "smoke": {"calls": 100, "repeats": 1, "window": 60, "rounds": 1, "seconds": 1,
              "short_rate": 200, "beside": 250, "beside_rounds": 1, "images": 2, "many": 10,
              "instances": 3, "jobs": 2, "traced": 50, "hv": ["--quick"]},
}


class Bench:
    """What all cases share."""

    def __init__(self, options, backend, work):
        self.build = os.path.abspath(options.build)
        self.source = os.path.abspath(os.path.join(os.path.dirname(os.path.abspath(__file__)),
                                                   "..", ".."))
        self.sizes = SIZES[options.level]
        self.backend = backend
        self.work = work
        self.results = {"level": options.level, "backend": backend, "sizes": self.sizes,
                        "date": datetime.datetime.now(datetime.timezone.utc).isoformat("T",
                                                                                     "seconds"),
                        "machine": machine.describe(), "cases": {}}

    def program(self, name, required=True):
        path = os.path.join(self.build, name)
        if os.path.isfile(path):
            return path
        if required:
            raise Failed(f"{name} is not built in {self.build}")
        return None

    @staticmethod
    def tool(name):
        return shutil.which(name)


def run_case(bench, name, function, daemon):
    """Whatever goes wrong in one case, the others are measured and the report is written."""
    begin = time.monotonic()
    try:
        found, outcome = function(bench, daemon), "ok"
    except Skipped as error:
        found, outcome = {"failed": str(error), "skipped": True}, f"skipped: {error}"
    except Exception as error:  # pylint: disable=broad-exception-caught
        text = str(error) if isinstance(error, Failed) else repr(error)
        found, outcome = {"failed": text}, f"FAILED: {text}"
    took = time.monotonic() - begin
    bench.results["cases"][name] = found
    bench.results.setdefault("seconds", {})[name] = round(took, 1)
    print(f"{name:<14} {took:6.1f} s  {outcome}", flush=True)


def any_failed(found):
    """Whether a case or a part of one failed, skipped ones apart."""
    if not isinstance(found, dict):
        return False
    if "failed" in found and "skipped" not in found:
        return True
    return any(any_failed(part) for part in found.values())


def run_cases(bench, wanted):
    """Those that share a daemon first meet it with nothing but the benchmark's guest in it."""
    with Daemon(bench, "main") as daemon:
        cases.add_bench(daemon)
        info = daemon.ctl("info")
        bench.results["hld"] = {"version": info["version"], "backend": info["backend"],
                                "shards": info["shards"], "confinement": info["confinement"],
                                "configuration": daemon.settings}
        for name, function, shared in cases.CASES:
            if name in wanted and shared:
                run_case(bench, name, function, daemon)
    for name, function, shared in cases.CASES:
        if name in wanted and not shared:
            run_case(bench, name, function, None)


def write(results, directory):
    os.makedirs(directory, exist_ok=True)
    with open(os.path.join(directory, "report.json"), "w", encoding="utf-8") as file:
        json.dump(results, file, indent=1)
        file.write("\n")
    results["plots"] = plots.draw(results, directory)
    with open(os.path.join(directory, "report.md"), "w", encoding="utf-8") as file:
        file.write(report.markdown(results))


def choose_backend(asked):
    """Returns the backend and, where it is not the one that the targets are for, why."""
    reason = machine.kvm_unusable()
    if asked == "auto":
        return ("process", reason) if reason else ("kvm", None)
    if asked == "kvm" and reason:
        raise Failed(reason)
    return asked, "it was asked for" if asked != "kvm" else None


def parse():
    names = [name for name, _, _ in cases.CASES]
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--build", required=True)
    parser.add_argument("--output", required=True)
    parser.add_argument("--backend", choices=("auto", "kvm", "process"), default="auto")
    parser.add_argument("--quick", dest="level", action="store_const", const="quick",
                        default="full")
    parser.add_argument("--smoke", dest="level", action="store_const", const="smoke")
    parser.add_argument("--strict", action="store_true")
    parser.add_argument("--case", action="append", choices=names)
    options = parser.parse_args()
    options.case = options.case or names
    return options


def main():
    options = parse()
    # As an exception, so that daemons are stopped and files removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    work = tempfile.mkdtemp(prefix="hld-bench-")
    os.chmod(work, 0o755)
    try:
        backend, reason = choose_backend(options.backend)
        bench = Bench(options, backend, work)
        if reason:
            bench.results["not_kvm"] = reason
            print(f"backend {backend}, because: {reason}; targets are for kvm and not judged")
        run_cases(bench, options.case)
        bench.results["machine"]["load_after"] = machine.load_average()
        bench.results["targets"] = targets.judge(bench.results)
        write(bench.results, options.output)
    except Failed as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print(f"report: {os.path.join(os.path.abspath(options.output), 'report.md')}")
    for entry in bench.results["targets"]:
        print(targets.line(entry))
    missed = any(entry["verdict"] == "missed" for entry in bench.results["targets"])
    return 1 if any_failed(bench.results["cases"]) or (options.strict and missed) else 0


if __name__ == "__main__":
    sys.exit(main())
