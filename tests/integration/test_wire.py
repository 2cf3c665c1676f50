# SPDX-License-Identifier: Apache-2.0
"""Clients that do not keep to the protocol: each costs its own connection and nothing else.

While each of them misbehaves, another client of the same worker goes on calling.
"""

import contextlib
import os
import random
import socket
import threading
import time

import harness
import wire


class Neighbour:
    """A well-behaved client that calls echo in a thread of its own until it is stopped."""

    def __init__(self, daemon):
        self.connection = daemon.connect()
        self.calls = 0
        self.error = None
        self.ending = threading.Event()
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        try:
            while not self.ending.is_set():
                payload = os.urandom(64)
                if self.connection.invoke("echo", "echo", payload) != payload:
                    raise AssertionError("echo answered with other bytes")
                self.calls += 1
                time.sleep(0.001)
        except Exception as error:  # pylint: disable=broad-except
            self.error = error

    def stop(self):
        self.ending.set()
        self.thread.join()
        self.connection.close()


class Neighboured(harness.DaemonTest):
    images = ("echo",)

    @contextlib.contextmanager
    def neighbour(self):
        """A neighbour that must have been served during the block and after it."""
        client = Neighbour(self.daemon)
        try:
            harness.wait_until(lambda: client.calls > 0 or client.error, "the neighbour's call")
            yield
            before = client.calls
            harness.wait_until(lambda: client.calls > before or client.error,
                               "another call of the neighbour")
        finally:
            client.stop()
        self.assertIsNone(client.error)

    def assert_closed(self, connection, timeout=30):
        """hld ends the connection, whatever it may still say before."""
        connection.socket.settimeout(timeout)
        try:
            while connection.socket.recv(65536):
                pass
        except ConnectionResetError:
            pass


class SlowButInTime(Neighboured):
    def test_largest_frame(self):
        """Exactly 4 MiB of payload is a frame like another; its call is refused, not its sender."""
        overhead = len(wire.request("hl.v1.Daemon", "Nothing", b"")) + 5
        envelope = wire.request("hl.v1.Daemon", "Nothing", bytes(wire.PAYLOAD_MAX - overhead))
        self.assertLessEqual(len(envelope), wire.PAYLOAD_MAX)
        self.assertGreater(len(envelope), wire.PAYLOAD_MAX - 8)
        with self.neighbour(), self.daemon.connect() as client:
            client.send(wire.frame(envelope, 1))
            client.next_stream = 3
            self.assert_status("UNIMPLEMENTED", client.finish, 1, "Ping")
            self.assertEqual(client.ping(b"ok"), b"ok")

    def test_pieces_of_one_byte(self):
        """Slow but in time, and several frames in one piece: both are plain stream sockets."""
        with self.daemon.connect() as client:
            message = wire.HL.encode("PingRequest", {"payload": b"drip"})
            for byte in wire.frame(wire.request("hl.v1.Daemon", "Ping", message), 1):
                client.send(bytes([byte]))
            self.assertEqual(client.finish(1, "Ping")["payload"], b"drip")
            both = b"".join(wire.frame(wire.request("hl.v1.Daemon", "Ping", message), stream)
                            for stream in (3, 5))
            client.send(both)
            self.assertEqual(client.finish(5, "Ping")["payload"], b"drip")
            self.assertEqual(client.finish(3, "Ping")["payload"], b"drip")


class BadClients(Neighboured):
    sections = {"engine": {"slow_sender": "300ms"}}

    def test_random_bytes(self):
        generator = random.Random(20)
        with self.neighbour():
            for _ in range(40):
                with self.daemon.connect() as bad:
                    data = bytearray(generator.randbytes(generator.randrange(11, 5000)))
                    data[8] = generator.choice([0, 2, 3, 4, 200, 255])  # no request's type
                    try:
                        bad.send(bytes(data))
                    except wire.Closed:
                        continue
                    bad.socket.shutdown(socket.SHUT_WR)
                    self.assert_closed(bad)

    def test_random_payload_in_a_good_frame(self):
        generator = random.Random(21)
        with self.neighbour():
            for _ in range(40):
                with self.daemon.connect() as bad:
                    bad.send(wire.frame(generator.randbytes(generator.randrange(1, 300))))
                    bad.socket.shutdown(socket.SHUT_WR)
                    self.assert_closed(bad)

    def test_random_message_in_a_good_envelope(self):
        generator = random.Random(22)
        with self.neighbour(), self.daemon.connect() as client:
            for method, (service, _, _) in wire.HL.methods.items():
                for _ in range(8):
                    payload = generator.randbytes(generator.randrange(1, 200))
                    stream = client.next_stream
                    client.next_stream += 2
                    client.send(wire.frame(wire.request(service, method, payload), stream))
                    try:
                        client.finish(stream, method)
                    except wire.StatusError as error:
                        self.assertNotEqual(error.name, "INTERNAL", error.message)
            self.assertEqual(client.ping(b"still here"), b"still here")

    def test_every_prefix_of_a_frame(self):
        payload = wire.HL.encode("PingRequest", {"payload": b"cut"})
        whole = wire.frame(wire.request("hl.v1.Daemon", "Ping", payload))
        with self.neighbour():
            for size in range(len(whole)):
                with self.daemon.connect() as bad:
                    bad.send(whole[:size])
                    bad.socket.shutdown(socket.SHUT_WR)
                    self.assert_closed(bad)

    def test_oversized_frame(self):
        for length in (wire.PAYLOAD_MAX + 1, 0x7FFFFFFF, 0xFFFFFFFF):
            with self.subTest(length=length), self.neighbour(), self.daemon.connect() as bad:
                bad.send(wire.frame(b"x" * 100, length=length))
                self.assert_closed(bad)

    def test_bad_header(self):
        whole = wire.request("hl.v1.Daemon", "Ping", b"")
        for name, data in {"type 0": wire.frame(whole, kind=0),
                           "type 77": wire.frame(whole, kind=77),
                           "stream 0": wire.frame(whole, stream=0)}.items():
            with self.subTest(name), self.neighbour(), self.daemon.connect() as bad:
                bad.send(data)
                self.assert_closed(bad)

    def test_even_stream_is_no_clients(self):
        """Even streams belong to servers: the connection or the request is refused."""
        with self.neighbour(), self.daemon.connect() as bad:
            bad.send(wire.frame(wire.request("hl.v1.Daemon", "Ping", b""), stream=2))
            try:
                self.assert_status("INVALID_ARGUMENT", bad.finish, 2, "Ping")
            except wire.Closed:
                pass

    def test_slow_sender(self):
        """A frame that is not whole in time ends its connection, though bytes keep coming."""
        whole = wire.frame(wire.request("hl.v1.Daemon", "Ping", bytes(5000)))
        with self.neighbour(), self.daemon.connect() as bad:
            with self.assertRaises((wire.Closed, AssertionError)):
                for byte in whole[:500]:
                    bad.send(bytes([byte]))
                    time.sleep(0.02)
            self.assert_closed(bad)

    def test_silent_connection_is_kept(self):
        """Not sending anything is no offence: only a frame once begun has a time limit."""
        with self.daemon.connect() as idle:
            time.sleep(1)
            self.assertEqual(idle.ping(b"late"), b"late")

    def test_half_closed_socket(self):
        """What was asked before the client's end is answered or dropped; then comes our end."""
        with self.neighbour(), self.daemon.connect() as half:
            stream = half.start_invoke("echo", "echo", b"last words")
            half.socket.shutdown(socket.SHUT_WR)
            try:
                self.assertEqual(wire.outcome(half.finish_invoke(stream)), b"last words")
            except wire.Closed:
                pass
            self.assert_closed(half)

    def test_client_that_never_reads(self):
        """Its answers fill the socket; hld holds back, bounded, and serves the others."""
        request = wire.request("hl.v1.Daemon", "Ping",
                               wire.HL.encode("PingRequest", {"payload": bytes(60000)}))
        with self.neighbour(), self.daemon.connect() as deaf:
            deaf.socket.settimeout(2)
            stream = 1
            try:
                for _ in range(3000):  # 180 MB, if nothing held it back
                    deaf.send(wire.frame(request, stream))
                    stream += 2
                held_back = False
            except (TimeoutError, socket.timeout, wire.Closed):
                held_back = True
            self.assertTrue(held_back, "hld took 180 MB from a client that reads no answer")

    def test_unknown_service_and_method(self):
        with self.daemon.connect() as client:
            for stream, (service, method) in enumerate([("hl.v1.Nothing", "Ping"),
                                                        ("hl.v1.Daemon", "Nothing"), ("", "")]):
                client.send(wire.frame(wire.request(service, method, b""), 2 * stream + 1))
                self.assert_status("UNIMPLEMENTED", client.finish, 2 * stream + 1, "Ping")
            client.next_stream = 7
            self.assertEqual(client.ping(b"ok"), b"ok")

    def test_worker_survived_all_of_it(self):
        """Runs in between the others as well as alone: one worker serves all connections."""
        with self.daemon.connect() as first:
            first.ping()
            workers = self.daemon.workers()
            self.assertEqual(len(workers), 1)
            with self.daemon.connect() as bad:
                bad.send(b"GET / HTTP/1.1\r\nHost: hld\r\n\r\n")
                self.assert_closed(bad)
            first.ping()
            self.assertEqual(self.daemon.workers(), workers)
