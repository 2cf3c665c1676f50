# SPDX-License-Identifier: Apache-2.0
"""Two uids on one hld, and what the kernel says of the processes that serve them."""

import os
import re
import signal
import subprocess
import sys
import unittest

import harness
import wire

OTHER = 12345  # a uid and gid that nobody has


def as_user(uid, script, *arguments):
    """Runs script in a Python of its own with another uid; `wire` is imported there."""
    here = os.path.dirname(os.path.abspath(__file__))

    def become():
        os.setgroups([])
        os.setgid(uid)
        os.setuid(uid)

    # The modules come over standard input: the source tree may lie where that uid cannot read.
    with open(os.path.join(here, "wire.py"), encoding="utf-8") as file:
        module = file.read()
    schemas = {}
    for name in ("hl.proto", "envelope.proto"):
        with open(os.path.join(wire.proto_directory(), name), encoding="utf-8") as file:
            schemas[name] = file.read()
    prelude = f"""
import builtins, io, os, sys, types
SCHEMAS = {schemas!r}
wire = types.ModuleType("wire")
wire.__file__ = "/nowhere/tests/integration/wire.py"
wire.open = lambda path, **_: io.StringIO(SCHEMAS[os.path.basename(path)])
exec({module!r}, wire.__dict__)
arguments = {arguments!r}
"""
    return subprocess.run([sys.executable, "-c", "import sys; exec(sys.stdin.read())"],
                          input=prelude + script, capture_output=True, text=True, timeout=120,
                          preexec_fn=become, cwd="/")


@unittest.skipUnless(harness.ROOT, "acting for two users needs root")
class TwoUsers(harness.DaemonTest):
    images = ("echo",)

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        with cls.daemon.connect() as connection:
            connection.register("mine", harness.read_guest("echo"), private=True)

    def other(self, script):
        """Returns what the script printed as the other user."""
        result = as_user(OTHER, script, self.daemon.socket)
        self.assertEqual(result.returncode, 0, result.stderr)
        return result.stdout.strip()

    def status(self, expression):
        return self.other(f"""
connection = wire.Connection(arguments[0])
try:
    print(repr({expression}))
except wire.StatusError as error:
    print(error.name)
""")

    def test_public_image(self):
        self.assertEqual(self.status("connection.invoke('echo', 'echo', b'x')"), "b'x'")

    def test_private_image(self):
        """Not only not callable: nothing says that it is there."""
        self.assertIn(self.status("connection.invoke('mine', 'echo', b'x')"),
                      ("PERMISSION_DENIED", "NOT_FOUND"))
        self.assertIn(self.status("connection.call('Inspect', {'name': 'mine'})"),
                      ("PERMISSION_DENIED", "NOT_FOUND"))
        self.assertNotIn("mine", self.status(
            "[image['name'] for image in connection.call('List')['images']]"))
        with self.connect() as connection:
            self.assertEqual(connection.invoke("mine", "echo", b"x"), b"x")

    def test_other_peoples_images_stay(self):
        self.assertEqual(self.status("connection.call('Unregister', {'name': 'echo'})"),
                         "PERMISSION_DENIED")
        self.assertIn(self.status("connection.call('Unregister', {'name': 'mine'})"),
                      ("PERMISSION_DENIED", "NOT_FOUND"))

    def test_taken_name(self):
        with self.connect() as connection:
            connection.register("taken", harness.read_guest("echo"))
        program = harness.read_guest("adder")
        path = os.path.join(self.daemon.directory, "program")
        with open(path, "wb") as file:
            file.write(program)
        os.chmod(path, 0o644)
        self.assertEqual(self.status(f"connection.register('taken', open({path!r}, 'rb').read())"),
                         "PERMISSION_DENIED")
        with self.connect() as connection:
            self.assertEqual(connection.invoke("taken", "echo", b"x"), b"x")

    def test_uid_as_hld_sees_it(self):
        self.assertEqual(self.status("connection.call('Info')['uid']"), str(OTHER))
        with self.connect() as connection:
            self.assertEqual(connection.call("Info")["uid"], 0)

    def test_a_worker_each(self):
        with self.connect() as connection:
            connection.ping()
            before = set(self.daemon.workers())
            self.status("connection.ping()")
            self.assertEqual(len(set(self.daemon.workers()) | before), 2)

    def test_killed_worker_of_another_user(self):
        """The neighbour's connection does not even notice."""
        with self.connect() as connection:
            connection.ping()
            mine = set(self.daemon.workers())
            self.status("connection.ping()")
            theirs = set(self.daemon.workers()) - mine
            for pid in theirs:
                os.kill(pid, signal.SIGKILL)
            self.assertEqual(connection.invoke("echo", "echo", b"x"), b"x")
        self.assertEqual(self.status("connection.invoke('echo', 'echo', b'y')"), "b'y'")


@unittest.skipUnless(harness.ROOT, "acting for two users needs root")
class Admission(unittest.TestCase):
    def test_uids_that_are_not_allowed(self):
        daemon = harness.Daemon(daemon={"allow_uids": "0"})
        self.addCleanup(daemon.close)
        daemon.start()
        result = as_user(OTHER, """
try:
    wire.Connection(arguments[0]).ping()
    print("served")
except (wire.Closed, OSError):
    print("refused")
except wire.StatusError as error:
    print(error.name)
""", daemon.socket)
        self.assertIn(result.stdout.strip(), ("refused", "PERMISSION_DENIED"), result.stderr)
        with daemon.connect() as connection:
            connection.ping()


class Confinement(harness.DaemonTest):
    """A worker in the middle of its work, as /proc shows it."""

    images = ("hostile", "echo")

    def setUp(self):
        self.connection = self.connect()
        self.stream = self.connection.start_invoke("hostile", "loop", deadline=100)
        harness.wait_until(lambda: (self.image_stats("hostile") or {}).get("running") == 1,
                           "the loop")
        (self.worker,) = self.daemon.workers()
        self.family = [self.worker] + harness.descendants(self.worker)

    def tearDown(self):
        self.connection.close()
        harness.wait_until(lambda: (self.image_stats("hostile") or {}).get("running") == 0,
                           "the loop's end")

    def links(self, pid, folder):
        if not harness.ROOT:
            self.skipTest("only root may look at a process that is not dumpable")
        found = {}
        for name in os.listdir(f"/proc/{pid}/{folder}"):
            try:
                found[name] = os.readlink(f"/proc/{pid}/{folder}/{name}")
            except FileNotFoundError:
                pass
        return found

    def test_every_thread_is_filtered(self):
        for pid in self.family:
            for task in os.listdir(f"/proc/{pid}/task"):
                status = harness.process_status(f"{pid}/task/{task}")
                if status is None:
                    continue
                with self.subTest(pid=pid, name=status["Name"]):
                    self.assertEqual(status["NoNewPrivs"], "1")
                    self.assertEqual(status["Seccomp"], "2")
                    for kind in ("CapEff", "CapPrm", "CapInh", "CapAmb"):
                        self.assertEqual(int(status[kind], 16), 0, kind)

    def test_worker_is_not_root(self):
        if not harness.ROOT:
            self.skipTest("without root, hld and its workers have the same uid")
        for pid in self.family:
            status = harness.process_status(pid)
            if status:
                self.assertNotIn("0", status["Uid"].split(), status["Name"])
                self.assertNotIn("0", status["Gid"].split(), status["Name"])
                self.assertNotIn("0", status["Groups"].split(), status["Name"])

    def test_descriptors(self):
        allowed = r"socket:|anon_inode:|/memfd:|pipe:|/dev/kvm$|/dev/null$"
        for pid in self.family:
            for number, target in self.links(pid, "fd").items():
                with self.subTest(pid=pid, number=number):
                    if re.match(r"/proc/\d+/mem$", target) and self.daemon.backend == "process":
                        continue
                    if target == self.daemon.log:  # standard output and error, as we gave them
                        self.assertIn(number, ("0", "1", "2"))
                        continue
                    self.assertRegex(target, allowed)

    def test_no_writable_and_executable_memory(self):
        if not harness.ROOT:
            self.skipTest("only root may look at a process that is not dumpable")
        if harness.SANITIZED:
            self.skipTest("a sanitizer's own mappings are not judged")
        for pid in self.family:
            with open(f"/proc/{pid}/maps", encoding="utf-8") as file:
                for line in file:
                    self.assertNotRegex(line.split()[1], "wx", line)

    def test_not_traceable_by_its_own_user(self):
        """Non-dumpable: /proc/PID of a worker belongs to root whatever uid it has."""
        self.assertEqual(os.stat(f"/proc/{self.worker}/mem").st_uid, 0)

    def test_what_it_says_of_itself(self):
        with self.connect() as connection:
            info = connection.call("Info")
        self.assertIn("seccomp", " ".join(info["confinement"]))
        self.assertEqual(info["backend"], self.daemon.backend)
        self.assertEqual(info["abi_version"], 1)
        self.assertGreaterEqual(info["shards"], 1)
