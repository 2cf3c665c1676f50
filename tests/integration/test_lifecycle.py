# SPDX-License-Identifier: Apache-2.0
"""Starting, stopping, reloading and dying, at good moments and bad ones."""

import glob
import os
import signal
import socket
import subprocess
import threading
import time

import harness
import wire


class Lifecycle(harness.unittest.TestCase):
    """Each test has a daemon of its own."""

    def start(self, *images, **sections):
        daemon = harness.Daemon(**sections)
        self.addCleanup(daemon.close)
        daemon.start()
        for name in images:
            with daemon.connect() as connection:
                connection.register(name, harness.read_guest(name))
        return daemon

    def echo(self, daemon, image="echo"):
        with daemon.connect() as connection:
            payload = os.urandom(32)
            self.assertEqual(connection.invoke(image, "echo", payload), payload)

    def assert_status(self, name, function, *arguments, **keywords):
        with self.assertRaises(wire.StatusError) as caught:
            function(*arguments, **keywords)
        self.assertEqual(caught.exception.name, name, caught.exception.message)

    def start_loop(self, connection, deadline=60):
        """A call that runs until somebody stops it."""
        stream = connection.start_invoke("hostile", "loop", deadline=deadline, call_id=7)
        return stream

    def wait_running(self, daemon, image, count, connection=None):
        def running():
            with daemon.connect() as own:
                for entry in own.call("Stats")["images"]:
                    if entry["name"] == image:
                        return entry["running"]
            return 0
        harness.wait_until(lambda: running() == count, f"{count} running calls of {image}")

    def test_images_are_there_after_a_restart(self):
        daemon = self.start("echo", "adder")
        self.echo(daemon)
        self.assertEqual(daemon.stop(), 0)
        daemon.start()
        self.echo(daemon)
        with daemon.connect() as connection:
            self.assertEqual(connection.invoke("adder", "add_i32", ("i32", 1), ("i32", 2)), 3)

    def test_images_are_there_after_kill(self):
        daemon = self.start("echo", "adder")
        self.echo(daemon)
        self.assertEqual(daemon.stop(signal.SIGKILL), -signal.SIGKILL)
        self.assertEqual(harness.left_behind(), [], "workers outlived a killed hld")
        daemon.start()
        self.echo(daemon)

    def test_kill_during_registration(self):
        """At whatever instant it dies, what was registered before is whole afterwards."""
        program = harness.read_guest("echo")
        daemon = self.start("echo")
        for round_ in range(8):
            started = threading.Event()

            def register():
                try:
                    with daemon.connect() as connection:
                        started.set()
                        for i in range(100):
                            connection.register(f"copy-{round_}-{i}", program + bytes(i))
                except (wire.Closed, wire.StatusError, OSError):
                    started.set()

            thread = threading.Thread(target=register)
            thread.start()
            started.wait()
            time.sleep(0.05 + 0.03 * round_)
            daemon.stop(signal.SIGKILL)
            thread.join()
            harness.left_behind()
            daemon.start()
            self.echo(daemon)
            with daemon.connect() as connection:
                names = [image["name"] for image in connection.images()]
                self.assertIn("echo", names)
                for name in names:
                    if name.startswith(f"copy-{round_}"):
                        connection.call("Inspect", {"name": name})
            for name in names[-2:]:
                self.echo(daemon, name)

    def test_damaged_file_is_refused_and_others_are_served(self):
        daemon = self.start("echo", "adder")
        with daemon.connect() as connection:
            digest = connection.call("Inspect", {"name": "adder"})["image"]["sha256"].hex()
        self.assertEqual(daemon.stop(), 0)
        files = [path for path in glob.glob(daemon.state + "/**", recursive=True)
                 if os.path.isfile(path) and digest in path]
        self.assertTrue(files, "no file in the state directory bears its digest as its name")
        for path in files:
            os.chmod(path, 0o600)
            with open(path, "r+b") as file:
                file.seek(os.path.getsize(path) // 2)
                byte = file.read(1)
                file.seek(-1, os.SEEK_CUR)
                file.write(bytes([byte[0] ^ 1]))
        daemon.start()
        self.echo(daemon)
        with daemon.connect() as connection, self.assertRaises(wire.StatusError) as caught:
            connection.invoke("adder", "nothing")
        self.assertIn(caught.exception.name, ("NOT_FOUND", "DATA_LOSS", "FAILED_PRECONDITION"))
        self.assertIn("a damaged file is part of image adder", daemon.read_log())
        self.assertEqual(daemon.stop(), 0)
        for path in files:
            os.truncate(path, 10)
        daemon.start()
        harness.wait_until(lambda: "2 images registered, 1 of them refused" in daemon.read_log(),
                           "how many are refused")
        with daemon.connect() as connection:
            connection.register("adder", harness.read_guest("adder"))
            self.assertIsNone(connection.invoke("adder", "nothing"))

    def test_truncated_and_foreign_files_in_the_state_directory(self):
        daemon = self.start("echo")
        self.assertEqual(daemon.stop(), 0)
        for folder, _, _ in list(os.walk(daemon.state)):
            for name in ("garbage", ".tmp-half", "x.conf", "0" * 64):
                with open(os.path.join(folder, name), "wb") as file:
                    file.write(b"[image]\nname = \xff\xfe")
        daemon.start()
        self.echo(daemon)

    def test_reregistering_switches(self):
        daemon = self.start("echo")
        with daemon.connect() as connection:
            connection.register("thing", harness.read_guest("echo"))
            self.assertEqual(connection.invoke("thing", "hello", "you"), "hello, you")
            connection.register("thing", harness.read_guest("adder"))
            self.assertEqual(connection.invoke("thing", "add_i32", ("i32", 1), ("i32", 2)), 3)
            self.assert_status("NOT_FOUND", connection.invoke, "thing", "hello", "you")
            connection.call("Unregister", {"name": "thing"})
            self.assert_status("NOT_FOUND", connection.invoke, "thing", "hello", "you")

    def test_reload_with_a_good_file(self):
        daemon = self.start("echo")
        with daemon.connect() as connection:
            before = connection.call("Info")["defaults"]["deadline_ns"]
        daemon.write_config(defaults={"deadline": "123ms"})
        daemon.signal(signal.SIGHUP)

        def deadline():
            with daemon.connect() as connection:
                return connection.call("Info")["defaults"]["deadline_ns"]
        self.assertNotEqual(before, 123_000_000)
        harness.wait_until(lambda: deadline() == 123_000_000, "the new deadline")
        self.echo(daemon)

    def test_none_to_be_kept_warm(self):
        daemon = self.start("echo", defaults={"min_instances": 0}, limits={"min_instances": 0})
        with daemon.connect() as connection:
            self.assertEqual(connection.call("Info")["maxima"]["min_instances"], 0)
            self.assert_status("INVALID_ARGUMENT", connection.register, "warm",
                               harness.read_guest("echo"), min_instances=1)
        self.echo(daemon)

    def test_reload_with_a_bad_file(self):
        daemon = self.start("echo", defaults={"deadline": "777ms"})
        daemon.write_config(defaults={"deadline": "888ms", "nonsense": "1"})
        daemon.signal(signal.SIGHUP)
        harness.wait_until(lambda: "nonsense" in daemon.read_log(), "a word about the bad file")
        with daemon.connect() as connection:
            self.assertEqual(connection.call("Info")["defaults"]["deadline_ns"], 777_000_000)
        self.echo(daemon)

    def test_drain_lets_running_calls_finish(self):
        daemon = self.start("echo", "hostile")
        with daemon.connect() as busy, daemon.connect() as idle:
            idle.ping()
            stream = self.start_loop(busy, deadline=5)
            self.wait_running(daemon, "hostile", 1)
            daemon.signal(signal.SIGTERM)

            def refused():
                try:
                    idle.invoke("echo", "echo", b"x")
                    return False
                except wire.StatusError as error:
                    self.assertEqual(error.name, "UNAVAILABLE")
                    return True
                except wire.Closed:
                    return True
            harness.wait_until(refused, "new calls to be refused")
            # the loop goes on to its own deadline: draining did not cut it short
            self.assert_status("DEADLINE_EXCEEDED", busy.finish_invoke, stream)
        self.assertEqual(daemon.process.wait(30), 0)

    def test_drain_has_a_limit(self):
        daemon = self.start("hostile", daemon={"drain_timeout": "300ms"})
        with daemon.connect() as busy:
            self.start_loop(busy, deadline=120)
            self.wait_running(daemon, "hostile", 1)
            self.assertEqual(daemon.stop(), 0)  # which does not wait for as long as the loop may run

    def test_killed_client_stops_its_guest(self):
        daemon = self.start("hostile", "echo")
        connection = daemon.connect()
        self.start_loop(connection, deadline=250)
        self.wait_running(daemon, "hostile", 1)
        connection.close()
        self.wait_running(daemon, "hostile", 0)
        self.echo(daemon)

    def test_killed_client_process(self):
        """The same, with a client that dies without closing anything."""
        daemon = self.start("hostile", "echo")
        client = subprocess.Popen([harness.HLCTL, "--socket", daemon.socket, "call", "--deadline",
                                   "250s", "hostile", "loop"], stdin=subprocess.DEVNULL)
        harness.OWN.append(client)
        self.wait_running(daemon, "hostile", 1)
        client.kill()
        client.wait()
        self.wait_running(daemon, "hostile", 0)
        self.echo(daemon)

    def test_killed_worker(self):
        """Its clients see the end of their connections; the next connection is served."""
        daemon = self.start("echo")
        with daemon.connect() as connection:
            connection.ping()
            (worker,) = daemon.workers()
            os.kill(worker, signal.SIGKILL)
            with self.assertRaises(wire.Closed):
                connection.ping()
        self.echo(daemon)
        self.assertNotEqual(daemon.workers(), [worker])

    def test_many_killed_workers(self):
        daemon = self.start("echo")
        for _ in range(6):
            self.echo(daemon)
            killed = daemon.workers()
            for worker in killed:
                os.kill(worker, signal.SIGKILL)
            # a connection handed to a worker that is about to die would end with it
            harness.wait_until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in killed),
                               "their end")
        harness.wait_until(lambda: self.served(daemon), "a fresh worker", 60)

    def served(self, daemon):
        try:
            self.echo(daemon)
            return True
        except (wire.Closed, OSError):
            time.sleep(0.1)
            return False

    def test_stats_are_sorted(self):
        names = ["m", "z", "b", "x", "a", "c"]
        daemon = self.start()
        with daemon.connect() as connection:
            for name in names:
                connection.register(name, harness.read_guest("echo"))
                connection.invoke(name, "echo", b"x")
            found = [image["name"] for image in connection.call("Stats")["images"]]
        self.assertEqual(found, sorted(names))

    def test_idle_worker_ends_and_comes_back(self):
        daemon = self.start("echo", daemon={"idle_timeout": "200ms"})
        self.echo(daemon)
        harness.wait_until(lambda: not daemon.workers(), "the idle worker's end")
        self.assertNotIn("draining", daemon.read_log())
        self.echo(daemon)

    def test_names_of_processes(self):
        daemon = self.start("echo", daemon={"idle_timeout": "1min"})
        with daemon.connect() as connection:
            connection.ping()
            names = [harness.process_status(pid)["Name"] for pid in daemon.workers()]
        self.assertEqual(names, ["hld-worker"])

    def test_cancel(self):
        daemon = self.start("hostile", "echo")
        with daemon.connect() as connection:
            stream = self.start_loop(connection)
            self.wait_running(daemon, "hostile", 1)
            self.assertTrue(connection.call("Cancel", {"call_id": 7})["found"])
            self.assert_status("CANCELLED", connection.finish_invoke, stream)
            self.assertFalse(connection.call("Cancel", {"call_id": 7})["found"])
            with daemon.connect() as other:
                stream = self.start_loop(connection)
                self.wait_running(daemon, "hostile", 1)
                # another connection's call is not there for this one
                self.assertFalse(other.call("Cancel", {"call_id": 7})["found"])
            connection.call("Cancel", {"call_id": 7})
            self.assert_status("CANCELLED", connection.finish_invoke, stream)

    def test_stale_socket_file(self):
        daemon = self.start("echo")
        daemon.stop(signal.SIGKILL)
        harness.left_behind()
        self.assertTrue(os.path.exists(daemon.socket))
        daemon.start()
        self.echo(daemon)

    @harness.unittest.skipUnless(harness.ROOT, "looking at a worker's descriptors needs root")
    def test_out_of_descriptors(self):
        """More connections than front or worker have numbers for: some are closed, and when the
        others have gone, the uid is served as before."""
        daemon = harness.Daemon()
        self.addCleanup(daemon.close)
        daemon.start(command=["sh", "-c", 'ulimit -n 80; exec "$@"', "sh", harness.HLD,
                              "--config", daemon.config])
        connections = []
        for _ in range(150):
            connections.append(socket.socket(socket.AF_UNIX))
            connections[-1].connect(daemon.socket)
        worker, = daemon.workers()
        harness.wait_until(lambda: len(os.listdir(f"/proc/{worker}/fd")) == 80, "a full table")
        time.sleep(0.3)  # more than that are on their way
        for connection in connections:
            connection.close()
        harness.wait_until(lambda: len(os.listdir(f"/proc/{worker}/fd")) < 40, "room in the table")
        with daemon.connect() as connection:
            connection.ping()
            connection.register("echo", harness.read_guest("echo"))
        self.echo(daemon)

    def test_started_without_standard_files(self):
        """Log lines must not go into a file or socket that got standard error's number."""
        daemon = harness.Daemon()
        self.addCleanup(daemon.close)
        daemon.start(command=["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", harness.HLD, "--config",
                              daemon.config])
        for number in range(3):
            self.assertEqual(os.readlink(f"/proc/{daemon.process.pid}/fd/{number}"), "/dev/null")
        with daemon.connect() as connection:
            connection.register("echo", harness.read_guest("echo"))
        self.echo(daemon)

    def test_second_daemon_on_the_same_socket(self):
        daemon = self.start("echo")
        result = subprocess.run([harness.HLD, "--config", daemon.config], stdin=subprocess.DEVNULL,
                                capture_output=True, timeout=60)
        self.assertNotEqual(result.returncode, 0)
        self.echo(daemon)


class Configuration(harness.unittest.TestCase):
    def setUp(self):
        self.daemon = harness.Daemon()
        self.addCleanup(self.daemon.close)
        self.daemon.write_config()

    def run_hld(self, *arguments):
        return subprocess.run([harness.HLD, "--config", self.daemon.config, *arguments],
                              stdin=subprocess.DEVNULL, capture_output=True, timeout=60, text=True)

    def append(self, text):
        """Returns the number of the file's last line."""
        with open(self.daemon.config, "a", encoding="utf-8") as file:
            file.write(text)
        with open(self.daemon.config, encoding="utf-8") as file:
            return len(file.readlines())

    def test_good(self):
        result = self.run_hld("--check-config")
        self.assertEqual(result.returncode, 0, result.stderr)

    def test_bad(self):
        for text in ("[engine]\nno_such_key = 1\n", "[no_such_section]\nkey = 1\n",
                     "[defaults]\nmemory = lots\n", "[defaults]\ndeadline = 5\n",
                     "[daemon]\nbackend = qemu\n", "[daemon]\nworker_user = no-such-user\n",
                     "[daemon]\nworker_user = root\n", "[daemon]\nsocket_group = no-such-group\n",
                     "[engine] x\n", "[engine]\nshards = -1\n",
                     "[daemon]\nsocket = relative/path\n", "[engine]\nthis is no setting\n"):
            with self.subTest(text):
                self.daemon.write_config()
                line = self.append(text)
                if "no_such_section" in text:  # its header is what is wrong, not its settings
                    line -= 1
                for arguments in (["--check-config"], []):
                    result = self.run_hld(*arguments)
                    self.assertNotEqual(result.returncode, 0)
                    self.assertIn(f"{self.daemon.config}:{line}", result.stderr)

    def test_missing_file(self):
        os.unlink(self.daemon.config)
        result = self.run_hld("--check-config")
        self.assertNotEqual(result.returncode, 0)
        self.assertIn(self.daemon.config, result.stderr)

    def test_unusable_socket_path(self):
        self.daemon.write_config(daemon={"socket": "/proc/no/such/place.sock"})
        result = self.run_hld()
        self.assertNotEqual(result.returncode, 0)
        self.assertIn("/proc/no/such/place.sock", result.stderr)

    def test_usage(self):
        result = subprocess.run([harness.HLD, "--no-such-option"], stdin=subprocess.DEVNULL,
                                capture_output=True, timeout=60, text=True)
        self.assertEqual(result.returncode, 2)
        result = subprocess.run([harness.HLD, "--version"], stdin=subprocess.DEVNULL,
                                capture_output=True, timeout=60, text=True, check=True)
        self.assertIn("hld", result.stdout)
        for option in ("--help", "--version", "--check-config"):
            with open("/dev/full", "wb") as full:
                result = subprocess.run([harness.HLD, "--config", self.daemon.config, option],
                                        stdin=subprocess.DEVNULL, stdout=full,
                                        stderr=subprocess.PIPE, timeout=60, text=True)
            self.assertEqual(result.returncode, 1)
            self.assertIn("cannot write", result.stderr)

    def test_worker_is_not_for_people(self):
        result = subprocess.run([harness.HLD, "--worker"], stdin=subprocess.DEVNULL,
                                capture_output=True, timeout=60, text=True)
        self.assertNotEqual(result.returncode, 0)
        self.assertNotEqual(result.stderr, "")


class Sockets(harness.unittest.TestCase):
    def test_mode(self):
        daemon = harness.Daemon(daemon={"socket_mode": "0600"})
        self.addCleanup(daemon.close)
        daemon.start()
        self.assertEqual(os.stat(daemon.socket).st_mode & 0o777, 0o600)
        with self.assertRaises(OSError):
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagram:
                datagram.connect(daemon.socket)
