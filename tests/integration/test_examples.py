# SPDX-License-Identifier: Apache-2.0
"""Every example through hlctl, as a person would call it, on real input; then over the wire."""

import gzip
import json
import math
import os
import struct
import subprocess
import zlib

import harness


class Examples(harness.DaemonTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        for name in ("echo", "adder", "gunzip", "lua", "sqlite"):
            harness.hlctl(cls.daemon, "image", "add", harness.guest(name), check=0)

    def text(self, *arguments, **keywords):
        output = self.hlctl("call", *arguments, check=0, **keywords).stdout.decode()
        return output.removesuffix("\n")

    def fails(self, *arguments, status=1, **keywords):
        """Returns the one line on standard error."""
        result = self.hlctl("call", *arguments, check=status, **keywords)
        self.assertEqual(result.stdout, b"")
        lines = result.stderr.decode().splitlines()
        self.assertEqual(len(lines), 1, lines)
        return lines[0]

    def test_echo(self):
        self.assertEqual(self.text("echo", "hello", "world"), "hello, world")
        self.assertEqual(self.text("echo", "hello", "Grüße"), "hello, Grüße")

    def test_echo_of_standard_input(self):
        for size in (0, 1, 64, 4096, 500000):
            data = os.urandom(size)
            result = self.hlctl("call", "echo", "echo", "-", stdin=data, check=0)
            self.assertEqual(result.stdout, data)

    def test_adder(self):
        for function, arguments, expected in (
                ("add_i32", ("2", "40"), "42"), ("add_i32", ("-2147483648", "1"), "-2147483647"),
                ("add_u32", ("4294967294", "1"), "4294967295"),
                ("add_i64", ("-9223372036854775808", "1"), "-9223372036854775807"),
                ("add_u64", ("18446744073709551614", "1"), "18446744073709551615"),
                ("both", ("true", "false"), "false"), ("both", ("true", "true"), "true"),
                ("join", ("ab", "ć"), "abć"), ("divide", ("-7", "2"), "-3"), ("nothing", (), "")):
            with self.subTest(function=function, arguments=arguments):
                self.assertEqual(self.text("adder", function, "--", *arguments), expected)

    def test_adder_floats(self):
        self.assertEqual(float(self.text("adder", "add_f64", "0.1", "0.2")), 0.1 + 0.2)
        self.assertEqual(float(self.text("adder", "add_f32", "0.5", "0.25")), 0.75)
        self.assertTrue(math.isnan(float(self.text("adder", "add_f64", "nan", "1"))))
        self.assertEqual(float(self.text("adder", "add_f64", "--", "-inf", "1")), -math.inf)

    def test_sixteen_parameters(self):
        arguments = ["1", "2", "3", "4", "5", "6", "true", "abc", "abcd", "10", "11", "12", "13",
                     "14", "15", "true"]
        # bool counts as 1, string and bytes as their length
        expected = 1 + 2 + 3 + 4 + 5 + 6 + 1 + 3 + 4 + 10 + 11 + 12 + 13 + 14 + 15 + 1
        self.assertEqual(float(self.text("adder", "sum16", *arguments)), expected)

    def test_error_of_the_function_itself(self):
        line = self.fails("adder", "divide", "1", "0")
        self.assertIn("division by zero", line)
        self.assertIn("3", line)
        with self.connect() as connection:
            answer = connection.invoke("adder", "add_i32", ("i32", 2147483647), ("i32", 1))
        self.assertEqual(answer["code"], 1)
        self.assertIn("does not fit", answer["text"])

    def test_gunzip(self):
        """Files as gzip(1) writes them, with and without a name inside, one in two members."""
        with open(os.path.join(harness.SOURCE, "LICENSE"), "rb") as file:
            text = file.read()
        for data in (text, b"", os.urandom(100000)):
            result = self.hlctl("call", "gunzip", "gunzip", "-", stdin=gzip.compress(data), check=0)
            self.assertEqual(result.stdout, data)
        packed = subprocess.run(["gzip", "-9", "-c", os.path.join(harness.SOURCE, "LICENSE")],
                                stdout=subprocess.PIPE, check=True).stdout
        result = self.hlctl("call", "gunzip", "gunzip", "-", stdin=packed + packed, check=0)
        self.assertEqual(result.stdout, text + text)

    def test_gunzip_of_corrupt_files(self):
        packed = bytearray(gzip.compress(b"The quick brown fox jumps over the lazy dog. " * 100))
        packed[-5] ^= 1  # in the checksum
        self.assertIn("incorrect data check",
                      self.fails("gunzip", "gunzip", "-", stdin=bytes(packed)))
        self.fails("gunzip", "gunzip", "-", stdin=bytes(packed[:len(packed) // 2]))
        self.fails("gunzip", "gunzip", "-", stdin=b"no gzip file at all")
        self.fails("gunzip", "gunzip", "-", stdin=zlib.compress(b"another format"))

    def test_gunzip_bomb(self):
        """50 MB of zeros in 50 kB: more than the result may hold, and said so."""
        self.fails("gunzip", "gunzip", "-", stdin=gzip.compress(bytes(50_000_000)))

    def test_lua(self):
        self.assertEqual(self.text("lua", "eval", "return 6 * 7"), "42")
        self.assertEqual(self.text("lua", "eval", "return ('x'):rep(3), #'abc'"), "xxx\t3")
        self.assertEqual(self.text("lua", "eval", "-", stdin=b"""
            local function fib(n) if n < 2 then return n end return fib(n - 1) + fib(n - 2) end
            return fib(15)"""), "610")

    def test_lua_errors(self):
        self.assertIn("boom", self.fails("lua", "eval", "error('boom')"))
        self.fails("lua", "eval", "this is not Lua")
        self.fails("lua", "eval", "return io.open('/etc/passwd')")
        self.fails("lua", "eval", "return os.execute('id')")

    def test_lua_forgets(self):
        """What one script leaves in the interpreter, the next does not find."""
        self.assertEqual(self.text("lua", "eval", "x = 'secret'; string.upper = nil; return x"),
                         "secret")
        for _ in range(5):
            self.assertEqual(self.text("lua", "eval", "return x, ('a'):upper()"), "nil\tA")

    def test_lua_endless_loop(self):
        with self.connect() as connection:
            self.assert_status("DEADLINE_EXCEEDED", connection.invoke, "lua", "eval",
                               "while true do end", deadline=0.1)
            self.assertEqual(connection.invoke("lua", "eval", "return 1"), "1")

    def test_sqlite(self):
        count = "select count(*) n, sum(quantity) q from orders"
        before = json.loads(self.text("sqlite", "query", count))
        self.assertEqual(before, [{"n": 5000, "q": sum(i % 10 + 1 for i in range(1, 5001))}])
        rows = json.loads(self.text("sqlite", "query", "select customer, count(*) n from orders "
                                    "group by customer order by n desc, customer limit 2"))
        self.assertEqual([row["n"] for row in rows], [52, 52])
        self.text("sqlite", "query", "delete from orders")
        self.assertEqual(json.loads(self.text("sqlite", "query", count)), before)

    def test_sqlite_errors(self):
        self.assertIn("no such table", self.fails("sqlite", "query", "select * from missing"))
        self.assertIn("syntax error", self.fails("sqlite", "query", "selekt 1"))
        self.fails("sqlite", "query", "attach '/etc/passwd' as p; select * from p.x")

    def test_every_type_over_the_wire(self):
        f32 = struct.unpack("<f", struct.pack("<f", 3.1))[0]
        with self.connect() as connection:
            for function, kind, arguments, expected in (
                    ("add_i32", "i32", (-5, 3), -2),
                    ("add_u32", "u32", (4000000000, 1), 4000000001),
                    ("add_i64", "i64", (-1 << 62, -1 << 62), -1 << 63),
                    ("add_u64", "u64", (1 << 63, 1), (1 << 63) + 1),
                    ("add_f32", "f32", (f32, 0.0), f32), ("add_f64", "f64", (1e300, 1e300), 2e300),
                    ("both", "bool", (True, True), True),
                    ("join", "string", ("a\0b", "c"), "a\0bc"),
                    ("xor", "bytes", (b"\x0f\xf0", b"\xff\xff"), b"\xf0\x0f")):
                with self.subTest(function=function):
                    self.assertEqual(
                        connection.invoke("adder", function, *[(kind, a) for a in arguments]),
                        expected)
            self.assertIsNone(connection.invoke("adder", "nothing"))

    def test_accounting(self):
        with self.connect() as connection:
            for _ in range(3):
                stream = connection.start_invoke("echo", "echo", b"x")
                accounting = connection.finish_invoke(stream)["accounting"]
        self.assertEqual(accounting["backend"], self.daemon.backend)
        self.assertGreater(accounting["run_ns"], 0)
        self.assertGreaterEqual(accounting["total_ns"],
                                accounting["run_ns"] + accounting["queue_ns"])
        self.assertGreaterEqual(accounting["exits"], 1)
        if self.daemon.backend == "kvm":
            self.assertGreaterEqual(accounting["instance_calls"], 1)
            self.assertGreater(accounting["instance_age_ns"], 0)

    def test_log(self):
        with self.connect() as connection:
            connection.invoke("adder", "log_line", ("i32", 1), "a line for the log")
            log = connection.call("Inspect", {"name": "adder"})["log"]
        self.assertTrue(any("a line for the log" in line for line in log), log)
