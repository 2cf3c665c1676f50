# SPDX-License-Identifier: Apache-2.0
"""A real hld on a private socket, as it ships but for paths and for how many images it takes."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import time


class Failed(Exception):
    """A case that could not be measured; the text says why."""


class Skipped(Failed):
    """One that this machine or this build has nothing to measure with."""


def children(pid):
    found = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", encoding="ascii") as file:
                found += [int(word) for word in file.read().split()]
    except OSError:
        pass
    return found


class Daemon:
    """One hld in a directory of its own below the run's. Used with `with`."""

    def __init__(self, bench, name, program=None, **settings):
        self.bench = bench
        self.directory = os.path.join(bench.work, name)
        os.makedirs(self.directory, exist_ok=True)
        self.socket = os.path.join(self.directory, "hld.sock")
        self.config = os.path.join(self.directory, "hld.conf")
        self.log = os.path.join(self.directory, "log")
        self.program = program or bench.program("hld")
        self.settings = {"socket": self.socket, "state_dir": os.path.join(self.directory, "state"),
                         "backend": bench.backend, "max_images": 20000, "max_disk": "64G",
                         **settings}
        self.process = None

    def __enter__(self):
        with open(self.config, "w", encoding="utf-8") as file:
            file.write("[daemon]\n")
            file.writelines(f"{key} = {text}\n" for key, text in self.settings.items())
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind, error, _):
        self.stop()
        if isinstance(error, Failed) and not isinstance(error, Skipped):
            raise Failed(f"{error}; hld's log ends with: {self.tail()}") from error

    def start(self):
        """Returns when the socket takes connections."""
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen([self.program, "--config", self.config],
                                            stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        end = time.monotonic() + 120
        while True:
            try:
                with socket.socket(socket.AF_UNIX) as probe:
                    probe.connect(self.socket)
                return
            except OSError:
                pass
            if self.process.poll() is not None or time.monotonic() > end:
                raise Failed(f"hld did not start: {self.tail()}")
            time.sleep(0.001)

    def stop(self):
        if not self.process:
            return
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                for pid in [self.process.pid] + children(self.process.pid):
                    os.kill(pid, signal.SIGKILL)
                self.process.wait()
        self.process = None

    def tail(self):
        try:
            with open(self.log, encoding="utf-8", errors="replace") as file:
                return file.read()[-600:].strip() or "its log is empty"
        except OSError as error:
            return str(error)

    def worker(self):
        """Pid of the worker of our uid; there is one once we have connected."""
        self.ctl("ping")
        for pid in children(self.process.pid):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/comm", encoding="utf-8") as file:
                if file.read().strip() == "hld-worker":
                    return pid
        raise Failed("hld has no worker")

    def ctl(self, *arguments):
        """hlctl's answer as an object."""
        words = [self.bench.program("hlctl"), "--socket", self.socket, "-o", "json", *arguments]
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, timeout=120,
                              check=False)
        if done.returncode != 0:
            raise Failed(f"hlctl {' '.join(arguments)}: "
                         f"{done.stderr.decode(errors='replace').strip()}")
        return json.loads(done.stdout) if done.stdout.strip() else None

    def add(self, path, name, **limits):
        words = [word for key, value in limits.items()
                 for word in (f"--{key.replace('_', '-')}", str(value))]
        return self.ctl("image", "add", path, "--name", name, *words)

    def load(self, mode, *kinds, timeout=600, **options):
        """Runs the load generator; returns what it measured."""
        return self.tool("load", mode, *words_of(options), *kinds, timeout=timeout)

    def tool(self, name, *words, timeout=600):
        command = [self.bench.program(f"tests/bench/{name}"), *words, "--socket", self.socket]
        return run_json(command, timeout)


def words_of(options):
    words = []
    for key, value in options.items():
        words.append(f"--{key}")
        if value is not True:
            words.append(str(value))
    return words


def run_json(command, timeout=600):
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout,
                          check=False)
    if done.returncode != 0:
        raise Failed(f"{os.path.basename(command[0])} ended with {done.returncode}: "
                     f"{done.stderr.decode(errors='replace').strip()[-400:]}")
    return json.loads(done.stdout)
