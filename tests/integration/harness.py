# SPDX-License-Identifier: Apache-2.0
"""Starts a real hld for a test class and holds it to account when the class is over.

Each daemon has a socket, a state directory, a configuration and a log of its own under one
temporary directory. After it ended, the harness looks for what must not be: a process left behind,
a sanitizer's report, an audit that fired. This process is a subreaper, so that whatever hld or its
workers leave behind becomes a child of ours and is seen.

    HLD_BUILD_DIR      where hld was built
    HLD_TEST_BACKEND   kvm or process
    HLD_SANITIZED      set when that build has sanitizers in it
    HLD_SOAK_CALLS     how many calls the soak test makes
"""

import ctypes
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
import unittest

import wire

SOURCE = os.path.abspath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
BUILD = os.path.abspath(os.environ.get("HLD_BUILD_DIR", os.path.join(SOURCE, "build")))
BACKEND = os.environ.get("HLD_TEST_BACKEND", "kvm")
SANITIZED = bool(os.environ.get("HLD_SANITIZED"))
ROOT = os.geteuid() == 0



def program(name):
    """A built program, wherever in the build tree it stands."""
    for folder in ("", "daemon", "client"):
        path = os.path.join(BUILD, folder, name)
        if os.path.isfile(path):
            return path
    return os.path.join(BUILD, name)


HLD = program("hld")
HLCTL = program("hlctl")
EXAMPLES = os.path.join(BUILD, "guest", "examples")
GUESTS = os.path.join(BUILD, "tests", "guests")

REPORTS = ("ERROR: AddressSanitizer", "WARNING: ThreadSanitizer", "ERROR: LeakSanitizer",
           "runtime error:", "SUMMARY: UndefinedBehaviorSanitizer", "AddressSanitizer:DEADLYSIGNAL")

PR_SET_CHILD_SUBREAPER = 36
ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def guest(name):
    """The path of a built guest: an example, or one of the test guests."""
    for folder in (EXAMPLES, GUESTS):
        path = os.path.join(folder, name)
        if os.path.exists(path):
            return path
    raise unittest.SkipTest(f"guest {name} is not built here")


def read_guest(name):
    with open(guest(name), "rb") as file:
        return file.read()


def wait_until(condition, what, timeout=30):
    """Until condition() is true. A generous bound: it is there to end a test that would hang."""
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"waited {timeout} s in vain for {what}")
        time.sleep(0.01)


def process_status(pid):
    """/proc/PID/status as a dict, or None when there is no such process or it is a zombie."""
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
            status = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
    except (FileNotFoundError, ProcessLookupError):
        return None
    if not status or status["State"][0] in "ZX":
        return None
    return status


def children(pid):
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            status = process_status(name)
            if status and int(status["PPid"]) == pid:
                found.append(int(name))
    return found


def descendants(pid):
    found = []
    for child in children(pid):
        found += [child] + descendants(child)
    return found


class Daemon:
    """One hld with a directory of its own."""

    def __init__(self, backend=None, directory=None, **sections):
        self.directory = directory or tempfile.mkdtemp(prefix="hld-test-")
        os.chmod(self.directory, 0o755)
        self.owns_directory = directory is None
        self.socket = os.path.join(self.directory, "hld.sock")
        self.state = os.path.join(self.directory, "state")
        self.config = os.path.join(self.directory, "hld.conf")
        self.log = os.path.join(self.directory, "log")
        self.backend = backend or BACKEND
        self.sections = sections
        self.process = None
        self.expect_audit_failures = False

    def write_config(self, **sections):
        merged = {"daemon": {"socket": self.socket, "socket_mode": "0666", "state_dir": self.state,
                             "backend": self.backend},
                  "engine": {"audit_every": 1}}
        for source in (self.sections, sections):
            for section, keys in source.items():
                merged.setdefault(section, {}).update(keys)
        with open(self.config, "w", encoding="utf-8") as file:
            for section, keys in merged.items():
                file.write(f"[{section}]\n")
                file.writelines(f"{key} = {text}\n" for key, text in keys.items())

    def start(self, wait=True, environment=None, command=None, pass_fds=()):
        self.write_config()
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                command or [HLD, "--config", self.config], stdin=subprocess.DEVNULL, stdout=log,
                stderr=log, env={**os.environ, **(environment or {})}, pass_fds=pass_fds)
        OWN.append(self.process)
        if wait:
            self.wait_ready()
        return self

    def wait_ready(self):
        def ready():
            if self.process.poll() is not None:
                raise AssertionError(f"hld ended with {self.process.returncode}:\n"
                                     f"{self.read_log()[-4000:]}")
            try:
                with self.connect(timeout=30) as connection:
                    connection.ping()
                return True
            except (FileNotFoundError, ConnectionRefusedError):
                return False
            except wire.Closed as error:
                raise AssertionError(f"hld does not serve:\n{self.read_log()[-4000:]}") from error
        wait_until(ready, "hld to answer", 60)

    def connect(self, timeout=60):
        return wire.Connection(self.socket, timeout)

    def read_log(self):
        with open(self.log, encoding="utf-8", errors="replace") as file:
            return file.read()

    def workers(self):
        """Pids of the workers (not of the nurseries below them, nor of what closes descriptors)."""
        return [pid for pid in children(self.process.pid)
                if (process_status(pid) or {}).get("Name") == "hld-worker"]

    def stop(self, number=signal.SIGTERM, timeout=60):
        """Ends the daemon. Returns its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired as error:
            family = [self.process.pid] + descendants(self.process.pid)
            for pid in family:
                os.kill(pid, signal.SIGKILL)
            self.process.wait()
            raise AssertionError(f"hld did not end on signal {number}:\n"
                                 f"{self.read_log()[-4000:]}") from error

    def signal(self, number):
        self.process.send_signal(number)

    def close(self, leftovers_allowed=False):
        """Ends what still runs, and checks. Raises AssertionError with all that was wrong."""
        wrong = []
        if self.process and self.process.poll() is None:
            status = self.stop()
            if status != 0:
                wrong.append(f"hld ended with {status}")
        left = left_behind()
        if left and not leftovers_allowed:
            wrong.append(f"processes left behind: {left}")
        log = self.read_log() if os.path.exists(self.log) else ""
        wrong += [f"in the log: {line}" for line in log.splitlines()
                  if any(report in line for report in REPORTS)]
        if not self.expect_audit_failures:
            wrong += [f"in the log: {line}" for line in log.splitlines()
                      if "audit" in line and "differ" in line]
        if wrong:
            wrong.append(f"the log ends with:\n{log[-6000:]}")
        if self.owns_directory:
            shutil.rmtree(self.directory, ignore_errors=True)
        if wrong:
            raise AssertionError("\n".join(wrong))


def left_behind(timeout=15):
    """Orphans that hld left to us; they are given a moment, then killed. Returns their names."""
    end = time.monotonic() + timeout
    while True:
        reap()
        orphans = [pid for pid in children(os.getpid()) if pid not in own_children()]
        if not orphans:
            return []
        if time.monotonic() > end:
            break
        time.sleep(0.02)
    names = []
    for pid in orphans:
        status = process_status(pid)
        if status:
            names.append(f"{status['Name']} ({pid})")
            os.kill(pid, signal.SIGKILL)
    reap()
    return names


OWN = []  # subprocess.Popen objects of tests that run while a daemon is closed


def own_children():
    return {process.pid for process in OWN if process.poll() is None}


def reap():
    """Takes the status of orphans that ended; never of a process that a Popen waits for."""
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) in {process.pid for process in OWN}:
            continue
        try:
            with open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as file:
                state, parent = file.read().rpartition(")")[2].split()[:2]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if state == "Z" and int(parent) == os.getpid():
            try:
                os.waitpid(int(name), os.WNOHANG)
            except ChildProcessError:
                pass


def hlctl(daemon, *arguments, stdin=b"", timeout=120, user=None, check=None):
    """Runs hlctl. Returns the CompletedProcess, output as bytes."""
    result = subprocess.run([HLCTL, "--socket", daemon.socket, *arguments], input=stdin,
                            capture_output=True, timeout=timeout, user=user)
    if check is not None and result.returncode != check:
        raise AssertionError(f"hlctl {' '.join(arguments)} ended with {result.returncode}, not "
                             f"{check}: {result.stderr.decode(errors='replace')}")
    for report in REPORTS:
        if report in result.stderr.decode(errors="replace"):
            raise AssertionError(result.stderr.decode(errors="replace"))
    return result


def hlctl_json(daemon, *arguments, **keywords):
    result = hlctl(daemon, "-o", "json", *arguments, check=0, **keywords)
    return json.loads(result.stdout)


class DaemonTest(unittest.TestCase):
    """A test class with one hld for all its tests."""

    sections = {}
    images = ()  # guests registered before the first test, under their own names

    @classmethod
    def setUpClass(cls):
        cls.daemon = Daemon(**cls.sections)
        try:
            cls.daemon.start()
            with cls.daemon.connect() as connection:
                for name in cls.images:
                    connection.register(name, read_guest(name))
        except BaseException:
            try:
                cls.daemon.close()
            except AssertionError:
                pass
            raise

    @classmethod
    def tearDownClass(cls):
        try:
            with cls.daemon.connect() as connection:
                counters = connection.call("Stats")["counters"]
        finally:
            cls.daemon.close()
        if not cls.daemon.expect_audit_failures and counters.get("audit_failures"):
            raise AssertionError(f"the audit fired {counters['audit_failures']} times")

    def run(self, result=None):
        result = super().run(result)
        if result and any(test is self for test, _ in result.errors + result.failures):
            print(f"\n{self.id()}: the log of its hld ends with:\n{self.daemon.read_log()[-4000:]}")
        return result

    def connect(self, timeout=60):
        connection = self.daemon.connect(timeout)
        self.addCleanup(connection.close)
        return connection

    def hlctl(self, *arguments, **keywords):
        return hlctl(self.daemon, *arguments, **keywords)

    def assert_status(self, name, function, *arguments, **keywords):
        """Returns the StatusError that function(...) must raise."""
        with self.assertRaises(wire.StatusError) as caught:
            function(*arguments, **keywords)
        self.assertEqual(caught.exception.name, name, caught.exception.message)
        return caught.exception

    def stats(self, connection=None):
        if connection:
            return connection.call("Stats")
        with self.daemon.connect() as own:
            return own.call("Stats")

    def image_stats(self, name):
        for image in self.stats()["images"]:
            if image["name"] == name:
                return image
        return None
