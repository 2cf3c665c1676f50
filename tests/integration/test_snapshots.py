# SPDX-License-Identifier: Apache-2.0
"""Snapshots that are kept beside their images: a restart finds them, and nothing depends on them.

    HLD_MANY_IMAGES    how many images test_many restarts with (default 150; the aim is 10000)
"""

import os
import resource
import shutil
import signal
import subprocess
import time
import unittest

import harness
from test_users import OTHER, as_user

MANY = int(os.environ.get("HLD_MANY_IMAGES", "150"))
KEPT_PROGRAMS = 512  # PROGRAMS_MAX of daemon/images.c


class Kept(unittest.TestCase):
    """Each test has a daemon of its own."""

    def make(self, **sections):
        sections.setdefault("defaults", {}).setdefault("deadline", "60s")
        daemon = harness.Daemon(**sections)
        self.addCleanup(daemon.close)
        return daemon

    def start(self, *images, **sections):
        daemon = self.make(**sections).start()
        for name in images:
            self.register(daemon, name)
        return daemon

    def counters(self, daemon):
        with daemon.connect() as connection:
            return connection.call("Stats")["counters"]

    def wait_saved(self, daemon, count):
        harness.wait_until(lambda: self.counters(daemon)["snapshots_saved"] >= count,
                           f"{count} saved snapshots")

    def register(self, daemon, name, program=None, **limits):
        with daemon.connect() as connection:
            saved = self.counters(daemon)["snapshots_saved"]
            connection.register(name, program or harness.read_guest(name), **limits)
        self.wait_saved(daemon, saved + 1)

    def path(self, daemon, name):
        return os.path.join(daemon.state, "snapshots", name)

    def files(self, daemon):
        return sorted(os.listdir(os.path.join(daemon.state, "snapshots")))

    def restart(self, daemon, /, **sections):
        self.assertEqual(daemon.stop(), 0)
        daemon.sections = {**daemon.sections, **sections}
        daemon.start()

    def echo(self, daemon, image="echo", payload=b"hello"):
        with daemon.connect() as connection:
            self.assertEqual(connection.invoke(image, "echo", payload), payload)

    def assert_counted(self, daemon, **expected):
        counters = self.counters(daemon)
        self.assertEqual({name: counters[name] for name in expected}, expected)

    def flip(self, path, at):
        os.chmod(path, 0o600)
        with open(path, "r+b") as file:
            file.seek(at, os.SEEK_END if at < 0 else os.SEEK_SET)
            byte = file.read(1)[0]
            file.seek(at, os.SEEK_END if at < 0 else os.SEEK_SET)
            file.write(bytes([byte ^ 1]))


class Restart(Kept):
    def test_first_call_loads(self):
        daemon = self.start("echo")
        self.assert_counted(daemon, builds=1, snapshots_loaded=0)
        self.restart(daemon)
        self.echo(daemon)
        self.echo(daemon, payload=b"again")
        self.assert_counted(daemon, builds=0, snapshots_loaded=1, snapshots_refused=0,
                            snapshots_saved=0)
        self.assertEqual(self.files(daemon), ["echo"])

    def test_state_of_start_up(self):
        """Programs with much of their own in memory: what they set up is there."""
        daemon = self.start("sqlite", "lua", "adder")

        def look():
            with daemon.connect() as connection:
                rows = connection.invoke("sqlite", "query", ("string", "select 6 * 7"))
                self.assertIn("42", str(rows))
                self.assertIn("42", str(connection.invoke("lua", "eval",
                                                          ("string", "return 6 * 7"))))
                self.assertEqual(connection.invoke("adder", "add_i32", ("i32", 1), ("i32", 2)), 3)
        look()
        self.restart(daemon)
        look()
        look()
        self.assert_counted(daemon, builds=0, snapshots_loaded=3)

    def test_large(self):
        """One of more than 64 MiB, of a program that takes longer to start."""
        daemon = self.start()
        self.register(daemon, "large_slow", memory=128 << 20)
        with daemon.connect() as connection:
            value = connection.invoke("large_slow", "peek", ("u32", 5))
        self.restart(daemon)
        with daemon.connect() as connection:
            self.assertEqual(connection.invoke("large_slow", "peek", ("u32", 5)), value)
        self.assert_counted(daemon, builds=0, snapshots_loaded=1, snapshots_refused=0)

    def test_worker_that_died(self):
        daemon = self.start("echo")
        for pid in daemon.workers():
            os.kill(pid, signal.SIGKILL)
        self.echo(daemon)
        self.assert_counted(daemon, builds=0, snapshots_loaded=1)

    def test_replaced_image(self):
        """A new version never runs from an old one's memory, whatever they have in common."""
        daemon = self.start("echo")
        self.register(daemon, "echo", harness.read_guest("adder"))
        self.restart(daemon)
        with daemon.connect() as connection:
            self.assertEqual(connection.invoke("echo", "add_i32", ("i32", 1), ("i32", 2)), 3)
        self.assert_counted(daemon, builds=0, snapshots_loaded=1)
        with daemon.connect() as connection:
            connection.call("Unregister", {"name": "echo"})
        self.assertEqual(self.files(daemon), [])

    def test_other_limits(self):
        """What the defaults of the day make of an image: another size of memory does not fit."""
        daemon = self.start("echo")
        self.restart(daemon, defaults={"memory": "32M"})
        self.echo(daemon)
        self.assert_counted(daemon, builds=1, snapshots_loaded=0, snapshots_refused=0)
        self.wait_saved(daemon, 1)
        self.restart(daemon)
        self.echo(daemon)
        self.assert_counted(daemon, builds=0, snapshots_loaded=1)

    def test_switched_off(self):
        daemon = self.start("echo")
        self.restart(daemon, daemon={"max_snapshot_disk": "0"})
        self.echo(daemon)
        with daemon.connect() as connection:
            connection.register("adder", harness.read_guest("adder"))
        self.assert_counted(daemon, builds=2, snapshots_loaded=0, snapshots_saved=0)


class Damage(Kept):
    def test_flipped_byte(self):
        daemon = self.start("echo")
        size = os.path.getsize(self.path(daemon, "echo"))
        for at in (0, 200, 5000, size // 2, -1, -100):
            self.assertEqual(daemon.stop(), 0)
            self.flip(self.path(daemon, "echo"), at)
            open(daemon.log, "wb").close()
            daemon.start()
            self.echo(daemon)
            self.assert_counted(daemon, builds=1, snapshots_loaded=0, snapshots_refused=1)
            self.assertEqual(daemon.read_log().count("is damaged and will be made again"), 1)
            self.wait_saved(daemon, 1)
            self.restart(daemon)
            self.echo(daemon)
            self.assert_counted(daemon, builds=0, snapshots_loaded=1, snapshots_refused=0)

    def test_short_file(self):
        daemon = self.start("echo")
        self.assertEqual(daemon.stop(), 0)
        os.chmod(self.path(daemon, "echo"), 0o600)
        os.truncate(self.path(daemon, "echo"), 4096)
        daemon.start()
        self.echo(daemon)
        self.assert_counted(daemon, builds=1, snapshots_refused=1)

    def test_leftovers(self):
        daemon = self.start("echo")
        self.assertEqual(daemon.stop(), 0)
        for name in (".tmp-0123456789abcdef", "nobodys"):
            shutil.copy(self.path(daemon, "echo"), self.path(daemon, name))
        daemon.start()
        self.assertEqual(self.files(daemon), ["echo"])
        self.echo(daemon)
        self.assert_counted(daemon, snapshots_loaded=1)

    def test_kill_while_saving(self):
        """At whatever instant hld dies, the next one serves every image that it has."""
        daemon = self.make()
        program = harness.read_guest("echo")
        for round_ in range(6):
            daemon.start()
            self.assertFalse([name for name in self.files(daemon) if name.startswith(".")])
            with daemon.connect() as connection:
                for i in range(round_ + 1):
                    connection.register(f"image-{i}", program)
                time.sleep(round_ * 0.004)
            daemon.stop(signal.SIGKILL)
            self.assertEqual(harness.left_behind(), [], "workers outlived a killed hld")
        daemon.start()
        with daemon.connect() as connection:
            images = connection.call("List")["images"]
            for image in images:
                self.assertEqual(connection.invoke(image["name"], "echo", b"x"), b"x")
            counters = connection.call("Stats")["counters"]
        self.assertEqual(counters["builds"] + counters["snapshots_loaded"], len(images))
        self.assertEqual(counters["snapshots_refused"], 0)

    def test_full_disk(self):
        """Room for the program and not for its snapshot: no more than a line in the log."""
        if not harness.ROOT:
            self.skipTest("mounting a small tmpfs needs root")
        daemon = self.make()
        os.mkdir(daemon.state)
        program = harness.read_guest("echo")
        mount = subprocess.run(["mount", "-t", "tmpfs", "-o",
                                f"mode=0700,size={(len(program) * 5 // 4) // 4096 * 4096}", "tmpfs",
                                daemon.state], capture_output=True, text=True)
        if mount.returncode != 0:
            self.skipTest(f"no tmpfs can be mounted here: {mount.stderr.strip()}")
        try:
            daemon.start()
            with daemon.connect() as connection:
                connection.register("echo", program)
            harness.wait_until(lambda: "is not kept" in daemon.read_log(), "the failure")
            self.echo(daemon)
            self.assertEqual(self.files(daemon), [])
            self.restart(daemon)
            self.echo(daemon)
            self.assert_counted(daemon, builds=1, snapshots_loaded=0, snapshots_saved=0)
            self.assertEqual(daemon.stop(), 0)
        finally:
            if daemon.process.poll() is None:
                daemon.process.kill()
                daemon.process.wait()
                harness.left_behind()
            subprocess.run(["umount", daemon.state], check=True)


@unittest.skipUnless(harness.ROOT, "acting for two users needs root")
class TwoUsers(Kept):
    def as_other(self, daemon, *images):
        """Calls as another user. Returns the counters of that user's worker."""
        def run():
            with daemon.connect() as connection:
                for image in images:
                    if connection.invoke(image, "echo", b"x") != b"x":
                        return "a wrong answer"
                return connection.call("Stats")["counters"]
        text = as_user(OTHER, run)
        return eval(text)  # pylint: disable=eval-used

    def test_others_use_the_owners(self):
        daemon = self.start("echo")
        counters = self.as_other(daemon, "echo")
        self.assertEqual((counters["builds"], counters["snapshots_loaded"]), (0, 1))

    def test_others_hand_none_in(self):
        daemon = self.start("echo")
        self.assertEqual(daemon.stop(), 0)
        os.unlink(self.path(daemon, "echo"))
        daemon.start()
        counters = self.as_other(daemon, "echo")
        self.assertEqual((counters["builds"], counters["snapshots_loaded"]), (1, 0))
        self.echo(daemon)
        self.wait_saved(daemon, 1)
        self.assertEqual(self.files(daemon), ["echo"])
        self.assertEqual(self.as_other(daemon, "echo")["snapshots_saved"], 0)


class Many(Kept):
    """Far more images than a worker keeps, in one worker."""

    def measure(self, daemon, first):
        """Restarts. Returns the seconds to a first Ping and to a first call, from the start."""
        self.assertEqual(daemon.stop(), 0)
        begin = time.monotonic()
        daemon.start()
        ready = time.monotonic() - begin
        self.echo(daemon, first)
        return ready, time.monotonic() - begin

    def call_all(self, daemon, names):
        (worker,) = daemon.workers()
        most = {"files": 0, "maps": 0, "programs": 0, "rss": 0}
        with daemon.connect() as connection:
            for i, name in enumerate(names):
                self.assertEqual(connection.invoke(name, "echo", b"x"), b"x")
                if i % 100 == 0 or name == names[-1]:
                    most["programs"] = max(most["programs"],
                                           len(connection.call("Stats")["images"]))
                    with open(f"/proc/{worker}/statm", encoding="ascii") as file:
                        most["rss"] = max(most["rss"],
                                          int(file.read().split()[1]) * resource.getpagesize())
                    if harness.ROOT:
                        most["files"] = max(most["files"], len(os.listdir(f"/proc/{worker}/fd")))
                        with open(f"/proc/{worker}/maps", "rb") as file:
                            most["maps"] = max(most["maps"], sum(1 for _ in file))
        return most

    def run_many(self, programs):
        """programs: a program by each name."""
        daemon = self.start(daemon={"max_images": str(MANY + 10), "max_disk": "64G",
                                    "max_snapshot_disk": "64G"})
        with daemon.connect() as connection:
            connection.register("first", harness.read_guest("echo_musl"))
            empty = self.measure(daemon, "first")
        begin = time.monotonic()
        with daemon.connect() as connection:
            for name, program in programs.items():
                connection.register(name, program())
        registered = time.monotonic() - begin
        harness.wait_until(lambda: len(self.files(daemon)) == MANY + 1, "the last snapshot", 60)
        full = self.measure(daemon, "first")
        self.assert_counted(daemon, builds=0, snapshots_loaded=1)
        begin = time.monotonic()
        most = self.call_all(daemon, list(programs))
        called = time.monotonic() - begin
        self.assert_counted(daemon, builds=0, snapshots_loaded=MANY + 1, snapshots_refused=0,
                            build_failures=0)
        self.assertLessEqual(most["programs"], KEPT_PROGRAMS)
        print(f"\n{self.id()}: {MANY} images: registered in {registered:.1f} s; restart: first "
              f"Ping after {full[0] * 1e3:.0f} ms (with one image {empty[0] * 1e3:.0f}), first "
              f"call after {full[1] * 1e3:.0f} ms ({empty[1] * 1e3:.0f}); each called once in "
              f"{called:.1f} s; worker at most: {most}", flush=True)

    def test_one_program_under_many_names(self):
        program = harness.read_guest("echo_musl")
        self.run_many({f"image-{i}": lambda: program for i in range(MANY)})

    def test_many_programs(self):
        program = harness.read_guest("echo_musl")
        self.run_many({f"image-{i}": lambda i=i: program + b"%d" % i for i in range(MANY)})
