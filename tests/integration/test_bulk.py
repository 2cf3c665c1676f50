# SPDX-License-Identifier: Apache-2.0
"""Arguments and results that go beside the messages, in files that clients send along."""

import errno
import fcntl
import gzip
import mmap
import os
import subprocess
import tempfile
import threading

import harness
import wire

GIB = 1 << 30
MIB = 1 << 20


def file_of_gib(marker):
    """1 GiB that is there, zeros but for its last bytes."""
    fd = os.memfd_create("large", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.posix_fallocate(fd, 0, GIB)
    os.pwrite(fd, marker, GIB - len(marker))
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, wire.ARGUMENT_SEALS)
    return fd


class BulkTest(harness.DaemonTest):
    sections = {"daemon": {"idle_timeout": "10min"}, "defaults": {"deadline": "60s"}}
    images = ("library", "gunzip", "echo", "state")

    def setUp(self):
        self.client = self.connect()

    def open(self, fd):
        self.addCleanup(os.close, fd)
        return fd

    def worker(self):
        return self.daemon.workers()[0]

    def assert_let_go(self):
        """The worker comes to have nothing open or mapped that came from a client."""
        if not harness.ROOT:
            self.skipTest("only root may look at what a worker has")
        names = ("memfd:argument", "memfd:result", "memfd:large")

        def held():
            folder = f"/proc/{self.worker()}/fd"
            found = []
            for number in os.listdir(folder):
                try:
                    found.append(os.readlink(os.path.join(folder, number)))
                except FileNotFoundError:
                    pass
            with open(f"/proc/{self.worker()}/maps", encoding="utf-8") as maps:
                found += list(maps)
            return [line for line in found if any(name in line for name in names)]

        harness.wait_until(lambda: not held(), "the clients' files to be let go")

    def part(self, fd, start, size):
        return self.client.invoke("library", "part_of_argument", wire.descriptor(0),
                                  ("u32", start), ("u32", size), descriptors=[fd])

    # --- arguments

    def test_any_size(self):
        for size in (0, 1, 4095, 4096, 16384, 16385, 100000, 2 * MIB, 2 * MIB + 1, 9 * MIB):
            data = os.urandom(size)
            fd = self.open(wire.memfd(data))
            for start in {0, size // 2, max(size - 100, 0)}:
                self.assertEqual(self.part(fd, start, min(100, size - start)),
                                 data[start:start + 100], size)

    def test_one_gib(self):
        marker = os.urandom(1000)
        fd = self.open(file_of_gib(marker))
        self.assertEqual(self.part(fd, GIB - 1000, 1000), marker)
        before = int(harness.process_status(self.worker())["VmRSS"].split()[0])
        for _ in range(3):
            self.assertEqual(self.part(fd, GIB - 1000, 1000), marker)
        self.assertEqual(self.part(fd, 0, 1000), bytes(1000))
        self.assert_let_go()
        after = int(harness.process_status(self.worker())["VmRSS"].split()[0])
        self.assertLess(after - before, 64 << 10, "KiB: as if it had been copied")

    def test_many_at_once(self):
        """Each call its own file and nothing of another's."""
        lengths = (5000, 70000, 3 * MIB)

        def calls(seed):
            with self.daemon.connect() as client:
                for i in range(30):
                    size = lengths[(seed + i) % 3]
                    data = bytes([seed * 30 + i & 255]) * size
                    fd = wire.memfd(data)
                    got = client.invoke("library", "part_of_argument", wire.descriptor(0),
                                        ("u32", size - 4096), ("u32", 4096), descriptors=[fd])
                    os.close(fd)
                    if got == data[-4096:]:
                        right.append((seed, i))

        right = []
        threads = [threading.Thread(target=calls, args=(seed,)) for seed in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(len(right), 8 * 30)

    def test_reads_past_it(self):
        fd = self.open(wire.memfd(b"x" * (2 * MIB)))
        for start in (2 * MIB, 3 * MIB, GIB):
            self.assert_status("ABORTED", self.part, fd, start, 1)
        self.assertEqual(self.part(fd, 2 * MIB - 1, 1), b"x")

    def test_later_calls_find_nothing(self):
        """Where the argument stood in one call is nothing in the next."""
        fd, small = self.open(wire.memfd(b"secret" * 50000)), self.open(wire.memfd(b"small"))
        self.assertEqual(self.part(fd, 0, 6), b"secret")
        distance = 0x100000000 - 0x200000
        self.assert_status("ABORTED", self.part, small, distance & 0xffffffff, 6)

    def test_what_can_change_is_refused(self):
        for seals in (0, fcntl.F_SEAL_WRITE, fcntl.F_SEAL_SHRINK, fcntl.F_SEAL_GROW):
            fd = self.open(wire.memfd(b"x" * 100000, seals))
            error = self.assert_status("INVALID_ARGUMENT", self.part, fd, 0, 1)
            self.assertIn("sealed", error.message)
        with tempfile.NamedTemporaryFile() as file:
            file.write(b"x" * 100000)
            file.flush()
            error = self.assert_status("INVALID_ARGUMENT", self.part, file.fileno(), 0, 1)
            self.assertIn("memfd", error.message)
        holes = os.memfd_create("argument", os.MFD_ALLOW_SEALING)
        self.open(holes)
        os.ftruncate(holes, MIB)
        fcntl.fcntl(holes, fcntl.F_ADD_SEALS, wire.ARGUMENT_SEALS)
        error = self.assert_status("INVALID_ARGUMENT", self.part, holes, 0, 1)
        self.assertIn("holes", error.message)

    def test_nobody_changes_it(self):
        """All the ways to write to it or shorten it, while calls read."""
        data = os.urandom(MIB)
        fd = self.open(wire.memfd(data))
        stop = threading.Event()
        done = []

        def attack():
            tries = (lambda: os.pwrite(fd, b"y", 0), lambda: os.ftruncate(fd, 0),
                     lambda: mmap.mmap(fd, MIB),
                     lambda: os.posix_fallocate(fd, 0, 0),
                     lambda: fcntl.fcntl(fd, fcntl.F_ADD_SEALS, 0))
            while not stop.is_set():
                for i, attempt in enumerate(tries):
                    try:
                        attempt()
                        if i < 3:
                            done.append(i)
                    except (OSError, ValueError):
                        pass

        thread = threading.Thread(target=attack)
        thread.start()
        try:
            for i in range(300):
                start = i * 3000
                self.assertEqual(self.part(fd, start, 5000), data[start:start + 5000])
        finally:
            stop.set()
            thread.join()
        self.assertEqual(done, [])

    def test_without_descriptors(self):
        """A client that has none sends bytes, to the same function."""
        self.assertEqual(self.client.invoke("library", "part_of_argument", b"0123456789" * 1000,
                                            ("u32", 5), ("u32", 3)), b"567")

    def test_named_and_not_sent(self):
        self.assert_status("INVALID_ARGUMENT", self.client.invoke, "library", "part_of_argument",
                           wire.descriptor(0), ("u32", 0), ("u32", 0))
        self.assertEqual(self.client.ping(b"!"), b"!")

    def test_not_for_text(self):
        fd = self.open(wire.memfd(b"text"))
        self.assert_status("INVALID_ARGUMENT", self.client.invoke, "echo", "hello",
                           wire.descriptor(0), descriptors=[fd])

    def test_client_goes(self):
        """In the middle of a call, of a result, of a frame."""
        fd = self.open(wire.memfd(b"x" * MIB))
        for i in range(40):
            with self.daemon.connect() as client:
                if i % 4 == 0:
                    client.start_invoke("state", "spin", call_id=9)
                    client.start_invoke("library", "part_of_argument", wire.descriptor(0),
                                        ("u32", 0), ("u32", 9), descriptors=[fd])
                elif i % 4 == 1:
                    client.start_invoke("echo", "echo", wire.descriptor(0), into=1,
                                        descriptors=[fd, self.open(wire.room(2 * MIB))])
                elif i % 4 == 2:
                    client.send(b"\0\0\0\5\0\0\0\1\1", [fd] * 20)
                else:
                    client.send(b"\0", [fd] * 33)
        self.assert_let_go()
        self.assertEqual(self.part(fd, 0, 3), b"xxx")

    def test_many_descriptors(self):
        """More than are taken, with frames of all kinds; the connection lives on."""
        fd = self.open(wire.memfd(b"x" * 5000))
        for count in (1, 17, 32):
            stream = self.client.start("Ping", {"payload": b"p"}, descriptors=[fd] * count)
            self.assertEqual(self.client.finish(stream, "Ping")["payload"], b"p")
        self.assert_status("RESOURCE_EXHAUSTED", self.client.invoke, "library",
                           "part_of_argument", wire.descriptor(0), ("u32", 0), ("u32", 1),
                           descriptors=[fd] * 100)
        self.assertEqual(self.part(fd, 0, 1), b"x")
        self.assert_let_go()

    # --- results

    def test_result(self):
        for size in (0, 1, 4096, 700000):
            data = os.urandom(size)
            into = self.open(wire.room(MIB))
            result = self.client.invoke("echo", "echo", data, descriptors=[into], into=0)
            self.assertEqual(wire.contents(into, result), data)
            self.assertTrue(wire.seals(into) & fcntl.F_SEAL_WRITE)
            with self.assertRaises(PermissionError):
                os.pwrite(into, b"x", 0)

    def test_result_of_an_argument(self):
        data = os.urandom(900000)
        fd, into = self.open(wire.memfd(data)), self.open(wire.room(MIB))
        result = self.client.invoke("echo", "echo", wire.descriptor(1),
                                    descriptors=[into, fd], into=0)
        self.assertEqual(wire.contents(into, result), data)

    def test_larger_than_the_window(self):
        data = os.urandom(6 * MIB) + bytes(6 * MIB)
        fd, into = self.open(wire.memfd(gzip.compress(data, 1))), self.open(wire.room(32 * MIB))
        result = self.client.invoke("gunzip", "gunzip", wire.descriptor(0),
                                    descriptors=[fd, into], into=1)
        self.assertEqual(result["length"], len(data))
        self.assertEqual(wire.contents(into, result), data)

    def test_memory_of_larger_ones(self):
        """In the window, where the caller makes no room, and of the heap: none is lost in a
        session, whose memory would hold three of the last."""
        def alphabet(length):
            return (b"abcdefghijklmnopqrstuvwxyz" * (length // 52 + 1))[:length // 2].ljust(length,
                                                                                        b".")
        error = self.client.invoke("library", "alphabet", ("u32", 3 * MIB))
        self.assertEqual(error["code"], -1)
        session = self.client.call("Sessions.Open", {"image": "library"})["session"]
        for length in (3 * MIB, 1000, 20 * MIB, 20 * MIB, 20 * MIB, 20 * MIB, 5 * MIB):
            into = self.open(wire.room(20 * MIB))
            message = {"session": session, "function": "alphabet", "result_into": {"index": 0},
                       "args": [wire.value(("u32", length))]}
            stream = self.client.start("Sessions.Invoke", message, descriptors=[into])
            result = wire.outcome(self.client.finish(stream, "Sessions.Invoke"))
            self.assertEqual(result["length"], length)
            self.assertEqual(wire.contents(into, result), alphabet(length))
        self.client.call("Sessions.Close", {"session": session})

    def test_a_session_unpacks_again(self):
        session = self.client.call("Sessions.Open", {"image": "gunzip"})["session"]
        files = [os.urandom(length) for length in [1000] + [6 * MIB] * 4]
        for data in files[:2] + [None] + files[2:]:
            packed = gzip.compress(data, 1) if data else b"no gzip"
            fd, into = self.open(wire.memfd(packed)), self.open(wire.room(8 * MIB))
            message = {"session": session, "function": "gunzip", "result_into": {"index": 1},
                       "args": [wire.value(wire.descriptor(0))]}
            stream = self.client.start("Sessions.Invoke", message, descriptors=[fd, into])
            result = wire.outcome(self.client.finish(stream, "Sessions.Invoke"))
            if data:
                self.assertEqual(wire.contents(into, result), data)
            else:
                self.assertEqual(result["code"], 1)
        self.client.call("Sessions.Close", {"session": session})

    def test_room_too_small(self):
        into = self.open(wire.room(4096))
        error = self.assert_status("RESOURCE_EXHAUSTED", self.client.invoke, "echo", "echo",
                                   b"x" * 4097, descriptors=[into], into=0)
        self.assertIn("4097", error.message)

    def test_bad_rooms(self):
        rooms = (wire.room(4096, 0), wire.room(4096, holes=True), wire.room(5000),
                 wire.room(4096, wire.ROOM_SEALS | fcntl.F_SEAL_WRITE), os.dup(0))
        for fd in rooms:
            self.open(fd)
            self.assert_status("INVALID_ARGUMENT", self.client.invoke, "echo", "echo", b"x",
                               descriptors=[fd], into=0)
        self.assertEqual(self.client.invoke("echo", "echo", b"x"), b"x")

    def test_the_owner_keeps_a_way_to_write(self):
        into = self.open(wire.room(4096))
        with mmap.mmap(into, 4096) as mine:
            self.assert_status("FAILED_PRECONDITION", self.client.invoke, "echo", "echo", b"x",
                               descriptors=[into], into=0)
            self.assertEqual(mine[:1], b"x")

    def test_other_results_come_in_the_message(self):
        into = self.open(wire.room(4096))
        self.assertEqual(self.client.invoke("echo", "hello", "you", descriptors=[into], into=0),
                         "hello, you")
        into = self.open(wire.room(4096))
        error = self.client.invoke("gunzip", "gunzip", b"no gzip", descriptors=[into], into=0)
        self.assertEqual(error["code"], 1)

    # --- with hlctl

    def test_hlctl_files(self):
        data = os.urandom(6 * MIB)
        with tempfile.NamedTemporaryFile() as file:
            file.write(gzip.compress(data, 1))
            file.flush()
            for room, name in (("8M", "@" + file.name), ("6M", "@" + file.name)):
                result = self.hlctl("call", "gunzip", "gunzip", name, "--room", room,
                                    check=0)
                self.assertEqual(result.stdout, data)
            file.seek(0)
            result = self.hlctl("call", "gunzip", "gunzip", "-", "--room", "8M",
                                check=0, stdin=file.read())
            self.assertEqual(result.stdout, data)
            result = self.hlctl("call", "gunzip", "gunzip", "@" + file.name, "--room", "5M")
            self.assertNotEqual(result.returncode, 0)
            self.assertIn(b"6291456", result.stderr)
            self.assertEqual(result.stdout, b"")

    def test_hlctl_into_a_full_disk(self):
        with tempfile.NamedTemporaryFile() as file, open("/dev/full", "wb") as full:
            file.write(gzip.compress(bytes(6 * MIB)))
            file.flush()
            done = subprocess.run([harness.HLCTL, "--socket", self.daemon.socket, "call",
                                   "gunzip", "gunzip", "@" + file.name, "--room", "8M"],
                                  stdout=full, stderr=subprocess.PIPE, check=False)
        self.assertNotEqual(done.returncode, 0)
        self.assertIn(os.strerror(errno.ENOSPC).encode(), done.stderr)

    def test_in_a_session(self):
        data = os.urandom(3 * MIB)
        session = self.client.call("Sessions.Open", {"image": "library"})["session"]
        for start in (0, 1000, 2 * MIB):
            fd = self.open(wire.memfd(data))
            message = {"session": session, "function": "part_of_argument",
                       "args": [wire.value(wire.descriptor(0)), wire.value(("u32", start)),
                                wire.value(("u32", 500))]}
            stream = self.client.start("Sessions.Invoke", message, descriptors=[fd])
            response = self.client.finish(stream, "Sessions.Invoke")
            self.assertEqual(wire.outcome(response), data[start:start + 500])
        self.client.call("Sessions.Close", {"session": session})

    def test_with_host_functions(self):
        """In the request itself, and in the first data frame."""
        data = os.urandom(MIB)
        fd = self.open(wire.memfd(data))
        stream = self.client.invoke_with_host("library", "part_of_argument", wire.descriptor(0),
                                              ("u32", 5000), ("u32", 10), descriptors=[fd])
        self.assertEqual(stream.serve({}), data[5000:5010])


class NoBulkTest(harness.DaemonTest):
    sections = {"engine": {"bulk_budget": "0"}}
    images = ("library",)

    def test_refused(self):
        client = self.connect()
        fd = wire.memfd(b"x" * 5000)
        self.addCleanup(os.close, fd)
        error = self.assert_status("RESOURCE_EXHAUSTED", client.invoke, "library",
                                   "part_of_argument", wire.descriptor(0), ("u32", 0),
                                   ("u32", 1), descriptors=[fd])
        self.assertIn("bulk_budget", error.message)
        self.assertEqual(client.invoke("library", "part_of_argument", b"bytes", ("u32", 1),
                                       ("u32", 2)), b"yt")
