# SPDX-License-Identifier: Apache-2.0
"""hlctl as people and programs meet it: tables, JSON, one line for what went wrong, exit codes."""

import hashlib
import json
import os
import signal
import subprocess
import unittest

import harness
import wire


class Hlctl(harness.DaemonTest):
    images = ("echo", "adder", "hostile")

    def error(self, status, *arguments, **keywords):
        """Returns the one line that an hlctl which ends with status prints."""
        result = self.hlctl(*arguments, **keywords)
        self.assertEqual(result.returncode, status, result.stderr)
        lines = result.stderr.decode().splitlines()
        self.assertEqual(len(lines), 1, lines)
        self.assertTrue(lines[0].startswith("hlctl: "), lines[0])
        return lines[0]

    def json(self, *arguments, **keywords):
        return harness.hlctl_json(self.daemon, *arguments, **keywords)

    def test_unknown_image(self):
        line = self.error(1, "call", "nothing", "f")
        self.assertIn("nothing", line)
        self.assertIn("hlctl image ls", line)

    def test_unknown_function(self):
        self.assertIn("nonsense", self.error(1, "call", "echo", "nonsense"))

    def test_wrong_arguments(self):
        for arguments in (("add_i32", "1", "two"), ("add_i32", "1"), ("add_i32", "1", "2", "3"),
                          ("add_i32", "1", "4294967296"), ("add_u32", "1", "-1"),
                          ("both", "true", "maybe"), ("add_f64", "1", "1.5x"),
                          ("add_i32", "", "1")):
            with self.subTest(arguments):
                result = self.hlctl("call", "adder", *arguments)
                self.assertIn(result.returncode, (1, 2))
                self.assertEqual(len(result.stderr.splitlines()), 1, result.stderr)

    def test_too_large_argument(self):
        line = self.error(1, "call", "echo", "echo", "-", stdin=bytes(3 << 20))
        self.assertRegex(line, r"\d")

    def test_larger_than_a_frame(self):
        self.error(1, "call", "echo", "echo", "-", stdin=bytes(9 << 20))

    def test_missing_socket(self):
        result = subprocess.run([harness.HLCTL, "--socket", "/nowhere/hld.sock", "ping"],
                                stdin=subprocess.DEVNULL, capture_output=True, text=True)
        self.assertEqual(result.returncode, 69)
        self.assertEqual(len(result.stderr.splitlines()), 1)
        self.assertIn("/nowhere/hld.sock", result.stderr)

    def test_socket_that_nobody_serves(self):
        path = os.path.join(self.daemon.directory, "dead")
        with harness.wire.socket.socket(harness.wire.socket.AF_UNIX) as dead:
            dead.bind(path)
        result = subprocess.run([harness.HLCTL, "--socket", path, "ping"],
                                stdin=subprocess.DEVNULL, capture_output=True, text=True)
        self.assertEqual(result.returncode, 69)

    @unittest.skipUnless(harness.ROOT, "giving up permissions needs root")
    def test_no_permission(self):
        os.chmod(self.daemon.socket, 0o600)
        try:
            # the build tree may lie where that user cannot look
            result = subprocess.run(
                ["setpriv", "--reuid=12345", "--regid=12345", "--clear-groups", harness.HLCTL,
                 "--socket", self.daemon.socket, "ping"],
                stdin=subprocess.DEVNULL, capture_output=True, text=True)
        finally:
            os.chmod(self.daemon.socket, 0o666)
        if result.returncode in (126, 127):
            self.skipTest("the build directory cannot be read by another user")
        self.assertEqual(result.returncode, 77, result.stderr)
        self.assertEqual(len(result.stderr.splitlines()), 1)

    def test_environment_names_the_socket(self):
        subprocess.run([harness.HLCTL, "ping"], stdin=subprocess.DEVNULL, check=True,
                       capture_output=True, env={**os.environ, "HLD_SOCKET": self.daemon.socket})

    def test_usage(self):
        for arguments in ((), ("nonsense",), ("call",), ("call", "echo"), ("image",),
                          ("image", "nonsense"), ("call", "--nonsense", "echo", "echo"),
                          ("--nonsense",), ("bench",), ("-o", "yaml", "ping")):
            with self.subTest(arguments):
                result = self.hlctl(*arguments)
                self.assertEqual(result.returncode, 2, result.stderr)
                self.assertEqual(len(result.stderr.splitlines()), 1, result.stderr)

    def test_usage_in_json(self):
        for arguments in (("image", "ls", "--bad", "-o", "json"), ("call", "--json", "echo"),
                          ("call", "echo", "echo", "x", "--room", "much", "--json"),
                          ("nonsense", "--output=json"), ("--bad", "-o", "json", "ping"),
                          ("-o", "json", "ping", "x")):
            with self.subTest(arguments):
                result = self.hlctl(*arguments, check=2)
                self.assertEqual(json.loads(result.stdout)["error"]["status"], "INVALID_ARGUMENT")
                self.assertEqual(len(result.stderr.splitlines()), 1, result.stderr)
        self.assertEqual(self.hlctl("call", "echo", "hello", "--", "--json", check=0).stdout,
                         b"hello, --json")

    def test_help(self):
        for arguments in (("--help",), ("help",), ("call", "--help"), ("help", "image", "add")):
            with self.subTest(arguments):
                result = self.hlctl(*arguments, check=0)
                self.assertIn(b"hlctl", result.stdout)
        self.hlctl("--version", check=0)

    def test_deadline(self):
        self.error(124, "call", "--deadline", "50ms", "hostile", "loop")

    def test_deadline_bounds_all_that_hld_is_asked(self):
        session = self.hlctl("session", "open", "echo", check=0).stdout.decode().strip()
        workers = self.daemon.workers()
        for pid in workers:
            os.kill(pid, signal.SIGSTOP)
        try:
            for arguments in (("call", "echo"), ("session", "call", session)):
                self.error(124, *arguments, "hello", "x", "--deadline", "200ms", timeout=30)
        finally:
            for pid in workers:
                os.kill(pid, signal.SIGCONT)
        self.hlctl("session", "close", session, check=0)

    def test_fault(self):
        line = self.error(1, "call", "hostile", "null_write")
        self.assertIn("null_write", line)

    def test_fault_in_json(self):
        result = self.hlctl("call", "-o", "json", "hostile", "null_write")
        self.assertEqual(result.returncode, 1)
        error = json.loads(result.stdout)["error"]
        self.assertEqual(error["status"], "ABORTED")
        self.assertEqual(error["fault"]["vector"], 14)

    def test_errors_in_json_keep_their_message(self):
        for arguments in (("image", "add", b"/none\xff"),
                          ("call", "adder", "add_i32", "1", "x" * 63 + "\u20ac")):
            with self.subTest(arguments):
                result = self.hlctl("-o", "json", *arguments)
                self.assertIn(result.returncode, (1, 2))
                message = json.loads(result.stdout)["error"]["message"]
                self.assertEqual(result.stderr.decode(), f"hlctl: {message}\n")
                self.assertNotIn("\u20ac", message)

    def test_call_in_json(self):
        answer = self.json("call", "adder", "add_i32", "2", "3")
        self.assertEqual(answer["result"], 5)
        self.assertEqual(answer["accounting"]["backend"], self.daemon.backend)

    def test_files_as_arguments(self):
        path = os.path.join(self.daemon.directory, "argument")
        with open(path, "wb") as file:
            file.write(b"in a\0file")
        for arguments in ((), ("--room", "4K")):
            with self.subTest(arguments):
                result = self.hlctl("call", "echo", "echo", f"@{path}", *arguments, check=0)
                self.assertEqual(result.stdout, b"in a\0file")
        for argument in ("-", "@-"):
            with self.subTest(argument):
                result = self.hlctl("call", "echo", "echo", argument, stdin=b"input", check=0)
                self.assertEqual(result.stdout, b"input")
        self.assertEqual(self.hlctl("call", "echo", "hello", "@@x", check=0).stdout, b"hello, @x")
        self.assertIn("/nothing/here", self.error(1, "call", "echo", "echo", "@/nothing/here"))
        self.error(2, "call", "echo", "echo", "@")
        self.error(2, "call", "echo", "echo", "x", "--room", "much")
        self.assertIn("256M", self.error(2, "call", "echo", "echo", "x", "--room", "257M"))
        self.hlctl("call", "echo", "echo", "x", "--room", "256M", check=0)
        with open(path, "wb") as file:
            file.truncate(5 << 20)
        self.assertIn("string", self.error(1, "call", "echo", "hello", f"@{path}"))

    def test_list_and_inspect(self):
        table = self.hlctl("image", "ls", check=0).stdout.decode()
        for name in self.images:
            self.assertIn(name, table)
        listed = self.json("image", "ls")
        listed = listed["images"] if isinstance(listed, dict) else listed
        self.assertLessEqual(set(self.images), {image["name"] for image in listed})
        text = self.hlctl("image", "inspect", "adder", check=0).stdout.decode()
        self.assertIn("add_i32(i32, i32) -> i32", text)
        image = self.json("image", "inspect", "echo")
        with open(harness.guest("echo"), "rb") as file:
            self.assertEqual(image["sha256"], hashlib.sha256(file.read()).hexdigest())

    def test_add_and_remove(self):
        self.hlctl("image", "add", "--name", "fresh", harness.guest("echo"), check=0)
        self.assertEqual(self.hlctl("call", "fresh", "hello", "x", check=0).stdout, b"hello, x")
        self.hlctl("image", "rm", "fresh", check=0)
        self.error(1, "image", "rm", "fresh")
        self.error(1, "image", "add", "/no/such/file")
        self.error(1, "image", "add", "/bin/true")
        self.error(1, "image", "add", "--name=-bad", harness.guest("echo"))

    def test_commit_of_no_checkpoint(self):
        session = self.hlctl("session", "open", "echo", check=0).stdout.decode().strip()
        line = self.error(2, "image", "commit", session, "zeroth", "--checkpoint", "0")
        self.assertIn("from 1", line)
        self.error(1, "image", "inspect", "zeroth")
        self.hlctl("session", "close", session, check=0)

    def test_the_rest_is_removed(self):
        for name in ("one", "two"):
            self.hlctl("image", "add", "--name", name, harness.guest("echo"), check=0)
        self.assertIn("nope", self.error(1, "image", "rm", "one", "nope", "two"))
        for name in ("one", "two"):
            self.error(1, "image", "inspect", name)
        sessions = [self.hlctl("session", "open", "echo", check=0).stdout.decode().strip()
                    for _ in range(2)]
        result = self.hlctl("-o", "json", "session", "close", sessions[0], "nope", sessions[1])
        self.assertEqual(result.returncode, 1)
        answers = [json.loads(line) for line in result.stdout.splitlines()]
        self.assertEqual([answer.get("closed") for answer in answers],
                         [sessions[0], None, sessions[1]])
        self.assertIn("nope", answers[1]["error"]["message"])
        self.assertIn("1000 at most", self.error(2, "image", "rm", *["x"] * 1001))

    def commit(self, parent, name):
        session = self.hlctl("session", "open", parent, check=0).stdout.decode().strip()
        self.hlctl("image", "commit", session, name, check=0)
        self.hlctl("session", "close", session, check=0)

    def test_tree(self):
        def tree():
            text = self.hlctl("image", "ls", "--tree", check=0).stdout.decode()
            return {line.split()[0]: len(line) - len(line.lstrip(" "))
                    for line in text.splitlines() if line.split()[0] in ("root", "kid", "heir")}

        self.hlctl("image", "add", "--name", "root", harness.guest("echo"), check=0)
        self.commit("root", "kid")
        self.commit("kid", "heir")
        self.assertEqual(tree(), {"root": 0, "kid": 2, "heir": 4})
        self.hlctl("image", "add", "--name", "root", harness.guest("adder"), check=0)
        self.assertEqual(tree(), {"root": 0, "kid": 0, "heir": 2})
        self.commit("kid", "kid")
        self.assertEqual(tree(), {"root": 0, "kid": 0, "heir": 0})
        self.hlctl("image", "rm", "root", "kid", "heir", check=0)

    def test_info_stats_ping(self):
        self.assertIn(self.daemon.backend, self.hlctl("info", check=0).stdout.decode())
        self.assertEqual(self.json("info")["backend"], self.daemon.backend)
        self.hlctl("stats", check=0)
        self.json("stats")
        self.hlctl("ping", check=0)

    def test_bench(self):
        """Both floors beside the call itself, measured in the same run."""
        count = "300" if self.daemon.backend == "kvm" else "20"
        text = self.hlctl("bench", "echo", "echo", "x" * 64, "--count", count, "--warmup",
                          "10", check=0).stdout.decode()
        for word in ("p50", "p95", "p99"):
            self.assertIn(word, text)
        print(f"\n{text}")
        self.json("bench", "echo", "echo", "x", "--count", "20", "--warmup", "10")

    def shell(self, text):
        """Runs text in a shell, where $HLCTL is hlctl. Returns the CompletedProcess."""
        return subprocess.run(["bash", "-c", text], stdin=subprocess.DEVNULL, capture_output=True,
                              text=True, timeout=60, env={**os.environ, "HLCTL": harness.HLCTL,
                                                          "HLD_SOCKET": self.daemon.socket})

    def test_output_that_cannot_be_written(self):
        for arguments in ("image ls", "call echo echo x", "call --json echo echo x", "info", "help",
                          "help call", "call --help", "--version"):
            with self.subTest(arguments):
                result = self.shell(f"$HLCTL {arguments} >/dev/full")
                self.assertEqual(result.returncode, 1)
                self.assertIn("cannot write", result.stderr)

    def test_output_that_nobody_reads(self):
        result = self.shell("(sleep 0.2; $HLCTL call echo echo x; echo $? >&2) | true")
        self.assertIn("cannot write", result.stderr)
        self.assertEqual(result.stderr.splitlines()[-1], "1")

    def test_results_do_not_steer_a_terminal(self):
        text = "a\x1b[2J\x07\u009bb\u00e9\tc\r\nd"
        master, slave = os.openpty()
        self.addCleanup(os.close, master)
        subprocess.run([harness.HLCTL, "-s", self.daemon.socket, "call", "echo", "hello", text],
                       stdin=subprocess.DEVNULL, stdout=slave, check=True)
        os.close(slave)
        self.assertEqual(os.read(master, 4096).decode(),
                         "hello, a?[2J???b\u00e9\tc?\r\nd\r\n")
        self.assertEqual(self.hlctl("call", "echo", "hello", text, check=0).stdout.decode(),
                         f"hello, {text}")

    def test_started_without_standard_files(self):
        """The connection must not get their numbers: a result would go back to hld."""
        for arguments in ("call echo echo x >&-", "info >&-", "call echo echo - <&-"):
            with self.subTest(arguments):
                result = self.shell(f"$HLCTL {arguments}")
                self.assertEqual(result.returncode, 1)
                self.assertRegex(result.stderr, "cannot (write|read)")
        self.assertEqual(self.shell("$HLCTL call nothing f 2>&-").returncode, 1)


class TryAgain(harness.DaemonTest):
    sections = {"defaults": {"max_instances": "1", "max_queue": "1"}}
    images = ("hostile",)

    def test_full_queue(self):
        with self.connect() as connection:
            for key in ("running", "queued"):
                connection.start_invoke("hostile", "loop", deadline=60)
                harness.wait_until(lambda: (self.image_stats("hostile") or {}).get(key) == 1,
                                   f"a {key} call")
            result = self.hlctl("call", "hostile", "flags")
            self.assertEqual(result.returncode, 75, result.stderr)


class Commands(harness.DaemonTest):
    """Host functions that are commands: when they end, and what ends with them."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        functions = [wire.host_function("count", ["U32"], "U32"),
                     wire.host_function("descend", ["U32"], "U32"),
                     wire.host_function("shout", ["BYTES"], "BYTES", "service")]
        with cls.daemon.connect() as connection:
            connection.register("hostdemo", harness.read_guest("hostdemo"),
                                host={"functions": functions, "depth": 3})

    def setUp(self):
        self.file = os.path.join(self.daemon.directory, self.id().rpartition(".")[2])

    def start(self, *arguments):
        process = subprocess.Popen([harness.HLCTL, "--socket", self.daemon.socket, *arguments],
                                   stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, env={**os.environ, "F": self.file})
        harness.OWN.append(process)
        self.addCleanup(process.communicate)
        self.addCleanup(process.kill)
        return process

    def pids(self, count):
        """What a command has written to $F."""
        def written():
            if not os.path.exists(self.file):
                return []
            with open(self.file, encoding="ascii") as file:
                return [int(line) for line in file if line.endswith("\n")]
        harness.wait_until(lambda: len(written()) == count, "the command to start")
        return written()

    def assert_gone(self, pids):
        harness.wait_until(lambda: not any(map(harness.process_status, pids)),
                           "the command and what it started to end", 10)

    def test_what_ends_hlctl_ends_the_command(self):
        command = "echo $$ >>$F; sleep 300 & echo $! >>$F; wait"
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL):
            for arguments in (("call", "hostdemo", "sum", "1", "--host", f"count={command}"),
                              ("offer", f"shout={command}")):
                with self.subTest(number=number, arguments=arguments[0]):
                    process = self.start(*arguments)
                    if arguments[0] == "offer":
                        self.assertEqual(process.stdout.readline(), b"offering\n")
                        self.connect().start_invoke("hostdemo", "ask", "shout", b"x")
                    pids = self.pids(2)
                    process.send_signal(number)
                    self.assertEqual(process.wait(20), -number)
                    self.assert_gone(pids)
                    os.unlink(self.file)

    def test_command_without_outputs_does_not_outlive_the_deadline(self):
        process = self.start("call", "hostdemo", "sum", "1", "--deadline", "300ms", "--host",
                             "count=echo $$ >$F; exec >&- 2>&-; sleep 300")
        pids = self.pids(1)
        self.assertEqual(process.wait(20), 124)
        self.assert_gone(pids)

    def test_what_a_command_leaves_behind_does_not_hold_the_call(self):
        process = self.start("call", "hostdemo", "sum", "2", "--host",
                             "count=sleep 300 & echo $! >>$F; cat")
        self.assertEqual(process.communicate(timeout=60)[0], b"1\n")
        for pid in self.pids(2):
            os.kill(pid, signal.SIGKILL)

    def test_long_output_before_the_end(self):
        process = self.start("call", "hostdemo", "sum", "1", "--host",
                             "count=head -c 3000000 /dev/zero | tr '\\0' ' '; echo 7")
        self.assertEqual(process.communicate(timeout=60)[0], b"7\n")

    def test_offer_goes_on_after_a_stuck_command(self):
        offer = self.start("offer", "--timeout", "500ms", "shout=if [ ! -e $F ]; then echo $$ >$F; "
                           "sleep 300; fi; cat")
        self.assertEqual(offer.stdout.readline(), b"offering\n")
        result = self.hlctl("call", "hostdemo", "ask", "shout", "x", check=1)
        self.assertIn(b"in time", result.stderr)
        self.assert_gone(self.pids(1))
        result = self.hlctl("call", "hostdemo", "ask", "shout", "x", check=0)
        self.assertEqual(result.stdout, b"x")

    def test_offer_ends_its_command_with_the_connection(self):
        offer = self.start("offer", "shout=echo $$ >$F; sleep 300")
        self.assertEqual(offer.stdout.readline(), b"offering\n")
        self.connect().start_invoke("hostdemo", "ask", "shout", b"x")
        pids = self.pids(1)
        for pid in self.daemon.workers():
            os.kill(pid, signal.SIGKILL)
        self.assertEqual(offer.wait(20), 69)
        self.assert_gone(pids)

    def test_deadline_holds_when_hld_does_not_answer(self):
        process = self.start("call", "hostdemo", "sum", "1", "--deadline", "300ms", "--host",
                             "count=echo $$ >$F; sleep 300")
        pids = self.pids(1)
        workers = self.daemon.workers()
        for pid in workers:
            os.kill(pid, signal.SIGSTOP)
        try:
            self.assertEqual(process.wait(20), 124)
        finally:
            for pid in workers:
                os.kill(pid, signal.SIGCONT)
        self.assert_gone(pids)

    def test_calls_of_commands_are_deeper(self):
        command = f"read n; {harness.HLCTL} call hostdemo descend $n --host \"descend=$C\""
        environment = {**os.environ, "HLD_SOCKET": self.daemon.socket, "C": command}
        for depth, status in ((2, 0), (12, 1)):
            with self.subTest(depth=depth):
                result = subprocess.run(
                    [harness.HLCTL, "call", "hostdemo", "descend", str(depth), "--deadline", "30s",
                     "--host", f"descend={command}"], stdin=subprocess.DEVNULL,
                    capture_output=True, text=True, timeout=60, env=environment)
                self.assertEqual(result.returncode, status, result.stderr)
                if status == 0:
                    self.assertEqual(result.stdout, f"{depth + 1}\n")
                else:
                    self.assertIn("deep", result.stderr)
        result = subprocess.run([harness.HLCTL, "ping"], stdin=subprocess.DEVNULL, text=True,
                                capture_output=True, env={**environment, "HLD_DEPTH": "deep"})
        self.assertEqual(result.returncode, 2)
