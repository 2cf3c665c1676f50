# SPDX-License-Identifier: Apache-2.0
"""What systemd expects of hld. PID 1 need not be systemd: its protocols are spoken here by hand."""

import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import unittest

import harness

MAX_EXPOSURE = 1.5


class Notify(unittest.TestCase):
    def setUp(self):
        self.daemon = harness.Daemon()
        self.addCleanup(self.daemon.close)
        path = os.path.join(self.daemon.directory, "notify")
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(self.notify.close)
        self.notify.bind(path)
        os.chmod(path, 0o666)
        self.notify.settimeout(60)
        self.environment = {"NOTIFY_SOCKET": path}
        self.pid = None

    def wait_for(self, wanted):
        """Returns the message that holds wanted; what comes before it is dropped."""
        while True:
            message = self.notify.recv(4096).decode()
            if wanted in message.splitlines():
                return message

    def test_ready_reload_and_stop(self):
        self.daemon.start(wait=False, environment=self.environment)
        self.wait_for("READY=1")
        with self.daemon.connect() as connection:  # ready means: connect now and be served
            connection.ping()
        self.daemon.signal(signal.SIGHUP)
        message = self.wait_for("RELOADING=1")
        self.assertIn("MONOTONIC_USEC=", message)
        self.wait_for("READY=1")
        self.daemon.signal(signal.SIGTERM)
        self.wait_for("STOPPING=1")
        self.assertEqual(self.daemon.process.wait(60), 0)

    def test_watchdog(self):
        """Fed at least at the pace that was asked for, while it is healthy."""
        self.daemon.start(wait=False, environment={**self.environment, "WATCHDOG_USEC": "400000"})
        self.wait_for("READY=1")
        for _ in range(4):
            self.wait_for("WATCHDOG=1")

    def test_no_notification_of_a_failed_start(self):
        self.daemon.sections = {"daemon": {"socket": "/proc/no/such/place"}}
        self.daemon.start(wait=False, environment=self.environment)
        self.assertNotEqual(self.daemon.process.wait(60), 0)
        self.notify.setblocking(False)
        with self.assertRaises(BlockingIOError):
            while True:
                self.assertNotIn("READY=1", self.notify.recv(4096).decode())


class Activation(unittest.TestCase):
    def test_socket_activation(self):
        if not shutil.which("systemd-socket-activate"):
            self.skipTest("no systemd-socket-activate")
        daemon = harness.Daemon()
        self.addCleanup(daemon.close)
        path = os.path.join(daemon.directory, "activated.sock")
        # The configured socket is not the one that hld is given: the given one counts.
        daemon.start(wait=False, command=["systemd-socket-activate", "-l", path, harness.HLD,
                                          "--config", daemon.config])
        harness.wait_until(lambda: os.path.exists(path), "the socket")
        configured, daemon.socket = daemon.socket, path
        with daemon.connect() as connection:
            connection.ping()
            connection.register("echo", harness.read_guest("echo"))
            self.assertEqual(connection.invoke("echo", "echo", b"activated"), b"activated")
        self.assertFalse(os.path.exists(configured))
        self.assertEqual(daemon.stop(), 0)
        self.assertTrue(os.path.exists(path), "hld removed a socket that is systemd's")

    def test_readable_by_systemd_only_sockets(self):
        """A descriptor that is no listening stream socket is refused, with a reason."""
        daemon = harness.Daemon()
        self.addCleanup(daemon.close)
        daemon.write_config()
        pipe, other = os.pipe()
        try:
            # LISTEN_PID must be hld's own: the shell sets it and becomes hld.
            result = subprocess.run(
                ["sh", "-c", f'exec 3<&{pipe}; LISTEN_PID=$$ LISTEN_FDS=1 exec "$@"', "sh",
                 harness.HLD, "--config", daemon.config], pass_fds=(pipe,),
                stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
        finally:
            os.close(pipe)
            os.close(other)
        self.assertNotEqual(result.returncode, 0)
        self.assertNotEqual(result.stderr, "")


class Units(unittest.TestCase):
    """The units as they are installed, judged by systemd's own tools."""

    @classmethod
    def setUpClass(cls):
        if not shutil.which("systemd-analyze"):
            raise unittest.SkipTest("no systemd-analyze")
        cls.directory = tempfile.mkdtemp(prefix="hld-units-")
        cls.addClassCleanup(shutil.rmtree, cls.directory)
        for name in ("hld.service", "hld.socket"):
            for folder in (harness.BUILD, harness.SOURCE):
                path = os.path.join(folder, "contrib", "systemd", name)
                if os.path.exists(path):
                    break
            with open(path, encoding="utf-8") as file:
                text = file.read()
            # where hld would be once installed, there is nothing: verify wants a program
            text = re.sub(r"^(Exec\w+=[-@:+!]*)\S*/hld\b", rf"\g<1>{harness.HLD}", text,
                          flags=re.MULTILINE)
            with open(os.path.join(cls.directory, name), "w", encoding="utf-8") as file:
                file.write(text)

    def read(self, name):
        with open(os.path.join(self.directory, name), encoding="utf-8") as file:
            return file.read()

    def test_verify(self):
        result = subprocess.run(["systemd-analyze", "verify", "--man=no", "--recursive-errors=no",
                                 os.path.join(self.directory, "hld.service"),
                                 os.path.join(self.directory, "hld.socket")],
                                stdin=subprocess.DEVNULL, capture_output=True, text=True)
        ours = [line for line in result.stderr.splitlines() if "hld" in line]
        self.assertEqual(ours, [])
        self.assertEqual(result.returncode, 0, result.stderr)

    def test_exposure(self):
        result = subprocess.run(["systemd-analyze", "security", "--offline=true", "--no-pager",
                                 os.path.join(self.directory, "hld.service")],
                                stdin=subprocess.DEVNULL, capture_output=True, text=True)
        match = re.search(r"Overall exposure level for hld\.service: ([\d.]+)", result.stdout)
        self.assertIsNotNone(match, result.stdout + result.stderr)
        self.assertLessEqual(float(match.group(1)), MAX_EXPOSURE)

    def test_callers_uids_stay_visible(self):
        self.assertNotRegex(self.read("hld.service"), r"(?m)^PrivateUsers=(?!no|false)")

    def test_what_the_unit_promises(self):
        service = self.read("hld.service")
        for line in ("Type=notify", "WatchdogSec=", "ExecReload=", "NoNewPrivileges="):
            self.assertIn(line, service)

    def test_users_and_directories(self):
        folder = os.path.join(harness.SOURCE, "contrib", "systemd")
        names = os.listdir(folder)
        users = [name for name in names if "sysusers" in name]
        files = [name for name in names if "tmpfiles" in name]
        self.assertTrue(users and files, names)
        if not shutil.which("systemd-sysusers"):
            self.skipTest("no systemd-sysusers")
        root = tempfile.mkdtemp(prefix="hld-root-")
        self.addCleanup(shutil.rmtree, root)
        os.mkdir(os.path.join(root, "etc"))
        result = subprocess.run(["systemd-sysusers", f"--root={root}", "--dry-run",
                                 os.path.join(folder, users[0])], stdin=subprocess.DEVNULL,
                                capture_output=True, text=True)
        self.assertEqual(result.returncode, 0, result.stderr)


class Stalled(unittest.TestCase):
    def test_watchdog_is_silent_when_the_daemon_hangs(self):
        """A stopped daemon feeds nothing, so that systemd's watchdog would fire."""
        daemon = harness.Daemon()
        self.addCleanup(daemon.close)
        path = os.path.join(daemon.directory, "notify")
        notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(notify.close)
        notify.bind(path)
        notify.settimeout(60)
        daemon.start(environment={"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "200000"})
        daemon.signal(signal.SIGSTOP)
        try:
            time.sleep(0.2)
            notify.setblocking(False)
            with self.assertRaises(BlockingIOError):
                while True:
                    notify.recv(4096)
            time.sleep(0.6)
            with self.assertRaises(BlockingIOError):
                notify.recv(4096)
        finally:
            daemon.signal(signal.SIGCONT)
