# SPDX-License-Identifier: Apache-2.0
"""Calls out of a guest: by the calling client, by providers, by hld itself; and what goes wrong."""

import os
import signal
import subprocess
import time

import harness
import wire
from test_clients import WORK, build

COUNT = wire.host_function("count", ["U32"], "U32")
DESCEND = wire.host_function("descend", ["U32"], "U32")
SHOUT = wire.host_function("shout", ["BYTES"], "BYTES", "service")
DEMO = {"functions": [COUNT, DESCEND, SHOUT]}

STATUS = wire.STATUS


def triple(argument):
    return "u32", argument * 3


class HostTest(harness.DaemonTest):
    sections = {"daemon": {"idle_timeout": "10min"}}

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        with cls.daemon.connect() as connection:
            cls.add(connection, "hostdemo", "hostdemo", DEMO)

    @staticmethod
    def add(connection, name, guest, policy, **limits):
        return connection.register(name, harness.read_guest(guest), host=policy, **limits)

    def error(self, connection, function, *args):
        """What hostdemo's function, which ends in an error of its own, ends with."""
        result = connection.invoke("hostdemo", function, *args)
        self.assertIsInstance(result, dict, result)
        return result["code"]

    def assert_all_returned(self):
        """No call runs, none waits, and what instances there are stand ready."""
        def returned():
            images = {image["name"]: image for image in self.stats()["images"]}
            counters = self.stats()["counters"]
            busy = sum(image["running"] + image["queued"] for image in images.values())
            warm = sum(image["warm"] for image in images.values())
            return busy == 0 and counters["instances_made"] - counters["instances_destroyed"] == \
                warm
        harness.wait_until(returned, "all instances to come back")

    # --- the calling client

    def test_raw_client(self):
        client = self.connect()
        stream = client.invoke_with_host("hostdemo", "sum", ("u32", 20))
        self.assertEqual(stream.serve({"count": triple}), 3 * 190)

    def test_first_message_in_a_data_frame(self):
        client = self.connect()
        stream = client.open("InvokeWithHost")
        stream.send({"start": {"image": "hostdemo", "function": "sum",
                               "args": [wire.value(("u32", 3))]}})
        self.assertEqual(stream.serve({"count": triple}), 9)

    def test_fifty_calls_of_twenty(self):
        client = self.connect()
        streams = [client.invoke_with_host("hostdemo", "sum", ("u32", 20), deadline=60)
                   for _ in range(50)]
        over = {}
        while len(over) < len(streams):
            for stream in streams:
                if not stream.frames and stream.id not in client.answers or stream.id in over:
                    continue
                message = stream.receive()
                if "done" in message:
                    over[stream.id] = wire.outcome(message["done"])
                else:
                    number = message["call"]["args"][0]["u32"]
                    stream.answer(message["call"], ("u32", number + stream.id))
            if len(over) < len(streams) and not any(
                    stream.frames or stream.id in client.answers for stream in streams):
                client.receive_one()
        self.assertEqual(over, {stream.id: 190 + 20 * stream.id for stream in streams})
        self.assert_all_returned()

    def test_no_stream_no_answer(self):
        self.assertEqual(self.error(self.connect(), "sum", ("u32", 1)), STATUS["UNAVAILABLE"])

    def test_errors_reach_the_guest(self):
        client = self.connect()
        for error, code, text in (({"code": 9, "text": "nine"}, "UNKNOWN", "nine"),
                                  ({"status": STATUS["NOT_FOUND"], "text": "gone"}, "NOT_FOUND",
                                   "gone")):
            stream = client.invoke_with_host("hostdemo", "sum", ("u32", 5))
            result = stream.serve({"count": lambda _, error=error: error})
            self.assertEqual(result["code"], STATUS[code])
            self.assertIn(text, result["text"])

    def test_offences_end_their_call(self):
        client = self.connect()
        other = client.invoke_with_host("hostdemo", "sum", ("u32", 2))
        for what in ("unknown id", "wrong type", "twice", "not an answer", "garbage"):
            with self.subTest(what):
                stream = client.invoke_with_host("hostdemo", "sum", ("u32", 3))
                call = stream.receive()["call"]
                if what == "unknown id":
                    stream.answer({"id": call["id"] + 7}, ("u32", 1))
                elif what == "wrong type":
                    stream.answer(call, "three")
                elif what == "twice":
                    stream.answer(call, ("u32", 1))
                    stream.answer(call, ("u32", 1))
                    stream.receive()
                elif what == "not an answer":
                    stream.send({"start": {"image": "hostdemo", "function": "sum"}})
                else:
                    client.send(wire.frame(b"\xff\xff\xff\xff", stream.id, wire.DATA))
                self.assert_status("INVALID_ARGUMENT", stream.receive)
        self.assertEqual(other.serve({"count": triple}), 3)
        self.assertEqual(client.ping(b"here"), b"here")
        self.assert_all_returned()

    def ask_with_little_time(self, client):
        """Of a call that gets as far as its host call: its stream, and the host call."""
        for deadline in (0.1, 0.5, 3, 20):
            stream = client.invoke_with_host("hostdemo", "sum", ("u32", 1), deadline=deadline)
            try:
                return stream, stream.receive()["call"]
            except wire.StatusError as error:
                self.assertEqual(error.name, "DEADLINE_EXCEEDED")
        self.fail("no call got to its host call in time")

    def test_deadline_and_cancel_while_it_waits(self):
        client = self.connect()
        stream, call = self.ask_with_little_time(client)
        self.assert_status("DEADLINE_EXCEEDED", stream.receive)
        client.send(wire.frame(wire.HL.encode(stream.sends, {"answer": {"id": call["id"]}}),
                               stream.id, wire.DATA))  # late: thrown away
        stream = client.invoke_with_host("hostdemo", "sum", ("u32", 1), call_id=77)
        stream.receive()
        self.assertTrue(client.call("Cancel", {"call_id": 77})["found"])
        self.assert_status("CANCELLED", stream.receive)
        self.assert_all_returned()

    def test_client_ends_its_side(self):
        client = self.connect()
        stream = client.invoke_with_host("hostdemo", "sum", ("u32", 1))
        stream.receive()
        stream.close()
        self.assertEqual(wire.outcome(stream.receive()["done"])["code"], STATUS["UNAVAILABLE"])

    def test_client_dies(self):
        before = self.stats()["counters"]["abandoned"]
        doomed = self.daemon.connect()
        streams = [doomed.invoke_with_host("hostdemo", "sum", ("u32", 2)) for _ in range(5)]
        for stream in streams:
            stream.receive()
        doomed.close()
        harness.wait_until(lambda: self.stats()["counters"]["abandoned"] >= before + 5,
                           "the calls to be given up")
        self.assert_all_returned()

    def test_no_thread_waits(self):
        """Far more calls wait for their client than there are threads; others are served."""
        client, other = self.connect(), self.connect()
        self.add(client, "wide", "hostdemo", DEMO, max_instances=40, memory=16 << 20)
        streams = [client.invoke_with_host("wide", "sum", ("u32", 1), deadline=60)
                   for _ in range(40)]
        for stream in streams:
            while not stream.frames:
                client.receive_one()
        self.assertEqual(other.invoke("hostdemo", "flood", "none", ("u32", 3)), 3)
        for stream in streams:
            self.assertEqual(stream.serve({"count": triple}), 0)

    # --- policy

    def test_in_a_session_and_its_image(self):
        """A session's calls call out, and an image made from it may call what its parent may."""
        client = self.connect()
        session = client.call("Sessions.Open", {"image": "hostdemo"})["session"]
        start = {"function": "sum", "session": session, "args": [wire.value(("u32", 4))]}
        for _ in range(2):
            stream = client.open("InvokeWithHost")
            stream.send({"start": start})
            self.assertEqual(stream.serve({"count": triple}), 18)
        client.call("Sessions.Commit", {"session": session, "name": "child"})
        client.call("Sessions.Close", {"session": session})
        stream = client.invoke_with_host("child", "sum", ("u32", 5))
        self.assertEqual(stream.serve({"count": triple}), 30)
        result = client.invoke("child", "ask", "nobody", b"")
        self.assertEqual(result["code"], STATUS["PERMISSION_DENIED"])
        client.call("Unregister", {"name": "child"})
        self.assert_all_returned()

    def test_what_the_policy_does_not_name(self):
        client = self.connect()
        for name in ("nobody", "hl.time", "hl.kv.get", "COUNT", "count.", "x" * 63):
            result = client.invoke("hostdemo", "ask", name, b"")
            self.assertEqual(result["code"], STATUS["PERMISSION_DENIED"], name)
        self.assertEqual(client.invoke("hostdemo", "flood", "nobody", ("u32", 5000)), 5000)

    def test_wrong_types_and_sizes(self):
        client = self.connect()
        for function, args, status in (("wrong_types", ("count",), "INVALID_ARGUMENT"),
                                       ("not_utf8", ("count",), "INVALID_ARGUMENT"),
                                       ("huge", ("shout", ("u64", 3 << 20)), "RESOURCE_EXHAUSTED")):
            text = client.invoke("hostdemo", function, *args)
            self.assertEqual(int(text.split()[0]), STATUS[status], text)

    def test_forever(self):
        client, other = self.connect(), self.connect()
        self.add(client, "rival", "hostdemo", DEMO)  # a rate of its own
        for name in ("nobody", "count", "shout"):
            before = self.stats()["counters"]
            stream = client.start_invoke("rival", "forever", name, deadline=0.5)
            self.assertEqual(other.ping(b"beside it"), b"beside it")
            self.assertEqual(other.invoke("hostdemo", "flood", "none", ("u32", 2)), 2)
            self.assert_status("DEADLINE_EXCEEDED", client.finish_invoke, stream)
            after = self.stats()["counters"]
            for counter in ["host_calls", "exits"] + ["host_denied"] * (name == "nobody"):
                self.assertGreater(after[counter] - before[counter], 10, f"{name}: {counter}")
        self.assert_all_returned()

    def test_bounds(self):
        client = self.connect()
        self.add(client, "slow", "hostdemo", {"functions": [COUNT], "rate": 1})
        result = client.invoke_with_host("slow", "sum", ("u32", 50)).serve({"count": triple})
        self.assertEqual(result["code"], STATUS["RESOURCE_EXHAUSTED"])
        self.add(client, "few", "hostdemo", {"functions": [COUNT], "max_calls": 4})
        result = client.invoke_with_host("few", "sum", ("u32", 4)).serve({"count": triple})
        self.assertEqual(result, 18)
        result = client.invoke_with_host("few", "sum", ("u32", 5)).serve({"count": triple})
        self.assertEqual(result["code"], STATUS["RESOURCE_EXHAUSTED"])

    def test_depth(self):
        client = self.connect()
        self.assertEqual(client.invoke_with_host("hostdemo", "sum", ("u32", 1), depth=4)
                         .serve({"count": triple}), 0)
        self.assert_status("RESOURCE_EXHAUSTED",
                           client.invoke_with_host("hostdemo", "sum", ("u32", 1), depth=5).receive)
        call = client.invoke_with_host("hostdemo", "sum", ("u32", 1), depth=2).receive()["call"]
        self.assertEqual((call["depth"], call["image"]), (3, "hostdemo"))

    def test_bad_policies(self):
        client = self.connect()
        for policy in ({"functions": [COUNT, COUNT]},
                       {"functions": [wire.host_function("hl.time", [], "U32", "builtin")]},
                       {"functions": [wire.host_function("hl.secret", [], "U32", "builtin")]},
                       {"functions": [wire.host_function("hl.time", [], "I64", "client")]},
                       {"functions": [wire.host_function("../x", [], "I64")]},
                       {"functions": [wire.host_function("f", ["VOID"], "I64")]},
                       {"functions": [dict(COUNT, provider=9)]},
                       {"functions": [dict(COUNT, name=f"f{i}") for i in range(33)]},
                       {"rate": 1 << 31}, {"depth": 99}, {"kv_size": 1 << 40}):
            with self.subTest(policy=policy):
                self.assert_status("INVALID_ARGUMENT", self.add, client, "bad", "hostdemo", policy)

    def test_policy_survives_a_restart(self):
        client = self.connect()
        policy = {"functions": [COUNT, SHOUT] + wire.BUILTINS, "max_calls": 7, "rate": 8,
                  "depth": 9, "kv_size": 4096, "deterministic": True}
        shown = self.add(client, "kept", "hostdemo", policy)["host"]
        self.assertEqual(shown, policy)
        client.close()
        self.daemon.stop()
        self.daemon.start()
        client = self.connect()
        self.assertEqual(client.call("Inspect", {"name": "kept"})["image"]["host"], policy)
        client.call("Unregister", {"name": "kept"})

    # --- providers

    def offer(self, name="shout", function=lambda data: data.upper(), **options):
        provider = self.connect()
        stream = provider.open("Offer", {"offer": {"functions": [name], **options}})
        self.assertIn("offered", stream.receive())
        return provider, stream, function

    def serve_one(self, offer):
        _, stream, function = offer
        call = stream.receive()["call"]
        stream.answer(call, function(call["args"][0]["data"]))

    def test_provider(self):
        client, offer = self.connect(), self.offer()
        for text in (b"one", b"two"):
            stream = client.start_invoke("hostdemo", "ask", "shout", text)
            self.serve_one(offer)
            self.assertEqual(wire.outcome(client.finish_invoke(stream)), text.upper())

    def test_provider_dies(self):
        client, offer = self.connect(), self.offer()
        streams = [client.start_invoke("hostdemo", "ask", "shout", b"x") for _ in range(3)]
        for _ in streams:
            offer[1].receive()
        offer[0].close()
        for stream in streams:
            error = wire.outcome(client.finish_invoke(stream))
            self.assertEqual(error["code"], STATUS["UNAVAILABLE"])
        self.assert_all_returned()

    def test_provider_hangs(self):
        client, offer = self.connect(), self.offer(timeout_ns=2_000_000_000, max_queue=2)
        streams = [client.start_invoke("hostdemo", "ask", "shout", b"x", deadline=60)
                   for _ in range(3)]
        codes = sorted(wire.outcome(client.finish_invoke(stream))["code"] for stream in streams)
        self.assertEqual(codes, [STATUS["DEADLINE_EXCEEDED"]] * 2 + [STATUS["RESOURCE_EXHAUSTED"]])
        for _ in range(2):
            offer[1].receive()
        stream = client.start_invoke("hostdemo", "ask", "shout", b"x")
        self.serve_one(offer)
        self.assertEqual(wire.outcome(client.finish_invoke(stream)), b"X")

    def test_offer_to_one_image(self):
        client = self.connect()
        self.add(client, "other", "hostdemo", DEMO)
        offer = self.offer(image="other")
        self.assertEqual(client.invoke("hostdemo", "ask", "shout", b"x")["code"],
                         STATUS["UNAVAILABLE"])
        stream = client.start_invoke("other", "ask", "shout", b"x")
        self.serve_one(offer)
        self.assertEqual(wire.outcome(client.finish_invoke(stream)), b"X")

    # --- the worker

    def test_worker_dies(self):
        client, offer = self.connect(), self.offer()
        client.invoke_with_host("hostdemo", "sum", ("u32", 1)).receive()
        client.start_invoke("hostdemo", "ask", "shout", b"x")
        offer[1].receive()
        for pid in self.daemon.workers():
            os.kill(pid, signal.SIGKILL)
        for doomed in (client, offer[0]):
            with self.assertRaises(wire.Closed):
                doomed.receive_frame()
        self.assertEqual(self.connect().invoke("hostdemo", "flood", "none", ("u32", 2)), 2)
        self.assert_all_returned()

    # --- clients

    def test_libhlclient(self):
        os.makedirs(WORK, exist_ok=True)
        program = os.path.join(WORK, "host_test")
        sanitize = ["-fsanitize=address,undefined"] if harness.SANITIZED else []
        build([os.environ.get("CC", "gcc"), "-std=gnu11", "-D_GNU_SOURCE", "-Wall", "-Wextra",
               "-Werror", "-g", *sanitize, "-I" + os.path.join(harness.SOURCE, "client"),
               "-I" + os.path.join(harness.SOURCE, "base"),
               os.path.join(harness.SOURCE, "tests", "integration", "host_test.c"),
               "-L" + os.path.join(harness.BUILD, ".libs"), "-lhlclient", "-pthread",
               "-Wl,-rpath," + os.path.join(harness.BUILD, ".libs"), "-o", program])
        result = subprocess.run([program, self.daemon.socket], stdin=subprocess.DEVNULL,
                                capture_output=True, text=True, timeout=300)
        self.assertEqual((result.returncode, result.stdout, result.stderr), (0, "ok\n", ""))
        self.assert_all_returned()

    def test_hlctl_call(self):
        result = self.hlctl("call", "hostdemo", "sum", "4", "--host",
                            "count=read n; echo $((n * n))", check=0)
        self.assertEqual(result.stdout, b"14\n")
        result = self.hlctl("call", "hostdemo", "sum", "4", "--host",
                            "count=echo sorry >&2; echo more >&2; exit 3", check=1)
        self.assertIn(b"sorry", result.stderr)
        self.assertNotIn(b"more", result.stderr)
        result = self.hlctl("call", "hostdemo", "sum", "4", "--host", "count=echo many", check=1)
        self.assertIn(b"no JSON of type u32", result.stderr)
        result = self.hlctl("call", "hostdemo", "sum", "4", "--host", "count=sleep 60",
                            "--deadline", "100ms", check=124, timeout=50)
        self.hlctl("call", "hostdemo", "sum", "4", "--host", "count", check=2)

    def test_hlctl_offer(self):
        command = [harness.HLCTL, "--socket", self.daemon.socket, "offer", "shout=cat"]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as offer:
            self.assertEqual(offer.stdout.readline(), b"offering\n")
            data = bytes(range(256)) * 20
            result = self.hlctl("call", "hostdemo", "ask", "shout", "-", stdin=data, check=0)
            self.assertEqual(result.stdout, data)
            offer.send_signal(signal.SIGINT)
        result = self.hlctl("call", "hostdemo", "ask", "shout", "x", check=1)
        self.assertIn(b"nobody offers", result.stderr)

    def test_hlctl_policy(self):
        program = harness.guest("hostdemo")
        self.hlctl("image", "add", program, "--name", "told", "--allow", "count(u32) -> u32",
                   "--allow", "shout(bytes)->bytes@service", "--allow", "hl.time", "--host-rate",
                   "50", "--host-calls", "60", "--deterministic", check=0)
        shown = self.hlctl("image", "inspect", "told", check=0).stdout.decode()
        for line in ("50 a second, 60 in a call", "count(u32) -> u32 @client",
                     "shout(bytes) -> bytes @service", "hl.time() -> i64 @builtin",
                     "deterministic"):
            self.assertIn(line, shown)
        host = harness.hlctl_json(self.daemon, "image", "inspect", "told")["host"]
        self.assertEqual(host["allow"][1], "shout(bytes) -> bytes @service")
        for wrong in ("count", "count(u33)", "hl.nothing", "x(u32)->u32@nobody", "(u32)"):
            self.hlctl("image", "add", program, "--name", "wrong", "--allow", wrong, check=2)


class BuiltinTest(harness.DaemonTest):
    """What hld provides itself; the store above all."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        with cls.daemon.connect() as connection:
            cls.add(connection, "outward")

    @staticmethod
    def add(connection, name, **policy):
        connection.register(name, harness.read_guest("outward"),
                            host={"functions": wire.BUILTINS, **policy})

    def test_time(self):
        client = self.connect()
        before = time.time_ns()
        now = client.invoke("outward", "time_wall")
        self.assertTrue(before <= now <= time.time_ns())
        first = client.invoke("outward", "time_monotonic")
        self.assertLess(first, client.invoke("outward", "time_monotonic"))

    def test_random(self):
        client = self.connect()
        drawn = {client.invoke("outward", "random_bytes", ("u32", 16)) for _ in range(20)}
        self.assertEqual((len(drawn), {len(data) for data in drawn}), (20, {16}))
        self.assertEqual(client.invoke("outward", "random_bytes", ("u32", 1 << 20))["code"],
                         STATUS["INVALID_ARGUMENT"])

    def test_deterministic(self):
        client = self.connect()
        self.add(client, "replay", deterministic=True)
        for function, args in (("random_bytes", (("u32", 16),)), ("time_wall", ())):
            self.assertEqual(len({client.invoke("replay", function, *args) for _ in range(5)}), 1)

    def test_log(self):
        client = self.connect()
        client.invoke("outward", "log_line", "a line of its own")
        log = client.call("Inspect", {"name": "outward"})["log"]
        self.assertTrue(any("a line of its own" in line for line in log), log)

    def test_store(self):
        client = self.connect()
        self.assertEqual(client.invoke("outward", "get", "key")["code"], STATUS["NOT_FOUND"])
        self.assertFalse(client.invoke("outward", "del", "key"))
        self.assertIsNone(client.invoke("outward", "put", "key", b"value\0"))
        self.assertEqual(client.invoke("outward", "get", "key"), b"value\0")
        client.invoke("outward", "put", "key", b"")
        client.invoke("outward", "put", "other", b"1")
        self.assertEqual(client.invoke("outward", "get", "key"), b"")
        self.assertTrue(client.invoke("outward", "del", "key"))
        self.assertEqual(client.invoke("outward", "get", "key")["code"], STATUS["NOT_FOUND"])
        self.assertEqual(client.invoke("outward", "get", "other"), b"1")
        for key in ("", "x" * 256, "a\0b"):
            self.assertEqual(client.invoke("outward", "put", key, b"")["code"],
                             STATUS["INVALID_ARGUMENT"])
        self.assertEqual(client.invoke("outward", "put", "big", bytes(40000))["code"],
                         STATUS["INVALID_ARGUMENT"])

    def test_store_is_bounded(self):
        client = self.connect()
        self.add(client, "small", kv_size=1000)
        self.assertIsNone(client.invoke("small", "put", "k", bytes(900)))
        self.assertEqual(client.invoke("small", "put", "l", bytes(100))["code"],
                         STATUS["RESOURCE_EXHAUSTED"])
        self.assertIsNone(client.invoke("small", "put", "k", bytes(990)))
        self.assertEqual(client.invoke("small", "get", "k"), bytes(990))

    def test_store_belongs_to_its_image(self):
        client = self.connect()
        self.add(client, "one")
        self.add(client, "two")
        client.invoke("one", "put", "key", b"one's")
        self.assertEqual(client.invoke("two", "get", "key")["code"], STATUS["NOT_FOUND"])
        self.add(client, "one", rate=77)  # a new version finds what the old one left
        self.assertEqual(client.invoke("one", "get", "key"), b"one's")
        client.call("Unregister", {"name": "one"})
        self.add(client, "one")
        self.assertEqual(client.invoke("one", "get", "key")["code"], STATUS["NOT_FOUND"])

    def test_store_survives_a_restart(self):
        client = self.connect()
        self.add(client, "lasting")
        client.invoke("lasting", "put", "key", b"still here")
        stray = os.path.join(self.daemon.state, "kv", "nobody@0")
        with open(stray, "wb") as file:
            file.write(b"left over")
        client.close()
        self.daemon.stop()
        self.daemon.start()
        self.assertEqual(self.connect().invoke("lasting", "get", "key"), b"still here")
        self.assertFalse(os.path.exists(stray))

    def test_damaged_store(self):
        client = self.connect()
        self.add(client, "broken")
        client.invoke("broken", "put", "key", b"value")
        path = os.path.join(self.daemon.state, "kv", f"broken@{os.getuid()}")
        with open(path, "rb") as file:
            data = bytearray(file.read())
        data[-1] ^= 1
        os.chmod(path, 0o600)
        with open(path, "wb") as file:
            file.write(data)
        for function, args in (("get", ("key",)), ("put", ("key", b"v")), ("del", ("key",))):
            self.assertEqual(client.invoke("broken", function, *args)["code"], STATUS["DATA_LOSS"])
        self.assertIsNone(client.invoke("outward", "put", "k", b"fine"))

    def test_killed_in_the_middle(self):
        """Whenever the daemon dies, the value is one that was put, and none older than was told."""
        client = self.connect()
        self.add(client, "torn")
        client.invoke("torn", "put_many", "key", ("u32", 3))
        client.start_invoke("torn", "put_many", "key", ("u32", 100000), deadline=20)
        time.sleep(0.3)
        self.daemon.process.kill()
        self.daemon.process.wait()
        client.close()
        harness.left_behind()
        self.daemon.start()
        value = int(self.connect().invoke("torn", "get", "key"))
        self.assertTrue(0 <= value < 100000)
        left = [name for name in os.listdir(os.path.join(self.daemon.state, "kv"))
                if name.startswith(".tmp-")]
        self.assertEqual(left, [])

    def test_many_writers(self):
        clients = [self.connect() for _ in range(4)]
        streams = [(client, client.start_invoke("outward", "put", f"key{i}", b"%d" % i, deadline=30))
                   for i in range(20) for client in clients[:1 + i % 4]]
        for client, stream in streams:
            client.finish_invoke(stream)
        for i in range(20):
            self.assertEqual(clients[0].invoke("outward", "get", f"key{i}"), b"%d" % i)
