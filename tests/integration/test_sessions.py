# SPDX-License-Identifier: Apache-2.0
"""Sessions of a real guest: state against a model, several clients, failures, and every limit."""

import os
import random
import signal
import threading
import time

import harness
import wire

LARGE = 72 << 20  # what the guest of that name fills


class Session:
    """One session, used over a connection."""

    def __init__(self, connection, image="state", id_=None):
        self.connection = connection
        if id_ is None:
            id_ = connection.call("Sessions.Open", {"image": image})["session"]
        self.id = id_

    def on(self, connection):
        return Session(connection, id_=self.id)

    def start(self, function, *args, deadline=None, call_id=0):
        message = {"session": self.id, "function": function,
                   "args": [wire.value(arg) for arg in args], "call_id": call_id}
        return self.connection.start("Sessions.Invoke", message,
                                     int(deadline * 1e9) if deadline else 0)

    def finish(self, stream):
        return wire.outcome(self.connection.finish(stream, "Sessions.Invoke"))

    def invoke(self, function, *args, deadline=None):
        return self.finish(self.start(function, *args, deadline=deadline))

    def checkpoint(self):
        return self.connection.call("Sessions.Checkpoint", {"session": self.id})

    def rollback(self, number):
        return self.connection.call("Sessions.Rollback", {"session": self.id, "checkpoint": number})

    def commit(self, name, checkpoint=0, private=False, flatten=False):
        return self.connection.call("Sessions.Commit", {"session": self.id, "name": name,
                                                        "flatten": flatten,
                                                        "checkpoint": checkpoint,
                                                        "private": private})["state_bytes"]

    def close(self):
        self.connection.call("Sessions.Close", {"session": self.id})


class Sessions(harness.DaemonTest):
    images = ("state", "echo")

    def session(self):
        session = Session(self.connect())
        self.addCleanup(self.close_quietly, session.id)
        return session

    def close_quietly(self, id_):
        with self.daemon.connect() as connection:
            try:
                connection.call("Sessions.Close", {"session": id_})
            except wire.StatusError:
                pass

    def info(self, session):
        for entry in self.connect().call("Sessions.List")["sessions"]:
            if entry["session"] == session.id:
                return entry
        return None

    def test_state_stays_and_only_there(self):
        session, other = self.session(), self.session()
        for number in range(1, 20):
            self.assertEqual(session.invoke("count"), 1000 + number)
        self.assertEqual(other.invoke("count"), 1001)
        connection = self.connect()
        for _ in range(5):
            self.assertEqual(connection.invoke("state", "count"), 1001)
        self.assertEqual(session.invoke("poke", ("u32", 5), ("u64", 50)), 0)
        self.assertEqual(connection.invoke("state", "peek", ("u32", 5)), 0)
        self.assertEqual(session.invoke("peek", ("u32", 5)), 50)
        self.assertEqual(session.invoke("doubled"), 0.5 * 2**19)

    def test_calls_are_those_of_the_session(self):
        connection = self.connect()
        for _ in range(8):
            connection.invoke("state", "count")
        session = self.session()
        self.assertEqual(self.info(session)["calls"], 0)
        for calls in range(1, 4):
            session.invoke("count")
            self.assertEqual(self.info(session)["calls"], calls)

    def test_errors_and_refusals_leave_it_usable(self):
        session = self.session()
        self.assertEqual(session.invoke("fails", ("i32", 7))["code"], 7)
        self.assertEqual(session.invoke("fails", ("i32", 8))["code"], 8)
        self.assert_status("NOT_FOUND", session.invoke, "no_such_function")
        self.assert_status("INVALID_ARGUMENT", session.invoke, "peek")
        self.assertEqual(session.invoke("peek", ("u32", 0)), 2)

    def test_a_thousand_checkpoints_against_a_model(self):
        session = self.session()
        chosen = random.Random(11)
        count = 1000 if self.daemon.backend == "kvm" else 60
        cells = [0] * 64
        models = []
        for number in range(count):
            for _ in range(chosen.randrange(4)):
                cell, value = chosen.randrange(64), chosen.randrange(1 << 60)
                self.assertEqual(session.invoke("poke", ("u32", cell * 30), ("u64", value)),
                                 cells[cell])
                cells[cell] = value
            self.assertEqual(session.checkpoint()["checkpoint"], number + 1)
            models.append(list(cells))
            if chosen.randrange(3) == 0:
                back = chosen.randrange(number + 1)
                session.rollback(back + 1)
                cells = list(models[back])
        for back in chosen.sample(range(count), 40):
            session.rollback(back + 1)
            for cell in range(64):
                self.assertEqual(session.invoke("peek", ("u32", cell * 30)), models[back][cell])
        info = self.info(session)
        self.assertEqual(info["checkpoints"], count)
        self.assertLess(info["checkpoint_bytes"], count * 40 * 4096)

    def test_heap_and_mappings_go_back(self):
        session = self.session()
        self.assertEqual(session.invoke("allocate", ("u32", 200000)), 1)
        self.assertEqual(session.invoke("map", ("u32", 10)), 0)
        first = session.checkpoint()["checkpoint"]
        self.assertEqual(session.invoke("allocate", ("u32", 1 << 20)), 3)
        session.invoke("writable", ("bool", False))
        second = session.checkpoint()["checkpoint"]
        session.rollback(first)
        self.assertEqual(session.invoke("touch"), 8)
        self.assertEqual(session.invoke("allocate", ("u32", 1 << 20)), 3)
        session.rollback(second)
        self.assert_status("ABORTED", session.invoke, "touch")
        session.rollback(first)
        self.assertEqual(session.invoke("map", ("u32", 30)), 0)

    def test_a_made_up_world_goes_back(self):
        connection = self.connect()
        connection.register("replay", harness.read_guest("restore"), host={"deterministic": True})
        self.addCleanup(connection.call, "Unregister", {"name": "replay"})
        session = Session(self.connect(), "replay")
        self.addCleanup(self.close_quietly, session.id)

        def look():
            return [session.invoke("clock"), session.invoke("getrandom", ("u32", 40)),
                    session.invoke("clock"), session.invoke("getrandom", ("u32", 4000))]
        first = look()
        number = session.checkpoint()["checkpoint"]
        second = look()
        self.assertTrue(all(a != b for a, b in zip(first, second)), (first, second))
        for _ in range(2):
            session.rollback(number)
            self.assertEqual(look(), second)
        session.rollback(0)
        self.assertEqual(look(), first)

    def test_two_clients_take_turns(self):
        session = self.session()
        counts = []
        threads = []

        def client():
            with self.daemon.connect() as connection:
                own = session.on(connection)
                for _ in range(100):
                    counts.append(own.invoke("count"))

        for _ in range(4):
            threads.append(threading.Thread(target=client))
            threads[-1].start()
        for thread in threads:
            thread.join()
        self.assertEqual(sorted(counts), list(range(1001, 1401)))

    def test_it_survives_its_connection(self):
        connection = self.daemon.connect()
        session = Session(connection)
        self.addCleanup(self.close_quietly, session.id)
        self.assertEqual(session.invoke("count"), 1001)
        connection.close()
        self.assertEqual(session.on(self.connect()).invoke("count"), 1002)

    def wait_free(self, session):
        harness.wait_until(lambda: not self.info(session)["busy"], "the call to end")

    def ruin(self, session, how):
        if how == "crash":
            self.assert_status("ABORTED", session.invoke, "crash")
        elif how == "deadline":
            deadline = 0.02
            while not self.info(session)["failed"]:  # one that does not get to run changes nothing
                self.assert_status("DEADLINE_EXCEEDED", session.invoke, "spin", deadline=deadline)
                self.wait_free(session)
                deadline *= 2
        elif how == "cancel":
            stream = self.start_spin(session)
            session.connection.call("Cancel", {"call_id": 5})
            self.assert_status("CANCELLED", session.finish, stream)
        else:
            with self.daemon.connect() as connection:
                self.start_spin(session.on(connection))

    def start_spin(self, session):
        """Returns when it runs."""
        calls = self.image_stats("state")["calls"]
        stream = session.start("spin", deadline=30, call_id=5)
        harness.wait_until(lambda: self.image_stats("state")["calls"] > calls, "the call to run")
        return stream

    def test_failed_sessions(self):
        for how in ("crash", "deadline", "cancel", "disconnect"):
            with self.subTest(how=how):
                session = self.session()
                session.invoke("count")
                number = session.checkpoint()["checkpoint"]
                session.invoke("count")
                self.ruin(session, how)
                self.wait_free(session)
                self.assert_status("FAILED_PRECONDITION", session.invoke, "count")
                self.assert_status("FAILED_PRECONDITION", session.checkpoint)
                self.assertTrue(self.info(session)["failed"])
                self.assert_status("NOT_FOUND", session.rollback, 99)
                session.rollback(number)
                self.assertEqual(session.invoke("count"), 1002)
                self.ruin(session, how)
                self.wait_free(session)
                session.rollback(0)
                self.assertEqual(session.invoke("count"), 1001)
                self.ruin(session, how)
                session.close()
                self.assert_status("NOT_FOUND", session.invoke, "count")

    def test_a_replaced_or_removed_image_goes_on(self):
        connection = self.connect()
        connection.register("mine", harness.read_guest("state"))
        session = Session(self.connect(), "mine")
        session.invoke("count")
        number = session.checkpoint()["checkpoint"]
        connection.register("mine", harness.read_guest("echo"))
        self.assertEqual(connection.invoke("mine", "echo", b"x"), b"x")
        self.assertEqual(session.invoke("count"), 1002)
        connection.call("Unregister", {"name": "mine"})
        self.ruin(session, "crash")
        session.rollback(number)
        self.assertEqual(session.invoke("count"), 1002)
        session.close()

    def test_long_calls(self):
        session = self.session()
        for number in range(3):
            self.assertEqual(session.invoke("slow", ("u32", 20000), deadline=60), 1001 + number)
        self.assertEqual(session.invoke("count"), 1004)

    def test_bad_ids(self):
        connection = self.connect()
        for id_ in ("", "x", "0" * 33, "0" * 35, "fe" + "0" * 32, "0" * 33 + "\u00e9", "0" * 5000):
            session = Session(connection, id_=id_)
            for function in (lambda: session.invoke("count"), session.checkpoint, session.close,
                             lambda: session.rollback(0)):
                self.assert_status("INVALID_ARGUMENT", function)
        self.assert_status("NOT_FOUND", Session(connection, id_="0" * 34).invoke, "count")
        self.assert_status("NOT_FOUND", Session, connection, "no-such-image")

    def test_everything_is_given_back(self):
        harness.wait_until(lambda: self.stats()["counters"]["now_sessions"] == 0, "no sessions")
        sessions = [self.session() for _ in range(6)]
        for session in sessions:
            session.invoke("fill", ("u32", 0), ("u32", 500), ("u64", 7))
            session.checkpoint()
        before = self.stats()["counters"]
        self.assertEqual(before["now_sessions"], 6)
        self.ruin(sessions[0], "crash")
        for session in sessions:
            session.close()
        harness.wait_until(lambda: self.stats()["counters"]["now_sessions"] == 0, "all closed")
        after = self.stats()["counters"]
        self.assertLess(after["now_guest_memory"], before["now_guest_memory"] - 6 * 500 * 4096)
        self.assertLessEqual(after["now_vms"], before["now_vms"])

    def test_hlctl(self):
        session = self.hlctl("session", "open", "state", check=0).stdout.decode().strip()
        self.addCleanup(self.close_quietly, session)
        for number in (1001, 1002):
            self.assertEqual(self.hlctl("session", "call", session, "count", check=0).stdout,
                             b"%d\n" % number)
        self.assertEqual(self.hlctl("session", "checkpoint", session, check=0).stdout, b"1\n")
        made = harness.hlctl_json(self.daemon, "session", "checkpoint", session)
        self.assertEqual(made["checkpoint"], 2)
        called = harness.hlctl_json(self.daemon, "session", "call", session, "poke", "3", "9")
        self.assertEqual(called["result"], 0)
        self.hlctl("session", "rollback", session, "1", check=0)
        self.assertEqual(self.hlctl("session", "call", session, "peek", "3", check=0).stdout, b"0\n")
        listed = harness.hlctl_json(self.daemon, "session", "ls")["sessions"]
        self.assertEqual([(entry["image"], entry["checkpoints"]) for entry in listed
                          if entry["session"] == session], [("state", 2)])
        self.assertIn(session, self.hlctl("session", "ls", check=0).stdout.decode())
        self.hlctl("session", "call", session, "crash", check=1)
        failed = self.hlctl("session", "call", session, "count", check=1)
        self.assertIn(b"roll", failed.stderr)
        self.hlctl("session", "rollback", session, "99", check=1)
        self.hlctl("session", "rollback", session, "x", check=2)
        self.hlctl("session", "rollback", session, "0", check=0)
        self.hlctl("session", "close", session, check=0)
        self.assertIn(b"no session", self.hlctl("session", "call", session, "count", check=1).stderr)
        self.hlctl("session", check=2)
        self.hlctl("session", "open", "no-such-image", check=1)


class SessionLimits(harness.unittest.TestCase):
    """Each test has a daemon of its own."""

    assert_status = harness.DaemonTest.assert_status

    def start(self, **sections):
        daemon = harness.Daemon(**sections)
        self.addCleanup(daemon.close)
        daemon.start()
        with daemon.connect() as connection:
            connection.register("state", harness.read_guest("state"))
        return daemon

    def test_limit(self):
        daemon = self.start(engine={"max_sessions": "3"})
        with daemon.connect() as connection:
            sessions = [Session(connection) for _ in range(3)]
            self.assert_status("RESOURCE_EXHAUSTED", Session, connection)
            sessions[1].close()
            Session(connection)
            self.assertEqual(connection.invoke("state", "count"), 1001)

    def test_none_allowed(self):
        daemon = self.start(engine={"max_sessions": "0"})
        with daemon.connect() as connection:
            self.assert_status("RESOURCE_EXHAUSTED", Session, connection)
            self.assertEqual(connection.invoke("state", "count"), 1001)

    def test_idle_time(self):
        for idle in (0.5, 2, 8, 32):  # the machine may be too busy for the shorter ones
            if self.stays_while_used(idle):
                break
        else:
            self.fail("the session in use was never used often enough")

    def stays_while_used(self, idle):
        """Uses one session until another is gone. False: a pause was long enough to end it, too."""
        daemon = self.start(engine={"session_idle": f"{int(idle * 1000)}ms"})
        with daemon.connect() as connection:
            used, unused = Session(connection), Session(connection)
            number, longest, asked = 1000, 0, time.monotonic()
            try:
                while connection.call("Stats")["counters"]["sessions_idle"] == 0:
                    before, asked = asked, time.monotonic()
                    number += 1
                    self.assertEqual(used.invoke("count"), number)
                    longest = max(longest, time.monotonic() - before)
                    time.sleep(idle / 20)
                error = self.assert_status("NOT_FOUND", unused.invoke, "count")
                self.assertIn("idle", error.message)
                self.assertEqual(used.invoke("count"), number + 1)
            except (wire.StatusError, AssertionError):
                if max(longest, time.monotonic() - asked) < idle:
                    raise
                return False
        return True

    def test_a_worker_with_sessions_stays(self):
        daemon = self.start(daemon={"idle_timeout": "300ms"}, engine={"session_idle": "10min"})
        connection = daemon.connect()
        session = Session(connection)
        session.invoke("count")
        connection.close()
        workers = daemon.workers()
        time.sleep(1.2)
        self.assertEqual(daemon.workers(), workers)
        with daemon.connect() as connection:
            self.assertEqual(session.on(connection).invoke("count"), 1002)
            session.on(connection).close()
        # With the session's end comes the worker's.
        harness.wait_until(lambda: daemon.workers() == [], "the worker to end")

    def test_killed_worker(self):
        daemon = self.start()
        connection = daemon.connect()
        session = Session(connection)
        session.invoke("count")
        for pid in daemon.workers():
            os.kill(pid, signal.SIGKILL)
        harness.wait_until(lambda: not daemon.workers() or connection_lost(connection), "its end")
        connection.close()
        with daemon.connect() as connection:
            text = self.assert_status("NOT_FOUND", session.on(connection).invoke, "count").message
            self.assertIn("worker", text)
            self.assertEqual(connection.call("Stats")["counters"]["now_sessions"], 0)

    def test_memory_of_checkpoints_is_bounded(self):
        daemon = self.start(engine={"memory_budget": "72M", "shells": "0"})
        with daemon.connect() as connection:
            session = Session(connection)
            session.invoke("fill", ("u32", 0), ("u32", 1500), ("u64", 1 << 40))
            first = session.checkpoint()["checkpoint"]
            session.invoke("fill", ("u32", 0), ("u32", 1500), ("u64", 2 << 40))
            self.assert_status("RESOURCE_EXHAUSTED", session.checkpoint)
            self.assertEqual(session.invoke("peek", ("u32", 4)), (2 << 40) + 4)
            session.rollback(first)
            self.assertEqual(session.invoke("peek", ("u32", 4)), (1 << 40) + 4)
            connection.call("Sessions.Forget", {"session": session.id, "checkpoint": first})

    def test_the_end_of_the_daemon(self):
        daemon = self.start()
        connection = daemon.connect()
        sessions = [Session(connection) for _ in range(4)]
        sessions[0].checkpoint()
        stream = sessions[1].start("slow", ("u32", 50000), deadline=60)
        with daemon.connect() as other:
            harness.wait_until(lambda: other.call("Stats")["images"][0]["calls"] > 0,
                               "the call to run")
        daemon.signal(signal.SIGTERM)
        self.assertEqual(sessions[1].finish(stream), 1001)
        self.assertEqual(daemon.process.wait(60), 0)
        connection.close()

    def test_load_on_all_shards(self):
        """Sessions and calls at once, from more connections than shards, with failures among them."""
        daemon = self.start(engine={"shards": "2", "max_vms": "24"})
        with daemon.connect() as connection:
            shared = [Session(connection) for _ in range(4)]
        errors = []

        def client(seed):
            chosen = random.Random(seed)
            try:
                with daemon.connect() as own_connection:
                    own, count = Session(own_connection), 1000
                    for _ in range(150):
                        session = chosen.choice(shared).on(own_connection)
                        try:
                            action = chosen.randrange(10)
                            if action == 0:
                                session.checkpoint()
                            elif action == 1:
                                session.rollback(chosen.randrange(3))
                            elif action == 2:
                                session.invoke("crash")
                            elif action == 3:
                                session.invoke("spin", deadline=0.005)
                            elif action == 4:
                                own_connection.invoke("state", "count")
                            else:
                                session.invoke("count")
                        except wire.StatusError as error:
                            if error.name not in ("ABORTED", "FAILED_PRECONDITION", "NOT_FOUND",
                                                  "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED"):
                                raise
                        count += 1
                        got = own.invoke("count", deadline=30)
                        if got != count:
                            errors.append(f"{got} instead of {count}")
                    own.close()
            except Exception as error:
                errors.append(repr(error))

        threads = [threading.Thread(target=client, args=(seed,)) for seed in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(errors, [])
        with daemon.connect() as connection:
            for session in shared:
                session.on(connection).close()
            harness.wait_until(
                lambda: connection.call("Stats")["counters"]["now_sessions"] == 0, "all closed")
            self.assertEqual(connection.call("Stats")["counters"].get("audit_failures", 0), 0)


class Commits(harness.unittest.TestCase):
    """Images made from sessions. Each test has a daemon of its own."""

    assert_status = harness.DaemonTest.assert_status

    def start(self, **sections):
        # Of a busy machine, and a sanitizer: a start of a large program takes more than a second.
        sections.setdefault("defaults", {})["deadline"] = "60s"
        daemon = harness.Daemon(**sections)
        self.addCleanup(daemon.close)
        daemon.start()
        with daemon.connect() as connection:
            connection.register("state", harness.read_guest("state"))
        return daemon

    def stored(self, daemon):
        return {name: os.stat(path).st_size
                for name in os.listdir(os.path.join(daemon.state, "images"))
                for path in [os.path.join(daemon.state, "images", name)]}

    def test_a_child_has_the_state(self):
        daemon = self.start()
        chosen = random.Random(3)
        cells = {}
        with daemon.connect() as connection:
            session = Session(connection)
            session.invoke("allocate", ("u32", 500000))
            session.invoke("map", ("u32", 20))
            for _ in range(50):
                cell, value = chosen.randrange(2000), chosen.randrange(1 << 60)
                session.invoke("poke", ("u32", cell), ("u64", value))
                cells[cell] = value
            number = session.checkpoint()["checkpoint"]
            session.invoke("count")
            session.commit("now")
            session.commit("then", number)
            self.assertEqual(session.invoke("count"), 1002)
            session.close()
        for _ in range(2):
            with daemon.connect() as connection:
                for name, count in (("now", 1002), ("then", 1001)):
                    for _ in range(3):
                        self.assertEqual(connection.invoke(name, "count"), count)
                    for cell, value in cells.items():
                        self.assertEqual(connection.invoke(name, "peek", ("u32", cell)), value)
                    self.assertEqual(connection.invoke(name, "allocate", ("u32", 500000)), 3)
                    self.assertEqual(connection.invoke(name, "touch"), 8)
                    self.assertEqual(connection.invoke(name, "map", ("u32", 40)), 0)
                self.assertEqual(connection.invoke("state", "count"), 1001)
                self.assertEqual(connection.call("Stats")["counters"].get("audit_failures", 0), 0)
            self.assertEqual(daemon.stop(), 0)
            daemon.start()

    def test_families(self):
        daemon = self.start()
        with daemon.connect() as connection:
            parent = "state"
            for generation in range(4):
                session = Session(connection, parent)
                self.assertEqual(session.invoke("count"), 1001 + generation)
                parent = f"generation-{generation}"
                session.commit(parent, private=generation == 2)
                session.close()
            connection.call("Unregister", {"name": "state"})
            connection.call("Unregister", {"name": "generation-1"})
        self.assertEqual(daemon.stop(), 0)
        daemon.start()
        with daemon.connect() as connection:
            self.assertEqual(connection.invoke("generation-3", "count"), 1005)
            self.assertEqual(connection.invoke("generation-0", "count"), 1002)
            images = {image["name"]: image for image in connection.call("List")["images"]}
            self.assertEqual(images["generation-3"]["parent"], "generation-2")
            self.assertTrue(images["generation-3"]["private"])
            self.assertFalse(images["generation-0"]["private"])
            tree = harness.hlctl(daemon, "image", "ls", "--tree", check=0).stdout.decode()
            self.assertIn("\n  generation-3", tree)
            self.assertIn("\ngeneration-0", tree)
            for name in images:
                connection.call("Unregister", {"name": name})
        harness.wait_until(lambda: self.stored(daemon) == {}, "all files to go")

    def test_flatten(self):
        """All of the state for itself, to be shared by what is made of it."""
        daemon = self.start()
        with daemon.connect() as connection:
            session = Session(connection)
            session.invoke("fill", ("u32", 0), ("u32", 512), ("u64", 7))
            session.invoke("count")
            session.commit("shared")
            size = session.commit("flat", flatten=True)
            self.assertLess(size, 64 * 1024)
            session.close()
            child = Session(connection, "flat")
            child.invoke("fill", ("u32", 40), ("u32", 2), ("u64", 9))
            self.assertLess(child.commit("child"), 256 * 1024)
            child.close()
            images = {name: connection.call("Inspect", {"name": name})["image"]
                      for name in ("shared", "flat", "child")}
            self.assertGreater(images["flat"]["root_bytes"], 512 * 4096)
            self.assertLess(images["shared"]["root_bytes"], 512 * 4096)
            self.assertEqual(images["flat"]["parent"], "state")
            for name in ("state", "shared"):
                connection.call("Unregister", {"name": name})
            harness.hlctl(daemon, "image", "inspect", "flat", check=0)
        for _ in range(2):
            with daemon.connect() as connection:
                for name, cell, value in (("flat", 40, 47), ("child", 40, 49), ("child", 3, 10)):
                    for _ in range(3):
                        self.assertEqual(connection.invoke(name, "peek", ("u32", cell)), value)
                self.assertEqual(connection.invoke("flat", "count"), 1002)
                self.assertEqual(connection.call("Stats")["counters"].get("audit_failures", 0), 0)
            self.assertEqual(daemon.stop(), 0)
            daemon.start()
        with daemon.connect() as connection:
            session = harness.hlctl(daemon, "session", "open", "child", check=0).stdout.decode()
            harness.hlctl(daemon, "image", "commit", session.strip(), "again", "--flatten",
                          check=0)
            self.assertEqual(connection.invoke("again", "peek", ("u32", 40)), 49)

    def test_what_is_common_is_stored_once(self):
        daemon = self.start(daemon={"max_disk": "200M"})
        with daemon.connect() as connection:
            session = Session(connection)
            session.invoke("fill", ("u32", 0), ("u32", 1024), ("u64", 1))
            session.commit("base")
            before = sum(self.stored(daemon).values())
            own = Session(connection, "state")
            for number in range(20):
                own.rollback(0)
                own.invoke("fill", ("u32", 40 * number), ("u32", 64), ("u64", number))
                size = own.commit(f"child-{number}")
                self.assertLess(size, (64 + 40) * 4096)
            self.assertLess(sum(self.stored(daemon).values()) - before, 20 * (64 + 40) * 4096)
            memory = connection.call("Stats")["counters"]["now_guest_memory"]
            for number in range(20):
                self.assertEqual(
                    connection.invoke(f"child-{number}", "peek", ("u32", 40 * number + 5)),
                    number + 40 * number + 5)
            self.assertGreaterEqual(connection.call("Stats")["counters"]["now_guest_memory"],
                                    memory)

    def test_idle_programs_make_room(self):
        """A state for which idle programs leave no room is committed all the same."""
        daemon = self.start(engine={"memory_budget": "128M", "shards": "1"},
                            limits={"memory": "64M"})
        with daemon.connect() as connection:
            connection.register("small", harness.read_guest("state"), memory=16 << 20)
            session = Session(connection, "small")
            session.invoke("fill", ("u32", 0), ("u32", 2048), ("u64", 7))
            for number in range(20):
                session.commit(f"filled-{number}")
            session.close()
            big = Session(connection)
            big.invoke("map", ("u32", 10000))
            for number in range(20):
                self.assertEqual(connection.invoke(f"filled-{number}", "peek", ("u32", 3)), 10)
            self.assertGreater(big.commit("big"), 10000 * 4096)
            big.commit("again")
            self.assertEqual(connection.invoke("filled-0", "peek", ("u32", 3)), 10)
            big.close()
            self.assertEqual(connection.invoke("big", "touch"), 8)

    def memory_files(self, daemon):
        """The bytes of all memory files that the worker has open."""
        (worker,) = daemon.workers()
        folder = f"/proc/{worker}/fd"
        bytes_of = {}
        for name in os.listdir(folder):
            try:
                if os.readlink(os.path.join(folder, name)).startswith("/memfd:"):
                    file = os.stat(os.path.join(folder, name))
                    bytes_of[file.st_ino] = file.st_blocks * 512
            except FileNotFoundError:
                pass
        return sum(bytes_of.values())

    def large_files(self, daemon):
        return [name for name, size in self.stored(daemon).items() if size >= LARGE]

    def wait_saved(self, daemon, name):
        path = os.path.join(daemon.state, "snapshots", name)
        harness.wait_until(lambda: os.path.exists(path), f"the snapshot of {name}")
        self.assertGreater(os.stat(path).st_size, LARGE)

    def commit_large(self, daemon, name, first):
        with daemon.connect() as connection:
            session = Session(connection, "large")
            session.invoke("fill", ("u32", first), ("u32", 64), ("u64", 1 << 40))
            self.assertLess(session.commit(name), 128 * 4096)
            session.close()

    def test_a_large_parent_is_the_same_in_each_worker(self):
        """However often workers come and go, children of a large image lie over one root."""
        daemon = self.start()
        with daemon.connect() as connection:
            connection.register("large", harness.read_guest("large"), memory=128 << 20)
        self.commit_large(daemon, "child-0", 100)
        self.wait_saved(daemon, "large")
        for pid in daemon.workers():
            os.kill(pid, signal.SIGKILL)
        harness.wait_until(lambda: not daemon.workers(), "the worker's end")
        self.commit_large(daemon, "child-1", 200)
        self.assertEqual(daemon.stop(), 0)
        daemon.start()
        self.commit_large(daemon, "child-2", 300)
        self.assertEqual(len(self.large_files(daemon)), 1)
        with daemon.connect() as connection:
            self.assertEqual(connection.call("Stats")["counters"]["builds"], 0)
            same = connection.invoke("large", "peek", ("u32", 5))
            used = []
            for number in range(3):
                name, cell = f"child-{number}", 100 + 100 * number
                self.assertEqual(connection.invoke(name, "peek", ("u32", cell)),
                                 (1 << 40) + cell)
                self.assertEqual(connection.invoke(name, "peek", ("u32", 5)), same)
                if harness.ROOT:
                    used.append(self.memory_files(daemon))
            if harness.ROOT and daemon.backend == "kvm":
                self.assertLess(used[-1] - used[0], 8 << 20)

    def test_generations_share_a_root(self):
        """A child whose parent changed little beside the root costs no root of its own."""
        daemon = self.start()
        with daemon.connect() as connection:
            connection.register("large", harness.read_guest("large"), memory=128 << 20)
            parent = "large"
            for number in range(10):
                session = Session(connection, parent)
                session.invoke("fill", ("u32", 1000 * number), ("u32", 256), ("u64", 1 << 40))
                parent = f"generation-{number}"
                self.assertLess(session.commit(parent), 6 << 20)
                session.close()
                if number == 4:
                    self.assertEqual(len(self.large_files(daemon)), 1)
            self.assertEqual(len(self.large_files(daemon)), 2)
            self.assertLess(sum(self.stored(daemon).values()), 2 * LARGE + (40 << 20))
        self.assertEqual(daemon.stop(), 0)
        daemon.start()
        with daemon.connect() as connection:
            for last in (4, 9):
                for number in range(last + 1):
                    cell = 1000 * number + 255
                    self.assertEqual(
                        connection.invoke(f"generation-{last}", "peek", ("u32", cell)),
                        (1 << 40) + cell)

    def copied(self, daemon):
        """The bytes that front and workers have read and written so far, in files of any kind."""
        total = 0
        for pid in [daemon.process.pid, *daemon.workers()]:
            with open(f"/proc/{pid}/io", encoding="ascii") as file:
                total += sum(int(line.split()[1]) for line in file
                             if line.startswith(("rchar:", "wchar:")))
        return total

    @harness.unittest.skipUnless(harness.ROOT, "others' counts need root")
    def test_a_commit_costs_what_changed(self):
        daemon = self.start()
        with daemon.connect() as connection:
            connection.register("large", harness.read_guest("large"), memory=128 << 20)
            session = Session(connection, "large")
            before = self.copied(daemon)
            session.commit("first")
            self.assertGreater(self.copied(daemon) - before, LARGE)
            self.wait_saved(daemon, "large")
            (root,) = self.large_files(daemon)
            path = os.path.join(daemon.state, "images", root)
            stat = os.stat(path)
            child = Session(connection, "first")
            before = self.copied(daemon)
            for number in range(3):
                session.commit(f"again-{number}")
                child.commit(f"child-{number}")
            if daemon.backend == "kvm":  # others look at all memory for a checkpoint
                self.assertLess(self.copied(daemon) - before, LARGE)
            now = os.stat(path)
            self.assertEqual((now.st_ino, now.st_mtime_ns, now.st_ctime_ns),
                             (stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns))
            # What is damaged or gone is asked for again, and made good for all that have it.
            for broken in (lambda: os.truncate(path, 4096), lambda: os.unlink(path)):
                broken()
                self.assertLess(session.commit("more"), 1 << 20)
                self.assertEqual(os.stat(path).st_size, stat.st_size)
                child.commit("more-child")
            session.close()
            child.close()
        self.assertEqual(daemon.stop(), 0)
        daemon.start()
        with daemon.connect() as connection:
            value = connection.invoke("large", "peek", ("u32", 5))
            for name in ("first", "again-2", "child-2", "more", "more-child"):
                self.assertEqual(connection.invoke(name, "peek", ("u32", 5)), value)

    def test_refusals(self):
        daemon = self.start(daemon={"max_images": "3"})
        with daemon.connect() as connection:
            session = Session(connection)
            session.invoke("count")
            self.assert_status("INVALID_ARGUMENT", session.commit, "-bad-")
            self.assert_status("INVALID_ARGUMENT", session.commit, "")
            self.assert_status("NOT_FOUND", session.commit, "child", 7)
            session.commit("child")
            session.commit("child")
            session.commit("other")
            self.assert_status("RESOURCE_EXHAUSTED", session.commit, "more")
            number = session.checkpoint()["checkpoint"]
            self.assert_status("ABORTED", session.invoke, "crash")
            self.assert_status("FAILED_PRECONDITION", session.commit, "child")
            session.commit("child", number)
            self.assertEqual(connection.invoke("child", "count"), 1002)

    def test_damage(self):
        daemon = self.start()
        with daemon.connect() as connection:
            session = Session(connection)
            session.invoke("count")
            session.commit("child")
            session.commit("same")
        self.assertEqual(daemon.stop(), 0)
        files = self.stored(daemon)
        program = os.path.getsize(harness.guest("state"))
        for name, size in files.items():
            if size != program:
                with open(os.path.join(daemon.state, "images", name), "r+b") as file:
                    file.seek(size // 2)
                    file.write(b"damage")
        daemon.start()
        with daemon.connect() as connection:
            with self.assertRaises(wire.StatusError):
                connection.invoke("child", "count")
            self.assertEqual(connection.invoke("state", "count"), 1001)
            session = Session(connection)
            session.invoke("count")
            session.commit("child")
            self.assertEqual(connection.invoke("child", "count"), 1002)

    def test_hlctl(self):
        daemon = self.start()
        session = harness.hlctl(daemon, "session", "open", "state", check=0).stdout.decode().strip()
        harness.hlctl(daemon, "session", "call", session, "count", check=0)
        harness.hlctl(daemon, "session", "checkpoint", session, check=0)
        harness.hlctl(daemon, "session", "call", session, "count", check=0)
        made = harness.hlctl_json(daemon, "image", "commit", session, "now")
        self.assertGreater(made["state_bytes"], 4096)
        harness.hlctl(daemon, "image", "commit", session, "then", "--checkpoint", "1", check=0)
        self.assertEqual(harness.hlctl(daemon, "call", "now", "count", check=0).stdout, b"1003\n")
        self.assertEqual(harness.hlctl(daemon, "call", "then", "count", check=0).stdout, b"1002\n")
        shown = harness.hlctl(daemon, "image", "inspect", "now", check=0).stdout.decode()
        self.assertIn("state, ", shown)
        self.assertEqual(harness.hlctl_json(daemon, "image", "ls")["images"][0]["parent"], "state")


def connection_lost(connection):
    try:
        connection.ping()
        return False
    except (wire.Closed, OSError):
        return True
