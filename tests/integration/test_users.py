# SPDX-License-Identifier: Apache-2.0
"""Two uids on one hld, and what the kernel says of the processes that serve them."""

import contextlib
import os
import re
import signal
import socket
import struct
import traceback
import unittest

import harness
import wire

OTHER = 12345  # a uid and gid that nobody has


def as_user(uid, function):
    """What function() returned, as text, called in a child process with another uid."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
            text = str(function())
            status = 0
        except BaseException:  # pylint: disable=broad-except
            text = traceback.format_exc()
        os.write(writer, text.encode()[:60000])
        os._exit(status)
    os.close(writer)
    with open(reader, "rb") as file:
        text = file.read().decode()
    _, status = os.waitpid(child, 0)
    if status != 0:
        raise AssertionError(text)
    return text


@unittest.skipUnless(harness.ROOT, "acting for two users needs root")
class TwoUsers(harness.DaemonTest):
    images = ("echo",)

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        with cls.daemon.connect() as connection:
            connection.register("mine", harness.read_guest("echo"), private=True)

    def status(self, function):
        """What function(connection) returned to the other user, or the status it failed with."""
        def run():
            with self.daemon.connect() as connection:
                try:
                    return repr(function(connection))
                except wire.StatusError as error:
                    return error.name
        return as_user(OTHER, run)

    def test_public_image(self):
        self.assertEqual(self.status(lambda connection: connection.invoke("echo", "echo", b"x")),
                         "b'x'")

    def test_private_image(self):
        """Not only not callable: nothing says that it is there."""
        self.assertIn(self.status(lambda connection: connection.invoke("mine", "echo", b"x")),
                      ("PERMISSION_DENIED", "NOT_FOUND"))
        self.assertIn(self.status(lambda connection: connection.call("Inspect", {"name": "mine"})),
                      ("PERMISSION_DENIED", "NOT_FOUND"))
        self.assertNotIn("mine", self.status(
            lambda connection: [image["name"] for image in connection.call("List")["images"]]))
        with self.connect() as connection:
            self.assertEqual(connection.invoke("mine", "echo", b"x"), b"x")

    def test_other_peoples_images_stay(self):
        def remove(name):
            return self.status(lambda connection: connection.call("Unregister", {"name": name}))
        self.assertEqual(remove("echo"), "PERMISSION_DENIED")
        self.assertIn(remove("mine"), ("PERMISSION_DENIED", "NOT_FOUND"))

    def test_taken_name(self):
        with self.connect() as connection:
            connection.register("taken", harness.read_guest("echo"))
        program = harness.read_guest("adder")
        self.assertEqual(self.status(lambda connection: connection.register("taken", program)),
                         "PERMISSION_DENIED")
        with self.connect() as connection:
            self.assertEqual(connection.invoke("taken", "echo", b"x"), b"x")

    def test_uid_as_hld_sees_it(self):
        self.assertEqual(self.status(lambda connection: connection.call("Info")["uid"]), str(OTHER))
        with self.connect() as connection:
            self.assertEqual(connection.call("Info")["uid"], 0)

    def test_a_worker_each(self):
        with self.connect() as connection:
            connection.ping()
            before = set(self.daemon.workers())
            self.status(lambda connection: connection.ping())
            self.assertEqual(len(set(self.daemon.workers()) | before), 2)

    def test_killed_worker_of_another_user(self):
        """The neighbour's connection does not even notice."""
        with self.connect() as connection:
            connection.ping()
            mine = set(self.daemon.workers())
            self.status(lambda connection: connection.ping())
            theirs = set(self.daemon.workers()) - mine
            for pid in theirs:
                os.kill(pid, signal.SIGKILL)
            self.assertEqual(connection.invoke("echo", "echo", b"x"), b"x")
        self.assertEqual(self.status(lambda connection: connection.invoke("echo", "echo", b"y")),
                         "b'y'")


@unittest.skipUnless(harness.ROOT, "acting for two users needs root")
class Admission(unittest.TestCase):
    def test_uids_that_are_not_allowed(self):
        daemon = harness.Daemon(daemon={"allow_uids": "0"})
        self.addCleanup(daemon.close)
        daemon.start()

        def run():
            try:
                with daemon.connect() as connection:
                    connection.ping()
                    return "served"
            except (wire.Closed, OSError):
                return "refused"
            except wire.StatusError as error:
                return error.name
        self.assertIn(as_user(OTHER, run), ("refused", "PERMISSION_DENIED"))
        with daemon.connect() as connection:
            connection.ping()


    def test_a_close_that_takes_an_hour(self):
        """What a stranger sends beside a byte that nobody reads is closed by hld, not for it."""
        daemon = harness.Daemon(daemon={"allow_uids": "0"})
        self.addCleanup(daemon.close)
        daemon.start()

        slow = [self.slow_to_close() for _ in range(3)]

        def run():
            for fd in slow:
                with daemon.connect() as connection:
                    connection.send(b"x", [fd])
            return "sent"
        daemon.signal(signal.SIGSTOP)
        try:
            self.assertEqual(as_user(OTHER, run), "sent")
            for fd in slow:
                os.close(fd)
        finally:
            daemon.signal(signal.SIGCONT)
        with daemon.connect() as connection:
            connection.ping()

    def slow_to_close(self):
        """A descriptor whose last close waits for a peer that does not read."""
        with socket.create_server(("127.0.0.1", 0)) as server:
            slow = socket.socket()
            slow.connect(server.getsockname())
            peer, _ = server.accept()
            self.addCleanup(peer.close)
        slow.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                slow.send(bytes(65536))
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 3600))
        return slow.detach()


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

    def confined(self):
        """The worker, and the processes that run guest code: the leaves of its family."""
        return [self.worker] + [pid for pid in self.family[1:] if not harness.children(pid)]

    def test_every_thread_is_filtered(self):
        for pid in self.confined():
            for task in os.listdir(f"/proc/{pid}/task"):
                status = harness.process_status(f"{pid}/task/{task}")
                if status:
                    with self.subTest(pid=pid, name=status["Name"]):
                        self.assertEqual(status["Seccomp"], "2")

    def test_nobody_has_privileges_or_gets_any(self):
        """Those that only fork guests included."""
        for pid in self.family:
            status = harness.process_status(pid)
            with self.subTest(pid=pid, name=status["Name"]):
                self.assertEqual(status["NoNewPrivs"], "1")
                for kind in ("CapEff", "CapPrm", "CapInh", "CapAmb"):
                    self.assertEqual(int(status[kind], 16), 0, kind)

    def test_guest_process_holds_one_socket(self):
        """On the process backend: no memory of the host's, no file, one way out."""
        if self.daemon.backend != "process":
            self.skipTest("there are no guest processes on kvm")
        guests = self.confined()[1:]
        self.assertTrue(guests)
        for pid in guests:
            links = list(self.links(pid, "fd").values())
            self.assertEqual(len(links), 1, links)
            self.assertTrue(links[0].startswith("socket:"), links)

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
        """A worker's: nothing that names a file of the system."""
        allowed = r"socket:|anon_inode:|/memfd:|pipe:|/dev/kvm$|/dev/null$"
        if self.daemon.backend == "process":
            allowed += r"|(/proc)?/\d+/mem$"  # its guests' memory, of a procfs it has no path to
        for pid in [self.worker]:
            for number, target in self.links(pid, "fd").items():
                with self.subTest(pid=pid, number=number):
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
