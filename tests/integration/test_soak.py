# SPDX-License-Identifier: Apache-2.0
"""Many calls in a row leave memory and descriptors as they were."""

import os
import time

import harness

# A sanitizer keeps freed memory back and looks for leaks itself.
SLACK = 400000 if harness.SANITIZED else 0
CALLS = int(os.environ.get("HLD_SOAK_CALLS", "2000"))


class Soak(harness.DaemonTest):
    images = ("echo", "lua", "hostile")

    def family(self):
        return [self.daemon.process.pid] + harness.descendants(self.daemon.process.pid)

    def memory(self):
        """Resident kilobytes of hld and its workers, guests' own memory excluded by its kind."""
        total = 0
        for pid in [self.daemon.process.pid] + self.daemon.workers():
            status = harness.process_status(pid)
            if status:
                total += int(status["VmRSS"].split()[0])
        return total

    def descriptors(self):
        if not harness.ROOT:  # a worker's /proc/PID/fd is root's to read
            return 0
        return sum(len(os.listdir(f"/proc/{pid}/fd"))
                   for pid in [self.daemon.process.pid] + self.daemon.workers())

    def calls(self, connection, count):
        payload = os.urandom(64)
        window = 8  # on their way at once
        streams = []
        for _ in range(count):
            # With every reset audited, a queue of them on a busy machine outlasts the default.
            streams.append(connection.start_invoke("echo", "echo", payload, deadline=60))
            if len(streams) == window:
                self.assertEqual(connection.finish_invoke(streams.pop(0))["result"],
                                 {"data": payload})
        for stream in streams:
            self.assertEqual(connection.finish_invoke(stream)["result"], {"data": payload})

    def test_calls_in_a_row(self):
        with self.connect() as connection:
            self.calls(connection, max(CALLS // 10, 200))
            memory, descriptors = self.memory(), self.descriptors()
            begun = time.monotonic()
            self.calls(connection, CALLS)
            seconds = time.monotonic() - begun
            grown = self.memory() - memory
            print(f"\n{CALLS} calls on {self.daemon.backend}, {CALLS / seconds:.0f} a second from "
                  f"Python with every reset audited: {grown} kB more than {memory} kB")
            # A call that is held up past its quantum lets the next have an instance of its own, up
            # to the image's maximum of 8 and the shells kept ready: few descriptors each.
            self.assertLess(self.descriptors(), descriptors + 40)
            # What would be lost a call, were a leak of 64 bytes in each, is 6.4 MB of 100,000.
            self.assertLess(grown, 4096 + SLACK)

    def test_connections_in_a_row(self):
        def some(count):
            for _ in range(count):
                with self.daemon.connect() as connection:
                    connection.ping()
        keep = self.connect()
        keep.ping()
        count = max(CALLS // 100, 100)
        some(count)
        memory, descriptors = self.memory(), self.descriptors()
        some(count)
        # Spare machines may have come meanwhile; a descriptor lost each time would be many more.
        harness.wait_until(lambda: self.descriptors() <= descriptors + 32,
                           "descriptors to be closed")
        self.assertLess(self.memory() - memory, 4096 + SLACK)

    def test_faults_in_a_row(self):
        """Every one destroys its instance; destroyed means given back."""
        with self.connect() as connection:
            def some(count):
                for _ in range(count):
                    self.assert_status("ABORTED", connection.invoke, "hostile", "null_write")
            some(20)
            memory, descriptors = self.memory(), self.descriptors()
            some(max(CALLS // 200, 100))
            self.assertEqual(connection.invoke("echo", "echo", b"x"), b"x")
            harness.wait_until(lambda: self.descriptors() <= descriptors + 32,
                               "descriptors to be closed")
            self.assertLess(self.memory() - memory, 8192 + SLACK)

    def test_registrations_in_a_row(self):
        program = harness.read_guest("echo")
        with self.connect() as connection:
            def some(count):
                for i in range(count):
                    connection.register("again", program + bytes(i % 3))
                    connection.invoke("again", "echo", b"x")
                connection.call("Unregister", {"name": "again"})
            some(6)
            memory, descriptors = self.memory(), self.descriptors()
            some(max(CALLS // 1000, 12))
            harness.wait_until(lambda: self.descriptors() <= descriptors + 32,
                               "descriptors to be closed")
            self.assertLess(self.memory() - memory, 16384 + SLACK)
